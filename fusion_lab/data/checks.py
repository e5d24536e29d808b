"""What every data set is held to before anything is trained: errors for what cannot work, notes for what looks odd."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from fusion_lab.contracts import DataError, Modality, Task
from fusion_lab.data.arrays import ArrayDataset

FEWEST_ROWS = 20
"""A feature is called a leak only on this many rows with a known label ..."""
FEWEST_OF_A_CLASS = 5
"""... of which each side holds this many: among thousands of features some separate fewer by chance."""
_BLOCK = 64  # columns ranked at once: ranks take several times the memory of the values

_OUTCOME = re.compile(
    r"\b(recurren\w*|recurred|relaps\w*|progress\w*|metasta\w*|death|dead|died|deceased|mortality|surviv\w*|outcomes?"
    r"|follow ?up|(days|months|years|time) (to|until)|vital status|last (contact|information)|[rpde]fs)\b"
)
_BASELINE = re.compile(r"\b(primar\w* metasta\w*|at diagnosis|baseline|prior|previous\w*|history)\b")


def check_dataset(
    dataset: ArrayDataset, where: Mapping[str, str] | None = None, leakage_auroc: float = 0.98
) -> tuple[str, ...]:
    """Notes on a data set, one plain sentence each. ``where`` names the file of a modality or task in errors.

    Raises:
        DataError: no rows, a modality that no row has, a task with fewer than two classes among its known labels or
            without a known label, a feature whose values are the target's.
    """
    where = dict(where or {})
    if not len(dataset):
        raise DataError("data: expected at least one row, found none")
    valid = {m.name: _rows(dataset.valid[m.name].numpy()) for m in dataset.spec.modalities}
    for modality in dataset.spec.modalities:
        if not valid[modality.name].any():
            place = where.get(modality.name, "data")
            raise DataError(
                f"{place}: modality {modality.name!r}: expected rows that have it, found none of {len(dataset)}"
            )
    for task in dataset.spec.tasks:
        _check_labels(dataset, task, where.get(task.name, "data"))
    return (
        *_coverage(dataset, valid),
        *(note for m in dataset.spec.modalities for note in _constant_features(dataset, m)),
        *(note for m in dataset.spec.modalities for note in _outcomes_by_name(m)),
        *(note for m in dataset.spec.modalities for note in _leaks(dataset, m, valid[m.name], where, leakage_auroc)),
    )


def separation(values: np.ndarray, observed: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """AUROC of each column alone, or of its negative where that is more: ``[F]`` in [0.5, 1], NaN where undefined.

    ``values`` and ``observed`` are ``[R,F]``, ``positive`` bool ``[R]``; cells not observed do not count. A column is
    undefined that has too few rows (:data:`FEWEST_ROWS`, :data:`FEWEST_OF_A_CLASS`). By ranks (Mann and Whitney, 1947).

    >>> column = np.arange(20.0)[:, None]
    >>> separation(column, np.ones((20, 1), dtype=bool), np.arange(20) < 8)
    array([1.])
    """
    if values.shape[1] > _BLOCK:
        starts = range(0, values.shape[1], _BLOCK)
        return np.concatenate(
            [separation(values[:, i : i + _BLOCK], observed[:, i : i + _BLOCK], positive) for i in starts]
        )
    ranks = rankdata(np.where(observed, values, np.inf), axis=0)  # missing cells last: they move no other rank
    ones = (observed & positive[:, None]).sum(axis=0)
    zeros = (observed & ~positive[:, None]).sum(axis=0)
    above = np.where(observed & positive[:, None], ranks, 0.0).sum(axis=0) - ones * (ones + 1) / 2
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


def _check_labels(dataset: ArrayDataset, task: Task, place: str) -> None:
    labels = dataset.targets[task.name][dataset.known[task.name]].numpy()
    if not len(labels):
        raise DataError(f"{place}: task {task.name!r}: expected known labels, found none in {len(dataset)} rows")
    found = np.unique(labels)
    if len(found) < 2:
        one = f"class {task.classes[int(found[0])]!r}" if task.classes else f"the value {found[0]:g}"
        raise DataError(
            f"{place}: task {task.name!r}: expected two or more classes or values among the known labels, "
            f"found only {one} ({len(labels)} {_unit(task)}s)"
        )


def _coverage(dataset: ArrayDataset, valid: Mapping[str, np.ndarray]) -> Iterator[str]:
    rows = len(dataset)
    counts = ", ".join(f"{name} {int(has.sum())}" for name, has in valid.items())
    yield f"rows that have each modality, of {rows}: {counts}"
    known = {t.name: _rows(dataset.known[t.name].numpy()) for t in dataset.spec.tasks}
    yield f"rows with a known label, of {rows}: " + ", ".join(f"{n} {int(k.sum())}" for n, k in known.items())
    for count, what in [
        (rows - np.stack(list(valid.values())).any(axis=0).sum(), "have no modality at all"),
        (rows - np.stack(list(known.values())).any(axis=0).sum(), "have no known label of any task"),
    ]:
        if count:
            yield f"{count} rows {what}"


def _constant_features(dataset: ArrayDataset, modality: Modality) -> Iterator[str]:
    """Numeric and binary features only: a category that no row holds is what a declared vocabulary is for."""
    values, observed = _cells(dataset, modality)
    low = np.where(observed, values, np.inf).min(axis=0)
    high = np.where(observed, values, -np.inf).max(axis=0)
    names = [f.name for f, same in zip(modality.features, low >= high, strict=True) if same and f.kind != "category"]
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
    dataset: ArrayDataset, modality: Modality, valid: np.ndarray, where: Mapping[str, str], threshold: float
) -> Iterator[str]:
    """Features that nearly alone tell a label: by value, by being missing, by being there. Of a sequence or bag, the
    means over a row's positions tell a row's label, and the values of a step that step's label.
    """
    for task in dataset.spec.tasks:
        known = dataset.known[task.name].numpy()
        target = dataset.targets[task.name].numpy()[known]
        if task.per_step and modality.name not in task.steps:
            continue
        candidates = _of_steps(dataset, modality, known) if task.per_step else _of_rows(dataset, modality, known, valid)
        _refuse_copies(modality, task, candidates[0].values, candidates[0].seen, target, where)
        for what, names, values, seen in candidates:
            for label, positive in _sides(task, target):
                scores = separation(values, np.broadcast_to(seen, values.shape), positive)
                for i in np.flatnonzero(np.nan_to_num(scores) > threshold):
                    yield (
                        f"{modality.name}: {what}{names[i]} alone tells {label} of task {task.name} "
                        f"(AUROC {scores[i]:.3f} over all {_unit(task)}s): is it known before the outcome?"
                    )


def _of_rows(dataset: ArrayDataset, modality: Modality, known: np.ndarray, valid: np.ndarray) -> list[_Candidates]:
    """Of the rows ``known``, bool [R]: means of each feature over the positions, what share of them misses it, how many
    positions there are.
    """
    rows, width = len(dataset), modality.width
    inputs = dataset.inputs[modality.name].numpy().reshape(rows, -1, width)
    there = dataset.valid[modality.name].numpy().reshape(rows, -1).sum(axis=1)
    filled = dataset.observed[modality.name].numpy().reshape(rows, -1, width).sum(axis=1)
    means = inputs.sum(axis=1, dtype=np.float64) / np.maximum(filled, 1)  # inputs are 0 where not observed
    gaps = np.flatnonzero((filled < there[:, None]).any(axis=0))
    shares = filled[:, gaps] / np.maximum(there, 1)[:, None]
    names = [f.name for f in modality.features]
    vector = modality.kind == "vector"
    candidates = [
        _Candidates("" if vector else "the mean of ", names, means, filled > 0),
        _Candidates("a missing cell of ", [names[i] for i in gaps], shares, valid[:, None]),
        _Candidates("its absence", [""], valid[:, None], np.ones((rows, 1), dtype=bool)),
    ]
    if not vector:
        what = f"its number of positions ({modality.place_name})"
        candidates.append(_Candidates(what, [""], there[:, None], valid[:, None]))
    return [c._replace(values=c.values[known], seen=c.seen[known]) for c in candidates]


def _of_steps(dataset: ArrayDataset, modality: Modality, known: np.ndarray) -> list[_Candidates]:
    """Of the steps ``known``, bool [R,T]: each feature's value, whether it is missing, whether the step is there."""
    inputs, observed = dataset.inputs[modality.name].numpy()[known], dataset.observed[modality.name].numpy()[known]
    there = dataset.valid[modality.name].numpy()[known]
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
    same = (values == target[:, None]) | ~observed
    opposite = (values == 1 - target[:, None]) | ~observed if task.kind == "binary" else np.zeros_like(same)
    enough = observed.sum(axis=0) >= FEWEST_ROWS
    copies = np.flatnonzero((same.all(axis=0) | opposite.all(axis=0)) & enough)
    for feature in (modality.features[i] for i in copies if len(np.unique(target[observed[:, i]])) > 1):
        raise DataError(
            f"{where.get(modality.name, 'data')}: column {feature.column!r}: expected a feature of "
            f"modality {modality.name!r}, found the values of task {task.name!r} in every {_unit(task)} where both "
            "are known (leave it out with ignore)"
        )


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


def _cells(dataset: ArrayDataset, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Values and observed, ``[cells,F]``, whatever the modality's kind."""
    width = modality.width
    inputs = dataset.inputs[modality.name].numpy().reshape(-1, width)
    return inputs, dataset.observed[modality.name].numpy().reshape(-1, width)


def _rows(mask: np.ndarray) -> np.ndarray:
    """Rows in which anything is True: ``[R]``."""
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1))
