"""The domain of sensor recordings: its rows against the sessions that were written, its classes, its errors."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from activity_material import sessions, write_arrays, write_dat, write_parquet, write_shards

from fusion_lab.contracts import DataError
from fusion_lab.data.activity import ActivityConfig, load, records, spec
from fusion_lab.data.activity.domain import dataset_of
from fusion_lab.data.activity.prepare import prepare
from fusion_lab.data.activity.samples import Recorded, Recording, Samples
from fusion_lab.data.activity.settings import ACTIVITIES, ACTIVITY, HEART_RATE_BPM, TIME
from fusion_lab.data.raw import encode

SUBJECTS = ("101", "102", "103")
CHUNK = 64


def config(folder: Path | str = "data", **more) -> ActivityConfig:
    return ActivityConfig(root=str(folder), **{"chunk": CHUNK, **more})


def recorded(*subjects: tuple[str, dict[int, int]], columns=(HEART_RATE_BPM,)) -> Recorded:
    """Subjects with a recording of so many samples of each activity, ten seconds apart."""
    made = []
    for name, activities in subjects:
        recordings, start = [], 0
        for place, (activity, rows) in enumerate(activities.items()):
            recordings.append(Recording(start, rows, 10.0 * place, activity))
            start += rows
        values = np.arange(start * len(columns), dtype=np.float32).reshape(start, len(columns))
        made.append(Samples(name, values, tuple(recordings)))
    return Recorded(tuple(columns), tuple(made), ())


def alone(**more) -> ActivityConfig:
    return config(modalities=("heart_rate",), **more)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One data set in every layout: its sessions, and the folder of each."""
    folder = tmp_path_factory.mktemp("layouts")
    frames = sessions(SUBJECTS, (4, 12, 24), rows=150, bouts=2, signal=True)
    write_dat(folder / "dat", frames)
    write_parquet(folder / "table", frames, orientation=True)
    write_shards(folder / "shards", frames)
    write_shards(folder / "tensors", frames, tensors=True)
    prepare(config(folder / "dat"), folder / "prepared", lambda line: None)
    return frames, folder


def test_a_row_is_a_piece_of_one_activity_of_one_subject_from_its_time_on(written):
    frames, folder = written
    dataset = load(config(folder / "dat"))
    assert dataset.group is not None
    assert dataset.order is not None
    (task,) = dataset.spec.tasks
    for row, (subject, second) in enumerate(zip(dataset.group, dataset.order, strict=True)):
        first = int(np.abs(frames[subject][TIME].to_numpy() - second).argmin())
        padding = next(i for i in range(CHUNK) if any(v[row, i] for v in dataset.valid.values()))
        piece = frames[subject].iloc[first : first + CHUNK - padding]
        assert piece[ACTIVITY].nunique() == 1
        assert task.classes[int(dataset.targets["activity"][row])] == ACTIVITIES[piece[ACTIVITY].iloc[0]]
        for site in ("hand", "chest", "ankle"):
            columns = list(dataset.spec.modality(site).columns)
            cells = torch.tensor(piece[columns].to_numpy(np.float32))
            assert torch.equal(dataset.inputs[site][row, padding:], cells.nan_to_num())
            assert torch.equal(dataset.observed[site][row, padding:], ~cells.isnan())


def test_every_layout_gives_the_same_rows(written):
    _, folder = written
    first, *others = (load(config(folder / layout)) for layout in ("dat", "table", "shards", "tensors", "prepared"))
    for other in others:
        assert other.spec == first.spec
        assert other.ids.tolist() == first.ids.tolist()
        assert other.group.tolist() == first.group.tolist()
        np.testing.assert_allclose(other.order, first.order, atol=1e-3)  # some layouts hold 32-bit times
        for leaves in ("inputs", "valid", "observed", "targets"):
            for name, leaf in getattr(first, leaves).items():
                assert torch.equal(getattr(other, leaves)[name], leaf), (leaves, name)


def test_ids_are_the_recordings_and_a_number_and_begin_with_the_subject(written):
    _, folder = written
    dataset = load(config(folder / "dat"))
    assert len(set(dataset.ids)) == len(dataset)
    names = dataset.spec.tasks[0].classes
    for row, (name, recording) in enumerate(zip(dataset.ids, dataset.recording, strict=True)):
        subject, activity, *_ = recording.split("/")
        assert name.rpartition("/")[0] == recording
        assert subject == dataset.group[row]
        assert activity == names[int(dataset.targets["activity"][row])]
    for recording in set(dataset.recording):  # its rows are in the order of time
        assert (np.diff(dataset.order[dataset.recording == recording]) > 0).all()


