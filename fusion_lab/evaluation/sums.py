"""Scores that are functions of sums over rows: thousands of draws of groups are then one matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Task
from fusion_lab.evaluation.labelled import Labelled

_EPSILON = float(np.finfo(np.float32).eps)


class Sums(NamedTuple):
    """``parts`` float [G,S], what each of G groups adds; ``score`` takes sums ``[..., S]`` to scores ``[...]``."""

    parts: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]


def has_sums(metric: str) -> bool:
    """Whether the metric is a function of sums; ranks (AUROC, average precision) are not."""
    return metric in SUMS


def sums(task: Task, metric: str, rows: Labelled, code: np.ndarray, groups: int) -> Sums:
    """A metric's sums over groups; ``code`` int ``[P]`` is each row's group. NaN where a score is not finite.

    >>> rows = Labelled(*np.zeros((2, 3), int), np.array([0, 1, 1]), np.array([0.2, 0.9, 0.4]), np.full(3, 0.5))
    >>> parts, score = sums(Task("relapse", "binary", ("no", "yes")), "accuracy", rows, np.array([0, 0, 1]), 2)
    >>> parts.tolist(), score(parts.sum(0)).round(2).item()
    ([[2.0, 2.0], [0.0, 1.0]], 0.67)
    """
    of_row, score = SUMS[metric]
    values = of_row(task, rows) if np.isfinite(rows.score).all() else np.full((len(rows.target), 1), np.nan)
    if values.shape[1] == 1:  # scores that are not finite: undefined, whatever is drawn
        return Sums(np.full((groups, 1), np.nan), lambda drawn: drawn[..., 0])
    parts = np.zeros((groups, values.shape[1]))
    np.add.at(parts, code, values)
    return Sums(parts, score)


def _right(task: Task, rows: Labelled) -> np.ndarray:
    return _with_count(rows.chosen() == rows.target)


def _hits(task: Task, rows: Labelled) -> np.ndarray:
    """Of each class that counts: twice the hits, rows called so plus rows of it, rows of it; [P,3C]."""
    codes = np.array([1]) if task.kind == "binary" else np.arange(len(task.classes))
    called, of_class = rows.chosen()[:, None] == codes, rows.target[:, None] == codes
    each = np.stack([2.0 * (called & of_class), 1.0 * called + of_class, 1.0 * of_class], axis=-1)
    return each.reshape(len(rows.target), -1)


def _surprise(task: Task, rows: Labelled) -> np.ndarray:
    """Negative log-likelihood in nats."""
    target = rows.target.astype(int)
    if task.kind == "binary":
        right = np.where(target == 1, rows.score, 1 - rows.score.astype(float))
    else:
        right = rows.score[np.arange(len(target)), target].astype(float)
    return _with_count(-np.log(np.clip(right, _EPSILON, 1 - _EPSILON)))


def _absolute(task: Task, rows: Labelled) -> np.ndarray:
    return _with_count(np.abs(rows.target.astype(float) - rows.score))


def _squared(task: Task, rows: Labelled) -> np.ndarray:
    return _with_count((rows.target.astype(float) - rows.score) ** 2)


def _spread(task: Task, rows: Labelled) -> np.ndarray:
    """Squared error, count, target and squared target; the targets' own mean is taken off, for the digits' sake."""
    centred = rows.target.astype(float) - (rows.target.astype(float).mean() if len(rows.target) else 0.0)
    squared = (rows.target.astype(float) - rows.score) ** 2
    return np.stack([squared, np.ones(len(centred)), centred, centred**2], axis=1)


def _with_count(values: np.ndarray) -> np.ndarray:
    return np.stack([values.astype(float), np.ones(len(values))], axis=1)


def _mean(drawn: np.ndarray) -> np.ndarray:
    return _ratio(drawn[..., 0], drawn[..., 1])


def _f1(drawn: np.ndarray) -> np.ndarray:
    """Mean over classes; NaN when one is absent."""
    hits, size, present = np.moveaxis(drawn.reshape(*drawn.shape[:-1], -1, 3), -1, 0)
    return np.where(present > 0, _ratio(hits, size), np.nan).mean(-1)


def _r2(drawn: np.ndarray) -> np.ndarray:
    """Of a spread that is nothing but rounding, undefined."""
    squared, count, target, of_target = np.moveaxis(drawn, -1, 0)
    spread = of_target - _ratio(target**2, count)
    return 1 - _ratio(squared, np.where(spread > 1e-12 * of_target, spread, 0.0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


SUMS: dict[str, tuple[Callable[[Task, Labelled], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "accuracy": (_right, _mean),
    "f1": (_hits, _f1),
    "log_loss": (_surprise, _mean),
    "mae": (_absolute, _mean),
    "rmse": (_squared, lambda drawn: np.sqrt(_mean(drawn))),
    "r2": (_spread, _r2),
}
"""{metric: (what a row adds, [P,S]; the score of the sums)}."""
