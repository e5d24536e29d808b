"""An evaluation from a trained configuration to the files and metrics of its run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluation_material import CONFIG, TASKS, evaluated, made
from jobs_stage import Stage
from PIL import Image

from fusion_lab.evaluation.folds import score_folds
from fusion_lab.evaluation.recordings import by_recording
from fusion_lab.evaluation.settings import EvaluationConfig

FILES = {
    *("calibration.json", "calibration.png", "missing_modality.json", "missing_modality.png"),
    *("results.json", "rows.csv"),
}
WITH_DROPOUT, WITH_GROUPS = {"uncertainty.json", "uncertainty.parquet"}, {"groups.csv"}


@pytest.fixture(scope="module")
def trained():
    return made()


@pytest.fixture(scope="module")
def left(trained, tmp_path_factory, empty_store):
    """Shared by tests that only read."""
    stage = Stage.set_up(tmp_path_factory.mktemp("evaluated") / "work", empty_store)
    with pytest.MonkeyPatch.context() as patch:
        stage.enter(patch, figures=True)
        return evaluated(stage, *trained)


def test_everything_is_there_and_readable(left, trained):
    assert left.files == FILES | WITH_DROPOUT | WITH_GROUPS
    for name in ("calibration.png", "missing_modality.png"):
        picture = np.asarray(Image.open(left.folder / name).convert("L"))
        assert (picture < 200).sum() > 500
    results = left.json("results.json")
    assert set(results["tasks"]) == set(TASKS)
    assert (results["family"], results["data"]["domain"], results["selected"]) == ("token_fusion", "synthetic", None)
    assert results["latency"]["rows"] == CONFIG.latency_rows
    assert set(results["tasks"]["outcome"]["temperature"]) == set(trained[1].folds.names)
    rows = pd.read_parquet(left.folder / "uncertainty.parquet")
    predictions = trained[0].predictions.of("test")
    assert len(rows) == len(TASKS) * len(predictions.row)
    assert rows.groupby("task")["std"].count().to_dict() == {
        "dose": len(predictions.row),
        "grade": 0,
        "outcome": len(predictions.row),
    }
    assert (rows["mutual_information"].dropna() >= 0).all()
    known = rows[rows["task"] == "dose"].set_index("id")["target"].notna()
    ids = trained[1].dataset.ids[predictions.row]
    assert known.loc[ids].tolist() == predictions.known["dose"].tolist()


def test_scores_are_those_of_the_predictions(left, trained):
    results, pooled = left.json("results.json"), score_folds(trained[0].predictions, trained[1].spec).pooled
    pooled = pooled[pooled["split"] == "test"].set_index(["task", "metric"])["pooled"]
    for task, of in results["tasks"].items():
        names = {"nll": "log_loss"}
        for metric in set(of) & {"accuracy", "f1", "auroc", "nll", "ece", "mce", "r2", "mae"}:
            assert of[metric] == pytest.approx(pooled[task, names.get(metric, metric)]), (task, metric)
    assert left.metrics["evaluation/outcome/ece"] == pytest.approx(results["tasks"]["outcome"]["ece"])
    assert left.metrics["evaluation/grade/nll_calibrated"] == results["tasks"]["grade"]["nll_calibrated"]
    whole = left.json("missing_modality.json")["full_modalities"]["tasks"]["outcome"]
    assert whole["accuracy"]["pooled"] == pytest.approx(results["tasks"]["outcome"]["accuracy"])


def test_scores_of_passes_with_dropout_are_those_of_their_mean(left):
    rows = pd.read_parquet(left.folder / "uncertainty.parquet").dropna(subset="target")
    for task, metric in (("dose", "mae"), ("grade", "accuracy")):
        own, told = rows[rows["task"] == task], left.json("uncertainty.json")["tasks"][task]
        error = (own["predicted"] - own["target"]).abs()
        expected = error.mean() if metric == "mae" else (error == 0).mean()
        assert told["mean"][metric] == pytest.approx(expected)
        whole = left.json("results.json")["tasks"][task][metric]
        assert told["deterministic"][metric] == pytest.approx(whole)
    assert told["errors"]["wrong"] == (error > 0).sum()


def test_every_subset_is_scored_and_modalities_are_named(left, trained):
    payload = left.json("missing_modality.json")
    names = [m.name for m in trained[1].spec.modalities]
    assert payload["modalities"] == payload["full_modalities"]["modalities"] == names
    assert len(payload["all_combinations"]) == 2 ** len(names) - 1
    assert set(payload["single_modalities"]) == set(names)
    for task in TASKS:
        assert sum(map(abs, payload["modality_importance"][task].values())) == pytest.approx(1)


def test_recordings_are_scored_as_rows_are(left, trained):
    of, materials = trained
    told, _ = by_recording(of.predictions, materials.dataset.recording)
    scores = score_folds(told, materials.spec, ("test",))
    table, pooled = scores.table, scores.pooled.set_index(["task", "metric"])["pooled"]
    for task, told_of in left.json("results.json")["recordings"].items():  # thresholds are those of recordings too
        for metric in set(told_of) & {"accuracy", "f1", "auroc", "mae"}:
            assert told_of[metric] == pytest.approx(pooled[task, metric]), (task, metric)
    for task in ("outcome", "dose"):
        metric = "mae" if task == "dose" else "accuracy"
        values = table[(table["task"] == task) & (table["metric"] == metric)]["value"]
        if values.notna().all():
            assert left.metrics[f"recordings/test/{task}/{metric}"] == pytest.approx(values.mean())
    test = told.of("test")  # a recording of two folds, or of two repeats, is one
    labelled = set(test.row[test.known["outcome"]].tolist())
    assert (
        left.json("results.json")["recordings"]["outcome"]["recordings"] == len(labelled) < test.known["outcome"].sum()
    )
    assert any(line.startswith("note: ") and "different labels" in line for line in left.lines)
    groups = pd.read_csv(left.folder / "groups.csv")
    assert set(groups["task"]) == set(TASKS)
    assert groups.groupby("task")["rows"].sum()["outcome"] == of.predictions.of("test").known["outcome"].sum()


def test_the_same_weights_give_the_same_files(left, stage, trained):
    first, second = left, evaluated(stage, *trained)
    for name in {"calibration.json", "missing_modality.json", "rows.csv"} | WITH_DROPOUT | WITH_GROUPS:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name
    timed = {"evaluation/latency_ms", "evaluation/rows_per_second"}
    assert {k: v for k, v in first.metrics.items() if k not in timed} == {
        k: v for k, v in second.metrics.items() if k not in timed
    }


def test_optimistic_scores_stand_under_a_name_of_their_own(stage, trained):
    chosen = replace(trained[0], experiment=trained[0].experiment.model_copy(update={"selected": "study x"}))
    left = evaluated(stage, chosen, trained[1])
    clean = [name for name in left.metrics if name.startswith(("evaluation/", "recordings/test/"))]
    assert set(clean) == {"evaluation/latency_ms", "evaluation/rows_per_second"}
    assert "evaluation_selected/outcome/ece" in left.metrics
    assert left.json("results.json")["selected"] == "study x"


def test_what_is_switched_off_or_not_there_is_left_out(stage):
    config = EvaluationConfig(mc_samples=0, latency_rows=0, most_subsets=2)
    left = evaluated(stage, *made({"data.tasks": {"dose": {"kind": "regression"}}}, recordings=False), config)
    assert left.files == {"missing_modality.json", "missing_modality.png", "results.json", "rows.csv"}
    assert len(left.json("missing_modality.json")["all_combinations"]) == 2
    assert not any("latency" in line or "MC dropout" in line or "recordings" in line for line in left.lines)


def test_a_model_without_dropout_says_so(stage):
    left = evaluated(stage, *made({"model.dropout": 0.0}, recordings=False))
    assert not left.files & WITH_DROPOUT
    assert sum("no dropout" in line for line in left.lines) == 1


def test_tasks_per_step_are_evaluated(stage):
    changes = {
        "data.modalities": {"s": {"kind": "sequence", "width": 2, "length": 3}, "v": {"width": 2}},
        "data.tasks": {
            "phase": {"kind": "multiclass", "per_step": True},
            "pace": {"kind": "regression", "per_step": True},
        },
    }
    of, materials = made(changes)
    left = evaluated(stage, of, materials)
    assert left.files == FILES | WITH_DROPOUT | WITH_GROUPS
    test = of.predictions.of("test")
    rows = pd.read_parquet(left.folder / "uncertainty.parquet")
    assert len(rows) == 2 * test.known["phase"].size
    assert set(rows["step"]) == {0, 1, 2}
    bins = left.json("calibration.json")["tasks"]["phase"]["before"]["bins"]
    assert sum(bins["count"]) == test.known["phase"].sum()