def test_ids_do_not_depend_on_which_activities_are_kept(written):
    _, folder = written
    every, some = load(config(folder / "dat")), load(config(folder / "dat", activities=("walking", "rope jumping")))
    names = np.array(every.spec.tasks[0].classes)[every.targets["activity"].int()]
    assert some.ids.tolist() == every.ids[names != "ascending stairs"].tolist()
    assert some.spec.tasks[0].classes == ("walking", "rope jumping")
    assert some.spec.tasks[0].kind == "binary"
    assert every.spec.tasks[0].kind == "multiclass"


def test_a_given_split_stays_with_the_rows(tmp_path):
    parts = dict(zip(SUBJECTS, ("train", "val", "test"), strict=True))
    write_shards(tmp_path, splits={(s, a): parts[s] for s in SUBJECTS for a in (1, 4, 12)})
    dataset = load(config(tmp_path))
    assert dataset.given_split.tolist() == [parts[subject] for subject in dataset.group]
    write_parquet(tmp_path / "table")
    assert load(config(tmp_path / "table")).given_split is None


def test_without_subjects_there_are_recordings_and_no_class_is_left_out(tmp_path):
    write_arrays(tmp_path, subjects=SUBJECTS, activities=(1, 4), bouts=2)
    dataset = load(config(tmp_path, min_subjects=9))
    assert dataset.group is None
    assert len(set(dataset.recording)) < len(dataset) == len(set(dataset.ids))
    assert set(dataset.given_split) == {"train", "val", "test"}
    assert dataset.spec.tasks[0].classes == ("lying", "walking")
    assert any("whose recordings these are is not known" in note for note in dataset.provenance.notes)


def test_a_class_of_too_few_subjects_is_left_out_and_noted():
    walking = {1: 64, 4: 64}
    whole = recorded(("a", {**walking, 5: 64}), ("b", {**walking, 5: 31}), ("c", walking))
    three, two, one = (dataset_of(alone(min_subjects=n), whole) for n in (3, 2, 1))
    assert three.spec.tasks[0].classes == two.spec.tasks[0].classes == ("lying", "walking")  # 31 samples give no chunk
    assert one.spec.tasks[0].classes == ("lying", "walking", "running")
    assert "left out, for fewer than 2 subjects have them: running (a)" in two.provenance.notes
    assert not any("left out" in note for note in one.provenance.notes)
    for made, running in ((two, 0), (one, 1)):
        names = np.array(made.spec.tasks[0].classes)[made.targets["activity"].int()]
        assert names.tolist() == [name.split("/")[1] for name in made.ids]
        assert (names == "running").sum() == running
        assert len(names) == 6 + running


def test_what_became_of_the_samples_is_noted():
    made = dataset_of(alone(min_subjects=1), recorded(("a", {1: 64 + 40, 4: 2 * 64 + 10})))
    assert "2 recordings of 2 activities give 4 chunks of 64 samples, 1 of them shorter" in made.provenance.notes
    lost = "10 samples (4.13%) are in no chunk: what is left at a recording's end is kept from 32 samples on"
    assert lost in made.provenance.notes
    assert not any("missing" in note for note in made.provenance.notes)


def test_a_column_tells_whether_a_sample_that_has_others_misses_it():
    columns = ("hand_temp_c", "hand_acc16_x_ms2", "hand_acc16_y_ms2", "hand_acc16_z_ms2")
    whole = recorded(("a", {1: 64, 4: 64}), columns=columns)
    whole.subjects[0].values[3] = np.nan  # a whole sample: it is not valid, no other lacks a cell
    whole.subjects[0].values[7, 2] = np.nan
    made = dataset_of(config(min_subjects=1, modalities=("hand",), channels=("temp", "acc16")), whole)
    assert [feature.gaps for feature in made.spec.modality("hand").features] == [False, False, True, False]
    assert not made.valid["hand"][0, 3]
    assert made.valid["hand"].sum() == 2 * 64 - 1
    assert f"missing cells: hand {5 / (128 * 4):.2%}" in made.provenance.notes


