"""Predictions of tasks with units as a table and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import DataError, Predictions, Spec, Task
from fusion_lab.tracking.predictions import (
    RowNames,
    prediction_bytes,
    prediction_table,
    predictions_from_table,
    read_predictions,
    tasks_of,
)

UNITS = ("track 1", "Spur 2")
KINDS = (("binary", ("no", "yes")), ("multiclass", ("a", "b", "c")), ("regression", ()))
SPEC = Spec(
    (),
    tuple(
        Task(f"{kind} of {len(units)} units, {len(steps)} steps", kind, classes, steps, units=units)
        for kind, classes in KINDS
        for steps, units in ((("track",), UNITS), (("track",), ()), ((), ()), (("track",), UNITS[:1]))
    ),
)
IDS = np.array(["video/0", "video/1", "other/0", "other/1"])


def drawn(seed: int, time: int) -> Predictions:
    rng = np.random.default_rng(seed)
    entries = [(k, split, row) for k in range(2) for split in ("val", "test") for row in rng.permutation(4)[:3]]
    fold, split, row = (np.array(column) for column in zip(*entries, strict=True))
    target, known, score = {}, {}, {}
    for task in SPEC.tasks:
        shape = (len(fold), *([time] if task.per_step else []), *([len(task.units)] if task.units else []))
        known[task.name] = rng.random(shape) < 0.7
        codes = rng.integers(0, max(2, len(task.classes)), shape) if task.classes else rng.normal(size=shape)
        target[task.name] = np.where(known[task.name], codes, 0.0)
        score[task.name] = rng.random((*shape, *([3] if task.kind == "multiclass" else [])))
    return Predictions(fold, split, row, target, known, score)


@pytest.mark.slow
@settings(max_examples=100)
@given(seed=st.integers(0, 10_000), time=st.integers(2, 4))
def test_predictions_of_units_come_back_as_they_were_whatever_the_order_of_lines(seed, time):
    expected = drawn(seed, time)
    table = read_predictions(prediction_bytes(expected, SPEC, RowNames(IDS)))
    rest = np.flatnonzero(table["task"].to_numpy() != SPEC.tasks[0].name)  # entries stand as the first task has them
    lines = np.concatenate([np.setdiff1d(np.arange(len(table)), rest), np.random.default_rng(seed).permutation(rest)])
    found = predictions_from_table(table.take(lines), SPEC, IDS)
    for column in ("fold", "split", "row"):
        assert getattr(found, column).tolist() == getattr(expected, column).tolist()
    for kind in ("target", "known", "score"):
        for task, values in getattr(expected, kind).items():
            np.testing.assert_array_equal(getattr(found, kind)[task], values)


def test_every_unit_at_every_step_has_a_line_of_its_own():
    predictions = drawn(0, 3)
    task = SPEC.tasks[0]
    table = prediction_table(predictions, SPEC, RowNames(IDS)).to_pandas()
    lines = table[table["task"] == task.name]
    for entry in (0, 5):
        for step, unit in ((0, 0), (2, 1)):
            at = (lines["fold"] == predictions.fold[entry]) & (lines["split"] == predictions.split[entry])
            at &= (lines["id"] == IDS[predictions.row[entry]]) & (lines["step"] == step)
            (line,) = lines[at & (lines["unit"] == UNITS[unit])].to_dict("records")
            assert line["score"] == predictions.score[task.name][entry, step, unit]
            assert line["known"] == predictions.known[task.name][entry, step, unit]
    assert set(table[table["task"] == SPEC.tasks[2].name]["unit"]) == {""}


def test_tasks_are_known_with_their_units_from_the_lines():
    found = tasks_of(prediction_table(drawn(1, 3), SPEC, RowNames(IDS)))
    assert [(t.name, t.kind, t.units, bool(t.steps)) for t in found] == [
        (t.name, t.kind, t.units, bool(t.steps)) for t in SPEC.tasks
    ]


def test_tables_of_versions_without_units_are_read():
    spec = Spec((), tuple(t for t in SPEC.tasks if not t.units))
    whole = drawn(2, 3)
    parts = ({t.name: of[t.name] for t in spec.tasks} for of in (whole.target, whole.known, whole.score))
    expected = Predictions(whole.fold, whole.split, whole.row, *parts)
    old = prediction_table(expected, spec, RowNames(IDS)).drop_columns(["unit"])
    found = predictions_from_table(old, spec, IDS)
    assert all(np.array_equal(found.score[t.name], expected.score[t.name]) for t in spec.tasks)
    assert [t.units for t in tasks_of(old)] == [()] * len(spec.tasks)


@pytest.mark.parametrize("change", ["missing", "twice", "other unit"])
def test_lines_of_units_that_are_missing_or_too_many_are_refused(change):
    spec = Spec((), SPEC.tasks[:1])
    table = prediction_table(drawn(3, 2), spec, RowNames(IDS))
    asked = Spec((), (Task(spec.tasks[0].name, "binary", ("no", "yes"), ("track",), units=("track 1", "elsewhere")),))
    lines = {"missing": np.arange(1, len(table)), "twice": np.r_[0, 0, 2 : len(table)]}
    with pytest.raises(DataError, match="expected one line per entry, step, unit and class of task"):
        chosen = table.take(lines.get(change, np.arange(len(table))))
        predictions_from_table(chosen, asked if change == "other unit" else spec, IDS)
