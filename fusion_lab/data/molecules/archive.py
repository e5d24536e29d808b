"""Features of molecules in one NPZ file: fingerprints, descriptors and bags of conformers, packed as they are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fusion_lab.contracts import DataError, Source
from fusion_lab.data.molecules.packed import Bags, Bits, Vectors
from fusion_lab.data.molecules.parts import Featured, Part, conformers, descriptors, fingerprint
from fusion_lab.data.molecules.settings import CONFORMERS, DESCRIPTORS, FINGERPRINT, MoleculesConfig
from fusion_lab.data.npz import npz_arrays, npz_names
from fusion_lab.data.readers import Table, data_folder, existing_file, file_sha256, quoted, read_ids, suggest

ID, BITS, VECTOR, OFFSETS, INSTANCES = "ID", "fp_packed", "desc2d", "bag_offset", "x3d"
NAMES = {VECTOR: "desc2d_names", INSTANCES: "x3d_names"}
"""Arrays that may hold the names of an array's columns."""

_VECTOR_NAMES = (
    *("MolWt", "MolLogP", "TPSA", "NumAromaticRings", "RingCount", "NumRotatableBonds", "NumHAcceptors", "NumHDonors"),
    *("FractionCSP3", "NumHeteroatoms", "NumValenceElectrons", "LabuteASA", "NumAromaticHeterocycles"),
    *("NumAmideBonds", "BertzCT", "QED"),
)
_INSTANCE_NAMES = (
    *(f"USRCAT_{place}" for place in range(60)),
    *("PMI1", "PMI2", "PMI3", "NPR1", "NPR2", "Asphericity", "Eccentricity", "InertialShapeFactor"),
    *("RadiusOfGyration", "SpherocityIndex", "PBF", "MMFFEnergy"),
)
USUAL = {VECTOR: _VECTOR_NAMES, INSTANCES: _INSTANCE_NAMES}
"""Names of columns where the file has none and as many columns as these are; the same that structures give."""


def read_archive(config: MoleculesConfig, file: str) -> Featured:
    """Reads the arrays that there are: ``ID`` [M], ``fp_packed`` uint8 [M,bits/8], ``desc2d`` [M,F], and ``x3d`` [K,F]
    with ``bag_offset`` [M+1]: the conformers of molecule i are the rows from ``bag_offset[i]`` to ``bag_offset[i+1]``.

    Raises:
        DataError: an array is missing, of another shape or type, or holds what cannot be used.
    """
    root = data_folder(config.root)
    path = existing_file(root, file)
    known = npz_names(path)
    if ID not in known:
        raise DataError(f"{path}: expected an array {ID!r} of the molecules' ids, found none{suggest(ID, known)}")
    wanted = [name for name in (ID, BITS, VECTOR, OFFSETS, INSTANCES, *NAMES.values()) if name in known]
    arrays = npz_arrays(path, wanted)
    ids = _ids(path, arrays[ID])
    parts = tuple(part for part in _parts(path, arrays, ids) if config.keeps(part.modality.name))
    if not parts:
        wanted = ", ".join(config.modalities or (FINGERPRINT, DESCRIPTORS, CONFORMERS))
        raise DataError(
            f"{path}: expected arrays of {wanted} ({BITS}; {VECTOR}; {INSTANCES} and {OFFSETS}), found none"
        )
    return Featured(parts, (Source(file, file_sha256(path), len(ids)),))


def _ids(path: Path, array: np.ndarray) -> np.ndarray:
    if array.ndim != 1 or not len(array):
        raise DataError(f"{path}: array {ID!r}: expected one id per molecule, found shape {array.shape}")
    frame = pd.DataFrame({ID: array}, pd.RangeIndex(1, len(array) + 1))
    return read_ids(Table(path.name, str(path), path, frame, "row"), ID)


def _parts(path: Path, arrays: Mapping[str, np.ndarray], ids: np.ndarray) -> Iterator[Part]:
    where = f"{path}: array "
    if BITS in arrays:
        octets = arrays[BITS]
        if octets.dtype != np.uint8 or octets.ndim != 2 or len(octets) != len(ids) or not octets.shape[1]:
            _refuse(path, BITS, f"uint8 of shape ({len(ids)}, bits / 8)", octets)
        yield Part(fingerprint(8 * octets.shape[1]), ids, Bits.of(octets), f"{where}{BITS!r}")
    if VECTOR in arrays:
        values = _numbers(path, VECTOR, arrays[VECTOR], len(ids))
        yield Part(descriptors(_names(path, VECTOR, arrays)), ids, Vectors.of(values), f"{where}{VECTOR!r}")
    alone = {OFFSETS, INSTANCES} & set(arrays)
    if len(alone) == 1:
        one = alone.pop()
        other = OFFSETS if one == INSTANCES else INSTANCES
        raise DataError(f"{path}: expected an array {other!r} beside {one!r}, found none{suggest(other, list(arrays))}")
    if alone:
        values = _numbers(path, INSTANCES, arrays[INSTANCES], None)
        bags = Bags.of(values, _offsets(path, arrays[OFFSETS], len(ids), len(values)))
        yield Part(conformers(_names(path, INSTANCES, arrays), bags), ids, bags, f"{where}{INSTANCES!r}")


def _numbers(path: Path, name: str, array: np.ndarray, rows: int | None) -> np.ndarray:
    """A matrix of finite numbers, float32."""
    fits = array.ndim == 2 and array.shape[1] and array.dtype.kind in "biuf" and rows in (None, len(array))
    if not fits:
        _refuse(path, name, f"numbers of shape ({'conformers' if rows is None else rows}, features)", array)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0].tolist()
        place = f"{path}: array {name!r}: row {row + 1}, column {column + 1}"
        raise DataError(f"{place}: expected a finite number, found {array[row, column]} ({len(bad)} such cells)")
    return values


def _offsets(path: Path, array: np.ndarray, molecules: int, instances: int) -> np.ndarray:
    """Where bags begin and end."""
    if array.shape != (molecules + 1,) or array.dtype.kind not in "iu":
        _refuse(path, OFFSETS, f"whole numbers of shape ({molecules + 1},)", array)
    offsets = array.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != instances:
        expected = f"expected offsets from 0 to the {instances} rows of {INSTANCES!r}"
        raise DataError(f"{path}: array {OFFSETS!r}: {expected}, found {offsets[0]} to {offsets[-1]}")
    if (np.diff(offsets) < 0).any():
        at = int(np.argmax(np.diff(offsets) < 0))
        found = f"{offsets[at + 1]} after {offsets[at]} (row {at + 2})"
        raise DataError(f"{path}: array {OFFSETS!r}: expected offsets that never fall, found {found}")
    return offsets


def _names(path: Path, name: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Names of the columns: those in the file, the usual ones of so many, or numbers."""
    width = arrays[name].shape[1]
    if NAMES[name] in arrays:
        told = arrays[NAMES[name]]
        if told.shape != (width,) or told.dtype.kind not in "SU":
            _refuse(path, NAMES[name], f"{width} different texts", told)
        names = tuple(t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in told.tolist())
        for name_of, count in Counter(names).items():
            if count > 1 or not name_of.strip():
                expected = "expected a name of its own for each column"
                raise DataError(f"{path}: array {NAMES[name]!r}: {expected}, found {quoted(name_of)} {count} times")
        return names
    return USUAL[name] if len(USUAL[name]) == width else tuple(f"{name}_{i}" for i in range(width))


def _refuse(path: Path, name: str, expected: str, found: np.ndarray) -> None:
    raise DataError(f"{path}: array {name!r}: expected {expected}, found {found.dtype} of shape {found.shape}")
