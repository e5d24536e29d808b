"""Curves of the objective's parts: panels of their own, no task's score and no penalty."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_material import make_folds

from fusion_lab.report.curves import (
    PENALTIES,
    _metric,
    _overview,
    _panels,
    curves_html,
    curves_png,
    is_penalty,
    mean_curves,
    part_of,
    task_of,
)

NAMES = [f"{split}/loss of {part}" for split in ("train", "val") for part in ("position", "a/b auroc")]


def with_parts() -> list:
    """The folds' curves, those of two parts, one of whose names holds a slash, and a penalty."""
    return [
        replace(
            fold,
            history=tuple(
                {**row, **{name: place / row["epoch"] for place, name in enumerate(NAMES, 1)}, "train/kl": 0.1}
                for row in fold.history
            ),
        )
        for fold in make_folds()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_part_is_no_task_and_no_penalty(name):
    assert part_of(name) in ("position", "a/b auroc")
    assert task_of(name) == ""
    assert not is_penalty(name)
    assert _metric(name) == "loss"


def test_parts_are_in_no_mean_over_tasks():
    plain, means = mean_curves(make_folds()), mean_curves(with_parts())
    assert set(means) == {*plain, *NAMES, "train/kl"}
    assert all(np.array_equal(means[name], plain[name], equal_nan=True) for name in plain)


def test_parts_have_panels_of_their_own():
    before, overview = dict(_overview(make_folds())), dict(_overview(with_parts()))
    assert overview.pop("parts of the loss, training rows") == NAMES[:2]
    assert overview.pop("parts of the loss, validation rows") == NAMES[2:]
    assert overview.pop(PENALTIES) == ["train/kl"]
    assert overview == before
    panels = dict(_panels(with_parts()))
    assert panels.pop("loss of position") == [NAMES[0], NAMES[2]]
    assert panels.pop("loss of a/b auroc") == [NAMES[1], NAMES[3]]
    assert panels == dict(_panels(make_folds()))


def test_they_are_drawn():
    sizes = [Image.open(io.BytesIO(curves_png(folds))).size for folds in (make_folds(), with_parts())]
    assert sizes[1][0] > sizes[0][0]
    assert sizes[1][1] == sizes[0][1]
    page = curves_html(with_parts(), "edits")
    assert "loss of position" in page
