"""A search at a glance: its trials one after the other, the best beside the baselines, what its parameters did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from fusion_lab.report import style

MOST_BASELINES = 4
MOST_SLICES = 9
STATES = {"complete": ("o", style.MODEL), "pruned": ("x", style.OKABE_ITO[4]), "failed": ("v", style.GREY)}
"""Marker and colour of a trial's state."""
KINDS = {"trial": ("o", style.MODEL), "baseline": ("s", style.BASELINE)}
"""Marker and colour of a line of the comparison."""
RELIABLE = 50
"""Complete trials below which importance is not to be relied on: it tells the best tenth of them from all, and is said
to need five trials in that tenth (the notes of Optuna's PedAnovaImportanceEvaluator).
"""
SHARE = (
    "how far the best tenth of the trials differs",
    "from all in a parameter, as a share",
    "of the sum over all parameters (PED-ANOVA)",
)
"""What importance is, in lines for a narrow axis."""


@dataclass(frozen=True)
class Study:
    """What the figures need to know of a search.

    ``trials``: columns ``number``, ``value`` (NaN where there is none), ``state`` (a key of :data:`STATES`).
    ``params``: one row per trial (the same index), one column per searched parameter, missing where it was not drawn.
    ``scores``: columns ``name``, ``kind`` ("baseline" or "trial"), ``mean``, ``ci_low``, ``ci_high``: what stands in
    the comparison. ``importance``: share per parameter, empty where it was not computed. ``pooled``: scores are those
    of all folds' rows together, for some fold does not define them.
    """

    name: str
    metric: str
    trials: pd.DataFrame
    params: pd.DataFrame
    scores: pd.DataFrame
    importance: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    maximise: bool = True
    log: tuple[str, ...] = ()  # parameters drawn on a logarithmic scale
    pooled: bool = False

    @property
    def estimate(self) -> str:
        """What the comparison's numbers are."""
        return f"{'pooled' if self.pooled else 'mean'} over folds and 95 % interval"

    @property
    def importance_note(self) -> str:
        """What importance was computed from, "" where it was not."""
        if not len(self.importance.dropna()):
            return ""
        trials, parameters = len(self.complete), len(self.importance.dropna())
        rests = f"from {style.counted(trials, 'complete trial')}, of {style.counted(parameters, 'parameter')}"
        return f"{rests}: not to be relied on below {RELIABLE} trials" if trials < RELIABLE else rests

    @property
    def baselines(self) -> pd.DataFrame:
        """The best baselines first, few enough to be told apart in a figure."""
        found = self.scores[self.scores["kind"] == "baseline"].dropna(subset=["mean"])
        return found.sort_values("mean", ascending=not self.maximise).head(MOST_BASELINES)

    @property
    def complete(self) -> pd.DataFrame:
        """The trials with a value that were not pruned."""
        return self.trials[(self.trials["state"] == "complete") & self.trials["value"].notna()]

    def best_so_far(self) -> pd.Series:
        """Best value of the complete trials up to each of them, by trial number."""
        values = self.complete.sort_values("number").set_index("number")["value"]
        return values.cummax() if self.maximise else values.cummin()


