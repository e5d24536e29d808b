"""What is compared: a configuration's predictions with the names of its rows, and what two of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from fusion_lab.contracts import Folds, Predictions, Spec, Task
from fusion_lab.evaluation.pooled import Part
from fusion_lab.evaluation.recordings import by_recording
from fusion_lab.evaluation.thresholds import fold_thresholds

Basis = Literal["rows", "recordings", "folds"]


@dataclass(frozen=True)
class FoldFacts:
    """How the rows behind some predictions were split. ``digest`` and ``data`` identify split and data, "" where that
    is not known; ``train``, ``val`` and ``test`` count rows, one number per fold.
    """

    protocol: str = ""
    names: tuple[str, ...] = ()
    digest: str = ""
    data: str = ""
    train: tuple[int, ...] = ()
    val: tuple[int, ...] = ()
    test: tuple[int, ...] = ()
    seed: int | None = None
    holdout: int = 0

    @classmethod
    def of(cls, folds: Folds, data: str, seed: int | None = None) -> FoldFacts:
        """``data`` is the digest of the data set, ``seed`` that of the split."""
        sizes = (tuple(part.sum(1).tolist()) for part in (folds.train, folds.val, folds.test))
        return cls(folds.protocol, tuple(folds.names), folds.digest, data, *sizes, seed, int(folds.holdout.sum()))


@dataclass(frozen=True)
class Entry:
    """A name, what it predicted, and what is known of its rows: ``ids`` str [R], ``group`` and ``recording`` alike or
    ``None``.
    """

    name: str
    tasks: tuple[Task, ...]
    predictions: Predictions = field(repr=False)
    ids: np.ndarray = field(repr=False)
    group: np.ndarray | None = field(default=None, repr=False)
    recording: np.ndarray | None = field(default=None, repr=False)
    folds: FoldFacts = FoldFacts()
    kind: str = "model"

    @property
    def count(self) -> int:
        """K, the number of folds."""
        return int(self.predictions.fold.max()) + 1 if len(self.predictions.fold) else 0

    @property
    def ratio(self) -> float:
        """Test rows per training row, as the variance of a mean over folds has it; of an entry without sizes, those of
        folds that leave nothing out.
        """
        return self._ratio(self.folds.test)

    @property
    def ratio_of_validation(self) -> float:
        """Validation rows per training row."""
        return self._ratio(self.folds.val)

    def _ratio(self, sizes: tuple[int, ...]) -> float:
        train, part = sum(self.folds.train), sum(sizes)
        return part / train if train and part else 1 / max(1, self.count - 1)

    @cached_property
    def rows(self) -> Part:
        """Test rows."""
        return _part(self.predictions, self, self.ids, self._units())

    @cached_property
    def validation(self) -> Part:
        return _part(self.predictions, self, self.ids, self._units(), "val")

    @cached_property
    def recordings(self) -> Part | None:
        """Recordings of the test rows, each with the mean over its rows; ``None`` where rows have none."""
        if self.recording is None:
            return None
        predictions, names = by_recording(self.predictions, self.recording)
        first = np.unique(self.recording, return_index=True)[1]
        units = names if self.group is None else self.group[first]
        return _part(predictions, self, names, units)

    @property
    def known_units(self) -> int:
        """How much is known of which rows belong together: their groups (2), their recordings (1), nothing (0)."""
        return 2 if self.group is not None else int(self.recording is not None)

    def _units(self) -> np.ndarray:
        """What rows of one unit have in common makes them alike."""
        return self.group if self.group is not None else self.recording if self.recording is not None else self.ids


class Ground(NamedTuple):
    """What two entries can both be scored on: test rows, recordings, or folds with other rows of the same groups. Of
    rows and recordings both have the same units.
    """

    basis: Basis
    ours: Part
    other: Part


def common_ground(ours: Entry, other: Entry) -> Ground | str:
    """What both can be scored on, or why there is nothing.

    The same rows where they have the same; else the recordings that both have; else, of folds that test the same
    groups, each one's own rows.
    """
    if ours.tasks != other.tasks:
        return "they predict other targets"
    if ours.count != other.count:
        return f"their folds differ ({ours.count} and {other.count})"
    if ours.folds.names and other.folds.names and ours.folds.names != other.folds.names:
        first = next((a, b) for a, b in zip(ours.folds.names, other.folds.names, strict=True) if a != b)
        return f"their folds differ ({' and '.join(first)})"
    if np.array_equal(ours.rows.keys, other.rows.keys):
        same = _same_labels(ours.rows, other.rows, ours.tasks)
        return (
            _with_one_unit("rows", ours, other, ours.rows, other.rows) if same else "the targets of their rows differ"
        )
    if set(ours.rows.name.tolist()) == set(other.rows.name.tolist()):
        return "the same rows are in other folds"
    if ours.folds.data and other.folds.data and ours.folds.data != other.folds.data:
        return "their data differ"
    if ours.recordings is not None and other.recordings is not None:
        return _common_recordings(ours, other, ours.recordings, other.recordings)
    if ours.group is not None and other.group is not None and _tested(ours) == _tested(other):
        return Ground("folds", ours.rows, other.rows)
    return "they have other test rows, and no recordings in common"


def _common_recordings(ours: Entry, other: Entry, first: Part, second: Part) -> Ground | str:
    both = np.intersect1d(first.name, second.name)
    if not len(both):
        return "they have no recording in common"
    first, second = (part.where(np.isin(part.name, both)) for part in (first, second))
    if not np.array_equal(first.keys, second.keys):
        return "the same recordings are in other folds"
    same = _same_labels(first, second, ours.tasks)
    return (
        _with_one_unit("recordings", ours, other, first, second) if same else "the targets of their recordings differ"
    )


def _with_one_unit(basis: Basis, ours: Entry, other: Entry, first: Part, second: Part) -> Ground:
    """With the units of the one that knows more of them: a run of an earlier version knows no groups, and its rows
    alone would pass for as many independent ones.
    """
    if ours.known_units < other.known_units:
        return Ground(basis, replace(first, unit=second.unit), second)
    return Ground(basis, first, replace(second, unit=first.unit))


def _tested(entry: Entry) -> set[tuple[int, str]]:
    part = entry.rows
    return set(zip(part.predictions.fold.tolist(), part.unit.tolist(), strict=True))


def _same_labels(first: Part, second: Part, tasks: Sequence[Task]) -> bool:
    a, b = first.predictions, second.predictions
    return all(
        np.array_equal(a.known[t.name], b.known[t.name]) and np.allclose(a.target[t.name], b.target[t.name])
        for t in tasks
    )


def _part(predictions: Predictions, entry: Entry, names: np.ndarray, units: np.ndarray, split: str = "test") -> Part:
    thresholds = fold_thresholds(predictions, Spec((), entry.tasks))
    part = predictions.of(split)
    name = np.asarray(names).astype(str)[part.row]
    order = np.lexsort((name, part.fold))
    columns = ({n: a[order] for n, a in d.items()} for d in (part.target, part.known, part.score))
    ordered = Predictions(part.fold[order], part.split[order], np.arange(len(order)), *columns)
    return Part(ordered, name[order], np.asarray(units).astype(str)[part.row][order], thresholds)
