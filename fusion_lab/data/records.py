"""Raw rows of a data set that lies in memory: what a file of its numbers would hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fusion_lab.contracts import UNKNOWN, Modality
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.raw import RawModality, Records
from fusion_lab.data.readers import Table


def records_of(dataset: ArrayDataset) -> Records:
    """Raw rows that :func:`fusion_lab.data.raw.encode` makes the data set's inputs and masks of again.

    A line per valid position, the columns of :func:`raw_columns`.
    Every row spans all T positions, so that a line stays at its index.
    """
    return Records(dataset.ids, {m.name: _raw(dataset, m) for m in dataset.spec.modalities})


def _raw(dataset: ArrayDataset, modality: Modality) -> RawModality:
    name = modality.name
    valid = dataset.valid[name].numpy()
    row, *position = np.nonzero(valid)
    cells = np.where(dataset.observed[name].numpy(), dataset.inputs[name].numpy(), np.float32(np.nan))[valid]
    labels = [dataset.ids[row], *(p + 1 for p in position)]
    index = pd.MultiIndex.from_arrays(labels) if position else pd.Index(labels[0])
    frame = pd.DataFrame(raw_columns(modality, cells), index)
    table = Table(name, f"modality {name!r}", Path(), frame, "row")
    span = np.full(len(dataset), modality.length) if position else None
    return RawModality(table, row, position[0] if position else None, span, dataset.quality[name].numpy())


def raw_columns(modality: Modality, cells: np.ndarray) -> dict[str, np.ndarray]:
    """Features, float32 ``[lines,F]`` and NaN where missing, as the columns that they were made from: numbers (0 and 1
    of a binary one), or the word of a category, ``None`` for the unknown one.
    """
    columns: dict[str, list[int]] = {}
    for i, feature in enumerate(modality.features):
        columns.setdefault(feature.column, []).append(i)
    made = {}
    for name, places in columns.items():
        features = [modality.features[i] for i in places]
        if features[0].kind == "category":
            words = np.array([None if f.category == UNKNOWN else f.category for f in features], object)
            made[name] = words[cells[:, places].argmax(axis=1)]
        else:
            assert len(features) == 1 and features[0].category is None, f"{name}: not a number"
            made[name] = cells[:, places[0]]
    return made
