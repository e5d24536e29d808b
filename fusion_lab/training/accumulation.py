"""Several mini-batches as one step of the optimiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusion_lab.training.leaves import Leaves
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.stack import Part


class Accumulation:
    """Takes a step for every ``batches`` mini-batches, with the mean of their gradients, each weighted by its rows.

    For a loss that is a mean over rows this is the gradient that one batch of all their rows would give. A task's loss
    is a mean over the rows whose label is known, by how much each counts in it: where these are not the same share of
    every mini-batch, rows of a batch with few of them count more than they would in one large batch.

    With more than one batch it holds a set of gradients of all folds, made with the first.

    Args:
        optimiser: what takes the steps.
        batches: how many mini-batches share one.
        rates: the learning rate of each of the K folds.
    """

    def __init__(self, optimiser: StackedAdamW, batches: int, rates: Sequence[float]) -> None:
        self._optimiser, self._batches, self._rates = optimiser, batches, list(rates)
        self._sums: Leaves = {}
        self._rows = torch.zeros(len(rates))
        self._seen = 0

    def add(self, part: Part, rows: Tensor) -> None:
        """The gradients of a part of the folds from a mini-batch of so many ``rows`` ``[K]`` of each fold; those of a
        fold that has none are worthless.
        """
        if self._batches == 1:  # while the gradients are in the cache
            self._optimiser.step(part.folds, part.gradients, (rows > 0).tolist(), self._rates)
            return
        own, folds = rows[part.folds], len(rows)
        for name, leaf in part.gradients.items():
            if name not in self._sums:
                self._sums[name] = leaf.new_zeros(folds, *leaf.shape[1:])
            count = _beside(own, leaf)
            if not own.all():
                leaf.masked_fill_(count == 0, 0)  # a product would keep what is no number
            self._sums[name][part.folds].addcmul_(leaf, count)

    def end_batch(self, rows: Tensor) -> None:
        """All parts of a mini-batch were added."""
        self._rows += rows
        self._seen += 1
        if self._seen == self._batches:
            self.end_epoch()

    def end_epoch(self) -> None:
        """Takes the step of what is left."""
        if self._sums and self._seen:
            for leaf in self._sums.values():
                leaf.div_(_beside(self._rows.clamp(min=1), leaf))
            folds = slice(0, len(self._rows))
            self._optimiser.step(folds, self._sums, (self._rows > 0).tolist(), self._rates)
            for leaf in self._sums.values():
                leaf.zero_()
        self._rows.zero_()
        self._seen = 0


def _beside(per_fold: Tensor, leaf: Tensor) -> Tensor:
    """``[K]`` in a shape that goes with ``[K,...]``."""
    return per_fold.to(leaf).reshape(-1, *(1,) * (leaf.ndim - 1))
