"""A whole study on small data: what it leaves in MLflow and in its folder, and that the same command goes on."""

import fcntl
import json
import math
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
import pytest
from jobs_stage import PROJECT, SPACE, TINY, Stage, artifact_folder, at_epoch
from mlflow.entities import Run
from optuna.trial import TrialState
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fusion_lab.cli import main
from fusion_lab.config import load_yaml
from fusion_lab.contracts import ConfigError
from fusion_lab.experiment import Materials, read_experiment
from fusion_lab.jobs.hpo import find_space, space_line
from fusion_lab.search.space import check_space, parse_space
from fusion_lab.search.study import read_study
from fusion_lab.training import Diverged
from fusion_lab.zoo.baselines import baseline_names

FOLDS, TRIALS = 3, 3
COMMAND = ["hpo", "--experiment=tiny"]


@dataclass(frozen=True)
class Finished:
    """A study of three trials, the same command again, once more with four, and ``train`` of its best."""

    stage: Stage
    shown: list[str]  # of each of the four commands
    added: list[list[Run]]  # runs that each of them added, as they were at the end
    best: dict  # best.yaml after the first command

    def of(self, kind: str, command: int = 0) -> list[Run]:
        return [run for run in self.added[command] if run.data.tags["fusion_lab.kind"] == kind]

    @property
    def parent(self) -> Run:
        (run,) = self.of("study")
        return run

    @property
    def trials(self) -> list[Run]:
        return self.of("trial")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, empty_store) -> Finished:
    stage = Stage.set_up(tmp_path_factory.mktemp("study"), empty_store)
    stage.experiment("tiny", TINY, baselines=True)
    shown, ends, best = [], [], {}
    commands = [COMMAND, COMMAND, [*COMMAND, f"--trials={TRIALS + 1}"], ["train", "--experiment=best.yaml"]]
    with pytest.MonkeyPatch.context() as patch:
        stage.enter(patch, figures=True)
        for command in commands:
            out = Capture()
            patch.setattr("sys.stdout", out)
            assert main(command) == 0
            shown.append(out.text)
            ends.append([run.info.run_id for run in stage.runs()])
            if not best:
                best = stage.best()
                stage.yaml("best.yaml", best)
    runs = {run.info.run_id: run for run in stage.runs()}
    added = [[runs[i] for i in end if i not in start] for start, end in zip([[], *ends], ends, strict=False)]
    return Finished(stage, shown, added, best)


