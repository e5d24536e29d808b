"""Scores of configurations and baselines side by side: the table a job ends with."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion_lab.contracts import Folds, Predictions, Spec, Task
from fusion_lab.data.portions import targets_of
from fusion_lab.evaluation.folds import ALL_TASKS, LOWEST, FoldScores, score_folds, summarise
from fusion_lab.evaluation.intervals import corrected_interval, jackknife_interval
from fusion_lab.evaluation.over_tasks import over_folds, over_tasks
from fusion_lab.experiment import Materials
from fusion_lab.training.monitor import score_name, undefined_folds, watched
from fusion_lab.training.plan import Goal, TrainingConfig

NAMES = {
    "auroc": "AUROC",
    "ap": "AP",
    "f1": "F1",
    "r2": "R2",
    "mae": "MAE",
    "accuracy": "accuracy",
    "min_ap": "min AP",
}
MORE_COLUMNS = 2
MOST_FOLDS = 24
"""Folds that a table of folds shows: of more, the worst."""


@dataclass(frozen=True)
class Headline:
    """The score that comparisons go by: mean over folds of the mean over main tasks, of which the lowest takes the
    share that the goal gives it.

    ``name`` says of which metric; ``folds [K]`` is the score of the tasks in each fold. Where it is undefined in one
    (``undefined`` counts them), that task counts with its score on the pooled rows, and the interval, where all tasks
    do, is one over groups: ``note`` says of which, or why there is none.
    """

    name: str
    value: float
    std: float
    low: float
    high: float
    folds: np.ndarray
    undefined: int
    note: str = ""

    @property
    def how(self) -> str:
        """What kind of number it is."""
        return "pooled over folds" if self.undefined else "mean over folds"

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low)


@dataclass(frozen=True)
class Scored:
    """A name and its scores. ``selected`` names the splits on whose rows it was chosen: optimistic there."""

    name: str
    kind: str  # trial, baseline or model
    scores: FoldScores
    summary: pd.DataFrame
    headlines: dict[str, Headline]
    selected: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        predictions: Predictions,
        materials: Materials,
        goal: Goal | str,
        selected: Collection[str] = (),
    ) -> Scored:
        """Scores predictions of the splits that they hold; ``goal``: what headlines go by, or its monitor's name."""
        scores = score_folds(predictions, materials.spec, group=materials.dataset.group)
        headlines = {
            split: _headline(scores, materials, Goal.of(goal), split)
            for split in sorted(set(predictions.split.tolist()))
        }
        return cls(name, kind, scores, summarise(scores, materials.folds), headlines, frozenset(selected))

    def value(self, split: str) -> float:
        """The headline's value."""
        return self.headlines[split].value

    def line(self, split: str, metric: str) -> pd.Series | None:
        """The summary's line of a metric that all tasks share, mean over tasks; ``None`` where there is none."""
        of = (self.summary["split"] == split) & (self.summary["metric"] == metric) & (self.summary["task"] == "")
        return self.summary[of].iloc[0] if of.any() else None

    def label(self, split: str) -> str:
        """The name, marked where the scores of this split are optimistic."""
        return f"{self.name} (selected)" if split in self.selected else self.name


def headline_metric(task: Task, goal: Goal | str) -> str:
    """The metric of a task that comparisons go by: R2 of a regression, what is watched, AUROC beside a watched loss."""
    return watched(task, Goal.of(goal).monitor)[0]


def headline_name(spec: Spec, goal: Goal | str) -> str:
    """What the headline is called: ``AUROC``, ``AUROC and R2`` where main tasks are of several kinds, ``macro + min
    AP``.
    """
    monitor = Goal.of(goal).monitor
    if monitor == "macro_plus_min":
        return score_name(monitor)
    named = (metric_name(headline_metric(task, goal), (task,)) for task in spec.main_tasks)
    return " and ".join(dict.fromkeys(named))


def metric_name(metric: str, tasks: Sequence[Task]) -> str:
    """What a metric of these tasks is called: F1 of classes of which none is the positive one is ``macro F1``."""
    macro = metric == "f1" and all(task.kind == "multiclass" for task in tasks)
    return f"macro {NAMES[metric]}" if macro else NAMES[metric]


def headline_key(spec: Spec, goal: Goal | str) -> str:
    """The headline in one word: ``loss`` where that is watched, the tasks' metric, ``score`` where they differ."""
    return "loss" if Goal.of(goal).monitor == "loss" else score_key(spec, goal)


