"""The raw tree: which patients and sequences there are, their labels, and their small tables of steps and sleep.

``<patient>/<train|val|test>_<number>/`` holds ``linacc.parquet``, ``gyr.parquet``, ``hrm.parquet``, ``step.parquet``
and ``sleep.parquet``, any of which may be missing, and ``relapses.csv``. Sensors' files are read in :mod:`.sensors`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion_lab.contracts import DataError
from fusion_lab.data.formats import read_csv
from fusion_lab.data.readers import existing_file
from fusion_lab.data.relapse.clock import seconds_of_day
from fusion_lab.data.relapse.features.names import STEP_TOTALS
from fusion_lab.data.relapse.settings import FURTHEST
from fusion_lab.data.words import cell_text, first_line, quoted, suggest

FILES = {
    "accel": "linacc.parquet",
    "gyr": "gyr.parquet",
    "hr": "hrm.parquet",
    "step": "step.parquet",
    "sleep": "sleep.parquet",
}
"""The file of each modality."""

LABELS, DEMOGRAPHICS = "relapses.csv", "demographics.csv"
DAY, TIME, RELAPSE = "day_index", "time", "relapse"
STARTS, ENDS = "start_time", "end_time"
START_DAY, END_DAY = "start_date_index", "end_date_index"
STEP_COLUMNS = dict(
    zip(STEP_TOTALS, ("totalSteps", "stepsWalking", "stepsRunning", "distance", "calories"), strict=True)
)
UNKNOWN = -1
"""The label of a day of which nothing is known."""

A_DAY = f"a whole number up to {FURTHEST:,}"
_DAY_NUMBER = rf"-?\d{{1,{len(str(FURTHEST))}}}"
_NAME = re.compile(r"(train|val|test)_(\d+)")
_WITHIN = ("", "track1", "original/track1", "data/original/track1")
"""Where patients may lie below the folder that was named."""

_SECONDS_PER_HOUR = 3600


Demographics = tuple[dict[str, str | None], ...]
"""The table of patients: {column: cell} of each line."""


class NoTreeError(DataError):
    """A folder that is no raw tree, be it anything else."""


class SensorSequence(NamedTuple):
    """Some weeks of one patient; ``name`` is such as "val_0"."""

    patient: str
    name: str
    folder: Path

    @property
    def title(self) -> str:
        return f"{self.patient}/{self.name}"

    def file(self, modality: str) -> Path | None:
        """The file of a modality, ``None`` where there is none.

        Raises:
            DataError: it holds nothing, or is no file.
        """
        there = _is_there(self.folder / FILES[modality])
        return existing_file(self.folder, FILES[modality]) if there else None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are there."""
        return tuple(path for name in (*FILES.values(), LABELS) if (path := self.folder / name).is_file())


def find_sequences(root: Path) -> list[SensorSequence]:
    """The sequences below ``root``, or below ``data/original/track1`` of it; patients and numbers in counting order.

    Raises:
        NoTreeError: there is no such folder, or none in it.
        DataError: a folder cannot be read, or the name of a patient not be told in a line.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise NoTreeError(f"{root}: expected a folder of patients, found {found} (say where it is with data=FOLDER)")
    for within in _WITHIN:
        found = [
            SensorSequence(patient.name, folder.name, folder)
            for patient in _folders(root / within)
            for folder in _folders(patient)
            if _NAME.fullmatch(folder.name)
        ]
        odd = [one.patient for one in found if not one.patient.isprintable()]
        if odd:
            raise DataError(f"{root}: expected folders of patients with printable names, found {ascii(odd[0])}")
        if found:
            return sorted(found, key=lambda one: (_counting(one.patient), _counting(one.name)))
    raise NoTreeError(f"{root}: expected folders of patients with sequences such as P1/train_0, found none")


def demographics(sequences: Iterable[SensorSequence]) -> Demographics:
    """The lines of the table of patients that lies beside their folders; none where there is none."""
    path = next(iter(sequences)).folder.parent.parent / DEMOGRAPHICS
    if not path.is_file():
        return ()
    frame = read_csv(path)
    return tuple({name: cell_text(cell) for name, cell in line.items()} for line in frame.to_dict("records"))


def read_labels(sequence: SensorSequence) -> dict[int, int] | None:
    """Labels by day: 1 in relapse, 0 stable, -1 unknown; ``None`` where no file holds any.

    The last row of ``relapses.csv`` is spurious and dropped unread. Days of a ``train`` sequence are stable, whatever
    a file says: it is not read.

    Raises:
        DataError: a column is missing, a day is no whole number or beyond :data:`.settings.FURTHEST`, a label is
            neither 0, 1, -1 nor empty, or a day has two labels; the line is named.
    """
    path = sequence.folder / LABELS
    if sequence.name.startswith("train") or not _is_there(path):
        return None
    frame = read_csv(existing_file(sequence.folder, LABELS))
    _require(path, frame.columns, (DAY, RELAPSE))
    labels: dict[int, int] = {}
    for line, day, relapse in list(zip(frame.index, frame[DAY], frame[RELAPSE], strict=True))[:-1]:
        number = cell_text(day) or ""
        if not re.fullmatch(_DAY_NUMBER, number) or abs(int(number)) > FURTHEST:
            raise DataError(f"{path}: line {line}, column {DAY!r}: expected {A_DAY}, found {quoted(day)}")
        label = {"0": 0, "1": 1, str(UNKNOWN): UNKNOWN, None: UNKNOWN}.get(cell_text(relapse))
        if label is None:
            expected = "expected 1 (relapse), 0 (stable), -1 or nothing (unknown)"
            raise DataError(f"{path}: line {line}, column {RELAPSE!r}: {expected}, found {quoted(relapse)}")
        if labels.setdefault(int(number), label) != label:
            raise DataError(f"{path}: line {line}: expected one label per day, found another of day {number}")
    return labels


class Spans(NamedTuple):
    """Step segments or episodes of sleep: each one's day, and from when to when by the clock, hours in [0, 24)."""

    day: np.ndarray  # int64 [n]
    start: np.ndarray
    end: np.ndarray
    totals: np.ndarray  # float64 [n, 5] of segments, [n, 0] of episodes
    repeated: int  # left out, since another has the same day and times


