"""Cross-validation: all folds advance together, epoch by epoch, each stopping at its own best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

from fusion_lab.contracts import Batch, Task
from fusion_lab.data.portions import targets_of
from fusion_lab.training import checkpoints
from fusion_lab.training.batches import counted, gather, padded
from fusion_lab.training.execution import settle
from fusion_lab.training.leaves import Leaves, stack_models
from fusion_lab.training.monitor import (
    also_scored,
    flat_steps,
    of_main_tasks,
    over_all_folds,
    probabilities,
    score_name,
    undefined_folds,
    watched,
)
from fusion_lab.training.plan import Plan
from fusion_lab.training.predict import joined, predict
from fusion_lab.training.results import Checkpoint, CrossValidation, FoldResult
from fusion_lab.training.stack import Stack
from fusion_lab.training.state import State, discard
from fusion_lab.training.steps import LOSS, Steps


class Diverged(ArithmeticError):  # noqa: N818 - it says what happened
    """A loss that is no number any more."""


@dataclass(frozen=True)
class Evaluation:
    """What the world is told after every epoch. ``value``: the objective so far, each fold with its best epoch yet, or
    with its latest where the last one is restored.
    """

    epoch: int
    epochs: int
    value: float
    fold_scores: tuple[float, ...]  # the watched value of that epoch of each fold
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
        ConfigError: CUDA is asked for and there is none; folds are to be stacked and the model cannot be.
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
        everything = targets_of(plan.dataset)
        self.undefined = undefined_folds(self.spec, plan.training, plan.folds, everything)
        self.steps = Steps(plan, everything)
        self.val_rows = padded(plan.folds.val)
        self.val = gather(plan, self.val_rows, plan.scaler)
        self.state = self._state()
        self.execution = self.state.execution
        self.stack = Stack(self.model, plan.objective, self.execution.mode, self.execution.size)
        self._select(self.state.alive)

    def run(self, on_eval: OnEval) -> CrossValidation:
        """Epoch after epoch until every fold has ended. What ``on_eval`` decides counts before the state is saved: a
        run that is taken up again does not go on with a fold that was stopped.

        Raises:
            Diverged: a loss that is no number any more.
            DataError: the checkpoint cannot be written or removed.
        """
        start, state = time.perf_counter(), self.state
        while state.alive and state.epoch < self.plan.training.epochs:
            trained = self.steps.run(self.stack, state.weights, state.optimiser, state.epoch)
            state.epoch += 1
            self._check_finite("training", trained[LOSS])
            self._validate(trained)
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
        folder = None if self.checkpoint is None else self.checkpoint.parent
        return State.start(self.plan, settle(self.plan), self._blank_scores(), folder)

    def _blank_scores(self) -> Leaves:
        """Where the validation scores of the best epochs go."""
        some = pytree.tree_map(lambda leaf: leaf[:1], self.val)
        heads = Stack(self.model, self.plan.objective, "loop").answers(stack_models([self.model]), some).heads
        shapes = probabilities(heads, self.spec, self.steps.of_all.take([0]))
        return {task: scores.new_zeros(len(self.plan.folds), *scores.shape[1:]) for task, scores in shapes.items()}

    def _select(self, alive: list[int]) -> None:
        """Everything per fold, of the running folds alone."""
        everyone = len(alive) == len(self.plan.folds)
        self.steps.select(alive)
        self.alive_val = self.val if everyone else pytree.tree_map(lambda leaf: leaf[alive], self.val)

    def _validate(self, trained: dict[str, Tensor]) -> None:
        """Scores of every running fold on its validation rows, beside the means of its training; keeps weights and
        scores of a new best epoch.
        """
        state, plan = self.state, self.plan
        output = self.stack.answers(state.weights, self.alive_val)
        standardised = self.steps.scale.standardise(self.alive_val)
        losses = self.stack.losses(output, standardised, self.steps.class_weights).double().cpu()
        of_parts = self.stack.parts_of_losses(output, standardised, self.steps.class_weights)
        self._check_finite("validation", losses)
        scores = probabilities(output.heads, self.spec, self.steps.scale)
        own = {task.name: self._scores(task, scores[task.name], self.alive_val) for task in self.spec.tasks}
        curves = {self._curve(task): own[task.name] for task in self.spec.tasks}
        curves |= {name: values for name, values in self._more_curves(scores).items() if name not in curves}
        by_loss = [self.undefined[k] or plan.training.monitor == "loss" for k in state.alive]
        together = of_main_tasks(self.spec, plan.training.goal, own)
        values = checkpoints.watched_values(own, together, losses, by_loss)
        rates = self.steps.rates(state.epoch - 1)
        for place, k in enumerate(state.alive):
            row = {"epoch": float(state.epoch), "lr": rates[place]}
            row |= {f"train/{name}": float(values[place]) for name, values in trained.items()}
            row |= {"val/loss": float(losses[place]), **{n: float(c[place]) for n, c in curves.items()}}
            row |= {f"val/{name}": float(values[place]) for name, values in of_parts.items()}
            state.histories[k].append(row)
            self._keep_better(place, values[checkpoints.MEAN][place], scores)
            for name in state.kept.keys() & values.keys():
                if state.kept[name].better(k, state.epoch, values[name][place]):
                    state.put_by(place)
        state.clear_shelf()

    def _keep_better(self, place: int, value: float, scores: dict[str, Tensor]) -> None:
        """Keeps a running fold's weights and scores if ``value`` is its best yet (or the last is asked for), or ends it
        once patience is over.
        """
        state, k = self.state, self.state.alive[place]
        if value > state.watched[k] or self.plan.training.restore == "last":
            state.watched[k], state.best_epoch[k] = value, state.epoch
            if self.plan.training.restore == "best":  # the last are put by when the fold ends
                state.put_by(place)
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

    def _more_curves(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """What ``training.curves`` asks for, each float64 ``[K]``."""
        found: dict[str, Tensor] = {}
        if not self.plan.training.curves:
            return found
        for task in self.spec.tasks:
            rows = flat_steps(task, scores[task.name], self.alive_val.targets[task.name], counted(self.alive_val, task))
            for name, score in also_scored(task, self.plan.training.curves).items():
                found[f"val/{task.name}/{name}"] = score(task, *rows).double().cpu()
        return found

    def _evaluation(self, seconds: float) -> Evaluation:
        state, epochs = self.state, self.plan.training.epochs
        running = [k for k in state.alive if state.endings[k] is None and state.epoch < epochs]
        return Evaluation(state.epoch, epochs, self._value(), tuple(state.watched), tuple(running), seconds)

    def _value(self) -> float:
        """The objective so far, over all folds."""
        if self.plan.training.monitor == "loss":
            return float(np.mean(self.state.watched))
        return over_all_folds(self.spec, self.plan.training.goal, self.state.best_scores, self.val)

    def _end(self, decision: Decision) -> None:
        state = self.state
        for k in state.alive:
            if state.endings[k] is None and (decision.prune or k in decision.stop):
                state.endings[k] = "pruned"
            elif state.endings[k] is None and state.epoch >= self.plan.training.epochs:
                state.endings[k] = "epochs"

    def _result(self, start: float) -> CrossValidation:
        plan = self.plan
        best = self.state.shelf.stacked(list(enumerate(self.state.best_epoch)), plan.device)
        val, maps = predict(self.stack, self.spec, self.steps.of_all, best, "val", self.val_rows, self.val)
        rows = padded(plan.folds.test)
        test, _ = predict(self.stack, self.spec, self.steps.of_all, best, "test", rows, gather(plan, rows, plan.scaler))
        return CrossValidation(
            folds=tuple(self._fold(k) for k in range(len(plan.folds))),
            predictions=joined(val, test),
            maps=maps,
            parameters=self.model.count_parameters(),
            seconds=time.perf_counter() - start,
            notes=self._notes(),
            execution=str(self.execution),
        )

    def _fold(self, k: int) -> FoldResult:
        state = self.state
        restored = Checkpoint(state.best_epoch[k], checkpoints.on_cpu(state.shelf.get((k, state.best_epoch[k]))))
        return FoldResult(
            fold=k,
            name=self.plan.folds.names[k],
            best_epoch=state.best_epoch[k],
            epochs=len(state.histories[k]),
            ending=state.endings[k] or "epochs",
            history=tuple(state.histories[k]),
            weights=restored.weights,
            target_scale=self.steps.of_all.fold(k),
            checkpoints=checkpoints.all_of(state.kept, state.shelf, k, restored, self.plan.training),
        )

    def _notes(self) -> tuple[str, ...]:
        names = [name for name, undefined in zip(self.plan.folds.names, self.undefined, strict=True) if undefined]
        if not names:
            return ()
        score = score_name(self.plan.training.monitor)
        return (
            f"{', '.join(names)}: {score} is undefined on the validation rows; stopped by the validation loss, and "
            f"the mean over folds is the {score} of all folds' validation rows together",
        )
