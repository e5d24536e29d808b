"""Training steps of the folds that are still running."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from fusion_lab.blocks.randomness import draw_noise, generator
from fusion_lab.contracts import Batch
from fusion_lab.training.accumulation import Accumulation
from fusion_lab.training.augmentation import augment
from fusion_lab.training.batches import Padded, draw, gather
from fusion_lab.training.leaves import Leaves, take
from fusion_lab.training.optimiser import StackedAdamW, learning_rate
from fusion_lab.training.plan import Plan
from fusion_lab.training.sampling import row_weights
from fusion_lab.training.stack import Stack
from fusion_lab.training.targets import TargetScale

LOSS = "loss"
"""What is minimised, penalties included, among the means of an epoch; no penalty has this name."""


class Steps:
    """What the steps of a plan need beside weights, for the folds that :meth:`select` names; at first all of them.

    ``class_weights`` are leaves ``[A,C]``, ``scale`` and ``scaler`` the statistics of the A running folds.
    """

    def __init__(self, plan: Plan, everything: Batch) -> None:
        self.plan = plan
        tasks, rows = plan.dataset.spec.tasks, plan.folds.train
        of_task = plan.objective.class_weights(everything.targets, everything.known, rows)
        self._class_weights = {task: weights.to(plan.device, plan.dtype) for task, weights in of_task.items()}
        self.of_all = TargetScale.fit(tasks, everything, rows).to(plan.device)
        self._row_weights = _row_weights(plan, everything)
        self._draws: int | None = None  # of a step in each fold; all steps have rows of one number
        self.select(list(range(len(plan.folds))))

    def select(self, alive: list[int]) -> None:
        """Goes on with these folds."""
        self.alive = alive
        everyone = len(alive) == len(self.plan.folds)
        self.scaler = self.plan.scaler if everyone else self.plan.scaler.take(alive)
        self.scale = self.of_all.take(alive)
        self.class_weights = take(self._class_weights, alive)

    def rates(self, epoch: int) -> list[float]:
        """The learning rate of every running fold."""
        plan = self.plan
        return [learning_rate(plan.optimisers[k], epoch, plan.training.epochs) for k in self.alive]

    def run(
        self, stack: Stack, weights: Leaves, optimiser: StackedAdamW, epoch: int, most: int | None = None
    ) -> dict[str, Tensor]:
        """One pass of every running fold over its training rows, or the first ``most`` steps of it; means over their
        rows, of each fold ``[A]``: of :data:`LOSS`, of the objective's parts and of every penalty by their names.
        """
        taken = Accumulation(optimiser, self.plan.training.accumulate, self.rates(epoch))
        total: dict[str, Tensor] = defaultdict(lambda: torch.zeros(len(self.alive)))
        count = torch.zeros(len(self.alive))
        for step, rows in enumerate(islice(draw(self.plan, self.alive, epoch, self._row_weights), most)):
            batch, noise = self._input(stack, rows, epoch, epoch * 1_000_000 + step)
            active = [bool(fold.any()) for fold in rows[1]]
            counted = torch.from_numpy(rows[1].sum(axis=1)).float()
            for part in stack.gradients(weights, batch, noise, self.class_weights, active):
                taken.add(part, counted)
                for name, values in {LOSS: part.losses, **part.curves}.items():
                    total[name][part.folds] += values.float().cpu() * counted[part.folds]
            taken.end_batch(counted)
            count += counted
        taken.end_epoch()
        return {name: summed / count for name, summed in total.items()}

    def batch(self, rows: Padded, epoch: int = 0) -> Batch:
        """Scaled rows ``[A,B]``, regression targets in the unit of the loss, as they are trained on in an epoch."""
        batch = self.scale.standardise(gather(self.plan, rows, self.scaler))
        if self.plan.groups is None:
            return batch
        told = self.plan.groups.leaves(rows[0], epoch)
        return batch._replace(group={name: leaf.to(self.plan.device) for name, leaf in told.items()})

    def _input(self, stack: Stack, rows: Padded, epoch: int, place: int) -> tuple[Batch, Tensor]:
        """Augmented rows ``[A,B]`` and the noise of each fold's step, by the fold's name and its place in training."""
        plan = self.plan
        names = [plan.folds.names[k] for k in self.alive]
        draws = (generator(plan.seed, plan.trial, "augment", name, place) for name in names)
        batch = augment(self.batch(rows, epoch), plan.dataset.spec, plan.augmentation, draws)
        if self._draws is None:
            self._draws = stack.draws(batch)
        noise = np.stack([draw_noise(self._draws, plan.seed, plan.trial, "dropout", name, place) for name in names])
        return batch, torch.from_numpy(noise).to(plan.device)


def _row_weights(plan: Plan, everything: Batch) -> list[np.ndarray] | None:
    """How likely each fold's training rows are drawn; ``None``: each once."""
    sampler, tasks = plan.training.sampler, plan.dataset.spec.main_tasks
    if sampler is None:
        return None
    return [row_weights(tasks, everything, np.flatnonzero(members), sampler) for members in plan.folds.train]
