"""The corrected interval against the textbook and against what it promises."""

import numpy as np
import pytest
from scipy import stats

from fusion_lab.evaluation.intervals import corrected_interval


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_the_formula_by_hand(level):
    values = np.array([0.61, 0.72, 0.68, 0.7, 0.66])
    error = values.std(ddof=1) * np.sqrt(1 / 5 + 120 / 360)
    expected = stats.t.interval(level, 4, loc=values.mean(), scale=error)
    assert corrected_interval(values, 360, 120, level) == pytest.approx(expected)


def test_interval_is_wider_than_the_naive_one():
    values = np.random.default_rng(0).random(10)
    low, high = corrected_interval(values, 80, 10)
    naive = stats.t.interval(0.95, 9, loc=values.mean(), scale=stats.sem(values))
    assert low < naive[0]
    assert high > naive[1]


@pytest.mark.parametrize("values", [[], [0.7], [0.7, np.nan, 0.8]])
def test_interval_needs_two_folds_and_all_of_them(values):
    assert np.isnan(corrected_interval(np.array(values), 80, 20)).all()


def test_interval_covers_the_truth_as_often_as_it_says_where_the_naive_one_does_not():
    """Fold scores correlated by test / (train + test), which is what Nadeau and Bengio assume."""
    rng = np.random.default_rng(0)
    folds, train, test, truth = 5, 366, 122, 0.7
    shared = test / (train + test)
    scores = truth + 0.05 * (
        np.sqrt(shared) * rng.normal(size=(4000, 1)) + np.sqrt(1 - shared) * rng.normal(size=(4000, folds))
    )
    bounds = np.array([corrected_interval(row, train, test) for row in scores])
    covered = ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean()
    low, high = stats.t.interval(0.95, folds - 1, loc=scores.mean(1), scale=stats.sem(scores, axis=1))
    assert covered == pytest.approx(0.95, abs=0.015)  # four standard errors
    assert ((low <= truth) & (truth <= high)).mean() < 0.85
