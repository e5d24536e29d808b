"""Seven statistics of many samples at once."""

from __future__ import annotations

import numpy as np

_RELATIVE_NOISE = np.finfo(np.float64).resolution
"""Deviations below this share of the mean are rounding."""


def statistics(samples: np.ndarray) -> np.ndarray:
    """Statistics over the last axis, float64 ``[..., n]`` of finite numbers to ``[..., 7]``: :data:`.names.STATISTICS`.

    mean, min, max, median
        In the unit of the samples. The median of an even number is the mean of the two in the middle.
    std
        Standard deviation of a sample (divided by n - 1), in the unit of the samples; NaN of fewer than two.
    skewness
        g1 = m3 / m2^1.5, of 1, where mk is the k-th central moment (divided by n).
    kurtosis
        g2 = m4 / m2^2 - 3, of 1, 0 for a normal distribution.

    Skewness and kurtosis are ``scipy.stats.skew`` and ``kurtosis`` with ``bias=True`` (Joanes and Gill, 1998), NaN of
    samples that are all the same up to rounding. All seven are NaN of no samples.

    >>> statistics(np.array([1.0, 2.0, 6.0])).round(2).tolist()
    [3.0, 2.65, 1.0, 6.0, 2.0, 0.6, -1.5]
    """
    n = samples.shape[-1]
    if n == 0:
        return np.full((*samples.shape[:-1], 7), np.nan)
    mean = samples.mean(-1)
    deviation = samples - mean[..., None]
    square = deviation * deviation
    m2, m3, m4 = square.mean(-1), np.vecdot(square, deviation) / n, np.vecdot(square, square) / n
    std = np.sqrt(m2 * n / (n - 1)) if n > 1 else np.full_like(mean, np.nan)
    spread = np.where(m2 <= (_RELATIVE_NOISE * mean) ** 2, np.nan, m2)
    shape = m3 / spread**1.5, m4 / spread**2 - 3
    return np.stack([mean, std, samples.min(-1), samples.max(-1), _median(samples), *shape], axis=-1)


def _median(samples: np.ndarray) -> np.ndarray:
    """``np.median``, in half the time: one partition, and the largest of the lower half where two are in the middle."""
    half, odd = divmod(samples.shape[-1], 2)
    parted = np.partition(samples, half, axis=-1)
    upper = parted[..., half]
    return upper if odd else (parted[..., :half].max(-1) + upper) / 2
