"""Tables from CSV, parquet, HDF5 and NPZ files; every cell can be traced to its line or row."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from fusion_lab.config import nearest
from fusion_lab.contracts import DataError
from fusion_lab.data.hdf5_files import open_hdf5
from fusion_lab.data.npz import LARGEST_COMPRESSION, npz_arrays, npz_shapes

MISSING = frozenset({"", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL"})
"""What an empty cell looks like. ``None`` and ``none`` are not among them: they are names of real categories."""

LONGEST_SHOWN = 40
"""Characters of a cell that an error repeats."""

_COUNTS = {1: "one", 2: "two", 3: "three"}
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
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
        frame = _read_csv(path)
    elif kind == "parquet":
        frame = _read_parquet(path)
    elif kind == "hdf5":
        frame = _read_hdf5(path, key, companions)
    else:
        frame, unfit = _read_npz(path, companions)
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


def as_text(cells: pd.Series) -> np.ndarray:
    """Cells in the form in which ids and categories are compared, object ``[rows]``; ``None`` where missing.

    >>> as_text(pd.Series([" a ", 1.0, "2.0", True, float("nan"), "NA"], dtype=object)).tolist()
    ['a', '1', '2', 'true', None, None]
    """
    return np.array([cell_text(cell) for cell in cells.tolist()], dtype=object)


def cell_text(cell: object) -> str | None:
    """One cell as trimmed text, whole numbers without fraction, truth values in lower case; ``None`` where missing."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return None
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", errors="replace")
    text = str(cell).strip()
    if text in MISSING:
        return None
    whole = _WHOLE.fullmatch(text)
    if whole:
        return whole.group(1)
    return text.lower() if text.lower() in ("true", "false") else text


def clipped(cell: object) -> str:
    """A cell as an error repeats it: in one line, the end of a long one left out.

    >>> clipped("two\\nlines"), clipped("1" * 400)
    ('two lines', '1111111111111111111111111111111111111...')
    """
    text = " ".join(str(cell).splitlines())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def quoted(word: object) -> str:
    """A text cell, or a name, in an error: quoted, and clipped."""
    return repr(clipped(word))


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


