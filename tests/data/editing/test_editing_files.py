"""What is wrong with files of recordings is told in one line: which file, where in it, what was expected."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from editing_material import SMALL, archive, settings, write_archive, write_features

from fusion_lab.contracts import DataError
from fusion_lab.data.editing import load, records

AUDIO = {"audio": SMALL["audio"]}
ENERGY, SPEAKING = SMALL["audio"]["columns"]


def files(root, **changes):
    return settings(**{"root": str(root), "length": 5, "streams": AUDIO, **changes})


def refused(config, *parts):
    """The error, in one line, which holds all parts."""
    with pytest.raises(DataError) as error:
        load(config)
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert all(part in line for part in parts), line


@pytest.fixture
def root(tmp_path):
    write_archive(tmp_path)
    for video in ("a", "b"):
        write_features(tmp_path, video)
    return tmp_path


def replace_line(file, number, text):
    lines = file.read_text().splitlines()
    lines[number - 1] = text
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("0.3,x,1", (f"line 5, column '{ENERGY}': expected a number, found 'x'",)),
        ("0.3,inf,1", (f"line 5, column '{ENERGY}': expected a finite number",)),
        ("0.3,1.0", ("line 5: expected 3 cells as in the header, found 2",)),
        ("0.3,1.0,1,7", ("line 5: expected 3 cells as in the header, found 4",)),
        ('0.3,"1.0,1', ("expected well-formed CSV",)),
        (",1.0,1", ("line 5, column 'time': expected a time in seconds, found an empty cell",)),
        ("NaN,1.0,1", ("line 5, column 'time': expected a time in seconds, found an empty cell",)),
        ("now,1.0,1", ("line 5, column 'time': expected a time in seconds, found 'now'",)),
        ("0.3,1.0,2", (f"line 5, column '{SPEAKING}': expected 0 or 1 in a binary column, found 2",)),
    ],
)
def test_a_broken_line_is_named(root, line, parts):
    replace_line(root / "a_features.csv", 5, line)
    refused(files(root), "a_features.csv: ", *parts)


def test_the_same_cells_are_named_in_parquet_and_arrays(root):
    stream = {**SMALL["audio"], "file": "all.parquet"}
    frame = pd.concat([pd.read_csv(root / f"{v}_features.csv").assign(video=v) for v in ("a", "b")], ignore_index=True)
    cells = {SPEAKING: (SPEAKING, 3.0, "expected 0 or 1"), "time": ("time", np.nan, "expected a time in seconds")}
    for column, value, rule in cells.values():
        broken = frame.astype({SPEAKING: float})
        broken.loc[12, column] = value
        broken.to_parquet(root / "all.parquet")
        refused(files(root, streams={"audio": stream}), f"all.parquet: row 13, column '{column}': {rule}")
        np.savez(
            root / "all.npz", **{name: broken[name].to_numpy() for name in broken if name != "video"}, video=["a"] * 20
        )
        refused(
            files(root, streams={"audio": {**stream, "file": "all.npz"}}), f"all.npz: array '{column}', row 13: {rule}"
        )


def test_words_of_truth_and_blanks_are_read_as_they_are_elsewhere(root):
    plain = load(files(root))
    replace_line(root / "a_features.csv", 2, "0.0, 0.0,false")
    again = load(files(root))
    rows = torch.arange(len(plain))
    assert torch.equal(plain.gather(rows).inputs["audio"], again.gather(rows).inputs["audio"])


def test_unreadable_files_are_refused(root):
    (root / "b_features.csv").write_bytes(b"time,x\n\xff,1\n")
    refused(files(root), "b_features.csv: line 2: expected UTF-8 text")
    (root / "b_features.csv").write_text("")
    refused(files(root), "b_features.csv: expected a table, found an empty file")
    (root / "b_features.csv").write_text(f"time,{ENERGY},{SPEAKING}\n")
    refused(files(root), "b_features.csv: expected rows below the header, found none")


def test_a_stream_beside_its_video_is_masked_with_a_warning(root):
    write_features(root, "a", time=np.arange(10) / 10 + 500)
    dataset = load(files(root))
    batch = dataset.gather(torch.arange(len(dataset)))
    assert not batch.valid["audio"][torch.from_numpy(dataset.group == "a")].any()
    (told,) = [note for note in dataset.provenance.notes if "do not overlap" in note]
    assert told.startswith("video 'a', stream 'audio', 0 to 0.9 s: ")


def test_no_stream_beside_any_video_is_refused(root):
    for video in ("a", "b"):
        write_features(root, video, time=np.arange(10) / 10 + 500)
    refused(files(root), "modality 'audio': expected steps that have it, found none")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"masks": np.ones((4, 4), bool)}, ("array 'masks': expected bool (4, 5)",)),
        ({"masks": np.ones((4, 5))}, ("array 'masks': expected bool", "found float64")),
        ({"masks": np.zeros((4, 5), bool)}, ("array 'masks': expected steps that are there (True), found none",)),
        ({"video_ids": np.array(["a", "b"])}, ("array 'video_ids': expected one per window, 4 in all",)),
        ({"video_ids": np.array(["a", "b", "", "c"])}, ("array 'video_ids', window 3: expected a name",)),
        ({"start": np.array([0, 1, np.nan, 2])}, ("array 'start', window 3: expected when it begins",)),
        ({"sequences": np.zeros((4, 5, 26), np.float32)}, ("expected 27 columns (3 tracks x 9", "found 26")),
        ({"sequences": np.zeros((4, 5), np.float32)}, ("expected windows x steps x columns",)),
        ({"sequences": np.full((4, 5, 27), "x")}, ("expected numbers, found type <U1",)),
    ],
)
def test_arrays_of_an_archive_that_do_not_fit_are_named(root, change, parts):
    write_archive(root, **change)
    refused(files(root), "train_sequences.npz: ", *parts)


@pytest.mark.parametrize(
    ("column", "value", "parts"),
    [
        (0, 0.5, ("track 2, active: expected 0 or 1, found 0.5",)),
        (2, np.inf, ("track 2, scale: expected a finite number, found inf",)),
        (1, 3.0, ("track 2, asset_id: expected a whole number from 0 to 2 (tracks.asset_classes), found 3",)),
        (1, 0.5, ("track 2, asset_id: expected a whole number", "found 0.5")),
    ],
)
def test_a_cell_of_an_archive_that_cannot_be_is_named(root, column, value, parts):
    cells = np.zeros((4, 5, 27), np.float32)
    cells[2, 3, 9] = 1.0  # active
    cells[2, 3, 9 + column] = value
    write_archive(root, sequences=cells)
    refused(files(root), "train_sequences.npz: array 'sequences': window 3, step 4, ", *parts)


def test_an_asset_that_no_class_is_of_counts_as_unknown_where_its_track_is_idle(root):
    with np.load(root / "train_sequences.npz") as opened:
        cells = opened["sequences"].copy()
    cells[1, 2, 9:11] = 0.0, 7.0
    cells[0, 0, 20], cells[0, 1, 20] = np.nan, np.nan
    write_archive(root, sequences=cells)
    dataset = load(files(root))
    batch = dataset.gather(torch.arange(len(dataset)))
    assert not batch.known["asset"][1, 1, 1] and batch.known["active"][1, 1, 1]  # the answer to the step before
    notes = "\n".join(dataset.provenance.notes)
    assert (
        "assets of inactive tracks that are none of the 3 classes (tracks.asset_classes): 1;" in notes
        and "2 missing cells (NaN)" in notes
    )
    assert not batch.observed["track"][0, :2, 20].any() and not batch.known["scale"][0, 0, 2]


def test_files_that_are_not_there(root, tmp_path_factory):
    refused(files(root / "nowhere"), "nowhere: expected a folder of data files, found no such folder")
    refused(files(tmp_path_factory.mktemp("empty")), "train_sequences.npz: expected a data file, found no such file")
    refused(files(root, streams={"audio": {**SMALL["audio"], "file": "all.csv"}}), "all.csv: expected a data file")
    notes = load(files(root)).provenance.notes
    assert "files of tracks that are not there: 'val_sequences.npz'" in notes


def test_a_video_in_two_archives_is_refused(root):
    np.savez(root / "val_sequences.npz", **archive(["b"], np.zeros((1, 5, 27), np.float32), np.ones((1, 5), bool)))
    refused(files(root), "val_sequences.npz: expected each video in one file, found 'b' in ")


def test_damaged_archives_are_refused(root):
    file = root / "train_sequences.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    refused(files(root), "train_sequences.npz: expected a readable NPZ file")
    file.write_bytes(content[: len(content) // 2])
    refused(files(root), "train_sequences.npz: expected a readable NPZ file")


def test_features_of_videos_that_the_tracks_do_not_know_are_told(root):
    write_features(root, "c")
    told = [note for note in load(files(root)).provenance.notes if "do not know" in note]
    assert told == ["audio: not used, for the tracks do not know these videos: 'c'"]


def test_a_stream_of_other_videos_alone_is_missing(root):
    for video in ("a", "b"):
        (root / f"{video}_features.csv").unlink()
    write_features(root, "c")
    dataset = load(files(root))
    assert list(dataset.steps) == ["track"]
    assert any(note.startswith("missing feature types") for note in dataset.provenance.notes)


def test_columns_that_are_not_used_are_told(root):
    write_features(root, "a", speaker_id=1, text_word="x")
    (told,) = [note for note in load(files(root)).provenance.notes if "not used" in note]
    assert told == "audio: columns that are not used: 'speaker_id', 'text_word'"


def test_an_array_of_another_width_or_type_is_refused(root):
    stream = {"file": "{video}.npz", "embedding": "bits", "unpack": True}
    times = np.arange(10) / 10
    np.savez(root / "a.npz", time=times, bits=np.zeros((10, 2), np.uint8))
    np.savez(root / "b.npz", time=times, bits=np.zeros((10, 3), np.uint8))
    refused(files(root, streams={"frame": stream}), "b.npz: array 'bits': expected 16 columns as in a.npz, found 24")
    np.savez(root / "b.npz", time=times, bits=np.zeros((10, 2), np.int64))
    refused(files(root, streams={"frame": stream}), "b.npz: array 'bits': expected octets (uint8), found int64")
    np.savez(root / "a.npz", time=times)
    refused(files(root, streams={"frame": stream}), "a.npz: expected an array 'bits' of two dimensions, found none")


@pytest.mark.parametrize(
    ("targets", "text", "expected"),
    [
        ({"night": {}}, "video,time,night\na,0,2\n", "t.csv: line 2, column 'night': expected 0 or 1, found 2"),
        ({"night": {}}, "video,time,dark\na,0,1\n", "t.csv: expected a column 'night'"),
        ({"night": {}}, "video,time,night\n,0,1\n", "t.csv: line 2, column 'video': expected the name of a video"),
        (
            {"mood": {"kind": "multiclass", "classes": ["x", "y", "z"]}},
            "video,time,mood\na,0,x\na,1,w\n",
            "t.csv: line 3, column 'mood': expected one of 'x', 'y', 'z' (classes), found 'w'",
        ),
    ],
)
def test_targets_that_cannot_be_are_named(root, targets, text, expected):
    (root / "t.csv").write_text(text)
    refused(files(root, targets={"file": "t.csv", "tasks": targets}), expected)


def test_new_rows_of_a_folder_without_anything_of_the_model(root):
    spec = load(files(root)).spec
    for file in root.glob("*.csv"):
        file.unlink()
    config = files(root, tracks=None, targets={"file": "t.csv", "tasks": {"night": {}}})
    with pytest.raises(DataError, match=re.escape("expected files of streams, '{video}_features.csv', found none")):
        records(config, labelled=False, spec=spec)
