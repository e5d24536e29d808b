"""Input that cannot be used: one line that says where, what was expected and what was found; exit code 2; nothing
half-written; no run left RUNNING.
"""

import errno
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from jobs_stage import (
    EXPERIMENT_OF_TABLES,
    SPACE,
    TINY,
    Stage,
    artifact_folder,
    at_epoch,
    check_refusal,
    refused,
    run_command,
    run_process,
)
from mlflow import MlflowClient

from fusion_lab.cli import main

ROWS = 24
Spoil = Callable[[Path], object]


@pytest.fixture
def tables(stage) -> Stage:
    """A stage with a small experiment ``mine`` in files that are fine."""
    write_tables(stage.folder / "data")
    stage.experiment("mine", EXPERIMENT_OF_TABLES)
    return stage


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    clinic().to_csv(folder / "clinic.csv", index=False)
    site = [f"s{row // 2 % 4}" for row in range(ROWS)]
    targets = pd.DataFrame({"id": ids(), "label": [row % 2 for row in range(ROWS)], "site": site})
    targets.to_csv(folder / "targets.csv", index=False)
    pd.DataFrame({"id": ids(), "b1": rng.normal(size=ROWS), "b2": rng.normal(size=ROWS)}).to_parquet(
        folder / "blood.parquet"
    )
    with h5py.File(folder / "scan.h5", "w") as file:
        file["scan/id"] = np.array(ids(), dtype="S4")
        file["scan/x"] = rng.normal(size=(ROWS, 300)).astype(np.float32)


def ids() -> list[str]:
    return [f"p{row:02d}" for row in range(ROWS)]


def clinic() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame({"id": ids(), "age": rng.normal(60, 9, ROWS).round(1), "dose": rng.normal(size=ROWS).round(2)})


