"""A stage for whole jobs: a working folder with small experiments, a tracking store copied instead of made, the
command line run in it, and what it left behind.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from baseline_material import quicken
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.db import utils as mlflow_database
from mlflow.utils import environment as mlflow_environment
from optuna.trial import FrozenTrial

from fusion_lab.cli import main
from fusion_lab.config import assign, dump_yaml, load_yaml
from fusion_lab.jobs import evaluation, kept, study_report
from fusion_lab.jobs.progress import Progress
from fusion_lab.report.drawing import DrawingProcess, draw_here
from fusion_lab.search import study as search_study
from fusion_lab.search.journal import open_study
from fusion_lab.search.space import check_space
from fusion_lab.search.study import PrunerConfig, make_pruner
from fusion_lab.tracking.store import Store
from fusion_lab.training import Decision, Evaluation

PROJECT = Path(__file__).parent.parent
SECONDS = 240
"""Bound of everything that is waited for; the slowest takes a tenth of it on an idle machine."""

PAGES = (
    *((study_report, name) for name in ("history_png", "comparison_png", "parameters_png", "study_html")),
    *((kept, name) for name in ("curves_html", "attention_html")),
)
BLANK = b"\x89PNG\r\n\x1a\n"
DRAWS = 20
"""Points of a space that a job here tries before it starts: these spaces have a handful of settings."""
newest_schema = cache(mlflow_database._get_latest_schema_revision)
"""MLflow reads a hundred files of migrations whenever a store is opened, to learn which of them is the newest."""

TINY: dict[str, Any] = {
    "description": "Two small modalities, sixty rows.",
    "data": {"domain": "synthetic", "rows": 60, "modalities": {"left": {"width": 3}, "right": {"width": 3}}},
    "model": {"d_model": 8, "nhead": 2},
    "training": {"epochs": 3, "patience": 3, "batch_size": 32},
    "folds": {"k": 3},
    "evaluation": {"mc_samples": 2, "latency_rows": 2},
    "baselines": False,
}
SPACE: dict[str, Any] = {
    "space": {
        "model": {"fusion": {"choice": ["transformer", "gated"]}, "dropout": {"float": [0.0, 0.5]}},
        "optimiser": {"lr": {"float": [1e-3, 1e-2], "log": True}},
    },
    "sampler": {"startup_trials": 2},
    "pruner": {"name": "none"},
    "budget": {"trials": 3},
}
EXPERIMENT_OF_TABLES: dict[str, Any] = {
    "data": {
        "domain": "table",
        "root": "data",
        "id": "id",
        "targets": {"file": "targets.csv", "tasks": {"outcome": {"column": "label", "positive": 1}}},
        "modalities": {"clinic": {"file": "clinic.csv"}},
    },
    "model": {"d_model": 8, "nhead": 2},
    "training": {"epochs": 2},
    "folds": {"k": 3},
    "evaluation": {"mc_samples": 2, "latency_rows": 2},
    "baselines": False,
}
_LEFT_OUT = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI")


@dataclass(frozen=True)
class Stage:
    """A working folder. The store lies in it as ``mlflow.db``, where MLflow itself would put it."""

    folder: Path

    @classmethod
    def set_up(cls, folder: Path, store: Path) -> Stage:
        """``store`` is the folder that :func:`make_store` filled."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(store / "mlflow.db", folder / "mlflow.db")
        stage = cls(folder)
        stage.experiment("tiny", TINY)
        stage.yaml("hpo/tiny.yaml", SPACE)
        return stage

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def enter(self, patch: pytest.MonkeyPatch, figures: bool = False) -> None:
        """Makes it the working folder, and its store the one that is used. Figures are drawn in this process, or left
        blank: they, and the process that a job starts for them, take longer than a study here. Baselines are fitted
        quickly, few points of a space are tried, and MLflow does not go through all that is installed to warn of it.
        """
        quicken(patch)
        patch.setattr(search_study, "check_space", partial(check_space, draws=DRAWS))
        patch.setattr(mlflow_database, "_get_latest_schema_revision", newest_schema)
        patch.setattr(mlflow_environment, "warn_dependency_requirement_mismatches", lambda requirements: None)
        patch.setattr(DrawingProcess, "draw", lambda self, *request: draw_here(*request) if figures else BLANK)
        if not figures:
            patch.setattr(evaluation, "draw_here", lambda *request: BLANK)
        for where, name in () if figures else PAGES:
            blank = BLANK if name.endswith("png") else ""
            patch.setattr(where, name, partial(_blank, blank))
        patch.chdir(self.folder)
        for name in _LEFT_OUT:
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", self.uri)

    def yaml(self, path: str, tree: Mapping[str, Any], /, **changes: Any) -> Path:
        """Writes a tree of settings; ``changes`` are ``{dotted path with __ for dots: value}``."""
        changed = deepcopy(dict(tree))
        for name, value in changes.items():
            assign(changed, name.replace("__", "."), value)
        return self.text(path, dump_yaml(changed))

    def experiment(self, name: str = "tiny", tree: Mapping[str, Any] = TINY, /, **changes: Any) -> Path:
        """A file in ``experiments/``."""
        return self.yaml(f"experiments/{name}.yaml", tree, **changes)

    def text(self, path: str, content: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def statuses(self) -> dict[str, str]:
        """Status of each run, read from the database itself: a client takes ten times as long."""
        with closing(sqlite3.connect(f"file:{self.folder}/mlflow.db?mode=ro", uri=True)) as database:
            return dict(database.execute("SELECT run_uuid, status FROM runs"))

    def runs(self) -> list[Run]:
        """All runs of the store, the oldest first."""
        client = self.client
        places = [e.experiment_id for e in client.search_experiments()]
        return sorted(client.search_runs(places, max_results=1000), key=lambda r: r.info.start_time)

    def of_kind(self, kind: str) -> list[Run]:
        return [run for run in self.runs() if run.data.tags.get("fusion_lab.kind") == kind]

    def running(self) -> list[str]:
        return [run.info.run_id for run in self.runs() if run.info.status == "RUNNING"]

    def artifacts(self, run: Run) -> set[str]:
        """Paths of a run's files."""
        root = artifact_folder(run)
        return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}

    def studies(self) -> list[Path]:
        """Folders of studies and of interrupted trainings."""
        return sorted((self.folder / "studies").glob("*"))

    def halves(self) -> list[Path]:
        """Files and folders that were begun and not finished."""
        return sorted(self.folder.rglob("*.part"))

    def trials(self) -> list[FrozenTrial]:
        """The trials of the one study there is."""
        (study,) = self.studies()
        pruner = make_pruner(PrunerConfig(name="none"), 1, "")
        return open_study(study / "journal.log", study.name, pruner).get_trials()

    def best(self) -> dict[str, Any]:
        (study,) = self.studies()
        return load_yaml(study / "best.yaml")


