"""Sleep on the circle of 24 hours."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.relapse.features.names import SLEEP
from fusion_lab.data.relapse.features.sleep import circular_distance, circular_mean, sleep_features

pytestmark = pytest.mark.filterwarnings("error")

hours = st.floats(0, 24, exclude_max=True)


def named(nights, day):
    """Features of a day from nights ``(end day, start, end)``."""
    end_day, start, end = (np.array(column, float) for column in zip(*nights, strict=True))
    found = sleep_features(np.array([day]), end_day.astype(int), start, end)
    return dict(zip(SLEEP, found[0].tolist(), strict=True))


@pytest.mark.parametrize(("before", "onset", "apart"), [(23.5, 0.5, 1), (0.5, 23.5, 1), (22, 2.5, 4.5), (3, 15, 12)])
def test_the_deviation_goes_the_shorter_way_across_midnight(before, onset, apart):
    assert named([(0, before, 8), (1, onset, 8)], 1)["onset_deviation"] == pytest.approx(apart)


def test_the_mean_of_hours_around_midnight_is_midnight():
    found = named([(0, 23, 7), (1, 1, 7), (2, 6, 7)], 2)
    assert (found["onset_deviation"], found["wake_deviation"]) == pytest.approx((6, 0), abs=1e-9)


def test_seven_days_are_looked_back_and_no_more():
    nights = [(0, 12, 13), *[(day, 23, 7) for day in range(1, 8)], (8, 23, 7)]
    assert named(nights, 8)["onset_deviation"] == pytest.approx(0)
    assert named(nights[:2], 1)["onset_deviation"] == 11
    assert named([nights[0], (7, 11, 13)], 7)["onset_deviation"] == pytest.approx(1)
    assert np.isnan(named([nights[0], (8, 11, 13)], 8)["onset_deviation"])


def test_what_comes_later_is_not_looked_at():
    nights = [(0, 22, 7), (1, 23, 7)]
    assert named(nights, 1) == named([*nights, (2, 12, 13), (1 + 7, 3, 4)], 1)


def test_hours_that_cancel_out_have_no_mean():
    assert np.isnan(circular_mean(np.array([0.0, 12.0])))
    assert np.isnan(named([(0, 6, 7), (1, 18, 19), (2, 3, 4)], 2)["onset_deviation"])
    assert np.isnan(circular_mean(np.zeros(0)))


def test_the_longest_episode_is_the_main_sleep_and_all_of_them_count():
    found = named([(3, 23, 6.5), (3, 13, 14), (3, 20, 20.5)], 3)
    assert (found["episodes"], found["total_minutes"], found["longest_bout"]) == (3, 9 * 60, 7.5)
    assert (found["wake_sin"], found["wake_cos"]) == pytest.approx(
        (np.sin(2 * np.pi * 6.5 / 24), np.cos(2 * np.pi * 6.5 / 24))
    )


def test_a_day_without_sleep_is_unknown():
    assert np.isnan(list(named([(3, 23, 6)], 4).values())).all()


@given(nights=st.lists(st.tuples(st.integers(0, 9), hours, hours), min_size=1, max_size=12), shift=hours)
def test_turning_the_clock_leaves_lengths_and_deviations_alone(nights, shift):
    day = nights[-1][0]
    one = named(nights, day)
    lengths = [(end - start) % 24 for of, start, end in nights if of == day]
    if len(lengths) > 1 and np.diff(sorted(lengths))[-1] < 1e-6 or min(lengths) < 1e-6 or max(lengths) > 24 - 1e-6:
        return  # rounding decides which is the longest, or whether it takes a day or no time
    other = named([(of, (start + shift) % 24, (end + shift) % 24) for of, start, end in nights], day)
    for name in ("total_minutes", "episodes", "longest_bout"):
        assert other[name] == pytest.approx(one[name], abs=1e-4)


@given(before=st.lists(hours, min_size=1, max_size=7), hour=hours, shift=hours)
def test_deviations_turn_with_the_clock(before, hour, shift):
    mean = circular_mean(np.array(before))
    vectors = np.exp(2j * np.pi * np.array(before) / 24)
    if abs(vectors.sum()) < 1e-3:
        return  # there is next to no mean
    turned = circular_mean((np.array(before) + shift) % 24)
    assert circular_distance(hour, mean) == pytest.approx(circular_distance((hour + shift) % 24, turned), abs=1e-6)
    assert circular_distance(mean, scipy.stats.circmean(before, high=24)) == pytest.approx(0, abs=1e-6)


@given(one=hours, other=hours)
def test_the_circular_distance_is_an_angle_between_vectors(one, other):
    angle = np.angle(np.exp(2j * np.pi * (one - other) / 24)) * 24 / (2 * np.pi)
    assert circular_distance(one, other) == pytest.approx(abs(angle), abs=1e-9)
    assert circular_distance(one, other) == circular_distance(other, one)
