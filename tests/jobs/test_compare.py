"""Runs of the store held against each other without their data; what has nothing in common is refused in one line."""

import numpy as np
import pytest
import torch
from jobs_stage import TINY, Stage
from mlflow import MlflowClient

from fusion_lab.contracts import UserError
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.experiment import Materials, override, resolve
from fusion_lab.jobs import compare
from fusion_lab.jobs.crossval import names_and_folds
from fusion_lab.tracking.predictions import RowNames
from fusion_lab.tracking.store import Store
from fusion_lab.tracking.trial import log_predictions
from fusion_lab.zoo.baselines import run_baselines


def write_run(store, name, seed=0, rows=60, tags=None, facts=True, parent=None, noise=0.0, params=None):
    """A run with predictions of the prevalence, plus ``noise``, as an earlier job left it."""

    changes = {"data.rows": rows, "folds.seed": seed}
    experiment = resolve(override({"name": "tiny", **TINY}, changes), "tiny")
    materials = Materials.load(experiment)
    dataset = materials.dataset

    def batch_of(fold, part):
        return dataset.gather(torch.as_tensor(part))

    predictions = run_baselines(materials.spec, materials.folds, batch_of, ("prevalence",))["prevalence"]
    rng = np.random.default_rng(len(name))
    for task, score in predictions.score.items():
        predictions.score[task][:] = np.clip(score + noise * rng.normal(size=score.shape), 0, 1)
    names, folds = names_and_folds(experiment, materials)
    with store.start_run(
        store.experiment_id("tiny"), name, parent=parent, tags=tags or {"fusion_lab.kind": "train"}
    ) as run:
        run.params({"training.monitor": "auroc", **(params or {})})
        log_predictions(run, predictions, materials.spec, RowNames(names.ids), folds if facts else FoldFacts())
    store.flush()
    return run.id


@pytest.fixture
def store(stage):
    with Store.open(stage.uri) as opened:
        yield opened


@pytest.fixture
def blank(monkeypatch):
    """Picture and page take longer than the rest."""
    monkeypatch.setattr("fusion_lab.jobs.comparing.comparison_png", lambda report: b"")
    monkeypatch.setattr("fusion_lab.jobs.comparing.comparison_html", lambda report: "")


def test_runs_are_found_by_id_beginning_and_name(stage, store, capsys):
    ids = [write_run(store, name, noise=0.1) for name in ("one", "second", "the third")]
    report = compare.run(f"{ids[0]},{ids[1][:10]}, the third", "out.html", stage.uri)
    assert report.entries == ["one", "second", "the third"] and report.comparison.reference == "one"
    assert {file.name for file in stage.folder.glob("out.*")} == {"out.html", "out.png", "out.csv", "out.json"}
    assert "minus one" in capsys.readouterr().out
    assert stage.halves() == []
    assert report.comparison.contrast("second", "auroc").difference.n == 3


def test_what_runs_tell_of_themselves_is_read_where_they_have_it(stage, store, blank):
    ids = [write_run(store, name, noise=0.1) for name in ("one", "second")]
    row = {"epoch": 1.0, "lr": 0.1, "train/loss": 0.5, "val/loss": 0.75}
    fold = {"fold": 0, "name": "a", "best_epoch": 1, "epochs": 1, "ending": "epochs", "history": [row]}
    run = store.run(ids[0], store.experiment_id("tiny"))
    run.json("curves.json", {"folds": [fold]})
    run.json("evaluation/missing_modality.json", {"modality_gain": {"y": {"a": 0.2}}, "metric": {"y": "auroc"}})
    other = store.run(ids[1], store.experiment_id("tiny"))  # gains in another score stand in no column with these
    other.json("evaluation/missing_modality.json", {"modality_gain": {"y": {"a": 0.01}}, "metric": {"y": "accuracy"}})
    store.flush()
    beside = compare.run(",".join(ids), "out.html", stage.uri).beside
    assert {name: of["val/loss"].tolist() for name, of in beside.losses.items()} == {"one": [0.75]}
    assert beside.gains == {"one": {"y": {"a": 0.2}}, "second": {}} and beside.metrics == {"y": "auroc"}


