"""Scores of configurations and baselines side by side: the table a job ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion_lab.contracts import Predictions
from fusion_lab.evaluation.folds import FoldScores, score_folds, summarise
from fusion_lab.experiment import Materials

COLUMNS = {"auroc": "AUROC", "ap": "AP", "f1": "F1", "r2": "R2", "mae": "MAE", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Scored:
    """A name and its scores."""

    name: str
    kind: str  # trial, baseline or model
    scores: FoldScores
    summary: pd.DataFrame

    @classmethod
    def of(cls, name: str, kind: str, predictions: Predictions, materials: Materials) -> Scored:
        scores = score_folds(predictions, materials.spec)
        return cls(name, kind, scores, summarise(scores, materials.folds))

    def line(self, split: str, metric: str, task: str = "") -> pd.Series | None:
        """The summary's line of a metric; ``task`` "" is the mean over tasks."""
        found = self.summary[
            (self.summary["split"] == split) & (self.summary["metric"] == metric) & (self.summary["task"] == task)
        ]
        return found.iloc[0] if len(found) else None

    def value(self, split: str, metric: str) -> float:
        """The mean over tasks and folds, the pooled value where a fold has none, NaN where there is neither."""
        line = self.line(split, metric)
        if line is None:
            return float("nan")
        return float(line["mean"] if np.isfinite(line["mean"]) else line["pooled"])


def headline_metric(scored: Scored) -> str:
    """What a comparison is sorted by: AUROC where the tasks have it, R2 otherwise."""
    return "auroc" if scored.line("val", "auroc") is not None else "r2"


def table(rows: Sequence[Scored], split: str, mark: str = "") -> list[str]:
    """Lines of a plain-text table: mean over tasks and folds, with the 95 % interval of the first metric."""
    metrics = [m for m in COLUMNS if any(row.line(split, m) is not None for row in rows)][:3]
    first = COLUMNS[metrics[0]] if metrics else ""
    head = ["", f"{split} {first}{mark}", "95 % interval", *(COLUMNS[m] for m in metrics[1:])]
    body = [[row.name, *_cells(row, split, metrics)] for row in rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = "  ".join("-" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
    return [lines[0], rule, *lines[1:]]


def _cells(row: Scored, split: str, metrics: Sequence[str]) -> list[str]:
    cells = []
    for place, metric in enumerate(metrics):
        line = row.line(split, metric)
        if line is None:
            cells += ["", ""] if place == 0 else [""]
            continue
        cells.append(f"{line['mean']:.3f}" if np.isfinite(line["mean"]) else f"pooled {line['pooled']:.3f}")
        if place == 0:
            known = np.isfinite(line["ci_low"])
            cells.append(
                f"{line['ci_low']:.3f} to {line['ci_high']:.3f}" if known else f"undefined in {line['undefined']}"
            )
    return cells
