"""Locked rows are scored by the final model, once it is made, as scikit-learn scores its answers."""

import json

import numpy as np
import pytest
from jobs_stage import TINY, artifact_folder
from sklearn.metrics import average_precision_score, roc_auc_score

from fusion_lab.cli import main
from fusion_lab.tracking.predictions import read_predictions

TASKS = {"common": {}, "rare": {"prevalence": 0.3}, "value": {"kind": "regression", "auxiliary": "help"}}


@pytest.mark.parametrize("final", ["refit", pytest.param("ensemble", marks=pytest.mark.slow)])
def test_locked_rows_are_scored_by_the_final_model(stage, capsys, final):
    data = {**TINY["data"], "rows": 150, "tasks": TASKS}
    stage.experiment("tiny", {**TINY, "data": data, "final": final}, folds__holdout=0.4)
    assert main(["train", "--experiment=tiny"]) == 0
    shown = capsys.readouterr().out
    (run,) = stage.of_kind("train")
    folder = artifact_folder(run)
    told = json.loads((folder / "locked" / "scores.json").read_text())
    table = read_predictions(folder / "locked" / "predictions.parquet").to_pandas()
    assert told["rows"] == 60 and f"60 locked rows, scored by the final model ({final}):" in shown
    for task in ("common", "rare"):
        own = table[(table["task"] == task) & table["known"]]
        label = (own["target"] == "yes").to_numpy() if own["target"].dtype == object else own["target"].to_numpy()
        for metric, reference in (("auroc", roc_auc_score), ("ap", average_precision_score)):
            expected = reference(label, own["score"])
            assert told["tasks"][task][metric]["value"] == pytest.approx(expected, abs=1e-6)
            assert run.data.metrics[f"locked/{task}/{metric}"] == pytest.approx(expected, abs=1e-6)
        assert told["tasks"][task]["share"]["yes"] == pytest.approx(np.mean(label))
    both = [told["tasks"][task]["ap"]["value"] for task in ("common", "rare")]
    assert run.data.metrics["locked/ap"] == pytest.approx(np.mean(both))
    assert run.data.metrics["locked/min_ap"] == pytest.approx(min(both))
    assert run.data.metrics["locked/value/r2"] == pytest.approx(told["tasks"]["value"]["r2"]["value"])
    assert "locked/r2" not in run.data.metrics


@pytest.mark.slow
def test_without_locked_rows_nothing_is_said_of_them(stage, capsys):
    assert main(["train", "--experiment=tiny"]) == 0
    assert "locked" not in capsys.readouterr().out
