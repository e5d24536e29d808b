"""Scores of folds against scikit-learn on each fold's rows, and the rules about undefined folds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score, roc_auc_score

from fusion_lab.contracts import ConfigError, DataError, Folds, Predictions, Spec, Task
from fusion_lab.evaluation.folds import objective, score_folds, summarise
from fusion_lab.evaluation.intervals import corrected_interval, jackknife_interval
from fusion_lab.evaluation.metrics import METRICS
from fusion_lab.evaluation.predictions import load_predictions, save_predictions
from fusion_lab.evaluation.thresholds import best_f1_threshold

FOLDS, ROWS = 4, 30
DEATH, RELAPSE = Task("death", "binary", ("no", "yes")), Task("relapse", "binary", ("no", "yes"))
SPEC = Spec((), (DEATH, RELAPSE))
TASKS = ("death", "relapse")


def _predictions(seed=0, tasks=("death", "relapse")):
    """ROWS validation and ROWS test rows per fold, a fifth of the labels unknown."""
    rng = np.random.default_rng(seed)
    count = FOLDS * 2 * ROWS
    fold = np.repeat(np.arange(FOLDS), 2 * ROWS)
    split = np.tile(np.repeat(["val", "test"], ROWS), FOLDS)
    target = {name: (rng.random(count) < 0.4).astype(float) for name in tasks}
    score = {name: 0.3 * target[name] + 0.7 * rng.random(count) for name in tasks}
    known = {name: rng.random(count) < 0.8 for name in tasks}
    return Predictions(fold, split, np.arange(count), target, known, score)


def _folds():
    rows = np.arange(FOLDS * ROWS) // ROWS
    test = np.stack([rows == k for k in range(FOLDS)])
    val = np.roll(test, 1, axis=0)
    train = ~test & ~val
    return Folds("k-fold", train, val, test, train, np.zeros(FOLDS * ROWS, bool))


def _one_class(predictions, task, fold, split="val"):
    """All labels of one fold's split set to the negative class."""
    hit = (predictions.fold == fold) & (predictions.split == split)
    predictions.target[task][hit] = 0
    return predictions


def _known(predictions, task, split, fold=None):
    part = predictions.of(split, fold)
    return part.target[task][part.known[task]], part.score[task][part.known[task]]


def test_fold_scores_are_scikit_learns_with_thresholds_from_validation_rows():
    predictions = _predictions()
    table = score_folds(predictions, SPEC).table.set_index(["split", "task", "fold", "metric"]).sort_index()
    for split in ("val", "test"):
        for task in ("death", "relapse"):
            for fold in range(FOLDS):
                target, score = _known(predictions, task, split, fold)
                threshold = best_f1_threshold(*_known(predictions, task, "val", fold))
                found = table.loc[(split, task, fold)]
                assert found.loc["auroc", "value"] == pytest.approx(roc_auc_score(target, score))
                assert found.loc["ap", "value"] == pytest.approx(average_precision_score(target, score))
                assert found.loc["f1", "value"] == pytest.approx(f1_score(target, score >= threshold))
                assert set(found["n"]) == {len(target)}
                assert set(found["n_positive"]) == {int(target.sum())}
                assert set(found["note"]) == {""}


def test_validation_scores_cannot_see_test_rows():
    predictions = _predictions()
    before = score_folds(predictions, SPEC)
    test = predictions.split == "test"
    for task in ("death", "relapse"):
        predictions.score[task][test] = 0.5
        predictions.target[task][test] = 0
    after = score_folds(predictions, SPEC)
    for old, new in ((before.table, after.table), (before.pooled, after.pooled)):
        kept = old[old["split"] == "val"].reset_index(drop=True)
        assert kept.equals(new[new["split"] == "val"].reset_index(drop=True))
    assert objective(predictions, SPEC) == objective(_predictions(), SPEC)


def test_mean_over_tasks_is_taken_per_fold_and_the_lowest_average_precision_beside_it():
    table = score_folds(_predictions(), SPEC).table.set_index(["task", "split", "fold", "metric"]).sort_index()
    both = pd.concat([table.loc["death"], table.loc["relapse"]], axis=1, keys=("death", "relapse"))
    values, rows = both.xs("value", axis=1, level=1), both.xs("n", axis=1, level=1)
    lowest = values.xs("ap", level="metric", drop_level=False).min(axis=1).rename({"ap": "min_ap"})
    assert table.loc["", "value"].to_dict() == pytest.approx({**values.mean(axis=1), **lowest})
    counted = table.loc["", "n"].drop("min_ap", level="metric")
    assert counted.to_dict() == rows.sum(axis=1).to_dict()


