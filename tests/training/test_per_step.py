"""Laws of cross-validation hold where a target has a time axis: every known step counts as a row does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score
from small_plans import PER_STEP, make_plan
from test_training_folds import EXACT, assert_same, told

from fusion_lab.contracts import Task
from fusion_lab.training import cross_validate

ENCODERS = ("transformer", "gru", "cnn", "attention")
STEPS = 4


@pytest.mark.parametrize("encoder", ENCODERS)
def test_stacked_equals_the_loop(encoder):
    settings = {**PER_STEP, "model.sequence_encoder": encoder, "training.epochs": 3}
    results = [cross_validate(make_plan({**settings, "training.mode": m}, dtype=EXACT)) for m in ("stacked", "loop")]
    assert_same(*results, tolerance=1e-9)
    for one, other in zip(*(result.maps for result in results), strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=0, atol=1e-9)


def test_predictions_per_step_are_those_of_the_best_weights():
    plan = make_plan({**PER_STEP, "training.epochs": 3})
    result = cross_validate(plan)
    for fold in result.folds:
        model = plan.initial_weights(fold.fold)
        model.load_state_dict(fold.weights)
        mean, std = fold.target_scale["pace"]
        for split in ("val", "test"):
            part = result.predictions.of(split, fold.fold)
            with torch.no_grad():
                heads = model(plan.batch(part.row, plan.scaler.fold(fold.fold)).without_targets()).heads
            assert part.score["phase"].shape == (len(part.row), STEPS, 3)
            assert part.score["outcome"].shape == part.row.shape
            np.testing.assert_allclose(part.score["edit"], torch.sigmoid(heads["edit"]), atol=1e-6)
            np.testing.assert_allclose(part.score["phase"], torch.softmax(heads["phase"], -1), atol=1e-6)
            np.testing.assert_allclose(part.score["pace"], heads["pace"] * std + mean, atol=1e-5)


def of_steps(task: Task, target: np.ndarray, score: np.ndarray) -> float:
    """The watched score by scikit-learn, of steps laid side by side."""
    if task.kind == "regression":
        return float(r2_score(target, score))
    if task.kind == "binary":
        return float(roc_auc_score(target, score))
    return float(np.mean([roc_auc_score(target == c, score[:, c]) for c in range(len(task.classes))]))


def test_the_last_value_told_counts_every_known_step():
    plan = make_plan(PER_STEP)
    result, evaluations = told(plan)
    values = []
    for task in plan.dataset.spec.tasks:
        for k in range(len(plan.folds)):
            part = result.predictions.of("val", k)
            known = part.known[task.name]
            values.append(of_steps(task, part.target[task.name][known], part.score[task.name][known]))
    assert evaluations[-1].value == pytest.approx(np.mean(values), abs=1e-6)


def test_what_stands_at_an_unknown_step_trains_nothing():
    def spoilt(data, _):
        targets = {n: torch.where(data.known[n], t, torch.full_like(t, 1.0)) for n, t in data.targets.items()}
        assert any(not torch.equal(t, data.targets[n]) for n, t in targets.items())
        return replace(data, targets=targets)

    settings = {**PER_STEP, "training.epochs": 2}
    assert_same(cross_validate(make_plan(settings)), cross_validate(make_plan(settings, data=spoilt)))


def test_maps_have_a_step_axis_that_is_empty_where_no_sequence_is():
    plan = make_plan({**PER_STEP, "training.epochs": 1})
    (found,) = (m for m in cross_validate(plan).maps if m.name == "modalities at each step")
    assert [axis.name for axis in found.axes] == ["time step", "modality"]
    batch = plan.dataset.gather(torch.from_numpy(found.row))
    there = (batch.valid["s"] | batch.valid["t"]).numpy()
    assert np.array_equal(found.values.any(-1), there)
    assert (~there).any()
