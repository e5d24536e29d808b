"""Attention and the transformer layer, by plain matrix products (they stack under ``vmap``), with a leading group
axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import masked_softmax
from fusion_lab.blocks.randomness import Dropout, Noise


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017), G groups at once.

    The key projection has no bias: it adds the same number to every score of a query, which the softmax takes away
    again.

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
        self, queries: Tensor, tokens: Tensor, valid: Tensor, noise: Noise | None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attends.

        Args:
            queries: ``[G,B,Q,D]``.
            tokens: ``[G,B,T,D]``.
            valid: bool ``[G,B,T]``, or ``[G,B,Q,T]`` where queries see different tokens (``[G,B,1,T]``: all the same).
            noise: random values while training, ``None`` in evaluation.
            bias: ``[G,B,T]``, added to the scores of each token.

        Returns:
            ``[G,B,Q,D]`` and the weights ``[G,B,H,Q,T]`` before dropout; they sum to 1 over valid tokens, or are all 0.
        """
        q, k, v = (
            self._project(n, x).unflatten(-1, (self.heads, -1))
            for n, x in zip("qkv", (queries, tokens, tokens), strict=True)
        )
        scores = (q.transpose(2, 3) * self._scale()) @ k.permute(0, 1, 3, 4, 2)
        if bias is not None:
            scores = scores + bias[:, :, None, None, :]
        seen = valid if valid.ndim == scores.ndim - 1 else valid.unsqueeze(2)
        weights = masked_softmax(scores, seen.unsqueeze(2))
        pooled = self.dropout(weights, noise) @ v.transpose(2, 3)  # [G,B,H,Q,E]
        return self._project("o", pooled.transpose(2, 3).flatten(3)), weights

    def read(
        self, summary: Tensor, tokens: Tensor, norm: GroupedNorm, valid: Tensor, noise: Noise | None
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives for one query, which sees itself and the tokens, at a fraction of the cost: the
        query is folded into the key weights, tokens are pooled before they are projected, and the scale and shift of
        their normalisation enter the query and the pooled value in place of every token.

        Args:
            summary: ``[G,B,D]``, or ``[G,1,D]`` where it is the same in all rows.
            tokens: ``[G,B,T,D]``; neither is normalised yet.
            norm: the normalisation of both.
            valid: bool ``[G,B,T]``.
            noise: random values while training, ``None`` in evaluation.

        Returns:
            ``[G,B,D]`` and the weights ``[G,B,H,1+T]``, the summary's own first.
        """
        own, plain = norm(summary.unsqueeze(2)).squeeze(2), norm.plain(tokens)
        groups, rows, steps, width = tokens.shape
        scale, shift = norm.weight.reshape(groups, 1, 1, width), norm.bias.reshape(groups, 1, 1, width)
        k_weight, v_weight = (self._by_head(self.weight[name]) for name in ("k", "v"))
        q = self._by_head(self._project("q", own)) * self._scale()
        folded = (q @ k_weight.transpose(2, 3)).transpose(1, 2)  # [G,B,H,D], or [G,1,H,D]
        to_own, at_zero = (folded * own.unsqueeze(2)).sum(-1, keepdim=True), (folded * shift).sum(-1, keepdim=True)
        to_tokens = _each_with_each(folded * scale, plain) + at_zero
        scores = torch.cat([to_own.expand(groups, rows, self.heads, 1), to_tokens], dim=-1)
        seen = torch.cat([torch.ones_like(valid[:, :, :1]), valid], dim=-1)
        weights = masked_softmax(scores, seen.unsqueeze(2))
        used = self.dropout(weights, noise).transpose(1, 2)  # [G,H,B,1+T]
        of_own, of_tokens = used[..., :1], used[..., 1:]
        pooled = _pool(of_tokens, plain) @ (v_weight * scale.transpose(2, 3))
        # what does not depend on the token is weighed by the share of all of them
        v_own, v_shift = (self._by_head(x @ self.weight["v"]) for x in (own, shift.squeeze(1)))
        v_bias = self._by_head(self.bias["v"])
        share = of_tokens.sum(-1, keepdim=True)
        pooled = pooled + of_own * (v_own + v_bias) + share * (v_shift + v_bias)
        return self._project("o", pooled.transpose(1, 2).flatten(2)), weights

    def _scale(self) -> float:
        return math.sqrt(self.heads / self.weight["q"].shape[-1])

    def _by_head(self, x: Tensor) -> Tensor:
        """``[G,R,D] -> [G,H,R,E]``, D = H E."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _project(self, name: str, x: Tensor) -> Tensor:
        """``[G,...,D] -> [G,...,D]`` by a weight and, but for the keys, its bias."""
        flat, weight = x.reshape(len(x), -1, x.shape[-1]), self.weight[name]
        made = torch.baddbmm(self.bias[name], flat, weight) if name in self.bias else flat @ weight
        return made.reshape(x.shape)


def _each_with_each(folded: Tensor, tokens: Tensor) -> Tensor:
    """Scores ``[G,B,H,T]`` of queries ``[G,B,H,D]``, or ``[G,1,H,D]`` for all rows, with tokens ``[G,B,T,D]``."""
    if folded.shape[1] == tokens.shape[1]:
        return folded @ tokens.transpose(2, 3)
    groups, rows, steps, width = tokens.shape
    flat = tokens.reshape(groups, rows * steps, width) @ folded.squeeze(1).transpose(1, 2)
    return flat.reshape(groups, rows, steps, -1).transpose(2, 3)


def _pool(weights: Tensor, tokens: Tensor) -> Tensor:
    """Tokens ``[G,B,T,D]`` weighed by ``[G,H,B,T]``: ``[G,H,B,D]``."""
    return (weights.transpose(1, 2) @ tokens).transpose(1, 2)


class FeedForward(nn.Module):
    """``D -> ratio D -> D`` with GELU and dropout inside."""

    def __init__(self, groups: int, width: int, dropout: float, ratio: int = 4) -> None:
        super().__init__()
        self.up = GroupedLinear(groups, width, ratio * width)
        self.down = GroupedLinear(groups, ratio * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        return self.down(self.dropout(torch.nn.functional.gelu(self.up(x)), noise))


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer (Xiong et al., 2020) without a final norm; its feed-forward is ``ratio`` D wide."""

    def __init__(self, groups: int, width: int, heads: int, dropout: float, ratio: int = 4) -> None:
        super().__init__()
        self.norm_attention = GroupedNorm(groups, width)
        self.attention = Attention(groups, width, heads, dropout)
        self.drop_attention = Dropout(dropout)
        self.norm_feed = GroupedNorm(groups, width)
        self.feed = FeedForward(groups, width, dropout, ratio)
        self.drop_feed = Dropout(dropout)

    def forward(
        self, x: Tensor, valid: Tensor, noise: Noise | None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``x [G,B,T,D]``, ``valid [G,B,T]`` -> ``[G,B,T,D]`` and the weights ``[G,B,H,T,T]``."""
        tokens = self.norm_attention(x)
        attended, weights = self.attention(tokens, tokens, valid, noise, bias)
        return self._feed(x + self.drop_attention(attended, noise), noise), weights

    def read(self, summary: Tensor, tokens: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """The layer computed for one token alone, the summary, which is always there: what a last layer needs whose
        other tokens nobody reads.

        ``summary [G,B or 1,D]``, ``tokens [G,B,T,D]``, ``valid [G,B,T]`` -> ``[G,B,D]`` and the weights
        ``[G,B,H,1+T]``, the summary's own first.
        """
        attended, weights = self.attention.read(summary, tokens, self.norm_attention, valid, noise)
        return self._feed((summary + self.drop_attention(attended, noise)).unsqueeze(2), noise).squeeze(2), weights

    def _feed(self, x: Tensor, noise: Noise | None) -> Tensor:
        return x + self.drop_feed(self.feed(self.norm_feed(x), noise), noise)
