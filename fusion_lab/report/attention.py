"""Attention maps and gates: what a model weighed, averaged over validation rows, for all rows and per class."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly import graph_objects as go

from fusion_lab.contracts import AttentionMap
from fusion_lab.report import style

MOST_BARS, MOST_TICKS, MOST_PANELS, MOST_NUMBERS = 40, 30, 6, 36


@dataclass(frozen=True)
class Panel:
    """Mean weights of some rows: ``mean`` and ``std`` (over folds' means) are ``[Q, N]``, Q = 1 without queries."""

    name: str
    rows: int
    mean: np.ndarray
    std: np.ndarray


def panels(weights: AttentionMap, label: np.ndarray | None = None) -> list[Panel]:
    """All rows, then each class of ``label`` (str ``[P]``, ``""`` where unknown) that has rows, in alphabetical order.

    Axes before the last two (heads, layers) are averaged.
    """
    values = _two_axes(weights)
    chosen = [_panel("all rows", values, weights.fold, np.ones(len(values), bool))]
    if label is not None:
        names = sorted(set(label.tolist()) - {""})[: MOST_PANELS - 1]
        chosen += [_panel(name, values, weights.fold, label == name) for name in names]
    return [panel for panel in chosen if panel.rows]


def attention_dict(weights: AttentionMap, shown: Sequence[Panel]) -> dict[str, Any]:
    """The panels as plain values."""
    return {
        "name": weights.name,
        "kind": weights.kind,
        "axes": [{"name": a.name, "labels": list(a.labels)} for a in weights.axes[-2:]],
        "averaged_axes": [a.name for a in weights.axes[:-2]],
        "rows": "validation rows, each in its own fold",
        "folds": np.unique(weights.fold).tolist(),
        "panels": [
            {"name": p.name, "rows": p.rows, "mean": p.mean.tolist(), "std_over_folds": p.std.tolist()} for p in shown
        ],
    }


def attention_png(weights: AttentionMap, shown: Sequence[Panel], by: str = "") -> bytes:
    """The panels as a PNG file: one chart of all panels for a single query, else heat maps of queries by keys.

    ``by`` names the task whose classes the panels are.
    """
    draw = _marks_png if shown[0].mean.shape[0] == 1 else _heat_png
    return draw(weights, shown, _title(weights, by))


def attention_html(weights: AttentionMap, shown: Sequence[Panel], by: str = "") -> str:
    """The panels as an interactive page: numbers, with their deviation over folds, under the pointer."""
    if shown[0].mean.shape[0] == 1:
        return style.page(weights.name, [_marks_figure(weights, shown, by)])
    top = max(float(panel.mean.max()) for panel in shown)
    return style.page(weights.name, [_heat_figure(weights, panel, top) for panel in shown], [_title(weights, by)])


def _two_axes(weights: AttentionMap) -> np.ndarray:
    """``[P, Q, N]``, float64."""
    values = weights.values.astype(np.float64)
    while values.ndim > 3:
        values = values.mean(1)
    return values[:, None, :] if values.ndim == 2 else values


def _panel(name: str, values: np.ndarray, fold: np.ndarray, keep: np.ndarray) -> Panel:
    if not keep.any():
        return Panel(name, 0, np.zeros(values.shape[1:]), np.zeros(values.shape[1:]))
    folds = [values[keep & (fold == k)].mean(0) for k in np.unique(fold[keep])]
    spread = np.std(folds, axis=0, ddof=1) if len(folds) > 1 else np.zeros(values.shape[1:])
    return Panel(name, int(keep.sum()), values[keep].mean(0), spread)


def _marks_png(weights: AttentionMap, shown: Sequence[Panel], title: str) -> bytes:
    """A line per key and a mark per panel, largest key on top; a curve over the places where there are many."""
    labels = [style.shortened(str(name)) for name in weights.axes[-1].labels]
    many = len(labels) > MOST_BARS
    edge, height = (0.8, 2.6) if many else (style.text_width(labels) + 0.25, 0.25 * len(labels) + 0.2)
    names = [f"{'●■▲◆▼●'[i]} {_heading(panel)}" for i, panel in enumerate(shown)]
    breadth = edge + 4.6 + style.text_width(names)
    figure = style.new_figure(breadth, height + 1.1, layout=None)
    axes = style.panel(figure, edge, 0.6, 4.4, height)
    draw = _draw_curve if many else _draw_marks
    for place, panel in enumerate(shown):
        draw(axes, panel, _order(weights), place, len(shown))
        figure.text(
            (edge + 4.5) / breadth,
            (0.6 + height - 0.1 - 0.22 * place) / (height + 1.1),
            names[place],
            color=style.colour(place),
            va="top",
            fontsize=style.FONT - 1,
        )
    if many:
        style.plain(axes, "", weights.axes[-1].name, _weight_name(weights))
    else:
        axes.set_yticks(range(len(labels)), [labels[i] for i in _order(weights)])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        style.plain(axes, "", f"{_weight_name(weights)}, ± deviation over folds", "")
    style.heading(figure, title)
    return style.png(figure)


def _draw_marks(axes: Axes, panel: Panel, order: np.ndarray, place: int, places: int) -> None:
    at = np.arange(len(order)) + (place - (places - 1) / 2) * 0.7 / places
    mean, std, colour = panel.mean[0][order], panel.std[0][order], style.colour(place)
    axes.hlines(at, mean - std, mean + std, color=colour, linewidth=1.2)
    axes.scatter(mean, at, color=colour, marker="os^Dvo"[place], s=22)


def _draw_curve(axes: Axes, panel: Panel, order: np.ndarray, place: int, places: int) -> None:
    mean, std, at = panel.mean[0], panel.std[0], np.arange(len(order))
    axes.plot(mean, color=style.colour(place), linewidth=1.6)
    axes.fill_between(at, mean - std, mean + std, color=style.colour(place), alpha=0.4 / places, linewidth=0)


def _heat_png(weights: AttentionMap, shown: Sequence[Panel], title: str) -> bytes:
    keys = [style.shortened(str(name)) for name in weights.axes[-1].labels]
    queries = _query_labels(weights)
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    wide, tall = (max(2.6, 0.27 * min(len(n), MOST_TICKS)) for n in (keys, queries))
    upright = style.text_width(keys) * len(keys) < wide
    left, below = style.text_width(queries) + 0.5, 0.6 if upright else style.text_width(keys) + 0.4
    figure = style.new_figure(left + columns * (wide + 0.2) + 1.0, lines * (tall + below + 0.35) + 0.35, layout=None)
    top = max(float(panel.mean.max()) for panel in shown) or 1.0
    for place, panel in enumerate(shown):
        row, column = divmod(place, columns)
        bottom = (lines - 1 - row) * (tall + below + 0.35) + below
        axes = style.panel(figure, left + column * (wide + 0.2), bottom, wide, tall)
        _draw_heat(axes, panel, top)
        axes.set_xticks(_ticks(len(keys)), [keys[i] for i in _ticks(len(keys))], rotation=0 if upright else 90)
        names = [queries[i] for i in _ticks(len(queries))] if not column else []
        axes.set_yticks(_ticks(len(queries)) if not column else [], names)
        style.plain(axes, _heading(panel, wide), weights.axes[-1].name, "" if column else _query_axis(weights))
    _colour_bar(figure, weights, top)
    style.heading(figure, title)
    return style.png(figure)


def _draw_heat(axes: Axes, panel: Panel, top: float) -> None:
    axes.imshow(panel.mean, cmap=style.MAP, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    if panel.mean.size <= MOST_NUMBERS:
        for (i, j), value in np.ndenumerate(panel.mean):
            ink = "white" if value < 0.55 * top else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=style.FONT - 2)


def _colour_bar(figure: Figure, weights: AttentionMap, top: float) -> None:
    breadth, tall = figure.get_size_inches()
    axes = style.panel(figure, breadth - 0.95, tall - 0.7 - min(2.0, tall - 1.4), 0.14, min(2.0, tall - 1.4))
    axes.imshow(np.linspace(top, 0, 64)[:, None], cmap=style.MAP, aspect="auto", extent=(0, 1, 0, top))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=style.FONT - 2)
    axes.yaxis.set_label_position("right")
    axes.set_ylabel(_weight_name(weights), fontsize=style.FONT - 1)


