"""From the rows of files to recordings: what is checked, what is left out, where a recording begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.samples import Recording, Samples
from fusion_lab.data.activity.settings import (
    ACTIVITIES,
    ACTIVITY,
    CHANNELS,
    COLUMNS,
    HEART_RATE,
    HEART_RATE_BPM,
    TIME,
    TRANSIENT,
    ActivityConfig,
)
from fusion_lab.data.readers import suggest

SENSOR_COLUMNS = COLUMNS[2:]
"""Canonical names of all that is measured, the heart rate first."""

SPLITS = ("train", "val", "test")
UNLABELLED = -1
"""Stands for the activity where nobody is asked for it."""

OFF_PACE = 0.25
"""Samples that are by a larger share nearer or farther apart than the settings say are noted."""

Place = Callable[[int, str], str]
"""What an error calls the cell of a row, from 0, and a column: "subject101.dat: line 7, column 'hand_temp_c'"."""


class Block(NamedTuple):
    """Some rows of a file in their order; ``rows`` are their places in it, from 0."""

    rows: np.ndarray  # int64 [n]
    time: np.ndarray  # float64 [n], seconds
    activity: np.ndarray | None  # float64 [n]
    values: np.ndarray  # float32 [n, columns]


class Track(NamedTuple):
    """All rows of a file, or those of one subject in it; of the values, only the rows of an activity are kept."""

    time: np.ndarray  # float64 [n]
    activity: np.ndarray  # int16 [n], UNLABELLED everywhere or TRANSIENT between activities
    values: np.ndarray  # float32 [kept, columns]


class Taken(NamedTuple):
    """One subject as it was read. ``rows``: how many each of the subject's files has."""

    samples: Samples
    rows: tuple[int, ...]
    left_out: int = 0  # samples between activities
    notes: tuple[str, ...] = ()  # what looks odd


class Part(NamedTuple):
    """One subject before it is read."""

    subject: str
    files: tuple[Path, ...]
    read: Callable[[], Taken]


