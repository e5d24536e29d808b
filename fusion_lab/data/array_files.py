"""Arrays of an NPZ or HDF5 file as the lines of a table: one per row, or one per position that is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd

from fusion_lab.contracts import DataError
from fusion_lab.data.hdf5_files import open_hdf5
from fusion_lab.data.npz import npz_arrays, npz_names
from fusion_lab.data.readers import (
    Table,
    existing_file,
    file_kind,
    first_line,
    hdf5_array,
    quoted,
    read_ids,
    suggest,
)


class ArrayPlace(NamedTuple):
    """Where an array and what belongs to it lie. ``id``, ``valid`` and ``columns`` are names of arrays beside it."""

    file: str
    key: str
    id: str
    valid: str | None = None
    columns: str | None = None
    companions: tuple[str, ...] = ()  # one-dimensional arrays [R], or [R,T], that become columns: quality, groups


class ArrayLines(NamedTuple):
    """``table`` holds a line per row or per position that is there; ``ids`` str [lines]; ``position`` int [lines] on
    the array's second axis, None of an array [R,F].
    """

    table: Table
    ids: np.ndarray
    position: np.ndarray | None


def holds_array(root: Path, file: str, key: str | None, dims: int) -> bool:
    """Whether a file is to be read as arrays: any NPZ file, and an HDF5 file whose ``key`` is a data set of ``dims``
    dimensions.
    """
    if file_kind(file) == "npz":
        return True
    if file_kind(file) != "hdf5" or key is None or not (root / file).is_file():
        return False
    try:
        with h5py.File(root / file, "r") as opened:
            node = opened.get(key)
            return isinstance(node, h5py.Dataset) and node.ndim == dims
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError):  # told by whoever reads the file
        return False


def read_features(root: Path, place: ArrayPlace, dims: int) -> ArrayLines:
    """An array [R,F] (``dims`` 2) or [R,T,F] (3) of features, columns named ``x_0``, ``x_1``, ... unless told.

    Without ``valid``, bool [R,T], a position whose F cells are all NaN is not there.

    Raises:
        DataError: an array is missing, or has another shape than its role asks for; a column's name is empty, goes
            over several lines, occurs twice or is that of the ids or a companion.
    """
    arrays, table = _read(root, place)
    values = arrays[place.key]
    asked = "rows x features" if dims == 2 else "rows x positions x features"
    _check_shape(table.path, place.key, values, dims, asked)
    columns = [f"x_{i}" for i in range(values.shape[-1])]
    if place.columns:
        columns = _column_names(table.path, place.columns, arrays[place.columns], values.shape[-1])
    _check_columns(table.path, place, columns)
    return _lines(table, place, arrays, values, columns)


def read_labels(root: Path, place: ArrayPlace, column: str) -> ArrayLines:
    """An array [R,T] of labels as lines of one column. Without ``valid``, a position whose label is NaN is not there.

    Raises:
        DataError: as of :func:`read_features`.
    """
    arrays, table = _read(root, place)
    values = arrays[place.key]
    _check_shape(table.path, place.key, values, 2, "rows x time steps")
    return _lines(table, place, arrays, values[..., None], [column])


def _read(root: Path, place: ArrayPlace) -> tuple[dict[str, np.ndarray], Table]:
    """The arrays, and a table of the ids alone."""
    path = existing_file(root, place.file)
    names = [n for n in (place.key, place.id, place.valid, place.columns, *place.companions) if n]
    if file_kind(place.file) == "npz":
        known = npz_names(path)
        for name in names:
            if name not in known:
                raise DataError(f"{path}: expected an array {name!r}, found none{suggest(name, known)}")
        arrays = npz_arrays(path, names)
    else:
        arrays = _hdf5_beside(path, place.key, names)
    if arrays[place.id].ndim != 1:
        raise DataError(f"{path}: array {place.id!r}: expected one id per row, found shape {arrays[place.id].shape}")
    ids = pd.DataFrame({place.id: arrays[place.id]}, pd.RangeIndex(1, len(arrays[place.id]) + 1))
    return arrays, Table(f"{place.file}#{place.key}", f"{path}#{place.key}", path, ids, "row")


def _hdf5_beside(path: Path, key: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    try:
        with open_hdf5(path) as file:
            folder = file[key].parent
            arrays = {}
            for name in names:
                node = file[key] if name == key else folder.get(name)
                if not isinstance(node, h5py.Dataset):
                    raise DataError(f"{path}#{key}: expected a dataset {name!r} beside it, found none")
                arrays[name] = hdf5_array(f"{path}: dataset {name!r}", node, (1, 2, 3))
            return arrays
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable HDF5 file, found: {first_line(error)}") from None


def _check_shape(shown: str, key: str, values: np.ndarray, dims: int, asked: str) -> None:
    if values.ndim != dims or 0 in values.shape:
        raise DataError(f"{shown}: array {key!r}: expected {asked}, found shape {values.shape}")


def _column_names(shown: str, name: str, names: np.ndarray, width: int) -> list[str]:
    if names.shape != (width,) or names.dtype.kind not in "USO":
        found = f"{names.dtype} of shape {names.shape}"
        raise DataError(f"{shown}: array {name!r}: expected {width} names of columns, found {found}")
    texts = [n.decode("utf-8", errors="replace") if isinstance(n, bytes) else str(n) for n in names.tolist()]
    for position, text in enumerate(texts, 1):
        if not text.strip() or len(text.strip().splitlines()) > 1:
            expected = "expected a name in one line for each column"
            raise DataError(f"{shown}: array {name!r}: {expected}, found {text!r} for column {position}")
    return [text.strip() for text in texts]


def _check_columns(shown: str, place: ArrayPlace, columns: Sequence[str]) -> None:
    """An error if a column's name is there twice, or is that of an array which becomes a column beside it."""
    where = f"{shown}: array {(place.columns or place.key)!r}"
    seen: set[str] = set()
    for column in columns:
        if column in (place.id, *place.companions):
            raise DataError(f"{where}: expected names of columns other than of the arrays used, found {quoted(column)}")
        if column in seen:
            raise DataError(f"{where}: expected each column once, found {quoted(column)} again")
        seen.add(column)


