"""Days of people, and windows of calendar days cut from them: a day that is not there is a padded place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from fusion_lab.contracts import Task
from fusion_lab.data.relapse.settings import SPLITS

_SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?![A-Za-z])")

_COLUMNS = ("patient", "sequence", "split", "day")
_DAY_PARTS = ("values", "observed", "targets", "known")
_WINDOW_PARTS = ("inputs", "valid", "observed", "targets", "known")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Days:
    """N days in the order of patient, sequence and day, no day of a sequence twice.

    =============== ==========================================================================
    patient         str [N]
    sequence        str [N], "" where a person's days are all one sequence
    split           str [N]: "train", "val", "test", or "" where none is known
    day             int64 [N], counted in calendar days
    features        {modality: names of its F columns}
    values          {modality: float32 [N,F]}, 0 where not observed
    observed        {modality: bool [N,F]}: a modality is there on a day that shows any of it
    tasks           the binary tasks
    targets, known  {task: float32 [N]}, {task: bool [N]}
    =============== ==========================================================================
    """

    patient: np.ndarray
    sequence: np.ndarray
    split: np.ndarray
    day: np.ndarray
    features: Mapping[str, tuple[str, ...]]
    values: Arrays
    observed: Arrays
    tasks: tuple[Task, ...]
    targets: Arrays
    known: Arrays

    def __len__(self) -> int:
        return len(self.day)

    @property
    def labelled(self) -> np.ndarray:
        """Days of which the label of some task is known, bool [N]."""
        return np.any([np.zeros(len(self), bool), *self.known.values()], axis=0)

    @property
    def code(self) -> np.ndarray:
        """A number for each sequence of each patient, int [N]; it rises."""
        begins = (self.patient[1:] != self.patient[:-1]) | (self.sequence[1:] != self.sequence[:-1])
        return np.concatenate([[0], np.cumsum(begins)])[: len(self)].astype(int)

    def take(self, rows: np.ndarray) -> Days:
        """Some of the days, int, in the order given."""
        return _changed(self, _DAY_PARTS, lambda leaf: leaf[rows])


@dataclass(frozen=True)
class Windows:
    """R windows of W days, the last of each being the one that is predicted. ``inputs`` is float32 [R,W,F] by modality,
    ``valid`` bool [R,W], ``observed`` bool [R,W,F]; everything else as in :class:`Days`.
    """

    patient: np.ndarray
    sequence: np.ndarray
    split: np.ndarray
    day: np.ndarray
    features: Mapping[str, tuple[str, ...]]
    inputs: Arrays
    valid: Arrays
    observed: Arrays
    tasks: tuple[Task, ...]
    targets: Arrays
    known: Arrays

    def __len__(self) -> int:
        return len(self.day)

    def take(self, rows: np.ndarray) -> Windows:
        """Some of the windows, int, in the order given."""
        return _changed(self, _WINDOW_PARTS, lambda leaf: leaf[rows])

    @property
    def length(self) -> int:
        """W."""
        return next(iter(self.valid.values())).shape[1]

    @property
    def ids(self) -> np.ndarray:
        """``patient/sequence/day``, or ``patient/day`` where a person's days are one sequence, str [R]."""
        of = zip(self.patient.tolist(), self.sequence.tolist(), self.day.tolist(), strict=True)
        return np.array(["/".join(filter(None, (patient, sequence, str(day)))) for patient, sequence, day in of])


Many = TypeVar("Many", Days, Windows)


def _changed(of: Many, parts: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]) -> Many:
    """Every array that has a line per day or window, changed."""
    columns = {name: change(getattr(of, name)) for name in _COLUMNS}
    leaves = {part: {name: change(leaf) for name, leaf in getattr(of, part).items()} for part in parts}
    return replace(of, **columns, **leaves)


def joined(one: Windows, other: Windows) -> Windows:
    """Windows of the same modalities and tasks, one after the other."""
    columns = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in _COLUMNS}
    leaves = {
        part: {name: np.concatenate([leaf, getattr(other, part)[name]]) for name, leaf in getattr(one, part).items()}
        for part in _WINDOW_PARTS
    }
    return replace(one, **columns, **leaves)


def split_of(sequence: str) -> str:
    """The part of the split that a sequence is named after, "" for none.

    >>> split_of("val_0"), split_of("train"), split_of("trains"), split_of("")
    ('val', 'train', '', '')
    """
    found = _SPLIT.match(sequence)
    return found[1] if found else ""


def places(code: np.ndarray, day: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Which day is at each place of a window, int [R,length], -1 of one that is not there.

    Args:
        code: a number for the sequence of each day, int [N], which never falls.
        day: int [N], rises in each sequence.
        ends: the days at which windows end, int [R], indices into both.
        length: calendar days of a window, the last included.

    >>> places(np.array([0, 0, 0, 1]), np.array([3, 4, 6, 7]), np.array([2, 3]), 3).tolist()
    [[1, -1, 2], [-1, -1, 3]]
    """
    if not len(day):
        return np.zeros((0, length), int)
    since = day - day.min() + length  # a window that begins before the first day reaches into no other sequence
    key = code * (since.max() + 1) + since
    wanted = key[ends][:, None] - np.arange(length)[::-1]
    found = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    return np.where(key[found] == wanted, found, -1)


def cut(days: Days, ends: np.ndarray, length: int, context: bool = True) -> Windows:
    """The windows that end at the days ``ends``, int [R]; without ``context``, days without a label are in none but as
    the last.
    """
    at = places(days.code, days.day, ends, length)
    if not context:
        seen = days.labelled[at]
        seen[:, -1] = True
        at = np.where(seen, at, -1)
    inputs, valid, observed = {}, {}, {}
    for name, values in days.values.items():
        observed[name] = days.observed[name][at] & (at >= 0)[:, :, None]
        inputs[name] = np.where(observed[name], values[at], np.float32(0.0))
        valid[name] = observed[name].any(axis=2)
    ended = days.take(ends)
    return Windows(
        *(ended.patient, ended.sequence, ended.split, ended.day),
        *(days.features, inputs, valid, observed),
        *(days.tasks, ended.targets, ended.known),
    )