class Capture:
    """Standard output that is no terminal; capsys does not reach into a session's fixture."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def frame(run: Run, name: str) -> pd.DataFrame:
    file = artifact_folder(run) / name
    return pd.read_parquet(file) if name.endswith("parquet") else pd.read_csv(file, keep_default_na=False)


def test_every_run_ended_well_and_is_tagged(finished):
    runs = [run for added in finished.added for run in added]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        assert run.data.tags["fusion_lab.kind"] in ("study", "trial", "baseline", "train")
        assert run.data.tags["mlflow.source.git.commit"] and run.data.tags["mlflow.user"]


def test_trials_and_baselines_stand_under_the_study(finished):
    (study,) = finished.stage.studies()
    names = sorted(run.info.run_name for run in finished.trials)
    assert names == [f"trial {number:03d}" for number in range(TRIALS)]
    assert finished.parent.info.run_name == f"study {study.name}"
    baselines = {run.info.run_name for run in finished.of("baseline")}
    spec = read_experiment(str(finished.stage.folder / "experiments/tiny.yaml")).data
    assert {f"baseline single:{name}" for name in spec.modalities} < baselines
    assert {"baseline prevalence", "baseline logistic", "baseline trees", "baseline best_single (selected)"} < baselines
    for run in [*finished.trials, *finished.of("baseline")]:
        assert run.data.tags["mlflow.parentRunId"] == finished.parent.info.run_id
        assert run.data.tags["fusion_lab.study"] == study.name
        assert run.info.experiment_id == finished.parent.info.experiment_id
    told = finished.parent.data.tags["fusion_lab.execution"]
    assert told.endswith(" ms in the loop)") and {run.data.tags["fusion_lab.execution"] for run in finished.trials} == {
        told
    }


def test_the_mlflow_experiment_has_our_name(finished):
    assert finished.stage.client.get_experiment(finished.parent.info.experiment_id).name == "tiny"


def test_a_trial_shows_every_fold_and_the_mean_with_its_interval(finished):
    for run in finished.trials:
        for metric in ("auroc", "ap", "f1"):
            folds = [run.data.metrics[f"fold{k}/val/outcome/{metric}"] for k in range(FOLDS)]
            assert run.data.metrics[f"val/outcome/{metric}"] == pytest.approx(np.mean(folds))
            assert run.data.metrics[f"val/{metric}"] == pytest.approx(np.mean(folds))
            assert run.data.metrics[f"val/{metric}_std"] == pytest.approx(np.std(folds, ddof=1))
            low, high = (run.data.metrics[f"val/{metric}_{end}"] for end in ("ci_low", "ci_high"))
            assert low <= np.mean(folds) <= high


def test_a_trials_scores_are_scikit_learns_on_its_predictions(finished):
    for run in finished.trials:
        predictions = frame(run, "predictions.parquet")
        val = predictions[predictions["split"] == "val"]
        assert sorted(val["id"]) == sorted(set(val["id"])) and len(val) == 60  # each row validates one fold
        for fold, rows in val.groupby("fold"):
            truth, score = rows["target"], rows["score"]
            assert run.data.metrics[f"fold{fold}/val/outcome/auroc"] == pytest.approx(roc_auc_score(truth, score))
            assert run.data.metrics[f"fold{fold}/val/outcome/ap"] == pytest.approx(
                average_precision_score(truth, score)
            )
            best = max(f1_score(truth, score >= threshold) for threshold in score)
            assert run.data.metrics[f"fold{fold}/val/outcome/f1"] == pytest.approx(best)  # its own rows set it


def test_the_objective_is_the_mean_that_optuna_was_told(finished):
    values = {t.number: t.value for t in finished.stage.trials() if t.state == TrialState.COMPLETE}
    for run in finished.trials:
        number = int(run.data.tags["fusion_lab.trial"])
        val = frame(run, "predictions.parquet").query("split == 'val'")
        mean = np.mean([roc_auc_score(r["target"], r["score"]) for _, r in val.groupby("fold")])
        assert run.data.metrics["objective"] == values[number] == pytest.approx(mean, abs=1e-12)


def test_nothing_that_a_trial_shows_was_scored_on_test_rows(finished):
    for run in [*finished.trials, *finished.of("baseline")]:
        assert [name for name in run.data.metrics if "test" in name] == []
        scores = frame(run, "scores.csv")
        assert set(scores["split"]) == {"val"} and len(scores) > 0
        kept = frame(run, "predictions.parquet")
        assert set(kept["split"]) == {"val", "test"}  # kept for a later correction, not scored


def test_curves_have_an_epoch_for_a_step(finished):
    client = finished.stage.client
    for run in finished.trials:
        for name in ("curve/train/loss", "curve/val/loss", "curve/val/outcome/auroc"):
            history = client.get_metric_history(run.info.run_id, name)
            assert [point.step for point in history] == [1, 2, 3]
            assert all(math.isfinite(point.value) for point in history)


def test_the_study_carries_curves_of_its_own(finished):
    client, parent = finished.stage.client, finished.parent.info.run_id
    values = [point.value for point in client.get_metric_history(parent, "study/value")]
    best = [point.value for point in client.get_metric_history(parent, "study/best")]
    assert values == [t.value for t in finished.stage.trials()[:TRIALS]]
    assert best == list(np.maximum.accumulate(values))


def test_files_of_the_runs(finished):
    stage = finished.stage
    for run in finished.trials:
        files = stage.artifacts(run)
        assert {"config.yaml", "predictions.parquet", "scores.csv", "curves.png", "curves.json"} <= files
        maps = {file for file in files if file.startswith("attention/")}
        assert {file.rsplit(".")[-1] for file in maps} >= {"png", "json"}
        assert not any(file.endswith(".safetensors") for file in files)  # keep: best
    files = stage.artifacts(finished.parent)
    assert {f"best/checkpoints/fold{k}.{end}" for k in range(FOLDS) for end in ("safetensors", "json")} <= files
    assert {"best.yaml", "base.yaml", "space.yaml", "environment.json", "study/study.html"} <= files
    (trained,) = finished.of("train", 3)
    files = stage.artifacts(trained)
    assert {f"checkpoints/fold{k}.safetensors" for k in range(FOLDS)} | {"config.yaml", "environment.json"} <= files


def test_the_best_weights_are_those_of_the_best_configuration(finished):
    (trained,) = finished.of("train", 3)
    for k in range(FOLDS):
        kept = load_file(artifact_folder(finished.parent) / f"best/checkpoints/fold{k}.safetensors")
        again = load_file(artifact_folder(trained) / f"checkpoints/fold{k}.safetensors")
        assert kept.keys() == again.keys()
        assert all(np.array_equal(kept[name], again[name]) for name in kept)


def test_the_maps_in_numbers_are_shares_of_what_they_weigh(finished):
    for run in finished.trials:
        (file,) = (artifact_folder(run) / "attention").glob("*.json")
        content = json.loads(file.read_text())
        assert content["folds"] == [0, 1, 2] and content["panels"][0]["rows"] == 60
        for panel in content["panels"]:
            weights = np.array(panel["mean"])
            assert weights.shape == tuple(len(axis["labels"]) for axis in content["axes"])[-weights.ndim :]
            assert (weights >= 0).all() and (weights <= 1).all()
            if content["kind"] == "attention":  # gates are no shares
                np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)


def test_what_was_run_is_logged_as_it_was_resolved(finished):
    for run in finished.trials:
        config = load_yaml(artifact_folder(run) / "config.yaml")
        assert float(run.data.params["optimiser.lr"]) == config["optimiser"]["lr"]
        assert run.data.params["model.fusion"] == config["model"]["fusion"]
        assert run.data.params["folds.k"] == "3" and run.data.params["seed"] == "0"


def test_the_data_set_is_an_input_of_the_study(finished):
    (given,) = finished.parent.inputs.dataset_inputs
    assert given.dataset.name and given.dataset.digest


def test_the_saved_view_and_the_link_to_it(finished):
    (study,) = finished.stage.studies()
    experiment = finished.stage.client.get_experiment(finished.parent.info.experiment_id)
    assert json.loads(experiment.tags[f"mlflow.sharedViewState.{study.name}"])["name"] == f"study {study.name}"
    assert f"viewStateShareKey={study.name}" in finished.shown[0]


def test_descriptions_say_what_was_done(finished):
    study, (trained,) = finished.parent.data.tags["mlflow.note.content"], finished.of("train", 3)
    assert TINY["description"] in study and "fusion-lab hpo --experiment tiny" in study
    assert "optimistic" in study and "60" in study
    assert "fusion-lab train --experiment best.yaml" in trained.data.tags["mlflow.note.content"]


def test_the_terminal_shows_trials_beside_baselines_and_where_everything_is(finished):
    shown = finished.shown[0]
    (study,) = finished.stage.studies()
    assert "\r" not in shown
    assert f"study {study.name} starts: 3 trials in all, in studies/{study.name}/" in shown
    for number in range(TRIALS):
        assert f"trial {number:3d} ({number + 1}/{TRIALS})" in shown
    for name in (*(f"trial {n}" for n in range(TRIALS)), "logistic", "trees", "prevalence", "best_single"):
        assert any(line.startswith(name) for line in shown.splitlines())
    assert "95 % interval" in shown and "(selected)" in shown
    assert f"best configuration: studies/{study.name}/best.yaml" in shown
    assert f"fusion-lab train --experiment studies/{study.name}/best.yaml" in shown


def test_the_best_file_is_complete_and_names_the_study(finished):
    (study,) = finished.stage.studies()
    best = max(finished.stage.trials()[:TRIALS], key=lambda t: t.value)
    assert finished.best["selected"] == study.name and finished.best["trial"] == best.user_attrs["stream"]
    assert finished.best["optimiser"]["lr"] == best.params["optimiser.lr"]
    experiment = read_experiment(str(finished.stage.folder / "best.yaml"))
    assert experiment.resolved() == finished.best


def test_the_best_file_reproduces_the_trial_exactly(finished):
    (trained,) = finished.of("train", 3)
    best = max(finished.trials, key=lambda run: run.data.metrics["objective"])
    for name, value in best.data.metrics.items():
        if name.startswith(("fold", "val/", "curve/")):
            assert trained.data.metrics[name] == value, name
    pd.testing.assert_frame_equal(frame(best, "predictions.parquet"), frame(trained, "predictions.parquet"))


def test_a_selected_configuration_is_marked_so(finished):
    (trained,) = finished.of("train", 3)
    (study,) = finished.stage.studies()
    assert f"selected by {study.name}" in trained.data.tags["fusion_lab.estimate"]
    assert "tiny (selected)" in finished.shown[3]
    assert "optimistic (selected)" in finished.shown[3]
    assert any(name.startswith("test_selected/") for name in trained.data.metrics)
    assert not any(name.startswith("test/") for name in trained.data.metrics)


def test_the_same_command_again_adds_nothing(finished):
    (again,) = finished.added[1]
    assert again.data.tags["fusion_lab.kind"] == "study"
    assert "continues after 3 trials: 3 trials in all" in finished.shown[1]
    assert len([t for t in finished.stage.trials() if t.number < TRIALS]) == TRIALS


def test_more_trials_go_on_from_there(finished):
    (trial,) = finished.of("trial", 2)
    (parent,) = finished.of("study", 2)
    assert trial.data.tags["fusion_lab.trial"] == str(TRIALS)
    assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert finished.of("baseline", 2) == []  # the first run's are taken up
    assert len(finished.stage.trials()) == TRIALS + 1


def test_a_later_study_run_points_to_the_first(finished):
    first = finished.parent
    assert "fusion_lab.continues" not in first.data.tags
    for command in (1, 2):
        (later,) = finished.of("study", command)
        assert later.data.tags["fusion_lab.continues"] == first.info.run_id


def test_the_baselines_are_the_specs(finished):
    names = {run.info.run_name.removeprefix("baseline ").removesuffix(" (selected)") for run in finished.of("baseline")}
    assert names == set(baseline_names(Materials.load(read_experiment(str(finished.stage.folder / "best.yaml"))).spec))


def test_nothing_is_left_half_done(finished):
    assert finished.stage.halves() == [] and finished.stage.running() == []


@pytest.mark.slow
def test_four_trials_at_once_are_four_trials_one_by_one(finished, stage):
    """Continuing changes no number: a study of four in one go, in another folder, comes to the same."""
    stage.experiment("tiny", TINY, baselines=True)
    assert main([*COMMAND, f"--trials={TRIALS + 1}"]) == 0
    (one,), (other,) = stage.studies(), finished.stage.studies()
    assert one.name == other.name
    assert [(t.params, t.value) for t in stage.trials()] == [(t.params, t.value) for t in finished.stage.trials()]


@pytest.mark.slow
def test_another_seed_is_another_study(stage, capsys):
    for seed in ("1", "2"):
        assert main([*COMMAND, f"--seed={seed}", "--trials=1"]) == 0
    assert len(stage.studies()) == 2


def test_a_study_that_another_process_runs_is_refused(stage, capsys, monkeypatch):
    assert main([*COMMAND, "--trials=1"]) == 0
    (study,) = stage.studies()
    with open(study / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write("4242")
        lock.flush()
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([*COMMAND, "--trials=2"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and len(err.splitlines()) == 1
    assert f"study {study.name}: expected to be the only one running it, found process 4242 at it" in err
    assert len(stage.trials()) == 1 and stage.running() == []


def test_a_pruned_trial_is_shown_as_such(stage, capsys, monkeypatch):
    stage.yaml("hpo/tiny.yaml", SPACE, pruner={"name": "median", "startup_trials": 1, "warmup_epochs": 0})
    answers = iter([False, False, False, True])
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: next(answers, False))
    assert main([*COMMAND, "--trials=2"]) == 0
    states = [t.state.name for t in stage.trials()]
    assert states.count("PRUNED") == 1
    (pruned,) = [run for run in stage.of_kind("trial") if run.data.tags["fusion_lab.state"] == "pruned"]
    assert pruned.info.status == "FINISHED" and math.isfinite(pruned.data.metrics["objective"])
    assert "pruned" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_that_diverges_is_shown_with_its_reason(stage, capsys, monkeypatch):
    def diverge():
        raise Diverged("fold 1: the training loss of epoch 2 is nan")

    at_epoch(monkeypatch, "trial 1", 2, diverge)
    assert main([*COMMAND, "--trials=3"]) == 0
    states = [t.state.name for t in stage.trials()]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    failed = stage.of_kind("trial")[1]
    assert failed.info.status == "FAILED" and failed.data.tags["fusion_lab.state"] == "failed"
    assert failed.data.tags["failure"] == "fold 1: the training loss of epoch 2 is nan"
    assert "trial 1 failed: fold 1: the training loss of epoch 2 is nan" in capsys.readouterr().out


def test_the_time_budget_stops_new_trials(stage, capsys):
    assert main([*COMMAND, "--trials=50", "--timeout=0.001"]) == 0
    assert len(stage.trials()) <= 1 and stage.running() == []


@pytest.mark.slow
def test_a_search_on_a_subsample_says_so_registers_nothing_and_leaves_its_best_for_all_rows(stage, capsys):
    stage.yaml("hpo/tiny.yaml", SPACE, budget__rows=40, budget__trials=2)
    assert main(COMMAND) == 0
    shown = capsys.readouterr().out
    assert "tiny: 40 rows" in shown and "a subsample: 40 of 60 rows, chosen by chance (seed 0)" in shown
    (best,) = stage.folder.glob("studies/*/best.yaml")
    again = f"fusion-lab train --experiment {best.relative_to(stage.folder)}"
    assert f"searched on 40 rows alone; the best configuration on all rows: {again}" in shown
    assert not stage.client.search_registered_models()
    assert main(["train", f"--experiment={best}"]) == 0
    assert "tiny: 60 rows" in capsys.readouterr().out


def test_a_subsample_of_more_rows_than_there_are_is_refused_before_anything_is_written(stage, capsys):
    stage.yaml("hpo/tiny.yaml", SPACE, budget__rows=61)
    with pytest.raises(SystemExit, match="2"):
        main(COMMAND)
    assert "budget.rows: expected a number below that of all rows, 60, found 61" in capsys.readouterr().err
    assert not (stage.folder / "studies").exists()


@pytest.mark.parametrize(
    ("experiment", "space", "file"),
    [("demo", None, "demo"), ("hancock", None, "hancock"), ("demo", "token_fusion", "token_fusion")],
)
def test_the_space_of_an_experiment(experiment, space, file, stage):
    assert find_space(space, experiment, read_experiment(experiment)) == PROJECT / "hpo" / f"{file}.yaml"


def test_another_family_than_that_of_the_file_gets_a_space_that_fits_it(stage):
    own = find_space(None, "hancock", read_experiment("hancock"))
    changed = read_experiment("hancock", {"model.family": "hcat"})
    found = find_space(None, "hancock", changed)
    assert (own, found) == (PROJECT / "hpo/hancock.yaml", PROJECT / "hpo/hcat.yaml")
    check_space(parse_space(read_study(found).space, str(found)), changed.resolved(), str(found))
    assert space_line(found, "hancock", changed) == f"the space searched is {found} ({own} is not of family hcat)"
    assert space_line(own, "hancock", read_experiment("hancock")) == f"the space searched is {own}"


def test_an_own_space_that_another_family_has_all_settings_of_is_taken(stage):
    stage.yaml("hpo/tiny.yaml", {"space": {"model": {"d_model": {"choice": [8, 16]}}}})
    changed = read_experiment("tiny", {"model.family": "hcat"})
    own = find_space(None, "tiny", changed)
    assert own.stem == "tiny" and space_line(own, "tiny", changed) == f"the space searched is {own}"


def test_a_family_without_any_space_is_told_so(stage):
    stage.yaml("hpo/tiny.yaml", {"space": {"model": {"num_fusion_layers": {"int": [1, 2]}}}})
    changed = read_experiment("tiny", {"model.family": "sensor_fusion"})
    with pytest.raises(
        ConfigError, match=r"hpo/: expected a space of family sensor_fusion named tiny or sensor_fusion"
    ):
        find_space(None, "tiny", changed)


def test_a_setting_that_the_files_own_family_does_not_have_stays_a_mistake_of_the_space(stage):
    stage.yaml("hpo/tiny.yaml", {"space": {"model": {"imputer": {"choice": ["none", "vae"]}}}})
    assert find_space(None, "tiny", read_experiment("tiny")).stem == "tiny"


def test_an_experiment_without_a_space_gets_its_familys(stage):
    (stage.folder / "hpo/tiny.yaml").unlink()
    assert find_space(None, "tiny", read_experiment("tiny")).stem == "token_fusion"
