"""Prepared recordings: one array per subject, mapped from its file, and an index that says what is in it."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
from pydantic import Field, ValidationError

from fusion_lab.config import Config
from fusion_lab.contracts import DataError, Source, content_hash
from fusion_lab.data.activity.mapped import mapped
from fusion_lab.data.activity.recordings import SENSOR_COLUMNS, SPLITS, left_out, require_columns
from fusion_lab.data.activity.samples import Recorded, Recording, Samples
from fusion_lab.data.activity.settings import ACTIVITIES, ActivityConfig
from fusion_lab.data.readers import quoted

INDEX = "index.json"
UNFINISHED = "unfinished.json"
"""The index while some subjects are missing; its last name is given to it when all are there."""


class Original(Config):
    """A file that a subject was read from, and by what it is known that it has not changed."""

    name: str
    sha256: str
    rows: int
    size: int
    modified: int  # nanoseconds


class Entry(Config):
    """One subject: ``file`` holds float32 ``[rows, columns]`` in ``size`` bytes with this SHA-256."""

    subject: str
    file: str
    rows: int = Field(ge=1)
    size: int
    sha256: str
    left_out: int = Field(ge=0)
    notes: tuple[str, ...] = ()
    originals: tuple[Original, ...]
    recordings: tuple[Recording, ...]


class Index(Config):
    """What was prepared, and the settings that decided how."""

    format: Literal[1] = 1
    layout: str
    columns: tuple[str, ...]
    names: dict[str, str]  # the files' own names of columns
    gap: float = Field(gt=0)
    rate: float = Field(gt=0)
    notes: tuple[str, ...] = ()
    subjects: tuple[Entry, ...] = ()


def prepared_files(root: Path) -> list[Path]:
    """The index of a folder that was prepared, in whole or in part."""
    return [path for path in (root / INDEX, root / UNFINISHED) if path.is_file()]


def read_index(path: Path) -> Index:
    """An index.

    Raises:
        DataError: the file is none, or was changed: a column, subject or activity that cannot be, recordings that are
            not all of a subject's samples.
    """
    try:
        index = Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: expected a readable index, found: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        found = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise DataError(f"{path}: expected an index that prepare wrote, found: {found} {_ANEW}") from None
    fault = _fault(index)
    if fault:
        raise DataError(f"{path}: expected {fault} {_ANEW}")
    return index


def array_name(subject: str) -> str:
    """The file of a subject, whatever its name is.

    >>> array_name("101"), array_name("../x")
    ('subject_101.npy', 'subject_..%2Fx.npy')
    """
    return f"subject_{quote(subject, safe='')}.npy"


_ANEW = "(prepare again into an empty folder)"


def _fault(index: Index) -> str | None:
    """What is expected of an index and not so."""
    if len(set(index.columns)) < len(index.columns) or not set(index.columns) <= set(SENSOR_COLUMNS):
        return "each column of the data set once, found others"
    subjects = [entry.subject for entry in index.subjects]
    if len(set(subjects)) < len(subjects):
        return "each subject once, found one again"
    return next(filter(None, map(_fault_of, index.subjects)), None)


def _fault_of(entry: Entry) -> str | None:
    name = quoted(entry.subject)
    if entry.file != array_name(entry.subject):
        return f"subject {name} in {array_name(entry.subject)}, found {quoted(entry.file)}"
    rows = [recording.rows for recording in entry.recordings]
    starts = [recording.start for recording in entry.recordings]
    if [*starts, entry.rows] != [*accumulate(rows, initial=0)] or min(rows, default=0) < 1:
        return f"recordings one after the other, {entry.rows} samples in all, found others of subject {name}"
    if any(r.activity not in ACTIVITIES or r.split not in ("", *SPLITS) for r in entry.recordings):
        return f"recordings of known activities in {', '.join(SPLITS)} or none, found others of subject {name}"
    return None


def read_prepared(config: ActivityConfig, root: Path, labelled: bool) -> Recorded:
    """Prepared recordings, mapped; the arrays' content is not looked at, but for what their headers and sizes tell.

    Raises:
        DataError: the folder is not prepared, or only in part, or with another gap; an array is not the index's; a
            column is missing.
    """
    if not (root / INDEX).is_file():
        if (root / UNFINISHED).is_file():
            raise DataError(f"{root}: expected prepared data, found a part of it (run prepare again: it continues)")
        raise DataError(f"{root}: expected data that prepare wrote, found no {INDEX}")
    index = read_index(root / INDEX)
    if index.gap != config.gap:
        hint = f"(prepare again, or set data.gap={index.gap:g})"
        raise DataError(f"{root}: expected data prepared with data.gap={config.gap:g}, found {index.gap:g} {hint}")
    require_columns(str(root / INDEX), config.model_copy(update={"columns": {}}), index.columns)
    subjects = tuple(_samples(root, index, entry, labelled) for entry in index.subjects)
    sources = tuple(Source(e.file, _identity(index, e), e.rows) for e in index.subjects)
    return Recorded(index.columns, subjects, sources, told(index))


def told(index: Index) -> tuple[str, ...]:
    """All notes on what was prepared."""
    odd = (note for entry in index.subjects for note in entry.notes)
    return (*index.notes, *odd, *left_out(entry.left_out for entry in index.subjects))


def _samples(root: Path, index: Index, entry: Entry, labelled: bool) -> Samples:
    path, shape = root / entry.file, (entry.rows, len(index.columns))
    values = mapped(path, f"an array of shape {shape}")
    size = path.stat().st_size
    if values.shape != shape or values.dtype != np.float32 or size != entry.size:
        found = f"{values.dtype} of shape {values.shape} in {size} bytes"
        raise DataError(f"{path}: expected float32 of shape {shape} in {entry.size} bytes, found {found}")
    recordings = entry.recordings
    if not labelled:
        recordings = tuple(recording._replace(activity=None, split="") for recording in recordings)
    return Samples(entry.subject, values, recordings)


def _identity(index: Index, entry: Entry) -> str:
    """SHA-256 over all that a subject's samples and recordings are."""
    return content_hash([index.columns, entry.subject, entry.sha256, entry.recordings])
