"""Recordings made in memory: streams at rates of their own with spans dropped, and tracks that they drive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
from scipy.signal import lfilter

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import Source, content_hash
from fusion_lab.data.alignment import Column, Stream
from fusion_lab.data.editing.settings import ACTIVE, ASSET, EditingConfig, StreamConfig, TracksConfig, TwinConfig
from fusion_lab.data.editing.streams import Read, alignment_columns
from fusion_lab.data.editing.tracks import Filled

GRID = 100.0
"""Samples per second of what drives everything."""
MEMORY = 0.15
"""Seconds after which a driver has forgotten all but 1/e of itself."""
ARRAY_WIDTH = 16
"""Columns of an embedding whose width the settings leave open."""
RATE = 25.0
STICKY, PULL, NOISE = 1.5, 0.8, 0.4
UNITS: Mapping[str, tuple[float, float]] = {"scale": (100.0, 30.0), "x": (960.0, 300.0), "y": (540.0, 200.0)}
"""Centre and deviation of columns; others have 0 and 50."""


class Twin:
    """Implements :class:`~fusion_lab.data.editing.recordings.Recordings`."""

    def __init__(self, config: EditingConfig, twin: TwinConfig) -> None:
        assert config.tracks is not None
        self.config, self.twin = config, twin
        self.where = "twin"
        self.videos = [f"video {i:0{len(str(twin.videos - 1))}d}" for i in range(twin.videos)]
        self.tracks = TwinTracks(config, config.tracks, twin, self.videos)
        self.targets = None
        self.streams = {
            name: TwinStream(name, of, twin, self.videos, place)
            for place, (name, of) in enumerate(config.streams.items())
        }
        self.notes = (f"a synthetic twin: {twin.videos} videos of {twin.seconds:g} s, signal {twin.signal:g}",)

    def sources(self) -> tuple[Source, ...]:
        parts = self.config.model_dump(mode="json", include={"twin", "streams", "tracks", "rate"})
        return (Source("twin", content_hash(parts), self.twin.videos),)


class TwinStream:
    """One stream; implements :class:`~fusion_lab.data.editing.recordings.StreamSource`."""

    def __init__(self, name: str, config: StreamConfig, twin: TwinConfig, videos: list[str], place: int) -> None:
        self.name, self.config, self.twin, self._videos, self.place = name, config, twin, videos, place

    @cached_property
    def absent(self) -> set[str]:
        """Videos that do not have it: other ones for each stream, as long as there are any."""
        count = int(np.ceil(self.twin.absent * len(self._videos)))
        order = generator(self.twin.seed, "absent").permutation(len(self._videos))
        return {self._videos[i] for i in np.roll(order, -self.place * count)[:count]}

    def videos(self) -> list[str]:
        return [video for video in self._videos if self.has(video)]

    def has(self, video: str) -> bool:
        return video not in self.absent

    def columns(self) -> tuple[Column, ...]:
        return alignment_columns(self.config, ARRAY_WIDTH if self.config.in_arrays and self.config.embedding else 0)

    def times(self, video: str) -> np.ndarray:
        """Of the samples that are not dropped."""
        rate = self.twin.rates.get(self.name, RATE)
        times = np.arange(int(self.twin.seconds * rate)) / rate
        rng = generator(self.twin.seed, "dropped", self.name, video)
        spans = rng.uniform(0, self.twin.seconds, round(self.twin.dropped * self.twin.seconds / self.twin.span))
        lost = ((times >= spans[:, None]) & (times < spans[:, None] + self.twin.span)).any(axis=0)
        kept = times[~lost]
        return kept if len(kept) else times[:1]

    def get(self, video: str) -> Read:
        """Every column shows the stream's driver, each in its own way and with noise of its own."""
        times, columns = self.times(video), self.columns()
        drive = driver(self.twin, self.name, video)(times)
        looks = generator(self.twin.seed, "looks", self.name)  # the same in all videos
        noise = generator(self.twin.seed, "noise", self.name, video)
        turn, centre = looks.choice([-1.0, 1.0], len(columns)), looks.normal(0, 1, len(columns))
        shown = drive[:, None] * turn + 0.3 * noise.standard_normal((len(times), len(columns)))
        values = np.empty(shown.shape, np.float32)
        kinds = [*self.config.columns.values(), *["embedding"] * (len(columns) - len(self.config.columns))]
        for i in range(len(columns)):
            values[:, i] = _look(shown[:, i], kinds[i], centre[i])
        for i, name in enumerate(self.config.columns):
            if name in self.config.log:
                values[:, i] = np.exp(values[:, i]) * self.config.log[name]
        for i, column in enumerate(columns):
            if column.only_where is not None:  # a face that is not there has no place; files hold 0
                values[values[:, list(self.config.columns).index(column.only_where)] <= 0, i] = 0.0
        if self.config.half:
            vector = [i for i, column in enumerate(columns) if column.kind == "embedding"]
            values[:, vector] = values[:, vector].astype(np.float16)
        return Read(Stream(self.name, times, values))


def _look(shown: np.ndarray, kind: str, centre: float) -> np.ndarray:
    if kind == "embedding":
        return centre + np.tanh(shown)
    if kind == "binary":
        return shown > 0
    if kind == "discrete":
        return np.maximum(np.floor(1.5 + shown), 0)
    return 5 * centre + 2 * shown


