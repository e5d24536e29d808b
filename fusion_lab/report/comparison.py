"""Several configurations beside each other: as a table, a picture, a file of rows and one of plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fusion_lab.evaluation.comparison import SEPARATE, Comparison, Contrast, Measure, Standing
from fusion_lab.report import style
from fusion_lab.report.beside import Beside

ON = {
    "rows": "the same test rows",
    "recordings": "recordings that both have",
    "folds": "folds of the same groups, each with its own rows",
}
"""What two configurations were held against each other on."""
HOLLOW = "all folds' rows together"
"""What a hollow marker says of a score, and of a difference of two."""
OPTIMISTIC = (
    "Choosing the best of these configurations by its test rows makes that score optimistic: choose by validation"
    " scores, and report the chosen one's test score."
)


@dataclass(frozen=True)
class Line:
    """One line of the table. ``entry`` is whose scores it has: another's where both are the same configuration, "" of
    one that is missing, and ``missing`` says why.
    """

    group: str
    name: str
    entry: str
    kind: str = "cell"
    parameters: int | None = None
    seconds: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Report:
    """``names`` says what measures are called, ``folds`` what folds are; ``comparison`` is ``None`` where nothing was
    finished. ``beside``: what the entries tell of themselves.
    """

    title: str
    lines: tuple[Line, ...]
    comparison: Comparison | None
    names: Mapping[str, str]
    folds: tuple[str, ...]
    notes: tuple[str, ...] = ()
    beside: Beside = Beside()

    @property
    def entries(self) -> list[str]:
        """Names of all that have scores, in the table's order."""
        return list(dict.fromkeys(line.entry for line in self.lines if line.entry))

    @property
    def headline(self) -> Measure:
        assert self.comparison is not None
        return self.comparison.measures[0]

    def called(self, key: str) -> str:
        return self.names.get(key, key)

    def label(self, entry: str) -> str:
        """An entry's name, with the other names of the same configuration."""
        others = [line.name for line in self.lines if line.entry == entry and line.name != entry]
        return f"{entry} (also {', '.join(dict.fromkeys(others))})" if others else entry


def table_lines(report: Report) -> list[str]:
    """The table as plain text: test headline with interval, the difference from the reference, validation headline."""
    if report.comparison is None:
        return ["nothing to compare: no configuration was finished"]
    key, reference = report.headline.key, report.comparison.reference
    head = ["", f"test {report.called(key)}", "95 % interval", f"minus {reference}", "95 % interval", "p (Holm)", "val"]
    body: list[list[str]] = []
    group = None
    for line in report.lines:
        if line.group != group:
            group = line.group
            body.append([f"{group}:", *[""] * (len(head) - 1)])
        body.append([f"  {line.name}", *_cells(report, line)])
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    told = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in [head, *body]]
    return [told[0], "  ".join("-" * width for width in widths), *told[1:]]


def _cells(report: Report, line: Line) -> list[str]:
    comparison = report.comparison
    assert comparison is not None
    if not line.entry:
        return ["missing", "", line.missing, "", "", ""]
    key = report.headline.key
    standing, validation = comparison.standing(line.entry, key), comparison.standing(line.entry, key, "val")
    assert standing is not None
    assert validation is not None
    score = [f"{'pooled ' if standing.pooled else ''}{number(standing.value)}", interval(standing.low, standing.high)]
    val = number(validation.value)
    if line.entry != line.name:
        return [*score, f"same configuration as {line.entry}", "", "", val]
    found = comparison.contrast(line.entry, key)
    if found is None:
        why = "reference" if line.entry == comparison.reference else "not comparable"
        return [*score, why, "", "", val]
    difference = found.difference
    basis = "" if found.basis == "rows" else f" on {found.basis}"
    told = f"{signed(difference.value)}{basis}", interval(difference.low, difference.high, signed)
    return [*score, *told, number(found.corrected), val]


def note_lines(report: Report) -> list[str]:
    """What is to be known of the scores and of how they were compared, in plain text."""
    comparison = report.comparison
    told = [OPTIMISTIC, *report.notes]
    if comparison is not None:
        told += [
            *comparison.notes,
            *(f"{i.name} and {i.other}: not comparable, {i.why}." for i in comparison.incomparable),
        ]
    return [f"note: {note}" for note in told]


