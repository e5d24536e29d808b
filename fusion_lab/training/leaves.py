"""Numbers of K folds by name: weights, gradients, the optimiser's memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Leaves = dict[str, Tensor]
"""``{name: [K,*shape]}``, a name for each parameter of a model; contiguous, so that a matrix product over the stack
copies nothing."""


def stack_models(models: Sequence[nn.Module]) -> Leaves:
    """The parameters of models of one shape, stacked."""
    assert not any(dict(model.named_buffers()) for model in models), "a buffer is a hidden state that folds would share"
    named = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([parameters[name].detach() for parameters in named]) for name in named[0]}


def take(leaves: Leaves, folds: Sequence[int]) -> Leaves:
    """A copy of some folds, in the order given."""
    index = list(folds)
    return {name: leaf[index] for name, leaf in leaves.items()}


def of_fold(leaves: Leaves, fold: int) -> dict[str, Tensor]:
    """A copy of one fold's leaves, on the CPU."""
    return {name: leaf[fold].cpu().clone() for name, leaf in leaves.items()}
