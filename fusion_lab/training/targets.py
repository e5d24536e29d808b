"""Regression targets as the loss sees them: mean 0 and deviation 1 over a fold's training rows, whatever their unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, Task

TINY = 1e-8
"""A standard deviation below this is that of a constant: nothing to divide by."""


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of every regression target, in its own unit, one per fold: float64 ``[K]``.

    The model's answer is in standardised units; :meth:`restore` brings it back. Tasks of other kinds are not held.
    """

    mean: dict[str, Tensor]
    std: dict[str, Tensor]

    @classmethod
    def fit(cls, tasks: tuple[Task, ...], everything: Batch, rows: np.ndarray) -> TargetScale:
        """From the known labels of the rows in ``rows``, bool ``[K,R]``; 0 and 1 where a fold has none."""
        mean: dict[str, Tensor] = {}
        std: dict[str, Tensor] = {}
        for name in (task.name for task in tasks if task.kind == "regression"):
            target, known = everything.targets[name].double().numpy(), everything.known[name].numpy()
            found = [_moments(target[members][known[members]]) for members in rows]
            mean[name], std[name] = torch.tensor(found, dtype=torch.float64).unbind(1)
        return cls(mean, std)

    def to(self, device: torch.device) -> TargetScale:
        return self._mapped(lambda leaf: leaf.to(device))

    def take(self, folds: list[int]) -> TargetScale:
        """Some of the folds, in the order given."""
        return self._mapped(lambda leaf: leaf[folds])

    def fold(self, k: int) -> dict[str, tuple[float, float]]:
        """``{task: (mean, std)}`` of one fold."""
        return {name: (float(mean[k]), float(self.std[name][k])) for name, mean in self.mean.items()}

    def standardise(self, batch: Batch) -> Batch:
        """The batch, leaves ``[K,B,...]``, with its regression targets in the unit of the loss; 0 where not known."""
        targets = dict(batch.targets)
        for name, mean in self.mean.items():
            target = targets[name]
            centred = (target.double() - _beside(mean, target)) / _beside(self.std[name], target)
            targets[name] = (centred * batch.known[name]).to(target.dtype)
        return batch._replace(targets=targets)

    def restore(self, task: str, values: Tensor) -> Tensor:
        """A regression's answers ``[K,B]`` or ``[K,B,T]`` in the target's own unit."""
        own = values.double() * _beside(self.std[task], values) + _beside(self.mean[task], values)
        return own.to(values.dtype)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> TargetScale:
        return TargetScale(*({name: change(leaf) for name, leaf in part.items()} for part in (self.mean, self.std)))


def _moments(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    std = float(values.std())
    return float(values.mean()), std if std >= TINY else 1.0


def _beside(per_fold: Tensor, leaf: Tensor) -> Tensor:
    """``[K]`` in a shape that goes with ``[K,...]``."""
    return per_fold.reshape(-1, *(1,) * (leaf.ndim - 1))
