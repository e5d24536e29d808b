"""Rows of numbers from text files, in bulk; what cannot be read is looked at again to name its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.batches import Wanted, block_of, subjects_of
from fusion_lab.data.activity.pieces import pieces, side_by_side
from fusion_lab.data.activity.recordings import Block
from fusion_lab.data.readers import MISSING, first_line, quoted

T = TypeVar("T")
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)", re.IGNORECASE | re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)


class Text(NamedTuple):
    """A file of cells between delimiters; ``names`` of its columns in order, after ``skip`` lines of header."""

    path: Path
    names: tuple[str, ...]
    delimiter: str = ","
    skip: int = 0
    missing: Collection[str] = MISSING  # besides NaN

    def place(self, row: int, column: str) -> str:
        """Where the cell of a row is; blank lines are no rows."""
        with self.path.open(encoding="utf-8", errors="replace") as stream:
            lines = (number for number, line in enumerate(stream, 1) if number > self.skip and line != "\n")
            number = next((number for at, number in enumerate(lines) if at == row), 0)
        return f"{self.path}: line {number}, column {quoted(column)}"

    def subjects(self, column: str) -> list[str | None]:
        """The subjects that a column tells of, in the order in which they come; ``None`` for an empty cell."""
        wanted = Wanted(column, None, (), owner=column)
        named = self._read(wanted, partial(_owners, self, wanted))
        return list(dict.fromkeys(name for names in named for name in names))

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """Its rows, in order.

        Raises:
            DataError: a line has too few or too many cells, or a cell is no number.
        """
        first = 0
        for rows, block in self._read(wanted, partial(_block, self, wanted)):
            yield block._replace(rows=block.rows + first)
            first += rows

    def _read(self, wanted: Wanted, work: Callable[[bytes, int], T]) -> list[T]:
        """What ``work`` makes of each piece of the file and the number of header's lines that it begins with."""
        parts = pieces(self.path, quoting=self.delimiter != " ")
        headed = ((piece, 0 if at else self.skip) for at, piece in enumerate(parts))
        try:
            return side_by_side(lambda piece: work(*piece), (p for p in headed if not p[0].isspace()))
        except pa.ArrowInvalid as error:
            fault = _second_look(self, wanted, error)
            if fault is None:
                return []
            raise fault from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: expected a readable text file, found: {first_line(error)}") from None


def with_header(path: Path) -> Text:
    """A CSV file (tabs in ``.tsv``) whose first line that is not blank names the columns.

    Raises:
        DataError: it cannot be read, has no header, or a column has no name or that of another.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            names = tuple(" ".join(name.split()) for name in next(filter(None, reader), []))
            skip = reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a readable text file, found: {first_line(error)}") from None
    if not names:
        raise DataError(f"{path}: expected a line of column names, found an empty file")
    twice = next((name for name in names if not name or names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: line {skip}: expected a name of its own for each column, found {quoted(twice)}")
    return Text(path, names, delimiter, skip)


def _owners(text: Text, wanted: Wanted, piece: bytes, skip: int) -> list[str | None]:
    """The subjects of a piece."""
    codes, names = subjects_of(_parsed(text, wanted, piece, skip).column(wanted.owner))
    return [names[code] for code in np.unique(codes)]


def _block(text: Text, wanted: Wanted, piece: bytes, skip: int) -> tuple[int, Block]:
    """How many rows a piece has, and those that are wanted, counted from its first."""
    batch = _parsed(text, wanted, piece, skip)
    return batch.num_rows, block_of(batch, wanted)


def _parsed(text: Text, wanted: Wanted, piece: bytes, skip: int) -> pa.RecordBatch:
    """The columns that are wanted of the rows that follow ``skip`` lines, read by one thread."""
    types = {name: pa.float32() for name in wanted.values}
    # times in 64 bits: after hours 32 do not hold hundredths of a second
    types |= {name: pa.float64() for name in (wanted.time, wanted.activity) if name}
    types |= {wanted.owner: pa.string()} if wanted.owner else {}
    read = pyarrow.csv.ReadOptions(
        column_names=list(text.names), skip_rows=skip, block_size=len(piece) + 1, use_threads=False
    )
    parse = pyarrow.csv.ParseOptions(delimiter=text.delimiter, quote_char=False if text.delimiter == " " else '"')
    convert = pyarrow.csv.ConvertOptions(
        column_types=types,
        include_columns=list(dict.fromkeys(wanted.all)),
        null_values=sorted(text.missing),
        strings_can_be_null=True,
    )
    return pyarrow.csv.read_csv(pa.BufferReader(piece), read, parse, convert).combine_chunks().to_batches()[0]


def _second_look(text: Text, wanted: Wanted, error: Exception) -> DataError | None:
    """What is wrong with the first line that cannot be read; nothing, if there is no line below the header."""
    rows = 0
    numeric = sorted((text.names.index(name), name) for name in wanted.all if name != wanted.owner)
    quoting = csv.QUOTE_NONE if text.delimiter == " " else csv.QUOTE_MINIMAL
    begins = 1  # the line on which a row begins: a quoted cell may go over several
    with text.path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream, delimiter=text.delimiter, quoting=quoting)
        try:
            for cells in reader:
                row = bool(cells) and reader.line_num > text.skip
                rows += row
                fault = _fault(cells, text, numeric) if row else None
                if fault:
                    return DataError(f"{text.path}: line {begins}{fault}")
                begins = reader.line_num + 1
        except csv.Error as broken:
            return DataError(f"{text.path}: line {begins}: expected cells of text, found: {broken}")
    unknown = DataError(f"{text.path}: expected rows of {len(text.names)} cells, found: {first_line(error)}")
    return unknown if rows else None


def _fault(cells: list[str], text: Text, numeric: list[tuple[int, str]]) -> str | None:
    if len(cells) != len(text.names):
        return f": expected {len(text.names)} cells, found {len(cells)}"
    for place, name in numeric:
        cell = cells[place]
        fits = _NUMBER.fullmatch(cell.strip(" \t")) and not _LARGEST < abs(float(cell)) < np.inf
        if cell not in text.missing and not fits:
            return f", column {quoted(name)}: expected a number or NaN, found {quoted(cell)}"
    return None
