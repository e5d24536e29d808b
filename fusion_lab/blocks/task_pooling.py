"""Bags pooled once for every task: each task's query weighs the instances for itself."""

from __future__ import annotations

from math import log, sqrt
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import masked_softmax
from fusion_lab.blocks.randomness import Dropout, Noise

COLDEST, HOTTEST = 0.1, 10.0
"""A temperature stays between them."""


class Pooling(NamedTuple):
    """How :class:`TaskAttentionPool` pools.

    ``source``: what the weights pool. ``tied``: the normalised instances that the keys see too, by one projection for
    all heads and weights that are the heads' mean; ``own``: the instances as they come, whose length tells something
    too, in the same way; ``attention_output``: plain multi-head attention, every head a part of its own by its own
    weights, and an output projection.

    ``temperature`` divides the scores; it is where the learned one starts. ``dropout`` is that of the weights.

    ``top_k`` keeps the instances of the k largest weights of a task, ties included, as they are (``sum``), scaled to
    the sum 1 (``renorm``), all alike (``mean``), or the largest alone (``argmax``). ``prune_below`` drops instances of
    smaller weight, but never the largest. ``residual_mean`` blends the weights with those of the plain mean.
    """

    source: Literal["tied", "attention_output", "own"] = "tied"
    temperature: float = 0.3
    dropout: float = 0.0
    top_k: int | None = None
    top_k_mode: Literal["renorm", "mean", "sum", "argmax"] = "renorm"
    prune_below: float | None = None
    residual_mean: bool = False


