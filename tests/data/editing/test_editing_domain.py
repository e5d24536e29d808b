"""Windows of recordings: what lies at each of their steps, what the answers are, which rows belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from editing_material import SMALL, TRACKS, archive, settings, write_archive, write_features, write_twin
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fusion_lab.contracts import ConfigError
from fusion_lab.data.editing import load, records
from fusion_lab.data.editing.settings import TASK_OF, TRACK_COLUMNS
from fusion_lab.data.editing.twin import Twin
from fusion_lab.data.raw import encode

AUDIO = {"audio": SMALL["audio"]}


def everything(dataset):
    return dataset.gather(torch.arange(len(dataset)))


def files(root, **changes):
    return settings(**{"root": str(root), "length": 5, "streams": AUDIO, **changes})


def assert_same(one, other):
    assert one.spec == other.spec and one.ids.tolist() == other.ids.tolist()
    for ours, theirs in zip(everything(one), everything(other), strict=True):
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(leaf, theirs[name]) for name, leaf in ours.items())


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_twin_in_files_is_the_twin_in_memory(tmp_path, starts, ending):
    streams = {name: {**of, "file": of["file"].replace("csv", ending)} for name, of in SMALL.items()}
    made = settings(streams=streams, stride=10, horizon=2)
    read = load(write_twin(tmp_path, made, starts))
    twin = load(made)
    assert_same(read, twin)
    assert (read.group == twin.group).all() and (read.order == twin.order).all()
    assert read.given_split is not None and twin.given_split is not None
    assert (read.given_split == twin.given_split).all() and set(read.given_split) == {"train", "val"}


@examples(max_examples=60)
@given(st.integers(0, 4), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 9)), st.booleans(), st.integers(0, 99))
def test_an_answer_is_what_the_tracks_hold_so_many_steps_later(horizon, length, stride, ignore, seed):
    """Across the end of a window, and never across that of a video."""
    tracks = {**TRACKS, "ignore_inactive": ignore}
    twin = {"videos": 2, "seconds": 2, "seed": seed}
    config = settings(horizon=horizon, length=length, stride=stride, tracks=tracks, twin=twin)
    dataset, made = load(config), Twin(config, config.twin).tracks
    cells = {video: made.cells(video).reshape(-1, 3, 9) for video in made.videos}
    batch = everything(dataset)
    for row in range(len(dataset)):
        own, first = cells[dataset.group[row]], round(dataset.order[row] * 10)
        rows = int(dataset.windows.rows[row])
        for position in range(length):
            later = first + position - (length - rows) + horizon
            there = position >= length - rows and later < len(own)
            for column, name in enumerate(TRACK_COLUMNS):
                task = TASK_OF.get(name, name)
                if task not in batch.targets:
                    continue
                known, target = batch.known[task][row, position], batch.targets[task][row, position]
                if not there:
                    assert not known.any() and not target.any()
                    continue
                counts = own[later, :, 0] > 0 if ignore and column > 1 else np.ones(3, bool)
                assert known.tolist() == counts.tolist()
                assert target.tolist() == np.where(counts, own[later, :, column], 0).tolist()


def test_tasks_are_causal_where_answers_lie_ahead_and_the_run_says_where_they_do_not():
    ahead, now = load(settings(horizon=1)), load(settings(horizon=0))
    assert all(task.causal and task.units == ("track 1", "track 2", "track 3") for task in ahead.spec.tasks)
    assert not any(task.causal for task in now.spec.tasks)
    assert any(note.startswith("horizon 0: ") for note in now.provenance.notes)
    assert not any(note.startswith("horizon") for note in ahead.provenance.notes)
    batch = everything(now)
    active = torch.stack([batch.inputs["track"][..., i] for i in (0, 9, 18)], dim=-1)
    assert torch.equal(batch.targets["active"], active)


def test_windows_are_aligned_with_the_footage_of_their_own_time(tmp_path):
    """Not with that of the video's beginning: the feature is the time itself."""
    starts = np.array([0.0, 0.5, 100.0, 107.0])
    write_archive(tmp_path, start=starts)
    times = np.arange(0, 120, 0.04)
    for video in ("a", "b"):
        write_features(tmp_path, video, time=times, audio_energy_rms=times, audio_is_speaking=0)
    dataset = load(files(tmp_path))
    shown = everything(dataset).inputs["audio"][..., 0]
    expected = torch.from_numpy(starts)[:, None] + torch.arange(5) / 10
    assert torch.allclose(shown, expected.float(), atol=1e-4)
    assert dataset.order.tolist() == starts.tolist()
    assert any("1 breaks in the clocks" in note for note in dataset.provenance.notes)
    known = everything(dataset).known["active"]
    assert known[0].all() and not known[1, -1].any() and not known[2, -1].any()  # a follows on, b breaks off


