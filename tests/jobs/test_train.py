"""What `train` says of its tables, and the weights and the summary that it leaves in its run."""

import json

import numpy as np
import pytest
from jobs_stage import TINY, artifact_folder
from safetensors.torch import load_file

from fusion_lab.cli import main
from fusion_lab.config import load_yaml
from fusion_lab.experiment import override, resolve
from fusion_lab.jobs.train import title

SAME = ("restored", "best_mean")
"""Two names of one fold's weights, where the best epoch is restored."""


def test_folds_that_keep_their_last_epoch_were_not_stopped_by_validation_rows():
    best, last = (
        resolve(override({"name": "tiny", **TINY}, {"training.restore": which}), "tiny") for which in ("best", "last")
    )
    assert "folds were stopped" in title("val", best)
    assert "stopped" not in title("val", last)
    assert title("test", best) == title("test", last)


@pytest.fixture
def two_tasks(stage):
    tasks = {"death": {"kind": "binary"}, "grade": {"kind": "multiclass", "classes": 3}}
    restarts = {"schedule": "warm_restarts", "restart_epochs": 2}
    stage.experiment("tiny", TINY, data__tasks=tasks, training__checkpoints="all", optimiser=restarts)


def test_a_run_has_the_checkpoints_and_the_summary_of_its_training(stage, two_tasks):
    assert main(["train", "--experiment=tiny"]) == 0
    (run,) = stage.of_kind("train")
    folder = artifact_folder(run)
    told = json.loads((folder / "training_summary.json").read_text())
    assert told["checkpoints"].keys() == {"restored", "best_death", "best_grade", "best_mean", "final"}
    files = {line["file"] for of_fold in told["checkpoints"].values() for line in of_fold.values()}
    assert files == {file for file in stage.artifacts(run) if file.endswith(".safetensors")}
    assert len(files) == 5 * len(told["folds"])
    for task in ("death", "grade"):
        for line in told["best"]["tasks"][task]["folds"]:
            assert told["checkpoints"][f"best_{task}"][line["fold"]]["epoch"] == line["epoch"]
    for fold in told["folds"]:
        restored, same = (load_file(folder / told["checkpoints"][n][fold["name"]]["file"]) for n in SAME)
        assert all(weights.equal(same[name]) for name, weights in restored.items())
        assert told["checkpoints"]["final"][fold["name"]]["epoch"] == fold["epochs"] == len(fold["history"])
        assert [row["lr"] for row in fold["history"]][::2] == [told["config"]["optimiser"]["lr"]] * 2
    assert told["config"] == load_yaml(folder / "config.yaml")
    assert told["rows"] == TINY["data"]["rows"]
    assert told["parameters"] == run.data.metrics["parameters"]
    restored = told["restored"]["tasks"]["death"]
    assert restored["mean"] == pytest.approx(run.data.metrics["val/death/auroc"])
    np.testing.assert_allclose(
        [line["value"] for line in restored["folds"]],
        [run.data.metrics[f"fold{k}/val/death/auroc"] for k in range(len(restored["folds"]))],
    )
