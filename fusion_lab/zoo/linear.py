"""Linear models with an L2 penalty that is chosen inside the training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedKFold

from fusion_lab.contracts import Task

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
_ALPHAS = tuple(0.5 / c for c in reversed(_STRENGTHS))  # the same penalties for ridge regression


def fit(task: Task, columns: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Any:
    """A fitted ``RidgeCV`` for a regression, a ``LogisticRegression`` otherwise; ``columns`` float64 ``[B,F]``."""
    if task.kind == "regression":
        return RidgeCV(alphas=np.array(_ALPHAS)).fit(columns, target, sample_weight=weight)
    codes = target.astype(int)
    return _logistic(choose_strength(columns, codes, weight)).fit(columns, codes, sample_weight=weight)


def _logistic(strength: float, **settings: Any) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000, random_state=0, **settings)


def choose_strength(columns: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> float:
    """C with the best held-out likelihood; the middle one where a class is too small to be split."""
    parts = min(3, int(np.unique(codes, return_counts=True)[1].min()))
    if parts < 2:
        return _STRENGTHS[len(_STRENGTHS) // 2]
    splits = StratifiedKFold(parts, shuffle=True, random_state=0).split(columns, codes)
    losses = [_held_out_losses(columns, codes, weight, *split) for split in splits]
    return _STRENGTHS[int(np.argmin(np.sum(losses, axis=0)))]


def _held_out_losses(
    columns: np.ndarray, codes: np.ndarray, weight: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> list[float]:
    """Negative log-likelihood of the rows ``outer`` under models of ``inner``, one per C, each started at the last."""
    losses = []
    model = _logistic(1.0, tol=1e-3, warm_start=True)
    for strength in _STRENGTHS:
        model.set_params(C=strength).fit(columns[inner], codes[inner], sample_weight=weight[inner])
        places = np.searchsorted(model.classes_, codes[outer])
        right = model.predict_proba(columns[outer])[np.arange(len(outer)), places]
        losses.append(-float(weight[outer] @ np.log(np.maximum(right, 1e-12))))
    return losses