FACTS = ("group", "name", "kind", "same_as", "missing", "parameters", "seconds")


def comparison_frame(report: Report) -> pd.DataFrame:
    """A row per line and measure; of what is missing one row without numbers."""
    comparison = report.comparison
    rows = []
    for line in report.lines:
        same = line.entry if line.entry != line.name else ""
        values = line.group, line.name, line.kind, same, line.missing, line.parameters, line.seconds
        facts: dict[str, Any] = dict(zip(FACTS, values, strict=True))
        if comparison is None or not line.entry:
            rows.append(facts)
            continue
        rows += [facts | _row(comparison, line.entry, measure.key) for measure in comparison.measures]
    table = pd.DataFrame(rows, columns=list(dict.fromkeys([*FACTS, *(key for row in rows for key in row)])))
    return table.astype({"parameters": "Int64"})


def _row(comparison: Comparison, name: str, key: str) -> dict[str, Any]:
    test, val = comparison.standing(name, key), comparison.standing(name, key, "val")
    assert test is not None
    assert val is not None
    row: dict[str, Any] = {"metric": key, "test": test.value, "test_low": test.low, "test_high": test.high}
    row |= {"pooled": test.pooled, "recordings": test.recordings, "val": val.value, "reference": comparison.reference}
    found = comparison.contrast(name, key)
    return row | ({} if found is None else _difference(found))


def _difference(found: Contrast) -> dict[str, Any]:
    value, low, high, p, n, test = found.difference
    told = {"difference": value, "low": low, "high": high, "p": p, "p_holm": found.corrected, "n": n, "method": test}
    return {**told, "on": found.basis, "by": "pooled" if found.pooled else "folds"}


def comparison_dict(report: Report) -> dict[str, Any]:
    """``results`` by name; all contrasts, the further ones too; pairs; what could not be compared and why."""
    comparison = report.comparison
    results: dict[str, Any] = {}
    for line in report.lines:
        facts = {"group": line.group, "kind": line.kind, "parameters": line.parameters, "seconds": line.seconds}
        if line.entry != line.name:
            facts |= {"same_as": line.entry} if line.entry else {"missing": line.missing}
        name = line.name if line.name not in results else f"{line.group}/{line.name}"
        results[name] = facts | (_scores(comparison, line.entry) if comparison and line.entry else {})
    told = {"title": report.title, "folds": list(report.folds), "notes": list(report.notes), "results": results}
    if comparison is None:
        return told
    return told | {
        "reference": comparison.reference,
        "metrics": {m.key: dict(m.of) for m in comparison.measures},
        "contrasts": [_contrast(c) for c in comparison.contrasts],
        "pairs": [_contrast(c) for c in comparison.pairs],
        "not_comparable": [i._asdict() for i in comparison.incomparable],
        "notes": [*report.notes, *comparison.notes],
    }


def _scores(comparison: Comparison, name: str) -> dict[str, Any]:
    found = [s for s in comparison.standings if s.name == name]
    return {
        split: {s.measure: _standing(s) for s in found if s.split == split}
        for split in dict.fromkeys(s.split for s in found)
    }


def _standing(standing: Standing) -> dict[str, Any]:
    told = {"value": standing.value, "low": standing.low, "high": standing.high, "pooled": standing.pooled}
    return {**told, "folds": list(standing.folds), "recordings": standing.recordings}


def _contrast(found: Contrast) -> dict[str, Any]:
    who = {"name": found.name, "other": found.other, "metric": found.measure, "ours": found.ours}
    return {**who, "theirs": found.theirs, **_difference(found)}


