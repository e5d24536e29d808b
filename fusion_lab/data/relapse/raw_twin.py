"""A raw tree that is made up: the files of :mod:`.raw` at a reduced rate, with a relapse planted in them.

In a relapse a patient moves less and less evenly, walks less, the heart beats faster and varies less, and sleep begins
later, ends later and is longer: by ``signal`` times as much as days differ anyway, growing over its first days.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from fusion_lab.config import Config
from fusion_lab.data.relapse.clock import DAY_SECONDS
from fusion_lab.data.relapse.raw import (
    DAY,
    DEMOGRAPHICS,
    END_DAY,
    ENDS,
    FILES,
    LABELS,
    RELAPSE,
    START_DAY,
    STARTS,
    STEP_COLUMNS,
    TIME,
)
from fusion_lab.data.relapse.sensors import AXES

_SPURIOUS = 999
"""The day of the last row of the labels, which means nothing."""
_RAMP = 3
"""Days over which a relapse comes on."""
_STRIDE_HZ = 1.8
_BEAT_SECONDS = 0.8
_OFF_HOURS = (1.0, 8.0)
_SLEEP_HOURS = 8.0


class RawTwinConfig(Config):
    """``days`` of each sequence, one or two of each kind; samples a second of the motion sensors and of the heart's.

    ``gaps``: share of days that are not there at all. ``off``: share of a sensor's days on which it is off for some
    hours. ``lost``: share of sequences in which a sensor's file is missing. ``signal``: what a relapse changes, in
    deviations of a day; 0 leaves nothing to learn.
    """

    patients: int = Field(9, ge=1)
    days: int = Field(10, ge=1)
    motion_hz: float = Field(0.05, gt=0)
    heart_hz: float = Field(0.05, gt=0)
    gaps: float = Field(0.08, ge=0, lt=1)
    off: float = Field(0.3, ge=0, le=1)
    lost: float = Field(0.06, ge=0, le=1)
    signal: float = Field(2.0, ge=0)
    seed: int = Field(0, ge=0)


class _Person(NamedTuple):
    """Whose days these are: usual liveliness, heart rate, heart rate variability and onset of sleep."""

    lively: float
    bpm: float
    rmssd: float
    onset: float


class _Day(NamedTuple):
    """One day: ``state`` in [0, 1], 1 = in relapse, and what it makes of the person's usual values."""

    number: int
    state: float
    lively: float
    bpm: float
    rmssd: float
    bed: float  # hour, may be beyond 24
    asleep: float  # hours


def write_raw_tree(root: Path, config: RawTwinConfig | None = None) -> None:
    """Writes the tree: ``P1`` to ``P<patients>`` below ``root``, each with an irregular number of sequences.

    The same settings give the same values. Times are text in the files of every other sequence, ``datetime.time`` in
    those between.
    """
    config = config or RawTwinConfig()
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([config.seed, config.patients])
    table = {"patient": [f"P{p + 1}" for p in range(config.patients)], "age": rng.integers(20, 60, config.patients)}
    pd.DataFrame(table).to_csv(root / DEMOGRAPHICS, index=False)
    for patient in range(config.patients):
        rng = np.random.default_rng([config.seed, patient])
        person = _person(rng)
        names = [f"{kind}_{n}" for kind in ("train", "val", "test") for n in range(int(rng.integers(1, 3)))]
        for place, name in enumerate(names):
            folder = root / f"P{patient + 1}" / name
            folder.mkdir(parents=True, exist_ok=True)
            as_text = (patient + place) % 2 == 0
            _write_sequence(folder, person, config, np.random.default_rng([config.seed, patient, place]), as_text)


def write_sequence(folder: Path, config: RawTwinConfig) -> None:
    """Writes one sequence, named as ``folder`` is, of one person; times are text."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed)
    _write_sequence(folder, _person(rng), config, rng, True)


def _person(rng: np.random.Generator) -> _Person:
    return _Person(rng.normal(1, 0.15), rng.normal(72, 6), rng.normal(45, 8), rng.normal(23, 0.7))


def _write_sequence(folder: Path, person: _Person, config: RawTwinConfig, rng: np.random.Generator, text: bool) -> None:
    watched = not folder.name.startswith("train")
    relapse = _relapse(config.days, rng) if watched else np.zeros(config.days, int)
    there = rng.random(config.days) >= config.gaps
    there[0] = True
    days = [day for day, is_there in zip(_days(person, relapse, config, rng), there, strict=True) if is_there]
    tables = {
        "accel": _motion(days, config, rng, 1.0),
        "gyr": _motion(days, config, rng, 0.6),
        "hr": _heart(days, config, rng),
        "step": _steps(days, rng),
        "sleep": _sleep(days, rng),
    }
    for modality, table in tables.items():
        if rng.random() >= config.lost:
            _timed(table, text).to_parquet(folder / FILES[modality], index=False)
    if folder.name.startswith("val"):
        labels = {DAY: [*range(config.days), _SPURIOUS], RELAPSE: [*relapse, 1]}
        pd.DataFrame(labels).to_csv(folder / LABELS, index=False)


def _relapse(days: int, rng: np.random.Generator) -> np.ndarray:
    """A relapse of a third of the days or so, at the end or in the middle."""
    length = max(1, int(days * rng.uniform(0.25, 0.45)))
    begin = int(rng.integers(1, max(1, days - length) + 1))  # the first day is stable
    return (np.arange(days) >= begin).astype(int) * (np.arange(days) < begin + length)


def _days(person: _Person, relapse: np.ndarray, config: RawTwinConfig, rng: np.random.Generator) -> Iterator[_Day]:
    state = 0.0
    for number, sick in enumerate(relapse.tolist()):
        state = min(1.0, state + 1 / _RAMP) if sick else 0.0
        change = config.signal * state
        lively, bpm, rmssd, bed, asleep = rng.normal(size=5) + change * np.array([-1, 1, -1, 1, 1])
        yield _Day(
            number,
            state,
            max(0.1, person.lively + 0.12 * lively),
            person.bpm + 3 * bpm,
            max(5.0, person.rmssd + 6 * rmssd),
            person.onset + 0.5 * bed,
            float(np.clip(_SLEEP_HOURS + 0.6 * asleep, 3, 13)),
        )


def _clock(rate: float, rng: np.random.Generator, off: float) -> np.ndarray:
    """Times of a day's samples in microseconds; a sensor may be off for some hours."""
    micro = (np.arange(0, DAY_SECONDS, 1 / rate) * 1e6).astype(np.int64)
    if rng.random() < off:
        begin = rng.uniform(0, 20)
        on = np.abs(micro / 3.6e9 - begin) > rng.uniform(*_OFF_HOURS) / 2
        micro = micro[on]
    return micro


