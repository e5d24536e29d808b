"""The rows of a data set some at a time: all of what it keeps packed would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fusion_lab.contracts import Batch, Dataset

CELLS = 1 << 22
"""Cells of all modalities together that are laid out at once: 16 MiB of numbers, several times that while in use."""


def in_portions(dataset: Dataset, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Batch]]:
    """Row numbers, int, and the batch of them: all rows, or those given, in their order.

    >>> from fusion_lab.data import synthetic
    >>> data = synthetic.load(synthetic.SyntheticConfig(rows=20))
    >>> [len(part) for part, _ in in_portions(data, np.arange(5))]
    [5]
    """
    chosen = np.arange(len(dataset)) if rows is None else rows
    cells = sum(int(np.prod(modality.shape)) for modality in dataset.spec.modalities)
    size = max(1, CELLS // max(cells, 1))
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        yield part, dataset.gather(torch.from_numpy(part))
