import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_material import make_groups, make_map

from fusion_lab.report.attention import (
    attention_dict,
    chart_title,
    is_places,
    limits,
    order,
    summarise,
    summary_of,
    there,
    unit,
    views,
)
from fusion_lab.report.rows import Groups


def equal(a, b) -> bool:
    return np.allclose(a, b, equal_nan=True)


def padded(rows: int, steps: int, seed: int = 0) -> np.ndarray:
    """bool [rows, steps]: each row has its last positions, one at least."""
    length = np.random.default_rng(seed).integers(1, steps + 1, rows)
    return np.arange(steps) >= steps - length[:, None]


def test_panels_are_means_over_rows_and_deviations_over_folds():
    weights = make_map(3, 4)
    label = np.array([-1, 1, 0, 1] * 10)
    overall, alive, died = summarise(weights, Groups("classes of death", ("alive", "died"), label)).main.panels
    assert [(p.name, p.rows) for p in (overall, alive, died)] == [("all rows", 40), ("alive", 10), ("died", 20)]
    assert np.allclose(overall.mean, weights.values.mean(0))
    assert np.allclose(overall.mean.sum(-1), 1)
    assert np.allclose(overall.uniform, 1 / 4)
    assert np.allclose(died.mean, weights.values[label == 1].mean(0))
    folds = [weights.values[weights.fold == k].astype(float).mean(0) for k in range(4)]
    assert np.allclose(overall.std, np.std(folds, axis=0, ddof=1))
    assert np.isnan(alive.std).all()  # all of its rows lie in one fold


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 30), steps=st.integers(1, 9))
def test_means_leave_out_what_is_not_there_and_say_how_many_rows_have_it(seed, rows, steps):
    held = padded(rows, steps, seed)
    weights = make_map(steps, rows=rows, axes=["day"], there=held, seed=seed)
    panel = summarise(weights).main.panels[0]
    for t in range(steps):
        having = [weights.values[p, t] for p in range(rows) if held[p, t]]
        assert panel.count[0, t] == len(having)
        assert equal(panel.mean[0, t], np.mean(having) if having else np.nan)
        alike = [1 / held[p].sum() for p in range(rows) if held[p, t]]
        assert equal(panel.uniform[0, t], np.mean(alike) if alike else np.nan)
        means = [np.mean(w) for k in range(4) if len(w := weights.values[(weights.fold == k) & held[:, t], t])]
        assert equal(panel.std[0, t], np.std(means, ddof=1) if len(means) > 1 else np.nan)


def test_a_modality_that_is_not_there_neither_gets_nor_asks():
    has = np.random.default_rng(3).uniform(size=(40, 3)) < 0.6
    has[:, 0] = True
    weights = make_map(3, 3, axes=["asking modality", "modality"], there=has[:, None, :])
    assert np.array_equal(there(weights), has[:, None, :] & has[:, :, None])
    count = summarise(weights).main.panels[0].count
    assert np.array_equal(count, has.T.astype(int) @ has)


def test_latents_ask_in_every_row():
    has = np.arange(40)[:, None] % 3 != np.arange(3)
    weights = make_map(2, 3, axes=["latent", "modality"], there=has[:, None, :])
    assert np.array_equal(there(weights), np.broadcast_to(has[:, None, :], (40, 2, 3)))


def test_a_map_over_time_is_seen_by_time_by_what_asks_and_by_what_is_weighed():
    held = padded(40, 5)
    weights = make_map(5, 3, 3, axes=["time step", "asking modality", "modality"], there=held[:, :, None, None])
    summary = summarise(weights)
    assert [[a.name for a in c.axes] for c in summary.charts] == [
        ["time step", "modality"],
        ["asking modality", "modality"],
        ["modality"],
    ]
    assert [c.averaged for c in summary.charts] == [
        ("asking modality",),
        ("time step",),
        ("time step", "asking modality"),
    ]
    over_time, asked, alone = (chart.panels[0] for chart in summary.charts)
    assert np.array_equal(over_time.count, np.broadcast_to(held.sum(0)[:, None], (5, 3)))
    # each row counts once, with the mean over the steps that it has
    per_row = np.stack([w[h].mean(0) for w, h in zip(weights.values, held, strict=True)])
    assert np.allclose(asked.mean, per_row.mean(0))
    assert np.allclose(alone.mean[0], per_row.mean((0, 1)))
    assert np.allclose(over_time.mean[2], weights.values[held[:, 2], 2].mean((0, 1)))
    for panel in (over_time, asked, alone):  # shares stay shares: every row has all modalities wherever it has a step
        assert np.allclose(panel.mean.sum(-1), 1, atol=1e-6)