def test_windows_that_overlap_give_each_step_once_and_the_last_counts(tmp_path):
    cells = np.zeros((2, 5, 27), np.float32)
    cells[:, :, 2], cells[:, :, 0] = np.arange(10).reshape(2, 5), np.tile([0.0, 1.0, 0, 1, 0], (2, 1))
    arrays = archive(["a", "a"], cells, np.ones((2, 5), bool))
    np.savez(tmp_path / "train_sequences.npz", **arrays, start=np.array([0.0, 0.3]))
    dataset = load(files(tmp_path, length=8, streams={}))
    assert everything(dataset).inputs["track"][0, :, 2].tolist() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert any(note.startswith("tracks: 2 steps are in several windows") for note in dataset.provenance.notes)
    gone = [note for note in dataset.provenance.notes if note.startswith("tracks: no task is made of")]
    assert gone == ["tracks: no task is made of what never varies: asset, pos_x, pos_y, crop_l, crop_r, crop_t, crop_b"]
    assert [task.name for task in dataset.spec.tasks] == ["active", "scale"]


def test_padding_on_either_side_of_a_window_is_left_out(tmp_path):
    masks = np.array([[False, False, True, True, True], [True] * 5, [True, True, True, False, False], [True] * 5])
    write_archive(tmp_path, masks=masks)
    dataset = load(files(tmp_path, length=8, streams={}))
    assert dataset.ids.tolist() == ["a/0", "b/0"] and dataset.windows.rows.tolist() == [8, 8]
    with np.load(tmp_path / "train_sequences.npz") as opened:
        cells = opened["sequences"]
    track = everything(dataset).inputs["track"].numpy()
    assert np.array_equal(track[0], np.concatenate([cells[0, 2:], cells[1]]))
    assert np.array_equal(track[1], np.concatenate([cells[2, :3], cells[3]]))


def test_parts_of_one_source_are_one_group(tmp_path):
    names = np.array(["film", "film", "film", "film"])
    write_archive(tmp_path, video_ids=np.array(["a", "b", "c", "d"]), source_video_names=names)
    assert load(files(tmp_path, streams={})).group.tolist() == ["a", "b", "c", "d"]
    names[2:] = "two", "two"
    write_archive(tmp_path, video_ids=np.array(["a", "b", "c", "d"]), source_video_names=names)
    dataset = load(files(tmp_path, streams={}))
    assert dataset.group.tolist() == ["film", "film", "two", "two"]
    assert any("the 4 videos are parts or variants of 2 sources" in note for note in dataset.provenance.notes)