def comparison_png(report: Report) -> bytes:
    """Scores with intervals and a faint dot per fold; differences from the reference with theirs and corrected p."""
    names = report.entries
    labels = [style.shortened(report.label(name), 44) for name in names]
    left, tall = style.text_width(labels) + 0.25, 0.34 * max(len(names), 1)
    missing = [line for line in report.lines if not line.entry]
    below = 0.75 + 0.22 * len(missing)
    figure = style.new_figure(left + 9.9, tall + 1.0 + below, None)
    style.heading(figure, report.title)
    if report.comparison is None:
        figure.text(0.02, 0.5, "no configuration was finished", fontsize=style.FONT)
        return style.png(figure)
    scores = style.panel(figure, left, below, 4.0, tall)
    differences = style.panel(figure, left + 4.3, below, 3.5, tall)
    for axes in (scores, differences):
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), labels if axes is scores else [""] * len(names))
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _score_panel(scores, report, names)
    _difference_panel(differences, report, names)
    for place, line in enumerate(missing):
        told = style.shortened(f"missing: {line.group}: {line.name}: {line.missing}", 140)
        figure.text(0.02, (0.05 + 0.22 * place) / (tall + 1.0 + below), told, fontsize=style.FONT - 1, color=RED)
    return style.png(figure)


RED = style.OKABE_ITO[1]


def colour_of(report: Report, name: str) -> str:
    """Blue for configurations, green for baselines."""
    kind = next(line.kind for line in report.lines if line.entry == name)
    return style.BASELINE if kind == "baseline" else style.MODEL


def _score_panel(axes: Axes, report: Report, names: Sequence[str]) -> None:
    assert report.comparison is not None
    for place, name in enumerate(names):
        standing = report.comparison.standing(name, report.headline.key)
        assert standing is not None
        colour = colour_of(report, name)
        axes.plot(standing.folds, np.full(len(standing.folds), place + 0.22), ".", color="#9a9a9a", markersize=4)
        if math.isfinite(standing.low):
            axes.hlines(place, standing.low, standing.high, color=colour, linewidth=2)
        face = "white" if standing.pooled else colour
        axes.plot([standing.value], [place], "o", color=colour, markerfacecolor=face, markersize=6)
    title = f"test rows: mean over folds and 95 % interval\n(hollow: {HOLLOW}; grey: single folds)"
    style.plain(axes, title, _axis(report), "")
    axes.title.set_fontsize(style.FONT - 1)


def _difference_panel(axes: Axes, report: Report, names: Sequence[str]) -> None:
    comparison = report.comparison
    assert comparison is not None
    axes.axvline(0, color=style.GREY, linewidth=1)
    for place, name in enumerate(names):
        found = comparison.contrast(name, report.headline.key)
        if found is None:
            told = "reference" if name == comparison.reference else "not comparable"
        else:
            value, low, high = found.difference[:3]
            apart, colour = found.corrected < SEPARATE, colour_of(report, name)
            if math.isfinite(low):
                axes.hlines(place, low, high, color=colour, linewidth=2)
            face = "white" if found.pooled else colour
            axes.plot([value], [place], "D" if apart else "o", color=colour, markerfacecolor=face, markersize=6)
            told = f"p {number(found.corrected)}" + ("" if found.basis == "rows" else f", on {found.basis}")
        at = ("axes fraction", "data")
        axes.annotate(f"  {told}", (1, place), xycoords=at, va="center", fontsize=style.FONT - 1)
    reference = style.shortened(comparison.reference, 30)
    title = f"minus {reference}, 95 % interval\n(p after Holm, diamond: below {SEPARATE}; hollow: as on the left)"
    style.plain(axes, title, f"difference in {report.called(report.headline.key)}", "")
    axes.title.set_fontsize(style.FONT - 1)


def _axis(report: Report) -> str:
    key = report.headline.key
    named = style.axis_name(key)
    return named if named != key and report.called(key) == key else report.called(key)


def number(value: float) -> str:
    """Three digits.

    >>> number(0.71234), number(0.0001), number(float("nan"))
    ('0.712', '<0.001', '-')
    """
    if not math.isfinite(value):
        return "-"
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def signed(value: float) -> str:
    """Three digits and the sign.

    >>> signed(0.0123), signed(-0.2), signed(0.0)
    ('+0.012', '-0.200', '0.000')
    """
    rounded = round(value, 3) if math.isfinite(value) else value
    return number(0.0) if rounded == 0 else f"{value:+.3f}" if math.isfinite(value) else "-"


def interval(low: float, high: float, shown: Any = number) -> str:
    """``0.612 to 0.733``, nothing where there is none."""
    return f"{shown(low)} to {shown(high)}" if math.isfinite(low) and math.isfinite(high) else ""