def test_the_lowest_average_precision_of_one_task_is_not_told():
    alone = Spec((), (DEATH, replace(RELAPSE, auxiliary="more")))
    for spec in (Spec((), (DEATH,)), alone):
        table = score_folds(_predictions(), spec).table
        assert "ap" in set(table[table["task"] == ""]["metric"])
        assert "min_ap" not in set(table["metric"])


def test_auxiliary_tasks_are_scored_and_in_no_mean():
    predictions = _predictions()
    helped = Spec((), (DEATH, replace(RELAPSE, auxiliary="more")))
    scores, alone = (score_folds(predictions, spec) for spec in (helped, Spec((), (DEATH,))))
    for kind in ("table", "pooled"):
        own, expected = (getattr(found, kind) for found in (scores, alone))
        assert set(own["task"]) == {"death", "relapse", ""}
        kept = own[own["task"] != "relapse"].reset_index(drop=True)
        assert kept.equals(expected)
    assert objective(predictions, helped, "ap") == objective(predictions, Spec((), (DEATH,)), "ap")


def test_an_undefined_auxiliary_task_leaves_the_objective_as_it_is():
    predictions, helped = _predictions(), Spec((), (DEATH, replace(RELAPSE, auxiliary="more")))
    before = objective(predictions, helped, "ap", "refuse")
    assert objective(_one_class(predictions, "relapse", 1), helped, "ap", "refuse") == before


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_objective_weighs_the_lowest_task_in_each_fold(share):
    predictions = _predictions()
    each = np.array(
        [[average_precision_score(*_known(predictions, task, "val", k)) for k in range(FOLDS)] for task in TASKS]
    )
    expected = ((1 - share) * each.mean(0) + share * each.min(0)).mean()
    assert objective(predictions, SPEC, "ap", min_weight=share)[0] == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_fold_without_positives_counts_with_the_pooled_score_and_never_with_0(share):
    predictions = _one_class(_predictions(), "death", fold=2)
    pooled = average_precision_score(*_known(predictions, "death", "val"))
    other = np.mean([average_precision_score(*_known(predictions, "relapse", "val", k)) for k in range(FOLDS)])
    expected = (1 - share) * (pooled + other) / 2 + share * min(pooled, other)
    value, (note,) = objective(predictions, SPEC, "ap", min_weight=share)
    assert value == pytest.approx(expected)
    assert "no row of class 'yes'" in note
    with pytest.raises(DataError, match="expected validation ap to be defined in every fold"):
        objective(predictions, SPEC, "ap", "refuse", share)


def test_summary_is_mean_deviation_and_corrected_interval():
    predictions, folds = _predictions(), _folds()
    scores = score_folds(predictions, SPEC)
    summary = summarise(scores, folds).set_index(["split", "task", "metric"]).sort_index()
    table = scores.table.set_index(["split", "task", "metric"]).sort_index()
    for place in summary.index.tolist():
        row, values = summary.loc[place], table.loc[place, "value"].to_numpy()
        assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std(ddof=1)))
        assert (row["k"], row["undefined"]) == (FOLDS, 0)
        low, high = corrected_interval(values, 2 * ROWS, ROWS)
        assert row["ci_low"] == pytest.approx(max(low, 0))
        assert row["ci_high"] == pytest.approx(high if place[2] == "log_loss" else min(high, 1))
    pooled = summary.loc[("test", "death", "auroc"), "pooled"]
    assert pooled == pytest.approx(roc_auc_score(*_known(predictions, "death", "test")))
    both = summary.loc["val", "pooled"].unstack("task")
    lowest = both.loc["ap", ["death", "relapse"]].min()
    assert both[""].to_dict() == pytest.approx({**both[["death", "relapse"]].dropna().mean(axis=1), "min_ap": lowest})


