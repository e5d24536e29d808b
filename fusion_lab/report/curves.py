"""Learning curves: one panel for the loss, one for each score, every fold thin and their mean thick."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from fusion_lab.objectives import PART
from fusion_lab.report import style
from fusion_lab.training.results import FoldResult

LOSSES = {"train/loss": "training rows", "val/loss": "validation rows"}
PENALTY = "train/"
"""How curves of penalties begin, and that of the loss which holds them."""
PENALTIES = "penalties, training rows"
PARTS = {f"train/{PART}": "parts of the loss, training rows", f"val/{PART}": "parts of the loss, validation rows"}
"""How curves of the objective's parts begin, and what their panels are called."""
WIDE, NARROW = 3.9, 2.6
"""Breadth of a panel in inches, and of that of the penalties, which stand beside what is asked for."""


def fold_matrix(folds: Sequence[FoldResult], name: str) -> np.ndarray:
    """A curve of every fold, float ``[K, E]`` with E the most epochs of any fold.

    A fold that stopped earlier carries a validation value of its restored epoch forward, as the objective of a search
    does, and the last value of other curves, so that the mean is over all folds at each epoch. NaN where undefined, or
    where there is no such curve.
    """
    longest = max(len(f.history) for f in folds)
    kept = [f.best_epoch if name.startswith("val/") else len(f.history) for f in folds]
    curves = [[row.get(name, math.nan) for row in f.history] for f in folds]
    return np.stack([_carried(curve, epoch, longest) for curve, epoch in zip(curves, kept, strict=True)])


