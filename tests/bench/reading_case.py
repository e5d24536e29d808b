"""The reading case: one subject's file as PAMAP2 publishes it, read by the product and by pandas, in turn."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rounds import turns

from fusion_lab.data.activity.batches import Wanted
from fusion_lab.data.activity.prepare import prepare
from fusion_lab.data.activity.reading import read_recorded
from fusion_lab.data.activity.recordings import SENSOR_COLUMNS, Track, gather
from fusion_lab.data.activity.settings import ACTIVITY, COLUMNS, HEART_RATE_BPM, TIME, TRANSIENT, ActivityConfig
from fusion_lab.data.activity.text import Text

FILE = "subject101.dat"
LINES = 5_000
"""That differ in more than their time and activity: a parser sees all cells anew, so they may come again."""

ACTIVITIES = (0, 1, 2, 0, 3, 17, 0, 16, 12, 0, 13, 4)
"""The session's course: a third of the published samples lies between activities."""


def write_session(file: Path, rows: int, seed: int = 0) -> None:
    """A raw file of 54 columns, 100 samples a second, numbers of six digits at most as the published ones have.

    The heart rate is there in every 11th row; in one of 200 a sensor unit is not.
    """
    measured = _measured(np.random.default_rng(seed), min(rows, LINES))
    ends = [" ".join("NaN" if np.isnan(cell) else f"{cell:.6g}" for cell in row) for row in measured.tolist()]
    course = np.array(ACTIVITIES)[np.arange(rows) * len(ACTIVITIES) // rows]
    with file.open("w") as stream:
        stream.writelines(f"{8.38 + n / 100:.2f} {a} {ends[n % len(ends)]}\n" for n, a in enumerate(course.tolist()))


def _measured(rng: np.random.Generator, rows: int) -> np.ndarray:
    """What sensors say, ``[rows, 52]``."""
    names = list(SENSOR_COLUMNS)
    values = rng.normal(0, 10, (rows, len(names))).round(6)
    orientation = [place for place, name in enumerate(names) if "orientation" in name]
    values[:, orientation] = [float(names[place].endswith("_w")) for place in orientation]  # as its authors mark it
    values[:, names.index(HEART_RATE_BPM)] = np.where(np.arange(rows) % 11, np.nan, rng.integers(60, 180, rows))
    lost = rng.choice(rows, rows // 200, replace=False)
    for row, unit in zip(lost, rng.integers(0, 3, len(lost)), strict=True):
        values[row, 1 + 17 * unit : 18 + 17 * unit] = np.nan
    return values


def by_pandas(file: Path) -> pd.DataFrame:
    """As its documentation has it for such a file; times and all that is measured as float64."""
    return pd.read_csv(file, sep=" ", header=None, names=list(COLUMNS), engine="c")


def checked(file: Path) -> Track:
    """Every row read and looked at, in float32; nothing hashed, no recordings yet."""
    text = Text(file, COLUMNS, " ", missing=())
    return gather(text.blocks(Wanted(TIME, ACTIVITY, SENSOR_COLUMNS)), SENSOR_COLUMNS, text.place, True)


def readers(file: Path, output: Path) -> dict[str, Callable[[], Any]]:
    """Whoever reads the file; ``prepared`` writes to ``output``."""
    config = ActivityConfig(root=str(file))
    return {
        "checked": lambda: checked(file),
        "recorded": lambda: read_recorded(config),
        "prepared": lambda: prepare(config, output, lambda line: None),
        "pandas": lambda: by_pandas(file),
    }


def difference(track: Track, frame: pd.DataFrame) -> float:
    """The largest between what the product and pandas have read, as a share of the number, or of 1 where that is less.

    Infinite where one of them has a number that the other has not. The product drops what is between activities.
    """
    kept = frame[frame[ACTIVITY] != TRANSIENT]
    pairs = ((track.time, frame[TIME]), (track.activity, frame[ACTIVITY]), (track.values, kept[list(SENSOR_COLUMNS)]))
    return max(_difference(np.asarray(ours, float), theirs.to_numpy(float)) for ours, theirs in pairs)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    apart = np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)
    return float(np.nanmax(apart, initial=0))


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """``{"rows", "bytes", "difference", "readers": {name: {"cold", "rounds"}}}``, times as ``{"cpu", "wall"}`` in
    seconds. The file lies in the system's cache: what is timed is reading, not the disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder, FILE), Path(folder, "prepared")
        write_session(file, rows)
        apart = difference(checked(file), by_pandas(file))
        taken: dict[str, Any] = {name: {"rounds": []} for name in readers(file, output)}
        for number in range(rounds + 1):
            for name in turns(list(taken), number):
                times = _times(readers(file, output)[name])
                shutil.rmtree(output, ignore_errors=True)
                if number:
                    taken[name]["rounds"].append(times)
                else:
                    taken[name]["cold"] = times
        return {"rows": rows, "bytes": file.stat().st_size, "difference": apart, "readers": taken}


def _times(read: Callable[[], Any]) -> dict[str, float]:
    """CPU time of all threads and wall time of reading the file once; letting go of what was read is no part of it."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    kept = read()
    times = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    del kept
    return times


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*json.loads(sys.argv[1]))) + "\n")
