"""Attention and the transformer layer, by plain matrix products (they stack under ``vmap``), with a leading group
axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import masked_softmax
from fusion_lab.blocks.randomness import Dropout


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) of Q queries over T tokens, G groups at once.

    The key projection has no bias: it adds the same number to every score of a query, which the softmax takes away
    again. A single query is folded into the key weights and the values are pooled before they are projected: the same
    function, with the cost of a projection per query in place of one per token.

    Args:
        groups: G; 1 where there is only one.
        width: D, a multiple of ``heads``.
    """

    def __init__(self, groups: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide a width of {width}"
        self.heads = heads
        self.weight = nn.ParameterDict(
            {n: nn.Parameter(torch.empty(groups, width, width)) for n in ("q", "k", "v", "o")}
        )
        self.bias = nn.ParameterDict({n: nn.Parameter(torch.zeros(groups, 1, width)) for n in ("q", "v", "o")})
        bound = math.sqrt(3.0 / width)  # Xavier for a square matrix
        for name in ("q", "k", "v", "o"):
            nn.init.uniform_(self.weight[name], -bound, bound)
        self.dropout = Dropout(dropout)

    def forward(
        self, queries: Tensor, tokens: Tensor, valid: Tensor, key: Tensor | None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attends.

        Args:
            queries: ``[G,B,Q,D]``.
            tokens: ``[G,B,T,D]``.
            valid: bool ``[G,B,T]``.
            key: random key while training, ``None`` in evaluation.
            bias: ``[G,B,T]``, added to the scores of each token.

        Returns:
            ``[G,B,Q,D]`` and the weights ``[G,B,H,Q,T]`` before dropout; they sum to 1 over valid tokens, or are all 0.
        """
        groups, rows, count, width = queries.shape
        heads, depth = self.heads, width // self.heads
        q = torch.baddbmm(self.bias["q"], queries.reshape(groups, -1, width), self.weight["q"])
        q = q.reshape(groups, rows, count, heads, depth).transpose(2, 3) / math.sqrt(depth)
        k_weight = self.weight["k"].reshape(groups, width, heads, depth)
        v_weight = self.weight["v"].reshape(groups, width, heads, depth)
        if count == 1:
            folded = torch.einsum("gbhqe,gdhe->gbhqd", q, k_weight)
            scores = folded @ tokens.transpose(-1, -2).unsqueeze(2)
        else:
            k = torch.einsum("gbtd,gdhe->gbhet", tokens, k_weight)
            scores = q @ k
        if bias is not None:
            scores = scores + bias[:, :, None, None, :]
        weights = masked_softmax(scores, valid[:, :, None, None, :])
        used = self.dropout(weights, key)
        if count == 1:
            pooled = torch.einsum("gbhqd,gdhe->gbqhe", used @ tokens.unsqueeze(2), v_weight)
        else:
            pooled = torch.einsum("gbhqt,gbhte->gbqhe", used, torch.einsum("gbtd,gdhe->gbhte", tokens, v_weight))
        # The values' bias passes through weights that sum to 1 (or less, under dropout) without being projected per
        # token.
        share = used.sum(-1).permute(0, 1, 3, 2).unsqueeze(-1)
        pooled = pooled + share * self.bias["v"].reshape(groups, 1, 1, heads, depth)
        out = torch.baddbmm(self.bias["o"], pooled.reshape(groups, -1, width), self.weight["o"])
        return out.reshape(queries.shape), weights


class FeedForward(nn.Module):
    """``D -> 4 D -> D`` with GELU and dropout inside."""

    def __init__(self, groups: int, width: int, dropout: float) -> None:
        super().__init__()
        self.up = GroupedLinear(groups, width, 4 * width)
        self.down = GroupedLinear(groups, 4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        return self.down(self.dropout(torch.nn.functional.gelu(self.up(x)), key))


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer (Xiong et al., 2020) without a final norm.

    With ``read=n`` only the first n tokens are computed: what a last layer needs whose other tokens nobody reads.
    """

    def __init__(self, groups: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = GroupedNorm(groups, width)
        self.attention = Attention(groups, width, heads, dropout)
        self.norm_feed = GroupedNorm(groups, width)
        self.feed = FeedForward(groups, width, dropout)
        self.drop_attention = Dropout(dropout)
        self.drop_feed = Dropout(dropout)

    def forward(
        self, x: Tensor, valid: Tensor, key: Tensor | None, read: int | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``x [G,B,T,D]``, ``valid [G,B,T]`` -> ``[G,B,read or T,D]`` and the weights ``[G,B,H,read or T,T]``."""
        tokens = self.norm_attention(x)
        attended, weights = self.attention(tokens[:, :, :read], tokens, valid, key, bias)
        x = x[:, :, :read] + self.drop_attention(attended, key)
        return x + self.drop_feed(self.feed(self.norm_feed(x), key), key), weights
