"""Random draws that are a function of (seed, trial, fold, step, place) and of nothing else.

A stream hidden in a library (``torch.manual_seed``, dropout's generator) depends on how many folds share a step and on
what was drawn before. Here every (seed, trial, fold, step) has a generator of its own, and what a model needs in a step
is drawn from it beforehand and handed over: stacking folds, dropping finished ones, continuing from a checkpoint and
the number of workers change nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor, nn

LEVELS = 1 << 16
"""How many values a draw can have: a rate of dropout is kept to within 1e-5."""


def generator(*coordinates: int | str) -> np.random.Generator:
    """A NumPy generator of its own for a place in the experiment.

    >>> bool(generator(0, "order", 1).random() == generator(0, "order", 1).random())
    True
    """
    return np.random.default_rng(_entropy(coordinates))


def key(*coordinates: int | str) -> int:
    """A 32-bit signed number for a place in the experiment: a seed for what takes no generator.

    >>> key(0, 1, 2) == key(0, 1, 2), key(0, 1, 2) == key(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(_entropy(coordinates)).generate_state(1, np.uint32)[0]) - (1 << 31)


def draw_noise(count: int, *coordinates: int | str) -> np.ndarray:
    """int16 ``[count]``, uniform over all of its 65,536 values: the :class:`Noise` of a place in the experiment.

    A shorter draw is the beginning of a longer one.

    >>> draw_noise(3, 0, "fold 1", 7).tolist() == draw_noise(5, 0, "fold 1", 7)[:3].tolist()
    True
    """
    stream = np.random.SFC64(np.random.SeedSequence(_entropy(coordinates)))  # the quickest of NumPy's
    return stream.random_raw(-(-count // 4)).view(np.int16)[:count]


def _entropy(coordinates: tuple[int | str, ...]) -> list[int]:
    return [zlib.crc32(c.encode()) if isinstance(c, str) else c for c in coordinates]


class Noise:
    """Random values for one forward pass of a model, int16 ``[N]`` (batched under ``vmap``). Its parts take theirs in
    the order in which they are called. Not ``distorts``: they drop units and change neither inputs nor latents, as
    dropout in evaluation asks a model's weights.
    """

    def __init__(self, values: Tensor, distorts: bool = True) -> None:
        self.values = values
        self.distorts = distorts
        self.taken = 0

    def take(self, shape: Sequence[int]) -> Tensor:
        """The next values, int16 of this shape."""
        start, self.taken = self.taken, self.taken + prod(shape)
        assert self.taken <= self.values.shape[-1], f"{self.taken} random values wanted, {self.values.shape[-1]} given"
        return self.values[start : self.taken].reshape(shape)


class _Counter(Noise):
    def take(self, shape: Sequence[int]) -> Tensor:
        self.taken += prod(shape)
        return self.values.expand(shape)


def count_draws(forward: Callable[[Noise], object], device: torch.device, distorts: bool = True) -> int:
    """How many random values a forward pass takes."""
    counter = _Counter(torch.zeros((), dtype=torch.int16, device=device), distorts)
    with torch.no_grad():
        forward(counter)
    return counter.taken


def normal(noise: Noise, like: Tensor) -> Tensor:
    """Standard normal values of the shape and type of ``like``: the quantiles of 65,536 equal shares, up to 4.2."""
    exact = torch.promote_types(like.dtype, torch.float32)  # half precision would round the outermost to 1
    return (torch.erfinv((noise.take(like.shape).to(exact) + 0.5) * (2.0 / LEVELS)) * sqrt(2.0)).to(like.dtype)


class Dropout(nn.Module):
    """Dropout by values that are handed in; ``None`` means evaluation: nothing is dropped."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        if noise is None or dropped == 0:
            return x
        keep = noise.take(x.shape) >= dropped - LEVELS // 2
        return x * keep.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
