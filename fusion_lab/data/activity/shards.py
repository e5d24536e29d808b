"""Sensor recordings in shards: ``subject_<id>/activity_<id>.csv``, or ``.pt`` tensors, and manifests of a split."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fusion_lab.config import nearest
from fusion_lab.contracts import DataError
from fusion_lab.data.activity.batches import File, Wanted
from fusion_lab.data.activity.recordings import (
    SENSOR_COLUMNS,
    SPLITS,
    Block,
    Layout,
    Part,
    Taken,
    Track,
    as_samples,
    called,
    gather,
)
from fusion_lab.data.activity.settings import ACTIVITY, COLUMNS, SUBJECT, TIME, ActivityConfig
from fusion_lab.data.activity.text import with_header
from fusion_lab.data.readers import cell_text, first_line, quoted

FOLDERS = ("processed_tensors", "processed")
"""Where shards lie when they do not lie in the folder itself; what is in both is read from the first."""

_SHARD = re.compile(r"(?:.*[/\\])?subject_([^/\\]+)[/\\]activity_(\d+)\.(pt|csv)")
_FAULTS = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError)
"""What PyTorch answers a file with that holds no tensors."""

Key = tuple[str, int]
"""Subject and activity of a shard."""


class Listed(NamedTuple):
    """What a manifest says of a shard."""

    split: str
    rows: int
    where: str  # manifest and line


class Tensors(NamedTuple):
    """A shard as PyTorch saved it: float ``[rows, columns]``. Its time stamps are 32-bit numbers."""

    path: Path
    names: tuple[str, ...]
    data: np.ndarray

    def place(self, row: int, column: str) -> str:
        """Where the cell of a row is."""
        return f"{self.path}: row {row + 1}, column {quoted(column)}"

    def subjects(self, column: str) -> list[str | None]:
        """The subjects that a column tells of."""
        return [cell_text(float(subject)) for subject in np.unique(self.data[:, self.names.index(column)])]

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """All rows at once."""
        column = {name: self.data[:, self.names.index(name)] for name in wanted.all}
        activity = column[wanted.activity].astype(np.float64) if wanted.activity else None
        values = np.stack([column[name] for name in wanted.values], axis=1)
        yield Block(np.arange(len(self.data)), column[wanted.time].astype(np.float64), activity, values)


def shard_folders(root: Path) -> list[Path]:
    """The folders in which there are shards, the preferred first."""
    folders = (root, *(root / name for name in FOLDERS))
    return [folder for folder in folders if any(folder.glob("subject_*/activity_*.*"))]


def shard_layout(config: ActivityConfig, root: Path, labelled: bool) -> Layout:
    """One subject per folder. With manifests, only the shards that they list.

    Raises:
        DataError: there is no shard, or a manifest lists one that is not there or is listed twice.
    """
    shards, twice = _found(root)
    if not shards:
        raise DataError(f"{root}: expected shards subject_<id>/activity_<id>.csv or .pt, found none")
    notes = [f"{twice} shards are there as text and as tensors: the tensors are read"] if twice else []
    listed = _manifests(root, shards) if labelled else None
    if listed is not None and len(listed) < len(shards):
        notes.append(f"{len(shards) - len(listed)} shards that no manifest lists are left out")
    chosen = shards if listed is None else {key: shards[key] for key in shards if key in listed}
    subjects = sorted({subject for subject, _ in chosen})
    parts = []
    for subject in subjects:
        mine = {key: path for key, path in chosen.items() if key[0] == subject}
        parts.append(Part(subject, tuple(mine.values()), partial(_read, config, mine, listed or {}, labelled)))
    return Layout(SENSOR_COLUMNS, tuple(parts), tuple(notes))


def _found(root: Path) -> tuple[dict[Key, Path], int]:
    """Every shard, sorted, and how many there are as text and as tensors."""
    shards: dict[Key, Path] = {}
    twice = 0
    paths = [path for folder in shard_folders(root) for path in folder.glob("subject_*/activity_*.*")]
    for path in sorted(paths, key=lambda path: path.suffix != ".pt"):
        match = _SHARD.fullmatch(f"{path.parent.name}/{path.name}")
        if match:
            key = match[1], int(match[2])
            if key in shards and shards[key].suffix == path.suffix:
                raise DataError(f"{path}: expected each shard once, found it again (first {shards[key]})")
            twice += key in shards
            shards.setdefault(key, path)
    return dict(sorted(shards.items())), twice


def _manifests(root: Path, shards: dict[Key, Path]) -> dict[Key, Listed] | None:
    """What ``splits/{train,val,test}.txt`` list; ``None`` where there is no such folder."""
    folder = root.parent / "splits" if root.name in FOLDERS else root / "splits"
    if not folder.is_dir():
        return None
    listed: dict[Key, Listed] = {}
    for split in SPLITS:
        for where, line in _lines(folder / f"{split}.txt"):
            path, _, rows = line.rpartition(",")
            match = _SHARD.fullmatch(path.strip())
            if not match or not rows.strip().isdecimal():
                expected = "subject_<id>/activity_<id>.csv,rows"
                raise DataError(f"{where}: expected {expected}, found {quoted(line)}")
            key = match[1], int(match[2])
            if key not in shards:
                raise DataError(f"{where}: expected a shard that is there, found no file {quoted(path.strip())}")
            if key in listed:
                raise DataError(f"{where}: expected each shard once, found it again (first in {listed[key].where})")
            listed[key] = Listed(split, int(rows), where)
    return listed


def _lines(manifest: Path) -> Iterator[tuple[str, str]]:
    try:
        text = manifest.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{manifest}: expected a readable manifest, found: {first_line(error)}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{manifest}: line {number}", line.strip()


def _read(config: ActivityConfig, paths: dict[Key, Path], listed: dict[Key, Listed], labelled: bool) -> Taken:
    tracks, splits = [], []
    for key, path in paths.items():
        track = _track(config, key, path, labelled)
        if key in listed:
            if len(track.time) != listed[key].rows:
                found = f"expected {listed[key].rows} rows in {path}, found {len(track.time)}"
                raise DataError(f"{listed[key].where}: {found}")
            splits.append(listed[key].split)
        else:
            splits.append("")
        tracks.append(track)
    first = next(iter(paths))
    return as_samples(str(paths[first].parent), first[0], tracks, config, SENSOR_COLUMNS, splits)


def _track(config: ActivityConfig, key: Key, path: Path, labelled: bool) -> Track:
    file: File = _tensors(path) if path.suffix == ".pt" else with_header(path)
    _check_columns(config, file, labelled)
    activity = called(config, ACTIVITY) if labelled else None
    wanted = Wanted(called(config, TIME), activity, tuple(called(config, name) for name in SENSOR_COLUMNS))
    track = gather(file.blocks(wanted), SENSOR_COLUMNS, lambda row, n: file.place(row, called(config, n)), labelled)
    if labelled and (track.activity != key[1]).any():
        at = int(np.argmax(track.activity != key[1]))
        expected = f"expected activity {key[1]} as in the file's name, found {track.activity[at]}"
        raise DataError(f"{file.place(at, called(config, ACTIVITY))}: {expected}")
    owner = called(config, SUBJECT)
    found = file.subjects(owner) if owner in file.names else []
    if found not in ([], [key[0]]):
        shown = ", ".join(quoted(name) for name in found[:3])
        raise DataError(
            f"{path}: column {quoted(owner)}: expected {quoted(key[0])} as in the folder's name, found {shown}"
        )
    return track


def _check_columns(config: ActivityConfig, file: File, labelled: bool) -> None:
    """An error unless the columns are the data set's 54, in any order, and perhaps the subject."""
    expected = [called(config, name) for name in COLUMNS]
    spare = {called(config, SUBJECT)} if labelled else {called(config, SUBJECT), called(config, ACTIVITY)}
    missing = [name for name in expected if name not in file.names and name not in spare]
    extra = [name for name in file.names if name not in expected and name not in spare]
    count = f"expected the {len(expected)} columns of the data set"
    if missing:
        found = nearest(missing[0], extra) if extra else ""
        raise DataError(f"{file.path}: {count}, found none named {quoted(missing[0])}{found}")
    if extra:
        raise DataError(f"{file.path}: {count}, found {_names(extra)} besides")


