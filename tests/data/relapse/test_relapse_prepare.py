"""Days are those of the raw files, however many processes work; an interrupted run goes on; nothing is half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fusion_lab.contracts import DataError
from fusion_lab.data.output import alone
from fusion_lab.data.relapse import worker
from fusion_lab.data.relapse.daily import noticed, read_daily, read_prepared
from fusion_lab.data.relapse.features.heart import heart_features
from fusion_lab.data.relapse.features.motion import motion_features
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.patient import describe
from fusion_lab.data.relapse.prepare import prepare_tree
from fusion_lab.data.relapse.raw import FILES, find_sequences
from fusion_lab.data.relapse.raw_twin import write_raw_tree

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "prepared"


def prepared(root, output, processes=1):
    told = []
    prepare_tree(root, output, told.append, processes)
    return told


def refused(root, output, processes=1):
    with pytest.raises(DataError) as error:
        prepared(root, output, processes)
    message = str(error.value)
    assert "\n" not in message
    return message


def content(output):
    assert sorted(path.name for path in output.iterdir()) == ["daily.parquet", "metadata.json"]
    return (output / "daily.parquet").read_bytes()


def of(root, name, patient="P1"):
    return next(s for s in find_sequences(root) if (s.patient, s.name) == (patient, name))


def edit(path, change):
    """Rewrites a parquet file."""
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def lines_of(told, words):
    return [line for line in told if words in line]


def test_the_table_has_a_row_per_day_and_a_column_per_feature(tree, output):
    told = prepared(tree, output)
    frame = pd.read_parquet(output / "daily.parquet")
    features = [f"{modality}__{name}" for modality, names in MODALITIES.items() for name in names]
    assert list(frame.columns) == ["patient", "sequence", "day", *features, "label"]
    assert (frame[features].dtypes == np.float32).all()
    assert not frame.duplicated(["patient", "sequence", "day"]).any()
    assert set(zip(frame["patient"], frame["sequence"], strict=True)) == {s[:2] for s in find_sequences(tree)}
    assert (frame["label"][frame["sequence"].str.startswith("train")] == 0).all()
    assert frame["label"][frame["sequence"].str.startswith("test")].isna().all()
    assert frame["label"][frame["sequence"].str.startswith("val")].isin([0, 1]).all()
    assert len(lines_of(told, "sequences)")) == len(find_sequences(tree))


def test_a_day_is_described_by_its_samples(tree):
    """The features of files read by pandas, each a modality of its own."""
    sequence = of(tree, "train_0")
    daily, _ = describe(sequence)
    day = daily.day[-1]
    for modality, file in (("accel", "linacc"), ("gyr", "gyr"), ("hr", "hrm")):
        frame = pd.read_parquet(sequence.folder / f"{file}.parquet")
        frame = frame[frame["day_index"] == day]
        seconds = pd.to_timedelta(frame["time"].astype(str)).dt.total_seconds().to_numpy()
        if modality == "hr":
            expected = heart_features(seconds, *frame[["heartRate", "rRInterval"]].to_numpy(float).T)
        else:
            expected = motion_features(seconds, np.ascontiguousarray(frame[["X", "Y", "Z"]].to_numpy(float).T), 0.02)
        np.testing.assert_array_equal(daily.features[modality][-1], expected.astype(np.float32))


def test_metadata_tell_what_is_in_the_table(tree, output):
    prepared(tree, output)
    daily, metadata = read_daily(output / "daily.parquet")
    assert json.loads((output / "metadata.json").read_text()) == json.loads(metadata.model_dump_json())
    assert metadata.days == len(daily) == metadata.stable + metadata.relapse + metadata.unlabelled
    assert metadata.relapse == (daily.label == 1).sum() > 0
    assert metadata.measured["hr"] == (~np.isnan(daily.features["hr"])).any(axis=1).sum()
    assert [line["patient"] for line in metadata.demographics] == ["P1", "P2"]
    for entry, sequence in zip(metadata.sequences, find_sequences(tree), strict=True):
        assert [original.name for original in entry.originals] == [path.name for path in sequence.files]


@pytest.mark.slow
def test_processes_change_nothing(tree, tmp_path):
    """Text and ``datetime.time``, patients in turn or side by side."""
    one, two = tmp_path / "one", tmp_path / "two"
    prepared(tree, one)
    told = prepared(tree, two, processes=2)
    assert content(one) == content(two)
    assert len(lines_of(told, f"of {len(find_sequences(tree))} sequences)")) == len(find_sequences(tree))


def test_a_second_run_has_nothing_to_do(tree, output, monkeypatch):
    prepared(tree, output)
    before = content(output)
    monkeypatch.setattr(worker, "describe", None)
    told = prepared(tree, output)
    assert lines_of(told, "prepared already")
    assert content(output) == before


def test_an_interrupted_run_goes_on_where_it_was(tree, output, monkeypatch):
    prepared(tree, output.with_name("whole"))
    whole, done = describe, []

    def interrupted(sequence):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(sequence.title)
        return whole(sequence)

    monkeypatch.setattr(worker, "describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(tree, output)
    assert not (output / "daily.parquet").exists()
    again = []
    monkeypatch.setattr(worker, "describe", lambda sequence: again.append(sequence.title) or whole(sequence))
    told = prepared(tree, output)
    assert lines_of(told, f"2 of {len(find_sequences(tree))} sequences are prepared already")
    assert sorted(done + again) == sorted(s.title for s in find_sequences(tree)) and not set(done) & set(again)
    assert content(output) == content(output.with_name("whole"))


def test_a_sequence_whose_file_changed_is_read_again_and_no_other(tree, output, monkeypatch):
    prepared(tree, output)
    before = read_daily(output / "daily.parquet")[0]
    sequence = of(tree, "train_0", "P2")
    edit(sequence.folder / "gyr.parquet", lambda frame: frame.assign(X=frame["X"] * 2))
    read, whole = [], describe
    monkeypatch.setattr(worker, "describe", lambda sequence: read.append(sequence.title) or whole(sequence))
    prepared(tree, output)
    assert read == ["P2/train_0"]
    after = read_daily(output / "daily.parquet")[0]
    changed = (before.features["gyr"] != after.features["gyr"]) & ~np.isnan(after.features["gyr"])
    rows = changed.any(axis=1)
    assert rows.any() and set(zip(after.patient[rows], after.sequence[rows], strict=True)) == {("P2", "train_0")}
    np.testing.assert_array_equal(before.features["accel"], after.features["accel"])


def test_a_table_that_is_damaged_is_made_anew(tree, output):
    prepared(tree, output)
    before = content(output)
    (output / "daily.parquet").write_bytes(before[:1000])
    prepared(tree, output)
    assert content(output) == before


@pytest.mark.parametrize("modality", FILES)
def test_a_missing_file_leaves_its_modality_empty_and_is_told(tree, output, modality):
    (of(tree, "val_0").folder / FILES[modality]).unlink()
    told = prepared(tree, output)
    daily, metadata = read_daily(output / "daily.parquet")
    here = (daily.patient == "P1") & (daily.sequence == "val_0")
    assert np.isnan(daily.features[modality][here]).all() and not np.isnan(daily.features[modality][~here]).all()
    (line,) = lines_of(told, f"{FILES[modality]} is missing")
    assert f"{modality} is on none of {here.sum()} days" in line
    assert line.removeprefix("note: ") in noticed(metadata)


def test_days_that_are_not_there_are_counted(tree, output):
    folder = of(tree, "train_0").folder
    for file in FILES.values():
        column = {"step.parquet": "start_date_index", "sleep.parquet": "end_date_index"}.get(file, "day_index")
        edit(folder / file, lambda frame, column=column: frame.assign(**{column: frame[column] * 10}))
    told = prepared(tree, output)
    daily, _ = read_daily(output / "daily.parquet")
    days = daily.day[(daily.patient == "P1") & (daily.sequence == "train_0")]
    assert (days % 10 == 0).all()
    assert lines_of(told, "days between a sequence's first and last that are not there")


def test_a_labelled_day_without_measurement_keeps_its_label(tree, output):
    folder = of(tree, "val_0").folder
    lines = (folder / "relapses.csv").read_text().splitlines()
    (folder / "relapses.csv").write_text("\n".join([*lines[:-1], "40,1", lines[-1]]) + "\n")
    told = prepared(tree, output)
    daily, _ = read_daily(output / "daily.parquet")
    (row,) = np.flatnonzero(daily.day == 40)
    assert daily.label[row] == 1 and all(np.isnan(values[row]).all() for values in daily.features.values())
    assert lines_of(told, "days with a label and no measurement")


def test_days_outside_the_labels_are_unknown(tree, output):
    folder = of(tree, "val_0").folder
    (folder / "relapses.csv").write_text("day_index,relapse\n0,1\n9,9\n")
    told = prepared(tree, output)
    daily, _ = read_daily(output / "daily.parquet")
    here = (daily.patient == "P1") & (daily.sequence == "val_0")
    assert dict(zip(daily.day[here].tolist(), daily.label[here].tolist(), strict=True)) == {0: 1} | {
        day: -1 for day in daily.day[here].tolist() if day
    }
    assert lines_of(told, "relapses.csv leaves out")


def test_a_day_that_is_there_twice_is_told_and_counts_once(tree, output):
    prepared(tree, output)
    before = read_daily(output / "daily.parquet")[0]
    edit(
        of(tree, "train_0").folder / "linacc.parquet", lambda frame: pd.concat([frame, frame[frame["day_index"] == 0]])
    )
    edit(of(tree, "train_0").folder / "sleep.parquet", lambda frame: pd.concat([frame, frame]))
    told = prepared(tree, output)
    after = read_daily(output / "daily.parquet")[0]
    for modality in MODALITIES:
        np.testing.assert_array_equal(before.features[modality], after.features[modality])
    assert lines_of(told, "P1/train_0/linacc.parquet: day 0 in several places of the file, taken together")
    assert lines_of(told, "P1/train_0/sleep.parquet") and lines_of(told, "episodes with the day and times of another")


def test_samples_that_are_no_numbers_are_left_out_and_counted(tree, output):
    def spoil(frame):
        frame.loc[[3, 8], "Y"] = [np.nan, np.inf]
        return frame

    path = of(tree, "train_0").folder / "linacc.parquet"
    expected = pd.read_parquet(path).drop([3, 8])
    edit(path, spoil)
    assert lines_of(prepared(tree, output), "2 samples without a number on each axis are left out")
    spoilt = read_daily(output / "daily.parquet")[0].features["accel"]
    expected.to_parquet(path, index=False)
    prepared(tree, output)
    np.testing.assert_array_equal(spoilt, read_daily(output / "daily.parquet")[0].features["accel"])


@pytest.mark.parametrize(
    ("modality", "column", "size"), [("accel", "X", 1e200), ("hr", "heartRate", 1e300), ("step", "totalSteps", np.inf)]
)
def test_features_that_are_too_large_are_missing_and_counted(tree, output, modality, column, size):
    path = of(tree, "train_0").folder / FILES[modality]
    edit(path, lambda frame: frame.assign(**{column: np.where(np.arange(len(frame)) % 2, size, -1.0)}))
    told = prepared(tree, output)
    assert lines_of(told, f"P1/train_0/{FILES[modality]}") and lines_of(told, "larger than 32-bit numbers are left out")
    assert not np.isinf(read_daily(output / "daily.parquet")[0].features[modality]).any()


def test_the_table_of_patients_is_looked_at_before_anything_is_read(tree, output):
    (tree / "demographics.csv").write_text("patient,age\nP1\n")
    assert "demographics.csv: line 2: expected 2 cells" in refused(tree, output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("file", "spoil", "told"),
    [
        ("gyr.parquet", lambda path: path.write_bytes(path.read_bytes()[:100]), "expected a readable parquet file"),
        ("hrm.parquet", lambda path: path.write_bytes(b""), "found an empty file"),
        ("linacc.parquet", lambda path: edit(path, lambda f: f.drop(columns="Y")), "expected a column 'Y'"),
        ("sleep.parquet", lambda path: edit(path, lambda f: f.assign(end_time="late")), "row 1, column 'end_time'"),
        ("linacc.parquet", lambda path: edit(path, lambda f: f.assign(time="25:00:00")), "row 1, column 'time'"),
        ("relapses.csv", lambda path: path.write_text("day_index,relapse\n0,5\n9,9\n"), "line 2, column 'relapse'"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_leaves_no_table(tree, output, file, spoil, told):
    path = of(tree, "val_0", "P2").folder / file
    spoil(path)
    message = refused(tree, output)
    assert str(path) in message and told in message
    assert not (output / "daily.parquet").exists() and not (output / "metadata.json").exists()


@pytest.mark.slow
def test_what_a_process_cannot_read_is_told_by_its_owner(tree, output):
    path = of(tree, "val_0", "P2").folder / "linacc.parquet"
    edit(path, lambda frame: frame.assign(time="25:00:00"))
    assert f"{path}: row 1, column 'time'" in refused(tree, output, processes=2)
    assert not (output / "daily.parquet").exists() and not (output / "metadata.json").exists()


def test_foreign_folders_are_refused(tree, output):
    assert "found the same" in refused(tree, tree)
    output.mkdir()
    (output / "thesis.docx").write_text("mine")
    assert "found 'thesis.docx'" in refused(tree, output)
    (output / "thesis.docx").unlink()
    with alone(output):
        assert "found another prepare at it" in refused(tree, output)


def test_a_table_that_prepare_did_not_write_is_told_apart(tmp_path):
    pd.DataFrame({"patient": ["a"]}).to_parquet(tmp_path / "daily.parquet")
    with pytest.raises(DataError, match="expected days that prepare wrote, found another table"):
        read_daily(tmp_path / "daily.parquet")


@pytest.mark.parametrize("change", [lambda table: table.drop_columns(["gyr__x_mean"]), lambda table: table.slice(0, 0)])
def test_a_table_of_which_columns_were_changed_still_says_how_it_was_made(tree, output, change):
    (of(tree, "train_0").folder / "sleep.parquet").unlink()
    prepared(tree, output)
    path = output / "daily.parquet"
    whole = pq.read_table(path)
    pq.write_table(change(whole), path)
    assert noticed(read_prepared(path))
    prepared(tree, output)
    assert pq.read_table(path).equals(whole)


@pytest.mark.slow
def test_no_process_is_left_when_the_owner_is_killed(tmp_path, small_twin, output):
    root = tmp_path / "raw"
    write_raw_tree(root, small_twin.model_copy(update={"days": 40, "motion_hz": 0.5, "heart_hz": 0.5}))
    program = (
        "import sys; from pathlib import Path; from fusion_lab.data.relapse.prepare import prepare_tree;"
        "prepare_tree(Path(sys.argv[1]), Path(sys.argv[2]), lambda line: print(line, flush=True), 2)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(root), str(output)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    lines = [owner.stdout.readline() for _ in range(2)]
    assert "patient" in lines[-1]
    children = list(map(int, Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()))
    assert len(children) == 2
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children)
    assert not (output / "daily.parquet").exists()
    told = prepared(root, output, 2)
    assert lines_of(told, "are prepared already")
    content(output)
