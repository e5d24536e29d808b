"""What every data set is held to before anything is trained: errors for what cannot work, notes for what looks odd."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from fusion_lab.contracts import DataError, Dataset, Modality, Task
from fusion_lab.data.summaries import Labels, Seen, look, steps_of

FEWEST_ROWS = 20
"""A feature is called a leak only on this many rows with a known label ..."""
FEWEST_OF_A_CLASS = 5
"""... of which each side holds this many: among thousands of features some separate fewer by chance."""
_ROWS = 1024  # rows compared at once
_CELLS = 1 << 21  # of columns ranked at once: ranks take several times the memory of the values

_OUTCOME = re.compile(
    r"\b(recurren\w*|recurred|relaps\w*|progress\w*|metasta\w*|death|dead|died|deceased|mortality|surviv\w*|outcomes?"
    r"|follow ?up|(days|months|years|time) (to|until)|vital status|last (contact|information)|[rpde]fs)\b"
)
_BASELINE = re.compile(r"\b(primar\w* metasta\w*|at diagnosis|baseline|prior|previous\w*|history)\b")


def check_dataset(
    dataset: Dataset, where: Mapping[str, str] | None = None, leakage_auroc: float = 0.98
) -> tuple[str, ...]:
    """Notes on a data set, one plain sentence each. ``where`` names the file of a modality or task in errors.

    Raises:
        DataError: no rows, a modality that no row has, a task with fewer than two classes among its known labels or
            without a known label, a feature whose values are the target's.
    """
    where = dict(where or {})
    if not len(dataset):
        raise DataError("data: expected at least one row, found none")
    seen, labels = look(dataset)
    for name, of in seen.items():
        if not of.there.any():
            place = where.get(name, "data")
            raise DataError(f"{place}: modality {name!r}: expected rows that have it, found none of {len(dataset)}")
    for task in dataset.spec.tasks:
        _check_labels(labels[task.name], task, where.get(task.name, "data"))
    modalities = dataset.spec.modalities
    leaks = (_leaks(dataset, m, seen[m.name], labels, where, leakage_auroc) for m in modalities)
    return (
        *_coverage(seen, labels, len(dataset)),
        *(note for m in modalities for note in _constant_features(m, seen[m.name])),
        *(note for m in modalities for note in _outcomes_by_name(m)),
        *(note for notes in leaks for note in notes),
    )


def separation(values: np.ndarray, observed: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """AUROC of each column alone, or of its negative where that is more: ``[F]`` in [0.5, 1], NaN where undefined.

    ``values`` and ``observed`` are ``[R,F]``, ``positive`` bool ``[R]``; cells not observed do not count. A column is
    undefined that has too few rows (:data:`FEWEST_ROWS`, :data:`FEWEST_OF_A_CLASS`). By ranks (Mann and Whitney, 1947),
    or, where ``values`` are bool or uint8, 0 and 1, by counting.

    >>> column = np.arange(20.0)[:, None]
    >>> separation(column, np.ones((20, 1), dtype=bool), np.arange(20) < 8)
    array([1.])
    """
    return separations(values, observed, positive[None])[0]


def separations(values: np.ndarray, observed: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """:func:`separation` for several ways of being positive, bool ``[S,R]``: ``[S,F]``. Columns are ranked once."""
    size = max(1, _CELLS // max(1, len(values)))
    parts = (slice(start, start + size) for start in range(0, values.shape[1], size))
    blocks = [_separations(values[:, part], observed[:, part], positives) for part in parts]
    return np.concatenate([np.zeros((len(positives), 0)), *blocks], axis=1)


def _separations(values: np.ndarray, observed: np.ndarray, positives: np.ndarray) -> np.ndarray:
    counted, sides = observed.astype(np.float64), positives.astype(np.float64)  # whole and half numbers: sums are exact
    ones = sides @ counted
    zeros = counted.sum(axis=0) - ones
    if values.dtype.kind in "bu":
        filled = counted * (values != 0)
        with_one = sides @ filled
        others_one = filled.sum(axis=0) - with_one
        # pairs in which the positive row has more, those in which both have the same counted half
        above = with_one * (zeros - others_one) + (with_one * others_one + (ones - with_one) * (zeros - others_one)) / 2
    else:
        ranks = rankdata(np.where(observed, values, np.inf), axis=0)  # missing cells last: they move no other rank
        above = sides @ (ranks * counted) - ones * (ones + 1) / 2
    enough = (np.minimum(ones, zeros) >= FEWEST_OF_A_CLASS) & (ones + zeros >= FEWEST_ROWS)
    auroc = above / np.where(enough, ones * zeros, 1)
    return np.where(enough, np.maximum(auroc, 1 - auroc), np.nan)


def speak_of_outcome(names: Sequence[str]) -> str:
    """The first few of the names that speak of an outcome, or of the time to it, and not of what was known before.

    >>> speak_of_outcome(["age", "daysToRecurrence", "progress_1", "primarily_metastasis", "progesterone"])
    'daysToRecurrence, progress_1'
    """
    return _first_few([name for name in names if _OUTCOME.search(_words(name)) and not _BASELINE.search(_words(name))])


def _words(name: str) -> str:
    """A name's words and numbers in lower case, a blank between them."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.findall(r"[a-z]+|[0-9]+", apart.lower()))


