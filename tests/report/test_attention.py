import io

import numpy as np
import pytest
from PIL import Image
from report_material import make_map

from fusion_lab.report.attention import attention_dict, attention_html, attention_png, panels


def test_panels_are_means_over_rows_and_deviations_over_folds():
    weights = make_map(3, 4)
    label = np.array(["", "died", "alive", "died"] * 10)
    overall, alive, died = panels(weights, label)
    assert [(p.name, p.rows) for p in (overall, alive, died)] == [("all rows", 40), ("alive", 10), ("died", 20)]
    assert np.allclose(overall.mean, weights.values.mean(0))
    assert np.allclose(overall.mean.sum(-1), 1)
    assert np.allclose(died.mean, weights.values[label == "died"].mean(0))
    folds = [weights.values[weights.fold == k].astype(float).mean(0) for k in range(4)]
    assert np.allclose(overall.std, np.std(folds, axis=0, ddof=1))
    assert not alive.std.any()  # all of its rows lie in one fold


def test_axes_before_the_last_two_are_averaged():
    weights = make_map(2, 3, 4)
    (overall,) = panels(weights)
    assert np.allclose(overall.mean, weights.values.mean((0, 1)))
    assert attention_dict(weights, [overall])["averaged_axes"] == ["axis 0"]


def test_a_map_without_queries_has_one():
    (overall,) = panels(make_map(5))
    assert overall.mean.shape == (1, 5)


def test_numbers_carry_labels_and_rows():
    weights = make_map(2, 3)
    found = attention_dict(weights, panels(weights))
    assert found["axes"] == [{"name": a.name, "labels": list(a.labels)} for a in weights.axes]
    assert found["panels"][0]["rows"] == 40


@pytest.mark.parametrize("sizes", [(3, 4), (13, 13), (5,), (1, 6), (100,), (2, 3, 3), (40, 60), (1,)])
def test_every_shape_can_be_drawn(sizes):
    weights = make_map(*sizes)
    shown = panels(weights, np.array(["", "no", "yes", "yes"] * 10))
    picture = np.asarray(Image.open(io.BytesIO(attention_png(weights, shown, "task"))).convert("L"))
    assert (picture < 200).sum() > 300
    assert (picture[:, -1] == 255).all(), "cut at the right edge"
    page = attention_html(weights, shown, "task <1>")
    assert "<script src=" not in page
    assert page.count("<!doctype html>") == 1


def test_long_names_are_not_cut_at_the_left_edge():
    weights = make_map(5)
    axis = weights.axes[0]._replace(labels=tuple(f"{'W' * 60} {i}" for i in range(5)))
    weights = type(weights)(weights.name, weights.kind, (axis,), weights.fold, weights.row, weights.values)
    picture = np.asarray(Image.open(io.BytesIO(attention_png(weights, panels(weights)))).convert("L"))
    assert (picture[40:, 0] == 255).all()