@pytest.mark.slow
def test_a_sweeps_cells_are_compared_by_its_name_or_its_run(stage, store, blank):
    study = {"fusion_lab.study": "sweep-mine-0123abcd"}
    parent = store.start_run(store.experiment_id("tiny"), "sweep mine", tags={"fusion_lab.kind": "sweep", **study})
    parent.close()
    for number, name in enumerate(("a=1", "a=2", "b=1")):
        tags = {"fusion_lab.kind": "cell", "fusion_lab.group": name[0], **study}
        tags |= {"fusion_lab.reference": "true"} if number == 1 else {}
        tags |= {"fusion_lab.same_as": "a=1"} if number == 2 else {}
        write_run(store, name, tags=tags, parent=parent.id, noise=0.1)
    write_run(store, "trees", tags={"fusion_lab.kind": "baseline", **study}, noise=0.2)
    for named in ("sweep:mine", "sweep:sweep-mine-0123abcd", parent.id, "sweep mine"):
        report = compare.run(named, "out.html", stage.uri)
        assert report.comparison.reference == "a=2"
        assert [(line.group, line.name, line.entry) for line in report.lines] == [
            ("a", "a=1", "a=1"),
            ("a", "a=2", "a=2"),
            ("b", "b=1", "a=1"),
            ("baselines", "trees", "trees"),
        ]


def cell_tags(group, **more):
    study = {"fusion_lab.study": "sweep-mine-0123abcd", "fusion_lab.kind": "cell", "fusion_lab.group": group}
    return study | {f"fusion_lab.{name}": value for name, value in more.items()}


def test_a_cell_that_no_longer_is_the_reference_is_not_taken_for_it(stage, store, blank):
    write_run(store, "a=1", tags=cell_tags("a", reference="false"), noise=0.1)
    write_run(store, "a=2", tags=cell_tags("a", reference="true"), noise=0.1)
    assert compare.run("sweep:mine", "out.html", stage.uri).comparison.reference == "a=2"


def test_a_cell_that_is_another_one_may_be_named_first(stage, store, blank):
    write_run(store, "a=1", tags=cell_tags("a"), noise=0.1)
    write_run(store, "b=1", tags=cell_tags("b", same_as="a=1"), noise=0.1)
    write_run(store, "other", noise=0.2)
    report = compare.run("b=1,a=1,other", "out.html", stage.uri)
    assert report.comparison.reference == "a=1" and report.entries == ["a=1", "other"]


def test_a_study_stands_for_its_trials_of_all_commands_and_its_baselines(stage, store, blank):
    study, place = {"fusion_lab.study": "tiny-0123abcd"}, store.experiment_id("tiny")
    parents = [store.start_run(place, "study tiny", tags={"fusion_lab.kind": "study"}) for _ in range(2)]
    for parent in parents:
        parent.params({"study": "tiny-0123abcd"})
        parent.close()
    write_run(store, "trees", tags={"fusion_lab.kind": "baseline", **study}, parent=parents[0].id, noise=0.1)
    for number, parent in enumerate(parents):
        tags = {"fusion_lab.kind": "trial", **study}
        write_run(store, f"trial {number}", tags=tags, parent=parent.id, noise=0.1)
    report = compare.run(parents[1].id, "out.html", stage.uri)
    assert report.entries == ["trial 0", "trial 1", "trees"] and report.comparison.reference == "trial 0"


def test_what_a_search_chose_is_said_to_be_optimistic(stage, store, blank):
    for name, kind in (("chosen", "train"), ("trial 1", "trial"), ("plain", "train")):
        run = store.run(write_run(store, name, tags={"fusion_lab.kind": kind}, noise=0.1), store.experiment_id("tiny"))
        run.params({"selected": "null" if name == "plain" else "tiny-0123abcd"})
        run.flush()
    report = compare.run("chosen,trial 1,plain", "out.html", stage.uri)
    (note,) = [note for note in report.notes if "optimistic" in note]
    assert note.startswith("chosen was chosen by study tiny-0123abcd")


def test_it_is_said_what_rows_the_scores_are_of(stage, store, blank):
    for name in ("one", "second"):
        write_run(store, name, noise=0.1)
    report = compare.run("one,second", "out.html", stage.uri)
    assert "3 folds (stratified); one is scored on 60 test rows." in report.notes


