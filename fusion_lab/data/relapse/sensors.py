"""Streams of sensor samples, a day in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion_lab.contracts import DataError
from fusion_lab.data.relapse.clock import seconds_of_day
from fusion_lab.data.relapse.raw import (
    DAY,
    TIME,
    numbers,
    open_parquet,
    readable,
    require_columns,
    require_numbers,
    whole_days,
)

AXES = ("X", "Y", "Z")
_ROWS = 1 << 18
"""Read at a time."""

_HEART_WORDS = {"heart rate": r"heart.?rate|\bbpm\b|\bhr\b", "RR interval": r"rr"}


class SensorDay(NamedTuple):
    """One day's samples in order of time: ``seconds`` float64 [n] from midnight, ``values`` float64 [columns, n].

    ``pieces``: in how many places of the file they lay. Of a day in several, samples at a time that another sample has
    are left out, ``repeated`` in all.
    """

    day: int
    seconds: np.ndarray
    values: np.ndarray
    pieces: int
    repeated: int


def motion_columns(path: Path) -> tuple[str, ...]:
    """The axes' columns of an accelerometer's or gyroscope's file.

    Raises:
        DataError: the file is damaged, or lacks a column.
    """
    return _checked(path, lambda names: AXES)


def heart_columns(path: Path) -> tuple[str, ...]:
    """The columns of heart rate and of RR interval, located by name ("heartRate" and "rRInterval" as published).

    Raises:
        DataError: the file is damaged, or lacks a column, or has two that might be it.
    """

    def located(names: Sequence[str]) -> tuple[str, ...]:
        found = []
        for what, words in _HEART_WORDS.items():
            fitting = [name for name in names if name not in (DAY, TIME) and re.search(words, name, re.IGNORECASE)]
            if len(fitting) != 1:
                told = " and ".join(map(repr, fitting)) or f"none (columns: {', '.join(names)})"
                raise DataError(f"{path}: expected one column of the {what}, found {told}")
            found += fitting
        return tuple(found)

    return _checked(path, located)


def _checked(path: Path, columns_of) -> tuple[str, ...]:
    with open_parquet(path) as file:
        schema = file.schema_arrow
        require_columns(path, schema.names, (DAY, TIME))
        columns = columns_of(schema.names)
        require_numbers(path, schema, (DAY, *columns))
    return columns


def sensor_days(path: Path, columns: Sequence[str]) -> Iterator[SensorDay]:
    """The days of a file, each given as soon as its last sample is read.

    In a file whose rows are in order no more than a day is in memory; of one in disorder, the days that have begun.

    Raises:
        DataError: the file is damaged, or has a day or a time that cannot be; the row is named.
    """
    with open_parquet(path) as file:
        left, pieces = _survey(file, path)
        begun: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for batch, first in _batches(file, path, (DAY, TIME, *columns)):
            days = whole_days(batch[DAY], path, DAY, first)
            seconds = seconds_of_day(batch[TIME], str(path), TIME, first)
            values = np.array([numbers(batch[name]) for name in columns])
            for start, stop in _runs(days):
                day = int(days[start])
                begun.setdefault(day, []).append((seconds[start:stop], values[:, start:stop]))
                left[day] -= stop - start
                if not left[day]:
                    yield _day(day, begun.pop(day), pieces[day])


def _survey(file: pq.ParquetFile, path: Path) -> tuple[dict[int, int], dict[int, int]]:
    """How many samples each day has, and in how many places of the file."""
    rows: dict[int, int] = {}
    pieces: dict[int, int] = {}
    before = None
    for batch, first in _batches(file, path, (DAY,)):
        days = whole_days(batch[DAY], path, DAY, first)
        for start, stop in _runs(days):
            day = int(days[start])
            rows[day] = rows.get(day, 0) + stop - start
            pieces[day] = pieces.get(day, 0) + (day != before)
            before = day
    return rows, pieces


def _batches(file: pq.ParquetFile, path: Path, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Some rows after the others, and the number of the first of them."""
    first = 1
    with readable(path):
        batches = file.iter_batches(_ROWS, columns=list(columns), use_threads=False)
    while True:
        with readable(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch, first
        first += len(batch)


def _runs(days: np.ndarray) -> Iterator[tuple[int, int]]:
    """From where to where days are the same."""
    edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    return ((start, stop) for start, stop in zip(edges, edges[1:], strict=False) if stop > start)


def _day(day: int, parts: list[tuple[np.ndarray, np.ndarray]], pieces: int) -> SensorDay:
    seconds = np.concatenate([part[0] for part in parts])
    values = np.concatenate([part[1] for part in parts], axis=1)
    if (np.diff(seconds) < 0).any():
        order = np.argsort(seconds, kind="stable")
        seconds, values = seconds[order], values[:, order]
    fresh = np.diff(seconds, prepend=-1) != 0 if pieces > 1 else np.ones(len(seconds), bool)
    if fresh.all():
        return SensorDay(day, seconds, values, pieces, 0)
    return SensorDay(day, seconds[fresh], values[:, fresh], pieces, int((~fresh).sum()))


def sampling_rate(seconds: np.ndarray) -> float:
    """Samples a second while a sensor is on, to three digits: one over the median time between samples.

    >>> sampling_rate(np.array([0, 0.05, 0.1, 0.15, 60, 60.05]))
    20.0
    """
    apart = np.diff(seconds)
    apart = apart[apart > 0]
    return float(f"{1 / np.median(apart):.3g}") if len(apart) else 1.0
