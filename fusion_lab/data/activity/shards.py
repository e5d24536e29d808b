"""Sensor recordings in shards: ``subject_<id>/activity_<id>.csv``, or ``.pt`` tensors, and manifests of a split."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

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
from fusion_lab.data.cells import listed
from fusion_lab.data.readers import cell_text, clipped, first_line, quoted, suggest

FOLDERS = ("processed_tensors", "processed")
"""Where shards lie when they do not lie in the folder itself; what is in both is read from the first."""

_SHARD = re.compile(r"(?:.*[/\\])?subject_([^/\\]+)[/\\]activity_(\d+)\.(pt|csv)")
_COUNT = re.compile(r"[0-9]{1,12}")
_FAULTS = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError),
)
"""What PyTorch answers a file with that holds no tensors."""

Key = tuple[str, int]
"""Subject and activity of a shard."""


class Listed(NamedTuple):
    """What a manifest says of a shard."""

    split: str
    rows: int
    where: str  # manifest and line


class Tensors(NamedTuple):
    """A shard as PyTorch saved it: numbers of 32 or 64 bits, ``[rows, columns]``."""

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
        with np.errstate(over="ignore"):  # what 32 bits do not hold is infinite, which is refused later
            values = np.stack([column[name] for name in wanted.values], axis=1, dtype=np.float32, casting="same_kind")
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
    shards, twice, others = _found(root)
    if not shards:
        raise DataError(f"{root}: expected shards subject_<id>/activity_<id>.csv or .pt, found none")
    notes = [f"{twice} shards are there as text and as tensors: the tensors are read"] if twice else []
    notes += [f"files that are not named as shards are not read: {listed(others)}"] if others else []
    manifests = _manifests(root, shards) if labelled else None
    if manifests is not None and len(manifests) < len(shards):
        notes.append(f"{len(shards) - len(manifests)} shards that no manifest lists are left out")
    chosen = shards if manifests is None else {key: shards[key] for key in shards if key in manifests}
    subjects = sorted({subject for subject, _ in chosen})
    parts = []
    for subject in subjects:
        mine = {key: path for key, path in chosen.items() if key[0] == subject}
        parts.append(Part(subject, tuple(mine.values()), partial(_read, config, mine, manifests or {}, labelled)))
    return Layout(SENSOR_COLUMNS, tuple(parts), tuple(notes))


def _found(root: Path) -> tuple[dict[Key, Path], int, list[str]]:
    """Every shard, sorted, how many there are as text and as tensors, and files beside them of other names."""
    shards: dict[Key, Path] = {}
    twice, others = 0, []
    paths = [path for folder in shard_folders(root) for path in folder.glob("subject_*/activity_*.*")]
    for path in sorted(paths, key=lambda path: path.suffix != ".pt"):
        match = _SHARD.fullmatch(f"{path.parent.name}/{path.name}")
        if not match or not match[1].isprintable():
            others.append(f"{path.parent.name}/{path.name}")
            continue
        key = match[1], int(match[2])
        if key in shards and shards[key].suffix == path.suffix:
            raise DataError(f"{path}: expected each shard once, found it again (first {shards[key]})")
        twice += key in shards
        shards.setdefault(key, path)
    return dict(sorted(shards.items())), twice, sorted(others)


def _manifests(root: Path, shards: dict[Key, Path]) -> dict[Key, Listed] | None:
    """What ``splits/{train,val,test}.txt`` list; ``None`` where there is no such folder."""
    folder = root.parent / "splits" if root.name in FOLDERS else root / "splits"
    if not folder.is_dir():
        return None
    found: dict[Key, Listed] = {}
    for split in SPLITS:
        for where, line in _lines(folder / f"{split}.txt"):
            path, _, rows = line.rpartition(",")
            match = _SHARD.fullmatch(path.strip())
            if not match or not _COUNT.fullmatch(rows.strip()):
                expected = "subject_<id>/activity_<id>.csv,rows"
                raise DataError(f"{where}: expected {expected}, found {quoted(line)}")
            key = match[1], int(match[2])
            if key not in shards:
                raise DataError(f"{where}: expected a shard that is there, found no file {quoted(path.strip())}")
            if key in found:
                raise DataError(f"{where}: expected each shard once, found it again (first in {found[key].where})")
            found[key] = Listed(split, int(rows), where)
    if not found:
        raise DataError(f"{folder}: expected manifests that list shards, found empty ones (or remove the folder)")
    return found


def _lines(manifest: Path) -> Iterator[tuple[str, str]]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{manifest}: expected a readable manifest, found: {_told(error)}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{manifest}: line {number}", line.strip()


def _read(config: ActivityConfig, paths: dict[Key, Path], manifests: dict[Key, Listed], labelled: bool) -> Taken:
    tracks, splits = [], []
    for key, path in paths.items():
        track = _track(config, key, path, labelled)
        said = manifests.get(key)
        if said and len(track.time) != said.rows:
            raise DataError(f"{said.where}: expected {said.rows} rows in {path}, found {len(track.time)}")
        splits.append(said.split if said else "")
        tracks.append(track)
    first = next(iter(paths))
    taken = as_samples(str(paths[first].parent), first[0], tracks, config, SENSOR_COLUMNS, splits)
    empty = [path for path, track in zip(paths.values(), tracks, strict=True) if not len(track.time)]
    return taken._replace(notes=(*(f"{path.parent.name}/{path.name} has no rows" for path in empty), *taken.notes))


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
        shown = ", ".join("an empty cell" if name is None else quoted(name) for name in found[:3])
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
        found = suggest(missing[0], [clipped(name) for name in extra])
        raise DataError(f"{file.path}: {count}, found none named {quoted(missing[0])}{found}")
    if extra:
        raise DataError(f"{file.path}: {count}, found {listed(extra)} besides")


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
        kinds = [f"{name} ({type(value).__name__})" for name, value in saved.items()] if isinstance(saved, dict) else []
        found = f"a dict of {listed(kinds) or 'nothing'}" if isinstance(saved, dict) else type(saved).__name__
        raise DataError(f"{path}: expected a dict of names 'columns' and a tensor 'data', found {found}")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: expected each column once, found {quoted(twice)} again")
    plain = data.layout is torch.strided and data.device.type == "cpu" and not data.is_nested
    if not plain:
        raise DataError(
            f"{path}: expected data of one number per cell, found a sparse or nested tensor, or one without content"
        )
    # fewer bits do not hold hundredths of a second
    if data.dtype not in (torch.float32, torch.float64) or data.ndim != 2 or data.shape[1] != len(columns):
        found = f"{str(data.dtype).removeprefix('torch.')} of shape {tuple(data.shape)}"
        raise DataError(f"{path}: expected float32 or float64 data of shape (rows, {len(columns)}), found {found}")
    return Tensors(path, tuple(columns), data.detach().numpy())


def _told(error: Exception) -> str:
    """What is wrong, without PyTorch's advice to unpickle the file all the same, and without the file's name."""
    if isinstance(error, pickle.UnpicklingError):
        return "an object that is no tensor"
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
