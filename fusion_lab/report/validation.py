"""A look through a data set's files as a table, and as one page that needs no network."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import pandas as pd
from plotly import graph_objects as go

from fusion_lab.data.validation import YES_OR_NO, Checked, Validation, Verdict
from fusion_lab.report import style

SHARES = {"coverage": "a sample is near", "interpolated": "between two samples", "masked": "too far from any sample"}
COLOURS = {"coverage": style.OKABE_ITO[0], "interpolated": style.OKABE_ITO[4], "masked": style.GREY}
PATTERNS = {"coverage": "", "interpolated": "/", "masked": "x"}
MOST_BARS = 200
"""Streams that the figure shows: of more, those worst covered."""
LOOK = (
    "table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}"
    "td,th{padding:3px 9px;text-align:right;white-space:nowrap;border-bottom:1px solid #e3e3e3}"
    "th{border-bottom:2px solid #888;vertical-align:bottom}td:nth-child(-n+4),th:nth-child(-n+4){text-align:left}"
    "tr.fault td:nth-child(3){font-weight:bold;color:#a03c00}tr.warning td:nth-child(3){color:#8a5a00}"
    "td:nth-child(4){white-space:normal;min-width:22em}"
)
WORST_FIRST: Sequence[Verdict] = ("fault", "warning", "absent", "ok")


def validation_table(found: Validation) -> pd.DataFrame:
    """A line per stream: recording, stream, verdict, its facts, and what is wrong with it."""
    lines = [
        {
            "recording": one.recording,
            "stream": one.part,
            "verdict": one.verdict,
            **{name: one.facts.get(name, math.nan) for name in found.columns},
            "found": one.fault or " ".join(one.warnings),
        }
        for one in found.checked
    ]
    return pd.DataFrame(lines, columns=["recording", "stream", "verdict", *found.columns, "found"])


def validation_dict(found: Validation) -> dict[str, object]:
    """The same for a program, with the units of the facts."""
    return {
        "where": found.where,
        "sound": found.sound,
        "units": found.columns,
        "faults": list(found.faults),
        "notes": list(found.notes),
        "checked": [
            {
                "recording": one.recording,
                "stream": one.part,
                "verdict": one.verdict,
                **one.facts,
                "warnings": list(one.warnings),
                "fault": one.fault,
            }
            for one in found.checked
        ],
    }


def validation_html(found: Validation) -> str:
    """What is wrong first, then how every stream covers its clock, then every number."""
    figures = [_covered(found)] if any("coverage" in one.facts for one in found.checked) else []
    outcome = [found.told(), *(f"Fault: {fault}" for fault in found.faults)]
    told = f"<h2>{html.escape(outcome[0])}</h2>{style.paragraphs(outcome[1:])}"
    noted = f"<h3>What was noticed</h3>{style.paragraphs(found.notes)}" if found.notes else ""
    return style.document("Validation", f"{told}{_html_table(found)}{style.figures_html(figures)}{noted}", LOOK)


def validation_lines(found: Validation, most: int = 40) -> list[str]:
    """The outcome and what is wrong, one line each."""
    wrong = found.of("fault", "warning")
    told = [f"fault: {fault}" for fault in found.faults]
    told += [f"{one.verdict}: {_wrong(one)}" for one in sorted(wrong, key=lambda one: one.verdict)]
    more = [f"and {len(told) - most} more, see the page"] if len(told) > most else []
    return [*told[:most], *more, found.told()]


def _wrong(one: Checked) -> str:
    """What is wrong with a stream; messages of files and of alignment name them already."""
    return one.fault or "; ".join(one.warnings)


def _covered(found: Validation) -> go.Figure:
    shown = [one for one in found.checked if "coverage" in one.facts]
    shown = sorted(shown, key=lambda one: one.facts["coverage"])[:MOST_BARS]
    names = [html.escape(f"{style.shortened(one.recording, 28)} {one.part}") for one in shown]
    figure = go.Figure()
    for share, label in SHARES.items():
        figure.add_bar(
            x=[one.facts[share] for one in shown],
            y=names,
            name=label,
            orientation="h",
            marker={"color": COLOURS[share], "pattern": {"shape": PATTERNS[share]}},
            hovertemplate=f"%{{y}}<br>{label}: %{{x:.1f}} %<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    figure.update_xaxes(title="share of the clock's steps, %", range=[0, 100])
    left = len([one for one in found.checked if "coverage" in one.facts]) - len(shown)
    title = "How streams cover their clock" + (f" (the worst {len(shown)}, {left} more are better)" if left else "")
    style.layout(figure, title, 200 + 22 * len(shown))
    return figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin_t=110)


def _html_table(found: Validation) -> str:
    heads = ["recording", "stream", "verdict", "found", *(_head(name, unit) for name, unit in found.columns.items())]
    order = sorted(found.checked, key=lambda one: WORST_FIRST.index(one.verdict))
    body = "".join(f"<tr class={one.verdict}>{_cells(one, found.columns)}</tr>" for one in order)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _head(name: str, unit: str) -> str:
    return f"{name}, {unit}" if unit and unit != YES_OR_NO else name


def _cells(one: Checked, columns: Mapping[str, str]) -> str:
    numbers = [_number(one.facts.get(name), unit) for name, unit in columns.items()]
    texts = [one.recording, one.part, one.verdict, _wrong(one), *numbers]
    return "".join(f"<td>{html.escape(text)}</td>" for text in texts)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == YES_OR_NO:
        return "yes" if value else "no"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
