"""One model on all development rows, for as many epochs as the folds needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from fusion_lab.contracts import Folds, Predictions
from fusion_lab.data.portions import targets_of
from fusion_lab.data.scaling import Scaler
from fusion_lab.training.batches import gather, padded
from fusion_lab.training.folds import Diverged
from fusion_lab.training.leaves import Leaves, stack_models
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.plan import Plan
from fusion_lab.training.predict import predict
from fusion_lab.training.stack import Stack
from fusion_lab.training.steps import LOSS, Steps
from fusion_lab.training.targets import TargetScale

REFIT = "refit"
"""Name of the one fold, by which its randomness goes."""


def development(folds: Folds) -> Folds:
    """All rows that are not locked away, as the training rows of one fold."""
    rows = ~folds.holdout[None]
    none = np.zeros_like(rows)
    return replace(folds, train=rows, val=none, test=none, fit=rows, names=(REFIT,), notes=())


def median_epoch(best_epochs: Sequence[int]) -> int:
    """How long a model without validation rows is trained: the median of the folds' best epochs, rounded up.

    >>> median_epoch([3, 8, 5, 4])
    5
    """
    return max(1, int(np.ceil(np.median(best_epochs))))


class Refit(NamedTuple):
    """A trained model: weights, leaves ``[1,*shape]``, the scale of its targets, and what it says of the development
    rows.
    """

    weights: Leaves
    scale: TargetScale
    predictions: Predictions


def refit(plan: Plan, scaler: Scaler, epochs: int, on_epoch: Callable[[int, float], None] | None = None) -> Refit:
    """A model after ``epochs`` epochs on all development rows.

    Args:
        plan: the configuration as it was cross-validated; the learning rate follows the same schedule.
        scaler: fitted on the development rows, one fold.
        epochs: see :func:`median_epoch`.
        on_epoch: told of every epoch, counted from 1, and its training loss.

    Raises:
        Diverged: a loss that is no number any more.
    """
    alone = replace(plan, folds=development(plan.folds), scaler=scaler, optimisers=plan.optimisers[:1])
    model = alone.initial_weights(0).to(alone.device)
    steps = Steps(alone, targets_of(plan.dataset))
    weights = stack_models([model])
    optimiser, stack = StackedAdamW(weights, alone.optimisers), Stack(model, plan.objective, "loop")
    for epoch in range(epochs):
        loss = float(steps.run(stack, weights, optimiser, epoch)[LOSS])
        if not math.isfinite(loss) or not all(bool(leaf.isfinite().all()) for leaf in weights.values()):
            raise Diverged(f"{REFIT}: epoch {epoch + 1} left a loss of {loss}, or weights that are no numbers")
        if on_epoch is not None:
            on_epoch(epoch + 1, loss)
    rows = padded(alone.folds.train)
    told, _ = predict(stack, plan.dataset.spec, steps.of_all, weights, REFIT, rows, gather(alone, rows, scaler))
    own = {name: leaf.detach().cpu() for name, leaf in weights.items()}
    return Refit(own, steps.of_all.to(torch.device("cpu")), told)
