"""Small data sets of body-worn sensors, the same samples in every layout that can be read.

Every ``write_...(folder, ...)`` takes the arguments of :func:`sessions`, or sessions that were made before as
``frames``, and gives back the sessions that it wrote::

    frames = write_dat(tmp_path / "raw", subjects=("101", "102", "103"), activities=(1, 4, 12), signal=True)
    write_parquet(tmp_path / "tables", frames)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.reading import read_recorded
from fusion_lab.data.activity.samples import Recorded
from fusion_lab.data.activity.settings import (
    ACTIVITY,
    CHANNELS,
    COLUMNS,
    HEART_RATE_BPM,
    SITES,
    SUBJECT,
    TIME,
    TRANSIENT,
    ActivityConfig,
)

RATE = 100.0
SITE_COLUMNS = {s: [f"{s}_{c}" for of in CHANNELS.values() for c in of] for s in SITES}

Frames = Mapping[str, pd.DataFrame]


def sessions(
    subjects: Sequence[str] = ("101", "102", "103"),
    activities: Sequence[int] = (1, 4, 12),
    rows: int = 300,
    bouts: int = 1,
    transient: int = 20,
    missing: float = 0.01,
    signal: bool = False,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Each subject's session: the 54 columns of a raw file, in time order, 100 samples a second.

    Every activity comes in ``bouts`` bouts of ``rows`` samples, with ``transient`` samples of activity 0 before each
    and after the last. The heart rate is there in every 11th row; in a share ``missing`` of the rows one sensor unit is
    not. With ``signal``, what sensors measure depends on the activity, else on nothing.
    """
    return {
        subject: _session(np.random.default_rng([seed, place]), activities, rows, bouts, transient, missing, signal)
        for place, subject in enumerate(subjects)
    }


def write_dat(folder: Path, frames: Frames | None = None, **what) -> Frames:
    """``subject<id>.dat`` as published: 54 cells a line, one space between them, ``NaN`` where missing."""
    frames = frames or sessions(**what)
    folder.mkdir(parents=True, exist_ok=True)
    for subject, frame in frames.items():
        whole = {HEART_RATE_BPM: frame[HEART_RATE_BPM].astype("Int64"), ACTIVITY: frame[ACTIVITY].astype(int)}
        published = frame.assign(**whole)
        published.to_csv(folder / f"subject{subject}.dat", sep=" ", header=False, index=False, na_rep="NaN")
    return frames


def write_parquet(
    folder: Path, frames: Frames | None = None, orientation: bool = False, together: bool = False, **what
) -> Frames:
    """``subject_<id>.parquet``, or one file of all: no transient rows, numbers as float32, time stamps included."""
    frames = frames or sessions(**what)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {}
    for subject, frame in frames.items():
        kept = frame[frame[ACTIVITY] != TRANSIENT].astype(np.float32)
        dropped = [] if orientation else [name for name in COLUMNS if "orientation" in name]
        tables[subject] = kept.drop(columns=dropped).astype({ACTIVITY: int}).assign(**{SUBJECT: subject})
    if together:
        pd.concat(list(tables.values())).to_parquet(folder / "all.parquet", index=False)
    else:
        for subject, table in tables.items():
            table.to_parquet(folder / f"subject_{subject}.parquet", index=False)
    return frames


def write_shards(
    folder: Path,
    frames: Frames | None = None,
    tensors: bool = False,
    splits: Mapping[tuple[str, int], str] | None = None,
    **what,
) -> Frames:
    """``processed/subject_<id>/activity_<id>.csv``, or tensors under ``processed_tensors``; without transient rows.

    ``splits``, ``{(subject, activity): "train" | "val" | "test"}``, are written beside as manifests.
    """
    frames = frames or sessions(**what)
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for subject, frame in frames.items():
        for activity, shard in frame[frame[ACTIVITY] != TRANSIENT].groupby(ACTIVITY):
            path = f"subject_{subject}/activity_{activity}"
            file = folder / ("processed_tensors" if tensors else "processed") / f"{path}{'.pt' if tensors else '.csv'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_shard(file, shard)
            if splits:
                lines[splits[subject, int(str(activity))]].append(f"{path}{file.suffix},{len(shard)}\n")
    if splits:
        (folder / "splits").mkdir(exist_ok=True)
        for split, listed in lines.items():
            (folder / "splits" / f"{split}.txt").write_text("".join(listed))
    return frames


def write_shard(file: Path, shard: pd.DataFrame) -> None:
    """One shard, as a tensor or as text by the file's ending."""
    if file.suffix == ".pt":
        data = torch.tensor(shard.to_numpy(np.float32))
        torch.save({"columns": list(shard.columns), "data": data}, file)
    else:
        shard.to_csv(file, index=False)


