"""What is read of a raw tree beside its sensors: sequences, labels, segments, episodes."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusion_lab.contracts import DataError
from fusion_lab.data.relapse.raw import (
    SensorSequence,
    demographics,
    find_sequences,
    read_labels,
    read_sleep,
    read_steps,
)

pytestmark = pytest.mark.filterwarnings("error")

SEGMENT = {
    "start_date_index": [3, 3],
    "totalSteps": [10, 20],
    "stepsWalking": [10, 15],
    "stepsRunning": [0, 5],
    "distance": [7.5, 15.0],
    "calories": [0.5, 1.0],
    "start_time": ["08:00:00", "09:30:00"],
    "end_time": ["08:30:00", "09:45:00.5"],
}


def sequence(folder, lines, name="val_0"):
    folder = folder / "P1" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "relapses.csv").write_text("\n".join(["day_index,relapse", *lines]) + "\n")
    return SensorSequence("P1", name, folder)


def refused(read, *arguments):
    with pytest.raises(DataError) as error:
        read(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_sequences_are_in_counting_order_wherever_the_tree_begins(tmp_path):
    track = tmp_path / "data" / "original" / "track1"
    for patient, name in (("P10", "val_0"), ("P2", "train_10"), ("P2", "train_9"), ("P2", "notes")):
        (track / patient / name).mkdir(parents=True)
    expected = [("P2", "train_9"), ("P2", "train_10"), ("P10", "val_0")]
    for root in (tmp_path, tmp_path / "data" / "original", track):
        assert [found[:2] for found in find_sequences(root)] == expected


def test_a_folder_without_a_tree_is_refused(tmp_path):
    assert "expected folders of patients with sequences such as P1/train_0" in refused(find_sequences, tmp_path)
    assert "no such folder" in refused(find_sequences, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "found a file" in refused(find_sequences, tmp_path / "file")


def test_the_last_row_of_the_labels_is_dropped_whatever_it_says(tmp_path):
    for last in ("999,1", "x,y", "0,1"):
        labels = read_labels(sequence(tmp_path, ["0,0", "1,1", "2,", "3,-1", "5,1.0", last]))
        assert labels == {0: 0, 1: 1, 2: -1, 3: -1, 5: 1}


def test_train_sequences_have_no_labels_to_read(tmp_path):
    assert read_labels(sequence(tmp_path, ["0,7", "9,9"], "train_0")) is None
    assert read_labels(SensorSequence("P1", "test_0", tmp_path)) is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["0,0", "1,2", "9,9"], "line 3, column 'relapse': expected 1 (relapse), 0 (stable), -1 or nothing (unknown)"),
        (["0,0", "one,1", "9,9"], "line 3, column 'day_index': expected a whole number up to 10,000,000, found 'one'"),
        (["0,0", "1.5,1", "9,9"], "line 3, column 'day_index': expected a whole number up to 10,000,000, found '1.5'"),
        (["0,0", "10000001,1", "9,9"], "expected a whole number up to 10,000,000, found '10000001'"),
        (["0,0", f"{'9' * 5000},1", "9,9"], "expected a whole number up to 10,000,000, found '9999"),
        (["0,0", "0,1", "9,9"], "line 3: expected one label per day, found another of day 0"),
    ],
)
def test_a_wrong_label_is_named_by_its_line(tmp_path, lines, told):
    wrong = sequence(tmp_path, lines)
    message = refused(read_labels, wrong)
    assert told in message and str(wrong.folder) in message


def test_a_day_that_is_listed_twice_with_one_label_is_one_day(tmp_path):
    assert read_labels(sequence(tmp_path, ["0,0", "0,0", "9,9"])) == {0: 0}


def test_labels_without_their_columns_or_rows_are_refused(tmp_path):
    wrong = sequence(tmp_path, [])
    assert "expected rows below the header" in refused(read_labels, wrong)
    (wrong.folder / "relapses.csv").write_text("day,relapse\n0,1\n")
    assert "expected a column 'day_index'" in refused(read_labels, wrong)
    (wrong.folder / "relapses.csv").write_text("")
    assert "found an empty file" in refused(read_labels, wrong)


def test_segments_are_hours_and_sums(tmp_path):
    pd.DataFrame(SEGMENT).to_parquet(tmp_path / "step.parquet")
    spans = read_steps(tmp_path / "step.parquet")
    assert spans.start.tolist() == [8, 9.5] and spans.end == pytest.approx([8.5, 9.75 + 0.5 / 3600])
    assert spans.totals.tolist() == [[10, 10, 0, 7.5, 0.5], [20, 15, 5, 15, 1]]
    assert (spans.day.tolist(), spans.repeated) == ([3, 3], 0)


def test_a_segment_that_is_there_twice_counts_once(tmp_path):
    pd.DataFrame(SEGMENT).loc[[0, 1, 0]].to_parquet(tmp_path / "step.parquet", index=False)
    spans = read_steps(tmp_path / "step.parquet")
    assert (spans.start.tolist(), spans.repeated) == ([8, 9.5], 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"totalSteps": None}, "expected a column 'totalSteps'"),
        ({"calories": ["few", "many"]}, "column 'calories': expected numbers"),
        ({"end_time": ["08:30:00", "8 pm"]}, "row 2, column 'end_time': expected a time of day"),
        ({"start_date_index": [3, None]}, "row 2, column 'start_date_index': expected a whole number"),
    ],
)
def test_a_wrong_table_of_steps_is_named(tmp_path, changes, told):
    columns = {name: cells for name, cells in (SEGMENT | changes).items() if cells is not None}
    pd.DataFrame(columns).to_parquet(tmp_path / "step.parquet")
    message = refused(read_steps, tmp_path / "step.parquet")
    assert told in message and "step.parquet" in message


def test_episodes_belong_to_the_day_on_which_they_end(tmp_path):
    table = {"start_time": ["23:00:00"], "end_time": ["07:00:00"], "end_date_index": [4]}
    pd.DataFrame(table).to_parquet(tmp_path / "sleep.parquet")
    spans = read_sleep(tmp_path / "sleep.parquet")
    assert (spans.day.tolist(), spans.start.tolist(), spans.end.tolist()) == ([4], [23], [7])
    pd.DataFrame(table).iloc[:0].to_parquet(tmp_path / "sleep.parquet")
    assert len(read_sleep(tmp_path / "sleep.parquet").day) == 0


def test_the_table_of_patients_is_kept_as_it_is(tmp_path):
    found = [sequence(tmp_path, ["0,0", "9,9"])]
    assert demographics(found) == ()
    (tmp_path / "demographics.csv").write_text("patient,age\nP1,40\nP2,\n")
    assert demographics(found) == ({"patient": "P1", "age": "40"}, {"patient": "P2", "age": None})


def test_files_that_hold_nothing_are_refused(tmp_path):
    found = sequence(tmp_path, ["0,0", "9,9"])
    assert found.file("gyr") is None
    (found.folder / "gyr.parquet").write_bytes(b"")
    assert "found an empty file" in refused(found.file, "gyr")
    assert np.array_equal([path.name for path in found.files], ["gyr.parquet", "relapses.csv"])


@pytest.mark.parametrize("day", [np.inf, 1e300, 2.0**62, 10_000_001.0, -10_000_001.0])
def test_a_day_beyond_reach_is_named_by_its_row(tmp_path, day):
    pd.DataFrame(SEGMENT | {"start_date_index": [3.0, day]}).to_parquet(tmp_path / "step.parquet")
    told = refused(read_steps, tmp_path / "step.parquet")
    assert "row 2, column 'start_date_index': expected a whole number up to 10,000,000" in told


def test_whole_numbers_that_no_float_holds_are_rounded(tmp_path):
    pd.DataFrame(SEGMENT | {"totalSteps": [2**62 + 1, 20]}).to_parquet(tmp_path / "step.parquet")
    assert read_steps(tmp_path / "step.parquet").totals[0, 0] == 2.0**62


@pytest.mark.parametrize("name", ["start_time", "start_date_index", "totalSteps"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, name):
    table = pa.table(SEGMENT)
    pq.write_table(table.append_column(name, table[name]), tmp_path / "step.parquet")
    assert f"expected each column once, found {name!r} again" in refused(read_steps, tmp_path / "step.parquet")


def test_a_link_that_leads_nowhere_is_no_missing_file(tmp_path):
    found = sequence(tmp_path, ["0,0", "9,9"])
    (found.folder / "gyr.parquet").symlink_to(tmp_path / "nowhere")
    assert "gyr.parquet: expected a data file, found a link that leads nowhere" in refused(found.file, "gyr")
    (found.folder / "relapses.csv").unlink()
    (found.folder / "relapses.csv").symlink_to(found.folder / "relapses.csv")
    assert "relapses.csv: expected a data file, found a link that leads nowhere" in refused(read_labels, found)


@pytest.mark.parametrize("name", [b"P\xff", b"P\n1"])
def test_a_patient_whose_name_cannot_be_told_is_refused(tmp_path, name):
    (tmp_path / os.fsdecode(name) / "val_0").mkdir(parents=True)
    told = refused(find_sequences, tmp_path)
    assert "expected folders of patients with printable names" in told and told.isprintable()


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied")

    sequence(tmp_path, ["0,0", "9,9"])
    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert "expected a folder that can be read, found: Permission denied" in refused(find_sequences, tmp_path)
