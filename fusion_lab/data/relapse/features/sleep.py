"""A day's sleep in 9 numbers.

An episode belongs to the day on which it ends, and lasts from its start to its end by the clock, less than 24 hours.
The main sleep of a day is its longest episode, the first of equals.

================ ======================================================================================================
total_minutes    length of all episodes, min
episodes         how many there are
onset_sin        sine of the hour at which the main sleep starts, a full circle being 24 hours, of 1
onset_cos        its cosine, of 1
wake_sin         sine of the hour at which it ends, of 1
wake_cos         its cosine, of 1
longest_bout     length of the main sleep, h
onset_deviation  circular distance (Mardia and Jupp, 2000, sec. 2.3.2: pi - |pi - |a - b||), in hours, 0 to 12, between
                 the start of the main sleep and the circular mean (Fisher, 1993, sec. 2.3.1: the direction of the
                 summed unit vectors) of those of the seven calendar days before
wake_deviation   the same of its end, h
================ ======================================================================================================

Days before without sleep are left out of the circular mean. NaN: both deviations where there is none of the seven, or
where their directions cancel out and have no mean.
"""

from __future__ import annotations

import numpy as np

from fusion_lab.data.relapse.features.names import SLEEP

DAYS_BEFORE = 7
HOURS = 24.0
_CANCELLED = 1e-9
"""A mean vector so short is rounding."""


def sleep_features(days: np.ndarray, end_day: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Features of ``days``, int ``[D]`` to float64 ``[D, 9]`` in the order of :data:`.names.SLEEP`; a day without sleep
    is all NaN.

    Args:
        days: days asked for.
        end_day: day on which each episode of the sequence ends, int ``[n]``, in any order.
        start, end: hours of the day, float64 ``[n]``, in [0, 24).

    >>> found = sleep_features(np.array([1]), np.array([0, 1]), np.array([23.5, 0.5]), np.array([7.0, 7.0]))
    >>> dict(zip(SLEEP, found[0].round(3).tolist()))["onset_deviation"]
    1.0
    """
    length = (end - start) % HOURS
    main = _longest_of_day(end_day, length)
    found = np.full((len(days), len(SLEEP)), np.nan)
    for row, day in zip(found, days.tolist(), strict=True):
        if day not in main:
            continue
        longest, of_day = main[day], end_day == day
        before = [main[earlier] for earlier in range(day - DAYS_BEFORE, day) if earlier in main]
        onset, wake = start[longest], end[longest]
        row[:] = (
            60 * length[of_day].sum(),
            of_day.sum(),
            *_on_circle(onset),
            *_on_circle(wake),
            length[longest],
            circular_distance(onset, circular_mean(start[before])),
            circular_distance(wake, circular_mean(end[before])),
        )
    return found


def _longest_of_day(end_day: np.ndarray, length: np.ndarray) -> dict[int, int]:
    """Place of each day's main sleep."""
    order = np.lexsort((-length, end_day))
    days, first = np.unique(end_day[order], return_index=True)
    return dict(zip(days.tolist(), order[first].tolist(), strict=True))


def _on_circle(hour: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    angle = 2 * np.pi * np.asarray(hour) / HOURS
    return np.sin(angle), np.cos(angle)


def circular_mean(hours: np.ndarray) -> float:
    """The mean direction of hours of the day, in [0, 24); NaN of none, or of directions that cancel out.

    >>> round(circular_mean(np.array([23.0, 3.0])), 6)
    1.0
    """
    sine, cosine = (part.sum() for part in _on_circle(hours))
    if np.hypot(sine, cosine) <= _CANCELLED * max(1, len(hours)):
        return float("nan")
    return float(np.arctan2(sine, cosine) * HOURS / (2 * np.pi) % HOURS)


def circular_distance(one: float, other: float) -> float:
    """The shorter way round the clock, in hours.

    >>> circular_distance(23.5, 0.5)
    1.0
    """
    half = HOURS / 2
    return half - abs(half - abs(one - other) % HOURS)
