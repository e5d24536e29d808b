"""Fusions of M modalities at each time step by itself: from tokens ``[M,B,T,D]`` and which of them are there, bool
``[M,B,T]``, to one vector per step ``[B,T,D]`` and how each modality weighed in it, ``[B,T,M]``.

What is not there is zeros and weighs 0; a step without anything is zeros (``concat``: the bias).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.masking import blank, masked_softmax
from fusion_lab.blocks.randomness import Dropout, Noise

StepFusionName = Literal["gated", "concat", "add", "attention"]


class GatedSteps(nn.Module):
    """``sum over m of sigmoid(W_m e_m + b_m) * e_m``: a gate for each number of each token.

    The weights are the gates' means over D.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.gate = GroupedLinear(modalities, width, width)

    def forward(self, tokens: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        contributions, gates = self.contributions(tokens, valid)
        return contributions.sum(0), (gates.mean(-1) * valid).permute(1, 2, 0)

    def contributions(self, tokens: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """What each modality adds, and its gates, both ``[M,B,T,D]``."""
        there = blank(tokens, valid)
        gates = torch.sigmoid(self.gate(there))
        return gates * there, gates


class ConcatSteps(nn.Module):
    """A linear map of the tokens side by side. No weights."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(modalities * width, width)

    def forward(self, tokens: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, None]:
        return self.mix(blank(tokens, valid).permute(1, 2, 0, 3).flatten(2)), None


class AddSteps(nn.Module):
    """The tokens' mean, weighed by the softmax over those present of a learned number for each modality."""

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.trust = nn.Parameter(torch.zeros(modalities))

    def forward(self, tokens: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        weights = masked_softmax(self.trust, valid.permute(1, 2, 0))
        return _weighed(blank(tokens, valid), weights), weights


class AttentionSteps(nn.Module):
    """Cross-modal attention inside a step: the mean of the tokens present asks all of them, head by head; what it
    reads is added to it.

    The weights are averaged over heads and sum to 1 over what is present. A key has no bias, which would change
    nothing (see :class:`~fusion_lab.blocks.attention.Attention`), and a projection of its own for each modality: a
    modality is also asked for as what it is.

    Args:
        modalities: M.
        width: D, a multiple of ``heads``.
    """

    def __init__(self, modalities: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide a width of {width}"
        self.heads = heads
        self.query = nn.Linear(width, width)
        bound = (3.0 / width) ** 0.5  # Xavier for a square matrix
        self.key = nn.Parameter(torch.empty(modalities, 1, width, width).uniform_(-bound, bound))
        self.value = GroupedLinear(modalities, width, width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        there = blank(tokens, valid)
        seen = valid.permute(1, 2, 0)  # [B,T,M]
        mean = _weighed(there, masked_softmax(torch.zeros_like(seen, dtype=there.dtype), seen))
        query = self._by_head(self.query(mean)) * (self.heads / mean.shape[-1]) ** 0.5
        keys = self._by_head(there @ self.key)
        scores = (query * keys).sum(-1).permute(1, 2, 3, 0)  # [B,T,H,M]
        weights = masked_softmax(scores, seen.unsqueeze(2))
        used = self.dropout(weights, noise).permute(3, 0, 1, 2).unsqueeze(-1)
        read = (self._by_head(self.value(there)) * used).sum(0).flatten(2)
        return mean + blank(self.out(read), seen.any(-1)), weights.mean(2)

    def _by_head(self, x: Tensor) -> Tensor:
        """``[...,D] -> [...,H,E]``, D = H E."""
        return x.unflatten(-1, (self.heads, -1))


def step_fusion(name: StepFusionName, modalities: int, width: int, heads: int, dropout: float) -> nn.Module:
    """The fusion of this name."""
    if name == "gated":
        return GatedSteps(modalities, width)
    if name == "concat":
        return ConcatSteps(modalities, width)
    return AddSteps(modalities) if name == "add" else AttentionSteps(modalities, width, heads, dropout)


def _weighed(tokens: Tensor, weights: Tensor) -> Tensor:
    """Tokens ``[M,B,T,D]`` weighed by ``[B,T,M]`` and added up: ``[B,T,D]``."""
    return (tokens * weights.permute(2, 0, 1).unsqueeze(-1)).sum(0)
