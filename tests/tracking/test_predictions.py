import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import DataError, Predictions, Spec, Task
from fusion_lab.tracking.predictions import (
    COLUMNS,
    RowNames,
    prediction_bytes,
    prediction_table,
    predictions_from_table,
    read_predictions,
    row_names,
    tasks_of,
)

EVERY_KIND = Spec(
    (),
    tuple(
        Task(f"{kind}{' per step' * bool(steps)}", kind, classes, steps)
        for kind, classes in (("binary", ("no", "yes")), ("multiclass", ("a", "b", "c")), ("regression", ()))
        for steps in ((), ("sensor",))
    ),
)

NAMES = RowNames(np.arange(5).astype(str))


def _drawn(rng, spec, ids, folds, splits, time, dtype=float):
    """Every fold's answers for some rows of each split."""
    parts = [(k, s, rng.permutation(ids)[: rng.integers(1, ids + 1)]) for k in range(folds) for s in splits]
    fold = np.concatenate([np.full(len(rows), k) for k, _, rows in parts])
    split = np.concatenate([np.full(len(rows), s) for _, s, rows in parts])
    target, known, score = {}, {}, {}
    for task in spec.tasks:
        shape = (len(fold), time) if task.per_step else (len(fold),)
        known[task.name] = rng.random(shape) < 0.7
        values = rng.normal(size=shape) if task.kind == "regression" else rng.integers(0, 2, shape)
        target[task.name] = values * known[task.name].astype(float)
        cells = (*shape, 3) if task.kind == "multiclass" else shape
        score[task.name] = rng.random(cells).astype(dtype)
    return Predictions(fold, split, np.concatenate([rows for *_, rows in parts]), target, known, score)


