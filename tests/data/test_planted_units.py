"""Twins of tasks with units: what each unit's own columns show is what its labels go by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from multitrack_material import stream, tracks, unit_names

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, Spec, Task
from fusion_lab.data import synthetic
from fusion_lab.data.planting import Planting, generate, twin
from fusion_lab.evaluation.metrics import binary_auroc

ROWS, STEPS, COUNT = 150, 6, 3
UNITS = unit_names(COUNT)
CLOCK = ("audio", "track")
ACTIVE = Task("active", "binary", ("idle", "active"), CLOCK, "", UNITS, True)
SCALE = Task("scale", "regression", (), CLOCK, "", UNITS)
SPEECH = Task("speech", "binary", ("no", "yes"), CLOCK)
SPEC = Spec((stream("audio", 2, STEPS), tracks(COUNT, STEPS, ("x", "y"))), (ACTIVE, SCALE, SPEECH))


def plan(**changes) -> Planting:
    return Planting(rows=ROWS, planted="additive", signal=6.0, unknown_labels=0.1, **changes)


def test_targets_have_an_axis_of_units_and_are_known_where_a_step_is():
    data = twin(SPEC, plan(missing_modalities=0.2), useful=CLOCK)
    batch = data.gather(torch.arange(ROWS))
    there = batch.valid["audio"] | batch.valid["track"]
    for task in SPEC.tasks:
        assert batch.targets[task.name].shape == (ROWS, *SPEC.target_shape(task))
    known = batch.known["active"]
    assert torch.equal(known.any(-1), known.all(-1))
    assert not known[~there].any()
    assert 0.8 < known[there].float().mean() < 0.97


def oracle_of_own(unit: int, seed: int = 0) -> list[float]:
    """How well a linear model of each unit's columns tells one unit's labels."""
    batch = twin(SPEC, plan(seed=seed), useful=CLOCK).gather(torch.arange(ROWS))
    known = batch.known["active"][..., unit].numpy()
    target = batch.targets["active"][..., unit].numpy()[known]
    found = []
    for other in range(COUNT):
        columns = batch.inputs["track"][..., 2 * other : 2 * other + 2].numpy()[known]
        columns = np.c_[columns, np.ones(len(columns))]
        weights = np.linalg.lstsq(columns, target, rcond=None)[0]
        found.append(binary_auroc(target, columns @ weights))
    return found


@pytest.mark.parametrize("unit", range(COUNT))
def test_a_units_labels_are_told_by_its_own_columns(unit):
    scores = oracle_of_own(unit)
    assert int(np.argmax(scores)) == unit
    assert scores[unit] > max(scores[:unit] + scores[unit + 1 :]) + 0.05


def test_what_units_show_changes_nothing_of_data_without_them():
    bare = replace(SPEC.modality("track"), features=tuple(replace(f, unit="") for f in SPEC.modality("track").features))
    plain = Spec((SPEC.modalities[0], bare), (SPEECH,))
    with_units = Spec(SPEC.modalities, (SPEECH,))
    one, other = (generate(s, plan(), CLOCK) for s in (plain, with_units))
    assert torch.equal(one.dataset.inputs["audio"], other.dataset.inputs["audio"])
    assert torch.equal(one.dataset.targets["speech"], other.dataset.targets["speech"])
    assert not torch.equal(one.dataset.inputs["track"], other.dataset.inputs["track"])


def test_the_score_of_an_interaction_is_the_product_with_the_units_own_latent():
    truth = generate(SPEC, Planting(rows=ROWS, planted="interaction", seed=3), CLOCK).truth
    score = truth.oracle["active"]
    assert score.shape == (ROWS, STEPS, COUNT)
    apart = np.corrcoef(score.reshape(-1, COUNT).T)
    assert np.abs(apart[~np.eye(COUNT, dtype=bool)]).max() < 0.3


def test_units_that_nothing_useful_shows_are_refused():
    for spec, useful in (
        (Spec(SPEC.modalities[:1], (replace(SCALE, steps=("audio",)),)), ("audio",)),
        (SPEC, ("audio",)),
    ):
        with pytest.raises(ConfigError, match="expected features of each unit in a useful sequence among its steps"):
            generate(spec, plan(), useful)


STREAM = {"kind": "sequence", "width": 2, "length": 4}


def test_settings_name_units_and_tasks_of_them():
    tree = {
        "modalities": {"audio": STREAM, "track": {**STREAM, "units": 3}, "clinic": {"width": 2}},
        "tasks": {"active": {"per_step": True, "per_unit": True, "causal": True}, "speech": {"per_step": True}},
        "planted": "additive",
        "rows": 20,
    }
    config = validate(synthetic.SyntheticConfig, tree, "here")
    spec, data = synthetic.spec(config), synthetic.load(config)
    assert data.spec == spec
    units = ("track unit 1", "track unit 2", "track unit 3")
    assert spec.task("active").units == units
    assert (spec.task("active").causal, spec.task("speech").causal) == (True, False)
    features = spec.modality("track").features
    assert [(f.unit, f.quantity) for f in features] == [(u, f"track {i}") for u in units for i in range(2)]
    assert data.targets["active"].shape == (20, 4, 3)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"modalities": {"a": {"units": 2}}}, "expected no units with kind vector, found 2"),
        ({"tasks": {"y": {"per_unit": True}}}, "expected per_step with per_unit or causal"),
        ({"tasks": {"y": {"causal": True}}}, "expected per_step with per_unit or causal"),
        (
            {"modalities": {"a": STREAM, "b": STREAM}, "tasks": {"y": {"per_step": True, "per_unit": True}}},
            "a task per unit expects a useful sequence with units, found none",
        ),
    ],
)
def test_settings_of_units_that_cannot_be_used_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        validate(synthetic.SyntheticConfig, tree, "here")
