"""Tables from CSV, parquet, HDF5 and NPZ files; every cell can be traced to its line or row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from fusion_lab.contracts import DataError
from fusion_lab.data.formats import hdf5_array, parquet_names, read_csv, read_hdf5, read_npz, read_parquet, read_text
from fusion_lab.data.words import LONGEST_SHOWN, MISSING, as_text, cell_text, clipped, first_line, quoted, suggest

__all__ = [
    "LONGEST_SHOWN",
    "MISSING",
    "Table",
    "as_text",
    "cell_text",
    "clipped",
    "data_folder",
    "existing_file",
    "file_kind",
    "file_sha256",
    "first_line",
    "hdf5_array",
    "parquet_names",
    "quoted",
    "read_ids",
    "read_table",
    "read_text",
    "suggest",
]

_KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "npz",
}


@dataclass(frozen=True)
class Table:
    """One file, or one group or array of it.

    ``frame``'s index: a CSV file's line numbers, else row numbers from 1; of an array (id, position from 1) or the id.
    ``unfit``: shapes of the arrays beside the columns that cannot be one.
    """

    name: str  # "tma.h5#CD3", relative to the data folder
    path: str  # what errors call it, with the folder
    file: Path
    frame: pd.DataFrame
    unit: Literal["line", "row"]
    unfit: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def place(self, row: int, column: str) -> str:
        """Where the cell in the ``row``-th record of a column is, for the beginning of an error."""
        return f"{self.path}: {self.line(row)}, column {quoted(column)}"

    def line(self, row: int) -> str:
        """What the ``row``-th record is called: "line 5", "row p3, position 2"."""
        label = self.frame.index[row]
        parts = label if isinstance(label, tuple) else (label,)
        return f"{self.unit} {', position '.join(clipped(part) for part in parts)}"

    def column(self, name: str, role: str) -> pd.Series:
        """One column.

        Raises:
            DataError: there is no such column, but perhaps an array of another shape; the nearest name is suggested.
        """
        self.require([name], role)
        return self.frame[name]

    def require(self, names: Iterable[str], role: str) -> None:
        """Raises :class:`DataError` with the nearest name for the first of ``names`` that is no column."""
        for name in names:
            if name in self.unfit:
                expected = f"expected one value per row, {len(self.frame)} in all"
                raise DataError(f"{self.path}: array {name!r} ({role}): {expected}, found shape {self.unfit[name]}")
            if name not in self.frame.columns:
                hint = suggest(name, list(self.frame.columns))
                raise DataError(f"{self.path}: expected a column {name!r} ({role}), found none{hint}")


def data_folder(root: str) -> Path:
    """The folder that the settings name, ``~`` and ``~user`` written out; whether it exists is seen when it is read.

    Raises:
        DataError: nobody of that name has a home folder here.
    """
    try:
        return Path(root).expanduser()
    except RuntimeError:  # pathlib's answer to an unknown user
        raise DataError(f"{root}: expected a folder of data files, found a user without a home folder here") from None


def read_table(root: Path, file: str, key: str | None = None, companions: Sequence[str] = ()) -> Table:
    """Reads one table from the folder ``root``.

    A CSV file (UTF-8; ``.tsv`` for tabs) gives text cells, exactly as written. Of an HDF5 file, ``key`` names a group,
    of which every one-dimensional dataset is a column and every two-dimensional dataset ``x`` the columns ``x_0``,
    ``x_1``, ...; or it names one dataset, whose ``companions`` (first the ids) are taken from beside it. Of an NPZ
    file, every one-dimensional array as long as the ids is a column.

    Raises:
        DataError: the folder, file or key is missing, or the content is unreadable, uneven or empty.
    """
    path = existing_file(root, file)
    kind, unfit = file_kind(file), {}
    if kind is None:
        raise DataError(f"{path}: expected a file ending in {', '.join(_KINDS)}, found {path.suffix or 'no ending'!r}")
    if key is not None and kind != "hdf5":
        raise DataError(f"{path}: expected an HDF5 file where a key is given, found key {key!r} of a {kind} file")
    shown = f"{path}#{key}" if key else str(path)
    if kind == "csv":
        frame = read_csv(path)
    elif kind == "parquet":
        frame = read_parquet(path)
    elif kind == "hdf5":
        frame = read_hdf5(path, key, companions)
    else:
        frame, unfit = read_npz(path, companions)
    if kind != "csv":
        frame.index = pd.RangeIndex(1, len(frame) + 1)
    if frame.empty:
        raise DataError(f"{shown}: expected at least one row and one column, found {len(frame)} x {frame.shape[1]}")
    return Table(f"{file}#{key}" if key else file, shown, path, frame, "line" if kind == "csv" else "row", unfit)


def file_kind(file: str) -> str | None:
    """``csv``, ``parquet``, ``hdf5`` or ``npz`` by the end of a file's name, ``None`` for any other."""
    return _KINDS.get(Path(file).suffix.lower())


def read_ids(table: Table, column: str, once: bool = True) -> np.ndarray:
    """The ids of a table's rows, as text ``[rows]``: trimmed, ``1.0`` and ``1`` are the same.

    Raises:
        DataError: the column is missing, a cell is empty or no whole number or text, or an id that has to occur
            ``once`` occurs twice.
    """
    cells = table.column(column, "the ids")
    if pd.api.types.is_float_dtype(cells.dtype):
        _refuse_fractions(table, cells, column)
    ids = as_text(cells)
    seen: dict[str, int] = {}
    for row, identifier in enumerate(ids):
        if identifier is None:
            raise DataError(f"{table.place(row, column)}: expected an id, found an empty cell")
        if once and identifier in seen:
            raise DataError(
                f"{table.place(row, column)}: expected each id once, "
                f"found {quoted(identifier)} again (first in {table.line(seen[identifier])})"
            )
        seen[identifier] = row
    return ids.astype(str)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def existing_file(root: Path, file: str) -> Path:
    """Path of a data file that is there and not empty.

    Raises:
        DataError: the folder or the file is missing, is no file, or holds nothing; the nearest name is suggested.
    """
    try:
        path = _existing(root, file)
    except OSError as error:  # a name too long for the file system, a folder that may not be entered
        raise DataError(f"{root / file}: expected a data file, found: {error.strerror}") from None
    if file_kind(file) and path.stat().st_size == 0:
        raise DataError(f"{path}: expected a table, found an empty file")
    return path


def _existing(root: Path, file: str) -> Path:
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise DataError(f"{root}: expected a folder of data files, found {found} (say where it is with data=FOLDER)")
    path = root / file
    if not path.exists():
        known = sorted(p.name for p in path.parent.iterdir() if p.suffix in _KINDS) if path.parent.is_dir() else []
        raise DataError(f"{path}: expected a data file, found no such file{suggest(path.name, known)}")
    if not path.is_file():
        raise DataError(f"{path}: expected a data file, found a folder")
    return path


def _refuse_fractions(table: Table, cells: pd.Series, column: str) -> None:
    values = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    odd = np.flatnonzero(~np.isnan(values) & (values != np.round(values)))
    if len(odd):
        found = values[odd[0]]
        raise DataError(f"{table.place(int(odd[0]), column)}: expected a whole number or text as id, found {found}")