def read_steps(path: Path) -> Spans:
    """The segments of a sequence.

    Raises:
        DataError: the file cannot be read, lacks a column, or has a cell that cannot be; the row is named.
    """
    return _read_spans(path, START_DAY, tuple(STEP_COLUMNS.values()))


def read_sleep(path: Path) -> Spans:
    """The episodes of a sequence; raises as :func:`read_steps`."""
    return _read_spans(path, END_DAY, ())


def _read_spans(path: Path, day: str, totals: tuple[str, ...]) -> Spans:
    file = open_parquet(path)
    require_numbers(path, file.schema_arrow, (day, *totals))
    require_columns(path, file.schema_arrow.names, (STARTS, ENDS))
    with readable(path):
        table = file.read(columns=[day, STARTS, ENDS, *totals]).combine_chunks()
    days = whole_days(_whole(table[day]), path, day)
    hours = [seconds_of_day(_whole(table[name]), str(path), name) / _SECONDS_PER_HOUR for name in (STARTS, ENDS)]
    amounts = np.array([numbers(table[name]) for name in totals]).reshape(len(totals), len(days)).T
    known = np.column_stack([days, *hours])
    first = np.sort(np.unique(known, axis=0, return_index=True)[1]) if len(days) else np.zeros(0, int)
    return Spans(days[first], hours[0][first], hours[1][first], amounts[first], len(days) - len(first))


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file of which the footer has been read.

    Raises:
        DataError: it is none, or damaged.
    """
    with readable(path):
        return pq.ParquetFile(path, buffer_size=1 << 20)  # so that no more than a part of a column is in memory


@contextmanager
def readable(path: Path) -> Generator[None]:
    """What Arrow says of a file that it cannot read, as one line that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable parquet file, found: {first_line(error)}") from None


def whole_days(days: pa.Array, path: Path, column: str, first: int = 1) -> np.ndarray:
    """Days as int64 ``[n]``; ``first`` is the row of the first.

    Raises:
        DataError: one is empty, no whole number, or beyond :data:`.settings.FURTHEST`; the row is named.
    """
    values = numbers(days)
    wrong = ~((values == np.round(values)) & (np.abs(values) <= FURTHEST))
    if wrong.any():
        place = int(wrong.argmax())
        found = "an empty cell" if np.isnan(values[place]) else values[place]
        raise DataError(f"{path}: row {first + place}, column {column!r}: expected {A_DAY}, found {found}")
    return values.astype(np.int64)


def require_columns(path: Path, names: Iterable[str], wanted: Iterable[str]) -> None:
    """Raises :class:`DataError` for the first of the ``wanted`` columns that is missing, with the nearest name, or is
    there twice.
    """
    _require(path, names, wanted)


def require_numbers(path: Path, schema: pa.Schema, wanted: Iterable[str]) -> None:
    """Raises :class:`DataError` for the first of the ``wanted`` columns that is missing or holds no numbers."""
    for name in wanted:
        _require(path, schema.names, [name])
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise DataError(f"{path}: column {name!r}: expected numbers, found type {kind}")


def _require(path: Path, names: Iterable[str], wanted: Iterable[str]) -> None:
    known = list(names)
    for name in wanted:
        if name not in known:
            raise DataError(f"{path}: expected a column {name!r}, found none{suggest(name, known)}")
        if known.count(name) > 1:
            raise DataError(f"{path}: expected each column once, found {name!r} again")


def numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """float64, NaN where empty; whole numbers beyond 2^53 are rounded."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"{folder}: expected a folder that can be read, found: {error.strerror}") from None


def _is_there(path: Path) -> bool:
    """Whether there is anything of this name; a link that leads nowhere is no file that was never there."""
    try:
        there = path.exists()
        lost = path.is_symlink() and not there
    except OSError as error:
        raise DataError(f"{path}: expected a data file, found: {error.strerror}") from None
    if lost:
        raise DataError(f"{path}: expected a data file, found a link that leads nowhere")
    return there


def _counting(name: str) -> list[tuple[int, str]]:
    """What sorts P2 before P10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
