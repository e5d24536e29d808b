import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from fusion_lab.evaluation.labelled import Told
from fusion_lab.evaluation.subsets import SubsetScores, choose_subsets, worth
from fusion_lab.report import style
from fusion_lab.report.drawing import draw_here
from fusion_lab.report.subsets import MOST_SUBSETS, drawn, subsets_dict, subsets_png


def payload_of(count: int, tasks: dict[str, str] | None = None, most: int = 255):
    names = tuple(f"modality {i}" for i in range(count))
    rng = np.random.default_rng(count)
    subsets = choose_subsets(names, most, rng)
    tasks = tasks or {"event": "accuracy"}
    scored = [
        SubsetScores(s, {task: {metric: Told(rng.normal(), math.nan)} for task, metric in tasks.items()}, len(s))
        for s in subsets.chosen
    ]
    return subsets_dict(scored, worth(scored, names), names, subsets.note)


def ink(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")) < 200


def test_the_numbers_hold_every_subset_by_its_members():
    payload = payload_of(3)
    assert payload["full_modalities"]["modalities"] == payload["modalities"]
    assert set(payload["single_modalities"]) == set(payload["modalities"])
    assert all(line["modalities"] == [name] for name, line in payload["single_modalities"].items())
    lines = payload["all_combinations"]
    assert len({tuple(line["modalities"]) for line in lines}) == len(lines) == 2**3 - 1
    assert payload["note"] == ""
    assert [line["rows_without_any"] for line in lines] == [len(line["modalities"]) for line in lines]


@pytest.mark.parametrize("count", [1, 2, pytest.param(13, marks=pytest.mark.slow)])
def test_bars_dots_and_importance_have_ink_and_survive_json(count):
    payload = payload_of(count, {"event": "accuracy", "dose": "r2"}, most=40)
    picture = subsets_png(payload)
    for quarter in np.array_split(ink(picture), 4, axis=0):
        assert quarter.sum() > 200
    assert draw_here("subsets", json.loads(json.dumps(payload))) == picture
    assert (payload["note"] == "") == (count < 13)


def test_what_is_below_0_is_red_where_it_means_harm_alone():
    payload = payload_of(2)
    red = tuple(int(style.OKABE_ITO[1][i : i + 2], 16) for i in (1, 3, 5))

    def reds(gain, importance):
        worth = {"modality_gain": gain, "modality_importance": importance}
        told = {key: {"event": dict.fromkeys(payload["modalities"], value)} for key, value in worth.items()}
        picture = np.asarray(Image.open(io.BytesIO(subsets_png({**payload, **told}))).convert("RGB"))
        return int((picture == red).all(-1).sum())

    assert reds(0.1, -0.3) == 0 < reds(-0.1, 0.3)


def test_scores_that_are_undefined_are_drawn():
    payload = payload_of(2)
    payload["all_combinations"][1]["tasks"]["event"]["accuracy"]["pooled"] = None
    payload["modality_importance"]["event"] = dict.fromkeys(payload["modalities"])
    assert ink(subsets_png(payload)).any()


@pytest.mark.parametrize("count", [1, 29, 30, 31, 45, 255])
@pytest.mark.parametrize("most", [2, 4, MOST_SUBSETS])
def test_a_figure_has_as_many_subsets_as_fit_and_the_first_ones_always(count, most):
    lines = [{"n": n} for n in range(count)]
    found = [line["n"] for line in drawn(lines, most)]
    assert len(found) == min(count, most)
    assert found == sorted(set(found))
    assert found[0] == 0
