"""Archives of tracks: windows of an edit, step by step and track by track, and where each lies in its video."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from fusion_lab.contracts import DataError, Source
from fusion_lab.data.cells import listed
from fusion_lab.data.editing.settings import ACTIVE, ASSET, TracksConfig
from fusion_lab.data.npz import npz_arrays, npz_shapes
from fusion_lab.data.readers import cell_text, existing_file, file_sha256, first_line, suggest

SEQUENCES, MASKS, VIDEOS, NAMES, START = "sequences", "masks", "video_ids", "source_video_names", "start"
SPLITS = ("train", "val", "test")
AT_ONCE = 1 << 22
"""Cells of an archive that are read at once."""


class Archive(NamedTuple):
    """What is known of a file's N windows before their content is read."""

    path: Path
    masks: np.ndarray  # bool [N,L]
    videos: np.ndarray  # str [N]
    names: np.ndarray | None  # str [N]: the videos that these are parts or variants of
    start: np.ndarray | None  # float64 [N], s
    split: str  # "" of a file whose name does not tell


class Filled(NamedTuple):
    """What was noticed of the cells of all tracks."""

    missing: int  # cells that are NaN
    low: np.ndarray  # [F] of the columns of a track, over all tracks
    high: np.ndarray
    odd_assets: int  # ids of inactive tracks that are none of the classes