def _blank(content: bytes | str, *parts: object, **options: object) -> bytes | str:
    return content


def artifact_folder(run: Run) -> Path:
    return Path(str(run.info.artifact_uri).removeprefix("file://"))


def make_store(folder: Path) -> Path:
    """An empty store, which takes seconds to make: made once, copied for each test."""
    with Store.open(f"sqlite:///{folder}/mlflow.db"):
        return folder


def values_of_streams(trials: list[FrozenTrial]) -> dict[int, tuple[dict[str, Any], float | None]]:
    """What each stream of randomness was used for and what came out; interrupted trials have no value."""
    return {t.user_attrs["stream"]: (t.params, t.value) for t in trials if t.state.name == "COMPLETE"}


def refused(stage: Stage, capsys: pytest.CaptureFixture[str], *command: str, says: tuple[str, ...]) -> str:
    """Runs a command that has to be refused; the line it was refused with.

    One line that holds each of ``says``, exit code 2, nothing half-written, no run left RUNNING.
    """
    before = set(stage.statuses())
    with pytest.raises(SystemExit) as stopped:
        main(list(command))
    out, err = capsys.readouterr()
    check_refusal(stage, before, stopped.value.code, out, err, says)
    return err


def check_refusal(stage: Stage, before: set[str], code: object, out: str, err: str, says: tuple[str, ...]) -> None:
    """The four things that hold whenever an input is refused."""
    assert code == 2, (code, err)
    assert len(err.splitlines()) == 1 and err.startswith("fusion-lab: error: "), err
    assert "Traceback" not in out + err
    for part in says:
        assert part in err, f"{part!r} is not in {err!r}"
    assert stage.studies() == [] and stage.halves() == []
    after = stage.statuses()
    assert "RUNNING" not in after.values()
    for run_id in set(after) - before:
        run = stage.client.get_run(run_id)
        assert run.info.status == "FAILED" and run.data.tags["failure"], run.data.tags
        assert run.data.metrics == {}


def at_epoch(patch: pytest.MonkeyPatch, what: str, epoch: int, act: Callable[[], object]) -> None:
    """Calls ``act`` when the training shown as ``what`` ("trial 1", or an experiment) has ended an epoch, once."""
    watch = Progress.watch
    acted: list[str] = []

    def watch_and_act(
        self: Progress, shown: str, tail: Callable[[], str] = lambda: "", score: str = "score"
    ) -> Callable[..., Decision]:
        tell = watch(self, shown, tail, score)

        def tell_and_act(evaluation: Evaluation) -> Decision:
            if (shown, evaluation.epoch) == (what, epoch) and not acted:
                acted.append(shown)
                act()
            return tell(evaluation)

        return tell_and_act

    patch.setattr(Progress, "watch", watch_and_act)


_SIGNALLED = """
import os, signal, sys
from pathlib import Path
import pytest
from jobs_stage import Stage, at_epoch
from fusion_lab.cli import main
figures, number, what, epoch, *command = sys.argv[1:]
with pytest.MonkeyPatch.context() as patch:
    if not figures:
        Stage(Path.cwd()).enter(patch)
    at_epoch(patch, what, int(epoch), lambda: os.kill(os.getpid(), int(number)))
    raise SystemExit(main(command))
"""


def run_command(stage: Stage, *command: str) -> subprocess.CompletedProcess[str]:
    """``python -m fusion_lab`` in a process of its own, with MLflow's default store."""
    return run_process(stage.folder, [sys.executable, "-m", "fusion_lab", *command])


def run_signalled(
    stage: Stage, number: int, what: str, epoch: int, *command: str, figures: bool = False
) -> subprocess.CompletedProcess[str]:
    """The same, but the process gets the signal ``number`` at the end of an epoch of ``what``; with ``figures`` it is
    a user's process in all else, otherwise figures are left blank as in :meth:`Stage.enter`.
    """
    arguments = ["figures" if figures else "", str(int(number)), what, str(epoch), *command]
    return run_process(stage.folder, [sys.executable, "-c", _SIGNALLED, *arguments])


def run_process(folder: Path, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A process in ``folder`` that imports this checkout's package and is ended if it takes too long."""
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    inherited = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    env = {**inherited, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
