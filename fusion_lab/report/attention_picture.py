"""The averages of :mod:`fusion_lab.report.attention` as a PNG: each group a colour, or a heat map."""

from __future__ import annotations

import math
import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusion_lab.report import style
from fusion_lab.report.attention import DIVERGING, Chart, Panel, Summary, chart_title, is_places, limits, order, unit

MOST_BARS, MOST_TICKS, MOST_NUMBERS, WIDEST = 40, 30, 36, 13.0
SIGNS, MARKERS = "●■▲◆▼★✚", "os^Dv*P"
GAP = 0.5  # inches between a row of heat maps and the next


def attention_png(summary: Summary) -> bytes:
    """The panels as a PNG file: one chart of all panels where nothing asks, else heat maps of what asks by what is
    weighed, time from left to right.
    """
    figure = _heat_figure(summary) if len(summary.charts) > 1 else _marks_figure(summary, summary.main)
    return style.png(figure)


def _marks_figure(summary: Summary, chart: Chart) -> Figure:
    """Positions from left to right; names one below the other, the largest on top, a mark per panel."""
    places = is_places(chart.axes[-1])
    at = order(chart)[: None if places else MOST_BARS]
    labels = [style.shortened(chart.axes[-1].labels[i]) for i in at]
    edge, width, height = (1.05, 5.2, 2.6) if places else (style.text_width(labels) + 0.5, 4.4, 0.3 * len(at) + 0.2)
    names = [f"{SIGNS[i]} {_heading(panel)}" for i, panel in enumerate(chart.panels)]
    if summary.kind == "attention":
        names.append("┄ if all were weighed alike")
    breadth = edge + width + 0.3 + style.text_width(names)
    head = _titled(chart_title(summary, chart) + _left_out(chart, at), breadth)
    tall = max(height, 0.22 * len(names)) + 0.6 + 0.2 + 0.21 * len(head)
    figure = style.new_figure(breadth, tall, layout=None)
    axes = style.panel(figure, edge, 0.6, width, height)
    draw = _draw_curve if places else _draw_marks
    for place, panel in enumerate(chart.panels):
        draw(axes, panel, at, place, len(chart.panels))
    if summary.kind == "attention":
        _draw_uniform(axes, chart.panels[0].uniform[0][at], places)
    for place, name in enumerate(names):
        colour = style.colour(place) if place < len(chart.panels) else style.GREY
        figure.text(
            (edge + width + 0.1) / breadth,
            (0.6 + height - 0.1 - 0.22 * place) / tall,
            name,
            color=colour,
            va="top",
            fontsize=style.FONT - 1,
        )
    _scale(axes, summary, upright=places)
    if places:
        axes.set_xticks(*_ticks(labels, width))
        style.plain(axes, "", chart.axes[-1].name, f"{_wrapped(unit(summary, chart))}\n± deviation over folds")
    else:
        axes.set_yticks(range(len(at)), labels)
        axes.set_ylim(len(at) - 0.4, -0.6)
        style.plain(axes, "", f"{unit(summary, chart)}\n± deviation over folds", chart.axes[-1].name)
    style.heading(figure, "\n".join(head))
    return figure


def _draw_marks(axes: Axes, panel: Panel, at: np.ndarray, place: int, places: int) -> None:
    height = np.arange(len(at)) + (place - (places - 1) / 2) * 0.7 / places
    mean, std, colour = panel.mean[0][at], np.nan_to_num(panel.std[0][at]), style.colour(place)
    axes.hlines(height, mean - std, mean + std, color=colour, linewidth=1.2)
    axes.scatter(mean, height, color=colour, marker=MARKERS[place], s=22)


def _draw_curve(axes: Axes, panel: Panel, at: np.ndarray, place: int, places: int) -> None:
    mean, std = panel.mean[0], np.nan_to_num(panel.std[0])
    size = 4 if len(at) <= MOST_BARS else 0
    axes.plot(at, mean, color=style.colour(place), linewidth=1.4, marker=MARKERS[place], markersize=size)
    axes.fill_between(at, mean - std, mean + std, color=style.colour(place), alpha=0.4 / places, linewidth=0)


def _draw_uniform(axes: Axes, uniform: np.ndarray, upright: bool) -> None:
    at = np.arange(len(uniform))
    if upright:
        axes.step(at, uniform, where="mid", color=style.GREY, linewidth=1, linestyle="--", zorder=0)
    else:
        axes.vlines(uniform, at - 0.5, at + 0.5, colors=style.GREY, linewidth=1, linestyle="--", zorder=0)


def _scale(axes: Axes, summary: Summary, upright: bool) -> None:
    """From nothing on; a gate's to its end; answers lie on both sides of a line at 0."""
    if summary.kind == "answer":
        (axes.axhline if upright else axes.axvline)(0, color=style.GREY, linewidth=1, zorder=0)
        return
    limit = axes.set_ylim if upright else axes.set_xlim
    limit(0, 1.02 if summary.kind == "gate" else None)


