"""Scores of several tasks as one number: their mean, moved towards the lowest of them where a goal asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def over_tasks(scores: ArrayLike, min_weight: float = 0.0) -> np.ndarray:
    """``(1 - min_weight)`` times the mean plus ``min_weight`` times the minimum over the first axis, float ``[...]`` of
    ``scores`` ``[tasks, ...]``; NaN where one is.

    >>> over_tasks([0.2, 0.6], 0.5).round(2).item()
    0.3
    """
    each = np.asarray(scores, dtype=float)
    mean = each.mean(0)
    return (1 - min_weight) * mean + min_weight * each.min(0) if min_weight else mean


def over_folds(folds: Sequence[np.ndarray] | np.ndarray, pooled: Sequence[float], min_weight: float = 0.0) -> float:
    """The mean over folds of :func:`over_tasks` of ``folds`` ``[tasks, K]``.

    Where it is undefined in a fold, the mean over folds of each task takes the place of its scores, and ``pooled``
    ``[tasks]``, its score on the rows of all folds, that of a task with a fold without score (NaN elsewhere, if need
    be). Without a ``min_weight`` the two are the same wherever both are there.
    """
    each = np.asarray(folds, dtype=float)
    defined = np.isfinite(each).all(1) & (each.shape[1] > 0)
    if min_weight and defined.all():
        return float(over_tasks(each, min_weight).mean())
    values = [own.mean() if has else other for own, has, other in zip(each, defined, pooled, strict=True)]
    return float(over_tasks(values, min_weight))
