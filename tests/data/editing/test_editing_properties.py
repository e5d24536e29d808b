"""Properties of multi-rate recordings, by number, whatever the recordings.

The mutation in a docstring is a change of one line under which the property fails.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from editing_material import SMALL, archive, settings, write_archive, write_features, write_twin
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fusion_lab.config import validate
from fusion_lab.contracts import DataError
from fusion_lab.data.editing import load
from fusion_lab.data.editing.dataset import WindowDataset
from fusion_lab.data.editing.domain import dataset_of, recordings_of
from fusion_lab.data.editing.settings import AUDIO, TRACK_COLUMNS, VISUAL, EditingConfig
from fusion_lab.data.editing.streams import file_of, video_of, videos_in

VIDEOS = ("a", "b")
AUDIO_ONLY = {"audio": SMALL["audio"]}
hundred = examples(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.text(
    st.characters(codec="utf-8", categories=("L", "N"), include_characters=" _-.{}"), min_size=1, max_size=12
)


@contextmanager
def folder() -> Generator[Path]:
    """An empty one: Hypothesis wants one for every example."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Four videos of 2 s of which none lacks anything."""
    root = tmp_path_factory.mktemp("written")
    write_twin(root, settings(length=5, twin={"videos": 4, "seconds": 2, "absent": 0, "dropped": 0}))
    return root


@contextmanager
def copied(written: Path) -> Generator[EditingConfig]:
    """Settings that read a copy of the files."""
    with folder() as root:
        shutil.copytree(written, root, dirs_exist_ok=True)
        yield settings(root=str(root), length=5)


def files(root: Path, **changes) -> EditingConfig:
    """Settings that read two videos of 3 tracks and their small audio streams."""
    return settings(**{"root": str(root), "length": 5, "streams": AUDIO_ONLY, **changes})


def everything(dataset: WindowDataset):
    return dataset.gather(torch.arange(len(dataset)))


def flags(count: int):
    return st.lists(st.booleans(), min_size=count, max_size=count)


@hundred
@given(flags(4), flags(4), st.permutations(range(5)), st.lists(st.sampled_from(["word", "speaker_id"]), unique=True))
def test_property_1_all_files_of_a_video_are_loaded_with_every_required_column(written, audio, visual, order, extra):
    """Mutation: `StreamFiles.has` answers ``video in self.there[1:]``."""
    with copied(written) as config:
        videos = [f"video {i}" for i in range(4)]
        for there, ending in ((audio, "_features.csv"), (visual, "_visual_features.csv")):
            for video, kept in zip(videos, there, strict=True):
                file = Path(config.folder) / f"{video}{ending}"
                if not kept:
                    file.unlink()
                elif video == "video 0":
                    frame = pd.read_csv(file)
                    columns = [frame.columns[i] for i in order if i < frame.shape[1]]
                    columns += [c for c in frame.columns if c not in columns]
                    frame[columns].assign(**dict.fromkeys(extra, "x")).to_csv(file, index=False)
        dataset = load(config)
        loaded = {(of.video, of.stream): of for of in dataset.survey}
        for stream, there in (("audio", audio), ("visual", visual)):
            if not any(there):
                assert stream not in dataset.steps
                continue
            expected = [*config.streams[stream].columns, *config.streams[stream].embedding_columns()]
            assert [f.name for f in dataset.spec.modality(stream).features] == expected
            assert [loaded[video, stream].there for video in videos] == there
            observed = everything(dataset).observed[stream]
            for video, kept in zip(videos, there, strict=True):
                assert observed[dataset.group == video].flatten(0, 1).any(0).all() == kept


@hundred
@given(st.sampled_from([*SMALL["audio"]["columns"], "time"]), st.sampled_from(VIDEOS))
def test_property_1_a_required_column_that_is_not_there_is_named_with_its_file(column, video):
    """Mutation: `_cell_by_cell` asks for ``wanted.columns[1:]``."""
    with folder() as root:
        write_archive(root)
        for name in VIDEOS:
            write_features(root, name)
        file = root / f"{video}_features.csv"
        pd.read_csv(file).drop(columns=column).to_csv(file, index=False)
        with pytest.raises(DataError, match=rf"{video}_features.csv: expected a column '{column}'") as refused:
            load(files(root))
        assert len(str(refused.value).splitlines()) == 1


