"""A stream that is denser than the clock: what its samples come to from each step to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.alignment.cells import Cells
from fusion_lab.data.alignment.coverage import Samples, cover
from fusion_lab.data.alignment.neighbours import Steps, spells_of
from fusion_lab.data.alignment.order import ordered
from fusion_lab.data.alignment.streams import SLACK, Aligned, Column, Rules, Stream, check, place_of
from fusion_lab.data.words import quoted, suggest

Statistic = Literal["mean", "std", "min", "max", "last"]


def summarise(
    stream: Stream,
    clock: np.ndarray,
    columns: Sequence[Column],
    statistics: Sequence[str],
    span: float | None = None,
    rules: Rules | None = None,
    where: str = "",
) -> Aligned:
    """Statistics of the samples in [t, t + ``span``) at each step t: F * len(statistics) columns, each column's side by
    side, named by :func:`summary_columns`.

    ``span`` in s is the clock's median step where it is not given. The deviation is the population's. Missing cells,
    and those that ``only_where`` rules out, are no samples; a step without samples is not observed, and masked where
    that holds for all columns. Nothing is interpolated.

    Raises:
        DataError: see :func:`streams.check`; a clock of one step and no ``span``.
        ConfigError: see :func:`streams.check_columns` and :func:`summary_columns`.

    >>> dense = Stream("dense", np.arange(6) / 2, np.arange(6.0)[:, None])
    >>> summarise(dense, np.arange(3.0), [Column("x")], ["mean", "last"]).values.tolist()
    [[0.5, 1.0], [2.5, 3.0], [4.5, 5.0]]
    """
    rules, clock = rules or Rules(), np.asarray(clock, dtype=np.float64)
    check(stream, clock, columns, where)
    place = place_of(where, stream.name, clock)
    summary_columns(columns, statistics, f"stream {quoted(stream.name)}")
    order = ordered(stream.times)
    cells = Cells(stream.values, order.rows)
    there, missing_cells = cells.presence([[at] for at in range(len(columns))])
    empty = tuple(columns[at].name for at in np.flatnonzero(~there.any(axis=0)))
    samples = Samples(order, order.times[there.any(axis=1)], missing_cells, empty)
    there &= _open(cells, columns, Steps.of(order.times, clock))
    chunks = _Chunks.of(order.times, clock, _span(clock, span, place))
    values = np.zeros((len(clock), len(columns) * len(statistics)), dtype=np.float32)
    observed = np.zeros(values.shape, dtype=bool)
    for at in range(len(columns)):
        own = chunks.where(there[:, at])
        cell = cells.read(own.samples, [at])[:, 0].astype(np.float64)
        for number, name in enumerate(statistics, start=at * len(statistics)):
            values[own.steps, number] = STATISTICS[name](cell, own)
            observed[own.steps, number] = True
    valid = np.logical_or.reduce(observed, axis=1)
    return Aligned(values, observed, valid, valid, cover(samples, clock, valid, valid, rules, place))


def summary_columns(columns: Sequence[Column], statistics: Sequence[str], place: str = "columns") -> list[Column]:
    """What comes of the columns.

    Raises:
        ConfigError: no statistics, one that is none, or one twice; an embedding, of which there are none.

    >>> [column.name for column in summary_columns([Column("rms"), Column("pitch")], ["mean", "std"])]
    ['rms mean', 'rms std', 'pitch mean', 'pitch std']
    """
    known = list(get_args(Statistic))
    if not statistics or len(set(statistics)) < len(statistics):
        raise ConfigError(f"{place}: expected different statistics, found {', '.join(statistics) or 'none'}")
    for name in statistics:
        if name not in known:
            found = f"{quoted(name)}{suggest(name, known)}"
            raise ConfigError(f"{place}: expected statistics out of {', '.join(known)}, found {found}")
    for column in columns:
        if column.kind == "embedding":
            raise ConfigError(
                f"{place}, column {quoted(column.name)}: expected a column that has statistics, found an embedding"
            )
    return [Column(f"{column.name} {name}") for column in columns for name in statistics]


class _Chunks(NamedTuple):
    """Samples by step: ``samples`` int [s], those of a step side by side; ``steps`` int [p] have ``counts`` [p] of them
    each, beginning at ``starts`` [p].
    """

    samples: np.ndarray
    steps: np.ndarray
    counts: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        return np.cumsum(self.counts) - self.counts

    @classmethod
    def of(cls, times: np.ndarray, clock: np.ndarray, span: float) -> _Chunks:
        first = np.searchsorted(times, clock - SLACK, side="left")
        counts = np.searchsorted(times, clock + (span - SLACK), side="left") - first
        steps = np.flatnonzero(counts)
        counts = counts[steps]
        samples = np.repeat(first[steps] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return cls(samples, steps, counts)

    def where(self, counts: np.ndarray) -> _Chunks:
        """Of the samples marked, bool [n]."""
        kept = counts[self.samples]
        if not len(kept):
            return self
        left = np.add.reduceat(kept, self.starts, dtype=np.intp)
        return _Chunks(self.samples[kept], self.steps[left > 0], left[left > 0])


def _mean(cells: np.ndarray, chunks: _Chunks) -> np.ndarray:
    return np.add.reduceat(cells, chunks.starts) / chunks.counts


def _deviation(cells: np.ndarray, chunks: _Chunks) -> np.ndarray:
    apart = cells - np.repeat(_mean(cells, chunks), chunks.counts)
    return np.sqrt(_mean(np.square(apart), chunks))


STATISTICS: dict[str, Callable[[np.ndarray, _Chunks], np.ndarray]] = {
    "mean": _mean,
    "std": _deviation,
    "min": lambda cells, chunks: np.minimum.reduceat(cells, chunks.starts),
    "max": lambda cells, chunks: np.maximum.reduceat(cells, chunks.starts),
    "last": lambda cells, chunks: cells[chunks.starts + chunks.counts - 1],
}


def _open(cells: Cells, columns: Sequence[Column], steps: Steps) -> np.ndarray:
    """Where the column that each column goes by is above 0, bool [n,F]; True of those that go by none."""
    found = np.ones((len(cells.rows), len(columns)), dtype=bool)
    names = [column.name for column in columns]
    for at, column in enumerate(columns):
        if column.only_where is not None:
            state = cells.read(slice(None), [names.index(column.only_where)])[:, 0]
            found[:, at] = spells_of(state, np.isfinite(state), steps).sample > 0
    return found


def _span(clock: np.ndarray, span: float | None, place: str) -> float:
    if span is None and len(clock) < 2:
        raise DataError(f"{place}: expected two steps or more where the span is not given, found one")
    return float(np.median(np.diff(clock))) if span is None else span
