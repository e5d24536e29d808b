"""Inputs of M modalities whose widths differ, side by side in groups of similar width, and linear maps for each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear

Ragged = list[Tensor]
"""``[G,B,T,F]`` of each group, F its largest width, zeros beyond a modality's own; M modalities in all."""

Widths = tuple[tuple[int, ...], ...]
"""Of each group, the widths F of its modalities."""


class RaggedLinear(nn.Module):
    """A linear map from each modality's own width to D: :data:`Ragged` to ``[M,B,T,D]``."""

    def __init__(self, widths: Widths, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GroupedLinear(len(group), max(group), out, group) for group in widths)

    def forward(self, x: Ragged) -> Tensor:
        return torch.cat([layer(part) for layer, part in zip(self.layers, x, strict=True)])


class LinearRagged(nn.Module):
    """A linear map from D to each modality's own width: ``[M,B,T,D]`` to :data:`Ragged`."""

    def __init__(self, width: int, outs: Widths) -> None:
        super().__init__()
        self.sizes = tuple(len(group) for group in outs)
        self.layers = nn.ModuleList(GroupedLinear(len(g), width, max(g), outs=g) for g in outs)

    def forward(self, x: Tensor) -> Ragged:
        return [layer(part) for layer, part in zip(self.layers, x.split(self.sizes), strict=True)]


def fill(x: Ragged, missing: Tensor, values: Ragged) -> Ragged:
    """``x`` with ``values`` where a modality is ``missing``, bool ``[B,M]``."""
    masks = missing.transpose(0, 1).split([len(part) for part in x])
    return [torch.where(mask[..., None, None], v, part) for part, mask, v in zip(x, masks, values, strict=True)]


def squared_errors(found: Ragged, truth: Ragged, cells: Ragged) -> Tensor:
    """``[B,M,S]``: the mean, over those of a modality's ``cells`` that are True, of the squared difference between each
    of S guesses ``[G,B,S,F]`` and the truth ``[G,B,1,F]``; 0 where no cell is.
    """
    means = []
    for guess, true, cell in zip(found, truth, cells, strict=True):
        counted = cell.to(true.dtype)
        means.append((((guess - true) * counted) ** 2).sum(-1) / counted.sum(-1).clamp(min=1.0))
    return torch.cat(means).transpose(0, 1)


def variances(x: Ragged, cells: Ragged, counted: Tensor) -> Tensor:
    """``[M]``: of each modality, the mean over its cells of their variance over the rows ``counted``, bool ``[B]``, in
    which they are True; 0 where nothing varies.
    """
    means = []
    for part, cell in zip(x, cells, strict=True):
        weight = (cell & counted[None, :, None, None]).to(part.dtype)
        rows = weight.sum(1, keepdim=True)
        center = (part * weight).sum(1, keepdim=True) / rows.clamp(min=1.0)
        variance = (((part - center) ** 2) * weight).sum(1, keepdim=True) / rows.clamp(min=1.0)
        varies = (rows > 1).to(part.dtype)
        means.append((variance * varies).sum((1, 2, 3)) / varies.sum((1, 2, 3)).clamp(min=1.0))
    return torch.cat(means)
