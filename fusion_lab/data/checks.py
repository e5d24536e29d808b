"""What every data set is held to before anything is trained: errors for what cannot work, notes for what looks odd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.stats import rankdata

from fusion_lab.contracts import DataError, Modality, Task
from fusion_lab.data.arrays import ArrayDataset

FEWEST_ROWS = 20
"""A feature is called a leak only on this many rows with a known label ..."""
FEWEST_OF_A_CLASS = 5
"""... of which each side holds this many: among thousands of features some separate fewer by chance."""


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
    ranks = rankdata(np.where(observed, values, np.inf), axis=0)  # missing cells last: they move no other rank
    ones = (observed & positive[:, None]).sum(axis=0)
    zeros = (observed & ~positive[:, None]).sum(axis=0)
    above = np.where(observed & positive[:, None], ranks, 0.0).sum(axis=0) - ones * (ones + 1) / 2
    enough = (np.minimum(ones, zeros) >= FEWEST_OF_A_CLASS) & (ones + zeros >= FEWEST_ROWS)
    auroc = above / np.where(enough, ones * zeros, 1)
    return np.where(enough, np.maximum(auroc, 1 - auroc), np.nan)


def _check_labels(dataset: ArrayDataset, task: Task, place: str) -> None:
    labels = dataset.targets[task.name][dataset.known[task.name]].numpy()
    if not len(labels):
        raise DataError(f"{place}: task {task.name!r}: expected known labels, found none in {len(dataset)} rows")
    found = np.unique(labels)
    if len(found) < 2:
        one = f"class {task.classes[int(found[0])]!r}" if task.classes else f"the value {found[0]:g}"
        raise DataError(
            f"{place}: task {task.name!r}: expected two or more classes or values among the known labels, "
            f"found only {one} ({len(labels)} rows)"
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
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield f"{modality.name}: never varies in the rows used: {', '.join(names[:4])}{more}"


def _leaks(
    dataset: ArrayDataset, modality: Modality, valid: np.ndarray, where: Mapping[str, str], threshold: float
) -> Iterator[str]:
    """Features of a vector that nearly alone tell a row's label: by value, by being missing, by being there."""
    if modality.kind != "vector":
        return
    inputs, observed = dataset.inputs[modality.name].numpy(), dataset.observed[modality.name].numpy()
    gaps = [i for i in range(modality.width) if not observed[valid, i].all()]
    candidates = [
        ("", [f.name for f in modality.features], inputs, observed),
        ("a missing cell of ", [modality.features[i].name for i in gaps], observed[:, gaps], valid[:, None]),
        ("its absence", [""], valid[:, None], np.ones((len(valid), 1), dtype=bool)),
    ]
    for task in dataset.spec.tasks:
        if task.per_step:
            continue
        known = dataset.known[task.name].numpy()
        target = dataset.targets[task.name].numpy()
        _refuse_copies(modality, task, inputs[known], observed[known], target[known], where)
        for what, names, values, seen in candidates:
            for label, positive in _sides(task, target[known]):
                scores = separation(values[known], np.broadcast_to(seen, values.shape)[known], positive)
                for i in np.flatnonzero(np.nan_to_num(scores) > threshold):
                    yield (
                        f"{modality.name}: {what}{names[i]} alone tells {label} of task {task.name} "
                        f"(AUROC {scores[i]:.3f} over all rows): is it known before the outcome?"
                    )


def _refuse_copies(
    modality: Modality,
    task: Task,
    inputs: np.ndarray,
    observed: np.ndarray,
    target: np.ndarray,
    where: Mapping[str, str],
) -> None:
    """The target's values, or of two classes their opposites, in every row where both are known."""
    same = (inputs == target[:, None]) | ~observed
    opposite = (inputs == 1 - target[:, None]) | ~observed if task.kind == "binary" else np.zeros_like(same)
    enough = observed.sum(axis=0) >= FEWEST_ROWS
    copies = np.flatnonzero((same.all(axis=0) | opposite.all(axis=0)) & enough)
    for feature in (modality.features[i] for i in copies if len(np.unique(target[observed[:, i]])) > 1):
        raise DataError(
            f"{where.get(modality.name, 'data')}: column {feature.source or feature.name!r}: expected a feature of "
            f"modality {modality.name!r}, found the values of task {task.name!r} in every row where both are known "
            "(leave it out with ignore)"
        )


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
