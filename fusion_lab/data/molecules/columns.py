"""Tables of many numbers, CSV or parquet, read in bulk; what cannot be used is looked at again to name its line."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fusion_lab.contracts import DataError
from fusion_lab.data.cells import as_number
from fusion_lab.data.readers import (
    MISSING,
    as_text,
    cell_text,
    clipped,
    existing_file,
    file_kind,
    first_line,
    parquet_names,
    quoted,
    read_text,
    suggest,
)


@dataclass(frozen=True)
class Columns:
    """L lines of a file: ``words`` object [L] of each column of text, ``None`` where empty; ``values`` float32 [L,F] of
    the columns ``names``, NaN where empty.
    """

    path: Path
    file: str  # its name in the data folder
    words: dict[str, np.ndarray]
    names: tuple[str, ...]
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def place(self, row: int, column: str) -> str:
        """Where a cell is, for the beginning of an error; ``row`` from 0."""
        if file_kind(self.file) != "csv":
            return f"{self.path}: row {row + 1}, column {quoted(column)}"
        line = next((number for at, (number, _) in enumerate(_records(self.path)) if at == row), 0)
        return f"{self.path}: line {line}, column {quoted(column)}"

    def require_finite(self, used: np.ndarray) -> None:
        """Raises :class:`DataError` for the first cell of the lines ``used``, bool [L], that is no finite number."""
        bad = ~np.isfinite(self.values).all(axis=1) & used
        if bad.any():
            row = int(np.argmax(bad))
            column = int(np.argmin(np.isfinite(self.values[row])))
            value = self.values[row, column]
            found = "an empty cell" if np.isnan(value) else "a number beyond 32 bits, or an infinite one"
            where = self.place(row, self.names[column])
            raise DataError(f"{where}: expected a finite number, found {found} ({int(bad.sum())} such rows)")


def read_columns(
    root: Path, file: str, text: Sequence[str], optional: Sequence[str] = (), beside: Collection[str] = ()
) -> Columns:
    """Reads a table whose columns are numbers, but for those of ``text`` and, where they are there, the ``optional``
    ones. Columns of the names ``beside`` are not read.

    Raises:
        DataError: the file is missing or unreadable, a column of ``text`` is missing, no column of numbers is left, or
            a cell is none.
    """
    path = existing_file(root, file)
    kind = file_kind(file)
    if kind not in ("csv", "parquet"):
        raise DataError(f"{path}: expected a CSV or parquet file, found {path.suffix or 'no ending'!r}")
    header, skip = _csv_header(path) if kind == "csv" else (parquet_names(path), 0)
    for name in text:
        if name not in header:
            raise DataError(f"{path}: expected a column {name!r}, found none{suggest(name, list(header))}")
    words = [*text, *(name for name in optional if name in header)]
    names = tuple(name for name in header if name not in words and name not in beside)
    if not names:
        raise DataError(f"{path}: expected columns of numbers beside {', '.join(words)}, found none")
    table = _csv(path, header, skip, words, names) if kind == "csv" else _parquet(path, words, names)
    if not table.num_rows:
        raise DataError(f"{path}: expected rows below the header, found none")
    values = np.empty((table.num_rows, len(names)), np.float32)
    with np.errstate(over="ignore"):  # what 32 bits do not hold is infinite, which is refused where it is used
        for place, name in enumerate(names):
            values[:, place] = table.column(name).to_numpy().astype(np.float64, copy=False)
    return Columns(path, file, {name: as_text(table.column(name).to_pandas()) for name in words}, names, values)


def _csv_header(path: Path) -> tuple[tuple[str, ...], int]:
    """Names of the columns, and how many lines of the file they take with the blank ones before them."""
    _, end, cells = next(_lines(path), (0, 0, []))
    names = tuple(" ".join(name.split()) for name in cells)
    if not names:
        raise DataError(f"{path}: expected a line of column names, found an empty file")
    twice = next((name for name in names if not name or names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: line 1: expected a name of its own for each column, found {quoted(twice)}")
    return names, end


def _csv(path: Path, header: Sequence[str], skip: int, words: Sequence[str], names: Sequence[str]) -> pa.Table:
    types = dict.fromkeys(words, pa.string()) | dict.fromkeys(names, pa.float64())
    read = pyarrow.csv.ReadOptions(column_names=list(header), skip_rows=skip)
    parse = pyarrow.csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
    convert = pyarrow.csv.ConvertOptions(
        column_types=types, include_columns=[*words, *names], null_values=sorted(MISSING), strings_can_be_null=True
    )
    try:
        return pyarrow.csv.read_csv(path, read, parse, convert)
    except (pa.ArrowException, OSError) as error:
        fault = _second_look(path, header, names)
        if isinstance(error, pa.ArrowInvalid) and "Empty CSV" in str(error) and fault is None:
            raise DataError(f"{path}: expected rows below the header, found none") from None
        raise fault or DataError(f"{path}: expected a readable CSV file, found: {first_line(error)}") from None


def _second_look(path: Path, header: Sequence[str], names: Sequence[str]) -> DataError | None:
    """What is wrong with the first line that cannot be read."""
    numeric = [(header.index(name), name) for name in names]
    for number, cells in _records(path):
        if len(cells) != len(header):
            expected = f"{len(header)} cells as in the header"
            return DataError(f"{path}: line {number}: expected {expected}, found {len(cells)}")
        for place, name in numeric:
            word = cell_text(cells[place])
            if word is not None and (as_number(word) is None or word in ("true", "false")):
                hint = "(leave the column out with data.ignore)"
                where = f"{path}: line {number}, column {quoted(name)}"
                return DataError(f"{where}: expected a number, found {quoted(word)} {hint}")
    return None


def _parquet(path: Path, words: Sequence[str], names: Sequence[str]) -> pa.Table:
    try:
        table = pyarrow.parquet.read_table(path, columns=[*words, *names]).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable parquet file, found: {first_line(error)}") from None
    for name in names:
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            hint = "(leave the column out with data.ignore)"
            raise DataError(f"{path}: column {quoted(name)}: expected numbers, found type {clipped(kind)} {hint}")
    return table


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The records below the header, each with the line on which it begins."""
    lines = _lines(path)
    next(lines, None)
    return ((begins, cells) for begins, _, cells in lines)


def _lines(path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """Everything but blank lines, with the lines on which each begins and ends."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader, begins = csv.reader(stream, delimiter=_delimiter(path)), 1
            for cells in reader:
                if cells:
                    yield begins, reader.line_num, cells
                begins = reader.line_num + 1
    except UnicodeDecodeError:
        read_text(path)  # which says on which line
        raise
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: expected a readable CSV file, found: {first_line(error)}") from None


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","