class Driver:
    """A random walk that forgets, of mean 0 and deviation 1, at any time."""

    def __init__(self, path: np.ndarray, begins: float) -> None:
        self.path, self.begins = path, begins

    def __call__(self, times: np.ndarray) -> np.ndarray:
        return np.interp((times - self.begins) * GRID, np.arange(len(self.path)), self.path)


def driver(twin: TwinConfig, stream: str, video: str) -> Driver:
    """What a stream shows of a video; it began long enough before the video for any lag."""
    before = twin.lag + 10 * MEMORY
    steps = int((twin.seconds + before) * GRID) + 2
    keeps = np.exp(-1 / (GRID * MEMORY))
    drawn = generator(twin.seed, "driver", stream, video).standard_normal(steps) * np.sqrt(1 - keeps**2)
    return Driver(lfilter([1.0], [1.0, -keeps], drawn), -before)


class TwinTracks:
    """The tracks; implements :class:`~fusion_lab.data.editing.recordings.TrackSource`."""

    notes: tuple[str, ...] = ()
    repeated = 0

    def __init__(self, config: EditingConfig, tracks: TracksConfig, twin: TwinConfig, videos: list[str]) -> None:
        self.rate, self.config, self.twin, self.videos = config.rate, tracks, twin, videos
        self.driving = list(config.streams)[:2]

    @property
    def source(self) -> np.ndarray:
        return np.array(self.videos)

    @property
    def split(self) -> np.ndarray:
        """The last fifth of the videos is "val"."""
        count = max(1, len(self.videos) // 5)
        return np.array(["train"] * (len(self.videos) - count) + ["val"] * count)

    def of(self, video: str) -> np.ndarray:
        return np.arange(max(1, int(self.twin.seconds * self.rate))) / self.rate

    def fill(self, into: np.ndarray) -> Filled:
        start = 0
        for video in self.videos:
            cells = self.cells(video)
            into[start : start + len(cells)] = cells
            start += len(cells)
        assert start == len(into)
        by_column = into.reshape(-1, len(self.config.columns))
        return Filled(0, by_column.min(axis=0), by_column.max(axis=0), 0)

    def cells(self, video: str) -> np.ndarray:
        """The tracks of a video, float32 [m,W]: where each is at a step follows from where it was at the one before,
        and from what drives it then.
        """
        times, config = self.of(video), self.config
        drive = self.twin.signal * self._drive(video, times)  # [m,U]
        rng = generator(self.twin.seed, "tracks", video)
        active, asset = self._active(drive, rng)
        cells = np.zeros((len(times), config.count, len(config.columns)), np.float32)
        for column, name in enumerate(config.columns):
            if name == ACTIVE:
                cells[..., column] = active
            elif name == ASSET:
                cells[..., column] = asset * active
            else:
                centre, deviation = UNITS.get(name, (0.0, 50.0))
                cells[..., column] = (centre + deviation * self._walk(name, drive, rng)) * active
        return cells.reshape(len(times), -1)

    def _drive(self, video: str, times: np.ndarray) -> np.ndarray:
        """What drives each track from each step to the next: the first stream some time ago and the second now."""
        weights = generator(self.twin.seed, "weights").choice([-1.0, 1.0], (len(self.driving), self.config.count))
        late = [self.twin.lag, 0.0]
        parts = [
            driver(self.twin, name, video)(times - late[i])[:, None] * weights[i] for i, name in enumerate(self.driving)
        ]
        return sum(parts, np.zeros((len(times), self.config.count))) / np.sqrt(max(1, len(parts)))

    def _active(self, drive: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Whether each track is active, and the asset that it has had since it last became so: [m,U] each."""
        steps, tracks = drive.shape
        draws = rng.logistic(size=drive.shape)
        chosen = np.clip(0.5 + 0.35 * np.tanh(drive) + rng.uniform(-0.25, 0.25, drive.shape), 0, 1 - 1e-9)
        active, asset = np.zeros((steps, tracks), bool), np.zeros((steps, tracks), int)
        now, has = rng.random(tracks) < 0.5, rng.integers(0, self.config.asset_classes, tracks)
        for step in range(steps):
            active[step], asset[step] = now, has
            before, now = now, STICKY * (2 * now - 1) + drive[step] + draws[step] > 0
            begins = now & ~before
            has = np.where(begins, (chosen[step] * self.config.asset_classes).astype(int), has)
        return active, asset

    def _walk(self, name: str, drive: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A number that is drawn back to 0, pushed by the drive and by chance, [m,U]."""
        sign = generator(self.twin.seed, "sign", name).choice([-1.0, 1.0], drive.shape[1])
        pushed = NOISE * (0.5 * sign * drive + rng.standard_normal(drive.shape))
        pushed = np.concatenate([rng.standard_normal((1, drive.shape[1])), pushed[:-1]])
        return lfilter([1.0], [1.0, -PULL], pushed, axis=0)

    def windows(self, length: int) -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
        """Video, start in s, cells [length,W] and mask bool [length] of each window, as archives have them."""
        for video in self.videos:
            cells, times = self.cells(video), self.of(video)
            for first in range(0, len(cells), length):
                part = cells[first : first + length]
                padded = np.zeros((length, cells.shape[1]), np.float32)
                padded[: len(part)] = part
                yield video, float(times[first]), padded, np.arange(length) < len(part)
