"""Scores of changed answers are the ordinary ones: against the summary of the cross-validation."""

import numpy as np
import pytest

from fusion_lab.contracts import Folds, Predictions, Spec, Task
from fusion_lab.evaluation.folds import score_folds, summarise
from fusion_lab.evaluation.labelled import METRICS_TOLD, labelled, told_scores
from fusion_lab.evaluation.metrics import METRICS
from fusion_lab.evaluation.thresholds import fold_thresholds

SPEC = Spec(
    (),
    (
        Task("event", "binary", ("no", "yes")),
        Task("site", "multiclass", ("a", "b", "c")),
        Task("dose", "regression"),
        Task("phase", "binary", ("off", "on"), steps=("wrist",)),
    ),
)
ROWS, FOLDS, STEPS = 40, 3, 5


def made(seed=0):
    rng = np.random.default_rng(seed)
    count = 2 * ROWS * FOLDS
    fold = np.repeat(np.arange(FOLDS), 2 * ROWS)
    split = np.tile(np.repeat(["val", "test"], ROWS), FOLDS)
    target, known, score = {}, {}, {}
    for task in SPEC.tasks:
        shape = (count, STEPS) if task.per_step else (count,)
        classes = max(len(task.classes), 2)
        target[task.name] = rng.integers(0, classes, shape).astype(float)
        known[task.name] = rng.random(shape) < 0.8
        many = task.kind == "multiclass"
        score[task.name] = rng.dirichlet(np.ones(classes), shape) if many else rng.random(shape)
    return Predictions(fold, split, np.arange(count), target, known, score)


def test_scores_are_those_of_the_summary():
    predictions = made()
    none = np.zeros((FOLDS, 1), bool)
    folds = Folds("made", none | True, none | True, none | True, none, none[0])
    summary = summarise(score_folds(predictions, SPEC), folds).set_index(["split", "task", "metric"]).sort_index()
    told = told_scores(predictions.of("test"), SPEC, fold_thresholds(predictions, SPEC))
    for task in SPEC.tasks:
        for metric, value in told[task.name].items():
            row = summary.loc[("test", task.name, metric)]
            assert value == pytest.approx((row["pooled"], row["mean"]), nan_ok=True), (task.name, metric)


def test_a_mean_over_fewer_folds_is_never_told():
    predictions = made()
    predictions.target["site"][(predictions.fold == 1) & (predictions.target["site"] == 2)] = 0.0
    told = told_scores(predictions.of("test"), SPEC, fold_thresholds(predictions, SPEC))["site"]
    assert np.isnan(told["f1"].mean) and np.isfinite(told["f1"].pooled)
    assert np.isfinite(told["accuracy"].mean)


def test_a_fold_without_a_known_label_leaves_no_mean():
    predictions = made()
    predictions.known["dose"][predictions.fold == 1] = False
    told = told_scores(predictions.of("test"), SPEC, fold_thresholds(predictions, SPEC))
    assert np.isnan(told["dose"]["mae"].mean) and np.isfinite(told["dose"]["mae"].pooled)
    assert np.isfinite(told["event"]["accuracy"].mean)


def test_every_metric_told_is_one_of_its_kind():
    assert all(set(names) <= set(METRICS[kind]) for kind, names in METRICS_TOLD.items())


def test_labels_keep_their_fold_row_and_threshold():
    predictions = made()
    thresholds = fold_thresholds(predictions, SPEC)
    rows = labelled(predictions, SPEC.task("phase"), thresholds)
    place = 0
    for entry in range(len(predictions.row)):
        for step in range(STEPS):
            if predictions.known["phase"][entry, step]:
                fold = predictions.fold[entry]
                assert (rows.fold[place], rows.row[place]) == (fold, predictions.row[entry])
                assert rows.score[place] == predictions.score["phase"][entry, step]
                assert rows.threshold[place] == thresholds.values["phase"][fold]
                assert rows.chosen()[place] == (rows.score[place] >= rows.threshold[place])
                place += 1
    assert place == len(rows.row)
