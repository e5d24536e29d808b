"""Laws of the unit of regression targets: that of a fold's training rows in the loss, the user's everywhere else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_plans import REGRESSION, make_plan
from test_training_folds import EXACT, assert_same, told

from fusion_lab.contracts import Batch, Task
from fusion_lab.evaluation.folds import objective
from fusion_lab.training import cross_validate
from fusion_lab.training.targets import TargetScale

DOSE, PACE = Task("dose", "regression"), Task("pace", "regression", steps=("sensor",))
TASKS = (DOSE, PACE, Task("relapse", "binary", ("no", "yes")))
FOLDS, ROWS, STEPS = 3, 30, 4


def everything(seed: int = 0) -> Batch:
    """All rows, ``[R]`` and ``[R,T]``, some labels unknown."""
    rng = np.random.default_rng(seed)
    targets = {
        "dose": torch.from_numpy(rng.normal(2000, 10, ROWS)).float(),
        "pace": torch.from_numpy(rng.normal(-3, 0.01, (ROWS, STEPS))).float(),
        "relapse": torch.from_numpy(rng.integers(0, 2, ROWS)).float(),
    }
    known = {name: torch.from_numpy(rng.random(t.shape) < 0.8) for name, t in targets.items()}
    return Batch({}, {}, {}, {}, {n: t * known[n] for n, t in targets.items()}, known, torch.ones(ROWS))


def members(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((FOLDS, ROWS)) < 0.6


def per_fold(batch: Batch) -> Batch:
    targets, known = ({n: t.expand(FOLDS, *t.shape) for n, t in d.items()} for d in (batch.targets, batch.known))
    return batch._replace(targets=targets, known=known, weight=batch.weight.expand(FOLDS, -1))


def test_known_training_targets_become_mean_0_and_deviation_1_and_no_other_task_changes():
    batch, rows = per_fold(everything()), members()
    found = TargetScale.fit(TASKS, everything(), rows).standardise(batch)
    for name in ("dose", "pace"):
        for k in range(FOLDS):
            values = found.targets[name][k][rows[k]][batch.known[name][k][rows[k]]].double().numpy()
            assert values.mean() == pytest.approx(0, abs=1e-5)
            assert values.std() == pytest.approx(1, abs=1e-5)
        assert not found.targets[name][~batch.known[name]].any()
    assert found.targets["relapse"] is batch.targets["relapse"]
    assert found.targets["dose"].dtype == batch.targets["dose"].dtype


def test_what_is_restored_is_what_was_standardised():
    batch = per_fold(everything())
    scale = TargetScale.fit(TASKS, everything(), members())
    found = scale.standardise(batch)
    for name in ("dose", "pace"):
        known = batch.known[name]
        back = scale.restore(name, found.targets[name])
        torch.testing.assert_close(back[known], batch.targets[name][known], rtol=1e-6, atol=0)


def test_statistics_read_no_other_row_and_no_unknown_label():
    batch, rows = everything(), members()[:1]
    before = TargetScale.fit(TASKS, batch, rows)
    read = {n: k & torch.from_numpy(rows[0]).reshape(-1, *(1,) * (k.ndim - 1)) for n, k in batch.known.items()}
    other = {n: torch.where(read[n], t, t + 1e6) for n, t in batch.targets.items()}
    outside = {n: k | ~torch.from_numpy(rows[0]).reshape(-1, *(1,) * (k.ndim - 1)) for n, k in batch.known.items()}
    assert TargetScale.fit(TASKS, batch._replace(targets=other, known=outside), rows).fold(0) == before.fold(0)
    assert before.fold(0).keys() == {"dose", "pace"}


def test_folds_taken_are_the_folds_fitted_alone():
    rows = members()
    scale = TargetScale.fit(TASKS, everything(), rows)
    some = scale.take([2, 0])
    assert [some.fold(k) for k in (0, 1)] == [scale.fold(2), scale.fold(0)]
    assert TargetScale.fit(TASKS, everything(), rows[[1]]).fold(0) == scale.fold(1)


def test_a_constant_target_is_centred_only_and_an_unknown_one_left_alone():
    batch = everything()
    constant = batch._replace(targets={**batch.targets, "dose": torch.full((ROWS,), 5.0)})
    constant.known["pace"][:] = False
    scale = TargetScale.fit(TASKS, constant, members())
    for k in range(FOLDS):
        assert scale.fold(k) == {"dose": (5.0, 1.0), "pace": (0.0, 1.0)}


def in_another_unit(factor: float, offset: float):
    """The doses on a grid that float32 holds exactly, in this unit."""

    def change(data, folds):
        grid = (data.targets["dose"] * 64).round() / 64
        targets = {**data.targets, "dose": (grid * factor + offset) * data.known["dose"]}
        return dataclasses.replace(data, targets=targets)

    return change


@pytest.mark.parametrize("mode", ["stacked", "loop"])
def test_the_unit_of_a_target_changes_nothing_but_the_unit_of_the_predictions(mode):
    settings = {**REGRESSION, "training.mode": mode}
    plain, other = (
        cross_validate(make_plan(settings, data=in_another_unit(*unit), dtype=EXACT))
        for unit in ((1.0, 0.0), (8.0, 2048.0))
    )
    for a, b in zip(plain.folds, other.folds, strict=True):
        assert a.best_epoch == b.best_epoch
        left, right = ([list(row.values()) for row in fold.history] for fold in (a, b))
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-7)
        (mean, std), (other_mean, other_std) = a.target_scale["dose"], b.target_scale["dose"]
        np.testing.assert_allclose((other_mean, other_std), (mean * 8 + 2048, std * 8), rtol=1e-9)
    for column in ("score", "target"):
        left, right = (getattr(r.predictions, column)["dose"][r.predictions.known["dose"]] for r in (plain, other))
        np.testing.assert_allclose(right, left * 8 + 2048, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["stacked", "loop"])
def test_predictions_are_the_heads_times_the_deviation_plus_the_mean(mode):
    plan = make_plan({**REGRESSION, "training.mode": mode}, data=in_another_unit(8.0, 2048.0))
    result = cross_validate(plan)
    for fold in result.folds:
        mean, std = fold.target_scale["dose"]
        model = plan.initial_weights(fold.fold)
        model.load_state_dict(fold.weights)
        for split in ("val", "test"):
            part = result.predictions.of(split, fold.fold)
            batch = plan.batch(part.row, plan.scaler.fold(fold.fold))
            with torch.no_grad():
                heads = model(batch.without_targets()).heads
            np.testing.assert_allclose(part.score["dose"], mean + std * heads["dose"].numpy(), rtol=1e-6)
            np.testing.assert_array_equal(part.target["dose"], batch.targets["dose"])
        assert set(fold.target_scale) == {"dose"}


def test_stacked_regression_equals_the_loop():
    settings = {**REGRESSION, "training.patience": 2, "training.epochs": 7}
    data = in_another_unit(8.0, 2048.0)
    results = [
        cross_validate(make_plan({**settings, "training.mode": mode}, data=data, dtype=EXACT))
        for mode in ("stacked", "loop")
    ]
    assert len({fold.epochs for fold in results[0].folds}) > 1, "no fold stopped before another: compaction unseen"
    assert_same(*results, tolerance=1e-8)
    assert [f.target_scale for f in results[0].folds] == [f.target_scale for f in results[1].folds]


def test_targets_of_validation_and_test_rows_train_nothing():
    def spoilt(data, folds):
        dose = data.targets["dose"].clone()
        dose[torch.from_numpy(folds.val[0] | folds.test[0])] += 1e4
        return dataclasses.replace(data, targets={**data.targets, "dose": dose})

    settings = {**REGRESSION, "training.patience": 50}
    before, after = (cross_validate(make_plan(settings, **change)).folds for change in ({}, {"data": spoilt}))
    assert before[0].target_scale == after[0].target_scale
    assert [row["train/loss"] for row in before[0].history] == [row["train/loss"] for row in after[0].history]
    assert before[0].history != after[0].history, "the validation rows that were spoilt are scored"
    assert before[1].target_scale != after[1].target_scale, "the rows that were spoilt train the other folds"


def test_the_last_value_told_of_regressions_is_the_r2_of_the_predictions_in_their_unit():
    settings = {"data.tasks": {"dose": {"kind": "regression"}}, "data.unknown_labels": 0.1}
    plan = make_plan(settings, data=in_another_unit(8.0, 2048.0))
    result, evaluations = told(plan)
    expected, _ = objective(result.predictions, plan.dataset.spec, "r2")
    assert evaluations[-1].value == pytest.approx(expected, abs=1e-9)
