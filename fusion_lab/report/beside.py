"""What runs tell of themselves, beside each other: how they were trained, and what each modality adds to them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from plotly import graph_objects as go

from fusion_lab.report import style
from fusion_lab.report.curves import LOSSES, mean_curves
from fusion_lab.training.results import FoldResult

MOST_RUNS = 12
"""Runs whose curves are drawn: of more, the first ones."""


@dataclass(frozen=True)
class Beside:
    """``losses``: of each run the mean over folds of ``train/loss`` and ``val/loss``, float [E] each. ``gains``: what
    each modality adds to a run, ``{run: {task: {modality: gain}}}``, in the unit of the task's metric, ``metrics``;
    NaN where it is undefined.
    """

    losses: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)


def losses_of(curves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The losses of what a run keeps as ``curves.json``, mean over folds.

    >>> row = {"epoch": 1, "val/loss": None, "train/loss": 2.0}
    >>> fold = {"fold": 0, "name": "a", "best_epoch": 1, "epochs": 1, "ending": "epochs", "history": [row]}
    >>> {name: curve.tolist() for name, curve in losses_of({"folds": [fold]}).items()}
    {'train/loss': [2.0], 'val/loss': [nan]}
    """
    folds = [
        FoldResult(
            int(fold["fold"]),
            str(fold["name"]),
            int(fold["best_epoch"]),
            int(fold["epochs"]),
            fold["ending"],
            tuple({name: _number(value) for name, value in row.items()} for row in fold["history"]),
            {},
        )
        for fold in curves["folds"]
    ]
    means = mean_curves(folds) if folds and all(fold.history for fold in folds) else {}
    return {name: means[name] for name in LOSSES if name in means}


def gains_of(subsets: Mapping[str, Any]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Gains by task and modality, and the tasks' metrics, of what a run keeps as ``missing_modality.json``."""
    told = {task: {name: _number(gain) for name, gain in of.items()} for task, of in subsets["modality_gain"].items()}
    return told, dict(subsets["metric"])


def losses_figure(beside: Beside) -> go.Figure:
    """The losses of the runs, a colour each."""
    figure = go.Figure()
    runs = list(beside.losses)[:MOST_RUNS]
    for place, run in enumerate(runs):
        for name, curve in beside.losses[run].items():
            trained = name.startswith("train/")
            figure.add_scatter(
                x=1 + np.arange(len(curve)),
                y=curve,
                mode="lines",
                name=html.escape(f"{style.shortened(run)}, {LOSSES[name]}"),
                line={
                    "color": style.colour(place),
                    "dash": "dot" if trained else style.DASHES[place // len(style.OKABE_ITO) % len(style.DASHES)],
                    "width": 1.5 if trained else 2.5,
                },
                hovertemplate="epoch %{x}: %{y:.4f}<extra></extra>",
            )
    longest = max((len(c) for of in beside.losses.values() for c in of.values()), default=1)
    figure.update_xaxes(title="epoch", tickvals=style.whole_ticks(longest))
    figure.update_yaxes(title=style.axis_name("loss"))
    left = len(beside.losses) - len(runs)
    more = f" (the first {len(runs)}, {left} more are not drawn)" if left else ""
    style.layout(figure, f"Losses, mean over folds{more}; of other objectives they do not compare", 460)
    return figure.update_layout(legend={"itemsizing": "trace", "itemwidth": 48})


def gains_figure(beside: Beside) -> go.Figure:
    """A line per run and modality, a column per task: what the modality adds to that task's score."""
    tasks = list(beside.metrics)
    lines = [
        (run, name) for run, of in beside.gains.items() for name in dict.fromkeys(n for g in of.values() for n in g)
    ]
    values = [[beside.gains[run].get(task, {}).get(name, math.nan) for task in tasks] for run, name in lines]
    most = max((abs(v) for row in values for v in row if math.isfinite(v)), default=1.0) or 1.0
    columns = [f"{html.escape(style.shortened(t, 24))}<br>{style.metric_name(beside.metrics[t])}" for t in tasks]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=columns,
            y=[html.escape(f"{style.shortened(run)}: {name}") for run, name in lines],
            text=[["" if math.isnan(v) else f"{v:+.3f}" for v in row] for row in values],
            texttemplate="%{text}",
            colorscale="PuOr",  # tells signs apart for colour-blind readers
            zmin=-most,
            zmax=most,
            colorbar={"title": "gain"},
            hovertemplate="%{y}<br>%{x}: %{z:+.4f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    title = "What each modality adds to the test score: mean over pairs of subsets that differ in it alone"
    return style.layout(figure, title, 220 + 26 * len(lines))


def figures(beside: Beside) -> list[go.Figure]:
    """Those that there is something for."""
    drawn = [losses_figure(beside)] if beside.losses else []
    return drawn + ([gains_figure(beside)] if beside.gains else [])


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