def _first_few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}"


def _check_labels(labels: Labels, task: Task, place: str) -> None:
    if not len(labels.codes):
        found = f"none in {len(labels.known)} rows"
        raise DataError(f"{place}: task {task.name!r}: expected known labels, found {found}")
    found = np.unique(labels.codes)
    if len(found) < 2:
        one = f"class {task.classes[int(found[0])]!r}" if task.classes else f"the value {found[0]:g}"
        raise DataError(
            f"{place}: task {task.name!r}: expected two or more classes or values among the known labels, "
            f"found only {one} ({len(labels.codes)} {_unit(task)}s)"
        )


def _coverage(seen: Mapping[str, Seen], labels: Mapping[str, Labels], rows: int) -> Iterator[str]:
    has = {name: of.there > 0 for name, of in seen.items()}
    counts = ", ".join(f"{name} {int(of.sum())}" for name, of in has.items())
    yield f"rows that have each modality, of {rows}: {counts}"
    known = {name: _rows(of.known) for name, of in labels.items()}
    yield f"rows with a known label, of {rows}: " + ", ".join(f"{n} {int(k.sum())}" for n, k in known.items())
    for count, what in [
        (rows - np.stack(list(has.values())).any(axis=0).sum(), "have no modality at all"),
        (rows - np.stack(list(known.values())).any(axis=0).sum(), "have no known label of any task"),
    ]:
        if count:
            yield f"{count} rows {what}"


def _constant_features(modality: Modality, seen: Seen) -> Iterator[str]:
    """Numeric and binary features only: a category that no row holds is what a declared vocabulary is for."""
    same = seen.low >= seen.high
    names = [f.name for f, never in zip(modality.features, same, strict=True) if never and f.kind != "category"]
    if names:
        yield f"{modality.name}: never varies in the rows used: {_first_few(names)}"


def _outcomes_by_name(modality: Modality) -> Iterator[str]:
    """Only a note: what a column holds is told by its values, and those that tell the label are looked for."""
    names = speak_of_outcome(modality.columns)
    if names:
        yield f"{modality.name}: named after an outcome: {names}: known before it? (leave out what is not with ignore)"


class _Candidates(NamedTuple):
    """What may tell a label: of each of n rows, or of n steps, the values of some features or facts."""

    what: str
    names: list[str]
    values: np.ndarray  # [n,candidates]
    seen: np.ndarray  # bool, the shape of values or [n,1]: counts


def _leaks(
    dataset: Dataset,
    modality: Modality,
    seen: Seen,
    labels: Mapping[str, Labels],
    where: Mapping[str, str],
    threshold: float,
) -> Iterator[str]:
    """Features that nearly alone tell a label: by value, by being missing, by being there. Of a sequence or bag, the
    means over a row's positions tell a row's label, and the values of a step that step's label.
    """
    told = [t for t in dataset.spec.tasks if not t.per_step or modality.name in t.steps]
    for tasks in _known_together(told, labels):
        if tasks[0].per_step:
            candidates = _of_steps(dataset, modality, tasks[0])
        else:
            candidates = _of_rows(modality, seen, labels[tasks[0].name].known)
        targets = {task: labels[task.name].codes for task in tasks}
        for task, target in targets.items():
            _refuse_copies(modality, task, candidates[0].values, candidates[0].seen, target, where)
        sides = [(task, label, positive) for task in tasks for label, positive in _sides(task, targets[task])]
        positives = np.stack([positive for _, _, positive in sides])
        found = [separations(c.values, np.broadcast_to(c.seen, c.values.shape), positives) for c in candidates]
        for (task, label, _), scores in zip(sides, zip(*found, strict=True), strict=True):
            for candidate, of in zip(candidates, scores, strict=True):
                for i in np.flatnonzero(np.nan_to_num(of) > threshold):
                    what = f"{candidate.what}{candidate.names[i]}"
                    yield (
                        f"{modality.name}: {what} alone tells {label} of task {task.name} "
                        f"(AUROC {of[i]:.3f} over all {_unit(task)}s): is it known before the outcome?"
                    )


