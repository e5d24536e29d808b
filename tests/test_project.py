"""MLproject: its entry points are the command line's verbs; what ``mlflow run`` launches becomes the study's run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jobs_stage import PROJECT, Stage, run_process

from fusion_lab.cli import VERBS, parse
from fusion_lab.config import load_yaml

MLPROJECT = load_yaml(PROJECT / "MLproject")
ENTRY_POINTS = MLPROJECT["entry_points"]
NOT_PARAMETERS = {"tracking-uri"}  # MLflow says where its store is
SMALL = (
    "data.twin={patients: 4, stable_days: 12, watched_days: 16}; training.epochs=2; folds.val_groups=1; "
    "model.d_model=8; baselines=false"
)


def verb_of(entry: str) -> str:
    return ENTRY_POINTS[entry]["command"].split()[1]


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_an_entry_points_parameters_are_its_verbs_options(entry):
    program, verb, *arguments = ENTRY_POINTS[entry]["command"].split()
    names = [name for name in VERBS[verb].options if name not in NOT_PARAMETERS]
    assert program == "fusion-lab"
    assert list(ENTRY_POINTS[entry]["parameters"]) == names
    assert arguments == [f"--{name}={{{name}}}" for name in names]


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_an_entry_points_defaults_are_the_command_lines(entry):
    """But for the experiment, which an experiment's own entry point names."""
    verb = verb_of(entry)
    parameters = ENTRY_POINTS[entry]["parameters"]
    needed = [f"--{name}=given" for name, parameter in parameters.items() if "default" not in parameter]
    defaults = [f"--{name}={p['default']}" for name, p in parameters.items() if "default" in p]
    _, given = parse([verb, *needed, *defaults])
    _, plain = parse([verb, *needed])
    assert given == {**plain, **({"experiment": entry} if entry in experiments() else {})}


def experiments() -> set[str]:
    return {file.stem for file in (PROJECT / "experiments").glob("*.yaml")}


def test_every_experiment_and_verb_has_an_entry_point():
    assert set(ENTRY_POINTS) == {"main", *VERBS} - {"train"} | experiments()
    assert verb_of("main") == "train" and all(verb_of(verb) == verb for verb in VERBS if verb != "train")
    assert {verb_of(name) for name in experiments()} == {"train"}


def test_every_parameter_is_text_so_that_an_empty_one_can_be_passed():
    for entry in ENTRY_POINTS.values():
        assert {parameter["type"] for parameter in entry["parameters"].values()} == {"string"}


def test_the_environment_is_the_project_itself():
    assert load_yaml(PROJECT / MLPROJECT["python_env"]) == {"dependencies": ["-e ."]}


@pytest.fixture(scope="session")
def launchable(tmp_path_factory) -> Path:
    """The project's files, and on the path a ``fusion-lab`` as an installation would put it there."""
    folder = tmp_path_factory.mktemp("launched") / "project"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60).stdout
    for name in filter(None, files.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    program = folder.parent / "bin" / "fusion-lab"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fusion_lab "$@"\n')
    program.chmod(0o755)
    return folder


def launch(folder: Path, entry: str, **parameters: str) -> subprocess.CompletedProcess[str]:
    given = [part for name, value in parameters.items() for part in ("-P", f"{name}={value}")]
    command = [sys.executable, "-m", "mlflow", "run", ".", "-e", entry, "--env-manager", "local", *given]
    path = f"{folder.parent / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    return run_process(folder, command, PATH=path)


@pytest.mark.slow
def test_a_launched_search_and_the_training_of_its_best(launchable):
    stage = Stage(launchable)
    done = launch(launchable, "hpo", trials="2", set=SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    (parent,) = stage.of_kind("study")
    (study,) = stage.studies()
    assert parent.info.status == "FINISHED" and parent.info.run_name == f"study {study.name}"
    assert parent.data.tags["mlflow.project.entryPoint"] == "hpo"  # it is the run that was launched
    assert parent.data.params["trials"] == "2" and parent.data.params["set"].strip("'") == SMALL  # quoted for a shell
    assert stage.client.get_experiment(parent.info.experiment_id).name == "Default"
    trials = stage.of_kind("trial")
    assert len(trials) == 2 and len(stage.runs()) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.info.experiment_id for run in trials} == {parent.info.experiment_id}
    assert {"best.yaml", "study/study.html"} <= stage.artifacts(parent)
    assert all("curves.png" in stage.artifacts(run) for run in trials)
    assert "validation scores, mean over tasks and folds" in done.stdout

    done = launch(launchable, "relapse", experiment=str(study / "best.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    (trained,) = stage.of_kind("train")
    best = max(trials, key=lambda run: run.data.metrics["objective"])
    assert trained.data.metrics["val/auroc"] == best.data.metrics["val/auroc"]
    assert trained.data.tags["mlflow.project.entryPoint"] == "relapse" and stage.running() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "parameter", "value", "line"),
    [
        ("hpo", "trials", "x", "argument --trials: expected a whole number from 1 on, found 'x'"),
        ("hpo", "nonsense", "1", "unknown argument '--nonsense'"),
        (
            "hpo",
            "experiment",
            "nope",
            "experiments/nope.yaml: expected a file in experiments/, found none named 'nope'",
        ),
        ("main", "set", "model.d_modle=8", "model.d_modle: unknown key (did you mean 'd_model'?)"),
        ("hancock", "data", "nowhere", "nowhere: expected a folder of data files, found no such folder"),
    ],
)
def test_a_launch_that_is_refused(entry, parameter, value, line, launchable, tmp_path, empty_store):
    folder = tmp_path / "project"
    shutil.copytree(launchable, folder, ignore=shutil.ignore_patterns("studies", "mlruns", "mlflow.db"))
    shutil.copytree(launchable.parent / "bin", tmp_path / "bin")
    shutil.copy(empty_store / "mlflow.db", folder / "mlflow.db")
    done = launch(folder, entry, **{parameter: value})
    assert done.returncode != 0
    ours = [text for text in (done.stdout + done.stderr).splitlines() if text.startswith("fusion-lab: error: ")]
    assert len(ours) == 1 and line in ours[0], done.stdout + done.stderr
    assert not re.search(r"Traceback", done.stdout + done.stderr)
    stage = Stage(folder)
    assert list(stage.statuses().values()) == ["FAILED"]
    assert stage.studies() == [] and stage.halves() == []