class TaskAttentionPool(nn.Module):
    """Multi-head attention of a learned query per task to the instances of a bag, G bags at once.

    Queries and instances are normalised. A query is folded into the weights of its keys and instances are pooled before
    they are projected, so that an instance costs D and not D^2. Keys have no bias, and the norm of instances that are
    read as keys alone no scale and shift: they would change no weight, or nothing that the keys cannot.

    A choice of instances (``top_k``, ``prune_below``) has the gradient of the weights that it is made from (straight
    through, Bengio et al., 2013): what is kept alone or alike would teach the queries nothing.

    Args:
        tasks: T.
        width: D of an instance, a multiple of ``heads``.
        how: see :class:`Pooling`.
    """

    def __init__(self, groups: int, tasks: int, width: int, heads: int, how: Pooling) -> None:
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide a width of {width}"
        self.how, self.heads = how, heads
        self.queries = nn.Parameter(torch.randn(groups, 1, tasks, width) * 0.02)
        self.norm_queries = GroupedNorm(groups, width)
        self.norm = None if how.source == "own" else GroupedNorm(groups, width)
        self.ask, self.value = (_square(groups, width) for _ in range(2))
        self.key = nn.Parameter(_square(groups, width).weight.detach())
        self.out = _square(groups, width) if how.source == "attention_output" else None
        self.warmth = nn.Parameter(torch.full((groups, 1, 1, 1, 1), _warmth(how.temperature)))
        self.mix = nn.Parameter(torch.zeros(groups, 1, 1, 1, 1)) if how.residual_mean else None
        self.drop = Dropout(how.dropout)

    @property
    def temperature(self) -> Tensor:
        """What the scores of each bag are divided by, ``[G,1,1,1,1]``: anything between the coldest and the hottest, so
        that no temperature is where its gradient ends.
        """
        return COLDEST * (HOTTEST / COLDEST) ** torch.sigmoid(self.warmth)

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Pools.

        Args:
            x: ``[G,B,N,D]``, finite where not valid too.
            valid: bool ``[G,B,N]``.
            noise: random values while training, ``None`` in evaluation.

        Returns:
            ``[G,B,T,D]``, of a bag without instances zeros, and each instance's share of the attention ``[G,B,T,N]``,
            without what ``residual_mean`` gives it: they sum to 1, or are all 0.
        """
        keys = torch.nn.functional.layer_norm(x, x.shape[-1:]) if self.norm is None else self.norm(x)
        here = valid[:, :, None, None]
        scores = self._scores(keys)  # [G,B,H,T,N]
        weights = masked_softmax(scores, self._some(here.expand_as(scores), noise))
        mean = weights.mean(2, keepdim=True)
        used = mean if self.out is None else weights
        chosen = used
        if self.how.top_k is not None or self.how.prune_below is not None:
            chosen = self._chosen(used, self._kept(mean))
            used = used + (chosen - used).detach()
        if self.mix is not None:
            used = torch.lerp(used, _to_one(here.to(x.dtype)), torch.sigmoid(self.mix))
        pooled = self._pool(used, x if self.norm is None else keys)
        return pooled * valid.any(-1)[..., None, None], _to_one(chosen.mean(2))

    def _scores(self, keys: Tensor) -> Tensor:
        """``[G,B,N,D] -> [G,B,H,T,N]``."""
        groups, rows, count, width = keys.shape
        asked = self.ask(self.norm_queries(self.queries)).reshape(groups, -1, self.heads, width // self.heads)
        folded = torch.einsum("gthe,gdhe->gdht", asked, self.key.reshape(groups, width, self.heads, -1)).flatten(2)
        scores = (keys.flatten(1, 2) @ folded).reshape(groups, rows, count, self.heads, -1).permute(0, 1, 3, 4, 2)
        return scores * (sqrt(self.heads / width) / self.temperature)

    def _some(self, here: Tensor, noise: Noise | None) -> Tensor:
        """What dropout leaves to the softmax, which gives it the whole weight; where it would leave nothing,
        everything.
        """
        if noise is None or self.drop.p == 0:
            return here
        left = here & (self.drop(torch.ones_like(here, dtype=self.queries.dtype), noise) > 0)
        return torch.where(left.any(-1, keepdim=True), left, here)

    def _kept(self, mean: Tensor) -> Tensor:
        """bool ``[G,B,1,T,N]``: the instances chosen by their weights."""
        largest, how = mean.amax(-1, keepdim=True), self.how
        kept = mean > 0
        if how.top_k is not None:
            place = 0 if how.top_k_mode == "argmax" else min(how.top_k, mean.shape[-1]) - 1
            kept = kept & (mean >= mean.sort(dim=-1, descending=True).values[..., place : place + 1])
        if how.prune_below is not None:
            kept = kept & (mean >= largest.clamp(max=how.prune_below))
        return kept

    def _chosen(self, weights: Tensor, kept: Tensor) -> Tensor:
        mode = self.how.top_k_mode if self.how.top_k is not None else "renorm"
        if mode == "mean":
            return _to_one(kept.to(weights.dtype)).expand_as(weights)
        return weights * kept if mode == "sum" else _to_one(weights * kept)

    def _pool(self, weights: Tensor, source: Tensor) -> Tensor:
        """``[G,B,H,T,N]`` and ``[G,B,N,D]`` to ``[G,B,T,D]``, each of H parts of the values by weights of its own."""
        groups, width, parts = len(source), source.shape[-1], weights.shape[2]
        pooled = (weights.flatten(2, 3) @ source).unflatten(2, (parts, -1))
        projection = self.value.weight.reshape(groups, width, parts, -1)
        values = torch.einsum("gbhtd,gdhe->gbthe", pooled, projection).flatten(3) + self.value.bias[:, None, None]
        return values if self.out is None else self.out(values)


def _square(groups: int, width: int) -> GroupedLinear:
    """D -> D as attention's projections start (Xavier, without bias)."""
    linear, bound = GroupedLinear(groups, width, width), sqrt(3.0 / width)
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear


def _warmth(temperature: float) -> float:
    """The number whose sigmoid lies where the temperature does on a logarithmic scale."""
    share = log(temperature / COLDEST) / log(HOTTEST / COLDEST)
    return log(share / (1.0 - share))


def _to_one(weights: Tensor) -> Tensor:
    """Scaled to the sum 1 over the last axis; all zeros stay so."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.ones_like(total))
