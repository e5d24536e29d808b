import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_material import make_groups, make_map

from fusion_lab.report import style
from fusion_lab.report.attention import summarise
from fusion_lab.report.attention_picture import attention_png
from fusion_lab.report.rows import Groups

SHAPES = [(3, 4), (13, 13), (5,), (1, 6), (100,), (4, 3, 3), (40, 60), (1,)]
NAMED = [(5,), (3, 4), (4, 3, 3)]
"""Shapes that every run of the suite draws with named axes too."""


def grey(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


def long_names(weights):
    axes = tuple(a._replace(labels=tuple(f"{'W' * 60} {i}" for i in range(len(a.labels)))) for a in weights.axes)
    return replace(weights, axes=axes)


def test_answers_are_drawn_on_both_sides_of_0(monkeypatch):
    figures = []
    monkeypatch.setattr(style, "png", lambda figure: figures.append(figure) or b"")
    attention_png(summarise(make_map(9, axes=["modality"], kind="answer")))
    attention_png(summarise(make_map(4, 6, axes=["modality", "class"], kind="answer")))
    low, high = figures[0].axes[0].get_xlim()
    assert low < 0 < high
    image = figures[1].axes[0].images[0]
    least, most = image.get_clim()
    assert least == -most
    middle, ends = image.get_cmap()(0.5), [image.get_cmap()(end) for end in (0.0, 1.0)]
    assert all(sum(middle) > sum(end) + 1 for end in ends), "light where nothing is said, dark at both ends"


@pytest.mark.parametrize("sizes", [(4,), (3, 4), (4, 13), (3, 40)])
def test_answers_of_every_shape_can_be_drawn_and_nothing_is_cut(sizes):
    weights = make_map(*sizes, axes=["modality", "class"][: len(sizes)], kind="answer")
    for given in (weights, long_names(weights)):
        picture = grey(attention_png(summarise(given, make_groups())))
        assert (picture < 200).sum() > 300
        for edge in (picture[:, 0], picture[:, -1], picture[0], picture[-1]):
            assert (edge == 255).all(), "cut at an edge"


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        pytest.param(sizes, names, marks=() if not names or sizes in NAMED else pytest.mark.slow)
        for sizes in SHAPES
        for names in ((), ("modality",), ("day",))
    ],
)
def test_every_shape_can_be_drawn_and_nothing_is_cut(sizes, names):
    picture = grey(attention_png(summarise(make_map(*sizes, axes=names), make_groups())))
    assert (picture < 200).sum() > 300
    for edge in (picture[:, 0], picture[:, -1], picture[0], picture[-1]):
        assert (edge == 255).all(), "cut at an edge"


@pytest.mark.parametrize("sizes", [(5,), (4, 3)])
def test_long_names_and_many_groups_are_not_cut(sizes):
    names = tuple(f"{'a very long name of a class ' * 3}{i}" for i in range(6))
    groups = Groups(f"classes of {'a task ' * 30}", names, np.arange(40) % 6)
    picture = grey(attention_png(summarise(long_names(make_map(*sizes, axes=["modality"])), groups)))
    for edge in (picture[:, 0], picture[:, -1], picture[0], picture[-1]):
        assert (edge == 255).all()


@pytest.mark.parametrize("sizes", [(6,), (6, 3)])
def test_what_no_row_has_is_left_empty(sizes):
    there = (np.arange(6) > 1).reshape(6, *[1] * (len(sizes) - 1))
    for kind in ("attention", "gate"):
        summary = summarise(make_map(*sizes, axes=["day", "modality"][: len(sizes)], there=there, kind=kind))
        assert np.isnan(summary.main.panels[0].mean).any()
        assert (grey(attention_png(summary)) < 200).sum() > 300


def test_a_gate_is_drawn_on_its_whole_scale(monkeypatch):
    seen = []
    monkeypatch.setattr(style, "png", lambda figure: seen.append(figure.axes[0].get_xlim()) or b"")
    for kind in ("gate", "attention"):
        attention_png(summarise(make_map(9, axes=["modality"], kind=kind)))
    (low, high), (least, most) = seen
    assert low == least == 0
    assert 1 <= high < 1.1
    assert most < 1
