"""Train, validation and test rows of every fold; groups stay whole; impossible splits are refused before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from sklearn.model_selection import GroupKFold, KFold

from fusion_lab.config import Config
from fusion_lab.contracts import ConfigError, DataError, Dataset, Folds, Task, content_hash

Protocol = Literal["stratified", "kfold", "grouped", "leave_one_group_out", "holdout"]
BINS = 5
"""Quantile bins by which a regression target is stratified."""


class FoldsConfig(Config):
    """How rows are split. Where a data set has groups, every protocol keeps them whole.

    ``stratified``, ``kfold`` and ``grouped`` partition the rows into ``k`` parts: part i tests fold i, part i+1
    validates it, the rest trains. ``leave_one_group_out`` does so with one part per group and validates on the
    ``val_groups`` groups that follow; ``holdout`` is a single split by ``val_fraction`` and ``test_fraction``.
    ``repeats`` starts over with other seeds. ``holdout`` as a number locks that share of the rows away first.
    """

    protocol: Protocol = "stratified"
    k: int = Field(default=5, ge=3)
    repeats: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    val_groups: int = Field(default=1, ge=1)
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    holdout: float = Field(default=0.0, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _leave_training_rows(self) -> FoldsConfig:
        if self.val_fraction + self.test_fraction >= 1:
            found = f"{self.val_fraction} + {self.test_fraction}"
            raise ValueError(f"expected val_fraction + test_fraction below 1, found {found}")
        return self


class Items(NamedTuple):
    """What is dealt to the parts as a whole, I in number: groups, or single rows where there are no groups.

    ``of_row`` int [R] is each row's item, ``sizes`` [I] its rows, ``labels`` float [I,L] its rows per label. Items are
    in the order of their names, so that a split does not depend on the order of the rows.
    """

    names: np.ndarray
    of_row: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def keep(self, chosen: np.ndarray) -> Items:
        """The items at the positions ``chosen``; rows of the others get item -1."""
        place = np.full(len(self.names) + 1, -1)
        place[chosen] = np.arange(len(chosen))
        return Items(self.names[chosen], place[self.of_row], self.sizes[chosen], self.labels[chosen])


def make_folds(config: FoldsConfig, dataset: Dataset) -> Folds:
    """The folds of a data set, checked: K = parts x repeats, in the order of repeats.

    Raises:
        ConfigError: the protocol needs a group column and there is none.
        DataError: too few groups or rows, an empty part, or training rows of one class only.

    >>> from fusion_lab.data import synthetic
    >>> folds = make_folds(FoldsConfig(k=4), synthetic.load(synthetic.SyntheticConfig(rows=40)))
    >>> folds.names, folds.test.sum(axis=1).tolist()
    (('fold 0', 'fold 1', 'fold 2', 'fold 3'), [10, 10, 10, 10])
    """
    if dataset.group is None and config.protocol in ("grouped", "leave_one_group_out"):
        raise ConfigError(f"folds.protocol: {config.protocol} expects a group column, found a data set without one")
    items, locked = _lock_away(_items(dataset), config)
    names, parts = zip(*_all_parts(items, dataset, config), strict=True)
    train, val, test = (np.stack([part[i] for part in parts]) for i in range(3))
    protocol, notes = config.protocol, ()
    if dataset.group is not None and config.protocol not in ("grouped", "leave_one_group_out"):
        protocol = f"{config.protocol}, grouped"
        if config.protocol != "kfold":
            notes = ("groups are kept whole, so the classes' shares are as even as whole groups allow",)
    folds = Folds(protocol, train, val, test, train, locked, names, notes)
    return check_folds(replace(folds, digest=_digest(folds, dataset)), dataset)


def check_folds(folds: Folds, dataset: Dataset) -> Folds:
    """The same folds with notes on the parts where a score is undefined.

    Raises:
        DataError: an empty part, or training rows that hold one class only (or no known value) of a task.
        AssertionError: overlapping parts, or a group in two parts of a fold: a fault of this program.
    """
    parts = {"train": folds.train, "val": folds.val, "test": folds.test}
    assert not (sum(part.astype(int) for part in parts.values()) + folds.holdout > 1).any(), "parts overlap"
    if dataset.group is not None:
        _assert_groups_whole(folds, dataset.group)
    for split, part in parts.items():
        for name, rows in zip(folds.names, part, strict=True):
            if not rows.any():
                raise DataError(f"folds: expected at least one {split} row in {name}, found none")
    batch = dataset.gather(torch.arange(len(dataset)))
    notes: list[str] = []
    for task in dataset.spec.tasks:
        codes = np.where(batch.known[task.name].numpy(), batch.targets[task.name].numpy(), np.nan)
        _refuse_one_class(task, codes, folds)
        notes += [_undefined(task, codes, folds.names, split, parts[split]) for split in ("val", "test")]
    return replace(folds, notes=(*folds.notes, *filter(None, notes)))


def deal(labels: np.ndarray, sizes: np.ndarray, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Iterative stratification: the part, int [I], of each item, so that every part gets its share of every label.

    ``labels`` is [I,L], how many of its ``sizes`` [I] rows item i has with label l; ``shares`` sum to 1. The rarest
    label is dealt first, its heaviest items first, each to the part that lacks most of that label, then most rows.
    Source: Sechidis, Tsoumakas & Vlahavas (2011), "On the stratification of multi-label data", ECML PKDD.

    >>> part = deal(np.eye(2)[[0, 0, 0, 0, 1, 1]], np.ones(6), [0.5, 0.5], np.random.default_rng(0))
    >>> int(part[:4].sum()), int(part[4:].sum())
    (2, 1)
    """
    counts = np.column_stack([labels, sizes])  # the last label is being a row at all: it deals what has no other
    lacks = np.outer(shares, counts.sum(axis=0))
    tie = rng.permutation(len(counts))
    part = np.full(len(counts), -1)
    left = np.ones(len(counts), dtype=bool)
    while left.any():
        holders = (counts[left] > 0).sum(axis=0)
        label = np.where(holders > 0, holders, len(counts) + 1).argmin()
        chosen = np.flatnonzero(left & (counts[:, label] > 0))
        for item in chosen[np.lexsort((tie[chosen], -counts[chosen, label]))]:
            part[item] = _neediest(lacks[:, label], lacks[:, -1], rng)
            lacks[part[item]] -= counts[item]
        left[chosen] = False
    return part


