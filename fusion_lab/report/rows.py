"""Which groups of validation rows a figure compares, and which single rows a page shows, under what names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusion_lab.contracts import Predictions, Spec, Task

MOST_ROWS, MOST_GROUPS = 60, 6


@dataclass(frozen=True)
class Groups:
    """Entries by what is true of them: ``of``, int ``[P]``, is the place in ``names``, -1 where it is unknown.

    ``by`` says what the names are: "classes of death", "thirds of dose".
    """

    by: str
    names: tuple[str, ...]
    of: np.ndarray


@dataclass(frozen=True)
class Sample:
    """A validation row as a page names it: ``group`` is its group's name, "" without groups, ``kind`` what it was
    chosen for, ``facts`` what is known of it.
    """

    fold: int
    row: int
    id: str
    group: str
    kind: str
    facts: str


def grouping_task(spec: Spec) -> Task | None:
    """The first task with classes, else the first regression, whose target is one per row; ``None`` without any."""
    once = [task for task in spec.tasks if not task.per_step]
    return next((task for task in once if task.classes), once[0] if once else None)


def row_groups(row: np.ndarray, predictions: Predictions, spec: Spec) -> Groups | None:
    """Groups of the entries ``row``, int ``[P]``, by the target of :func:`grouping_task`; ``None`` where it has none.

    More classes than :data:`MOST_GROUPS` become the five that most rows have, and the others together. A regression's
    rows become thirds of those whose target is known.
    """
    task = grouping_task(spec)
    if task is None or not len(row):
        return None
    target = np.full(max(int(predictions.row.max(initial=0)), int(row.max())) + 1, np.nan)
    known = predictions.known[task.name].astype(bool)
    target[predictions.row[known]] = predictions.target[task.name][known]
    if np.isnan(target[row]).all():
        return None
    return _classes(task, target[row]) if task.classes else _thirds(task, target[row])


def choose_samples(
    predictions: Predictions, spec: Spec, ids: np.ndarray, folds: Mapping[int, str] | None = None, most: int = MOST_ROWS
) -> list[Sample]:
    """At most ``most`` entries, group by group: the most confident right ones, the most confident wrong ones (a third
    of the group's places each) and a spread between. Of a regression, the closest and the furthest.

    Where nothing is known of any row they are spread evenly over all of them. ``folds``: the folds' names.
    """

    def sample(entry: int, group: str, kind: str, facts: str) -> Sample:
        fold, row = int(predictions.fold[entry]), int(predictions.row[entry])
        named = (folds or {}).get(fold, "")
        where = f"fold {fold}" if named in ("", f"fold {fold}") else f"fold {fold} ({named})"
        return Sample(fold, row, str(ids[row]), group, kind, ", ".join(part for part in (facts, where) if part))

    groups = row_groups(predictions.row, predictions, spec)
    task = grouping_task(spec)
    if groups is None or task is None:
        every = spread(np.arange(len(predictions.row)), most)
        return [sample(p, "", "validation rows", "") for p in every.tolist()]
    surety, told = _surety(predictions, task)
    members = [np.flatnonzero(groups.of == i) for i in range(len(groups.names))]
    ends = ("closest", "furthest") if task.kind == "regression" else ("right, most confident", "wrong, most confident")
    chosen = []
    for place, (of, quota) in enumerate(zip(members, shares([len(m) for m in members], most), strict=True)):
        ranked = of[np.argsort(-surety[of], kind="stable")]
        for kind, part in zip((ends[0], "between", ends[1]), extremes(ranked, surety, quota), strict=True):
            chosen += [sample(p, groups.names[place], kind, told[p]) for p in part.tolist()]
    return chosen


def shares(sizes: Sequence[int], most: int) -> list[int]:
    """How many of each group are taken: alike, but what a small group leaves goes to the others.

    >>> shares([100, 5, 40], 60), shares([3, 4], 60)
    ([28, 5, 27], [3, 4])
    """
    taken, left = [0] * len(sizes), most
    for done, place in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        taken[place] = min(sizes[place], left // (len(sizes) - done))
        left -= taken[place]
    return taken


def extremes(ranked: np.ndarray, surety: np.ndarray, quota: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``quota`` of the entries ``ranked``, the surest right one first and the surest wrong one last: a third of them
    from the front as far as they are right, a third from the back as far as they are wrong, surest first, and a spread
    of the others. Given as front, between, back.
    """
    third = max(1, quota // 3) if quota else 0
    front = ranked[:third][surety[ranked[:third]] > 0]
    back = ranked[len(front) :][::-1][: min(third, quota - len(front))]
    back = back[surety[back] < 0]
    between = ranked[len(front) : len(ranked) - len(back)]
    return front, spread(between, quota - len(front) - len(back)), back


def spread(entries: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the entries, evenly spaced, all where they are fewer.

    >>> spread(np.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    return entries[np.unique(np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int))]


def _classes(task: Task, code: np.ndarray) -> Groups:
    known = ~np.isnan(code)
    of = np.where(known, code, -1).astype(int)
    by = f"classes of {task.name}"
    if len(task.classes) <= MOST_GROUPS:
        return Groups(by, task.classes, of)
    frequent = np.argsort(-np.bincount(of[known], minlength=len(task.classes)), kind="stable")[: MOST_GROUPS - 1]
    place = np.full(len(task.classes), MOST_GROUPS - 1)
    place[np.sort(frequent)] = np.arange(len(frequent))
    others = f"others ({len(task.classes) - len(frequent)} classes)"
    names = (*(task.classes[i] for i in np.sort(frequent)), others)
    by = f"the {len(frequent)} most frequent {by}, and the others"
    return Groups(by, names, np.where(known, place[of], -1))


def _thirds(task: Task, value: np.ndarray) -> Groups:
    known = ~np.isnan(value)
    third = np.searchsorted(np.quantile(value[known], [1 / 3, 2 / 3]), value)
    of = np.where(known, third, -1)
    names = []
    for place, word in enumerate(("low", "middle", "high")):
        held = value[of == place]
        names.append(f"{word}: {held.min():.4g} to {held.max():.4g}" if len(held) else word)
    return Groups(f"thirds of {task.name}", tuple(names), of)


def _surety(predictions: Predictions, task: Task) -> tuple[np.ndarray, list[str]]:
    """Float ``[P]``, above 0 for right answers and below for wrong ones, further from it the surer, and in words what
    is true and what was predicted. Of a regression the middle error lies at 0.
    """
    target, score = predictions.target[task.name], predictions.score[task.name].astype(np.float64)
    if task.kind == "regression":
        error = np.abs(score - target)
        told = [f"true {t:.4g}, predicted {s:.4g}" for t, s in zip(target, score, strict=True)]
        return np.median(error[predictions.known[task.name].astype(bool)]) - error, told
    table = np.stack([1 - score, score], axis=1) if score.ndim == 1 else score
    best, sure = table.argmax(1), table.max(1)
    told = [
        f"true {task.classes[int(t)]}, predicted {task.classes[b]} {p:.2f}"
        for t, b, p in zip(target, best, sure, strict=True)
    ]
    return np.where(best == target.astype(int), sure, -sure), told
