"""A comparison as table, picture, files and page: all of it there, gaps shown, nothing from a network."""

import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from comparison_material import ACCURACY, F1, LOSS, made_entry
from PIL import Image
from plotly.offline import get_plotlyjs

from fusion_lab.evaluation.comparison import SEPARATE, compare
from fusion_lab.report.comparison import (
    OPTIMISTIC,
    Line,
    Report,
    comparison_dict,
    comparison_frame,
    comparison_png,
    signed,
    table_lines,
)
from fusion_lab.report.comparison_page import _forest, _symbol, comparison_html
from fusion_lab.tracking.runs import json_bytes

NAMES = {"f1": "macro F1", "log_loss": "log loss"}


@pytest.fixture(scope="module")
def report() -> Report:
    entries = [
        made_entry("fusion=<b>", 1.0, 0),
        made_entry("fusion=late", 0.2, 1),
        made_entry("chunk=512", 1.0, 2, cut=2),
        made_entry("trees", 0.5, 3, kind="baseline"),
    ]
    lines = (
        Line("fusion", "fusion=<b>", "fusion=<b>", parameters=1200, seconds=3.4),
        Line("fusion", "fusion=late", "fusion=late", parameters=900, seconds=2.0),
        Line("chunks", "chunk=256", "fusion=<b>", parameters=1200, seconds=3.4),
        Line("chunks", "chunk=512", "chunk=512", parameters=1200, seconds=2.4),
        Line("chunks", "chunk=1024", "", missing="the loss is nan & worse"),
        Line("baselines", "trees", "trees", "baseline"),
    )
    found = compare(entries, [F1, ACCURACY, LOSS], "fusion=<b>")
    return Report("A sweep", lines, found, NAMES, tuple(f"s{k}" for k in range(5)), ("A note.",))


@pytest.fixture(scope="module")
def page(report) -> str:
    return comparison_html(report)


def test_the_terminals_table_has_a_line_for_every_cell(report):
    lines = table_lines(report)
    assert "test macro F1" in lines[0] and "minus fusion=<b>" in lines[0]
    told = {line.split("  ")[1].strip(): line for line in lines[2:] if line.startswith("  ")}
    assert list(told) == [line.name for line in report.lines]
    assert "reference" in told["fusion=<b>"] and "same configuration as fusion=<b>" in told["chunk=256"]
    assert "missing" in told["chunk=1024"] and "the loss is nan" in told["chunk=1024"]
    for name, basis in (
        ("fusion=late", "  "),
        ("chunk=512", " on recordings"),
    ):  # not what the scores beside it differ by
        contrast = report.comparison.contrast(name, "f1")
        assert f"{signed(contrast.difference.value)}{basis}" in told[name]


def test_files_hold_the_numbers_of_the_comparison(report):
    table, told = comparison_frame(report), json.loads(json_bytes(comparison_dict(report)))
    assert list(told["results"]) == [line.name for line in report.lines]
    assert told["results"]["chunk=256"]["same_as"] == "fusion=<b>"
    assert told["results"]["chunk=1024"] == {
        "group": "chunks",
        "kind": "cell",
        "parameters": None,
        "seconds": None,
        "missing": "the loss is nan & worse",
    }
    for name in ("fusion=late", "chunk=512", "trees"):
        for key in ("f1", "accuracy", "log_loss"):
            contrast, standing = report.comparison.contrast(name, key), report.comparison.standing(name, key)
            row = table[(table["name"] == name) & (table["metric"] == key)].iloc[0]
            assert (row["test"], row["difference"], row["p"]) == (standing.value, *contrast.difference[::3])
            assert told["results"][name]["test"][key]["value"] == standing.value
            assert told["results"][name]["test"][key]["folds"] == list(standing.folds)
    assert table[table["name"] == "chunk=1024"]["test"].isna().all()


def test_the_page_needs_no_network_and_is_small_enough(page):
    without = page.replace(get_plotlyjs(), "")
    assert page.count(get_plotlyjs()) == 1
    assert not re.search(r"""(src|href)=["']?http""", without)
    assert len(page.encode()) < 6 * 2**20


def test_the_page_says_what_was_compared_and_what_is_missing(page, report):
    for told in (OPTIMISTIC, "Holm", "recordings that both have", "A note.", "1,200", "macro F1", "log loss"):
        assert told in html.unescape(page), told
    assert "the loss is nan &amp; worse" in page and "same configuration as fusion=&lt;b&gt;" in page
    assert "<b>fusion" not in page and "fusion=<b>" not in page.replace(get_plotlyjs(), "").split("<script")[0]
    assert "\\u2020 other rows" in page and "green baselines" in page  # the sign on pairs of other rows is explained
    recordings = report.comparison.standing("chunk=512", "f1").recordings
    assert f"<td>{recordings:.3f}</td>" in page


def test_a_hollow_marker_is_of_all_rows_together_and_p_stands_beside_the_differences(report):
    contrasts = report.comparison.contrasts
    measures = {m.key for m in report.comparison.measures}
    assert {c.measure for c in contrasts} == measures
    for found in (*contrasts, *(replace(c, pooled=not c.pooled) for c in contrasts)):
        apart = found.corrected < SEPARATE
        assert _symbol(found).endswith("-open") == found.pooled and _symbol(found).startswith("diamond") == apart
    figure = _forest(report, report.comparison)
    texts = [trace for trace in figure.data if trace.mode == "text"]
    assert len(texts) == len(measures) and all(trace.xaxis == "x2" for trace in texts)
    for button in figure.layout.updatemenus[0].buttons:
        assert len(button.args[0]["visible"]) == len(figure.data)


def test_the_picture_has_a_row_for_every_entry(report):
    image = np.asarray(Image.open(io.BytesIO(comparison_png(report))).convert("L"))
    assert image.shape[0] > 30 * len(report.entries) and image.min() < 100
    assert (image[:, -1] == image.max()).all() and (image[-1] == image.max()).all()  # nothing runs out of it


@pytest.mark.parametrize("lines", [(), (Line("a", "x=1", "", missing="diverged"),)])
def test_a_comparison_of_nothing_can_be_shown(lines):
    empty = Report("Nothing", lines, None, {}, ())
    assert "nothing to compare" in table_lines(empty)[0]
    assert "No configuration was finished" in comparison_html(empty)
    assert comparison_png(empty).startswith(b"\x89PNG")
    assert len(comparison_frame(empty)) == len(lines)
    assert list(comparison_dict(empty)["results"]) == [line.name for line in lines]


def test_one_entry_alone_is_no_error():
    only = Report("One", (Line("a", "x", "x"),), compare([made_entry("x")], [F1], "x"), NAMES, ())
    assert "reference" in table_lines(only)[-1]
    assert comparison_png(only).startswith(b"\x89PNG") and "x" in comparison_html(only)
