"""How confident a model was of the modalities that it imputed, and how often it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fusion_lab.evaluation.rows import Imputation
from fusion_lab.report import style

MOST_MODALITIES, MOST_POINTS = 24, 400
QUANTILES = {"low": 0.05, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "high": 0.95}
SPREAD = 0.3
"""How far points stand from their line, of 1 between lines."""


def confidence_dict(found: Mapping[str, Imputation], rows: int) -> dict[str, Any]:
    """Imputations of ``rows`` test rows as plain values.

    Keys: ``rows``; ``modalities``, of each that some rows lack: ``missing`` and ``imputed`` rows, ``confidence``
    (:data:`QUANTILES`, NaN where nothing was imputed), and as ``points`` all confidences, of many an even choice.
    """
    return {
        "rows": rows,
        "modalities": {
            name: {
                "missing": one.missing,
                "imputed": len(one.confidence),
                "confidence": _quantiles(one.confidence),
                "points": _points(one.confidence),
            }
            for name, one in found.items()
        },
    }


def confidence_png(payload: Mapping[str, Any]) -> bytes:
    """Boxes over points beside counts, a line per modality, of what :func:`confidence_dict` gave; of many modalities
    those that most rows lack.
    """
    every = payload["modalities"]
    lacking = sorted(every, key=lambda name: -every[name]["missing"])[:MOST_MODALITIES]
    lines = {name: of for name, of in every.items() if name in lacking}
    figure = style.new_figure(9.6, 1.5 + 0.5 * len(lines))
    left_out = f"; {len(every) - len(lines)} more modalities in the numbers" if len(every) > len(lines) else ""
    title = f"Test rows, out of fold: modalities that were missing and imputed{left_out}"
    figure.suptitle(title, fontsize=style.FONT + 1, x=0.01, ha="left")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    _draw_confidence(left, lines)
    _draw_counts(right, lines, payload["rows"])
    left.set_yticks(range(len(lines)), [style.shortened(name, 24) for name in lines])
    left.set_ylim(len(lines) - 0.5, -0.5)
    return style.png(figure)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(QUANTILES, np.nan)
    return dict(zip(QUANTILES, np.quantile(values.astype(float), list(QUANTILES.values())).tolist(), strict=True))


def _points(values: np.ndarray) -> list[float]:
    """In ascending order."""
    ordered = np.sort(values.astype(float))
    if len(ordered) > MOST_POINTS:
        ordered = ordered[np.linspace(0, len(ordered) - 1, MOST_POINTS).round().astype(int)]
    return ordered.tolist()


def _draw_confidence(axes: Axes, lines: Mapping[str, Mapping[str, Any]]) -> None:
    for place, of in enumerate(lines.values()):
        points = np.array(of["points"])
        # the golden ratio spreads neighbours in value evenly over the line's breadth, the same at every drawing
        aside = SPREAD * (2 * (np.arange(len(points)) * 0.618034 % 1) - 1)
        axes.plot(points, place + aside, "o", color=style.OKABE_ITO[5], markersize=2.5, markeredgewidth=0, alpha=0.8)
    boxed = {place: of["confidence"] for place, of in enumerate(lines.values()) if of["imputed"]}
    boxes = [
        {"whislo": q["low"], "q1": q["quarter"], "med": q["median"], "q3": q["three_quarters"], "whishi": q["high"]}
        for q in boxed.values()
    ]
    dark, strong = {"color": style.OKABE_ITO[0], "linewidth": 1.3}, {"color": style.OKABE_ITO[1], "linewidth": 2.2}
    axes.bxp(
        boxes,
        positions=list(boxed),
        widths=0.5,
        orientation="horizontal",
        showfliers=False,
        manage_ticks=False,
        boxprops=dark,
        whiskerprops=dark,
        capprops=dark,
        medianprops=strong,
    )
    axes.set_xlim(-0.02, 1.02)
    style.plain(axes, "dots: rows; box: quartiles; whiskers: 5 to 95 %", "confidence of the imputation (0 to 1)", "")


def _draw_counts(axes: Axes, lines: Mapping[str, Mapping[str, Any]], rows: int) -> None:
    imputed, missing = (np.array([of[kind] for of in lines.values()]) for kind in ("imputed", "missing"))
    at = np.arange(len(lines))
    axes.barh(at, imputed, color=style.OKABE_ITO[0], height=0.5)
    axes.barh(at, missing - imputed, left=imputed, color="#d9d9d9", height=0.5)
    for place, one, of in zip(at.tolist(), imputed.tolist(), missing.tolist(), strict=True):
        axes.annotate(
            f"{one} of {of} missing",
            (of, place),
            va="center",
            fontsize=style.FONT - 2,
            xytext=(3, 0),
            textcoords="offset points",
        )
    axes.set_xlim(0, 1.6 * missing.max())
    axes.tick_params(labelleft=False)
    style.plain(axes, "dark: imputed; light: missing, not used", f"rows (of {rows} test rows)", "")