def _read_csv(path: Path) -> pd.DataFrame:
    """Text cells, indexed by line. The standard reader: it knows a record's line and refuses an unclosed quote."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, found: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise DataError(f"{path}: line {line}: expected UTF-8 text, found byte 0x{byte:02x}") from None
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    lines, records = [], []
    try:
        header = [_name(name) for name in next(filter(None, reader), [])]
        _check_header(path, header, reader.line_num)
        start = reader.line_num + 1
        for record in reader:
            if record and len(record) != len(header):
                raise DataError(
                    f"{path}: line {start}: expected {len(header)} cells as in the header, found {len(record)}"
                )
            if record:
                lines.append(start)
                records.append(record)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: expected well-formed CSV, found: {error}") from None
    if not records:
        raise DataError(f"{path}: expected rows below the header, found none")
    return pd.DataFrame(records, columns=pd.Index(header, dtype=object), index=pd.Index(lines), dtype=object)


def _check_header(path: Path, header: list[str], line: int) -> None:
    if not header:
        raise DataError(f"{path}: expected a line of column names, found an empty file")
    for position, name in enumerate(header, start=1):
        if not name:
            raise DataError(f"{path}: line {line}: expected a name for each column, found none for column {position}")
        if header.index(name) < position - 1:
            raise DataError(f"{path}: line {line}: expected each column once, found {quoted(name)} again")


def _read_parquet(path: Path) -> pd.DataFrame:
    """All columns, those included that pandas had stored as an index; what pandas noted beside the data is not read."""
    try:
        table = pa.parquet.ParquetFile(path).read().replace_schema_metadata(None)
        names = [_name(name) for name in table.column_names]
        frame = table.rename_columns([str(i) for i in range(len(names))]).to_pandas()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable parquet file, found: {first_line(error)}") from None
    _check_header(path, names, 1)
    return frame.set_axis(pd.Index(names, dtype=object), axis=1)


def _read_hdf5(path: Path, key: str | None, companions: Sequence[str]) -> pd.DataFrame:
    try:
        with open_hdf5(path) as file:
            arrays = _hdf5_arrays(f"{path}#{key}" if key else str(path), file, key, companions)
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable HDF5 file, found: {first_line(error)}") from None
    blocks = []
    for name, array in arrays.items():
        wide = array.ndim == 2
        names = [f"{name}_{i}" for i in range(array.shape[1])] if wide else [name]
        blocks.append(pd.DataFrame(array if wide else array[:, None], columns=pd.Index(names, dtype=object)))
    frame = pd.concat(blocks, axis=1)
    _check_header(path, list(frame.columns), 1)
    return frame


def _read_npz(path: Path, companions: Sequence[str]) -> tuple[pd.DataFrame, dict[str, tuple[int, ...]]]:
    """The one-dimensional arrays as long as the ids, or as the first of them where no ids are known; and the shapes of
    the others.
    """
    shapes = npz_shapes(path)
    sizes = {name: shape for name, shape in shapes.items() if len(shape) == 1}
    reference = next((name for name in companions if name in sizes), next(iter(sizes), ""))
    names = [name for name, shape in sizes.items() if shape == sizes[reference]]
    if not names:
        raise DataError(f"{path}: expected one-dimensional arrays, one per column, found none")
    return pd.DataFrame(npz_arrays(path, names)), {n: shape for n, shape in shapes.items() if n not in names}


def _hdf5_arrays(shown: str, file: h5py.File, key: str | None, companions: Sequence[str]) -> dict[str, np.ndarray]:
    node = file
    if key:
        if key not in file:
            names: list[str] = []
            file.visit(lambda name: names.append(_name(name)))
            raise DataError(f"{shown}: expected a group or dataset {key!r}, found none{suggest(key, names)}")
        node = file[key]
    if isinstance(node, h5py.Dataset):
        leaf = str(node.name).rsplit("/", 1)[1]
        parent = node.parent
        datasets = {name: parent[name] for name in companions if isinstance(parent.get(name), h5py.Dataset)} | {
            leaf: node
        }
    else:
        children = {_name(name): child for name, child in node.items()}
        for name, child in children.items():
            if child is None:  # h5py's answer to a link that leads nowhere
                raise DataError(f"{shown}: expected datasets and groups, found a link {name!r} that leads nowhere")
        datasets = {name: child for name, child in children.items() if isinstance(child, h5py.Dataset)}
        if not datasets:
            groups = ", ".join(map(_name, node)) or "nothing"
            raise DataError(f"{shown}: expected datasets, found {groups} (name a group with key)")
    reference = next((name for name in companions if name in datasets), next(iter(datasets)))
    deep = next((name for name, dataset in datasets.items() if dataset.ndim == 3), None)
    if deep is not None:
        found = f"shape {datasets[deep].shape} (an array of sequences or bags is named itself with key)"
        raise DataError(f"{shown}: dataset {deep!r}: expected one or two dimensions, found {found}")
    arrays = {name: hdf5_array(f"{shown}: dataset {name!r}", dataset, (1, 2)) for name, dataset in datasets.items()}
    for name, array in arrays.items():
        if len(array) != len(arrays[reference]):
            expected = f"{len(arrays[reference])} rows as in {reference!r}"
            raise DataError(f"{shown}: dataset {name!r}: expected {expected}, found {len(array)}")
    return arrays


def _name(name: str | bytes) -> str:
    """A name in one trimmed line; h5py gives one that is no UTF-8 as bytes."""
    text = name if isinstance(name, str) else name.decode("utf-8", errors="replace")
    return " ".join(text.splitlines()).strip()


def hdf5_array(shown: str, dataset: h5py.Dataset, dims: Sequence[int]) -> np.ndarray:
    """A data set of numbers or text, of as many dimensions as one of ``dims``; ``shown`` is what errors call it."""
    if dataset.ndim not in dims:
        expected = f"{' or '.join(_COUNTS[n] for n in dims)} dimension{'s' * (max(dims) > 1)}"
        raise DataError(f"{shown}: expected {expected}, found shape {dataset.shape}")
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError) as error:  # h5py's answer to a type it has no NumPy counterpart of
        raise DataError(f"{shown}: expected numbers or text, found: {first_line(error)}") from None
    if dtype.itemsize * prod(dataset.shape) > LARGEST_COMPRESSION * dataset.file.id.get_filesize():
        raise DataError(f"{shown}: expected an array that fits the file, found shape {dataset.shape} (a damaged file)")
    if h5py.check_string_dtype(dtype) is not None:
        try:
            return dataset.asstr("utf-8")[()]
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x}"
            raise DataError(f"{shown}: expected UTF-8 text, found {found}") from None
    if dtype.kind not in "biuf":
        raise DataError(f"{shown}: expected numbers or text, found type {dtype}")
    array = dataset[()]
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _refuse_fractions(table: Table, cells: pd.Series, column: str) -> None:
    values = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    odd = np.flatnonzero(~np.isnan(values) & (values != np.round(values)))
    if len(odd):
        found = values[odd[0]]
        raise DataError(f"{table.place(int(odd[0]), column)}: expected a whole number or text as id, found {found}")


def suggest(word: str, known: list[str]) -> str:
    """The nearest known name, or the first few of many."""
    hint = nearest(word, known)
    return (
        hint
        if len(known) <= 20 or "did you mean" in hint
        else f" (known: {', '.join(known[:8])}, ... {len(known)} in all)"
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