def _assert_same(found, expected):
    for name in ("fold", "split", "row"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    for kind in ("target", "known", "score"):
        assert set(getattr(found, kind)) == set(getattr(expected, kind))
        for task, values in getattr(expected, kind).items():
            np.testing.assert_array_equal(getattr(found, kind)[task], values)
    assert all(values.dtype == bool for values in found.known.values())


def test_the_table_holds_every_prediction_with_its_id(make_outcome):
    outcome = make_outcome(count=3)
    predictions = outcome.result.predictions
    table = prediction_table(predictions, outcome.spec, outcome.names).to_pandas()
    entries = len(predictions.row)
    died = table[table["task"] == "death (5 y)"]
    assert died["id"].tolist() == [f"patient {i}" for i in predictions.row]
    assert died["score"].tolist() == predictions.score["death (5 y)"].tolist()
    assert set(died["class"]) == {"died"}
    assert died["target"].isna().tolist() == (~predictions.known["death (5 y)"]).tolist()
    grade = table[table["task"] == "grade"]
    assert len(grade) == 3 * entries
    scores = grade.pivot_table(index=["split", "fold", "id"], columns="class", values="score", observed=True)
    assert np.allclose(scores.sum(axis=1), 1)


def test_steps_have_lines_of_their_own():
    target = np.array([[0.0, 1.0], [1.0, 0.0]])
    known = np.array([[True, False], [True, True]])
    score = np.array([[0.1, 0.2], [0.3, 0.4]])
    predictions = Predictions(
        np.array([0, 1]), np.array(["val", "val"]), np.array([0, 1]), {"t": target}, {"t": known}, {"t": score}
    )
    spec = Spec((), (Task("t", "binary", ("no", "yes"), steps=("sensor",)),))
    table = prediction_table(predictions, spec, RowNames(np.array(["a", "b"]))).to_pandas()
    assert list(zip(table["id"], table["step"], table["score"], strict=True)) == [
        ("a", 0, 0.1),
        ("a", 1, 0.2),
        ("b", 0, 0.3),
        ("b", 1, 0.4),
    ]
    assert table["target"].isna().tolist() == [False, True, False, False]


def test_the_file_can_be_read_back(make_outcome):
    outcome = make_outcome(count=3)
    parts = (outcome.result.predictions, outcome.spec, outcome.names)
    read = pd.read_parquet(io.BytesIO(prediction_bytes(*parts)))
    pd.testing.assert_frame_equal(read, prediction_table(*parts).to_pandas())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    folds=st.integers(1, 3),
    time=st.integers(1, 4),
    splits=st.sampled_from([("val",), ("val", "test"), ("val", "test", "holdout")]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_predictions_of_every_kind_come_back_as_they_were(seed, folds, time, splits, dtype):
    rng = np.random.default_rng(seed)
    predictions = _drawn(rng, EVERY_KIND, 6, folds, splits, time, dtype)
    ids = np.array([f"patient {i}" for i in rng.permutation(6)])
    table = read_predictions(prediction_bytes(predictions, EVERY_KIND, RowNames(ids)))
    _assert_same(predictions_from_table(table, EVERY_KIND, ids), predictions)
    order = rng.permutation(6)  # in another data set the same rows may stand elsewhere
    places = np.argsort(order)
    elsewhere = predictions_from_table(table, EVERY_KIND, ids[order])
    np.testing.assert_array_equal(elsewhere.row, places[predictions.row])


def test_the_order_of_lines_does_not_matter_within_an_entry():
    rng = np.random.default_rng(0)
    predictions = _drawn(rng, EVERY_KIND, 5, 2, ("val", "test"), 3)
    ids = np.arange(5).astype(str)
    table = prediction_table(predictions, EVERY_KIND, RowNames(ids))
    mixed = table.take(rng.permutation(len(table)))
    found = predictions_from_table(mixed, EVERY_KIND, ids)

    def sorted_by_entry(of):
        order = np.lexsort((of.row, of.split, of.fold))
        columns = ({n: v[order] for n, v in d.items()} for d in (of.target, of.known, of.score))
        return Predictions(of.fold[order], of.split[order], of.row[order], *columns)

    _assert_same(sorted_by_entry(found), sorted_by_entry(predictions))


def test_predictions_of_a_run_come_back_from_a_file(make_outcome, tmp_path):
    outcome = make_outcome(count=3)
    path = tmp_path / "predictions.parquet"
    path.write_bytes(prediction_bytes(outcome.result.predictions, outcome.spec, outcome.names))
    found = predictions_from_table(read_predictions(path), outcome.spec, outcome.ids)
    assert found.row.tolist() == outcome.result.predictions.row.tolist()
    for task in outcome.spec.tasks:
        expected = outcome.result.predictions.score[task.name]
        np.testing.assert_array_equal(found.score[task.name], expected)


def test_ids_that_the_data_set_lacks_are_counted():
    spec = Spec((), EVERY_KIND.tasks[:2])
    predictions = _drawn(np.random.default_rng(0), spec, 5, 2, ("val",), 3)
    table = prediction_table(predictions, spec, RowNames(np.array(["a", "b", "c", "d", "e"])))
    unknown = np.isin(predictions.row, [1, 3]).sum()
    with pytest.raises(DataError, match=f"found {unknown} of {len(predictions.row)} entries with an id"):
        predictions_from_table(table, spec, np.array(["a", "c", "e"]))


@pytest.mark.parametrize("change", ["missing", "twice", "other class"])
def test_lines_that_are_missing_or_too_many_are_refused(change):
    spec = Spec((), EVERY_KIND.tasks[2:3])
    table = prediction_table(_drawn(np.random.default_rng(0), spec, 5, 2, ("val",), 3), spec, NAMES)
    asked = Spec((), (Task("multiclass", "multiclass", ("a", "b", "other")),)) if change == "other class" else spec
    lines = {"missing": np.arange(1, len(table)), "twice": np.r_[0, 0, 2 : len(table)]}
    with pytest.raises(DataError, match="expected one line per entry, step and class of task 'multiclass'"):
        predictions_from_table(table.take(lines.get(change, np.arange(len(table)))), asked, np.arange(5).astype(str))


def test_a_task_without_lines_is_refused():
    spec = Spec((), EVERY_KIND.tasks[:1])
    predictions = _drawn(np.random.default_rng(0), spec, 5, 2, ("val",), 3)
    ids = np.arange(5).astype(str)
    more = Spec((), (*spec.tasks, Task("dose", "regression")))
    with pytest.raises(DataError, match="task 'dose'.*found none"):
        predictions_from_table(prediction_table(predictions, spec, RowNames(ids)), more, ids)


def test_what_is_no_parquet_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"id,fold")
    for data in (b"id,fold", b"", tmp_path / "p.parquet", tmp_path / "none.parquet"):
        with pytest.raises(DataError, match="expected a parquet file of predictions") as told:
            read_predictions(data)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("named", [(), ("group",), ("recording",), ("group", "recording")])
def test_groups_and_recordings_come_back_and_are_null_where_there_are_none(named):
    spec = Spec((), EVERY_KIND.tasks[:2])
    predictions = _drawn(np.random.default_rng(0), spec, 5, 2, ("val", "test"), 3)
    of_row = {"group": np.array(list("xxyyz")), "recording": np.array(["x 1", "x 2", "y 1", "y 1", "z"])}
    names = RowNames(NAMES.ids, **{name: of_row[name] for name in named})
    table = prediction_table(predictions, spec, names)
    assert tuple(table.column_names) == COLUMNS
    found = row_names(table)
    seen = np.unique(predictions.row)
    assert found.ids.tolist() == NAMES.ids[seen].tolist()
    for name in of_row:
        values = getattr(found, name)
        assert (values is None) == (name not in named)
        assert values is None or values.tolist() == of_row[name][seen].tolist()
        assert name in named or table[name].null_count == len(table)


def test_tables_of_earlier_versions_are_read():
    spec = Spec((), EVERY_KIND.tasks[:2])
    predictions = _drawn(np.random.default_rng(0), spec, 5, 2, ("val",), 3)
    old = prediction_table(predictions, spec, NAMES).drop_columns(["group", "recording"])
    _assert_same(predictions_from_table(old, spec, NAMES.ids), predictions)
    found = row_names(old)
    assert found.group is None and found.recording is None


def test_a_row_of_two_recordings_is_refused():
    spec = Spec((), EVERY_KIND.tasks[:1])
    predictions = _drawn(np.random.default_rng(0), spec, 5, 2, ("val",), 3)
    tables = [prediction_table(predictions, spec, RowNames(NAMES.ids, None, np.full(5, name))) for name in "ab"]
    with pytest.raises(DataError, match="one group and one recording per row"):
        row_names(pa.concat_tables(tables))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["", "abs", "fluo", "größe / 2"]), min_size=6, max_size=6), st.integers(0, 99))
def test_groups_of_auxiliary_tasks_come_back_from_the_file(groups, seed):
    tasks = tuple(replace(t, auxiliary=group) for t, group in zip(EVERY_KIND.tasks, groups, strict=True))
    spec = Spec((), tasks)
    predictions = _drawn(np.random.default_rng(seed), spec, 5, 2, ("val", "test"), 3)
    table = read_predictions(prediction_bytes(predictions, spec, NAMES))
    assert [(t.name, t.auxiliary) for t in tasks_of(table)] == [(t.name, t.auxiliary) for t in tasks]
    _assert_same(predictions_from_table(table, spec, NAMES.ids), predictions)


def test_tasks_are_known_from_their_lines():
    predictions = _drawn(np.random.default_rng(0), EVERY_KIND, 5, 2, ("val",), 3)
    found = tasks_of(prediction_table(predictions, EVERY_KIND, NAMES))
    assert [(t.name, t.kind, t.per_step) for t in found] == [(t.name, t.kind, t.per_step) for t in EVERY_KIND.tasks]
    for task, expected in zip(found, EVERY_KIND.tasks, strict=True):
        assert task.positive == expected.positive
        assert task.kind != "multiclass" or task.classes == expected.classes
