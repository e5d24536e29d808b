"""The figures of :mod:`fusion_lab.report.study` as one interactive page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from fusion_lab.report import style
from fusion_lab.report.study import KINDS, SHARE, Study, is_number, ordered_params, ordered_scores, spread, ticks

SYMBOLS = {"complete": "circle", "pruned": "x-thin-open", "failed": "triangle-down-open"}
COLOURS = {"complete": style.MODEL, "pruned": style.OKABE_ITO[4], "failed": style.GREY}


def study_html(study: Study, notes: Sequence[str] = ()) -> str:
    """History, comparison with the baselines, importance and slices on one page that needs no network."""
    figures = [_history(study), _comparison(study)]
    if len(study.importance.dropna()):
        figures.append(_importance(study))
    if ordered_params(study) and len(study.complete):
        figures.append(_slices(study))
    return style.page(study.name, figures, notes)


def _history(study: Study) -> go.Figure:
    figure = go.Figure()
    for state, symbol in SYMBOLS.items():
        of = study.trials[(study.trials["state"] == state) & study.trials["value"].notna()]
        if of.empty:
            continue
        marker = {"symbol": symbol, "color": COLOURS[state], "size": 9, "line": {"width": 2, "color": COLOURS[state]}}
        figure.add_scatter(
            x=of["number"],
            y=of["value"],
            mode="markers",
            name=state,
            marker=marker,
            text=[_drawn(study.params, i) for i in of.index],
            hovertemplate="trial %{x}: %{y:.4f}<br>%{text}<extra></extra>",
        )
    best = study.best_so_far()
    line = {"shape": "hv", "color": style.OKABE_ITO[1], "width": 2}
    figure.add_scatter(x=best.index, y=best, mode="lines", name="best so far", line=line)
    _baseline_shapes(figure, study)
    last = max(3, int(study.trials["number"].max()))
    figure.update_xaxes(title="trial", range=[-0.7, last + 0.7], tickvals=style.whole_ticks(last))
    figure.update_yaxes(title=f"validation {style.axis_name(study.metric)}")
    style.layout(figure, f"{study.name}: trials", 460)
    return figure.update_layout(margin_r=250, legend={"orientation": "h", "y": -0.18})


def _baseline_shapes(figure: go.Figure, study: Study) -> None:
    shown = study.baselines
    if shown.empty:
        return
    told = "dashed: best baselines; band: 95 % interval of the best of them"
    figure.add_annotation(text=told, x=0, y=1.08, xref="paper", yref="paper", showarrow=False, xanchor="left")
    green = style.BASELINE
    best = shown.iloc[0]
    if np.isfinite([best["ci_low"], best["ci_high"]]).all():
        figure.add_hrect(best["ci_low"], best["ci_high"], fillcolor=green, opacity=0.12, line_width=0, layer="below")
    of_best = [best["ci_low"], best["ci_high"]]
    values = np.concatenate([study.trials["value"].dropna(), shown["mean"], of_best])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = 0.05 * (high - low) or 0.01
    figure.update_yaxes(range=[low - room, high + room])  # Plotly's own choice leaves lines and band out
    places = spread(shown["mean"].to_numpy(), 0.06 * (high - low))
    for (_, line), place in zip(shown.iterrows(), places, strict=True):
        figure.add_hline(line["mean"], line={"color": green, "width": 1, "dash": "dash"})
        text = html.escape(f"{style.shortened(str(line['name']), 28)} {line['mean']:.3f}")
        figure.add_annotation(
            text=text,
            x=1,
            xref="paper",
            y=line["mean"],
            yref="y",
            # a thin leader from the line to where its name has room
            showarrow=True,
            arrowhead=0,
            arrowwidth=1,
            arrowcolor=green,
            ax=22,
            ay=place,
            ayref="y",
            xanchor="left",
            font={"color": "#00684c"},
        )


def _comparison(study: Study) -> go.Figure:
    scores = ordered_scores(study)
    names = [html.escape(style.shortened(str(n), 48)) for n in scores["name"]]
    figure = go.Figure()
    for kind, (marker, colour) in KINDS.items():
        symbol = {"o": "circle", "s": "square"}[marker] + ("-open" if study.pooled else "")
        of = (scores["kind"] == kind).to_numpy()
        part = scores[of]
        reach = {"array": part["ci_high"] - part["mean"], "arrayminus": part["mean"] - part["ci_low"]}
        figure.add_scatter(
            x=part["mean"],
            y=[n for n, keep in zip(names, of, strict=True) if keep],
            mode="markers",
            name=kind,
            marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2, "color": colour}},
            error_x={"type": "data", "symmetric": False, "thickness": 2, "width": 0, **reach},
            customdata=part[["ci_low", "ci_high"]],
            hovertemplate="%{y}<br>%{x:.4f} [%{customdata[0]:.4f}, %{customdata[1]:.4f}]<extra></extra>",
        )
    if study.metric == "auroc":
        figure.add_vline(0.5, line={"color": style.GREY, "dash": "dot", "width": 1})
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    figure.update_xaxes(title=f"validation {style.axis_name(study.metric)}")
    title = f"{study.estimate[:1].upper()}{study.estimate[1:]}"
    return style.layout(figure, title, 180 + 28 * len(scores))


def _importance(study: Study) -> go.Figure:
    shares = study.importance.dropna().sort_values()
    figure = go.Figure(go.Bar(x=shares, y=[html.escape(str(n)) for n in shares.index], orientation="h"))
    figure.update_traces(marker_color=style.OKABE_ITO[0], hovertemplate="%{y}: %{x:.1%}<extra></extra>")
    figure.update_xaxes(title="<br>".join(SHARE), tickformat=".0%")
    style.layout(figure, "", 220 + 26 * len(shares))
    return figure.update_layout(
        title_text=f"Importance of the searched parameters<br>{study.importance_note}", margin_t=90
    )


def _slices(study: Study) -> go.Figure:
    names = ordered_params(study)
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    headings = [html.escape(style.shortened(n, 40)) for n in names]
    figure = make_subplots(lines, columns, shared_yaxes=True, subplot_titles=headings, vertical_spacing=0.3 / lines)
    done = study.complete
    for place, name in enumerate(names):
        values = study.params[name].reindex(done.index)
        drawn = values.notna()
        number = is_number(values)
        figure.add_scatter(
            x=values[drawn] if number else [html.escape(str(v)) for v in values[drawn]],
            y=done["value"][drawn],
            mode="markers",
            marker={"color": done["number"][drawn], "colorscale": style.MAP, "reversescale": True, "size": 8},
            text=[_drawn(study.params, i) for i in done.index[drawn]],
            customdata=done["number"][drawn],
            hovertemplate="trial %{customdata}: %{y:.4f}<br>%{text}<extra></extra>",
            showlegend=False,
            row=1 + place // columns,
            col=1 + place % columns,
        )
        kind = "category" if not number else "log" if name in study.log else "linear"
        at = ticks(values[drawn].to_numpy(float), name in study.log) if number and drawn.any() else None
        told = at and [f"{tick:g}" for tick in at]
        where = {"row": 1 + place // columns, "col": 1 + place % columns}
        figure.update_xaxes(type=kind, tickvals=at, ticktext=told, **where)
    figure.update_yaxes(title=study.metric, col=1)
    return style.layout(figure, "Score by parameter (later trials darker)", 140 + 280 * lines)


def _drawn(params: pd.DataFrame, index: object) -> str:
    if index not in params.index:
        return ""
    drawn = params.loc[index].dropna()
    return "<br>".join(html.escape(f"{name}: {style.shortened(str(value), 60)}") for name, value in drawn.items())
