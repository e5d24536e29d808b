"""What a search and a training leave in the registry, also when they are interrupted or go on elsewhere."""

import shutil

import pytest
from jobs_stage import SPACE, Stage
from mlflow import MlflowClient

from fusion_lab.cli import main
from fusion_lab.tracking.registry import Registry

HPO = ["hpo", "--experiment=tiny"]
FOLDS = ["tiny fold 0", "tiny fold 1", "tiny fold 2"]


def models(client: MlflowClient) -> list[str]:
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    return sorted(model.name for model in client.search_logged_models(places))


@pytest.mark.slow
def test_the_best_trials_checkpoints_and_the_final_model_are_ranked_by_their_scores(stage):
    assert main(HPO) == 0
    assert models(stage.client) == ["tiny", *FOLDS]
    places = [experiment.experiment_id for experiment in stage.client.search_experiments()]
    found = {model.name: model for model in stage.client.search_logged_models(places)}
    (parent,) = stage.of_kind("study")
    scores = {m.key: m.value for m in found["tiny"].metrics}
    assert scores["val/auroc"] == pytest.approx(parent.data.metrics["val/auroc"])
    assert scores["test_selected/auroc"] == pytest.approx(parent.data.metrics["test_selected/auroc"])
    best = next(r for r in stage.of_kind("trial") if r.info.run_id == found["tiny fold 0"].source_run_id)
    for k in range(3):
        linked = {m.key: m.value for m in found[f"tiny fold {k}"].metrics}
        assert linked["checkpoint/val/auroc"] == pytest.approx(best.data.metrics[f"fold{k}/val/auroc"])
    assert best.data.metrics["val/auroc"] == pytest.approx(parent.data.metrics["val/auroc"])
    version = stage.client.get_model_version_by_alias("tiny", "challenger")
    assert version.tags["selected by"] == parent.data.params["study"] and "optimistic" in version.description
    assert version.run_id == parent.info.run_id


@pytest.mark.slow
def test_the_same_search_again_registers_nothing_twice(stage, capsys):
    assert main(HPO) == main(HPO) == 0
    assert "tiny version 1 is this very model" in capsys.readouterr().out
    assert models(stage.client) == ["tiny", *FOLDS]


@pytest.mark.slow
def test_a_search_that_is_to_keep_more_than_it_kept_goes_on(stage):
    assert main(HPO) == 0
    stage.yaml("hpo/tiny.yaml", SPACE, keep="top-3")
    assert main(HPO) == 0
    assert models(stage.client) == ["tiny", *FOLDS]


@pytest.mark.slow
def test_a_search_that_kept_no_weights_says_what_registers_them(stage, capsys):
    stage.yaml("hpo/tiny.yaml", SPACE, keep="none")
    assert main(HPO) == 0
    out = capsys.readouterr().out
    assert "nothing is registered" in out and "fusion-lab train --experiment studies/" in out
    (study,) = stage.studies()
    assert main(["train", f"--experiment={study}/best.yaml"]) == 0
    assert stage.client.get_model_version_by_alias("tiny", "challenger").tags["selected by"] == study.name


@pytest.mark.slow
def test_a_search_that_goes_on_against_another_store_registers_there(stage, empty_store, tmp_path, capsys):
    assert main(HPO) == 0
    shutil.copytree(empty_store, tmp_path / "other")
    uri = f"sqlite:///{tmp_path}/other/mlflow.db"
    assert main([*HPO, f"--tracking-uri={uri}"]) == 0
    assert f"--tracking-uri {uri}" in capsys.readouterr().out.split("promote it: ")[-1]
    assert "challenger" in MlflowClient(uri).get_registered_model("tiny").aliases


@pytest.mark.slow
def test_what_was_interrupted_while_it_was_stored_is_completed(stage, monkeypatch):
    log_model, calls = Registry.log_model, []

    def interrupted(self, run, name, *rest, **options):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return log_model(self, run, name, *rest, **options)

    monkeypatch.setattr(Registry, "log_model", interrupted)
    assert main(HPO) == 130
    assert models(stage.client) == FOLDS[:1]
    assert main(HPO) == 0
    assert models(stage.client) == ["tiny", *FOLDS]


@pytest.mark.parametrize("final", ["ensemble", pytest.param("refit", marks=pytest.mark.slow)])
def test_training_registers_what_the_experiment_asks_for(stage: Stage, final, capsys):
    stage.experiment(final=final, name="cohort a")
    assert main(["train", "--experiment=tiny", "--seed=4"]) == 0
    out = capsys.readouterr().out
    assert "fusion-lab promote --experiment tiny" in out
    assert ("refit on all development rows" in out) == (final == "refit")
    version = stage.client.get_model_version_by_alias("cohort a", "challenger")
    assert "temperature" in version.description and "threshold" in version.description
