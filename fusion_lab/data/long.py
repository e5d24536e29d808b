"""Tables with many lines per id: what sorts the lines of an id, and which position of its row each line is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from fusion_lab.contracts import DataError
from fusion_lab.data.cells import as_number, in_order
from fusion_lab.data.readers import Table, as_text, cell_text, quoted

LONGEST = 4096
"""More positions than this no modality has: memory goes with the longest row, whose last or first may be kept."""

Form = Literal["numbers", "dates without a time zone", "dates with a time zone"]
"""What times are written as: within a file, and among the files of one clock, all the same."""

_ZONE = re.compile(r"[T ]\d\d?[\d:.]*\s*(Z|[+-]\d\d?(:?\d\d)?)$")
_FINER = re.compile(r"\.\d{9}\d*[1-9]")  # fractions of a second that nanoseconds do not hold
_DATE = re.compile(r"\d{4}-\d\d")


class Times(NamedTuple):
    """Times of a table's lines, [lines]: int64 or float64, or datetime64 in UTC."""

    values: np.ndarray
    form: Form


@dataclass(frozen=True)
class Lines:
    """The lines of one file: whose each is, and what those of one id are sorted by.

    ======= ======================================================================================
    table   all columns
    ids     str [lines]
    order   [lines]: times of a sequence, numbers or datetime64; ranks of a bag; None of a vector
    named   columns that are no features: ids, times, groups
    form    what the times of a sequence are written as
    ======= ======================================================================================
    """

    table: Table
    ids: np.ndarray
    order: np.ndarray | None
    named: tuple[str, ...] = ()
    form: Form = "numbers"

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The place of each line's id among ``ids``, int [lines], -1 for none."""
        row_of = {identifier: row for row, identifier in enumerate(ids.tolist())}
        return np.fromiter((row_of.get(name, -1) for name in self.ids.tolist()), int, len(self.ids))


def read_times(table: Table, column: str) -> Times:
    """Times of a table's lines, numbers or ISO dates; times that differ stay different.

    Raises:
        DataError: the column is missing, a cell is empty, no finite number and no date, some dates lack the time
            zone that others have, or two times differ by less than 64 bits tell.
    """
    cells = table.column(column, "the times")
    if cells.dtype.kind == "M":
        _refuse_first(table, column, cells.isna().to_numpy(), "expected a time, found an empty cell")
        zoned = getattr(cells.dt, "tz", None) is not None
        naive = cells.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else cells
        return _dated(naive.to_numpy(), bool(zoned))
    if isinstance(cells.dtype, np.dtype) and cells.dtype.kind == "i":
        return Times(cells.to_numpy(np.int64), "numbers")
    words = as_text(cells)
    empty = np.fromiter((word is None for word in words), bool, len(words))
    _refuse_first(table, column, empty, "expected a time, found an empty cell")
    if as_number(words[0]) is None and _DATE.match(words[0]):
        return _dates(table, column, words)
    return Times(_numbers(table, column, words), "numbers")


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
            f"{lines.table.place(again, column)}: expected each {what} of an id once, found {quoted(found)} of id "
            f"{quoted(lines.ids[again])} again (first in {lines.table.line(int(first))})"
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


def refuse_mixed_times(found: Iterable[Lines]) -> None:
    """An error if some of the tables of one clock give dates and others numbers, some a time zone and others none, or
    if times of one cannot be compared exactly with another's.
    """
    first, *others = (lines for lines in found if lines.order is not None)
    for other in others:
        if other.form != first.form:
            expected = f"expected {first.form} as times, as in {first.table.path} of the same clock"
            raise DataError(f"{other.table.path}: {expected}, found {other.form}")
    together = np.result_type(*(lines.order.dtype for lines in (first, *others) if lines.order is not None))
    for lines in (first, *others):
        _refuse_inexact(lines, together)


def _refuse_inexact(lines: Lines, together: np.dtype) -> None:
    """An error if times change as the type in which those of a clock are compared: 64 bits hold whole numbers up to
    2^53 beside fractions, and the years 1678 to 2261 beside nanoseconds.
    """
    assert lines.order is not None
    with np.errstate(invalid="ignore"):
        changed = np.flatnonzero(lines.order.astype(together).astype(lines.order.dtype) != lines.order)
    if len(changed):
        line = int(changed[0])
        finer = "nanoseconds" if together.kind == "M" else "fractions"
        raise DataError(
            f"{lines.table.path}: {lines.table.line(line)}: expected times that 64 bits hold exactly beside {finer} in "
            f"another file of the same clock, found {lines.order[line]}"
        )


def _refuse_first(table: Table, column: str, bad: np.ndarray, told: str) -> None:
    if bad.any():
        raise DataError(f"{table.place(int(np.argmax(bad)), column)}: {told}")


def _numbers(table: Table, column: str, words: np.ndarray) -> np.ndarray:
    numbers = [None if word in ("true", "false") else as_number(word) for word in words]
    for line, number in enumerate(numbers):
        if number is None or not np.isfinite(number):
            kind = "a number or an ISO date" if line == 0 else "a number like the other times"
            raise DataError(f"{table.place(line, column)}: expected {kind}, found {quoted(words[line])}")
    try:
        return np.array([int(word) for word in words], dtype=np.int64)
    except (ValueError, OverflowError):
        _refuse_rounded(table, column, words, numbers)
        return np.array(numbers, dtype=np.float64)


def _refuse_rounded(table: Table, column: str, words: np.ndarray, numbers: Sequence[float | None]) -> None:
    """An error if two different times are one as 64-bit numbers."""
    first: dict[float | None, int] = {}
    for line, number in enumerate(numbers):
        other = first.setdefault(number, line)
        if words[other] != words[line] and not _equal(words[other], words[line]):
            raise DataError(
                f"{table.place(line, column)}: expected times that differ as 64-bit numbers, "
                f"found {quoted(words[line])} beside {quoted(words[other])} in {table.line(other)}"
            )


def _equal(one: str, other: str) -> bool:
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:  # an exponent beyond all that Python holds
        return False


def _dates(table: Table, column: str, words: np.ndarray) -> Times:
    """ISO 8601, naive or with a time zone, which is taken into account."""
    parsed = pd.to_datetime(pd.Series(words), format="ISO8601", errors="coerce", utc=True)
    bad = parsed.isna().to_numpy() | np.fromiter((not _DATE.match(word) for word in words), bool, len(words))
    if bad.any():
        found = quoted(words[int(np.argmax(bad))])
        years = " (of the years 1678 to 2261 beside nanoseconds)" if parsed.dt.unit == "ns" else ""
        _refuse_first(table, column, bad, f"expected an ISO date like the other times{years}, found {found}")
    finer = np.fromiter((_FINER.search(word) is not None for word in words), bool, len(words))
    found = quoted(words[int(np.argmax(finer))])
    _refuse_first(table, column, finer, f"expected no more than nanoseconds, found {found}")
    zoned = np.fromiter((_ZONE.search(word) is not None for word in words), bool, len(words))
    if zoned.any() and not zoned.all():
        expected = "expected a time zone in every time or in none"
        _refuse_first(table, column, ~zoned, f"{expected}, found {quoted(words[int(np.argmin(zoned))])}")
    return _dated(parsed.dt.tz_localize(None).to_numpy(), bool(zoned.all()))


def _dated(values: np.ndarray, zoned: bool) -> Times:
    """Microseconds, which reach all years, or nanoseconds where there are any."""
    rounded = values.astype("datetime64[us]")
    exact = bool((rounded == values).all())
    form: Form = "dates with a time zone" if zoned else "dates without a time zone"
    return Times(rounded if exact else values, form)
