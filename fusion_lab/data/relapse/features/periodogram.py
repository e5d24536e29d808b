"""The Lomb-Scargle periodogram of a long record at many evenly spaced frequencies."""

from __future__ import annotations

import numpy as np

_BLOCK = 1024
"""Samples at a time: the waves of a block stay in the cache."""

_NONE = 1e-9
"""A mean squared sine at the samples that is rounding: they are spaced so evenly that none of it can be seen."""


def lomb_scargle(times: np.ndarray, values: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """The power of Scargle (1982, eq. 10) after Lomb (1976), at evenly spaced frequencies [Hz], ``[n]`` to ``[F]``.

    P(f) = ((sum y cos w(t - tau))^2 / sum cos^2 w(t - tau) + (sum y sin w(t - tau))^2 / sum sin^2 w(t - tau)) / 2, with
    w = 2 pi f and tan 2 w tau = sum sin 2wt / sum cos 2wt: what ``scipy.signal.lombscargle(times, values, 2 pi f)``
    gives, in the squared unit of the values. ``values`` are around 0. A sine that is 0 at all times, as at the rate of
    evenly spaced ones, adds nothing.

    The sums over n samples are Fourier sums. A frequency of the grid is a coarse one plus a fine one, exp(iwt) the
    product of theirs, so that a matrix product of about sqrt(F) waves by sqrt(F) waves gives all F sums without a sine
    for each of the F n pairs.

    >>> times = np.arange(100.0)
    >>> power = lomb_scargle(times, 3 * np.sin(2 * np.pi * 0.1 * times), np.array([0.1, 0.2]))
    >>> (power * 4 / 100).round(6).tolist()
    [9.0, 0.0]
    """
    n, count = len(times), len(frequencies)
    first = frequencies[0]
    step = (frequencies[-1] - first) / (count - 1) if count > 1 else 0.0
    fine = int(np.ceil(np.sqrt(count)))
    coarse = -(-count // fine)
    of_values, of_ones = (np.zeros((coarse, fine), complex) for _ in range(2))
    for begin in range(0, n, _BLOCK):
        angle = 2j * np.pi * times[begin : begin + _BLOCK]
        low = _waves(angle, 0, step, fine)
        high = _waves(angle, first, step * fine, coarse)
        of_values += (high * values[begin : begin + _BLOCK]) @ low.T
        of_ones += (high * high) @ (low * low).T
    y, double = of_values.ravel()[:count] / n, of_ones.ravel()[:count] / n
    # turned by the phase w tau, the sum over sin 2w(t - tau) is 0
    turned = y * np.exp(-0.5j * np.angle(double))
    cosines, sines = (1 + np.abs(double)) / 2, (1 - np.abs(double)) / 2
    of_sines = np.where(sines > _NONE, turned.imag**2 / np.maximum(sines, _NONE), 0)
    return n / 2 * (turned.real**2 / cosines + of_sines)


def _waves(angle: np.ndarray, first: float, step: float, count: int) -> np.ndarray:
    """exp(angle (first + k step)), ``[count, n]``: each wave is the one before, turned on."""
    waves = np.empty((count, len(angle)), complex)
    waves[0] = np.exp(first * angle)
    turn = np.exp(step * angle)
    for k in range(1, count):
        np.multiply(waves[k - 1], turn, out=waves[k])
    return waves