def cut(file: str) -> Spoil:
    """Leaves the first half of a file's bytes."""

    def spoil(data: Path) -> None:
        content = (data / file).read_bytes()
        (data / file).write_bytes(content[: len(content) // 2])

    return spoil


def cell(row: int, column: str, value: object) -> Spoil:
    """Puts a value into the clinic's table."""

    def spoil(data: Path) -> None:
        table = clinic().astype(object)
        table.loc[row, column] = value
        table.to_csv(data / "clinic.csv", index=False)

    return spoil


def column(name: str, values: object) -> Spoil:
    return lambda data: clinic().assign(**{name: values}).to_csv(data / "clinic.csv", index=False)


def label(values: object) -> Spoil:
    def spoil(data: Path) -> None:
        pd.read_csv(data / "targets.csv").assign(label=values).to_csv(data / "targets.csv", index=False)

    return spoil


def content(file: str, what: bytes) -> Spoil:
    return lambda data: (data / file).write_bytes(what)


BLOOD = {"data__modalities": {"blood": {"file": "blood.parquet"}}}
SCAN = {"data__modalities": {"scan": {"file": "scan.h5", "key": "scan"}}}
NOTHING: Spoil = lambda data: None  # noqa: E731

FILES: dict[str, tuple[Spoil, dict, tuple[str, ...]]] = {
    "missing folder": (shutil.rmtree, {}, ("data: expected a folder of data files", "no such folder")),
    "folder that is a file": (NOTHING, {"data__root": "experiments/mine.yaml"}, ("expected a folder", "found a file")),
    "missing file": (
        lambda data: (data / "clinic.csv").rename(data / "clinics.csv"),
        {},
        ("data/clinic.csv: expected a data file", "no such file", "did you mean 'clinics.csv'?"),
    ),
    "missing HDF5 group": (
        NOTHING,
        {"data__modalities": {"scan": {"file": "scan.h5", "key": "scans"}}},
        ("data/scan.h5#scans", "expected a group or dataset 'scans'", "did you mean 'scan'?"),
    ),
    "empty file": (content("clinic.csv", b""), {}, ("data/clinic.csv: expected a table, found an empty file",)),
    "header only": (content("clinic.csv", b"id,age\n"), {}, ("data/clinic.csv", "expected rows below the header")),
    "truncated HDF5": (cut("scan.h5"), SCAN, ("data/scan.h5: expected a readable HDF5 file, found: ",)),
    "truncated parquet": (cut("blood.parquet"), BLOOD, ("data/blood.parquet: expected a readable parquet file",)),
    "truncated CSV": (
        lambda data: (data / "clinic.csv").write_text(
            clinic().to_csv(index=False).rstrip("\n")[:-6].rstrip("-0123456789.")
        ),
        {},
        ("data/clinic.csv: line 25: expected 3 cells as in the header, found 2",),
    ),
    "CSV that ends inside a quote": (content("clinic.csv", b'id,age\np00,"6'), {}, ("data/clinic.csv: line 2", "CSV")),
    "CSV that is no text": (content("clinic.csv", b"id,age\np00,\xff"), {}, ("data/clinic.csv: line 2", "0xff")),
    "parquet that is a CSV": (content("blood.parquet", b"id,b\n1,2\n"), BLOOD, ("blood.parquet: expected a readable",)),
    "unknown kind of file": (NOTHING, {"data__modalities__clinic__file": "c.xlsx"}, ("c.xlsx: expected",)),
    "missing id column": (
        lambda data: clinic().rename(columns={"id": "ids"}).to_csv(data / "clinic.csv", index=False),
        {},
        ("data/clinic.csv: expected a column 'id'", "did you mean 'ids'?"),
    ),
    "duplicate id": (
        cell(5, "id", "p02"),
        {},
        ("data/clinic.csv: line 7, column 'id': expected each id once, found 'p02' again (first in line 4)",),
    ),
    "empty id": (cell(5, "id", ""), {}, ("data/clinic.csv: line 7, column 'id': expected an id, found an empty cell",)),
    "ids that match nothing": (
        column("id", [f"q{row}" for row in range(ROWS)]),
        {},
        ("data/clinic.csv: column 'id'", "targets.csv (such as 'p00'", "found none of them but 'q0'"),
    ),
    "target among the features": (
        column("label", [row % 2 for row in range(ROWS)]),
        {},
        (
            "data/clinic.csv: column 'label': expected a feature of modality 'clinic'",
            "found the target of task 'outcome'",
        ),
    ),
    "target under another name": (
        column("copied", [1 - row % 2 for row in range(ROWS)]),
        {},
        ("data/clinic.csv: column 'copied': expected a feature", "found the values of task 'outcome'"),
    ),
    "constant column": (column("age", 60), {}, ("data/clinic.csv: column 'age'", "vary", "found one value throughout")),
    "all-missing column": (column("age", ""), {}, ("data/clinic.csv: column 'age'", "found only empty cells")),
    "word among numbers": (
        cell(3, "age", "old"),
        {},
        ("data/clinic.csv: line 5, column 'age': expected", "number", "found 'old'"),
    ),
    "infinite value": (
        cell(3, "age", "inf"),
        {},
        ("data/clinic.csv: line 5, column 'age': expected a finite number, found inf",),
    ),
    "infinite value in parquet": (
        lambda data: pd.DataFrame({"id": ids(), "b1": [np.inf, *range(ROWS - 1)]}).to_parquet(data / "blood.parquet"),
        BLOOD,
        ("data/blood.parquet: row 1, column 'b1': expected", "inf"),
    ),
    "third value of a binary column": (
        column("sex", ["m", "f", "x"] * 8),
        {"data__modalities__clinic__kinds": {"sex": "binary"}},
        ("data/clinic.csv: line ", "column 'sex': expected 'f' or 'm' in a binary column, found 'x'"),
    ),
    "named column that is not there": (
        NOTHING,
        {"data__modalities__clinic__columns": ["agge"]},
        ("data/clinic.csv: expected a column 'agge' (named in columns)", "did you mean 'age'?"),
    ),
    "one class only": (label(1), {}, ("data/targets.csv: column 'label'", "expected two classes", "found only '1'")),
    "no known label": (label(""), {}, ("data/targets.csv: column 'label'", "expected known labels, found none")),
    "positive value that never occurs": (
        label(["yes", "no"] * 12),
        {},
        ("data/targets.csv: column 'label'", "expected the positive value '1' to occur", "'no', 'yes'"),
    ),
    "third label": (
        lambda data: label([0, 1, 2] * 8)(data),
        {},
        ("data/targets.csv: line 4, column 'label': expected '0' or '1' of binary task 'outcome', found '2'",),
    ),
    "one class in training rows": (
        label([1, *[0] * (ROWS - 1)]),
        {},
        ("task outcome: expected at least two classes in the training rows of fold", "found only '0'"),
    ),
    "fewer groups than folds": (
        NOTHING,
        {"data__group": "site", "folds__protocol": "grouped", "folds__k": 5},
        ("folds: expected at least 5 groups for this split, found 4",),
    ),
    "grouped folds without groups": (NOTHING, {"folds__protocol": "grouped"}, ("folds.protocol", "a group column")),
    "more folds than rows": (NOTHING, {"folds__k": 30}, ("folds: expected", "found ")),
}


@pytest.mark.parametrize("verb", ["hpo", "train"])
@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_used(case, verb, tables, capsys):
    spoil, changes, says = FILES[case]
    spoil(tables.folder / "data")
    tables.experiment("mine", EXPERIMENT_OF_TABLES, **changes)
    refused(tables, capsys, verb, "--experiment=mine", says=says)
    assert tables.statuses() == {}


def test_the_files_are_fine_unspoilt(tables, capsys):
    """Without this, everything above could be refused for a reason of its own."""
    both = {"clinic": {"file": "clinic.csv"}, **BLOOD["data__modalities"], **SCAN["data__modalities"]}
    tables.experiment("mine", EXPERIMENT_OF_TABLES, data__modalities=both, data__group="site", training__epochs=1)
    assert main(["train", "--experiment=mine"]) == 0
    assert [run.info.status for run in tables.runs()] == ["FINISHED"] and tables.studies() == []


SETTINGS: dict[str, tuple[dict, tuple[str, ...]]] = {
    "unknown section": (
        {"modle": {"d_model": 8}},
        ("experiments/tiny.yaml: modle: unknown key", "did you mean 'model'?"),
    ),
    "unknown key": ({"model__d_modle": 8}, ("tiny.yaml: model.d_modle: unknown key", "did you mean 'd_model'?")),
    "unknown key of a modality": (
        {"data__modalities__left__widht": 3},
        ("tiny.yaml: data.modalities.left.widht: unknown key", "did you mean 'width'?"),
    ),
    "unknown family": ({"model__family": "token_fusoin"}, ("model.family: unknown 'token_fusoin'", "'token_fusion'")),
    "unknown domain": ({"data__domain": "tables"}, ("data.domain: unknown 'tables'", "did you mean 'table'?")),
    "unknown option": ({"model__fusion": "late"}, ("tiny.yaml: model.fusion: expected", "'gated'", 'found "late"')),
    "out of range": ({"training__epochs": 0}, ("tiny.yaml: training.epochs: expected", "1, found 0")),
    "wrong type": ({"optimiser__lr": "fast"}, ("tiny.yaml: optimiser.lr: expected", 'found "fast"')),
    "not finite": ({"optimiser__lr": float("inf")}, ("tiny.yaml: optimiser.lr: expected",)),
    "settings that do not fit": ({"model__nhead": 3}, ("tiny.yaml: model", "multiple of nhead, found 8 and 3")),
    "too few folds": ({"folds__k": 2}, ("tiny.yaml: folds.k: expected", "3, found 2")),
    "a name that is no name": ({"name": "a/b"}, ("tiny.yaml: name: expected", 'found "a/b"')),
}


@pytest.mark.parametrize("verb", ["hpo", "train"])
@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be(case, verb, stage, capsys):
    changes, says = SETTINGS[case]
    stage.experiment("tiny", TINY, **changes)
    refused(stage, capsys, verb, "--experiment=tiny", says=says)
    assert stage.statuses() == {}


COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown experiment": (("--experiment=tinny",), ("experiments/tinny.yaml: expected", "did you mean 'tiny'?")),
    "path of no experiment": (("--experiment=experiments/x.yaml",), ("experiments/x.yaml: expected a YAML file",)),
    "folder for an experiment": (("--experiment=experiments/",), ("experiments: expected a readable",)),
    "folder for made data": (("--experiment=tiny", "--data=d"), ("tiny.yaml makes its own data", "'d'")),
    "override without value": (("--experiment=tiny", "--set=model.d_model"), ("set: expected path=value, found",)),
    "override of an unknown key": (("--experiment=tiny", "--set=model.dropuot=0"), ("did you mean 'dropout'?",)),
    "override of a wrong type": (("--experiment=tiny", "--set=training.epochs=many"), ("training.epochs", '"many"')),
    "override that is no YAML": (("--experiment=tiny", "--set=model.dropout=[1"), ("set: model.dropout:1:", "YAML")),
    "override through a value": (("--experiment=tiny", "--set=seed.x=1"), ("seed: expected", 'found {"x": 1}')),
}


@pytest.mark.parametrize("verb", ["hpo", "train"])
@pytest.mark.parametrize("case", COMMANDS)
def test_commands_that_cannot_be_carried_out(case, verb, stage, capsys):
    arguments, says = COMMANDS[case]
    refused(stage, capsys, verb, *arguments, says=says)
    assert stage.statuses() == {}


TEXTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bad indentation": ("data:\n  domain: synthetic\n model: {}\n", ("{file}:3:", "expected valid YAML, found")),
    "open bracket": ("data: {domain: synthetic\n", ("{file}:2:1: expected valid YAML",)),
    "key twice": ("seed: 1\nseed: 2\n", ("{file}:2:1: expected valid YAML, found: key 'seed' given twice",)),
    "list": ("- 1\n", ("{file}: expected a mapping of settings, found list",)),
    "nothing": ("", ("{file}: expected a mapping of settings, found NoneType",)),
}


