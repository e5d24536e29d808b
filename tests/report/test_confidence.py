import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from fusion_lab.evaluation.rows import Imputation
from fusion_lab.report.confidence import MOST_MODALITIES, MOST_POINTS, confidence_dict, confidence_png
from fusion_lab.report.drawing import draw_here


def found(count: int) -> dict[str, Imputation]:
    """The more rows lack a modality, the later it comes; of each two in three are imputed."""
    rng = np.random.default_rng(count)
    return {f"modality {i}": Imputation(3 * (i + 1), rng.random(2 * (i + 1))) for i in range(count)}


def ink(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")) < 200


def test_the_numbers_are_those_of_the_rows():
    values = np.random.default_rng(0).random(3 * MOST_POINTS)
    payload = confidence_dict({"blood": Imputation(5000, values)}, 6000)
    told = payload["modalities"]["blood"]
    assert (payload["rows"], told["missing"], told["imputed"]) == (6000, 5000, len(values))
    assert told["confidence"]["median"] == pytest.approx(np.median(values))
    assert told["confidence"]["low"] == pytest.approx(np.quantile(values, 0.05))
    points = told["points"]
    assert len(points) == MOST_POINTS
    assert points == sorted(points)
    assert set(points) <= set(values.tolist())
    assert (points[0], points[-1]) == (values.min(), values.max())


@pytest.mark.parametrize("count", [1, 5])
def test_both_panels_have_ink_and_survive_json(count):
    payload = confidence_dict(found(count), 90)
    picture = confidence_png(payload)
    for half in np.array_split(ink(picture), 2, axis=1):
        assert half.sum() > 200
    assert draw_here("confidence", json.loads(json.dumps(payload))) == picture


@pytest.mark.slow
def test_more_modalities_make_a_taller_figure_up_to_a_number():
    tall = [len(ink(confidence_png(confidence_dict(found(n), 90)))) for n in (2, MOST_MODALITIES, MOST_MODALITIES + 9)]
    assert tall[0] < tall[1] == tall[2]


def test_a_modality_that_is_never_imputed_has_a_line_without_a_box():
    nothing = Imputation(4, np.zeros(0))
    payload = confidence_dict({**found(2), "never": nothing}, 90)
    assert all(math.isnan(value) for value in payload["modalities"]["never"]["confidence"].values())
    payload["modalities"]["never"]["confidence"] = dict.fromkeys(payload["modalities"]["never"]["confidence"])
    assert ink(confidence_png(payload)).any()
