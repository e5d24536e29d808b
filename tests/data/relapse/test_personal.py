"""Values against a person's own days: held against NumPy's means and deviations that leave NaN out."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from relapse_material import config, days

from fusion_lab.contracts import DataError
from fusion_lab.data.readers import Table
from fusion_lab.data.relapse.personal import BOUND, LEAST_BEFORE, LEAST_DEVIATION, against_past, personal
from fusion_lab.data.relapse.table import read_days


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    frame = days(patients=4, length=12)
    frame["sleep__1"] = np.where(frame["patient"] == "P1", 3.0, frame["sleep__1"])  # never varies
    frame.loc[(frame["patient"] == "P2") & (frame["sequence"] == "train_0"), "accel__0"] = np.nan
    path = tmp_path_factory.mktemp("days")
    return read_days(config(path), Table("days", "days", path, frame, "row"))[0]


def expected(days, patient, name, fits):
    """[days of the patient, F], NaN where there is nothing."""
    rows = days.patient == patient
    wide = np.where(days.observed[name], days.values[name].astype(float), np.nan)
    usual = wide[rows & fits]
    with warnings.catch_warnings(action="ignore"):  # of columns without any value
        mean, deviation = np.nanmean(usual, axis=0), np.nanstd(usual, axis=0)
    deviation = np.where(deviation < LEAST_DEVIATION, 1.0, deviation)
    return rows, np.clip((wide[rows] - mean) / deviation, -BOUND, BOUND)


@pytest.mark.parametrize("named", [True, False])
def test_days_are_measured_by_their_persons_own_unlabelled_days(own, named):
    of = own if named else replace(own, split=np.full(len(own), ""))
    fits = of.split == "train" if named else ~of.labelled
    made, _ = personal(of)
    for patient in np.unique(of.patient):
        for name in of.values:
            rows, wanted = expected(of, patient, name, fits)
            assert np.array_equal(made.observed[name][rows], ~np.isnan(wanted))
            np.testing.assert_allclose(made.values[name][rows], np.nan_to_num(wanted), atol=1e-5)


def test_no_other_person_and_no_day_that_is_tested_changes_a_statistic(own):
    changed = dict(own.values)
    other = (own.patient != "P3") | (own.split != "train")
    changed["accel"] = np.where(other[:, None] & own.observed["accel"], np.float32(99.0), own.values["accel"])
    rows = (own.patient == "P3") & (own.split == "train")
    honest, spoilt = personal(own)[0], personal(replace(own, values=changed))[0]
    assert np.array_equal(honest.values["accel"][rows], spoilt.values["accel"][rows])


def test_labels_change_nothing(own):
    turned = {name: 1 - target for name, target in own.targets.items()}
    assert np.array_equal(personal(own)[0].values["sleep"], personal(replace(own, targets=turned))[0].values["sleep"])


def test_a_person_without_such_days_is_told_and_has_no_values(own):
    split = np.where((own.patient == "P4") & (own.split == "train"), "val", own.split)
    made, notes = personal(replace(own, split=split))
    assert any("no such days of 'P4'" in note for note in notes)
    assert not any(seen[own.patient == "P4"].any() for seen in made.observed.values())
    assert all(seen[own.patient != "P4"].any() for seen in made.observed.values())


def test_days_are_measured_by_the_days_before_them(own):
    made, _ = against_past(own)
    for name in own.values:
        for place in range(len(own)):
            same = own.code == own.code[place]
            before = np.flatnonzero(same & (own.day < own.day[place]))
            for column in range(own.values[name].shape[1]):
                usual = own.values[name][before, column][own.observed[name][before, column]].astype(float)
                seen = own.observed[name][place, column] and len(usual) >= LEAST_BEFORE
                assert made.observed[name][place, column] == seen
                if seen:
                    deviation = usual.std() if usual.std() >= LEAST_DEVIATION else 1.0
                    wanted = (own.values[name][place, column] - usual.mean()) / deviation
                    assert made.values[name][place, column] == pytest.approx(np.clip(wanted, -BOUND, BOUND), abs=1e-4)


def test_a_day_that_is_far_off_is_measured_by_the_days_before_it_all_the_same(own):
    day, name = int(np.flatnonzero(own.code == own.code[0])[-1]), "accel"
    column = int(own.observed[name][day].argmax())
    far = {**own.values, name: own.values[name].copy()}
    before = against_past(own)[0].values[name][day, column]
    far[name][day, column] += np.float32(np.sign(before) * 1e12)
    assert against_past(replace(own, values=far))[0].values[name][day, column] == np.sign(before) * BOUND


def test_a_later_day_and_another_person_change_nothing_of_a_day(own):
    last = own.day == np.array([own.day[own.code == code].max() for code in own.code])
    odd = {
        name: np.where((last | (own.patient == "P1"))[:, None], 1e6, of).astype(of.dtype)
        for name, of in own.values.items()
    }
    honest, spoilt = against_past(own)[0], against_past(replace(own, values=odd))[0]
    rest = ~last & (own.patient != "P1")
    for name in own.values:
        assert np.array_equal(honest.values[name][rest], spoilt.values[name][rest])


def test_the_calendar_is_nobodys_own(tmp_path):
    frame = days(patients=3, length=9).assign(weekday=lambda f: f["day"] % 7)
    settings = config(tmp_path, weekday="weekday")
    calendar = read_days(settings, Table("days", "days", tmp_path, frame, "row"))[0]
    for measured in (personal, against_past):
        made, _ = measured(calendar)
        assert made.features["weekday"][0] == "monday"
        assert (
            np.array_equal(made.values["weekday"].argmax(axis=1), calendar.day % 7) and made.observed["weekday"].all()
        )


def test_without_days_to_measure_by_nothing_is_measured(own):
    nobody = replace(own, split=np.full(len(own), ""), known={n: np.ones_like(of) for n, of in own.known.items()})
    with pytest.raises(DataError, match="data.normalise: expected days named train or, .*, found none"):
        personal(nobody)
