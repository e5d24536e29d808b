"""The daily features of a sequence of one patient, from its raw files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from fusion_lab.data.relapse.daily import Daily, Original, Prepared
from fusion_lab.data.relapse.features.heart import heart_features
from fusion_lab.data.relapse.features.motion import motion_features
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.features.sleep import sleep_features
from fusion_lab.data.relapse.features.steps import step_features
from fusion_lab.data.relapse.raw import (
    FILES,
    UNKNOWN,
    SensorSequence,
    Spans,
    read_labels,
    read_sleep,
    read_steps,
)
from fusion_lab.data.relapse.sensors import SensorDay, heart_columns, motion_columns, sampling_rate, sensor_days

ByDay = dict[int, np.ndarray]
"""A modality's features by day; days on which nothing was measured are not in it."""

Notes = list[str]


def check(sequence: SensorSequence) -> None:
    """Looks at what costs nothing: labels, and which columns files have.

    Raises:
        DataError: a file is damaged or empty, or lacks a column; a label cannot be.
    """
    read_labels(sequence)
    for modality, columns_of in {"accel": motion_columns, "gyr": motion_columns, "hr": heart_columns}.items():
        if path := sequence.file(modality):
            columns_of(path)
    for modality, read in {"step": read_steps, "sleep": read_sleep}.items():
        if path := sequence.file(modality):
            read(path)


def originals(sequence: SensorSequence) -> tuple[Original, ...]:
    """The files of a sequence as they are now."""
    stats = ((path, path.stat()) for path in sequence.files)
    return tuple(Original(name=path.name, size=s.st_size, modified=s.st_mtime_ns) for path, s in stats)


def describe(sequence: SensorSequence) -> tuple[Daily, Prepared]:
    """All days of a sequence on which anything was measured or labelled, one in memory at a time.

    Raises:
        DataError: a file is damaged, or has a cell that cannot be; file and row are named.
    """
    files = originals(sequence)  # before reading: what changes meanwhile is read again next time
    notes: Notes = []
    found: dict[str, ByDay] = {}
    without = []
    for modality, compute in COMPUTE.items():
        path = sequence.file(modality)
        if path is None:
            without.append(modality)
        with np.errstate(over="ignore", invalid="ignore"):  # of what is too large for it, see _matrix
            found[modality] = {} if path is None else compute(path, notes)
    labels = read_labels(sequence)
    days = np.array(sorted({*(labels or ()), *(day for by_day in found.values() for day in by_day)}), np.int64)
    daily = Daily(
        patient=np.full(len(days), sequence.patient),
        sequence=np.full(len(days), sequence.name),
        day=days,
        features={modality: _matrix(days, by_day, modality, notes) for modality, by_day in found.items()},
        label=_labels(sequence, days, labels),
    )
    return daily, Prepared(
        patient=sequence.patient,
        sequence=sequence.name,
        days=len(days),
        without=tuple(without),
        gaps=int(days[-1] - days[0]) + 1 - len(days) if len(days) else 0,
        unmeasured=sum(not any(day in by_day for by_day in found.values()) for day in days.tolist()),
        unlisted=0 if labels is None else sum(day not in labels for day in days.tolist()),
        notes=tuple(f"{sequence.title}/{note}" for note in notes),
        originals=files,
    )


def _motion(path: Path, notes: Notes) -> ByDay:
    found: ByDay = {}
    left_out = 0
    for day in _told(sensor_days(path, motion_columns(path)), path, notes):
        finite = np.isfinite(day.values).all(axis=0)
        left_out += finite.size - int(finite.sum())
        if not finite.all():
            day = day._replace(seconds=day.seconds[finite], values=day.values[:, finite])
        if len(day.seconds):
            found[day.day] = motion_features(day.seconds, day.values, sampling_rate(day.seconds))
    if left_out:
        notes.append(f"{path.name}: {left_out:,} samples without a number on each axis are left out")
    return found


def _heart(path: Path, notes: Notes) -> ByDay:
    found: ByDay = {}
    for day in _told(sensor_days(path, heart_columns(path)), path, notes):
        rate, rr = np.where(np.isfinite(day.values), day.values, np.nan)
        features = heart_features(day.seconds, rate, rr)
        if not np.isnan(features).all():
            found[day.day] = features
    return found


def _steps(path: Path, notes: Notes) -> ByDay:
    spans = _counted(read_steps(path), path, "segments", notes)
    of_day = {int(day): spans.day == day for day in np.unique(spans.day)}
    return {day: step_features(spans.totals[on], spans.start[on], spans.end[on]) for day, on in of_day.items()}


def _sleep(path: Path, notes: Notes) -> ByDay:
    spans = _counted(read_sleep(path), path, "episodes", notes)
    days = np.unique(spans.day)
    return dict(zip(days.tolist(), sleep_features(days, spans.day, spans.start, spans.end), strict=True))


COMPUTE: Mapping[str, Callable[[Path, Notes], ByDay]] = {
    "accel": _motion,
    "gyr": _motion,
    "hr": _heart,
    "step": _steps,
    "sleep": _sleep,
}


def _told(days: Iterator[SensorDay], path: Path, notes: Notes) -> Iterator[SensorDay]:
    """The days as they come; those that lay in several places are counted."""
    scattered, repeated = [], 0
    for day in days:
        if day.pieces > 1:
            scattered.append(day.day)
            repeated += day.repeated
        yield day
    if scattered:
        told = f"day {scattered[0]}" + (f" and {len(scattered) - 1} more" if len(scattered) > 1 else "")
        notes.append(
            f"{path.name}: {told} in several places of the file, taken together; {repeated:,} samples at a time that "
            "another has are left out"
        )


def _counted(spans: Spans, path: Path, what: str, notes: Notes) -> Spans:
    if spans.repeated:
        notes.append(f"{path.name}: {spans.repeated:,} {what} with the day and times of another are left out")
    return spans


def _matrix(days: np.ndarray, by_day: ByDay, modality: str, notes: Notes) -> np.ndarray:
    """float32 [days,F]; what is beyond such numbers is counted, and missing."""
    absent = np.full(len(MODALITIES[modality]), np.nan)
    rows = [by_day.get(day, absent) for day in days.tolist()]
    with np.errstate(over="ignore"):
        matrix = np.array(rows, np.float64).reshape(len(days), len(absent)).astype(np.float32)
    beyond = np.isinf(matrix)
    if beyond.any():
        notes.append(f"{FILES[modality]}: {beyond.sum():,} features that are larger than 32-bit numbers are left out")
    return np.where(beyond, np.float32(np.nan), matrix)


def _labels(sequence: SensorSequence, days: np.ndarray, labels: dict[int, int] | None) -> np.ndarray:
    if sequence.name.startswith("train"):
        return np.zeros(len(days), np.int8)
    known = labels or {}
    return np.array([known.get(day, UNKNOWN) for day in days.tolist()], np.int8)
