"""Whether one model is better than another on the same folds, or on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from fusion_lab.evaluation.intervals import corrected_interval, expanded_tail

Score = Callable[[np.ndarray, np.ndarray], float]
"""Of (target [P], prediction [P] or [P,C]); larger is better, NaN where undefined."""

_ROUNDING = 1e-12  # differences closer than this, relative to the scores, are taken for equal


@dataclass(frozen=True)
class Paired:
    """A comparison: ``difference``, our score minus the other's, with its 95 % interval from ``low`` to ``high``.

    ``p``: one-sided, how likely a difference as large as this one would be if ours were not better. ``n``: how many
    folds, rows or groups were compared; ``test``: how. ``undefined``: draws without a score, which were left out. What
    cannot be told is NaN.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    test: str
    undefined: int = 0


def paired_folds(ours: np.ndarray, other: np.ndarray, train_size: float, test_size: float) -> Paired:
    """Corrected resampled t test on the differences of two models' scores ``[K]`` on the same K folds (Nadeau and
    Bengio 2003, "Inference for the Generalization Error", Machine Learning 52).

    The sizes are in rows; the variance is that of :func:`~fusion_lab.evaluation.intervals.corrected_interval`. Where
    all differences are the same there is no variance to hold them against: the test then says nothing in favour of
    ours, p is 1 without an advantage and NaN with one. NaN too for K < 2 and where a score is NaN.

    >>> found = paired_folds(np.array([0.8, 0.7, 0.9]), np.array([0.6, 0.6, 0.6]), train_size=80, test_size=20)
    >>> round(found.difference, 3), round(found.p, 3)
    (0.2, 0.06)
    """
    ours, other = np.asarray(ours, dtype=float), np.asarray(other, dtype=float)
    differences, folds = ours - other, len(ours)
    mean = float(differences.mean()) if folds else np.nan
    low, high = corrected_interval(differences, train_size, test_size)
    test = f"corrected resampled t test, {folds} folds"
    if folds < 2 or not np.isfinite(differences).all():
        return Paired(mean, low, high, np.nan, folds, test)
    rounding = _ROUNDING * np.abs([ours, other]).max()
    if np.ptp(differences) <= rounding:
        p = 1.0 if mean <= rounding else np.nan
        return Paired(mean, np.nan, np.nan, p, folds, f"{test}, all with the same difference")
    error = np.sqrt((1 / folds + test_size / train_size) * differences.var(ddof=1))
    return Paired(mean, low, high, float(stdtr(folds - 1, -mean / error)), folds, test)


def paired_rows(
    score: Score,
    target: np.ndarray,
    ours: np.ndarray,
    other: np.ndarray,
    group: np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Paired:
    """Permutation test and bootstrap of the difference of two models' scores on the same rows.

    ``target`` ``[P]``, ``ours`` and ``other`` ``[P]`` or ``[P,C]``: rows whose label is known; ``group`` ``[P]``: rows
    that belong together (a patient's, the steps of one row) and stay together. p: the share of draws, the data as they
    are among them, in which the difference is as large after the two models' answers were swapped in a random half of
    the groups (Phipson and Smyth 2010 for the + 1): right where the models are exchangeable, which for scores that
    depend on a scale (log loss, a threshold) takes answers on one scale. The interval: percentiles over groups drawn
    with replacement, wider ones where groups are few (:func:`~fusion_lab.evaluation.intervals.expanded_tail`). Below
    two groups, and where a score is undefined, p and interval are NaN.
    """
    code = np.arange(len(target)) if group is None else np.unique(group, return_inverse=True)[1]
    groups = int(code.max()) + 1 if len(code) else 0
    unit = "rows" if group is None else "groups"
    test = f"swaps and bootstrap of {groups} {unit}, {draws} draws each"
    scores = np.array([score(target, ours), score(target, other)]) if groups else np.full(2, np.nan)
    difference = float(scores[0] - scores[1])
    if groups < 2 or not np.isfinite(difference):
        return Paired(difference, np.nan, np.nan, np.nan, groups, test)
    rng = np.random.default_rng(seed)
    swapped = _swapped(score, target, ours, other, rng.random((draws, groups)) < 0.5, code)
    drawn = _redrawn(score, target, ours, other, rng, draws, code)
    undefined = int(np.isnan(swapped).sum() + np.isnan(drawn).sum())
    swapped, drawn = swapped[~np.isnan(swapped)], drawn[~np.isnan(drawn)]
    as_large = np.sum(swapped >= difference - _ROUNDING * np.abs(scores).max())
    p = (1 + as_large) / (1 + len(swapped)) if len(swapped) else np.nan
    tail = expanded_tail(groups)
    low, high = np.quantile(drawn, (tail, 1 - tail)) if len(drawn) else (np.nan, np.nan)
    return Paired(difference, float(low), float(high), float(p), groups, test, undefined)


def _swapped(
    score: Score, target: np.ndarray, ours: np.ndarray, other: np.ndarray, swaps: np.ndarray, code: np.ndarray
) -> np.ndarray:
    """Differences after the answers of the groups marked in each of ``swaps``, bool [draws, groups], were swapped."""
    differences = np.empty(len(swaps))
    for draw, swap in enumerate(swaps):
        row = swap[code].reshape(-1, *[1] * (ours.ndim - 1))
        differences[draw] = score(target, np.where(row, other, ours)) - score(target, np.where(row, ours, other))
    return differences


def _redrawn(
    score: Score,
    target: np.ndarray,
    ours: np.ndarray,
    other: np.ndarray,
    rng: np.random.Generator,
    draws: int,
    code: np.ndarray,
) -> np.ndarray:
    """Differences on groups drawn with replacement, each with all of its rows."""
    differences, groups, rows = np.empty(draws), int(code.max()) + 1, np.arange(len(code))
    for draw in range(draws):
        times = np.bincount(rng.integers(groups, size=groups), minlength=groups)
        kept = np.repeat(rows, times[code])
        differences[draw] = score(target[kept], ours[kept]) - score(target[kept], other[kept])
    return differences
