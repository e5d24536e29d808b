"""AdamW over a stack of folds, each with its own learning rate and clipping; schedules by epoch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fusion_lab.config import Config

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class OptimiserConfig(Config):
    """AdamW (Loshchilov & Hutter, 2019). ``clip`` bounds the norm of each fold's whole gradient; ``null`` for no bound.

    ``schedule``: ``warmup_*`` rises linearly from 1 % of ``lr`` over ``warmup_epochs``; cosine falls towards
    ``final_lr_share * lr``, which the epoch after the last one would have.
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
    """AdamW on weights ``[K,P]`` by PyTorch's fused kernel, one row after the other, so that folds never meet.

    The kernel is called directly: ``torch.optim.AdamW`` is the same arithmetic, but imports PyTorch's compiler at its
    first step, which costs seconds at the start of every process. A fold whose turn it is not is left alone: no decay,
    no momentum, no count of steps.
    """

    def __init__(self, weights: Tensor, config: OptimiserConfig) -> None:
        self.config = config
        self._weights = weights
        self._moments = {
            "exp_avg": torch.zeros_like(weights),
            "exp_avg_sq": torch.zeros_like(weights),
            "steps": torch.zeros(len(weights), device=weights.device),
        }

    def step(self, gradients: Tensor, active: list[bool], lr: float) -> None:
        """One update in place of the rows marked active; ``gradients [K,P]`` is clipped in place."""
        if self.config.clip is not None:
            norms = gradients.norm(dim=1, keepdim=True)
            gradients.mul_((self.config.clip / (norms + 1e-6)).clamp(max=1.0))
        for k in (k for k, on in enumerate(active) if on):
            self._moments["steps"][k] += 1
            torch._fused_adamw_(
                [self._weights[k]],
                [gradients[k]],
                [self._moments["exp_avg"][k]],
                [self._moments["exp_avg_sq"][k]],
                [],
                [self._moments["steps"][k]],
                lr=lr,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=self.config.weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def keep(self, weights: Tensor, folds: list[int]) -> None:
        """Goes on with the rows ``folds`` alone, whose weights now lie in ``weights``."""
        self._weights = weights
        self._moments = {name: moment[folds].clone() for name, moment in self._moments.items()}

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's memory, ``[K,P]`` and the step counts ``[K]``, for a checkpoint."""
        return dict(self._moments)

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Takes up the memory that :meth:`moments` gave."""
        self._moments = {name: moment.to(self._weights.device).clone() for name, moment in moments.items()}
