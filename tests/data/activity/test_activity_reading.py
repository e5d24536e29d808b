"""Whatever the layout, the same samples are read as the same recordings."""

import numpy as np
import pandas as pd
import pytest
from activity_material import (
    assert_same_samples,
    recorded,
    refusal,
    sessions,
    write_arrays,
    write_dat,
    write_parquet,
    write_shards,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.prepare import prepare
from fusion_lab.data.activity.recordings import SENSOR_COLUMNS, called
from fusion_lab.data.activity.settings import ACTIVITY, HEART_RATE_BPM, TIME, TRANSIENT, ActivityConfig
from fusion_lab.data.readers import file_sha256

SUBJECTS = ("101", "102", "9")


@pytest.fixture(scope="module")
def frames():
    """Two bouts of each activity, with a gap in the middle of one of them."""
    made = sessions(subjects=SUBJECTS, rows=50, bouts=2)
    return {subject: frame.drop(index=range(40, 45)).reset_index(drop=True) for subject, frame in made.items()}


@pytest.fixture(scope="module")
def folders(frames, tmp_path_factory):
    """The same samples in every layout."""
    folder = tmp_path_factory.mktemp("layouts")
    write_dat(folder / "dat", frames)
    write_dat(folder / "protocol" / "Protocol", frames)
    write_parquet(folder / "table", frames, orientation=True)
    write_parquet(folder / "together", frames, orientation=True, together=True)
    write_shards(folder / "text", frames)
    write_shards(folder / "tensors", frames, tensors=True)
    prepare(ActivityConfig(root=str(folder / "dat")), folder / "prepared", lambda text: None)
    return folder


LAYOUTS = ["protocol", "table", "together", "text", "tensors", "prepared"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_the_same_samples(folders, layout):
    raw = recorded(folders / "dat")
    assert raw.columns == SENSOR_COLUMNS
    assert_same_samples(raw, recorded(folders / layout))


def test_values_are_those_of_the_files(folders, frames):
    for samples, subject in zip(recorded(folders / "dat").subjects, sorted(frames), strict=True):
        kept = frames[subject][frames[subject][ACTIVITY] != TRANSIENT]
        assert samples.subject == subject
        beside = list(SENSOR_COLUMNS[1:])  # all but the heart rate, which is carried forward
        np.testing.assert_array_equal(samples.values[:, 1:], kept[beside].to_numpy(np.float32))
        measured = kept[HEART_RATE_BPM].notna().to_numpy()
        np.testing.assert_array_equal(samples.values[measured, 0], kept[HEART_RATE_BPM][measured])
        assert sum(recording.rows for recording in samples.recordings) == len(kept)
        assert [r.activity for r in samples.recordings] == _runs(frames[subject])


def _runs(frame):
    """Activities as they come, once more after a gap."""
    fresh = (frame[ACTIVITY].diff() != 0) | (frame[TIME].diff() > 0.025)
    return [activity for activity in frame[ACTIVITY][fresh] if activity != TRANSIENT]


@pytest.mark.parametrize("layout", ["dat", "table", "text", "tensors"])
def test_sources_are_the_files(folders, layout):
    folder = folders / layout
    sources = recorded(folder).sources
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [source.name for source in sources] == [path.relative_to(folder).as_posix() for path in files]
    assert [source.sha256 for source in sources] == [file_sha256(path) for path in files]


def test_rows_of_sources_are_all_rows(folders, frames):
    rows = {source.name: source.rows for source in recorded(folders / "dat").sources}
    assert rows == {f"subject{subject}.dat": len(frame) for subject, frame in frames.items()}
    (together,) = recorded(folders / "together").sources
    assert together.rows == sum((frame[ACTIVITY] != TRANSIENT).sum() for frame in frames.values())


def test_what_is_left_out_is_noted(folders, frames):
    count = sum((frame[ACTIVITY] == TRANSIENT).sum() for frame in frames.values())
    for layout in ("dat", "prepared"):
        assert recorded(folders / layout).notes == (f"{count:,} samples between activities are left out",)
    assert recorded(folders / "table").notes == ()


@settings(max_examples=15)
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from([TRANSIENT, 1, 4]), st.integers(2, 6), st.integers(1, 4)), min_size=1, max_size=8
    ),
    hours=st.integers(0, 5),
)
def test_layouts_agree_whatever_the_gaps(tmp_path_factory, blocks, hours):
    """``blocks``: activity, rows, and hundredths of a second before the first of them; hours into a session."""
    folder = tmp_path_factory.mktemp("agree")
    made = _stepped([*blocks, (12, 3, 1)], hours * 360_000)
    write_dat(folder / "dat", made)
    write_parquet(folder / "table", made, orientation=True)
    write_shards(folder / "text", made)
    write_shards(folder / "tensors", made, tensors=True)
    raw = recorded(folder / "dat")
    for layout in ("table", "text", "tensors"):
        assert_same_samples(raw, recorded(folder / layout))


