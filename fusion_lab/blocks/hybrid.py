"""Hybrid fusion: every modality's token reads the time steps of the others, then gates weigh what came of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn

from fusion_lab.blocks.answering import Answered, Steps
from fusion_lab.blocks.cross_modal import CrossModalAttention
from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.heads import TaskHead
from fusion_lab.blocks.masking import masked_softmax, weighted_mean
from fusion_lab.blocks.randomness import Dropout, Noise

QUIET = 0.1
"""What is read starts at this share of its usual size."""


class HybridFusion(nn.Module):
    """To each token is added the mean of what it reads of the other modalities that are there; a gate per modality,
    softmax over those present, weighs the sums; a hidden layer and a head for each task answer.

    A modality of one step has nothing to choose from: its token is what the others read. What is read starts quietly,
    so that the gates first learn which modality tells something by itself: they could as well settle on one that only
    repeats what it reads of it.

    Args:
        clocks: of each modality; those of one clock have the same number of steps. ``None``: a modality of one step.
        width: D of a token and of a step.
        hidden: width after the tokens' projection.
        outputs: of each task's head.
    """

    def __init__(
        self,
        clocks: tuple[Hashable | None, ...],
        width: int,
        hidden: int,
        heads: int,
        outputs: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        modalities, askers = len(clocks), len(clocks) - 1
        self.others = [[a for a in range(modalities) if a != b] for b in range(modalities)]
        alike: dict[Hashable | None, list[int]] = {}
        for place, clock in enumerate(clocks if askers else ()):
            alike.setdefault(clock, []).append(place)
        self.told = alike.pop(None, [])
        self.asked = list(alike.values())
        self.project = GroupedLinear(modalities, width, hidden)
        self.tell = GroupedLinear(len(self.told) * askers, width, hidden) if self.told else None
        self.ask = nn.ModuleList(
            CrossModalAttention(len(places), askers, width, hidden, heads, dropout) for places in self.asked
        )
        for name, weight in self.named_parameters():
            if name.startswith("tell.") or name.endswith(".out.weight"):
                weight.data.mul_(QUIET)
        self.gate = GroupedLinear(modalities, hidden, 1)
        self.drop = Dropout(dropout)
        self.heads = nn.ModuleList(TaskHead(hidden, count, dropout) for count in outputs)

    def forward(self, tokens: Tensor, present: Tensor, steps: Mapping[int, Steps], noise: Noise | None) -> Answered:
        """``tokens [M,B,D]``, ``present`` bool ``[M,B]``, and the steps of each modality that has several, by place."""
        x = self.drop(torch.nn.functional.gelu(self.project(tokens)), noise)
        read, asked = self._read(x, tokens, present, steps, noise)
        mixed = torch.stack([own + self._mean(a, read, present) for a, own in enumerate(x.unbind())])
        weights = masked_softmax(self.gate(mixed).squeeze(-1).T, present.T)
        fused = (mixed * weights.T.unsqueeze(-1)).sum(0)
        return Answered([head(fused, noise) for head in self.heads], weights, [], asked)

    def _mean(self, asker: int, read: Mapping[tuple[int, int], Tensor], present: Tensor) -> Tensor:
        """What a modality reads of the others that are there ``[B,hidden]``, zeros where it is alone."""
        others = self.others[asker]
        if not others:
            return torch.zeros((), device=present.device)
        told = torch.stack([read[asker, b] for b in others])
        return weighted_mean(told, torch.stack([present[b] for b in others]), dim=0)

    def _read(
        self, x: Tensor, tokens: Tensor, present: Tensor, steps: Mapping[int, Steps], noise: Noise | None
    ) -> tuple[dict[tuple[int, int], Tensor], dict[int, Tensor]]:
        """What asker a reads of modality b, ``[B,hidden]`` by (a, b), and the weights of the steps by b."""
        read: dict[tuple[int, int], Tensor] = {}
        asked: dict[int, Tensor] = {}
        if self.tell is not None:
            pairs = self._pairs(self.told)
            answers = self.tell(torch.stack([tokens[b] for _, b in pairs]))
            read |= dict(zip(pairs, answers.unbind(), strict=True))
        for places, attention in zip(self.asked, self.ask, strict=True):
            pairs = self._pairs(places)
            values, valid = (torch.stack([steps[b][part] for b in places]) for part in range(2))
            queries, here = (torch.stack([of[a] for a, _ in pairs]) for of in (x, present))
            answers, weights = attention(queries, values, valid, here, noise)
            read |= dict(zip(pairs, answers.unbind(), strict=True))
            asked |= dict(zip(places, weights.unbind(), strict=True))
        return read, asked

    def _pairs(self, places: list[int]) -> list[tuple[int, int]]:
        """(asker, asked), one asked after the other."""
        return [(a, b) for b in places for a in self.others[b]]
