"""Shards and their manifests: exact names of columns, splits, and tensors that are never unpickled as anything else."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from activity_material import assert_same_samples, recorded, refusal, sessions, write_shard, write_shards

from fusion_lab.data.activity.settings import ACTIVITY, COLUMNS, SUBJECT, TIME

SPLITS = {("101", 1): "train", ("101", 4): "val", ("102", 1): "test", ("102", 4): "train"}
SHARD = {"csv": "processed/subject_101/activity_4.csv", "pt": "processed_tensors/subject_101/activity_4.pt"}


class Bomb:
    """Unpickling it leaves a mark."""

    touched = False

    def __reduce__(self):
        return setattr, (Bomb, "touched", True)


@pytest.fixture(scope="module")
def frames():
    return sessions(subjects=("101", "102"), activities=(1, 4), rows=20, bouts=2)


@pytest.fixture(params=["csv", "pt"])
def ending(request):
    return request.param


@pytest.fixture
def folder(tmp_path, frames, ending):
    write_shards(tmp_path, frames, tensors=ending == "pt", splits=SPLITS)
    return tmp_path


def read_shard(file):
    if file.suffix == ".csv":
        return pd.read_csv(file)
    saved = torch.load(file, weights_only=True)
    return pd.DataFrame(saved["data"].numpy(), columns=saved["columns"])


def spoil(folder, ending, change):
    file = folder / SHARD[ending]
    write_shard(file, change(read_shard(file)))
    return SHARD[ending]


def put(column, value):
    def change(frame):
        frame = frame.astype({column: float})
        frame.loc[5, column] = value
        return frame

    return change


def test_every_recording_has_the_split_of_its_shard(folder):
    for samples in recorded(folder).subjects:
        assert samples.recordings
        for recording in samples.recordings:
            assert recording.split == SPLITS[samples.subject, recording.activity]


def test_splits_change_no_sample(folder):
    read = recorded(folder)
    shutil.rmtree(folder / "splits")
    without = recorded(folder)
    assert {recording.split for samples in without.subjects for recording in samples.recordings} == {""}
    for samples, other in zip(read.subjects, without.subjects, strict=True):
        np.testing.assert_array_equal(samples.values, other.values)


def test_shards_lie_in_the_folder_itself_or_below(folder, ending, tmp_path):
    reference = recorded(folder)
    inner = folder / ("processed" if ending == "csv" else "processed_tensors")
    assert_same_samples(reference, recorded(inner))
    outer = tmp_path / "outer"
    shutil.copytree(inner, outer)
    shutil.copytree(folder / "splits", outer / "splits")
    assert_same_samples(reference, recorded(outer))


def test_tensors_are_preferred(tmp_path, frames):
    """What the text says differs, so that it shows where samples come from."""
    write_shards(tmp_path, frames, tensors=True)
    write_shards(tmp_path, {s: f.assign(hand_temp_c=-1.0) for s, f in frames.items()})
    extra = tmp_path / "processed" / "subject_101" / "activity_12.csv"
    shard = read_shard(tmp_path / SHARD["csv"])
    write_shard(extra, shard.assign(**{ACTIVITY: 12, TIME: shard[TIME] + 1000}))
    read = recorded(tmp_path)
    assert read.notes == ("4 shards are there as text and as tensors: the tensors are read",)
    at = read.columns.index("hand_temp_c")
    for recording in read.subjects[0].recordings:
        values = read.subjects[0].values[recording.start : recording.start + recording.rows, at]
        assert (values == -1.0).all() == (recording.activity == 12)


def test_columns_may_come_in_any_order_with_the_subject(folder, ending):
    reference = recorded(folder)
    spoil(folder, ending, lambda frame: frame[frame.columns[::-1]].assign(**{SUBJECT: 101}))
    assert_same_samples(reference, recorded(folder))


COLUMN_CASES = {
    "one missing": (
        lambda f: f.drop(columns="hand_temp_c"),
        "expected the 54 columns of the data set, found none named",
    ),
    "one misspelt": (
        lambda f: f.rename(columns={"hand_temp_c": "hand_tmp_c"}),
        "found none named 'hand_temp_c' (did you mean 'hand_tmp_c'?)",
    ),
    "one more": (lambda f: f.assign(extra=1.0), "expected the 54 columns of the data set, found 'extra' besides"),
    "of another subject": (
        lambda f: f.assign(**{SUBJECT: 103}),
        "column 'subject_id': expected '101' as in the folder",
    ),
}
CELL_CASES = {
    "of another activity": (put(ACTIVITY, 12.0), ACTIVITY, "expected activity 4 as in the file's name, found 12"),
    "unknown activity": (put(ACTIVITY, 8.0), ACTIVITY, "expected one of the activities 0, 1"),
    "time goes back": (put(TIME, 0.5), TIME, "expected time to go on from"),
    "infinite": (put("hand_temp_c", np.inf), "hand_temp_c", "expected a number or NaN, found inf"),
}


@pytest.mark.parametrize("case", COLUMN_CASES)
def test_shards_of_other_columns(folder, ending, case):
    change, told = COLUMN_CASES[case]
    message = refusal(folder) if (name := spoil(folder, ending, change)) else ""
    assert message.startswith(f"{name}: ")
    assert told in message


@pytest.mark.parametrize("case", CELL_CASES)
def test_shards_of_bad_cells(folder, ending, case):
    change, column, told = CELL_CASES[case]
    name = spoil(folder, ending, change)
    place = "line 7" if ending == "csv" else "row 6"
    assert refusal(folder).startswith(f"{name}: {place}, column {column!r}: {told}")


def manifest(folder, split="train"):
    return folder / "splits" / f"{split}.txt"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("subject_109/activity_4.csv,40", "expected a shard that is there, found no file 'subject_109/activity_4.csv'"),
        ("subject_101/activity_5.csv,40", "expected a shard that is there, found no file"),
        ("subject_101/activity_4.csv,40", "expected each shard once, found it again (first in "),
        ("subject_101/activity_4.csv", "expected subject_<id>/activity_<id>.csv,rows, found 'subject_101"),
        (f"subject_101/activity_4.csv,{10**4000}", "expected subject_<id>/activity_<id>.csv,rows, found"),
        ("subject_101/activity_4.csv,many", "expected subject_<id>/activity_<id>.csv,rows, found"),
        ("subject_101/activity_4.csv.bak,40", "expected subject_<id>/activity_<id>.csv,rows, found"),
        ("101,4", "expected subject_<id>/activity_<id>.csv,rows, found '101,4'"),
    ],
)
def test_manifests_that_cannot_be_used(folder, line, told):
    """The shard of subject 101 and activity 4 is in val, which comes after train."""
    file = manifest(folder, "test")
    file.write_text(f"{file.read_text()}\n{line}\n")
    message = refusal(folder)
    assert message.startswith(f"splits/test.txt: line 3: {told}")


@pytest.mark.parametrize("rows", [0, 39, 41])
def test_a_manifest_of_other_rows(folder, ending, rows):
    file = manifest(folder, "val")
    file.write_text(file.read_text().replace(",40", f",{rows}"))
    told = f"expected {rows} rows in {folder / SHARD[ending]}, found 40"
    assert refusal(folder) == f"splits/val.txt: line 1: {told}"


def test_a_missing_manifest(folder):
    manifest(folder, "test").unlink()
    assert refusal(folder).startswith("splits/test.txt: expected a readable manifest, found: ")


def test_manifests_may_list_text_with_folders_for_tensors(folder):
    reference = recorded(folder)
    for split in ("train", "val", "test"):
        lines = manifest(folder, split).read_text().splitlines()
        longer = [f"data/processed/{line.replace('.pt', '.csv')}" for line in lines]
        manifest(folder, split).write_text("\n".join(longer))
    assert_same_samples(reference, recorded(folder))


def test_shards_that_no_manifest_lists_are_left_out(folder):
    manifest(folder, "val").write_text("")
    read = recorded(folder)
    assert read.notes == ("1 shards that no manifest lists are left out",)
    assert {recording.activity for recording in read.subjects[0].recordings} == {1}


def test_without_labels_manifests_are_not_asked(folder):
    manifest(folder, "val").unlink()
    read = recorded(folder, labelled=False)
    assert {(r.activity, r.split) for samples in read.subjects for r in samples.recordings} == {(None, "")}


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (torch.zeros(3, 54), "expected a dict of names 'columns' and a tensor 'data', found Tensor"),
        ({"data": torch.zeros(3, 54)}, "found a dict of 'data (Tensor)'"),
        ({"columns": list(COLUMNS), "data": [1.0]}, "found a dict of 'columns (list)', 'data (list)'"),
        ({}, "found a dict of nothing"),
        ({"columns": [1] * 54, "data": torch.zeros(3, 54)}, "expected a dict of names 'columns'"),
        ({"columns": [*COLUMNS[:53], TIME], "data": torch.zeros(3, 54)}, f"each column once, found {TIME!r} again"),
        ({"columns": list(COLUMNS), "data": torch.zeros(3, 53)}, "of shape (rows, 54), found float32 of shape (3, 53)"),
        ({"columns": list(COLUMNS), "data": torch.zeros(54)}, "of shape (rows, 54), found float32 of shape (54,)"),
        ({"columns": list(COLUMNS), "data": torch.zeros(3, 54).int()}, "found int32 of shape (3, 54)"),
        ({"columns": list(COLUMNS), "data": torch.zeros(3, 54).half()}, "found float16 of shape (3, 54)"),
        ({"columns": list(COLUMNS), "data": torch.zeros(3, 54).bfloat16()}, "found bfloat16 of shape (3, 54)"),
        ({"columns": list(COLUMNS), "data": torch.zeros(3, 54).to_sparse()}, "found a sparse or nested tensor"),
        ({"columns": list(COLUMNS), "data": torch.zeros(3, 54, device="meta")}, "or one without content"),
    ],
)
def test_tensors_that_are_no_shard(tmp_path, frames, saved, told):
    write_shards(tmp_path, frames, tensors=True)
    torch.save(saved, tmp_path / SHARD["pt"])
    message = refusal(tmp_path)
    assert message.startswith(f"{SHARD['pt']}: expected ")
    assert told in message


@pytest.mark.parametrize("write", [pickle.dump, lambda what, file: torch.save(what, file)])
@pytest.mark.parametrize("what", [Bomb(), {"columns": list(COLUMNS), "data": Bomb()}])
def test_objects_are_never_unpickled(tmp_path, frames, write, what):
    write_shards(tmp_path, frames, tensors=True)
    with (tmp_path / SHARD["pt"]).open("wb") as stream:
        write(what, stream)
    told = f"{SHARD['pt']}: expected tensors as torch.save writes them, found: "
    assert refusal(tmp_path).startswith(told)
    assert not Bomb.touched


@pytest.mark.parametrize("labelled", [True, False])
def test_recordings_of_two_clocks_stay_whole(tmp_path, ending, labelled):
    """Shards of two sessions that both began at 0: samples of one time are of different recordings."""
    (frame,) = sessions(subjects=("101",), activities=(1,), rows=20, transient=0).values()
    for activity, later in ((1, 0.0), (4, 0.05), (12, 1000.0)):
        file = tmp_path / "subject_101" / f"activity_{activity}.{ending}"
        file.parent.mkdir(exist_ok=True)
        shard = frame.assign(**{ACTIVITY: activity, TIME: frame[TIME] + later, "hand_temp_c": activity})
        write_shard(file, shard)
    read = recorded(tmp_path, labelled)
    (samples,) = read.subjects
    assert [recording.rows for recording in samples.recordings] == [20, 20, 20]
    warm = samples.values[:, read.columns.index("hand_temp_c")].reshape(3, 20)
    assert warm.tolist() == [[activity] * 20 for activity in (1, 4, 12)]


def test_each_shard_has_the_clock_of_its_file(tmp_path):
    """Every second sample is missing, an hour into the session: no gap, in 64 bits or in 32, side by side."""
    (frame,) = sessions(subjects=("101",), activities=(1, 4), rows=400).values()
    frame = frame[::2].assign(**{TIME: np.round(3600 + frame[TIME][::2], 2)})
    write_shards(tmp_path, {"101": frame[frame[ACTIVITY] != 4]})
    write_shards(tmp_path, {"101": frame[frame[ACTIVITY] != 1]}, tensors=True)
    (samples,) = recorded(tmp_path).subjects
    assert [recording.rows for recording in samples.recordings] == [200, 200]


@pytest.mark.parametrize("subject", ["7", "1234567"])
def test_the_subject_column_is_the_folders(tmp_path, frames, ending, subject):
    write_shards(tmp_path, {subject: frames["101"].assign(**{SUBJECT: int(subject)})}, tensors=ending == "pt")
    assert [samples.subject for samples in recorded(tmp_path).subjects] == [subject]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_tensors_cut_off(tmp_path, frames, share):
    write_shards(tmp_path, frames, tensors=True)
    file = tmp_path / SHARD["pt"]
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert refusal(tmp_path).startswith(f"{SHARD['pt']}: expected tensors as torch.save writes them")


def test_text_that_is_no_shard(tmp_path, frames):
    write_shards(tmp_path, frames)
    file = tmp_path / SHARD["csv"]
    lines = file.read_text().splitlines()
    for content in ("", ",".join(COLUMNS), "\n".join([*lines[:4], lines[4].rpartition(",")[0]])):
        file.write_text(content)
        if content and "\n" not in content:  # a header alone: a shard without samples
            read = recorded(tmp_path)
            assert {r.activity for r in read.subjects[0].recordings} == {1}
            assert read.notes == ("subject_101/activity_4.csv has no rows",)
        else:
            assert refusal(tmp_path).startswith(f"{SHARD['csv']}: ")


def test_other_files_beside_are_no_shards(folder):
    reference = recorded(folder)
    for name in ("activity_summary.csv", "activity_1.txt", "notes.csv"):
        (folder / SHARD["csv"]).parent.mkdir(parents=True, exist_ok=True)
        ((folder / SHARD["csv"]).parent / name).write_text("nothing")
    read = recorded(folder)
    assert_same_samples(reference, read)
    others = "'subject_101/activity_1.txt', 'subject_101/activity_summary.csv'"
    assert f"files that are not named as shards are not read: {others}" in read.notes


def test_manifests_that_list_nothing(folder):
    for split in ("train", "val", "test"):
        manifest(folder, split).write_text("")
    assert refusal(folder).startswith("splits: expected manifests that list shards, found empty ones")


def test_a_manifest_with_a_mark_of_utf_8(folder):
    reference = recorded(folder)
    file = manifest(folder, "val")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_same_samples(reference, recorded(folder))


@pytest.mark.parametrize("content", [b"junk", b"PK\x03\x04junk", b"\x80", b"\x80\x02", b"\x80\x02\x8a\xff\xff"])
def test_files_that_are_no_tensors(tmp_path, frames, content):
    write_shards(tmp_path, frames, tensors=True)
    (tmp_path / SHARD["pt"]).write_bytes(content)
    assert refusal(tmp_path).startswith(f"{SHARD['pt']}: expected tensors as torch.save writes them, found: ")


def test_tensors_that_learn_are_tensors(tmp_path, frames):
    write_shards(tmp_path, frames, tensors=True)
    reference = recorded(tmp_path)
    saved = torch.load(tmp_path / SHARD["pt"], weights_only=True)
    torch.save({**saved, "data": torch.nn.Parameter(saved["data"])}, tmp_path / SHARD["pt"])
    assert_same_samples(reference, recorded(tmp_path))


def test_time_in_64_bits_is_kept(tmp_path, frames):
    """Seconds since 1970 in 32 bits would be two minutes apart."""
    write_shards(tmp_path, frames, tensors=True)
    reference = recorded(tmp_path)
    for file in tmp_path.rglob("*.pt"):
        saved = torch.load(file, weights_only=True)
        data = saved["data"].double()
        data[:, 0] = (data[:, 0] * 100).round() / 100 + 1.7e9
        torch.save({**saved, "data": data}, file)
    read = recorded(tmp_path)
    for one, other in zip(reference.subjects, read.subjects, strict=True):
        assert [r[:2] + r[3:] for r in one.recordings] == [r[:2] + r[3:] for r in other.recordings]
        np.testing.assert_array_equal(one.values, other.values)
