"""Train, validation and test rows of every fold; groups stay whole; impossible splits are refused before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from sklearn.model_selection import GroupKFold, KFold
from torch import Tensor

from fusion_lab.config import Config
from fusion_lab.contracts import ConfigError, DataError, Dataset, Folds, Task, content_hash
from fusion_lab.data.cells import listed
from fusion_lab.data.dealing import Items, deal, following, items_of
from fusion_lab.data.portions import targets_of

Protocol = Literal[
    "stratified",
    "kfold",
    "grouped",
    "leave_one_group_out",
    "loso",
    "loso-transductive",
    "holdout",
    "shards-70-15-15",
    "given",
    "given_folds",
]
LEAVE_ONE_OUT = ("leave_one_group_out", "loso")
SHARDS = "shards-70-15-15"
SHARES = (0.7, 0.15, 0.15)
"""Shares of the rows that the parts of the split by shards are to have."""
TRANSDUCTIVE = "loso-transductive"
NEED_GROUPS = ("grouped", *LEAVE_ONE_OUT, SHARDS, TRANSDUCTIVE)
GIVEN_FOLDS = "given_folds"
GIVEN = ("given", GIVEN_FOLDS, TRANSDUCTIVE)
"""Protocols by a split or folds that the data came with."""
STRADDLING = (SHARDS, *GIVEN)
"""Protocols that may have one group in several parts."""
SPLITS = ("train", "val", "test")
LOCKED = "holdout"
"""The word for rows that came locked away, under every protocol."""
ALL_CLASSES = "all classes"
LEAST_FOLDS = 3
"""One to test, one to validate, one to train."""


class FoldsConfig(Config):
    """How rows are split. Where a data set has groups, or else recordings, they are kept whole.

    ``stratified``, ``kfold`` and ``grouped`` partition the rows into ``k`` parts: part i tests fold i, part i+1
    validates it, the rest trains. ``leave_one_group_out``, or ``loso`` (leave one subject out), does so with one part
    per group and validates on the ``val_groups`` groups that follow; ``all classes``: on as many of these as it takes
    to validate each class, as long as all are trained. ``holdout`` is a single split by ``val_fraction`` and
    ``test_fraction``. ``repeats`` starts over with other seeds. ``holdout`` as a number locks that share of the rows
    away first.

    Four may have a group in several parts. ``shards-70-15-15`` is a single split that deals shards, all rows of one
    group and one class, so that of each class 70, 15 and 15 % of the rows train, validate and test, exact to one shard.
    ``given`` is the single split that comes with the data, ``given_folds`` the folds that do, each tested once and
    validated by the next. ``loso-transductive`` leaves one subject out, too, but uses the split that came with the data
    for the subject's own rows: those of val validate, those of test are tested, and the others' rows all train. Rows
    that came locked away stay so under all of them.
    """

    protocol: Protocol = "stratified"
    k: int = Field(default=5, ge=LEAST_FOLDS)
    repeats: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    val_groups: Annotated[int, Field(ge=1)] | Literal["all classes"] = 1
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    holdout: float = Field(default=0.0, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _leave_training_rows(self) -> FoldsConfig:
        if self.val_fraction + self.test_fraction >= 1:
            found = f"{self.val_fraction} + {self.test_fraction}"
            raise ValueError(f"expected val_fraction + test_fraction below 1, found {found}")
        if self.protocol in GIVEN and (self.repeats > 1 or self.holdout):
            found = f"{self.repeats} and {self.holdout}"
            raise ValueError(f"expected repeats 1 and holdout 0 with protocol {self.protocol}, found {found}")
        return self


class Unit(NamedTuple):
    """What stays whole: rows of one key, str [R], are dealt together."""

    name: Literal["row", "recording", "group", "shard"]
    keys: np.ndarray


def make_folds(config: FoldsConfig, dataset: Dataset) -> Folds:
    """The folds of a data set, checked: K = parts x repeats, in the order of repeats.

    Raises:
        ConfigError: the protocol needs groups, one class task or a given split, and there is none.
        DataError: too few groups or rows, an empty part, or training rows of one class only.

    >>> from fusion_lab.data import synthetic
    >>> folds = make_folds(FoldsConfig(k=4), synthetic.load(synthetic.SyntheticConfig(rows=40)))
    >>> folds.names, folds.test.sum(axis=1).tolist()
    (('fold 0', 'fold 1', 'fold 2', 'fold 3'), [10, 10, 10, 10])
    """
    unit, came_locked = _unit(config, dataset), _came_locked(dataset, config)
    items = items_of(dataset, unit.keys)
    if config.protocol not in GIVEN:
        items = _unlocked(items, came_locked, unit)
    items, locked = _lock_away(items, unit, config)
    locked |= came_locked
    if config.protocol == "given":
        made: Iterable[tuple[str, Parts]] = [("fold 0", _given(dataset))]
    elif config.protocol == GIVEN_FOLDS:
        made = _given_folds(dataset, came_locked)
    elif config.protocol == TRANSDUCTIVE:
        made = _own_split(dataset, came_locked)
    else:
        made = _all_parts(items, unit, config)
    names, parts = zip(*made, strict=True)
    train, val, test = (np.stack([part[i] for part in parts]) for i in range(3))
    protocol, notes = _remarks(config, dataset, unit, (train, val, test))
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
    if dataset.group is not None and folds.protocol not in STRADDLING:
        _assert_whole(folds, dataset.group, "groups")
    if dataset.recording is not None and folds.protocol not in GIVEN:
        _assert_whole(folds, dataset.recording, "recordings")
    for split, part in parts.items():
        for name, rows in zip(folds.names, part, strict=True):
            if not rows.any():
                raise DataError(f"folds: expected at least one {split} row in {name}, found none")
    batch = targets_of(dataset)
    notes: list[str] = []
    for task in dataset.spec.tasks:
        codes = np.where(batch.known[task.name].numpy(), batch.targets[task.name].numpy(), np.nan)
        _refuse_one_class(task, codes, folds)
        _refuse_weightless(task, codes, batch.emphasis.get(task.name), folds)
        notes += [_undefined(task, codes, folds.names, split, parts[split]) for split in ("val", "test")]
        notes += _lacking(task, codes, folds)
    return replace(folds, notes=(*folds.notes, *filter(None, notes)))


def _unit(config: FoldsConfig, dataset: Dataset) -> Unit:
    """Groups where there are any, else recordings, else single rows; shards where the protocol deals those.

    Raises:
        ConfigError: the protocol needs something that the data set does not have.
    """
    if dataset.group is None and config.protocol in NEED_GROUPS:
        raise ConfigError(f"folds.protocol: {config.protocol} expects a group column, found a data set without one")
    if config.protocol == SHARDS:
        assert dataset.group is not None
        return Unit("shard", _shards(dataset, dataset.group))
    if dataset.group is not None:
        return Unit("group", dataset.group)
    return Unit("row", dataset.ids) if dataset.recording is None else Unit("recording", dataset.recording)


def _shards(dataset: Dataset, group: np.ndarray) -> np.ndarray:
    """A name for each pair of a group and a class, str [R]; unknown labels are a class here, auxiliary tasks decide
    nothing.
    """
    tasks = dataset.spec.main_tasks
    if len(tasks) != 1 or tasks[0].kind == "regression" or tasks[0].per_step:
        found = listed([task.name for task in tasks])
        raise ConfigError(f"folds.protocol: {SHARDS} expects one main task, with a class per row, found {found}")
    batch = targets_of(dataset)
    codes = np.where(batch.known[tasks[0].name], batch.targets[tasks[0].name], -1).astype(int)
    return np.array([f"{name}\n{code}" for name, code in zip(group, codes, strict=True)])


def _remarks(
    config: FoldsConfig, dataset: Dataset, unit: Unit, parts: Sequence[np.ndarray]
) -> tuple[str, tuple[str, ...]]:
    """The name of the protocol as it was carried out, and what a reader of the scores should know of it."""
    if config.protocol in STRADDLING:
        borrowed = _borrowed(dataset, parts) if config.protocol == TRANSDUCTIVE else ()
        return config.protocol, (*_straddling(dataset, parts), *borrowed)
    if unit.name == "recording":
        return f"{config.protocol}, whole recordings", (
            "no groups are known: recordings are kept whole, but one person or site may be in several parts",
        )
    if unit.name == "row" or config.protocol in NEED_GROUPS:
        return config.protocol, ()
    uneven = "groups are kept whole, so the classes' shares are as even as whole groups allow"
    return f"{config.protocol}, grouped", () if config.protocol == "kfold" else (uneven,)


def _straddling(dataset: Dataset, parts: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Of a split whose parts, bool [K,R], need not keep groups whole."""
    if dataset.group is None:
        return ("no groups are known: whether one person or site is in several parts cannot be told",)
    tested: set[str] = set()
    shared: set[str] = set()
    for train, val, test in zip(*parts, strict=True):
        inside = set(dataset.group[test].tolist())
        tested |= inside
        shared |= inside & set(dataset.group[train | val].tolist())
    if not shared:
        return ()
    told = "scores are optimistic for people or sites that a model has not seen"
    return (f"{len(shared)} of {len(tested)} groups that are tested have rows in train or val too: {told}",)


