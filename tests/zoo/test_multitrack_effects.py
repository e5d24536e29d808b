"""What the parts of multitrack do, on twins made for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from multitrack_material import rows_of, stream, tracks, unit_names
from torch.nn import functional as F

from fusion_lab.contracts import Spec, Task
from fusion_lab.evaluation.metrics import binary_auroc, regression_r2
from fusion_lab.experiment import Materials, resolve
from fusion_lab.training import cross_validate
from fusion_lab.zoo.multitrack import Multitrack, MultitrackConfig

SEEDS = range(3)
LENGTH = 8
STREAM = {"kind": "sequence", "length": LENGTH}
FUSIONS = ("gated", "concat", "add", "attention")


def score(data: dict[str, Any], model: dict[str, Any], seed: int, epochs: int = 25) -> float:
    """The mean over test folds of a twin's only task: AUROC, or R2."""
    tree = {
        "name": "twin",
        "data": {"domain": "synthetic", "seed": seed, "signal": 4.0, **data},
        "model": {"family": "multitrack", "d_model": 16, "nhead": 2, "dim_feedforward": 32, **model},
        "optimiser": {"lr": 1e-2},
        "training": {"epochs": epochs, "batch_size": 32, "patience": epochs, "mode": "stacked", "device": "cpu"},
        "folds": {"k": 3},
        "seed": seed,
    }
    materials = Materials.load(resolve(tree, "twin"))
    plan = materials.plan(resolve(tree, "twin"))
    test = cross_validate(plan).predictions.of("test")
    (task,) = materials.spec.tasks
    metric = regression_r2 if task.kind == "regression" else binary_auroc
    parts = [(test.target[task.name][test.fold == k], test.score[task.name][test.fold == k]) for k in range(3)]
    known = [test.known[task.name][test.fold == k] for k in range(3)]
    return float(np.mean([metric(t[at], s[at]) for (t, s), at in zip(parts, known, strict=True)]))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion_finds_a_signal_that_needs_two_streams(fusion):
    data = {
        "rows": 240,
        "planted": "interaction",
        "modalities": {"audio": {**STREAM, "width": 4}, "visual": {**STREAM, "width": 4}},
        "tasks": {"cut": {"per_step": True, "causal": True}},
    }
    for seed in SEEDS:
        both = score(data, {"fusion": fusion}, seed)
        single = max(score(data, {"fusion": fusion, "modalities": [name]}, seed) for name in ("audio", "visual"))
        assert both > single + 0.15, (both, single)


@pytest.mark.slow
def test_what_a_unit_is_now_reaches_its_answers_better_unsqueezed():
    """Forty numbers of ten tracks through sixteen."""
    data = {
        "rows": 60,
        "planted": "additive",
        "modalities": {"track": {**STREAM, "width": 4, "units": 10}},
        "tasks": {"scale": {"kind": "regression", "per_step": True, "per_unit": True, "causal": True}},
    }
    gained = [score(data, {"unit_inputs": True}, s, 15) - score(data, {"unit_inputs": False}, s, 15) for s in SEEDS]
    assert min(gained) > 0.1, gained


def trained_error(unit_head: str, known_apart: bool) -> float:
    """Mean squared error after a short training where units follow the audio in opposite directions."""
    units = unit_names(4)
    spec = Spec(
        (stream("audio", 2, 4), tracks(4, 4, ("scale",))),
        (Task("pan", "regression", (), ("audio", "track"), "", units),),
    )
    batch = rows_of(spec, 64, there=1.0).map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf)
    target = batch.inputs["audio"][..., :1] * torch.tensor([1.0, -1.0, 1.0, -1.0])
    torch.manual_seed(0)
    settings = {
        "d_model": 16,
        "nhead": 2,
        "dim_feedforward": 16,
        "num_encoder_layers": 1,
        "dropout": 0.0,
        "unit_inputs": False,
    }
    model = Multitrack(MultitrackConfig(unit_head=unit_head, **settings), spec)
    for leaf in (model.unit_heads[0].unit, *model.unit_heads[0].each):
        if not known_apart:
            leaf.detach().zero_()
            leaf.requires_grad_(False)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    there = batch.valid["audio"]
    for _ in range(120):
        loss = F.mse_loss(model(batch).heads["pan"][there], target[there])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach() / target[there].var())


@pytest.mark.slow
def test_what_is_a_units_own_lets_units_follow_a_shared_stream_in_ways_of_their_own():
    """Which a linear head, whose units differ by constants, does not, nor one that cannot tell them apart."""
    assert trained_error("mlp", known_apart=True) < 0.2
    for unit_head, known_apart in (("linear", True), ("mlp", False)):
        assert trained_error(unit_head, known_apart) > 0.5


def watched(model: dict[str, Any], seed: int) -> float:
    """AUROC, over the test rows of all folds, of which tracks of a small edit are active at the next step."""
    tree = {
        "name": "twin",
        "data": {
            "domain": "editing",
            "horizon": 1,
            "length": 50,
            "tracks": {"count": 6, "asset_classes": 4, "assets": "category"},
            "twin": {"videos": 9, "seconds": 40, "signal": 4, "seed": seed},
        },
        "model": {"family": "multitrack", "d_model": 32, "dim_feedforward": 64, **model},
        "optimiser": {"lr": 5e-3},
        "training": {"epochs": 15, "batch_size": 2, "mode": "stacked", "device": "cpu"},
        "folds": {"k": 3},
        "seed": seed,
    }
    experiment = resolve(tree, "twin")
    test = cross_validate(Materials.load(experiment).plan(experiment)).predictions.of("test")
    known = test.known["active"]
    return binary_auroc(test.target["active"][known], test.score["active"][known])


@pytest.mark.slow
def test_an_edit_is_foretold_better_from_all_streams_than_from_its_tracks():
    gained = [watched({}, seed) - watched({"modalities": ["track"]}, seed) for seed in SEEDS]
    assert min(gained) > 0.03, gained
