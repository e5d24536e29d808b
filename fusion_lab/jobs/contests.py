"""A model against others on the same rows: the locked holdout where there is one, else test rows of the same folds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.data.portions import targets_of
from fusion_lab.evaluation.calibration import with_temperature
from fusion_lab.evaluation.gates import Contest
from fusion_lab.evaluation.metrics import measure
from fusion_lab.evaluation.over_tasks import over_tasks
from fusion_lab.evaluation.paired import Paired, paired_folds, paired_rows
from fusion_lab.experiment import Materials
from fusion_lab.jobs.results import Scored, headline_metric, headline_name
from fusion_lab.serving.answers import ROWS_AT_ONCE
from fusion_lab.serving.members import Members
from fusion_lab.training.plan import Goal


@dataclass(frozen=True)
class Entrant:
    """Who takes part: out-of-fold predictions and, where rows are locked away, the mean answer to these."""

    name: str
    predictions: Predictions
    holdout: Mapping[str, np.ndarray] | None = None  # {task: [H,...]}
    selected: bool = False  # chosen by a search on the same folds


def contest(ours: Entrant, other: Entrant, materials: Materials, goal: Goal | str) -> Contest:
    """Both on the holdout rows where both have answered these, else on the test rows of the folds, by what ``goal``, or
    the monitor of this name, has comparisons go by.
    """
    goal = Goal.of(goal)
    if ours.holdout is not None and other.holdout is not None:
        return _on_holdout(ours.holdout, other, materials, goal)
    return _on_folds(ours, other, materials, goal)


def on_holdout(
    members: Members, materials: Materials, temperature: Mapping[str, float] | None = None
) -> dict[str, np.ndarray] | None:
    """The members' mean answer to the rows that are locked away, ``None`` where none are."""
    rows = np.flatnonzero(materials.folds.holdout)
    if not len(rows):
        return None
    parts = [
        members.answer(materials.dataset.gather(torch.from_numpy(part)).without_targets()).scores
        for part in np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE))
    ]
    scores = {task: np.concatenate([part[task] for part in parts], axis=1) for task in parts[0]}
    tasks = {task.name: (task, (temperature or {}).get(task.name, 1.0)) for task in materials.spec.tasks}
    return {name: with_temperature(task, scores[name], divisor).mean(0) for name, (task, divisor) in tasks.items()}


def _on_folds(ours: Entrant, other: Entrant, materials: Materials, goal: Goal) -> Contest:
    first, second = (
        Scored.of(e.name, "model", e.predictions.of("test"), materials, goal).headlines["test"] for e in (ours, other)
    )
    folds, name = materials.folds, headline_name(materials.spec, goal)
    chosen = ", chosen by a search on them" if ours.selected else ""
    if first.undefined or second.undefined or len(folds) < 2:
        ours_pooled, theirs_pooled, paired = _on_pooled_rows(
            ours.predictions.of("test"), other.predictions.of("test"), materials, goal
        )
        rows = f"the test rows of {len(folds)} folds together{chosen}"
        return Contest(other.name, name, rows, ours_pooled, theirs_pooled, paired)
    sizes = float(folds.train.sum(1).mean()), float(folds.test.sum(1).mean())
    paired = paired_folds(first.folds, second.folds, *sizes)
    return Contest(other.name, name, f"test rows of {len(folds)} folds{chosen}", first.value, second.value, paired)


def _on_holdout(answers: Mapping[str, np.ndarray], other: Entrant, materials: Materials, goal: Goal) -> Contest:
    rows = np.flatnonzero(materials.folds.holdout)
    batch = targets_of(materials.dataset, rows)
    target, known = ({t: leaf.numpy() for t, leaf in part.items()} for part in (batch.targets, batch.known))
    group = materials.dataset.group
    theirs = other.holdout
    assert theirs is not None
    both = [_read(scores, materials.spec, goal) for scores in (answers, theirs)]
    paired = _paired(*both, target, known, None if group is None else group[rows], materials.spec, goal)
    values = [_score(scores, target, known, materials.spec, goal) for scores in both]
    return Contest(
        other.name, headline_name(materials.spec, goal), f"{len(rows)} holdout rows", values[0], values[1], paired
    )


