"""Configurations on the same folds: what each one scores, and what the difference of two of them is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Task
from fusion_lab.evaluation.entries import Basis, Entry, Ground, common_ground
from fusion_lab.evaluation.folds import LOWEST
from fusion_lab.evaluation.intervals import corrected_interval
from fusion_lab.evaluation.metrics import METRICS, RANGES
from fusion_lab.evaluation.over_tasks import over_folds, over_tasks
from fusion_lab.evaluation.paired import paired_folds
from fusion_lab.evaluation.pooled import (
    DRAWS,
    FEWEST_DRAWS,
    Difference,
    fold_scores,
    paired_pooled,
    pooled_interval,
    pooled_score,
)
from fusion_lab.evaluation.sums import has_sums

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "mae", "rmse", "ece", "mce"})
BESIDE = ("accuracy", "f1", "log_loss", "r2", "mae")
"""Metrics beside the headline, of tasks that all have them."""
MOST_PAIRED = 16
"""Entries up to which all are held against all."""
SEPARATE = 0.05
"""Corrected p below which a difference is told apart from chance."""


@dataclass(frozen=True)
class Measure:
    """A metric for each main task, told as one number: the mean over them, of which the lowest takes the share
    ``min_weight``. ``key`` is what it is called.
    """

    key: str
    of: Mapping[str, str]
    min_weight: float = 0.0

    @property
    def lower_is_better(self) -> bool:
        return all(metric in LOWER_IS_BETTER for metric in self.of.values())

    @property
    def bounds(self) -> tuple[float, float]:
        every = [RANGES[metric] for metric in self.of.values()]
        return max(low for low, _ in every), min(high for _, high in every)


def measures(
    tasks: Sequence[Task], headline: Mapping[str, str], key: str, min_weight: float = 0.0
) -> tuple[Measure, ...]:
    """The headline, called ``key``, and those of :data:`BESIDE` that all main tasks have; beside a headline that weighs
    the lowest task, what it is made of: the mean over tasks, and the lowest of several.
    """
    main = [task for task in tasks if not task.auxiliary]
    first = Measure(key, {task.name: headline[task.name] for task in main}, min_weight)
    shared = [m for m in BESIDE if all(m in METRICS[task.kind] for task in main)]
    more = [Measure(metric, {task.name: metric for task in main}) for metric in shared]
    if min_weight:
        parts = {metric: replace(first, key=metric, min_weight=0.0) for metric in dict.fromkeys(first.of.values())}
        lowest = (replace(first, key=n, min_weight=1.0) for n, m in LOWEST.items() if m in parts and len(main) > 1)
        more = [*parts.values(), *lowest, *more]
    return (first, *(m for m in more if (m.of, m.min_weight) != (first.of, first.min_weight)))


@dataclass(frozen=True)
class Standing:
    """An entry's score: mean over folds where it is defined in all of them, else (``pooled``) of all rows together.

    ``folds`` [K], NaN where undefined. ``recordings``: the same score with recordings in place of rows, NaN without.
    """

    name: str
    measure: str
    split: str
    value: float
    low: float
    high: float
    pooled: bool
    folds: tuple[float, ...]
    recordings: float = np.nan


@dataclass(frozen=True)
class Contrast:
    """``name`` minus ``other``. ``basis``: what both were scored on; ``pooled``: all folds' together, else fold by
    fold. ``corrected``: p after Holm over the contrasts that stand together (same measure, same way).
    """

    name: str
    other: str
    measure: str
    basis: Basis
    pooled: bool
    ours: float
    theirs: float
    difference: Difference
    corrected: float = np.nan


class Incomparable(NamedTuple):
    """Two entries and why nothing can be said of their difference."""

    name: str
    other: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """``contrasts`` against the reference: of each measure the one that is shown first, then further ways to look at
    it; ``pairs``: all against all by the first measure, empty where there are many.
    """

    reference: str
    measures: tuple[Measure, ...]
    standings: tuple[Standing, ...]
    contrasts: tuple[Contrast, ...]
    pairs: tuple[Contrast, ...]
    incomparable: tuple[Incomparable, ...]
    notes: tuple[str, ...]

    def standing(self, name: str, measure: str, split: str = "test") -> Standing | None:
        return next((s for s in self.standings if (s.name, s.measure, s.split) == (name, measure, split)), None)

    def contrast(self, name: str, measure: str) -> Contrast | None:
        """The one that is shown first."""
        return next((c for c in self.contrasts if (c.name, c.measure) == (name, measure)), None)


def compare(entries: Sequence[Entry], every: Sequence[Measure], reference: str) -> Comparison:
    """Scores of all entries, and each one's difference from the entry called ``reference``."""
    assert len({e.name for e in entries}) == len(entries), "names are different"
    base = next(e for e in entries if e.name == reference)
    contrasts: list[Contrast] = []
    strangers: list[Incomparable] = []
    for entry in entries:
        if entry is base:
            continue
        found = contrast(entry, base, every)
        if isinstance(found, Incomparable):
            strangers.append(found)
        else:
            contrasts += found
    paired = [e for e in entries if e.kind != "baseline"] if len(entries) > MOST_PAIRED else entries
    pairs = []
    if 2 < len(paired) <= MOST_PAIRED:
        pairs = [_first(contrast(a, b, every[:1], False)) for a, b in combinations(paired, 2)]
    return Comparison(
        reference,
        tuple(every),
        tuple(s for e in entries for m in every for s in standings(e, m)),
        tuple(_corrected(contrasts)),
        tuple(_corrected([p for p in pairs if p is not None])),
        tuple(strangers),
        (*dict.fromkeys(note for e in entries if e is not base for note in _notes(e, base)), *_least_p(contrasts)),
    )


