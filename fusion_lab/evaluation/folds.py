"""Scores of a cross-validation: per fold, over folds, and the one number a search looks at."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from fusion_lab.config import nearest
from fusion_lab.contracts import ConfigError, DataError, Folds, Predictions, Spec, Task
from fusion_lab.evaluation.intervals import blocks, corrected_interval, jackknife_interval
from fusion_lab.evaluation.metrics import METRICS, RANGES, THRESHOLDED, evaluate, measure, why_undefined
from fusion_lab.evaluation.over_tasks import over_folds, over_tasks
from fusion_lab.evaluation.thresholds import Thresholds, fold_thresholds

SPLITS = ("val", "test")
"""What is scored unless more is asked: ``"holdout"``, each fold's model on the locked rows, is not."""

ALL_TASKS = ""
"""The task name of rows that hold the mean over main tasks."""

LOWEST = {"min_ap": "ap"}
"""What stands beside a mean over tasks: the lowest of them, where there are two or more."""


@dataclass(frozen=True)
class FoldScores:
    """Scores in long form; the task ``""`` is the mean over main tasks, of the metrics that all of them have, and of
    several main tasks the lowest average precision, ``min_ap``.

    ``table``: fold, split, task, metric, value (NaN = undefined), n (rows with a known label), n_positive (of a binary
    task, else missing), note. ``pooled``: split, task, metric, pooled: the score of all folds' rows taken together.
    ``left_out``: of what is undefined in a fold, pooled scores ``[G]`` without each of G groups (data without groups:
    rows), by (split, task, metric); many are left out several at a time.
    """

    table: pd.DataFrame
    pooled: pd.DataFrame
    left_out: Mapping[tuple[str, str, str], np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Score:
    """One row of :attr:`FoldScores.table`."""

    fold: int
    split: str
    task: str
    metric: str
    value: float
    n: int
    n_positive: int | None
    note: str


@dataclass(frozen=True)
class _Rows:
    """Rows of one task whose label is known, each with its threshold: arrays [P]; ``score`` may be [P,C]."""

    target: np.ndarray
    score: np.ndarray
    threshold: np.ndarray


def score_folds(
    predictions: Predictions, spec: Spec, splits: Sequence[str] = SPLITS, group: np.ndarray | None = None
) -> FoldScores:
    """Every metric of every task, fold and split, thresholds taken from each fold's validation rows only.

    ``group`` ``[R]``, of the data set: rows that belong together, for the intervals of pooled scores.
    """
    thresholds = fold_thresholds(predictions, spec)
    scores: list[_Score] = []
    pooled: list[dict[str, Any]] = []
    left_out: dict[tuple[str, str, str], np.ndarray] = {}
    for split in splits:
        part = predictions.of(split)
        if len(part.fold):
            own = [s for fold in _fold_numbers(predictions) for s in _score_fold(part, spec, thresholds, split, fold)]
            together = _score_pooled(part, spec, thresholds)
            scores += own
            pooled += [{"split": split, "task": t, "metric": m, "pooled": value} for (t, m), value in together.items()]
            undefined = {
                (s.task, s.metric) for s in own if np.isnan(s.value) and np.isfinite(together[s.task, s.metric])
            }
            without = _without_each(part, spec, thresholds, group, {metric for _, metric in undefined})
            left_out |= {(split, *place): without[place] for place in undefined}
    table = pd.DataFrame([asdict(score) for score in scores], columns=list(_Score.__dataclass_fields__))
    return FoldScores(
        table.astype({"value": float, "n_positive": "Int64"}),
        pd.DataFrame(pooled, columns=["split", "task", "metric", "pooled"]),
        left_out,
    )


def summarise(scores: FoldScores, folds: Folds, level: float = 0.95) -> pd.DataFrame:
    """Per split, task and metric: mean, std (ddof 1), ci_low, ci_high, k, undefined, pooled, pooled_ci_low,
    pooled_ci_high, note.

    The mean is one over all ``k`` folds or it is NaN: a fold whose score is undefined is counted in ``undefined`` and
    never skipped; ``pooled``, the score of all folds' rows taken together, is there in either case. Intervals are those
    of :func:`~fusion_lab.evaluation.intervals.corrected_interval`, clipped to the metric's range; a holdout has none,
    being the same rows in every fold: how its scores differ does not tell how other rows would. Where a fold's score is
    undefined the pooled one has an interval, that of :func:`~fusion_lab.evaluation.intervals.jackknife_interval`.
    """
    train = float(folds.train.sum(1).mean())
    sizes = {"val": float(folds.val.sum(1).mean()), "test": float(folds.test.sum(1).mean())}
    columns = (scores.table[name].tolist() for name in ("split", "task", "metric", "fold", "value", "note"))
    groups = _grouped(((split, task, metric), rest) for split, task, metric, *rest in zip(*columns, strict=True))
    summary = []
    for (split, task, metric), rows in groups.items():
        values = np.array([value for _, value, _ in rows], dtype=float)
        interval = corrected_interval(values, train, sizes[split], level) if split in sizes else (np.nan, np.nan)
        low, high = np.clip(interval, *_range(metric))
        summary.append(
            {
                "split": split,
                "task": task,
                "metric": metric,
                "mean": values.mean(),
                "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                "ci_low": low,
                "ci_high": high,
                "k": len(values),
                "undefined": int(np.isnan(values).sum()),
                "note": _tell_folds((note, fold) for fold, _, note in rows if note),
            }
        )
    places = ["split", "task", "metric"]
    merged = pd.DataFrame(summary).merge(scores.pooled, on=places, how="left", validate="1:1")
    merged[["pooled_ci_low", "pooled_ci_high"]] = [
        jackknife_interval(value, scores.left_out.get((split, task, metric), np.empty(0)), _range(metric), level)
        for split, task, metric, value in merged[[*places, "pooled"]].itertuples(index=False, name=None)
    ]
    return merged


def objective(
    predictions: Predictions,
    spec: Spec,
    metric: str = "auroc",
    undefined: Literal["pooled", "refuse"] = "pooled",
    min_weight: float = 0.0,
) -> tuple[float, tuple[str, ...]]:
    """Mean over folds of a validation metric's mean over main tasks, of which the lowest takes the share ``min_weight``
    where there is one, and what a reader should know of it.

    A task whose metric is undefined in some fold counts with its value on the validation rows of all folds instead
    (``"pooled"``), beside the others' means over folds, which the notes say. Scores that are not finite make the
    objective NaN. Computed from predictions alone: what :mod:`fusion_lab.training.monitor` watches, all folds at once,
    is held against it in tests.

    Raises:
        ConfigError: a task has no such metric.
        DataError: it is undefined in a fold and ``undefined`` is ``"refuse"``, or on the pooled rows too.
    """
    check_metric(spec, metric)
    binary = any(task.kind == "binary" for task in spec.main_tasks)
    thresholds = fold_thresholds(predictions, spec) if binary and metric in THRESHOLDED else Thresholds({}, {})
    validation = predictions.of("val")
    assert len(validation.fold), "an objective needs validation rows"
    told = [_task_objective(validation, task, thresholds, metric, undefined) for task in spec.main_tasks]
    folds, pooled, notes = zip(*told, strict=True)
    return over_folds(folds, pooled, min_weight), tuple(note for note in notes if note)


def check_metric(spec: Spec, metric: str) -> None:
    """Refuses a metric that some main task of ``spec`` does not have.

    Raises:
        ConfigError: naming the task and the nearest metric of its kind.
    """
    for task in spec.main_tasks:
        known = list(METRICS[task.kind])
        if metric not in known:
            expected = f"expected a metric of the {task.kind} task {task.name!r}"
            raise ConfigError(f"objective: {expected}, found {metric!r}{nearest(metric, known)}")


def _task_objective(
    validation: Predictions, task: Task, thresholds: Thresholds, metric: str, undefined: str
) -> tuple[np.ndarray, float, str]:
    """Values of the folds ``[K]``, the one that stands in for them where one is undefined, and a note that says so."""
    folds = _fold_numbers(validation)
    rows = [_known_rows(validation.of("val", fold), task, thresholds) for fold in folds]
    values = np.array([measure(task, metric, r.target, r.score, r.threshold) for r in rows])
    missing = np.flatnonzero(np.isnan(values))
    if not len(missing):
        return values, np.nan, ""
    if not all(np.isfinite(r.score).all() for r in rows):
        return values, np.nan, f"{task.name}: the model's scores are not finite"
    where = _tell_folds((why_undefined(task, rows[i].target, rows[i].score), folds[i]) for i in missing)
    if undefined == "refuse":
        expected = f"expected validation {metric} to be defined in every fold"
        raise DataError(f"task {task.name!r}: {expected}, found {where}")
    pooled = _known_rows(validation, task, thresholds)
    value = measure(task, metric, pooled.target, pooled.score, pooled.threshold)
    if np.isnan(value):
        reason = why_undefined(task, pooled.target, pooled.score)
        raise DataError(f"task {task.name!r}: expected a validation {metric}, found {reason} in any fold")
    note = f"{task.name}: validation {metric} is that of all folds' rows together, being undefined in {where}"
    return values, value, note


def _score_fold(part: Predictions, spec: Spec, thresholds: Thresholds, split: str, fold: int) -> list[_Score]:
    part = part.where(part.fold == fold)
    scores = [score for task in spec.tasks for score in _score_task(part, task, thresholds, split, fold)]
    main = {task.name for task in spec.main_tasks}
    deciding = [score for score in scores if score.task in main]
    return scores + [_over_tasks(deciding, name, *how) for name, how in _of_all_tasks(spec).items()]


def _score_task(part: Predictions, task: Task, thresholds: Thresholds, split: str, fold: int) -> list[_Score]:
    rows = _known_rows(part, task, thresholds)
    values = evaluate(task, rows.target, rows.score, rows.threshold)
    why = why_undefined(task, rows.target, rows.score)
    told = thresholds.notes[task.name][fold] if task.kind == "binary" else ""
    positives = int((rows.target > 0.5).sum()) if task.kind == "binary" else None
    scores = []
    for metric, value in values.items():
        notes = (why if np.isnan(value) else "", told if metric in THRESHOLDED else "")
        note = "; ".join(filter(None, notes))
        scores.append(_Score(fold, split, task.name, metric, value, len(rows.target), positives, note))
    return scores


def _over_tasks(every: list[_Score], name: str, metric: str, min_weight: float) -> _Score:
    """A row of the task ``""``: undefined where one task's value is; ``n`` counts the labels of all tasks."""
    scores = [score for score in every if score.metric == metric]
    positives = [score.n_positive for score in scores if score.n_positive is not None]
    return _Score(
        fold=scores[0].fold,
        split=scores[0].split,
        task=ALL_TASKS,
        metric=name,
        value=float(over_tasks([score.value for score in scores], min_weight)),
        n=sum(score.n for score in scores),
        n_positive=sum(positives) if len(positives) == len(scores) else None,
        note="; ".join(f"{score.task}: {score.note}" for score in scores if score.note),
    )


def _score_pooled(
    part: Predictions, spec: Spec, thresholds: Thresholds, metrics: Collection[str] | None = None
) -> dict[tuple[str, str], float]:
    """Scores of all folds' rows together by (task, metric), of ``metrics`` alone where they are given."""
    values: dict[tuple[str, str], float] = {}
    asked = None if metrics is None else {LOWEST.get(metric, metric) for metric in metrics}
    for task in spec.tasks:
        rows = _known_rows(part, task, thresholds)
        for metric in METRICS[task.kind]:
            if asked is None or metric in asked:
                values[task.name, metric] = measure(task, metric, rows.target, rows.score, rows.threshold)
    for name, (metric, min_weight) in _of_all_tasks(spec).items():
        if metrics is None or name in metrics:
            each = [values[task.name, metric] for task in spec.main_tasks]
            values[ALL_TASKS, name] = float(over_tasks(each, min_weight))
    return values


def _without_each(
    part: Predictions, spec: Spec, thresholds: Thresholds, group: np.ndarray | None, metrics: Collection[str]
) -> dict[tuple[str, str], np.ndarray]:
    """Pooled scores ``[G]`` without each group by (task, metric)."""
    if not metrics:
        return {}
    block = blocks(part.row if group is None else group[part.row])
    scores = [_score_pooled(part.where(block != b), spec, thresholds, metrics) for b in range(int(block.max()) + 1)]
    return {place: np.array([of[place] for of in scores]) for place in scores[0]}


def _known_rows(part: Predictions, task: Task, thresholds: Thresholds) -> _Rows:
    known = part.known[task.name]
    threshold = np.full(known.shape, 0.5)
    if task.name in thresholds.values:
        of_row = thresholds.values[task.name][part.fold]
        threshold = np.broadcast_to(of_row.reshape(-1, *[1] * (known.ndim - 1)), known.shape)
    return _Rows(part.target[task.name][known], part.score[task.name][known], threshold[known])


def _fold_numbers(predictions: Predictions) -> list[int]:
    return np.unique(predictions.fold).tolist()


def _of_all_tasks(spec: Spec) -> dict[str, tuple[str, float]]:
    """What is told of all main tasks together: a name, the metric it is made of, the lowest one's share."""
    first, *others = (METRICS[task.kind] for task in spec.main_tasks)
    told = {metric: (metric, 0.0) for metric in first if all(metric in other for other in others)}
    lowest = {name: (metric, 1.0) for name, metric in LOWEST.items() if others and metric in told}
    return told | lowest


def _range(metric: str) -> tuple[float, float]:
    return RANGES[LOWEST.get(metric, metric)]


def _tell_folds(notes: Iterable[tuple[str, int]]) -> str:
    """``"folds 1, 3: no row of class 'yes'"``, one part per distinct note."""
    parts = []
    for note, folds in _grouped(notes).items():
        parts.append(f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}: {note}")
    return "; ".join(parts)


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def _grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