def _known_together(tasks: Sequence[Task], labels: Mapping[str, Labels]) -> list[list[Task]]:
    """Tasks one after the other whose labels are known of the same rows: what may tell them is looked at once."""
    groups: list[list[Task]] = []
    for task in tasks:
        alike = groups and groups[-1][0].steps == task.steps
        if alike and np.array_equal(labels[groups[-1][0].name].known, labels[task.name].known):
            groups[-1].append(task)
        else:
            groups.append([task])
    return groups


def _of_rows(modality: Modality, seen: Seen, known: np.ndarray) -> list[_Candidates]:
    """Of the rows ``known``, bool [R]: means of each feature over the positions, what share of them misses it, how many
    positions there are.
    """
    there = seen.there[known]
    means, filled = (seen.means, seen.filled) if known.all() else (seen.means[known], seen.filled[known])
    gaps = _gaps(filled, there)
    shares = filled[:, gaps] / np.maximum(there, 1)[:, None]
    names = [f.name for f in modality.features]
    vector = modality.kind == "vector"
    valid = (there > 0)[:, None]
    candidates = [
        _Candidates("" if vector else "the mean of ", names, means, filled if filled.dtype == bool else filled > 0),
        _Candidates("a missing cell of ", [names[i] for i in gaps], shares, valid),
        _Candidates("its absence", [""], valid, np.ones((len(there), 1), dtype=bool)),
    ]
    if not vector:
        what = f"its number of positions ({modality.place_name})"
        candidates.append(_Candidates(what, [""], there[:, None], valid))
    return candidates


def _gaps(filled: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Features, int, that some row misses at a position which is there."""
    parts = (slice(start, start + _ROWS) for start in range(0, len(there), _ROWS))
    return np.flatnonzero(sum((filled[rows] < there[rows, None]).any(axis=0) for rows in parts))


def _of_steps(dataset: Dataset, modality: Modality, task: Task) -> list[_Candidates]:
    """Of the steps whose label is known: each feature's value, whether it is missing, whether the step is there."""
    inputs, observed, there = steps_of(dataset, modality, task)
    gaps = np.flatnonzero((~observed & there[:, None]).any(axis=0))
    names = [f.name for f in modality.features]
    return [
        _Candidates("", names, inputs, observed),
        _Candidates("a missing cell of ", [names[i] for i in gaps], observed[:, gaps], there[:, None]),
        _Candidates("its absence", [""], there[:, None], np.ones((len(there), 1), dtype=bool)),
    ]


def _refuse_copies(
    modality: Modality,
    task: Task,
    values: np.ndarray,
    observed: np.ndarray,
    target: np.ndarray,
    where: Mapping[str, str],
) -> None:
    """The target's values, or of two classes their opposites, in every row or step where both are known."""
    copied = _equals(values, observed, target)
    if task.kind == "binary":
        copied |= _equals(values, observed, 1 - target)
    copies = np.flatnonzero(copied & (observed.sum(axis=0) >= FEWEST_ROWS))
    for feature in (modality.features[i] for i in copies if len(np.unique(target[observed[:, i]])) > 1):
        raise DataError(
            f"{where.get(modality.name, 'data')}: column {feature.column!r}: expected a feature of "
            f"modality {modality.name!r}, found the values of task {task.name!r} in every {_unit(task)} where both "
            "are known (leave it out with ignore)"
        )


def _equals(values: np.ndarray, observed: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The columns that are the target wherever they are observed, bool [F]. Few last beyond the first rows."""
    left = np.arange(values.shape[1])
    for start in range(0, len(target), _ROWS):
        rows = slice(start, start + _ROWS)
        same = (values[rows][:, left] == target[rows, None]) | ~observed[rows][:, left]
        left = left[same.all(axis=0)]
    return np.isin(np.arange(values.shape[1]), left)


def _unit(task: Task) -> str:
    return "step" if task.per_step else "row"


def _sides(task: Task, target: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each class against the rest; of a regression, values above the median against the others."""
    if task.kind == "regression":
        yield "high from low values", target > np.median(target)
    elif task.kind == "binary":
        yield f"class {task.positive!r}", target == 1
    else:
        for code, name in enumerate(task.classes):
            yield f"class {name!r}", target == code


def _rows(mask: np.ndarray) -> np.ndarray:
    """Rows in which anything is True: ``[R]``."""
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1))
