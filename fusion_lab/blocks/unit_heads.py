"""Answers of U units at every step, by weights that units share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.randomness import Dropout, Noise


class UnitHeads(nn.Module):
    """A step's vector plus a learned vector of each unit -> linear, GELU and dropout -> a linear output for each task.
    To it a linear map of the step's vector is added that each unit has for itself, at first 0: what all units hear of
    one stream they may answer in opposite ways.

    Units may have inputs of their own, Q numbers at each step: a linear map of them is added to the vector and another
    one, at first 0, to each answer, so that what a unit is now reaches what it will be next unsqueezed.

    Args:
        units: U.
        width: D of the step's vector.
        outputs: of each task.
        inputs: Q, 0 where there are none.
        bare: without GELU, dropout and maps of their own, so that units differ by a constant in each answer.
    """

    def __init__(
        self, units: int, width: int, outputs: tuple[int, ...], inputs: int, dropout: float, bare: bool
    ) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.randn(units, width))
        self.own = nn.Linear(inputs, width, bias=False) if inputs else None
        self.mix = nn.Linear(width, width)
        self.drop = None if bare else Dropout(dropout)
        self.out = nn.ModuleList(nn.Linear(width, count) for count in outputs)
        each = [nn.Parameter(torch.zeros(width, units, count)) for count in outputs if not bare]
        self.each = nn.ParameterList(each)
        direct = [nn.Linear(inputs, count, bias=False) for count in outputs if inputs]
        for layer in direct:
            nn.init.zeros_(layer.weight)
        self.direct = nn.ModuleList(direct)

    def forward(self, steps: Tensor, inputs: Tensor | None, noise: Noise | None) -> list[Tensor]:
        """``steps [B,T,D]``, ``inputs [B,T,U,Q]`` -> of each task ``[B,T,U]``, or ``[B,T,U,C]`` of several outputs."""
        x = steps.unsqueeze(-2) + self.unit
        if self.own is not None:
            x = x + self.own(inputs)
        mixed = self.mix(x)
        if self.drop is not None:
            mixed = self.drop(torch.nn.functional.gelu(mixed), noise)
        answers = [out(mixed) for out in self.out]
        if len(self.each):
            answers = [answer + _of_each(steps, each) for answer, each in zip(answers, self.each, strict=True)]
        if self.direct:
            answers = [answer + direct(inputs) for answer, direct in zip(answers, self.direct, strict=True)]
        return [answer.squeeze(-1) if answer.shape[-1] == 1 else answer for answer in answers]


def _of_each(steps: Tensor, each: Tensor) -> Tensor:
    """``[B,T,D]`` by ``[D,U,C]``: ``[B,T,U,C]``."""
    return torch.matmul(steps, each.flatten(1)).unflatten(-1, each.shape[1:])
