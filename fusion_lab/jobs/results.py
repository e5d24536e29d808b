"""Scores of configurations and baselines side by side: the table a job ends with."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.folds import FoldScores, score_folds, summarise
from fusion_lab.evaluation.intervals import corrected_interval
from fusion_lab.experiment import Materials

NAMES = {"auroc": "AUROC", "ap": "AP", "f1": "F1", "r2": "R2", "mae": "MAE", "accuracy": "accuracy"}
MORE_COLUMNS = 2


@dataclass(frozen=True)
class Headline:
    """The score that comparisons go by: mean over tasks of the mean over folds.

    ``folds [K]`` is the mean over tasks in each fold. Where it is undefined in one (``undefined`` counts them), that
    task counts with its score on the pooled rows, and there is no interval.
    """

    value: float
    std: float
    low: float
    high: float
    folds: np.ndarray
    undefined: int


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
        monitor: str,
        selected: Collection[str] = (),
    ) -> Scored:
        """Scores predictions of the splits that they hold."""
        scores = score_folds(predictions, materials.spec)
        headlines = {
            split: _headline(scores, materials, monitor, split) for split in sorted(set(predictions.split.tolist()))
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


def headline_metric(task: Task, monitor: str) -> str:
    """The metric of a task that comparisons go by: R2 of a regression, AP where it is watched, AUROC otherwise."""
    return "r2" if task.kind == "regression" else "ap" if monitor == "ap" else "auroc"


def headline_name(spec: Spec, monitor: str) -> str:
    """What the headline is called: ``AUROC``, or ``AUROC and R2`` where tasks are of several kinds."""
    return " and ".join(dict.fromkeys(NAMES[headline_metric(task, monitor)] for task in spec.tasks))


def headline_key(spec: Spec, monitor: str) -> str:
    """The headline in one word: ``loss`` where that is watched, the tasks' metric, ``score`` where they differ."""
    return "loss" if monitor == "loss" else score_key(spec, monitor)


def score_key(spec: Spec, monitor: str) -> str:
    """The metric that comparisons go by in one word, also beside a watched loss: ``score`` where tasks differ."""
    metrics = {headline_metric(task, monitor) for task in spec.tasks}
    return metrics.pop() if len(metrics) == 1 else "score"


def best_first(rows: Sequence[Scored], split: str) -> list[Scored]:
    """Rows by their headline; those without a value last."""
    return sorted(rows, key=lambda row: -_or_lowest(row.value(split)))


def fairest(baselines: Sequence[Scored], split: str) -> Scored | None:
    """The best baseline among those that were not themselves chosen on the rows of this split."""
    return next((row for row in best_first(baselines, split) if split not in row.selected), None)


def table(rows: Sequence[Scored], split: str, spec: Spec, monitor: str) -> list[str]:
    """Lines of a plain-text table: the headline with its 95 % interval, then metrics that all tasks share."""
    first = {headline_metric(task, monitor) for task in spec.tasks}
    more = [m for m in NAMES if m not in first and any(row.line(split, m) is not None for row in rows)][:MORE_COLUMNS]
    head = ["", f"{split} {headline_name(spec, monitor)}", "95 % interval", *(NAMES[m] for m in more)]
    body = [[row.label(split), *_headline_cells(row.headlines[split]), *_cells(row, split, more)] for row in rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = "  ".join("-" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
    return [lines[0], rule, *lines[1:]]


def _headline(scores: FoldScores, materials: Materials, monitor: str, split: str) -> Headline:
    per_fold, values = [], []
    for task in materials.spec.tasks:
        metric = headline_metric(task, monitor)
        of = (scores.table["split"] == split) & (scores.table["task"] == task.name) & (scores.table["metric"] == metric)
        folds = scores.table[of].sort_values("fold")["value"].to_numpy(float)
        per_fold.append(folds)
        values.append(folds.mean() if np.isfinite(folds).all() else _pooled(scores, split, task.name, metric))
    folds = np.mean(per_fold, axis=0)
    undefined = int(np.isnan(folds).sum())
    part = materials.folds.val if split == "val" else materials.folds.test
    sizes = float(materials.folds.train.sum(1).mean()), float(part.sum(1).mean())
    low, high = (math.nan, math.nan) if undefined else corrected_interval(folds, *sizes)
    std = float(folds.std(ddof=1)) if len(folds) > 1 else math.nan
    least = -math.inf if any(task.kind == "regression" for task in materials.spec.tasks) else 0.0
    return Headline(float(np.mean(values)), std, max(low, least), min(high, 1.0), folds, undefined)


def _pooled(scores: FoldScores, split: str, task: str, metric: str) -> float:
    pooled = scores.pooled
    found = pooled[(pooled["split"] == split) & (pooled["task"] == task) & (pooled["metric"] == metric)]["pooled"]
    return float(found.iloc[0]) if len(found) else math.nan


def _headline_cells(headline: Headline) -> list[str]:
    if headline.undefined:
        return [f"pooled {headline.value:.3f}", f"undefined in {headline.undefined} folds"]
    known = math.isfinite(headline.low)
    return [f"{headline.value:.3f}", f"{headline.low:.3f} to {headline.high:.3f}" if known else "one fold"]


def _cells(row: Scored, split: str, metrics: Sequence[str]) -> list[str]:
    lines = [row.line(split, metric) for metric in metrics]
    return ["" if line is None or not np.isfinite(line["mean"]) else f"{line['mean']:.3f}" for line in lines]


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