def test_modalities_and_channels_come_in_the_order_of_the_settings(written):
    _, folder = written
    made = spec(config(folder / "dat", modalities=("heart_rate", "ankle"), channels=("gyro", "temp")))
    gyro = [f"ankle_gyro_{axis}_rads" for axis in "xyz"]
    assert [(m.name, list(m.columns), m.length) for m in made.modalities] == [
        ("heart_rate", [HEART_RATE_BPM], CHUNK),
        ("ankle", [*gyro, "ankle_temp_c"], CHUNK),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activities": ("lying", "cycling")}, "data: expected chunks of 'cycling' .*found 'lying', 'walking'"),
        ({"activities": ("lying",)}, r"expected two or more activities that at least 1 subjects.*found lying \(a, b\)"),
        ({"min_subjects": 3}, r"at least 3 subjects have .*found lying \(a, b\); walking \(a\)"),
        ({"chunk": 512}, r"expected a recording of 256 samples or more, found 64 in the longest \(data.chunk=512, and"),
        ({"modalities": ("hand",)}, "expected all columns of modality 'hand', found no 'hand_acc16_x_ms2'"),
    ],
)
def test_recordings_that_do_not_fit_the_settings_are_refused(settings, message):
    whole = recorded(("a", {1: 64, 4: 64}), ("b", {1: 64}))
    with pytest.raises(DataError, match=message):
        dataset_of(alone(min_subjects=1).model_copy(update=settings), whole)


def test_new_recordings_are_cut_as_the_model_has_it_whatever_was_done_in_them(written, tmp_path):
    frames, folder = written
    trained = load(config(folder / "dat"))
    new = {"201": pd.concat([frames["101"]]).drop(columns=ACTIVITY)}
    table = new["201"].astype(np.float32).assign(subject_id="201")
    table.to_parquet(tmp_path / "new.parquet", index=False)
    found = records(config(tmp_path, chunk=2 * CHUNK), labelled=False, spec=trained.spec)
    assert len(found) == round(len(table) / CHUNK)
    assert found.ids.tolist() == [f"201/1/{number + 1}" for number in range(len(found))]
    for modality in trained.spec.modalities:
        made = encode(modality, found.modalities[modality.name])
        assert made.inputs.shape == (len(found), *modality.shape)
        if modality.name != "heart_rate":
            cells = table[list(modality.columns)].to_numpy()[: CHUNK * (len(table) // CHUNK)]
            whole = made.inputs[: len(cells) // CHUNK].reshape(-1, modality.width)
            np.testing.assert_array_equal(whole, np.nan_to_num(cells))


def test_a_sensor_that_new_recordings_lack_is_left_out_and_half_a_sensor_is_refused(written, tmp_path):
    frames, folder = written
    trained = spec(config(folder / "dat"))
    chest = [name for name in frames["101"].columns if name.startswith("chest")]
    table = frames["101"].astype(np.float32).assign(subject_id="101")
    table.drop(columns=chest).to_parquet(tmp_path / "new.parquet", index=False)
    found = records(config(tmp_path), labelled=False, spec=trained)
    assert list(found.modalities) == ["hand", "ankle", "heart_rate"]
    table.drop(columns="chest_mag_x_ut").to_parquet(tmp_path / "new.parquet", index=False)
    with pytest.raises(DataError, match="all columns of modality 'chest', found no 'chest_mag_x_ut'"):
        records(config(tmp_path), labelled=False, spec=trained)
    table[[TIME, "subject_id", "hand_temp_c"]].to_parquet(tmp_path / "new.parquet", index=False)
    with pytest.raises(DataError, match="expected a sensor of 'hand', 'chest', 'ankle', 'heart_rate', found columns"):
        records(config(tmp_path), labelled=False, spec=trained)


def test_a_channel_that_never_varies_is_noted_whatever_the_lengths_of_chunks(tmp_path):
    frames = sessions(SUBJECTS, (4, 12), rows=CHUNK + CHUNK // 2 + 1, signal=True)
    for frame in frames.values():
        frame["hand_temp_c"] = 0.1
    write_parquet(tmp_path, frames)
    made = load(config(tmp_path, modalities=("hand",), channels=("temp", "gyro")))
    assert "hand: never varies in the rows used: hand_temp_c" in made.provenance.notes


def test_what_is_in_no_chunk_is_told():
    subjects = ("a", {1: 3 * CHUNK, 4: 2 * CHUNK}), ("b", {1: CHUNK, 4: CHUNK}), ("c", {1: 5, 4: 5})
    notes = dataset_of(alone(min_subjects=2), recorded(*subjects)).provenance.notes
    assert "subjects of whom no chunk is used: 'c'" in notes
    skipping = dataset_of(alone(min_subjects=2, stride=CHUNK + 8), recorded(*subjects)).provenance.notes
    assert [note for note in skipping if "and 8 between chunks are skipped (data.stride)" in note]
