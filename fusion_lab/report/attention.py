"""Attention maps, gates and answers in numbers: what a model weighed, or what its parts answered alone, as means
over validation rows, for all and per group.

A row has no weight where it has no modality, time step or instance. A softmax gives exactly zero to nothing but what is
masked, so a weight of exactly zero is *not there*: it is left out of every mean instead of pulling it down, and each
mean carries the number of rows that it is over. An answer of exactly zero, a missing modality's, is not there either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fusion_lab.contracts import AttentionMap, Axis, MapKind
from fusion_lab.report import style
from fusion_lab.report.rows import Groups

NO_PROOF = (
    "Attention and gates show what the model weighed when it answered; they are no proof of importance: "
    "a large weight need not have mattered to the answer."
)
DIVERGING = "RdBu_r"
"""Colours of answers, blue below 0 and red above, which colour-blind readers tell apart; Plotly's name too."""


@dataclass(frozen=True)
class Panel:
    """Mean weights of some rows. All arrays are ``[Q, N]``, Q = 1 where nothing asks, NaN where no row has anything.

    ``mean`` is over the rows that have the place, ``count`` says how many; ``std`` is the deviation over the folds'
    means (NaN for fewer than two folds); ``uniform`` is what the mean would be if each row weighed alike all it has,
    NaN of answers.
    """

    name: str
    rows: int
    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray
    uniform: np.ndarray


