"""Pooling by attention: a bag, or a sequence whose order is to mean nothing, as a weighted mean of its positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.encoders import Asked, Encoded, VectorEncoder
from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.masking import blank, masked_softmax
from fusion_lab.blocks.randomness import Noise


class AttentionPooling(nn.Module):
    """Gated attention (Ilse, Tomczak and Welling, 2018): position t weighs in the mean with the softmax of
    ``w (tanh(V x_t) * sigmoid(U x_t))`` over the valid positions.
    """

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.gated = GroupedLinear(groups, width, 2 * width)  # V and U side by side
        self.score = nn.Parameter(torch.empty(groups, width, 1).uniform_(-bound, bound))

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """``x [G,B,T,D]``, finite where ``valid [G,B,T]`` is False too -> ``[G,B,D]`` and the weights ``[G,B,T]``."""
        content, gate = self.gated(x).chunk(2, dim=-1)
        scores = (torch.tanh(content) * torch.sigmoid(gate)).flatten(1, 2) @ self.score
        weights = masked_softmax(scores.reshape(valid.shape), valid)
        return (weights.unsqueeze(2) @ x).squeeze(2), weights


class AttentionEncoder(nn.Module):
    """Every position by itself through projection and residual feed-forward layers, pooled by attention.

    The order of the positions changes nothing, and a step's output knows of no other step.
    """

    def __init__(self, widths: tuple[int, ...], width: int, layers: int, dropout: float, asked: Asked) -> None:
        super().__init__()
        self.asked = asked
        self.positions = VectorEncoder(widths, width, layers, dropout)
        self.pool = AttentionPooling(len(widths), width) if asked.token else None

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Encoded:
        """``x [G,B,T,F]``, ``valid`` bool ``[G,B,T]``."""
        made = self.positions.each(x, valid, noise)
        token, weights = self.pool(made, valid) if self.pool else (None, None)
        return Encoded(token, weights, blank(made, valid) if self.asked.steps else None)