def standings(entry: Entry, measure: Measure) -> list[Standing]:
    """Of test and validation rows."""
    return [_standing(entry, measure, split) for split in ("test", "val")]


def _standing(entry: Entry, measure: Measure, split: str) -> Standing:
    part = entry.rows if split == "test" else entry.validation
    whole = entry.recordings if split == "test" else None
    tasks, share = _deciding(entry), measure.min_weight
    folds = np.array([fold_scores(part, [task], measure.of, entry.count) for task in tasks])  # [tasks, K]
    defined = np.isfinite(folds).all(1) & (folds.shape[1] > 0)
    pooled = [
        np.nan if known else pooled_score(part, [task], measure.of) for task, known in zip(tasks, defined, strict=True)
    ]
    together = over_tasks(folds, share)
    interval = np.nan, np.nan  # of a mean of both kinds nobody knows one
    if defined.all():
        interval = corrected_interval(together, 1.0, entry.ratio if split == "test" else entry.ratio_of_validation)
    elif not defined.any():
        interval = pooled_interval(part, tasks, measure.of, measure.bounds, share)
    low, high = np.clip(interval, *measure.bounds)
    return Standing(
        name=entry.name,
        measure=measure.key,
        split=split,
        value=over_folds(folds, pooled, share),
        low=float(low),
        high=float(high),
        pooled=not bool(defined.all()),
        folds=tuple(together.tolist()),
        recordings=np.nan if whole is None else pooled_score(whole, tasks, measure.of, share),
    )


