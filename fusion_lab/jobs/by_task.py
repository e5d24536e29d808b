"""Each task by itself: its score and interval, and whether guessing would do as well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fusion_lab.contracts import Spec, Task
from fusion_lab.jobs.results import NAMES, Scored, aligned

GUESSING = {"auroc": 0.5, "r2": 0.0}
"""What each score is of answers that know nothing of a row."""
MOST_TASKS = 24
"""Tasks that a table shows: of more, the first ones."""


class TaskScore(NamedTuple):
    """A task's score with its 95 % interval, NaN where there is none: its mean over folds, or that of all folds' rows
    together where a fold leaves it undefined.
    """

    task: Task
    metric: str
    value: float
    low: float
    high: float

    @property
    def guessed(self) -> bool:
        """Whether the interval holds what guessing gives, or lies below it."""
        return self.low <= GUESSING[self.metric]


def task_scores(scored: Scored, spec: Spec, split: str) -> list[TaskScore]:
    """AUROC of tasks with classes, R2 of the others."""
    summary = scored.summary.set_index(["split", "task", "metric"])
    found = []
    for task in spec.tasks:
        metric = "auroc" if task.classes else "r2"
        if (split, task.name, metric) in summary.index:
            line = summary.loc[(split, task.name, metric)]
            own = (
                ("mean", "ci_low", "ci_high")
                if math.isfinite(line["mean"])
                else ("pooled", "pooled_ci_low", "pooled_ci_high")
            )
            found.append(TaskScore(task, metric, *(float(line[name]) for name in own)))
    return found


def task_lines(scores: Sequence[TaskScore], split: str) -> list[str]:
    """A table of several tasks, whose rows are called ``split``, and which of them cannot be told from guessing."""
    lines = list(guessing_lines(scores))
    if len(scores) < 2:
        return lines
    body = [
        [
            f"{score.task.name} (auxiliary)" if score.task.auxiliary else score.task.name,
            f"{NAMES[score.metric]} {score.value:.3f}"
            if math.isfinite(score.value)
            else f"{NAMES[score.metric]} undefined",
            f"{score.low:.3f} to {score.high:.3f}" if math.isfinite(score.low) else "",
        ]
        for score in scores[:MOST_TASKS]
    ]
    more = [f"and {len(scores) - MOST_TASKS} tasks more"] if len(scores) > MOST_TASKS else []
    return [*aligned([["each task", split, "95 % interval"], *body]), *more, *lines]


def guessing_lines(scores: Sequence[TaskScore]) -> Iterator[str]:
    """One line per kind of score of which there are such tasks."""
    for metric, chance in GUESSING.items():
        names = [score.task.name for score in scores if score.metric == metric and score.guessed]
        if names:
            yield f"not told apart from guessing ({NAMES[metric]} {chance:g}): {', '.join(names)}"