def history_png(study: Study) -> bytes:
    """Value per trial, the best so far, and the best baselines with the interval of the best of them."""
    figure = style.new_figure(9.5, 4.6)
    axes = figure.subplots()
    for state, (marker, colour) in STATES.items():
        of = study.trials[(study.trials["state"] == state) & study.trials["value"].notna()]
        if len(of):
            axes.scatter(of["number"], of["value"], marker=marker, color=colour, s=30, label=state, zorder=3)
    best = study.best_so_far()
    if len(best):
        end = study.trials["number"].max()
        axes.step(
            [*best.index, end], [*best, best.iloc[-1]], where="post", color=style.OKABE_ITO[1], label="best so far"
        )
    _baseline_lines(axes, study)
    axes.set_xlim(-0.7, max(3, study.trials["number"].max()) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.plain(axes, _history_title(study), "trial", f"validation {style.axis_name(study.metric)}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=style.FONT - 1, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=6)
    return style.png(figure)


def comparison_png(study: Study) -> bytes:
    """Scores with their 95 % intervals, the best on top; baselines are squares, pooled scores hollow."""
    scores = ordered_scores(study)
    figure = style.new_figure(9.0, 1.3 + 0.32 * len(scores))
    axes = figure.subplots()
    at = np.arange(len(scores))
    for kind, (marker, colour) in KINDS.items():
        of = (scores["kind"] == kind).to_numpy()
        part = scores[of]
        face = "white" if study.pooled else colour
        axes.hlines(at[of], part["ci_low"], part["ci_high"], color=colour, linewidth=2, zorder=2)
        axes.plot(part["mean"], at[of], marker, color=colour, markerfacecolor=face, label=kind, zorder=3)
    axes.set_yticks(at, [style.shortened(str(name), 48) for name in scores["name"]])
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    _chance(axes, study.metric)
    title = f"{study.name}: {study.estimate}"
    style.plain(axes, title, f"validation {style.axis_name(study.metric)}", "")
    axes.legend(fontsize=style.FONT - 1, frameon=False, loc="lower right")
    return style.png(figure)


def parameters_png(study: Study) -> bytes:
    """One panel per searched parameter, the most important first: its value against the trial's score."""
    names = ordered_params(study)[:MOST_SLICES]
    columns = min(3, max(1, len(names)))
    lines = math.ceil(len(names) / columns) or 1
    told = _parameters_title(study, bool(names))
    figure = style.new_figure(max(9.6, 3.6 * columns), 2.8 * lines + 0.3 + 0.2 * told.count("\n"))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    done = study.complete
    for place, name in enumerate(names):
        axes = grid[place // columns, place % columns]
        values = study.params[name].reindex(done.index)
        drawn = values.notna().to_numpy()
        _slice(axes, values[drawn], done[drawn], name in study.log)
        style.plain(axes, _slice_title(study, name), "", style.shortened(study.metric) if place % columns == 0 else "")
    for axes in grid.ravel()[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(told, fontsize=style.FONT, x=0.01, ha="left")
    return style.png(figure)


def ordered_scores(study: Study) -> pd.DataFrame:
    """The comparison's lines, best first; those whose mean is undefined are left out."""
    scores = study.scores.dropna(subset=["mean"])
    return scores.sort_values("mean", ascending=not study.maximise, kind="stable").reset_index(drop=True)


def ordered_params(study: Study) -> list[str]:
    """The searched parameters that vary, the most important first."""
    varying = [str(n) for n in study.params.columns if study.params[n].dropna().astype(str).nunique() > 1]
    return sorted(varying, key=lambda name: -float(study.importance.get(name, 0.0)))


def is_number(values: pd.Series) -> bool:
    """True where a parameter is drawn from numbers; a switch (True, False) is a choice."""
    return all(isinstance(v, (int, float, np.number)) and not isinstance(v, (bool, np.bool_)) for v in values.dropna())


def ticks(values: np.ndarray, log: bool = False) -> list[float]:
    """At most six places for the ticks of an axis over ``values``: whole numbers where these are.

    >>> ticks(np.array([1, 2, 3])), ticks(np.array([1e-4, 0.3]), log=True), ticks(np.array([2e-3, 8e-3]), log=True)
    ([1.0, 2.0, 3.0], [0.0001, 0.001, 0.01, 0.1], [0.002, 0.005])
    """
    if not len(values):
        return []
    low, high = float(values.min()), float(values.max())
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1,), (1, 2, 5), (1, 2, 3, 4, 6, 8)):
            found = [digit * 10.0**decade for decade in decades for digit in digits]
            found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
            if len(found) > 1:
                return [float(f"{tick:.12g}") for tick in found[:: math.ceil(len(found) / 6)]]
    whole = bool(np.all(values == np.round(values)))
    room = (high - low) / 50
    found = MaxNLocator(2 if log else 5, integer=whole).tick_values(low, high)
    return [float(f"{tick:.12g}") for tick in found if low - room <= tick <= high + room]


def _baseline_lines(axes: Axes, study: Study) -> None:
    """Horizontal lines with names at the right edge, moved apart where they would overlap."""
    shown = study.baselines
    if shown.empty:
        return
    best = shown.iloc[0]
    axes.axhspan(best["ci_low"], best["ci_high"], color=style.BASELINE, alpha=0.12, linewidth=0, zorder=0)
    for value in shown["mean"]:
        axes.axhline(value, color=style.BASELINE, linewidth=1, linestyle=(0, (5, 2)), zorder=1)
    low, high = axes.get_ylim()
    places = spread(shown["mean"].to_numpy(), 0.06 * (high - low))
    for (_, line), place in zip(shown.iterrows(), places, strict=True):
        label = f" {style.shortened(str(line['name']), 28)} {line['mean']:.3f}"
        axes.annotate(
            label,
            (1, place),
            xycoords=("axes fraction", "data"),
            va="center",
            color="#00684c",
            fontsize=style.FONT - 1,
            annotation_clip=False,
        )


def spread(values: np.ndarray, gap: float) -> np.ndarray:
    """Places near ``values``, in their order, at least ``gap`` apart.

    >>> spread(np.array([1.0, 1.0, 3.0]), 0.5).round(2).tolist()
    [0.75, 1.25, 3.0]
    """
    order = np.argsort(values, kind="stable")
    clusters = [[float(values[i])] for i in order]
    centre = [float(values[i]) for i in order]
    index = 0
    while index + 1 < len(clusters):
        reach = gap * (len(clusters[index]) + len(clusters[index + 1])) / 2
        if centre[index + 1] - centre[index] < reach - 1e-12:
            clusters[index] += clusters.pop(index + 1)
            centre.pop(index + 1)
            centre[index] = float(np.mean(clusters[index]))
            index = max(0, index - 1)
        else:
            index += 1
    places = np.empty(len(values))
    placed = [c + gap * (j - (len(m) - 1) / 2) for c, m in zip(centre, clusters, strict=True) for j in range(len(m))]
    places[order] = placed
    return places


def _slice(axes: Axes, values: pd.Series, trials: pd.DataFrame, log: bool) -> None:
    if not is_number(values):
        names = sorted(values.astype(str).unique())
        place = values.astype(str).map({name: i for i, name in enumerate(names)}).to_numpy(float)
        x = place + np.random.default_rng(0).uniform(-0.12, 0.12, len(place))
        axes.set_xticks(range(len(names)), [style.shortened(n, 16) for n in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        if sum(map(len, names)) > 30:
            axes.tick_params(axis="x", labelrotation=25)
    else:
        x = values.to_numpy(float)
        if log:
            axes.set_xscale("log")
        at = ticks(x, log)
        axes.set_xticks(at, [f"{tick:g}" for tick in at])
        axes.xaxis.set_minor_locator(NullLocator())  # on a log axis labelled too, one over the other
    number, scores = trials["number"].to_numpy(), trials["value"].to_numpy()
    shade = number / max(1, number.max(initial=1))
    axes.scatter(
        x, scores, c=shade, cmap=f"{style.MAP}_r", vmin=-0.15, vmax=1, s=24, edgecolors="#555555", linewidths=0.4
    )


def _slice_title(study: Study, name: str) -> str:
    share = study.importance.get(name)
    title = style.shortened(name, 30)
    return title if share is None or not np.isfinite(share) else f"{title} ({share:.0%})"


def _parameters_title(study: Study, any_shown: bool) -> str:
    if not any_shown:
        return f"{study.name}: parameters cannot be shown: none was drawn with two values"
    lines = [f"{study.name}: validation {study.metric} by parameter (later trials darker)"]
    if study.importance_note:
        lines += [f"%: importance, {' '.join(SHARE)};", study.importance_note]
    return "\n".join(lines)


def _history_title(study: Study) -> str:
    counts = study.trials["state"].value_counts()
    told = ", ".join(f"{counts[s]} {s}" for s in STATES if s in counts)
    lines = "; dashed: best baselines, band: 95 % interval of the best" if len(study.baselines) else ""
    return f"{study.name}: {style.counted(len(study.trials), 'trial')} ({told}){lines}"


def _chance(axes: Axes, metric: str) -> None:
    if metric == "auroc":
        axes.axvline(0.5, color=style.GREY, linewidth=1, linestyle=":")