def _came_locked(dataset: Dataset, config: FoldsConfig) -> np.ndarray:
    """Rows that came locked away, bool [R].

    Raises:
        ConfigError: more are to be locked away by chance.
        DataError: all rows are.
    """
    if dataset.given_split is None or not (locked := dataset.given_split == LOCKED).any():
        return np.zeros(len(dataset), dtype=bool)
    if config.holdout:
        found = f"{config.holdout} beside {int(locked.sum())} rows that came locked away"
        raise ConfigError(f"folds.holdout: expected 0 where the data come with a locked part, found {found}")
    if locked.all():
        raise DataError("folds: expected rows that did not come locked away, found none")
    return locked


def _unlocked(items: Items, locked: np.ndarray, unit: Unit) -> Items:
    """The items that did not come locked away.

    Raises:
        DataError: one is partly locked.
    """
    if not locked.any():
        return items
    sizes = np.bincount(items.of_row, minlength=len(items.names))
    inside = np.bincount(items.of_row[locked], minlength=len(items.names))
    torn = np.flatnonzero((inside > 0) & (inside < sizes))
    if len(torn):
        found = f"{unit.name} {items.names[torn[0]]} on both sides ({len(torn)} such {unit.name}s)"
        raise DataError(f"folds: expected {unit.name}s to be locked away whole, found {found}")
    return items.keep(np.flatnonzero(inside == 0))


