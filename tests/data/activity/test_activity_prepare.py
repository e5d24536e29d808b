"""Prepared data are what is read directly, bit for bit; an interrupted run goes on; nothing half-written is read."""

import json
import os
import resource
from contextlib import contextmanager

import numpy as np
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

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.prepare import prepare
from fusion_lab.data.activity.settings import ActivityConfig
from fusion_lab.data.readers import file_sha256

SUBJECTS = ("101", "102", "103")


@pytest.fixture
def raw(tmp_path):
    write_dat(tmp_path / "raw", subjects=SUBJECTS, rows=20)
    return tmp_path / "raw"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "prepared"


def prepared(root, output, **settings):
    """What was told on the way."""
    told = []
    prepare(ActivityConfig(root=str(root), **settings), output, told.append)
    return told


def refused(root, output, **settings):
    with pytest.raises(DataError) as error:
        prepared(root, output, **settings)
    message = str(error.value)
    assert "\n" not in message
    return message


def fingerprints(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.npy")}


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (write_dat, {}),
        (write_parquet, {}),
        (write_parquet, {"together": True}),
        (write_shards, {}),
        (write_shards, {"tensors": True, "splits": {(s, a): "val" for s in SUBJECTS for a in (1, 4)}}),
        (write_arrays, {"steps": 10}),
    ],
)
def test_prepared_is_what_is_read_directly(tmp_path, output, write, what):
    write(tmp_path / "raw", subjects=SUBJECTS, activities=(1, 4), rows=20, bouts=2, **what)
    prepared(tmp_path / "raw", output)
    direct, mapped = recorded(tmp_path / "raw"), recorded(output)
    assert_same_samples(direct, mapped)
    assert mapped.columns == direct.columns
    assert mapped.notes == direct.notes
    for one, other in zip(direct.subjects, mapped.subjects, strict=True):
        assert one.recordings == other.recordings
        assert one.values.tobytes() == other.values.tobytes()
        assert isinstance(other.values, np.memmap)
        assert not other.values.flags.writeable
    assert sorted(path.name for path in output.iterdir()) == ["index.json", *sorted(fingerprints(output))]


def test_the_index_tells_where_it_comes_from(raw, output):
    prepared(raw, output)
    index = json.loads((output / "index.json").read_text())
    assert [entry["subject"] for entry in index["subjects"]] == list(SUBJECTS)
    for entry in index["subjects"]:
        assert entry["sha256"] == file_sha256(output / entry["file"])
        (original,) = entry["originals"]
        assert original["sha256"] == file_sha256(raw / original["name"])


def test_the_identity_of_prepared_data_is_that_of_their_content(raw, output, tmp_path):
    prepared(raw, output)
    prepared(raw, tmp_path / "again")
    digests = {source.sha256 for source in recorded(output).sources}
    assert digests == {source.sha256 for source in recorded(tmp_path / "again").sources}
    assert len(digests) == len(SUBJECTS)
    prepared(raw, tmp_path / "cut", gap=0.01, rate=200.0)
    same = {source.sha256 for source in recorded(tmp_path / "cut", gap=0.01, rate=200.0).sources}
    assert digests == same  # no recording changed
    renamed = {"hand_gyro_x_rads": "hand_gyro_y_rads", "hand_gyro_y_rads": "hand_gyro_x_rads"}
    write_parquet(tmp_path / "table", subjects=SUBJECTS)
    for name, columns in (("straight", {}), ("crossed", renamed)):
        prepared(tmp_path / "table", tmp_path / name, columns=columns)
    straight, crossed = (recorded(tmp_path / name) for name in ("straight", "crossed"))
    assert not {s.sha256 for s in straight.sources} & {s.sha256 for s in crossed.sources}


def test_progress_is_told(raw, output):
    told = prepared(raw, output)
    assert told[:3] == [f"subject {s}: 60 samples in 3 recordings ({i} of 3)" for i, s in enumerate(SUBJECTS, 1)]
    assert told[3:] == ["note: 240 samples between activities are left out"]


