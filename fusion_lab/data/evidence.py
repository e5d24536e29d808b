"""How much each modality tells of the labels by itself, by leave-one-out ridge regression on a fold's own rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, Dataset, Modality, Spec, Task

PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""Ridge penalties that are tried, per column."""
LEAST = 0.05
"""What a modality is left that tells nothing by itself: it may still tell something beside another."""
MOST_ROWS = 2000
"""Rows that are looked at of each fold: what a modality tells does not become clearer for more."""


def fit_evidence(dataset: Dataset, rows: np.ndarray) -> dict[str, Tensor]:
    """:func:`evidence` of K folds from the rows marked in ``rows``, bool ``[K,R]``, of many some at even distances."""
    of_folds = []
    for fold in rows:
        used = _some(np.flatnonzero(fold), 2 * MOST_ROWS)
        batch = dataset.gather(torch.from_numpy(used))
        of_folds.append(evidence(batch, dataset.spec, np.ones((1, len(used)), dtype=bool)))
    return {name: torch.cat([of[name] for of in of_folds]) for name in of_folds[0]}


def evidence(batch: Batch, spec: Spec, rows: np.ndarray) -> dict[str, Tensor]:
    """Of every modality a number in [0.05, 1] per fold, float32 ``[K]``: the correlation of what it predicts by itself
    with the truth, over that of the modality which predicts best; 1 for all where none predicts anything.

    The prediction is a ridge regression's for each row from all others, of the targets of all main tasks, from the
    columns of the modality (of a sequence or bag their means); only rows marked in ``rows``, bool ``[K,R]``, are seen.

    It is for data of a few informative modalities beside wide ones that tell little. A signal that only shows in what
    two modalities are together has no correlation with either, and both get the least.
    """
    told = {m.name: np.array([_correlation(batch, spec, m, of) for of in rows]) for m in spec.modalities}
    best = np.max(list(told.values()), axis=0)
    shares = {n: np.where(best > 0, of / np.where(best > 0, best, 1.0), 1.0) for n, of in told.items()}
    return {name: torch.from_numpy(share.clip(LEAST, 1.0).astype(np.float32)) for name, share in shares.items()}


def leave_one_out(columns: np.ndarray, target: np.ndarray) -> float:
    """The share of ``target`` ``[n,C]``'s variance that is told, each row from all others, by the ridge regression on
    standardised ``columns`` ``[n,F]`` whose penalty tells most; at least 0, and 0 where nothing varies.

    Every left-out prediction follows from one decomposition, for the regression is linear in the targets (Allen, 1974,
    "The Relationship between Variable Selection and Data Augmentation and a Method for Prediction", Technometrics).
    """
    count = len(columns)
    spread = columns.std(0) if count else np.zeros(0)
    varies = spread > 1e-9
    target = target - target.mean(0) if count else target
    if count < 3 or not varies.any() or not (target**2).sum():
        return 0.0
    x = (columns[:, varies] - columns[:, varies].mean(0)) / spread[varies]
    left, singular, _ = np.linalg.svd(x / np.sqrt(x.shape[1]), full_matrices=False)
    alone = ((target * count / (count - 1)) ** 2).sum(0)  # the error of the mean of all others
    projected, best = left.T @ target, 0.0
    for penalty in PENALTIES:
        kept = singular**2 / (singular**2 + penalty)
        leverage = (left**2) @ kept + 1 / count
        error = (target - left @ (kept[:, None] * projected)) / np.maximum(1 - leverage, 1e-9)[:, None]
        best = max(best, float(np.mean(1 - (error**2).sum(0) / np.where(alone > 0, alone, 1.0))))
    return best


def _correlation(batch: Batch, spec: Spec, modality: Modality, rows: np.ndarray) -> float:
    there = batch.valid[modality.name].reshape(len(rows), -1).any(1).numpy()
    told = []
    for task in spec.main_tasks:
        known = batch.known[task.name].reshape(len(rows), -1)
        used = _some(np.flatnonzero(rows & there & known.any(1).numpy()), MOST_ROWS)
        told.append(leave_one_out(_columns(batch, modality, used), _targets(batch, task, used)))
    return float(np.sqrt(np.mean(told)))


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[:: max(1, -(-len(rows) // most))]


def _columns(batch: Batch, modality: Modality, used: np.ndarray) -> np.ndarray:
    """``[n,F]``: means over what was observed, of a column that was not the column's mean."""
    index = torch.from_numpy(used)
    values, real = batch.inputs[modality.name][index].double(), batch.observed[modality.name][index]
    real = real & batch.valid[modality.name][index].unsqueeze(-1)
    values, real = (leaf.reshape(len(used), -1, modality.width) for leaf in (values, real))
    count = real.sum(1)
    mean = ((values * real).sum(1) / count.clamp(min=1)).numpy()
    seen = (count > 0).numpy()
    of_all = (mean * seen).sum(0) / np.maximum(seen.sum(0), 1)
    return np.where(seen, mean, of_all)


def _targets(batch: Batch, task: Task, used: np.ndarray) -> np.ndarray:
    """``[n,C]``: the value, or 1 of the class and 0 of others; of a task per step means over known steps."""
    index = torch.from_numpy(used)
    target, known = (
        leaf[index].reshape(len(used), -1).double() for leaf in (batch.targets[task.name], batch.known[task.name])
    )
    codes = range(len(task.classes)) if task.kind == "multiclass" else None
    each = [target] if codes is None else [(target == code).double() for code in codes]
    return torch.stack([(of * known).sum(1) / known.sum(1) for of in each], dim=1).numpy()
