"""Random draws that are a function of (seed, trial, fold, step, place) and of nothing else.

A stream hidden in a library (``torch.manual_seed``, dropout's generator) depends on how many folds share a step and on
what was drawn before. Here a key is made for each (seed, trial, fold, step), and each place of a model hashes (key,
place, index): stacking folds, dropping finished ones, continuing from a checkpoint and the number of workers change
nothing.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn

_LOW16, _LOW17 = 0xFFFF, 0x1FFFF
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))  # "lowbias32", Chris Wellons, Hash Prospector (2018)


def generator(*coordinates: int | str) -> np.random.Generator:
    """A NumPy generator of its own for a place in the experiment.

    >>> bool(generator(0, "order", 1).random() == generator(0, "order", 1).random())
    True
    """
    return np.random.default_rng(_entropy(coordinates))


def key(*coordinates: int | str) -> int:
    """A 32-bit signed key for a place in the experiment, the argument of every model's ``forward`` while it trains.

    >>> key(0, 1, 2) == key(0, 1, 2), key(0, 1, 2) == key(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(_entropy(coordinates)).generate_state(1, np.uint32)[0]) - (1 << 31)


def _entropy(coordinates: tuple[int | str, ...]) -> list[int]:
    return [zlib.crc32(c.encode()) if isinstance(c, str) else c for c in coordinates]


def hashed_uniform(key: Tensor, place: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """int32 of ``shape``, uniform over all 2^32 values; ``key`` is an int32 scalar tensor (batched under ``vmap``).

    Two multiply-xor rounds with the key added in between, so that two keys do not give two orders of the same numbers.
    """
    count = 1
    for size in shape:
        count *= size
    index = torch.arange(count, dtype=torch.int32, device=key.device)
    mixed = _round(_round(key ^ place, 0), 1)
    return _round(_round(index ^ mixed, 0) + mixed, 1).reshape(shape)


def _round(x: Tensor, which: int) -> Tensor:
    # The shift of a negative int32 copies its sign; the mask makes it the logical shift that the hash needs.
    x = x ^ ((x >> 16) & _LOW16) if which == 0 else x ^ ((x >> 15) & _LOW17)
    return x * _MULTIPLIERS[which]


class Dropout(nn.Module):
    """Dropout whose mask is a function of (key, place, index). ``key=None`` means evaluation: nothing is dropped.

    ``place`` tells two dropouts of one model apart; :func:`name_places` sets it.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.place = 0

    def forward(self, x: Tensor, key: Tensor | None) -> Tensor:
        if key is None or self.p == 0.0:
            return x
        threshold = int(self.p * (1 << 32)) - (1 << 31)
        keep = hashed_uniform(key, self.place, x.shape) >= threshold
        return x * (keep * (1.0 / (1.0 - self.p))).to(x.dtype)


def name_places(model: nn.Module) -> None:
    """Gives every :class:`Dropout` of a model the place that its qualified name stands for."""
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.place = zlib.crc32(name.encode()) - (1 << 31)