@pytest.fixture
def film(tmp_path):
    """Two videos at 5 per second with a table of what happens in each second."""
    rng = np.random.default_rng(0)
    parts, answers = [], []
    for video, seconds in (("x", 8), ("y", 6)):
        times = np.arange(5 * seconds) / 5
        columns = {"level": rng.normal(size=len(times)), "on": rng.integers(0, 2, len(times))}
        bits = {f"e{i}": rng.normal(size=len(times)) for i in range(3)}
        parts.append(pd.DataFrame({"video": video, "time": times, **columns, **bits}))
        share, mood = rng.random(seconds), rng.choice(["x", "y", "z"], seconds)
        mood[:3] = ["x", "y", "z"]
        share[:2] = 0.0, 1.0
        frame = pd.DataFrame({"video": video, "time": np.arange(seconds) + 0.02, "share": share, "mood": mood})
        answers.append(frame.assign(warm=rng.normal(size=seconds)))
    pd.concat(parts).to_parquet(tmp_path / "stream.parquet")
    told = pd.concat(answers, ignore_index=True)
    told.loc[2, "warm"], told.loc[9, "mood"] = np.nan, None
    told.to_csv(tmp_path / "answers.csv", index=False)
    return tmp_path


TARGETS = {
    "file": "answers.csv",
    "tasks": {
        "speech": {"column": "share", "at_least": 0.5},
        "mood": {"kind": "multiclass", "classes": ["x", "y", "z"]},
        "warm": {"kind": "regression"},
    },
}
STREAM = {"file": "stream.parquet", "columns": {"level": "continuous", "on": "binary"}, "embedding": "e{0..2}"}


def seconds(root, **changes):
    tree = {"root": str(root), "tracks": None, "rate": 1, "length": 4, "horizon": 0, "clock": "targets"}
    return settings(**{**tree, "streams": {"s": STREAM}, "targets": TARGETS, "leakage_auroc": 1.0, **changes})


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_targets_of_a_table_are_those_of_their_steps(film, horizon):
    dataset, table = load(seconds(film, horizon=horizon)), pd.read_csv(film / "answers.csv")
    batch = everything(dataset)
    codes = {"x": 0.0, "y": 1.0, "z": 2.0}
    for row in range(len(dataset)):
        own = table[table["video"] == dataset.group[row]].reset_index()
        for position in range(4):
            step = round(dataset.order[row]) + position - 4 + int(dataset.windows.rows[row]) + horizon
            there = position >= 4 - dataset.windows.rows[row] and step < len(own)
            cells = own.loc[step] if there else None
            expected = {
                "speech": None if cells is None else float(cells["share"] >= 0.5),
                "mood": None if cells is None or pd.isna(cells["mood"]) else codes[cells["mood"]],
                "warm": None if cells is None or pd.isna(cells["warm"]) else np.float32(cells["warm"]),
            }
            for task, value in expected.items():
                assert bool(batch.known[task][row, position]) == (value is not None)
                assert batch.targets[task][row, position] == (value or 0.0)
    assert [task.causal for task in dataset.spec.tasks] == [horizon > 0] * 3


def test_a_dense_stream_is_summed_up_over_each_step(film):
    """Means and deviations of the samples in [t, t + 1 s), as pandas has them; of an embedding the mean's direction."""
    dataset = load(seconds(film, streams={"s": {**STREAM, "summary": ["mean", "std"]}}, clock="targets", length=8))
    names = [f.name for f in dataset.spec.modality("s").features]
    assert names == ["level mean", "level std", "on mean", "on std", "e0", "e1", "e2"]
    frame = pd.read_parquet(film / "stream.parquet")
    frame = frame[frame["video"] == "x"]
    second = np.floor(frame["time"] - 0.02 + 1e-9)  # the clock's steps are at 0.02, 1.02, ...
    by = frame[second >= 0].groupby(second[second >= 0])
    found = everything(dataset).inputs["s"][0].numpy()[: len(by.size())]
    plain = by[["level", "on"]]
    assert np.allclose(found[:, [0, 2]], plain.mean(), atol=1e-6)
    assert np.allclose(found[:, [1, 3]], plain.std(ddof=0), atol=1e-6)
    means = by[["e0", "e1", "e2"]].mean().to_numpy()
    assert np.allclose(found[:, 4:], means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)


