"""The weights that folds keep beside those they answer with: of other best epochs, and of the last one.

``best_<task>`` is the epoch with the task's best watched score on the fold's validation rows (AUROC, or R2, beside a
monitored loss), by the validation loss where that score is undefined; ``best_mean`` the one that ``restore: best``
restores; ``final`` the last that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusion_lab.contracts import Spec
from fusion_lab.training.leaves import Leaves, of_fold, take
from fusion_lab.training.plan import TrainingConfig
from fusion_lab.training.results import Checkpoint

MEAN, FINAL = "best_mean", "final"


def of_task(task: str) -> str:
    """The name of a task's own checkpoint, which is not that of the mean over tasks, nor of another task.

    >>> of_task("survival"), of_task("mean"), of_task("task_mean")
    ('best_survival', 'best_task_mean', 'best_task_task_mean')
    """
    return f"best_task_{task}" if task == "mean" or task.startswith("task_") else f"best_{task}"


@dataclass
class Kept:
    """One kind of checkpoint of K folds: weights, leaves ``[K,*shape]``, the epoch that each fold has them from,
    counted from 1 (0: none yet), and the watched value by which it was chosen.
    """

    weights: Leaves
    epoch: list[int]
    watched: list[float]

    @classmethod
    def blank(cls, weights: Leaves) -> Kept:
        folds = len(next(iter(weights.values())))
        return cls(take(weights, range(folds)), [0] * folds, [-float("inf")] * folds)

    def put(self, fold: int, weights: Leaves, place: int, epoch: int) -> None:
        """Takes over the weights that a fold has in its ``place`` of the stack."""
        self.epoch[fold] = epoch
        for name, leaf in self.weights.items():
            leaf[fold] = weights[name][place]

    def put_better(self, fold: int, weights: Leaves, place: int, epoch: int, value: float) -> None:
        """The same, where ``value`` is the fold's best yet."""
        if value > self.watched[fold]:
            self.watched[fold] = value
            self.put(fold, weights, place, epoch)

    def numbers(self) -> dict[str, Any]:
        """What is no tensor, as plain values."""
        return {"epoch": self.epoch, "watched": self.watched}

    def of(self, fold: int) -> Checkpoint:
        return Checkpoint(self.epoch[fold], of_fold(self.weights, fold))


def kept_names(spec: Spec, training: TrainingConfig) -> list[str]:
    """The checkpoints that are not the restored weights under another name."""
    if training.checkpoints == "restored":
        return []
    return [*(of_task(task.name) for task in spec.tasks), FINAL if training.restore == "best" else MEAN]


def watched_values(scores: Mapping[str, Tensor], losses: Tensor, by_loss: Sequence[bool]) -> dict[str, list[float]]:
    """By what an epoch of each fold is chosen, ``{name: [A]}``, the higher the better.

    Args:
        scores: ``{task: [A]}``, the watched score of each fold; NaN where undefined.
        losses: ``[A]``, the validation losses.
        by_loss: whether the mean over tasks has to be left for the loss, of each fold.
    """
    own = {of_task(task): torch.where(score.isnan(), -losses, score) for task, score in scores.items()}
    mean = torch.where(torch.tensor(by_loss), -losses, torch.stack(list(scores.values())).mean(0))
    return {name: values.tolist() for name, values in (own | {MEAN: mean}).items()}


def all_of(
    kept: Mapping[str, Kept], fold: int, restored: Checkpoint, training: TrainingConfig
) -> dict[str, Checkpoint]:
    """All checkpoints of a fold by name, the restored one under the name that it has among them."""
    if training.checkpoints == "restored":
        return {}
    return {name: part.of(fold) for name, part in kept.items()} | {
        MEAN if training.restore == "best" else FINAL: restored
    }
