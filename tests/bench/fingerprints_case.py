"""The fingerprints case: what the product makes of molecules, and RDKit's own functions called one after the other."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from itertools import islice, product
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import QED, Descriptors, rdFingerprintGenerator
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from results import RDKIT
from rounds import turns

from fusion_lab.data.molecules.chemistry import FeaturiseConfig, Featurised, featurise

HEADS = (
    *("CC", "CC(C)", "C1CC1", "c1ccccc1", "Clc1ccccc1", "COc1c(F)cccc1", "n1ccccc1", "[nH]1c2ccccc2cc1", "COCC"),
    *("s1c(C)ncc1", "O=C1NCCC1", "CS(=O)(=O)CC", "O=[N+]([O-])c1ccccc1", "CN1CCCCC1", "FC(F)(F)c1ccccc1"),
)
LINKS = ("C(=O)N", "CC(=O)N", "S(=O)(=O)N", "C(=O)O", "CNC(=O)N", "CO", "C=CC(=O)N", "CS")
TAILS = (
    *("C", "CC(C)O", "C1CCOCC1", "c1ccccc1", "c1ccc(Br)cc1", "Cc1ccco1", "CCN(C)C", "c1nc2ccccc2s1", "C1(C#N)CCC1"),
    *("CCc1c[nH]c2ccccc12", "CCc1ccc(O)cc1", "c1ccc2OCOc2c1", "CC1CCCO1", "c1cnn(C)c1", "CCSC", "c1ccc(N)nc1"),
)
"""What molecules are made of; a head's last atom and a tail's first one have a bond to spare."""

MOST = len(HEADS) * len(LINKS) * len(TAILS)


def molecules(count: int) -> list[str]:
    """SMILES of small molecules, all different; at most :data:`MOST`."""
    parts = islice(product(HEADS, LINKS, TAILS), 0, None, MOST // count)
    return ["".join(one) for one in islice(parts, count)]


def by_rdkit(smiles: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """As its documentation has it: molecule after molecule, a function per descriptor."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    functions = dict(Descriptors.descList) | {"QED": QED.qed}
    read = [Chem.MolFromSmiles(text) for text in smiles]
    bits = np.array([generator.GetFingerprintAsNumPy(molecule) for molecule in read])
    names = featurise([], FeaturiseConfig(), None, _quiet).descriptor_names
    values = np.array([[functions[name](molecule) for name in names] for molecule in read], np.float32)
    return np.packbits(bits, axis=1), values, [MurckoScaffoldSmiles(mol=molecule) for molecule in read]


def _quiet(line: str) -> None:
    pass


def described(smiles: list[str], descriptors: bool = True) -> Featurised:
    return featurise(smiles, FeaturiseConfig(descriptors=descriptors, processes=1), None, _quiet)


def contenders(smiles: list[str]) -> dict[str, Callable[[], Any]]:
    """Whoever describes the molecules: the product without descriptors and with them, in one process."""
    return {
        "bits alone": lambda: described(smiles, descriptors=False),
        "described": lambda: described(smiles),
        RDKIT: lambda: by_rdkit(smiles),
    }


def difference(ours: Featurised, theirs: tuple[np.ndarray, np.ndarray, list[str]]) -> float:
    """The largest between descriptors, as a share; infinite where fingerprints or scaffolds are not the same."""
    bits, values, scaffolds = theirs
    if not np.array_equal(ours.fingerprint, bits) or ours.scaffold.tolist() != scaffolds:
        return float("inf")
    return float((np.abs(ours.descriptors - values) / np.maximum(np.abs(values), 1)).max(initial=0))


def measure(count: int, rounds: int) -> dict[str, Any]:
    """``{"rows", "difference", "readers": {name: {"cold", "rounds"}}}``, times as ``{"cpu", "wall"}`` in seconds."""
    smiles = molecules(count)
    apart = difference(described(smiles), by_rdkit(smiles))
    works = contenders(smiles)
    taken: dict[str, Any] = {name: {"rounds": []} for name in works}
    for number in range(rounds + 1):
        for name in turns(list(works), number):
            times = _times(works[name])
            if number:
                taken[name]["rounds"].append(times)
            else:
                taken[name]["cold"] = times
    return {"rows": count, "difference": apart, "readers": taken}


def _times(work: Callable[[], Any]) -> dict[str, float]:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*json.loads(sys.argv[1]))) + "\n")
