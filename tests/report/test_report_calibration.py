import io
import json

import numpy as np
import pytest
from PIL import Image

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.calibration import calibrate
from fusion_lab.report.calibration import MOST_TASKS, calibration_dict, calibration_png
from fusion_lab.report.drawing import draw_here

NAMES = ("fold 0", "fold 1")


def payload_of(*tasks: Task, rows: int = 200):
    rng = np.random.default_rng(0)
    found = {}
    for task in tasks:
        score = rng.dirichlet(np.ones(3), rows) if task.kind == "multiclass" else rng.random(rows)
        target = rng.integers(0, len(task.classes), rows).astype(float)
        columns = ({task.name: target}, {task.name: np.ones(rows, bool)}, {task.name: score})
        of = Predictions(
            np.arange(rows) % 2, np.where(np.arange(rows) % 4 < 2, "val", "test"), np.arange(rows), *columns
        )
        found[task.name] = calibrate(of, task)
    return calibration_dict(found, Spec((), tasks), NAMES)


EVENT = Task("event", "binary", ("no", "yes"))
SITE = Task("site", "multiclass", ("a", "b", "c"))


def ink(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")) < 200


def test_both_diagrams_of_every_task_have_ink():
    drawn = ink(calibration_png(payload_of(EVENT, SITE)))
    for half in np.array_split(drawn, 2, axis=0):
        for panel in np.array_split(half, 2, axis=1):
            assert panel.sum() > 500
    assert len(drawn) > 1.5 * len(ink(calibration_png(payload_of(EVENT))))


def test_the_numbers_survive_json_and_draw_the_same_figure():
    payload = payload_of(EVENT)
    again = json.loads(json.dumps(payload))
    assert draw_here("calibration", again) == calibration_png(payload)
    task = again["tasks"]["event"]
    assert [fold["name"] for fold in task["folds"]] == list(NAMES)
    assert sum(task["before"]["bins"]["count"]) == sum(fold["before"]["rows"] for fold in task["folds"])


@pytest.mark.slow
def test_many_tasks_and_scores_that_are_no_numbers_are_drawn():
    many = payload_of(*(Task(f"event {i}", "binary", ("no", "yes")) for i in range(MOST_TASKS + 2)), rows=40)
    assert ink(calibration_png(many)).any()
    undefined = payload_of(EVENT, rows=40)
    none = {"rows": 0, "ece": float("nan"), "mce": float("nan"), "nll": float("nan")}
    nothing = {"count": [0] * 15, "confidence": [float("nan")] * 15, "accuracy": [float("nan")] * 15}
    undefined["tasks"]["event"]["before"] = {**none, "bins": nothing}
    assert ink(calibration_png(undefined)).any()
