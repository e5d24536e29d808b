"""A stream's cells, some at a time and in float32 whatever they are kept in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 1 << 15
"""Cells that are worked on at once: they stay in the cache, and no float16 matrix is ever widened as a whole. PyTorch
converts more than these in several threads, which on a busy machine wait for each other thirty times as long."""


@dataclass(frozen=True)
class Cells:
    """``values`` [n,F], of which ``rows`` int [k] are the samples to go by, in this order."""

    values: np.ndarray
    rows: np.ndarray

    def read(self, samples: np.ndarray | slice, columns: slice | list[int]) -> np.ndarray:
        """float32, a row for each of ``samples``; what is too large for it is infinite."""
        chosen = self.rows[samples]
        part = self.values[chosen, columns] if isinstance(columns, slice) else self.values[chosen[:, None], columns]
        if part.dtype == np.float16:
            return torch.from_numpy(part).float().numpy()  # NumPy takes six times as long
        with np.errstate(over="ignore"):
            return part.astype(np.float32, copy=False)

    def presence(self, groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, int]:
        """bool [k,G], whether a sample has every column of a group; and how many cells are missing altogether."""
        every, missing = np.empty((len(self.rows), len(groups)), dtype=bool), 0
        wide = [(at, as_slice(group)) for at, group in enumerate(groups) if len(group) > 1]
        single = [at for at, group in enumerate(groups) if len(group) == 1]
        columns = [groups[at][0] for at in single]
        for part in blocks(len(self.rows), self.values.shape[1]):
            finite = np.isfinite(self.read(part, slice(None)))
            missing += finite.size - int(np.count_nonzero(finite))
            every[part, single] = finite[:, columns]
            for at, group in wide:
                every[part, at] = finite[:, group].all(axis=1)
        return every, missing


def as_slice(columns: Sequence[int]) -> slice | list[int]:
    """The columns as a slice where they lie side by side: numbers are then copied row by row, not one by one.

    >>> as_slice([3, 4, 5]), as_slice([1, 3])
    (slice(3, 6, None), [1, 3])
    """
    first, last = columns[0], columns[-1]
    return slice(first, last + 1) if list(columns) == list(range(first, last + 1)) else list(columns)


def blocks(length: int, width: int) -> Iterator[slice]:
    """``length`` rows of ``width`` cells, in parts."""
    size = max(1, BLOCK // width)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