def contrast(
    ours: Entry, other: Entry, every: Sequence[Measure], further: bool = True
) -> list[Contrast] | Incomparable:
    """The ways in which two entries can be held against each other: fold by fold where the measure is defined in every
    fold, else all rows together, which ``further`` adds to the former.

    Compared are scores of the same rows; where rows differ, of the recordings that both have; where there are none, of
    folds that test the same groups, each with its own rows.
    """
    ground = common_ground(ours, other)
    if isinstance(ground, str):
        return Incomparable(ours.name, other.name, ground)
    found = []
    for measure in every:
        by_fold = _by_fold(ours, other, ground, measure)
        found += [by_fold] if by_fold else []
        if ground.basis != "folds" and (by_fold is None or further):
            # ranks are drawn one by one: few draws are enough for what stands in the second place
            many = by_fold is None or all(map(has_sums, measure.of.values())) and not measure.min_weight
            found.append(_pooled(ours, other, ground, measure, DRAWS if many else FEWEST_DRAWS))
    return found or Incomparable(ours.name, other.name, "the scores are undefined in some fold")


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number, stepping down (Holm 1979, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6); NaN stays and does not count.

    >>> holm([0.01, 0.04, float("nan"), 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    values = np.asarray(p, dtype=float)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    stepped = values[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(values), np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return corrected.tolist()


def paired_by_fold(ours: np.ndarray, other: np.ndarray, ratio: float) -> Difference:
    """The corrected resampled t test of :func:`~fusion_lab.evaluation.paired.paired_folds` in both directions.

    ``ours`` and ``other`` [K]; ``ratio``: test rows per training row.
    """
    found = paired_folds(ours, other, 1.0, ratio)
    sides = found.p, paired_folds(other, ours, 1.0, ratio).p
    p = float(np.minimum(1.0, 2 * np.min(sides)))  # NaN where one of them is
    return Difference(found.difference, found.low, found.high, p, found.n, found.test)


def _by_fold(ours: Entry, other: Entry, ground: Ground, measure: Measure) -> Contrast | None:
    """``None`` where a fold has no score, and of a single fold."""
    parts, tasks = (ground.ours, ground.other), _deciding(ours)
    first, second = (fold_scores(part, tasks, measure.of, ours.count, measure.min_weight) for part in parts)
    if ours.count < 2 or not np.isfinite([first, second]).all():
        return None
    found = paired_by_fold(first, second, (ours.ratio + other.ratio) / 2)
    least, most = measure.bounds
    low, high = np.clip([found.low, found.high], least - most, most - least)  # no difference is larger
    found = found._replace(low=float(low), high=float(high))
    means = float(first.mean()), float(second.mean())
    return Contrast(ours.name, other.name, measure.key, ground.basis, False, *means, found)


def _pooled(ours: Entry, other: Entry, ground: Ground, measure: Measure, draws: int) -> Contrast:
    tasks, share = _deciding(ours), measure.min_weight
    first, second = (pooled_score(part, tasks, measure.of, share) for part in (ground.ours, ground.other))
    found = paired_pooled(ground.ours, ground.other, tasks, measure.of, draws, min_weight=share)
    return Contrast(ours.name, other.name, measure.key, ground.basis, True, first, second, found)


def _deciding(entry: Entry) -> list[Task]:
    """The main tasks."""
    return [task for task in entry.tasks if not task.auxiliary]


def _first(found: list[Contrast] | Incomparable) -> Contrast | None:
    return None if isinstance(found, Incomparable) else found[0]


def _corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """With Holm's p: over the ones that are shown first of a measure, and over the further ones."""
    seen: set[tuple[str, str, str]] = set()
    families: dict[tuple[str, bool], list[int]] = {}
    for index, one in enumerate(contrasts):
        key = (one.name, one.other, one.measure)
        families.setdefault((one.measure, key in seen), []).append(index)
        seen.add(key)
    corrected = list(contrasts)
    for indices in families.values():
        values = holm([contrasts[i].difference.p for i in indices])
        for index, value in zip(indices, values, strict=True):
            corrected[index] = replace(contrasts[index], corrected=value)
    return corrected


def _least_p(contrasts: Sequence[Contrast]) -> list[str]:
    """What swaps of few groups cannot tell apart by the first measure, however large it is."""
    shown = {c.name: c for c in reversed(contrasts) if c.measure == contrasts[0].measure}.values()
    known = [c for c in shown if np.isfinite(c.difference.p)]
    groups = max((c.difference.n for c in known if c.pooled), default=0)
    if not groups or len(known) * 2.0 ** (1 - groups) < SEPARATE:
        return []
    least = 2.0 ** (1 - groups)
    told = f"Swaps of {groups} groups give no p below {least:.3f}, which Holm's correction for {len(known)} comparisons"
    return [
        f"{told} makes {min(1.0, len(known) * least):.3f}: no difference of scores of all rows together can be told"
        f" apart from chance here, however large it is. Look at its interval."
    ]


def _notes(entry: Entry, base: Entry) -> list[str]:
    ground = common_ground(entry, base)
    if isinstance(ground, str):
        return []
    notes, names = [], f"{entry.name} and {base.name}"
    if ground.basis == "recordings":
        told = f"{names} have other rows of the same recordings: they are compared on the {len(ground.ours.name)}"
        notes.append(f"{told} recordings that both have, each predicted by the mean of its rows.")
    elif ground.basis == "folds":
        notes.append(f"{names} have other rows of the same groups: each is scored on its own.")
    if entry.folds.data and base.folds.data and entry.folds.data != base.folds.data:
        notes.append(f"{entry.name} has other input files than {base.name}; rows and targets are the same.")
    if ground.basis == "rows" and entry.folds.digest != base.folds.digest and entry.folds.digest and base.folds.digest:
        notes.append(f"{names} share test rows, but not all training and validation rows.")
    return notes
