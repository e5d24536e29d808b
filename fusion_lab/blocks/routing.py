"""Tokens in branches, branches as vectors, and what of them each task reads. Tokens are ``[B,M,D]``; ``used`` bool
``[B,M]``; ``share [B,M]`` in [0, 1] scales each token's part.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusion_lab.blocks.attention import TransformerLayer
from fusion_lab.blocks.fusion import share_bias
from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import masked_softmax, weighted_mean
from fusion_lab.blocks.randomness import Dropout, Noise

Places = tuple[tuple[int, ...], ...]
"""Of each of N branches, which of the M tokens it holds; each token is in one."""


class BranchEncoder(nn.Module):
    """The tokens of a branch read each other in one transformer layer; a token that has a branch to itself goes through
    layer norm, linear, GELU and dropout. Branches of one size are computed together.
    """

    def __init__(self, branches: Places, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        of_size: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for branch in branches:
            of_size[len(branch)].append(branch)
        self.alone = tuple(branch[0] for branch in of_size.pop(1, []))
        self.together = tuple(tuple(members) for members in of_size.values())
        self.layers = nn.ModuleList(TransformerLayer(len(b), width, heads, dropout) for b in self.together)
        self.norm = GroupedNorm(len(self.alone), width) if self.alone else None
        self.linear = GroupedLinear(len(self.alone), width, width) if self.alone else None
        self.drop = Dropout(dropout)

    def forward(self, tokens: Tensor, used: Tensor, share: Tensor, noise: Noise | None) -> Tensor:
        """Tokens ``[B,M,D]``, ``used`` and ``share [B,M]`` -> ``[B,M,D]``."""
        made: dict[int, Tensor] = {}
        for branches, layer in zip(self.together, self.layers, strict=True):
            x, valid, bias = (_gather(leaf, branches) for leaf in (tokens, used, share_bias(share)))
            out, _ = layer(x, valid, noise, bias)
            made |= {m: out[g, :, i] for g, branch in enumerate(branches) for i, m in enumerate(branch)}
        if self.norm is not None and self.linear is not None:
            x = _gather(tokens, tuple((m,) for m in self.alone))
            out = self.drop(torch.nn.functional.gelu(self.linear(self.norm(x))), noise)
            made |= {m: out[g, :, 0] for g, m in enumerate(self.alone)}
        return torch.stack([made[m] for m in sorted(made)], dim=1)


def _gather(leaf: Tensor, branches: Places) -> Tensor:
    """The places of each branch, ``[B,M,...] -> [G,B,n,...]``."""
    parts = leaf.unbind(1)
    return torch.stack([torch.stack([parts[m] for m in branch], dim=1) for branch in branches])


class Branches(NamedTuple):
    """Branches as vectors ``[B,N,D]``: which of them hold anything and their share, ``[B,N]``, and the ``weights
    [B,N,M]`` of the tokens in each, which sum to 1 or are all 0.
    """

    vectors: Tensor
    used: Tensor
    share: Tensor
    weights: Tensor


class BranchPool(nn.Module):
    """One attention pool for all branches: a token's score is the sum of D/4 learned features of it, in (-1, 1) each. A
    branch's share is the largest of its tokens'.
    """

    def __init__(self, branches: Places, width: int) -> None:
        super().__init__()
        self.branches = branches
        alone = all(len(branch) == 1 for branch in branches)
        self.score = None if alone else nn.Linear(width, width // 4)
        self.value = nn.Linear(width, width)

    def forward(self, tokens: Tensor, used: Tensor, share: Tensor) -> Branches:
        """``tokens [B,M,D]``, ``used`` and ``share [B,M]``."""
        inside = used.new_tensor([[m in b for m in range(used.shape[1])] for b in self.branches])
        here = used.unsqueeze(1) & inside
        scores = share_bias(share)
        if self.score is not None:
            scores = scores + torch.tanh(self.score(tokens)).sum(-1)
        weights = masked_softmax(scores.unsqueeze(1), here)
        return Branches(
            weights @ self.value(tokens),
            here.any(-1),
            (share.unsqueeze(1) * here).amax(-1),
            weights,
        )


class TaskRouting(nn.Module):
    """Per task: a softmax over the branches, told by their mean, weighs them by their share too; of the weighted sum a
    head of two hidden layers answers.

    Args:
        branches: N.
        outputs: of each task.
    """

    def __init__(self, branches: int, width: int, outputs: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        tasks = len(outputs)
        self.branches = branches
        self.ask = GroupedLinear(tasks, width, width // 2) if branches > 1 else None
        self.route = GroupedLinear(tasks, width // 2, branches) if branches > 1 else None
        self.first = GroupedLinear(tasks, width, width // 2)
        self.second = GroupedLinear(tasks, width // 2, width // 4)
        self.out = nn.ModuleList(nn.Linear(width // 4, count) for count in outputs)
        self.drop = Dropout(dropout)

    def forward(self, vectors: Tensor, used: Tensor, share: Tensor, noise: Noise | None) -> tuple[list[Tensor], Tensor]:
        """``vectors [B,N,D]``, ``used`` and ``share [B,N]`` -> an answer per task, ``[B]`` or ``[B,C]``, and the
        routing ``[tasks,B,N]``, which sums to 1 over what is used.
        """
        weights = masked_softmax(self._scores(branch_mean(vectors, used, share)) + share_bias(share), used)
        mixed = torch.einsum("abn,bnd->abd", weights, vectors)
        hidden = self.drop(torch.nn.functional.gelu(self.first(mixed)), noise)
        hidden = self.drop(torch.nn.functional.gelu(self.second(hidden)), noise)
        answers = [out(own) for out, own in zip(self.out, hidden.unbind(), strict=True)]
        return [a.squeeze(-1) if a.shape[-1] == 1 else a for a in answers], weights

    def _scores(self, mean: Tensor) -> Tensor:
        """``[B,D] -> [tasks,B,N]``."""
        tasks = len(self.out)
        if self.ask is None or self.route is None:
            return mean.new_zeros(tasks, len(mean), 1)
        return self.route(torch.nn.functional.gelu(self.ask(mean.expand(tasks, *mean.shape))))


def branch_mean(vectors: Tensor, used: Tensor, share: Tensor) -> Tensor:
    """The branches' mean weighted by their share, ``[B,N,D] -> [B,D]``."""
    return weighted_mean(vectors, used * share, dim=1)
