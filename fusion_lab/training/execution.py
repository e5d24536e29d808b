"""How folds are computed, together or in turn: as the configuration says, or decided by timing a few steps of each.
What comes out is the same.
"""

from __future__ import annotations

import math
import time

import torch

from fusion_lab.contracts import ConfigError
from fusion_lab.data.portions import targets_of
from fusion_lab.training.batches import padded
from fusion_lab.training.leaves import stack_models
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.plan import Execution, Plan
from fusion_lab.training.rules import broken_rule
from fusion_lab.training.shelf import size_in_bytes
from fusion_lab.training.stack import Stack
from fusion_lab.training.steps import Steps

ROUNDS, STEPS = 3, 2
"""Both ways run so many steps in turns; the quickest round counts, which a busy machine disturbs least."""
WORTH = 1.1
"""A stack holds all folds in memory: it has to be this many times quicker than the loop."""
MOST_BYTES = 250_000_000
"""Gradients of the folds that share a step should take no more, nor with the sums that they are added to where several
mini-batches are one step. A model of which they do in few folds fills the
processor by itself, and in a stack its gradients, copied once, would be beside all folds' weights and moments."""
LARGEST = 18
"""Stacks above this gain nothing on a CPU: more folds share a step in even parts."""


def settle(plan: Plan) -> Execution:
    """How a plan is to be computed."""
    mode, size, folds = plan.training.mode, plan.training.stack_size, len(plan.folds)
    if mode != "auto":
        return Execution(mode, size if mode == "stacked" else None, "asked for")
    if folds == 1:
        return Execution("loop", None, "there is one fold")
    fit = MOST_BYTES // _bytes_of_gradients(plan)
    if fit < 2:
        return Execution("loop", None, f"gradients of two folds would take more than {MOST_BYTES / 1e6:.0f} MB")
    trial = _Trial(plan)
    rule = trial.broken_rule()
    if rule is not None:
        return Execution("loop", None, f"the model cannot be stacked: {rule}")
    size = min(size, fit) if size else _even(folds, min(LARGEST, fit))
    together, in_turn = trial.times(
        Stack(trial.model, plan.objective, "stacked", size), Stack(trial.model, plan.objective, "loop")
    )
    told = f"{1e3 * together:.1f} ms for a step of one fold when stacked, {1e3 * in_turn:.1f} ms in the loop"
    return Execution("stacked", size, told) if together * WORTH < in_turn else Execution("loop", None, told)


def _bytes_of_gradients(plan: Plan) -> int:
    """Of one fold in a step."""
    own = sum(map(size_in_bytes, plan.initial_weights(0).parameters()))
    return own if plan.training.accumulate == 1 else 2 * own


def _even(folds: int, most: int) -> int | None:
    """How many folds share a step in parts as even as can be of ``most`` at most; ``None``: all of them."""
    return None if folds <= most else math.ceil(folds / math.ceil(folds / most))


def check_stackable(plan: Plan) -> None:
    """Refuses a plan that asks for stacked folds of a model that breaks a rule of stacking.

    Raises:
        ConfigError: naming the operation.
    """
    if plan.training.mode == "stacked" and len(plan.folds) > 1 and (rule := _Trial(plan).broken_rule()):
        expected = "expected auto or loop for a model that cannot be stacked"
        raise ConfigError(f"training.mode: {expected}, found 'stacked': {rule}")


class _Trial:
    """A few steps of a plan, on weights that nobody keeps."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = Steps(plan, targets_of(plan.dataset))
        self.model = plan.initial_weights(0).to(plan.device)

    def broken_rule(self) -> str | None:
        self.steps.select([0, 1])
        rows, real = padded(self.plan.folds.train[:2])
        batch = self.steps.batch((rows[:, :4], real[:, :4]))
        found = broken_rule(self.model, self.plan.objective, batch, self.steps.class_weights)
        self.steps.select(list(range(len(self.plan.folds))))
        return found

    def times(self, *stacks: Stack) -> list[float]:
        """Seconds that a step of one fold takes each stack."""
        plan, folds = self.plan, len(self.plan.folds)
        weights = stack_models([self.model] * folds)
        optimiser = StackedAdamW(weights, plan.optimisers)
        best = [math.inf] * len(stacks)
        for turn in range(1 + ROUNDS):
            for place, stack in enumerate(stacks):
                start = self._clock()
                self.steps.run(stack, weights, optimiser, 0, most=1 if turn == 0 else STEPS)
                if turn:  # the first is there to be slow
                    best[place] = min(best[place], (self._clock() - start) / STEPS / folds)
        return best

    def _clock(self) -> float:
        """Seconds: of the processor, which other processes do not disturb, or of the wall where a device computes."""
        if self.plan.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.plan.device)
        return time.perf_counter()
