"""A safetensors file written tensor by tensor: what lies in other files need not be in memory all at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fusion_lab.training.shelf import raw_bytes

TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""As the format calls them (https://github.com/huggingface/safetensors#format)."""


class Entry(NamedTuple):
    """A tensor of the file: its shape and type, and what gives it when its turn comes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, leaf: Tensor) -> Entry:
        return cls(tuple(leaf.shape), leaf.dtype, lambda: leaf)


def write_stream(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Writes the tensors in the order given, behind a header that says where each lies.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, entry in entries.items():
        start, end = end, end + math.prod(entry.shape) * entry.dtype.itemsize
        header[name] = {"dtype": TYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for entry in entries.values():
            file.write(raw_bytes(entry.read()))
