"""Each of the 121 features against a computation that shares no code with it: SciPy, standard library, or by hand."""

import statistics
from itertools import pairwise

import numpy as np
import pytest
import scipy.signal
import scipy.stats

import fusion_lab.data.relapse.features as features
from fusion_lab.data.relapse.features import heart, motion, sleep, steps
from fusion_lab.data.relapse.features.heart import heart_features
from fusion_lab.data.relapse.features.motion import motion_features
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.features.sleep import sleep_features
from fusion_lab.data.relapse.features.steps import step_features

pytestmark = pytest.mark.filterwarnings("error")

RATE = 4.0
WINDOW = 300

SEVEN = {
    "mean": lambda s: statistics.fmean(s),
    "std": lambda s: statistics.stdev(s),
    "min": lambda s: sorted(s)[0],
    "max": lambda s: sorted(s)[-1],
    "median": lambda s: statistics.median(s),
    "skewness": lambda s: scipy.stats.skew(s),
    "kurtosis": lambda s: scipy.stats.kurtosis(s),
}


def motion_day(seed):
    """Times, in three windows with a gap between them, of unequal numbers of samples; and the axes."""
    rng = np.random.default_rng(seed)
    grid = np.arange(0, 4 * WINDOW, 1 / RATE)
    times = 12 * WINDOW + grid[(grid // WINDOW != 1) & (rng.random(len(grid)) < 0.97)]
    swing = np.sin(2 * np.pi * 0.7 * times)[None] * np.array([[1.0], [0.5], [0.2]])
    return times, swing + rng.gamma(1.5, 0.4, (3, len(times)))


def by_window(times, xyz):
    """``{"x", "y", "z", "magnitude"}`` of each window, in plain Python."""
    windows: dict[int, dict[str, list[float]]] = {}
    for time, x, y, z in zip(times.tolist(), *xyz.tolist(), strict=True):
        window = windows.setdefault(int(time // WINDOW), {"x": [], "y": [], "z": [], "magnitude": []})
        for axis, value in zip(window, (x, y, z, (x * x + y * y + z * z) ** 0.5), strict=True):
            window[axis].append(value)
    return list(windows.values())


def spectrum(window):
    """Frequencies and powers, by SciPy."""
    return scipy.signal.periodogram(window["magnitude"], fs=RATE, detrend="constant", scaling="spectrum")


def band(low, high):
    return lambda w: sum(p for f, p in zip(*map(np.ndarray.tolist, spectrum(w)), strict=True) if low <= f < high)


def crossings(window):
    around = [value - statistics.fmean(window["magnitude"]) for value in window["magnitude"]]
    return sum((one < 0) != (other < 0) for one, other in pairwise(around)) / (len(around) - 1)


def of_axis(statistic, axis):
    return lambda w: SEVEN[statistic](w[axis])


def share(holds):
    return lambda w: sum(map(holds, w["magnitude"])) / len(w["magnitude"])


MOTION_CHECKS = {
    **{f"{axis}_{name}": of_axis(name, axis) for axis in ("x", "y", "z", "magnitude") for name in SEVEN},
    "energy": lambda w: sum(x * x + y * y + z * z for x, y, z in zip(w["x"], w["y"], w["z"], strict=True)),
    "zero_crossing_rate": crossings,
    "share_above_1_5": share(lambda m: m > 1.5),
    "share_below_0_2": share(lambda m: m < 0.2),
    "dominant_frequency": lambda w: spectrum(w)[0][1:][spectrum(w)[1][1:].argmax()],
    "spectral_entropy": lambda w: scipy.stats.entropy(spectrum(w)[1][1:], base=len(spectrum(w)[1]) - 1),
    "power_0_1": band(0, 1),
    "power_1_3": band(1, 3),
    "power_3_8": band(3, 8),
    "power_8_up": band(8, np.inf),
}


def heart_day():
    """Samples every fifth of a second, of which some are not measured; beats that hold for some samples, and two
    artefacts among them.
    """
    rng = np.random.default_rng(5)
    beats = 800 + 60 * np.sin(np.arange(400) / 3) + rng.normal(0, 30, 400)
    beats[[50, 200]] = 2600, 20
    rr = np.repeat(beats.round(), rng.integers(2, 6, 400))
    rr[::17] = 0
    seconds = 5000 + np.arange(len(rr)) / 5
    seconds[len(rr) // 2 :] += 1234.56
    rate = rng.normal(75, 8, len(rr))
    rate[::13] = np.nan
    return seconds, rate, rr


def beats_of(day):
    """Times and lengths of the intervals that count, in plain Python."""
    seconds, _, rr = day
    runs: list[tuple[float, float]] = []
    for time, interval in zip(seconds.tolist(), rr.tolist(), strict=True):
        if interval > 0 and (not runs or runs[-1][1] != interval):
            runs.append((time, interval))
    lengths = [interval for _, interval in runs]
    middle, spread = statistics.fmean(lengths), statistics.stdev(lengths)
    kept = [(time, interval) for time, interval in runs if abs(interval - middle) <= 3 * spread]
    assert 0 < len(kept) < len(runs), "this day has artefacts"
    return [time for time, _ in kept], [interval for _, interval in kept]


def power(low, high, count):
    """The integral of SciPy's periodogram, as a density."""

    def integral(day):
        times, nn = beats_of(day)
        grid = [low + (high - low) * k / (count - 1) for k in range(count)]
        centred = np.array(nn) - statistics.fmean(nn)
        periodogram = scipy.signal.lombscargle(times, centred, 2 * np.pi * np.array(grid))
        density = 2 * statistics.median(b - a for a, b in pairwise(times)) * periodogram
        return sum((a + b) / 2 for a, b in pairwise(density)) * (high - low) / (count - 1)

    return integral


def ratio(one, other):
    return lambda day: one(day) / other(day)


def changes(day):
    return [b - a for a, b in pairwise(beats_of(day)[1])]


def rmssd(day):
    return statistics.fmean(c * c for c in changes(day)) ** 0.5


def across(day):
    """Distance of the Poincare plot's points from the line of identity."""
    nn = beats_of(day)[1]
    return statistics.fmean(((b - a) / 2**0.5) ** 2 for a, b in pairwise(nn)) ** 0.5


def along(day):
    """What is left of the total variance of a point's two coordinates."""
    return (2 * statistics.variance(beats_of(day)[1]) - across(day) ** 2) ** 0.5


def triangular(day):
    nn = beats_of(day)[1]
    edges = np.arange(0, max(nn) + 2 * 7.8125, 7.8125)
    return len(nn) / np.histogram(nn, edges)[0].max()


def covered(day):
    seconds, rate, rr = day
    return len({int(t // 300) for t, h, r in zip(seconds, rate, rr, strict=True) if h > 0 or r > 0}) / 288


def of_rate(statistic):
    return lambda day: SEVEN[statistic]([rate for rate in day[1].tolist() if rate > 0])


def of_beats(statistic):
    return lambda day: SEVEN[statistic](beats_of(day)[1])


LF, HF, TOTAL = power(0.04, 0.15, 100), power(0.15, 0.40, 200), power(0.003, 0.40, 500)

HEART_CHECKS = {
    **{f"rate_{name}": of_rate(name) for name in SEVEN},
    **{f"rr_{name}": of_beats(name) for name in SEVEN},
    "sdnn": lambda day: statistics.stdev(beats_of(day)[1]),
    "rmssd": rmssd,
    "pnn50": lambda day: 100 * sum(abs(c) > 50 for c in changes(day)) / len(changes(day)),
    "triangular_index": triangular,
    "lf_power": LF,
    "hf_power": HF,
    "lf_hf_ratio": ratio(LF, HF),
    "total_power": TOTAL,
    "sd1": across,
    "sd2": along,
    "sd1_sd2_ratio": ratio(across, along),
    "coverage": covered,
}

SEGMENTS = [  # in the order of the file, not of time
    ((100, 90, 10, 70.5, 4.5), 9.0, 9.5),
    ((2000, 1500, 500, 1500, 90), 17.0, 18.25),
    ((40, 40, 0, 30, 1), 17.5, 17.75),
    ((600, 600, 0, 400, 25), 12.0, 12.5),
    ((7, 7, 0, 5, 0.5), 23.75, 0.25),
]
GAPS = [2.5, 4.5, 0.0, 5.5]
"""Hours from 9.5 to 12, from 12.5 to 17, none while another segment goes on, from 18.25 to 23.75."""


def total(place):
    return lambda: sum(totals[place] for totals, _, _ in SEGMENTS)


STEP_CHECKS = {
    "total_steps": total(0),
    "steps_walking": total(1),
    "steps_running": total(2),
    "distance": total(3),
    "calories": total(4),
    "segments": lambda: 5,
    "first_hour": lambda: 9.0,
    "last_hour": lambda: 24.0,
    "longest_gap": lambda: 5.5,
    "gap_std": lambda: statistics.stdev(GAPS),
}

NIGHTS = [  # end day, start, end: the second day has a nap that is listed first, the third no sleep
    (10, 23.0, 7.0),
    (11, 14.0, 15.0),
    (11, 1.0, 8.0),
    (13, 3.0, 9.5),
]


def turned(hour, part):
    return lambda: getattr(np.exp(2j * np.pi * hour / 24), part)


SLEEP_CHECKS = {
    "total_minutes": lambda: 6.5 * 60,
    "episodes": lambda: 1,
    "onset_sin": turned(3.0, "imag"),
    "onset_cos": turned(3.0, "real"),
    "wake_sin": turned(9.5, "imag"),
    "wake_cos": turned(9.5, "real"),
    "longest_bout": lambda: 6.5,
    "onset_deviation": lambda: 3.0,  # midnight is between 23 and 1
    "wake_deviation": lambda: 9.5 - scipy.stats.circmean([7.0, 8.0], high=24),
}


def of_motion(check, seed):
    day = motion_day(seed)
    return statistics.fmean(map(check, by_window(*day)))


EXPECTED = {
    "accel": {name: lambda check=check: of_motion(check, 1) for name, check in MOTION_CHECKS.items()},
    "gyr": {name: lambda check=check: of_motion(check, 2) for name, check in MOTION_CHECKS.items()},
    "hr": {name: lambda check=check: check(heart_day()) for name, check in HEART_CHECKS.items()},
    "step": STEP_CHECKS,
    "sleep": SLEEP_CHECKS,
}


def found(modality):
    if modality in ("accel", "gyr"):
        return motion_features(*motion_day(1 if modality == "accel" else 2), RATE)
    if modality == "hr":
        return heart_features(*heart_day())
    if modality == "step":
        totals, start, end = (np.array(column, float) for column in zip(*SEGMENTS, strict=True))
        return step_features(totals, start, end)
    return sleep_features(np.array([13]), *(np.array(column) for column in zip(*NIGHTS, strict=True)))[0]


@pytest.mark.parametrize(("modality", "name"), [(m, name) for m, names in MODALITIES.items() for name in names])
def test_a_feature_is_what_another_computation_makes_it(modality, name):
    value = found(modality)[MODALITIES[modality].index(name)]
    assert np.isfinite(value)
    assert value == pytest.approx(EXPECTED[modality][name](), rel=1e-9, abs=1e-12)


def test_every_feature_has_such_a_computation():
    assert {modality: set(names) for modality, names in MODALITIES.items()} == {
        m: set(of) for m, of in EXPECTED.items()
    }


def test_there_are_121_features_with_different_names():
    assert [len(names) for names in MODALITIES.values()] == [38, 38, 26, 10, 9]
    assert all(len(set(names)) == len(names) for names in MODALITIES.values())


@pytest.mark.parametrize(
    ("modality", "module"), {"accel": motion, "gyr": motion, "hr": heart, "step": steps, "sleep": sleep}.items()
)
def test_every_feature_is_defined_where_it_is_computed(modality, module):
    words = set(module.__doc__.replace(",", " ").split())
    assert [name for name in MODALITIES[modality] if name not in words] == []
    assert module.__name__.rpartition(".")[2] in features.__doc__
