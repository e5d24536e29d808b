"""The comparison of :mod:`fusion_lab.report.comparison` as one page that needs no network."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

import numpy as np
from plotly import graph_objects as go

from fusion_lab.evaluation.comparison import SEPARATE, Comparison, Contrast, Measure
from fusion_lab.report import beside, style
from fusion_lab.report.comparison import (
    HOLLOW,
    ON,
    OPTIMISTIC,
    Line,
    Report,
    colour_of,
    interval,
    number,
    signed,
)

LOOK = (
    "table{border-collapse:collapse;font-size:13px}td,th{padding:3px 9px;text-align:left;white-space:nowrap;"
    "border-bottom:1px solid #e3e3e3}th{border-bottom:2px solid #888;vertical-align:bottom}"
    ".group td{background:#f2f2f2;font-weight:bold}.missing td{color:#a33c00}small{color:#555}.wide{overflow-x:auto}"
    "p,li{max-width:1000px;line-height:1.45}"
)
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "triangle-down", "pentagon", "hexagon")


def comparison_html(report: Report) -> str:
    """Table, differences, folds, pairs and how it was compared; the script (about 5 MB) is inside."""
    comparison = report.comparison
    parts = [f"<h1>{html.escape(report.title)}</h1>", _paragraphs([OPTIMISTIC])]
    missing = [line for line in report.lines if not line.entry]
    if missing:
        named = ", ".join(f"{line.group}: {line.name} ({line.missing})" for line in missing)
        parts.append(_paragraphs([f"Missing: {named}."]))
    if comparison is None:
        parts.append(_paragraphs(["No configuration was finished: there is nothing to compare."]))
        return style.document(report.title, "".join(parts), LOOK)
    parts.append(_table(report, comparison))
    figures = [_forest(report, comparison), _folds(report, comparison)]
    if comparison.pairs:
        figures.append(_pairs(report, comparison))
    figures += beside.figures(report.beside)
    page = style.page(report.title, figures)
    drawn = page[page.index("<body>") + len("<body>") : page.rindex("</body>")]
    parts += [drawn, _further(report, comparison), _how(report, comparison)]
    return style.document(report.title, "".join(parts), LOOK)


def _table(report: Report, comparison: Comparison) -> str:
    first, more = comparison.measures[0], comparison.measures[1:]
    recordings = any(math.isfinite(s.recordings) for s in comparison.standings)
    heads = ["configuration", f"test {report.called(first.key)}<br><small>95 % interval</small>"]
    heads += [f"minus {html.escape(comparison.reference)}<br><small>95 % interval</small>", "p", "p (Holm)"]
    heads += [f"test {report.called(m.key)}" for m in more]
    heads += [f"{report.called(first.key)}<br><small>of recordings</small>"] if recordings else []
    heads += [f"validation<br>{report.called(first.key)}", "folds", "parameters", "time (s)"]
    body, group = [], None
    for line in report.lines:
        if line.group != group:
            group = line.group
            body.append(f'<tr class="group"><td colspan="{len(heads)}">{html.escape(group)}</td></tr>')
        body.append(_row(report, comparison, line, more, recordings, len(heads)))
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    told = "<p><small>* of all folds' rows together, as some fold lacks the score</small></p>"
    below = told if any(s.pooled and s.split == "test" for s in comparison.standings) else ""
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(body)}</table></div>{below}'


def _row(
    report: Report, comparison: Comparison, line: Line, more: Sequence[Measure], recordings: bool, width: int
) -> str:
    if not line.entry:
        told = f"missing: {html.escape(line.missing)}"
        return f'<tr class="missing"><td>{html.escape(line.name)}</td><td colspan="{width - 1}">{told}</td></tr>'
    first = report.headline
    standing = comparison.standing(line.entry, first.key)
    validation = comparison.standing(line.entry, first.key, "val")
    assert standing is not None
    assert validation is not None
    score = f"{number(standing.value)}{'*' if standing.pooled else ''}"
    cells = [html.escape(line.name), _with_interval(score, interval(standing.low, standing.high))]
    cells += _difference_cells(comparison, line, first)
    for measure in more:
        other = comparison.standing(line.entry, measure.key)
        cells.append("" if other is None else f"{number(other.value)}{'*' if other.pooled else ''}")
    cells += [number(standing.recordings)] if recordings else []
    parameters = "" if line.parameters is None else f"{line.parameters:,}"
    seconds = "" if line.seconds is None else f"{line.seconds:.0f}"
    cells += [number(validation.value), str(len(standing.folds)), parameters, seconds]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _difference_cells(comparison: Comparison, line: Line, first: Measure) -> list[str]:
    if line.entry != line.name:
        return [f"same configuration as {html.escape(line.entry)}", "", ""]
    found = comparison.contrast(line.entry, first.key)
    if found is None:
        return ["reference" if line.entry == comparison.reference else "not comparable", "", ""]
    difference = found.difference
    basis = "" if found.basis == "rows" else f" on {found.basis}"
    told = _with_interval(signed(difference.value), interval(difference.low, difference.high, signed) + basis)
    bold = f"<b>{number(found.corrected)}</b>" if found.corrected < SEPARATE else number(found.corrected)
    return [told, number(difference.p), bold]


def _with_interval(value: str, reach: str) -> str:
    return f"{value} <small>{reach}</small>"


def _forest(report: Report, comparison: Comparison) -> go.Figure:
    """Differences from the reference; a menu chooses the measure."""
    figure = go.Figure()
    shown: list[int] = []
    names = [name for name in report.entries if name != comparison.reference]
    for place, measure in enumerate(comparison.measures):
        found = [c for c in (comparison.contrast(name, measure.key) for name in names) if c is not None]
        for trace in (_differences(report, found), _beside(report, found)):
            figure.add_scatter(**trace, visible=place == 0)
            shown.append(place)
    for trace in _keys(comparison):
        figure.add_scatter(**trace)
    figure.add_vline(0, line={"color": style.GREY, "width": 1})
    buttons = [
        {
            "label": report.called(measure.key),
            "method": "update",
            "args": [
                {"visible": [at == place for at in shown] + [True] * (len(figure.data) - len(shown))},
                {"xaxis.title.text": _difference_axis(report, measure)},
            ],
        }
        for place, measure in enumerate(comparison.measures)
    ]
    labels = [html.escape(style.shortened(report.label(name), 60)) for name in names]
    figure.update_yaxes(categoryorder="array", categoryarray=labels, autorange="reversed")
    figure.update_xaxes(title=_difference_axis(report, comparison.measures[0]))
    menu = {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 6}}
    figure.update_layout(updatemenus=[menu])
    title = f"Difference from {comparison.reference}, 95 % interval; p after Holm"
    style.layout(figure, title, 230 + 30 * len(names))
    # p stands in a margin of its own: beside a marker the line at zero would cross it
    figure.update_layout(xaxis={"domain": [0, 0.9]}, xaxis2={"domain": [0.9, 1], "range": [0, 1], "visible": False})
    below = {
        "orientation": "h",
        "yanchor": "top",
        "y": -52 / (60 + 30 * max(len(names), 1)),
    }  # in heights of what is drawn in
    return figure.update_layout(margin={"b": 100}, legend=below)


def _difference_axis(report: Report, measure: Measure) -> str:
    better = "lower" if measure.lower_is_better else "higher"
    return f"difference in test {report.called(measure.key)} ({better} is better)"


def _differences(report: Report, found: Sequence[Contrast]) -> dict[str, object]:
    """Arguments of one scatter."""
    value, low, high = (np.array([c.difference[i] for c in found], dtype=float) for i in range(3))
    reach = {"array": np.nan_to_num(high - value), "arrayminus": np.nan_to_num(value - low)}
    colour = [colour_of(report, c.name) for c in found]
    told = [
        f"p {number(c.difference.p)}, Holm {number(c.corrected)}<br>{c.difference.test}<br>{ON[c.basis]}" for c in found
    ]
    return {
        "x": value,
        "y": [html.escape(style.shortened(report.label(c.name), 60)) for c in found],
        "mode": "markers",
        "showlegend": False,
        "marker": {
            "symbol": [_symbol(c) for c in found],
            "size": 11,
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
        "error_x": {"type": "data", "symmetric": False, "thickness": 2, "width": 0, "color": "#444444", **reach},
        "customdata": told,
        "hovertemplate": "%{y}<br>%{x:.4f}<br>%{customdata}<extra></extra>",
    }


def _symbol(found: Contrast) -> str:
    """A diamond where the two are told apart, hollow where all folds' rows were taken together."""
    return ("diamond" if found.corrected < SEPARATE else "circle") + ("-open" if found.pooled else "")


