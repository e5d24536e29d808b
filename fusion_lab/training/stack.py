"""K copies of one model as one matrix of weights: gradients and answers of all folds, stacked or fold by fold."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils import _pytree as pytree

from fusion_lab.contracts import Batch, Output
from fusion_lab.objectives import Objective
from fusion_lab.zoo import Model

Mode = Literal["stacked", "loop"]


class Layout:
    """Where each parameter of a model lies in one row of P weights."""

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        assert not dict(model.named_buffers()), "a buffer is a hidden state that folds would share"
        self.names = tuple(parameters)
        self.shapes = tuple(p.shape for p in parameters.values())
        self.sizes = [p.numel() for p in parameters.values()]

    def split(self, row: Tensor) -> dict[str, Tensor]:
        """One row ``[P]`` as named parameters; gradients flow through."""
        pieces = torch.split(row, self.sizes)
        return {n: p.reshape(s) for n, p, s in zip(self.names, pieces, self.shapes, strict=True)}

    def join(self, parameters: dict[str, Tensor]) -> Tensor:
        """Named parameters as one row ``[P]``."""
        return torch.cat([parameters[name].detach().reshape(-1) for name in self.names])


class Stack:
    """One model's function over weights ``[K,P]`` and batches ``[K,B,...]``.

    ``stacked`` maps the step over the folds (``torch.func.vmap``); ``loop`` runs the same step for one fold after the
    other: the reference, and the way for models that do not gain.
    """

    def __init__(self, model: Model, objective: Objective, mode: Mode) -> None:
        self.model = model
        self.objective = objective
        self.mode = mode
        self.layout = Layout(model)

    def gradients(
        self, weights: Tensor, batch: Batch, keys: Tensor, class_weights: dict[str, Tensor], active: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Losses ``[K]`` and their gradients ``[K,P]`` at ``weights``; of a fold that is not active both are worthless.

        Args:
            weights: ``[K,P]``.
            batch: leaves ``[K,B,...]``, scaled, with targets.
            keys: int32 ``[K]``.
            class_weights: ``{task: [K,C]}``.
            active: whether each fold has rows in this step.
        """
        if self.mode == "stacked":
            gradients, losses = vmap(grad_and_value(self._loss))(weights, batch, keys, class_weights)
            return losses, gradients
        gradients, losses = torch.zeros_like(weights), weights.new_zeros(len(weights))
        for k in (k for k, on in enumerate(active) if on):
            row = weights[k].detach().requires_grad_()
            loss = self._loss(row, _fold(batch, k), keys[k], {t: w[k] for t, w in class_weights.items()})
            (gradients[k],) = torch.autograd.grad(loss, row)
            losses[k] = loss.detach()
        return losses, gradients

    @torch.no_grad()
    def answers(self, weights: Tensor, batch: Batch) -> Output:
        """The model's evaluation output, leaves ``[K,B,...]``."""
        blind = batch.without_targets()
        if self.mode == "stacked":
            return vmap(self._answer)(weights, blind)
        outputs = [self._answer(weights[k], _fold(blind, k)) for k in range(len(weights))]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *outputs)

    @torch.no_grad()
    def losses(self, output: Output, batch: Batch, class_weights: dict[str, Tensor]) -> Tensor:
        """The objective of each fold ``[K]`` for answers already given."""
        folds = range(len(batch.weight))
        per_fold = [
            self.objective(_fold(output, k), _fold(batch, k), {t: w[k] for t, w in class_weights.items()})
            for k in folds
        ]
        return torch.stack(per_fold)

    def _answer(self, row: Tensor, batch: Batch) -> Output:
        return functional_call(self.model, self.layout.split(row), (batch,))

    def _loss(self, row: Tensor, batch: Batch, key: Tensor, class_weights: dict[str, Tensor]) -> Tensor:
        output = functional_call(self.model, self.layout.split(row), (batch.without_targets(), key))
        return self.objective(output, batch, class_weights)


def _fold(tree, k: int):
    return pytree.tree_map(lambda leaf: leaf[k], tree)