def test_what_is_prepared_is_not_prepared_again(raw, output):
    prepared(raw, output)
    before = fingerprints(output)
    assert prepared(raw, output) == [f"{output}: all 3 subjects are prepared already"]
    assert fingerprints(output) == before


def test_an_interrupted_run_goes_on(raw, output):
    """The second subject cannot be read; once it can, the first is not read again."""
    second = raw / "subject102.dat"
    whole = second.read_text()
    second.write_text(whole.replace(" ", "  ", 1))
    assert "subject102.dat: line 1: expected 54 cells, found 55" in refused(raw, output)
    assert "expected prepared data, found a part of it (run prepare again: it continues)" in refusal(output)
    before = fingerprints(output)
    assert list(before) == ["subject_101.npy"]
    second.write_text(whole)
    _spoil_unseen(raw / "subject101.dat")
    told = prepared(raw, output)
    assert told[0] == "subject 101: prepared already (1 of 3)"
    assert fingerprints(output)["subject_101.npy"] == before["subject_101.npy"]
    write_dat(raw, subjects=SUBJECTS, rows=20)
    assert_same_samples(recorded(raw), recorded(output))


def _spoil_unseen(file):
    """Another content of the same size and time: who reads it again will stumble."""
    stat = file.stat()
    file.write_bytes(b"x" * stat.st_size)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_was_stopped_goes_on(raw, output, after):
    heard = []

    def stop(text):
        heard.append(text)
        if len(heard) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(ActivityConfig(root=str(raw)), output, stop)
    assert "expected prepared data, found a part of it" in refusal(output)
    told = prepared(raw, output)
    assert [text.endswith(f"prepared already ({i} of 3)") for i, text in enumerate(told[:3], 1)] == [
        number <= after for number in (1, 2, 3)
    ]
    assert_same_samples(recorded(raw), recorded(output))


def test_a_kill_while_an_array_is_written(raw, output):
    """What it leaves is a file that nobody reads and the next run removes."""
    prepared(raw, output)
    (output / "index.json").rename(output / "unfinished.json")
    (output / "subject_103.npy").rename(output / "subject_103.npy.part")
    prepared(raw, output)
    assert not list(output.glob("*.part"))
    assert_same_samples(recorded(raw), recorded(output))


def test_a_changed_file_is_read_again_and_it_alone(raw, output):
    prepared(raw, output)
    before = fingerprints(output)
    write_dat(raw, {"102": sessions(subjects=("101", "102"), rows=20, seed=7)["102"]})
    told = prepared(raw, output)
    assert [text for text in told if "prepared already" not in text][0].startswith("subject 102: ")
    after = fingerprints(output)
    assert {name for name in after if after[name] != before[name]} == {"subject_102.npy"}
    assert_same_samples(recorded(raw), recorded(output))


def test_a_subject_that_is_gone_leaves_nothing(raw, output):
    prepared(raw, output)
    (raw / "subject103.dat").unlink()
    prepared(raw, output)
    assert sorted(fingerprints(output)) == ["subject_101.npy", "subject_102.npy"]
    assert_same_samples(recorded(raw), recorded(output))


def test_other_settings_start_anew(raw, output):
    prepared(raw, output)
    told = prepared(raw, output, gap=0.05)
    assert told[0] == f"note: starts anew, since gap changed since {output} was written"
    assert not [text for text in told if "prepared already" in text]
    assert_same_samples(recorded(raw, gap=0.05), recorded(output, gap=0.05))


def test_another_gap_than_it_was_prepared_with(raw, output):
    prepared(raw, output, gap=0.05)
    told = "expected data prepared with data.gap=0.02, found 0.05 (prepare again, or set data.gap=0.05)"
    assert refusal(output).endswith(told)