def _neediest(lack: np.ndarray, lack_rows: np.ndarray, rng: np.random.Generator) -> int:
    """The part with the largest ``lack``; ties go to the one short of most rows, then to chance."""
    best = np.flatnonzero(lack >= lack.max() - 1e-9)
    best = best[lack_rows[best] >= lack_rows[best].max() - 1e-9]
    return int(best[0] if len(best) == 1 else rng.choice(best))


def _items(dataset: Dataset) -> Items:
    keys = dataset.ids if dataset.group is None else dataset.group
    names, of_row = np.unique(keys, return_inverse=True)
    row_labels = _row_labels(dataset)
    labels = np.zeros((len(names), row_labels.shape[1]))
    np.add.at(labels, of_row, row_labels)
    return Items(names, of_row, np.bincount(of_row).astype(float), labels)


def _row_labels(dataset: Dataset) -> np.ndarray:
    """What is stratified, float [R,L]: one column per class of each task and one for its unknown labels.

    A task per step counts the share of each row's steps. Without classes to go by, quantile bins of the regression
    targets take their place.
    """
    batch = dataset.gather(torch.arange(len(dataset)))
    tasks = [t for t in dataset.spec.tasks if t.kind != "regression"] or dataset.spec.tasks
    columns = [np.zeros((len(dataset), 0))]
    for task in tasks:
        target, known = batch.targets[task.name].numpy(), batch.known[task.name].numpy()
        codes, levels = _codes(task, target, known)
        indicators = np.eye(levels + 1)[np.where(known, codes, levels)]
        columns.append(indicators.reshape(len(target), -1, levels + 1).mean(axis=1))
    return np.concatenate(columns, axis=1)


def _codes(task: Task, target: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, int]:
    if task.kind != "regression":
        return target.astype(int), len(task.classes)
    edges = np.quantile(target[known], np.linspace(0, 1, BINS + 1)[1:-1]) if known.any() else np.zeros(0)
    return np.searchsorted(edges, target, side="right"), BINS


def _lock_away(items: Items, config: FoldsConfig) -> tuple[Items, np.ndarray]:
    """Items left for the folds, and the locked rows, bool [R]."""
    if config.holdout == 0:
        return items, np.zeros(len(items.of_row), dtype=bool)
    part = deal(
        items.labels, items.sizes, [1 - config.holdout, config.holdout], np.random.default_rng([config.seed, 0])
    )
    locked = (part == 1)[items.of_row]
    if not locked.any() or locked.all():
        raise DataError(
            f"folds.holdout: expected a share that leaves rows on both sides, found {config.holdout} of "
            f"{len(items.names)} groups or rows"
        )
    return items.keep(np.flatnonzero(part == 0)), locked


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # train, val, test: bool [R] each