def watched_name(spec: Spec, goal: Goal | str) -> str:
    """What the value that a training reports is called while it goes on; of a watched loss it is the negative."""
    return "score" if Goal.of(goal).monitor == "loss" else f"val {headline_name(spec, goal)}"


def score_key(spec: Spec, goal: Goal | str) -> str:
    """The metric that comparisons go by in one word, also beside a watched loss: ``score`` where main tasks differ."""
    monitor = Goal.of(goal).monitor
    if monitor == "macro_plus_min":
        return monitor
    metrics = {headline_metric(task, goal) for task in spec.main_tasks}
    return metrics.pop() if len(metrics) == 1 else "score"


def is_pooled(materials: Materials, training: TrainingConfig) -> bool:
    """Whether the watched score has no mean over folds, some fold's validation rows leaving it undefined; this is known
    before anything is trained.
    """
    return any(undefined_folds(materials.spec, training, materials.folds, targets_of(materials.dataset)))


def best_first(rows: Sequence[Scored], split: str) -> list[Scored]:
    """Rows by their headline; those without a value last."""
    return sorted(rows, key=lambda row: -_or_lowest(row.value(split)))


def fairest(baselines: Sequence[Scored], split: str) -> Scored | None:
    """The best baseline among those that were not themselves chosen on the rows of this split."""
    return next((row for row in best_first(baselines, split) if split not in row.selected), None)


def table(rows: Sequence[Scored], split: str, spec: Spec, goal: Goal | str) -> list[str]:
    """Lines of a plain-text table: the headline with its 95 % interval, then metrics that all main tasks share; what
    pooled scores are is said below.
    """
    beside = _beside(spec, Goal.of(goal))
    more = [m for m in beside if any(row.line(split, m) is not None for row in rows)][:MORE_COLUMNS]
    name, names = headline_name(spec, goal), [metric_name(metric, spec.main_tasks) for metric in more]
    body = [[row.label(split), *_headline_cells(row.headlines[split]), *_cells(row, split, more)] for row in rows]
    lines = aligned([["", f"{split} {name}", "95 % interval", *names], *body])
    return [*lines, *_pooled_lines([row.headlines[split] for row in rows])]


def by_fold_lines(scored: Scored, split: str, materials: Materials) -> list[str]:
    """Lines of a plain-text table of the folds, one per person where folds are people: rows, accuracy, headline.

    Of more than :data:`MOST_FOLDS` folds those with the lowest scores. Tasks without an accuracy show the headline
    alone; a score that a fold does not define is left blank.
    """
    table, folds, headline = scored.scores.table, materials.folds, scored.headlines[split]
    of = (table["split"] == split) & (table["task"] == ALL_TASKS) & (table["metric"] == "accuracy")
    accuracy = table[of].sort_values("fold")["value"].to_numpy(float)
    columns = {**({"accuracy": accuracy} if len(accuracy) else {}), headline.name: headline.folds}
    first = next(iter(columns.values()))
    shown = range(len(folds)) if len(folds) <= MOST_FOLDS else np.argsort(first, kind="stable")[:MOST_FOLDS].tolist()
    rows = part_of(folds, split).sum(1)
    body = [[folds.names[k], str(rows[k]), *(_number(values[k]) for values in columns.values())] for k in shown]
    mean = ["mean over folds", str(rows.sum()), *(_mean_and_deviation(values) for values in columns.values())]
    lines = aligned([["", f"{split} rows", *columns], *body, mean])
    left = len(folds) - len(body)
    return [*lines, f"and {left} folds with higher scores"] if left else lines


def part_of(folds: Folds, split: str) -> np.ndarray:
    """The rows of a split in each fold, bool ``[K,R]``."""
    return folds.val if split == "val" else folds.test


def _headline(scores: FoldScores, materials: Materials, goal: Goal, split: str) -> Headline:
    per_fold, pooled, main = [], [], materials.spec.main_tasks
    for task in main:
        metric = headline_metric(task, goal)
        of = (scores.table["split"] == split) & (scores.table["task"] == task.name) & (scores.table["metric"] == metric)
        folds = scores.table[of].sort_values("fold")["value"].to_numpy(float)
        per_fold.append(folds)
        pooled.append(_pooled(scores, split, task.name, metric))
    folds = over_tasks(per_fold, goal.min_weight)
    name, undefined = headline_name(materials.spec, goal), int(np.isnan(folds).sum())
    value = over_folds(per_fold, pooled, goal.min_weight)
    std = float(folds.std(ddof=1)) if len(folds) > 1 else math.nan
    least = -math.inf if any(task.kind == "regression" for task in main) else 0.0
    if undefined:
        low, high, note = _over_groups(value, scores, materials, goal, split, (least, 1.0))
        return Headline(name, value, std, low, high, folds, undefined, note)
    sizes = float(materials.folds.train.sum(1).mean()), float(part_of(materials.folds, split).sum(1).mean())
    low, high = corrected_interval(folds, *sizes)
    return Headline(name, value, std, max(low, least), min(high, 1.0), folds, undefined)