def _lines(
    table: Table, place: ArrayPlace, arrays: dict[str, np.ndarray], values: np.ndarray, columns: Sequence[str]
) -> ArrayLines:
    """``values`` [R,F] or [R,T,F] as a table of lines, and whose they are."""
    ids = read_ids(table, place.id)
    if len(values) != len(ids):
        expected = f"{len(ids)} rows as in {place.id!r}"
        raise DataError(f"{table.path}: array {place.key!r}: expected {expected}, found {len(values)}")
    there = _there(table.path, place, arrays, values)
    row, *position = np.nonzero(there)
    frame = pd.DataFrame(values[there], columns=pd.Index(columns, dtype=object))
    for name in place.companions:
        frame[name] = _companion(table.path, name, arrays[name], there)
    if not len(frame):
        raise DataError(f"{table.path}: expected at least one position that is there, found none")
    labels = [ids[row], *(p + 1 for p in position)]
    frame.index = pd.MultiIndex.from_arrays(labels) if position else pd.Index(labels[0])
    return ArrayLines(Table(table.name, table.path, table.file, frame, "row"), ids[row], *position or (None,))


def _there(shown: str, place: ArrayPlace, arrays: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Which rows, or which positions, are there: bool [R] or [R,T]."""
    if values.ndim == 2:
        return np.ones(len(values), dtype=bool)
    if place.valid is None:
        if values.dtype.kind != "f":
            return np.ones(values.shape[:2], dtype=bool)
        return np.asarray(~np.isnan(values).all(axis=-1))
    valid = arrays[place.valid]
    if valid.shape != values.shape[:2] or valid.dtype != np.bool_:
        found = f"{valid.dtype} of shape {valid.shape}"
        raise DataError(f"{shown}: array {place.valid!r}: expected bool of shape {values.shape[:2]}, found {found}")
    return valid


def _companion(shown: str, name: str, array: np.ndarray, there: np.ndarray) -> np.ndarray:
    if array.shape == there.shape:
        return array[there]
    if array.shape != there.shape[:1]:
        raise DataError(f"{shown}: array {name!r}: expected shape {there.shape[:1]}, found {array.shape}")
    return array[np.nonzero(there)[0]]
