"""Whether a feature of the predicted day is that day's label: means over a window, which every data set is checked by,
do not show it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion_lab.contracts import DataError, Task
from fusion_lab.data.checks import FEWEST_ROWS, separation
from fusion_lab.data.relapse.windows import Days, Windows


def refuse_copies(days: Days) -> None:
    """
    Raises:
        DataError: a feature is a label, or its opposite, on every day on which both are known. To be asked before
            values are standardised, which a copy does not survive as one.
    """
    for task in days.tasks:
        known = days.known[task.name]
        for name, columns in days.features.items():
            _refuse_copy(
                task,
                name,
                columns,
                days.values[name][known],
                days.observed[name][known],
                days.targets[task.name][known] == 1,
            )


def check_last_day(windows: Windows, threshold: float) -> tuple[str, ...]:
    """Notes on features whose value on the predicted day, or whose absence there, alone tells its label: by an AUROC
    above ``threshold``.

    Raises:
        DataError: a feature is a label, or its opposite, on every day on which both are known.
    """
    if windows.length == 1:  # a window is its last day
        return ()
    return tuple(
        note for task in windows.tasks for name in windows.features for note in _told(windows, task, name, threshold)
    )


def _told(windows: Windows, task: Task, modality: str, threshold: float) -> Iterator[str]:
    known = windows.known[task.name]
    positive = windows.targets[task.name][known] == 1
    values, seen = (of[modality][known, -1] for of in (windows.inputs, windows.observed))
    names = windows.features[modality]
    _refuse_copy(task, modality, names, values, seen, positive)
    everywhere = np.ones_like(seen)
    for what, candidates, counts in (("", values, seen), ("a missing cell of ", ~seen, everywhere)):
        scores = np.nan_to_num(separation(candidates, counts, positive))
        for i in np.flatnonzero(scores > threshold):
            yield (
                f"{modality}: {what}{names[i]} of the predicted day alone tells {task.classes[1]} of task {task.name} "
                f"(AUROC {scores[i]:.3f} over all rows): is it known before the outcome?"
            )


def _refuse_copy(
    task: Task, modality: str, names: tuple[str, ...], values: np.ndarray, seen: np.ndarray, positive: np.ndarray
) -> None:
    """Of the days with a known label: ``values`` and ``seen`` [n,F], ``positive`` [n]."""
    for i in np.flatnonzero(seen.sum(axis=0) >= FEWEST_ROWS):
        own, told = values[seen[:, i], i], positive[seen[:, i]]
        if len(np.unique(told)) > 1 and (np.array_equal(own, told) or np.array_equal(own, ~told)):
            raise DataError(
                f"data: feature {names[i]!r} of modality {modality!r}: expected what is known beside the label, found "
                f"the values of task {task.name!r} on every day where both are known (leave its column out)"
            )
