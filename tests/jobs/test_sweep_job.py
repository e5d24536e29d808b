"""A sweep from its file to its page: finished, interrupted, continued, with gaps."""

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from jobs_stage import BLANK, TINY, Stage, at_epoch, refused

from fusion_lab.contracts import UserError
from fusion_lab.evaluation.predictions import load_predictions
from fusion_lab.experiment import read_experiment
from fusion_lab.jobs import compare, crossval, sweep, train
from fusion_lab.search.lock import locked
from fusion_lab.search.sweep import sweep_name
from fusion_lab.tracking.predictions import read_predictions
from fusion_lab.tracking.split import read_facts
from fusion_lab.training import Diverged

GROUPS = {
    "fusion": {"model.fusion": ["transformer", "gated"]},
    "size": {"model.d_model": [8, 16], "model.dropout": 0.1},
}
QUICK = {"model__dropout": 0.1, "training__mode": "loop", "training__epochs": 2}
NAMES = {"fusion": ("fusion=transformer", "fusion=gated"), "size": ("d_model=8", "d_model=16")}
LABELS = [name for names in NAMES.values() for name in names]


@pytest.fixture
def swept(stage, monkeypatch) -> Stage:
    """A stage with a sweep of 2 x 2 cells: ``fusion=transformer`` and ``d_model=8`` are the experiment as it is."""
    monkeypatch.setattr("fusion_lab.jobs.comparing.comparison_png", lambda report: b"")
    stage.experiment("tiny", TINY, **QUICK)
    stage.yaml("experiments/sweeps/tiny.yaml", {"experiment": "tiny", "cells": GROUPS})
    return stage


def folder_of(stage):
    (folder,) = stage.studies()
    return folder


def scores_of(report):
    return {s.name: s.folds for s in report.comparison.standings if s.split == "test"}


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_sweep_from_end_to_end(swept, capsys, monkeypatch):
    result = sweep.run("tiny")
    assert result.exit_code == 0 and result.missing == ()
    out = capsys.readouterr().out
    assert (
        "cell 4/4 d_model=16  val AUROC 0." in out
        and "cell 3/4 d_model=8: same configuration as fusion=transformer" in out
    )
    (parent,) = swept.of_kind("sweep")
    cells = swept.of_kind("cell")
    assert [run.info.run_name for run in cells] == LABELS
    assert {run.data.tags["mlflow.parentRunId"] for run in cells} == {parent.info.run_id}
    assert {run.info.status for run in swept.runs()} == {"FINISHED"}
    assert [run.data.tags["fusion_lab.group"] for run in cells] == ["fusion", "fusion", "size", "size"]
    assert cells[2].data.tags["fusion_lab.same_as"] == "fusion=transformer"
    assert {"comparison.html", "comparison.png", "comparison.csv", "comparison.json"} <= swept.artifacts(parent)
    for run in cells:
        files = swept.artifacts(run)
        assert {"predictions.parquet", "folds.json", "config.yaml", "scores.csv"} <= files
        assert not any(file.startswith("checkpoints") for file in files)
        assert ("curves.json" in files) == (run.info.run_name != "d_model=8")
        assert {"test/auroc", "val/auroc", "fold2/test/outcome/auroc", "parameters"} <= set(run.data.metrics)
    assert cells[0].data.metrics["test/auroc"] == cells[2].data.metrics["test/auroc"]
    best = max(cells, key=lambda run: run.data.metrics["objective"])
    assert parent.data.metrics["objective"] == pytest.approx(best.data.metrics["objective"])
    assert parent.data.metrics["cells_finished"] == len(LABELS)
    for run in cells:
        story = run.data.tags["mlflow.note.content"]
        assert f"Cell {run.info.run_name} of sweep" in story and "config.yaml" in story
        assert ("The same configuration as" in story) == (run.info.run_name == "d_model=8")
    assert swept.halves() == []
    check_tables(folder_of(swept))
    assert result.report.entries == ["fusion=transformer", "fusion=gated", "d_model=16"]  # equal cells are one
    monkeypatch.setattr(sweep, "cross_validate_in", None)  # the same command computes nothing twice
    again = sweep.run("tiny")
    assert "continues after 4 cells" in capsys.readouterr().out
    assert scores_of(again.report) == scores_of(result.report)
    assert len(swept.of_kind("cell")) == 4