def _all_parts(items: Items, dataset: Dataset, config: FoldsConfig) -> Iterator[tuple[str, Parts]]:
    for repeat in range(config.repeats):
        prefix = f"repeat {repeat} " if config.repeats > 1 else ""
        rng = np.random.default_rng([config.seed, 1, repeat])
        if config.protocol == "holdout":
            shares = [1 - config.val_fraction - config.test_fraction, config.val_fraction, config.test_fraction]
            part = deal(items.labels, items.sizes, shares, rng)
            yield f"{prefix}fold 0", _rows(items, part == 2, part == 1)
        elif config.protocol == "leave_one_group_out":
            _refuse_few(items, dataset, config.val_groups + 2)
            ring = np.arange(len(items.names)) if repeat == 0 else rng.permutation(len(items.names))
            for place, group in enumerate(ring):
                following = ring[(place + 1 + np.arange(config.val_groups)) % len(ring)]
                every = np.arange(len(ring))
                yield f"{prefix}{items.names[group]}", _rows(items, every == group, np.isin(every, following))
        else:
            _refuse_few(items, dataset, config.k)
            part = _partition(items, dataset, config, rng)
            for k in range(config.k):
                yield f"{prefix}fold {k}", _rows(items, part == k, part == (k + 1) % config.k)


def _partition(items: Items, dataset: Dataset, config: FoldsConfig, rng: np.random.Generator) -> np.ndarray:
    """The part, int [I], of each item, of ``k`` parts."""
    if config.protocol == "stratified":
        return deal(items.labels, items.sizes, [1 / config.k] * config.k, rng)
    seed, index = int(rng.integers(2**31)), np.arange(len(items.names))
    if dataset.group is None:
        tests = KFold(config.k, shuffle=True, random_state=seed).split(index)
    else:
        tests = GroupKFold(config.k, shuffle=True, random_state=seed).split(index, groups=index)
    part = np.empty(len(index), dtype=int)
    for k, (_, test) in enumerate(tests):
        part[test] = k
    return part


def _rows(items: Items, test: np.ndarray, val: np.ndarray) -> Parts:
    """Rows of the items marked, bool [I]; rows of locked items (item -1) stay out of all three."""
    free = items.of_row >= 0
    test_rows, val_rows = test[items.of_row] & free, val[items.of_row] & free
    return free & ~test_rows & ~val_rows, val_rows, test_rows


def _refuse_few(items: Items, dataset: Dataset, needed: int) -> None:
    if len(items.names) < needed:
        unit = "rows" if dataset.group is None else "groups"
        raise DataError(f"folds: expected at least {needed} {unit} for this split, found {len(items.names)}")


def _refuse_one_class(task: Task, codes: np.ndarray, folds: Folds) -> None:
    """``codes`` is [R] or [R,T], NaN where unknown."""
    for name, rows in zip(folds.names, folds.train, strict=True):
        found = np.unique(codes[rows][~np.isnan(codes[rows])])
        if task.kind == "regression" and len(found) == 0:
            raise DataError(f"task {task.name}: expected known values among the training rows of {name}, found none")
        if task.kind != "regression" and len(found) < 2:
            only = f"only {task.classes[int(found[0])]!r}" if len(found) else "no known label"
            raise DataError(
                f"task {task.name}: expected at least two classes in the training rows of {name}, found {only}"
            )


def _undefined(task: Task, codes: np.ndarray, names: tuple[str, ...], split: str, part: np.ndarray) -> str:
    """One sentence on the folds whose part leaves the task's scores undefined, or nothing."""
    needed = 1 if task.kind == "regression" else 2
    few = [
        name
        for name, rows in zip(names, part, strict=True)
        if len(np.unique(codes[rows][~np.isnan(codes[rows])])) < needed
    ]
    reason = "no known value" if task.kind == "regression" else "AUROC is undefined with fewer than two classes"
    return f"task {task.name}, {split} rows of {', '.join(few)}: {reason}" if few else ""


def _assert_groups_whole(folds: Folds, group: np.ndarray) -> None:
    names, of_row = np.unique(group, return_inverse=True)
    sizes = np.bincount(of_row)
    for part in (*folds.train, *folds.val, *folds.test, folds.holdout):
        inside = np.bincount(of_row[part], minlength=len(names))
        split = names[(inside > 0) & (inside < sizes)]
        assert len(split) == 0, f"groups in two parts: {split[:3].tolist()}"


def _digest(folds: Folds, dataset: Dataset) -> str:
    """SHA-256 over the sorted ids of every part: the identity of the split, whatever the order of the rows."""
    parts = {"train": folds.train, "val": folds.val, "test": folds.test, "holdout": folds.holdout[None]}
    return content_hash({name: [sorted(map(str, dataset.ids[rows])) for rows in part] for name, part in parts.items()})
