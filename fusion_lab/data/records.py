"""Raw rows of a data set that lies in memory: what a file of its numbers would hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fusion_lab.contracts import Modality
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.raw import RawModality, Records
from fusion_lab.data.readers import Table


def records_of(dataset: ArrayDataset) -> Records:
    """Raw rows that :func:`fusion_lab.data.raw.encode` makes the data set's inputs and masks of again.

    A line per valid position, a column per feature, all of them numbers (0 and 1 of a binary one); NaN is missing.
    Every row spans all T positions, so that a line stays at its index.
    """
    return Records(dataset.ids, {m.name: _raw(dataset, m) for m in dataset.spec.modalities})


def _raw(dataset: ArrayDataset, modality: Modality) -> RawModality:
    name = modality.name
    numbers = all(f.kind in ("numeric", "binary") and f.category is None for f in modality.features)
    assert numbers, f"{name}: not all features are numbers"
    valid = dataset.valid[name].numpy()
    row, *position = np.nonzero(valid)
    cells = np.where(dataset.observed[name].numpy(), dataset.inputs[name].numpy(), np.float32(np.nan))[valid]
    labels = [dataset.ids[row], *(p + 1 for p in position)]
    index = pd.MultiIndex.from_arrays(labels) if position else pd.Index(labels[0])
    frame = pd.DataFrame(cells, index, list(modality.columns))
    table = Table(name, f"modality {name!r}", Path(), frame, "row")
    span = np.full(len(dataset), modality.length) if position else None
    return RawModality(table, row, position[0] if position else None, span, dataset.quality[name].numpy())
