"""What a cross-validation leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from fusion_lab.contracts import AttentionMap, Predictions

Ending = Literal["patience", "epochs", "pruned"]


class Checkpoint(NamedTuple):
    """Weights of a fold, and the epoch that they are of, from 1."""

    epoch: int
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class FoldResult:
    """One fold: its curves and the weights of its best epoch.

    ``history`` has a row per epoch: ``epoch`` (from 1), ``lr``, ``train/loss`` and, beside it, the mean of each penalty
    in it as the model gives it (``train/<penalty>``), ``val/loss`` of the main tasks, ``val/<task>/<metric>``; where
    the objective has parts, ``train/loss of <part>`` and ``val/loss of <part>``, which add up to the losses but for
    penalties; an undefined score is NaN. ``best_epoch`` is the restored one. ``target_scale``: mean and standard
    deviation of each regression target over the training rows; the model answers in these units, ``value = mean + std *
    head``.
    ``checkpoints``: what ``training.checkpoints: all`` keeps, by name: ``best_<task>``, ``best_mean`` and ``final``;
    one of them shares its tensors with ``weights``.
    """

    fold: int
    name: str
    best_epoch: int
    epochs: int
    ending: Ending
    history: tuple[dict[str, float], ...]
    weights: dict[str, Tensor] = field(repr=False)
    target_scale: dict[str, tuple[float, float]] = field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class CrossValidation:
    """All folds of one configuration, each at its restored epoch."""

    folds: tuple[FoldResult, ...]
    predictions: Predictions = field(repr=False)  # validation and test rows
    maps: tuple[AttentionMap, ...] = field(repr=False)  # validation rows
    parameters: int  # effective: without the padding of grouped encoders
    seconds: float
    execution: str  # how the folds were computed, and why so
    notes: tuple[str, ...] = ()  # what a reader of the scores should know, one plain sentence each
