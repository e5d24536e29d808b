"""Values measured against a person's own usual days, for protocols that may look at the days of who is predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusion_lab.data.cells import listed
from fusion_lab.data.relapse.windows import Days

LEAST_DEVIATION = 1e-8
"""A feature that varies less over someone's days is divided by 1."""
MEASURED = "values are standardised by each patient's own"
"""How the note on it begins."""
BOUND = 5.0
"""Standardised values beyond this are cut to it."""


def personal(days: Days) -> tuple[Days, tuple[str, ...]]:
    """Days whose features are standardised by their patient's own days, and notes on it.

    Fitted are mean and population deviation of the observed cells of the patient's days named train, or, where no day
    has such a name, of the days without a known label; no label is looked at. What those days never show has nothing
    to be measured against and counts as missing.
    """
    named = days.split == "train"
    fits = named if named.any() else ~days.labelled
    values = {name: np.zeros_like(of) for name, of in days.values.items()}
    observed = {name: np.zeros_like(of) for name, of in days.observed.items()}
    without = []
    for patient in np.unique(days.patient):
        own = days.patient == patient
        if not (own & fits).any():
            without.append(str(patient))
        for name in days.values:
            values[name][own], observed[name][own] = _measured(
                days.values[name][own], days.observed[name][own], fits[own]
            )
    whose = "train days" if named.any() else "days without a label"
    told = f"{MEASURED} {whose} (data.normalise), those of patients who are tested included"
    lacking = [f"no such days of {listed(without)}: all their values count as missing"] if without else []
    return replace(days, values=values, observed=observed), (told, *lacking)


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