def check_tables(folder):
    told = json.loads((folder / "comparison.json").read_text())
    assert told["reference"] == "fusion=transformer"  # the experiment as it is
    assert list(told["results"]) == LABELS and told["results"]["d_model=8"]["same_as"] == "fusion=transformer"
    table = pd.read_csv(folder / "comparison.csv")
    assert list(dict.fromkeys(table["name"])) == LABELS
    gated = table[(table["name"] == "fusion=gated") & (table["metric"] == "auroc")].iloc[0]
    contrast = next(c for c in told["contrasts"] if (c["name"], c["metric"]) == ("fusion=gated", "auroc"))
    assert gated["difference"] == contrast["difference"] == pytest.approx(contrast["ours"] - contrast["theirs"])
    page = (folder / "comparison.html").read_text()
    assert "optimistic" in page and "same configuration as fusion=transformer" in page


@pytest.mark.slow
def test_a_cell_is_what_train_computes(swept):
    sweep.run("tiny")
    trained = train.run("tiny", set="model.fusion=gated").predictions
    (file,) = folder_of(swept).glob("fusion/fusion=gated/predictions.npz")
    found = load_predictions(file)
    for task, scores in trained.score.items():
        assert found.score[task].tobytes() == scores.tobytes()


@pytest.mark.slow
def test_runs_say_how_their_rows_were_split(swept):
    swept.experiment("tiny", TINY, **{**QUICK, "baselines": True})
    result = sweep.run("tiny")
    assert "trees" in [line.name for line in result.report.lines if line.kind == "baseline"]
    facts = set()
    for run in [*swept.of_kind("cell"), *swept.of_kind("baseline")]:
        folder = swept.client.download_artifacts(run.info.run_id, "")
        facts.add(read_facts(Path(folder, "folds.json").read_bytes()))
        table = read_predictions(Path(folder, "predictions.parquet"))
        assert {"group", "recording"} <= set(table.column_names)
    (told,) = facts
    assert told.names == ("fold 0", "fold 1", "fold 2") and sum(told.test) == 60 and told.seed == 0


