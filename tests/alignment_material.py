"""Recordings of every kind that alignment meets, and the rules applied to them one step and one column at a time.

Times are whole milliseconds, so that which side of a limit they lie on is no matter of rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from fusion_lab.data.alignment import Column, Rules, Stream

SLACK = 1e-6
SAMPLE_GAPS_MS = (1, 40, 49, 50, 51, 100, 101, 300, 1000, 1001, 2000, 5000, 5001, 9000)
BESIDE_MS = (-5000, -1000, -51, -50, -49, -1, 0, 1, 49, 50, 51, 1000, 1001, 5000, 5001)
"""Where steps may lie from a sample on: at each limit and next to it."""
PLAIN = (Column("level"), Column("mode", "discrete"), Column("other level"))
FACES = (
    Column("face x", only_where="faces"),
    Column("faces", "discrete"),
    Column("face kind", "discrete", only_where="faces"),
)
VECTOR = tuple(Column(f"clip {d}", "embedding") for d in range(3))
LAYOUTS = (PLAIN, FACES, VECTOR, (*PLAIN, *FACES, *VECTOR), (VECTOR[0], *FACES, VECTOR[1], PLAIN[1]))


@dataclass(frozen=True)
class Recording:
    """A stream, the clock it is to be aligned to, what its columns are, and the rules."""

    stream: Stream
    clock: np.ndarray
    columns: tuple[Column, ...]
    rules: Rules


@st.composite
def recordings(
    draw,
    layouts: Sequence[tuple[Column, ...]] = LAYOUTS,
    missing: Sequence[float] = (0.0, 0.1, 0.1, 0.5, 0.5, 1.0),
    types: Sequence[str] = ("float32", "float64", "float16"),
    most: int = 24,
    sorted_only: bool = False,
) -> Recording:
    """Few samples or many, dense or with gaps, around, before and behind the clock's steps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(0 if not sorted_only else 1, most)), draw(st.integers(1, most))
    times = np.cumsum(
        rng.choice(SAMPLE_GAPS_MS[: draw(st.sampled_from([2, 8, 10, len(SAMPLE_GAPS_MS), len(SAMPLE_GAPS_MS)]))], n)
    )
    around = np.append(times, 0) if not n else times
    beside = rng.choice(around, m) + rng.choice(BESIDE_MS, m)
    anywhere = rng.integers(around.min() - 100, around.max() + 100, m, endpoint=True)
    clock = np.unique(np.where(rng.random(m) < 0.5, beside, anywhere))
    times = times + draw(st.sampled_from([0, 0, 0, 0, 0, 20, -3000, 4000, -20000, 60000]))
    if not sorted_only and n and draw(st.booleans()):
        times = times[rng.integers(0, n, n)]
    columns, share = draw(st.sampled_from(layouts)), draw(st.sampled_from(missing))
    values = cells(rng, n, columns).astype(draw(st.sampled_from(types)))
    values[rng.random(values.shape) < share] = np.nan
    rules = draw(st.sampled_from([Rules(), Rules(), Rules(tolerance=0.0, max_gap=1.0, report_gap=0.1)]))
    return Recording(Stream("s", times / 1000, values), clock / 1000, columns, rules)


def cells(rng: np.random.Generator, n: int, columns: Sequence[Column]) -> np.ndarray:
    """float64 [n,F]: small numbers and large ones; where discrete counts, often 0; vectors, some of no length."""
    values = rng.normal(0, rng.choice([1.0, 100.0], (n, len(columns))))
    for at, column in enumerate(columns):
        if column.kind == "discrete":
            values[:, at] = np.repeat(rng.integers(0, 3, n), rng.integers(1, 6, n))[:n]
    vector = [at for at, column in enumerate(columns) if column.kind == "embedding"]
    if vector:
        values[:, vector] *= (rng.random(n) >= 0.1)[:, None]
    return values