@hundred
@given(st.permutations(list(SMALL)), st.integers(0, 2**32 - 1))
def test_property_5_modalities_are_in_the_order_of_the_settings_and_tracks_last(order, seed):
    """Mutation: the track's modality is put first in `dataset_of`."""
    streams = {name: SMALL[name] for name in order}
    twin = {"videos": 2, "seconds": 2, "seed": seed, "absent": 0}
    dataset = load(settings(streams=streams, length=7, twin=twin))
    assert [m.name for m in dataset.spec.modalities] == [*order, "track"]
    batch = everything(dataset)
    mask = torch.stack([batch.valid[m.name] for m in dataset.spec.modalities], dim=-1)
    assert mask.dtype == torch.bool and mask.shape == (len(dataset), 7, 3)
    side_by_side = torch.cat([batch.inputs[m.name] for m in dataset.spec.modalities], dim=-1)
    start = 0
    for modality in dataset.spec.modalities:
        assert torch.equal(side_by_side[..., start : start + modality.width], batch.inputs[modality.name])
        start += modality.width
    assert side_by_side.shape[-1] == start == 2 + 7 + 27


@hundred
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 4), st.sets(st.sampled_from(TRACK_COLUMNS))
)
def test_property_10_any_width_of_audio_visual_and_tracks_works(audio, visual, embedding, tracks, columns):
    """Mutation: `Steps.gather` leaves the last column of ``self.values[index]`` out."""
    streams = {
        "audio": {"file": "{video}.csv", "columns": {f"a{i}": "continuous" for i in range(audio)}},
        "visual": {
            "file": "{video}_v.csv",
            "columns": {f"v{i}": "discrete" for i in range(visual)},
            "embedding": f"e{{1..{embedding}}}",
        },
    }
    kept = [name for name in TRACK_COLUMNS if name in columns | {"active"}]
    made = {"count": tracks, "columns": kept, "asset_classes": 3}
    dataset = load(settings(streams=streams, tracks=made, length=4, twin={"videos": 2, "seconds": 2, "absent": 0}))
    batch = everything(dataset)
    widths = {"audio": audio, "visual": visual + embedding, "track": tracks * len(kept)}
    assert {m.name: m.width for m in dataset.spec.modalities} == widths
    assert {name: x.shape[-1] for name, x in batch.inputs.items()} == widths
    assert all(batch.observed[name].shape == x.shape for name, x in batch.inputs.items())
    assert {t.name: batch.targets[t.name].shape[-1] for t in dataset.spec.tasks} == dict.fromkeys(batch.targets, tracks)


@hundred
@given(names, st.sampled_from(["{video}_features.csv", "x_{video}.parquet", "{video}.npz"]))
def test_property_14_a_video_and_its_file_name_each_other(video, pattern):
    """Mutation: `video_of` does not escape what comes before and after the name."""
    file = file_of(pattern, video)
    assert video_of(pattern, file) == video
    assert video_of(pattern, f"y{file.replace('.', ',')}") is None


@hundred
@given(st.sets(names, min_size=1, max_size=4), st.data())
def test_property_14_a_folder_tells_which_video_has_which_file(videos, data):
    """Mutation: `videos_in` tries shorter patterns first, and "v_visual_features.csv" is of a video "v_visual"."""
    patterns = [AUDIO.file, VISUAL.file]
    videos = {video.strip(" .") or "v" for video in videos if "_visual" not in video}
    of = {pattern: sorted(data.draw(st.sets(st.sampled_from(sorted(videos))))) for pattern in patterns}
    with folder() as root:
        for pattern, own in of.items():
            for video in own:
                (root / file_of(pattern, video)).touch()
        assert videos_in(root, patterns) == of


@hundred
@given(st.sampled_from(VIDEOS), st.booleans())
def test_property_15_a_missing_feature_file_is_masked_and_its_video_named(video, swapped):
    """Mutation: `_aligned` reads the first video that has a file in place of one that has none."""
    with folder() as root:
        write_archive(root, **({"video_ids": np.array(["b", "b", "a", "a"])} if swapped else {}))
        write_features(root, "a" if video == "b" else "b")
        dataset = load(files(root))
        batch, lacks = everything(dataset), torch.from_numpy(dataset.group == video)
        assert not batch.valid["audio"][lacks].any() and not batch.inputs["audio"][lacks].any()
        assert batch.valid["audio"][~lacks].all() and batch.valid["track"].all()
        notes = [note for note in dataset.provenance.notes if "videos without audio" in note]
        assert len(notes) == 1 and notes[0].endswith(f"videos without audio: {video!r}")


