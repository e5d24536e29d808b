"""Where windows lie on the clocks of videos."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """R windows, int [R] each, in the order of videos and time."""

    start: np.ndarray  # first step, among those of all videos
    rows: np.ndarray  # steps; fewer than the length at the end of a run
    number: np.ndarray  # place among the windows of its video


def runs_of(video: np.ndarray, time: np.ndarray, rate: float) -> np.ndarray:
    """The run of each step, int [S]: steps of one video, each 1 / rate s after the one before, give or take a half.

    >>> runs_of(np.array([0, 0, 0, 1]), np.array([0.0, 0.1, 0.9, 0.0]), 10.0).tolist()
    [0, 0, 1, 2]
    """
    breaks = (np.diff(video) != 0) | (np.diff(time) > 1.5 / rate)
    return np.concatenate([np.zeros(min(1, len(video)), int), np.cumsum(breaks)])


def windows_of(video: np.ndarray, run: np.ndarray, length: int, stride: int) -> Windows:
    """Windows of ``length`` steps, one every ``stride``; none crosses the end of a run, and the last of a run may be
    shorter, but only for steps that no other holds.

    >>> windows_of(np.zeros(5, int), np.zeros(5, int), 2, 2)
    Windows(start=array([0, 2, 4]), rows=array([2, 2, 1]), number=array([0, 1, 2]))
    """
    begin = np.flatnonzero(np.diff(run, prepend=-1))
    sizes = np.diff(begin, append=len(run))
    starts, rows = [np.zeros(0, int)], [np.zeros(0, int)]
    for first, size in zip(begin.tolist(), sizes.tolist(), strict=True):
        offset = offsets(size, length, stride)
        starts.append(first + offset)
        rows.append(np.minimum(size - offset, length))
    start = np.concatenate(starts)
    of = video[start]
    number = np.arange(len(start)) - np.searchsorted(of, of)
    return Windows(start, np.concatenate(rows), number)


def offsets(size: int, length: int, stride: int) -> np.ndarray:
    """First steps of the windows in a run of ``size`` steps.

    >>> offsets(10, 4, 4).tolist(), offsets(8, 4, 2).tolist(), offsets(3, 4, 4).tolist()
    ([0, 4, 8], [0, 2, 4], [0])
    """
    whole = (size - length) // stride + 1 if size >= length else 0
    held = (whole - 1) * stride + length if whole else 0
    shorter = held < size and whole * stride < size
    return np.arange(whole + shorter) * stride


def ahead_of(run: np.ndarray, horizon: int) -> np.ndarray:
    """The step that lies ``horizon`` steps later in the same run, int [S]; S where there is none.

    >>> ahead_of(np.array([0, 0, 0, 1]), 1).tolist()
    [1, 2, 4, 4]
    """
    count = len(run)
    later = np.minimum(np.arange(count) + horizon, count - 1)
    inside = (np.arange(count) + horizon < count) & (run[later] == run)
    return np.where(inside, later, count)
