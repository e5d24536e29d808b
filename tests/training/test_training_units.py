"""Training where a target has an axis of units: every known cell counts as a row does, and units share one scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from multitrack_material import editing, made, rows_of
from small_plans import make_plan
from test_training_folds import EXACT, assert_same, told

from fusion_lab.contracts import Batch, Spec, Task
from fusion_lab.evaluation.metrics import measure
from fusion_lab.objectives import PART, Objective, ObjectiveConfig
from fusion_lab.training import cross_validate
from fusion_lab.training.monitor import SCORES, flat_steps, undefined_folds
from fusion_lab.training.plan import TrainingConfig
from fusion_lab.training.targets import TargetScale

STEPS, COUNT = 4, 3
UNITS = {
    "data.modalities": {
        "audio": {"kind": "sequence", "width": 2, "length": STEPS},
        "track": {"kind": "sequence", "width": 2, "units": COUNT, "length": STEPS},
    },
    "data.tasks": {
        "active": {"per_step": True, "per_unit": True, "causal": True},
        "asset": {"kind": "multiclass", "per_step": True, "per_unit": True},
        "scale": {"kind": "regression", "per_step": True, "per_unit": True},
        "speech": {"per_step": True},
    },
    "data.unknown_labels": 0.1,
    "model.family": "multitrack",
    "model.d_model": 8,
    "model.nhead": 2,
    "model.dropout": 0.2,
    "model.dim_feedforward": 8,
    "training.epochs": 2,
}
PARTS = {"objective.parts": {"values": ["scale", "speech"]}, "objective.task_weights": {"values": 2.0}}


@pytest.mark.parametrize("fusion", ["gated", "attention"])
def test_stacked_equals_the_loop(fusion):
    settings = {**UNITS, **PARTS, "model.fusion": fusion}
    results = [cross_validate(make_plan({**settings, "training.mode": m}, dtype=EXACT)) for m in ("stacked", "loop")]
    assert_same(*results, tolerance=1e-9)


def test_predictions_are_those_of_the_best_weights_in_the_targets_units():
    plan = make_plan(UNITS)
    result = cross_validate(plan)
    for fold in result.folds[:2]:
        model = plan.initial_weights(fold.fold)
        model.load_state_dict(fold.weights)
        mean, std = fold.target_scale["scale"]
        part = result.predictions.of("test", fold.fold)
        with torch.no_grad():
            heads = model(plan.batch(part.row, plan.scaler.fold(fold.fold)).without_targets()).heads
        assert part.score["asset"].shape == (len(part.row), STEPS, COUNT, 3)
        np.testing.assert_allclose(part.score["active"], torch.sigmoid(heads["active"]), atol=1e-6)
        np.testing.assert_allclose(part.score["scale"], heads["scale"] * std + mean, atol=1e-5)


def test_the_last_value_told_counts_every_known_cell():
    plan = make_plan(UNITS)
    result, evaluations = told(plan)
    values = []
    for task in plan.dataset.spec.tasks:
        metric = "r2" if task.kind == "regression" else "auroc"
        for k in range(len(plan.folds)):
            part = result.predictions.of("val", k)
            known = part.known[task.name]
            values.append(measure(task, metric, part.target[task.name][known], part.score[task.name][known]))
    assert evaluations[-1].value == pytest.approx(np.mean(values), abs=1e-6)


def test_curves_of_parts_add_up_to_those_of_the_losses():
    plan = make_plan({**UNITS, **PARTS})
    parts = [f"{PART}{name}" for name in ("active", "asset", "values")]
    for fold in cross_validate(plan).folds:
        for row in fold.history:
            for split in ("train", "val"):
                assert sum(row[f"{split}/{part}"] for part in parts) == pytest.approx(row[f"{split}/loss"], rel=1e-5)
    plain = cross_validate(make_plan(UNITS)).folds[0].history[0]
    assert not any(PART in name for name in plain)


def test_units_share_the_scale_of_a_regressions_target():
    rng = np.random.default_rng(0)
    target, known = rng.normal(3, 2, (30, STEPS, COUNT)), rng.random((30, STEPS, COUNT)) < 0.7
    rows = rng.random((2, 30)) < 0.5
    task = Task("scale", "regression", (), ("track",), "", tuple("abc"))
    leaves = {"scale": torch.from_numpy(target)}, {"scale": torch.from_numpy(known)}
    batch = Batch({}, {}, {}, {}, *leaves, torch.ones(30))
    scale = TargetScale.fit((task,), batch, rows)
    for k in range(2):
        cells = target[rows[k]][known[rows[k]]]
        assert scale.fold(k)["scale"] == pytest.approx((cells.mean(), cells.std()))
    both = batch.map(lambda leaf: torch.stack([leaf, leaf]))
    standardised = scale.standardise(both).targets["scale"]
    assert not standardised[~both.known["scale"]].any()
    restored = scale.restore("scale", standardised)
    torch.testing.assert_close(restored[both.known["scale"]], both.targets["scale"][both.known["scale"]])


def test_watched_scores_are_those_of_the_cells_one_after_the_other():
    rng = np.random.default_rng(1)
    task = Task("asset", "multiclass", ("a", "b", "c"), ("track",), "", tuple("xy"))
    target = torch.from_numpy(rng.integers(0, 3, (2, 9, STEPS, 2)).astype(float))
    known, score = torch.from_numpy(rng.random(target.shape) < 0.8), torch.from_numpy(rng.random((*target.shape, 3)))
    flat = flat_steps(task, score, target, known)
    assert [tuple(part.shape) for part in flat] == [(2, 72, 3), (2, 72), (2, 72)]
    for name in ("auroc", "ap", "f1"):
        found = SCORES[name](task, *flat)
        for k in range(2):
            expected = measure(task, name, target[k][known[k]].numpy(), score[k][known[k]].numpy())
            assert float(found[k]) == pytest.approx(expected)


def test_the_objective_is_that_of_the_cells_as_steps():
    spec = editing(2, 2, COUNT, STEPS)
    flat = Spec(spec.modalities, tuple(replace(t, units=()) for t in spec.tasks))
    output, g = made(spec)(rows_of(spec)), torch.Generator().manual_seed(0)
    targets = {t.name: torch.randint(2, (3, STEPS, COUNT), generator=g).double() for t in spec.tasks}
    known = {name: torch.rand(t.shape, generator=g) < 0.6 for name, t in targets.items()}
    batch = Batch({}, {}, {}, {}, targets, known, torch.tensor([1.0, 0.5, 0.0]).double())
    laid = batch._replace(
        targets={n: t.flatten(1) for n, t in targets.items()}, known={n: k.flatten(1) for n, k in known.items()}
    )
    heads = {n: h.flatten(1, 2) for n, h in output.heads.items()}
    rows = np.array([[True, True, False]])
    for config in (ObjectiveConfig(), ObjectiveConfig(binary="focal", regression="huber")):
        weights = [
            {n: w[0].double() for n, w in Objective(config, s).class_weights(b.targets, b.known, rows).items()}
            for s, b in ((spec, batch), (flat, laid))
        ]
        torch.testing.assert_close(*weights)
        one = Objective(config, spec)(output, batch, weights[0])
        torch.testing.assert_close(one, Objective(config, flat)(output._replace(heads=heads), laid, weights[1]))


def test_a_fold_is_defined_by_the_known_cells_of_all_units():
    plan = make_plan(UNITS)
    everything = plan.dataset.gather(torch.arange(len(plan.dataset)))
    config = TrainingConfig()
    assert undefined_folds(plan.dataset.spec, config, plan.folds, everything) == [False] * len(plan.folds)
    first = torch.from_numpy(plan.folds.val[0])
    everything.targets["active"][first] = 0.0
    assert undefined_folds(plan.dataset.spec, config, plan.folds, everything)[0]
    row = int(first.nonzero()[0])
    step, unit = everything.known["active"][row].nonzero()[0].tolist()
    everything.targets["active"][row, step, unit] = 1.0
    assert not undefined_folds(plan.dataset.spec, config, plan.folds, everything)[0]
