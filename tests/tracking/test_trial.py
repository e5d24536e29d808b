import io
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from plotly.offline import get_plotlyjs
from safetensors.torch import load as load_safetensors

from fusion_lab.tracking import attention as attention_files
from fusion_lab.tracking.split import read_facts
from fusion_lab.tracking.trial import (
    checkpoint_files,
    curve_metrics,
    fold_metrics,
    log_cross_validation,
    log_figures,
    summary_metrics,
)
from fusion_lab.training.results import Checkpoint

TASKS = {"death (5 y)": "death _5 y_", "grade": "grade"}
CALLS = ("create_run", "log_batch", "set_tag", "set_terminated", "log_artifact", "get_run", "search_runs", "log_metric")


def run_of(store, experiment, outcome, interactive=False, **options):
    with store.start_run(experiment, "trial") as run:
        log_cross_validation(run, outcome, **options)
        log_figures(run, outcome, interactive=interactive)
    store.flush()
    return run


def test_a_trial_shows_validation_scores_and_keeps_both_splits_in_the_file(store, experiment, make_outcome, artifact):
    outcome = make_outcome()
    run = run_of(store, experiment, outcome)
    data = store.client.get_run(run.id).data
    assert not [name for name in data.metrics if "test" in name]
    assert data.metrics["fold3/val/death _5 y_/auroc"] == pytest.approx(0.63)
    assert data.metrics["val/auroc"] == pytest.approx(0.62)
    assert data.metrics["val/auroc_ci_low"] == pytest.approx(0.52)
    assert data.metrics["val/auroc_std"] == pytest.approx(np.std(0.6 + 0.01 * np.arange(5), ddof=1))
    assert "fold0/val/grade/brier" not in data.metrics
    assert data.params["model.d_model"] == "16"
    assert data.tags["notes"] == "A note."
    scores = artifact(run, "scores.csv").decode()
    assert "brier" in scores
    assert ",test," not in scores
    predictions = pd.read_parquet(io.BytesIO(artifact(run, "predictions.parquet")))
    assert set(predictions["split"]) == {"val", "test"}


def test_a_run_that_selects_nothing_shows_both(store, experiment, make_outcome, artifact):
    run = run_of(store, experiment, make_outcome(count=3, epochs=5), splits=("val", "test"))
    metrics = store.client.get_run(run.id).data.metrics
    assert metrics["test/auroc"] == pytest.approx(metrics["val/auroc"] + 0.1)
    assert ",test," in artifact(run, "scores.csv").decode()


def test_an_undefined_mean_is_no_number_and_has_the_pooled_score_beside_it(store, experiment, make_outcome, artifact):
    run = run_of(store, experiment, make_outcome(count=3, epochs=5))
    data = store.client.get_run(run.id).data
    assert "val/grade/ap" not in data.metrics
    assert "val/grade/ap_std" not in data.metrics
    assert data.metrics["val/grade/ap_pooled"] == 0.71
    assert data.tags["undefined"].split(", ") == ["fold1/val/grade/ap", "val/grade/ap"]


def test_files_of_a_trial(store, experiment, make_outcome, artifact):
    outcome = make_outcome(count=3, epochs=5)
    run = run_of(store, experiment, outcome, keep_checkpoints=True)
    assert yaml.safe_load(artifact(run, "config.yaml")) == outcome.config
    assert artifact(run, "curves.png").startswith(b"\x89PNG")
    curves = json.loads(artifact(run, "curves.json"))
    assert [f["history"] for f in curves["folds"]] == [list(map(dict, f.history)) for f in outcome.result.folds]
    assert artifact(run, "attention/modalities_ last layer.png").startswith(b"\x89PNG")
    attention = json.loads(artifact(run, "attention/modalities_ last layer.json"))
    assert [p["name"] for p in attention["panels"]] == ["all rows", "alive", "died"]
    assert np.allclose(attention["panels"][0]["mean"], outcome.result.maps[0].values.mean(0))
    table = pd.read_parquet(io.BytesIO(artifact(run, "attention/modalities_ last layer.parquet")))
    assert table["weight"].tolist() == outcome.result.maps[0].values.ravel().tolist()
    assert attention["weights_of_every_row"] is True
    weights = load_safetensors(artifact(run, "checkpoints/fold2.safetensors"))
    for name, tensor in outcome.result.folds[2].weights.items():
        assert weights[name].equal(tensor)
    assert json.loads(artifact(run, "checkpoints/fold2.json"))["best_epoch"] == 2
    assert {a.path for a in store.client.list_artifacts(run.id)} == {
        *("attention", "checkpoints", "config.yaml", "curves.json", "curves.png", "predictions.parquet", "scores.csv"),
        "folds.json",
    }
    assert read_facts(artifact(run, "folds.json")) == outcome.folds


