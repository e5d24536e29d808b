"""The alignment case: an hour of two streams of different rates on one clock, by the product and by pandas."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from results import PANDAS
from rounds import turns

from fusion_lab.data.alignment import Column, Stream, align

SOUND_RATE, PICTURE_RATE, CLOCK_RATE = 100, 25, 10
"""Samples a second."""

SOUND = (
    Column("energy"),
    Column("silence"),
    *(Column(name, "discrete") for name in ("is speaking", "text is active", "caption is active")),
)
PICTURE = (
    *(Column(f"measure {number}") for number in range(9)),
    Column("faces", "discrete"),
    *(Column(f"embedding {number}", "embedding") for number in range(512)),
)
Streams = list[tuple[Stream, tuple[Column, ...]]]


def streams(seconds: int, seed: int = 0) -> Streams:
    """Sound in float32, pictures in float16. Every sample is there, since pandas joins rows and not cells."""
    rng = np.random.default_rng(seed)
    kept = (("sound", SOUND_RATE, SOUND, np.float32), ("picture", PICTURE_RATE, PICTURE, np.float16))
    return [
        (Stream(name, np.arange(seconds * rate) / rate, _values(rng, seconds * rate, columns).astype(kind)), columns)
        for name, rate, columns, kind in kept
    ]


def _values(rng: np.random.Generator, rows: int, columns: tuple[Column, ...]) -> np.ndarray:
    values = rng.standard_normal((rows, len(columns)), dtype=np.float32)
    whole = [place for place, column in enumerate(columns) if column.kind == "discrete"]
    values[:, whole] = rng.integers(0, 3, (rows, len(whole)))
    return values


def clock(seconds: int) -> np.ndarray:
    """Its last step is a sample's time, so that nothing lies beyond the samples."""
    return np.arange((seconds - 1) * CLOCK_RATE + 1) / CLOCK_RATE


def aligned(made: Streams, steps: np.ndarray) -> list[np.ndarray]:
    """Of each stream the values at the steps, float32 [m,F]."""
    found = [align(stream, steps, columns) for stream, columns in made]
    assert all(one.observed.all() for one in found), "a cell that pandas has and the product has not"
    return [one.values for one in found]


def by_pandas(made: Streams, steps: np.ndarray) -> list[np.ndarray]:
    """As its documentation has it: ``merge_asof`` for what is held, ``interpolate`` along the times for the rest."""
    return [_by_pandas(stream, columns, steps) for stream, columns in made]


def _by_pandas(stream: Stream, columns: tuple[Column, ...], steps: np.ndarray) -> np.ndarray:
    values = np.empty((len(steps), len(columns)), np.float32)
    held = [place for place, column in enumerate(columns) if column.kind == "discrete"]
    runs = [place for place, column in enumerate(columns) if column.kind != "discrete"]
    vector = [place for place, column in enumerate(columns) if column.kind == "embedding"]
    at, frame = pd.DataFrame({"time": steps}), pd.DataFrame(stream.values[:, held].astype(np.float32))
    values[:, held] = pd.merge_asof(at, frame.assign(time=stream.times), on="time").drop(columns="time")
    frame = pd.DataFrame(stream.values[:, runs].astype(np.float32), index=stream.times)
    frame = frame.reindex(frame.index.union(steps)).interpolate("index").loc[steps]
    values[:, runs] = frame.to_numpy()
    if vector:
        values[:, vector] /= np.linalg.norm(values[:, vector], axis=1, keepdims=True)
    return values


def contenders(made: Streams, steps: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Whoever aligns both streams."""
    return {"aligned": lambda: aligned(made, steps), PANDAS: lambda: by_pandas(made, steps)}


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest between the values of a column, as a share of its largest one."""
    shares = [
        np.abs(a.astype(np.float64) - b).max(axis=0) / np.abs(b).max(axis=0) for a, b in zip(ours, theirs, strict=True)
    ]
    return float(np.concatenate(shares).max())


def measure(seconds: int, rounds: int) -> dict[str, Any]:
    """``{"rows", "difference", "readers": {name: {"cold", "rounds"}}}``, times as ``{"cpu", "wall"}`` in seconds;
    ``rows`` are the clock's steps.
    """
    made, steps = streams(seconds), clock(seconds)
    apart = difference(aligned(made, steps), by_pandas(made, steps))
    works = contenders(made, steps)
    taken: dict[str, Any] = {name: {"rounds": []} for name in works}
    for number in range(rounds + 1):
        for name in turns(list(works), number):
            times = _times(works[name])
            if number:
                taken[name]["rounds"].append(times)
            else:
                taken[name]["cold"] = times
    return {"rows": len(steps), "difference": apart, "readers": taken}


def _times(work: Callable[[], Any]) -> dict[str, float]:
    """CPU time of all threads and wall time; letting go of what was made is no part of it."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    kept = work()
    times = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    del kept
    return times


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*json.loads(sys.argv[1]))) + "\n")
