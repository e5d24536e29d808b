"""What checks go by: of each modality one number per row and feature, whatever its kind, and every label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion_lab.contracts import Batch, Dataset, Modality, Task
from fusion_lab.data.portions import in_portions, targets_of
from fusion_lab.data.raw import NUMBERS


@dataclass(frozen=True)
class Seen:
    """A modality over R rows.

    ====== ====== =========================================================================================
    means  [R,F]  mean of a feature over the positions that have it; float64, of a vector its values as they
                  are: float32, and uint8 where no feature is numeric
    filled [R,F]  positions that have it; bool of a vector
    there  [R]    positions that are there
    low    [F]    smallest value anywhere, infinite where there is none
    high   [F]    largest value anywhere
    ====== ====== =========================================================================================
    """

    means: np.ndarray
    filled: np.ndarray
    there: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Labels:
    """A task's targets and where they are known, ``[R]`` or ``[R,T]``."""

    target: np.ndarray
    known: np.ndarray

    @property
    def codes(self) -> np.ndarray:
        """The known ones."""
        return self.target[self.known]


def look(dataset: Dataset) -> tuple[dict[str, Seen], dict[str, Labels]]:
    """Walks through the rows once; by names of modalities and of tasks."""
    seen: dict[str, Seen] = {}
    for rows, batch in in_portions(dataset):
        for modality in dataset.spec.modalities:
            part = _portion(modality, batch)
            if modality.name not in seen:
                seen[modality.name] = _blank(part, len(dataset))
            _put(seen[modality.name], part, rows)
    batch = targets_of(dataset)
    return seen, {
        t.name: Labels(batch.targets[t.name].numpy(), batch.known[t.name].numpy()) for t in dataset.spec.tasks
    }


def steps_of(dataset: Dataset, modality: Modality, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the steps whose label is known: values and observed ``[n,F]``, and which are there ``[n]``."""
    parts = []
    for _, batch in in_portions(dataset):
        known = batch.known[task.name]
        leaves = (leaf[modality.name] for leaf in (batch.inputs, batch.observed, batch.valid))
        parts.append([leaf[known].numpy() for leaf in leaves])
    values, observed, there = (np.concatenate(leaf) for leaf in zip(*parts, strict=True))
    return values, observed, there


def _portion(modality: Modality, batch: Batch) -> Seen:
    values, observed = batch.inputs[modality.name].numpy(), batch.observed[modality.name].numpy()
    there = batch.valid[modality.name].numpy().reshape(len(values), -1).sum(axis=1)
    cells, real = values.reshape(-1, modality.width), observed.reshape(-1, modality.width)
    low = np.where(real, cells, np.inf).min(axis=0)
    high = np.where(real, cells, -np.inf).max(axis=0)
    if modality.kind == "vector":
        plain = all(feature.kind not in NUMBERS for feature in modality.features)
        return Seen(values.astype(np.uint8) if plain else values, observed, there, low, high)
    filled = observed.sum(axis=1)
    means = values.sum(axis=1, dtype=np.float64) / np.maximum(filled, 1)  # inputs are 0 where not observed
    return Seen(means, filled.astype(np.uint16), there, low, high)


def _blank(part: Seen, rows: int) -> Seen:
    """Room for so many rows of a modality of which this is a part: parts beside the whole would take twice as much."""
    columns = (np.empty((rows, *of.shape[1:]), of.dtype) for of in (part.means, part.filled, part.there))
    return Seen(*columns, np.full_like(part.low, np.inf), np.full_like(part.high, -np.inf))


def _put(whole: Seen, part: Seen, rows: np.ndarray) -> None:
    whole.means[rows], whole.filled[rows], whole.there[rows] = part.means, part.filled, part.there
    np.minimum(whole.low, part.low, out=whole.low)
    np.maximum(whole.high, part.high, out=whole.high)
