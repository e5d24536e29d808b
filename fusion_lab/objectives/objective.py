"""The objective of one mini-batch: masked task losses and model penalties, weighted and added up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fusion_lab.config import nearest
from fusion_lab.contracts import Batch, ConfigError, Output, Spec, Task
from fusion_lab.objectives.losses import LOSSES, ObjectiveConfig


class Objective:
    """``objective(output, batch, class_weights) -> scalar``; a row counts with ``batch.weight`` where its label is
    known.

    Models give penalties while they train and only then: the objective of answers, such as the validation loss, holds
    task losses alone, and its curve lies below that of training rows by what the penalties add there.

    Args:
        config: losses and weights.
        spec: the tasks.
        penalties: names of the penalties that the model gives.

    Raises:
        ConfigError: a weight of an unknown task or penalty, or no task of a weight above 0.
    """

    def __init__(self, config: ObjectiveConfig, spec: Spec, penalties: tuple[str, ...] = ()) -> None:
        assert "loss" not in penalties, "the name of their sum in the curves"
        names = [t.name for t in spec.tasks]
        for what, weights, known in (
            ("task", config.task_weights, names),
            ("penalty", config.penalty_weights, list(penalties)),
        ):
            for name in weights:
                if name not in known:
                    hint = nearest(name, known) or f" (this model has no {what})"
                    raise ConfigError(f"objective.{what}_weights.{name}: unknown {what}{hint}")
        if not any(config.task_weights.get(name, 1.0) > 0 for name in names):
            raise ConfigError(f"objective.task_weights: expected a weight above 0, found 0 for {', '.join(names)}")
        self.config = config
        self.tasks = spec.tasks

    def __call__(self, output: Output, batch: Batch, class_weights: dict[str, Tensor]) -> Tensor:
        total = output.heads[self.tasks[0].name].new_zeros(())
        for task in self.tasks:
            losses = LOSSES[self._loss(task)](
                output.heads[task.name], batch.targets[task.name], class_weights[task.name], self.config
            )
            known = batch.known[task.name]
            counted = known * batch.weight.reshape(batch.weight.shape + (1,) * (known.ndim - batch.weight.ndim))
            total = total + self.config.task_weights.get(task.name, 1.0) * _masked_mean(losses, counted)
        for name, penalty in output.penalties.items():
            total = total + self.config.penalty_weights.get(name, 1.0) * _masked_mean(penalty, batch.weight)
        return total

    def _loss(self, task: Task) -> str:
        return getattr(self.config, task.kind)

    def class_weights(
        self, targets: dict[str, Tensor], known: dict[str, Tensor], rows: np.ndarray
    ) -> dict[str, Tensor]:
        """Per task and fold, from the rows of ``rows`` bool ``[K,R]`` alone.

        Binary ``[K,2]``: ``(1, negatives / positives)``. Multiclass ``[K,C]``: inverse frequency with mean 1 over the
        rows; a class without rows weighs 0. Regression ``[K,1]``: ones.
        """
        weights: dict[str, Tensor] = {}
        members = torch.from_numpy(rows)
        for task in self.tasks:
            if task.kind == "regression":
                weights[task.name] = torch.ones(len(rows), 1)
                continue
            label, mask = targets[task.name].reshape(len(members[0]), -1), known[task.name].reshape(len(members[0]), -1)
            counts = torch.stack(
                [members.float() @ ((label == c) & mask).float().sum(1) for c in range(len(task.classes))], 1
            )
            if task.kind == "binary":
                ratio = counts[:, 0] / counts[:, 1].clamp(min=1)
                weights[task.name] = torch.stack([torch.ones_like(ratio), ratio], 1)
            else:
                share = counts.sum(1, keepdim=True) / counts.clamp(min=1) / (counts > 0).sum(1, keepdim=True)
                weights[task.name] = torch.where(counts > 0, share, torch.zeros(()))
        return weights


def mean_penalties(output: Output, batch: Batch) -> dict[str, Tensor]:
    """Mean of each penalty over the rows, as the model gives it: what a curve shows. No gradient passes."""
    return {name: _masked_mean(penalty.detach(), batch.weight) for name, penalty in output.penalties.items()}


def _masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    total = counted.sum()
    return (values * counted).sum() / torch.where(total > 0, total, torch.ones_like(total))
