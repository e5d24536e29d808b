"""A feature that is the label of its own day is found, which means over a window do not show."""

import numpy as np
import pytest
from relapse_material import config, days, notes, refusal, write_days

from fusion_lab.contracts import DataError
from fusion_lab.data.relapse import load


@pytest.fixture
def frame():
    return days(patients=4, length=12)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("window", "normalise"), [(1, "none"), (7, "none"), (7, "past"), (1, "patient")])
def test_a_copy_of_the_label_is_refused(tmp_path, frame, turned, window, normalise):
    label = frame["label"].astype(float)
    write_days(tmp_path, frame.assign(accel__0=1 - label if turned else label))
    with pytest.raises(DataError, match="found the values of task 'relapse'"):
        load(config(tmp_path, window=window, normalise=normalise))


def test_the_column_of_the_label_is_no_feature(tmp_path, frame):
    write_days(tmp_path, frame)
    told = refusal(tmp_path, modalities={"own": ["accel__0", "label"]})
    assert told.startswith("data: feature 'label' of modality 'own': expected what is known beside the label")


def test_nearly_a_copy_is_told(tmp_path, frame):
    rng = np.random.default_rng(0)
    label = frame["label"].astype(float)
    write_days(tmp_path, frame.assign(accel__0=10 * label + rng.random(len(frame))))
    assert "accel: 0 of the predicted day alone tells relapse of task relapse (AUROC 1.000" in notes(tmp_path)


def test_an_absence_that_tells_the_label_is_told(tmp_path, frame):
    frame["accel__0"] = frame["accel__0"].fillna(0.0).where(frame["label"] != 1)
    write_days(tmp_path, frame)
    assert "accel: a missing cell of 0 of the predicted day alone tells relapse" in notes(tmp_path)


def test_other_tables_have_nothing_to_tell(tmp_path, frame):
    write_days(tmp_path, frame)
    assert "of the predicted day" not in notes(tmp_path)
    assert "of the predicted day" not in notes(None)