class Layout(NamedTuple):
    """What lies in a folder: the columns that all subjects have, and each subject."""

    columns: tuple[str, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


def needed_columns(config: ActivityConfig) -> tuple[str, ...]:
    """Canonical names of the columns that the configured modalities and channels are made of.

    >>> needed_columns(ActivityConfig(modalities=("heart_rate", "hand"), channels=("temp",)))
    ('heart_rate_bpm', 'hand_temp_c')
    """
    channels = [column for channel in config.channels for column in CHANNELS[channel]]
    of = {m: [HEART_RATE_BPM] if m == HEART_RATE else [f"{m}_{c}" for c in channels] for m in config.modalities}
    return tuple(column for columns in of.values() for column in columns)


def called(config: ActivityConfig, canonical: str) -> str:
    """The name that the files have for a column."""
    return config.columns.get(canonical, canonical)


def require_columns(where: str, config: ActivityConfig, present: Sequence[str]) -> None:
    """Raises :class:`DataError` with the nearest name for the first needed column that ``present``, names as the files
    have them, does not hold.
    """
    taken = {called(config, canonical) for canonical in COLUMNS}
    for name in (called(config, canonical) for canonical in needed_columns(config)):
        if name not in present:
            others = [other for other in present if other not in taken]
            raise DataError(f"{where}: expected a column {name!r}, found none{suggest(name, others)}")


def left_out(counts: Iterable[int]) -> tuple[str, ...]:
    """What is said of samples between activities, counted by subject."""
    count = sum(counts)
    return (f"{count:,} samples between activities are left out",) if count else ()


def gather(blocks: Iterable[Block], columns: Sequence[str], place: Place, labelled: bool) -> Track:
    """All of a subject's rows in one file, checked; the values of rows between activities are dropped on the way.

    Raises:
        DataError: a time is missing or before the one above it, an activity is none of the data set's, a value is
            infinite.
    """
    times, activities, values = [np.zeros(0)], [np.zeros(0, np.int16)], []
    last = -np.inf
    for block in blocks:
        if not len(block.time):
            continue
        _check_times(block, last, place)
        _check_values(block, columns, place)
        last = block.time[-1]
        activity = _activities(block, place) if labelled else np.full(len(block.time), UNLABELLED, np.int16)
        times.append(block.time)
        activities.append(activity)
        kept = activity != TRANSIENT
        values.append(block.values if kept.all() else block.values[kept])
    stacked = np.concatenate(values) if values else np.zeros((0, len(columns)), np.float32)
    return Track(np.concatenate(times), np.concatenate(activities), stacked)


def _check_times(block: Block, last: float, place: Place) -> None:
    unknown = ~np.isfinite(block.time)
    if unknown.any():
        at = int(np.argmax(unknown))
        raise DataError(f"{place(block.rows[at], TIME)}: expected a time in seconds, found {block.time[at]:g}")
    before = np.concatenate([[last], block.time[:-1]])
    if (block.time < before).any():
        at = int(np.argmax(block.time < before))
        found = f"expected time to go on from {before[at]:.10g} s, found {block.time[at]:.10g} s"
        raise DataError(f"{place(block.rows[at], TIME)}: {found}")


def _check_values(block: Block, columns: Sequence[str], place: Place) -> None:
    infinite = np.isinf(block.values)
    if infinite.any():
        row, column = np.argwhere(infinite)[0].tolist()
        found = block.values[row, column]
        raise DataError(f"{place(block.rows[row], columns[column])}: expected a number or NaN, found {found}")


def _activities(block: Block, place: Place) -> np.ndarray:
    assert block.activity is not None
    known = np.isin(block.activity, [TRANSIENT, *ACTIVITIES])
    if not known.all():
        at = int(np.argmin(known))
        ids = ", ".join(str(a) for a in (TRANSIENT, *ACTIVITIES))
        found = f"expected one of the activities {ids}, found {block.activity[at]:g}"
        raise DataError(f"{place(block.rows[at], ACTIVITY)}: {found}")
    return block.activity.astype(np.int16)


def tolerance(time: np.ndarray) -> np.ndarray:
    """How far the difference of two neighbouring time stamps may be off by rounding, seconds, ``[n]``.

    Each stamp is rounded by half the spacing of numbers around it. Stamps that are all 32-bit numbers are taken to be
    rounded to these: after an hour they are 0.0002 s apart, after four 0.001 s, and 0.02 s looks like 0.0205 s.

    >>> tolerance(np.array([3600.01]))[0] < 1e-12, tolerance(np.array([3600.01], np.float32))[0]
    (np.True_, np.float64(0.000244140625))
    """
    with np.errstate(over="ignore"):  # what 32 bits do not hold was not stored in them
        single = time.astype(np.float32)
    stored = single if np.array_equal(single, time) else time
    return np.spacing(np.abs(stored)).astype(np.float64)


def recording_starts(time: np.ndarray, key: np.ndarray, most: float | np.ndarray) -> np.ndarray:
    """Whether a recording begins at each row, bool ``[n]``: where ``key`` changes, where more than ``most`` seconds
    have passed, or where time begins anew.

    >>> recording_starts(np.array([0.0, 0.01, 0.03, 0.06]), np.array([1, 4, 4, 4]), 0.02).tolist()
    [True, True, False, True]
    """
    starts = np.ones(len(time), bool)
    step = np.diff(time)
    starts[1:] = (key[1:] != key[:-1]) | (step > np.broadcast_to(most, time.shape)[1:]) | (step < 0)
    return starts


def carried_forward(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Each missing value as the last one before it in its recording, ``[n]``; NaN before the first.

    >>> carried_forward(np.array([7.0, np.nan, np.nan, 5.0]), np.array([True, False, True, False])).tolist()
    [7.0, 7.0, nan, 5.0]
    """
    told = np.where(~np.isnan(values) | starts, np.arange(len(values)), 0)
    return values[np.maximum.accumulate(told)]


def carry_heart_rate(values: np.ndarray, starts: np.ndarray, columns: Sequence[str]) -> None:
    """Carries the heart rate, where there is one, forward in place; ``starts`` as :func:`carried_forward` has it."""
    if HEART_RATE_BPM in columns:
        beats = values[:, columns.index(HEART_RATE_BPM)]
        beats[:] = carried_forward(beats, starts)


def as_samples(
    where: str,
    subject: str,
    tracks: Sequence[Track],
    config: ActivityConfig,
    columns: Sequence[str],
    splits: Sequence[str] = ("",),
) -> Taken:
    """One subject's recordings, in time order, the heart rate carried forward inside each.

    ``splits`` has one for each track; ``where`` is what errors begin with.

    Raises:
        DataError: no row is of an activity, or the time stamps are too coarse to tell a gap.
    """
    rows = tuple(len(track.time) for track in tracks)
    time = np.concatenate([track.time for track in tracks])
    activity = np.concatenate([track.activity for track in tracks])
    split = np.repeat([SPLITS.index(s) if s else -1 for s in splits], rows)
    kept = activity != TRANSIENT
    if not kept.any():
        raise DataError(f"{where}: expected samples of at least one activity, found {len(time)} samples of none")
    slack = np.concatenate([tolerance(track.time) for track in tracks])
    coarsest = slack.max()
    if coarsest > config.gap / 2:
        raise DataError(
            f"{where}: expected times that tell a gap of {config.gap:g} s, found numbers rounded to {coarsest:.2g} s "
            "(count seconds since the session began, or store 64-bit numbers)"
        )
    key = activity.astype(np.int64) * (len(SPLITS) + 1) + split
    order = _in_order(time, key, config.gap + slack, rows)
    values = _sorted_values(order, kept, tracks)
    time, activity, split, kept = time[order], activity[order], split[order], kept[order]
    starts = recording_starts(time, key[order], config.gap + slack[order])[kept]
    carry_heart_rate(values, starts, columns)
    recordings = _recordings(starts, time[kept], activity[kept], split[kept])
    steps = np.diff(time[kept])[~starts[1:]]
    return Taken(Samples(subject, values, recordings), rows, int((~kept).sum()), tuple(_odd(subject, steps, config)))


def _odd(subject: str, steps: np.ndarray, config: ActivityConfig) -> Iterator[str]:
    """What is odd about the seconds from one sample to the next inside recordings."""
    repeated = int((steps == 0).sum())
    if repeated:
        yield f"subject {subject}: {repeated:,} samples have the time of the one before"
    if len(steps) and abs(steps.mean() * config.rate - 1) > OFF_PACE:
        expected = f"where data.rate={config.rate:g} says {1 / config.rate:.3g} s"
        yield f"subject {subject}: samples are {steps.mean():.3g} s apart, {expected}"


def _in_order(time: np.ndarray, key: np.ndarray, most: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """All rows, int ``[n]``, by the time at which their recording begins; ``rows`` of each track.

    Recordings stay whole where those of two tracks overlap, as after two sessions whose clocks both began at 0.
    """
    track = np.repeat(np.arange(len(rows)), rows)
    starts = recording_starts(time, key, most) | (np.diff(track, prepend=-1) != 0)
    return np.argsort(time[starts][np.cumsum(starts) - 1], kind="stable")


def _sorted_values(order: np.ndarray, kept: np.ndarray, tracks: Sequence[Track]) -> np.ndarray:
    """The values of all tracks in the order of their rows; those of one track are."""
    if len(tracks) == 1:
        return tracks[0].values
    values = np.concatenate([track.values for track in tracks])
    return values[(np.cumsum(kept) - 1)[order][kept[order]]]


def _recordings(starts: np.ndarray, time: np.ndarray, activity: np.ndarray, split: np.ndarray) -> tuple[Recording, ...]:
    begin = np.flatnonzero(starts)
    rows = np.diff(begin, append=len(starts))
    return tuple(
        Recording(
            int(at),
            int(count),
            float(time[at]),
            None if activity[at] == UNLABELLED else int(activity[at]),
            SPLITS[split[at]] if split[at] >= 0 else "",
        )
        for at, count in zip(begin, rows, strict=True)
    )
