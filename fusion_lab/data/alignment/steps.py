"""A stream at the steps of a clock: every column by the rule of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fusion_lab.data.alignment.cells import Cells, as_slice, blocks
from fusion_lab.data.alignment.coverage import Samples, cover
from fusion_lab.data.alignment.neighbours import Neighbours, Steps, neighbours, spells_of
from fusion_lab.data.alignment.order import ordered
from fusion_lab.data.alignment.streams import Aligned, Column, ColumnKind, Rules, Stream, check, place_of

SHORTEST = 1e-12
"""A vector that is not longer than this has no direction."""


def align(
    stream: Stream, clock: np.ndarray, columns: Sequence[Column], rules: Rules | None = None, where: str = ""
) -> Aligned:
    """The stream's columns at the steps of ``clock``, float64 [m] in s: one search, O((n + m) log n).

    A missing cell does not exist for its column, nor a row without any cell for the stream: the neighbours that are
    there count, and how far apart they are. Between two samples a continuous column is linear; a discrete one has the
    value of the last sample, if that is at most ``max_gap`` old; before the first sample both have its value.
    Embeddings are linear and then divided by their length; one of no length is not observed, and one that lacks a cell
    does not exist. A column with ``only_where`` is observed in the spells alone in which that one is above 0, each of
    them a stream by itself. ``where`` ("video 'a'") begins every message.

    Raises:
        DataError: see :func:`streams.check`.
        ConfigError: see :func:`streams.check_columns`.

    >>> slow = Stream("slow", np.array([0.0, 1.0, 9.0]), np.array([[0.0, 5.0], [10.0, 6.0], [20.0, 7.0]]))
    >>> found = align(slow, np.array([0.0, 0.5, 1.0, 5.0]), [Column("level"), Column("mode", "discrete")])
    >>> found.values.tolist(), found.valid.tolist(), found.coverage.coverage_pct
    ([[0.0, 5.0], [5.0, 5.0], [10.0, 6.0], [0.0, 0.0]], [True, True, True, False], 50.0)
    """
    rules, clock = rules or Rules(), np.asarray(clock, dtype=np.float64)
    check(stream, clock, columns, where)
    order = ordered(stream.times)
    work = _Work(Cells(stream.values, order.rows), columns, Steps.of(order.times, clock), rules)
    work.fill()
    samples = Samples(order, order.times[work.some], work.missing_cells, work.empty)
    coverage = cover(samples, clock, work.matched, work.valid, rules, place_of(where, stream.name, clock))
    return Aligned(work.values, work.observed, work.valid, work.matched, coverage)


def absent(stream: str, clock: np.ndarray, columns: Sequence[Column], where: str = "") -> Aligned:
    """What a recording has of a stream that it lacks: every step is masked, and a warning names both.

    >>> absent("audio", np.arange(3) / 10, [Column("rms")], "video 'a'").coverage.warnings
    ("video 'a', stream 'audio', 0 to 0.2 s: there is none, all steps are masked",)
    """
    clock = np.asarray(clock, dtype=np.float64)
    nothing = np.zeros((len(clock), len(columns)), dtype=bool)
    valid = np.zeros(len(clock), dtype=bool)
    order = ordered(np.empty(0))
    coverage = cover(Samples(order, order.times, 0, ()), clock, valid, valid, Rules(), place_of(where, stream, clock))
    return Aligned(nothing.astype(np.float32), nothing, valid, valid, coverage)


class _Work:
    """The matrices that are filled, group by group of columns that have the same neighbours."""

    def __init__(self, cells: Cells, columns: Sequence[Column], steps: Steps, rules: Rules) -> None:
        self.cells, self.columns, self.steps, self.rules = cells, columns, steps, rules
        self.values = np.zeros((len(steps.clock), len(columns)), dtype=np.float32)
        self.observed = np.zeros(self.values.shape, dtype=bool)
        self.sets = _sets(columns)
        self.there, self.missing_cells = cells.presence(self.sets)
        self.some = np.logical_or.reduce(self.there, axis=1)
        near = neighbours(steps, self.some, rules)
        self.valid, self.matched = near.reached, near.matched

    @property
    def empty(self) -> tuple[str, ...]:
        """Columns without any value."""
        return tuple(self.columns[self.sets[at][0]].name for at in np.flatnonzero(~self.there.any(axis=0)))

    def fill(self) -> None:
        for counts, columns in self._alike():
            first = self.columns[columns[0]]
            near, seen = self._near(counts, first)
            fits = seen & self.valid & (near.fresh if first.kind == "discrete" else near.reached)
            self._fill(columns, first.kind, near, fits)

    def _alike(self) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Samples that count, bool [n], and the columns they count for; those that others go by come first."""
        found: dict[tuple[bool, str | None, ColumnKind, bytes], tuple[np.ndarray, list[int]]] = {}
        for at, own in enumerate(self.sets):
            counts, first = self.there[:, at], self.columns[own[0]]
            key = (first.only_where is not None, first.only_where, first.kind, np.packbits(counts).tobytes())
            found.setdefault(key, (counts, []))[1].extend(own)
        yield from (found[key] for key in sorted(found, key=lambda key: key[0]))

    def _near(self, counts: np.ndarray, column: Column) -> tuple[Neighbours, np.ndarray]:
        """The neighbours, and where the column may be observed as far as the one that it goes by is concerned."""
        if column.only_where is None:
            return neighbours(self.steps, counts, self.rules), np.ones(len(self.steps.clock), dtype=bool)
        guard = next(at for at, one in enumerate(self.columns) if one.name == column.only_where)
        state = self.cells.read(slice(None), [guard])[:, 0]
        spells = spells_of(state, np.isfinite(state), self.steps)
        near = neighbours(self.steps, counts & (spells.sample > 0), self.rules, spells)
        return near, self.observed[:, guard]

    def _fill(self, columns: list[int], kind: ColumnKind, near: Neighbours, fits: np.ndarray) -> None:
        if not fits.any():
            return
        where = as_slice(columns)
        for part in blocks(len(fits), len(columns)):
            seen = fits[part]
            values = self.cells.read(near.left[part], where)
            if kind != "discrete":
                right = self.cells.read(near.right[part], where)
                values = _between(values, right, near.weight[part, None], kind == "continuous")
            if kind == "embedding":
                values, long = _directions(values)
                seen = seen & long
            values[~seen] = 0.0
            self.values[part, where] = values
            self.observed[part, where] = seen[:, None]


def _sets(columns: Sequence[Column]) -> list[list[int]]:
    """Each column by itself, all embedding columns together."""
    vector = [at for at, column in enumerate(columns) if column.kind == "embedding"]
    single = [[at] for at, column in enumerate(columns) if column.kind != "embedding"]
    return [*single, *([vector] if vector else [])]


def _between(left: np.ndarray, right: np.ndarray, weight: np.ndarray, bounded: bool) -> np.ndarray:
    """On the straight line between two samples; ``bounded``: rounding does not carry it beyond either of them."""
    found = left * (1.0 - weight)
    found += right * weight
    return np.clip(found, np.minimum(left, right), np.maximum(left, right), out=found) if bounded else found


def _directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [k,F] divided by their length, and which of them have one."""
    length = np.sqrt(np.einsum("kf,kf->k", vectors, vectors, dtype=np.float64))
    long = length > SHORTEST
    vectors *= (1.0 / np.where(long, length, 1.0)).astype(np.float32)[:, None]
    return vectors, long
