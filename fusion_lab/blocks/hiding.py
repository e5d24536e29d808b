"""Modalities hidden at random while training; what hides them is handed in (:mod:`fusion_lab.blocks.randomness`).

``here``, bool ``[B,M]``, is what may be seen; no row loses its last modality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusion_lab.blocks.randomness import LEVELS, Noise


def hide_each(here: Tensor, rate: float, spared: tuple[bool, ...], noise: Noise) -> Tensor:
    """Each modality of each row hidden with probability ``rate``, but for those ``spared``: what is left."""
    draws, safe = noise.take(here.shape), here.new_tensor(spared)
    kept = _first(draws, here) & ~(here & safe).any(-1, keepdim=True)  # where nothing else is sure to stay
    return here & ~(_hit(draws, rate) & ~safe & ~kept)


def hide_one_of_all(here: Tensor, rate: float, spared: tuple[bool, ...], counted: Tensor, noise: Noise) -> Tensor:
    """With probability ``rate``, one modality hidden in all rows that have another: what is left. It is one that some
    row has beside another; rows that are not ``counted``, bool ``[B]``, do not decide.
    """
    hit = _hit(noise.take((1,)), rate)
    spare = here & (here.sum(-1, keepdim=True) > 1) & ~here.new_tensor(spared)
    can = (spare & counted.unsqueeze(-1)).any(0)
    return here & ~(hit & _first(noise.take(can.shape), can) & spare)


def hide_one_more(here: Tensor, noise: Noise) -> Tensor:
    """One more modality hidden in every row that has two: what is left."""
    return here & ~(_first(noise.take(here.shape), here) & (here.sum(-1, keepdim=True) > 1))


def _hit(draws: Tensor, rate: float) -> Tensor:
    return draws < min(round(rate * LEVELS), LEVELS - 1) - LEVELS // 2


def _first(draws: Tensor, among: Tensor) -> Tensor:
    """bool, one place of the last axis at random among those marked; none where none is."""
    count = draws.shape[-1]
    # the place decides between equal draws
    order = draws.to(torch.int64) * count + torch.arange(count, device=draws.device)
    order = torch.where(among, order, torch.iinfo(torch.int64).min)
    return (order == order.amax(-1, keepdim=True)) & among