def test_columns_that_were_not_prepared(tmp_path, output):
    write_parquet(tmp_path / "raw", subjects=SUBJECTS, rows=20)
    prepared(tmp_path / "raw", output)
    told = "index.json: expected a column 'hand_orientation_w', found none"
    assert refusal(output, channels=("orientation",)) == told


def test_without_labels_prepared_recordings_stay_as_they_were_cut(raw, output):
    prepared(raw, output)
    labelled, unlabelled = recorded(output), recorded(output, labelled=False)
    for one, other in zip(labelled.subjects, unlabelled.subjects, strict=True):
        assert [r._replace(activity=None, split="") for r in one.recordings] == list(other.recordings)


def test_subjects_of_any_name(tmp_path, output):
    names = ("a/b", "..", "a b", "ä")
    write_parquet(tmp_path / "raw", sessions(subjects=names, rows=10), together=True)
    prepared(tmp_path / "raw", output)
    assert [samples.subject for samples in recorded(output).subjects] == sorted(names)
    assert_same_samples(recorded(tmp_path / "raw"), recorded(output))


def test_a_folder_of_other_things_is_left_alone(raw, output):
    output.mkdir()
    (output / "thesis.txt").write_text("all my work")
    assert refused(raw, output).endswith("expected an empty folder, or one that prepare wrote, found 'thesis.txt'")
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]
    (output / "thesis.txt").rename(output / "subject_101.npy")
    assert "found 'subject_101.npy'" in refused(raw, output)


def test_other_things_beside_prepared_data_are_left_alone(raw, output):
    prepared(raw, output)
    (output / "thesis.txt").write_text("all my work")
    assert "found 'thesis.txt'" in refused(raw, output)
    assert (output / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["raw", "raw/../raw", "./raw"])
def test_the_files_own_folder_is_refused(raw, name):
    assert "expected a folder other than that of the files" in refused(raw, raw.parent / name)


def test_an_output_that_is_a_file(raw, output):
    output.write_text("")
    assert refused(raw, output) == f"{output}: expected a folder, found a file"
    assert "expected a place with room to write, found: " in refused(raw, output / "below")


def test_prepared_data_are_not_prepared(raw, output, tmp_path):
    prepared(raw, output)
    assert "expected files that are not prepared yet" in refused(output, tmp_path / "more")
    assert not (tmp_path / "more").exists()