def _lock_away(items: Items, unit: Unit, config: FoldsConfig) -> tuple[Items, np.ndarray]:
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
            f"{len(items.names)} {unit.name}s"
        )
    return items.keep(np.flatnonzero(part == 0)), locked


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # train, val, test: bool [R] each


def _given(dataset: Dataset) -> Parts:
    if dataset.given_split is None:
        raise ConfigError("folds.protocol: given expects a split that comes with the data, found none")
    others = ~np.isin(dataset.given_split, (*SPLITS, LOCKED))
    if others.any():
        row = int(np.argmax(others))
        found = f"{str(dataset.given_split[row])!r} of row {dataset.ids[row]} ({int(others.sum())} such rows)"
        raise DataError(f"folds.protocol: given expects {', '.join(SPLITS)} as the split of every row, found {found}")
    train, val, test = (dataset.given_split == split for split in SPLITS)
    return train, val, test


def _given_folds(dataset: Dataset, locked: np.ndarray) -> Iterator[tuple[str, Parts]]:
    """Each fold tested once, in the order of their numbers or names, and validated by the next."""
    if dataset.given_fold is None:
        raise ConfigError("folds.protocol: given_folds expects folds that come with the data, found none")
    of_row, free = dataset.given_fold, ~locked
    if (nowhere := free & (of_row == "")).any():
        row = int(np.argmax(nowhere))
        found = f"none of row {dataset.ids[row]} ({int(nowhere.sum())} such rows)"
        raise DataError(
            f"folds.protocol: given_folds expects a fold of every row that is not locked away, found {found}"
        )
    names = sorted(set(of_row[free].tolist()), key=lambda name: (len(name), name) if name.isdecimal() else (99, name))
    if len(names) < LEAST_FOLDS:
        raise DataError(f"folds.protocol: given_folds expects at least {LEAST_FOLDS} folds, found {listed(names)}")
    for k, name in enumerate(names):
        test, val = free & (of_row == name), free & (of_row == names[(k + 1) % len(names)])
        yield f"fold {name}", (free & ~test & ~val, val, test)


