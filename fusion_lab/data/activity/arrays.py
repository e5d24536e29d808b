"""Sensor recordings as arrays: ``{split}/{modality}.npy`` [N,T,F] and ``{split}/labels.npy`` [N]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.mapped import mapped
from fusion_lab.data.activity.recordings import (
    SENSOR_COLUMNS,
    SPLITS,
    Layout,
    Part,
    Taken,
    carry_heart_rate,
)
from fusion_lab.data.activity.samples import Recording, Samples
from fusion_lab.data.activity.settings import (
    ACTIVITIES,
    CHANNELS,
    HEART_RATE,
    HEART_RATE_BPM,
    SITES,
    TRANSIENT,
    ActivityConfig,
)
from fusion_lab.data.cells import listed

LABELS = "labels.npy"
COLUMNS_OF = {s: tuple(f"{s}_{c}" for of in CHANNELS.values() for c in of) for s in SITES} | {
    HEART_RATE: (HEART_RATE_BPM,)
}
"""The columns of a modality's array, in order."""


class Split(NamedTuple):
    """The arrays of one folder, mapped."""

    name: str
    labels: np.ndarray | None  # int [N]
    arrays: dict[str, np.ndarray]  # {modality: float [N,T,F]}
    files: tuple[Path, ...]


def array_folders(root: Path) -> list[Path]:
    """The folders ``train``, ``val`` and ``test`` that hold arrays."""
    return [root / split for split in SPLITS if any((root / split).glob("*.npy"))]


def array_layout(config: ActivityConfig, root: Path, labelled: bool) -> Layout:
    """One part, since nobody knows which subject an item is of; every item is a recording.

    Raises:
        DataError: there are no arrays, or their shapes and types do not fit together.
    """
    folders = array_folders(root)
    if not folders:
        raise DataError(f"{root}: expected folders {', '.join(SPLITS)} of .npy arrays, found none")
    splits = [_split(folder, labelled) for folder in folders]
    columns = tuple(c for c in SENSOR_COLUMNS if any(c in COLUMNS_OF[m] for m in splits[0].arrays))
    for split, folder in zip(splits, folders, strict=True):
        if set(split.arrays) != set(splits[0].arrays):
            expected = f"the arrays that {folders[0]} has, {', '.join(splits[0].arrays)}"
            raise DataError(f"{folder}: expected {expected}, found {', '.join(split.arrays)}")
        lacking = next((m for m in config.modalities if m not in split.arrays), None)
        if lacking is not None:
            found = ", ".join(file.name for file in split.files)
            raise DataError(f"{folder}: expected an array {_paths(folder, lacking)[0].name}, found {found}")
    files = tuple(file for split in splits for file in split.files)
    part = Part("", files, partial(_read, config, root, splits, columns))
    return Layout(columns, (part,), tuple(_unread(folders)))


def _unread(folders: Sequence[Path]) -> Iterator[str]:
    """A note on arrays that are of no modality."""
    known = {LABELS, *(path.name for m in COLUMNS_OF for path in _paths(folders[0], m))}
    others = sorted({path.name for folder in folders for path in folder.glob("*.npy")} - known)
    if others:
        yield f"arrays of no known modality are not read: {listed(others)}"


def _split(folder: Path, labelled: bool) -> Split:
    there = {m: [path for path in _paths(folder, m) if path.is_file()] for m in COLUMNS_OF}
    twice = next((paths for paths in there.values() if len(paths) > 1), None)
    if twice:
        raise DataError(f"{folder}: expected one array of each modality, found {' and '.join(p.name for p in twice)}")
    found = {m: paths[0] for m, paths in there.items() if paths}
    if not found:
        raise DataError(f"{folder}: expected arrays {', '.join(f'imu_{s}.npy' for s in SITES)}, found none of them")
    arrays = {m: _modality(path, len(COLUMNS_OF[m])) for m, path in found.items()}
    first = next(iter(found))
    for modality, array in arrays.items():
        if array.shape[:2] != arrays[first].shape[:2]:
            expected = f"{arrays[first].shape[:2]} items and samples as in {found[first].name}"
            raise DataError(f"{found[modality]}: expected {expected}, found {array.shape[:2]}")
    labels = _labels(folder / LABELS, len(arrays[first])) if labelled else None
    return Split(folder.name, labels, arrays, (*found.values(), *([folder / LABELS] if labelled else [])))


