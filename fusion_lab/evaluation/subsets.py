"""What a model is worth with some of its modalities: which subsets are scored, and what each modality adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Batch
from fusion_lab.evaluation.labelled import Told

Subset = tuple[str, ...]


class Subsets(NamedTuple):
    """``chosen``: the whole, then single modalities, then the rest; ``possible``: how many subsets there are."""

    chosen: tuple[Subset, ...]
    possible: int

    @property
    def note(self) -> str:
        """What was left out, "" where nothing was."""
        if len(self.chosen) == self.possible:
            return ""
        kinds = "the whole, single modalities, those that lack one, then a draw"
        return f"the first {len(self.chosen)} of {self.possible} subsets: {kinds}"


class SubsetScores(NamedTuple):
    """``{task: {metric: Told}}`` of test rows of which only ``modalities`` were shown, and how many of these rows had
    none of them.
    """

    modalities: Subset
    scores: Mapping[str, Mapping[str, Told]]
    empty: int


def choose_subsets(names: Sequence[str], most: int, draw: np.random.Generator) -> Subsets:
    """All subsets of ``names`` but the empty one, or ``most`` of them: the whole, single ones, those that lack one, and
    what ``draw`` gives.

    >>> choose_subsets(("a", "b"), 3, np.random.default_rng(0)).chosen
    (('a', 'b'), ('a',), ('b',))
    """
    count, possible = len(names), 2 ** len(names) - 1
    one = np.eye(count, dtype=bool)
    chosen = dict.fromkeys([(True,) * count, *map(tuple, one.tolist()), *map(tuple, (~one).tolist())])
    chosen.pop((False,) * count, None)  # what a single modality leaves when it is lacking
    if possible <= most:
        for number in range(1, possible + 1):
            chosen.setdefault(tuple(bool(number >> place & 1) for place in range(count)))
    while len(chosen) < min(most, possible):
        drawn = tuple((draw.random(count) < 0.5).tolist())
        if any(drawn):
            chosen.setdefault(drawn)
    kept = list(chosen)[:most]
    return Subsets(tuple(tuple(n for n, there in zip(names, mask, strict=True) if there) for mask in kept), possible)


def importance(subsets: Sequence[Subset], score: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """What each modality is worth to ``score`` [S]: its mean over the subsets with the modality less that over those
    without it, the absolute values of all modalities scaled to add up to 1.

    As the empty subset is not among them, a modality that adds nothing comes out a little below 0, the more so the
    fewer modalities there are: see :func:`gains`. NaN of all where a score is NaN, or no subset is without some
    modality; 0 of all where none changes anything.

    >>> importance([("a", "b"), ("a",), ("b",)], [1.0, 0.75, 0.5], ("a", "b"))
    {'a': 1.0, 'b': 0.0}
    """
    values = np.asarray(score, dtype=float)
    gain = []
    for name in names:
        held = np.array([name in subset for subset in subsets])
        gain.append(values[held].mean() - values[~held].mean() if 0 < held.sum() < len(held) else np.nan)
    total = float(np.abs(gain).sum())
    return {name: float(g / total) if total else 0.0 for name, g in zip(names, gain, strict=True)}


def gains(subsets: Sequence[Subset], score: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """What each modality adds to ``score`` [S], in its unit: the mean difference over pairs of subsets that differ in
    this modality alone (Banzhaf's value, where all subsets are there). NaN without such a pair.

    >>> gains([("a", "b"), ("a",), ("b",)], [1.0, 0.75, 0.25], ("a", "b"))
    {'a': 0.75, 'b': 0.25}
    """
    of = {frozenset(subset): value for subset, value in zip(subsets, score, strict=True)}
    found = {}
    for name in names:
        pairs = [value - of[held - {name}] for held, value in of.items() if name in held and held - {name} in of]
        found[name] = float(np.mean(pairs)) if pairs else np.nan
    return found


class Worth(NamedTuple):
    """Of each modality; see :func:`importance` and :func:`gains`."""

    importance: Mapping[str, float]
    gain: Mapping[str, float]


def worth(scored: Sequence[SubsetScores], names: Sequence[str]) -> dict[str, Worth]:
    """Of each task, by the first metric told of it, over all folds' rows together."""
    subsets = [one.modalities for one in scored]
    found = {}
    for task, metrics in scored[0].scores.items():
        score = [one.scores[task][next(iter(metrics))].pooled for one in scored]
        found[task] = Worth(importance(subsets, score, names), gains(subsets, score, names))
    return found


def masked(batch: Batch, keep: Subset) -> Batch:
    """The batch as if only the modalities ``keep`` had been recorded: the others are 0, not valid and not observed."""
    absent = [name for name in batch.inputs if name not in keep]

    def blanked(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**leaves, **{name: torch.zeros_like(leaves[name]) for name in absent}}

    return batch._replace(inputs=blanked(batch.inputs), valid=blanked(batch.valid), observed=blanked(batch.observed))


def without_any(batch: Batch, keep: Subset) -> int:
    """How many of the rows that count have nothing valid of the modalities ``keep``."""
    there = [batch.valid[name].reshape(*batch.weight.shape, -1).any(-1) for name in keep]
    has = there[0]
    for other in there[1:]:
        has = has | other
    return int((~has & (batch.weight > 0)).sum())