@pytest.mark.parametrize("kind", ["experiments", "hpo"])
@pytest.mark.parametrize("case", TEXTS)
def test_files_that_are_no_settings(case, kind, stage, capsys):
    text, says = TEXTS[case]
    stage.text(f"{kind}/tiny.yaml", text)
    says = tuple(part.replace("{file}", f"{kind}/tiny.yaml") for part in says)
    refused(stage, capsys, "hpo", "--experiment=tiny", says=says)
    assert stage.statuses() == {}


SPACES: dict[str, tuple[dict, tuple[str, ...]]] = {
    "unknown key": ({"pruner__nmae": "none"}, ("hpo/tiny.yaml: pruner.nmae: unknown key", "did you mean 'name'?")),
    "unknown sampler": ({"sampler__name": "grid"}, ("hpo/tiny.yaml: sampler.name: expected", 'found "grid"')),
    "no trials": ({"budget__trials": 0}, ("hpo/tiny.yaml: budget.trials: expected", "found 0")),
    "unknown path": (
        {"space": {"model": {"dropuot": {"float": [0.0, 0.1]}}}},
        ("hpo/tiny.yaml: space", "model.dropuot: unknown key", "did you mean 'dropout'?"),
    ),
    "unknown distribution key": (
        {"space": {"model": {"dropout": {"float": [0.0, 0.1], "lgo": True}}}},
        ("hpo/tiny.yaml: space.model.dropout.lgo: unknown key", "did you mean 'log'?"),
    ),
    "impossible points": (
        {"space": {"model": {"d_model": {"choice": [8, 9]}}}},
        ("hpo/tiny.yaml: space", "multiple of nhead, found 9 and 2"),
    ),
    "points out of range": (
        {"space": {"model": {"dropout": {"float": [0.5, 1.5]}}}},
        ("hpo/tiny.yaml: space", "model.dropout: expected", "found 1"),
    ),
    "range upside down": (
        {"space": {"model": {"dropout": {"float": [0.5, 0.1]}}}},
        ("hpo/tiny.yaml: space.model.dropout.float: expected the lowest first, found [0.5, 0.1]",),
    ),
    "logarithm of nothing": (
        {"space": {"optimiser": {"lr": {"float": [0.0, 0.1], "log": True}}}},
        ("hpo/tiny.yaml: space.optimiser.lr",),
    ),
    "range of words": (
        {"space": {"model": {"dropout": {"float": ["a", "b"]}}}},
        ("hpo/tiny.yaml: space.model.dropout.float: expected [lowest, highest], found ['a', 'b']",),
    ),
    "choice of nothing": (
        {"space": {"model": {"fusion": {"choice": []}}}},
        ("hpo/tiny.yaml: space.model.fusion.choice: expected a list or a mapping of options, found []",),
    ),
    "what must stay the same": (
        {"space": {"folds": {"k": {"int": [3, 5]}}}},
        ("hpo/tiny.yaml: space.folds.k: expected a setting that may differ between trials, found folds",),
    ),
    "pruning after the end": (
        {"pruner": {"name": "hyperband", "warmup_epochs": 10}},
        ("hpo/tiny.yaml: pruner.warmup_epochs: expected at most training.epochs (3), found 10",),
    ),
}