def test_checkpoints_beside_the_restored_one_lie_in_folders_of_their_names(store, experiment, make_outcome, artifact):
    outcome = make_outcome(count=2, epochs=5)
    own = {
        name: Checkpoint(epoch, {"layer.weight": torch.full((2, 3), float(epoch))})
        for epoch, name in enumerate(("best_death (5 y)", "best_death /5 y/", "final"), 1)
    }
    folds = tuple(replace(fold, checkpoints=own, target_scale={"a": (1.0, 2.0)}) for fold in outcome.result.folds)
    result = replace(outcome.result, folds=folds)
    run = run_of(store, experiment, replace(outcome, result=result), keep_checkpoints=True)
    files = [file for file in checkpoint_files(folds) if file.name in own]
    assert len({file.path for file in files}) == len(own) * len(folds)
    for file in files:
        weights = load_safetensors(artifact(run, f"{file.path}.safetensors"))
        assert weights["layer.weight"].equal(own[file.name].weights["layer.weight"])
        told = json.loads(artifact(run, f"{file.path}.json"))
        assert (told["checkpoint"], told["best_epoch"]) == (file.name, own[file.name].epoch)
        beside = json.loads(artifact(run, f"checkpoints/fold{told['fold']}.json"))
        alike = ("fold", "name", "epochs", "ending", "target_scale")
        assert {name: told[name] for name in alike} == {name: beside[name] for name in alike}


def test_interactive_pages_carry_their_script_once_for_all_maps(store, experiment, make_outcome, artifact):
    outcome = make_outcome(count=3, epochs=5)
    weights = outcome.result.maps[0]
    result = replace(outcome.result, maps=(weights, replace(weights, name="again")))
    run = run_of(store, experiment, replace(outcome, result=result), interactive=True)
    for path in ("curves.html", "attention/attention.html"):
        page = artifact(run, path).decode()
        assert page.count(get_plotlyjs()) == 1
        assert "src=" not in page.replace(get_plotlyjs(), "")
    files = {a.path for a in store.client.list_artifacts(run.id, "attention")}
    names = ("modalities_ last layer", "again")
    assert files == {
        "attention/attention.html",
        *(f"attention/{name}.{end}" for name in names for end in ("png", "json", "parquet")),
    }


def test_a_trial_with_large_maps_keeps_means_unless_its_weights_are_kept(
    store, experiment, make_outcome, artifact, monkeypatch
):
    monkeypatch.setattr(attention_files, "MOST_BYTES", 10)
    for keep in (False, True):
        run = run_of(store, experiment, make_outcome(count=3, epochs=5), keep_checkpoints=keep)
        files = {a.path.rpartition(".")[2] for a in store.client.list_artifacts(run.id, "attention")}
        assert files == {"png", "json", *(["parquet"] if keep else [])}
        told = json.loads(artifact(run, "attention/modalities_ last layer.json"))["weights_of_every_row"]
        assert told is True if keep else told.startswith("not kept")


def test_a_trial_costs_few_calls_of_the_store(store, experiment, make_outcome, monkeypatch):
    calls: Counter[str] = Counter()

    def counted(name):
        original = getattr(MlflowClient, name)

        def call(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(MlflowClient, name, counted(name))
    run_of(store, experiment, make_outcome(count=5, epochs=50))
    files = calls.pop("log_artifact")
    assert files == 9
    assert calls == {"create_run": 1, "log_batch": 1, "set_terminated": 1}


def test_mean_curves_have_a_point_per_epoch(make_outcome, artifact):
    folds = make_outcome(count=3, epochs=6).result.folds
    points = list(curve_metrics(folds, TASKS))
    assert [epoch for epoch, _ in points] == [1, 2, 3, 4, 5, 6]
    first = points[0][1]
    assert first["curve/val/death _5 y_/auroc"] == pytest.approx(np.mean([0.601, 0.611, 0.621]))
    assert first["curve/val/auroc"] == pytest.approx((first["curve/val/death _5 y_/auroc"] + 0.501) / 2)
    carried = [f.history[f.best_epoch - 1]["val/loss"] for f in folds[1:]]
    assert points[5][1]["curve/val/loss"] == pytest.approx(np.mean([folds[0].history[5]["val/loss"], *carried]))


def test_metrics_of_folds_and_summary_keep_the_splits_apart(make_outcome, artifact):
    outcome = make_outcome(count=3)
    both = fold_metrics(outcome.scores, ("val", "test"), TASKS)
    assert len(both) == 2 * len(fold_metrics(outcome.scores, ("val",), TASKS))
    assert math.isnan(both["fold1/val/grade/ap"])
    summary = summary_metrics(outcome.summary, ("test",), TASKS)
    assert {name.split("/")[0] for name in summary} == {"test"}
