"""Settings of multi-rate recordings: their streams, the tracks of an edit, tables of targets, one clock for all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fusion_lab.config import Config, nearest
from fusion_lab.data.names import usable_names

TRACK = "track"
TARGETS = "targets"
VIDEO = "{video}"
ACTIVE, ASSET = "active", "asset_id"

Kind = Literal["continuous", "discrete", "binary"]
Statistic = Literal["mean", "std", "min", "max", "last"]
TrackColumn = Literal[
    "active",
    "asset_id",
    "scale",
    "x",
    "y",
    "crop_l",
    "crop_r",
    "crop_t",
    "crop_b",
    "anchor_x",
    "anchor_y",
    "rotation",
]

TRACK_COLUMNS: tuple[TrackColumn, ...] = (
    *("active", "asset_id", "scale", "x", "y"),
    *("crop_l", "crop_r", "crop_t", "crop_b"),
)
TASK_OF = {ASSET: "asset", "x": "pos_x", "y": "pos_y"}
"""Names of tasks that are not their column's."""

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FACE = ("face_center_x", "face_center_y", "face_size", "face_mouth_open", "face_eyebrow_raise")


class StreamConfig(Config):
    """One stream: measurements at times of their own, in a file per video or in one table of all videos.

    ========== ===========================================================================================
    file       "{video}_features.csv": a file per video; a name without ``{video}``: one of all videos.
               CSV, parquet, or NPZ with an array per column
    video      the column of the videos' names, where there is one file
    time       the column of times, seconds since the video began
    columns    ``{column: kind}``: ``continuous`` is interpolated, ``discrete`` keeps its last value, as
               does ``binary``, whose cells are 0 and 1 and are not scaled
    only_where ``{column: another}``: it exists only where the other column is above 0
    embedding  "clip_{0..511}": columns that are one vector of length 1; of an NPZ file its array [n,E]
    unpack     the embedding is bits, eight to a byte, as ``numpy.packbits`` has them: +1 and -1
    half       the embedding is kept as 16-bit numbers
    log        ``{column: floor}``: its natural logarithm counts, of what is below the floor that of the floor
    summary    of a stream denser than the clock: these statistics of the samples of each step, in place of
               a value between two of them; of an embedding the mean
    spans      with a summary: the same over so many s around each step, and where answers lie ahead over
               so many s that end with it
    ========== ===========================================================================================
    """

    file: str
    video: str = "video"
    time: str = "time"
    columns: dict[str, Kind] = {}
    only_where: dict[str, str] = {}
    embedding: str | None = None
    unpack: bool = False
    half: bool = False
    log: dict[str, Annotated[float, Field(gt=0)]] = {}
    summary: Annotated[tuple[Statistic, ...] | None, Field(min_length=1)] = None
    spans: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _columns_fit(self) -> StreamConfig:
        if not self.columns and self.embedding is None:
            raise ValueError("columns: expected at least one column or an embedding, found none")
        if self.file.count(VIDEO) > 1:
            raise ValueError(f"file: expected {VIDEO} once, found {self.file!r}")
        if not self.file.lower().endswith((".csv", ".tsv", ".parquet", ".pq", ".npz")):
            raise ValueError(f"file: expected a CSV, parquet or NPZ file, found {self.file!r}")
        for name, guard in self.only_where.items():
            for of in (name, guard):
                if of not in self.columns:
                    raise ValueError(f"only_where: unknown column {of!r}{nearest(of, list(self.columns))}")
            if guard in self.only_where or self.columns[guard] == "continuous":
                rule = "a discrete or binary column without only_where"
                raise ValueError(f"only_where.{name}: expected {rule}, found {guard!r}")
        for name in self.log:
            if self.columns.get(name) != "continuous":
                raise ValueError(f"log: expected a continuous column, found {name!r}")
        if self.spans and self.summary is None:
            raise ValueError("spans: expected a summary, found none")
        if self.unpack and not self.in_arrays:
            raise ValueError(f"unpack: expected an NPZ file, found {self.file!r}")
        named = [*self.columns, *self.embedding_columns()]
        twice = next((name for name in (self.time, self.video, *named) if named.count(name) > 1), None)
        if twice is not None or self.time in named:
            raise ValueError(f"columns: expected each column once, found {twice or self.time!r} twice")
        for setting, found in (("summary", self.summary or ()), ("spans", self.spans)):
            if len(set(found)) < len(found):
                raise ValueError(f"{setting}: expected each once, found {', '.join(map(str, found))}")
        return self

    @property
    def per_video(self) -> bool:
        """Whether each video has a file of its own."""
        return VIDEO in self.file

    @property
    def in_arrays(self) -> bool:
        """Whether the file holds arrays."""
        return self.file.lower().endswith(".npz")

    def embedding_columns(self) -> tuple[str, ...]:
        """The columns of a table that are the embedding; none where an array is, whose width the file tells.

        >>> StreamConfig(file="{video}.csv", embedding="clip_{0..2}").embedding_columns()
        ('clip_0', 'clip_1', 'clip_2')
        """
        if self.embedding is None or self.in_arrays:
            return ()
        found = _RANGE.search(self.embedding)
        if found is None or int(found[2]) < int(found[1]):
            raise ValueError(f"embedding: expected columns such as 'clip_{{0..511}}', found {self.embedding!r}")
        begin, end = self.embedding[: found.start()], self.embedding[found.end() :]
        return tuple(f"{begin}{i}{end}" for i in range(int(found[1]), int(found[2]) + 1))