def _awake(day: _Day, micro: np.ndarray) -> np.ndarray:
    hours = micro / 3.6e9
    woken = (day.bed + day.asleep) % 24
    return (hours - woken) % 24 < 24 - day.asleep


def _motion(days: list[_Day], config: RawTwinConfig, rng: np.random.Generator, size: float) -> pd.DataFrame:
    tables = []
    for day in days:
        micro = _clock(config.motion_hz, rng, config.off)
        bouts = np.repeat(rng.random(24 * 12) < 0.25, 300)[micro // 1_000_000]
        strength = size * np.where(_awake(day, micro), day.lively * np.where(bouts, 2.0, 0.5), 0.03)
        swing = np.sin(2 * np.pi * _STRIDE_HZ * micro / 1e6)
        values = strength[:, None] * (rng.normal(0, 0.5, (len(micro), 3)) + swing[:, None] * [1, 0.4, 0.2])
        columns = dict(zip(AXES, values.T.astype(np.float32), strict=True))
        tables.append(pd.DataFrame({TIME: micro, DAY: day.number} | columns))
    return pd.concat(tables, ignore_index=True)


def _heart(days: list[_Day], config: RawTwinConfig, rng: np.random.Generator) -> pd.DataFrame:
    tables = []
    samples = max(1, round(config.heart_hz * _BEAT_SECONDS))  # for which an interval holds
    for day in days:
        micro = _clock(config.heart_hz, rng, config.off)
        bpm = day.bpm + np.where(_awake(day, micro), 8, -8) + rng.normal(0, 4, len(micro))
        bpm = np.maximum(bpm, 35)
        interval = 60_000 / bpm + rng.normal(0, day.rmssd / np.sqrt(2), len(micro))
        interval = interval[np.arange(len(micro)) // samples * samples]
        interval[rng.random(len(micro)) < 0.05] = 0  # no reading
        heart = {"heartRate": bpm.round().astype(np.float32), "rRInterval": interval.round().astype(np.float32)}
        tables.append(pd.DataFrame({TIME: micro, DAY: day.number} | heart))
    return pd.concat(tables, ignore_index=True)


def _steps(days: list[_Day], rng: np.random.Generator) -> pd.DataFrame:
    tables = []
    for day in days:
        count = max(1, int(rng.poisson(14 * day.lively)))
        start = np.sort(rng.uniform(8, 21, count))
        length = rng.uniform(1 / 60, 0.5, count)
        total = np.round(length * 60 * 60 * day.lively * rng.uniform(0.5, 1.5, count))
        running = np.round(total * rng.uniform(0, 0.1, count))
        sums = (total, total - running, running, total * 0.7, total * 0.04)
        tables.append(
            pd.DataFrame(
                {START_DAY: day.number}
                | dict(zip(STEP_COLUMNS.values(), sums, strict=True))
                | {STARTS: _micro(start), ENDS: _micro(start + length)}
            )
        )
    return pd.concat(tables, ignore_index=True)


def _sleep(days: list[_Day], rng: np.random.Generator) -> pd.DataFrame:
    """The night that ends on the day, and sometimes a nap."""
    rows = []
    for day in days:
        rows.append((day.bed, day.bed + day.asleep, day.number))
        if rng.random() < 0.2:
            nap = rng.uniform(13, 16)
            rows.append((nap, nap + rng.uniform(0.3, 1.5), day.number))
    start, end, number = (np.array(column) for column in zip(*rows, strict=True))
    return pd.DataFrame({STARTS: _micro(start), ENDS: _micro(end), END_DAY: number})


def _micro(hours: np.ndarray) -> np.ndarray:
    return np.round(hours % 24 * 3600).astype(np.int64) % DAY_SECONDS * 1_000_000


def _timed(table: pd.DataFrame, text: bool) -> pd.DataFrame:
    """With times as files have them, in place of microseconds."""
    named = {name: _times(table[name].to_numpy(), text) for name in (TIME, STARTS, ENDS) if name in table}
    return table.assign(**named)


def _times(micro: np.ndarray, text: bool) -> np.ndarray:
    """As objects; every day of a sensor has the same times, which are made once."""
    unique, place = np.unique(micro, return_inverse=True)
    parts = ((m // 3_600_000_000, m // 60_000_000 % 60, m // 1_000_000 % 60, m % 1_000_000) for m in unique.tolist())
    if text:
        made: list = [f"{hour:02d}:{minute:02d}:{second:02d}.{rest:06d}" for hour, minute, second, rest in parts]
    else:
        made = [time(*of) for of in parts]
    return np.array(made, object)[place]
