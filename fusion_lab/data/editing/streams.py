"""Streams of videos as files have them: which video has which file, and what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, Source
from fusion_lab.data.alignment import Column, Stream
from fusion_lab.data.editing.numbers import Numbers, Wanted, place, read_columns
from fusion_lab.data.editing.settings import VIDEO, StreamConfig
from fusion_lab.data.npz import npz_shapes
from fusion_lab.data.readers import existing_file, file_sha256


def file_of(pattern: str, video: str) -> str:
    """The file of a video.

    >>> file_of("{video}_features.csv", "v01")
    'v01_features.csv'
    """
    return pattern.replace(VIDEO, video)


def video_of(pattern: str, file: str) -> str | None:
    """The video whose file this is, ``None`` of another file.

    >>> video_of("{video}_features.csv", "v01_features.csv"), video_of("{video}_features.csv", "notes.csv")
    ('v01', None)
    """
    begin, _, end = pattern.partition(VIDEO)
    found = re.fullmatch(f"{re.escape(begin)}(.+){re.escape(end)}", file, re.DOTALL)
    return found[1] if found else None


def videos_in(root: Path, patterns: Iterable[str]) -> dict[str, list[str]]:
    """Of each pattern the videos that the folder has a file of, sorted. A file that two patterns fit is of the longer
    one: "v01_visual_features.csv" is no file of a video "v01_visual".
    """
    order = sorted(patterns, key=len, reverse=True)
    found: dict[str, list[str]] = {pattern: [] for pattern in order}
    for file in sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()):
        for pattern in order:
            video = video_of(pattern, file)
            if video is not None:
                found[pattern].append(video)
                break
    return found


class Read(NamedTuple):
    """A stream of one video, and the columns of its file that are not used."""

    stream: Stream
    others: tuple[str, ...] = ()


class StreamFiles:
    """One stream of all videos; a file per video is read when it is asked for, one of all videos once."""

    def __init__(self, root: Path, name: str, config: StreamConfig, there: Iterable[str] = ()) -> None:
        self.root, self.name, self.config = root, name, config
        self.there = sorted(there)  # videos that have a file of their own
        self.read: dict[str, Source] = {}  # by file
        self._width: tuple[int, str] | None = None  # of an embedding in an array, and the file that has it
        self._all: dict[str, Numbers] | None = None

    @property
    def wanted(self) -> Wanted:
        config = self.config
        array = config.embedding if config.in_arrays else None
        columns = (*config.columns, *config.embedding_columns())
        return Wanted(config.time, columns, array, None if config.per_video else config.video)

    def videos(self) -> list[str]:
        """The videos that have this stream.

        Raises:
            DataError: the file of all videos cannot be read.
        """
        return self.there if self.config.per_video else list(self._every())

    def has(self, video: str) -> bool:
        """Whether a video has this stream."""
        return video in (self.there if self.config.per_video else self._every())

    def times(self, video: str) -> np.ndarray:
        """The times of a video's samples, float64 [n], as they lie in the file.

        Raises:
            DataError: the file cannot be used.
        """
        if not self.config.per_video:
            return self._every()[video].times
        return read_columns(self.root, self._file(video), Wanted(self.config.time, ())).times

    def get(self, video: str) -> Read:
        """The stream of a video that has it.

        Raises:
            DataError: the file cannot be used.
        """
        if self.config.per_video:
            file = self._file(video)
            numbers = read_columns(self.root, file, self.wanted)
            self._note(file, len(numbers.times))
            _check_binary(self.root, file, self.config, numbers.values)
        else:
            file, numbers = self.config.file, self._every()[video]
        values = numbers.values
        if numbers.array is not None:
            vectors = self._vectors(file, numbers.array)
            values = np.concatenate([values, vectors], axis=1)
        return Read(Stream(self.name, numbers.times, values), numbers.others)

    def columns(self) -> tuple[Column, ...]:
        """The columns, those of an embedding last, as alignment knows them.

        Raises:
            DataError: the width of an embedding cannot be read.
        """
        return alignment_columns(self.config, self._array_width())

    def _file(self, video: str) -> str:
        return file_of(self.config.file, video)

    def _every(self) -> dict[str, Numbers]:
        if self._all is None:
            numbers = read_columns(self.root, self.config.file, self.wanted)
            self._note(self.config.file, len(numbers.times))
            _check_binary(self.root, self.config.file, self.config, numbers.values)
            self._all = by_owner(numbers)
        return self._all

    def _note(self, file: str, rows: int) -> None:
        if file not in self.read:
            self.read[file] = Source(file, file_sha256(self.root / file), rows)

    def _array_width(self) -> int:
        """Columns that the embedding's array becomes; 0 without one."""
        if self.config.embedding is None or not self.config.in_arrays:
            return 0
        if self._width is None:
            file = self.config.file if not self.config.per_video else self._file(self.videos()[0])
            path = existing_file(self.root, file)
            shape = npz_shapes(path).get(self.config.embedding, ())
            if len(shape) != 2:
                expected = f"expected an array {self.config.embedding!r} of two dimensions"
                raise DataError(f"{path}: {expected}, found {f'shape {shape}' if shape else 'none'}")
            self._width = (shape[1], file)
        return self._width[0] * (8 if self.config.unpack else 1)

    def _vectors(self, file: str, array: np.ndarray) -> np.ndarray:
        """The embedding as float32 [n,E]."""
        name, width = self.config.embedding, self._array_width()
        if self.config.unpack:
            if array.dtype != np.uint8:
                raise DataError(f"{self.root / file}: array {name!r}: expected octets (uint8), found {array.dtype}")
            array = np.unpackbits(array, axis=1).astype(np.float32) * 2 - 1
        if array.shape[1] != width:
            other = "" if self._width is None else f" as in {self._width[1]}"
            raise DataError(
                f"{self.root / file}: array {name!r}: expected {width} columns{other}, found {array.shape[1]}"
            )
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)


def alignment_columns(config: StreamConfig, width: int = 0) -> tuple[Column, ...]:
    """The columns of a stream, an embedding's last; ``width`` of one in an array."""
    names = config.embedding_columns() or tuple(f"{config.embedding}_{i}" for i in range(width))
    return (
        *(
            Column(
                f"log {name}" if name in config.log else name,
                "continuous" if kind == "continuous" else "discrete",
                config.only_where.get(name),
            )
            for name, kind in config.columns.items()
        ),
        *(Column(name, "embedding") for name in names),
    )


def by_owner(numbers: Numbers) -> dict[str, Numbers]:
    """The rows of each video, in the order in which videos come."""
    assert numbers.owner is not None
    names, first, code = np.unique(numbers.owner, return_index=True, return_inverse=True)
    order = np.argsort(code, kind="stable")
    bounds = np.searchsorted(code[order], np.arange(len(names) + 1))
    return {str(names[i]): numbers.of(order[bounds[i] : bounds[i + 1]]) for i in np.argsort(first)}


def _check_binary(root: Path, file: str, config: StreamConfig, values: np.ndarray) -> None:
    for i, (name, kind) in enumerate(config.columns.items()):
        if kind == "binary":
            odd = np.flatnonzero((values[:, i] != 0) & (values[:, i] != 1) & ~np.isnan(values[:, i]))
            if len(odd):
                found = values[odd[0], i]
                raise DataError(
                    f"{place(root, file, int(odd[0]), name)}: expected 0 or 1 in a binary column, found {found:g}"
                )
