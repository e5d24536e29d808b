"""Columns of numbers of a CSV, parquet or NPZ file, read at once; what is wrong with one is looked for cell by cell
afterwards, so that an error can name its place.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fusion_lab.contracts import DataError
from fusion_lab.data.cells import as_number, read_numbers
from fusion_lab.data.npz import npz_arrays, npz_names
from fusion_lab.data.readers import (
    MISSING,
    Table,
    as_text,
    cell_text,
    existing_file,
    file_kind,
    quoted,
    read_table,
    suggest,
)


class Wanted(NamedTuple):
    """What is read of a file: the column of times, those of numbers, an array [n,E] of an NPZ file, and the column that
    says whose a row is.
    """

    time: str
    columns: tuple[str, ...]
    array: str | None = None
    owner: str | None = None


class Numbers(NamedTuple):
    """n rows as they lie in a file."""

    times: np.ndarray  # float64 [n], s
    values: np.ndarray  # float32 [n,F], NaN = missing
    array: np.ndarray | None  # [n,E]
    owner: np.ndarray | None  # str [n]
    others: tuple[str, ...]  # columns of the file that were not asked for

    def of(self, rows: np.ndarray) -> Numbers:
        """Some of the rows."""
        taken = (None if part is None else part[rows] for part in (self.array, self.owner))
        return Numbers(self.times[rows], self.values[rows], *taken, self.others)


def read_columns(root: Path, file: str, wanted: Wanted) -> Numbers:
    """Reads a file.

    Raises:
        DataError: the file or a column is missing, a time is missing, a cell is no finite number.
    """
    path = existing_file(root, file)
    if file_kind(file) == "npz":
        return _arrays(path, wanted)
    made = _at_once(path, wanted)
    return made if made is not None else _cell_by_cell(root, file, wanted)


def place(root: Path, file: str, row: int, column: str) -> str:
    """What errors call the cell of a row, from 0."""
    if file_kind(file) == "npz":
        return f"{root / file}: array {column!r}, row {row + 1}"
    return read_table(root, file).place(row, column)


def _at_once(path: Path, wanted: Wanted) -> Numbers | None:
    """``None`` of a file that is not what it should be."""
    try:
        table, names = _csv(path, wanted) if file_kind(path.name) == "csv" else _parquet(path, wanted)
        times = table.column(wanted.time).cast(pa.float64()).to_numpy()
        numbers = [table.column(name).cast(pa.float32(), safe=False).to_numpy() for name in wanted.columns]
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError):
        return None
    values = np.empty((len(times), len(numbers)), np.float32)
    for i, column in enumerate(numbers):
        values[:, i] = column
    if not len(times) or not np.isfinite(times).all() or np.isinf(values).any():
        return None
    owner = None
    if wanted.owner is not None:
        owner = _names(table.column(wanted.owner).to_pandas())
        if owner is None:
            return None
    return Numbers(times, values, None, owner, _others(names, wanted))


def _csv(path: Path, wanted: Wanted) -> tuple[pa.Table, list[str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as stream:
        names = next(csv.reader(stream, delimiter=delimiter), [])
    if len(set(names)) < len(names):
        raise KeyError(names)
    columns = [wanted.time, *wanted.columns, *([wanted.owner] if wanted.owner else [])]
    types = {name: pa.float64() if name == wanted.time else pa.float32() for name in columns if name != wanted.owner}
    options = pyarrow.csv.ConvertOptions(
        column_types={**types, **({wanted.owner: pa.string()} if wanted.owner else {})},
        include_columns=columns,
        null_values=sorted(MISSING),
    )
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=False)
    return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=options), names


def _parquet(path: Path, wanted: Wanted) -> tuple[pa.Table, list[str]]:
    columns = [wanted.time, *wanted.columns, *([wanted.owner] if wanted.owner else [])]
    with pyarrow.parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        if set(columns) - set(names) or len(set(names)) < len(names):
            raise KeyError(columns)
        table = file.read(columns).replace_schema_metadata(None)
    for name in (wanted.time, *wanted.columns):
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise KeyError(name)
    return table, names


def _cell_by_cell(root: Path, file: str, wanted: Wanted) -> Numbers:
    """Refuses what is wrong, or reads what only looked so: ``true`` and ``false``, blanks around numbers."""
    table = read_table(root, file)
    table.require([wanted.time], "the times")
    table.require(wanted.columns, f"one of {len(wanted.columns)} columns of this stream")
    owner = None
    if wanted.owner is not None:
        owner = _names(table.column(wanted.owner, "the videos"))
        if owner is None:
            empty = [cell is None for cell in as_text(table.frame[wanted.owner])].index(True)
            raise DataError(f"{table.place(empty, wanted.owner)}: expected the name of a video, found an empty cell")
    values, filled = read_numbers(table, wanted.columns, ())
    times = np.array([_time(table, wanted.time, row) for row in range(len(table.frame))])
    values = np.where(filled, values, np.float32(np.nan))
    return Numbers(times, values, None, owner, _others(list(table.frame.columns), wanted))


def _time(table: Table, column: str, row: int) -> float:
    word = cell_text(table.frame[column].iloc[row])
    number = None if word is None else as_number(word)
    if number is None or not np.isfinite(number):
        found = "an empty cell" if word is None else quoted(word)
        raise DataError(f"{table.place(row, column)}: expected a time in seconds, found {found}")
    return number


def _arrays(path: Path, wanted: Wanted) -> Numbers:
    known = npz_names(path)
    names = [name for name in (wanted.owner, wanted.time, *wanted.columns, wanted.array) if name is not None]
    for name in names:
        if name not in known:
            raise DataError(f"{path}: expected an array {name!r}, found none{suggest(name, known)}")
    arrays = npz_arrays(path, names)
    times = arrays[wanted.time]
    if times.dtype.kind not in "iuf" or times.ndim != 1 or not len(times):
        _refuse(path, wanted.time, "numbers, one per row", times)
    times = times.astype(np.float64)
    for name in (*wanted.columns, wanted.owner):
        if name is not None and arrays[name].shape != times.shape:
            _refuse(path, name, f"{len(times)} values, one per time", arrays[name])
    values = np.empty((len(times), len(wanted.columns)), np.float32)
    for i, name in enumerate(wanted.columns):
        if arrays[name].dtype.kind not in "biuf":
            _refuse(path, name, "numbers", arrays[name])
        values[:, i] = arrays[name]
        _refuse_infinite(path, name, values[:, i])
    odd = np.flatnonzero(~np.isfinite(times))
    if len(odd):
        where = f"{path}: array {wanted.time!r}, row {odd[0] + 1}"
        raise DataError(f"{where}: expected a time in seconds, found {times[odd[0]]:g}")
    array = None if wanted.array is None else arrays[wanted.array]
    if array is not None and (array.ndim != 2 or len(array) != len(times) or array.dtype.kind not in "biuf"):
        _refuse(path, str(wanted.array), f"numbers of shape ({len(times)}, width)", array)
    owner = None if wanted.owner is None else _names(pd.Series(arrays[wanted.owner]))
    if wanted.owner is not None and owner is None:
        raise DataError(
            f"{path}: array {wanted.owner!r}: expected the name of a video in every row, found an empty one"
        )
    return Numbers(times, values, array, owner, _others(known, wanted))


def _names(cells: pd.Series) -> np.ndarray | None:
    """Whose the rows are, str [n]; ``None`` where a cell is empty. Each different cell is read once."""
    code, different = pd.factorize(cells, use_na_sentinel=False)
    names = as_text(pd.Series(different))
    return None if any(name is None or not name.isprintable() for name in names) else names.astype(str)[code]


def _refuse(path: Path, name: str, expected: str, found: np.ndarray) -> NoReturn:
    raise DataError(f"{path}: array {name!r}: expected {expected}, found {found.dtype} of shape {found.shape}")


def _refuse_infinite(path: Path, name: str, values: np.ndarray) -> None:
    odd = np.flatnonzero(np.isinf(values))
    if len(odd):
        raise DataError(f"{path}: array {name!r}, row {odd[0] + 1}: expected a finite number, found {values[odd[0]]}")


def _others(names: Sequence[str], wanted: Wanted) -> tuple[str, ...]:
    used = {wanted.time, *wanted.columns, wanted.array, wanted.owner}
    return tuple(name for name in names if name not in used)