@dataclass(frozen=True)
class Chart:
    """Means over one or two of a map's axes, what is weighed the last; ``averaged`` names the others."""

    axes: tuple[Axis, ...]
    averaged: tuple[str, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Summary:
    """All charts of a map: each axis that asks by what is weighed, then what is weighed alone. ``by`` says what the
    panels but the first are ("classes of death").
    """

    name: str
    kind: MapKind
    rows: int
    folds: tuple[int, ...]
    by: str
    charts: tuple[Chart, ...]

    @property
    def main(self) -> Chart:
        """The last axis that asks by what is weighed; what is weighed alone where nothing asks."""
        return self.charts[max(0, len(self.charts) - 2)]


class View(NamedTuple):
    """The weights that a chart is about, float64 ``[P, Q, N]``; NaN = not there."""

    axes: tuple[Axis, ...]
    averaged: tuple[str, ...]
    values: np.ndarray
    uniform: np.ndarray


def is_places(axis: Axis) -> bool:
    """Whether an axis runs over positions in time or in a bag, which have an order, and of which a row lacks some.

    >>> [is_places(Axis(name, ("1", "2"))) for name in ("day", "instance", "modality", "asking modality", "class")]
    [True, True, False, False, False]
    """
    return axis.name.split()[-1:] != ["modality"] and axis.name not in ("latent", "head", "layer", "class")


def there(weights: AttentionMap) -> np.ndarray:
    """bool ``[P, ...]``: what a row has. A modality that is not there asks for nothing either."""
    if weights.kind == "answer":
        return weights.values != 0
    present = weights.values > 0
    if len(weights.axes) > 1 and weights.axes[-1].labels == weights.axes[-2].labels:
        present &= np.asarray(present.any(-2))[..., None]
    return present


def views(weights: AttentionMap) -> list[View]:
    """What is weighed by each of the axes that ask, then what is weighed alone. Each row counts once."""
    present, last = there(weights), weights.values.ndim - 1
    each = np.nan if weights.kind == "answer" else 1 / np.maximum(present.sum(-1, keepdims=True), 1)
    made = []
    for asking in [*range(1, last), None]:
        others = tuple(a for a in range(1, last) if a != asking)
        axes = tuple(weights.axes[a - 1] for a in (asking, last) if a is not None)
        averaged = tuple(weights.axes[a - 1].name for a in others)
        shape = (len(weights.row), -1, weights.values.shape[-1])
        values, uniform = (_mean(np.asarray(x), present, others).reshape(shape) for x in (weights.values, each))
        made.append(View(axes, averaged, values, uniform))
    return made


def summarise(weights: AttentionMap, groups: Groups | None = None) -> Summary:
    """Means over all rows, then over the rows of each group that has any."""
    parts = [("all rows", np.ones(len(weights.row), bool))]
    if groups is not None:
        parts += [(name, groups.of == i) for i, name in enumerate(groups.names) if (groups.of == i).any()]
    charts = [
        Chart(view.axes, view.averaged, tuple(_panel(name, view, weights.fold, keep) for name, keep in parts))
        for view in views(weights)
    ]
    by = groups.by if groups is not None else ""
    return Summary(
        weights.name, weights.kind, len(weights.row), tuple(np.unique(weights.fold).tolist()), by, tuple(charts)
    )


def attention_dict(summary: Summary) -> dict[str, Any]:
    """A summary as plain values: its main chart, and the others under ``more``."""
    others = [chart for chart in summary.charts if chart is not summary.main]
    return {
        "name": summary.name,
        "kind": summary.kind,
        "rows": summary.rows,
        "folds": list(summary.folds),
        "panels_are": summary.by,
        "reading": "means over the validation rows that have the place, each row in its own fold",
        **_chart_dict(summary.main),
        "more": [_chart_dict(chart) for chart in others],
    }


def summary_of(plain: Mapping[str, Any]) -> Summary:
    """What :func:`attention_dict` was made of."""
    main, more = _chart_of(plain), [_chart_of(chart) for chart in plain["more"]]
    charts = [*more[:-1], main, *more[-1:]]
    folds = tuple(plain["folds"])
    return Summary(plain["name"], plain["kind"], plain["rows"], folds, plain["panels_are"], tuple(charts))


def order(chart: Chart) -> np.ndarray:
    """What is weighed, the largest mean first; positions stay in their order."""
    mean = np.nan_to_num(chart.panels[0].mean.mean(0))
    return np.arange(len(mean)) if is_places(chart.axes[-1]) else np.argsort(-mean, kind="stable")


def unit(summary: Summary, chart: Chart) -> str:
    """What a weight or an answer is measured in."""
    if summary.kind == "answer":
        return "what it answers by itself, logit (of a regression: standard deviations)"
    if summary.kind == "gate":
        return "gate, 0 (shut) to 1 (open)"
    each = f"for each {chart.axes[0].name} of a row" if len(chart.axes) > 1 else "over a row"
    return f"share of attention, sums to 1 {each}"


def limits(summary: Summary, chart: Chart) -> tuple[float, float]:
    """Ends of the colour scale of a chart's means: a gate's own, else from nothing to the largest; answers reach as far
    to either side of 0.
    """
    means = [np.abs(panel.mean[np.isfinite(panel.mean)]) for panel in chart.panels]
    most = max((float(mean.max()) for mean in means if mean.size), default=0.0) or 1.0
    return {"gate": (0.0, 1.0), "attention": (0.0, most), "answer": (-most, most)}[summary.kind]


def chart_title(summary: Summary, chart: Chart) -> str:
    """What is seen, of how many rows and folds."""
    of = f"{style.counted(summary.rows, 'validation row')} of {style.counted(len(summary.folds), 'fold')}"
    groups = f"; {summary.by}" if summary.by else ""
    return f"{summary.name}: {of}{_averaged(chart)}{groups}"


def row_title(summary: Summary, chart: Chart) -> str:
    """What is seen where it is one row's."""
    return f"{summary.name}: one validation row{_averaged(chart)}"


def _averaged(chart: Chart) -> str:
    return f", averaged over {' and '.join(chart.averaged)}" if chart.averaged else ""


def _mean(values: np.ndarray, present: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Mean over ``axes`` of what is there; NaN where nothing is."""
    count = present.sum(axes) if axes else present.astype(int)
    held = np.broadcast_to(values, present.shape)
    total = held.sum(axes, where=present, dtype=np.float64) if axes else np.where(present, held, 0.0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _panel(name: str, view: View, fold: np.ndarray, keep: np.ndarray) -> Panel:
    present = ~np.isnan(view.values)

    def mean(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return _mean(values[rows], present[rows], (0,))

    folds = np.stack([mean(view.values, keep & (fold == k)) for k in np.unique(fold[keep])])
    held = ~np.isnan(folds)
    squares = np.sum((folds - _mean(folds, held, (0,))) ** 2, axis=0, where=held)
    several, count = held.sum(0) > 1, held.sum(0)
    std = np.sqrt(np.divide(squares, count - 1, out=np.full(squares.shape, np.nan), where=several))
    return Panel(name, int(keep.sum()), mean(view.values, keep), std, present[keep].sum(0), mean(view.uniform, keep))


def _chart_dict(chart: Chart) -> dict[str, Any]:
    shape = tuple(len(axis.labels) for axis in chart.axes)
    return {
        "axes": [{"name": a.name, "labels": list(a.labels)} for a in chart.axes],
        "averaged_axes": list(chart.averaged),
        "panels": [
            {
                "name": p.name,
                "rows": p.rows,
                "mean": p.mean.reshape(shape).tolist(),
                "std_over_folds": p.std.reshape(shape).tolist(),
                "rows_that_have_it": p.count.reshape(shape).tolist(),
                "if_uniform": p.uniform.reshape(shape).tolist(),
            }
            for p in chart.panels
        ],
    }


def _chart_of(plain: Mapping[str, Any]) -> Chart:
    axes = tuple(Axis(axis["name"], tuple(axis["labels"])) for axis in plain["axes"])
    return Chart(axes, tuple(plain["averaged_axes"]), tuple(_panel_of(p) for p in plain["panels"]))


def _panel_of(plain: Mapping[str, Any]) -> Panel:
    names: Sequence[str] = ("mean", "std_over_folds", "rows_that_have_it", "if_uniform")
    mean, std, count, uniform = (np.atleast_2d(np.array(plain[name], float)) for name in names)
    return Panel(plain["name"], plain["rows"], mean, std, count, uniform)
