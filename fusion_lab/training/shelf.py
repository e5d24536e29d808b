"""Weights of folds at the epochs that are kept, each once, whatever it is kept for: in memory, or in a file where they
are many. A file is one without a name: it goes with the last that refers to it, however the process ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from fusion_lab.contracts import DataError
from fusion_lab.training.leaves import Leaves

IN_MEMORY = 500_000_000
"""Bytes of weights that are held in memory beside those in training; more go into files."""

Slot = tuple[int, int]
"""A fold, and the epoch after which it had the weights, from 1."""


class Shelf:
    """Weights of folds by :data:`Slot`.

    Args:
        in_files: whether they lie in files.
        folder: of the files; without, where the system has its temporary ones.
    """

    def __init__(self, in_files: bool = False, folder: Path | None = None) -> None:
        self.in_files, self._folder = in_files, folder
        self._slots: dict[Slot, dict[str, Tensor]] = {}

    @classmethod
    def holding(cls, copies: int, model: nn.Module, folder: Path | None = None) -> Shelf:
        """One for so many copies of a model's weights, in files if they are more than memory should hold."""
        return cls(copies * sum(map(size_in_bytes, model.parameters())) > IN_MEMORY, folder)

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._slots

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def put(self, slot: Slot, weights: Mapping[str, Tensor]) -> None:
        """Copies the weights ``{name: [*shape]}`` of one fold, unless the slot has them already.

        Raises:
            DataError: there is no room for the file.
        """
        if slot not in self._slots:
            copies = self._written(weights) if self.in_files else {n: leaf.clone() for n, leaf in weights.items()}
            self._slots[slot] = copies

    def get(self, slot: Slot) -> dict[str, Tensor]:
        """The weights of a slot, not copied; of one in a file, each is read anew when it is asked for."""
        return self._slots[slot]

    def stacked(self, slots: Sequence[Slot], device: torch.device) -> Leaves:
        """Leaves ``[n,*shape]``."""
        names = self._slots[slots[0]]
        return {name: torch.stack([self._slots[slot][name] for slot in slots]).to(device) for name in names}

    def retain(self, slots: Collection[Slot]) -> None:
        """Forgets all others."""
        self._slots = {slot: weights for slot, weights in self._slots.items() if slot in slots}

    def _written(self, weights: Mapping[str, Tensor]) -> Filed:
        try:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            return Filed.of(weights, tempfile.TemporaryFile(dir=self._folder))
        except OSError as error:
            place = self._folder or tempfile.gettempdir()
            size = sum(map(size_in_bytes, weights.values())) / 1e6
            raise DataError(f"{place}: expected room for {size:.0f} MB of weights, found: {error.strerror}") from None


@dataclass(frozen=True)
class Extent:
    """Where a tensor lies in a file."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Filed(dict[str, Tensor]):
    """Weights in a file: they are read when they are asked for, and not kept. A dict, since safetensors saves no other
    mapping.
    """

    def __init__(self, file: IO[bytes], extents: Mapping[str, Extent]) -> None:
        super().__init__((name, torch.empty(0)) for name in extents)  # names alone
        self._file, self._extents = file, extents

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], file: IO[bytes]) -> Filed:
        """Written to a file that is open for both."""
        extents = {}
        for name, leaf in weights.items():
            extents[name] = Extent(file.tell(), tuple(leaf.shape), leaf.dtype)
            file.write(raw_bytes(leaf))
        file.flush()
        return cls(file, extents)

    def __getitem__(self, name: str) -> Tensor:
        extent = self._extents[name]
        leaf = torch.empty(extent.shape, dtype=extent.dtype)  # where PyTorch puts tensors: kernels mind the place
        # not seek and read: other threads read the same file
        raw_bytes(leaf)[:] = os.pread(self._file.fileno(), size_in_bytes(leaf), extent.start)
        return leaf

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # overridden, so that dict(...) asks for every value

    def get(self, name: str, default: Any = None) -> Any:  # ty: ignore[incompatible-method-override]
        return self[name] if name in self else default  # noqa: SIM401 - this is the method itself

    # All at once: safetensors takes tensors read one after the other, each where the last one was, for one tensor.
    def items(self) -> ItemsView[str, Tensor]:  # ty: ignore[incompatible-method-override]
        return {name: self[name] for name in self}.items()

    def values(self) -> ValuesView[Tensor]:  # ty: ignore[incompatible-method-override]
        return {name: self[name] for name in self}.values()


def size_in_bytes(leaf: Tensor) -> int:
    return leaf.numel() * leaf.element_size()


def raw_bytes(leaf: Tensor) -> memoryview:
    """A tensor's values as a file holds them; those of a dense one on the CPU share its memory."""
    return memoryview(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