def _names(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tensors(path: Path) -> Tensors:
    """A tensor shard. Nothing but tensors, texts and numbers is ever unpickled."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's words on files of other kinds, which are refused below
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except _FAULTS as error:
        raise DataError(f"{path}: expected tensors as torch.save writes them, found: {_told(error)}") from None
    columns, data = (saved.get("columns"), saved.get("data")) if isinstance(saved, dict) else (None, None)
    named = isinstance(columns, (list, tuple)) and all(isinstance(name, str) for name in columns)
    if not named or not isinstance(data, torch.Tensor):
        found = f"a dict of {_names(list(map(str, saved)))}" if isinstance(saved, dict) else type(saved).__name__
        raise DataError(f"{path}: expected a dict of names 'columns' and a tensor 'data', found {found}")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: expected each column once, found {quoted(twice)} again")
    if not data.is_floating_point() or data.ndim != 2 or data.shape[1] != len(columns):
        found = f"{str(data.dtype).removeprefix('torch.')} of shape {tuple(data.shape)}"
        raise DataError(f"{path}: expected floating-point data of shape (rows, {len(columns)}), found {found}")
    return Tensors(path, tuple(columns), data.to(torch.float32).numpy())


def _told(error: Exception) -> str:
    """What is wrong, without PyTorch's advice to unpickle the file all the same."""
    return "an object that is no tensor" if isinstance(error, pickle.UnpicklingError) else first_line(error)
