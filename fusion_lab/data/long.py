"""Tables with many lines per id: what sorts the lines of an id, and which position of its row each line is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion_lab.contracts import DataError
from fusion_lab.data.cells import as_number, in_order
from fusion_lab.data.readers import Table, as_text, cell_text

LONGEST = 4096
"""More positions than this in a row take a ``length`` in the settings: memory goes with the longest row."""

_ZONE = re.compile(r":\d\d(\.\d+)?\s*(Z|[+-]\d\d:?\d\d)$")
_DATE = re.compile(r"\d{4}-\d\d")


@dataclass(frozen=True)
class Lines:
    """The lines of one file: whose each is, and what those of one id are sorted by.

    ======= ======================================================================================
    table   all columns
    ids     str [lines]
    order   [lines]: times of a sequence, numbers or datetime64; ranks of a bag; None of a vector
    named   columns that are no features: ids, times, groups
    ======= ======================================================================================
    """

    table: Table
    ids: np.ndarray
    order: np.ndarray | None
    named: tuple[str, ...] = ()

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The place of each line's id among ``ids``, int [lines], -1 for none."""
        row_of = {identifier: row for row, identifier in enumerate(ids.tolist())}
        return np.fromiter((row_of.get(name, -1) for name in self.ids.tolist()), int, len(self.ids))


def read_times(table: Table, column: str) -> np.ndarray:
    """Times of a table's lines: int64 or float64 where they are numbers, datetime64 in UTC where they are ISO dates.

    Raises:
        DataError: the column is missing, a cell is empty, no finite number and no date, or some dates lack the time
            zone that others have.
    """
    cells = table.column(column, "the times")
    if cells.dtype.kind == "M":
        _refuse_first(table, column, cells.isna().to_numpy(), "expected a time, found an empty cell")
        zoned = getattr(cells.dt, "tz", None) is not None
        return (cells.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else cells).to_numpy("datetime64[us]")
    if isinstance(cells.dtype, np.dtype) and cells.dtype.kind == "i":
        return cells.to_numpy(np.int64)
    words = as_text(cells)
    empty = np.fromiter((word is None for word in words), bool, len(words))
    _refuse_first(table, column, empty, "expected a time, found an empty cell")
    if as_number(words[0]) is None and _DATE.match(words[0]):
        return _dates(table, column, words)
    return _numbers(table, column, words)


def read_instances(table: Table, column: str) -> np.ndarray:
    """Ranks of a bag's instances, int [lines]: equal names get one rank.

    Raises:
        DataError: the column is missing, or a cell is empty.
    """
    words = as_text(table.column(column, "the instances"))
    empty = np.fromiter((word is None for word in words), bool, len(words))
    _refuse_first(table, column, empty, "expected an instance, found an empty cell")
    rank = {word: i for i, word in enumerate(in_order(words))}
    return np.fromiter((rank[word] for word in words), int, len(words))


def refuse_repeats(lines: Lines, column: str, what: str) -> None:
    """An error if two lines of one id have the same time or instance."""
    assert lines.order is not None
    _, owner = np.unique(lines.ids, return_inverse=True)
    sort = np.lexsort((np.arange(len(owner)), lines.order, owner))
    same = (np.diff(owner[sort]) == 0) & (lines.order[sort][1:] == lines.order[sort][:-1])
    if same.any():
        again = int(sort[1:][same].min())
        first = np.flatnonzero((owner == owner[again]) & (lines.order == lines.order[again]))[0]
        found = cell_text(lines.table.frame[column].iloc[again])
        raise DataError(
            f"{lines.table.place(again, column)}: expected each {what} of an id once, found {found!r} of id "
            f"{str(lines.ids[again])!r} again (first in {lines.table.line(int(first))})"
        )


def positions(row: np.ndarray, orders: Sequence[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Position of each line in its row, int [lines], and how many positions each of R rows has, int [R].

    Lines of one row and one time share a position. ``row`` is -1 of a line without a row; its position means nothing.

    >>> position, span = positions(np.array([1, 0, 1, 1]), [np.array([3, 7, 2, 3])], 2)
    >>> position.tolist(), span.tolist()
    ([1, 0, 0, 1], [1, 2])
    """
    order = np.concatenate(orders)
    if not len(row):
        return np.zeros(0, int), np.zeros(rows, int)
    sort = np.lexsort((order, row))
    fresh_row = np.diff(row[sort], prepend=row[sort[0]] - 1) != 0
    fresh = fresh_row | np.concatenate([[True], order[sort][1:] != order[sort][:-1]])
    tick = np.cumsum(fresh) - 1
    position = np.empty(len(row), int)
    position[sort] = tick - np.maximum.accumulate(np.where(fresh_row, tick, 0))
    return position, np.bincount(row[sort][fresh & (row[sort] >= 0)], minlength=rows)


def refuse_mixed_times(orders: Iterable[tuple[str, np.ndarray]]) -> None:
    """An error if some of the tables, by name, give dates and others numbers."""
    kinds = {name: "dates" if order.dtype.kind == "M" else "numbers" for name, order in orders}
    if len(set(kinds.values())) > 1:
        (first, kind), (other, another) = (
            next(iter(kinds.items())),
            next((name, k) for name, k in kinds.items() if k != next(iter(kinds.values()))),
        )
        raise DataError(f"{other}: expected {kind} as times, as in {first} of the same clock, found {another}")


def _refuse_first(table: Table, column: str, bad: np.ndarray, told: str) -> None:
    if bad.any():
        raise DataError(f"{table.place(int(np.argmax(bad)), column)}: {told}")


def _numbers(table: Table, column: str, words: np.ndarray) -> np.ndarray:
    numbers = [as_number(word) for word in words]
    for line, number in enumerate(numbers):
        if number is None or not np.isfinite(number):
            kind = "a number or an ISO date" if line == 0 else "a number like the other times"
            raise DataError(f"{table.place(line, column)}: expected {kind}, found {words[line]!r}")
    try:
        return np.array([int(word) for word in words], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(numbers, dtype=np.float64)


def _dates(table: Table, column: str, words: np.ndarray) -> np.ndarray:
    """ISO 8601, naive or with a time zone, which is taken into account."""
    parsed = pd.to_datetime(pd.Series(words), format="ISO8601", errors="coerce", utc=True)
    bad = parsed.isna().to_numpy() | np.fromiter((not _DATE.match(word) for word in words), bool, len(words))
    if bad.any():
        found = words[int(np.argmax(bad))]
        _refuse_first(table, column, bad, f"expected an ISO date like the other times, found {found!r}")
    zoned = np.fromiter((_ZONE.search(word) is not None for word in words), bool, len(words))
    if zoned.any() and not zoned.all():
        expected = "expected a time zone in every time or in none"
        _refuse_first(table, column, ~zoned, f"{expected}, found {words[int(np.argmin(zoned))]!r}")
    return parsed.dt.tz_localize(None).to_numpy("datetime64[us]")
