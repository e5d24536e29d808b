"""Predictions as a file that is read back: NumPy's archive, without pickled objects."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fusion_lab.contracts import Predictions

COLUMNS, TASKS = ("fold", "split", "row"), ("target", "known", "score")


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Writes the file whole or not at all."""
    arrays = {name: getattr(predictions, name) for name in COLUMNS}
    for kind in TASKS:
        arrays |= {f"{kind}/{task}": values for task, values in getattr(predictions, kind).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    with open(half, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(half, path)


def load_predictions(path: Path) -> Predictions:
    """Reads what :func:`save_predictions` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    by_task = {
        kind: {name.split("/", 1)[1]: values for name, values in arrays.items() if name.startswith(f"{kind}/")}
        for kind in TASKS
    }
    return Predictions(*(arrays[name] for name in COLUMNS), *(by_task[kind] for kind in TASKS))