def test_what_ticks_is_the_targets_a_stream_or_every_so_often(film):
    of = {clock: load(seconds(film, clock=clock, rate=rate)) for clock, rate in (("targets", 1), ("s", 5), (None, 2))}
    table, frame = pd.read_csv(film / "answers.csv"), pd.read_parquet(film / "stream.parquet")
    assert of["targets"].times.tolist() == table["time"].tolist()
    assert of["s"].times.tolist() == frame["time"].tolist()
    last = frame.groupby("video")["time"].max()
    assert of[None].times.tolist() == [step / 2 for end in last for step in range(int(2 * end) + 1)]
    assert everything(of["s"]).known["speech"].sum() == len(table)  # only steps beside a row of the table


def test_a_clock_that_ticks_faster_than_said_is_refused(film):
    with pytest.raises(ValueError, match=r"video 'x': expected steps 1 s apart \(data.rate=1\), found 0.2 s"):
        load(seconds(film, clock="s"))


def test_bits_are_signs_of_a_vector_of_length_one(tmp_path):
    write_archive(tmp_path)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (20, 16)).astype(np.uint8)
    times = np.tile(np.arange(10) / 10, 2)
    np.savez(tmp_path / "all.npz", run=np.repeat(["a", "b"], 10), t=times, bits=np.packbits(bits, axis=1))
    stream = {"file": "all.npz", "video": "run", "time": "t", "embedding": "bits", "unpack": True, "half": True}
    dataset = load(files(tmp_path, streams={"frame": stream}))
    assert dataset.steps["frame"].vectors.dtype == torch.float16
    found = everything(dataset).inputs["frame"]
    assert found.dtype == torch.float32 and [f.name for f in dataset.spec.modality("frame").features][:2] == [
        "bits_0",
        "bits_1",
    ]
    assert torch.equal(found.reshape(20, 16), (torch.from_numpy(bits).float() * 2 - 1) / 4)


def test_half_halves_what_an_embedding_takes_and_changes_it_by_rounding_only():
    streams = {**SMALL, "visual": {**SMALL["visual"], "half": False}}
    half, whole = load(settings()), load(settings(streams=streams))
    assert 2 * half.steps["visual"].vectors.nbytes == whole.steps["visual"].vectors.nbytes
    ours, theirs = (everything(dataset).inputs["visual"][..., 3:] for dataset in (half, whole))
    assert torch.allclose(ours, theirs, atol=2e-3) and not torch.equal(ours, theirs)