def write_arrays(folder: Path, frames: Frames | None = None, steps: int = 100, **what) -> Frames:
    """``{split}/{modality}.npy`` and ``{split}/labels.npy``: items of ``steps`` samples, subjects by turns in train,
    val and test.
    """
    frames = frames or sessions(**what)
    items: dict[str, list[pd.DataFrame]] = {"train": [], "val": [], "test": []}
    for place, frame in enumerate(frames.values()):
        run = (frame[ACTIVITY].diff() != 0).cumsum()
        for _, bout in frame[frame[ACTIVITY] != TRANSIENT].groupby(run):
            parts = [bout.iloc[at : at + steps] for at in range(0, len(bout) - steps + 1, steps)]
            items[list(items)[place % 3]].extend(parts)
    for split, parts in items.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        np.save(folder / split / "labels.npy", np.array([int(p[ACTIVITY].iloc[0]) for p in parts], dtype=np.int64))
        for modality, columns in {**SITE_COLUMNS, "heart_rate": [HEART_RATE_BPM]}.items():
            name = modality if modality == "heart_rate" else f"imu_{modality}"
            stacked = [p[columns].to_numpy(np.float32) for p in parts] or [np.zeros((steps, len(columns)), np.float32)]
            np.save(folder / split / f"{name}.npy", np.stack(stacked)[: len(parts)])
    return frames


def recorded(root: Path, labelled: bool = True, **settings) -> Recorded:
    """What is read from a folder."""
    return read_recorded(ActivityConfig(root=str(root), **settings), labelled)


def refusal(root: Path, labelled: bool = True, **settings) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(DataError) as refused:
        recorded(root, labelled, **settings)
    message = str(refused.value)
    assert message.startswith(str(root)), message
    assert "\n" not in message
    return message.removeprefix(f"{root}/")


def assert_same_samples(one: Recorded, other: Recorded, columns: Sequence[str] | None = None) -> None:
    """Both have the same subjects, recordings and values, bit for bit, of these columns (all by default).

    The time at which a recording begins may differ by what 32-bit numbers do not hold.
    """
    names = one.columns if columns is None else columns
    assert [s.subject for s in one.subjects] == [s.subject for s in other.subjects]
    for left, right in zip(one.subjects, other.subjects, strict=True):
        assert [r[:2] + r[3:] for r in left.recordings] == [r[:2] + r[3:] for r in right.recordings]
        began = [[r.seconds for r in samples.recordings] for samples in (left, right)]
        np.testing.assert_array_equal(*np.float32(began))
        for name in names:
            columns_of = [samples.values[:, of.columns.index(name)] for samples, of in ((left, one), (right, other))]
            np.testing.assert_array_equal(*columns_of, err_msg=name)
            assert columns_of[0].dtype == columns_of[1].dtype == np.float32


def _session(
    rng: np.random.Generator,
    activities: Sequence[int],
    rows: int,
    bouts: int,
    transient: int,
    missing: float,
    signal: bool,
) -> pd.DataFrame:
    order = [a for _ in range(bouts) for a in rng.permutation(activities).tolist()]
    activity = np.concatenate([np.repeat([TRANSIENT, a], [transient, rows]) for a in order])
    activity = np.concatenate([activity, np.full(transient, TRANSIENT)])
    count = len(activity)
    clock = (rng.integers(500, 900) + np.arange(count)) / RATE
    meant = activity if signal else np.zeros(count, int)
    values = {TIME: np.round(clock, 2), ACTIVITY: activity, HEART_RATE_BPM: _heart_rate(rng, meant)}
    for site in SITES:
        unit = _sensor_unit(rng, clock, meant)
        unit[rng.random(count) < missing / len(SITES)] = np.nan
        values |= dict(zip(SITE_COLUMNS[site], unit.T, strict=True))
    return pd.DataFrame(values, columns=list(COLUMNS))


def _heart_rate(rng: np.random.Generator, meant: np.ndarray) -> np.ndarray:
    beats = np.round(90.0 + 3.0 * meant + rng.normal(0, 4, len(meant)))
    return np.where(np.arange(len(meant)) % 11 == rng.integers(11), beats, np.nan)


def _sensor_unit(rng: np.random.Generator, clock: np.ndarray, meant: np.ndarray) -> np.ndarray:
    """17 columns of one unit, ``[rows, 17]``: a swing whose pace and strength are the activity's, and noise."""
    swing = np.sin(2 * np.pi * (0.5 + 0.25 * (meant % 7)) * clock)[:, None] * (1 + meant % 5)[:, None]
    moving = swing * rng.uniform(0.5, 1.5, 12) + rng.normal(0, 0.5, (len(clock), 12)) + rng.normal(0, 1, 12)
    warm = 30 + 0.01 * np.arange(len(clock))[:, None] / RATE
    still = np.broadcast_to([1.0, 0.0, 0.0, 0.0], (len(clock), 4))
    return np.round(np.concatenate([warm, moving, still], axis=1), 5)
