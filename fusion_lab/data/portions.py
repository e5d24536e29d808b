"""The rows of a data set some at a time, or their targets alone: all of what it keeps packed would fill the memory."""

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


def targets_of(dataset: Dataset, rows: np.ndarray | None = None) -> Batch:
    """A batch of all rows, or of those given, int [B], in which there are no modalities: targets, which of them are
    known, weight and emphasis.

    A data set may have a method ``targets_of(rows: Tensor) -> Batch`` that gives this without laying anything else out.

    >>> from fusion_lab.data import synthetic
    >>> batch = targets_of(synthetic.load(synthetic.SyntheticConfig(rows=20)))
    >>> batch.inputs, {name: len(values) for name, values in batch.targets.items()}
    ({}, {'outcome': 20})
    """
    chosen = np.arange(len(dataset)) if rows is None else rows
    alone = getattr(dataset, "targets_of", None)
    if alone is not None:
        return alone(torch.from_numpy(chosen))
    if not len(chosen):
        return _targets(dataset.gather(torch.from_numpy(chosen)))
    parts = [_targets(batch) for _, batch in in_portions(dataset, chosen)]
    leaves = {
        of: {name: torch.cat([getattr(part, of)[name] for part in parts]) for name in getattr(parts[0], of)}
        for of in Batch._fields
        if of != "weight"
    }
    return parts[0]._replace(**leaves, weight=torch.cat([part.weight for part in parts]))


def _targets(batch: Batch) -> Batch:
    return batch._replace(inputs={}, valid={}, observed={}, quality={})
