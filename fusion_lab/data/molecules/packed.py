"""Modalities of molecules as they lie in memory: bits eight to a byte, bags end to end, no padding.

Each gives rows by index, int64 [B], as ``(inputs, valid)`` of a :class:`~fusion_lab.contracts.Batch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor


class Packed(Protocol):
    """One modality of R molecules."""

    def __len__(self) -> int: ...

    @property
    def present(self) -> np.ndarray:
        """Which molecules have it, bool [R]."""
        ...

    @property
    def nbytes(self) -> int: ...

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]: ...

    def take(self, rows: np.ndarray) -> Packed:
        """The molecules ``rows``, int [R'], of which -1 stands for one that does not have the modality."""
        ...


@dataclass(frozen=True)
class Vectors:
    """A vector per molecule: ``values`` float32 [R,F], 0 where not ``valid``, bool [R]."""

    KEPT: ClassVar[type] = np.float32
    """As what ``values`` are kept."""

    values: Tensor
    valid: Tensor

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Of molecules that all have one."""
        return cls(torch.from_numpy(np.ascontiguousarray(values, cls.KEPT)), torch.ones(len(values)).bool())

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def present(self) -> np.ndarray:
        return self.valid.numpy()

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.valid.nbytes

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.values[rows], self.valid[rows]

    def take(self, rows: np.ndarray) -> Self:
        there = torch.from_numpy(rows >= 0)
        return type(self)(_or_zero(self.values, rows, there), _or_zero(self.valid, rows, there))


class Bits(Vectors):
    """A vector of bits per molecule: ``values`` uint8 [R,F/8], the first bit of eight the highest; ``valid`` bool [R].

    >>> Bits.of(np.packbits([[0, 1, 1, 0, 0, 0, 0, 1]], axis=1)).gather(torch.tensor([0]))[0].tolist()
    [[0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]]
    """

    KEPT = np.uint8

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        octets, valid = super().gather(rows)
        return torch.from_numpy(np.unpackbits(octets.numpy(), axis=-1)).float(), valid


@dataclass(frozen=True)
class Bags:
    """A bag of instances per molecule, all of them in one matrix.

    ========= ==============  =================================================================================
    instances float32 [K+1,F] end to end; the last row is 0 and stands for every position without an instance
    starts    int64 [R]       where a molecule's instances begin
    counts    int64 [R]       how many they are; 0 of a molecule without any
    length    N               positions that are gathered; of a larger bag the first N
    ========= ==============  =================================================================================
    """

    instances: Tensor
    starts: Tensor
    counts: Tensor
    length: int

    @classmethod
    def of(cls, instances: np.ndarray, offsets: np.ndarray) -> Bags:
        """From float32 [K,F] and int [R+1]: molecule i has the instances from ``offsets[i]`` to ``offsets[i+1]``."""
        counts = np.diff(offsets).astype(np.int64)
        closed = np.concatenate([instances, np.zeros((1, instances.shape[1]))], dtype=np.float32)
        starts = torch.from_numpy(offsets[:-1].astype(np.int64))
        return cls(torch.from_numpy(closed), starts, torch.from_numpy(counts), max(1, int(counts.max(initial=0))))

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def present(self) -> np.ndarray:
        return (self.counts > 0).numpy()

    @property
    def nbytes(self) -> int:
        return self.instances.nbytes + self.starts.nbytes + self.counts.nbytes

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        position = torch.arange(self.length)
        valid = position < self.counts[rows].unsqueeze(-1)
        nothing = len(self.instances) - 1
        place = torch.where(valid, self.starts[rows].unsqueeze(-1) + position, nothing)
        return self.instances[place], valid

    def take(self, rows: np.ndarray) -> Bags:
        counts = np.where(rows >= 0, self.counts.numpy()[rows], 0)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        line = np.repeat(self.starts.numpy()[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Bags.of(self.instances.numpy()[line], offsets)

    def lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Molecule and position of each instance, int [K], in their order."""
        counts = self.counts.numpy()
        row = np.repeat(np.arange(len(counts)), counts)
        return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def _or_zero(values: Tensor, rows: np.ndarray, there: Tensor) -> Tensor:
    """``values`` at ``rows``, 0 where these are not ``there``."""
    if not len(values):
        return values.new_zeros(len(rows), *values.shape[1:])
    taken = values[torch.from_numpy(rows)]
    taken[~there] = 0
    return taken
