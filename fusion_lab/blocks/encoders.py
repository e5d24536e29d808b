"""Encoders from a modality's rows to one token and to an output per step, G modalities at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusion_lab.blocks.attention import FeedForward, TransformerLayer
from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import blank
from fusion_lab.blocks.randomness import Dropout, Noise


class Asked(NamedTuple):
    """What an encoder is asked for: one token per row, an output per step. What nobody reads has no parameters."""

    token: bool = True
    steps: bool = False


class Encoded(NamedTuple):
    """What an encoder makes of G modalities.

    ``token [G,B,D]``, the ``weights [G,B,T]`` of the positions in it, which sum to 1 over the valid ones (all 0 where
    none is), and ``steps [G,B,T,D]``, zeros where not valid. ``None``: not asked for, or an encoder that has no
    weights.
    """

    token: Tensor | None
    weights: Tensor | None = None
    steps: Tensor | None = None


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

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Encoded:
        """``valid`` is bool ``[G,B,1]``."""
        return Encoded(self.each(x, valid, noise).squeeze(2))

    def each(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Tensor:
        """Every position by itself: ``[G,B,T,F] -> [G,B,T,D]``; those that are not valid are alike."""
        token = self.drop(self.project(blank(x, valid)), noise)
        for norm, feed in zip(self.norms, self.feeds, strict=True):
            token = token + feed(norm(token), noise)
        return token


class TokenEncoder(nn.Module):
    """A sequence or a bag by a transformer: projection, a learned summary token in front, transformer layers; the
    summary is the token.

    Positions are learned for a sequence, counted from its end; a bag has none, so that the order of its instances
    changes nothing. The weights are the summary's over the steps, averaged over heads and without its share of itself.
    The last layer is computed for the summary alone unless steps are asked for, which see each other and the summary.

    Args:
        length: the largest T.
        layers: at least 1: a summary token that attends to nothing encodes nothing.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        length: int,
        ordered: bool,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        asked: Asked,
    ) -> None:
        super().__init__()
        assert layers >= 1, layers
        groups = len(widths)
        self.asked = asked
        self.project = Projection(widths, width)
        self.summary = nn.Parameter(torch.randn(groups, 1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(groups, 1, length + 1, width) * 0.02) if ordered else None
        self.layers = nn.ModuleList(TransformerLayer(groups, width, heads, dropout) for _ in range(layers - 1))
        self.last = TransformerLayer(groups, width, heads, dropout)

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Encoded:
        """``valid`` is bool ``[G,B,T]``."""
        groups, rows, length = valid.shape
        steps = self.project(blank(x, valid))
        summary = self.summary.squeeze(2)
        if self.positions is not None:
            steps, summary = steps + self.positions[:, :, -length:], summary + self.positions[:, :, 0]
        if self.layers or self.asked.steps:
            tokens = torch.cat([summary.unsqueeze(2).expand(groups, rows, 1, -1), steps], dim=2)
            seen = torch.cat([torch.ones_like(valid[:, :, :1]), valid], dim=2)
            for layer in self.layers:
                tokens, _ = layer(tokens, seen, noise)
            if self.asked.steps:
                return self._everywhere(tokens, seen, noise)
            summary, steps = tokens[:, :, 0], tokens[:, :, 1:]
        token, weights = self.last.read(summary, steps, valid, noise)
        return Encoded(token, _over_steps(weights))

    def _everywhere(self, tokens: Tensor, seen: Tensor, noise: Noise | None) -> Encoded:
        """The last layer at the summary and at all steps, ``[G,B,1+T,D]``."""
        tokens, weights = self.last(tokens, seen, noise)
        steps = blank(tokens[:, :, 1:], seen[:, :, 1:])
        if not self.asked.token:
            return Encoded(None, steps=steps)
        return Encoded(tokens[:, :, 0], _over_steps(weights[..., 0, :]), steps)


def _over_steps(weights: Tensor) -> Tensor:
    """The summary's weights ``[G,B,H,1+T]``, its own first, as its share of each step ``[G,B,T]``."""
    over_steps = weights[..., 1:].mean(2)
    total = over_steps.sum(-1, keepdim=True)
    return over_steps / torch.where(total > 0, total, torch.ones_like(total))
