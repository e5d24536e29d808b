"""Windows of a data set as fold archives: for each held-out patient a folder with train, val and test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fusion_lab.contracts import ConfigError, DataError, Dataset, Task
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.output import PART, alone, writable, written
from fusion_lab.data.portions import targets_of
from fusion_lab.data.readers import quoted
from fusion_lab.data.relapse.archives import FEATURES, MASKS, OBSERVED, UNKNOWN_LABEL
from fusion_lab.data.relapse.metadata import BY_PAST, METADATA, PER_PATIENT
from fusion_lab.data.relapse.personal import MEASURED, PAST
from fusion_lab.data.relapse.settings import SPLITS
from fusion_lab.data.relapse.windows import split_of

Tell = Callable[[str], None]
Arrays = dict[str, np.ndarray]


class _Named(NamedTuple):
    """What the ids of R rows say: ``patient/sequence/day``."""

    patient: np.ndarray
    sequence: np.ndarray
    day: np.ndarray


def write(dataset: Dataset, output: Path, encoder: str, tell: Tell, *, width: int | None = None) -> None:
    """Writes a data set of windows to the folder ``output``, in the layout of :mod:`.archives`.

    Fold k holds out the k-th patient: train is every row of the others, val and test are the patient's own rows of
    sequences so named. The metadata come last and go first, so that a folder that is not finished is known by it.

    Raises:
        ConfigError: an encoder, or a width: values are written as they are.
        DataError: rows that are no windows of named sequences, or several tasks; ``output`` holds other things, cannot
            be written, or is being written by another process.
    """
    if encoder != "none" or width is not None:
        raise ConfigError(f"encoder: expected none, for windows are written as they are, found {encoder!r}")
    task = _task(dataset)
    named = _named(dataset)
    _refuse_foreign(output)
    arrays = _arrays(dataset, named, task)
    split = np.array([split_of(name) for name in named.sequence.tolist()])
    patients = np.unique(named.patient)
    with alone(output):
        _clear(output)
        folds = []
        for k, patient in enumerate(patients):
            own = named.patient == patient
            parts = {"train": ~own, "val": own & (split == "val"), "test": own & (split == "test")}
            for part, rows in parts.items():
                _write(output / f"fold_{k}" / f"{part}.npz", {name: of[rows] for name, of in arrays.items()})
            folds.append({"patient": str(patient)} | {p: _counts(arrays, rows) for p, rows in parts.items()})
            counts = ", ".join(f"{part} {int(rows.sum()):,}" for part, rows in parts.items())
            tell(f"fold {k}: patient {patient} held out: {counts} windows ({k + 1} of {len(patients)})")
        with written(output / METADATA) as half:
            half.write_text(json.dumps(_metadata(dataset, task, folds), indent=1) + "\n", encoding="utf-8")


def _task(dataset: Dataset) -> Task:
    tasks = dataset.spec.tasks
    if len(tasks) != 1 or tasks[0].kind != "binary" or tasks[0].per_step:
        found = ", ".join(f"{task.name} ({task.kind})" for task in tasks)
        raise DataError(f"to: expected one binary task with a label per row for fold archives, found {found}")
    lengths = {(modality.kind, modality.length) for modality in dataset.spec.modalities}
    if len(lengths) > 1 or {kind for kind, _ in lengths} != {"sequence"}:
        found = ", ".join(f"{m.name} ({m.kind} of length {m.length})" for m in dataset.spec.modalities)
        raise DataError(f"to: expected sequences of one length for fold archives, found {found}")
    return tasks[0]


def _named(dataset: Dataset) -> _Named:
    """Whose window each row is and when it ends."""
    parts = [str(name).rsplit("/", 2) for name in dataset.ids]
    for name, part in zip(dataset.ids, parts, strict=True):
        if len(part) != 3 or not part[2].removeprefix("-").isdecimal() or not split_of(part[1]):
            expected = "expected rows of sequences named train, val or test (such as P3/val_0/12) for fold archives"
            raise DataError(f"to: {expected}, found {quoted(name)}")
    patient, sequence, day = (np.array([part[i] for part in parts]) for i in range(3))
    return _Named(patient, sequence, day.astype(np.int64))


def _arrays(dataset: Dataset, named: _Named, task: Task) -> Arrays:
    """Every row's line of every array."""
    batch = dataset.gather(torch.arange(len(dataset)))
    valid = {name: leaf.numpy() for name, leaf in batch.valid.items()}
    padding = np.any(list(valid.values()), axis=0)
    padding[:, -1] = True  # the day that is predicted is a day, be nothing known of it
    before = np.arange(padding.shape[1])[::-1]
    days = np.where(padding, named.day[:, None] - before, -1)
    labels = np.where(padding, _labels(dataset, named, days, task), UNKNOWN_LABEL)
    arrays = {
        "patient_id": named.patient,
        "sequence_name": named.sequence,
        "window_end_day": named.day,
        "window_days": days,
        "padding_mask": padding,
        "labels": labels.astype(np.int32),
        "label_mask": labels != UNKNOWN_LABEL,
    }
    for modality in dataset.spec.modalities:
        name, seen = modality.name, batch.observed[modality.name].numpy()
        arrays |= {f"{FEATURES}/{name}": batch.inputs[name].numpy(), f"{MASKS}/{name}": valid[name]}
        if not np.array_equal(seen, np.broadcast_to(valid[name][:, :, None], seen.shape)):
            arrays[f"{OBSERVED}/{name}"] = seen
    return arrays


