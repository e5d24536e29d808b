"""A batch as scikit-learn takes it: one table of columns, the rows whose label is known, their weights."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fusion_lab.contracts import Batch, Modality, Task

SCREENED = 512  # columns that the trees see: finding the bins of thousands would take longer than growing the trees


def array(values: Tensor) -> np.ndarray:
    """float64, whatever the tensor was."""
    return values.detach().cpu().numpy().astype(float)


def labelled(batch: Batch, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that count and whose label is known, their targets and their weights."""
    weight = array(batch.weight)
    rows = np.flatnonzero(batch.known[task.name].cpu().numpy() & (weight > 0))
    return rows, array(batch.targets[task.name])[rows], weight[rows]


def learnable(task: Task, target: np.ndarray) -> bool:
    """Whether there is anything to tell apart."""
    return len(target) > 1 if task.kind == "regression" else len(np.unique(target)) > 1


def codes(task: Task, target: np.ndarray) -> np.ndarray:
    """Class codes as integers; a regression's values as they are."""
    return target if task.kind == "regression" else target.astype(int)


def one_hot(task: Task, target: np.ndarray) -> np.ndarray:
    """``[B,C]`` for a multiclass task, ``[B,1]`` otherwise."""
    return np.eye(task.outputs)[target.astype(int)] if task.kind == "multiclass" else target[:, None]


def columns(batch: Batch, modalities: tuple[Modality, ...]) -> np.ndarray:
    """Per modality its columns, NaN where there is no value, then 1 where it is absent: float64 ``[B, columns]``.

    A sequence counts with each feature's mean, deviation, least, greatest and last value, a bag with the first four.
    """
    parts = []
    for modality in modalities:
        valid = batch.valid[modality.name].cpu().numpy()
        real = batch.observed[modality.name].cpu().numpy() & valid[..., None]
        values = np.where(real, array(batch.inputs[modality.name]), np.nan)
        parts.append(values if modality.kind == "vector" else _summary(values, real, modality.kind == "sequence"))
        parts.append(~valid.reshape(len(valid), -1).any(1)[:, None])
    return np.concatenate(parts, axis=1, dtype=float)


def block_widths(modalities: tuple[Modality, ...]) -> np.ndarray:
    """Of each of the :func:`columns`, how many its modality has: int ``[columns]``."""
    statistics = {"vector": 1, "bag": 4, "sequence": 5}
    widths = [statistics[m.kind] * m.width + 1 for m in modalities]
    return np.repeat(widths, widths)


def _summary(values: np.ndarray, real: np.ndarray, ordered: bool) -> np.ndarray:
    """Statistics over the real places of axis 1, ``[B,T,F] -> [B, 4F or 5F]``; NaN where there are none."""
    count, some = real.sum(1), real.any(1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the answer: no value
        mean = np.where(real, values, 0.0).sum(1) / count
        deviation = np.sqrt(np.where(real, (values - mean[:, None]) ** 2, 0.0).sum(1) / count)
    least = np.where(some, np.where(real, values, np.inf).min(1), np.nan)
    greatest = np.where(some, np.where(real, values, -np.inf).max(1), np.nan)
    last = real.shape[1] - 1 - real[:, ::-1].argmax(1)
    ending = [np.take_along_axis(values, last[:, None], 1)[:, 0]] if ordered else []
    return np.concatenate([mean, deviation, least, greatest, *ending], axis=1)


def row_space(columns: np.ndarray) -> np.ndarray | None:
    """Orthonormal directions ``[columns, B]`` that hold all B training rows; ``None`` where there are fewer columns.

    The weights of a linear model with an L2 penalty lie in the space of its training rows (representer theorem), so the
    model fitted there is the same one, with hundreds of weights in place of thousands.
    """
    rows, width = columns.shape
    return np.linalg.qr(columns.T)[0] if width > rows else None


def screen(columns: np.ndarray, targets: np.ndarray, weight: np.ndarray, spared: np.ndarray) -> np.ndarray:
    """Indices of the columns ``[B,F]`` to keep, in their own order.

    First those ``spared``, bool [F], then those that correlate most with any of ``targets`` ``[B,C]``; never a column
    without any value, which scikit-learn's trees cannot bin.
    """
    filled = np.flatnonzero(~np.isnan(columns).all(0))
    if len(filled) <= SCREENED:
        return filled
    root = np.sqrt(weight / weight.sum())[:, None]
    values = np.nan_to_num(columns[:, filled])
    x, y = (root * (a - np.average(a, axis=0, weights=weight)) for a in (values, targets))
    scale = np.linalg.norm(x, axis=0)[:, None] * np.linalg.norm(y, axis=0)
    correlation = np.divide(x.T @ y, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    merit = np.where(spared[filled], np.inf, np.abs(correlation).max(1))
    return np.sort(filled[np.argsort(-merit, kind="stable")[:SCREENED]])
