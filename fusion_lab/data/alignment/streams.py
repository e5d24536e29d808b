"""What is aligned and what comes of it: streams with clocks of their own, the kinds of their columns, the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.words import quoted, suggest

ColumnKind = Literal["continuous", "discrete", "embedding"]

SLACK = 1e-6
"""Seconds by which times may differ that are the same moment: 0.04 * 5 and 0.1 * 2 are not the same float."""


@dataclass(frozen=True)
class Column:
    """One column of a stream.

    A ``continuous`` one runs straight from sample to sample; a ``discrete`` one keeps its value until the next sample;
    the ``embedding`` columns of a stream are together a vector whose direction alone means something.

    ``only_where`` names a discrete column of the same stream: where that is not above 0 there is nothing that could
    have a value (a face's place, and how many faces there are).
    """

    name: str
    kind: ColumnKind = "continuous"
    only_where: str | None = None


@dataclass(frozen=True)
class Stream:
    """n samples of F columns: ``times`` float64 [n] in s; ``values`` [n,F] float16, float32 or float64, in which a cell
    that is not finite in float32 is missing.
    """

    name: str
    times: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Rules:
    """All in seconds but ``most_interpolated``, a share of the steps from which on a warning is due.

    A step with a sample within ``tolerance`` is matched. Any other is interpolated in a gap of at most ``max_gap``, and
    at most that long before the first and after the last sample; elsewhere it is masked. Gaps above ``report_gap`` are
    listed.
    """

    tolerance: float = 0.05
    max_gap: float = 5.0
    report_gap: float = 1.0
    most_interpolated: float = 0.5


class Coverage(NamedTuple):
    """How well a stream covers a clock.

    ``steps`` = ``matched`` + ``interpolated`` + ``masked``. ``max_gap``: the longest time in s without a sample, from
    the clock's first step to its last; ``gaps``: start and end in s of those above ``report_gap``. ``missing_cells``,
    ``duplicates`` (samples that a later one of the same time replaces) and ``resorted`` tell of the samples.
    """

    steps: int
    matched: int
    interpolated: int
    masked: int
    max_gap: float
    gaps: tuple[tuple[float, float], ...]
    missing_cells: int
    resorted: bool
    duplicates: int
    warnings: tuple[str, ...]

    @property
    def coverage_pct(self) -> float:
        """Percentage of steps that are matched."""
        return 100.0 * self.matched / self.steps

    @property
    def interpolated_pct(self) -> float:
        """Percentage of steps that are interpolated."""
        return 100.0 * self.interpolated / self.steps

    def told(self) -> str:
        """The counts in half a line, for logs.

        >>> Coverage(200, 150, 40, 10, 1.25, (), 3, False, 0, ()).told()
        '200 steps: 75.0 % matched, 20.0 % interpolated, 5.0 % masked; longest gap 1.25 s; 3 missing cells'
        """
        shares = f"{self.coverage_pct:.1f} % matched, {self.interpolated_pct:.1f} % interpolated"
        masked = f"{100.0 * self.masked / self.steps:.1f} % masked"
        cells = f"; {self.missing_cells:,} missing cells" if self.missing_cells else ""
        return f"{self.steps:,} steps: {shares}, {masked}; longest gap {self.max_gap:g} s{cells}"


class Aligned(NamedTuple):
    """A stream at the m steps of a clock.

    ========  ===============  ==============================================================
    values    float32 [m,F]    0 where not ``observed``
    observed  bool [m,F]
    valid     bool [m]         False: masked, too far from any sample; nothing is observed
    matched   bool [m]         a sample lies within the tolerance
    coverage
    ========  ===============  ==============================================================
    """

    values: np.ndarray
    observed: np.ndarray
    valid: np.ndarray
    matched: np.ndarray
    coverage: Coverage


def place_of(where: str, stream: str, clock: np.ndarray) -> str:
    """What messages begin with: the recording, the stream and the time range.

    >>> place_of("video 'a'", "audio", np.arange(3) / 10)
    "video 'a', stream 'audio', 0 to 0.2 s"
    """
    span = [f"{clock[0]:g} to {clock[-1]:g} s"] if len(clock) else []
    return ", ".join([*([where] if where else []), f"stream {quoted(stream)}", *span])


def check(stream: Stream, clock: np.ndarray, columns: Sequence[Column], where: str) -> None:
    """Refuses what cannot be aligned.

    Raises:
        DataError: a clock without steps or that does not strictly increase; a time that is not finite; as many times
            as rows, or as many columns as said, expected and not found.
        ConfigError: see :func:`check_columns`.
    """
    place = place_of(where, stream.name, clock)

    def refuse(what: str) -> NoReturn:
        raise DataError(f"{place}: {what}")

    if not len(clock):
        refuse("expected a clock of one step or more, found none")
    if not np.isfinite(clock).all() or (np.diff(clock) <= 0).any():
        at = int(np.argmin(np.append(True, np.diff(clock) > 0) & np.isfinite(clock)))
        refuse(f"expected steps of the clock to increase, found {clock[at]:g} s at step {at + 1}")
    rows, width = stream.values.shape
    if len(stream.times) != rows:
        refuse(f"expected a time for each of {rows:,} rows, found {len(stream.times):,}")
    if width != len(columns):
        refuse(f"expected {len(columns)} columns, found {width}")
    unknown = np.flatnonzero(~np.isfinite(stream.times))
    if len(unknown):
        refuse(f"row {unknown[0] + 1}: expected a time, found {stream.times[unknown[0]]} ({len(unknown)} such rows)")
    check_columns(columns, f"stream {quoted(stream.name)}")


def check_columns(columns: Sequence[Column], place: str) -> None:
    """Refuses columns that contradict each other.

    Raises:
        ConfigError: no columns; ``only_where`` of an embedding, or that names no discrete column without one.
    """
    if not columns:
        raise ConfigError(f"{place}: expected one column or more, found none")
    guards = [column.name for column in columns if column.kind == "discrete" and column.only_where is None]
    for column in columns:
        if column.only_where is None:
            continue
        if column.kind == "embedding":
            raise ConfigError(f"{place}, column {quoted(column.name)}: only_where: expected none, found an embedding")
        if column.only_where not in guards:
            found = f"{quoted(column.only_where)}{suggest(column.only_where, guards)}"
            raise ConfigError(
                f"{place}, column {quoted(column.name)}: only_where: expected a discrete column of it, found {found}"
            )