def mean_curves(folds: Sequence[FoldResult], auxiliary: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Means over all folds, each ``[E]``: of every curve, and over all but ``auxiliary`` tasks of each score
    (``val/<metric>``).

    NaN where one fold's value is undefined: a mean over fewer folds is not the mean.
    """
    means = {name: fold_matrix(folds, name).mean(0) for name in curve_names(folds)}
    tasks: dict[str, list[np.ndarray]] = defaultdict(list)
    for name, curve in means.items():
        if task_of(name) and task_of(name) not in auxiliary:
            tasks[metric_of(name)].append(curve)
    return {**means, **{f"val/{metric}": np.mean(curves, axis=0) for metric, curves in tasks.items()}}


def curve_names(folds: Iterable[FoldResult]) -> list[str]:
    """The curves that the folds' histories hold, in their order."""
    names = dict.fromkeys(name for fold in folds for row in fold.history for name in row)
    names.pop("epoch", None)
    return list(names)


def task_of(name: str) -> str:
    """The task of a curve ``val/<task>/<metric>``, ``""`` for others; a task's name may hold slashes.

    >>> task_of("val/death_5y/auroc"), task_of("val/loss"), task_of("val/loss of crop")
    ('death_5y', '', '')
    """
    return name.split("/", 1)[1].rpartition("/")[0] if "/" in name and not part_of(name) else ""


def is_penalty(name: str) -> bool:
    """Whether a curve is that of a penalty in the training loss.

    >>> is_penalty("train/kl"), is_penalty("train/loss"), is_penalty("val/loss"), is_penalty("train/loss of crop")
    (True, False, False, False)
    """
    return name.startswith(PENALTY) and name not in LOSSES and not part_of(name)


def part_of(name: str) -> str:
    """The part of the objective that a curve is of, ``""`` for others.

    >>> part_of("val/loss of crop"), part_of("val/loss")
    ('crop', '')
    """
    return next((name.removeprefix(begin) for begin in PARTS if name.startswith(begin)), "")


def metric_of(name: str) -> str:
    """The last part of a curve's name."""
    return name.rpartition("/")[2]


def curves_dict(folds: Sequence[FoldResult]) -> dict[str, object]:
    """Every curve of every fold, as plain values."""
    return {
        "folds": [
            {
                "fold": f.fold,
                "name": f.name,
                "best_epoch": f.best_epoch,
                "epochs": f.epochs,
                "ending": f.ending,
                "history": [dict(row) for row in f.history],
            }
            for f in folds
        ]
    }


def curves_png(folds: Sequence[FoldResult], title: str = "") -> bytes:
    """Loss and scores of the tasks as a PNG file: every fold thin, their mean thick, a ring at each restored epoch."""
    shown = _overview(folds)
    widths = [NARROW if heading == PENALTIES else WIDE for heading, _ in shown]
    figure = style.new_figure(sum(widths) + len(shown) + 0.2, 3.7, layout=None)
    left = 0.8
    for width, (heading, names) in zip(widths, shown, strict=True):
        axes = style.panel(figure, left, 0.6, width, 2.4)
        left += width + 1.0
        for index, name in enumerate(names):
            _draw(axes, folds, name, style.colour(index))
        axes.autoscale_view()
        if is_penalty(names[0]):
            _scale_penalties(axes, folds, names)
        _label(axes, names)
        axes.xaxis.set_major_locator(MaxNLocator(6 if width == WIDE else 4, integer=True))
        y = "mean per row" if is_penalty(names[0]) else style.axis_name(_metric(names[0]))
        style.plain(axes, heading, "epoch", y)
    style.heading(figure, _title(folds, title))
    return style.png(figure)


def _label(axes: Axes, names: Sequence[str]) -> None:
    """The curves' names in their colours: of what falls at the top, of scores at the bottom."""
    falls = names[0].startswith(PENALTY) or bool(part_of(names[0]))
    for index, name in enumerate(names):
        own = part_of(name) or (metric_of(name) if is_penalty(name) else task_of(name))
        label = LOSSES.get(name) or style.shortened(own, 24)
        height = 0.93 - 0.085 * index if falls else 0.02 + 0.085 * (len(names) - 1 - index)
        text = axes.text(0.99, height, label, color=style.colour(index), fontsize=style.FONT - 1, ha="right")
        text.set_transform(axes.transAxes)


def _scale_penalties(axes: Axes, folds: Sequence[FoldResult], names: Sequence[str]) -> None:
    """Penalties differ by orders of magnitude: a logarithmic axis where none is 0, with room for their names above."""
    values = np.concatenate([fold_matrix(folds, name).ravel() for name in names])
    low, high = np.nanmin(values), np.nanmax(values)
    share = 1 / (0.93 - 0.085 * len(names))  # of the axis to that of the curves
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(0.9 * low, 0.9 * low * (max(high / low, 2.0) * 1.2) ** share)
    else:
        axes.set_ylim(low, low + max(high - low, 1e-9) * share)


def curves_html(folds: Sequence[FoldResult], title: str = "") -> str:
    """The curves as an interactive page; a click on a fold's name hides it.

    One panel below the other: beside each other, axis titles would lie on the next panel where the page is narrow.
    """
    panels = _panels(folds)
    headings = [html.escape(heading) for heading, _ in panels]
    figure = make_subplots(len(panels), 1, subplot_titles=headings, vertical_spacing=0.3 / len(panels))
    for place, (_, names) in enumerate(panels):
        at = {"row": 1 + place, "col": 1}
        for name in names:
            dash = "dot" if name.startswith("train/") else "solid"
            for line in [*_fold_lines(folds, name, dash, place == 0), _mean_line(folds, name, dash, place == 0)]:
                figure.add_trace(line, **at)
        longest = max(len(f.history) for f in folds)
        figure.update_xaxes(title_text="epoch", tickvals=style.whole_ticks(longest), **at)
        figure.update_yaxes(title_text=style.axis_name(_metric(names[0])), **at)
    style.layout(figure, _title(folds, title), 120 + 330 * len(panels))
    figure.update_layout(legend={"itemsizing": "trace", "itemwidth": 48})  # so that dashes are seen
    return style.page(title or "Learning curves", [figure], [_legend_note(panels)])


def _carried(values: list[float], epoch: int, longest: int) -> np.ndarray:
    kept = values[epoch - 1] if 0 < epoch <= len(values) else math.nan
    return np.array(values + [kept] * (longest - len(values)), dtype=float)


def _points(fold: FoldResult, name: str) -> tuple[np.ndarray, np.ndarray]:
    epochs = np.array([int(row["epoch"]) for row in fold.history])
    return epochs, np.array([row.get(name, math.nan) for row in fold.history], dtype=float)


def _draw(axes: Axes, folds: Sequence[FoldResult], name: str, colour: str) -> None:
    points = [_points(fold, name) for fold in folds]
    lines = [np.column_stack(p) for p in points]
    axes.add_collection(LineCollection(lines, colors=colour, alpha=0.35, linewidths=0.9))
    together = min(len(f.history) for f in folds)  # beyond, the mean holds values carried forward
    mean, epochs = fold_matrix(folds, name).mean(0), 1 + np.arange(max(len(f.history) for f in folds))
    axes.plot(epochs[:together], mean[:together], color=colour, linewidth=2.2)
    axes.plot(epochs[together - 1 :], mean[together - 1 :], color=colour, linewidth=1.4, linestyle=":")
    if not name.startswith(PENALTY):
        rings = [line[f.best_epoch - 1] for f, line in zip(folds, lines, strict=True) if 0 < f.best_epoch <= len(line)]
        axes.scatter(*np.reshape(rings, (-1, 2)).T, s=22, facecolors="none", edgecolors=colour)


def _overview(folds: Sequence[FoldResult]) -> list[tuple[str, list[str]]]:
    """The losses, the first score of every task, and parts of the loss and penalties where there are any, as far as
    colours reach.
    """
    names = curve_names(folds)
    scores = [n for n in names if task_of(n)]
    first = [n for n in scores if metric_of(n) == metric_of(scores[0])][: len(style.OKABE_ITO)]
    penalties = [n for n in names if is_penalty(n)][: len(style.OKABE_ITO)]
    losses = [n for n in LOSSES if n in names]
    panels = [("loss", losses), ("validation score", first), *_parts(names), (PENALTIES, penalties)]
    return [panel for panel in panels if panel[1]]


def _parts(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The panels of the objective's parts, as far as colours reach."""
    every = ((heading, [n for n in names if n.startswith(begin)]) for begin, heading in PARTS.items())
    return [(heading, held[: len(style.OKABE_ITO)]) for heading, held in every if held]


def _metric(name: str) -> str:
    """A curve's metric as figures call it: the F1 that is watched is that of the most probable class, a macro F1."""
    if part_of(name):
        return "loss"
    return "macro F1" if metric_of(name) == "f1" else metric_of(name)


def _panels(folds: Sequence[FoldResult]) -> list[tuple[str, list[str]]]:
    """Headings and curves: the losses together, each part of the loss, the first score of each task, the others."""
    names = curve_names(folds)
    losses = [n for n in LOSSES if n in names]
    scores = [n for n in names if task_of(n)]
    first = [n for n in scores if metric_of(n) == metric_of(scores[0])]
    ordered = first + [n for n in scores if n not in first]
    panels = [("loss", losses)] if losses else []
    parts = dict.fromkeys(part_of(n) for n in names if part_of(n))
    panels += [(f"loss of {part}", [f"{b}{part}" for b in PARTS if f"{b}{part}" in names]) for part in parts]
    return panels + [(f"{task_of(n)}: validation {style.metric_name(_metric(n))}", [n]) for n in ordered]


def _title(folds: Sequence[FoldResult], title: str) -> str:
    best = sorted({f.best_epoch for f in folds})
    restored = f"epoch {best[0]}" if len(best) == 1 else f"epochs {best[0]} to {best[-1]}"
    stopped = f"{style.counted(len(folds), 'fold')}, restored {restored} of {max(f.epochs for f in folds)}"
    return f"{title}: {stopped}" if title else stopped


def _fold_lines(folds: Sequence[FoldResult], name: str, dash: str, legend: bool) -> list[go.Scatter]:
    lines = []
    for index, fold in enumerate(folds):
        epochs, values = _points(fold, name)
        lines.append(
            go.Scatter(
                x=epochs,
                y=values,
                name=html.escape(fold.name),
                legendgroup=f"fold {index}",
                showlegend=legend and dash == "solid",
                line={"width": 1.3, **style.fold_line(index), **({"dash": dash} if dash == "dot" else {})},
                opacity=0.75,
            )
        )
    return lines


def _mean_line(folds: Sequence[FoldResult], name: str, dash: str, legend: bool) -> go.Scatter:
    mean = fold_matrix(folds, name).mean(0)
    return go.Scatter(
        x=1 + np.arange(len(mean)),
        y=mean,
        name="mean",
        legendgroup="mean",
        showlegend=legend and dash == "solid",
        line={"color": "#000000", "dash": dash, "width": 4},
    )


def _legend_note(panels: list[tuple[str, list[str]]]) -> str:
    dotted = "Dotted: training rows. " if any("train/loss" in names for _, names in panels) else ""
    carried = "A fold that stopped early carries the value of its restored epoch forward in the mean."
    return f"Black and thick: the mean over folds. {dotted}{carried}"
