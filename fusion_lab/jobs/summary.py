"""``training_summary.json``: a whole training on one page that a program reads."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from fusion_lab.report.curves import curves_dict, metric_of, task_of
from fusion_lab.tracking.trial import Outcome, checkpoint_files
from fusion_lab.training.results import FoldResult

SUMMARY = "training_summary.json"
NOTE = (
    "best: the highest validation score of any epoch (the lowest loss), which is optimistic; restored: of the weights "
    "that the folds answer with, whose scores on validation and test rows are those of the run"
)

Choice = Callable[[FoldResult, np.ndarray], int]
"""The epoch, from 1, that a fold's curve ``[E]`` is read at (the higher its values the better); 0 for none."""


def training_summary(outcome: Outcome) -> dict[str, object]:
    """What was trained on how many rows, how, how long, and what came out.

    ``best`` and ``restored`` hold for every task, for the mean over tasks and for the loss a value and its epoch per
    fold, and the mean over folds; a score that is undefined is not finite, and has no epoch. ``folds`` are the curves,
    ``checkpoints`` the files of weights, ``{name: {fold: file and epoch}}``.
    """
    result, group = outcome.result, outcome.names.group
    main = [task.name for task in outcome.spec.main_tasks]
    return {
        "experiment": outcome.config.get("name"),
        "rows": len(outcome.ids),
        "groups": None if group is None else len(np.unique(group)),
        "parameters": result.parameters,
        "seconds": result.seconds,
        "execution": result.execution,
        "note": NOTE,
        "best": _read(result.folds, main, _best),
        "restored": _read(result.folds, main, lambda fold, curve: fold.best_epoch),
        "checkpoints": _files(result.folds),
        "notes": list(result.notes),
        "config": outcome.config,
        **curves_dict(result.folds),
    }


def _best(fold: FoldResult, curve: np.ndarray) -> int:
    return int(np.nanargmax(curve)) + 1 if np.isfinite(curve).any() else 0


def _read(folds: Sequence[FoldResult], main: Sequence[str], choose: Choice) -> dict[str, object]:
    names: dict[str, str] = {}
    for name in filter(task_of, folds[0].history[0]):
        names.setdefault(task_of(name), name)  # the watched score is a task's first curve
    tasks = {task: [_curve(fold, name) for fold in folds] for task, name in names.items()}
    means = [np.mean(curves, axis=0) for curves in zip(*(tasks[task] for task in main), strict=True)]
    metrics = ", ".join(dict.fromkeys(metric_of(names[task]) for task in main))
    losses = [_curve(fold, "val/loss") for fold in folds]
    return {
        "tasks": {task: _entry(folds, metric_of(names[task]), curves, choose) for task, curves in tasks.items()},
        "mean": _entry(folds, metrics, means, choose),
        "loss": _entry(folds, "loss", losses, lambda fold, curve: choose(fold, -curve)),
    }


def _curve(fold: FoldResult, name: str) -> np.ndarray:
    return np.array([row.get(name, math.nan) for row in fold.history])


def _entry(folds: Sequence[FoldResult], metric: str, curves: Sequence[np.ndarray], choose: Choice) -> dict[str, object]:
    """Each fold's curve at the chosen epoch, and the mean over folds."""
    epochs = [choose(fold, curve) for fold, curve in zip(folds, curves, strict=True)]
    values = [float(curve[e - 1]) if e else math.nan for e, curve in zip(epochs, curves, strict=True)]
    lines = zip(folds, epochs, values, strict=True)
    return {
        "metric": metric,
        "mean": float(np.mean(values)),
        "folds": [{"fold": fold.name, "epoch": epoch or None, "value": value} for fold, epoch, value in lines],
    }


def _files(folds: Sequence[FoldResult]) -> dict[str, dict[str, dict[str, object]]]:
    files: dict[str, dict[str, dict[str, object]]] = defaultdict(dict)
    for file in checkpoint_files(folds):
        files[file.name][file.fold] = {"file": f"{file.path}.safetensors", "epoch": file.epoch}
    return dict(files)
