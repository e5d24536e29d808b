"""Fusions of M modality tokens that answer the tasks themselves: early and late. Hybrid fusion is
:mod:`fusion_lab.blocks.hybrid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.heads import TaskHead
from fusion_lab.blocks.masking import masked_softmax
from fusion_lab.blocks.randomness import Dropout, Noise


class Steps(NamedTuple):
    """What there is to read of a modality: its steps ``[B,T,D]`` and which of them are valid, bool ``[B,T]``."""

    values: Tensor
    valid: Tensor


class Answered(NamedTuple):
    """What a fusion answers, and how it came to it.

    ``heads``: an answer per task, ``[B]`` or ``[B,C]``. ``weights [B,M]`` of the modalities, which sum to 1 over those
    present. ``own``: per task what each modality answers by itself, ``[B,M]`` or ``[B,M,C]``, 0 where it is absent.
    ``asked``: by the place of a modality, what each of the others gives its steps, ``[B,M-1,T]``.
    """

    heads: list[Tensor]
    weights: Tensor | None
    own: list[Tensor]
    asked: dict[int, Tensor]


class EarlyFusion(nn.Module):
    """Tokens side by side, zeros for an absent one; two hidden layers, the second of which each task has for itself.

    Args:
        modalities: M.
        width: D of a token.
        hidden: width of the hidden layers.
        outputs: of each task's head.
    """

    def __init__(self, modalities: int, width: int, hidden: int, outputs: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.mix = nn.Linear(modalities * width, hidden)
        self.drop = Dropout(dropout)
        self.heads = nn.ModuleList(TaskHead(hidden, count, dropout) for count in outputs)

    def forward(self, tokens: Tensor, present: Tensor, steps: Mapping[int, Steps], noise: Noise | None) -> Answered:
        """``tokens [M,B,D]``, ``present`` bool ``[M,B]``; no steps are read."""
        side_by_side = (tokens * present.unsqueeze(-1)).transpose(0, 1).flatten(1)
        mixed = self.drop(torch.nn.functional.gelu(self.mix(side_by_side)), noise)
        return Answered([head(mixed, noise) for head in self.heads], None, [], {})


class LateFusion(nn.Module):
    """A hidden layer and heads of its own for each modality; what they answer is weighed by the softmax, over the
    modalities present, of a learned number for each. In a row without any, all weigh alike.

    Args:
        modalities: M.
        width: D of a token.
        hidden: width of the hidden layers.
        outputs: of each task's head.
    """

    def __init__(self, modalities: int, width: int, hidden: int, outputs: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.hidden = GroupedLinear(modalities, width, hidden)
        self.drop = Dropout(dropout)
        self.out = nn.ModuleList(GroupedLinear(modalities, hidden, count) for count in outputs)
        self.trust = nn.Parameter(torch.zeros(modalities))

    def forward(self, tokens: Tensor, present: Tensor, steps: Mapping[int, Steps], noise: Noise | None) -> Answered:
        """``tokens [M,B,D]``, ``present`` bool ``[M,B]``; no steps are read."""
        here = present.unsqueeze(-1)
        hidden = self.drop(torch.nn.functional.gelu(self.hidden(tokens * here)), noise)
        answers = [out(hidden) for out in self.out]  # [M,B,C]
        weights = masked_softmax(self.trust, present.T)
        alike = ~present.any(0).unsqueeze(-1) / len(present)
        used = (weights + alike).T.unsqueeze(-1)
        heads = [_flat((answer * used).sum(0)) for answer in answers]
        return Answered(heads, weights, [_flat((answer * here).transpose(0, 1)) for answer in answers], {})


def _flat(answer: Tensor) -> Tensor:
    """Without the last axis where it is of a single output."""
    return answer.squeeze(-1) if answer.shape[-1] == 1 else answer
