"""Step features of segments in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.relapse.features.names import STEP_TOTALS, STEPS
from fusion_lab.data.relapse.features.steps import step_features

pytestmark = pytest.mark.filterwarnings("error")

hours = st.floats(0, 23.9)


def named(totals, start, end):
    found = step_features(np.array(totals, float).reshape(-1, 5), np.array(start, float), np.array(end, float))
    return dict(zip(STEPS, found.tolist(), strict=True))


@given(seed=st.integers(0, 2**32 - 1), starts=st.lists(hours, min_size=1, max_size=8))
def test_the_order_of_segments_does_not_matter(seed, starts):
    rng = np.random.default_rng(seed)
    start, end = np.array(starts), np.minimum(np.array(starts) + 0.05, 23.99)
    totals, order = rng.integers(0, 1000, (len(start), 5)).astype(float), rng.permutation(len(start))
    one, other = step_features(totals, start, end), step_features(totals[order], start[order], end[order])
    np.testing.assert_allclose(one, other, rtol=1e-12)


@given(starts=st.lists(hours, min_size=2, max_size=8))
def test_gaps_and_segments_fill_the_time_between_first_and_last(starts):
    start = sorted(starts)
    found = named(np.ones((len(start), 5)), start, start)  # segments of no length
    apart = np.diff(start)
    assert found["longest_gap"] == pytest.approx(apart.max())
    assert found["last_hour"] - found["first_hour"] == pytest.approx(apart.sum(), abs=1e-9)


def test_a_day_without_segments_is_unknown():
    assert np.isnan(list(named([], [], []).values())).all()


def test_one_segment_has_no_gap_and_two_have_one():
    one, two = named(np.ones(5), [8], [9]), named(np.ones(10), [8, 11], [9, 12])
    assert np.isnan([one["longest_gap"], one["gap_std"], two["gap_std"]]).all()
    assert two["longest_gap"] == 2


def test_a_segment_beyond_midnight_ends_with_the_day():
    assert named(np.ones(5), [23.5], [0.5])["last_hour"] == 24


def test_a_segment_inside_another_opens_no_gap():
    assert named(np.ones(15), [8, 9, 13], [12, 10, 14])["longest_gap"] == 1


def test_an_empty_cell_adds_nothing_and_a_column_of_them_is_unknown():
    found = named([[1, np.nan, np.nan, 4, 5], [1, 2, np.nan, np.nan, 5]], [8, 10], [9, 11])
    assert [found[name] for name in STEP_TOTALS] == pytest.approx([2, 2, np.nan, 4, 10], nan_ok=True)
