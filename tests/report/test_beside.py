"""What runs tell of themselves: the numbers that the figures draw are those of their files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fusion_lab.report.beside import MOST_RUNS, Beside, figures, gains_figure, gains_of, losses_figure, losses_of
from fusion_lab.report.comparison import Report
from fusion_lab.report.comparison_page import comparison_html
from fusion_lab.report.curves import curves_dict, mean_curves
from fusion_lab.tracking.runs import json_bytes
from fusion_lab.training.results import FoldResult


def folds(count: int = 3) -> list[FoldResult]:
    """The last fold stops early."""
    draws = np.random.default_rng(0)
    made = []
    for k in range(count):
        epochs = 4 - (k == count - 1)
        rows = tuple(
            {"epoch": float(e + 1), "lr": 0.1, "train/loss": draws.random(), "val/loss": draws.random()}
            for e in range(epochs)
        )
        made.append(FoldResult(k, f"fold {k}", 2, epochs, "epochs", rows, {}))
    return made


def stored(value: object):
    return json.loads(json_bytes(value))


def test_losses_are_means_over_folds_as_the_run_has_them():
    told, expected = losses_of(stored(curves_dict(folds()))), mean_curves(folds())
    assert set(told) == {"train/loss", "val/loss"}
    for name, curve in told.items():
        np.testing.assert_allclose(curve, expected[name])


def test_a_run_without_epochs_has_no_curve():
    assert losses_of({"folds": []}) == {}


def test_undefined_gains_stay_undefined():
    gains, metrics = gains_of(
        stored({"modality_gain": {"speech": {"audio": 0.2, "visual": math.nan}}, "metric": {"speech": "auroc"}})
    )
    assert gains["speech"]["audio"] == 0.2 and math.isnan(gains["speech"]["visual"])
    assert metrics == {"speech": "auroc"}


@pytest.fixture
def beside() -> Beside:
    losses = {name: losses_of(stored(curves_dict(folds()))) for name in ("both <b>", "track alone")}
    gains = {"both <b>": {"speech": {"audio": 0.2, "track": -0.1}}, "track alone": {"speech": {"track": math.nan}}}
    return Beside(losses, gains, {"speech": "auroc"})


def test_the_figures_draw_what_is_told(beside):
    lines = {trace.name: list(trace.y) for trace in losses_figure(beside).data}
    assert lines["both &lt;b&gt;, validation rows"] == list(beside.losses["both <b>"]["val/loss"])
    assert len(lines) == 4
    (heat,) = gains_figure(beside).data
    assert list(heat.y) == ["both &lt;b&gt;: audio", "both &lt;b&gt;: track", "track alone: track"]
    assert [row[0] for row in heat.text] == ["+0.200", "-0.100", ""]
    assert heat.zmax == -heat.zmin == 0.2


def test_of_very_many_runs_the_first_are_drawn_and_that_is_said(beside):
    many = Beside({f"run {k}": beside.losses["track alone"] for k in range(MOST_RUNS + 3)})
    figure = losses_figure(many)
    assert len(figure.data) == 2 * MOST_RUNS and "3 more are not drawn" in figure.layout.title.text


def test_nothing_told_is_nothing_drawn():
    assert figures(Beside()) == []


def test_the_page_without_scores_needs_none():
    assert "nothing to compare" in comparison_html(Report("A title", (), None, {}, ()))