@hundred
@given(
    st.integers(1, 12), st.one_of(st.none(), st.integers(1, 12)), st.lists(st.integers(0, 30), min_size=1, max_size=4)
)
def test_property_16_all_modalities_of_a_batch_have_one_length(length, stride, chosen):
    """Mutation: `WindowDataset.index` puts padding behind: ``position = torch.arange(self.length)``."""
    dataset = load(settings(length=length, stride=stride, twin={"videos": 2, "seconds": 2}))
    batch = dataset.gather(torch.tensor(chosen) % len(dataset))
    shapes = {leaf.shape[:2] for leaf in (*batch.inputs.values(), *batch.targets.values(), *batch.known.values())}
    assert shapes == {(len(chosen), length)}
    rows = torch.from_numpy(dataset.windows.rows)[torch.tensor(chosen) % len(dataset)]
    assert batch.valid["track"].sum(1).tolist() == rows.tolist()
    assert all(valid[:, -1].all() for name, valid in batch.valid.items() if name == "track")


@hundred
@given(st.sampled_from([["audio"], ["visual"], ["audio", "visual"]]), st.integers(0, 2**32 - 1))
def test_property_18_without_any_features_the_tracks_are_left_alone(streams, seed):
    """Mutation: `Folder` keeps streams that no video has: ``if True``."""
    with folder() as root:
        write_archive(root)
        dataset = load(files(root, streams={name: SMALL[name] for name in streams}))
        assert [m.name for m in dataset.spec.modalities] == ["track"]
        assert all(task.steps == ("track",) for task in dataset.spec.tasks)
        assert any("the tracks alone are left" in note for note in dataset.provenance.notes)
        rows = torch.from_numpy(np.random.default_rng(seed).integers(0, len(dataset), 3))
        assert dataset.gather(rows).valid["track"].all()


@hundred
@given(st.sets(st.sampled_from([f"video {i}" for i in range(4)])), st.integers(2, 12))
def test_property_22_and_24_what_was_loaded_and_interpolated_is_told(written, lost, keep):
    """Mutation: `stream_notes` counts ``len(survey)`` files. Mutation: it tells the share that is matched twice."""
    with copied(written) as config:
        for video in [f"video {i}" for i in range(4)]:
            file = Path(config.folder) / f"{video}_features.csv"
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join([lines[0], *lines[1::keep]]))
            if video in lost:
                file.unlink()
        notes = load(config).provenance.notes
        if len(lost) == 4:
            assert not any(note.startswith("audio: loaded") for note in notes)
            return
        assert any(note.startswith(f"audio: loaded for {4 - len(lost)} of 4 videos") for note in notes)
        times, clock = np.arange(50)[::keep] / 25, np.arange(20) / 10
        away = np.abs(times[:, None] - clock).min(0) > config.tolerance + 1e-6
        assert any(f"interpolated {100 * away.mean():.2f} %" in note for note in notes if "audio: coverage" in note)


@hundred
@given(st.sets(st.sampled_from(["audio", "visual"])))
def test_property_25_feature_types_that_no_video_has_are_told(written, lost):
    """Mutation: `_noticed` looks for ``name in self.streams``."""
    with copied(written) as config:
        for name in lost:
            for video in [f"video {i}" for i in range(4)]:
                (Path(config.folder) / file_of(config.streams[name].file, video)).unlink()
        told = [note for note in load(config).provenance.notes if note.startswith("missing feature types")]
        assert len(told) == bool(lost)
        for name in SMALL:
            assert any(SMALL[name]["file"] in note for note in told) == (name in lost)


