"""Small configurations, trained and evaluated, and what an evaluation leaves in its run."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
from jobs_stage import TINY, artifact_folder

from fusion_lab.evaluation.settings import EvaluationConfig
from fusion_lab.experiment import Materials, override, resolve
from fusion_lab.jobs.evaluation import evaluate
from fusion_lab.jobs.final import Trained
from fusion_lab.jobs.progress import Progress
from fusion_lab.report.drawing import Draw
from fusion_lab.tracking.store import Store
from fusion_lab.training import cross_validate

TASKS = {"outcome": {"kind": "binary"}, "grade": {"kind": "multiclass"}, "dose": {"kind": "regression"}}
CONFIG = EvaluationConfig(mc_samples=3, latency_rows=5)


def made(changes=None, recordings: bool = True) -> tuple[Trained, Materials]:
    tree = override({"name": "tiny", **TINY}, {"data.tasks": TASKS, "data.unknown_labels": 0.1, **(changes or {})})
    experiment = resolve(tree, "tiny")
    materials = Materials.load(experiment)
    if recordings:
        names = np.array([f"recording {i // 2}" for i in range(len(materials.dataset))])
        # two neighbours are of one recording, and of one subject; those whose labels differ have none as a whole
        materials = Materials(replace(materials.dataset, recording=names, group=names), materials.folds)
    return Trained.of(experiment, cross_validate(materials.plan(experiment))), materials


class Left:
    """What a run was left with."""

    def __init__(self, stage, run_id: str, lines: list[str]) -> None:
        run = stage.client.get_run(run_id)
        self.lines, self.metrics, self.folder = lines, run.data.metrics, artifact_folder(run) / "evaluation"

    @property
    def files(self) -> set[str]:
        return {file.name for file in self.folder.glob("*")}

    def json(self, name: str):
        return json.loads((self.folder / name).read_text())


def evaluated(
    stage, trained: Trained, materials: Materials, config: EvaluationConfig = CONFIG, draw: Draw | None = None
) -> Left:
    with Store.open(stage.uri) as store:
        with store.start_run(store.experiment_id("tiny"), "evaluated") as run:
            lines = evaluate(trained, materials, config, run, Progress(io.StringIO()), draw)
        store.flush()
    return Left(stage, run.id, lines)
