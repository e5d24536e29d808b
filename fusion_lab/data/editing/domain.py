"""Multi-rate recordings with answers per step: a row is a window of a video, one sequence per stream on one clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from fusion_lab.contracts import DataError, Dataset, Modality, Provenance, Spec, Task
from fusion_lab.data.cells import listed
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.editing.dataset import Answer, Steps, Surveyed, WindowDataset, window_records
from fusion_lab.data.editing.noticing import (
    inputs_noticed,
    labels_noticed,
    stream_notes,
    track_notes,
    unused_notes,
    varies,
)
from fusion_lab.data.editing.packing import Clocks, Packed, clocks_of, pack, with_gaps
from fusion_lab.data.editing.recordings import Folder, Recordings
from fusion_lab.data.editing.settings import ACTIVE, ASSET, TASK_OF, TRACK, EditingConfig, TracksConfig
from fusion_lab.data.editing.targets import at_steps, target_task
from fusion_lab.data.editing.track_features import track_modality, track_steps, with_unknown
from fusion_lab.data.editing.tracks import is_asset
from fusion_lab.data.editing.twin import Twin
from fusion_lab.data.editing.windows import Windows, ahead_of, runs_of, windows_of
from fusion_lab.data.raw import Records
from fusion_lab.data.subset import Subset

IDLE, BUSY = "idle", "active"
LOOKED_AT = 1 << 25
"""Cells of one stream that are looked through for leaks."""


def load(config: EditingConfig) -> WindowDataset:
    """Reads the recordings, brings their streams to one clock, cuts windows and checks the result. Values keep their
    units: scaling is fitted per fold, elsewhere.

    Raises:
        DataError: a file or a cell that cannot be used, a video that cannot be aligned.
    """
    recordings = recordings_of(config)
    dataset = dataset_of(config, recordings)
    if not dataset.spec.tasks:
        raise DataError(f"{recordings.where}: expected something on the tracks that varies, found nothing to foretell")
    per_row = [task for task in dataset.spec.tasks if not task.units]
    noticed = [*labels_noticed(dataset)]
    if per_row:
        noticed += check_dataset(_looked_at(dataset, per_row), leakage_auroc=config.leakage_auroc)
    else:
        noticed += inputs_noticed(dataset)
    return dataset.noted(*noticed)


def _looked_at(dataset: WindowDataset, tasks: list[Task]) -> Dataset:
    """What is looked through for leaks: as many windows, spread evenly, as can be laid out step by step."""
    answers = {task.name: dataset.answers[task.name] for task in tasks}
    plain = replace(dataset, spec=replace(dataset.spec, tasks=tuple(tasks)), answers=answers)
    most = max(1, LOOKED_AT // (dataset.length * max(m.width for m in dataset.spec.modalities)))
    if len(dataset) <= most:
        return plain
    return Subset(plain, np.linspace(0, len(dataset) - 1, most).astype(int), "some of the windows")


def spec(config: EditingConfig) -> Spec:
    """Which streams there are and which cells are missing comes from the data, so they are read."""
    return load(config).spec


def records(config: EditingConfig, labelled: bool = True, spec: Spec | None = None) -> Records:
    """The raw rows: a line per step of a window, a column per feature.

    ``labelled``: those of the data set that :func:`load` gives. Otherwise the windows of all videos, whatever is known
    of them, of the length and with the modalities of ``spec``, what a model was trained on; some may be missing.

    Raises:
        DataError: a file or a cell that cannot be used, or no modality of the model's.
    """
    if labelled:
        return window_records(load(config))
    if spec is not None:
        config = config.model_copy(update={"length": spec.modalities[0].shape[0], "stride": None})
    recordings = recordings_of(config, labelled=False)
    dataset = dataset_of(config, recordings)
    wanted = [m.name for m in spec.modalities] if spec else list(dataset.steps)
    there = tuple(m for m in dataset.spec.modalities if m.name in wanted)
    if not there:
        found = listed(list(dataset.steps))
        raise DataError(f"{recordings.where}: expected one of the streams {listed(wanted)}, found {found}")
    return window_records(
        replace(dataset, spec=Spec(there, ()), answers={}, steps={m.name: dataset.steps[m.name] for m in there})
    )


def recordings_of(config: EditingConfig, labelled: bool = True) -> Recordings:
    """The twin, or the files of the folder.

    Raises:
        DataError: the folder or a file cannot be used.
    """
    return Twin(config, config.made) if config.made is not None else Folder(config, labelled)


class _Track(NamedTuple):
    modality: Modality
    steps: Steps
    cells: Steps  # as the files have them
    notes: tuple[str, ...]


def dataset_of(config: EditingConfig, recordings: Recordings) -> WindowDataset:
    """The windows of all recordings, unchecked.

    Raises:
        DataError: a file or a cell that cannot be used, a video that cannot be aligned.
    """
    clocks = clocks_of(config, recordings)
    packed = {name: pack(config, recordings, name, clocks) for name in recordings.streams}
    track = _track(config, recordings, clocks)
    modalities = [p.modality for p in packed.values()] + ([track.modality] if track else [])
    if not modalities:
        raise DataError(f"{recordings.where}: expected tracks or a stream, found neither")
    run = runs_of(clocks.video, clocks.time, config.rate)
    windows = windows_of(clocks.video, run, config.length, config.stride or config.length)
    ahead = torch.from_numpy(np.append(ahead_of(run, config.horizon), len(run)))
    answers = dict(_answers(config, recordings, clocks, track))
    same = [name for name in config.track_tasks() if name in answers and not varies(answers[name], ahead)]
    answers = {name: answer for name, answer in answers.items() if name not in same}
    tasks = tuple(t for t in _tasks(config, tuple(m.name for m in modalities), recordings) if t.name in answers)
    video = np.array(recordings.videos)[clocks.video[windows.start]]
    names = [f"{name}/{number}" for name, number in zip(video, windows.number, strict=True)]
    group, told = _groups(recordings)
    notes = (
        *recordings.notes,
        *_counted(config, recordings, clocks, windows, int(run[-1]) + 1),
        *(note for name, p in packed.items() for note in stream_notes(name, p)),
        *unused_notes(packed),
        *(track.notes if track else ()),
        *([f"tracks: no task is made of what never varies: {', '.join(same)}"] if same else []),
        *told,
        *_horizon_notes(config, recordings),
    )
    return WindowDataset(
        spec=Spec(tuple(modalities), tasks),
        ids=np.array(names),
        windows=windows,
        length=config.length,
        times=clocks.time,
        steps={**{name: p.steps for name, p in packed.items()}, **({TRACK: track.steps} if track else {})},
        answers=answers,
        ahead=ahead,
        group=group[clocks.video[windows.start]],
        order=clocks.time[windows.start],
        provenance=Provenance(recordings.sources(), notes),
        given_split=_split(recordings, clocks.video[windows.start]),
        survey=_survey(packed),
    )


def _track(config: EditingConfig, recordings: Recordings, clocks: Clocks) -> _Track | None:
    if config.tracks is None or recordings.tracks is None:
        return None
    read = Steps.blank(len(clocks.time), config.tracks.width, 0, half=False)
    cells = read.values[:-1].numpy()
    filled = recordings.tracks.fill(cells)
    missing = np.isnan(cells)
    read.observed[:-1] = torch.from_numpy(~missing)
    np.copyto(cells, 0.0, where=missing)
    notes = tuple(track_notes(config.tracks, filled, recordings.tracks.repeated))
    steps = track_steps(config.tracks, read)
    modality = with_unknown(with_gaps(track_modality(config.tracks, config.length), steps), steps)
    return _Track(modality, steps, read, notes)


def _tasks(config: EditingConfig, steps: tuple[str, ...], recordings: Recordings) -> Iterator[Task]:
    causal = config.horizon > 0
    if config.tracks is not None and recordings.tracks is not None:
        for column in config.tracks.columns:
            name, units = TASK_OF.get(column, column), config.tracks.units
            if column == ACTIVE:
                yield Task(name, "binary", (IDLE, BUSY), steps, units=units, causal=causal)
            elif column == ASSET:
                yield _asset_task(config.tracks, steps, causal)
            else:
                yield Task(name, "regression", (), steps, units=units, causal=causal)
    if config.targets is not None and recordings.targets is not None:
        for name, task in config.targets.tasks.items():
            yield target_task(name, task, steps, causal)


def _asset_task(tracks: TracksConfig, steps: tuple[str, ...], causal: bool) -> Task:
    """Of two assets a binary task."""
    classes = tracks.asset_names
    kind = "binary" if len(classes) == 2 else "multiclass"
    return Task(TASK_OF[ASSET], kind, classes, steps, units=tracks.units, causal=causal)


def _answers(
    config: EditingConfig, recordings: Recordings, clocks: Clocks, track: _Track | None
) -> Iterator[tuple[str, Answer]]:
    if config.tracks is not None and track is not None:
        yield from _track_answers(config.tracks, track.cells)
    if config.targets is not None and recordings.targets is not None:
        told = recordings.targets.by_video
        names = list(config.targets.tasks)
        parts = [
            at_steps(told.get(video), clocks.of(place), len(names), config.tolerance)
            for place, video in enumerate(recordings.videos)
        ]
        values = np.concatenate([*parts, np.full((1, len(names)), np.nan, np.float32)])
        for column, name in enumerate(names):
            own = torch.from_numpy(np.ascontiguousarray(values[:, column]))
            yield name, Answer(own.nan_to_num(0.0), ~own.isnan())


def _track_answers(tracks: TracksConfig, steps: Steps) -> Iterator[tuple[str, Answer]]:
    """Of each column its cells in all tracks; they are not copied."""
    columns = {name: slice(place, None, len(tracks.columns)) for place, name in enumerate(tracks.columns)}
    for name, own in columns.items():
        values, known = steps.values[:, own], steps.observed[:, own]
        if name == ASSET:
            known = known & torch.from_numpy(is_asset(values.numpy(), tracks.asset_classes))
        elif name != ACTIVE and tracks.ignore_inactive:
            known = known & (steps.values[:, columns[ACTIVE]] > 0)
        yield TASK_OF.get(name, name), Answer(values, known)


def _groups(recordings: Recordings) -> tuple[np.ndarray, list[str]]:
    """Of each video what is never split: itself, or what several videos are parts of, str [V]."""
    videos = np.array(recordings.videos)
    if recordings.tracks is None:
        return videos, []
    source = recordings.tracks.source
    different = len(set(source.tolist()))
    if not 1 < different < len(videos):
        return videos, []
    told = f"the {len(videos)} videos are parts or variants of {different} sources, which are never split"
    return source, [f"{told} (source_video_names)"]


def _split(recordings: Recordings, video: np.ndarray) -> np.ndarray | None:
    if recordings.tracks is None or (recordings.tracks.split == "").any():
        return None
    return recordings.tracks.split[video]


def _counted(
    config: EditingConfig, recordings: Recordings, clocks: Clocks, windows: Windows, runs: int
) -> Iterator[str]:
    shorter = int((windows.rows < config.length).sum())
    yield (
        f"{len(recordings.videos)} videos of {len(clocks.time):,} steps, {config.rate:g} per second, give "
        f"{len(windows.start)} windows of {config.length} steps" + (f", {shorter} of them shorter" if shorter else "")
    )
    if runs > len(recordings.videos):
        yield f"{runs - len(recordings.videos)} breaks in the clocks of videos: no window goes across one"


def _horizon_notes(config: EditingConfig, recordings: Recordings) -> Iterator[str]:
    if config.horizon == 0 and recordings.tracks is not None:
        yield (
            "horizon 0: the tracks' answers at a step are among the inputs of that step: the scores say how well they "
            "are rebuilt, and nothing of foretelling them"
        )


def _survey(packed: Mapping[str, Packed]) -> tuple[Surveyed, ...]:
    return tuple(of for p in packed.values() for of in p.survey)
