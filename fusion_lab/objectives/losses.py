"""Unreduced losses: ``[B]`` logits, targets and class weights in, ``[B]`` out. The masks are applied where they are
summed. Those of binary tasks take targets between 0 and 1, too: they are linear in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from fusion_lab.config import Config

Weight = Annotated[float, Field(ge=0.0)]  # below 0 a loss would be made as large as possible


PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]


class Bounds(Config):
    """How far the weights of tasks may lie from their mean, as multiples of it."""

    floor: Weight
    ceil: float = Field(gt=0.0)

    @model_validator(mode="after")
    def _floor_below_ceil(self) -> Bounds:
        if self.floor > self.ceil:
            raise ValueError(f"expected a floor of at most the ceil, found {self.floor:g} and {self.ceil:g}")
        return self


class ObjectiveConfig(Config):
    """What is minimised: a loss per kind of task, weighted over tasks and penalties.

    ``focal_alpha`` weighs the positives of ``focal`` (Lin et al., 2017), those of ``weighted_bce`` and
    ``weighted_focal`` weigh negatives over positives of the training rows, at most ``pos_weight_clip``.
    ``focal_gamma_negatives`` is another gamma for negatives (asymmetric focal loss: Ridnik et al., 2021, without their
    margin). ``focal_gammas`` and ``pos_weight_clips`` are those of single tasks. ``label_smoothing`` e turns a binary
    target y into y (1 - e) + e / 2. A regression's loss is of standardised targets: huber turns linear one standard
    deviation away.

    Main tasks add up, each times its ``task_weights``. With ``normalise_weights`` these are divided by their mean,
    clipped to ``floor`` and ``ceil`` and divided by their mean again, and the mean over main tasks is taken. A group of
    auxiliary tasks adds its ``auxiliary_weights`` times the mean over its tasks, each times its ``task_weights``. A
    task of weight 0 is not trained and still scored; a task, group or penalty that is not named weighs 1.

    ``parts`` are sums of tasks by a name: each, and each task that is in none, gets a curve of what it has in the
    objective; a weight in ``task_weights`` under a part's name multiplies those of all of its tasks.
    """

    binary: Literal["bce", "weighted_bce", "focal", "weighted_focal"] = "weighted_bce"
    multiclass: Literal["cross_entropy", "weighted_cross_entropy"] = "weighted_cross_entropy"
    regression: Literal["mse", "huber"] = "mse"
    focal_alpha: float = Field(0.25, gt=0.0, lt=1.0)
    focal_gamma: float = Field(2.0, ge=0.0)
    focal_gamma_negatives: float | None = Field(None, ge=0.0)
    focal_gammas: dict[str, Weight] = {}
    pos_weight_clip: float | None = Field(None, gt=0.0)
    pos_weight_clips: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    task_weights: dict[str, Weight] = {}
    parts: dict[PartName, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    normalise_weights: Bounds | None = None
    auxiliary_weights: dict[str, Weight] = {}
    penalty_weights: dict[str, Weight] = {}

    def of(self, task: str) -> ObjectiveConfig:
        """With ``focal_gamma`` and ``pos_weight_clip`` of a task."""
        gamma = self.focal_gammas.get(task, self.focal_gamma)
        clip = self.pos_weight_clips.get(task, self.pos_weight_clip)
        return self.model_copy(update={"focal_gamma": gamma, "pos_weight_clip": clip})


Loss = Callable[[Tensor, Tensor, Tensor, ObjectiveConfig], Tensor]


def bce(logits: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """Binary cross-entropy, ``[B]``."""
    smooth = target * (1 - config.label_smoothing) + config.label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")


def weighted_bce(logits: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """Binary cross-entropy whose positive term is multiplied by ``weights[1]``, negatives over positives of the
    training rows, clipped.
    """
    smooth = target * (1 - config.label_smoothing) + config.label_smoothing / 2
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    return -(weights[1] * smooth * log_p + weights[0] * (1 - smooth) * log_q)


def focal(logits: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """Focal loss ``alpha_t (1 - p_t)^gamma BCE`` (Lin et al., 2017), ``[B]``."""
    alpha = config.focal_alpha
    return alpha * target * _positive(logits, ONES, config) + (1 - alpha) * (1 - target) * _negative(
        logits, ONES, config
    )


def weighted_focal(logits: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """``(1 - p_t)^gamma`` times :func:`weighted_bce`, ``[B]``: the focal loss with the weights of the classes in place
    of alpha.
    """
    return target * _positive(logits, weights, config) + (1 - target) * _negative(logits, weights, config)


ONES = (1.0, 1.0)


def _positive(logits: Tensor, weights: Tensor | tuple[float, float], config: ObjectiveConfig) -> Tensor:
    """What a positive costs: ``(1 - p)^gamma`` by its logarithm, as a power's derivative has no value where the model
    is sure, times the weighted cross-entropy.
    """
    log_p, log_q, little = F.logsigmoid(logits), F.logsigmoid(-logits), config.label_smoothing / 2
    return -torch.exp(config.focal_gamma * log_q) * (weights[1] * (1 - little) * log_p + weights[0] * little * log_q)


def _negative(logits: Tensor, weights: Tensor | tuple[float, float], config: ObjectiveConfig) -> Tensor:
    gamma = config.focal_gamma if config.focal_gamma_negatives is None else config.focal_gamma_negatives
    log_p, log_q, little = F.logsigmoid(logits), F.logsigmoid(-logits), config.label_smoothing / 2
    return -torch.exp(gamma * log_p) * (weights[1] * little * log_p + weights[0] * (1 - little) * log_q)


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """Cross-entropy of ``[B,C]`` logits and class codes ``[B]``."""
    log_p = torch.log_softmax(logits, dim=-1)
    truth = torch.gather(log_p, -1, target.long().unsqueeze(-1)).squeeze(-1)
    return -(1 - config.label_smoothing) * truth - config.label_smoothing * log_p.mean(-1)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """Cross-entropy times the weight of the true class, ``weights [C]``."""
    return cross_entropy(logits, target, weights, config) * weights[target.long()]


def mse(values: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """Squared error, ``[B]``."""
    return (values - target) ** 2


def huber(values: Tensor, target: Tensor, weights: Tensor, config: ObjectiveConfig) -> Tensor:
    """Huber loss with delta 1 (Huber, 1964), ``[B]``."""
    return F.huber_loss(values, target, reduction="none")


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "weighted_bce": weighted_bce,
    "focal": focal,
    "weighted_focal": weighted_focal,
    "cross_entropy": cross_entropy,
    "weighted_cross_entropy": weighted_cross_entropy,
    "mse": mse,
    "huber": huber,
}
