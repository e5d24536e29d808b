"""Predictions of whole recordings, which are means over their parts, and accuracy by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.labelled import Labelled, labelled
from fusion_lab.evaluation.thresholds import Thresholds


def by_recording(predictions: Predictions, recording: np.ndarray) -> tuple[Predictions, np.ndarray]:
    """Predictions whose rows are recordings, and the recordings' names: ``row`` is a place among them.

    ``recording``, str ``[R]``, is the data set's. Probabilities, or values, are averaged over a recording's rows in a
    fold and split; those of a task per step over the steps whose label is known, as others may be padding, and become
    one per recording. The target is what its known labels have in common, unknown where they differ (see
    :func:`mixed_recordings`).
    """
    names, of_row = np.unique(recording, return_inverse=True)
    place = np.stack([predictions.fold, np.unique(predictions.split, return_inverse=True)[1], of_row[predictions.row]])
    _, first, entry = np.unique(place, axis=1, return_index=True, return_inverse=True)
    entry = entry.reshape(-1)
    target, known, score = {}, {}, {}
    for task in predictions.target:
        target[task], known[task] = _common_label(predictions, task, entry, len(first))
        score[task] = _mean_score(predictions, task, entry, len(first))
    told = Predictions(predictions.fold[first], predictions.split[first], place[2, first], target, known, score)
    return told, names


def mixed_recordings(predictions: Predictions, recording: np.ndarray) -> dict[str, tuple[str, ...]]:
    """``{task: recordings whose known labels differ}``, which have no label of their own."""
    told, names = by_recording(predictions, recording)
    mixed = {}
    for task, known in predictions.known.items():
        labelled_rows = recording[predictions.row[np.nonzero(known)[0]]]
        mixed[task] = tuple(np.setdiff1d(labelled_rows, names[told.row[told.known[task]]]).tolist())
    return mixed


def group_table(
    part: Predictions, spec: Spec, thresholds: Thresholds, group: np.ndarray, recording: np.ndarray | None = None
) -> pd.DataFrame:
    """A line per task and group of the entries: ``task``, ``group``, ``rows`` (known labels), ``recordings``; then
    ``accuracy`` and ``recall <class>`` of a task with classes, empty where the group has no row of it, or ``mae``.

    ``group`` and ``recording`` (None: not counted), str ``[R]``, are the data set's.
    """
    lines = []
    for task in spec.tasks:
        rows = labelled(part, task, thresholds)
        for name in np.unique(group[part.row]).tolist():
            lines.append(_group_line(task, name, rows.of(group[rows.row] == name), recording))
    return pd.DataFrame(lines)


def _group_line(task: Task, name: str, rows: Labelled, recording: np.ndarray | None) -> dict[str, Any]:
    line: dict[str, Any] = {"task": task.name, "group": name, "rows": len(rows.row)}
    if recording is not None:
        line["recordings"] = len(np.unique(recording[rows.row]))
    if not task.classes:
        return line | {"mae": _mean(np.abs(rows.target - rows.score))}
    right = rows.chosen() == rows.target
    recall = {f"recall {c}": _mean(right[rows.target == code]) for code, c in enumerate(task.classes)}
    return line | {"accuracy": _mean(right)} | recall


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _common_label(predictions: Predictions, task: str, entry: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    target, known = predictions.target[task], predictions.known[task]
    of = entry[np.nonzero(known)[0]]
    lowest, highest = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(lowest, of, target[known])
    np.maximum.at(highest, of, target[known])
    common = lowest == highest  # of no known label the one is inf, the other -inf
    return np.where(common, lowest, 0.0), common


def _mean_score(predictions: Predictions, task: str, entry: np.ndarray, count: int) -> np.ndarray:
    """float64 [G] or [G,C]; 0 where nothing counts."""
    score, known = predictions.score[task].astype(float), predictions.known[task]
    counts = known if known.ndim > 1 else np.ones(len(known), bool)
    of = entry[np.nonzero(counts)[0]]
    total, number = np.zeros((count, *score.shape[known.ndim :])), np.zeros(count)
    np.add.at(total, of, score[counts])
    np.add.at(number, of, 1.0)
    return total / np.maximum(number, 1.0).reshape(-1, *[1] * (total.ndim - 1))
