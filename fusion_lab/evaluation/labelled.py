"""The rows of a task whose label is known, and the few scores that configurations are told by when something about
their inputs is changed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.metrics import measure
from fusion_lab.evaluation.thresholds import Thresholds

METRICS_TOLD: dict[str, tuple[str, ...]] = {
    "binary": ("auroc", "ap", "accuracy", "f1"),  # classes are seldom of one size: accuracy hides what is added
    "multiclass": ("accuracy", "f1", "auroc", "ap"),
    "regression": ("r2", "mae"),
}
"""By kind of task, the first one first: what the importance of a modality goes by."""


class Labelled(NamedTuple):
    """Known labels of one task, arrays [P]; ``score`` may be [P,C]. The steps of a task per step count as rows."""

    fold: np.ndarray
    row: np.ndarray
    target: np.ndarray
    score: np.ndarray
    threshold: np.ndarray

    def of(self, keep: np.ndarray) -> Labelled:
        """The labels marked True in ``keep``, bool [P]."""
        return Labelled(*(part[keep] for part in self))

    def chosen(self) -> np.ndarray:
        """Code of the class that each is called, int [P]: the most probable one, or by the threshold."""
        if self.score.ndim > 1:
            return self.score.argmax(-1)
        return (self.score >= self.threshold).astype(int)


class Told(NamedTuple):
    """A metric of the rows of all folds together, and its mean over folds: NaN where it is undefined in one."""

    pooled: float
    mean: float


def labelled(part: Predictions, task: Task, thresholds: Thresholds) -> Labelled:
    """The known labels among some entries, each with its fold's threshold (0.5 without one)."""
    known = part.known[task.name]
    entry = np.nonzero(known)[0]
    fold = part.fold[entry]
    of_fold = thresholds.values.get(task.name)
    threshold = np.full(len(entry), 0.5) if of_fold is None else of_fold[fold]
    return Labelled(fold, part.row[entry], part.target[task.name][known], part.score[task.name][known], threshold)


def told_scores(part: Predictions, spec: Spec, thresholds: Thresholds) -> dict[str, dict[str, Told]]:
    """``{task: {metric: Told}}`` of :data:`METRICS_TOLD`."""
    folds = np.unique(part.fold)  # one without a known label has no score, and leaves the mean without a value
    return {task.name: _told(labelled(part, task, thresholds), task, folds) for task in spec.tasks}


def _told(rows: Labelled, task: Task, folds: np.ndarray) -> dict[str, Told]:
    of_fold = [rows.of(rows.fold == fold) for fold in folds]
    told = {}
    for metric in METRICS_TOLD[task.kind]:
        values = [_measure(task, metric, of) for of in of_fold] or [np.nan]
        told[metric] = Told(_measure(task, metric, rows), float(np.mean(values)))
    return told


def _measure(task: Task, metric: str, rows: Labelled) -> float:
    return measure(task, metric, rows.target, rows.score, rows.threshold)
