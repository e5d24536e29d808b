"""Scores of predictions: one literal dict of metrics per kind of task, NaN and a reason where a score is undefined."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Task

Threshold = float | np.ndarray
"""Where a probability becomes a "yes": one number, or one per row ``[P]`` where rows of several folds are pooled."""

Metric = Callable[[np.ndarray, np.ndarray, Threshold], float]

BINS = 15
"""Equal widths that confidences are sorted into, for the calibration errors."""


@overload
def rank_auroc(score: Tensor, target: Tensor, known: Tensor) -> Tensor: ...
@overload
def rank_auroc(score: np.ndarray, target: np.ndarray, known: np.ndarray) -> np.ndarray: ...
def rank_auroc(score, target, known):
    """Area under the ROC curve along the last axis, all leading axes (folds) at once.

    ``score`` and ``target`` (0 or 1) are ``[..., R]``, ``known`` is bool ``[..., R]``; the answer is float64 ``[...]``,
    on the CPU. Ties count one half (mid-ranks). NaN where only one class is known or a known score is NaN.

    >>> rank_auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]), np.ones(4, bool)).item()
    0.875
    """
    if isinstance(score, Tensor):
        arrays = (leaf.detach().cpu().numpy() for leaf in (score, target, known))
        return torch.from_numpy(np.asarray(rank_auroc(*arrays)))
    label = known * np.where(target > 0.5, _POSITIVE, _NEGATIVE)
    label, last = _sort_labels(score, label)
    positives, negatives = _counts_at(last, label == _POSITIVE), _counts_at(last, label == _NEGATIVE)
    gained, passed = np.diff(positives, prepend=0), 2 * negatives - np.diff(negatives, prepend=0)
    pairs = (label == _POSITIVE).sum(-1) * (label == _NEGATIVE).sum(-1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the answer: undefined
        area = (gained * passed).sum(-1) / (2.0 * pairs)
    return np.where((np.isnan(score) & known).any(-1), np.nan, area)


_NEGATIVE, _POSITIVE = 1, 2  # 0 stands for an unknown label


def _sort_labels(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels by ascending score, and which of them end a run of equal scores, both ``[..., R]``.

    A float32 score and its label fit into one integer, and sorting integers is seven times faster than ``argsort``.
    """
    if score.dtype == np.float32:
        bits = (score + np.float32(0)).view(np.int32)  # -0.0 + 0.0 is 0.0: equal scores have equal bits
        rising = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # the order of the integers is that of the floats
        packed = np.sort(rising.astype(np.int64) * 4 + label, axis=-1)
        return packed & 3, _ends_of_runs(packed >> 2)
    order = np.argsort(score, axis=-1)
    return np.take_along_axis(label, order, -1), _ends_of_runs(np.take_along_axis(score, order, -1))


def _ends_of_runs(ordered: np.ndarray) -> np.ndarray:
    last = np.ones(ordered.shape, bool)
    last[..., :-1] = ordered[..., 1:] != ordered[..., :-1]
    return last


