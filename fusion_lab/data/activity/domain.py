"""Activity recognition from body-worn sensors: a row is a chunk of a recording, one sequence per sensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from fusion_lab.contracts import DataError, Feature, Modality, Provenance, Spec, Task
from fusion_lab.data.activity.chunks import Chunks, Cut, Cutting, chunks_of, cut, held
from fusion_lab.data.activity.reading import read_recorded
from fusion_lab.data.activity.samples import Recorded
from fusion_lab.data.activity.settings import (
    ACTIVITIES,
    CHANNELS,
    HEART_RATE,
    HEART_RATE_BPM,
    TRANSIENT,
    ActivityConfig,
)
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.cells import listed
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.raw import Records
from fusion_lab.data.records import records_of

TASK = "activity"
PLACE = "sample"


def load(config: ActivityConfig) -> ArrayDataset:
    """Reads the recordings, cuts them into chunks, keeps the classes that the settings allow, and checks the result.
    Values keep their units: scaling is fitted per fold, elsewhere.

    Raises:
        DataError: a file, a sample or a setting that the recordings do not fit.
    """
    dataset = dataset_of(config, read_recorded(config))
    # a mean costs a quarter of a look at each sample; and a feature that tells an activity is what sensors are for
    noticed = check_dataset(_means(dataset), leakage_auroc=1.0)
    return replace(dataset, provenance=replace(dataset.provenance, notes=dataset.provenance.notes + noticed))


def spec(config: ActivityConfig) -> Spec:
    """Which classes there are and which cells are missing comes from the data, so they are read."""
    return load(config).spec


def records(config: ActivityConfig, labelled: bool = True, spec: Spec | None = None) -> Records:
    """The raw rows: a line per sample, a column per channel.

    ``labelled``: the rows of the data set that :func:`load` gives. Otherwise the chunks of all recordings, whatever was
    done in them, with the columns and of the length that ``spec``, what a model was trained on, has; a sensor of which
    there is no column is left out.

    Raises:
        DataError: a file or a sample that cannot be used.
    """
    if labelled:
        return records_of(load(config))
    whatever_is_there = config.model_copy(update={"modalities": ()})  # what a model takes is looked for afterwards
    recorded = read_recorded(whatever_is_there, labelled=False)
    return records_of(unlabelled_of(config, recorded, spec.modalities if spec else _modalities(config)))


def dataset_of(config: ActivityConfig, recorded: Recorded) -> ArrayDataset:
    """The chunks of labelled recordings, unchecked.

    Raises:
        DataError: no recording of a wanted activity, or fewer than two classes.
    """
    cutting = Cutting.of(config.chunk, config.stride, config.shortest)
    kept = _kept(config, recorded, chunks_of(recorded, cutting))
    modalities = _modalities(config)
    for modality in modalities:
        _require(config, recorded, modality)
    cuts = {m.name: cut(recorded, kept.chunks, m.columns, config.chunk) for m in modalities}
    named = tuple(ACTIVITIES[activity] for activity in kept.classes)
    task = Task(TASK, "binary" if len(named) == 2 else "multiclass", named)
    codes = np.searchsorted(kept.classes, kept.chunks.activity).astype(np.float32)
    notes = (*recorded.notes, *kept.notes, *_told(recorded, kept, cutting), *_missing(kept.chunks, cuts))
    made = _assembled(config, recorded, kept.chunks, modalities, cuts, task, codes)
    return replace(made, provenance=Provenance(recorded.sources, notes))


def _means(dataset: ArrayDataset) -> ArrayDataset:
    """Of each chunk the means of its samples. One of a feature that never varies is its value: sums are in 64 bits."""
    counts = {name: torch.from_numpy(o.numpy().sum(axis=1)) for name, o in dataset.observed.items()}
    sums = {name: torch.from_numpy(v.numpy().sum(axis=1, dtype=np.float64)) for name, v in dataset.inputs.items()}
    modalities = (replace(m, kind="vector", length=None) for m in dataset.spec.modalities)
    return replace(
        dataset,
        spec=replace(dataset.spec, modalities=tuple(modalities)),
        inputs={name: (sums[name] / count.clamp(min=1)).float() for name, count in counts.items()},
        valid={name: valid.any(dim=1) for name, valid in dataset.valid.items()},
        observed={name: count > 0 for name, count in counts.items()},
    )


def unlabelled_of(config: ActivityConfig, recorded: Recorded, modalities: Sequence[Modality]) -> ArrayDataset:
    """The chunks of recordings whatever their activity, as a model of these ``modalities`` takes them; without a task.

    Raises:
        DataError: no sensor of the model's, some columns of one, or no recording that is long enough.
    """
    there = [m for m in modalities if set(m.columns) & set(recorded.columns)]
    if not there:
        raise DataError(
            f"{config.root}: expected a sensor of {listed([m.name for m in modalities])}, found columns "
            f"{listed(list(recorded.columns))}"
        )
    for modality in there:
        _require(config, recorded, modality)
    length = there[0].shape[0]
    cutting = Cutting.of(length, config.stride, config.shortest)
    chunks = chunks_of(recorded, cutting)
    _require_chunks(config.model_copy(update={"chunk": length}), recorded, chunks)
    cuts = {m.name: cut(recorded, chunks, m.columns, length) for m in there}
    return _assembled(config, recorded, chunks, there, cuts)


def _modalities(config: ActivityConfig) -> tuple[Modality, ...]:
    made = []
    for name in config.modalities:
        columns = [f"{name}_{column}" for channel in config.channels for column in CHANNELS[channel]]
        columns = [HEART_RATE_BPM] if name == HEART_RATE else columns
        made.append(Modality(name, "sequence", tuple(Feature(c) for c in columns), config.chunk, PLACE))
    return tuple(made)


def _require(config: ActivityConfig, recorded: Recorded, modality: Modality) -> None:
    lacking = [column for column in modality.columns if column not in recorded.columns]
    if lacking:
        raise DataError(
            f"{config.root}: expected all columns of modality {modality.name!r}, found no {listed(lacking)}"
        )


class _Kept(NamedTuple):
    """The chunks of the classes that stay, these in the order of their ids."""

    chunks: Chunks
    classes: tuple[int, ...]
    notes: tuple[str, ...]


def _kept(config: ActivityConfig, recorded: Recorded, chunks: Chunks) -> _Kept:
    """What the settings keep. A class that few subjects have cannot be learned from some and tested on others."""
    _require_chunks(config, recorded, chunks)
    who = _subjects(recorded, chunks)
    for name in config.activities or ():
        if name not in who:
            found = listed(list(who)) or "none at all"
            raise DataError(f"{config.root}: expected chunks of {name!r} (activities), found {found}")
    wanted = {i: name for i, name in ACTIVITIES.items() if name in who and name in (config.activities or who)}
    known = all(samples.subject for samples in recorded.subjects)
    classes = {i: name for i, name in wanted.items() if not known or len(who[name]) >= config.min_subjects}
    if len(classes) < 2:
        rule = f" that at least {config.min_subjects} subjects have (min_subjects)" if known else ""
        found = "; ".join(f"{name} ({', '.join(who[name])})" if known else name for name in wanted.values()) or "none"
        raise DataError(f"{config.root}: expected two or more activities{rule}, found {found}")
    few = [f"{name} ({', '.join(who[name])})" for name in wanted.values() if name not in classes.values()]
    notes = [f"left out, for fewer than {config.min_subjects} subjects have them: {'; '.join(few)}"] if few else []
    if not known:
        notes = ["whose recordings these are is not known: no class is left out for having too few subjects"]
    kept = chunks.where(np.isin(chunks.activity, list(classes)))
    without = [s.subject for place, s in enumerate(recorded.subjects) if not (kept.subject == place).any()]
    notes += [f"subjects of whom no chunk is used: {listed(without)}"] if without else []
    return _Kept(kept, tuple(classes), tuple(notes))


def _require_chunks(config: ActivityConfig, recorded: Recorded, chunks: Chunks) -> None:
    if not len(chunks.start):
        longest = max((r.rows for samples in recorded.subjects for r in samples.recordings), default=0)
        least = Cutting.of(config.chunk, config.stride, config.shortest).least
        hint = f"(data.chunk={config.chunk}, and data.gap={config.gap:g} s ends a recording)"
        raise DataError(
            f"{config.root}: expected a recording of {least} samples or more, found {longest} in the longest {hint}"
        )


def _subjects(recorded: Recorded, chunks: Chunks) -> dict[str, list[str]]:
    """The subjects with chunks of each activity that has any."""
    names = [samples.subject for samples in recorded.subjects]
    of = {name: np.unique(chunks.subject[chunks.activity == activity]) for activity, name in ACTIVITIES.items()}
    return {name: [names[s] for s in subjects] for name, subjects in of.items() if len(subjects)}


def _told(recorded: Recorded, kept: _Kept, cutting: Cutting) -> Iterator[str]:
    """What became of the recordings of the classes that stay."""
    lengths = [r.rows for samples in recorded.subjects for r in samples.recordings if r.activity in kept.classes]
    chunks = len(kept.chunks.start)
    shorter = int((kept.chunks.rows < cutting.length).sum())
    yield (
        f"{len(lengths)} recordings of {len(kept.classes)} activities give {chunks} chunks of {cutting.length} samples"
        + (f", {shorter} of them shorter" if shorter else "")
    )
    lost = sum(lengths) - held(kept.chunks, cutting)
    if lost:
        why = f"what is left at a recording's end is kept from {cutting.least} samples on"
        if cutting.stride > cutting.length:
            why += f", and {cutting.stride - cutting.length} between chunks are skipped (data.stride)"
        yield f"{lost:,} samples ({lost / sum(lengths):.2%}) are in no chunk: {why}"


def _missing(chunks: Chunks, cuts: Mapping[str, Cut]) -> Iterator[str]:
    samples = int(chunks.rows.sum())
    filled = {name: np.count_nonzero(made.observed) / made.observed.shape[2] for name, made in cuts.items()}
    shares = {name: 1 - count / samples for name, count in filled.items()}
    told = ", ".join(f"{name} {share:.2%}" for name, share in shares.items() if share)
    if told:
        yield f"missing cells: {told}"


def _assembled(
    config: ActivityConfig,
    recorded: Recorded,
    chunks: Chunks,
    modalities: Sequence[Modality],
    cuts: Mapping[str, Cut],
    task: Task | None = None,
    codes: np.ndarray | None = None,
) -> ArrayDataset:
    """The rows of the chunks; without a task, of a data set that no labels are known of."""
    rows, of = len(chunks.start), _recording_places(recorded, chunks)
    recording = np.array(_recording_names(recorded))[of]
    every = [r for samples in recorded.subjects for r in samples.recordings]
    first, began = (np.array([getattr(r, part) for r in every]) for part in ("start", "seconds"))
    given = np.array([r.split for r in every])[of]
    group = np.array([samples.subject for samples in recorded.subjects])[chunks.subject]
    parts = {part: {n: torch.from_numpy(getattr(made, part)) for n, made in cuts.items()} for part in Cut._fields}
    return ArrayDataset.checked(
        spec=Spec(tuple(_with_gaps(m, cuts[m.name]) for m in modalities), (task,) if task else ()),
        ids=np.array([f"{name}/{number + 1}" for name, number in zip(recording, chunks.number, strict=True)]),
        quality={name: torch.ones(rows) for name in cuts},
        targets={task.name: torch.from_numpy(codes)} if task else {},
        known={task.name: torch.ones(rows, dtype=torch.bool)} if task else {},
        provenance=Provenance(recorded.sources, recorded.notes),
        group=group if (group != "").all() else None,
        order=began[of] + (chunks.start - first[of]) / config.rate,
        recording=recording,
        given_split=given if (given != "").any() else None,
        **parts,
    )


def _recording_places(recorded: Recorded, chunks: Chunks) -> np.ndarray:
    """Place of each chunk's recording among those of all subjects, int [R]."""
    counts = [len(samples.recordings) for samples in recorded.subjects]
    return np.cumsum([0, *counts])[chunks.subject] + chunks.recording


def _recording_names(recorded: Recorded) -> list[str]:
    """``subject/activity/number``, as far as they are known; recordings are numbered by subject."""
    names, numbers = [], Counter()
    for samples in recorded.subjects:
        for recording in samples.recordings:
            numbers[samples.subject] += 1
            activity = ACTIVITIES.get(recording.activity or TRANSIENT, "")
            names.append("/".join(filter(None, (samples.subject, activity, str(numbers[samples.subject])))))
    return names


def _with_gaps(modality: Modality, made: Cut) -> Modality:
    """The modality whose features tell which of them are missing in samples that have others."""
    samples = np.count_nonzero(made.valid)
    filled = [np.count_nonzero(made.observed[:, :, i]) for i in range(modality.width)]
    features = (replace(f, gaps=bool(n < samples)) for f, n in zip(modality.features, filled, strict=True))
    return replace(modality, features=tuple(features))