@hundred
@given(st.integers(0, 2**32 - 1), st.booleans(), st.lists(st.integers(0, 9), max_size=3))
def test_property_26_times_strictly_increase_whatever_their_order_in_files(seed, shuffled, repeated):
    """Mutation: `_steps` takes ``np.arange(len(time))`` for the order."""
    rng = np.random.default_rng(seed)
    with folder() as root:
        windows = rng.permutation(4) if shuffled else np.arange(4)
        starts = np.array([0.0, 0.5, 0.0, 0.5])
        write_archive(root, start=starts[windows], video_ids=np.array(["a", "a", "b", "b"])[windows])
        frame = write_features(root, "a")
        sorted_ = load(files(root))
        again = frame.iloc[[*(rng.permutation(len(frame)) if shuffled else range(len(frame)))]]
        doubled = pd.concat([again.iloc[repeated].assign(audio_energy_rms=99.0), again])  # the later row counts
        doubled.to_csv(root / "a_features.csv", index=False)
        dataset = load(files(root))
        for other in (sorted_, dataset):
            index = other.index(torch.arange(len(other))).numpy()
            times = np.append(other.times, np.nan)[index]
            assert (np.diff(times, axis=1) > 0).all() and (other.order == times[:, 0]).all()
        whole, ours = everything(sorted_), everything(dataset)
        assert torch.equal(ours.inputs["audio"], whole.inputs["audio"])
        warned = any("not in order" in note for note in dataset.provenance.notes)
        assert warned == bool((np.diff(doubled["time"]) < 0).any())


@hundred
@given(st.integers(1, 24), st.integers(1, 13), st.sampled_from([*AUDIO.columns, *VISUAL.columns, "clip_511"]))
def test_property_29_widths_of_5_522_and_180_are_held_to(tracks, columns, lacking):
    """Mutation: `_archive` refuses a width ``if False``."""
    config = validate(EditingConfig, {"domain": "editing", "root": "."}, "test")
    assert len(AUDIO.columns) == 5
    assert len([*VISUAL.columns, *VISUAL.embedding_columns()]) == 522
    assert config.tracks is not None
    assert config.tracks.width == 180
    with folder() as root:
        config = config.model_copy(update={"root": str(root), "length": 3})
        width = tracks * columns
        write_archive(root, **archive(["a", "b"], np.zeros((2, 3, width), np.float32), np.ones((2, 3), bool)))
        if width != 180:
            with pytest.raises(DataError, match=rf"expected 180 columns \(20 tracks x 9.*, found {width}$"):
                load(config)
            return
        name = "a_features.csv" if lacking in AUDIO.columns else "a_visual_features.csv"
        every = AUDIO.columns if lacking in AUDIO.columns else (*VISUAL.columns, *VISUAL.embedding_columns())
        kept = ["time", *(column for column in every if column != lacking)]
        pd.DataFrame(np.zeros((2, len(kept))), columns=kept).to_csv(root / name, index=False)
        with pytest.raises(DataError, match=f"{name}: expected a column '{lacking}' .one of {len(every)} columns"):
            load(config)


@hundred
@given(
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.floats(0, 2),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.3]),
)
def test_property_31_what_is_masked_is_zero(dropped, absent, max_gap, length, seed, missing):
    """Mutation: `Steps.put` does not write what is observed. Mutation: `targets_of` gives ``answer.values[about]``."""
    with folder() as root:
        twin = {"videos": 2, "seconds": 2, "dropped": dropped, "absent": absent, "span": 0.7, "seed": seed}
        config = write_twin(root, settings(length=length, max_gap=max_gap, twin=twin))
        rng = np.random.default_rng(seed)
        for file in root.glob("*.npz"):  # what stands beside an idle track is no answer either
            with np.load(file) as opened:
                arrays = dict(opened)
            arrays["sequences"].reshape(*arrays["masks"].shape, 3, 9)[..., 2:] += 1.0
            np.savez(file, **arrays)
        for file in root.glob("*.csv"):
            frame = pd.read_csv(file)
            holes = rng.random((len(frame), frame.shape[1] - 1)) < missing
            frame.iloc[:, 1:] = frame.iloc[:, 1:].mask(holes)
            frame.to_csv(file, index=False)
        batch = everything(dataset_of(config, recordings_of(config)))  # unchecked: all may be masked
        for name, inputs in batch.inputs.items():
            assert not batch.observed[name][~batch.valid[name]].any()
            assert not inputs[~batch.observed[name]].any()
            assert torch.isfinite(inputs).all()
        for name, target in batch.targets.items():
            assert not target[~batch.known[name]].any()
            assert not batch.known[name][~batch.valid["track"]].any()