@pytest.mark.slow
def test_cells_are_told_again_to_a_store_that_does_not_know_them(swept, monkeypatch, empty_store, tmp_path):
    first = sweep.run("tiny")
    other = Stage.set_up(tmp_path / "other", empty_store)
    monkeypatch.setattr("fusion_lab.jobs.sweep.cross_validate_in", None)
    again = sweep.run("tiny", tracking_uri=other.uri)
    assert scores_of(again.report) == scores_of(first.report)
    metrics = [{r.info.run_name: r.data.metrics["test/auroc"] for r in s.of_kind("cell")} for s in (swept, other)]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_a_sweep_continues_in_the_middle_of_a_cell(swept, monkeypatch, capsys, empty_store, tmp_path):
    with monkeypatch.context() as patch:
        at_epoch(patch, "cell 2/4 fusion=gated", 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            sweep.run("tiny")
    assert swept.running() == []
    assert [run.info.status for run in swept.of_kind("cell")] == ["FINISHED", "KILLED"]
    assert list(folder_of(swept).rglob("training-*.safetensors"))
    capsys.readouterr()
    continued = sweep.run("tiny")
    out = capsys.readouterr().out
    assert "cell 1/4 fusion=transformer: finished before" in out and "continues from" in out
    assert not list(folder_of(swept).rglob("training-*.safetensors"))
    straight = Stage.set_up(tmp_path / "straight", empty_store)
    monkeypatch.chdir(straight.folder)
    straight.experiment("tiny", TINY, **QUICK)
    straight.yaml("experiments/sweeps/tiny.yaml", {"experiment": "tiny", "cells": GROUPS})
    assert scores_of(continued.report) == scores_of(sweep.run("tiny", tracking_uri=straight.uri).report)


@pytest.mark.slow
def test_an_interruption_lets_the_figures_of_finished_cells_be_drawn(swept, monkeypatch):
    ended = []

    def draw(process, *request):
        time.sleep(0.5)
        assert not ended, "the process that draws has ended"
        return BLANK

    monkeypatch.setattr(sweep.DrawingProcess, "draw", draw)
    monkeypatch.setattr(sweep.DrawingProcess, "close", lambda process: ended.append(True))
    at_epoch(monkeypatch, "cell 2/4 fusion=gated", 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep.run("tiny")
    finished, killed = swept.of_kind("cell")
    assert (finished.info.status, killed.info.status) == ("FINISHED", "KILLED") and ended
    assert "curves.png" in swept.artifacts(finished)


def diverge_at(monkeypatch, *labels):
    original = sweep.cross_validate_in

    def diverge(run, chosen, materials, name, *rest):
        if any(name.endswith(label) for label in labels):
            raise Diverged("fold 0: the training loss of epoch 1 is nan")
        return original(run, chosen, materials, name, *rest)

    monkeypatch.setattr(sweep, "cross_validate_in", diverge)


def test_a_cell_that_fails_leaves_a_gap_and_the_others_go_on(swept, monkeypatch, capsys):
    diverge_at(monkeypatch, "fusion=gated")
    result = sweep.run("tiny")
    assert result.exit_code == 1 and result.missing == ("fusion: fusion=gated",)
    out = capsys.readouterr().out
    assert out.rstrip().splitlines()[-1].startswith("missing 1 of 4 cells: fusion: fusion=gated")
    statuses = {run.info.run_name: run.info.status for run in swept.of_kind("cell")}
    assert statuses == {name: "FAILED" if name == "fusion=gated" else "FINISHED" for name in LABELS}
    (parent,) = swept.of_kind("sweep")
    assert parent.info.status == "FAILED" and "fusion=gated" in parent.data.tags["failure"]
    page = (folder_of(swept) / "comparison.html").read_text()
    assert "missing: fold 0: the training loss" in page
    told = json.loads((folder_of(swept) / "comparison.json").read_text())
    assert "loss" in told["results"]["fusion=gated"]["missing"]


@pytest.mark.slow
def test_the_same_command_tries_a_missing_cell_again(swept, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        diverge_at(patch, "fusion=gated")
        assert sweep.run("tiny").exit_code == 1
    capsys.readouterr()
    assert sweep.run("tiny").exit_code == 0
    assert capsys.readouterr().out.count("finished before") == 2


@pytest.mark.slow
def test_a_reference_that_is_missing_is_replaced_and_that_is_said(swept, monkeypatch):
    diverge_at(monkeypatch, "fusion=transformer")
    result = sweep.run("tiny")
    assert result.missing == ("fusion: fusion=transformer", "size: d_model=8")  # the same configuration
    assert result.report.comparison.reference == "fusion=gated"
    assert any("was to be the reference" in note for note in result.report.notes)


def test_a_sweep_without_a_finished_cell_still_has_its_page(swept, monkeypatch):
    diverge_at(monkeypatch, *LABELS)
    assert sweep.run("tiny").exit_code == 1
    assert "No configuration was finished" in (folder_of(swept) / "comparison.html").read_text()


@pytest.mark.slow
def test_the_file_may_name_the_reference(swept):
    swept.yaml("experiments/sweeps/tiny.yaml", {"cells": GROUPS, "reference": "size/d_model=16"})
    result = sweep.run("tiny")
    assert result.report.comparison.reference == "d_model=16"
    (tagged,) = [run for run in swept.of_kind("cell") if run.data.tags.get("fusion_lab.reference") == "true"]
    assert tagged.info.run_name == "d_model=16"
    assert compare.run("sweep:tiny").comparison.reference == "d_model=16"


@pytest.mark.slow
def test_a_deleted_run_is_made_again_and_only_one_cell_is_the_reference(swept, monkeypatch):
    first = sweep.run("tiny")
    monkeypatch.setattr("fusion_lab.jobs.sweep.cross_validate_in", None)
    gone = next(run for run in swept.of_kind("cell") if run.info.run_name == "fusion=transformer")
    swept.client.delete_run(gone.info.run_id)
    assert scores_of(sweep.run("tiny").report) == scores_of(first.report)
    assert sorted(run.info.run_name for run in swept.of_kind("cell")) == sorted(LABELS)
    swept.yaml("experiments/sweeps/tiny.yaml", {"cells": GROUPS, "reference": "d_model=16"})
    sweep.run("tiny")
    tagged = [r.info.run_name for r in swept.of_kind("cell") if r.data.tags.get("fusion_lab.reference") == "true"]
    assert tagged == ["d_model=16"]
    assert compare.run("sweep:tiny").comparison.reference == "d_model=16"


@pytest.mark.slow
def test_baselines_of_other_data_are_told_too_and_a_kill_leaves_none_out(swept, monkeypatch):
    swept.experiment("tiny", TINY, **{**QUICK, "baselines": True})
    swept.yaml("experiments/sweeps/tiny.yaml", {"cells": {"one": {"model.dropout": [0.1]}}})
    sweep.run("tiny")
    count = len(swept.of_kind("baseline"))
    swept.client.delete_run(swept.of_kind("baseline")[0].info.run_id)  # as if a kill had come before it
    sweep.run("tiny")
    assert len(swept.of_kind("baseline")) == count
    monkeypatch.setattr("fusion_lab.jobs.sweep._identity", lambda materials: "of other rows")
    sweep.run("tiny")
    assert len(swept.of_kind("baseline")) == 2 * count


@pytest.mark.slow
def test_what_a_search_chose_stays_marked_as_optimistic(swept):
    swept.experiment("tiny", TINY, **{**QUICK, "selected": "tiny-0123abcd"})
    result = sweep.run("tiny")
    assert any("was chosen by study tiny-0123abcd" in note for note in result.report.notes)
    for run in swept.of_kind("cell"):  # one of them is another's double, which was not trained
        names = {name for name in run.data.metrics if "test" in name}
        assert names and all("test_selected/" in name for name in names), run.info.run_name


@pytest.mark.slow
def test_a_cell_that_is_added_finds_the_others_done(swept, capsys):
    sweep.run("tiny")
    more = {**GROUPS, "size": {"model.d_model": [8, 16, 32], "model.dropout": 0.1}}
    swept.yaml("experiments/sweeps/tiny.yaml", {"cells": more})
    capsys.readouterr()
    sweep.run("tiny")
    assert capsys.readouterr().out.count("finished before") == 3
    assert len(swept.studies()) == 1


@pytest.mark.slow
def test_data_that_changed_is_computed_anew(swept, capsys):
    sweep.run("tiny")
    cells = folder_of(swept)
    for file in cells.rglob("result.json"):
        told = json.loads(file.read_text())
        file.write_text(json.dumps({**told, "fingerprint": "of other data"}))
    capsys.readouterr()
    sweep.run("tiny")
    assert "finished before" not in capsys.readouterr().out


def test_materials_are_loaded_once_and_freed(swept, monkeypatch):
    loads, held = [], []
    original = sweep.Shelf.release

    def release(shelf, experiment):
        original(shelf, experiment)
        held.append(len(shelf._loaded))

    load = crossval.Materials.load.__func__

    def counted(cls, experiment):
        loads.append(experiment)
        return load(cls, experiment)

    monkeypatch.setattr(sweep.Shelf, "release", release)
    monkeypatch.setattr(crossval.Materials, "load", classmethod(counted))
    swept.yaml("experiments/sweeps/tiny.yaml", {"cells": {"rows": {"data.rows": [60, 80]}}})
    result = sweep.run("tiny")
    assert len(loads) == 2 and held == [2, 1, 0]
    (stranger,) = result.report.comparison.incomparable
    assert (stranger.name, stranger.other) == ("rows=80", "rows=60")  # rows that have nothing in common
    assert "not comparable" in (folder_of(swept) / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"a": {"model.d_modle": [8]}}, ("cells.a: d_modle=8", "did you mean 'd_model'")),
        ({"a": {"folds.k": [3, 70]}}, ("cells.a: k=70", "expected at least 70 rows")),
        ({"a": {"training.device": ["cpu", "tpu"]}}, ("cells.a: device=tpu",)),
        ({"a": {"data.tasks": [{"other": {}}]}}, ("cells.a: tasks=other", "expected the tasks of tiny, found other")),
        ({"a": 3}, ("cells.a", "expected an object")),
    ],
)
def test_a_bad_cell_is_told_before_anything_is_trained(swept, capsys, groups, says):
    swept.yaml("experiments/sweeps/tiny.yaml", {"cells": groups})
    refused(swept, capsys, "sweep", "--experiment=tiny", says=says)
    assert swept.runs() == []


def test_two_processes_do_not_run_the_same_sweep(swept):
    name = sweep_name(Path("experiments/sweeps/tiny.yaml"), read_experiment("tiny"))
    with locked(Path("studies", name, ".lock"), "x"), pytest.raises(UserError, match="the only one running it"):
        sweep.run("tiny")
    assert swept.running() == [] and swept.of_kind("cell") == []
