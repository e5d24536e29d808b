"""Linear models with an L2 penalty that is chosen inside the training rows, and how it is shared among blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

from fusion_lab.contracts import Task

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
_ALPHAS = tuple(0.5 / c for c in reversed(_STRENGTHS))  # the same penalties for ridge regression
_EXPONENTS = (0.0, 0.5, 1.0)  # one penalty for all columns, blocks of equal weight, wide blocks held back


class Chosen(NamedTuple):
    """A fitted ``RidgeCV``, ``Ridge`` or ``LogisticRegression`` and the place of the view that it was fitted to."""

    view: int
    model: Any


def scales(widths: np.ndarray) -> list[np.ndarray]:
    """Factors to choose from, ``[F]`` each, for columns whose blocks have ``widths`` ``[F]`` columns.

    Under one penalty on all columns a block of thousands drowns one of a few. A column is divided by a power of its
    block's width, relative to the narrowest block: at 1/2 all blocks of standardised columns weigh the same.

    >>> [factor.tolist() for factor in scales(np.array([1, 4, 4, 4, 4]))][1]
    [1.0, 0.5, 0.5, 0.5, 0.5]
    """
    relative = widths / widths.min()
    return [relative**-exponent for exponent in (_EXPONENTS if relative.max() > 1 else _EXPONENTS[:1])]


def fit(
    task: Task, views: list[np.ndarray], target: np.ndarray, weight: np.ndarray, group: np.ndarray | None = None
) -> Chosen:
    """Ridge regression for a regression task, logistic regression otherwise, on the view that suits it best.

    ``views`` are float64 ``[B,F]``: the same columns under each of :func:`scales`. View and penalty are chosen
    together; of equally good views, the first. Lines of one ``group``, int ``[B]``, are never on both sides when that
    is done.
    """
    if task.kind != "regression":
        codes = target.astype(int)
        best, strength = choose_strength(views, codes, weight, group)
        return Chosen(best, _logistic(strength).fit(views[best], codes, sample_weight=weight))
    if group is not None:
        best, alpha = choose_alpha(views, target, weight, group)
        return Chosen(best, Ridge(alpha).fit(views[best], target, sample_weight=weight))
    fits = [RidgeCV(alphas=np.array(_ALPHAS)).fit(view, target, sample_weight=weight) for view in views]
    best = int(np.argmax([model.best_score_ for model in fits]))
    return Chosen(best, fits[best])


def _logistic(strength: float, **settings: Any) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000, random_state=0, **settings)


def choose_strength(
    views: list[np.ndarray], codes: np.ndarray, weight: np.ndarray, group: np.ndarray | None = None
) -> tuple[int, float]:
    """Place of the view and C with the best held-out likelihood.

    Where a class is too small to be split, the first view and the middle C.
    """
    splits = inner_splits(codes, group)
    if not splits:
        return 0, _STRENGTHS[len(_STRENGTHS) // 2]
    losses = np.array(
        [np.sum([_held_out_losses(view, codes, weight, *split) for split in splits], axis=0) for view in views]
    )
    view, strength = np.unravel_index(losses.argmin(), losses.shape)
    return int(view), _STRENGTHS[strength]


def inner_splits(codes: np.ndarray, group: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three parts of the training lines, or as many as the rarest class has lines or groups; none below two.

    Each is (fitted to, held out), where what is fitted to holds every class.
    """
    classes = np.unique(codes)
    units = np.arange(len(codes)) if group is None else group
    parts = min(3, *(len(np.unique(units[codes == code])) for code in classes))
    if parts < 2:
        return []
    kind = StratifiedKFold if group is None else StratifiedGroupKFold
    splits = kind(parts, shuffle=True, random_state=0).split(codes, codes, group)
    return [(inner, outer) for inner, outer in splits if len(outer) and len(np.unique(codes[inner])) == len(classes)]


def choose_alpha(
    views: list[np.ndarray], target: np.ndarray, weight: np.ndarray, group: np.ndarray
) -> tuple[int, float]:
    """Place of the view and the ridge penalty with the least squared error on groups held out.

    With one group only, the first view and the middle penalty.
    """
    parts = min(3, len(np.unique(group)))
    if parts < 2:
        return 0, _ALPHAS[len(_ALPHAS) // 2]
    splits = list(GroupKFold(parts, shuffle=True, random_state=0).split(target, groups=group))
    losses = np.array(
        [np.sum([_held_out_errors(view, target, weight, *split) for split in splits], axis=0) for view in views]
    )
    view, alpha = np.unravel_index(losses.argmin(), losses.shape)
    return int(view), _ALPHAS[alpha]


def _held_out_errors(
    columns: np.ndarray, target: np.ndarray, weight: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> list[float]:
    """Squared error of the lines ``outer`` under models of ``inner``, one per penalty."""
    models = [Ridge(alpha).fit(columns[inner], target[inner], sample_weight=weight[inner]) for alpha in _ALPHAS]
    return [float(weight[outer] @ (target[outer] - model.predict(columns[outer])) ** 2) for model in models]


def _held_out_losses(
    columns: np.ndarray, codes: np.ndarray, weight: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> list[float]:
    """Negative log-likelihood of the lines ``outer`` under models of ``inner``, one per C, each started at the last."""
    losses = []
    model = _logistic(1.0, tol=1e-3, warm_start=True)
    for strength in _STRENGTHS:
        model.set_params(C=strength).fit(columns[inner], codes[inner], sample_weight=weight[inner])
        places = np.searchsorted(model.classes_, codes[outer])
        right = model.predict_proba(columns[outer])[np.arange(len(outer)), places]
        losses.append(-float(weight[outer] @ np.log(np.maximum(right, 1e-12))))
    return losses