def test_a_mean_over_fewer_folds_is_never_shown():
    predictions = _one_class(_predictions(), "death", fold=2)
    summary = summarise(score_folds(predictions, SPEC), _folds()).set_index(["split", "task", "metric"]).sort_index()
    for task in ("death", ""):
        row = summary.loc[("val", task, "auroc")]
        assert np.isnan(row[["mean", "std", "ci_low", "ci_high"]].astype(float)).all()
        assert row["undefined"] == 1
        assert "fold 2: " in row["note"]
        assert "no row of class 'yes'" in row["note"]
        assert np.isfinite(row["pooled"])
    assert np.isfinite(summary.loc[("val", "death", "brier"), "mean"])  # defined without a positive row
    assert np.isfinite(summary.loc[("val", "relapse", "auroc"), "mean"])
    assert np.isfinite(summary.loc[("test", "death", "auroc"), "mean"])
    assert "threshold 0.5" in summary.loc[("test", "death", "f1"), "note"]


SITE = Task("site", "multiclass", ("a", "b", "c"))


def _of_groups(seed=0, lacking=(1, 3)):
    """Classes of rows in seven groups, which are not the folds; a class is lacking in some of the folds."""
    rng = np.random.default_rng(seed)
    rows = _predictions(seed, tasks=())
    count = len(rows.fold)
    target = rng.integers(0, 3, count).astype(float)
    target[np.isin(rows.fold, lacking) & (target == 2)] = 0
    score = 0.4 * np.eye(3)[target.astype(int)] + 0.6 * rng.dirichlet(np.ones(3), count)
    known = {"site": rng.random(count) < 0.9}
    group = np.array([f"g{g}" for g in rng.integers(0, 7, count)])
    return Predictions(rows.fold, rows.split, rows.row, {"site": target}, known, {"site": score}), group


def test_pooled_scores_have_the_interval_of_a_jackknife_over_groups_where_a_fold_has_no_score():
    predictions, group = _of_groups()
    spec = Spec((), (SITE,))
    summary = summarise(score_folds(predictions, spec, group=group), _folds(), level=0.9)
    summary = summary.set_index(["split", "task", "metric"]).sort_index()

    def scored(metric, part):
        target, score = _known(part, "site", "test")
        if metric == "f1":
            return f1_score(target, score.argmax(-1), average="macro")
        return roc_auc_score(target, score, multi_class="ovr")

    for metric in ("f1", "auroc"):
        left_out = [scored(metric, predictions.where(group[predictions.row] != name)) for name in np.unique(group)]
        expected = jackknife_interval(scored(metric, predictions), np.array(left_out), (0, 1), level=0.9)
        for task in ("site", ""):
            row = summary.loc[("test", task, metric)]
            assert (row["pooled_ci_low"], row["pooled_ci_high"]) == pytest.approx(expected)
            assert row["pooled_ci_low"] < row["pooled"] < row["pooled_ci_high"]
            assert row["undefined"] == 2
    defined = summary[summary["undefined"] == 0]
    assert len(defined)
    assert defined[["pooled_ci_low", "pooled_ci_high"]].isna().all(axis=None)


def test_a_class_that_one_group_alone_holds_leaves_a_pooled_score_without_interval():
    predictions, group = _of_groups()
    alone = np.where(predictions.target["site"][np.argsort(predictions.row)] == 2, "other", group)
    summary = summarise(score_folds(predictions, Spec((), (SITE,)), group=alone), _folds())
    row = summary.set_index(["split", "task", "metric"]).sort_index().loc[("val", "site", "f1")]
    assert np.isfinite(row["pooled"])
    assert np.isnan(row[["pooled_ci_low", "pooled_ci_high"]].astype(float)).all()


