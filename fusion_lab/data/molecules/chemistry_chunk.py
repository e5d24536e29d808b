"""What RDKit makes of some molecules: fingerprints, descriptors, scaffolds and bags of conformers, as one file.

Run as a program it is a worker of :mod:`fusion_lab.data.molecules.chemistry`. Nothing of this project is imported here:
a worker runs this file alone, since the packages around it would take each worker seconds to import.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import combinations
from math import log2
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import (
    QED,
    GraphDescriptors,
    rdDistGeom,
    rdFingerprintGenerator,
    rdForceFieldHelpers,
    rdMolDescriptors,
)
from rdkit.Chem.Scaffolds import MurckoScaffold

DESCRIPTORS = (
    *("MolWt", "MolLogP", "TPSA", "NumAromaticRings", "RingCount", "NumRotatableBonds", "NumHAcceptors", "NumHDonors"),
    *("FractionCSP3", "NumHeteroatoms", "NumValenceElectrons", "LabuteASA", "NumAromaticHeterocycles"),
    *("NumAmideBonds", "BertzCT", "QED"),
)
SHAPES = {
    "PMI1": rdMolDescriptors.CalcPMI1,
    "PMI2": rdMolDescriptors.CalcPMI2,
    "PMI3": rdMolDescriptors.CalcPMI3,
    "NPR1": rdMolDescriptors.CalcNPR1,
    "NPR2": rdMolDescriptors.CalcNPR2,
    "Asphericity": rdMolDescriptors.CalcAsphericity,
    "Eccentricity": rdMolDescriptors.CalcEccentricity,
    "InertialShapeFactor": rdMolDescriptors.CalcInertialShapeFactor,
    "RadiusOfGyration": rdMolDescriptors.CalcRadiusOfGyration,
    "SpherocityIndex": rdMolDescriptors.CalcSpherocityIndex,
    "PBF": rdMolDescriptors.CalcPBF,
}
"""Of a conformer with its hydrogens; lengths in angstrom, moments in unified atomic mass units times angstrom^2."""

CONFORMERS = (*(f"USRCAT_{place}" for place in range(60)), *SHAPES, "MMFFEnergy")

MOST_ATOMS = 1_000
"""Heavy atoms of a molecule: distances between all of them cost their third power."""

FEWEST_ATOMS = 3
"""For USRCAT, hydrogens included."""

PRUNED_BELOW = 0.3
"""Root mean square distance in angstrom under which a conformer is the same as an earlier one."""

RELAXATION_STEPS = 50
"""Of MMFF94 from what was embedded."""

SECONDS_TO_EMBED = 600
"""Of one molecule: a safety valve, far from what any drug-like molecule takes, so no result depends on the machine."""

HIGHEST_ENERGY = 1_000.0
"""kcal/mol above the lowest conformer."""

NO_SMILES = "no SMILES"
TOO_FEW_ATOMS = f"fewer than {FEWEST_ATOMS} atoms"
NOT_EMBEDDED = "no conformer could be embedded"
NOT_RELAXED = "MMFF has no parameters, so conformers are as embedded and energies 0"
NOT_FINITE = "a conformer without finite values is left out"

_REFUSALS = (ValueError, RuntimeError, ArithmeticError, LookupError)
"""How RDKit answers a molecule that one of its functions cannot take."""
_LONGEST_REASON = 120
_ELEMENT = re.compile(r"([A-Z][a-z]?)(\d*)")
_WEIGHT = rdMolDescriptors.Properties(["amw"])
_OUTER_ELECTRONS = Chem.GetPeriodicTable().GetNOuterElecs


class _Molecule(NamedTuple):
    """One molecule's values: ``conformers`` float32 ``[N,72]``; ``fault`` is what went wrong with them, or empty."""

    fingerprint: np.ndarray
    descriptors: Sequence[float]
    scaffold: str
    conformers: np.ndarray
    fault: str


