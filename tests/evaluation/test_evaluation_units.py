"""A unit at a step counts in every score as a row does: what is said of a task with units is what is said of the same
cells laid out one after the other, and adds up over units.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, mean_absolute_error

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.calibration import calibrate
from fusion_lab.evaluation.entries import Entry, common_ground
from fusion_lab.evaluation.folds import score_folds
from fusion_lab.evaluation.labelled import labelled, told_scores
from fusion_lab.evaluation.pooled import paired_pooled
from fusion_lab.evaluation.recordings import by_recording, group_table
from fusion_lab.evaluation.thresholds import Thresholds, fold_thresholds, pooled_thresholds
from fusion_lab.evaluation.uncertainty import over_passes

FOLDS, ROWS, STEPS, UNITS = 2, 12, 3, ("left", "middle", "right")
ACTIVE = Task("active", "binary", ("idle", "active"), ("track",), "", UNITS)
ASSET = replace(ACTIVE, name="asset", kind="multiclass", classes=("a", "b", "c"))
SIZE = replace(ACTIVE, name="size", kind="regression", classes=())
SPEC = Spec((), (ACTIVE, ASSET, SIZE))
FLAT = Spec((), tuple(replace(t, units=()) for t in SPEC.tasks))
RECORDING = np.array([f"video {i // 3}" for i in range(ROWS)])


def drawn(seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    fold = np.repeat(np.arange(FOLDS), ROWS)
    split = np.tile(np.repeat(["val", "test"], ROWS // 2), FOLDS)
    row = np.concatenate([np.roll(np.arange(ROWS), k * ROWS // 2) for k in range(FOLDS)])
    shape = (len(row), STEPS, len(UNITS))
    target, known, score = {}, {}, {}
    for task in SPEC.tasks:
        known[task.name] = rng.random(shape) < 0.8
        codes = rng.integers(0, max(2, len(task.classes)), shape) if task.classes else rng.normal(size=shape)
        target[task.name] = codes * known[task.name].astype(float)
        said = rng.random((*shape, 3)) if task.kind == "multiclass" else rng.random(shape)
        score[task.name] = said / said.sum(-1, keepdims=True) if task.kind == "multiclass" else said
    return Predictions(fold, split, row, target, known, score)


def flattened(predictions: Predictions) -> Predictions:
    """Steps and units as so many steps."""
    count = len(predictions.row)

    def flat(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values.reshape(count, STEPS * len(UNITS), *values.shape[3:]) for name, values in of.items()}

    parts = (flat(dict(of)) for of in (predictions.target, predictions.known, predictions.score))
    return Predictions(predictions.fold, predictions.split, predictions.row, *parts)


@settings(max_examples=20)
@given(seed=st.integers(0, 9_999))
def test_thresholds_calibration_and_told_scores_are_those_of_the_cells_one_after_the_other(seed):
    one, other = drawn(seed), flattened(drawn(seed))
    thresholds = fold_thresholds(one, SPEC)
    np.testing.assert_array_equal(thresholds.values["active"], fold_thresholds(other, FLAT).values["active"])
    assert pooled_thresholds(one, SPEC) == pooled_thresholds(other, FLAT)
    found, expected = told_scores(one.of("test"), SPEC, thresholds), told_scores(other.of("test"), FLAT, thresholds)
    assert found == expected
    for task, plain in zip(SPEC.tasks[:2], FLAT.tasks[:2], strict=True):
        np.testing.assert_equal(calibrate(one, task), calibrate(other, plain))


def test_the_table_of_scores_is_that_of_the_cells_one_after_the_other():
    group = np.array([f"g{i // 2}" for i in range(ROWS)])
    one, other = (score_folds(p, s, ("val", "test"), group) for p, s in ((drawn(), SPEC), (flattened(drawn()), FLAT)))
    pd.testing.assert_frame_equal(one.table, other.table)


def test_accuracy_and_error_are_the_units_own_weighed_by_their_known_cells():
    part, none = drawn(3).of("test"), Thresholds({}, {})
    told = told_scores(part, SPEC, none)
    accuracies, errors, counts = [], [], []
    for u in range(len(UNITS)):
        at = part.known["active"][..., u]
        counts.append(at.sum())
        accuracies.append(accuracy_score(part.target["active"][..., u][at], part.score["active"][..., u][at] >= 0.5))
    assert told["active"]["accuracy"].pooled == pytest.approx(np.average(accuracies, weights=counts))
    counts = []
    for u in range(len(UNITS)):
        at = part.known["size"][..., u]
        counts.append(at.sum())
        errors.append(mean_absolute_error(part.target["size"][..., u][at], part.score["size"][..., u][at]))
    assert told["size"]["mae"].pooled == pytest.approx(np.average(errors, weights=counts))
    assert len(labelled(part, SIZE, none).row) == sum(counts)


def test_recordings_and_groups_are_those_of_the_cells_one_after_the_other():
    (one, names), (other, _) = by_recording(drawn(), RECORDING), by_recording(flattened(drawn()), RECORDING)
    assert names.tolist() == sorted(set(RECORDING))
    for task in SPEC.tasks:
        for part in ("target", "known", "score"):
            np.testing.assert_allclose(getattr(one, part)[task.name], getattr(other, part)[task.name])
    thresholds = fold_thresholds(drawn(), SPEC)
    tables = [
        group_table(p.of("test"), s, thresholds, RECORDING) for p, s in ((drawn(), SPEC), (flattened(drawn()), FLAT))
    ]
    pd.testing.assert_frame_equal(*tables)


def test_uncertainty_has_the_shape_of_the_cells():
    passes = [dict(drawn(seed).score) for seed in range(4)]
    flat = [dict(flattened(drawn(seed)).score) for seed in range(4)]
    found, expected = over_passes(passes, SPEC), over_passes(flat, FLAT)
    for task in SPEC.tasks:
        for one, other in zip(found[task.name], expected[task.name], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one.reshape(other.shape), other)


@pytest.mark.parametrize("metric", ["accuracy", "auroc"])
def test_two_models_differ_by_what_the_cells_one_after_the_other_do(metric):
    ids = np.array([f"row {i}" for i in range(ROWS)])
    differences = []
    for spec, change in ((SPEC, lambda p: p), (FLAT, flattened)):
        ours, other = (
            Entry(name, spec.tasks, replace(change(drawn(0)), score=change(drawn(seed)).score), ids, group=RECORDING)
            for name, seed in (("a", 1), ("b", 2))
        )
        ground = common_ground(ours, other)
        assert not isinstance(ground, str)
        differences.append(paired_pooled(ground.ours, ground.other, spec.tasks[:1], {"active": metric}, draws=50))
    assert differences[0] == differences[1]
