"""The objective of one mini-batch: masked task losses and model penalties, weighted and added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fusion_lab.config import nearest
from fusion_lab.contracts import Batch, ConfigError, Output, Spec, Task
from fusion_lab.objectives.losses import LOSSES, Bounds, ObjectiveConfig

PART = "loss of "
"""How curves of the objective's parts begin."""


class Objective:
    """``objective(output, batch, class_weights) -> scalar``; a row counts with ``batch.weight``, times its
    ``batch.emphasis`` of the task, where its label is known.

    Models give penalties while they train and only then, and what stops a training or is searched by does not go by
    auxiliary tasks: the objective of answers, such as the validation loss, is that :meth:`of_main_tasks`, and its curve
    lies below that of training rows by what penalties and auxiliary tasks add there.

    Args:
        config: losses and weights.
        spec: the tasks.
        penalties: names of the penalties that the model gives.

    Raises:
        ConfigError: a weight, gamma or clip of an unknown task, group or penalty, no main task of a weight above 0, a
            part of unknown tasks, with the name of a task, or with a task of another part.
    """

    def __init__(self, config: ObjectiveConfig, spec: Spec, penalties: tuple[str, ...] = ()) -> None:
        assert "loss" not in penalties, "the name of their sum in the curves"
        _refuse_strangers(config, spec, penalties)
        main = [task.name for task in spec.main_tasks]
        if not main:
            raise ConfigError("data: expected a task that is not auxiliary, found none")
        weights = task_weights(config, spec)
        if not any(weights[name] > 0 for name in main):
            raise ConfigError(f"objective.task_weights: expected a weight above 0, found 0 for {', '.join(main)}")
        self.config = config
        self.tasks, self._main = spec.tasks, spec.main_tasks
        self._own = {task.name: config.of(task.name) for task in spec.tasks}
        self._shares = task_shares(config, spec)
        self._parts = parts_of(config, spec)

    def __call__(self, output: Output, batch: Batch, class_weights: dict[str, Tensor]) -> Tensor:
        return self.with_curves(output, batch, class_weights)[0]

    def with_curves(
        self, output: Output, batch: Batch, class_weights: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective, and what curves show beside it, of which no gradient passes: its parts, where there are any,
        under names that begin with :data:`PART`, and each penalty's mean as the model gives it.
        """
        of_tasks = self._of_tasks(self.tasks, output, batch, class_weights)
        total = _sum(of_tasks, output)
        for name, penalty in output.penalties.items():
            total = total + self.config.penalty_weights.get(name, 1.0) * _masked_mean(penalty, batch.weight)
        return total, self._by_part(of_tasks) | mean_penalties(output, batch)

    def of_main_tasks(self, output: Output, batch: Batch, class_weights: dict[str, Tensor]) -> Tensor:
        """What the main tasks have in the objective, by which models are judged."""
        return _sum(self._of_tasks(self._main, output, batch, class_weights), output)

    def parts_of_main_tasks(self, output: Output, batch: Batch, class_weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts that :meth:`of_main_tasks` is the sum of, by the names of their curves; none where none are asked
        for.
        """
        return self._by_part(self._of_tasks(self._main, output, batch, class_weights)) if self._parts else {}

    def _of_tasks(
        self, tasks: Iterable[Task], output: Output, batch: Batch, class_weights: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What each task has in the objective."""
        found = {}
        for task in tasks:
            loss = LOSSES[getattr(self.config, task.kind)]
            parts = output.heads[task.name], batch.targets[task.name], class_weights[task.name], self._own[task.name]
            found[task.name] = self._shares[task.name] * _masked_mean(loss(*parts), _counted(batch, task.name))
        return found

    def _by_part(self, of_tasks: dict[str, Tensor]) -> dict[str, Tensor]:
        held = {part: [of_tasks[name].detach() for name in names if name in of_tasks] for part, names in self._parts}
        return {f"{PART}{part}": torch.stack(losses).sum(0) for part, losses in held.items() if losses}

    def class_weights(
        self, targets: dict[str, Tensor], known: dict[str, Tensor], rows: np.ndarray
    ) -> dict[str, Tensor]:
        """Per task and fold, from the rows of ``rows`` bool ``[K,R]`` alone.

        Binary ``[K,2]``: ``(1, negatives / positives)``, the latter clipped. Multiclass ``[K,C]``: inverse frequency
        with mean 1 over the rows; a class without rows weighs 0. Regression ``[K,1]``: ones.
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
                ratio = (counts[:, 0] / counts[:, 1].clamp(min=1)).clamp(0.0, self._own[task.name].pos_weight_clip)
                weights[task.name] = torch.stack([torch.ones_like(ratio), ratio], 1)
            else:
                share = counts.sum(1, keepdim=True) / counts.clamp(min=1) / (counts > 0).sum(1, keepdim=True)
                weights[task.name] = torch.where(counts > 0, share, torch.zeros(()))
        return weights


def parts_of(config: ObjectiveConfig, spec: Spec) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The objective's parts, each a name and its tasks, in the order of the tasks; none where none are asked for.

    >>> spec = Spec((), tuple(Task(name, "regression") for name in ("x", "scale", "y")))
    >>> parts_of(ObjectiveConfig(parts={"position": ("x", "y")}), spec)
    (('position', ('x', 'y')), ('scale', ('scale',)))
    """
    if not config.parts:
        return ()
    part_of = {task: part for part, tasks in config.parts.items() for task in tasks}
    held: dict[str, list[str]] = {}
    for task in spec.tasks:
        held.setdefault(part_of.get(task.name, task.name), []).append(task.name)
    return tuple((part, tuple(names)) for part, names in held.items())


def task_weights(config: ObjectiveConfig, spec: Spec) -> dict[str, float]:
    """The weight of each task, times that of its part."""
    own = {task.name: config.task_weights.get(task.name, 1.0) for task in spec.tasks}
    for part, names in config.parts.items():
        for name in names:
            own[name] *= config.task_weights.get(part, 1.0)
    return own


def task_shares(config: ObjectiveConfig, spec: Spec) -> dict[str, float]:
    """What the mean loss of each task is multiplied by in the objective."""
    own = task_weights(config, spec)
    main = [task.name for task in spec.main_tasks]
    if config.normalise_weights is not None:
        weights = normalised([own[name] for name in main], config.normalise_weights)
        own |= {name: weight / len(main) for name, weight in zip(main, weights, strict=True)}
    groups = [task.auxiliary for task in spec.tasks]
    for task in spec.tasks:
        if task.auxiliary:
            own[task.name] *= config.auxiliary_weights.get(task.auxiliary, 1.0) / groups.count(task.auxiliary)
    return own


def normalised(weights: Sequence[float], bounds: Bounds) -> list[float]:
    """Weights of mean 1, none far from it: divided by their mean, clipped, divided by their mean again.

    >>> [round(weight, 3) for weight in normalised([1.0, 3.0, 8.0], Bounds(floor=0.5, ceil=1.5))]
    [0.545, 0.818, 1.636]
    """
    found = np.asarray(weights, dtype=float)
    found = np.clip(found / found.mean(), bounds.floor, bounds.ceil)
    return (found / found.mean()).tolist()


def _refuse_strangers(config: ObjectiveConfig, spec: Spec, penalties: Sequence[str]) -> None:
    _refuse_parts(config, spec)
    binary = [task.name for task in spec.tasks if task.kind == "binary"]
    groups = list(dict.fromkeys(task.auxiliary for task in spec.tasks if task.auxiliary))
    for setting, what, given, known in (
        ("task_weights", "task", config.task_weights, [*(task.name for task in spec.tasks), *config.parts]),
        ("focal_gammas", "binary task", config.focal_gammas, binary),
        ("pos_weight_clips", "binary task", config.pos_weight_clips, binary),
        ("auxiliary_weights", "group of auxiliary tasks", config.auxiliary_weights, groups),
        ("penalty_weights", "penalty", config.penalty_weights, list(penalties)),
    ):
        for name in given:
            if name not in known:
                hint = nearest(name, known) or f" (this {'model' if what == 'penalty' else 'data'} has no {what})"
                raise ConfigError(f"objective.{setting}.{name}: unknown {what}{hint}")


def _refuse_parts(config: ObjectiveConfig, spec: Spec) -> None:
    tasks, taken = [task.name for task in spec.tasks], {}
    for part, names in config.parts.items():
        where = f"objective.parts.{part}"
        if part in tasks:
            raise ConfigError(f"{where}: expected a name that is no task's, found that of a task")
        for name in names:
            if name not in tasks:
                raise ConfigError(f"{where}: unknown task {name!r}{nearest(name, tasks)}")
            if name in taken:
                raise ConfigError(
                    f"{where}: expected tasks of one part each, found {name!r}, which is in {taken[name]}"
                )
            taken[name] = part


def _sum(of_tasks: dict[str, Tensor], output: Output) -> Tensor:
    total = next(iter(output.heads.values())).new_zeros(())
    for loss in of_tasks.values():
        total = total + loss
    return total


def mean_penalties(output: Output, batch: Batch) -> dict[str, Tensor]:
    """Mean of each penalty over the rows, as the model gives it: what a curve shows. No gradient passes."""
    return {name: _masked_mean(penalty.detach(), batch.weight) for name, penalty in output.penalties.items()}


def _counted(batch: Batch, task: str) -> Tensor:
    """How much each target counts in a task's loss, of the target's shape."""
    known, rows = batch.known[task], batch.weight
    if task in batch.emphasis:
        rows = rows * batch.emphasis[task]
    return known * rows.reshape(rows.shape + (1,) * (known.ndim - rows.ndim))


def _masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    total = counted.sum()
    return (values * counted).sum() / torch.where(total > 0, total, torch.ones_like(total))
