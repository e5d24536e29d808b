"""The samples on both sides of each step of a clock, for any choice of samples, from one search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusion_lab.data.alignment.streams import SLACK, Rules


class Steps(NamedTuple):
    """A stream's sample times [n], strictly increasing, a clock [m], and ``place`` [m]: how many samples are at or
    before each step, which is all that the search tells.
    """

    times: np.ndarray
    clock: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, times: np.ndarray, clock: np.ndarray) -> Steps:
        return cls(times, clock, np.searchsorted(times, clock + SLACK, side="right"))


class Neighbours(NamedTuple):
    """Of each step, among the samples that count.

    ======== ============ ====================================================================================
    left     int [m]      the last one at or before it; where there is none, ``right``
    right    int [m]      the first one after it; where there is none, ``left``
    weight   float32 [m]  of ``right`` in a straight line between the two, in [0, 1]
    matched  bool [m]     one of them lies within the tolerance
    reached  bool [m]     matched, or in a gap, or at an end, that is not too long
    fresh    bool [m]     reached, and ``left`` is not too old to be held
    ======== ============ ====================================================================================
    """

    left: np.ndarray
    right: np.ndarray
    weight: np.ndarray
    matched: np.ndarray
    reached: np.ndarray
    fresh: np.ndarray


class Spells(NamedTuple):
    """Stretches of samples between which nothing is interpolated: the number of each sample's [n] and each step's [m].

    A step whose spell is 0 is in none.
    """

    sample: np.ndarray
    step: np.ndarray


def neighbours(steps: Steps, counts: np.ndarray, rules: Rules, spells: Spells | None = None) -> Neighbours:
    """Among the samples marked in ``counts``, bool [n], and of those only in a step's own spell where there are any."""
    times, clock, place = steps
    n = len(times)
    if not n:
        return _nobody(len(clock))
    left = np.append(-1, np.maximum.accumulate(np.where(counts, np.arange(n), -1)))[place]
    right = np.append(np.minimum.accumulate(np.where(counts, np.arange(n), n)[::-1])[::-1], n)[place]
    has_left, has_right = left >= 0, right < n
    if spells is not None:
        has_left &= spells.sample[left] == spells.step
        has_right &= spells.sample[np.minimum(right, n - 1)] == spells.step
    left, right = np.where(has_left, left, 0), np.where(has_right, right, 0)
    before = np.where(has_left, np.maximum(clock - times[left], 0.0), np.inf)
    after = np.where(has_right, times[right] - clock, np.inf)
    nearest, both = np.minimum(before, after), has_left & has_right
    matched = nearest <= rules.tolerance + SLACK
    reached = matched | (np.where(both, before + after, nearest) <= rules.max_gap + SLACK)
    weight = np.divide(before, before + after, out=np.zeros(len(clock)), where=both)
    return Neighbours(
        left=np.where(has_left, left, right),
        right=np.where(has_right, right, left),
        weight=weight.astype(np.float32),
        matched=matched,
        reached=reached,
        fresh=reached & (~has_left | (before <= rules.max_gap + SLACK)),
    )


def _nobody(m: int) -> Neighbours:
    no, first = np.zeros(m, dtype=bool), np.zeros(m, dtype=np.intp)
    return Neighbours(first, first, np.zeros(m, dtype=np.float32), no, no, no)


def spells_of(state: np.ndarray, known: np.ndarray, steps: Steps) -> Spells:
    """The stretches in which a discrete column is above 0: ``state`` [n] are its cells, ``known`` [n] which are there.

    A missing cell is what the last one before it was, in front of all others what the first one is.
    """
    if not known.any():
        return Spells(np.zeros(len(state), dtype=np.intp), np.zeros(len(steps.clock), dtype=np.intp))
    last = np.maximum.accumulate(np.where(known, np.arange(len(state)), -1))
    open_ = state[np.where(last < 0, np.argmax(known), last)] > 0
    begins = open_ & ~np.append(False, open_[:-1])
    sample = np.where(open_, np.cumsum(begins), 0)
    return Spells(sample, sample[np.maximum(steps.place - 1, 0)])
