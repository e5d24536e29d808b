"""Recordings against the plain loop over their parts."""

import numpy as np
import pandas as pd
import pytest

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.recordings import by_recording, group_table, mixed_recordings
from fusion_lab.evaluation.thresholds import fold_thresholds

SPEC = Spec(
    (),
    (
        Task("event", "binary", ("no", "yes")),
        Task("act", "multiclass", ("walk", "run", "sit")),
        Task("dose", "regression"),
        Task("phase", "multiclass", ("on", "off", "idle"), steps=("wrist",)),
    ),
)
RECORDINGS, PARTS, STEPS, FOLDS = 24, 5, 4, 3
RECORDING = np.repeat([f"recording {i:02d}" for i in np.random.default_rng(9).permutation(RECORDINGS)], PARTS)
GROUP = np.repeat([f"subject {i // 4}" for i in range(RECORDINGS)], PARTS)


def made(seed=0):
    """Each recording of one label; validation rows of fold k are the test rows of fold k + 1."""
    rng = np.random.default_rng(seed)
    rows = np.arange(RECORDINGS * PARTS)
    of_fold = np.repeat(np.arange(RECORDINGS) % FOLDS, PARTS)
    row, fold = np.tile(rows, 2), np.concatenate([of_fold, (of_fold + 1) % FOLDS])
    split = np.repeat(["test", "val"], len(rows))
    target, known, score = {}, {}, {}
    for task in SPEC.tasks:
        shape = (len(rows), STEPS) if task.per_step else (len(rows),)
        label = np.repeat(rng.integers(0, max(len(task.classes), 2), RECORDINGS), PARTS)
        target[task.name] = np.tile(
            np.broadcast_to(label.reshape(-1, *[1] * (len(shape) - 1)), shape),
            (2, *[1] * (len(shape) - 1)) if len(shape) > 1 else 2,
        ).astype(float)
        both = (2 * len(rows), *shape[1:])
        known[task.name] = rng.random(both) < 0.8
        score[task.name] = rng.dirichlet(np.ones(3), both) if task.kind == "multiclass" else rng.random(both)
    return Predictions(fold, split, row, target, known, score)


def test_a_recordings_answer_is_the_mean_over_its_rows():
    predictions = made()
    told, names = by_recording(predictions, RECORDING)
    assert names.tolist() == sorted(set(RECORDING.tolist()))
    assert len(told.row) == 2 * RECORDINGS
    for place in range(len(told.row)):
        of = (
            (predictions.fold == told.fold[place])
            & (predictions.split == told.split[place])
            & (RECORDING[predictions.row] == names[told.row[place]])
        )
        assert of.sum() == PARTS
        for task in SPEC.tasks:
            score, known = predictions.score[task.name][of], predictions.known[task.name][of]
            counted = score[known] if task.per_step else score
            np.testing.assert_allclose(told.score[task.name][place], counted.mean(0), atol=1e-12)
            assert told.known[task.name][place] == known.any()
            labels = set(predictions.target[task.name][of][known].tolist())
            assert told.target[task.name][place] == (labels.pop() if known.any() else 0)


def test_the_order_of_rows_says_nothing():
    predictions = made()
    order = np.random.default_rng(3).permutation(len(predictions.row))
    first, second = (by_recording(p, RECORDING)[0] for p in (predictions, predictions.where(order)))
    for name in first.score:
        np.testing.assert_allclose(first.score[name], second.score[name], atol=1e-12)
        np.testing.assert_array_equal(first.target[name], second.target[name])
    np.testing.assert_array_equal(first.row, second.row)


def test_recordings_of_one_row_are_the_rows():
    predictions = made().of("test")
    names = np.array([f"row {i:03d}" for i in range(len(RECORDING))])
    told, _ = by_recording(predictions, names)
    order = np.lexsort((predictions.row, predictions.fold))
    for task in ("event", "act", "dose"):
        np.testing.assert_array_equal(told.score[task], predictions.score[task][order])
        np.testing.assert_array_equal(told.known[task], predictions.known[task][order])


def test_labels_that_differ_leave_a_recording_without_one_and_are_named():
    predictions = made()
    predictions.known["act"][:] = True
    row = PARTS * 7 + 1
    predictions.target["act"][predictions.row == row] = (predictions.target["act"][row] + 1) % 3
    told, names = by_recording(predictions, RECORDING)
    unknown = set(names[told.row[~told.known["act"]]].tolist())
    assert unknown == {RECORDING[row]}
    mixed = mixed_recordings(predictions, RECORDING)
    assert mixed["act"] == (RECORDING[row],)
    assert mixed["event"] == mixed["dose"] == mixed["phase"] == ()


def test_the_group_table_is_the_loop_over_groups():
    predictions = made()
    thresholds, test = fold_thresholds(predictions, SPEC), predictions.of("test")
    table = group_table(test, SPEC, thresholds, GROUP, RECORDING).set_index(["task", "group"])
    assert len(table) == len(SPEC.tasks) * len(set(GROUP.tolist()))
    for name in sorted(set(GROUP.tolist())):
        of = test.where((GROUP[test.row] == name) & test.known["event"])
        chosen = of.score["event"] >= thresholds.values["event"][of.fold]
        line = table.loc[("event", name)]
        assert (line["rows"], line["recordings"]) == (len(of.row), len(set(RECORDING[of.row].tolist())))
        assert line["accuracy"] == pytest.approx(np.mean(chosen == of.target["event"]))
        yes = of.target["event"] == 1
        assert line["recall yes"] == pytest.approx(chosen[yes].mean() if yes.any() else np.nan, nan_ok=True)
        part = test.where(GROUP[test.row] == name)
        known = part.known["phase"]
        right = part.score["phase"][known].argmax(-1) == part.target["phase"][known]
        assert table.loc[("phase", name), "accuracy"] == pytest.approx(right.mean())
        known = part.known["dose"]
        error = np.abs(part.target["dose"] - part.score["dose"])[known]
        assert table.loc[("dose", name), "mae"] == pytest.approx(error.mean())
    assert table.loc["dose", "accuracy"].isna().all()


def test_recordings_are_not_counted_where_there_are_none():
    table = group_table(made().of("test"), SPEC, fold_thresholds(made(), SPEC), GROUP)
    assert isinstance(table, pd.DataFrame)
    assert "recordings" not in table