def test_runs_of_earlier_versions_are_compared_by_their_rows(stage, store, blank, capsys):
    ids = [write_run(store, name, facts=False, noise=0.1) for name in ("one", "second")]
    report = compare.run(",".join(ids), "out.html", stage.uri)
    assert report.comparison.contrast("second", "auroc").basis == "rows"
    assert sum("earlier version" in note for note in report.notes) == 2
    assert capsys.readouterr().out.count("\nnote: ") == 4  # what is on the page is said here too


def test_two_runs_of_one_name_are_told_apart(stage, store, blank):
    ids = [write_run(store, "same") for _ in range(2)]
    report = compare.run(",".join(ids), "out.html", stage.uri)
    assert report.entries == [f"same ({run_id[:8]})" for run_id in ids]
    with pytest.raises(UserError, match="expected one run, found 2 called 'same'"):
        compare.run(f"{ids[0]},same", "out.html", stage.uri)


@pytest.mark.parametrize(
    ("first", "second", "called"),
    [
        ({"model.fusion": "gated"}, {"model.fusion": "add"}, ["same (model.fusion=gated)", "same (model.fusion=add)"]),
        ({"model.use": "null"}, {"model.use": '["a"]'}, ["same (model.use=null)", "same (model.use=[a])"]),
        ({"seed": "1"}, {"seed": "2"}, ["same (seed=1)", "same (seed=2)"]),
        ({}, {"data.weekday": "w"}, ["same (data.weekday=None)", "same (data.weekday=w)"]),
        ({"fingerprint": "a", "evaluation.bins": "9"}, {"fingerprint": "b"}, None),
        ({f"model.{i}": "1" for i in "abc"}, {f"model.{i}": "2" for i in "abc"}, None),
        ({"model.fusion": "a" * 60}, {"model.fusion": "b"}, None),
    ],
    ids=[
        "a setting",
        "a list",
        "a seed",
        "a setting of the second",
        "nothing that matters",
        "many settings",
        "a long value",
    ],
)
def test_runs_of_one_name_are_called_by_the_setting_in_which_they_differ(stage, store, blank, first, second, called):
    ids = [write_run(store, "same", params=params) for params in (first, second)]
    report = compare.run(",".join(ids), "out.html", stage.uri)
    assert report.entries == (called or [f"same ({run_id[:8]})" for run_id in ids])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"rows": 80}, "expected runs of the same data, found other"),
        ({"seed": 1}, "expected runs on the same folds, found other and one: the same rows are in other folds"),
        ({"seed": 1, "facts": False}, "the same rows are in other folds"),
        ({"rows": 80, "facts": False}, "no recordings in common"),
    ],
)
def test_runs_of_other_data_or_folds_are_refused(stage, store, other, says):
    write_run(store, "one")
    write_run(store, "other", **other)
    with pytest.raises(UserError) as told:
        compare.run("one,other", "out.html", stage.uri)
    assert says in str(told.value) and "\n" not in str(told.value)
    assert not list(stage.folder.glob("out.*"))


@pytest.mark.parametrize(
    ("runs", "output", "says"),
    [
        ("nothing", "out.html", "runs: expected the id or name of a run, found 'nothing'"),
        ("onee", "out.html", "did you mean 'one'?"),
        (",", "out.html", "runs: expected ids or names of runs"),
        ("one", "out.html", "expected at least two runs with predictions, found 1"),
        ("one,empty", "out.html", "expected at least two runs with predictions, found 1"),
        ("sweep:none", "out.html", "expected a sweep with finished cells, found 'none'"),
        ("one", "out.pdf", "output: expected a file that ends in .html"),
        ("one", "nowhere/out.html", "output: expected a folder that exists"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(stage, store, runs, output, says):
    write_run(store, "one")
    store.start_run(store.experiment_id("tiny"), "empty").close()
    store.flush()
    with pytest.raises(UserError) as told:
        compare.run(runs, output, stage.uri)
    assert says in str(told.value) and "\n" not in str(told.value)


def test_no_store_is_made(tmp_path):
    with pytest.raises(UserError, match="expected a tracking store"):
        compare.run("one", "out.html", f"sqlite:///{tmp_path}/none.db")
    assert not list(tmp_path.iterdir())


def test_a_deleted_run_is_not_found(stage: Stage, store):
    run_id = write_run(store, "one")
    MlflowClient(stage.uri).delete_run(run_id)
    with pytest.raises(UserError, match="expected the id or name of a run"):
        compare.run(run_id, "out.html", stage.uri)
