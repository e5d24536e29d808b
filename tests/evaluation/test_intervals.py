"""Intervals against the textbook and against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from fusion_lab.evaluation.intervals import MOST_BLOCKS, blocks, corrected_interval, expanded_tail, jackknife_interval


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


def without_each(values):
    """The mean without each of the values."""
    return (values.sum() - values) / (len(values) - 1)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.5, 0.99))
def test_the_jackknife_of_a_mean_is_the_t_interval_of_a_mean(values, level):
    values = np.array(values)
    found = jackknife_interval(values.mean(), without_each(values), level=level)
    if np.ptp(values) > 1e-6:
        expected = stats.t.interval(level, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(
    st.floats(0.01, 0.99),
    st.lists(st.floats(0.01, 0.99), min_size=2, max_size=9),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]),
)
def test_between_two_bounds_the_jackknife_is_that_of_the_logit_and_stays_between_them(value, left_out, bounds):
    least, most = bounds
    scores = np.array([least + (most - least) * share for share in (value, *left_out)])
    low, high = jackknife_interval(scores[0], scores[1:], bounds)
    if not np.isnan(low):
        on_line = logit((scores - least) / (most - least))
        expected = least + (most - least) * expit(np.array(jackknife_interval(on_line[0], on_line[1:])))
        assert (low, high) == pytest.approx(tuple(expected))
        assert least <= low <= scores[0] <= high <= most


def test_at_a_bound_the_jackknife_is_clipped():
    left_out = np.array([0.9, 1.0, 0.97, 0.95])
    low, high = jackknife_interval(0.98, left_out, (0, 1))
    assert (low, high) == (pytest.approx(jackknife_interval(0.98, left_out)[0]), 1)
    assert jackknife_interval(-3.0, np.array([-4.0, 0.5, 0.9]), (-np.inf, 1))[1] == 1
    low, high = jackknife_interval(0.02, 1 - left_out, (0, 1))
    assert (low, high) == (0, pytest.approx(jackknife_interval(0.02, 1 - left_out)[1]))


@pytest.mark.parametrize(
    ("value", "left_out"),
    [(0.7, []), (0.7, [0.7]), (np.nan, [0.7, 0.8]), (0.7, [0.6, np.nan, 0.8]), (1.0, [1.0, 1.0, 1.0])],
    ids=["none", "one group", "no score", "a group that alone holds a class", "no variance"],
)
def test_what_a_jackknife_cannot_tell_it_does_not(value, left_out):
    assert np.isnan(jackknife_interval(value, np.array(left_out), (0, 1))).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 12), st.randoms(use_true_random=False))
def test_blocks_keep_units_whole_are_even_and_do_not_depend_on_the_order_of_rows(units, most, random):
    units = np.array([f"u{unit}" for unit in units])
    block = blocks(units, most)
    of_unit = {unit: set(block[units == unit].tolist()) for unit in units}
    assert all(len(held) == 1 for held in of_unit.values())
    sizes = np.bincount([held.pop() for held in of_unit.values()])
    assert len(sizes) == min(most, len(of_unit))
    assert sizes.max() - sizes.min() <= 1
    order = np.array(random.sample(range(len(units)), len(units)))
    assert blocks(units[order], most).tolist() == block[order].tolist()


def test_many_rows_are_left_out_several_at_a_time():
    assert set(blocks(np.arange(10 * MOST_BLOCKS)).tolist()) == set(range(MOST_BLOCKS))


@pytest.mark.parametrize("groups", [2, 7, 60])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_percentiles_at_the_expanded_tail_are_a_means_t_interval(groups, level):
    """The bootstrap's means are spread by the root of (n - 1) / n less than a standard error says."""
    reach = stats.norm.isf(expanded_tail(groups, level)) * np.sqrt((groups - 1) / groups)
    assert reach == pytest.approx(stats.t.ppf((1 + level) / 2, groups - 1))


SIZES = np.array([40, 60, 80, 100, 120, 180, 260])
"""Rows of seven people."""


def macro_f1(counts):
    """From how often each class was taken for each, [..., C, C]."""
    size = counts.sum(-1) + counts.sum(-2)
    return (2 * np.diagonal(counts, axis1=-2, axis2=-1) / np.maximum(size, 1)).mean(-1)


def drawn_people(rng, runs):
    """[runs, 7, C, C]: people differ in how well their activities are told apart, and in what they do."""
    shape = (runs, len(SIZES))
    shares = rng.dirichlet(np.full(4, 4.0), shape)
    rows = rng.multinomial(np.broadcast_to(SIZES, shape), shares)
    easy = expit(2.0 + 0.8 * rng.normal(size=(*shape, 1)) + 0.6 * rng.normal(size=(*shape, 4)))
    hits = rng.binomial(rows, easy)
    counts = hits[..., None] * np.eye(4)
    misses = rng.multinomial(rows - hits, np.full(3, 1 / 3))
    for code in range(4):
        counts[..., code, [c for c in range(4) if c != code]] += misses[..., code, :]
    return counts


def test_seven_people_of_unequal_diligence_are_covered_by_the_jackknife_and_not_by_percentiles():
    rng = np.random.default_rng(0)
    truth = macro_f1(drawn_people(rng, 20_000).sum((0, 1)))
    people = drawn_people(rng, 600)
    value, left_out = macro_f1(people.sum(1)), macro_f1(people.sum(1, keepdims=True) - people)
    bounds = np.array([jackknife_interval(v, out, (0, 1)) for v, out in zip(value, left_out, strict=True)])
    times = rng.multinomial(len(SIZES), np.full(len(SIZES), 1 / len(SIZES)), size=400)
    draws = macro_f1(np.einsum("dg,rgij->rdij", times, people))
    percentiles = np.quantile(draws, (0.025, 0.975), axis=1)
    covered = int(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).sum())
    by_percentiles = int(((percentiles[0] <= truth) & (truth <= percentiles[1])).sum())
    assert covered >= stats.binom.ppf(0.0005, len(people), 0.93)
    assert by_percentiles < stats.binom.ppf(0.0005, len(people), 0.93)
