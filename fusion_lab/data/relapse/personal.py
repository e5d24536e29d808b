"""Values measured against a person's own usual days: those before, which are known on the day, or all unlabelled ones,
for protocols that may look at the days of who is predicted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.cells import listed
from fusion_lab.data.relapse.settings import WEEKDAY
from fusion_lab.data.relapse.windows import Days

LEAST_DEVIATION = 1e-8
"""A feature that varies less over someone's days is divided by 1."""
MEASURED = "values are standardised by each patient's own"
PAST = "values are standardised by the person's own earlier days"
"""How the notes on it begin."""
BOUND = 5.0
"""Standardised values beyond this are cut to it."""
LEAST_BEFORE = 3
"""Earlier days that show a feature, before it is measured against them."""


def personal(days: Days) -> tuple[Days, tuple[str, ...]]:
    """Days whose features are standardised by their patient's own days, and notes on it.

    Fitted are mean and population deviation of the observed cells of the patient's days named train, or, where no day
    has such a name, of the days without a known label; no label is looked at. What those days never show has nothing
    to be measured against and counts as missing.

    Raises:
        DataError: nobody has such days.
    """
    named = days.split == "train"
    fits = named if named.any() else ~days.labelled
    if not fits.any():
        expected = "expected days named train or, where none is, without a known label, to measure others by"
        raise DataError(f"data.normalise: {expected}, found none")
    values = {name: np.zeros_like(of) if name in _measurable(days) else of for name, of in days.values.items()}
    observed = {name: np.zeros_like(of) if name in _measurable(days) else of for name, of in days.observed.items()}
    without = []
    for patient in np.unique(days.patient):
        own = days.patient == patient
        if not (own & fits).any():
            without.append(str(patient))
        for name in _measurable(days):
            values[name][own], observed[name][own] = _measured(
                days.values[name][own], days.observed[name][own], fits[own]
            )
    whose = "train days" if named.any() else "days without a label"
    told = f"{MEASURED} {whose} (data.normalise), those of patients who are tested included"
    lacking = [f"no such days of {listed(without)}: all their values count as missing"] if without else []
    return replace(days, values=values, observed=observed), (told, *lacking)


def against_past(days: Days) -> tuple[Days, tuple[str, ...]]:
    """Days whose features are standardised by the days before them in their sequence, and a note on it.

    Of each feature mean and population deviation of the earlier days that show it; where fewer than
    :data:`LEAST_BEFORE` do it counts as missing. No label, no later day and nobody else is looked at, so that every
    protocol allows it, and a served model can be given the same.
    """
    begins = np.unique(days.code, return_index=True)[1]
    sequences = [*map(slice, begins, np.append(begins[1:], len(days)))]
    values, observed = dict(days.values), dict(days.observed)
    for name in _measurable(days):
        values[name], observed[name] = np.zeros_like(days.values[name]), np.zeros_like(days.observed[name])
        for own in sequences:
            values[name][own], observed[name][own] = _since(days.values[name][own], days.observed[name][own])
    told = f"{PAST}, {LEAST_BEFORE} at least (data.normalise)"
    return replace(days, values=values, observed=observed), (told,)


def _measurable(days: Days) -> tuple[str, ...]:
    """All modalities but the calendar, which is nobody's own."""
    return tuple(name for name in days.values if name != WEEKDAY)


def _since(values: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One sequence's days of a modality, [n,F] each, every day by those before it."""
    rows = np.arange(values.shape[1])
    start = values[observed.argmax(axis=0), rows].astype(np.float64) if len(values) else np.zeros(values.shape[1])
    apart = np.where(observed, values - start, 0.0)  # from the first value: sums of squares then lose no digits
    count, total, squares = (_before(of) for of in (observed.astype(np.float64), apart, apart**2))
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    scaled = (apart - mean) / np.where(deviation < LEAST_DEVIATION * (1 + np.abs(start)), 1.0, deviation)
    seen = observed & (count >= LEAST_BEFORE)
    return np.where(seen, scaled.clip(-BOUND, BOUND), 0.0).astype(np.float32), seen


def _before(of: np.ndarray) -> np.ndarray:
    """Sums over earlier rows, [n,F], of which the row itself is no part, however large it is."""
    return np.concatenate([np.zeros_like(of[:1]), np.cumsum(of[:-1], axis=0)])


def _measured(values: np.ndarray, observed: np.ndarray, fits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One patient's days of a modality, [n,F] each, by those marked in ``fits``, bool [n]."""
    counted = observed & fits[:, None]
    count = counted.sum(axis=0)
    wide = values.astype(np.float64)
    mean = np.where(counted, wide, 0.0).sum(axis=0) / np.maximum(count, 1)
    deviation = np.sqrt(np.where(counted, (wide - mean) ** 2, 0.0).sum(axis=0) / np.maximum(count, 1))
    scaled = (wide - mean) / np.where(deviation < LEAST_DEVIATION, 1.0, deviation)
    seen = observed & (count > 0)
    return np.where(seen, scaled.clip(-BOUND, BOUND), 0.0).astype(np.float32), seen