def _stepped(blocks, start):
    """One subject with these blocks; a block between activities takes long enough to be a gap by itself."""
    rows = [(step if row == 0 else 1, activity) for activity, count, step in blocks for row in range(count)]
    frame = next(iter(sessions(subjects=("101",), activities=(1,), rows=len(rows), transient=0).values()))
    hundredths = start + np.cumsum([step for step, _ in rows])
    activity = np.array([activity for _, activity in rows])
    return {"101": frame.assign(**{TIME: np.round(hundredths / 100, 2), ACTIVITY: activity})}


@pytest.mark.parametrize("layout", ["dat", "table", "together", "text", "tensors"])
def test_without_labels_recordings_break_at_gaps_only(tmp_path, layout):
    """The column may be missing, or hold anything; samples between activities stay."""
    frames = sessions(subjects=("101", "102"), rows=30, transient=0)
    cut = {subject: frame.drop(index=range(10, 15)).reset_index(drop=True) for subject, frame in frames.items()}
    write = {"dat": write_dat, "table": write_parquet, "together": write_parquet}.get(layout, write_shards)
    what = {"together": {"together": True}, "tensors": {"tensors": True}}.get(layout, {})
    write(tmp_path, cut, **what)
    read = recorded(tmp_path, labelled=False)
    rows = len(next(iter(cut.values())))
    for samples in read.subjects:
        assert [(r.start, r.rows, r.activity, r.split) for r in samples.recordings] == [
            (0, 10, None, ""),
            (10, rows - 10, None, ""),
        ]
    for samples, labelled in zip(read.subjects, recorded(tmp_path).subjects, strict=True):
        np.testing.assert_array_equal(samples.values[:, 1:], labelled.values[:, 1:])


def test_without_labels_the_activity_may_be_missing_or_anything(tmp_path):
    frames = sessions(subjects=("101",), rows=30)
    (frame,) = frames.values()
    write_dat(tmp_path / "whole", frames)
    reference = recorded(tmp_path / "whole", labelled=False)
    assert len(reference.subjects[0].values) == len(frame)
    write_dat(tmp_path / "odd", {"101": frame.assign(**{ACTIVITY: 77})})
    assert_same_samples(reference, recorded(tmp_path / "odd", labelled=False))
    (tmp_path / "without").mkdir()
    bare = frame.drop(columns=ACTIVITY)
    bare.to_csv(tmp_path / "without" / "subject101.dat", sep=" ", header=False, index=False, na_rep="NaN")
    assert_same_samples(reference, recorded(tmp_path / "without", labelled=False))
    (tmp_path / "table").mkdir()
    bare.assign(subject_id=101).to_parquet(tmp_path / "table" / "new.parquet")
    assert_same_samples(reference, recorded(tmp_path / "table", labelled=False))
    assert "expected a column 'activity_id'" in refusal(tmp_path / "table")


def test_one_file_alone(folders):
    raw = recorded(folders / "dat" / "subject102.dat")
    table = recorded(folders / "table" / "subject_102.parquet")
    assert_same_samples(raw, table)
    assert [source.name for source in (*raw.sources, *table.sources)] == ["subject102.dat", "subject_102.parquet"]