def _marks_figure(weights: AttentionMap, shown: Sequence[Panel], by: str) -> go.Figure:
    order = _order(weights)
    names = [html.escape(style.shortened(str(weights.axes[-1].labels[i]), 60)) for i in order]
    many = len(names) > MOST_BARS
    figure = go.Figure()
    for place, panel in enumerate(shown):
        reach = {"array": panel.std[0][order], "thickness": 1.5, "width": 0, "type": "data"}
        along, across = {"x": panel.mean[0][order], "error_x": reach}, {"y": names}
        if many:
            along, across = {"y": panel.mean[0][order], "error_y": reach}, {"x": list(range(len(names)))}
        figure.add_scatter(
            **along,
            **across,
            mode="lines+markers" if many else "markers",
            name=html.escape(_heading(panel)),
            marker={"color": style.colour(place), "size": 9, "symbol": place},
        )
    value, place_name = _weight_name(weights), html.escape(weights.axes[-1].name)
    figure.update_xaxes(title=place_name if many else value)
    figure.update_yaxes(title=value if many else "", autorange=None if many else "reversed")
    return style.layout(figure, _title(weights, by), 480 if many else 180 + 24 * len(names))


def _heat_figure(weights: AttentionMap, panel: Panel, top: float) -> go.Figure:
    trace = go.Heatmap(
        z=panel.mean,
        x=[html.escape(style.shortened(str(label))) for label in weights.axes[-1].labels],
        y=[html.escape(label) for label in _query_labels(weights)],
        customdata=panel.std,
        hovertemplate="%{y} → %{x}<br>%{z:.4f} ± %{customdata:.4f} over folds<extra></extra>",
        colorscale=style.MAP,
        zmin=0,
        zmax=top or 1,
        colorbar={"title": _weight_name(weights)},
    )
    figure = go.Figure(trace)
    figure.update_xaxes(title=html.escape(weights.axes[-1].name), tickangle=-90 if panel.mean.shape[1] > 8 else 0)
    figure.update_yaxes(title=html.escape(_query_axis(weights)), autorange="reversed")
    return style.layout(figure, _heading(panel), 330 + 22 * min(panel.mean.shape[0], 60))


