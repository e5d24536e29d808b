"""All attention maps of a run on one interactive page: choose the map, and whose weights are shown.

The page holds Plotly's script once, its own script and the numbers, and asks for nothing else, so that it works from a
file and in the sandboxed frame in which MLflow shows artifacts. What is chosen stands in plain ``select`` elements,
which the keyboard reaches. Names come from data: they enter as JSON without ``<``, and the document as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from plotly.colors import get_colorscale
from plotly.offline import get_plotlyjs

from fusion_lab.contracts import AttentionMap, Axis
from fusion_lab.report import style
from fusion_lab.report.attention import (
    DIVERGING,
    NO_PROOF,
    Chart,
    Panel,
    Summary,
    View,
    chart_title,
    is_places,
    order,
    row_title,
    unit,
    views,
)
from fusion_lab.report.attention_script import BODY, LOOK, SCRIPT
from fusion_lab.report.rows import Sample

PLACES = 5
"""Decimal places of the weights on the page; the tables hold them in full."""


class Shown(NamedTuple):
    """A map, its averages, and the name of the table of all its rows ("" without one)."""

    weights: AttentionMap
    summary: Summary
    table: str


def attention_page(maps: Sequence[Shown], samples: Sequence[Sample]) -> str:
    """The page of maps that have rows, one at least."""
    content = {
        "config": style.PLOTLY,
        "colours": style.OKABE_ITO,
        "scale": get_colorscale(style.MAP),
        "diverging": get_colorscale(DIVERGING),
        "maps": [_map(shown, samples) for shown in maps],
        "samples": [_sample(sample) for sample in samples],
        "choice": _choice(maps, samples),
        "caution": NO_PROOF,
    }
    data = f'<script type="application/json" id="data">{script_json(content)}</script>'
    scripts = f"<script>{get_plotlyjs()}</script>{data}<script>{SCRIPT}</script>"
    return style.document("Attention of validation rows", f"{BODY}{scripts}", LOOK)


def script_json(value: object) -> str:
    """JSON that no text in it can end the ``script`` element of.

    >>> script_json(["</script>"])
    '["\\\\u003c/script\\\\u003e"]'
    """
    plain = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _map(shown: Shown, samples: Sequence[Sample]) -> dict[str, Any]:
    weights, summary, table = shown
    entry = {key: p for p, key in enumerate(zip(weights.fold.tolist(), weights.row.tolist(), strict=True))}
    chosen = [entry.get((sample.fold, sample.row)) for sample in samples]
    return {
        "name": summary.name,
        "kind": summary.kind,
        "by": summary.by,
        "table": table,
        "charts": [
            _chart(summary, chart, view, chosen) for chart, view in zip(summary.charts, views(weights), strict=True)
        ],
    }


def _chart(summary: Summary, chart: Chart, view: View, chosen: Sequence[int | None]) -> dict[str, Any]:
    return {
        "title": chart_title(summary, chart),
        "row_title": row_title(summary, chart),
        "unit": unit(summary, chart),
        "axes": [_axis(axis) for axis in chart.axes],
        "order": order(chart).tolist(),
        "panels": [_panel(panel) for panel in chart.panels],
        "samples": [None if p is None else plain(view.values[p]) for p in chosen],
        "alike": [None if p is None else plain(view.uniform[p]) for p in chosen] if len(chart.axes) == 1 else [],
    }


def _axis(axis: Axis) -> dict[str, Any]:
    short = [style.shortened(label) for label in axis.labels]
    return {"name": axis.name, "labels": axis.labels, "short": short, "places": is_places(axis)}


def _panel(panel: Panel) -> dict[str, Any]:
    numbers: Mapping[str, np.ndarray] = {"mean": panel.mean, "std": panel.std, "alike": panel.uniform}
    values = {name: plain(array) for name, array in numbers.items()}
    return {"name": panel.name, "rows": panel.rows, "count": panel.count.tolist(), **values}


def _sample(sample: Sample) -> dict[str, str]:
    heading = f"{sample.group}: {sample.kind}" if sample.group else sample.kind
    return {"id": sample.id, "facts": sample.facts, "heading": heading, "group": sample.group}


def _choice(maps: Sequence[Shown], samples: Sequence[Sample]) -> str:
    every = max((shown.summary.rows for shown in maps), default=0)
    kinds = {sample.kind for sample in samples}
    if len(samples) == every:
        how = "all of them"
    elif "closest" in kinds or "furthest" in kinds:
        how = "of each third the closest predictions, the furthest and a spread between, sorted by error"
    elif any(sample.group for sample in samples):
        how = "of each class the most confident right ones, the most confident wrong ones and a spread between"
        how += ", sorted by confidence"
    else:
        how = "spread evenly over all of them"
    return f"Single rows to choose from: {len(samples)} of {style.counted(every, 'validation row')}, {how}."


def plain(array: np.ndarray) -> list[Any]:
    """Rounded numbers as nested lists, ``None`` for what is not there.

    >>> plain(np.array([[0.1234567, np.nan]]))
    [[0.12346, None]]
    """
    rounded = np.round(array.astype(np.float64), PLACES)
    held = rounded.astype(object)
    held[np.isnan(rounded)] = None
    return held.tolist()
