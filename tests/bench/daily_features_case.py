"""The daily features case: raw sensor files to the 121 features of a day, by the product and by pandas and SciPy."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.signal
import scipy.stats
from results import PANDAS
from rounds import turns

from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.patient import describe
from fusion_lab.data.relapse.raw import SensorSequence
from fusion_lab.data.relapse.raw_twin import RawTwinConfig, write_sequence

SEQUENCE = "P1", "train_0"
AXES = ["X", "Y", "Z", "magnitude"]
FREQUENCIES_AT_A_TIME = 20
"""Of SciPy's periodogram, which otherwise takes gigabytes for a day."""


def write_days(root: Path, days: int, motion_hz: float, heart_hz: float) -> SensorSequence:
    """A sequence of raw files; every sensor is on all day."""
    sequence = SensorSequence(*SEQUENCE, root.joinpath(*SEQUENCE))
    rates = {"motion_hz": motion_hz, "heart_hz": heart_hz}
    write_sequence(sequence.folder, RawTwinConfig(days=days, gaps=0, off=0, lost=0, **rates))
    return sequence


def by_pandas(sequence: SensorSequence) -> dict[str, np.ndarray]:
    """As anybody would: the file as a frame, a function per window or day, a line per feature."""
    motion = {"accel": "linacc.parquet", "gyr": "gyr.parquet"}
    tables = {name: _motion(pd.read_parquet(sequence.folder / file)) for name, file in motion.items()}
    tables["hr"] = _heart(pd.read_parquet(sequence.folder / "hrm.parquet"))
    tables["step"] = _steps(pd.read_parquet(sequence.folder / "step.parquet"))
    tables["sleep"] = _sleep(pd.read_parquet(sequence.folder / "sleep.parquet"))
    return {name: table.sort_index().to_numpy(float) for name, table in tables.items()}


def _seconds(times: pd.Series) -> pd.Series:
    return pd.to_timedelta(times.astype(str)).dt.total_seconds()


def _seven(samples: pd.Series) -> list[float]:
    shape = scipy.stats.skew(samples.to_numpy()), scipy.stats.kurtosis(samples.to_numpy())
    return [samples.mean(), samples.std(), samples.min(), samples.max(), samples.median(), *shape]