def _beside(report: Report, found: Sequence[Contrast]) -> dict[str, object]:
    """Arguments of the scatter that tells p, to the right of the differences."""
    return {
        "x": [0.1] * len(found),
        "y": [html.escape(style.shortened(report.label(c.name), 60)) for c in found],
        "xaxis": "x2",
        "mode": "text",
        "text": [f"p {html.escape(number(c.corrected))}" for c in found],
        "textposition": "middle right",
        "textfont": {"size": 11},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _keys(comparison: Comparison) -> list[dict[str, object]]:
    """Scatters of nothing: what shapes and colours say, for the legend."""
    keys = [
        (f"p after Holm below {SEPARATE}", "diamond", style.GREY),
        ("not told apart from chance", "circle", style.GREY),
        ("configuration", "square", style.MODEL),
        ("baseline", "square", style.BASELINE),
    ]
    if any(found.pooled for found in comparison.contrasts):
        keys.insert(2, (f"hollow: {HOLLOW}", "circle-open", style.GREY))
    return [
        {
            "x": [None],
            "y": [None],
            "mode": "markers",
            "name": html.escape(name),
            "marker": {"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
        }
        for name, symbol, colour in keys
    ]


def _folds(report: Report, comparison: Comparison) -> go.Figure:
    """Each fold's score of each entry, a line per fold, by the first measure that is defined everywhere."""
    names = report.entries
    tables = {m.key: _fold_table(comparison, names, m) for m in comparison.measures}
    key = next((k for k, t in tables.items() if np.isfinite(t).all()), comparison.measures[0].key)
    labels = [html.escape(style.shortened(report.label(name), 36)) for name in names]
    figure = go.Figure()
    for place, scores in enumerate(tables[key].T):
        figure.add_scatter(
            x=labels,
            y=scores,
            mode="lines+markers",
            name=html.escape(report.folds[place] if place < len(report.folds) else f"fold {place}"),
            line={"width": 1, **style.fold_line(place)},
            marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
            hovertemplate="%{x}<br>%{y:.4f}<extra>%{fullData.name}</extra>",
        )
    means = tables[key].mean(1)
    line = {"x": labels, "y": means, "mode": "markers", "name": "mean"}
    figure.add_scatter(**line, marker={"symbol": "line-ew", "size": 26, "line": {"width": 3, "color": "#222222"}})
    figure.update_yaxes(title=f"test {report.called(key)}")
    chosen = "" if key == comparison.measures[0].key else f" ({report.called(key)}, which every fold has)"
    style.layout(figure, f"Each fold by itself, a line per fold{chosen}", 520)
    return figure.update_layout(legend={"itemsizing": "trace", "itemwidth": 48})


def _fold_table(comparison: Comparison, names: Sequence[str], measure: Measure) -> np.ndarray:
    """float [entries, K], NaN where an entry has fewer folds."""
    found = [comparison.standing(name, measure.key) for name in names]
    scores = [() if standing is None else standing.folds for standing in found]
    table = np.full((len(names), max((len(s) for s in scores), default=0)), np.nan)
    for place, values in enumerate(scores):
        table[place, : len(values)] = values
    return table


def _pairs(report: Report, comparison: Comparison) -> go.Figure:
    """All against all: the line minus the column."""
    names = [n for n in report.entries if any(n in (c.name, c.other) for c in comparison.pairs)]
    place = {name: at for at, name in enumerate(names)}
    value = np.full((len(names),) * 2, np.nan)
    text, told = (np.full((len(names),) * 2, "", dtype=object) for _ in range(2))
    for found in comparison.pairs:
        at, other = place[found.name], place[found.other]
        for line, column, sign in ((at, other, 1), (other, at, -1)):
            value[line, column] = sign * found.difference.value
            star, dagger = "*" if found.corrected < SEPARATE else "", "" if found.basis == "rows" else "†"
            text[line, column] = f"{signed(sign * found.difference.value)}{star}{dagger}"
            told[line, column] = f"p {number(found.difference.p)}, Holm {number(found.corrected)}<br>{ON[found.basis]}"
    labels = [html.escape(style.shortened(name, 32)) for name in names]
    most = float(np.nanmax(np.abs(value))) if np.isfinite(value).any() else 1.0
    figure = go.Figure(
        go.Heatmap(
            z=value,
            x=labels,
            y=labels,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 10},
            colorscale="PuOr",  # tells signs apart for colour-blind readers
            zmin=-most or -1.0,
            zmax=most or 1.0,
            colorbar={"title": "line minus<br>column"},
            customdata=told,
            hovertemplate="%{y} minus %{x}: %{z:.4f}<br>%{customdata}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    title = f"All against all: difference in test {report.called(report.headline.key)}; * p after Holm below {SEPARATE}"
    title += "; † other rows: see below" if any(found.basis != "rows" for found in comparison.pairs) else ""
    return style.layout(figure, title, 240 + 34 * len(names))


def _further(report: Report, comparison: Comparison) -> str:
    """Every contrast that was computed, folded away."""
    heads = ["configuration", "metric", "scored on", "difference", "95 % interval", "p", "p (Holm)", "test"]
    rows = []
    for found in comparison.contrasts:
        difference = found.difference
        by = "all together" if found.pooled else "fold by fold"
        cells = [found.name, report.called(found.measure), f"{ON[found.basis]}, {by}", signed(difference.value)]
        cells += [interval(difference.low, difference.high, signed), number(difference.p), number(found.corrected)]
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in [*cells, difference.test]))
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    summary = f"All {len(rows)} comparisons with {html.escape(comparison.reference)}"
    return f"<details><summary>{summary}</summary>{table}</details>"


def _how(report: Report, comparison: Comparison) -> str:
    """What was compared and how, in words."""
    points = [
        f"Every configuration is held against {comparison.reference}, on scores out of fold: each test row was"
        " predicted by a model that was neither trained nor stopped on it.",
        "Where a score is defined in every fold, folds are paired: the corrected resampled t test of Nadeau and Bengio"
        " (2003), which knows that folds share training rows. Elsewhere (marked * in the table) all folds' test rows"
        " are taken together and paired: p from swapping the two models' answers of whole groups (a person, a"
        " recording), the interval from drawing groups with replacement.",
        "Configurations whose rows differ (another length of chunks) are compared on the recordings that both have: a"
        " recording's prediction is the mean over its rows.",
        "Blue are configurations, green baselines; a diamond is a difference told apart from chance, its p after Holm's"
        f" correction below {SEPARATE}; a hollow marker is of {HOLLOW}, as some fold lacks the score.",
        "p values are two-sided. Holm's correction (1979) is for the number of comparisons shown for one metric; the"
        " table gives p before and after it.",
        "Intervals hold one difference at a time; they are not corrected for the number of comparisons. None of this"
        " holds what another seed would have changed: every configuration was trained with one.",
    ]
    points += [
        *comparison.notes,
        *(f"{i.name} and {i.other}: not comparable, {i.why}." for i in comparison.incomparable),
    ]
    listed = "".join(f"<li>{html.escape(point)}</li>" for point in [*points, *report.notes])
    return f"<h2>What was compared, and how</h2><ul>{listed}</ul>"


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)
