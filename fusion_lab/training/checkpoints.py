"""The weights that folds keep beside those they answer with: of other best epochs, and of the last one.

``best_<task>`` is the epoch with the task's best watched score on the fold's validation rows (AUROC, or R2, beside a
monitored loss), by the validation loss where that score is undefined; ``best_mean`` the one that ``restore: best``
restores; ``final`` the last that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion_lab.contracts import Spec
from fusion_lab.training.plan import TrainingConfig
from fusion_lab.training.results import Checkpoint
from fusion_lab.training.shelf import Filed, Shelf

MEAN, FINAL = "best_mean", "final"


def of_task(task: str) -> str:
    """The name of a task's own checkpoint, which is not that of the mean over tasks, nor of another task.

    >>> of_task("survival"), of_task("mean"), of_task("task_mean")
    ('best_survival', 'best_task_mean', 'best_task_task_mean')
    """
    return f"best_task_{task}" if task == "mean" or task.startswith("task_") else f"best_{task}"


@dataclass
class Kept:
    """One kind of checkpoint of K folds: the epoch that each fold has it from, counted from 1 (0: none yet), and the
    watched value by which it was chosen. The weights lie on the :class:`~fusion_lab.training.shelf.Shelf`.
    """

    epoch: list[int]
    watched: list[float]

    @classmethod
    def blank(cls, folds: int) -> Kept:
        return cls([0] * folds, [-float("inf")] * folds)

    def better(self, fold: int, epoch: int, value: float) -> bool:
        """Takes over an epoch if ``value`` is the fold's best yet; whether it is."""
        if value <= self.watched[fold]:
            return False
        self.watched[fold], self.epoch[fold] = value, epoch
        return True


def kept_names(spec: Spec, training: TrainingConfig) -> list[str]:
    """The checkpoints that are not the restored weights under another name."""
    if training.checkpoints == "restored":
        return []
    return [*(of_task(task.name) for task in spec.tasks), FINAL if training.restore == "best" else MEAN]


def watched_values(
    scores: Mapping[str, Tensor], together: Tensor, losses: Tensor, by_loss: Sequence[bool]
) -> dict[str, list[float]]:
    """By what an epoch of each fold is chosen, ``{name: [A]}``, the higher the better.

    Args:
        scores: ``{task: [A]}``, the watched score of each fold; NaN where undefined.
        together: ``[A]``, that of the main tasks together.
        losses: ``[A]``, the validation losses.
        by_loss: whether ``together`` has to be left for the loss, of each fold.
    """
    own = {of_task(task): torch.where(score.isnan(), -losses, score) for task, score in scores.items()}
    mean = torch.where(torch.tensor(by_loss), -losses, together)
    return {name: values.tolist() for name, values in (own | {MEAN: mean}).items()}


def all_of(
    kept: Mapping[str, Kept], shelf: Shelf, fold: int, restored: Checkpoint, training: TrainingConfig
) -> dict[str, Checkpoint]:
    """All checkpoints of a fold by name, the restored one under the name that it has among them."""
    if training.checkpoints == "restored":
        return {}
    own = {name: part.epoch[fold] for name, part in kept.items()}
    return {name: Checkpoint(epoch, on_cpu(shelf.get((fold, epoch)))) for name, epoch in own.items()} | {
        MEAN if training.restore == "best" else FINAL: restored
    }


def on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, where they are not there already."""
    if isinstance(weights, Filed):
        return weights
    return {name: leaf.cpu() for name, leaf in weights.items()}