def _motion(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.astype(dict.fromkeys("XYZ", float)).assign(seconds=_seconds(frame["time"]))
    frame["magnitude"] = np.sqrt(frame["X"] ** 2 + frame["Y"] ** 2 + frame["Z"] ** 2)
    rate = float(f"{1 / frame.groupby('day_index')['seconds'].diff().median():.3g}")
    windows = frame.groupby(["day_index", frame["seconds"] // 300])
    return windows[AXES].apply(_window, rate=rate).groupby(level="day_index").mean()


def _window(window: pd.DataFrame, rate: float) -> pd.Series:
    magnitude = window["magnitude"]
    positive = magnitude >= magnitude.mean()
    frequency, power = scipy.signal.periodogram(magnitude, fs=rate, detrend="constant", scaling="spectrum")
    bands = zip((0, 1, 3, 8), (1, 3, 8, np.inf), strict=True)
    return pd.Series(
        [
            *(value for axis in AXES for value in _seven(window[axis])),
            (magnitude**2).sum(),
            (positive != positive.shift()).iloc[1:].mean(),
            (magnitude > 1.5).mean(),
            (magnitude < 0.2).mean(),
            frequency[1 + power[1:].argmax()],
            scipy.stats.entropy(power[1:], base=len(power) - 1),
            *(power[(low <= frequency) & (frequency < high)].sum() for low, high in bands),
        ]
    )


def _heart(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.astype({"heartRate": float, "rRInterval": float}).assign(seconds=_seconds(frame["time"]))
    return frame.groupby("day_index")[["heartRate", "rRInterval", "seconds"]].apply(_heart_day)


def _heart_day(day: pd.DataFrame) -> pd.Series:
    beats = day[day["rRInterval"] > 0]
    beats = beats[beats["rRInterval"] != beats["rRInterval"].shift()]
    nn = beats["rRInterval"]
    beats = beats[(nn - nn.mean()).abs() <= 3 * nn.std()]
    nn = beats["rRInterval"]
    change = nn.diff().dropna()
    rmssd = np.sqrt((change**2).mean())
    low, high, total = (_band(beats, *band) for band in ((0.04, 0.15, 100), (0.15, 0.4, 200), (0.003, 0.4, 500)))
    across = rmssd / np.sqrt(2)
    along = np.sqrt(2 * nn.var() - across**2)
    measured = day[(day["heartRate"] > 0) | (day["rRInterval"] > 0)]
    return pd.Series(
        [
            *_seven(day["heartRate"][day["heartRate"] > 0]),
            *_seven(nn),
            *(nn.std(), rmssd, 100 * (change.abs() > 50).mean(), len(nn) / (nn // 7.8125).value_counts().max()),
            *(low, high, low / high, total, across, along, across / along),
            (measured["seconds"] // 300).nunique() / 288,
        ]
    )


def _band(beats: pd.DataFrame, low: float, high: float, count: int) -> float:
    grid = np.linspace(low, high, count)
    times, nn = beats["seconds"].to_numpy(), beats["rRInterval"].to_numpy()
    power = np.concatenate(
        [
            scipy.signal.lombscargle(times, nn - nn.mean(), 2 * np.pi * grid[at : at + FREQUENCIES_AT_A_TIME])
            for at in range(0, count, FREQUENCIES_AT_A_TIME)
        ]
    )
    return 2 * float(np.median(np.diff(times))) * scipy.integrate.trapezoid(power, grid)


def _steps(frame: pd.DataFrame) -> pd.DataFrame:
    hours = {name: _seconds(frame[f"{name}_time"]) / 3600 for name in ("start", "end")}
    return frame.assign(**hours).groupby("start_date_index").apply(_steps_day)


def _steps_day(day: pd.DataFrame) -> pd.Series:
    day = day.sort_values("start", kind="stable")
    latest = day["end"].where(day["end"] >= day["start"], 24.0).cummax()
    gaps = (day["start"] - latest.shift()).dropna().clip(lower=0)
    sums = day[["totalSteps", "stepsWalking", "stepsRunning", "distance", "calories"]].sum()
    return pd.Series([*sums, len(day), day["start"].iloc[0], latest.iloc[-1], gaps.max(), gaps.std()])


def _sleep(frame: pd.DataFrame) -> pd.DataFrame:
    hours = {name: _seconds(frame[f"{name}_time"]) / 3600 for name in ("start", "end")}
    frame = frame.assign(**hours)
    frame["length"] = (frame["end"] - frame["start"]) % 24
    main = frame.loc[frame.groupby("end_date_index")["length"].idxmax()].set_index("end_date_index")
    return frame.groupby("end_date_index").apply(lambda day: _sleep_day(day, int(day.name), main))


def _sleep_day(day: pd.DataFrame, number: int, main: pd.DataFrame) -> pd.Series:
    own, before = main.loc[number], main[(main.index >= number - 7) & (main.index < number)]
    angles = [2 * np.pi * own[name] / 24 for name in ("start", "end")]
    apart = []
    for name in ("start", "end"):
        mean = scipy.stats.circmean(before[name], high=24) if len(before) else np.nan
        direct = abs(own[name] - mean)
        apart.append(min(direct, 24 - direct))
    circle = [part(angle) for angle in angles for part in (np.sin, np.cos)]
    return pd.Series([60 * day["length"].sum(), len(day), *circle, own["length"], *apart])


def contenders(sequence: SensorSequence) -> dict[str, Callable[[], Any]]:
    """Whoever describes the days, in one process."""
    return {"described": lambda: describe(sequence), PANDAS: lambda: by_pandas(sequence)}


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest between features, as a share of the number, or of 1 where that is less. Infinite where one of them
    has a number that the other has not.
    """
    return max(_difference(np.asarray(ours[name], float), theirs[name]) for name in MODALITIES)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    return float(np.nanmax(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1), initial=0))


def measure(days: int, rounds: int, motion_hz: float, heart_hz: float) -> dict[str, Any]:
    """``{"rows", "bytes", "difference", "readers": {name: {"cold", "rounds"}}}``, rows being days of one patient, times
    as ``{"cpu", "wall"}`` in seconds. The files lie in the system's cache: what is timed is reading and describing, not
    the disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        sequence = write_days(Path(folder), days, motion_hz, heart_hz)
        works = contenders(sequence)
        apart = difference(dict(works["described"]()[0].features), works[PANDAS]())
        taken: dict[str, Any] = {name: {"rounds": []} for name in works}
        for number in range(rounds + 1):
            for name in turns(list(works), number):
                times = _times(works[name])
                if number:
                    taken[name]["rounds"].append(times)
                else:
                    taken[name]["cold"] = times
        size = sum(path.stat().st_size for path in sequence.files)
    return {"rows": days, "bytes": size, "hz": [motion_hz, heart_hz], "difference": apart, "readers": taken}


def _times(work: Callable[[], Any]) -> dict[str, float]:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*json.loads(sys.argv[1]))) + "\n")
