"""Samples in the order of their times, which then strictly increase."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Order(NamedTuple):
    """``rows`` int [k]: the samples to go by; ``times`` float64 [k] = times[rows], strictly increasing."""

    rows: np.ndarray
    times: np.ndarray
    resorted: bool
    duplicates: int


def ordered(times: np.ndarray) -> Order:
    """Of finite times [n]; of repeated ones the last in the file counts.

    >>> ordered(np.array([0.0, 2.0, 1.0, 2.0]))
    Order(rows=array([0, 2, 3]), times=array([0., 1., 2.]), resorted=True, duplicates=1)
    """
    times = np.asarray(times, dtype=np.float64)
    apart = np.diff(times)
    rows = np.arange(len(times))
    if (apart > 0).all():
        return Order(rows, times, resorted=False, duplicates=0)
    rows = np.argsort(times, kind="stable")
    last = np.append(np.diff(times[rows]) > 0, True)
    rows = rows[last]
    return Order(rows, times[rows], resorted=bool((apart < 0).any()), duplicates=int((~last).sum()))
