"""Dealing rows, or groups of them, to the parts of a split, so that every part gets its share of every label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Dataset, Task
from fusion_lab.data.portions import targets_of

BINS = 5
"""Quantile bins by which a regression target is stratified."""
ENOUGH = 0.5
"""An item with a smaller share of a class's usual rows is not chosen for them: one row validates nothing."""


class Items(NamedTuple):
    """What is dealt to the parts as a whole, I in number: groups, or single rows where there are no groups.

    ``of_row`` int [R] is each row's item, ``sizes`` [I] its rows, ``labels`` float [I,L] its rows per label, ``known``
    bool [L]: not a column that counts unknown labels. Items are in the order of their names, so that a split does not
    depend on the order of the rows.
    """

    names: np.ndarray
    of_row: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    known: np.ndarray

    def keep(self, chosen: np.ndarray) -> Items:
        """The items at the positions ``chosen``; rows of the others get item -1."""
        place = np.full(len(self.names) + 1, -1)
        place[chosen] = np.arange(len(chosen))
        return Items(self.names[chosen], place[self.of_row], self.sizes[chosen], self.labels[chosen], self.known)


def items_of(dataset: Dataset, keys: np.ndarray) -> Items:
    """The rows of one key, str [R], as one item."""
    names, of_row = np.unique(keys, return_inverse=True)
    row_labels, known = _row_labels(dataset)
    labels = np.zeros((len(names), row_labels.shape[1]))
    np.add.at(labels, of_row, row_labels)
    return Items(names, of_row, np.bincount(of_row).astype(float), labels, known)


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


def following(items: Items, ring: np.ndarray, place: int) -> np.ndarray:
    """The items, int, that validate the one at a ``place`` of the ``ring`` of all: of those that follow it, each that
    has a class that those before it lack. The rest, at least two items, has every class that it would have with them.

    An item has a class from :data:`ENOUGH` times the rows on that the items with any rows of it have on average.

    >>> labels = np.array([[3, 3], [2, 0], [4, 0], [1, 2], [0, 5]])
    >>> items = Items(np.arange(5), np.arange(5), labels.sum(axis=1), labels, np.array([True, True]))
    >>> following(items, np.arange(5), 0).tolist(), following(items, np.arange(5), 3).tolist()
    ([1, 3], [4, 1])
    """
    others = np.roll(ring, -place)[1:]
    rows = items.labels[others][:, items.known]
    usual = rows.sum(axis=0) / np.maximum((rows > 0).sum(axis=0), 1)
    has = (rows > 0) & (rows >= ENOUGH * usual)
    trained = has.sum(axis=0)  # items left for training that have each class
    seen = np.zeros(rows.shape[1], dtype=bool)
    chosen: list[int] = []
    for item, classes in zip(others, has, strict=True):
        if (classes & ~seen).any() and (trained[classes] > 1).all() and len(others) - len(chosen) > 2:
            chosen.append(int(item))
            seen, trained = seen | classes, trained - classes
    return np.array(chosen, dtype=int)


def _row_labels(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What is stratified, float [R,L]: one column per class of each task and one for its unknown labels; and which
    columns are classes, bool [L].

    A task per step counts the share of each row's steps. Without classes to go by, quantile bins of the regression
    targets take their place. Auxiliary tasks decide nothing here.
    """
    batch = targets_of(dataset)
    tasks = [t for t in dataset.spec.main_tasks if t.kind != "regression"] or dataset.spec.main_tasks
    columns, classes = [np.zeros((len(dataset), 0))], [np.zeros(0, bool)]
    for task in tasks:
        target, known = batch.targets[task.name].numpy(), batch.known[task.name].numpy()
        codes, levels = _codes(task, target, known)
        indicators = np.eye(levels + 1)[np.where(known, codes, levels)]
        columns.append(indicators.reshape(len(target), -1, levels + 1).mean(axis=1))
        classes.append(np.arange(levels + 1) < levels)
    return np.concatenate(columns, axis=1), np.concatenate(classes)


def _codes(task: Task, target: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, int]:
    if task.kind != "regression":
        return target.astype(int), len(task.classes)
    edges = np.quantile(target[known], np.linspace(0, 1, BINS + 1)[1:-1]) if known.any() else np.zeros(0)
    return np.searchsorted(edges, target, side="right"), BINS
