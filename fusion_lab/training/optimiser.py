"""AdamW over a stack of folds, each with its own learning rate and clipping; schedules by epoch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fusion_lab.config import Config


class OptimiserConfig(Config):
    """AdamW (Loshchilov & Hutter, 2019). ``clip`` bounds the norm of each fold's whole gradient; ``null`` switches it off.

    ``schedule``: ``warmup_*`` rises linearly from 1 % of ``lr`` over ``warmup_epochs``; cosine falls to ``final_lr_share * lr`` at the last epoch.
    """

    lr: float = Field(1e-3, gt=0.0, le=1.0)
    weight_decay: float = Field(0.01, ge=0.0, le=10.0)
    clip: float | None = Field(1.0, gt=0.0)
    schedule: Literal["constant", "cosine", "warmup_constant", "warmup_cosine"] = "cosine"
    warmup_epochs: int = Field(5, ge=1)
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
    progress = min(1.0, (epoch - warm) / max(1, epochs - warm))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_share + (1.0 - config.final_lr_share) * cosine)


class StackedAdamW:
    """``torch.optim.AdamW`` (its fused kernel) on weights ``[K,P]``: a parameter group per fold, so that folds never meet.

    A fold whose turn it is not is left alone: no decay, no momentum, no count of steps.
    """

    def __init__(self, weights: Tensor, config: OptimiserConfig) -> None:
        self.config = config
        rows = [row.detach() for row in weights]
        groups = [{"params": [row]} for row in rows]
        self._adamw = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self._rows = rows

    def step(self, gradients: Tensor, active: list[bool], lr: float) -> None:
        """One update in place of the rows marked active; ``gradients [K,P]`` is clipped in place."""
        if self.config.clip is not None:
            norms = gradients.norm(dim=1, keepdim=True)
            gradients.mul_((self.config.clip / (norms + 1e-6)).clamp(max=1.0))
        for group, row, gradient, on in zip(self._adamw.param_groups, self._rows, gradients, active, strict=True):
            group["lr"] = lr
            row.grad = gradient if on else None
        self._adamw.step()

    def keep(self, weights: Tensor, folds: list[int]) -> None:
        """Goes on with the rows ``folds`` alone, whose weights now lie in ``weights``."""
        old = [self._rows[k] for k in folds]
        self._rows = [row.detach() for row in weights]
        self._adamw.param_groups[:] = [self._adamw.param_groups[k] for k in folds]
        states = [self._adamw.state.pop(row, {}) for row in old]
        self._adamw.state.clear()
        for group, row, state in zip(self._adamw.param_groups, self._rows, states, strict=True):
            group["params"] = [row]
            self._adamw.state[row] = state

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's memory, ``[K,P]`` and the step counts ``[K]``, for a checkpoint."""
        states = [self._adamw.state[row] for row in self._rows]
        zeros = [torch.zeros_like(row) for row in self._rows]
        return {
            "exp_avg": torch.stack([s.get("exp_avg", z) for s, z in zip(states, zeros, strict=True)]),
            "exp_avg_sq": torch.stack([s.get("exp_avg_sq", z) for s, z in zip(states, zeros, strict=True)]),
            "steps": torch.stack([torch.as_tensor(s.get("step", 0.0)).float().cpu() for s in states]),
        }

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Takes up the memory that :meth:`moments` gave."""
        for k, row in enumerate(self._rows):
            state = {"exp_avg": moments["exp_avg"][k].clone(), "exp_avg_sq": moments["exp_avg_sq"][k].clone()}
            self._adamw.state[row] = {"step": moments["steps"][k].to(row.device).clone(), **state}