def describe(
    smiles: Sequence[str | None], *, radius: int, bits: int, descriptors: bool, conformers: int, seed: int
) -> dict[str, np.ndarray]:
    """The arrays of r molecules: ``fingerprint`` uint8 ``[r, bits / 8]``, ``descriptors`` float32 ``[r, 16]`` (or of no
    width), ``conformers`` float32 ``[k, 72]`` (or of no width), ``count`` int64 ``[r]`` conformers of each,
    ``scaffold`` str ``[r]``, and what went wrong, "" where nothing did: ``failed`` str ``[r]`` of the molecule,
    ``fault`` str ``[r]`` of its conformers.

    Sources: Rogers and Hahn 2010 (fingerprints), Bertz 1981 and Bickerton 2012 (descriptors), Bemis and Murcko 1996
    (scaffolds), Wang 2020 (ETKDGv3), Schreyer and Blundell 2012 (USRCAT).
    """
    width = len(CONFORMERS) if conformers else 0
    arrays = {
        "fingerprint": np.zeros((len(smiles), bits // 8), np.uint8),
        "descriptors": np.zeros((len(smiles), len(DESCRIPTORS) if descriptors else 0), np.float32),
        "count": np.zeros(len(smiles), np.int64),
    }
    bags = [np.zeros((0, width), np.float32)]
    texts = {name: [""] * len(smiles) for name in ("scaffold", "failed", "fault")}
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    refused: dict[int, Exception] = {}
    with rdBase.BlockLogs():
        for row, text in enumerate(smiles):
            try:
                made = _molecule(text, generator, descriptors, conformers, seed)
            except _REFUSALS as error:
                refused[row] = error
                continue
            arrays["fingerprint"][row], arrays["descriptors"][row] = made.fingerprint, made.descriptors
            arrays["count"][row] = len(made.conformers)
            bags += [made.conformers] if conformers else []
            texts["scaffold"][row], texts["fault"][row] = made.scaffold, made.fault
    for row, error in refused.items():
        texts["failed"][row] = _reason(smiles[row], error)
    return arrays | {"conformers": np.concatenate(bags)} | {name: np.array(of, str) for name, of in texts.items()}


def _molecule(text: str | None, generator: Any, descriptors: bool, conformers: int, seed: int) -> _Molecule:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(NO_SMILES)
    molecule = Chem.MolFromSmiles(text)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError
    if molecule.GetNumHeavyAtoms() > MOST_ATOMS:
        raise ValueError(f"expected at most {MOST_ATOMS:,} heavy atoms, found {molecule.GetNumHeavyAtoms():,}")
    bag, fault = conformer_bag(molecule, conformers, seed) if conformers else (np.zeros((0, 0), np.float32), "")
    return _Molecule(
        np.packbits(generator.GetFingerprintAsNumPy(molecule)),
        descriptors_of(molecule) if descriptors else (),
        MurckoScaffold.MurckoScaffoldSmiles(mol=molecule),
        bag,
        fault,
    )


def descriptors_of(molecule: Chem.Mol) -> list[float]:
    """The values of :data:`DESCRIPTORS`."""
    elements = elements_of(molecule)
    known = {
        "MW": _WEIGHT.ComputeProperties(molecule)[0],
        "ALOGP": rdMolDescriptors.CalcCrippenDescriptors(molecule)[0],
        "PSA": rdMolDescriptors.CalcTPSA(molecule),
        "ROTB": rdMolDescriptors.CalcNumRotatableBonds(molecule),
        "HBD": rdMolDescriptors.CalcNumHBD(molecule),
    }
    values = [
        *(known["MW"], known["ALOGP"], known["PSA"]),
        rdMolDescriptors.CalcNumAromaticRings(molecule),
        rdMolDescriptors.CalcNumRings(molecule),
        known["ROTB"],
        rdMolDescriptors.CalcNumHBA(molecule),
        known["HBD"],
        rdMolDescriptors.CalcFractionCSP3(molecule),
        rdMolDescriptors.CalcNumHeteroatoms(molecule),
        _valence_electrons(elements) - Chem.GetFormalCharge(molecule),
        rdMolDescriptors.CalcLabuteASA(molecule),
        rdMolDescriptors.CalcNumAromaticHeterocycles(molecule),
        rdMolDescriptors.CalcNumAmideBonds(molecule),
        _complexity(molecule, elements),
        _drug_likeness(molecule, known),
    ]
    if not np.isfinite(values).all():
        raise ValueError("a descriptor is not finite")
    return values


def elements_of(molecule: Chem.Mol) -> dict[str, int]:
    """How many atoms there are of each element, hydrogens that are not written out included: from the formula, since
    going through atoms in Python takes longer than most descriptors.
    """
    counts = _ELEMENT.findall(rdMolDescriptors.CalcMolFormula(molecule))
    return {symbol: int(count or 1) for symbol, count in counts}


def _valence_electrons(elements: dict[str, int]) -> int:
    """Of the atoms without charge."""
    return sum(count * _OUTER_ELECTRONS(symbol) for symbol, count in elements.items())


def _drug_likeness(molecule: Chem.Mol, known: dict[str, float]) -> float:
    """QED from what is ``known`` already, in half the time. RDKit takes hydrogens that are written out away first."""
    if molecule.GetNumAtoms() > molecule.GetNumHeavyAtoms():
        return QED.qed(molecule)
    aromatic = Chem.DeleteSubstructs(Chem.Mol(molecule), QED.AliphaticRings)
    found = QED.QEDproperties(
        **known,
        HBA=sum(len(molecule.GetSubstructMatches(pattern)) for pattern in QED.Acceptors),
        AROM=len(Chem.GetSSSR(aromatic)),
        ALERTS=sum(map(molecule.HasSubstructMatch, QED.StructuralAlerts)),
    )
    return QED.qed(molecule, qedProperties=found)


def _complexity(molecule: Chem.Mol, elements: dict[str, int]) -> float:
    """BertzCT as RDKit defines it: the information in its pairs of neighbouring bonds, told apart by classes of atoms,
    and in its elements. In a third of the time that RDKit's own function takes, which this one asks where hydrogens,
    placeholders or dative bonds are written out.
    """
    atoms = {symbol: count for symbol, count in elements.items() if symbol != "H"}
    orders = Chem.GetAdjacencyMatrix(molecule, useBO=True)
    if len(orders) < 2 or sum(atoms.values()) != len(orders) or not np.array_equal(orders, orders.T):
        return GraphDescriptors.BertzCT(molecule)
    one, other = np.nonzero(orders)
    bonds = list(zip(one.tolist(), other.tolist(), orders[one, other].tolist(), strict=True))
    classes = _classes(molecule)
    connections: defaultdict[tuple[int, ...], float] = defaultdict(float)
    around: list[list[tuple[int, float]]] = [[] for _ in classes]
    for a, b, order in bonds:
        around[a].append((classes[b], order))
        if a < b and order > 1:
            connections[min(classes[a], classes[b]), max(classes[a], classes[b])] += order * (order - 1) / 2
    for centre, near in zip(classes, around, strict=True):
        for (a, order), (b, beside) in combinations(near, 2):
            connections[min(a, b), centre, max(a, b)] += order * beside
    counts = list(connections.values()) or [1]
    return _information(atoms.values()) + _information(counts) + sum(counts) * log2(sum(counts))


def _classes(molecule: Chem.Mol) -> list[int]:
    """Atoms are of one class whose nearest hundred atoms lie as far off, by bonds of length 1 / order."""
    far = Chem.GetDistanceMatrix(molecule, useBO=True, useAtomWts=False, force=True, prefix="Balaban")
    kinds: dict[bytes, int] = {}
    return [kinds.setdefault(row.tobytes(), len(kinds)) for row in np.sort(far, axis=1)[:, :100].round(4)]


def _information(counts: Collection[float]) -> float:
    """Bits that say of each of so many things which kind it is."""
    total = sum(counts)
    return total * log2(total) - sum(count * log2(count) for count in counts)


def conformer_bag(molecule: Chem.Mol, most: int, seed: int) -> tuple[np.ndarray, str]:
    """Values of up to ``most`` conformers, and of no more than rotatable bonds and one, float32 ``[N,72]``; and what
    went wrong, or "".
    """
    none = np.zeros((0, len(CONFORMERS)), np.float32)
    whole = Chem.AddHs(molecule)
    if whole.GetNumAtoms() < FEWEST_ATOMS:
        return none, TOO_FEW_ATOMS
    try:
        places = _embed(whole, min(most, 1 + rdMolDescriptors.CalcNumRotatableBonds(molecule)), seed)
        if not places:
            return none, NOT_EMBEDDED
        energies, fault = _relax(whole)
        shapes = [_shape(whole, place) for place in places]
    except _REFUSALS as error:
        return none, _shortened(str(error))
    values = np.column_stack([shapes, energies])
    finite = np.isfinite(values).all(axis=1)
    values = values[finite]
    values[:, -1] = np.minimum(values[:, -1] - values[:, -1].min(initial=np.inf), HIGHEST_ENERGY)
    return values.astype(np.float32), fault if finite.all() else NOT_FINITE


def _embed(whole: Chem.Mol, most: int, seed: int) -> list[int]:
    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed + 1  # conformer n starts from n times it, so that of 0 all would be the same
    settings.numThreads, settings.timeout = 1, SECONDS_TO_EMBED
    settings.pruneRmsThresh = PRUNED_BELOW
    return list(rdDistGeom.EmbedMultipleConfs(whole, most, settings))


def _relax(whole: Chem.Mol) -> tuple[list[float], str]:
    """Relaxes all conformers a little; their energies in kcal/mol, and what went wrong."""
    relaxed = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(whole, maxIters=RELAXATION_STEPS, numThreads=1)
    if any(status < 0 for status, _ in relaxed):
        return [0.0] * len(relaxed), NOT_RELAXED
    return [energy for _, energy in relaxed], ""


def _shape(whole: Chem.Mol, place: int) -> list[float]:
    return [*rdMolDescriptors.GetUSRCAT(whole, confId=place), *(of(whole, confId=place) for of in SHAPES.values())]


def _reason(text: str | None, error: Exception) -> str:
    """Why a molecule failed. What its SMILES lacks RDKit tells its log alone, so it is read once more."""
    if str(error) or not isinstance(text, str):
        return _shortened(str(error))
    with rdBase.CaptureErrorLog() as log:
        Chem.MolFromSmiles(text)
    told = re.sub(r"^\[[\d:]+\] (SMILES Parse Error: )?", "", log.messages, flags=re.MULTILINE).strip()
    place = re.search(r"check for mistakes around position (\d+)", told)
    if place:
        return f"syntax error around position {place[1]}"
    return _shortened(told.partition(" for input: ")[0].partition("\n")[0] or "not a molecule")


def _shortened(text: str) -> str:
    line = " ".join(text.split()) or "RDKit gives no reason"
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."


def write(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes one NPZ file, whole or not at all, whoever else writes the same."""
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with half.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, key=np.array(key), **arrays)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def main() -> None:
    """Answers every line of standard input, ``{"smiles", "options", "path", "key"}``, with a line: "" when the file is
    written, or what the system said against it.

    When the input ends, the process does, whatever it is at: so it never outlives its owner, however that ended.
    """
    asked: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        job = json.loads(asked.get())
        arrays = describe(job["smiles"], **job["options"])
        fault = ""
        try:
            write(Path(job["path"]), job["key"], arrays)
        except OSError as error:
            fault = error.strerror or "room for a part of it"
        sys.stdout.write(json.dumps(fault) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
