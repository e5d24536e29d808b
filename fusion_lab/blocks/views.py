"""Rows as a model of missing modalities reads them: what of them is there, seen, and filled in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fusion_lab.blocks.ragged import Ragged


class Rows(NamedTuple):
    """Some rows as the model reads them, modalities in the order of their groups.

    ``inputs`` and ``cells`` are :data:`Ragged`, ``[G,B,1,F]``: values, 0 where a modality is missing, and which of them
    were measured: a missing cell of a modality that is there holds what the scaler fills in. ``here``
    bool and ``quality`` are ``[B,M]``; quality is 0 where a modality is missing.
    """

    inputs: Ragged
    cells: Ragged
    here: Tensor
    quality: Tensor

    def shown(self, here: Tensor) -> Rows:
        """The same with other modalities missing."""
        seen = [mask[..., None, None] for mask in _by_group(here, self.inputs)]
        cells = [cell & mask for cell, mask in zip(self.cells, seen, strict=True)]
        return Rows(_where(seen, self.inputs), cells, here, self.quality * here)

    def twice(self) -> Rows:
        """The rows, and the rows again behind them."""
        inputs, cells = ([torch.cat([part, part], dim=1) for part in leaf] for leaf in (self.inputs, self.cells))
        return Rows(inputs, cells, torch.cat([self.here] * 2), torch.cat([self.quality] * 2))


class Filled(NamedTuple):
    """What the branches read: every modality's values, which of them are ``used``, and their share in the fusion and
    the confidence in them, ``[B,M]``.
    """

    values: Ragged
    used: Tensor
    share: Tensor
    confidence: Tensor

    def first(self, rows: int) -> Filled:
        """The first rows alone."""
        return Filled([v[:, :rows] for v in self.values], self.used[:rows], self.share[:rows], self.confidence[:rows])


def _by_group(masks: Tensor, inputs: Ragged) -> tuple[Tensor, ...]:
    """``[B,M]`` as ``[G,B]`` of each group."""
    return masks.transpose(0, 1).split([len(part) for part in inputs])


def _where(cells: Ragged, values: Ragged) -> Ragged:
    return [
        torch.where(cell, x, torch.zeros((), dtype=x.dtype, device=x.device))
        for cell, x in zip(cells, values, strict=True)
    ]