def _on_pooled_rows(
    ours: Predictions, other: Predictions, materials: Materials, goal: Goal
) -> tuple[float, float, Paired]:
    """Both scores and their comparison on all folds' test rows together: where a fold has no score, or is alone.

    A row that several folds test (repeats) stays together with itself.
    """
    order = [np.lexsort((part.row, part.fold)) for part in (ours, other)]
    rows = ours.row[order[0]]
    assert np.array_equal(rows, other.row[order[1]]), "the same rows in the same folds"
    first, second = (
        _read({t: part.score[t][own] for t in part.score}, materials.spec, goal)
        for part, own in zip((ours, other), order, strict=True)
    )
    target, known = ({t: part[t][order[0]] for t in part} for part in (ours.target, ours.known))
    group = rows if materials.dataset.group is None else materials.dataset.group[rows]
    values = [_score(scores, target, known, materials.spec, goal) for scores in (first, second)]
    return values[0], values[1], _paired(first, second, target, known, group, materials.spec, goal)


def _paired(
    ours: Mapping[str, np.ndarray],
    other: Mapping[str, np.ndarray],
    target: Mapping[str, np.ndarray],
    known: Mapping[str, np.ndarray],
    group: np.ndarray | None,
    spec: Spec,
    goal: Goal,
) -> Paired:
    """Rows by their number, so that the answers to all tasks of a row are exchanged together."""
    count = len(next(iter(target.values())))
    both = {task: np.stack([ours[task], other[task]]) for task in ours}
    numbers = np.arange(count)

    def score(rows: np.ndarray, whose: np.ndarray) -> float:
        """``rows [P]`` are row numbers, ``whose [P]`` 0 for ours and 1 for the other's answer."""
        index = rows.astype(int)
        taken = {task: found[whose.astype(int), index] for task, found in both.items()}
        targets, seen = ({t: part[t][index] for t in part} for part in (target, known))
        return _score(taken, targets, seen, spec, goal)

    return paired_rows(score, numbers, np.zeros(count), np.ones(count), group)


def _score(
    scores: Mapping[str, np.ndarray],
    target: Mapping[str, np.ndarray],
    known: Mapping[str, np.ndarray],
    spec: Spec,
    goal: Goal,
) -> float:
    """The main tasks' metric that comparisons go by as one number, of what :func:`_read` gives; NaN where one has no
    value.
    """
    values = []
    for task in spec.main_tasks:
        seen = known[task.name].astype(bool)
        labels, answers = target[task.name][seen], scores[task.name][seen]
        if _is_macro(task, goal):
            values.append(_macro_f1(task, labels, answers))
        else:
            values.append(measure(task, headline_metric(task, goal), labels, answers, 0.5))
    return float(over_tasks(values, goal.min_weight))


def _read(scores: Mapping[str, np.ndarray], spec: Spec, goal: Goal) -> dict[str, np.ndarray]:
    """What the metrics read of the scores: macro F1 the most probable class, int, -1 where they are not finite; others
    the scores. Read once, for the metrics are computed thousands of times.
    """
    read = {task.name: scores[task.name] for task in spec.main_tasks}
    for task in spec.main_tasks:
        if _is_macro(task, goal):
            found = scores[task.name]
            read[task.name] = np.where(np.isfinite(found).all(-1), found.argmax(-1), -1)
    return read


def _is_macro(task: Task, goal: Goal) -> bool:
    return task.kind == "multiclass" and headline_metric(task, goal) == "f1"


def _macro_f1(task: Task, target: np.ndarray, chosen: np.ndarray) -> float:
    """Macro F1 of the chosen classes, from how often each was taken for each."""
    classes = len(task.classes)
    if not len(chosen) or chosen.min() < 0:
        return math.nan
    counts = np.bincount(target.astype(np.int64) * classes + chosen, minlength=classes**2).reshape(classes, classes)
    rows = counts.sum(1)
    return float(np.mean(2 * counts.diagonal() / (rows + counts.sum(0)))) if rows.all() else math.nan