def _counts_at(last: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Members up to the end of the latest finished run of equal scores, ``[..., R]``."""
    return np.maximum.accumulate(last * member.cumsum(-1), axis=-1)


class Cuts(NamedTuple):
    """All ways to cut rows by their score: ``score`` distinct and descending, then what lies at or above each."""

    score: np.ndarray
    positives: np.ndarray
    rows: np.ndarray


def cuts(target: np.ndarray, score: np.ndarray) -> Cuts:
    """Distinct scores with the positives and the rows at or above each of them.

    >>> [part.tolist() for part in cuts(np.array([0, 1, 1]), np.array([0.2, 0.2, 0.9]))]
    [[0.9, 0.2], [1, 2], [1, 3]]
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(score) else np.empty(0, int)
    return Cuts(ordered[ends], (target[order] > 0.5).cumsum()[ends], ends + 1)


def binary_auroc(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Area under the ROC curve; NaN with one class only."""
    return float(rank_auroc(score, target, np.ones(target.shape, bool)))


def binary_ap(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Average precision, the step-wise area under the precision-recall curve; NaN with one class only."""
    if _one_class(target):
        return np.nan
    _, positives, rows = cuts(target, score)
    return float((np.diff(positives, prepend=0) * positives / rows).sum() / positives[-1])


def binary_f1(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """F1 of the positive class at ``threshold``; NaN without a positive row."""
    hits, chosen, positives = _confusion(target, score, threshold)
    return _ratio(2 * hits, chosen + positives) if positives else np.nan


def binary_precision(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Share of positives among the rows at or above ``threshold``; NaN when there is none."""
    hits, chosen, _ = _confusion(target, score, threshold)
    return _ratio(hits, chosen)


def binary_recall(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Share of the positives at or above ``threshold``; NaN without a positive row."""
    hits, _, positives = _confusion(target, score, threshold)
    return _ratio(hits, positives)


def binary_accuracy(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Share of rows on their own side of ``threshold``."""
    return _mean((score >= threshold) == (target > 0.5))


def binary_log_loss(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Mean negative log-likelihood, nats; probabilities are kept a float32 epsilon away from 0 and 1."""
    right = np.where(target > 0.5, score, 1 - score.astype(float))
    return _mean(-np.log(_open_interval(right)))


def binary_brier(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Mean squared distance of the probability from 0 or 1 (Brier 1950)."""
    return _mean((score - target.astype(float)) ** 2)


def multiclass_auroc(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Macro mean over classes of the one-versus-rest AUROC; NaN when a class is absent."""
    codes = np.arange(score.shape[-1])[:, None]
    everything = np.ones((len(codes), len(target)), bool)
    return float(rank_auroc(np.ascontiguousarray(score.T), (target == codes).astype(float), everything).mean())


def multiclass_ap(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Macro mean over classes of the one-versus-rest average precision; NaN when a class is absent."""
    return float(np.mean([binary_ap((target == code).astype(float), column) for code, column in enumerate(score.T)]))


def multiclass_f1(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Macro mean over classes of the F1 of the most probable class; NaN when a class is absent."""
    chosen, codes = score.argmax(-1), range(score.shape[-1])
    return float(np.mean([binary_f1((target == c).astype(float), (chosen == c).astype(float)) for c in codes]))


def multiclass_accuracy(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Share of rows whose most probable class is the right one."""
    return _mean(score.argmax(-1) == target)


def multiclass_log_loss(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Mean negative log-likelihood, nats; rows of ``score`` ``[P,C]`` sum to 1."""
    return _mean(-np.log(_open_interval(score[np.arange(len(target)), target.astype(int)])))


class Bins(NamedTuple):
    """Rows by the confidence of their answer, from the lowest, all ``[bins]``: how many, their mean confidence and
    accuracy, both NaN where there are none.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def confidence_bins(target: np.ndarray, score: np.ndarray, bins: int = BINS) -> Bins:
    """Rows in bins of equal width of their top label's probability; a bin holds its upper edge.

    ``target`` [P]: class codes; ``score`` finite [P], of the positive class, or [P,C]. The top label is the more
    probable class, whatever threshold the task has.

    >>> [part.tolist() for part in confidence_bins(np.array([1, 0]), np.array([0.9, 0.8]), bins=2)]
    [[0, 2], [nan, 0.8500000000000001], [nan, 0.5]]
    """
    confidence, label = top_label(score)
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (confidence, label == target))
    with np.errstate(invalid="ignore"):  # 0 / 0 is the answer: no rows
        return Bins(count, *(total / count for total in sums))


def top_label(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability, float64, and the code of each row's most probable class, from ``score`` [P] or [P,C]."""
    score = score.astype(float)
    if score.ndim == 1:
        return np.maximum(score, 1 - score), (score >= 0.5).astype(int)
    return score.max(-1), score.argmax(-1)


def expected_error(bins: Bins) -> float:
    """Distance of confidence from accuracy, mean over bins by their rows; NaN without rows."""
    gap = np.nan_to_num(np.abs(bins.accuracy - bins.confidence))
    return _ratio(float((bins.count * gap).sum()), int(bins.count.sum()))


def largest_error(bins: Bins) -> float:
    """Distance of confidence from accuracy in the worst bin that holds rows; NaN without rows."""
    gap = np.abs(bins.accuracy - bins.confidence)
    return float(np.nanmax(gap)) if bins.count.any() else np.nan


def ece(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Expected calibration error of the top label (Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated
    Probabilities Using Bayesian Binning", AAAI; Guo et al. 2017), in :data:`BINS` bins.
    """
    return expected_error(confidence_bins(target, score))


def mce(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Maximum calibration error of the top label, in :data:`BINS` bins; sources as of :func:`ece`."""
    return largest_error(confidence_bins(target, score))


def regression_r2(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Coefficient of determination; NaN when the target is constant."""
    if _constant(target):
        return np.nan
    target = target.astype(float)
    return float(1 - ((target - score) ** 2).sum() / ((target - target.mean()) ** 2).sum())


def regression_mae(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Mean absolute error, in the target's unit."""
    return _mean(np.abs(target.astype(float) - score))


def regression_rmse(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Root of the mean squared error, in the target's unit."""
    return float(np.sqrt(_mean((target.astype(float) - score) ** 2)))


def regression_pearson(target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """Pearson's correlation; NaN when the target or the score is constant."""
    if _constant(target) or _constant(score):
        return np.nan
    return float(np.corrcoef(target.astype(float), score.astype(float))[0, 1])


METRICS: dict[str, dict[str, Metric]] = {
    "binary": {
        "auroc": binary_auroc,
        "ap": binary_ap,
        "f1": binary_f1,
        "precision": binary_precision,
        "recall": binary_recall,
        "accuracy": binary_accuracy,
        "log_loss": binary_log_loss,
        "brier": binary_brier,
        "ece": ece,
        "mce": mce,
    },
    "multiclass": {
        "auroc": multiclass_auroc,
        "ap": multiclass_ap,
        "f1": multiclass_f1,
        "accuracy": multiclass_accuracy,
        "log_loss": multiclass_log_loss,
        "ece": ece,
        "mce": mce,
    },
    "regression": {
        "r2": regression_r2,
        "mae": regression_mae,
        "rmse": regression_rmse,
        "pearson": regression_pearson,
    },
}
"""{kind of task: {name: function of (target [P], score [P] or [P,C], threshold)}}."""

RANGES: dict[str, tuple[float, float]] = {
    "auroc": (0, 1),
    "ap": (0, 1),
    "f1": (0, 1),
    "precision": (0, 1),
    "recall": (0, 1),
    "accuracy": (0, 1),
    "log_loss": (0, np.inf),
    "brier": (0, 1),
    "ece": (0, 1),
    "mce": (0, 1),
    "r2": (-np.inf, 1),
    "mae": (0, np.inf),
    "rmse": (0, np.inf),
    "pearson": (-1, 1),
}
"""The values a metric can take; an interval is clipped to them."""

THRESHOLDED = frozenset({"f1", "precision", "recall", "accuracy"})
"""The metrics of a binary task that depend on its threshold."""


def evaluate(task: Task, target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> dict[str, float]:
    """Every metric of the task's kind over rows whose label is known: ``target`` [P], ``score`` [P] or [P,C].

    >>> from fusion_lab.contracts import Task
    >>> evaluate(Task("dose", "regression"), np.array([1.0, 3.0]), np.array([1.0, 2.0]))["mae"]
    0.5
    """
    return {name: measure(task, name, target, score, threshold) for name in METRICS[task.kind]}


def measure(task: Task, metric: str, target: np.ndarray, score: np.ndarray, threshold: Threshold = 0.5) -> float:
    """One metric of the task's kind; NaN where it is undefined, scores that are not finite included."""
    if not len(target) or not np.isfinite(score).all():
        return np.nan
    return METRICS[task.kind][metric](target, score, threshold)


def why_undefined(task: Task, target: np.ndarray, score: np.ndarray) -> str:
    """In a few words, why some metric of these rows is NaN.

    >>> why_undefined(Task("relapse", "binary", ("no", "yes")), np.zeros(3), np.full(3, 0.2))
    "no row of class 'yes'"
    """
    if not len(target):
        return "no row with a known label"
    if not np.isfinite(score).all():
        return "the model's scores are not finite"
    if task.kind == "regression":
        return "constant target" if _constant(target) else "constant score"
    absent = [name for code, name in enumerate(task.classes) if not (target == code).any()]
    if absent:
        return "no row of class " + ", ".join(map(repr, absent))
    return f"no row predicted {task.positive!r}"


def _confusion(target: np.ndarray, score: np.ndarray, threshold: Threshold) -> tuple[int, int, int]:
    """True positives, rows predicted positive, positives."""
    chosen, positive = score >= threshold, target > 0.5
    return int((chosen & positive).sum()), int(chosen.sum()), int(positive.sum())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _constant(values: np.ndarray) -> bool:
    return len(values) < 2 or bool((values == values[0]).all())


def _one_class(target: np.ndarray) -> bool:
    return not 0 < (target > 0.5).sum() < len(target)


def _open_interval(probability: np.ndarray) -> np.ndarray:
    epsilon = float(np.finfo(np.float32).eps)
    return np.clip(probability.astype(float), epsilon, 1 - epsilon)
