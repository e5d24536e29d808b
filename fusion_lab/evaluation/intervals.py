"""How sure a mean over folds is."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit


def corrected_interval(
    values: np.ndarray, train_size: float, test_size: float, level: float = 0.95
) -> tuple[float, float]:
    """Corrected resampled t interval of a mean over K folds (Nadeau and Bengio 2003, "Inference for the Generalization
    Error", Machine Learning 52).

    Folds share training rows, so their scores are correlated and the naive interval, with ``1 / K`` alone, is too
    narrow. The variance of the mean is taken as ``(1 / K + test_size / train_size)`` times that of ``values`` [K]. The
    sizes are in rows. NaN for K < 2 and where a value is NaN; not clipped to the range of the score.

    >>> low, high = corrected_interval(np.array([0.6, 0.7, 0.8]), train_size=80, test_size=20)
    >>> round(low, 3), round(high, 3)
    (0.371, 1.029)
    """
    values = np.asarray(values, dtype=float)
    folds = len(values)
    if folds < 2 or not np.isfinite(values).all():
        return np.nan, np.nan
    deviation = np.sqrt((1 / folds + test_size / train_size) * values.var(ddof=1))
    half = float(stdtrit(folds - 1, (1 + level) / 2) * deviation)
    mean = float(values.mean())
    return mean - half, mean + half