def _order(weights: AttentionMap) -> np.ndarray:
    """Largest first, by the mean over all rows; places in time or in a bag stay in their order."""
    if any(word in weights.axes[-1].name for word in ("step", "time", "instance")):
        return np.arange(len(weights.axes[-1].labels))
    return np.argsort(-_two_axes(weights).mean((0, 1)), kind="stable")


def _ticks(count: int) -> list[int]:
    return list(range(0, count, math.ceil(count / MOST_TICKS)))


def _query_labels(weights: AttentionMap) -> list[str]:
    return [style.shortened(str(name)) for name in weights.axes[-2].labels] if len(weights.axes) > 1 else [""]


def _query_axis(weights: AttentionMap) -> str:
    return weights.axes[-2].name if len(weights.axes) > 1 else ""


def _weight_name(weights: AttentionMap) -> str:
    return "mean gate, 0 to 1" if weights.kind == "gate" else "mean share of attention"


def _heading(panel: Panel, inches: float = 3.6) -> str:
    """The panel's name, as far as it fits, and its number of rows."""
    return f"{style.shortened(panel.name, int(inches / style.text_width('x', style.FONT)) - 10)} (n = {panel.rows})"


def _title(weights: AttentionMap, by: str) -> str:
    folds = len(np.unique(weights.fold))
    averaged = f", mean over {', '.join(a.name for a in weights.axes[:-2])}" if len(weights.axes) > 2 else ""
    classes = f"; classes of {by}" if by else ""
    return f"{weights.name}: validation rows of {style.counted(folds, 'fold')}{averaged}{classes}"
