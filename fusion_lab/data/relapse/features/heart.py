"""A day of heart rate and RR intervals in 26 numbers.

A rate or an interval is measured where it is above 0. RR intervals come as a sample and hold until the next beat is
known, so that a run of equal ones is one interval, at the time of its first sample; what then lies more than three
standard deviations (n - 1) from their mean is an artefact and left out. Neighbours below are neighbours in what is
left, NN for short, N of them.

==================================================================================================== ================
rate_mean, rate_std, rate_min, rate_max, rate_median (:func:`.moments.statistics` of the rate)        beats per minute
rate_skewness, rate_kurtosis                                                                          of 1
rr_mean, rr_std, rr_min, rr_max, rr_median (of NN)                                                    ms
rr_skewness, rr_kurtosis                                                                              of 1
==================================================================================================== ================

Variability in time (Task Force of the ESC and NASPE, 1996, tables 1 and 2):

================ ======================================================================================================
sdnn             standard deviation (n - 1) of NN, ms
rmssd            root of the mean squared difference of neighbours, ms
pnn50            percent of neighbours that differ by more than 50 ms
triangular_index N over the number of NN in the fullest bin of a histogram with bins of 7.8125 ms (1/128 s) from 0, of 1
================ ======================================================================================================

In frequency: the Lomb-Scargle periodogram P (:func:`.periodogram.lomb_scargle`) of NN - their mean at the times at
which they were measured; its density is 2 d P, d the median time between neighbours in s, so that the density's
integral over all frequencies is the variance where beats are evenly spaced. Integrals are trapezoidal over evenly
spaced frequencies, both ends included:

================ ======================================================================================================
lf_power         0.04 to 0.15 Hz, 100 frequencies, ms^2
hf_power         0.15 to 0.40 Hz, 200 frequencies, ms^2
lf_hf_ratio      lf_power / hf_power, of 1
total_power      0.003 to 0.40 Hz, 500 frequencies, ms^2
================ ======================================================================================================

The Poincare plot of neighbours (Brennan, Palaniswami and Kamen, 2001; differences around 0, not around their mean):

================ ======================================================================================================
sd1              spread across the line of identity, rmssd / sqrt 2, ms
sd2              spread along it, sqrt(2 sdnn^2 - sd1^2), ms; 0 where rounding makes that negative
sd1_sd2_ratio    sd1 / sd2, of 1
================ ======================================================================================================

coverage         number of five-minute windows of the clock with a rate or an interval, over 288, of 1

NaN: what needs neighbours, a deviation or a spectrum of fewer than two NN; a ratio to 0; the statistics of nothing.
"""

from __future__ import annotations

import numpy as np

from fusion_lab.data.relapse.features.moments import statistics
from fusion_lab.data.relapse.features.names import HEART, WINDOW_SECONDS, WINDOWS
from fusion_lab.data.relapse.features.periodogram import lomb_scargle

LARGE_DIFFERENCE_MS = 50.0
HISTOGRAM_BIN_MS = 7.8125
OUTLIER_DEVIATIONS = 3.0

LOW_BAND = np.linspace(0.04, 0.15, 100)
HIGH_BAND = np.linspace(0.15, 0.40, 200)
ALL_BANDS = np.linspace(0.003, 0.40, 500)
"""Frequencies of the three powers, Hz."""


def heart_features(seconds: np.ndarray, rate: np.ndarray, rr: np.ndarray) -> np.ndarray:
    """The day's features, float64 ``[26]`` in the order of :data:`.names.HEART`; all NaN of a day without measurement.

    Args:
        seconds: time of day of each sample, float64 ``[n]``, in [0, 86400), never falling.
        rate: heart rate, beats per minute, float64 ``[n]``; NaN or not above 0 where it was not measured.
        rr: RR interval, ms, float64 ``[n]``; likewise.
    """
    has_rate, has_rr = rate > 0, rr > 0  # False of NaN
    measured = has_rate | has_rr
    if not measured.any():
        return np.full(len(HEART), np.nan)
    times, nn = normal_intervals(seconds[has_rr], rr[has_rr])
    of_nn = statistics(nn)
    coverage = len(np.unique(seconds[measured] // WINDOW_SECONDS)) / WINDOWS
    found = (*statistics(rate[has_rate]), *of_nn, *_in_time(nn), *_in_frequency(times, nn), *_poincare(nn), coverage)
    return np.array(found)


def normal_intervals(seconds: np.ndarray, rr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times and lengths of NN intervals from samples that are all above 0.

    >>> normal_intervals(np.arange(5.0), np.array([800.0, 800, 900, 900, 800]))[1].tolist()
    [800.0, 900.0, 800.0]
    """
    begins = np.diff(rr, prepend=0) != 0
    seconds, rr = seconds[begins], rr[begins]
    if len(rr) < 2:
        return seconds, rr
    near = np.abs(rr - rr.mean()) <= OUTLIER_DEVIATIONS * rr.std(ddof=1)
    return seconds[near], rr[near]


def _in_time(nn: np.ndarray) -> tuple[float, ...]:
    fullest = np.unique(nn // HISTOGRAM_BIN_MS, return_counts=True)[1].max(initial=0)
    index = len(nn) / fullest if fullest else np.nan
    if len(nn) < 2:
        return np.nan, np.nan, np.nan, index
    large = np.count_nonzero(np.abs(np.diff(nn)) > LARGE_DIFFERENCE_MS)
    return float(nn.std(ddof=1)), _rmssd(nn), 100 * large / (len(nn) - 1), index


def _rmssd(nn: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.diff(nn) ** 2)))


def _in_frequency(times: np.ndarray, nn: np.ndarray) -> tuple[float, ...]:
    if len(nn) < 2:
        return (np.nan,) * 4
    low, high, total = (band_power(times, nn, band) for band in (LOW_BAND, HIGH_BAND, ALL_BANDS))
    return low, high, low / high if high > 0 else np.nan, total


def band_power(times: np.ndarray, nn: np.ndarray, frequencies: np.ndarray) -> float:
    """The integral of the density of the intervals' variance, ms^2, over evenly spaced frequencies in Hz."""
    density = 2 * np.median(np.diff(times)) * lomb_scargle(times, nn - nn.mean(), frequencies)
    return float(np.trapezoid(density, frequencies))


def _poincare(nn: np.ndarray) -> tuple[float, ...]:
    if len(nn) < 2:
        return (np.nan,) * 3
    across = _rmssd(nn) / np.sqrt(2)
    along = np.sqrt(max(0.0, 2 * nn.var(ddof=1) - across**2))
    return across, along, across / along if along > 0 else np.nan
