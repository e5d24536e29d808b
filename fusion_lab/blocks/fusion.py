"""From M modality tokens to one vector. Tokens are ``[B,M,D]``; ``valid`` bool ``[B,M]``; ``share [B,M]`` in [0, 1]
scales each token's part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.attention import Attention, FeedForward, TransformerLayer
from fusion_lab.blocks.grouped import GroupedNorm
from fusion_lab.blocks.masking import weighted_mean
from fusion_lab.blocks.randomness import Dropout, Noise


def share_bias(share: Tensor) -> Tensor:
    """The addition to an attention score that multiplies the token's weight by ``share``."""
    return torch.log(share.clamp(min=1e-4))


class TransformerFusion(nn.Module):
    """Modality embedding, pre-norm transformer layers over the tokens, mean over the present ones weighted by their
    share.

    The map is the last layer's attention between modalities, ``[B,M,M]``, averaged over heads.
    """

    def __init__(self, modalities: int, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.kind = nn.Parameter(torch.randn(modalities, width) * 0.02)
        self.layers = nn.ModuleList(TransformerLayer(1, width, heads, dropout) for _ in range(layers))

    def forward(self, tokens: Tensor, valid: Tensor, share: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        x, bias = (tokens + self.kind).unsqueeze(0), share_bias(share).unsqueeze(0)
        for layer in self.layers:
            x, weights = layer(x, valid.unsqueeze(0), noise, bias=bias)
        return weighted_mean(x[0], valid * share, dim=1), weights[0].mean(1)


class BottleneckFusion(nn.Module):
    """Learned latents read the tokens and exchange what they read (after Nagrani et al., 2021, attention bottlenecks).

    The map is the latents' attention over modalities, ``[B,L,M]``, averaged over heads.
    """

    def __init__(self, latents: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.read = Attention(1, width, heads, dropout)
        self.norm_read = GroupedNorm(1, width)
        self.feed = FeedForward(1, width, dropout)
        self.norm_feed = GroupedNorm(1, width)
        self.exchange = TransformerLayer(1, width, heads, dropout)
        self.drop = Dropout(dropout)

    def forward(self, tokens: Tensor, valid: Tensor, share: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        rows = tokens.shape[0]
        latents = self.latents.expand(1, rows, -1, -1)
        read, weights = self.read(
            latents, tokens.unsqueeze(0), valid.unsqueeze(0), noise, share_bias(share).unsqueeze(0)
        )
        x = self.norm_read(latents + self.drop(read, noise))
        x = self.norm_feed(x + self.feed(x, noise))
        x, _ = self.exchange(x, torch.ones_like(x[..., 0], dtype=torch.bool), noise)
        return x[0].mean(1), weights[0].mean(1)


class GatedFusion(nn.Module):
    """A gate in [0, 1] per modality from its own token; the mean of the present tokens weighted by their gates.

    The map is the gates, ``[B,M]``.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(modalities, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(modalities))

    def forward(self, tokens: Tensor, valid: Tensor, share: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        gates = torch.sigmoid((tokens * self.weight).sum(-1) + self.bias) * valid * share
        return weighted_mean(tokens, gates, dim=1), gates
