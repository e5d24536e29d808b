"""Small cross-validations: plans of 60 rows with missing modalities and folds of unequal size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fusion_lab.contracts import Dataset, Folds
from fusion_lab.experiment import Materials, override, resolve
from fusion_lab.training import Plan
from fusion_lab.training.optimiser import OptimiserConfig

TREE = {
    "name": "small",
    "data": {
        "domain": "synthetic",
        "rows": 60,
        "modalities": {"a": {"width": 4}, "b": {"width": 3}, "s": {"kind": "sequence", "width": 2, "length": 4}},
        "missing_modalities": 0.1,
        "planted": "additive",
    },
    "model": {"fusion": "gated", "d_model": 8, "nhead": 2, "dropout": 0.2},
    "optimiser": {"lr": 0.01, "clip": 0.5, "schedule": "warmup_cosine", "warmup_epochs": 2},
    "training": {"epochs": 5, "batch_size": 16, "patience": 5, "mode": "stacked"},
    "augmentation": {"modality_dropout": 0.3},
    "folds": {"k": 4},
}
TWO_TASKS = {
    "data.tasks": {"outcome": {"kind": "binary"}, "grade": {"kind": "multiclass", "classes": 3}},
    "data.unknown_labels": 0.1,
}
REGRESSION = {
    "data.tasks": {"outcome": {"kind": "binary"}, "dose": {"kind": "regression"}},
    "data.unknown_labels": 0.1,
}
PER_STEP = {
    "data.modalities": {
        "a": {"width": 4},
        "s": {"kind": "sequence", "width": 3, "length": 4},
        "t": {"kind": "sequence", "width": 2, "length": 4},
    },
    "data.tasks": {
        "edit": {"kind": "binary", "per_step": True},
        "phase": {"kind": "multiclass", "per_step": True},
        "pace": {"kind": "regression", "per_step": True},
        "outcome": {"kind": "binary"},
    },
    "data.unknown_labels": 0.1,
}
"""Tasks of every kind per step, and one per row."""


OWN = (
    OptimiserConfig(lr=0.01, weight_decay=0.01, clip=0.5, schedule="warmup_cosine", warmup_epochs=2),
    OptimiserConfig(lr=0.003, weight_decay=1.0, clip=None, schedule="constant"),
    OptimiserConfig(lr=0.03, weight_decay=0.0, clip=0.05, schedule="cosine", final_lr_share=0.1),
    OptimiserConfig(lr=0.001, weight_decay=0.1, clip=5.0, schedule="warmup_constant", warmup_epochs=3),
    OptimiserConfig(lr=0.02, weight_decay=0.3, clip=0.2, schedule="cosine"),
)
"""Settings of the optimiser for each of up to five folds, no two alike in anything."""


def shortened(folds: Folds, data: Dataset) -> Folds:
    """The same folds with fewer training rows in some of them: 24, 30, 11 and 30 of 30."""
    train = folds.train.copy()
    for k, left in ((0, 24), (2, 11)):
        train[k, np.flatnonzero(train[k])[left:]] = False
    return replace(folds, train=train, fit=train)


def pick(*chosen: int, of: Callable[[Folds, Dataset], Folds] = shortened) -> Callable[[Folds, Dataset], Folds]:
    """Some of the folds that ``of`` makes, in the order given."""

    def change(folds: Folds, data: Dataset) -> Folds:
        folds = of(folds, data)
        rows = {part: getattr(folds, part)[list(chosen)] for part in ("train", "val", "test", "fit")}
        return replace(folds, names=tuple(folds.names[k] for k in chosen), **rows)

    return change


def make_plan(
    settings: Mapping[str, Any] | None = None,
    folds: Callable[[Folds, Dataset], Folds] = shortened,
    data: Callable[[Any, Folds], Any] = lambda dataset, folds: dataset,
    **fields: Any,
) -> Plan:
    """A plan of :data:`TREE` with settings over it, its folds and data changed, fields of :class:`Plan` replaced."""
    experiment = resolve(override(TREE, settings or {}), "small")
    loaded = _loaded(experiment.model_dump_json(include={"data", "folds"}), experiment)
    dataset = data(loaded.dataset, loaded.folds)
    return replace(Materials(dataset, folds(loaded.folds, dataset)).plan(experiment), **fields)


_LOADED: dict[str, Materials] = {}


def _loaded(key: str, experiment) -> Materials:
    if key not in _LOADED:
        _LOADED[key] = Materials.load(experiment)
    return _LOADED[key]
