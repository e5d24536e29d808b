import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_material import make_study

from fusion_lab.report import study as figures
from fusion_lab.report.study import RELIABLE, is_number, ordered_params, ordered_scores, spread, ticks
from fusion_lab.report.study_page import _history, study_html

DRAW = [figures.history_png, figures.comparison_png, figures.parameters_png]


@pytest.fixture
def study():
    return make_study()


def test_the_best_so_far_ignores_what_was_pruned(study):
    assert study.best_so_far().to_dict() == {0: 0.6, 1: 0.7, 3: 0.7, 5: 0.72}
    assert replace(study, maximise=False).best_so_far().to_dict() == {0: 0.6, 1: 0.6, 3: 0.6, 5: 0.6}


def test_scores_stand_best_first_and_undefined_ones_are_left_out(study):
    assert ordered_scores(study)["name"].tolist() == ["trial 5", "logistic <regression>", "prevalence"]
    assert ordered_scores(replace(study, maximise=False))["name"].tolist()[0] == "prevalence"
    assert study.baselines["name"].tolist() == ["logistic <regression>", "prevalence"]


def test_parameters_that_vary_stand_most_important_first(study):
    assert ordered_params(study) == ["model.fusion", "optimiser.lr", "model.dropout"]


def test_a_comparison_of_pooled_scores_says_so(study):
    assert "Mean over folds and 95 % interval" in study_html(study)
    assert "Pooled over folds and 95 % interval" in study_html(replace(study, pooled=True))


def test_importance_says_what_it_rests_on_and_when_that_is_too_little(study):
    assert "from 4 complete trials, of 2 parameters: not to be relied on" in study.importance_note
    assert study.importance_note in study_html(study)
    many = pd.DataFrame({"number": range(RELIABLE), "value": 0.5, "state": "complete"})
    assert replace(study, trials=many).importance_note == f"from {RELIABLE} complete trials, of 2 parameters"
    assert replace(study, importance=pd.Series(dtype=float)).importance_note == ""


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9), st.booleans())
def test_ticks_are_few_ascend_and_lie_where_the_values_do(values, log):
    found, low, high = np.array(ticks(np.array(values), log)), min(values), max(values)
    assert len(found) <= 7 and (np.diff(found) > 0).all()
    room = (high - low) / 50 + 1e-9 * high
    assert ((found >= low - room) & (found <= high + room)).all()


@given(st.lists(st.integers(-50, 500), min_size=1, max_size=9))
def test_whole_numbers_have_whole_ticks(values):
    assert all(tick.is_integer() for tick in ticks(np.array(values, dtype=float)))


def test_names_of_baselines_are_led_to_their_lines(study):
    figure = _history(study)
    leaders = {note.y: note.text for note in figure.layout.annotations if note.ayref == "y"}
    assert list(leaders) == study.baselines["mean"].tolist()
    assert all(f"{value:.3f}" in text for value, text in leaders.items())
    low, high = figure.layout.yaxis.range
    assert low < min(leaders) and high > study.trials["value"].max()
    assert list(figure.layout.xaxis.tickvals) == study.trials["number"].tolist()


def test_a_switch_is_no_number():
    assert is_number(pd.Series([1, 2.5, None]))
    assert not is_number(pd.Series([True, False], dtype=object))
    assert not is_number(pd.Series(["1", 2], dtype=object))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8), st.floats(0.01, 3))
def test_labels_move_apart_and_keep_their_order(values, gap):
    places = spread(np.array(values), gap)
    order = np.argsort(values, kind="stable")
    assert (np.diff(places[order]) >= gap - 1e-6).all()
    if (np.diff(np.array(values)[order]) >= gap).all():
        assert np.allclose(places, values)


@pytest.mark.parametrize("draw", DRAW)
def test_figures_have_ink_and_are_not_cut(study, draw):
    picture = np.asarray(Image.open(io.BytesIO(draw(study))).convert("L"))
    assert (picture < 200).sum() > 500
    assert (picture[:, [0, -1]] == 255).all()


@pytest.mark.parametrize("draw", [*DRAW, lambda study: study_html(study).encode()])
def test_a_study_at_its_beginning_can_be_drawn(study, draw):
    first = replace(study, trials=study.trials.head(1), params=study.params.head(1), importance=pd.Series(dtype=float))
    assert len(draw(first)) > 1000
    nothing = replace(first, scores=study.scores.head(0))
    assert len(draw(nothing)) > 1000
    failed = replace(nothing, trials=study.trials.iloc[[4]], params=study.params.iloc[[4]])
    assert len(draw(failed)) > 1000


def test_the_page_needs_no_network_and_shows_names_as_they_are(study):
    page = study_html(study, ["A <note>."])
    assert "<script src=" not in page
    assert "A &lt;note&gt;." in page
    assert "logistic <regression>" not in page.split("</script>")[-1]
    assert page.count("plotly-graph-div") >= 4