def test_rows_without_groups_are_left_out_row_by_row():
    predictions = _one_class(_predictions(), "death", fold=2)
    each = np.array([f"row {row}" for row in range(len(predictions.row))])
    by_row, by_group = (summarise(score_folds(predictions, SPEC, group=group), _folds()) for group in (None, each))
    row = by_row.set_index(["split", "task", "metric"]).sort_index().loc[("val", "death", "auroc")]
    other = by_group.set_index(["split", "task", "metric"]).sort_index().loc[("val", "death", "auroc")]
    for summary in (row, other):  # rows are dealt to blocks by their names, so that the two differ a little
        assert summary["pooled_ci_low"] < summary["pooled"] < summary["pooled_ci_high"]
    assert row["pooled_ci_low"] == pytest.approx(other["pooled_ci_low"], abs=0.05)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_row_that_repeats_test_again_is_left_out_of_all_of_them_at_once(grouped):
    """Scores of one row in two folds are not two rows' worth of evidence."""
    predictions = _one_class(_predictions(), "death", fold=2)
    folds = int(predictions.fold.max()) + 1
    again = Predictions(
        np.concatenate([predictions.fold, predictions.fold + folds]),
        *(np.concatenate([part, part]) for part in (predictions.split, predictions.row)),
        *({t: np.concatenate([a, a]) for t, a in part.items()} for part in (predictions.target, predictions.known)),
        {t: np.concatenate([a, a]) for t, a in predictions.score.items()},
    )
    group = np.array([f"g{row % 9}" for row in range(len(predictions.row))]) if grouped else None
    once, twice = (score_folds(p, SPEC, group=group).left_out["val", "death", "auroc"] for p in (predictions, again))
    np.testing.assert_allclose(twice, once)


def test_one_fold_has_a_mean_and_no_interval():
    predictions = _predictions()
    single = predictions.where(predictions.fold == 0)
    row = (
        summarise(score_folds(single, SPEC), _folds())
        .set_index(["split", "task", "metric"])
        .sort_index()
        .loc["val", "death", "ap"]
    )
    assert np.isfinite(row["mean"])
    assert np.isnan(row[["std", "ci_low", "ci_high"]].astype(float)).all()


def test_a_split_without_rows_is_left_out():
    scores = score_folds(_predictions().of("val"), SPEC)
    assert set(scores.table["split"]) == set(scores.pooled["split"]) == {"val"}


def test_tasks_of_different_kinds_share_the_metrics_they_have_in_common():
    rng = np.random.default_rng(0)
    predictions = _predictions(tasks=("death",))
    count = len(predictions.fold)
    predictions.target["site"] = rng.integers(0, 3, count).astype(float)
    predictions.score["site"] = rng.dirichlet(np.ones(3), count)
    predictions.known["site"] = np.ones(count, bool)
    spec = Spec((), (DEATH, Task("site", "multiclass", ("a", "b", "c"))))
    table = score_folds(predictions, spec).table
    shared = METRICS["binary"].keys() & METRICS["multiclass"].keys()
    assert set(table[table["task"] == ""]["metric"]) == shared | {"min_ap"}
    assert table[table["task"] == "site"]["n_positive"].isna().all()
    with pytest.raises(ConfigError, match=r"'site', found 'brier'"):
        objective(predictions, spec, "brier")


def test_targets_per_step_are_scored_step_by_step():
    rng = np.random.default_rng(0)
    shape = (FOLDS * ROWS, 7)
    target, score = (rng.random(shape) < 0.4).astype(float), rng.random(shape)
    known = rng.random(shape) < 0.7
    fold, split = np.repeat(np.arange(FOLDS), ROWS), np.repeat("val", shape[0])
    predictions = Predictions(fold, split, np.arange(shape[0]), {"edit": target}, {"edit": known}, {"edit": score})
    spec = Spec((), (Task("edit", "binary", ("no", "yes"), steps=("sensor",)),))
    table = score_folds(predictions, spec).table.set_index(["task", "metric", "fold"]).sort_index()
    for k in range(FOLDS):
        rows = known & (fold == k)[:, None]
        assert table.loc[("edit", "auroc", k), "value"] == pytest.approx(roc_auc_score(target[rows], score[rows]))


STEPS = ("sensor",)
EDIT = Task("edit", "binary", ("no", "yes"), STEPS)
ACT = Task("act", "multiclass", ("a", "b", "c"), STEPS)
PACE = Task("pace", "regression", steps=STEPS)


def _steps(seed=0, time=6):
    """Predictions of tasks per step, of every kind."""
    rng = np.random.default_rng(seed)
    rows = _predictions(seed)
    shape = (len(rows.fold), time)
    target = {
        "edit": (rng.random(shape) < 0.4).astype(float),
        "act": rng.integers(0, 3, shape).astype(float),
        "pace": rng.normal(size=shape),
    }
    known = {name: rng.random(shape) < 0.7 for name in target}
    score = {
        "edit": 0.3 * target["edit"] + 0.7 * rng.random(shape),
        "act": rng.dirichlet(np.ones(3), shape),
        "pace": target["pace"] + rng.normal(size=shape),
    }
    return Predictions(rows.fold, rows.split, rows.row, target, known, score)


