"""Scores of all folds' rows taken together: their intervals, and differences of two models on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Predictions, Task
from fusion_lab.evaluation.intervals import blocks, expanded_tail, jackknife_interval
from fusion_lab.evaluation.labelled import Labelled, labelled
from fusion_lab.evaluation.metrics import measure
from fusion_lab.evaluation.over_tasks import over_tasks
from fusion_lab.evaluation.paired import paired_rows
from fusion_lab.evaluation.sums import Sums, has_sums, sums
from fusion_lab.evaluation.thresholds import Thresholds

DRAWS = 2000
FEWEST_DRAWS, CELLS_SORTED = 200, 4_000_000
"""Of a score that goes by ranks there are fewer draws, the fewer the more rows: each draw is sorted anew."""
CELLS_AT_ONCE = 4_000_000
ROUNDING = 1e-12


class Difference(NamedTuple):
    """Our score minus the other's, its 95 % interval, and how likely one as large, in either direction, would be if
    both were equally good. ``n``: how many folds, or groups of rows; ``test``: how. What cannot be told is NaN.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    test: str

    def turned(self) -> Difference:
        """The other's score minus ours."""
        return Difference(-self.value, -self.high, -self.low, self.p, self.n, self.test)


@dataclass(frozen=True)
class Part:
    """P entries of one split in the order of their folds and names; ``predictions.row`` is 0 to P-1.

    ``name`` str [P]: ids of rows, or names of recordings; ``unit`` str [P]: what stays together where rows are drawn.
    """

    predictions: Predictions
    name: np.ndarray
    unit: np.ndarray
    thresholds: Thresholds

    @cached_property
    def keys(self) -> np.ndarray:
        """Fold and name of each entry as one text, str [P]."""
        return np.char.add(np.char.add(self.predictions.fold.astype(str), " "), self.name.astype(str))

    def where(self, keep: np.ndarray) -> Part:
        """The entries marked True in ``keep``, bool [P]."""
        kept = self.predictions.where(keep)
        columns = (kept.target, kept.known, kept.score)
        predictions = Predictions(kept.fold, kept.split, np.arange(int(keep.sum())), *columns)
        return Part(predictions, self.name[keep], self.unit[keep], self.thresholds)

    def rows(self, task: Task) -> Labelled:
        return labelled(self.predictions, task, self.thresholds)


def pooled_score(part: Part, tasks: Sequence[Task], metrics: Mapping[str, str], min_weight: float = 0.0) -> float:
    """Mean over tasks of ``metrics[task]`` on all rows whose label is known, of which the lowest takes the share
    ``min_weight``; NaN where one is undefined.
    """
    each = [_score(part.rows(task), task, metrics[task.name]) for task in tasks]
    return float(over_tasks(each, min_weight))


def fold_scores(
    part: Part, tasks: Sequence[Task], metrics: Mapping[str, str], folds: int, min_weight: float = 0.0
) -> np.ndarray:
    """The same in each fold, float64 [K]."""
    each = [_fold_scores(part.rows(task), task, metrics[task.name], folds) for task in tasks]
    return over_tasks(each, min_weight)


def _fold_scores(rows: Labelled, task: Task, metric: str, folds: int) -> np.ndarray:
    return np.array([_score(rows.of(rows.fold == fold), task, metric) for fold in range(folds)])


def _score(rows: Labelled, task: Task, metric: str) -> float:
    return measure(task, metric, rows.target, rows.score, rows.threshold)


def pooled_interval(
    part: Part,
    tasks: Sequence[Task],
    metrics: Mapping[str, str],
    bounds: tuple[float, float],
    min_weight: float = 0.0,
) -> tuple[float, float]:
    """95 % interval of the pooled score over units, by leaving some out in turn: see
    :func:`~fusion_lab.evaluation.intervals.jackknife_interval`.
    """
    value = pooled_score(part, tasks, metrics, min_weight)
    if not np.isfinite(value):
        return np.nan, np.nan
    block = blocks(part.unit)
    without = [pooled_score(part.where(block != b), tasks, metrics, min_weight) for b in range(int(block.max()) + 1)]
    return jackknife_interval(value, np.array(without), bounds)


def paired_pooled(
    ours: Part,
    other: Part,
    tasks: Sequence[Task],
    metrics: Mapping[str, str],
    draws: int = DRAWS,
    seed: int = 0,
    min_weight: float = 0.0,
) -> Difference:
    """Permutation test and bootstrap, over units, of the difference of pooled scores on the same rows.

    p: the share of swaps of the two models' answers in some of the units after which the difference is as large, in
    either direction; over all swaps where these are no more than ``draws``, else over as many random ones, the data as
    they are among them (Phipson and Smyth 2010). The interval: percentiles over units drawn with replacement, wider
    where these are few (:func:`~fusion_lab.evaluation.intervals.expanded_tail`). Exchanging the two changes the sign
    and nothing else.
    """
    code, units = _codes(ours.unit)
    if min_weight or not all(has_sums(metrics[task.name]) for task in tasks):
        return _paired_ranks(ours, other, tasks, metrics, code, draws, seed, min_weight)
    first, second = (_sums(part, tasks, metrics, code, units) for part in (ours, other))
    value = float(_value(first, np.ones((1, units)))[0] - _value(second, np.ones((1, units)))[0]) if units else np.nan
    if units < 2 or not np.isfinite(value):
        return Difference(value, np.nan, np.nan, np.nan, units, f"{units} groups: nothing to draw from")
    exact = 2**units <= draws if units < 32 else False
    swapped = np.concatenate([_swapped(first, second, swap) for swap in _swaps(units, draws, seed, exact)])
    drawn = np.concatenate([_value(first, t) - _value(second, t) for t in _redrawn(units, draws, seed)])
    told = "all swaps" if exact else f"{draws} swaps"
    low, high = _percentiles(drawn, expanded_tail(units))
    test = f"{told} and {draws} bootstrap draws of {units} groups"
    return Difference(value, low, high, _share(swapped, value, first, second, exact), units, test)


