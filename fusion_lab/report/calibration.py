"""Reliability diagrams: how often answers of a certain confidence are right, before and after the temperature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fusion_lab.contracts import Spec
from fusion_lab.evaluation.calibration import Calibration, Reliability
from fusion_lab.report import style

HEIGHT, MOST_TASKS = 4.4, 6


def calibration_dict(calibrations: Mapping[str, Calibration], spec: Spec, folds: tuple[str, ...]) -> dict[str, Any]:
    """Everything that the figure shows and the folds besides, as plain values; undefined numbers are NaN.

    ``calibrations``: of the tasks with classes; ``folds``: the folds' names.
    """
    return {
        "tasks": {
            task.name: {
                "before": _plain(calibrations[task.name].before),
                "after": _plain(calibrations[task.name].after),
                "folds": [
                    {
                        "fold": fold.fold,
                        "name": folds[fold.fold],
                        "temperature": fold.temperature,
                        "validation_labels": fold.fitted_on,
                        "before": _numbers(fold.before),
                        "after": _numbers(fold.after),
                    }
                    for fold in calibrations[task.name].folds
                ],
            }
            for task in spec.tasks
            if task.name in calibrations
        }
    }


def calibration_png(payload: Mapping[str, Any]) -> bytes:
    """A row of two diagrams per task, of what :func:`calibration_dict` gave; of many tasks the first."""
    tasks = list(payload["tasks"].items())
    shown = tasks[:MOST_TASKS]
    left_out = f"; {len(tasks) - len(shown)} more tasks in the numbers" if len(tasks) > len(shown) else ""
    figure = style.new_figure(9.6, 0.5 + HEIGHT * len(shown))
    title = f"Test rows, out of fold: accuracy by confidence in the most probable class{left_out}"
    figure.suptitle(title, fontsize=style.FONT + 1, x=0.01, ha="left")
    grid = figure.subplots(2 * len(shown), 2, squeeze=False, sharex=True, height_ratios=[3, 1] * len(shown))
    for place, (name, task) in enumerate(shown):
        titles = {"before": f"{style.shortened(name)}: as trained", "after": _after_title(task["folds"])}
        for column, (when, title) in enumerate(titles.items()):
            _draw_reliability(grid[2 * place, column], task[when], title)
            _draw_counts(grid[2 * place + 1, column], task[when])
            grid[2 * place, column].tick_params(labelbottom=False)
            grid[2 * place + 1, column].tick_params(labelbottom=True)
        for low in grid[2 * place + 1]:
            low.set_ylim(0, max(axes.get_ylim()[1] for axes in grid[2 * place + 1]))
    grid[0, 0].legend(fontsize=style.FONT - 2, loc="upper left", bbox_to_anchor=(0.0, 0.8), frameon=False)
    return style.png(figure)


def _numbers(found: Reliability) -> dict[str, float]:
    return {"rows": found.rows, "ece": found.ece, "mce": found.mce, "nll": found.nll}


def _plain(found: Reliability) -> dict[str, Any]:
    return {**_numbers(found), "bins": {name: part.tolist() for name, part in found.bins._asdict().items()}}


def _after_title(folds: list[dict[str, Any]]) -> str:
    values = [fold["temperature"] for fold in folds]
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"after each fold's temperature ({low if low == high else f'{low} to {high}'})"


def _draw_reliability(axes: Axes, found: Mapping[str, Any], title: str) -> None:
    edges = np.linspace(0, 1, len(found["bins"]["count"]) + 1)
    accuracy, confidence = (np.array(found["bins"][name], dtype=float) for name in ("accuracy", "confidence"))
    axes.bar(
        edges[:-1],
        accuracy,
        width=np.diff(edges),
        align="edge",
        color=style.OKABE_ITO[0],
        edgecolor="white",
        label="accuracy in the bin",
    )
    axes.plot(
        confidence,
        confidence,
        "o",
        color=style.OKABE_ITO[1],
        markeredgecolor="white",
        markersize=6,
        label="mean confidence in the bin",
    )
    axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle="--", label="calibrated")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    told = f"ECE {found['ece']:.3f}\nMCE {found['mce']:.3f}\nNLL {found['nll']:.3f} nats"
    axes.text(0.03, 0.97, told, va="top", fontsize=style.FONT - 1, transform=axes.transAxes)
    style.plain(axes, title, "", "accuracy (0 to 1)")


def _draw_counts(axes: Axes, found: Mapping[str, Any]) -> None:
    count = np.array(found["bins"]["count"])
    edges = np.linspace(0, 1, len(count) + 1)
    axes.bar(edges[:-1], count, width=np.diff(edges), align="edge", color=style.GREY, edgecolor="white")
    for left, width, number in zip(edges, np.diff(edges), count.tolist(), strict=False):
        if number and len(count) <= 20:
            middle = left + width / 2
            axes.annotate(
                str(number),
                (middle, number),
                ha="center",
                va="bottom",
                fontsize=6,
                xytext=(0, 1),
                textcoords="offset points",
            )
    axes.set_ylim(0, 1.25 * max(1, count.max()))
    style.plain(axes, "", "confidence (probability of the most probable class)", "labels")