def _paths(folder: Path, modality: str) -> list[Path]:
    names = [modality] if modality == HEART_RATE else [f"imu_{modality}", modality]
    return [folder / f"{name}.npy" for name in names]


def _modality(path: Path, width: int) -> np.ndarray:
    array = mapped(path, "an array of numbers")
    if array.ndim != 3 or array.shape[2] != width or not array.shape[1] or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: expected numbers of shape (items, samples, {width}), found {array.dtype} of shape {array.shape}"
        )
    return array


def _labels(path: Path, count: int) -> np.ndarray:
    labels = mapped(path, f"{count} labels, one per item")
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} of shape {labels.shape}"
        raise DataError(f"{path}: expected {count} whole numbers, one per item, found {found}")
    known = np.isin(labels, [TRANSIENT, *ACTIVITIES])
    if not known.all():
        at = int(np.argmin(known))
        ids = ", ".join(str(a) for a in (TRANSIENT, *ACTIVITIES))
        raise DataError(f"{path}: item {at + 1}: expected one of the activities {ids}, found {labels[at]}")
    return labels


def _read(config: ActivityConfig, root: Path, splits: Sequence[Split], columns: tuple[str, ...]) -> Taken:
    values, recordings, left_out, start = [], [], 0, 0
    for split in splits:
        items = _items(split, columns)
        kept = np.ones(len(items), bool) if split.labels is None else split.labels != TRANSIENT
        steps = items.shape[1]
        for item in np.flatnonzero(kept).tolist():
            activity = None if split.labels is None else int(split.labels[item])
            # nobody knows when it was: seconds count the samples before it
            recordings.append(Recording(start, steps, start / config.rate, activity, split.name))
            start += steps
        left_out += int((~kept).sum()) * steps
        values.append(items[kept].reshape(-1, len(columns)))
    if not recordings:
        raise DataError(f"{root}: expected items of at least one activity, found none")
    stacked = np.concatenate(values)
    starts = np.zeros(len(stacked), bool)
    starts[[recording.start for recording in recordings]] = True
    carry_heart_rate(stacked, starts, columns)
    rows = tuple(_rows(split, file) for split in splits for file in split.files)
    return Taken(Samples("", stacked, tuple(recordings)), rows, left_out)


def _rows(split: Split, file: Path) -> int:
    items, steps = next(iter(split.arrays.values())).shape[:2]
    return items if file.name == LABELS else items * steps


def _items(split: Split, columns: tuple[str, ...]) -> np.ndarray:
    """All modalities side by side, float32 [N,T,columns]."""
    first = next(iter(split.arrays.values()))
    items = np.empty((*first.shape[:2], len(columns)), np.float32)
    with np.errstate(over="ignore"):  # what 32 bits do not hold is infinite, and refused
        for modality, array in split.arrays.items():
            at = columns.index(COLUMNS_OF[modality][0])
            items[..., at : at + array.shape[2]] = array
    infinite = np.isinf(items)
    if infinite.any():
        item, step, column = np.argwhere(infinite)[0].tolist()
        modality = next(m for m, names in COLUMNS_OF.items() if columns[column] in names)
        file = next(file for file in split.files if file.name in (f"imu_{modality}.npy", f"{modality}.npy"))
        found = items[item, step, column]
        place = f"item {item + 1}, sample {step + 1}, column {columns[column]!r}"
        raise DataError(f"{file}: {place}: expected a number or NaN, found {found}")
    return items