def _over_groups(
    value: float, scores: FoldScores, materials: Materials, goal: Goal, split: str, bounds: tuple[float, float]
) -> tuple[float, float, str]:
    """Interval of a pooled headline, and over what it was taken or why there is none."""
    places = [(split, task.name, headline_metric(task, goal)) for task in materials.spec.main_tasks]
    left_out = [scores.left_out[place] for place in places if place in scores.left_out]
    if not math.isfinite(value):
        return math.nan, math.nan, "it has no value on all folds' rows together either"
    if len(left_out) < len(places):
        return math.nan, math.nan, "of some tasks it is a mean over folds"
    group, part = materials.dataset.group, part_of(materials.folds, split).any(0)
    units = f"{int(part.sum())} rows" if group is None else f"{len(np.unique(group[part]))} groups"
    mean = over_tasks(left_out, goal.min_weight)
    low, high = jackknife_interval(value, mean, bounds)
    if math.isfinite(low):
        parts = units if units.startswith(f"{len(mean)} ") else f"{len(mean)} parts of {units}"
        return low, high, f"by leaving out each of {parts} in turn (jackknife)"
    why = f"without one of {units} it has no value" if np.isnan(mean).any() else f"no one of {units} changes it"
    return low, high, why


def _pooled(scores: FoldScores, split: str, task: str, metric: str) -> float:
    pooled = scores.pooled
    found = pooled[(pooled["split"] == split) & (pooled["task"] == task) & (pooled["metric"] == metric)]["pooled"]
    return float(found.iloc[0]) if len(found) else math.nan


def _headline_cells(headline: Headline) -> list[str]:
    if headline.undefined:
        value, absent = f"pooled {headline.value:.3f}" if math.isfinite(headline.value) else "undefined", "none"
    else:
        value, absent = f"{headline.value:.3f}", "one fold"
    return [value, f"{headline.low:.3f} to {headline.high:.3f}" if headline.has_interval else absent]


def _pooled_lines(headlines: Sequence[Headline]) -> list[str]:
    """What pooled scores are and over what their intervals are taken, where there are any."""
    pooled = [headline for headline in headlines if headline.undefined]
    if not pooled:
        return []
    shown = next((headline for headline in pooled if headline.has_interval), pooled[0])
    where = f"{shown.name} is undefined in {shown.undefined} of {len(shown.folds)} folds"
    interval = f"interval {shown.note}" if shown.has_interval else f"no interval, for {shown.note}"
    return [f"pooled: of all folds' rows together, as {where}; {interval}"]


def _beside(spec: Spec, goal: Goal) -> list[str]:
    """The other metrics, those first that say most beside the headline: the accuracy beside macro F1, the lowest task
    beside the mean, both where they are made one.
    """
    first = {headline_metric(task, goal) for task in spec.main_tasks}
    told = first if goal.min_weight == 0 else set()
    ahead = {"f1": ("accuracy",), "ap": ("ap", *(name for name, metric in LOWEST.items() if metric == "ap"))}
    foremost = [name for metric in first for name in ahead.get(metric, ())]
    return sorted((name for name in NAMES if name not in told), key=lambda name: name not in foremost)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns, a rule below the first line."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    told = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [told[0], "  ".join("-" * width for width in widths), *told[1:]]


def _cells(row: Scored, split: str, metrics: Sequence[str]) -> list[str]:
    lines = [row.line(split, metric) for metric in metrics]
    return ["" if line is None else _number(line["mean"]) or _number(line["pooled"], "pooled ") for line in lines]


def _mean_and_deviation(values: np.ndarray) -> str:
    std = values.std(ddof=1) if len(values) > 1 else math.nan
    return f"{_number(values.mean())}{_number(std, ' ± ')}"


def _number(value: float, before: str = "") -> str:
    return f"{before}{value:.3f}" if math.isfinite(value) else ""


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