def _labels(dataset: Dataset, named: _Named, days: np.ndarray, task: Task) -> np.ndarray:
    """The label of each day of a window, as far as that day is a row itself: int [R,W]."""
    batch = targets_of(dataset)
    own = np.where(batch.known[task.name].numpy(), batch.targets[task.name].numpy(), UNKNOWN_LABEL).astype(int)
    whose = list(zip(named.patient.tolist(), named.sequence.tolist(), strict=True))
    known = {(*who, day): label for who, day, label in zip(whose, named.day.tolist(), own.tolist(), strict=True)}
    return np.array(
        [
            [known.get((*who, day), UNKNOWN_LABEL) for day in window]
            for who, window in zip(whose, days.tolist(), strict=True)
        ]
    ).reshape(days.shape)


def _counts(arrays: Arrays, rows: np.ndarray) -> dict[str, int]:
    last = arrays["labels"][rows, -1]
    return {
        "n_windows": int(rows.sum()),
        "n_stable": int((last == 0).sum()),
        "n_relapse": int((last == 1).sum()),
        "n_unlabeled": int((last == UNKNOWN_LABEL).sum()),
        "n_padded": int((~arrays["padding_mask"][rows]).any(axis=1).sum()),
    }


def _metadata(dataset: Dataset, task: Task, folds: list[dict[str, Any]]) -> dict[str, Any]:
    modalities, notes = dataset.spec.modalities, dataset.provenance.notes
    again = check_dataset(dataset)  # what is said of any data set that is read
    return {
        "window_size": modalities[0].length,
        "n_folds": len(folds),
        "modality_dims": {m.name: m.width for m in modalities},
        "feature_names": {m.name: [f.name for f in m.features] for m in modalities},
        "normalisation": _normalisation(notes),
        "task": task.name,
        "classes": list(task.classes),
        "notes": [note for note in notes if note not in again],
        "folds": folds,
    }


def _normalisation(notes: tuple[str, ...]) -> str:
    of = {MEASURED: PER_PATIENT, PAST: BY_PAST}
    return next((how for begins, how in of.items() for note in notes if note.startswith(begins)), "none")


def _write(path: Path, arrays: Arrays) -> None:
    with writable(path):
        path.parent.mkdir(exist_ok=True)
    with written(path) as half, half.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # ty: ignore[invalid-argument-type]


def _refuse_foreign(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: expected a folder, found a file")
    for path in sorted(output.iterdir()) if output.exists() else ():
        known = path.name.removesuffix(PART) == METADATA or path.is_dir() and _is_fold(path)
        if not known:
            raise DataError(f"{output}: expected an empty folder, or one of fold archives, found {path.name!r}")


def _is_fold(path: Path) -> bool:
    files = {name for part in SPLITS for name in (f"{part}.npz", f"{part}.npz{PART}")}
    return path.name.startswith("fold_") and {inner.name for inner in path.iterdir()} <= files


def _clear(output: Path) -> None:
    """Removes what an earlier run wrote, the metadata first."""
    with writable(output):
        (output / METADATA).unlink(missing_ok=True)
        for path in sorted(output.glob("fold_*")):
            shutil.rmtree(path)
