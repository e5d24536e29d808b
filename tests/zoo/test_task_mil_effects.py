"""What the attention of task_mil finds, on twins in which one instance of a bag carries the label of a task."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from contracts.test_effects import Trained, assert_better, train

from fusion_lab.contracts import Feature, Modality, Spec, Task
from fusion_lab.data import synthetic
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.splits import make_folds
from fusion_lab.evaluation.metrics import rank_auroc
from fusion_lab.experiment import Experiment, Materials, resolve
from fusion_lab.training import cross_validate
from fusion_lab.zoo.baselines import run_baselines

SEEDS = range(5)
CONFORMERS = 6
MOLECULES = {
    "domain": "synthetic",
    "rows": 500,
    "planted": "pointer",
    "signal": 6.0,
    "modalities": {
        "conformers": {"kind": "bag", "width": 6, "length": CONFORMERS, "step": "conformer"},
        "descriptors": {"width": 4, "useful": False},
    },
    "tasks": {"active": {}},
}
"""One conformer, marked by a cue, has the sign of the label; the others have random signs."""
TINY = {
    **{f"{part}_hidden": 16 for part in ("mol", "inst", "mixer")},
    **{f"{part}_layers": 1 for part in ("mol", "inst", "mixer")},
    "proj_dim": 16,
    "attn_heads": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "attention output": {"pool": "attention_output"},
    "own": {"pool": "own"},
    "residual mean": {"residual_mean": True},
    "top two": {"top_k": 2},
    "pruned": {"prune_below": 0.15},
    "members": {"members": 3},
    "a part of the bags": {"bag_dropout": 0.3},
    "default sizes": dict.fromkeys(TINY),
}


def molecules(seed: int, epochs: int = 25, **model: Any) -> Experiment:
    sizes = {"family": "task_mil", **TINY, **model}
    tree = {
        "name": "twin",
        "data": {**MOLECULES, "seed": seed},
        "model": {key: value for key, value in sizes.items() if value is not None},
        "optimiser": {"lr": 5e-3},
        "training": {"epochs": epochs, "patience": epochs, "batch_size": 64, "mode": "loop", "device": "cpu"},
        "folds": {"protocol": "holdout", "test_fraction": 0.4, "val_fraction": 0.12},
        "seed": seed,
    }
    return resolve(tree, "test")


@cache
def trained(seed: int, variant: str = "tied") -> tuple[Trained, Experiment]:
    config = molecules(seed, **VARIANTS[variant])
    return train(config), config


def pointed_at(found: Trained, config: Experiment) -> tuple[float, float]:
    """Mean weight of validation rows on the conformer that carries the label, and what it would be if all weighed
    alike.
    """
    assert isinstance(config.data, synthetic.SyntheticConfig)
    (weights,) = (m for m in found.result.maps if m.name == "conformers instances")
    attention = synthetic.truth(config.data).attention
    assert attention is not None
    valid = found.materials.dataset.gather(torch.from_numpy(weights.row)).valid["conformers"].numpy()
    target = attention[weights.row] > 0
    return float(weights.values[:, 0][target].mean()), float((1 / valid.sum(1)).mean())


def summarised(materials: Materials, config: Experiment) -> float:
    """AUROC of boosted trees on the mean, deviation, least and greatest of every feature of a bag."""
    scaler = materials.scaler(config.scaling)
    folds = [scaler.fold(k) for k in range(len(materials.folds))]
    made = run_baselines(
        materials.spec, materials.folds, lambda k, rows: folds[k](materials.dataset.gather(rows)), ("trees",)
    )
    test = made["trees"].of("test")
    return float(rank_auroc(test.score["active"], test.target["active"], test.known["active"]))


def test_attention_finds_the_conformer_that_carries_the_label():
    """A single training; ``make test-effects`` tries every variant over five seeds."""
    found, config = trained(0)
    weight, alike = pointed_at(found, config)
    assert weight > 1.5 * alike
    assert found.auroc > summarised(found.materials, config) + 0.1


@pytest.mark.effects
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_of_pooling_finds_the_conformer_that_carries_the_label(variant):
    made = [trained(seed, variant) for seed in SEEDS]
    weights, alike = zip(*(pointed_at(*one) for one in made), strict=True)
    assert_better(weights, alike, margin=0.15)
    assert_better([found.auroc for found, _ in made], [0.5] * len(made), margin=0.4)


@pytest.mark.effects
def test_attention_tells_what_boosted_trees_on_summaries_of_the_bag_do_not():
    made = [trained(seed) for seed in SEEDS]
    trees = [summarised(found.materials, config) for found, config in made]
    assert_better([found.auroc for found, _ in made], trees, margin=0.15)


def two_pointers(config: Experiment, rows: int = 800) -> tuple[Materials, dict[str, np.ndarray]]:
    """Conformers with a sign each; the cue of each of two tasks marks another one, whose sign is that task's label.
    And which it is, bool ``[R,N]`` by task.
    """
    rng = np.random.default_rng(config.seed)
    valid = np.arange(CONFORMERS) < rng.integers(CONFORMERS // 2, CONFORMERS + 1, rows)[:, None]
    places = np.where(valid, rng.random(valid.shape), np.inf).argsort(1)
    marked = {task: np.arange(CONFORMERS) == places[:, [i]] for i, task in enumerate(("absorbs", "glows"))}
    sign = rng.choice([-1.0, 1.0], valid.shape)
    x = np.stack([3.0 * marked["absorbs"], 3.0 * marked["glows"], 2.0 * sign], axis=-1)
    x = (x + 0.5 * rng.normal(size=x.shape)).astype(np.float32)
    bag = Modality("conformers", "bag", tuple(Feature(n) for n in ("cue", "other cue", "sign")), CONFORMERS)
    data = ArrayDataset.checked(
        spec=Spec((bag,), tuple(Task(task, "binary", ("no", "yes")) for task in marked)),
        ids=np.array([f"row {i}" for i in range(rows)]),
        inputs={bag.name: torch.from_numpy(x)},
        valid={bag.name: torch.from_numpy(valid)},
        observed={bag.name: torch.ones(x.shape, dtype=torch.bool)},
        quality={bag.name: torch.ones(rows)},
        targets={t: torch.from_numpy((sign[place] > 0).astype(np.float32)) for t, place in marked.items()},
        known={t: torch.ones(rows, dtype=torch.bool) for t in marked},
        provenance=Materials.load(config).dataset.provenance,
    )
    return Materials(data, make_folds(config.folds, data)), marked


@pytest.mark.effects
@pytest.mark.parametrize("pool", ["tied", "attention_output", "own"])
def test_each_task_finds_a_conformer_of_its_own(pool):
    own, others = [], []
    for seed in SEEDS:
        config = molecules(seed, pool=pool)
        materials, marked = two_pointers(config)
        (found,) = cross_validate(materials.plan(config)).maps
        tasks = found.axes[0].labels
        for place, task in enumerate(tasks):
            weights = found.values[:, place]
            own.append(float(weights[marked[task][found.row]].mean()))
            others.append(float(weights[marked[tasks[1 - place]][found.row]].mean()))
    assert_better(own, others, margin=0.25)
