"""What a final model makes of the rows that were locked away: asked when it is made, and of nothing that chose it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.data.portions import targets_of
from fusion_lab.evaluation.labelled import METRICS_TOLD
from fusion_lab.evaluation.metrics import RANGES
from fusion_lab.evaluation.over_tasks import over_tasks
from fusion_lab.evaluation.pooled import Part, pooled_interval, pooled_score
from fusion_lab.evaluation.thresholds import Thresholds
from fusion_lab.experiment import Materials
from fusion_lab.jobs.contests import on_holdout
from fusion_lab.jobs.results import NAMES
from fusion_lab.serving.package import Package
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.predictions import RowNames, prediction_bytes
from fusion_lab.tracking.runs import Run

FILE, PREDICTIONS = "locked/scores.json", "locked/predictions.parquet"
LOCKED = "holdout"
"""How entries of such rows are marked among predictions."""


def score_locked(package: Package, materials: Materials, run: Run) -> list[str]:
    """Scores a final model on the locked rows, gives the run its scores and answers, and returns lines to be shown;
    nothing where no rows are locked away.

    Per task the metrics of :data:`~fusion_lab.evaluation.labelled.METRICS_TOLD` with their 95 % intervals (jackknife
    over groups, or rows), of tasks with classes also how frequent each class is; and over the main tasks of one metric
    their mean and their lowest.
    """
    answers = on_holdout(package.members, materials, package.temperature)
    if answers is None:
        return []
    part = _part(answers, package, materials)
    tasks = {task.name: _scores(part, task) for task in materials.spec.tasks}
    over = _over_tasks(tasks, materials.spec)
    rows = len(part.name)
    run.json(FILE, {"model": package.label, "rows": rows, "tasks": tasks, "main tasks": over})
    names = RowNames.of(materials.dataset)
    entries = _predictions(answers, materials, np.flatnonzero(materials.folds.holdout))
    run.bytes(PREDICTIONS, lambda: prediction_bytes(entries, materials.spec, names))
    run.metrics(_metrics(tasks, over))
    return [f"{rows} locked rows, scored by the final model ({package.final}):", *_lines(tasks, over)]


def _part(answers: Mapping[str, np.ndarray], package: Package, materials: Materials) -> Part:
    rows, dataset = np.flatnonzero(materials.folds.holdout), materials.dataset
    entries = _predictions(answers, materials, np.arange(len(rows)))
    unit = dataset.group if dataset.group is not None else dataset.ids
    of_fold = {task: np.array([threshold]) for task, threshold in package.threshold.items()}
    return Part(entries, dataset.ids[rows], unit[rows], Thresholds(of_fold, {}))


def _predictions(answers: Mapping[str, np.ndarray], materials: Materials, row: np.ndarray) -> Predictions:
    rows = np.flatnonzero(materials.folds.holdout)
    batch = targets_of(materials.dataset, rows)
    target, known = ({name: leaf.numpy() for name, leaf in of.items()} for of in (batch.targets, batch.known))
    return Predictions(np.zeros(len(rows), int), np.full(len(rows), LOCKED), row, target, known, answers)


def _scores(part: Part, task: Task) -> dict[str, Any]:
    labels = part.rows(task)
    told: dict[str, Any] = {"known": len(labels.target)}
    if task.classes and len(labels.target):
        told["share"] = {name: float(np.mean(labels.target == code)) for code, name in enumerate(task.classes)}
    for metric in METRICS_TOLD[task.kind]:
        asked = (task,), {task.name: metric}
        value = pooled_score(part, *asked)
        low, high = pooled_interval(part, *asked, RANGES[metric])
        told[metric] = {"value": _number(value), "ci_low": _number(low), "ci_high": _number(high)}
    return told


def _over_tasks(tasks: Mapping[str, Mapping[str, Any]], spec: Spec) -> dict[str, dict[str, float | None]]:
    """Mean and lowest over the main tasks of the metrics that all of them have; nothing of a single one."""
    main = spec.main_tasks
    if len(main) < 2:
        return {}
    shared = [m for m in METRICS_TOLD[main[0].kind] if all(m in METRICS_TOLD[task.kind] for task in main)]
    over = {}
    for metric in shared:
        values = [tasks[task.name][metric]["value"] for task in main]
        each = [np.nan if value is None else value for value in values]
        over[metric] = {"mean": _number(float(over_tasks(each, 0.0))), "lowest": _number(float(over_tasks(each, 1.0)))}
    return over


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _metrics(
    tasks: Mapping[str, Mapping[str, Any]], over: Mapping[str, Mapping[str, float | None]]
) -> dict[str, float]:
    names = safe_parts(tasks)
    found = {
        f"locked/{names[task]}/{metric}": of[metric]["value"]
        for task, of in tasks.items()
        for metric in of
        if metric in RANGES
    }
    found |= {f"locked/{metric}": of["mean"] for metric, of in over.items()}
    found |= {f"locked/min_{metric}": of["lowest"] for metric, of in over.items()}
    return {name: value for name, value in found.items() if value is not None}


def _lines(tasks: Mapping[str, Mapping[str, Any]], over: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    lines = []
    for name, of in tasks.items():
        shares = of.get("share", {})
        share = f", {list(shares.values())[-1]:.1%} {list(shares)[-1]}" if len(shares) == 2 else ""
        told = "  ".join(_told(metric, of[metric]) for metric in of if metric in RANGES)
        lines.append(f"  {name} ({of['known']} known{share})  {told}")
    for metric, of in over.items():
        if of["mean"] is not None and metric in ("auroc", "ap"):
            lines.append(f"  over the main tasks: {NAMES[metric]} {of['mean']:.3f}, lowest {of['lowest']:.3f}")
    return lines


def _told(metric: str, of: Mapping[str, float | None]) -> str:
    name = NAMES[metric]
    if of["value"] is None:
        return f"{name} undefined"
    interval = "" if of["ci_low"] is None else f" ({of['ci_low']:.3f} to {of['ci_high']:.3f})"
    return f"{name} {of['value']:.3f}{interval}"