@dataclass(frozen=True)
class Tracks:
    """The tracks of all videos: S steps, video after video, each in the order of time.

    ====== ========= =====================================================================
    video  int [S]   place in ``videos``
    time   f64 [S]   s
    split  str [V]   per video, "" where nobody knows
    source str [V]   what the video is a part or variant of; itself where nobody knows
    ====== ========= =====================================================================
    """

    config: TracksConfig
    rate: float
    archives: tuple[Archive, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def videos(self) -> list[str]:
        """All videos, sorted."""
        return sorted({str(name) for archive in self.archives for name in archive.videos})

    @cached_property
    def steps(self) -> Steps:
        """Where the steps lie."""
        return _steps(self.archives, self.videos, self.rate)

    def of(self, video: str) -> np.ndarray:
        """The times of a video's steps, float64."""
        begin, end = np.searchsorted(self.steps.video, [self.videos.index(video), self.videos.index(video) + 1])
        return self.steps.time[begin:end]

    @property
    def repeated(self) -> int:
        """Steps that several windows have."""
        return self.steps.repeated

    @cached_property
    def split(self) -> np.ndarray:
        """str [V]."""
        found = {str(video): archive.split for archive in self.archives for video in archive.videos}
        return np.array([found[video] for video in self.videos])

    @cached_property
    def source(self) -> np.ndarray:
        """str [V]."""
        found = dict(zip(self.videos, self.videos, strict=True))
        for archive in self.archives:
            if archive.names is not None:
                found |= dict(zip(archive.videos.tolist(), archive.names.tolist(), strict=True))
        return np.array([found[video] for video in self.videos])

    def fill(self, into: np.ndarray) -> Filled:
        """Writes the cells of all steps into float32 [S,W], NaN = missing; archives are read a part at a time.

        Raises:
            DataError: a cell that cannot be: the error says window, step and track.
        """
        missing, odd, width = 0, 0, len(self.config.columns)
        low, high = np.full(width, np.inf), np.full(width, -np.inf)
        steps, first = self.steps, 0
        for number, archive in enumerate(self.archives):
            own = np.flatnonzero(steps.archive == number)
            order = own[np.argsort(steps.window[own], kind="stable")]
            for begin, cells in chunks(archive.path, SEQUENCES):
                lines = order[slice(*np.searchsorted(steps.window[order], [begin, begin + len(cells)]))]
                taken = cells[steps.window[lines] - begin, steps.position[lines]].astype(np.float32, copy=False)
                odd += check_cells(self.config, archive.path, taken, steps.window[lines], steps.position[lines])
                missing += int(np.isnan(taken).sum())
                by_column = taken.reshape(-1, width)
                if len(by_column):
                    low, high = np.fmin(low, np.fmin.reduce(by_column)), np.fmax(high, np.fmax.reduce(by_column))
                into[lines] = taken
            first += len(own)
        assert first == len(steps.time)
        return Filled(missing, low, high, odd)


class Steps(NamedTuple):
    """Where the S steps lie: int [S] each, but for ``time``, float64 [S]; ``repeated``: steps of several windows."""

    video: np.ndarray
    time: np.ndarray
    archive: np.ndarray
    window: np.ndarray
    position: np.ndarray
    repeated: int


def read_tracks(root: Path, config: TracksConfig, rate: float) -> Tracks:
    """Reads everything of the archives but the sequences.

    Raises:
        DataError: none of the files is there, an array is missing or has another shape, a video is in two files.
    """
    there = [file for file in config.files if (root / file).is_file()]
    if not there:
        existing_file(root, config.files[0])  # which says what is wrong
    notes = [f"files of tracks that are not there: {listed(lost)}"] if (lost := _without(config.files, there)) else []
    archives = tuple(_archive(existing_file(root, file), config) for file in there)
    owner: dict[str, Path] = {}
    for archive in archives:
        for video in np.unique(archive.videos).tolist():
            if video in owner:
                raise DataError(f"{archive.path}: expected each video in one file, found {video!r} in {owner[video]}")
            owner[video] = archive.path
    sources = tuple(
        Source(file, file_sha256(archive.path), len(archive.videos))
        for file, archive in zip(there, archives, strict=True)
    )
    unplaced = [file for file, archive in zip(there, archives, strict=True) if archive.start is None]
    if unplaced:
        notes.append(
            f"{listed(unplaced)}: no array {START!r}: the windows of a video are taken to follow each other from 0 s on"
        )
    tracks = Tracks(config, rate, archives, sources, tuple(notes))
    if not len(tracks.steps.time):
        raise DataError(f"{archives[0].path}: array {MASKS!r}: expected steps that are there (True), found none")
    return tracks


def _without(names: tuple[str, ...], there: list[str]) -> list[str]:
    return [name for name in names if name not in there]


def _archive(path: Path, config: TracksConfig) -> Archive:
    shapes = npz_shapes(path)
    for name in (SEQUENCES, MASKS, VIDEOS):
        if name not in shapes:
            raise DataError(f"{path}: expected an array {name!r}, found none{suggest(name, list(shapes))}")
    shape = shapes[SEQUENCES]
    if len(shape) != 3 or not all(shape):
        raise DataError(f"{path}: array {SEQUENCES!r}: expected windows x steps x columns, found shape {shape}")
    if shape[2] != config.width:
        expected = (
            f"{config.width} columns ({config.count} tracks x {len(config.columns)}: tracks.count, tracks.columns)"
        )
        raise DataError(f"{path}: array {SEQUENCES!r}: expected {expected}, found {shape[2]}")
    arrays = npz_arrays(path, [name for name in (MASKS, VIDEOS, NAMES, START) if name in shapes])
    masks = arrays[MASKS]
    if masks.shape != shape[:2] or masks.dtype != np.bool_:
        raise DataError(f"{path}: array {MASKS!r}: expected bool {shape[:2]}, found {masks.dtype} {masks.shape}")
    for name, of in arrays.items():
        if name != MASKS and of.shape != shape[:1]:
            raise DataError(f"{path}: array {name!r}: expected one per window, {shape[0]} in all, found {of.shape}")
    start = arrays.get(START)
    if start is not None:
        start = _starts(path, start)
    split = next((split for split in SPLITS if path.name.startswith(split)), "")
    names = _texts(path, NAMES, arrays[NAMES]) if NAMES in arrays else None
    return Archive(path, masks, _texts(path, VIDEOS, arrays[VIDEOS]), names, start, split)


def _starts(path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        odd = int(np.argmin(np.isfinite(array))) if array.dtype.kind == "f" else 0
        raise DataError(
            f"{path}: array {START!r}, window {odd + 1}: expected when it begins, in seconds, found {array[odd]}"
        )
    return array.astype(np.float64)


def _texts(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    texts = [cell_text(cell) for cell in array.tolist()]
    for window, text in enumerate(texts, 1):
        if text is None or not text.isprintable():
            found = "an empty one" if text is None else repr(text)
            raise DataError(f"{path}: array {name!r}, window {window}: expected a name in one line, found {found}")
    return np.array(texts, dtype=str)


def _steps(archives: tuple[Archive, ...], videos: list[str], rate: float) -> Steps:
    """The steps that are there, sorted by video and time; of several at one time that of the last window counts."""
    parts = []
    for number, archive in enumerate(archives):
        video = np.searchsorted(videos, archive.videos)
        begin, count = _extent(archive.masks)
        starts = archive.start if archive.start is not None else _one_after_the_other(video, count) / rate
        window, position = np.nonzero(archive.masks)
        time = starts[window] + (position - begin[window]) / rate
        parts.append((video[window], time, np.full(len(window), number), window, position))
    video, time, archive, window, position = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((np.arange(len(time)), time, video))
    follows = (np.diff(video[order]) == 0) & (np.diff(time[order]) < 0.5 / rate)
    cluster = np.concatenate([[0], np.cumsum(~follows)]) if len(order) else np.zeros(0, int)
    latest = np.lexsort((order, cluster))  # of those of one time the last in the archives comes last
    last = np.append(np.diff(cluster[latest]) != 0, True) if len(order) else np.zeros(0, bool)
    kept = order[latest[last]]
    return Steps(*(part[kept] for part in (video, time, archive, window, position)), len(order) - len(kept))


def _extent(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First step that is there of each window, and how many there are from it to the last: int [N]."""
    length, any_ = masks.shape[1], masks.any(axis=1)
    begin = np.where(any_, masks.argmax(axis=1), 0)
    end = np.where(any_, length - masks[:, ::-1].argmax(axis=1), 0)
    return begin, end - begin


def _one_after_the_other(video: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Steps of a video's windows before each window, int [N].

    >>> _one_after_the_other(np.array([0, 1, 0, 0]), np.array([5, 4, 3, 2])).tolist()
    [0, 0, 5, 8]
    """
    before = np.zeros(len(video), int)
    for code in np.unique(video):
        own = video == code
        before[own] = np.cumsum(count[own]) - count[own]
    return before


def check_cells(config: TracksConfig, path: Path, cells: np.ndarray, window: np.ndarray, position: np.ndarray) -> int:
    """Refuses cells, float32 [n,W], that cannot be; counts the assets of inactive tracks that are none of the classes.

    Raises:
        DataError: infinite; active and neither 0 nor 1; of an active track an asset that is none of the classes.
    """
    by_track = cells.reshape(len(cells), config.count, len(config.columns))

    def refuse(odd: np.ndarray, column: int, expected: str) -> None:
        if odd.any():
            line, track = (int(part[0]) for part in np.nonzero(odd))
            where = f"window {window[line] + 1}, step {position[line] + 1}, track {track + 1}"
            found = by_track[line, track, column]
            name = config.columns[column]
            raise DataError(f"{path}: array {SEQUENCES!r}: {where}, {name}: expected {expected}, found {found:g}")

    for column, name in enumerate(config.columns):
        values = by_track[..., column]
        refuse(np.isinf(values), column, "a finite number")
        if name == ACTIVE:
            refuse((values != 0) & (values != 1) & ~np.isnan(values), column, "0 or 1")
    if ASSET not in config.columns:
        return 0
    column = config.columns.index(ASSET)
    assets = by_track[..., column]
    odd = ~np.isnan(assets) & ~is_asset(assets, config.asset_classes)
    active = by_track[..., config.columns.index(ACTIVE)] > 0 if ACTIVE in config.columns else np.ones_like(odd)
    refuse(odd & active, column, f"a whole number from 0 to {config.asset_classes - 1} (tracks.asset_classes)")
    return int(odd.sum())


def is_asset(values: np.ndarray, classes: int) -> np.ndarray:
    """Whether values are codes of assets.

    >>> is_asset(np.array([0.0, 9.0, 10.0, 1.5, np.nan]), 10).tolist()
    [True, True, False, False, False]
    """
    with np.errstate(invalid="ignore"):
        return (values >= 0) & (values < classes) & (values == np.round(values))


def chunks(path: Path, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """An array of an NPZ file some rows at a time: the first row's number and the rows.

    Raises:
        DataError: the file is damaged, or the array holds no numbers.
    """
    try:
        with zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as stream:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            if dtype.kind not in "biuf":
                raise DataError(f"{path}: array {name!r}: expected numbers, found type {dtype}")
            if not fortran:
                size = int(np.prod(shape[1:]))
                rows = max(1, AT_ONCE // max(1, size))
                for start in range(0, shape[0], rows):
                    count = min(rows, shape[0] - start)
                    content = stream.read(count * size * dtype.itemsize)
                    if len(content) < count * size * dtype.itemsize:
                        raise EOFError("the array ends too early")
                    yield start, np.frombuffer(content, dtype).reshape(count, *shape[1:])
                return
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected a readable NPZ file, found: {first_line(error)}") from None
    yield 0, npz_arrays(path, [name])[name]  # column by column: only the whole can be laid out anew


def ranges(config: TracksConfig, filled: Filled) -> Mapping[str, tuple[float, float]]:
    """Smallest and largest value of each column over all tracks."""
    found = zip(config.columns, filled.low.tolist(), filled.high.tolist(), strict=True)
    return {name: (low, high) for name, low, high in found if low <= high}
