"""Probabilities that mean what they say: one temperature per task (Guo et al. 2017, "On Calibration of Modern Neural
Networks", ICML)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from fusion_lab.contracts import Task

LEAST, GREATEST = 0.05, 20.0  # temperatures between which one is sought

PRIOR = 0.5
"""Standard deviation of a normal prior on the logarithm of a temperature: a handful of rows that happen to be separated
would ask for certainty otherwise; among hundreds it weighs nothing."""

_EPSILON = 1e-12  # 0 and 1 have no logit


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
