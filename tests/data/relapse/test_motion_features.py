"""What the motion features of made-up signals are, and what leaves them alone."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.relapse.features.moments import statistics
from fusion_lab.data.relapse.features.motion import mean_of_known, motion_features
from fusion_lab.data.relapse.features.names import MOTION, STATISTICS

pytestmark = pytest.mark.filterwarnings("error")

WINDOW = 300
BANDS = ("power_0_1", "power_1_3", "power_3_8", "power_8_up")
seeds = st.integers(0, 2**32 - 1)


def named(vector):
    return dict(zip(MOTION, vector.tolist(), strict=True))


def along_x(magnitude, rate):
    """Features of one window in which the magnitude is this."""
    times = np.arange(len(magnitude)) / rate
    return named(motion_features(times, np.stack([magnitude, 0 * magnitude, 0 * magnitude]), rate))


def some_day(seed, windows=4, rate=0.5):
    """A day of windows of unequal numbers of samples, some of them empty."""
    rng = np.random.default_rng(seed)
    times = np.arange(0, windows * WINDOW, 1 / rate)
    times = times[rng.random(len(times)) < 0.9]
    times = times[np.isin(times // WINDOW, rng.permutation(windows)[: windows - 1])]
    return times, rng.normal(size=(3, len(times))), rate


def assert_same(one, other, **tolerance):
    np.testing.assert_allclose(one, other, **({"rtol": 1e-9, "atol": 1e-12} | tolerance))


@pytest.mark.parametrize(("hertz", "band"), [(0.5, 0), (1.0, 1), (2.4, 1), (3.0, 2), (7.5, 2), (8.0, 3), (9.5, 3)])
def test_a_sine_has_one_frequency_and_half_its_squared_amplitude_in_its_band(hertz, band):
    rate, amplitude = 20.0, 1.5
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(WINDOW * rate) / rate)
    found = along_x(5 + wave, rate)
    assert found["dominant_frequency"] == pytest.approx(hertz)
    assert found["spectral_entropy"] == pytest.approx(0, abs=1e-12)
    expected = [amplitude**2 / 2 if place == band else 0 for place in range(4)]
    assert [found[name] for name in BANDS] == pytest.approx(expected, abs=1e-12)


def test_a_flat_spectrum_has_the_entropy_of_a_uniform_distribution():
    impulse = np.zeros(299)
    impulse[7] = 1
    assert along_x(impulse, 1.0)["spectral_entropy"] == pytest.approx(1)


@given(seed=seeds, n=st.integers(2, 50))
def test_powers_sum_to_the_variance(seed, n):
    magnitude = np.random.default_rng(seed).uniform(1, 5, n)
    found = along_x(magnitude, rate=1.0)
    assert sum(found[name] for name in BANDS) == pytest.approx(magnitude.var())


def test_a_magnitude_that_alternates_crosses_its_mean_at_every_sample():
    assert along_x(np.array([1.0, 2.0] * 50), 1.0)["zero_crossing_rate"] == 1
    assert along_x(np.arange(100.0), 1.0)["zero_crossing_rate"] == pytest.approx(1 / 99)


def test_shares_count_what_is_beyond_a_limit_and_not_at_it():
    found = along_x(np.array([0.0, 0.1, 0.2, 1.5, 1.6]), 1.0)
    assert (found["share_below_0_2"], found["share_above_1_5"]) == (0.4, 0.2)


@pytest.mark.parametrize("value", [0.0, 0.1, 9.81, 1e6])
def test_a_sensor_that_rests_has_no_spectrum_and_no_shape(value):
    found = along_x(np.full(100, value), 1.0)
    undefined = ("magnitude_skewness", "magnitude_kurtosis", "dominant_frequency", "spectral_entropy")
    assert np.isnan([found[name] for name in undefined]).all()
    assert [found[name] for name in ("magnitude_std", "zero_crossing_rate", *BANDS)] == pytest.approx([0] * 6, abs=1e-9)
    assert found["magnitude_mean"] == pytest.approx(value)


def test_windows_in_which_a_feature_is_not_defined_do_not_count():
    rng = np.random.default_rng(0)
    moving, resting = rng.normal(size=(3, WINDOW)), np.ones((3, WINDOW))
    alone = named(motion_features(np.arange(300.0), moving, 1.0))
    both = named(motion_features(np.arange(600.0), np.concatenate([moving, resting], axis=1), 1.0))
    assert both["magnitude_kurtosis"] == pytest.approx(alone["magnitude_kurtosis"])
    assert both["magnitude_std"] == pytest.approx(alone["magnitude_std"] / 2)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_windows_of_very_few_samples(samples):
    found = along_x(np.arange(1.0, samples + 1), 1.0)
    assert found["x_mean"] == (samples + 1) / 2
    assert np.isnan(found["x_std"]) == (samples < 2)
    assert np.isnan(found["zero_crossing_rate"]) == (samples < 2)
    assert np.isnan(found["spectral_entropy"])  # of less than two frequencies


def test_a_day_without_samples_is_unknown():
    assert np.isnan(motion_features(np.zeros(0), np.zeros((3, 0)), 1.0)).all()


@given(seed=seeds)
def test_a_day_is_the_mean_of_its_windows_taken_alone(seed):
    times, xyz, rate = some_day(seed)
    windows = [times // WINDOW == window for window in np.unique(times // WINDOW)]
    alone = np.array([motion_features(times[on], xyz[:, on], rate) for on in windows])
    assert_same(motion_features(times, xyz, rate), mean_of_known(alone))


@given(seed=seeds)
def test_turning_the_sensor_leaves_the_magnitude_alone(seed):
    times, xyz, rate = some_day(seed)
    turn = scipy.stats.ortho_group.rvs(3, random_state=seed)
    own = [place for place, name in enumerate(MOTION) if name[:2] not in ("x_", "y_", "z_")]
    one, other = motion_features(times, xyz, rate), motion_features(times, turn @ xyz, rate)
    assert_same(one[own], other[own], rtol=1e-7)


@given(seed=seeds, c=st.floats(0.1, 10))
def test_a_scale_scales_what_has_a_unit(seed, c):
    times, xyz, rate = some_day(seed)
    one, other = named(motion_features(times, xyz, rate)), named(motion_features(times, c * xyz, rate))
    for name in MOTION:
        if name.startswith("share"):
            continue  # of fixed limits
        statistic = name.rpartition("_")[2]
        factor = c**2 if name in ("energy", *BANDS) else c if statistic in STATISTICS[:5] else 1
        assert other[name] == pytest.approx(factor * one[name], rel=1e-6, abs=1e-9), name


@given(seed=seeds, windows=st.integers(1, 200))
def test_the_hour_does_not_matter(seed, windows):
    times, xyz, rate = some_day(seed)
    assert_same(motion_features(times + windows * WINDOW, xyz, rate), motion_features(times, xyz, rate))


@given(seed=seeds, n=st.integers(2, 60), centre=st.floats(-100, 100))
def test_skewness_and_kurtosis_are_scipys(seed, n, centre):
    samples = centre + np.random.default_rng(seed).gamma(2, size=(3, n))
    found = statistics(samples)
    np.testing.assert_allclose(found[:, 5], scipy.stats.skew(samples, axis=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found[:, 6], scipy.stats.kurtosis(samples, axis=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found[:, 4], np.median(samples, axis=1))