def _own_split(dataset: Dataset, locked: np.ndarray) -> Iterator[tuple[str, Parts]]:
    """A fold per group, in the order of their names: all rows of the others train, its own rows of val validate, and
    those of test are tested. A group without labelled rows of val is validated on the next one, which then does not
    train.
    """
    if dataset.given_split is None:
        raise ConfigError(f"folds.protocol: {TRANSDUCTIVE} expects a split that comes with the data, found none")
    assert dataset.group is not None
    free = ~locked
    labelled = _labelled(dataset)
    names = np.unique(dataset.group[free]).tolist()
    for place, name in enumerate(names):
        own = free & (dataset.group == name)
        val, test = (own & (dataset.given_split == split) for split in SPLITS[1:])
        if not (test & labelled).any():
            expected = f"{TRANSDUCTIVE} expects labelled rows of the given split test of every group"
            raise DataError(f"folds.protocol: {expected}, found none of {name} (loso needs none)")
        train = free & ~own
        if not (val & labelled).any():
            val = free & (dataset.group == names[(place + 1) % len(names)]) & ~own
        yield name, (train & ~val, val, test)


def _labelled(dataset: Dataset) -> np.ndarray:
    """Rows of which the label of a main task is known, bool [R]."""
    known = targets_of(dataset).known
    each = [known[task.name].numpy().reshape(len(dataset), -1).any(axis=1) for task in dataset.spec.main_tasks]
    return np.any(each, axis=0)


def _borrowed(dataset: Dataset, parts: Sequence[np.ndarray]) -> tuple[str, ...]:
    """A note on groups that others are validated on in their place."""
    assert dataset.group is not None
    told = []
    for val, test in zip(parts[1], parts[2], strict=True):
        own, other = np.unique(dataset.group[test]), np.unique(dataset.group[val])
        if len(own) and len(other) and own[0] != other[0]:
            told.append(f"{own[0]} on {other[0]}")
    why = "no labelled validation rows of their own, so that they are validated on another, which does not train them"
    return (f"{why}: {', '.join(told)}",) if told else ()


def _all_parts(items: Items, unit: Unit, config: FoldsConfig) -> Iterator[tuple[str, Parts]]:
    for repeat in range(config.repeats):
        prefix = f"repeat {repeat} " if config.repeats > 1 else ""
        rng = np.random.default_rng([config.seed, 1, repeat])
        if config.protocol in ("holdout", SHARDS):
            shares = [1 - config.val_fraction - config.test_fraction, config.val_fraction, config.test_fraction]
            part = deal(items.labels, items.sizes, SHARES if config.protocol == SHARDS else shares, rng)
            yield f"{prefix}fold 0", _rows(items, part == 2, part == 1)
        elif config.protocol in LEAVE_ONE_OUT:
            _refuse_few(items, unit, 4 if config.val_groups == ALL_CLASSES else config.val_groups + 2)
            ring = np.arange(len(items.names)) if repeat == 0 else rng.permutation(len(items.names))
            every = np.arange(len(ring))
            for place, group in enumerate(ring):
                val = _validating(items, ring, place, config)
                yield f"{prefix}{items.names[group]}", _rows(items, every == group, np.isin(every, val))
        else:
            _refuse_few(items, unit, config.k)
            part = _partition(items, unit, config, rng)
            for k in range(config.k):
                yield f"{prefix}fold {k}", _rows(items, part == k, part == (k + 1) % config.k)


