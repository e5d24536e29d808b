"""Cross-validation: all folds advance together, epoch by epoch, each stopping at its own best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import AttentionMap, Batch, DataError, Predictions
from fusion_lab.data.scaling import Scaler
from fusion_lab.training.augmentation import drop_modalities
from fusion_lab.training.monitor import is_undefined, mean_over_folds, probabilities, watched
from fusion_lab.training.optimiser import learning_rate
from fusion_lab.training.plan import Plan
from fusion_lab.training.results import CrossValidation, FoldResult
from fusion_lab.training.stack import Stack
from fusion_lab.training.state import State


class Diverged(ArithmeticError):
    """A loss that is no number any more."""


@dataclass(frozen=True)
class Evaluation:
    """What the world is told after every epoch. ``value`` is the objective so far: a fold counts with its best epoch yet."""

    epoch: int
    epochs: int
    value: float
    fold_scores: tuple[float, ...]  # the watched value of each fold's best epoch yet
    running: tuple[int, ...]
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
        checkpoint: where the state is saved after every epoch, and taken up from if it is there already: what comes out is
            what would have come out without the interruption. Removed at the end.

    Raises:
        DataError: the watched score is undefined in a fold and the configuration says ``undefined: refuse``.
    """
    return _CrossValidation(plan, checkpoint).run(on_eval or (lambda evaluation: CONTINUE))


