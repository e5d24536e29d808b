"""Gradient reversal (Ganin and Lempitsky, 2015): what reads a vector learns from it, what made it unlearns that."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_lab.blocks.randomness import Dropout, Noise


def reversed_gradient(x: Tensor, strength: Tensor | float) -> Tensor:
    """``x`` itself, through which a gradient passes times ``-strength``.

    Plain operations in place of an ``autograd.Function``, so that it can be vectorised over folds.

    >>> x = torch.ones(2, requires_grad=True)
    >>> reversed_gradient(x, 0.5).sum().backward()
    >>> x.grad.tolist()
    [-0.5, -0.5]
    """
    return x.detach() - strength * (x - x.detach())


class Discriminator(nn.Module):
    """Tells which of G groups a row is of; the vector that it reads is made to tell less.

    Args:
        width: D of the vector.
        groups: G.
        dropout: of its hidden layer, of width D / 2.
    """

    def __init__(self, width: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width // 2)
        self.outer = nn.Linear(width // 2, groups)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, group: Tensor, strength: Tensor, noise: Noise | None) -> Tensor:
        """The cross-entropy ``[B]`` of rows ``x [B,D]`` of the groups ``group``, int64 ``[B]``; ``strength`` ``[B]`` is
        how much of its gradient passes on, turned round.
        """
        hidden = F.gelu(self.inner(reversed_gradient(x, strength.unsqueeze(-1))))
        log_p = torch.log_softmax(self.outer(self.dropout(hidden, noise)), dim=-1)
        return -torch.gather(log_p, -1, group.unsqueeze(-1)).squeeze(-1)