AUDIO = StreamConfig(
    file="{video}_features.csv",
    columns={
        "audio_energy_rms": "continuous",
        "audio_is_speaking": "binary",
        "silence_duration_ms": "continuous",
        "text_is_active": "binary",
        "telop_active": "binary",
    },
)
VISUAL = StreamConfig(
    file="{video}_visual_features.csv",
    columns={
        "scene_change": "continuous",
        "visual_motion": "continuous",
        "saliency_x": "continuous",
        "saliency_y": "continuous",
        "face_count": "discrete",
        **dict.fromkeys(_FACE, "continuous"),
    },
    only_where=dict.fromkeys(_FACE, "face_count"),
    embedding="clip_{0..511}",
    half=True,
)


class TracksConfig(Config):
    """Archives of windows: ``sequences`` [N,L,count x columns], ``masks`` [N,L], ``video_ids`` [N] and, where there
    are any, ``source_video_names`` [N] and ``start`` [N], s.

    Of a file whose name begins with train, val or test the windows are that part of the split that came with the data.
    An asset's id is given to models as a ``number``, or as the ``category`` that it is, a feature per class.
    With ``ignore_inactive`` the answers of a track that is not active are unknown, but for whether it is and for its
    asset.
    """

    files: tuple[str, ...] = Field(("train_sequences.npz", "val_sequences.npz"), min_length=1)
    count: int = Field(20, ge=1)
    columns: tuple[TrackColumn, ...] = Field(TRACK_COLUMNS, min_length=1)
    asset_classes: int = Field(10, ge=2)
    assets: Literal["number", "category"] = "number"
    ignore_inactive: bool = True

    @model_validator(mode="after")
    def _named_once(self) -> TracksConfig:
        for setting, names in (("columns", self.columns), ("files", self.files)):
            if len(set(names)) < len(names):
                raise ValueError(f"{setting}: expected each once, found {', '.join(names)}")
        if self.ignore_inactive and ACTIVE not in self.columns:
            raise ValueError(f"columns: expected {ACTIVE!r} among them with ignore_inactive, found none")
        return self

    @property
    def width(self) -> int:
        """Columns of all tracks together."""
        return self.count * len(self.columns)

    @property
    def asset_names(self) -> tuple[str, ...]:
        """Names of the classes of assets, in the order of their ids."""
        return tuple(f"asset {i}" for i in range(self.asset_classes))

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the tracks."""
        return tuple(f"track {i + 1}" for i in range(self.count))


class TargetConfig(Config):
    """One target per step: a column of numbers (``regression``), of 0 and 1 or, with ``at_least``, of numbers of which
    those from there on are the positive class (``binary``), or of the words ``classes`` (``multiclass``). A target of
    an ``auxiliary`` group is trained and scored, and decides nothing.
    """

    column: str | None = None  # default: the name of the task
    kind: Literal["binary", "multiclass", "regression"] = "binary"
    at_least: float | None = None
    classes: tuple[str, ...] = ()
    auxiliary: str = ""

    @model_validator(mode="after")
    def _fits_kind(self) -> TargetConfig:
        if self.at_least is not None and self.kind != "binary":
            raise ValueError(f"at_least: expected a binary task, found {self.kind}")
        expected = {"binary": (0, 2), "multiclass": tuple(range(3, 1000)), "regression": (0,)}[self.kind]
        if len(self.classes) not in expected or len(set(self.classes)) < len(self.classes):
            rule = {"binary": "two different names or none", "multiclass": "three or more different names"}
            found = ", ".join(self.classes) or "none"
            raise ValueError(f"classes: expected {rule.get(self.kind, 'none of a regression')}, found {found}")
        return self


class TargetsConfig(Config):
    """A table of all videos, CSV or parquet, with a row per video and step."""

    file: str
    video: str = "video"
    time: str = "time"
    tasks: Annotated[dict[str, TargetConfig], AfterValidator(usable_names)] = Field(min_length=1)


class TwinConfig(Config):
    """Recordings made in memory, of the streams and tracks of the settings: what tracks do at the next step hangs on
    what they did, on the first stream ``lag`` seconds ago and on the second stream now.

    ``rates``: samples per second of each stream, 25 of one that is not named. A share ``dropped`` of a stream's samples
    is missing, in spans of about ``span`` seconds; a share ``absent`` of the videos has no stream of a kind, at least
    one where it is above 0. ``signal``: how much of what drives the tracks comes from the streams; 0: nothing.
    """

    videos: int = Field(12, ge=2)
    seconds: float = Field(60.0, gt=0)
    rates: dict[str, Annotated[float, Field(gt=0)]] = {"audio": 25.0, "visual": 12.5}
    lag: float = Field(0.3, ge=0)
    dropped: float = Field(0.1, ge=0, lt=1)
    span: float = Field(2.0, gt=0)
    absent: float = Field(0.1, ge=0, lt=1)
    signal: float = Field(2.0, ge=0)
    seed: int = Field(0, ge=0)


class EditingConfig(Config):
    """Streams and tracks on one clock, cut into windows of ``length`` steps, one every ``stride`` (null: when the last
    one ends). The answers of a step are what the tracks, or the tables of targets, hold ``horizon`` steps later.

    ================= ====================================================================================
    root       folder of the files; null: the ``twin``, or the working directory where there is none
    rate       steps of the clock per second
    clock      what ticks where there are no tracks: a stream, "targets", or null: every 1 / rate s, from the
               first sample of any stream to the last
    tolerance  a sample so near, s, is a step's own; other values are interpolated, and counted
    max_gap    s between two samples beyond which nothing is interpolated: steps there are masked
    report_gap s between two samples from which on a gap is counted in the notes
    most_interpolated  share of a stream's steps above which their interpolation is a warning
    tracks     null where there are none
    targets    null where there are none
    ========== ===========================================================================================
    """

    domain: Literal["editing"] = "editing"
    root: str | None = None
    length: int = Field(100, ge=1, le=100_000)
    stride: int | None = Field(None, ge=1)
    rate: float = Field(10.0, gt=0)
    clock: str | None = None
    horizon: int = Field(1, ge=0)
    tolerance: float = Field(0.05, ge=0)
    max_gap: float = Field(5.0, ge=0)
    report_gap: float = Field(1.0, ge=0)
    most_interpolated: float = Field(0.5, ge=0, le=1)
    tracks: TracksConfig | None = TracksConfig()
    streams: Annotated[dict[str, StreamConfig], AfterValidator(usable_names)] = {"audio": AUDIO, "visual": VISUAL}
    targets: TargetsConfig | None = None
    twin: TwinConfig | None = None
    leakage_auroc: float = Field(0.98, gt=0.5, le=1)  # a single feature above this is noted

    @model_validator(mode="after")
    def _has_inputs_and_answers(self) -> EditingConfig:
        if self.tracks is None and self.targets is None:
            raise ValueError("targets: expected tracks or targets, which are to be foretold, found neither")
        if self.tracks is None and not self.streams:
            raise ValueError("streams: expected streams or tracks, found neither")
        if TRACK in self.streams:
            raise ValueError(f"streams: expected other names than {TRACK!r}, which the tracks have, found it")
        names = [*self.track_tasks(), *(self.targets.tasks if self.targets else ())]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"targets.tasks: expected names that the tracks' tasks have not, found {twice!r}")
        return self

    @model_validator(mode="after")
    def _clock_is_there(self) -> EditingConfig:
        if self.clock is not None:
            known = [TRACK] if self.tracks else [*self.streams, *([TARGETS] if self.targets else [])]
            if self.clock not in known:
                raise ValueError(f"clock: expected {' or '.join(known)}, found {self.clock!r}")
        if self.twin is not None and self.root is None:
            if self.tracks is None or self.targets is not None:
                raise ValueError("twin: expected tracks and no table of targets, found otherwise")
            unknown = next((name for name in self.twin.rates if name not in self.streams), None)
            if unknown is not None and self.twin.rates != TwinConfig().rates:
                raise ValueError(f"twin.rates: unknown stream {unknown!r}{nearest(unknown, list(self.streams))}")
        return self

    @property
    def made(self) -> TwinConfig | None:
        """The twin, where no folder is read."""
        return self.twin if self.root is None else None

    @property
    def folder(self) -> str:
        """The folder that is read."""
        return self.root if self.root is not None else "."

    def track_tasks(self) -> Iterator[str]:
        """Names of the tasks that the tracks give."""
        for column in self.tracks.columns if self.tracks else ():
            yield TASK_OF.get(column, column)