def test_scores_per_step_are_scikit_learns_on_the_known_steps_one_after_the_other():
    predictions, spec = _steps(), Spec((), (EDIT, ACT, PACE))
    scores = score_folds(predictions, spec)
    table = scores.table.set_index(["split", "task", "fold", "metric"]).sort_index()
    pooled = scores.pooled.set_index(["split", "task", "metric"])["pooled"]

    def expected(split, fold):
        edit, act, pace = (_known(predictions, name, split, fold) for name in ("edit", "act", "pace"))
        return {
            ("edit", "auroc"): roc_auc_score(*edit),
            ("act", "auroc"): roc_auc_score(*act, multi_class="ovr"),
            ("act", "f1"): f1_score(act[0], act[1].argmax(-1), average="macro"),
            ("pace", "r2"): r2_score(*pace),
            ("pace", "mae"): mean_absolute_error(*pace),
        }

    for split in ("val", "test"):
        for fold in range(FOLDS):
            found = {(task, metric): table.loc[(split, task, fold, metric)] for task, metric in expected(split, fold)}
            assert {key: row["value"] for key, row in found.items()} == pytest.approx(expected(split, fold))
            assert all(row["n"] == len(_known(predictions, task, split, fold)[0]) for (task, _), row in found.items())
            edit, threshold = (_known(predictions, "edit", s, fold) for s in (split, "val"))
            f1 = f1_score(edit[0], edit[1] >= best_f1_threshold(*threshold))
            assert table.loc[(split, "edit", fold, "f1"), "value"] == pytest.approx(f1)
        whole = expected(split, None)
        assert {key: pooled[(split, *key)] for key in whole} == pytest.approx(whole)


@pytest.mark.parametrize(("task", "metric"), [(EDIT, "auroc"), (EDIT, "f1"), (ACT, "log_loss"), (PACE, "r2")])
def test_summary_and_objective_per_step_are_those_of_rows_that_are_steps(task, metric):
    predictions, spec = _steps(), Spec((), (task,))
    time = predictions.target[task.name].shape[1]
    flat = [{task.name: getattr(predictions, kind)[task.name]} for kind in ("target", "known", "score")]
    flat = [{n: values.reshape(-1, *values.shape[2:]) for n, values in of.items()} for of in flat]
    places = (np.repeat(of, time) for of in (predictions.fold, predictions.split, predictions.row))
    of_rows = Spec((), (Task(task.name, task.kind, task.classes),))
    as_rows = Predictions(*places, *flat)
    assert objective(predictions, spec, metric) == objective(as_rows, of_rows, metric)
    summaries = [
        summarise(score_folds(*of), _folds()).sort_values(["split", "task", "metric"], ignore_index=True)
        for of in ((predictions, spec), (as_rows, of_rows))
    ]
    assert summaries[0].equals(summaries[1])


def test_a_task_per_step_and_a_task_per_row_are_scored_together():
    rows, steps = _predictions(tasks=("death",)), _steps()
    columns = ({**getattr(rows, kind), "edit": getattr(steps, kind)["edit"]} for kind in ("target", "known", "score"))
    both = Predictions(rows.fold, rows.split, rows.row, *columns)
    table = score_folds(both, Spec((), (DEATH, EDIT))).table
    for task, alone in ((DEATH, rows), (EDIT, steps)):
        expected = score_folds(alone, Spec((), (task,))).table
        mine = table[table["task"] == task.name].reset_index(drop=True)
        assert mine.equals(expected[expected["task"] == task.name].reset_index(drop=True))


def _with_holdout(predictions, rows=12, seed=7):
    """The same, and what each fold's model says of the same locked rows."""
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.5).astype(float)
    parts = {"target": np.tile(target, FOLDS), "known": np.ones(rows * FOLDS, bool), "score": rng.random(rows * FOLDS)}
    columns = (
        {name: np.append(values, parts[kind]) for name, values in getattr(predictions, kind).items()}
        for kind in ("target", "known", "score")
    )
    return Predictions(
        np.append(predictions.fold, np.repeat(np.arange(FOLDS), rows)),
        np.append(predictions.split, np.repeat("holdout", rows * FOLDS)),
        np.append(predictions.row, np.tile(1000 + np.arange(rows), FOLDS)),
        *columns,
    )


