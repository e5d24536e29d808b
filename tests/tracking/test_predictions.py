import io

import numpy as np
import pandas as pd

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.tracking.predictions import prediction_bytes, prediction_table


def test_the_table_holds_every_prediction_with_its_id(make_outcome):
    outcome = make_outcome(count=3)
    predictions = outcome.result.predictions
    table = prediction_table(predictions, outcome.spec, outcome.ids).to_pandas()
    entries = len(predictions.row)
    died = table[table["task"] == "death (5 y)"]
    assert died["id"].tolist() == [f"patient {i}" for i in predictions.row]
    assert died["score"].tolist() == predictions.score["death (5 y)"].tolist()
    assert set(died["class"]) == {"died"}
    assert died["target"].isna().tolist() == (~predictions.known["death (5 y)"]).tolist()
    grade = table[table["task"] == "grade"]
    assert len(grade) == 3 * entries
    scores = grade.pivot_table(index=["split", "fold", "id"], columns="class", values="score", observed=True)
    assert np.allclose(scores.sum(axis=1), 1)


def test_steps_have_lines_of_their_own():
    target = np.array([[0.0, 1.0], [1.0, 0.0]])
    known = np.array([[True, False], [True, True]])
    score = np.array([[0.1, 0.2], [0.3, 0.4]])
    predictions = Predictions(
        np.array([0, 1]), np.array(["val", "val"]), np.array([0, 1]), {"t": target}, {"t": known}, {"t": score}
    )
    spec = Spec((), (Task("t", "binary", ("no", "yes"), per_step=True),))
    table = prediction_table(predictions, spec, np.array(["a", "b"])).to_pandas()
    assert list(zip(table["id"], table["step"], table["score"], strict=True)) == [
        ("a", 0, 0.1),
        ("a", 1, 0.2),
        ("b", 0, 0.3),
        ("b", 1, 0.4),
    ]
    assert table["target"].isna().tolist() == [False, True, False, False]


def test_the_file_can_be_read_back(make_outcome):
    outcome = make_outcome(count=3)
    parts = (outcome.result.predictions, outcome.spec, outcome.ids)
    read = pd.read_parquet(io.BytesIO(prediction_bytes(*parts)))
    pd.testing.assert_frame_equal(read, prediction_table(*parts).to_pandas())
