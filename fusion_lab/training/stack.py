"""K copies of one model, their weights stacked by name: gradients and answers of all folds, together or in turn."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from fusion_lab.blocks.randomness import Noise, count_draws
from fusion_lab.contracts import Batch, Output
from fusion_lab.objectives import Objective
from fusion_lab.training.leaves import Leaves
from fusion_lab.training.plan import Mode
from fusion_lab.training.recurrent import teach_recurrent_layers
from fusion_lab.zoo import Model

BYTES_AT_ONCE = 6_000_000
"""Inputs of the rows that a stack answers in one call.

Measured on one core, CPU time of 512 rows of 3 KB (nine folds, a transformer) and of 256 rows of 29 KB (seven folds, a
convolution): within a tenth of the best of eight sizes, all rows at once took 1.8 and 1.4 times as long. Of 8,192 rows
of 0.1 KB half as much at once took a third less.
"""


class Part(NamedTuple):
    """What some neighbours of a stack gave in one step: losses ``[n]``, gradients, contiguous leaves ``[n,*shape]``,
    and what curves show of the losses, ``{name: [n]}``: the objective's parts and the mean of each penalty.
    """

    folds: slice
    losses: Tensor
    gradients: Leaves
    curves: dict[str, Tensor]


class Stack:
    """One model's function over weights ``[K,*shape]`` and batches ``[K,B,...]``.

    ``stacked`` maps the step over ``size`` folds at a time (``torch.func.vmap``; all of them by default) and
    differentiates the sum of their losses, whose gradient with respect to a fold's weights is that fold's own. ``loop``
    runs the same step for one fold after the other: the reference, and the way for models that do not gain.
    """

    def __init__(self, model: Model, objective: Objective, mode: Mode, size: int | None = None) -> None:
        self.model = model
        self.objective = objective
        self.mode = mode
        self.size = 1 if mode == "loop" else size
        if mode == "stacked":
            teach_recurrent_layers()
        names = {id(parameter): name for name, parameter in model.named_parameters()}  # one name of a shared one
        self._places = [
            (cast(dict[str, Tensor], module._parameters), attribute, names[id(parameter)])
            for module in model.modules()
            for attribute, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]

    def parts(self, folds: int) -> list[slice]:
        """The folds that share a step, as even as they can be."""
        count = -(-folds // (self.size or folds))
        edges = [folds * i // count for i in range(count + 1)]
        return [slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]

    def draws(self, batch: Batch) -> int:
        """N, how many random values a step over such a batch takes in each fold."""
        one = _part(batch.without_targets(), 0)
        return count_draws(lambda noise: self.model(one, noise), batch.weight.device)

    def gradients(
        self, weights: Leaves, batch: Batch, noise: Tensor, class_weights: Leaves, active: Sequence[bool]
    ) -> Iterator[Part]:
        """Losses and gradients at ``weights``, one part of the stack after the other; those of a fold that is not
        active are worthless, and a part of such folds is left out.

        Args:
            weights: leaves ``[K,*shape]``.
            batch: leaves ``[K,B,...]``, scaled, with targets.
            noise: int16 ``[K,N]``, see :meth:`draws`.
            class_weights: ``{task: [K,C]}``.
            active: whether each fold has rows in this step.
        """
        for folds in self.parts(len(noise)):
            if not any(active[folds]):
                continue
            own = {name: leaf[folds].detach().requires_grad_() for name, leaf in weights.items()}
            losses, curves = self._losses(own, *_part((batch, noise, class_weights), folds))
            gradients = torch.autograd.grad(losses.sum(), list(own.values()), allow_unused=True, materialize_grads=True)
            # autograd gives some of them transposed, and the optimiser's kernel goes by memory, not by strides
            dense = [gradient.contiguous() for gradient in gradients]
            yield Part(folds, losses.detach(), dict(zip(own, dense, strict=True)), curves)

    @torch.no_grad()
    def answers(self, weights: Leaves, batch: Batch) -> Output:
        """The model's evaluation output, leaves ``[K,B,...]``; zeros in rows that weigh 0, whatever these hold."""
        blind = batch.without_targets()
        parts = [self._of_part(*_part((weights, blind), folds)) for folds in self.parts(len(batch.weight))]
        answers, counted = _joined(parts, 0), batch.weight > 0
        if bool(counted.all()):
            return answers

        def zeroed(leaf: Tensor) -> Tensor:  # a product would keep a NaN
            return torch.where(counted.reshape(*counted.shape, *[1] * (leaf.ndim - 2)), leaf, 0)

        return pytree.tree_map(zeroed, answers)

    @torch.no_grad()
    def losses(self, output: Output, batch: Batch, class_weights: Leaves) -> Tensor:
        """What the main tasks have in the objective of each fold ``[K]``, for answers already given."""
        folds = range(len(batch.weight))
        return torch.stack([self.objective.of_main_tasks(*_part((output, batch, class_weights), k)) for k in folds])

    @torch.no_grad()
    def parts_of_losses(self, output: Output, batch: Batch, class_weights: Leaves) -> dict[str, Tensor]:
        """The parts that :meth:`losses` is the sum of, by the names of their curves, of each fold ``[K]``."""
        told = [
            self.objective.parts_of_main_tasks(*_part((output, batch, class_weights), k))
            for k in range(len(batch.weight))
        ]
        return {name: torch.stack([of_fold[name] for of_fold in told]) for name in told[0]}

    def _losses(
        self, weights: Leaves, batch: Batch, noise: Tensor, class_weights: Leaves
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.mode == "stacked":
            return vmap(self._loss)(weights, batch, noise, class_weights)
        one = self._loss(*_part((weights, batch, noise, class_weights), 0))
        return pytree.tree_map(lambda leaf: leaf.unsqueeze(0), one)

    def _of_part(self, weights: Leaves, batch: Batch) -> Output:
        """Answers of a part of the folds. In a stack rows are taken some at a time: what many rows of all folds need
        between two layers would not fit into a cache.
        """
        count = batch.weight.shape[1]
        real = int(batch.weight.any(0).nonzero().max()) + 1 if bool(batch.weight.any()) else count
        size = _rows_at_once(batch) if self.mode == "stacked" else real
        slices = [slice(start, min(start + size, real)) for start in range(0, real, size)]
        taken = [self._answers(weights, _part(batch, (slice(None), rows))) for rows in slices]
        if real < count:
            taken.append(
                pytree.tree_map(lambda leaf: leaf.new_zeros(len(leaf), count - real, *leaf.shape[2:]), taken[0])
            )
        return _joined(taken, 1)

    def _answers(self, weights: Leaves, batch: Batch) -> Output:
        if self.mode == "stacked":
            return vmap(self._answer)(weights, batch)
        return pytree.tree_map(lambda leaf: leaf.unsqueeze(0), self._answer(*_part((weights, batch), 0)))

    def _answer(self, weights: Leaves, batch: Batch) -> Output:
        with self._holding(weights):
            return self.model(batch)

    def _loss(
        self, weights: Leaves, batch: Batch, noise: Tensor, class_weights: Leaves
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with self._holding(weights):
            output = self.model(batch.without_targets(), Noise(noise))
        return self.objective.with_curves(output, batch, class_weights)

    @contextmanager
    def _holding(self, weights: Leaves) -> Generator[None]:
        """The model with these weights in place of its own, as ``torch.func.functional_call`` has it, which looks for
        the place of each anew at every call.
        """
        own = [held[attribute] for held, attribute, _ in self._places]
        try:
            for held, attribute, name in self._places:
                held[attribute] = weights[name]
            yield
        finally:
            for (held, attribute, _), parameter in zip(self._places, own, strict=True):
                held[attribute] = parameter
            for layer in self._recurrent:
                layer._init_flat_weights()  # its list of weights, made anew in forward, is not left behind


def _part(tree, place: slice | int | tuple[slice, slice]):
    """Some folds, or folds and rows, of every tensor in dicts and tuples: what ``pytree.tree_map`` gives, which for a
    small model takes a fifth of a training.
    """
    if isinstance(tree, Tensor):
        return tree[place]
    if isinstance(tree, dict):
        return {name: _part(leaf, place) for name, leaf in tree.items()}
    parts = [_part(leaf, place) for leaf in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _joined(outputs: list[Output], axis: int) -> Output:
    if len(outputs) == 1:
        return outputs[0]
    return pytree.tree_map(lambda *leaves: torch.cat(leaves, dim=axis), *outputs)


def _rows_at_once(batch: Batch) -> int:
    """As many rows as have :data:`BYTES_AT_ONCE` of inputs, of all folds."""
    of_a_row = sum(leaf[:, :1].numel() * leaf.element_size() for leaf in batch.inputs.values())
    return max(1, BYTES_AT_ONCE // max(1, of_a_row))
