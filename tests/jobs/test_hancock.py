"""The head-and-neck cohort, from the search to its best configuration: on a miniature, and on the cohort itself."""

from pathlib import Path

import pytest
from data_miniature import write_miniature
from jobs_stage import PROJECT

from fusion_lab.cli import main

COHORT = PROJECT.parent / "shared" / "data" / "clinical_hancock"
PLACES = ["miniature", *(["cohort"] if COHORT.is_dir() else [])]
"""The cohort is not part of the project: it is used wherever it lies beside the checkout."""


@pytest.fixture(params=PLACES)
def folder(request, tmp_path) -> Path:
    if request.param == "cohort":
        return COHORT
    write_miniature(tmp_path / "miniature")
    return tmp_path / "miniature"


@pytest.mark.slow
def test_the_cohort_is_searched_and_its_best_configuration_trained(stage, capsys, folder):
    quick = "--set=training.epochs=2"
    assert main(["hpo", "--experiment=hancock", f"--data={folder}", "--trials=2", quick]) == 0
    shown = capsys.readouterr().out
    assert "13 modalities" in shown
    assert "death_5y, recurrence_2y" in shown
    (study,) = stage.studies()
    trials = stage.of_kind("trial")
    for name in ("val/death_5y/auroc", "val/recurrence_2y/ap", "fold4/val/recurrence_2y/f1"):
        assert all(0 <= run.data.metrics[name] <= 1 for run in trials)
    assert any("single:tma_CD163" in run.info.run_name for run in stage.of_kind("baseline"))
    assert main(["train", f"--experiment={study}/best.yaml", f"--data={folder}", "--set=baselines=false"]) == 0
    (trained,) = stage.of_kind("train")
    assert trained.data.metrics["objective"] == max(run.data.metrics["objective"] for run in trials)
    assert not stage.running()