def test_a_face_that_is_not_there_has_no_place_and_what_is_scaled_stays_zero(tmp_path):
    write_archive(tmp_path)
    stream = {
        "file": "{video}.csv",
        "columns": {"face_count": "discrete", "face_size": "continuous"},
        "only_where": {"face_size": "face_count"},
    }
    count = np.array([1, 1, 0, 0, 2, 2, 2, 0, 1, 1])
    frame = pd.DataFrame({"time": np.arange(10) / 10, "face_count": count, "face_size": np.where(count, 5.0, 77.0)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    batch = everything(load(files(tmp_path, streams={"visual": stream})))
    observed = batch.observed["visual"][:2].reshape(10, 2)
    assert observed[:, 0].all() and observed[:, 1].tolist() == (count > 0).tolist()
    assert set(batch.inputs["visual"][:2, :, 1].flatten().tolist()) == {0.0, 5.0}


def test_new_rows_are_the_windows_of_the_models_length_without_targets(film):
    trained = load(seconds(film))
    (film / "answers.csv").unlink()
    found = records(seconds(film, length=3, stride=1), labelled=False, spec=trained.spec)
    assert found.ids.tolist() == ["x/0", "x/1", "y/0", "y/1"]
    modality = trained.spec.modality("s")
    assert list(found.modalities["s"].table.frame.columns) == list(modality.columns)
    encoded = encode(modality, found.modalities["s"])
    assert encoded.inputs.shape == (4, 4, 5) and encoded.valid.sum(1).tolist() == [4, 4, 4, 2]


def test_logarithms_are_of_what_is_above_the_floor(film):
    frame = pd.read_parquet(film / "stream.parquet")
    dataset = load(seconds(film, clock="s", rate=5, streams={"s": {**STREAM, "log": {"level": 0.5}}}))
    assert dataset.spec.modality("s").features[0].name == "log level"
    found = dataset.steps["s"].values[:-1, 0].numpy()
    assert np.allclose(found, np.log(np.maximum(frame["level"], 0.5)), atol=1e-6)


@pytest.mark.parametrize("horizon", [0, 1])
def test_spans_are_around_a_step_and_where_answers_lie_ahead_before_it(film, horizon):
    summary = {**STREAM, "summary": ["mean"], "spans": [3]}
    dataset = load(seconds(film, clock=None, rate=1, streams={"s": summary}, horizon=horizon))
    assert [f.name for f in dataset.spec.modality("s").features][:4] == [
        "level mean",
        "on mean",
        "level mean 3 s",
        "on mean 3 s",
    ]
    frame = pd.read_parquet(film / "stream.parquet")
    frame, begins = frame[frame["video"] == "x"], -2.0 if horizon else -1.0
    for step in range(7):
        own = frame[(frame["time"] >= step + begins - 1e-6) & (frame["time"] < step + begins + 3 - 1e-6)]
        assert dataset.steps["s"].values[step, 2] == pytest.approx(own["level"].mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tracks": None}, "expected tracks or targets"),
        ({"tracks": None, "streams": {}, "targets": TARGETS}, "expected streams or tracks"),
        ({"clock": "vidoe"}, "clock: expected track, found 'vidoe'"),
        ({"twin": {"rates": {"sound": 3.0}}}, "twin.rates: unknown stream 'sound'"),
        ({"streams": {"track": SMALL["audio"]}}, "expected other names than 'track'"),
        ({"targets": {"file": "t.csv", "tasks": {"active": {}}}, "root": "."}, "names that the tracks' tasks have not"),
        ({"streams": {"a": {"file": "{video}.csv", "columns": {}}}}, "expected at least one column or an embedding"),
        ({"streams": {"a": {"file": "{video}.csv", "embedding": "clip"}}}, "expected columns such as 'clip_{0..511}'"),
        ({"streams": {"a": {"file": "{video}.csv", "embedding": "c{0..3}", "unpack": True}}}, "expected an NPZ file"),
        ({"streams": {"a": {"file": "{video}.xls", "columns": {"x": "binary"}}}}, "CSV, parquet or NPZ file"),
        (
            {"streams": {"a": {"file": "{video}.csv", "columns": {"x": "binary"}, "only_where": {"x": "y"}}}},
            "only_where: unknown column 'y'",
        ),
        (
            {
                "streams": {
                    "a": {
                        "file": "{video}.csv",
                        "columns": {"x": "continuous", "y": "continuous"},
                        "only_where": {"x": "y"},
                    }
                }
            },
            "only_where.x: expected a discrete or binary column",
        ),
        ({"tracks": {"columns": ["scale"]}}, "expected 'active' among them with ignore_inactive"),
        ({"streams": {"a": {"file": "f.csv", "columns": {"time": "binary"}}}}, "expected each column once"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, line):
    with pytest.raises(ConfigError) as error:
        settings(**changes)
    assert line in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_target_of_an_auxiliary_group_decides_nothing(film):
    first = next(iter(TARGETS["tasks"]))
    tasks = {**TARGETS["tasks"], first: {**TARGETS["tasks"][first], "auxiliary": "mood"}}
    spec = load(seconds(film, targets={**TARGETS, "tasks": tasks})).spec
    assert spec.task(first).auxiliary == "mood"
    assert first not in [task.name for task in spec.main_tasks] and len(spec.main_tasks) == len(tasks) - 1


CATEGORY = {**TRACKS, "assets": "category"}


def test_an_asset_as_a_category_is_the_same_asset_with_a_feature_per_class():
    """Of idle tracks, too; nothing else of the tracks and nothing of the answers changes."""
    plain, apart = load(settings(horizon=1)), load(settings(horizon=1, tracks=CATEGORY))
    number, category = everything(plain), everything(apart)
    names = [f.name for f in apart.spec.modality("track").features]
    for i, unit in enumerate(plain.spec.task("asset").units):
        words = [names.index(f"{unit} asset_id={word}") for word in ("asset 0", "asset 1", "asset 2", "unknown")]
        code = number.inputs["track"][..., 9 * i + 1]
        told = torch.nn.functional.one_hot(code.long(), 4) * number.valid["track"].unsqueeze(-1)
        assert torch.equal(category.inputs["track"][..., words], told.float())
    rest = [names.index(f.name) for f in plain.spec.modality("track").features if "asset" not in f.name]
    own = [i for i, f in enumerate(plain.spec.modality("track").features) if "asset" not in f.name]
    assert torch.equal(category.inputs["track"][..., rest], number.inputs["track"][..., own])
    assert torch.equal(category.valid["track"], number.valid["track"])
    for name, target in number.targets.items():
        assert torch.equal(category.targets[name], target) and torch.equal(category.known[name], number.known[name])


def test_an_asset_that_is_missing_or_none_of_the_classes_is_the_unknown_one(tmp_path):
    sequences = np.zeros((1, 5, 27), np.float32)
    sequences[0, :, 1] = [0, 1, 7, 2, 0]  # of an idle track
    sequences[0, :, 10] = [1, np.nan, 1, 1, 1]
    write_archive(tmp_path, **archive(["a"], sequences, np.ones((1, 5), bool)))
    track = everything(load(files(tmp_path, streams={}, tracks=CATEGORY))).inputs["track"][0].reshape(5, 3, 12)
    assert track[:, 0, 1:5].argmax(-1).tolist() == [0, 1, 3, 2, 0]
    assert track[:, 1, 1:5].argmax(-1).tolist() == [1, 3, 1, 1, 1]


def test_raw_rows_with_assets_as_categories_become_the_same_inputs():
    config = settings(tracks=CATEGORY)
    dataset, found = load(config), records(config)
    batch = everything(dataset)
    encoded = encode(dataset.spec.modality("track"), found.modalities["track"])
    assert np.array_equal(encoded.inputs, batch.inputs["track"].numpy())
    assert np.array_equal(encoded.valid, batch.valid["track"].numpy())
    assert np.array_equal(encoded.observed, batch.observed["track"].numpy())


def test_rows_of_training_are_answered_also_where_an_asset_is_unknown(tmp_path):
    """And a step that shows nothing but an asset that is none is no step, in training as later."""
    sequences = np.zeros((1, 5, 27), np.float32)
    sequences[0, :, 1] = [0, 1, 7, 2, 0]
    sequences[0, 4] = np.nan
    sequences[0, 4, 1] = 7
    write_archive(tmp_path, **archive(["a"], sequences, np.ones((1, 5), bool)))
    config = files(tmp_path, streams={}, tracks=CATEGORY)
    dataset, found = load(config), records(config)
    gaps = {f.column: f.gaps for f in dataset.spec.modality("track").features if f.kind == "category"}
    assert gaps == {"track 1 asset_id": True, "track 2 asset_id": False, "track 3 asset_id": False}
    encoded = encode(dataset.spec.modality("track"), found.modalities["track"], strict=True)
    batch = everything(dataset)
    assert np.array_equal(encoded.inputs, batch.inputs["track"].numpy())
    assert np.array_equal(encoded.valid, batch.valid["track"].numpy()) and not encoded.valid[0, -1]
