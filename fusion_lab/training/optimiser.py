"""AdamW over a stack of folds, each with its own learning rate and clipping; schedules by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fusion_lab.config import Config
from fusion_lab.training.leaves import Leaves, take

AVERAGE, SQUARES = "exp_avg", "exp_avg_sq"
BETAS = (0.9, 0.999)
EPSILON = 1e-8


class OptimiserConfig(Config):
    """AdamW (Loshchilov & Hutter, 2019). ``clip`` bounds the norm of each fold's whole gradient; ``null`` for no bound.

    ``schedule``: ``warmup_*`` rises linearly from 1 % of ``lr`` over ``warmup_epochs``; cosine falls towards
    ``final_lr_share * lr``, which the epoch after the last one would have. ``warm_restarts`` falls so again and again,
    each time from ``lr`` (Loshchilov & Hutter, 2017, "SGDR"): over ``restart_epochs`` epochs at first (``null``: a
    quarter of all), then over ``restart_factor`` times as many as the time before.
    """

    lr: float = Field(1e-3, gt=0.0, le=1.0)
    weight_decay: float = Field(0.01, ge=0.0, le=10.0)
    clip: float | None = Field(1.0, gt=0.0)
    schedule: Literal["constant", "cosine", "warmup_constant", "warmup_cosine", "warm_restarts"] = "cosine"
    warmup_epochs: int = Field(5, ge=1)
    restart_epochs: int | None = Field(None, ge=1)
    restart_factor: int = Field(2, ge=1)
    final_lr_share: float = Field(0.0, ge=0.0, le=1.0)


def learning_rate(config: OptimiserConfig, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 0.

    >>> [round(learning_rate(OptimiserConfig(lr=1.0, schedule="cosine"), e, 4), 3) for e in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    warm = config.warmup_epochs if config.schedule.startswith("warmup") else 0
    if epoch < warm:
        return config.lr * (0.01 + 0.99 * epoch / warm)
    if config.schedule.endswith("constant"):
        return config.lr
    if config.schedule == "warm_restarts":
        progress = _since_restart(config, epoch, epochs)
    else:
        progress = min(1.0, (epoch - warm) / max(1, epochs - warm))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_share + (1.0 - config.final_lr_share) * cosine)


def _since_restart(config: OptimiserConfig, epoch: int, epochs: int) -> float:
    """The share of its cycle that lies before an epoch, in [0, 1)."""
    start, length = 0, config.restart_epochs or max(1, epochs // 4)
    while epoch >= start + length:
        start, length = start + length, length * config.restart_factor
    return (epoch - start) / length


class StackedAdamW:
    """AdamW on stacked weights by PyTorch's fused kernel, one fold after the other, each with its own learning rate,
    weight decay and clipping, so that folds never meet.

    The kernel is called directly: ``torch.optim.AdamW`` is the same arithmetic, but imports PyTorch's compiler at its
    first step, which costs seconds at the start of every process. A fold whose turn it is not is left alone: no decay,
    no momentum, no count of steps.

    Args:
        weights: leaves ``[K,*shape]``, changed in place.
        configs: one per fold.
    """

    def __init__(self, weights: Leaves, configs: Sequence[OptimiserConfig]) -> None:
        zeros = [{name: torch.zeros_like(leaf) for name, leaf in weights.items()} for _ in range(2)]
        self._take_up(weights, tuple(configs), zeros[0], zeros[1], torch.zeros(len(configs)))

    def step(self, folds: slice, gradients: Leaves, active: Sequence[bool], rates: Sequence[float]) -> None:
        """One update in place of the neighbours ``folds``.

        Args:
            folds: their places.
            gradients: leaves ``[n,*shape]``, contiguous as the kernel takes them for granted; clipped in place.
            active: whether each of the K folds takes part.
            rates: the learning rate of each of the K folds.
        """
        assert all(leaf.is_contiguous() for leaf in gradients.values())
        self._clip(folds, gradients)
        own = zip(*(gradients[name].unbind() for name in self._weights), strict=True)
        for k, gradient in zip(range(folds.start, folds.stop), own, strict=True):
            if not active[k]:
                continue
            self._steps[k] += 1
            weights, average, squares = self._rows[k]
            torch._fused_adamw_(
                weights,
                list(gradient),
                average,
                squares,
                [],
                [self._steps[k]] * len(weights),
                lr=rates[k],
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=self._configs[k].weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def keep(self, weights: Leaves, folds: Sequence[int]) -> None:
        """Goes on with some of the folds, whose weights now lie in ``weights``."""
        index = list(folds)
        average, squares = take(self._average, index), take(self._squares, index)
        self._take_up(weights, tuple(self._configs[k] for k in index), average, squares, self._steps[index])

    def moments(self) -> Leaves:
        """The optimiser's memory and the step counts ``[K]``, for a checkpoint."""
        average = {f"{AVERAGE}/{name}": leaf for name, leaf in self._average.items()}
        return average | {f"{SQUARES}/{name}": leaf for name, leaf in self._squares.items()} | {"steps": self._steps}

    def restore(self, moments: Leaves) -> None:
        """Takes up the memory that :meth:`moments` gave."""
        average, squares = (
            {name: moments[f"{part}/{name}"].clone() for name in self._weights} for part in (AVERAGE, SQUARES)
        )
        self._take_up(self._weights, self._configs, average, squares, moments["steps"].clone())

    def _take_up(
        self, weights: Leaves, configs: tuple[OptimiserConfig, ...], average: Leaves, squares: Leaves, steps: Tensor
    ) -> None:
        self._weights, self._configs, self._average, self._squares = weights, configs, average, squares
        self._steps = steps.to(next(iter(weights.values())).device)
        rows = [
            list(zip(*(leaf.unbind() for leaf in part.values()), strict=True)) for part in (weights, average, squares)
        ]
        self._rows = [tuple(list(row) for row in fold) for fold in zip(*rows, strict=True)]

    def _clip(self, folds: slice, gradients: Leaves) -> None:
        """Scales each fold's whole gradient down to its bound, where it has one."""
        bounds = [config.clip or math.inf for config in self._configs[folds]]
        if all(map(math.isinf, bounds)):
            return
        flat = (leaf.reshape(len(leaf), -1) for leaf in gradients.values())
        norms = torch.stack([torch.linalg.vector_norm(leaf, dim=1) for leaf in flat]).norm(dim=0)
        bound = torch.tensor(bounds, dtype=norms.dtype, device=norms.device)
        shares = torch.where(bound.isinf(), 1.0, bound / (norms + 1e-6)).clamp(max=1.0)
        for leaf in gradients.values():
            leaf.mul_(shares.reshape(-1, *(1,) * (leaf.ndim - 1)))
