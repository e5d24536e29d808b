"""Where recordings begin and how far a heart rate is carried, against the plain loop."""

import numpy as np
import pytest
from activity_material import recorded, refusal, sessions, write_dat, write_parquet
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.recordings import (
    SENSOR_COLUMNS,
    Track,
    as_samples,
    carried_forward,
    needed_columns,
    recording_starts,
)
from fusion_lab.data.activity.settings import ACTIVITIES, HEART_RATE_BPM, TIME, TRANSIENT, ActivityConfig

STEPS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([TRANSIENT, *ACTIVITIES])), min_size=1, max_size=60)
"""Hundredths of a second since the sample before, and an activity."""


def naive_recordings(hundredths, activities, most):
    """(first row, rows, activity) of each recording, row by row; ``most`` hundredths are no gap."""
    found = []
    for row, (at, activity) in enumerate(zip(hundredths, activities, strict=True)):
        if activity == TRANSIENT:
            continue
        goes_on = row and activities[row - 1] == activity and at - hundredths[row - 1] <= most
        if goes_on:
            found[-1] = (found[-1][0], found[-1][1] + 1, activity)
        else:
            found.append((row, 1, activity))
    return found


def naive_carried(values, starts):
    """Each value, or the last one seen in the same recording."""
    carried, last = [], np.nan
    for value, start in zip(values, starts, strict=True):
        last = np.nan if start else last
        last = last if np.isnan(value) else value
        carried.append(last)
    return carried


@given(steps=STEPS, session=st.integers(0, 2_000_000), most=st.integers(1, 4), single=st.booleans())
def test_recordings_are_those_of_the_plain_loop(steps, session, most, single):
    """Also hours into a session, also with time stamps that were stored in 32 bits."""
    hundredths = session + np.cumsum([step for step, _ in steps])
    activities = np.array([activity for _, activity in steps], np.int16)
    expected = naive_recordings(hundredths.tolist(), activities.tolist(), most)
    time = np.round(hundredths / 100, 2)
    time = time.astype(np.float32).astype(float) if single else time
    kept = activities != TRANSIENT
    track = Track(time, activities, np.zeros((kept.sum(), len(SENSOR_COLUMNS)), np.float32))
    config = ActivityConfig(gap=most / 100)
    if not expected:
        with pytest.raises(DataError, match="expected samples of at least one activity"):
            as_samples("here", "1", [track], config, SENSOR_COLUMNS)
        return
    taken = as_samples("here", "1", [track], config, SENSOR_COLUMNS)
    found = taken.samples.recordings
    assert [(r.rows, r.activity) for r in found] == [(rows, activity) for _, rows, activity in expected]
    assert [r.start for r in found] == [kept[:row].sum() for row, *_ in expected]
    assert [r.seconds for r in found] == [time[row] for row, *_ in expected]
    assert taken.left_out == (~kept).sum()


@given(
    st.lists(st.tuples(st.one_of(st.just(float("nan")), st.floats(40, 200)), st.booleans()), min_size=1, max_size=50)
)
def test_a_value_is_carried_as_the_plain_loop_carries_it(rows):
    values, starts = np.array([value for value, _ in rows]), np.array([start for _, start in rows])
    starts[0] = True
    np.testing.assert_array_equal(carried_forward(values, starts), naive_carried(values, starts))


def test_the_heart_rate_never_crosses_a_recording(tmp_path):
    """Read from files: the first samples of a recording have none until its own first reading."""
    frames = sessions(bouts=2, rows=40, transient=3)
    for write in (write_dat, write_parquet):
        read = recorded(_fresh(tmp_path / write.__name__, write, frames))
        at = read.columns.index(HEART_RATE_BPM)
        for samples, frame in zip(read.subjects, frames.values(), strict=True):
            kept = frame[frame["activity_id"] != TRANSIENT]
            starts = np.zeros(len(kept), bool)
            starts[[recording.start for recording in samples.recordings]] = True
            expected = naive_carried(kept[HEART_RATE_BPM].to_numpy(np.float32), starts)
            np.testing.assert_array_equal(samples.values[:, at], np.float32(expected))
            assert np.isnan(samples.values[starts, at]).any()


def _fresh(folder, write, frames):
    write(folder, frames)
    return folder


def test_a_recording_ends_where_time_jumps():
    time = np.array([0.0, 0.01, 0.03, 0.06, 0.07])
    assert recording_starts(time, np.ones(5, int), 0.02).tolist() == [True, False, False, True, False]


def test_times_too_coarse_to_tell_a_gap_are_refused(tmp_path):
    """Days after 1970, in 32 bits, a second is as good as the next minute."""
    frames = {s: f.assign(**{TIME: f[TIME] + 1.6e9}) for s, f in sessions(subjects=("101",), rows=20).items()}
    write_parquet(tmp_path, frames)
    assert "expected times that tell a gap of 0.02 s, found numbers rounded to 1.3e+02 s" in refusal(tmp_path)
    write_dat(tmp_path / "dat", frames)
    assert len(recorded(tmp_path / "dat").subjects[0].recordings) == 3


def test_needed_columns_are_those_of_modalities_and_channels():
    every = ActivityConfig(channels=("temp", "acc16", "acc6", "gyro", "mag", "orientation"))
    assert sorted(needed_columns(every)) == sorted(SENSOR_COLUMNS)
    assert not [name for name in needed_columns(ActivityConfig()) if "acc6" in name or "orientation" in name]
