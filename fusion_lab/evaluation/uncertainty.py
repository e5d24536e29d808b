"""What passes with dropout on say of how sure a model is (Gal and Ghahramani 2016, "Dropout as a Bayesian
Approximation", ICML), and whether that tells errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Spec, Task
from fusion_lab.evaluation.metrics import binary_auroc, regression_pearson, top_label

Scores = Mapping[str, np.ndarray]


class Spread(NamedTuple):
    """Answers of one task over S passes, float64, the scores' shape without classes but for ``mean``.

    ``mean``: predictive probabilities or values. ``entropy``, nats, of the predictive mean, and ``information``, the
    mutual information of answer and weights: the entropy less the mean over passes of their entropies (Houlsby et al.
    2011, "Bayesian Active Learning for Classification and Preference Learning"). ``std`` of a regression's values
    or of the positive class's probability (ddof 1; NaN of one pass). What a task's kind does not have is ``None``.
    """

    mean: np.ndarray
    entropy: np.ndarray | None = None
    information: np.ndarray | None = None
    std: np.ndarray | None = None


def over_passes(passes: Iterable[Scores], spec: Spec) -> dict[str, Spread]:
    """``{task: Spread}`` of passes' scores, shaped as in :class:`~fusion_lab.contracts.Predictions`; one pass is held
    at a time.
    """
    count, nothing = 0, np.zeros(())
    mean: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}  # sum of squared deviations
    own: dict[str, np.ndarray] = {}  # mean entropy of single passes
    for scores in passes:
        count += 1
        for task in spec.tasks:
            name, score = task.name, scores[task.name].astype(float)
            step = score - mean.get(name, nothing)
            mean[name] = mean.get(name, nothing) + step / count
            squares[name] = squares.get(name, nothing) + step * (score - mean[name])  # Welford (1962)
            if task.classes:
                before = own.get(name, nothing)
                own[name] = before + (entropy(task, score) - before) / count
    assert count, "no pass"
    return {t.name: _spread(t, mean[t.name], squares[t.name], own.get(t.name), count) for t in spec.tasks}


def entropy(task: Task, score: np.ndarray) -> np.ndarray:
    """Entropy of class probabilities, nats: ``[...]`` from ``[...]`` of a binary task or ``[...,C]``.

    >>> entropy(Task("event", "binary", ("no", "yes")), np.array([0.0, 0.5])).round(3).tolist()
    [0.0, 0.693]
    """
    score = score.astype(float)
    classes = np.stack([1 - score, score], axis=-1) if task.kind == "binary" else score
    logs = np.log(np.where(classes > 0, classes, 1.0))
    return np.maximum(-(classes * logs).sum(-1), 0.0)


def finds_errors(target: np.ndarray, score: np.ndarray, uncertainty: np.ndarray) -> float:
    """AUROC of ``uncertainty`` [P] for rows whose most probable class is wrong: 0.5 where it says nothing, NaN where
    all rows are right, or all wrong. ``score``: probabilities [P] or [P,C].
    """
    return binary_auroc((top_label(score)[1] != target).astype(float), uncertainty)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two arrays [P], ties at their mean rank; NaN where one is constant."""
    return regression_pearson(_ranks(a), _ranks(b))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _spread(task: Task, mean: np.ndarray, squares: np.ndarray, own: np.ndarray | None, count: int) -> Spread:
    std = np.sqrt(squares / (count - 1)) if count > 1 else np.full_like(mean, np.nan)
    if own is None:
        return Spread(mean, std=std)
    whole = entropy(task, mean)
    information = np.maximum(whole - own, 0.0)  # below 0 by rounding alone
    return Spread(mean, whole, information, None if task.kind == "multiclass" else std)
