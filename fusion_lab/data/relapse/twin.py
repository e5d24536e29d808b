"""Days that are made up: patients who differ more from each other than from themselves, and relapses that announce
themselves.

Every modality has a level on each day: the patient's own, a drift that all modalities share, chance, and what a relapse
adds. That begins :data:`PRODROME` days before the first day in relapse, grows by the same step from day to day, and
wears off while the relapse lasts. So a day by itself tells little: its level may be the drift's, or rise towards a
relapse that is still to come. The days before it tell more. Half of a modality's features show its level, the others
nothing. Some patients lack a modality altogether, sensors are off for days in a row, days are not there at all.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import Source, array_hash
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.settings import (
    BETWEEN,
    DAY_COLUMN,
    LABEL_COLUMN,
    SEQUENCE_COLUMN,
    SUBJECT_COLUMNS,
    TwinConfig,
)

PRODROME = 6
"""Days over which a relapse announces itself."""
EPISODE = (5, 9)
"""The fewest and the most days of a relapse."""
PAUSE = (12, 18)
"""The fewest and the most days between relapses, those that announce the second included."""
STEP = 0.5
"""By how much the level rises a day, in daily deviations, at signal 1."""
DRIFT, HOLD = 1.0, 0.9
"""Deviation of the slow drift, and how much of it is left a day later."""
SHOWN = 1.0
"""Deviation of a feature about what it shows."""
RUN = 3
"""Days that a sensor is off in a row, on average."""
LACKING = 0.05
"""Share of patients and modalities without a single day."""


def made_days(config: TwinConfig) -> tuple[pd.DataFrame, Source]:
    """The table of days, as ``prepare`` writes it, and its identity: the same settings give the same bits.

    >>> frame, source = made_days(TwinConfig(patients=3, widths={"hr": 2}))
    >>> list(frame.columns)
    ['patient', 'sequence', 'day', 'hr__hr_0', 'hr__hr_1', 'label']
    """
    parts = []
    for number in range(config.patients):
        patient = _Patient(config, number)
        parts.append(patient.sequence("train_0", config.stable_days, 0))
        parts += [patient.sequence(f"{part}_{n}", config.watched_days, 1) for part in ("val", "test") for n in (0, 1)]
    frame = pd.concat(parts, ignore_index=True)
    cells = frame.drop(columns=list(frame.columns[:2])).to_numpy(np.float64)
    names = frame.iloc[:, :2].to_numpy(dtype=str)
    return frame, Source("twin", array_hash(cells, names, np.array(list(frame.columns))), len(frame))


class _Patient:
    """What one patient's days have in common. ``number`` counts from 0."""

    def __init__(self, config: TwinConfig, number: int) -> None:
        self.config, self.number = config, number
        rng = generator(config.seed, "patient", number)
        self.level = config.apart * rng.standard_normal(len(config.widths))
        self.lacks = rng.random(len(config.widths)) < LACKING * (config.missing > 0)
        if self.lacks.all():
            self.lacks[0] = False
        self.offset = {name: config.apart * rng.standard_normal(width) for name, width in config.widths.items()}

    def sequence(self, name: str, length: int, relapses: int) -> pd.DataFrame:
        """Some weeks, with relapses in them or none."""
        rng = generator(self.config.seed, "days", self.number, name)
        cycle = PAUSE[1] + EPISODE[1]
        before = int(rng.integers(cycle, 3 * cycle))  # a sequence begins anywhere: its first days are like others
        whole = _episodes(rng, before + length) if relapses else np.zeros(before + length, int)
        label, rise = whole[before:], STEP * self.config.signal * _announced(whole)[before:]
        columns: dict[str, np.ndarray] = {}
        off = np.stack([_off(rng, length, self.config.missing) for _ in self.config.widths])
        shared = rise + _drift(rng, length)
        for place, (modality, width) in enumerate(self.config.widths.items()):
            level = self.level[place] + shared + rng.standard_normal(length)
            values = self._features(modality, width, level, rng)
            values[off[place] | self.lacks[place]] = np.nan
            names = feature_names(modality, width)
            columns |= {f"{modality}{BETWEEN}{own}": values[:, i] for i, own in enumerate(names)}
        whose = {SUBJECT_COLUMNS[0]: f"P{self.number + 1}", SEQUENCE_COLUMN: name, DAY_COLUMN: np.arange(length)}
        frame = pd.DataFrame({**whose, **columns, LABEL_COLUMN: label})
        there = rng.random(length) >= self.config.gaps
        measured = ~np.isnan(frame[list(columns)].to_numpy()).all(axis=1)
        return frame[there & measured]

    def _features(self, modality: str, width: int, level: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 [days,width]. What a feature's unit is, and which of them show the level, is the same of all."""
        shared = generator(self.config.seed, "features", modality)
        shows = np.arange(width) % 2 == 0
        turn = shared.choice([-1.0, 1.0], width) * shows
        centre, unit = shared.normal(0, 5, width), shared.lognormal(0, 1, width)
        plain = turn * level[:, None] + self.offset[modality] + SHOWN * rng.standard_normal((len(level), width))
        values = centre + unit * plain
        values[rng.random(values.shape) < self.config.cells] = np.nan
        return values.astype(np.float32)


def feature_names(modality: str, width: int) -> tuple[str, ...]:
    """Those of the real data where there are so many."""
    known = MODALITIES.get(modality, ())
    return known if len(known) == width else tuple(f"{modality}_{i}" for i in range(width))


def _episodes(rng: np.random.Generator, length: int) -> np.ndarray:
    """1 on days in relapse, int [length]: the first begins after it had time to announce itself."""
    label = np.zeros(length, int)
    start = int(rng.integers(PRODROME, PAUSE[1]))
    while start < length:
        end = start + int(rng.integers(EPISODE[0], EPISODE[1] + 1))
        label[start:end] = 1
        start = end + int(rng.integers(PAUSE[0], PAUSE[1] + 1))
    return label


def _announced(label: np.ndarray) -> np.ndarray:
    """How many steps a relapse adds, float [days]: 1 on the first day that announces it, :data:`PRODROME` on the last,
    and then evenly less, down to 0 on the day after the relapse.

    >>> _announced(np.array([0, 0, 0, 0, 0, 0, 1, 1, 0])).tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 2.0, 0.0]
    """
    steps = np.zeros(len(label))
    for start in np.flatnonzero(np.diff(label, prepend=0) == 1):
        days = int(np.argmin(np.append(label[start:], 0)))
        first = max(0, start - PRODROME)
        steps[first:start] = np.arange(1, PRODROME + 1)[PRODROME - (start - first) :]
        steps[start : start + days] = PRODROME * (1 - np.arange(1, days + 1) / (days + 1))
    return steps


def _drift(rng: np.random.Generator, length: int) -> np.ndarray:
    """A slow random walk that stays within bounds (autoregressive), of deviation :data:`DRIFT`."""
    steps = rng.standard_normal(length) * DRIFT * np.sqrt(1 - HOLD**2)
    steps[0] = DRIFT * rng.standard_normal()
    for day in range(1, length):
        steps[day] += HOLD * steps[day - 1]
    return steps


def _off(rng: np.random.Generator, length: int, share: float) -> np.ndarray:
    """Days on which a sensor is off, bool [length]: about this share of them, in runs."""
    begins = rng.random(length) < share / (RUN * (1 - share) + share)
    lengths = rng.geometric(1 / RUN, length)
    off = np.zeros(length, bool)
    for day in np.flatnonzero(begins):
        off[day : day + lengths[day]] = True
    return off
