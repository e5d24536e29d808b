"""Which rows a fold sees in a step, and how folds of unequal size share one: rows that pad weigh 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import Batch, Task
from fusion_lab.data.scaling import Scaler
from fusion_lab.training.plan import Plan
from fusion_lab.training.sampling import order_of

Padded = tuple[np.ndarray, np.ndarray]
"""Row numbers ``[K,B]`` and bool ``[K,B]``: which of them are real, the others fill up a shorter fold."""


def padded(members: np.ndarray) -> Padded:
    """The rows of each fold from a bool ``[K,R]`` array, a shorter fold filled up with its first row.

    >>> rows, real = padded(np.array([[True, False, True], [False, True, False]]))
    >>> rows.tolist(), real.tolist()
    ([[0, 2], [1, 1]], [[True, True], [True, False]])
    """
    rows = [np.flatnonzero(member) for member in members]
    return _filled(rows, max(map(len, rows)))


def draw(plan: Plan, folds: list[int], epoch: int, weights: Sequence[np.ndarray] | None = None) -> Iterator[Padded]:
    """The steps of one epoch: every fold's training rows in an order of its own, ``batch_size`` at a time.

    ``weights``: of the training rows ``[N]`` of each fold of the plan, where it has a sampler.
    """
    assert (weights is None) == (plan.training.sampler is None), "a sampler draws by weights"
    size = plan.training.batch_size
    orders = []
    for k in folds:
        draws = generator(plan.seed, plan.trial, "order", plan.folds.names[k], epoch)
        orders.append(order_of(np.flatnonzero(plan.folds.train[k]), None if weights is None else weights[k], draws))
    steps = max(-(-len(order) // size) for order in orders)
    rows, real = _filled(orders, steps * size)
    for step in range(steps):
        part = slice(step * size, (step + 1) * size)
        yield rows[:, part], real[:, part]


def gather(plan: Plan, rows: Padded, scaler: Scaler) -> Batch:
    """Scaled rows ``[K,B]``, those that pad with weight 0."""
    batch = plan.batch(rows[0], scaler)
    return batch._replace(weight=batch.weight * torch.as_tensor(rows[1]).to(batch.weight))


def counted(batch: Batch, task: Task) -> Tensor:
    """Where a label is known in a row that counts, bool of the target's shape ``[K,B]`` or ``[K,B,T]``."""
    known = batch.known[task.name]
    return known & (batch.weight > 0).reshape(batch.weight.shape + (1,) * (known.ndim - batch.weight.ndim))


def _filled(rows: list[np.ndarray], length: int) -> Padded:
    filled = np.stack([np.concatenate([r, np.full(length - len(r), r[0])]) for r in rows])
    return filled, np.stack([np.arange(length) < len(r) for r in rows])