@contextmanager
def room_for(size):
    """No file may become larger than ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [10, 8_000])
def test_a_full_disk(raw, output, room):
    """First there is no room for an index, then none for an array."""
    with room_for(room):
        message = refused(raw, output)
    assert message.startswith(
        f"{output}/{'subject_101.npy' if room > 10 else 'unfinished.json'}: expected a place with room"
    )
    assert [path.name for path in output.iterdir()] == (["unfinished.json"] if room > 10 else [])
    prepared(raw, output)
    assert_same_samples(recorded(raw), recorded(output))


def test_nothing_is_written_where_nothing_can_be_read(tmp_path, output):
    (tmp_path / "raw").mkdir()
    assert "expected a folder of sensor recordings" not in refused(tmp_path / "raw", output)
    assert not output.exists()


def rewrite(index, **changes):
    index.write_text(json.dumps({**json.loads(index.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda o: (o / "subject_102.npy").unlink(), "subject_102.npy: expected an array of shape (60, 52), found: "),
        (lambda o: (o / "subject_102.npy").write_bytes(b""), "subject_102.npy: expected an array of shape (60, 52)"),
        (
            lambda o: np.save(o / "subject_102.npy", np.zeros((59, 52), "f4")),
            "subject_102.npy: expected float32 of shape",
        ),
        (lambda o: np.save(o / "subject_102.npy", np.zeros((60, 52))), "found float64 of shape (60, 52)"),
        (lambda o: np.save(o / "subject_102.npy", np.array([[None]])), "subject_102.npy: expected an array of shape"),
        (lambda o: os.truncate(o / "subject_102.npy", 9000), "subject_102.npy: expected an array of shape"),
        (lambda o: os.truncate(o / "subject_102.npy", 90_000), "in 12608 bytes, found float32 of shape"),
        (lambda o: (o / "index.json").write_text("{"), "index.json: expected an index that prepare wrote, found: "),
        (lambda o: (o / "index.json").write_text("[]"), "index.json: expected an index that prepare wrote, found: "),
        (lambda o: rewrite(o / "index.json", format=2), "index.json: expected an index that prepare wrote, found: "),
        (lambda o: rewrite(o / "index.json", columns=["a"]), "index.json: expected each column of the data set once"),
        (lambda o: rewrite(o / "index.json", format=2), "found: format: Input should be 1 (prepare again into an"),
        (lambda o: (o / "subject_102.npy").write_bytes(b"PK\x03\x04"), "subject_102.npy: expected an array of shape"),
    ],
)
def test_prepared_data_that_were_damaged(raw, output, spoil, told):
    prepared(raw, output)
    spoil(output)
    assert told in refusal(output)


def test_recordings_that_are_not_the_array(raw, output):
    prepared(raw, output)
    index = json.loads((output / "index.json").read_text())
    index["subjects"][1]["recordings"].pop()
    (output / "index.json").write_text(json.dumps(index))
    assert "index.json: expected recordings one after the other, 60 samples in all, found" in refusal(output)


def test_a_file_outside_the_folder_is_never_opened(raw, output):
    prepared(raw, output)
    index = json.loads((output / "index.json").read_text())
    index["subjects"][1]["file"] = "../subject_102.npy"
    (output / "index.json").write_text(json.dumps(index))
    assert "index.json: expected subject '102' in subject_102.npy, found '../subject_102.npy'" in refusal(output)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"subject": "103"}, "index.json: expected each subject once, found one again"),
        ({"file": "subject_103.npy"}, "expected subject '102' in subject_102.npy, found 'subject_103.npy'"),
        ({"recordings": [[0, 60, 1.0, 8, ""]]}, "expected recordings of known activities in train, val, test or none"),
        ({"recordings": [[0, 60, 1.0, 1, "x"]]}, "expected recordings of known activities in train, val, test or none"),
        ({"recordings": [[0, 90, 1.0, 1, ""], [90, -30, 9.0, 1, ""]]}, "expected recordings one after the other"),
    ],
)
def test_an_index_that_was_edited(raw, output, change, told):
    """Neither read nor continued."""
    prepared(raw, output)
    index = json.loads((output / "index.json").read_text())
    index["subjects"][1] |= change
    (output / "index.json").write_text(json.dumps(index))
    assert told in refusal(output)
    assert told in refused(raw, output)


def test_two_at_once(raw, output):
    """The second is told so; what the first writes stays whole."""
    heard = []

    def meanwhile(text):
        if not heard:
            heard.append(refused(raw, output))

    prepare(ActivityConfig(root=str(raw)), output, meanwhile)
    assert heard == [f"{output}: expected nobody else to write there, found another prepare at it"]
    assert_same_samples(recorded(raw), recorded(output))
    prepared(raw, output)


def test_places_where_nothing_can_be_written(raw, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "loop", tmp_path / ("x" * 300)):
        assert refused(raw, place).startswith(f"{place}: expected a ")


def test_what_looks_odd_is_noted_once_prepared_too(tmp_path, output):
    """Every sample written twice: half the time from one to the next, and as many time stamps again."""
    doubled = {name: frame.loc[frame.index.repeat(2)] for name, frame in sessions(SUBJECTS, rows=20).items()}
    write_dat(tmp_path / "raw", doubled)
    told = prepared(tmp_path / "raw", output)
    notes = recorded(tmp_path / "raw").notes
    assert notes[:2] == (
        "subject 101: 60 samples have the time of the one before",
        "subject 101: samples are 0.00487 s apart, where data.rate=100 says 0.01 s",
    )
    assert told[3:] == [f"note: {note}" for note in notes]
    assert recorded(output).notes == notes
