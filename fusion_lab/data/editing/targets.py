"""Tables of targets: what happens in a video at times of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, Source, Task
from fusion_lab.data.alignment import ordered
from fusion_lab.data.cells import listed
from fusion_lab.data.editing.numbers import Wanted, place, read_columns
from fusion_lab.data.editing.settings import TargetConfig, TargetsConfig
from fusion_lab.data.editing.streams import by_owner
from fusion_lab.data.readers import as_text, file_kind, file_sha256, quoted, read_table

SLACK = 1e-6


class Told(NamedTuple):
    """The targets of one video: times float64 [n], strictly increasing; codes or values float32 [n,tasks], NaN where
    they are unknown; how many rows a later one of the same time replaced.
    """

    times: np.ndarray
    values: np.ndarray
    repeated: int


class Targets(NamedTuple):
    """The targets of all videos, in the order in which these come."""

    by_video: Mapping[str, Told]
    source: Source


def read_targets(root: Path, config: TargetsConfig) -> Targets:
    """Reads the table.

    Raises:
        DataError: the file or a column is missing, a cell is none of what its task allows.
    """
    words = {name: task for name, task in config.tasks.items() if task.kind == "multiclass"}
    plain = tuple(dict.fromkeys(_column(name, task) for name, task in config.tasks.items() if name not in words))
    numbers = read_columns(root, config.file, Wanted(config.time, plain, owner=config.video))
    columns = []
    for name, task in config.tasks.items():
        if name in words:
            columns.append(_codes(root, config.file, _column(name, task), task.classes))
        else:
            columns.append(_numbers(root, config.file, name, task, numbers.values[:, plain.index(_column(name, task))]))
    told = {video: _of(of.times, of.values) for video, of in by_owner(numbers._replace(values=_side(columns))).items()}
    return Targets(told, Source(config.file, file_sha256(root / config.file), len(numbers.times)))


def target_task(name: str, config: TargetConfig, steps: tuple[str, ...], causal: bool) -> Task:
    """The task, one answer per step of the sequences ``steps``."""
    binary = config.classes or ("no", "yes")
    classes = binary if config.kind == "binary" else config.classes
    return Task(name, config.kind, classes, steps, config.auxiliary, causal=causal)


def at_steps(told: Told | None, clock: np.ndarray, tasks: int, tolerance: float) -> np.ndarray:
    """The targets at the steps of a clock, float32 [m,tasks]: of the nearest row within the tolerance, else NaN."""
    found = np.full((len(clock), tasks), np.nan, np.float32)
    if told is None:
        return found
    right = np.clip(np.searchsorted(told.times, clock), 0, len(told.times) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(clock - told.times[left] < told.times[right] - clock, left, right)
    near = np.abs(told.times[nearest] - clock) <= tolerance + SLACK
    found[near] = told.values[nearest[near]]
    return found


def _column(name: str, task: TargetConfig) -> str:
    return task.column or name


def _side(columns: list[np.ndarray]) -> np.ndarray:
    return np.stack(columns, axis=1).astype(np.float32)


def _of(times: np.ndarray, values: np.ndarray) -> Told:
    order = ordered(times)
    return Told(order.times, values[order.rows], order.duplicates)


def _numbers(root: Path, file: str, name: str, task: TargetConfig, values: np.ndarray) -> np.ndarray:
    if task.kind == "regression":
        return values
    if task.at_least is not None:
        return np.where(np.isnan(values), values, values >= task.at_least)
    odd = np.flatnonzero((values != 0) & (values != 1) & ~np.isnan(values))
    if len(odd):
        where, found = place(root, file, int(odd[0]), _column(name, task)), values[odd[0]]
        raise DataError(f"{where}: expected 0 or 1, found {found:g} (from which number on it is 1: at_least)")
    return values


def _codes(root: Path, file: str, column: str, classes: tuple[str, ...]) -> np.ndarray:
    """Words as their places among the classes."""
    if file_kind(file) == "npz":
        raise DataError(f"{root / file}: expected a CSV or parquet table of targets with words, found arrays")
    table = read_table(root, file)
    words = as_text(table.column(column, "a target"))
    codes = {name: code for code, name in enumerate(classes)}
    for row, word in enumerate(words):
        if word is not None and word not in codes:
            expected = f"one of {listed(list(classes))} (classes)"
            raise DataError(f"{table.place(row, column)}: expected {expected}, found {quoted(word)}")
    return np.array([np.nan if word is None else codes[word] for word in words], np.float32)