@pytest.mark.parametrize("case", SPACES)
def test_search_spaces_that_cannot_be(case, stage, capsys):
    changes, says = SPACES[case]
    space = {**SPACE, **changes} if "space" in changes or "pruner" in changes else SPACE
    stage.yaml("hpo/tiny.yaml", space, **{} if space is not SPACE else changes)
    refused(stage, capsys, "hpo", "--experiment=tiny", says=says)


def test_a_space_that_is_nowhere(stage, capsys):
    says = ("hpo/tny.yaml: expected a file in hpo/", "did you mean 'tiny'?")
    refused(stage, capsys, "hpo", "--experiment=tiny", "--space=tny", says=says)


@pytest.mark.parametrize("verb", ["hpo", "train"])
def test_no_space_for_artifacts(verb, stage, capsys, monkeypatch):
    free = shutil.disk_usage(stage.folder)._replace(free=3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    says = (str(stage.folder / "mlruns"), "expected 64 MiB of free space for artifacts, found 3 MiB")
    refused(stage, capsys, verb, "--experiment=tiny", says=says)
    assert stage.statuses() == {}


@pytest.mark.parametrize(("verb", "what"), [("hpo", "trial 0"), ("train", "tiny")])
def test_space_that_runs_out_while_a_job_works(verb, what, stage, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    at_epoch(monkeypatch, what, 2, lambda: monkeypatch.setattr(MlflowClient, "log_artifact", full))
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--experiment=tiny"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and len(err.splitlines()) == 1
    assert "expected to write it to" in err and "found: no space left on the device" in err
    assert {run.info.status for run in stage.runs()} == {"FAILED"}
    assert all("no space left" in run.data.tags["failure"] for run in stage.runs())
    assert stage.halves() == [] and not list(stage.folder.rglob("best.yaml"))


def test_an_artifact_folder_that_cannot_be_made(stage, capsys):
    stage.text("mlruns", "a file where the folder of artifacts has to be")
    says = (str(stage.folder / "mlruns"), "expected a folder for artifacts")
    refused(stage, capsys, "train", "--experiment=tiny", says=says)


def test_a_tracking_server_that_does_not_answer(stage, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    says = (f"{closed}: expected an MLflow tracking store that answers, found: ", "refused")
    refused(stage, capsys, "hpo", "--experiment=tiny", f"--tracking-uri={closed}", says=says)
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    "uri", ["nonsense://here", "sqlite:////dev/null/mlflow.db", "postgresql://127.0.0.1:9/x", "http://"]
)
def test_a_tracking_store_that_is_none(uri, stage, capsys):
    refused(stage, capsys, "train", "--experiment=tiny", f"--tracking-uri={uri}", says=(f"{uri}: expected", "found: "))


def test_a_run_that_was_launched_elsewhere(stage, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    says = (f"run {'0' * 32}: expected to find it in {stage.uri}", "found: ")
    refused(stage, capsys, "train", "--experiment=tiny", says=says)


def test_an_mlflow_experiment_that_was_deleted(stage, capsys):
    client = stage.client
    place = client.create_experiment("tiny")
    client.delete_experiment(place)
    says = ("experiment 'tiny': expected an active experiment, found a deleted one", f"--experiment-id {place}")
    refused(stage, capsys, "train", "--experiment=tiny", says=says)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            lambda file: file.write_bytes(file.read_bytes()[:-100]),
            "expected a checkpoint in safetensors format, found: ",
        ),
        (lambda file: file.write_bytes(b"\0" * 300), "expected a checkpoint in safetensors format, found: "),
        (lambda file: file.write_bytes(b""), "expected a checkpoint in safetensors format, found: "),
    ],
)
def test_a_damaged_checkpoint(damage, found, stage, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        at_epoch(patch, "tiny", 2, interrupt)
        assert main(["train", "--experiment=tiny"]) == 130
    (checkpoint,) = stage.folder.glob("studies/*/training.safetensors")
    damage(checkpoint)
    left = checkpoint.read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--experiment=tiny"])
    err = capsys.readouterr().err
    relative = checkpoint.relative_to(stage.folder)
    assert stopped.value.code == 2 and len(err.splitlines()) == 1
    assert f"{relative}: {found}" in err
    assert checkpoint.read_bytes() == left and stage.halves() == []  # it is the user's: to be looked at, or removed
    assert [run.info.status for run in stage.runs()] == ["KILLED", "FAILED"]
    assert found in stage.runs()[1].data.tags["failure"]


def test_a_damaged_journal(stage, capsys):
    assert main(["hpo", "--experiment=tiny", "--trials=1"]) == 0
    (journal,) = stage.folder.glob("studies/*/journal.log")
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], "no JSON", *lines[2:]]) + "\n")
    before = journal.read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["hpo", "--experiment=tiny", "--trials=2"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and len(err.splitlines()) == 1
    assert f"{journal.relative_to(stage.folder)}: expected a study's journal" in err
    assert journal.read_bytes() == before and stage.running() == []
    assert stage.of_kind("study")[-1].info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("hpo", "--experiment=nope"), ("experiments/nope.yaml: expected", "did you mean")),
        (("train", "--experiment=mine"), ("data/clinic.csv: line 5, column 'age': expected", "'old'")),
    ],
)
def test_a_process_that_is_refused(arguments, says, tables):
    """The same in a process of its own: what the shell sees."""
    tables.experiment("nopes")
    cell(3, "age", "old")(tables.folder / "data")
    done = run_command(tables, *arguments)
    check_refusal(tables, set(), done.returncode, done.stdout, done.stderr, says)
    assert tables.statuses() == {}


