"""What stands beside what: one score per comparison, and optimistic ones marked."""

import numpy as np
import pytest
from jobs_stage import SPACE, TINY

from fusion_lab.cli import main
from fusion_lab.config import load_yaml
from fusion_lab.contracts import Predictions
from fusion_lab.evaluation.folds import objective
from fusion_lab.experiment import Materials, override, read_experiment, resolve
from fusion_lab.jobs.kept import how_many, kept_folder
from fusion_lab.jobs.results import Scored, fairest, headline_key, table
from fusion_lab.training import Diverged, cross_validate

MIXED = {"outcome": {"kind": "binary"}, "dose": {"kind": "regression"}, "grade": {"kind": "multiclass"}}


def made(changes=None):
    experiment = resolve(override({"name": "tiny", **TINY}, changes or {}), "tiny")
    materials = Materials.load(experiment)
    return materials, cross_validate(materials.plan(experiment))


@pytest.fixture(scope="module")
def mixed():
    return made({"data.tasks": MIXED})


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


def test_a_study_over_tasks_of_several_kinds_runs_to_its_end(stage, capsys):
    stage.experiment("tiny", TINY, data__tasks=MIXED, baselines=True)
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    assert "val AUROC and R2" in capsys.readouterr().out
    (trial,) = stage.of_kind("trial")
    assert np.isfinite(trial.data.metrics["objective"])
    assert all("objective" in run.data.metrics for run in stage.of_kind("baseline"))


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


def test_settings_of_the_data_make_another_study(stage):
    narrow = {"left": {"width": 3}, "right": {"width": 2}}
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    stage.experiment("tiny", TINY, data__modalities=narrow)
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    assert len(stage.studies()) == 2


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

    monkeypatch.setattr("fusion_lab.jobs.train.cross_validate", diverge)
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


def test_a_best_configuration_stays_marked_when_it_is_trained_again(stage):
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    (study,) = stage.studies()
    chosen = read_experiment(str(study / "best.yaml"))
    assert chosen.selected == study.name
    assert load_yaml(study / "best.yaml")["selected"] == study.name
