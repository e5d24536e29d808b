"""Where recordings come from: the files of a folder, or anything else that gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from fusion_lab.contracts import DataError, Source
from fusion_lab.data.alignment import Column
from fusion_lab.data.cells import listed
from fusion_lab.data.editing.settings import TARGETS, EditingConfig
from fusion_lab.data.editing.streams import Read, StreamFiles, videos_in
from fusion_lab.data.editing.targets import Targets, read_targets
from fusion_lab.data.editing.tracks import Filled, read_tracks
from fusion_lab.data.readers import data_folder, existing_file


class TrackSource(Protocol):
    """The tracks of all videos; see :class:`~fusion_lab.data.editing.tracks.Tracks`."""

    @property
    def videos(self) -> list[str]: ...

    @property
    def split(self) -> np.ndarray: ...

    @property
    def source(self) -> np.ndarray: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def repeated(self) -> int: ...

    def of(self, video: str) -> np.ndarray: ...

    def fill(self, into: np.ndarray) -> Filled: ...


class StreamSource(Protocol):
    """One stream of all videos; see :class:`~fusion_lab.data.editing.streams.StreamFiles`."""

    def videos(self) -> list[str]: ...

    def has(self, video: str) -> bool: ...

    def times(self, video: str) -> np.ndarray: ...

    def get(self, video: str) -> Read: ...

    def columns(self) -> tuple[Column, ...]: ...


class Recordings(Protocol):
    """All videos. ``streams`` are those that any of them has; ``sources`` are complete once all have been read."""

    @property
    def where(self) -> str:
        """What errors call the whole."""
        ...

    @property
    def videos(self) -> list[str]: ...

    @property
    def tracks(self) -> TrackSource | None: ...

    @property
    def targets(self) -> Targets | None: ...

    @property
    def streams(self) -> Mapping[str, StreamSource]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def sources(self) -> tuple[Source, ...]: ...


class Folder:
    """The files of a folder; implements :class:`Recordings`."""

    def __init__(self, config: EditingConfig, labelled: bool = True) -> None:
        """Reads what there is of tracks, targets and tables of all videos.

        Raises:
            DataError: the folder or a file cannot be used.
        """
        root = data_folder(config.folder)
        self.where = str(root)
        self.tracks = read_tracks(root, config.tracks, config.rate) if config.tracks else None
        self.targets = read_targets(root, config.targets) if config.targets and labelled else None
        every = _stream_files(root, config)
        self.videos = self._videos(config, root, every)
        self.streams = {name: files for name, files in every.items() if any(map(files.has, self.videos))}
        self.notes = (*(self.tracks.notes if self.tracks else ()), *self._noticed(every))

    def sources(self) -> tuple[Source, ...]:
        streams = (source for files in self.streams.values() for source in files.read.values())
        tracks = self.tracks.sources if self.tracks else ()
        found = (*tracks, *([self.targets.source] if self.targets else []), *streams)
        return tuple({source.name: source for source in found}.values())

    def _videos(self, config: EditingConfig, root: Path, every: Mapping[str, StreamFiles]) -> list[str]:
        if self.tracks is not None:
            return self.tracks.videos
        if config.clock is not None and config.clock in every:
            found = every[config.clock].videos()
        elif self.targets is not None:
            found = list(self.targets.by_video)
        else:
            found = sorted({video for files in every.values() for video in files.videos()})
        if not found:
            patterns = listed([stream.file for stream in config.streams.values()])
            if not root.is_dir():
                existing_file(root, "")  # which says what is wrong
            raise DataError(f"{root}: expected files of streams, {patterns}, found none")
        return found

    def _noticed(self, every: Mapping[str, StreamFiles]) -> list[str]:
        known, told = set(self.videos), []
        for name, files in every.items():
            strange = [video for video in files.videos() if video not in known]
            if strange:
                of = "the tracks" if self.tracks else "the targets"
                told.append(f"{name}: not used, for {of} do not know these videos: {listed(strange)}")
        if self.targets and (strange := [v for v in self.targets.by_video if v not in known]):
            told.append(f"{TARGETS}: not used, for there is no other stream of these videos: {listed(strange)}")
        missing = [f"{name} ({files.config.file})" for name, files in every.items() if name not in self.streams]
        if missing:
            rest = "the tracks alone are left" if self.tracks and not self.streams else "left out of the model's inputs"
            told.append(f"missing feature types, no video has a file of them: {', '.join(missing)}: {rest}")
        return told


def _stream_files(root: Path, config: EditingConfig) -> dict[str, StreamFiles]:
    patterns = [stream.file for stream in config.streams.values() if stream.per_video]
    there = videos_in(root, patterns) if root.is_dir() else {}
    return {name: StreamFiles(root, name, of, there.get(of.file, ())) for name, of in config.streams.items()}
