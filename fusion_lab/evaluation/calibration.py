"""Probabilities that mean what they say: one temperature per task (Guo et al. 2017, "On Calibration of Modern Neural
Networks", ICML)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from fusion_lab.contracts import Predictions, Task
from fusion_lab.evaluation.metrics import BINS, Bins, confidence_bins, expected_error, largest_error, measure

LEAST, GREATEST = 0.05, 20.0  # temperatures between which one is sought

PRIOR = 0.5
"""Standard deviation of a normal prior on the logarithm of a temperature: a handful of rows that happen to be separated
would ask for certainty otherwise; among hundreds it weighs nothing."""

_EPSILON = 1e-12  # 0 and 1 have no logit


class Reliability(NamedTuple):
    """How far the probabilities of some rows are from what became true. ``nll`` in nats; all NaN without rows, or with
    scores that are not finite.
    """

    rows: int
    ece: float
    mce: float
    nll: float
    bins: Bins


class FoldCalibration(NamedTuple):
    """Test rows of one fold before and after its temperature, which ``fitted_on`` validation labels gave."""

    fold: int
    temperature: float
    fitted_on: int
    before: Reliability
    after: Reliability


class Calibration(NamedTuple):
    """A task's folds, and the test rows of all folds together."""

    folds: tuple[FoldCalibration, ...]
    before: Reliability
    after: Reliability


def calibrate(predictions: Predictions, task: Task, bins: int = BINS) -> Calibration:
    """Calibration of out-of-fold test rows, each fold's with the temperature of its own validation rows.

    ``task`` has classes; the steps of a task per step count as rows.
    """
    folds, targets, scores = [], [], []
    for fold in np.unique(predictions.fold).tolist():
        target, score = _known(predictions.of("val", fold), task)
        temperature, fitted_on = fit_temperature(task, score, target), len(target)
        target, score = _known(predictions.of("test", fold), task)
        after = with_temperature(task, score, temperature)
        before_after = reliability(task, target, score, bins), reliability(task, target, after, bins)
        folds.append(FoldCalibration(fold, temperature, fitted_on, *before_after))
        targets.append(target)
        scores.append((score, after))
    target = np.concatenate(targets)
    before, after = (np.concatenate(part) for part in zip(*scores, strict=True))
    return Calibration(tuple(folds), reliability(task, target, before, bins), reliability(task, target, after, bins))


def reliability(task: Task, target: np.ndarray, score: np.ndarray, bins: int = BINS) -> Reliability:
    """Of rows whose label is known: ``target`` [P], ``score`` [P] or [P,C]."""
    usable = np.isfinite(score).all()
    found = confidence_bins(target, score, bins) if usable else confidence_bins(target[:0], score[:0], bins)
    nll = measure(task, "log_loss", target, score)
    return Reliability(len(target), expected_error(found), largest_error(found), nll, found)


def _known(part: Predictions, task: Task) -> tuple[np.ndarray, np.ndarray]:
    known = part.known[task.name]
    return part.target[task.name][known], part.score[task.name][known]


def fit_temperature(task: Task, score: np.ndarray, target: np.ndarray) -> float:
    """The likeliest temperature of rows whose label is known, under a weak prior around 1 (:data:`PRIOR`).

    ``score``: probabilities ``[P]`` of a binary task or ``[P,C]`` of a multiclass one; ``target`` ``[P]``: class codes.
    Larger than 1 where the model is too sure of itself. 1 where there is nothing to fit: for a regression, with fewer
    than two classes, scores that are not finite, or no temperature better than 1.

    >>> score, target = np.full(4000, 0.9), np.tile([1, 1, 0, 1], 1000)  # right three times of four
    >>> fitted = fit_temperature(Task("relapse", "binary", ("no", "yes")), score, target)
    >>> with_temperature(Task("relapse", "binary", ("no", "yes")), score, fitted)[:2].round(2).tolist()
    [0.75, 0.75]
    """
    if task.kind == "regression" or len(np.unique(target)) < 2 or not np.isfinite(score).all():
        return 1.0
    logits, codes = _logits(task, score), target.astype(int).reshape(-1)
    logits = logits.reshape(len(codes), -1)
    if task.kind == "binary":
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)  # their softmax is the sigmoid

    def cost(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), axis=1)
        likelihood = float(logs[np.arange(len(codes)), codes].sum())
        return -likelihood + (log_temperature / PRIOR) ** 2 / 2

    bounds = (float(np.log(LEAST)), float(np.log(GREATEST)))
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if found.fun < cost(0.0) else 1.0


def with_temperature(task: Task, score: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, float64, after their logits were divided by ``temperature``.

    ``score``: ``[...]`` of a binary task, ``[...,C]`` of a multiclass one. At a temperature of 1, and for a regression,
    the scores themselves. No two rows of a binary task change places, but below a temperature of 1 two that are all but
    certain may become equal.
    """
    if task.kind == "regression" or temperature == 1:
        return score
    logits = _logits(task, score) / temperature
    return expit(logits) if task.kind == "binary" else softmax(logits, axis=-1)


def _logits(task: Task, score: np.ndarray) -> np.ndarray:
    """Up to a constant per row, which a softmax does not see."""
    probability = np.clip(score.astype(float), _EPSILON, 1 - _EPSILON)
    return logit(probability) if task.kind == "binary" else np.log(probability)