def kept_rows(times: Sequence[float]) -> list[int]:
    """Rows in the order of their times; of equal times the last."""
    return [row for _, row in sorted({time: row for row, time in enumerate(times)}.items())]


@dataclass(frozen=True)
class Plain:
    """What alignment gives."""

    values: np.ndarray
    observed: np.ndarray
    valid: np.ndarray
    matched: np.ndarray


def plainly(of: Recording) -> Plain:
    """The rules, a step and a column at a time, in float64."""
    rows, shape = kept_rows(of.stream.times.tolist()), (len(of.clock), len(of.columns))
    times = [float(of.stream.times[row]) for row in rows]
    table = of.stream.values[rows].astype(np.float32).astype(np.float64)
    vector = [at for at, column in enumerate(of.columns) if column.kind == "embedding"]
    real = np.isfinite(table)
    real[:, vector] = real[:, vector].all(axis=1, keepdims=True)
    some = [i for i in range(len(rows)) if real[i].any()]
    values, observed = np.zeros(shape), np.zeros(shape, dtype=bool)
    valid, matched = np.zeros(shape[0], dtype=bool), np.zeros(shape[0], dtype=bool)
    for step, t in enumerate(of.clock.tolist()):
        matched[step], valid[step] = _near(t, [times[i] for i in some], of.rules)
        for at, column in enumerate(of.columns):
            own = [i for i in range(len(rows)) if real[i, at]]
            if column.only_where is not None:
                own = _of_spell(t, own, times, table, real, of)
            found = _value(t, own, times, table[:, at], column.kind, of.rules)
            if found is not None and valid[step]:
                values[step, at], observed[step, at] = found, True
        length = np.sqrt((values[step, vector] ** 2).sum())
        if length > 0:
            values[step, vector] /= length
        else:
            observed[step, vector] = False
    return Plain(values, observed, valid, matched)


def _near(t: float, times: list[float], rules: Rules) -> tuple[bool, bool]:
    """Whether a sample lies within the tolerance, and whether one may be interpolated where none does."""
    before = [t - s for s in times if s <= t + SLACK]
    after = [s - t for s in times if s > t + SLACK]
    if not times:
        return False, False
    matched = min(abs(t - s) for s in times) <= rules.tolerance + SLACK
    gap = min(before) + min(after) if before and after else min(before or after)
    return matched, matched or gap <= rules.max_gap + SLACK


def _of_spell(
    t: float, own: list[int], times: list[float], table: np.ndarray, real: np.ndarray, of: Recording
) -> list[int]:
    """Of a column's samples those in the spell that ``t`` lies in: around it, the guard is above 0 without a break."""
    guard = [column.name for column in of.columns].index("faces")
    known = [i for i in range(len(times)) if real[i, guard]]
    if _value(t, known, times, table[:, guard], "discrete", of.rules) is None:
        return []
    at = max([i for i in range(len(times)) if times[i] <= t + SLACK], default=0)

    def there(i: int) -> bool:
        before = [j for j in known if j <= i]
        return bool(table[before[-1] if before else known[0], guard] > 0)

    return [i for i in own if all(there(j) for j in range(min(i, at), max(i, at) + 1))]


def _value(t: float, own: list[int], times: list[float], column: np.ndarray, kind: str, rules: Rules) -> float | None:
    """Of a cell, ``None`` where it is not observed; of an embedding, before its length is taken out."""
    if not _near(t, [times[i] for i in own], rules)[1]:
        return None
    before, after = [i for i in own if times[i] <= t + SLACK], [i for i in own if times[i] > t + SLACK]
    if not before or not after:
        return column[before[-1] if before else after[0]]
    left, right = before[-1], after[0]
    if kind == "discrete":
        return column[left] if t - times[left] <= rules.max_gap + SLACK else None
    share = max(t - times[left], 0.0) / (times[right] - min(times[left], t))
    return column[left] + share * (column[right] - column[left])
