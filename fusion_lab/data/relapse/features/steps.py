"""A day of step segments in 10 numbers.

A segment belongs to the day on which it starts; one that ends earlier by the clock than it starts ends at the next
midnight as far as this day is concerned.

============== ========================================================================================================
total_steps    sum over segments, steps
steps_walking  sum over segments, steps
steps_running  sum over segments, steps
distance       sum over segments, unit of the file (the watch: metres)
calories       sum over segments, unit of the file (the watch: kilocalories)
segments       how many there are
first_hour     hour of the day at which the first segment starts, h
last_hour      hour of the day at which the last of them to end does, h
longest_gap    longest time without a segment between two of them, h
gap_std        standard deviation (n - 1) of the times from the end of all earlier segments to the start of the next, h
============== ========================================================================================================

A gap is 0 where segments overlap; the time before the first and after the last is none. NaN: the longest gap of one
segment, the deviation of fewer than two gaps.
"""

from __future__ import annotations

import numpy as np

from fusion_lab.data.relapse.features.names import STEPS

HOURS = 24.0


def step_features(totals: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The day's features, float64 ``[10]`` in the order of :data:`.names.STEPS`; all NaN of a day without segments.

    Args:
        totals: the five numbers of each segment, float64 ``[n, 5]``, in the order of :data:`.names.STEP_TOTALS`; NaN
            counts as nothing.
        start, end: hours of the day, float64 ``[n]``, in [0, 24).

    >>> step_features(np.ones((2, 5)), np.array([8.0, 20.5]), np.array([9.0, 21.0])).tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 8.0, 21.0, 11.5, nan]
    """
    if not len(start):
        return np.full(len(STEPS), np.nan)
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.where(end < start, HOURS, end)[order]
    latest = np.maximum.accumulate(end)
    gaps = np.maximum(start[1:] - latest[:-1], 0)
    longest = gaps.max() if len(gaps) else np.nan
    spread = gaps.std(ddof=1) if len(gaps) > 1 else np.nan
    known = ~np.isnan(totals)
    sums = np.where(known.any(0), np.where(known, totals, 0).sum(0), np.nan)
    return np.array([*sums, len(start), start[0], latest[-1], longest, spread])
