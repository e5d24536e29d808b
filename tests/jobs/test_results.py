"""What stands beside what: one score per comparison, and optimistic ones marked."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from jobs_stage import SPACE, TINY
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from subjects_material import ONE_CLASS, ROWS, subject_out

from fusion_lab.cli import main
from fusion_lab.config import load_yaml
from fusion_lab.contracts import ConfigError, Predictions
from fusion_lab.evaluation.folds import objective
from fusion_lab.evaluation.intervals import corrected_interval, jackknife_interval
from fusion_lab.experiment import Materials, override, read_experiment, resolve
from fusion_lab.jobs.kept import how_many, kept_folder
from fusion_lab.jobs.results import (
    MOST_FOLDS,
    Scored,
    by_fold_lines,
    fairest,
    headline_key,
    headline_name,
    is_pooled,
    table,
)
from fusion_lab.jobs.study_report import save_study_view
from fusion_lab.tracking import views
from fusion_lab.training import Diverged, cross_validate
from fusion_lab.training.plan import Goal

MIXED = {"outcome": {"kind": "binary"}, "dose": {"kind": "regression"}, "grade": {"kind": "multiclass"}}


def made(changes=None):
    experiment = resolve(override({"name": "tiny", **TINY}, changes or {}), "tiny")
    materials = Materials.load(experiment)
    return materials, cross_validate(materials.plan(experiment))


@pytest.fixture(scope="module")
def mixed():
    return made({"data.tasks": MIXED})


HELPED = {"outcome": {"kind": "binary"}, "dose": {"kind": "regression"}, "pace": {"kind": "regression"}}
TWO = {"outcome": {"kind": "binary"}, "relapse": {"kind": "binary", "prevalence": 0.3}, "dose": {"kind": "regression"}}


def with_helpers(tasks, changes=None):
    """Regressions as auxiliary tasks."""
    experiment = resolve(override({"name": "tiny", **TINY}, {"data.tasks": tasks, **(changes or {})}), "tiny")
    loaded = Materials.load(experiment)
    named = (replace(t, auxiliary="doses" if t.kind == "regression" else "") for t in loaded.spec.tasks)
    dataset = replace(loaded.dataset, spec=replace(loaded.spec, tasks=tuple(named)))
    materials = Materials(dataset, loaded.folds)
    return materials, cross_validate(materials.plan(experiment)), experiment.training.goal


def test_the_headline_is_that_of_the_main_task_alone():
    materials, result, goal = with_helpers(HELPED)
    scored = Scored.of("model", "model", result.predictions, materials, goal)
    for split in ("val", "test"):
        each = []
        for k in range(len(materials.folds)):
            part = result.predictions.of(split, k)
            each.append(roc_auc_score(part.target["outcome"], part.score["outcome"]))
        headline = scored.headlines[split]
        assert (headline.name, headline.value) == ("AUROC", pytest.approx(np.mean(each)))
        assert headline.folds == pytest.approx(each)
        assert headline.low >= 0
        assert scored.line(split, "auroc")["mean"] == pytest.approx(np.mean(each))
    assert {"r2", "mae"} <= set(scored.summary[scored.summary["task"] == "dose"]["metric"]), "scored all the same"
    assert headline_key(materials.spec, goal) == "auroc"
    assert "val AUROC" in table([scored], "val", materials.spec, goal)[0]


@pytest.mark.parametrize(
    "share", [pytest.param(0.0, marks=pytest.mark.slow), 0.4, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_mean_and_lowest_average_precision_are_the_headline(share):
    changes = {"training.monitor": "macro_plus_min", "training.min_weight": share}
    materials, result, goal = with_helpers(TWO, changes)
    scored = Scored.of("model", "model", result.predictions, materials, goal)
    for split in ("val", "test"):
        parts = [result.predictions.of(split, k) for k in range(len(materials.folds))]
        each = np.array(
            [[average_precision_score(p.target[t], p.score[t]) for p in parts] for t in ("outcome", "relapse")]
        )
        expected = (1 - share) * each.mean(0) + share * each.min(0)
        headline, part = scored.headlines[split], materials.folds.val if split == "val" else materials.folds.test
        sizes = (float(rows.sum(1).mean()) for rows in (materials.folds.train, part))
        low, high = corrected_interval(expected, *sizes)
        assert headline.folds == pytest.approx(expected)
        assert (headline.value, headline.low) == pytest.approx((expected.mean(), max(low, 0)))
        assert headline.high == pytest.approx(min(high, 1))
        means = {metric: scored.line(split, metric)["mean"] for metric in ("ap", "min_ap")}
        assert means == pytest.approx({"ap": each.mean(), "min_ap": each.min(0).mean()})
        assert headline.value == pytest.approx((1 - share) * means["ap"] + share * means["min_ap"])
    assert headline_name(materials.spec, goal) == "macro + min AP"
    head = table([scored], "val", materials.spec, goal)[0]
    assert re.split(r"\s{2,}", head.strip())[-2:] == (["AP", "min AP"] if share else ["min AP", "AUROC"])
    assert headline_key(materials.spec, goal) == "macro_plus_min"


def test_a_goal_needs_its_share():
    with pytest.raises(AssertionError, match="no goal by itself"):
        Goal.of("macro_plus_min")
    assert Goal.read({"monitor": "macro_plus_min", "min_weight": "0.3"}) == Goal("macro_plus_min", 0.3)
    assert Goal.read({"monitor": "ap"}) == Goal.read({"monitor": "ap", "min_weight": 0.4}) == Goal.of("ap")


@pytest.mark.parametrize("monitor", ["auroc", "ap"])
def test_the_headline_is_the_objective_of_the_search(monitor):
    materials, result = made({"training.monitor": monitor})
    scored = Scored.of("model", "model", result.predictions, materials, monitor)
    expected, _ = objective(result.predictions, materials.spec, monitor)
    assert scored.value("val") == pytest.approx(expected, abs=1e-12)


def test_tasks_of_several_kinds_are_compared_by_each_ones_own_score(mixed):
    materials, result = mixed
    scored = Scored.of("model", "model", result.predictions, materials, "auroc")
    lines = table([scored], "val", materials.spec, "auroc")
    assert "val AUROC and R2" in lines[0]
    assert f"{scored.value('val'):.3f}" in lines[2]
    assert headline_key(materials.spec, "auroc") == "score"
    values = [
        scored.summary.query("split == 'val' and task == @task and metric == @metric")["mean"].item()
        for task, metric in (("outcome", "auroc"), ("dose", "r2"), ("grade", "auroc"))
    ]
    assert scored.value("val") == pytest.approx(np.mean(values))


def test_the_interval_of_an_r2_reaches_below_0():
    materials, result = made({"data.tasks": {"dose": {"kind": "regression"}}})
    headline = Scored.of("model", "model", result.predictions, materials, "auroc").headlines["test"]
    sizes = (float(part.sum(1).mean()) for part in (materials.folds.train, materials.folds.test))
    assert headline.low == pytest.approx(corrected_interval(headline.folds, *sizes)[0])
    assert headline.low < 0


def test_a_baseline_chosen_on_validation_rows_is_marked_and_is_not_what_models_are_held_against(mixed):
    materials, result = mixed
    chosen = Scored.of("best_single", "baseline", result.predictions, materials, "auroc", ("val",))
    plain = Scored.of("trees", "baseline", result.predictions, materials, "auroc")
    assert chosen.label("val") == "best_single (selected)"
    assert chosen.label("test") == "best_single"
    assert fairest([chosen, plain], "val") is plain
    assert fairest([chosen, plain], "test") is chosen
    assert fairest([chosen], "val") is None


def test_scores_hold_the_splits_they_were_given(mixed):
    materials, result = mixed
    seen = Scored.of("trial 0", "trial", result.predictions.of("val"), materials, "auroc")
    assert set(seen.headlines) == {"val"}
    assert set(seen.scores.table["split"]) == {"val"}


def test_a_single_fold_has_no_interval_and_says_why():
    materials, result = made({"folds.protocol": "holdout"})
    scored = Scored.of("model", "model", result.predictions, materials, "auroc")
    assert "one fold" in table([scored], "val", materials.spec, "auroc")[2]


@pytest.fixture(scope="module")
def subjects():
    """Seven people left out in turn under macro F1, one of whom does one activity only."""
    experiment, materials = subject_out()
    materials.check(experiment)
    return materials, cross_validate(materials.plan(experiment))


def macro(predictions: Predictions) -> float:
    return f1_score(predictions.target["act"], predictions.score["act"].argmax(-1), average="macro")


@pytest.mark.parametrize("split", ["val", "test"])
def test_macro_f1_that_a_fold_does_not_define_is_pooled_with_an_interval_over_people(subjects, split):
    materials, result = subjects
    scored = Scored.of("model", "model", result.predictions, materials, "f1")
    headline, part = scored.headlines[split], result.predictions.of(split)
    person = materials.dataset.group[part.row]
    left_out = np.array([macro(part.where(person != name)) for name in ROWS])
    assert headline.value == pytest.approx(macro(part))
    assert (headline.low, headline.high) == pytest.approx(jackknife_interval(macro(part), left_out, (0, 1)))
    assert (headline.undefined, headline.how) == (1, "pooled over folds")
    if split == "val":
        assert headline.value == pytest.approx(objective(result.predictions, materials.spec, "f1")[0])
    lines = table([scored], split, materials.spec, "f1")
    assert f"{split} macro F1" in lines[0]
    assert f"pooled {headline.value:.3f}" in lines[2]
    assert f"{headline.low:.3f} to {headline.high:.3f}" in lines[2]
    assert "undefined in 1 of 7 folds; interval by leaving out each of 7 groups in turn" in lines[-1]


def test_whether_a_score_will_be_pooled_is_known_before_training(subjects):
    experiment, materials = subject_out()
    assert is_pooled(materials, experiment.training)
    assert not is_pooled(materials, experiment.training.model_copy(update={"monitor": "loss"}))
    _, even = subject_out({"folds.val_groups": 2})
    assert not is_pooled(even, experiment.training)


def test_a_saved_view_shows_the_columns_that_have_values(monkeypatch):
    experiment, materials = subject_out()
    saved = []
    monkeypatch.setattr(views, "save_view", lambda *given: saved.append(given[-1]))
    study = SimpleNamespace(base=experiment, name="people", space=SimpleNamespace(names=lambda: ["optimiser.lr"]))
    for pooled in (False, True):
        save_study_view(study, materials.spec, SimpleNamespace(store=None, experiment_id="1"), pooled)
    ends = ("ci_low", "ci_high")
    for state, score in zip(saved, ("val/f1", "val/f1_pooled"), strict=True):
        assert [f"metrics.`{score}_{end}`" in state["columnOrder"] for end in ends] == [True, True]


def test_the_accuracy_stands_beside_macro_f1(subjects):
    materials, result = subjects
    scored = Scored.of("model", "model", result.predictions, materials, "f1")
    head, _, row, _ = table([scored], "test", materials.spec, "f1")
    assert "accuracy" in head
    assert f"{scored.line('test', 'accuracy')['mean']:.3f}" in row
    assert (headline_name(materials.spec, "f1"), headline_key(materials.spec, "f1")) == ("macro F1", "f1")


def test_a_table_of_folds_has_the_accuracy_of_each_person(subjects, monkeypatch):
    materials, result = subjects
    scored = Scored.of("model", "model", result.predictions, materials, "f1")
    lines = by_fold_lines(scored, "test", materials)
    assert lines[0].split() == ["test", "rows", "accuracy", "macro", "F1"]
    accuracies = []
    for k, (name, line) in enumerate(zip(ROWS, lines[2:-1], strict=True)):
        part = result.predictions.of("test", k)
        accuracies.append(accuracy_score(part.target["act"], part.score["act"].argmax(-1)))
        defined = [] if name == ONE_CLASS else [f"{macro(part):.3f}"]
        assert line.split() == [name, str(ROWS[name]), f"{accuracies[-1]:.3f}", *defined]
    assert f"{np.mean(accuracies):.3f} ± {np.std(accuracies, ddof=1):.3f}" in lines[-1]
    monkeypatch.setattr("fusion_lab.jobs.results.MOST_FOLDS", 2)
    assert len(ROWS) <= MOST_FOLDS
    shorter = by_fold_lines(scored, "test", materials)
    assert {line.split()[0] for line in shorter[2:4]} == {list(ROWS)[k] for k in np.argsort(accuracies)[:2]}
    assert shorter[4:] == [lines[-1], "and 5 folds with higher scores"]


def test_a_pooled_score_says_why_it_has_no_interval(subjects):
    materials, result = subjects
    part = result.predictions
    right = np.eye(3)[part.target["act"].astype(int)]
    perfect = Predictions(part.fold, part.split, part.row, part.target, part.known, {"act": right})
    scored = Scored.of("perfect", "model", perfect, materials, "f1")
    lines = table([scored], "test", materials.spec, "f1")
    assert lines[2].split()[:4] == ["perfect", "pooled", "1.000", "none"]
    assert lines[-1].endswith("no interval, for no one of 7 groups changes it")


def test_a_class_that_one_person_alone_has_leaves_no_interval(subjects):
    materials, result = subjects
    part, group = result.predictions, materials.dataset.group
    alone = np.where(group[part.row] == ONE_CLASS, 2.0, np.minimum(part.target["act"], 1.0))
    changed = Predictions(part.fold, part.split, part.row, {"act": alone}, part.known, part.score)
    scored = Scored.of("model", "model", changed, materials, "f1")
    assert np.isfinite(scored.value("test"))
    assert not scored.headlines["test"].has_interval
    last = table([scored], "test", materials.spec, "f1")[-1]
    assert last.endswith("no interval, for without one of 7 groups it has no value")


def test_f1_of_a_binary_task_is_refused_before_anything_is_trained():
    experiment = resolve(override({"name": "tiny", **TINY}, {"training.monitor": "f1"}), "tiny")
    with pytest.raises(ConfigError, match="training.monitor: f1 .* task outcome is binary: expected auroc, ap or loss"):
        Materials.load(experiment).check(experiment)


@pytest.mark.slow
def test_a_study_over_tasks_of_several_kinds_runs_to_its_end(stage, capsys):
    stage.experiment("tiny", TINY, data__tasks=MIXED, baselines=True)
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    assert "val AUROC and R2" in capsys.readouterr().out
    (trial,) = stage.of_kind("trial")
    assert np.isfinite(trial.data.metrics["objective"])
    assert all("objective" in run.data.metrics for run in stage.of_kind("baseline"))


@pytest.mark.slow
def test_a_watched_loss_is_not_drawn_beside_scores(stage, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("fusion_lab.jobs.study_report.history_png", lambda figures: seen.append(figures) or b"")
    stage.experiment("tiny", TINY, training__monitor="loss", baselines=True)
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    assert "selected by validation loss" in capsys.readouterr().out
    assert seen[0].metric == "loss"
    assert seen[0].scores.empty
    (study,) = stage.of_kind("study")
    assert "study/best_baseline" not in study.data.metrics


@pytest.mark.slow
def test_settings_of_the_data_make_another_study(stage):
    narrow = {"left": {"width": 3}, "right": {"width": 2}}
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    stage.experiment("tiny", TINY, data__modalities=narrow)
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    assert len(stage.studies()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "kept"), [("none", 0), ("best", 1), ("top-2", 2)])
def test_as_many_trials_are_kept_as_asked_for(stage, keep, kept):
    stage.yaml("hpo/tiny.yaml", SPACE, keep=keep)
    assert main(["hpo", "--experiment=tiny"]) == 0
    (study,) = stage.studies()
    values = {t.number: t.value for t in stage.trials()}
    best = sorted(values, key=lambda number: (-values[number], number))[: how_many(keep)]
    assert sorted((study / "kept").glob("*")) == sorted(kept_folder(study, number) for number in best)
    assert len(best) == kept
    with_weights = [r for r in stage.of_kind("trial") if any(f.startswith("checkpoints/") for f in stage.artifacts(r))]
    assert len(with_weights) == (kept if keep.startswith("top-") else 0)


@pytest.mark.slow
def test_numbers_and_switches_may_open_settings_of_their_own(stage):
    options = {8: {"dropout": {"float": [0.0, 0.3]}}, 16: {}}
    stage.yaml("hpo/tiny.yaml", {**SPACE, "space": {"model": {"d_model": {"choice": options}}}})
    assert main(["hpo", "--experiment=tiny", "--trials=2"]) == 0
    assert stage.best()["model"]["d_model"] in options


def test_a_space_may_name_its_experiment(stage):
    stage.yaml("hpo/other.yaml", {**SPACE, "experiment": "tiny"})
    assert main(["hpo", "--space=other", "--trials=1"]) == 0
    assert stage.studies()[0].name.startswith("tiny-")


def test_a_study_whose_trials_all_fail_says_why(stage, capsys, monkeypatch):
    def diverge(*_):
        raise Diverged("fold 0: the training loss of epoch 1 is nan")

    monkeypatch.setattr("fusion_lab.jobs.hpo.cross_validate", diverge)
    with pytest.raises(SystemExit) as stopped:
        main(["hpo", "--experiment=tiny", "--trials=2"])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert "expected a complete trial, found none of 2: fold 0: the training loss" in told.err
    assert "failed: fold 0: the training loss" in told.out
    assert not stage.running()


def test_a_training_that_diverges_is_told_in_one_line(stage, capsys, monkeypatch):
    def diverge(*_):
        raise Diverged("fold 0: the training loss of epoch 1 is nan")

    monkeypatch.setattr("fusion_lab.jobs.crossval.cross_validate", diverge)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--experiment=tiny"])
    assert stopped.value.code == 2
    assert "optimiser.lr" in capsys.readouterr().err
    assert not stage.running()


def test_test_rows_of_a_trial_are_scored_for_the_chosen_one_only(stage, monkeypatch):
    seen = []
    original = Scored.of.__func__

    def spy(cls, name, kind, predictions: Predictions, *rest):
        seen.append((name, set(predictions.split.tolist())))
        return original(cls, name, kind, predictions, *rest)

    monkeypatch.setattr(Scored, "of", classmethod(spy))
    assert main(["hpo", "--experiment=tiny"]) == 0
    best = min(t.number for t in stage.trials() if t.value == max(t.value for t in stage.trials()))
    assert {name for name, splits in seen if "test" in splits} == {f"trial {best}"}


@pytest.mark.slow
def test_a_best_configuration_stays_marked_when_it_is_trained_again(stage):
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    (study,) = stage.studies()
    chosen = read_experiment(str(study / "best.yaml"))
    assert chosen.selected == study.name
    assert load_yaml(study / "best.yaml")["selected"] == study.name