@pytest.mark.slow
def test_a_disk_that_is_really_full(stage):
    """Files may grow to 3 MB only, as on a full disk: the interactive page of the curves cannot be written."""
    script = (
        "import resource, sys\n"
        "from fusion_lab.cli import main\n"
        "import fusion_lab.jobs.train\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
        "raise SystemExit(main(['train', '--experiment=tiny', '--tracking-uri', sys.argv[1]]))\n"
    )
    done = run_process(stage.folder, [sys.executable, "-c", script, stage.uri])
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "artifact curves.html of run" in done.stderr and "found: File too large" in done.stderr
    assert [run.info.status for run in stage.runs()] == ["FAILED"]
    assert "File too large" in stage.runs()[0].data.tags["failure"]


def test_artifacts_of_a_run_lie_in_the_working_folder(stage):
    """What the cases above look at is what a job writes to."""
    stage.experiment("tiny", TINY, training__epochs=1)
    assert main(["train", "--experiment=tiny"]) == 0
    (run,) = stage.runs()
    assert artifact_folder(run).is_relative_to(stage.folder / "mlruns") and "config.yaml" in stage.artifacts(run)


@pytest.mark.parametrize("verb", ["train", "hpo"])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("training.device=cuda", ("device", "cuda")),
        ("objective.task_weights.outcme=1", ("task_weights.outcme", "did you mean 'outcome'")),
        ("objective.task_weights.outcome=-1", ("task_weights.outcome", "-1")),
        ("objective.penalty_weights.foo=1", ("penalty_weights.foo",)),
    ],
)
def test_settings_that_do_not_fit_are_found_before_anything_is_written(stage, capsys, verb, settings, says):
    refused(stage, capsys, verb, "--experiment=tiny", f"--set={settings}", says=says)
    assert not stage.statuses()
    assert not stage.studies()


@pytest.mark.parametrize(("section", "value"), [("model", "token_fusion"), ("data", "synthetic")])
def test_a_section_that_is_a_word(stage, capsys, section, value):
    stage.experiment("tiny", {**TINY, section: value})
    refused(stage, capsys, "train", "--experiment=tiny", says=("tiny.yaml", section))


def test_a_file_where_the_studies_belong(stage, capsys):
    stage.text("studies", "a file")
    refused(stage, capsys, "hpo", "--experiment=tiny", says=("studies",))


def test_an_address_that_is_none(stage, capsys):
    refused(stage, capsys, "train", "--experiment=tiny", "--tracking-uri=http://[bad", says=("http://[bad",))


def test_a_name_that_is_too_long(stage, capsys):
    refused(stage, capsys, "train", f"--experiment={'x' * 5000}", says=("at most", "5000"))
