"""Encoders from a modality's rows to one token, G modalities at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.attention import FeedForward, TransformerLayer
from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import blank
from fusion_lab.blocks.randomness import Dropout, Noise


class Projection(nn.Module):
    """Linear -> layer norm -> GELU, from each modality's own width to D; ``[G,B,T,F] -> [G,B,T,D]``."""

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        groups = len(widths)
        self.linear = GroupedLinear(groups, max(widths), width, widths)
        self.norm = GroupedNorm(groups, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(self.norm(self.linear(x)))


class VectorEncoder(nn.Module):
    """A vector as one token: projection, then residual feed-forward layers. ``[G,B,1,F] -> [G,B,D]``, no weights."""

    def __init__(self, widths: tuple[int, ...], width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.project = Projection(widths, width)
        self.drop = Dropout(dropout)
        self.norms = nn.ModuleList(GroupedNorm(len(widths), width) for _ in range(layers))
        self.feeds = nn.ModuleList(FeedForward(len(widths), width, dropout) for _ in range(layers))

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, None]:
        """``valid`` is bool ``[G,B,1]``."""
        token = self.drop(self.project(blank(x, valid)), noise)
        for norm, feed in zip(self.norms, self.feeds, strict=True):
            token = token + feed(norm(token), noise)
        return token.squeeze(2), None


class TokenEncoder(nn.Module):
    """A sequence or a bag as one token: projection, a learned summary token in front, transformer layers, the summary
    read.

    Positions are learned for a sequence; a bag has none, so that the order of its instances changes nothing. The last
    layer is computed for the summary token alone. ``[G,B,T,F] -> [G,B,D]`` and the summary's weights over the steps
    ``[G,B,T]``, averaged over heads and without the share of the summary itself, which sum to 1 over valid steps (all 0
    where none is).
    """

    def __init__(
        self, widths: tuple[int, ...], length: int, ordered: bool, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        assert layers >= 1, "a summary token that attends to nothing encodes nothing"
        groups = len(widths)
        self.project = Projection(widths, width)
        self.summary = nn.Parameter(torch.randn(groups, 1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(groups, 1, length + 1, width) * 0.02) if ordered else None
        self.layers = nn.ModuleList(TransformerLayer(groups, width, heads, dropout) for _ in range(layers - 1))
        self.last = TransformerLayer(groups, width, heads, dropout)

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """``valid`` is bool ``[G,B,T]``."""
        groups, rows = x.shape[:2]
        steps = self.project(blank(x, valid))
        summary = self.summary.squeeze(2)
        if self.positions is not None:
            steps, summary = steps + self.positions[:, :, 1:], summary + self.positions[:, :, 0]
        if self.layers:
            tokens = torch.cat([summary.unsqueeze(2).expand(groups, rows, 1, -1), steps], dim=2)
            seen = torch.cat([torch.ones_like(valid[:, :, :1]), valid], dim=2)
            for layer in self.layers:
                tokens, _ = layer(tokens, seen, noise)
            summary, steps = tokens[:, :, 0], tokens[:, :, 1:]
        token, weights = self.last.read(summary, steps, valid, noise)
        over_steps = weights[..., 1:].mean(2)
        total = over_steps.sum(-1, keepdim=True)
        return token, over_steps / torch.where(total > 0, total, torch.ones_like(total))
