"""Scores of subsets of modalities as bars over dots that say which are in (Lex et al. 2014, "UpSet: Visualization of
Intersecting Sets", IEEE TVCG), beside what each modality adds (its gain) and its importance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fusion_lab.evaluation.subsets import SubsetScores, Worth
from fusion_lab.report import style

MOST_SUBSETS, MOST_TASKS = 30, 4
LIGHT = "#a8a8a8"
GAIN = ("Gain: what the modality adds to", "others, the mean over pairs of", "subsets that differ in it alone.")
IMPORTANCE = (
    "Importance: the mean score of the",
    "subsets with it less that of those",
    "without it, as a share. What adds",
    "nothing comes out below 0, as its",
    "own subset, it alone, is a weak one:",
    "that is no sign that it does harm.",
)
"""The two are different things, and may differ in sign."""


def subsets_dict(
    scored: Sequence[SubsetScores], worth: Mapping[str, Worth], names: Sequence[str], note: str = ""
) -> dict[str, Any]:
    """Scores of subsets as plain values, the whole first.

    Keys: ``metric``, what importance goes by, ``{task: name}``; ``full_modalities``, a subset's line;
    ``single_modalities``, ``{modality: line}``; ``all_combinations``, every line; ``modality_importance``, ``{task:
    {modality: share}}``; ``modality_gain``, the like in the metric's unit; ``note``. A line: ``modalities``, ``tasks``
    (``{task: {metric: {"pooled", "mean"}}}``) and ``rows_without_any``, test rows that have none of the subset's
    modalities.
    """
    lines = [_line(one) for one in scored]
    return {
        "modalities": list(names),
        "metric": {task: next(iter(metrics)) for task, metrics in scored[0].scores.items()},
        "note": note,
        "full_modalities": lines[0],
        "single_modalities": {line["modalities"][0]: line for line in lines if len(line["modalities"]) == 1},
        "all_combinations": lines,
        "modality_importance": {task: dict(of.importance) for task, of in worth.items()},
        "modality_gain": {task: dict(of.gain) for task, of in worth.items()},
    }


def subsets_png(payload: Mapping[str, Any]) -> bytes:
    """A block of bars, dots, gain and importance per task, of what :func:`subsets_dict` gave; of many tasks the first
    ones.
    """
    names, tasks = payload["modalities"], list(payload["metric"])[:MOST_TASKS]
    lines = drawn(payload["all_combinations"])
    block = 2.2 + 0.26 * len(names) + 0.7
    figure = style.new_figure(max(9.6, 6.4 + 0.32 * len(lines)), 0.4 + block * len(tasks))
    figure.suptitle(_title(payload, len(lines)), fontsize=style.FONT + 1, x=0.01, ha="left")
    ratios = [2.2, 0.26 * len(names) + 0.3] * len(tasks)
    wide = [max(0.32 * len(lines), 3.0), 2.1, 2.1]
    grid = figure.subplots(2 * len(tasks), 3, squeeze=False, height_ratios=ratios, width_ratios=wide)
    for place, task in enumerate(tasks):
        (bars, *above), (dots, gains, shares) = grid[2 * place], grid[2 * place + 1]
        for axes, caption in zip(above, (GAIN, IMPORTANCE), strict=True):
            _draw_caption(axes, caption)
        metric = payload["metric"][task]
        ordered = sorted(lines, key=lambda line: -_or_lowest(_score(line, task, metric)))
        _draw_bars(bars, [_score(line, task, metric) for line in ordered], task, metric)
        _draw_dots(dots, [line["modalities"] for line in ordered], names)
        gain, importance = payload["modality_gain"][task], payload["modality_importance"][task]
        # below 0 is a warning of a gain alone
        signs = style.OKABE_ITO[1], style.OKABE_ITO[2]
        _draw_worth(gains, gain, names, f"gain in {style.metric_name(metric)}", "+.3f", signs)
        _draw_worth(shares, importance, names, "importance (share of 1)", "+.2f", (LIGHT, LIGHT))
    return style.png(figure)


def drawn(lines: Sequence[Mapping[str, Any]], most: int = MOST_SUBSETS) -> list[Mapping[str, Any]]:
    """The lines that a figure has place for: of more, those that come first and a spread of the others.

    >>> [line["n"] for line in drawn([{"n": n} for n in range(9)], most=6)]
    [0, 1, 2, 3, 4, 8]
    """
    if len(lines) <= most:
        return list(lines)
    first = most - most // 3
    rest = np.linspace(first, len(lines) - 1, most // 3).round().astype(int).tolist()
    return [*lines[:first], *(lines[i] for i in rest)]


def _line(one: SubsetScores) -> dict[str, Any]:
    tasks = {task: {name: told._asdict() for name, told in metrics.items()} for task, metrics in one.scores.items()}
    return {"modalities": list(one.modalities), "tasks": tasks, "rows_without_any": one.empty}


def _title(payload: Mapping[str, Any], shown: int) -> str:
    every, tasks = len(payload["all_combinations"]), len(payload["metric"])
    told = [f"{shown} of {every} scored subsets are drawn" if shown < every else ""]
    told.append(f"{tasks - MOST_TASKS} more tasks in the numbers" if tasks > MOST_TASKS else "")
    more = "; ".join(filter(None, told))
    return f"Test rows with some modalities only{': ' if more else ''}{more}"


def _score(line: Mapping[str, Any], task: str, metric: str) -> float:
    value = line["tasks"][task][metric]["pooled"]
    return math.nan if value is None else value


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _draw_bars(axes: Axes, scores: Sequence[float], task: str, metric: str) -> None:
    at, values = np.arange(len(scores)), np.array(scores, dtype=float)
    axes.bar(at, values, color=style.OKABE_ITO[0], width=0.7)
    for place, value in zip(at.tolist(), values.tolist(), strict=True):
        if math.isfinite(value):
            axes.annotate(
                f"{value:.2f}",
                (place, max(value, 0.0)),
                ha="center",
                va="bottom",
                fontsize=style.FONT - 3,
                xytext=(0, 1),
                textcoords="offset points",
            )
    axes.set_xlim(-0.6, len(scores) - 0.4)
    axes.set_xticks([])
    axes.margins(y=0.12)
    style.plain(axes, f"{style.shortened(task)}: all folds' test rows", "", style.axis_name(metric))


def _draw_dots(axes: Axes, subsets: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    held = np.array([[name in subset for subset in subsets] for name in names])
    row, place = np.indices(held.shape)
    axes.scatter(place, row, color=np.where(held.reshape(-1), "black", "#d9d9d9"), s=25, zorder=2)
    first, last = held.argmax(0), len(names) - 1 - held[::-1].argmax(0)
    axes.vlines(np.arange(len(subsets)), first, last, color="black", linewidth=1.2, zorder=1)
    axes.set_xlim(-0.6, len(subsets) - 0.4)
    _name_rows(axes, names)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    style.plain(axes, "", "subsets, the best first (dark: modality is there)", "")


def _draw_caption(axes: Axes, lines: Sequence[str]) -> None:
    """Words in a place of their own, right above what they explain."""
    axes.set_axis_off()
    axes.text(0, 0, "\n".join(lines), transform=axes.transAxes, fontsize=style.FONT - 2, in_layout=False)


def _draw_worth(
    axes: Axes,
    worth: Mapping[str, float | None],
    names: Sequence[str],
    title: str,
    digits: str,
    colours_of: tuple[str, str],
) -> None:
    """A bar per modality; ``colours_of`` values below 0 and others."""
    values = np.array([np.nan if worth[name] is None else worth[name] for name in names], dtype=float)
    colours = [colours_of[not value < 0] for value in values]
    axes.barh(range(len(names)), values, color=colours, height=0.6)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    _name_rows(axes, names)
    axes.set_yticklabels([])
    for place, value in enumerate(values.tolist()):
        told = f"{value:{digits}}" if math.isfinite(value) else "undefined"
        where, side = (max(value, 0.0), 3) if math.isfinite(value) else (0.0, 3)
        axes.annotate(
            told, (where, place), va="center", fontsize=style.FONT - 2, xytext=(side, 0), textcoords="offset points"
        )
    axes.margins(x=0.4)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    style.plain(axes, "", title, "")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [style.shortened(name, 24) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