class _CrossValidation:
    def __init__(self, plan: Plan, checkpoint: Path | None) -> None:
        self.plan, self.checkpoint = plan, checkpoint
        self.spec = plan.dataset.spec
        self.model = plan.initial_weights(0).to(plan.device)
        self.stack = Stack(self.model, plan.objective, plan.training.mode)
        everything = plan.dataset.gather(torch.arange(len(plan.dataset)))
        self.class_weights = {
            task: weights.to(plan.device, plan.dtype)
            for task, weights in plan.objective.class_weights(
                everything.targets, everything.known, plan.folds.train
            ).items()
        }
        self.undefined = self._undefined(everything)
        self.val_rows = _padded(plan.folds.val)
        self.val = self._rows(*self.val_rows, plan.scaler)
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
        result = self._result(time.perf_counter() - start)
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)
        return result

    def _state(self) -> State:
        if self.checkpoint is not None and self.checkpoint.exists():
            return State.load(self.checkpoint, self.plan)
        blank = probabilities(self.stack.answers(self._initial(), self.val).heads, self.spec)
        return State.start(self.plan, self.stack.layout, {t: torch.zeros_like(s) for t, s in blank.items()})

    def _initial(self) -> Tensor:
        row = self.stack.layout.join(dict(self.model.named_parameters()))
        return row.expand(len(self.plan.folds), -1).clone()

    def _undefined(self, everything: Batch) -> list[bool]:
        """Whether each fold's validation rows leave the watched score undefined."""
        folds, refuse = self.plan.folds, self.plan.training.undefined == "refuse"
        undefined = []
        for k, rows in enumerate(folds.val):
            missing = [
                t.name
                for t in self.spec.tasks
                if is_undefined(t, everything.targets[t.name].numpy()[rows], everything.known[t.name].numpy()[rows])
            ]
            if missing and refuse:
                raise DataError(
                    f"{folds.names[k]}: expected every class of {missing[0]} among the validation rows, found fewer"
                )
            undefined.append(bool(missing))
        return undefined

    def _rows(self, rows: np.ndarray, real: np.ndarray, scaler: Scaler) -> Batch:
        batch = self.plan.batch(rows, scaler)
        return batch._replace(weight=batch.weight * torch.as_tensor(real).to(batch.weight))

    def _select(self, alive: list[int]) -> None:
        """Everything per fold, of the running folds alone."""
        everyone = len(alive) == len(self.plan.folds)
        self.alive_scaler = self.plan.scaler if everyone else self.plan.scaler.take(alive)
        self.alive_val = self.val if everyone else pytree.tree_map(lambda leaf: leaf[alive], self.val)
        self.alive_weights = {task: weights[alive] for task, weights in self.class_weights.items()}

    def _train_epoch(self) -> Tensor:
        """One pass of every running fold over its training rows; mean loss of each fold ``[A]``."""
        plan, state = self.plan, self.state
        lr = learning_rate(plan.optimiser, state.epoch, plan.training.epochs)
        total, count = torch.zeros(len(state.alive)), torch.zeros(len(state.alive))
        for step, (rows, real) in enumerate(self._draw()):
            place = state.epoch * 1_000_000 + step
            batch = self._rows(rows, real, self.alive_scaler)
            draws = [generator(plan.seed, plan.trial, "augment", k, place) for k in state.alive]
            batch = drop_modalities(batch, plan.augmentation.modality_dropout, draws)
            keys = torch.tensor(
                [plan.key("dropout", k, place) for k in state.alive], dtype=torch.int32, device=plan.device
            )
            active = real.any(axis=1)
            losses, gradients = self.stack.gradients(state.weights, batch, keys, self.alive_weights, active.tolist())
            state.optimiser.step(gradients, active.tolist(), lr)
            weight = torch.from_numpy(real.sum(axis=1)).float()
            total += losses.detach().float().cpu() * weight
            count += weight
        state.epoch += 1
        for place, k in enumerate(state.alive):
            if not torch.isfinite(total[place]):
                raise Diverged(
                    f"{plan.folds.names[k]}: the training loss of epoch {state.epoch} is {float(total[place])}"
                )
        return total / count

    def _draw(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows ``[A,B]`` of every step of the epoch and which of them are real; a fold with fewer rows repeats one that is not."""
        plan, size = self.plan, self.plan.training.batch_size
        orders = []
        for k in self.state.alive:
            draw = generator(plan.seed, plan.trial, "order", k, self.state.epoch)
            orders.append(draw.permutation(np.flatnonzero(plan.folds.train[k])))
        steps = max(-(-len(order) // size) for order in orders)
        rows = np.stack([np.concatenate([o, np.full(steps * size - len(o), o[0])]) for o in orders])
        real = np.stack([np.arange(steps * size) < len(o) for o in orders])
        for step in range(steps):
            part = slice(step * size, (step + 1) * size)
            yield rows[:, part], real[:, part]

    def _validate(self, train_losses: Tensor) -> None:
        """Scores of every running fold on its validation rows; keeps weights and scores of a new best epoch."""
        state, plan = self.state, self.plan
        output = self.stack.answers(state.weights, self.alive_val)
        losses = self.stack.losses(output, self.alive_val, self.alive_weights).double().cpu()
        scores = probabilities(output.heads, self.spec)
        curves = {
            f"val/{t.name}/{watched(t, plan.training.monitor)[0]}": self._task_scores(t, scores)
            for t in self.spec.tasks
        }
        means = torch.stack(list(curves.values())).mean(0)
        lr = learning_rate(plan.optimiser, state.epoch - 1, plan.training.epochs)
        for place, k in enumerate(state.alive):
            row = {"epoch": float(state.epoch), "lr": lr, "train/loss": float(train_losses[place])}
            row |= {"val/loss": float(losses[place]), **{n: float(c[place]) for n, c in curves.items()}}
            state.histories[k].append(row)
            by_loss = self.undefined[k] or plan.training.monitor == "loss"
            value = -float(losses[place]) if by_loss else float(means[place])
            if value > state.watched[k]:
                state.watched[k], state.best_epoch[k] = value, state.epoch
                state.best_weights[k] = state.weights[place]
                for task, best in state.best_scores.items():
                    best[k] = scores[task][place]
            elif state.epoch - state.best_epoch[k] >= plan.training.patience:
                state.endings[k] = "patience"

    def _task_scores(self, task, scores: dict[str, Tensor]) -> Tensor:
        known = self.alive_val.known[task.name] & (self.alive_val.weight > 0).reshape(
            self.alive_val.weight.shape + (1,) * (self.alive_val.known[task.name].ndim - 2)
        )
        _, score = watched(task, self.plan.training.monitor)
        values = score(task, *_flat_steps(task, scores[task.name], self.alive_val.targets[task.name], known))
        return values.double().cpu()

    def _evaluation(self, seconds: float) -> Evaluation:
        state, plan = self.state, self.plan
        if plan.training.monitor == "loss":
            value = -float(
                np.mean(
                    [
                        h[e - 1]["val/loss"] if e else np.nan
                        for h, e in zip(state.histories, state.best_epoch, strict=True)
                    ]
                )
            )
        else:
            value = float(np.mean([self._task_value(task) for task in self.spec.tasks]))
        running = tuple(k for k in state.alive if state.endings[k] is None)
        return Evaluation(state.epoch, plan.training.epochs, value, tuple(state.watched), running, seconds)

    def _task_value(self, task) -> float:
        known = self.val.known[task.name] & (self.val.weight > 0).reshape(
            self.val.weight.shape + (1,) * (self.val.known[task.name].ndim - 2)
        )
        _, score = watched(task, self.plan.training.monitor)
        return mean_over_folds(
            task, score, *_flat_steps(task, self.state.best_scores[task.name], self.val.targets[task.name], known)
        )

    def _end(self, decision: Decision) -> None:
        state = self.state
        for k in state.alive:
            if state.endings[k] is None and (decision.prune or k in decision.stop):
                state.endings[k] = "pruned"
            elif state.endings[k] is None and state.epoch >= self.plan.training.epochs:
                state.endings[k] = "epochs"

    def _result(self, seconds: float) -> CrossValidation:
        state, plan = self.state, self.plan
        val, maps = self._predict("val", self.val_rows, self.val)
        test_rows = _padded(plan.folds.test)
        test, _ = self._predict("test", test_rows, self._rows(*test_rows, plan.scaler))
        folds = tuple(
            FoldResult(
                fold=k,
                name=plan.folds.names[k],
                best_epoch=state.best_epoch[k],
                epochs=len(state.histories[k]),
                ending=state.endings[k] or "epochs",
                history=tuple(state.histories[k]),
                weights={n: w.cpu().clone() for n, w in self.stack.layout.split(state.best_weights[k]).items()},
            )
            for k in range(len(plan.folds))
        )
        return CrossValidation(folds, _joined(val, test), maps, self.model.count_parameters(), seconds, self._notes())

    def _notes(self) -> tuple[str, ...]:
        names = [self.plan.folds.names[k] for k, undefined in enumerate(self.undefined) if undefined]
        if not names or self.plan.training.monitor == "loss":
            return ()
        monitor = self.plan.training.monitor
        return (
            f"{', '.join(names)}: validation rows of one class, {monitor} undefined; stopped by the validation loss, and the mean over folds is the pooled {monitor}",
        )

    def _predict(
        self, split: str, padded: tuple[np.ndarray, np.ndarray], batch: Batch
    ) -> tuple[Predictions, tuple[AttentionMap, ...]]:
        rows, real = padded
        output = self.stack.answers(self.state.best_weights, batch)
        scores = probabilities(output.heads, self.spec)
        fold = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)[real]
        real_rows = torch.from_numpy(real)

        def flat(leaves: dict[str, Tensor]) -> dict[str, np.ndarray]:
            return {name: leaf.cpu()[real_rows].numpy() for name, leaf in leaves.items()}

        predictions = Predictions(
            fold, np.full(len(fold), split), rows[real], flat(batch.targets), flat(batch.known), flat(scores)
        )
        maps = tuple(
            AttentionMap(name, self.model.maps[name].kind, self.model.maps[name].axes, fold, rows[real], values)
            for name, values in flat(output.maps).items()
        )
        return predictions, maps


def _padded(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``[K,R]`` of a bool ``[K,rows]`` array, repeated to one length, and which of them are real."""
    rows = [np.flatnonzero(member) for member in members]
    longest = max(map(len, rows))
    padded = np.stack([np.concatenate([r, np.full(longest - len(r), r[0])]) for r in rows])
    return padded, np.stack([np.arange(longest) < len(r) for r in rows])


def _flat_steps(task, score: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A per-step task's rows and steps as rows."""
    if not task.per_step:
        return score, target, known
    folds = len(target)
    return score.reshape(folds, -1, *score.shape[target.ndim :]), target.reshape(folds, -1), known.reshape(folds, -1)


def _joined(a: Predictions, b: Predictions) -> Predictions:
    def both(name: str):
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, dict):
            return {key: np.concatenate([x[key], y[key]]) for key in x}
        return np.concatenate([x, y])

    return Predictions(*(both(name) for name in ("fold", "split", "row", "target", "known", "score")))
