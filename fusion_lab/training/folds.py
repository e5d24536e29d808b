"""Cross-validation: all folds advance together, epoch by epoch, each stopping at its own best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import Batch, Task
from fusion_lab.training.augmentation import drop_modalities
from fusion_lab.training.batches import Padded, counted, draw, gather, padded
from fusion_lab.training.monitor import flat_steps, mean_over_folds, probabilities, undefined_folds, watched
from fusion_lab.training.optimiser import learning_rate
from fusion_lab.training.plan import Plan
from fusion_lab.training.predict import joined, predict
from fusion_lab.training.results import CrossValidation, FoldResult
from fusion_lab.training.stack import Stack
from fusion_lab.training.state import State, discard
from fusion_lab.training.targets import TargetScale


class Diverged(ArithmeticError):  # noqa: N818 - it says what happened
    """A loss that is no number any more."""


@dataclass(frozen=True)
class Evaluation:
    """What the world is told after every epoch. ``value``: the objective so far, each fold with its best epoch yet."""

    epoch: int
    epochs: int
    value: float
    fold_scores: tuple[float, ...]  # the watched value of each fold's best epoch yet
    running: tuple[int, ...]  # folds that have another epoch before them
    seconds: float


@dataclass(frozen=True)
class Decision:
    """What the world answers: end everything (``prune``), or end some folds at what they have reached."""

    prune: bool = False
    stop: frozenset[int] = frozenset()


CONTINUE = Decision()
OnEval = Callable[[Evaluation], Decision]


def cross_validate(plan: Plan, on_eval: OnEval | None = None, checkpoint: Path | None = None) -> CrossValidation:
    """Trains and validates every fold of a plan, and predicts its validation and test rows at the best epoch.

    Args:
        plan: the built configuration.
        on_eval: called after every epoch.
        checkpoint: where the state is saved after every epoch, and taken up from if it is there already: what comes out
            is what would have come out without the interruption. Removed at the end.

    Raises:
        ConfigError: CUDA is asked for and there is none.
        DataError: validation rows that leave the watched score without a value, a checkpoint of something else, or one
            that cannot be written.
        Diverged: a loss that is no number any more.
    """
    return _CrossValidation(plan, checkpoint).run(on_eval or (lambda evaluation: CONTINUE))


class _CrossValidation:
    def __init__(self, plan: Plan, checkpoint: Path | None) -> None:
        self.plan, self.checkpoint = plan, checkpoint
        self.spec = plan.dataset.spec
        self.model = plan.initial_weights(0).to(plan.device)
        self.stack = Stack(self.model, plan.objective, plan.training.mode)
        everything = plan.dataset.gather(torch.arange(len(plan.dataset)))
        self.undefined = undefined_folds(self.spec, plan.training, plan.folds, everything)
        of_task = plan.objective.class_weights(everything.targets, everything.known, plan.folds.train)
        self.class_weights = {task: weights.to(plan.device, plan.dtype) for task, weights in of_task.items()}
        self.scale = TargetScale.fit(self.spec.tasks, everything, plan.folds.train).to(plan.device)
        self.val_rows = padded(plan.folds.val)
        self.val = gather(plan, self.val_rows, plan.scaler)
        self.state = self._state()
        self._select(self.state.alive)

    def run(self, on_eval: OnEval) -> CrossValidation:
        start, state = time.perf_counter(), self.state
        while state.alive and state.epoch < self.plan.training.epochs:
            losses = self._train_epoch()
            self._validate(losses)
            decision = on_eval(self._evaluation(time.perf_counter() - start))
            self._end(decision)
            if state.compact():
                self._select(state.alive)
            if self.checkpoint is not None and state.alive:
                state.save(self.checkpoint, self.plan.fingerprint)
        result = self._result(start)
        if self.checkpoint is not None:
            discard(self.checkpoint)
        return result

    def _state(self) -> State:
        if self.checkpoint is not None and self.checkpoint.exists():
            return State.load(self.checkpoint, self.plan)
        blank = probabilities(self.stack.answers(self._initial(), self.val).heads, self.spec, self.scale)
        return State.start(self.plan, self.stack.layout, {t: torch.zeros_like(s) for t, s in blank.items()})

    def _initial(self) -> Tensor:
        row = self.stack.layout.join(dict(self.model.named_parameters()))
        return row.expand(len(self.plan.folds), -1).clone()

    def _select(self, alive: list[int]) -> None:
        """Everything per fold, of the running folds alone."""
        everyone = len(alive) == len(self.plan.folds)
        self.alive_scaler = self.plan.scaler if everyone else self.plan.scaler.take(alive)
        self.alive_scale = self.scale.take(alive)
        self.alive_val = self.val if everyone else pytree.tree_map(lambda leaf: leaf[alive], self.val)
        self.alive_weights = {task: weights[alive] for task, weights in self.class_weights.items()}

    def _train_epoch(self) -> Tensor:
        """One pass of every running fold over its training rows; mean loss of each fold ``[A]``."""
        plan, state = self.plan, self.state
        lr = learning_rate(plan.optimiser, state.epoch, plan.training.epochs)
        total, count = torch.zeros(len(state.alive)), torch.zeros(len(state.alive))
        for step, rows in enumerate(draw(plan, state.alive, state.epoch)):
            batch, keys = self._step_input(rows, state.epoch * 1_000_000 + step)
            active = [bool(fold.any()) for fold in rows[1]]
            losses, gradients = self.stack.gradients(state.weights, batch, keys, self.alive_weights, active)
            state.optimiser.step(gradients, active, lr)
            weight = torch.from_numpy(rows[1].sum(axis=1)).float()
            total += losses.detach().float().cpu() * weight
            count += weight
        state.epoch += 1
        self._check_finite("training", total)
        return total / count

    def _step_input(self, rows: Padded, place: int) -> tuple[Batch, Tensor]:
        """Augmented rows ``[A,B]`` and the key of each fold's dropout, by the fold's name and its place in training."""
        plan = self.plan
        names = [plan.folds.names[k] for k in self.state.alive]
        draws = [generator(plan.seed, plan.trial, "augment", name, place) for name in names]
        batch = self.alive_scale.standardise(gather(plan, rows, self.alive_scaler))
        batch = drop_modalities(batch, plan.augmentation.modality_dropout, draws)
        keys = [plan.key("dropout", name, place) for name in names]
        return batch, torch.tensor(keys, dtype=torch.int32, device=plan.device)

    def _validate(self, train_losses: Tensor) -> None:
        """Scores of every running fold on its validation rows; keeps weights and scores of a new best epoch."""
        state, plan = self.state, self.plan
        output = self.stack.answers(state.weights, self.alive_val)
        standardised = self.alive_scale.standardise(self.alive_val)
        losses = self.stack.losses(output, standardised, self.alive_weights).double().cpu()
        self._check_finite("validation", losses)
        scores = probabilities(output.heads, self.spec, self.alive_scale)
        curves = {self._curve(t): self._scores(t, scores[t.name], self.alive_val) for t in self.spec.tasks}
        means = torch.stack(list(curves.values())).mean(0)
        lr = learning_rate(plan.optimiser, state.epoch - 1, plan.training.epochs)
        for place, k in enumerate(state.alive):
            row = {"epoch": float(state.epoch), "lr": lr, "train/loss": float(train_losses[place])}
            row |= {"val/loss": float(losses[place]), **{n: float(c[place]) for n, c in curves.items()}}
            state.histories[k].append(row)
            by_loss = self.undefined[k] or plan.training.monitor == "loss"
            self._keep_better(place, -float(losses[place]) if by_loss else float(means[place]), scores)

    def _keep_better(self, place: int, value: float, scores: dict[str, Tensor]) -> None:
        """Keeps a running fold's weights and scores if ``value`` is its best yet, or ends it once patience is over."""
        state, k = self.state, self.state.alive[place]
        if value > state.watched[k]:
            state.watched[k], state.best_epoch[k] = value, state.epoch
            state.best_weights[k] = state.weights[place]
            for task, best in state.best_scores.items():
                best[k] = scores[task][place]
        elif state.epoch - state.best_epoch[k] >= self.plan.training.patience:
            state.endings[k] = "patience"

    def _check_finite(self, what: str, losses: Tensor) -> None:
        for loss, k in zip(losses.tolist(), self.state.alive, strict=True):
            if not np.isfinite(loss):
                name = self.plan.folds.names[k]
                raise Diverged(f"{name}: the {what} loss of epoch {self.state.epoch} is {loss}")

    def _curve(self, task: Task) -> str:
        return f"val/{task.name}/{watched(task, self.plan.training.monitor)[0]}"

    def _scores(self, task: Task, scores: Tensor, batch: Batch) -> Tensor:
        """The watched score of each fold, float64 ``[K]``."""
        score = watched(task, self.plan.training.monitor)[1]
        return score(task, *flat_steps(task, scores, batch.targets[task.name], counted(batch, task))).double().cpu()

    def _evaluation(self, seconds: float) -> Evaluation:
        state, epochs = self.state, self.plan.training.epochs
        running = [k for k in state.alive if state.endings[k] is None and state.epoch < epochs]
        return Evaluation(state.epoch, epochs, self._value(), tuple(state.watched), tuple(running), seconds)

    def _value(self) -> float:
        """The objective so far, over all folds."""
        if self.plan.training.monitor == "loss":
            return float(np.mean(self.state.watched))
        return float(np.mean([self._task_value(task) for task in self.spec.tasks]))

    def _task_value(self, task: Task) -> float:
        score = watched(task, self.plan.training.monitor)[1]
        rows = self.state.best_scores[task.name], self.val.targets[task.name], counted(self.val, task)
        return mean_over_folds(task, score, *flat_steps(task, *rows))

    def _end(self, decision: Decision) -> None:
        state = self.state
        for k in state.alive:
            if state.endings[k] is None and (decision.prune or k in decision.stop):
                state.endings[k] = "pruned"
            elif state.endings[k] is None and state.epoch >= self.plan.training.epochs:
                state.endings[k] = "epochs"

    def _result(self, start: float) -> CrossValidation:
        plan, best = self.plan, self.state.best_weights
        val, maps = predict(self.stack, self.spec, self.scale, best, "val", self.val_rows, self.val)
        rows = padded(plan.folds.test)
        test, _ = predict(self.stack, self.spec, self.scale, best, "test", rows, gather(plan, rows, plan.scaler))
        return CrossValidation(
            folds=tuple(self._fold(k) for k in range(len(plan.folds))),
            predictions=joined(val, test),
            maps=maps,
            parameters=self.model.count_parameters(),
            seconds=time.perf_counter() - start,
            notes=self._notes(),
        )

    def _fold(self, k: int) -> FoldResult:
        state = self.state
        weights = self.stack.layout.split(state.best_weights[k])
        return FoldResult(
            fold=k,
            name=self.plan.folds.names[k],
            best_epoch=state.best_epoch[k],
            epochs=len(state.histories[k]),
            ending=state.endings[k] or "epochs",
            history=tuple(state.histories[k]),
            weights={name: leaf.cpu().clone() for name, leaf in weights.items()},
            target_scale=self.scale.fold(k),
        )

    def _notes(self) -> tuple[str, ...]:
        names = [name for name, undefined in zip(self.plan.folds.names, self.undefined, strict=True) if undefined]
        if not names:
            return ()
        monitor = self.plan.training.monitor
        return (
            f"{', '.join(names)}: {monitor} is undefined on the validation rows; stopped by the validation loss, and "
            f"the mean over folds is the {monitor} of all folds' validation rows together",
        )
