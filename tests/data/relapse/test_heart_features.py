"""What heart features of made-up beats are, and the identities between them."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.relapse.features.heart import band_power, heart_features, normal_intervals
from fusion_lab.data.relapse.features.names import HEART
from fusion_lab.data.relapse.features.periodogram import lomb_scargle

pytestmark = pytest.mark.filterwarnings("error")

seeds = st.integers(0, 2**32 - 1)


def of_beats(rr, seconds=None, rate=None):
    """Features of beats, one sample each."""
    rr = np.asarray(rr, float)
    seconds = np.arange(float(len(rr))) if seconds is None else seconds
    rate = np.full(len(rr), 70.0) if rate is None else rate
    return dict(zip(HEART, heart_features(seconds, rate, rr).tolist(), strict=True))


def some_beats(seed, n=200):
    rng = np.random.default_rng(seed)
    rr = rng.normal(850, 60, n).clip(700, 1000)
    return np.cumsum(rr / 1000 * rng.integers(1, 4, n)), rr


def test_a_constant_is_one_interval_that_holds():
    found = of_beats([800.0] * 50)
    assert (found["rr_mean"], found["triangular_index"]) == (800, 1)
    assert np.isnan([found[name] for name in ("rr_std", "sdnn", "rmssd", "pnn50", "sd1", "sd2", "lf_power")]).all()


@given(change=st.floats(0.01, 300))
def test_a_series_that_alternates(change):
    """RMSSD is the change, which falls to 0 as the series becomes a constant; pNN50 is all or nothing."""
    found = of_beats([800.0, 800 + change] * 100)
    assert found["rmssd"] == pytest.approx(change)
    assert found["pnn50"] == (100 if 800 + change - 800 > 50 else 0)
    assert found["sdnn"] == pytest.approx(change / 2, rel=0.01)
    assert found["sd2"] < 0.1 * found["sd1"]


@given(seed=seeds)
def test_identities_of_the_poincare_plot(seed):
    seconds, rr = some_beats(seed)
    found = of_beats(rr, seconds)
    assert found["sd1"] ** 2 == pytest.approx(found["rmssd"] ** 2 / 2)
    assert found["sd1"] ** 2 + found["sd2"] ** 2 == pytest.approx(2 * found["sdnn"] ** 2)
    assert found["sd1_sd2_ratio"] == pytest.approx(found["sd1"] / found["sd2"])
    times, nn = normal_intervals(seconds, rr)
    assert found["sd2"] == pytest.approx(np.std((nn[1:] + nn[:-1]) / np.sqrt(2)), rel=0.05)  # the plot itself


@given(seed=seeds, c=st.floats(0.5, 2))
def test_a_scale_scales_variability(seed, c):
    seconds, rr = some_beats(seed)
    one, other = of_beats(rr, seconds), of_beats(c * rr, seconds)
    for name, power in {
        "rr_std": 1,
        "rmssd": 1,
        "sd1": 1,
        "sd2": 1,
        "lf_power": 2,
        "hf_power": 2,
        "lf_hf_ratio": 0,
    }.items():
        assert other[name] == pytest.approx(c**power * one[name], rel=1e-6), name


@given(seed=seeds, shift=st.integers(1, 280))
def test_the_hour_does_not_matter(seed, shift):
    seconds, rr = some_beats(seed)
    one, other = of_beats(rr, seconds), of_beats(rr, seconds + 300 * shift)
    assert list(one.values()) == pytest.approx(list(other.values()), rel=1e-6, nan_ok=True)


def test_the_triangular_index_of_a_known_histogram():
    """Six intervals, of which three are in one bin of 1/128 s."""
    unit = 7.8125
    found = of_beats([100 * unit, 101 * unit, 100.2 * unit, 102.5 * unit, 100.9 * unit, 103 * unit])
    assert found["triangular_index"] == 6 / 3


def test_what_lies_beyond_three_deviations_is_left_out():
    beats = [800.0, 810.0] * 50
    assert of_beats([*beats, 3000.0])["rr_max"] == 810
    assert of_beats(beats)["rr_max"] == 810


def test_only_readings_above_zero_are_measured():
    rate = np.array([0, -1, np.nan, 60.0, 80.0])
    found = of_beats([0, np.nan, -5, 800, 900], rate=rate)
    assert (found["rate_mean"], found["rr_mean"], found["rr_min"]) == (70, 850, 800)
    assert np.isnan(heart_features(np.arange(3.0), np.zeros(3), np.full(3, np.nan))).all()


@pytest.mark.parametrize(("rate", "rr"), [(0.0, 800.0), (70.0, 0.0)])
def test_one_of_the_two_alone_is_enough(rate, rr):
    found = of_beats([rr, rr], rate=np.full(2, rate))
    assert found["coverage"] == 1 / 288
    assert np.isnan(found["rate_mean"]) == (rate == 0) and np.isnan(found["rr_mean"]) == (rr == 0)


def test_coverage_counts_windows_with_data():
    seconds = np.array([0, 10, 299, 300, 86399], float)
    assert of_beats([800, 810, 820, 830, 0], seconds)["coverage"] == 3 / 288  # a rate is there in the last


@pytest.mark.parametrize(("hertz", "name"), [(0.1, "lf_power"), (0.25, "hf_power")])
def test_a_rhythm_has_half_its_squared_amplitude_in_its_band(hertz, name):
    seconds = np.arange(500.0)  # so short that the grid of frequencies leaves nothing out
    found = of_beats(800 + 40 * np.sin(2 * np.pi * hertz * seconds + 0.3), seconds)
    other = {"lf_power": "hf_power", "hf_power": "lf_power"}[name]
    assert found[name] == pytest.approx(40**2 / 2, rel=0.02)
    assert found["total_power"] == pytest.approx(40**2 / 2, rel=0.02)
    assert found[other] < 0.01 * found[name]


def test_the_power_of_noise_is_its_share_of_the_variance():
    """Of beats a second apart, the band up to 0.4 Hz holds 0.397 of 0.5 Hz."""
    noise = np.random.default_rng(0).normal(0, 30, 4000)
    found = band_power(np.arange(4000.0), noise, np.linspace(0.003, 0.4, 4001))
    assert found == pytest.approx(noise.var() * 0.397 / 0.5, rel=0.03)


@given(
    seed=seeds,
    n=st.integers(2, 400),
    count=st.integers(1, 40),
    first=st.floats(0.003, 0.3),
    width=st.floats(0.01, 0.3),
)
def test_the_periodogram_is_scipys_on_irregular_times(seed, n, count, first, width):
    rng = np.random.default_rng(seed)
    times, values = np.sort(rng.uniform(0, 3000, n)), rng.normal(size=n)
    grid = np.linspace(first, first + width, count)
    expected = np.atleast_1d(scipy.signal.lombscargle(times, values, 2 * np.pi * grid))
    np.testing.assert_allclose(lomb_scargle(times, values, grid), expected, rtol=1e-5, atol=1e-8 * n)


def test_at_the_rate_of_evenly_spaced_times_nothing_is_seen():
    values = np.random.default_rng(0).normal(size=6000)
    (at_rate,) = lomb_scargle(np.arange(6000) / 0.07, values - values.mean(), np.array([0.07]))
    assert at_rate == pytest.approx(0, abs=1e-6)


def test_the_periodogram_of_a_whole_day_is_scipys():
    """More samples than are worked on at a time, with a gap of hours."""
    rng = np.random.default_rng(0)
    times = np.sort(np.concatenate([rng.uniform(0, 20_000, 2_000), rng.uniform(60_000, 86_400, 2_000)]))
    values = rng.normal(size=4_000)
    grid = np.linspace(0.003, 0.4, 500)
    np.testing.assert_allclose(
        lomb_scargle(times, values, grid), scipy.signal.lombscargle(times, values, 2 * np.pi * grid), rtol=1e-6
    )
