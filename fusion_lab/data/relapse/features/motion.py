"""A day of an accelerometer or a gyroscope in 38 numbers.

The day is cut into five-minute windows by the clock. Each feature is computed for every window that has samples, and
its mean over the windows in which it is defined is the day's. ``[u]`` is the unit of the sensor's file.

The seven statistics (:func:`.moments.statistics`) of each axis and of the magnitude sqrt(x^2 + y^2 + z^2):

================================================================================ ======================================
x_mean, x_std, x_min, x_max, x_median, y_mean, y_std, y_min, y_max, y_median     [u]
z_mean, z_std, z_min, z_max, z_median                                            [u]
magnitude_mean, magnitude_std, magnitude_min, magnitude_max, magnitude_median    [u]
x_skewness, x_kurtosis, y_skewness, y_kurtosis, z_skewness, z_kurtosis           of 1
magnitude_skewness, magnitude_kurtosis                                           of 1
================================================================================ ======================================

Of the magnitude in time (Bao and Intille, 2004; Ravi et al., 2005, and many since):

==================== ==================================================================================================
energy               sum of the squared magnitude over the window's samples, [u^2]
zero_crossing_rate   share of neighbouring samples between which magnitude - its mean changes sign, of 1; 0 is positive
share_above_1_5      share of samples whose magnitude is above 1.5 [u], of 1
share_below_0_2      share of samples whose magnitude is below 0.2 [u], of 1
==================== ==================================================================================================

Of its periodogram: with X the discrete Fourier transform of the n samples of magnitude - its mean, taken as evenly
spaced, P_k = c |X_k|^2 / n^2 at the frequency k * rate / n, c = 1 for the frequencies 0 and rate / 2, else 2. It sums
to the mean square of what was transformed (Parseval).

==================== ==================================================================================================
dominant_frequency   frequency of the largest P_k, k = 0 left out, Hz; the lowest of equals
spectral_entropy     -sum(p ln p) / ln K of p = P / sum(P) over the K frequencies above 0, of 1: 0 for a sine that fits
                     the window, 1 for a flat spectrum (Inouye et al., 1991)
power_0_1            sum of P_k over frequencies f with 0 <= f < 1 Hz, [u^2]
power_1_3            over 1 <= f < 3 Hz, [u^2]
power_3_8            over 3 <= f < 8 Hz, [u^2]
power_8_up           over f >= 8 Hz, [u^2]; what lies above rate / 2 cannot be seen
==================== ==================================================================================================

NaN: std and the zero-crossing rate of a window of one sample; skewness, kurtosis, dominant frequency and spectral
entropy of a window in which nothing changes; the entropy where K < 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import rfft
from scipy.special import entr

from fusion_lab.data.relapse.features.moments import statistics
from fusion_lab.data.relapse.features.names import MOTION, WINDOW_SECONDS, WINDOWS

HIGH, LOW = 1.5, 0.2
BAND_EDGES = (1.0, 3.0, 8.0)
"""Of the power bands, Hz."""

_BLOCK = 1 << 17
"""Samples of one axis that are worked on at a time: what they need stays in the cache."""


def motion_features(seconds: np.ndarray, xyz: np.ndarray, rate: float) -> np.ndarray:
    """The day's features, float64 ``[38]`` in the order of :data:`.names.MOTION`; all NaN of a day without samples.

    Args:
        seconds: time of day of each sample, float64 ``[n]``, in [0, 86400), never falling.
        xyz: finite numbers, float64 ``[3, n]``.
        rate: samples a second while the sensor is on.

    >>> features = motion_features(np.arange(600.0), np.ones((3, 600)), rate=1.0)
    >>> dict(zip(MOTION, features.round(2).tolist()))["magnitude_mean"]
    1.73
    """
    if not len(seconds):
        return np.full(len(MOTION), np.nan)
    return mean_of_known(window_features(seconds, xyz, rate))


def window_features(seconds: np.ndarray, xyz: np.ndarray, rate: float) -> np.ndarray:
    """Features of the windows that have samples, ``[windows, 38]``, in order of time."""
    edges = np.searchsorted(seconds, WINDOW_SECONDS * np.arange(WINDOWS + 1))
    lengths = np.diff(edges)
    starts, lengths = edges[:-1][lengths > 0], lengths[lengths > 0]
    x, y, z = xyz
    signals = np.stack([x, y, z, np.sqrt(x * x + y * y + z * z)])
    found = np.empty((len(starts), len(MOTION)))
    for windows in _of_equal_length(lengths):
        found[windows] = _features(_cut(signals, starts[windows], lengths[windows[0]]), rate)
    return found


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing else is.

    >>> mean_of_known(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
    [2.0, nan]
    """
    known = ~np.isnan(values)
    count = known.sum(0)
    return np.where(count, np.where(known, values, 0).sum(0) / np.maximum(count, 1), np.nan)


def _of_equal_length(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Places of windows of one length, as many at a time as :data:`_BLOCK` allows."""
    order = np.argsort(lengths, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        at_a_time = max(1, _BLOCK // int(lengths[same[0]]))
        for first in range(0, len(same), at_a_time):
            yield same[first : first + at_a_time]


def _cut(signals: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The windows' samples, ``[4, windows, length]``; a view where windows lie one after the other."""
    if (np.diff(starts) == length).all():
        whole = signals[:, starts[0] : starts[0] + len(starts) * length]
        return whole.reshape(len(signals), len(starts), length)
    return sliding_window_view(signals, length, axis=1)[:, starts]


def _features(signals: np.ndarray, rate: float) -> np.ndarray:
    """From samples ``[4, windows, n]`` to ``[windows, 38]``."""
    of_axes = statistics(signals)
    magnitude, n = signals[-1], signals.shape[-1]
    around = magnitude - of_axes[-1, :, :1]
    positive = around >= 0
    crossings = np.count_nonzero(positive[:, 1:] != positive[:, :-1], axis=-1)
    in_time = (
        np.vecdot(magnitude, magnitude),
        crossings / (n - 1) if n > 1 else np.full(len(magnitude), np.nan),
        np.count_nonzero(magnitude > HIGH, axis=-1) / n,
        np.count_nonzero(magnitude < LOW, axis=-1) / n,
    )
    # a deviation that is rounding has no spectrum: its kurtosis is NaN, too
    changes = ~np.isnan(of_axes[-1, :, -1])
    return np.column_stack([*of_axes, *in_time, *_spectrum(np.where(changes[:, None], around, 0), rate)])


def _spectrum(around: np.ndarray, rate: float) -> tuple[np.ndarray, ...]:
    """The six features of the periodogram of ``[windows, n]``."""
    n = around.shape[-1]
    transformed = rfft(around, axis=-1)
    power = (transformed.real**2 + transformed.imag**2) / n**2
    power[:, 1 : (n + 1) // 2] *= 2
    frequency = np.arange(power.shape[-1]) * rate / n
    power[:, 0] = 0  # the mean's rounding
    total = power.sum(-1)
    something = total > 0
    dominant, entropy = (np.full(len(around), np.nan) for _ in range(2))
    if something.any():
        dominant[something] = frequency[1 + power[something, 1:].argmax(-1)]
    if power.shape[-1] > 2 and something.any():
        shares = power[something, 1:] / total[something, None]
        entropy[something] = entr(shares).sum(-1) / np.log(shares.shape[-1])
    edges = [0, *np.searchsorted(frequency, BAND_EDGES), len(frequency)]
    bands = [power[:, first:last].sum(-1) for first, last in zip(edges, edges[1:], strict=False)]
    return dominant, entropy, *bands
