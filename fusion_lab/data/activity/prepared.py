"""Prepared recordings: one array per subject, mapped from its file, and an index that says what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fusion_lab.config import Config
from fusion_lab.contracts import DataError, Source, content_hash
from fusion_lab.data.activity.recordings import left_out, require_columns
from fusion_lab.data.activity.samples import Recorded, Recording, Samples
from fusion_lab.data.activity.settings import ActivityConfig
from fusion_lab.data.readers import first_line

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
    file: str = Field(pattern=r"^subject_[^/\\]*\.npy$")
    rows: int = Field(ge=1)
    size: int
    sha256: str
    left_out: int
    originals: tuple[Original, ...]
    recordings: tuple[Recording, ...]


class Index(Config):
    """What was prepared, and the settings that decided how."""

    format: Literal[1] = 1
    layout: str
    columns: tuple[str, ...]
    names: dict[str, str]  # the files' own names of columns
    gap: float
    rate: float
    notes: tuple[str, ...] = ()
    subjects: tuple[Entry, ...] = ()


def prepared_files(root: Path) -> list[Path]:
    """The index of a folder that was prepared, in whole or in part."""
    return [path for path in (root / INDEX, root / UNFINISHED) if path.is_file()]


def read_index(path: Path) -> Index:
    """An index.

    Raises:
        DataError: the file is none, or its recordings are not all of a subject's samples.
    """
    try:
        index = Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: expected a readable index, found: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: expected an index that prepare wrote, found: {first_line(error)}") from None
    for entry in index.subjects:
        rows = [recording.rows for recording in entry.recordings]
        starts = [recording.start for recording in entry.recordings]
        if starts != [0, *np.cumsum(rows[:-1]).tolist()][: len(starts)] or sum(rows) != entry.rows:
            found = f"others of subject {entry.subject!r} (prepare again into an empty folder)"
            raise DataError(
                f"{path}: expected recordings one after the other, {entry.rows} samples in all, found {found}"
            )
    return index


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
    return Recorded(index.columns, subjects, sources, (*index.notes, *left_out(e.left_out for e in index.subjects)))


def _samples(root: Path, index: Index, entry: Entry, labelled: bool) -> Samples:
    path, shape = root / entry.file, (entry.rows, len(index.columns))
    try:
        values, size = np.load(path, allow_pickle=False, mmap_mode="r"), path.stat().st_size
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: expected an array of shape {shape}, found: {first_line(error)}") from None
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