def test_a_folder_of_no_layout(tmp_path):
    assert "expected a folder of sensor recordings, found no such folder" in refusal(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("nothing")
    message = refusal(tmp_path)
    for sign in ("index.json", "subject<id>.dat", "subject_<id>/activity_<id>.csv", "train/<modality>.npy", "parquet"):
        assert sign in message


def test_a_named_layout_of_prepared_data(folders):
    told = "expected files of data.layout 'dat', found prepared data (set data.layout: auto)"
    assert refusal(folders / "prepared", layout="dat").endswith(told)
    assert_same_samples(recorded(folders / "prepared"), recorded(folders / "prepared", layout="prepared"))


@pytest.mark.parametrize("layout", ["dat", "table", "shards", "arrays", "prepared"])
def test_a_named_layout_that_is_not_there(tmp_path, layout):
    (tmp_path / "notes.txt").write_text("nothing")
    assert "found no" in refusal(tmp_path, layout=layout)


def test_two_layouts_in_one_folder(tmp_path):
    frames = sessions(subjects=("101",), rows=10)
    write_dat(tmp_path, frames)
    write_parquet(tmp_path, frames)
    message = refusal(tmp_path)
    assert "expected files of one layout" in message
    assert "data.layout: dat or table" in message
    assert_same_samples(recorded(tmp_path, layout="table"), recorded(tmp_path, layout="dat"), [HEART_RATE_BPM])


def test_arrays_are_items_of_one_activity(tmp_path):
    frames = write_arrays(tmp_path, rows=120, steps=50)
    read = recorded(tmp_path)
    (samples,) = read.subjects
    assert (samples.subject, read.columns) == ("", SENSOR_COLUMNS)
    assert {(r.rows, r.split) for r in samples.recordings} == {(50, "train"), (50, "val"), (50, "test")}
    assert len(samples.recordings) == len(frames) * 3 * (120 // 50)
    raw = sessions(rows=120)["101"]
    first = raw[raw[ACTIVITY] != TRANSIENT].iloc[:50]
    np.testing.assert_array_equal(samples.values[:50, 1:], first[list(SENSOR_COLUMNS[1:])].to_numpy(np.float32))
    pulse = pd.Series(first[HEART_RATE_BPM].to_numpy(np.float32)).ffill()
    np.testing.assert_array_equal(samples.values[:50, 0], pulse)


def test_a_folder_whose_name_is_too_long(tmp_path):
    root = tmp_path / ("x" * 300)
    with pytest.raises(DataError) as refused:
        recorded(root)
    assert str(refused.value) == f"{root}: expected a folder of sensor recordings, found: File name too long"


@pytest.mark.parametrize("name", ["timestamp_s", "hand_gyro_y_rads"])
def test_two_names_for_one_column(name):
    with pytest.raises(ValidationError, match=f"expected a column of its own for each name, found '{name}' for "):
        ActivityConfig(columns={"hand_gyro_x_rads": name})
    swapped = ActivityConfig(columns={"hand_gyro_x_rads": name, name: "hand_gyro_x_rads"})
    assert called(swapped, "hand_gyro_x_rads") == name


def test_no_activity_is_not_all_of_them():
    with pytest.raises(ValidationError, match="activities"):
        ActivityConfig(activities=())


@pytest.mark.parametrize(("every", "apart"), [(2, "0.02"), (1, None)])
def test_samples_that_are_farther_apart_than_the_settings_say(tmp_path, every, apart):
    thinned = {name: frame.iloc[::every] for name, frame in sessions(subjects=("101",), rows=50).items()}
    write_dat(tmp_path, thinned)
    notes = [note for note in recorded(tmp_path).notes if "apart" in note]
    told = f"subject 101: samples are {apart} s apart, where data.rate=100 says 0.01 s"
    assert notes == ([told] if apart else [])
    assert not [note for note in recorded(tmp_path, rate=100 / every, gap=0.05).notes if "apart" in note]
