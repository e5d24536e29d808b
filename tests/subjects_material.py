"""Seven people of unequal diligence doing three activities, one of them a single one: no fold of its own defines macro
F1 for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fusion_lab.contracts import Feature, Modality, Provenance, Source, Spec, Task
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.splits import FoldsConfig, make_folds
from fusion_lab.experiment import Experiment, Materials, override, resolve

ACT = Task("act", "multiclass", ("sit", "walk", "run"))
ROWS = {"ann": 8, "bob": 12, "cid": 15, "dan": 18, "eva": 22, "fay": 30, "gus": 20}
ONE_CLASS = "gus"
"""Who only ever runs."""
TREE: dict[str, Any] = {
    "name": "people",
    "data": {"domain": "synthetic"},
    "model": {"d_model": 8, "nhead": 2},
    "training": {"epochs": 4, "patience": 4, "batch_size": 32, "monitor": "f1", "mode": "stacked"},
    "optimiser": {"lr": 0.01},
    "folds": {"protocol": "leave_one_group_out"},
}


def people(seed: int = 0) -> ArrayDataset:
    """Rows of two vectors that tell the activity, and a bit of who it is."""
    rng = np.random.default_rng(seed)
    group = np.repeat(list(ROWS), list(ROWS.values()))
    label = np.concatenate([np.arange(count) % 3 for count in ROWS.values()])
    label[group == ONE_CLASS] = 2
    own = {name: rng.normal(size=4) for name in ROWS}
    values = np.eye(4)[label] + 0.5 * np.stack([own[name] for name in group]) + 0.7 * rng.normal(size=(len(label), 4))
    halves = {"hand": values[:, :2], "chest": values[:, 2:]}
    there = torch.ones(len(label), dtype=torch.bool)
    return ArrayDataset.checked(
        spec=Spec(tuple(Modality(m, "vector", (Feature("x"), Feature("y"))) for m in halves), (ACT,)),
        ids=np.array([f"r{i:03d}" for i in range(len(label))]),
        inputs={m: torch.from_numpy(x.astype(np.float32)) for m, x in halves.items()},
        valid=dict.fromkeys(halves, there),
        observed=dict.fromkeys(halves, there[:, None].expand(-1, 2).clone()),
        quality=dict.fromkeys(halves, torch.ones(len(label))),
        targets={"act": torch.from_numpy(label.astype(np.float32))},
        known={"act": there},
        provenance=Provenance((Source("people", f"{seed:064d}", len(label)),)),
        group=group,
    )


def subject_out(changes: Mapping[str, Any] | None = None, seed: int = 0) -> tuple[Experiment, Materials]:
    """An experiment that predicts each of them by models of the others, watching macro F1."""
    experiment = resolve(override(TREE, changes or {}), "people")
    dataset = people(seed)
    return experiment, Materials(dataset, make_folds(FoldsConfig(**experiment.folds.model_dump()), dataset))
