"""The patients' file: whose the rows are, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion_lab.contracts import DataError, Task
from fusion_lab.data.cells import listed
from fusion_lab.data.names import usable_names
from fusion_lab.data.oncology.hdf5 import Hdf5, opened
from fusion_lab.data.oncology.ids import read_patient_ids
from fusion_lab.data.oncology.settings import (
    KNOWN_LABELS,
    LABEL_SUFFIX,
    MASK_SUFFIX,
    OncologyConfig,
    OutcomeConfig,
)
from fusion_lab.data.readers import quoted


@dataclass(frozen=True)
class Outcome:
    """A label of R patients: ``codes`` float32 ``[R]``, 1 of the positive class, and where they are ``known``."""

    task: Task
    label: str  # the data set's name
    codes: np.ndarray
    known: np.ndarray

    def counts(self) -> str:
        """How many patients are of each class, in one line."""
        positive = int(self.codes[self.known].sum())
        negative = int(self.known.sum()) - positive
        return (
            f"{self.task.name}: {positive} of the positive class {self.task.classes[1]!r}, "
            f"{negative} {self.task.classes[0]!r}, {int((~self.known).sum())} unknown"
        )


@dataclass(frozen=True)
class Patients:
    """The R rows of a data set."""

    path: Path
    ids: np.ndarray
    group: np.ndarray | None
    outcomes: tuple[Outcome, ...]


def read_patients(config: OncologyConfig, path: Path) -> Patients:
    """Reads ids and labels.

    Raises:
        DataError: the file, a data set or a value in it cannot be used.
    """
    setting = f"data.files.{config.patients}.ids"
    with opened(path) as file:
        ids = read_patient_ids(file, config.file(config.patients).ids, setting, config.normalise_ids, repeated=False)
        group = None if config.group is None else _group(file, config.group, ids)
        outcomes = tuple(_outcome(file, name, of, ids) for name, of in _tasks(config, file).items())
    return Patients(path, ids, group, outcomes)


def _group(file: Hdf5, name: str, ids: np.ndarray) -> np.ndarray:
    found = file.texts(file.require("the groups", (name,), name, "data.group"))
    if len(found) != len(ids):
        raise DataError(f"{file.place(name)}: expected {len(ids)} rows as there are ids, found {len(found)}")
    for row, group in enumerate(found):
        if not group:
            raise DataError(
                f"{file.place(name)}: row {row + 1} (patient {quoted(ids[row])}): expected a group, found none"
            )
    return np.array(found)


def _tasks(config: OncologyConfig, file: Hdf5) -> dict[str, OutcomeConfig]:
    """The tasks of the settings with their labels, or one per label of the file."""
    if config.tasks and all(settings.label is not None for settings in config.tasks.values()):
        return {name: _placed(file, name, settings, {}) for name, settings in config.tasks.items()}
    labels: dict[str, str] = {}
    there = [name for name in file.names if name.endswith(LABEL_SUFFIX) and name != LABEL_SUFFIX]
    known = [name for name in KNOWN_LABELS if name in there]
    for label in dict.fromkeys([*known, *there]):
        task = _task_name(file, label)
        if task in labels:
            both = f"{labels[task]!r} and {label!r} (choose with data.tasks)"
            raise DataError(f"{file.path}: expected one label of task {task!r}, found {both}")
        labels[task] = label
    if not config.tasks:
        if not labels:
            raise DataError(f"{file.path}: expected labels, data sets ...{LABEL_SUFFIX}, found {file.content()}")
        return {task: OutcomeConfig(label=label) for task, label in labels.items()}
    return {name: _placed(file, name, settings, labels) for name, settings in config.tasks.items()}


def _placed(file: Hdf5, name: str, settings: OutcomeConfig, labels: Mapping[str, str]) -> OutcomeConfig:
    if settings.label is None and name not in labels:
        found = ", ".join(f"{task} ({label})" for task, label in labels.items()) or "none"
        raise DataError(
            f"{file.path}: expected a label of task {name!r}, found {found} (name it with data.tasks.{name}.label)"
        )
    label = settings.label or labels[name]
    file.require(f"the label of task {name!r}", (label,), label, f"data.tasks.{name}.label")
    return settings.model_copy(update={"label": label})


def _task_name(file: Hdf5, label: str) -> str:
    told = " ".join(file.attribute("task", label))
    name = told or (KNOWN_LABELS[label].task if label in KNOWN_LABELS else label.removesuffix(LABEL_SUFFIX))
    try:
        usable_names({name: label})
    except ValueError as error:
        raise DataError(f"{file.place(label)}: task: {error} (name it with data.tasks)") from None
    return name


def _outcome(file: Hdf5, name: str, settings: OutcomeConfig, ids: np.ndarray) -> Outcome:
    label = settings.label
    assert label is not None
    values = file.numbers(label).astype(np.float64)
    if len(values) != len(ids):
        raise DataError(f"{file.place(label)}: expected {len(ids)} rows as there are ids, found {len(values)}")
    odd = np.flatnonzero(~(np.isnan(values) | np.isin(values, (-1, 0, 1))))
    if len(odd):
        row = int(odd[0])
        raise DataError(f"{_row(file, label, row, ids)}: expected 0, 1 or -1 for unknown, found {values[row]:g}")
    known = np.isin(values, (0, 1))
    _check_mask(file, label, known, ids)
    zero, one = settings.classes or _classes(file, label)
    positive = settings.positive
    codes = np.where(known, values == positive, 0).astype(np.float32)
    return Outcome(Task(name, "binary", (zero, one) if positive == 1 else (one, zero)), label, codes, known)


def _classes(file: Hdf5, label: str) -> tuple[str, str]:
    """Names of 0 and 1, as the file says, or the reference."""
    told = file.attribute("classes", label)
    if told and (len(told) != 2 or told[0] == told[1]):
        raise DataError(
            f"{file.place(label)}: attribute 'classes': expected the names of 0 and of 1, found {listed(list(told))}"
        )
    return (told[0], told[1]) if told else KNOWN_LABELS[label].classes if label in KNOWN_LABELS else ("0", "1")


def _check_mask(file: Hdf5, label: str, known: np.ndarray, ids: np.ndarray) -> None:
    """An error if a mask beside the label says otherwise."""
    names = {label.removesuffix(LABEL_SUFFIX) + MASK_SUFFIX}
    names |= {KNOWN_LABELS[label].mask} if label in KNOWN_LABELS else set()
    for name in sorted(names & set(file.names)):
        mask = file.numbers(name)
        if len(mask) != len(ids):
            raise DataError(f"{file.place(name)}: expected {len(ids)} rows as there are ids, found {len(mask)}")
        differ = np.flatnonzero((mask != 0) != known)
        if len(differ):
            row = int(differ[0])
            expected = f"{'known' if known[row] else 'unknown'} as {label!r} says"
            raise DataError(f"{_row(file, name, row, ids)}: expected {expected}, found {mask[row]}")


def _row(file: Hdf5, name: str, row: int, ids: np.ndarray) -> str:
    return f"{file.place(name)}: row {row + 1} (patient {quoted(ids[row])})"
