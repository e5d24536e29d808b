"""Positions encoded each by itself in residual blocks of gated linear units, G modalities at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.randomness import Dropout, Noise

RESIDUAL_DROPOUT = 0.05
"""Dropout of what a block adds."""
DROP_PATH = 0.05
"""The chance that the last block is left out for a row; earlier ones have less, in even steps from 0."""
SCALES = (0.01, 0.1)
"""The learned number whose tanh scales what a block adds, at first: of early blocks, and of the last two."""
STEP = 64
"""Hidden widths are multiples of it."""
QUIET = 0.01
"""The last block's second layer starts at this share of its usual size. At 0, where it is published to start, the
block's other weights would have no gradient in the first step."""


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): of a row ``[G,B,...]`` all is dropped, or nothing."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = Dropout(p)

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        if noise is None or self.drop.p == 0:
            return x
        return x * self.drop(x.new_ones(*x.shape[:2], *[1] * (x.ndim - 2)), noise)


class SwiGLUBlock(nn.Module):
    """``x + tanh(scale) f(x)`` of a pre-norm SwiGLU layer f (Shazeer, 2020): ``D -> 2 U``, ``silu(a) * b``, dropout,
    ``U -> D``, U being 2 D or the next multiple of :data:`STEP`.

    Args:
        width: D.
        drop_path: the chance that a row goes without the layer.
        scale: the scale at first.
    """

    def __init__(self, groups: int, width: int, dropout: float, drop_path: float, scale: float) -> None:
        super().__init__()
        hidden = -(-2 * width // STEP) * STEP
        self.norm = GroupedNorm(groups, width)
        self.up = GroupedLinear(groups, width, 2 * hidden)
        self.drop = Dropout(dropout)
        self.down = GroupedLinear(groups, hidden, width)
        self.drop_residual = Dropout(RESIDUAL_DROPOUT)
        self.drop_path = DropPath(drop_path)
        self.scale = nn.Parameter(torch.full((groups, 1, 1, 1), scale))

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        """``[G,B,T,D] -> [G,B,T,D]``."""
        gate, content = self.up(self.norm(x)).chunk(2, dim=-1)
        made = self.down(self.drop(torch.nn.functional.silu(gate) * content, noise))
        return x + torch.tanh(self.scale) * self.drop_path(self.drop_residual(made, noise), noise)


class SwiGLUEncoder(nn.Module):
    """A projection to D and ``layers`` blocks, which at first change little of it.

    >>> encoder = SwiGLUEncoder((5, 3), width=8, layers=2, dropout=0.1)
    >>> encoder(torch.randn(2, 4, 6, 5), None).shape
    torch.Size([2, 4, 6, 8])
    """

    def __init__(self, widths: tuple[int, ...], width: int, layers: int, dropout: float) -> None:
        super().__init__()
        assert layers >= 1, layers
        groups = len(widths)
        self.project = GroupedLinear(groups, max(widths), width, widths)
        blocks = [
            SwiGLUBlock(groups, width, dropout, DROP_PATH * i / max(1, layers - 1), SCALES[i >= layers - 2])
            for i in range(layers)
        ]
        for parameter in blocks[-1].down.parameters():
            parameter.data.mul_(QUIET)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        """``[G,B,T,F] -> [G,B,T,D]``."""
        made = self.project(x)
        for block in self.blocks:
            made = block(made, noise)
        return made