def _heat_figure(summary: Summary) -> Figure:
    """A block of heat maps for each axis that asks, below each other, a panel per group."""
    charts = summary.charts[:-1]
    blocks = [_Block(chart) for chart in charts]
    breadth = max(max(block.breadth for block in blocks) + 1.3, 5.0)
    heads = [_titled(chart_title(summary, chart), breadth) for chart in charts]
    tall = sum(block.height + 0.21 * len(head) + 0.3 for block, head in zip(blocks, heads, strict=True))
    figure = style.new_figure(breadth, tall, layout=None)
    over = tall
    for chart, block, head in zip(charts, blocks, heads, strict=True):
        figure.text(0.01, (over - 0.06) / tall, "\n".join(head), va="top", fontsize=style.FONT + 1)
        over -= 0.21 * len(head) + 0.3
        scale = _Scale(*limits(summary, chart), DIVERGING if summary.kind == "answer" else style.MAP)
        block.draw(figure, over, scale)
        _colour_bar(figure, unit(summary, chart), over, scale)
        over -= block.height
    return figure


class _Scale(NamedTuple):
    """Colours and what their ends stand for."""

    low: float
    high: float
    colours: str

    def ink(self, value: float) -> str:
        """Of a number on its own colour: answers are lightest at 0, weights at their largest."""
        dark = abs(value) > 0.55 * self.high if self.low < 0 else value < 0.55 * self.high
        return "white" if dark else "black"


class _Block:
    """The heat maps of one chart, and the inches they need."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.turned = is_places(chart.axes[0]) and not is_places(chart.axes[1])  # time runs from left to right
        self.down, self.across = chart.axes[::-1] if self.turned else chart.axes
        self.x = [style.shortened(name) for name in self.across.labels]
        self.y = [style.shortened(name) for name in self.down.labels]
        names = style.text_width([f"{panel.name} (n = {panel.rows})" for panel in chart.panels], style.FONT)
        room = min(max(3.0, 0.27 * len(self.x)), 4.6 if is_places(self.across) else 8.1)
        self.wide = max(room, min(names, 4.6))
        self.high = max(0.8, 0.27 * min(len(self.y), MOST_TICKS))
        self.columns = max(1, min(3, len(chart.panels), int((WIDEST - 2) / self.wide)))
        self.lines = math.ceil(len(chart.panels) / self.columns)
        self.upright = is_places(self.across) or style.text_width(self.x) * len(self.x) < self.wide
        self.left = style.text_width(self.y) + 0.5
        self.below = 0.6 if self.upright else style.text_width(self.x) + 0.4
        self.breadth = self.left + self.columns * (self.wide + 0.2)
        self.height = max(self.lines * (self.high + GAP) - GAP + self.below, 1.9)

    def draw(self, figure: Figure, over: float, scale: _Scale) -> None:
        for place, panel in enumerate(self.chart.panels):
            line, column = divmod(place, self.columns)
            bottom = over - line * (self.high + GAP) - self.high
            axes = style.panel(figure, self.left + column * (self.wide + 0.2), bottom, self.wide, self.high)
            _draw_heat(axes, panel.mean.T if self.turned else panel.mean, scale)
            last = place + self.columns >= len(self.chart.panels)  # names once, below the column and left of the line
            names = _ticks(self.x, self.wide if self.upright else None) if last else ([], [])
            axes.set_xticks(*names, rotation=0 if self.upright else 90)
            axes.set_yticks(*(([], []) if column else _ticks(self.y)))
            across, down = self.across.name if last else "", "" if column else self.down.name
            style.plain(axes, _heading(panel, self.wide), across, down)


def _draw_heat(axes: Axes, mean: np.ndarray, scale: _Scale) -> None:
    axes.set_facecolor("#dddddd")  # seen where no row has anything
    axes.imshow(mean, cmap=scale.colours, vmin=scale.low, vmax=scale.high, aspect="auto", interpolation="nearest")
    if mean.size <= MOST_NUMBERS and mean.shape[1] <= 8:
        for (i, j), value in np.ndenumerate(mean):
            if np.isfinite(value):
                ink, size = scale.ink(value), style.FONT - 2
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=size)


def _colour_bar(figure: Figure, told: str, over: float, scale: _Scale) -> None:
    axes = style.panel(figure, figure.get_size_inches()[0] - 1.2, over - 1.6, 0.14, 1.6)
    shades = np.linspace(scale.high, scale.low, 64)[:, None]
    axes.imshow(shades, cmap=scale.colours, aspect="auto", extent=(0, 1, scale.low, scale.high))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=style.FONT - 2)
    axes.yaxis.set_label_position("right")
    axes.set_ylabel(_wrapped(told), fontsize=style.FONT - 2)


def _ticks(labels: list[str], inches: float | None = None) -> tuple[list[int], list[str]]:
    """As many places as there is room for, and their names; ``inches`` to write them side by side."""
    most = MOST_TICKS if inches is None else max(1, min(MOST_TICKS, int(inches / (style.text_width(labels) + 0.12))))
    at = list(range(0, len(labels), math.ceil(len(labels) / most)))
    return at, [labels[i] for i in at]


def _heading(panel: Panel, inches: float = 3.6) -> str:
    """The panel's name, as far as it fits, and its number of rows."""
    count = f" (n = {panel.rows})"
    return style.shortened(panel.name, int(inches / style.text_width("x", style.FONT)) - len(count)) + count


def _wrapped(text: str) -> str:
    return "\n".join(line for part in text.replace(", ", ",\n").splitlines() for line in textwrap.wrap(part, 28))


def _left_out(chart: Chart, at: np.ndarray) -> str:
    every = len(chart.axes[-1].labels)
    return f"; the {len(at)} largest of {every}" if len(at) < every else ""


def _titled(text: str, inches: float) -> list[str]:
    return textwrap.wrap(text, int((inches - 0.3) / style.text_width("n", style.FONT + 1)))