def test_a_map_without_queries_has_one_chart():
    (chart,) = summarise(make_map(5)).charts
    assert chart.panels[0].mean.shape == (1, 5)


def test_rows_of_views_are_the_rows_of_the_map():
    weights = make_map(4, 3, rows=7)
    by_query, alone = views(weights)
    assert np.allclose(by_query.values, weights.values)
    assert np.allclose(alone.values[:, 0], weights.values.mean(1))


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (4, 3, 3)])
def test_plain_values_hold_the_whole_summary(sizes):
    held = padded(40, sizes[0]).reshape(40, sizes[0], *[1] * (len(sizes) - 1))
    summary = summarise(make_map(*sizes, there=held), make_groups())
    plain = attention_dict(summary)
    again = summary_of(json.loads(json.dumps(plain)))
    assert (again.name, again.kind, again.rows, again.folds, again.by) == (
        summary.name,
        summary.kind,
        summary.rows,
        summary.folds,
        summary.by,
    )
    assert [(c.axes, c.averaged) for c in again.charts] == [(c.axes, c.averaged) for c in summary.charts]
    for a, b in zip(again.charts, summary.charts, strict=True):
        for x, y in zip(a.panels, b.panels, strict=True):
            assert (x.name, x.rows) == (y.name, y.rows)
            assert all(equal(getattr(x, f), getattr(y, f)) for f in ("mean", "std", "count", "uniform"))
    assert plain["axes"] == [{"name": a.name, "labels": list(a.labels)} for a in summary.main.axes]
    assert np.shape(plain["panels"][0]["mean"]) == tuple(len(a.labels) for a in summary.main.axes)


def test_names_stand_largest_first_and_positions_in_their_order():
    values = np.array([[0.1, 0.6, 0.3]], np.float32)
    names = make_map(3, rows=1, axes=["modality"])
    assert order(summarise(replace(names, values=values)).main).tolist() == [1, 2, 0]
    places = make_map(3, rows=1, axes=["conformer"])
    assert is_places(places.axes[0])
    assert order(summarise(replace(places, values=values)).main).tolist() == [0, 1, 2]


def test_titles_count_rows_and_folds_and_units_tell_shares_from_gates():
    summary = summarise(make_map(4, 3, axes=["time step", "modality"]), make_groups())
    assert chart_title(summary, summary.main) == "attention: 40 validation rows of 4 folds; classes of death"
    assert "averaged over time step" in chart_title(summary, summary.charts[-1])
    assert "sums to 1 for each time step of a row" in unit(summary, summary.main)
    gate = summarise(make_map(3, kind="gate"))
    assert "sums" not in unit(gate, gate.main)
    answer = summarise(make_map(3, kind="answer"))
    assert "logit" in unit(answer, answer.main)
    assert "sums" not in unit(answer, answer.main)


def test_answers_are_means_over_the_rows_whose_modality_gave_one():
    has = np.random.default_rng(3).uniform(size=(40, 3)) < 0.6
    weights = make_map(3, 4, axes=["modality", "class"], kind="answer", there=has[:, :, None])
    by_modality, alone = (chart.panels[0] for chart in summarise(weights).charts)
    assert np.array_equal(by_modality.count, np.broadcast_to(has.sum(0)[:, None], (3, 4)))
    expected = [weights.values[has[:, m], m].astype(float).mean(0) for m in range(3)]
    assert np.allclose(by_modality.mean, expected)
    assert (by_modality.mean < 0).any()
    some = has.any(1)
    per_row = [w[h].astype(float).mean(0) for w, h in zip(weights.values[some], has[some], strict=True)]
    assert np.allclose(alone.mean[0], np.mean(per_row, axis=0))


@pytest.mark.parametrize("kind", ["attention", "gate", "answer"])
def test_the_colour_scale_holds_every_mean_and_that_of_answers_is_even_about_0(kind):
    summary = summarise(make_map(4, 3, kind=kind), make_groups())
    for chart in summary.charts:
        low, high = limits(summary, chart)
        assert all((low <= p.mean).all() and (p.mean <= high).all() for p in chart.panels)
        assert low == (-high if kind == "answer" else 0)
        assert kind != "gate" or high == 1


def test_only_attention_has_an_even_share_to_compare_with():
    for kind in ("attention", "answer"):
        uniform = summarise(make_map(4, kind=kind)).main.panels[0].uniform
        assert np.isnan(uniform).all() == (kind == "answer")
