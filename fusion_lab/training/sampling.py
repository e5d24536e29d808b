"""Which training rows an epoch draws: each once, or those with a rare positive label more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from fusion_lab.config import Config
from fusion_lab.contracts import Batch, ConfigError, Spec, Task


class SamplerConfig(Config):
    """An epoch of a fold draws as many rows as it has for training, with replacement, each as likely as it weighs:
    ``1 + rare_oversample_mult`` if it is positive in a rare task, at most ``sample_weight_cap``, else 1. Rare are
    binary main tasks that less than ``rare_prev_thr`` of the fold's own known training labels are positive in.

    The weights of the classes in the loss stay those of the training rows, not of what is drawn: the two add up.
    """

    rare_oversample_mult: float = Field(ge=0.0, le=200.0)
    rare_prev_thr: float = Field(0.05, gt=0.0, le=1.0)
    sample_weight_cap: float = Field(20.0, ge=1.0)


def check_sampler(spec: Spec, config: SamplerConfig | None) -> None:
    """Refuses to draw by rare positives where no task can have any.

    Raises:
        ConfigError: no main task is binary.
    """
    if config is not None and not any(task.kind == "binary" for task in spec.main_tasks):
        found = ", ".join(f"{task.name} ({task.kind})" for task in spec.main_tasks)
        raise ConfigError(f"training.sampler: expected a binary main task, whose positives may be rare, found {found}")


def row_weights(tasks: Sequence[Task], everything: Batch, rows: np.ndarray, config: SamplerConfig) -> np.ndarray:
    """How likely a fold's training rows are drawn, float ``[N]``, relative to each other.

    Args:
        tasks: the main tasks; those per step are positive in a row where they are at one of its steps.
        everything: targets and known labels of all rows, leaves ``[R,...]``.
        rows: the training rows, int ``[N]``: no other row is read.
        config: what is rare, and how much more often it is drawn.
    """
    rare = np.zeros(len(rows), bool)
    for task in tasks:
        if task.kind == "binary":
            known = everything.known[task.name].numpy()[rows].reshape(len(rows), -1)
            positive = known & (everything.targets[task.name].numpy()[rows].reshape(len(rows), -1) > 0.5)
            if positive.sum() < config.rare_prev_thr * known.sum():
                rare |= positive.any(1)
    return np.clip(1.0 + config.rare_oversample_mult * rare, 1.0, config.sample_weight_cap)


def order_of(rows: np.ndarray, weights: np.ndarray | None, draws: np.random.Generator) -> np.ndarray:
    """An epoch's rows, int ``[N]``: a permutation without ``weights``, else drawn with replacement by them."""
    if weights is None:
        return draws.permutation(rows)
    return draws.choice(rows, len(rows), p=weights / weights.sum())