def _validating(items: Items, ring: np.ndarray, place: int, config: FoldsConfig) -> np.ndarray:
    """The groups, int, on which the fold that tests the one at a ``place`` of the ``ring`` is validated."""
    if config.val_groups != ALL_CLASSES:
        return ring[(place + 1 + np.arange(config.val_groups)) % len(ring)]
    val = following(items, ring, place)
    if not len(val):
        raise DataError(
            f"folds.val_groups: expected a group to validate fold {items.names[ring[place]]} without which every class "
            "is still trained, found none (name a number of groups)"
        )
    return val


def _partition(items: Items, unit: Unit, config: FoldsConfig, rng: np.random.Generator) -> np.ndarray:
    """The part, int [I], of each item, of ``k`` parts."""
    if config.protocol == "stratified":
        return deal(items.labels, items.sizes, [1 / config.k] * config.k, rng)
    seed, index = int(rng.integers(2**31)), np.arange(len(items.names))
    if unit.name == "row":
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


def _refuse_few(items: Items, unit: Unit, needed: int) -> None:
    if len(items.names) < needed:
        raise DataError(f"folds: expected at least {needed} {unit.name}s for this split, found {len(items.names)}")


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


def _refuse_weightless(task: Task, codes: np.ndarray, emphasis: Tensor | None, folds: Folds) -> None:
    """Of a task whose rows count unevenly: ``emphasis`` is ``[R]``."""
    if emphasis is None:
        return
    counts = (emphasis.numpy() > 0) & ~np.isnan(codes).reshape(len(codes), -1).all(axis=1)
    for name, rows in zip(folds.names, folds.train, strict=True):
        if not counts[rows].any():
            raise DataError(
                f"task {task.name}: expected a weight above 0 among the training rows of {name} that have a label, "
                "found none"
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


def _lacking(task: Task, codes: np.ndarray, folds: Folds) -> Iterator[str]:
    """A sentence on each class of several that some fold cannot learn, or not validate, or that is tested in none."""
    if task.kind != "multiclass":
        return
    parts = {"train": folds.train, "val": folds.val, "test": folds.test.sum(axis=0, keepdims=True) > 0}
    for split, part in parts.items():
        for code, label in enumerate(task.classes):
            without = [i for i, rows in enumerate(part) if not (codes[rows] == code).any()]
            names = "any fold" if split == "test" else ", ".join(folds.names[i] for i in without)
            if without:
                yield f"task {task.name}, {split} rows of {names}: none of class {label!r}"


def _assert_whole(folds: Folds, keys: np.ndarray, what: str) -> None:
    names, of_row = np.unique(keys, return_inverse=True)
    sizes = np.bincount(of_row)
    for part in (*folds.train, *folds.val, *folds.test, folds.holdout):
        inside = np.bincount(of_row[part], minlength=len(names))
        split = names[(inside > 0) & (inside < sizes)]
        assert len(split) == 0, f"{what} in two parts: {split[:3].tolist()}"


def _digest(folds: Folds, dataset: Dataset) -> str:
    """SHA-256 over the sorted ids of every part: the identity of the split, whatever the order of the rows."""
    parts = {"train": folds.train, "val": folds.val, "test": folds.test, "holdout": folds.holdout[None]}
    return content_hash({name: [sorted(map(str, dataset.ids[rows])) for rows in part] for name, part in parts.items()})