def test_a_holdout_is_scored_when_asked_and_moves_nothing_else(tmp_path):
    plain = _predictions()
    predictions = _with_holdout(plain)
    assert predictions.split.tolist().count("holdout") == 12 * FOLDS
    before, after = score_folds(plain, SPEC), score_folds(predictions, SPEC)
    assert before.table.equals(after.table)
    assert before.pooled.equals(after.pooled)
    assert objective(plain, SPEC) == objective(predictions, SPEC)

    asked = score_folds(predictions, SPEC, ("test", "holdout"))
    table = asked.table.set_index(["split", "task", "fold", "metric"]).sort_index()
    for fold in range(FOLDS):
        target, score = _known(predictions, "death", "holdout", fold)
        assert table.loc[("holdout", "death", fold, "auroc"), "value"] == pytest.approx(roc_auc_score(target, score))
        threshold = best_f1_threshold(*_known(plain, "death", "val", fold))
        f1 = f1_score(target, score >= threshold, zero_division=0)
        assert table.loc[("holdout", "death", fold, "f1"), "value"] == pytest.approx(f1)
    summary = summarise(asked, _folds()).set_index(["split", "task", "metric"]).sort_index()
    row = summary.loc[("holdout", "death", "auroc")]
    assert row["mean"] == pytest.approx(table.loc["holdout", "death", :, "auroc"]["value"].mean())
    assert np.isnan([row["ci_low"], row["ci_high"]]).all()  # folds that share their rows say nothing of other rows
    assert np.isfinite(summary.loc[("test", "death", "auroc"), "ci_low"])

    save_predictions(predictions, tmp_path / "p.npz")
    read = load_predictions(tmp_path / "p.npz")
    assert read.split.tolist() == predictions.split.tolist()
    assert score_folds(read, SPEC, ("holdout",)).table.equals(score_folds(predictions, SPEC, ("holdout",)).table)


def test_objective_is_the_mean_over_tasks_of_the_mean_over_folds():
    predictions = _predictions()
    expected = np.mean(
        [
            np.mean([roc_auc_score(*_known(predictions, task, "val", fold)) for fold in range(FOLDS)])
            for task in ("death", "relapse")
        ]
    )
    value, notes = objective(predictions, SPEC)
    assert value == pytest.approx(expected)
    assert notes == ()


@pytest.mark.parametrize("metric", ["auroc", "f1", "log_loss"])
def test_objective_is_the_summarys_mean(metric):
    predictions = _predictions()
    summary = summarise(score_folds(predictions, SPEC), _folds()).set_index(["split", "task", "metric"]).sort_index()
    assert objective(predictions, SPEC, metric)[0] == pytest.approx(summary.loc[("val", "", metric), "mean"])


def test_objective_takes_the_pooled_value_of_a_task_with_an_undefined_fold_and_says_so():
    predictions = _one_class(_predictions(), "death", fold=2)
    value, notes = objective(predictions, SPEC)
    pooled = roc_auc_score(*_known(predictions, "death", "val"))
    whole = np.mean([roc_auc_score(*_known(predictions, "relapse", "val", fold)) for fold in range(FOLDS)])
    assert value == pytest.approx((pooled + whole) / 2)
    (note,) = notes
    assert "death" in note
    assert "fold 2: no row of class 'yes'" in note


def test_objective_refuses_an_undefined_fold_when_told_to():
    predictions = _one_class(_predictions(), "death", fold=2)
    with pytest.raises(DataError, match=r"task 'death'.*auroc.*fold 2: no row of class 'yes'"):
        objective(predictions, SPEC, undefined="refuse")


def test_objective_undefined_everywhere_is_an_error():
    predictions = _predictions()
    for fold in range(FOLDS):
        _one_class(predictions, "relapse", fold)
    with pytest.raises(DataError, match=r"task 'relapse'.*no row of class 'yes'"):
        objective(predictions, SPEC)


def test_objective_of_a_diverged_model_is_nan():
    predictions = _predictions()
    predictions.score["death"][predictions.split == "val"] = np.nan
    value, notes = objective(predictions, SPEC)
    assert np.isnan(value)
    assert notes == ("death: the model's scores are not finite",)


def test_objective_suggests_the_nearest_metric():
    with pytest.raises(ConfigError, match=r"did you mean 'auroc'"):
        objective(_predictions(), SPEC, "auruc")