def _draws_of_ranks(part: Part, draws: int) -> int:
    cells = sum(scores.size for scores in part.predictions.score.values())
    return max(FEWEST_DRAWS, min(draws, CELLS_SORTED // max(1, cells)))


def _share(swapped: np.ndarray, value: float, first: list[Sums], second: list[Sums], exact: bool) -> float:
    swapped = swapped[np.isfinite(swapped)]
    scale = max(abs(float(_value(s, np.ones((1, len(s[0].parts))))[0])) for s in (first, second))
    as_large = int((np.abs(swapped) >= abs(value) - ROUNDING * scale).sum())
    if exact:  # the data as they are is one of the swaps
        return as_large / len(swapped) if len(swapped) else np.nan
    return (1 + as_large) / (1 + len(swapped))


def _swapped(first: list[Sums], second: list[Sums], swap: np.ndarray) -> np.ndarray:
    """Differences after the answers of the units marked in each line of ``swap``, float [draws, units], changed
    sides.
    """
    one = [a.score((1 - swap) @ a.parts + swap @ b.parts) for a, b in zip(first, second, strict=True)]
    two = [a.score(swap @ a.parts + (1 - swap) @ b.parts) for a, b in zip(first, second, strict=True)]
    return np.mean(one, axis=0) - np.mean(two, axis=0)


def _value(every: Sequence[Sums], times: np.ndarray) -> np.ndarray:
    """Mean over tasks, with each unit counted ``times`` [draws, units]."""
    return np.mean([of.score(times @ of.parts) for of in every], axis=0)


def _sums(part: Part, tasks: Sequence[Task], metrics: Mapping[str, str], code: np.ndarray, units: int) -> list[Sums]:
    every = ((task, part.rows(task)) for task in tasks)
    return [sums(task, metrics[task.name], rows, code[rows.row], units) for task, rows in every]


def _swaps(units: int, draws: int, seed: int, exact: bool) -> Iterator[np.ndarray]:
    if exact:
        yield (np.arange(2**units)[:, None] >> np.arange(units) & 1).astype(float)
        return
    rng = np.random.default_rng([seed, 0])
    for count in _blocks(units, draws):
        yield (rng.random((count, units)) < 0.5).astype(float)


def _redrawn(units: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is drawn, float [draws, units], in blocks."""
    rng = np.random.default_rng([seed, 1])
    for count in _blocks(units, draws):
        yield rng.multinomial(units, np.full(units, 1 / units), size=count).astype(float)


def _blocks(units: int, draws: int) -> list[int]:
    at_once = max(1, CELLS_AT_ONCE // units)
    return [min(at_once, draws - start) for start in range(0, draws, at_once)]


def _percentiles(drawn: np.ndarray, tail: float) -> tuple[float, float]:
    """Of the draws with a score."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (tail, 1 - tail)) if len(drawn) else (np.nan, np.nan)
    return float(low), float(high)


def _codes(unit: np.ndarray) -> tuple[np.ndarray, int]:
    names, code = np.unique(unit, return_inverse=True)
    return code, len(names)


def _paired_ranks(
    ours: Part,
    other: Part,
    tasks: Sequence[Task],
    metrics: Mapping[str, str],
    code: np.ndarray,
    draws: int,
    seed: int,
    min_weight: float,
) -> Difference:
    """For scores that go by ranks, and the lowest of several, draw by draw. The better one is put first, whose p is
    doubled.
    """
    values = [pooled_score(part, tasks, metrics, min_weight) for part in (ours, other)]
    if values[0] < values[1]:
        return _paired_ranks(other, ours, tasks, metrics, code, draws, seed, min_weight).turned()
    both = [part.predictions for part in (ours, other)]
    stacked = {task.name: np.stack([part.score[task.name] for part in both]) for task in tasks}

    def score(rows: np.ndarray, whose: np.ndarray) -> float:
        """``rows [P]`` are entries, ``whose [P]`` 0 for ours and 1 for the other's answer."""
        index, side = rows.astype(int), whose.astype(int)
        found = []
        for task in tasks:
            known = both[0].known[task.name][index].astype(bool)
            answer = stacked[task.name][side, index][known]
            found.append(measure(task, metrics[task.name], both[0].target[task.name][index][known], answer))
        return float(over_tasks(found, min_weight))

    count = len(both[0].row)
    parts = np.arange(count), np.zeros(count), np.ones(count), code
    found = paired_rows(score, *parts, _draws_of_ranks(ours, draws), seed)
    p = min(1.0, 2 * found.p) if np.isfinite(found.p) else found.p
    return Difference(found.difference, found.low, found.high, p, found.n, found.test)
