"""Rows as a caller gives them, checked cell by cell, on their way to a batch.

A row is ``{modality: content}``; a modality that is left out, or ``None``, is missing. The content of a vector is
``{column: cell}`` or a list of cells in the columns' order; that of a sequence or bag is a list of such, one per time
step (the oldest first) or instance. Two names beside the modalities: ``id``, what errors call the row, and ``quality``,
``{modality: number in [0, 1]}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from fusion_lab.config import nearest
from fusion_lab.contracts import Batch, DataError, Modality, Spec
from fusion_lab.data.raw import RawModality, Records, encode
from fusion_lab.data.readers import Table

ID, QUALITY = "id", "quality"


class Place(NamedTuple):
    """How errors name a row: ``row 3``, or, of a file, ``rows.jsonl: line 4``."""

    file: str = ""
    unit: Literal["row", "line"] = "row"
    numbers: Sequence[int] | None = None

    @property
    def prefix(self) -> str:
        return f"{self.file}: " if self.file else ""

    def label(self, place: int, name: object) -> str:
        """The number of a row, and its own name where it has one."""
        number = self.numbers[place] if self.numbers is not None else place + 1
        return str(number) if name is None else f"{number} ({name})"


def read_rows(rows: Sequence[Mapping[str, Any]], spec: Spec, place: Place | None = None) -> Records:
    """Rows of a caller as raw records, by their ids or, where they have none, their numbers.

    Raises:
        DataError: naming the row and modality: an unknown modality, another shape than expected, a row that is none, or
            has no modality at all.
    """
    place = place or Place()
    labels = [_label(place, number, row, spec) for number, row in enumerate(rows)]
    where = [f"{place.prefix}{place.unit} {label}" for label in labels]
    qualities = [_qualities(row, name, spec) for row, name in zip(rows, where, strict=True)]
    found = {}
    given = np.zeros(len(rows), dtype=bool)
    for modality in spec.modalities:
        contents = [row.get(modality.name) for row in rows]
        if any(content is not None for content in contents):
            quality = np.array([q.get(modality.name, 1.0) for q in qualities], dtype=np.float32)
            raw = _raw(modality, contents, where, labels, place, quality)
            found[modality.name] = raw
            given[raw.row] = True
    for number in np.flatnonzero(~given)[:1]:
        known = ", ".join(modality.name for modality in spec.modalities)
        raise DataError(f"{where[number]}: expected at least one modality of {known}, found none")
    ids = [str(row[ID] if row.get(ID) is not None else label) for row, label in zip(rows, labels, strict=True)]
    return Records(np.array(ids, dtype=str), found)


def batch_of(records: Records, spec: Spec, rows: np.ndarray | None = None, strict: bool = True) -> Batch:
    """Records as a batch, unscaled, leaves ``[B,...]``, targets empty; ``rows`` chooses some of them.

    ``strict`` refuses a category that training did not know, and a missing cell where it had none; else they count as
    they do in training data.

    Raises:
        DataError: a cell that cannot be used.
    """
    leaves: dict[str, dict[str, torch.Tensor]] = {name: {} for name in ("inputs", "valid", "observed", "quality")}
    chosen = np.arange(len(records)) if rows is None else rows
    for modality in spec.modalities:
        raw = records.modalities.get(modality.name)
        made = _absent(modality, len(chosen)) if raw is None else _encoded(modality, _taken(raw, chosen), strict)
        for name, leaf in made.items():
            leaves[name][modality.name] = torch.from_numpy(np.ascontiguousarray(leaf))
    return Batch(**leaves, targets={}, known={}, weight=torch.ones(len(chosen)))


def spans(records: Records, modality: str, rows: np.ndarray) -> np.ndarray:
    """How many positions of a sequence or bag each of the rows was given, int ``[B]``."""
    raw = records.modalities.get(modality)
    if raw is None:
        return np.zeros(len(rows), dtype=int)
    assert raw.span is not None, modality
    return raw.span[rows]


def _label(place: Place, number: int, row: object, spec: Spec) -> str:
    """What errors call a row, once it is seen to be one."""
    bare = f"{place.prefix}{place.unit} {place.label(number, None)}"
    if not isinstance(row, Mapping):
        raise DataError(f"{bare}: expected an object of modalities, found {_shown(row)}")
    given = row.get(ID)
    if given is not None and (isinstance(given, bool) or not isinstance(given, (str, int, float)) or given == ""):
        raise DataError(f"{bare}: id: expected a text or a number, found {_shown(given)}")
    if isinstance(given, str) and (given.splitlines() != [given] or not _writable(given)):
        raise DataError(f"{bare}: id: expected one line of text, found {_shown(given)}")
    label = place.label(number, given)
    known = [m.name for m in spec.modalities]
    for key in row:
        if key not in (*known, ID, QUALITY):
            raise DataError(f"{place.prefix}{place.unit} {label}: unknown modality {key!r}{nearest(str(key), known)}")
    return label


def _qualities(row: Mapping[str, Any], name: str, spec: Spec) -> dict[str, float]:
    given = row.get(QUALITY)
    if given is None:
        return {}
    known = [m.name for m in spec.modalities]
    if not isinstance(given, Mapping):
        raise DataError(f"{name}: quality: expected {{modality: number in [0, 1]}}, found {_shown(given)}")
    for key, value in given.items():
        if key not in known:
            raise DataError(f"{name}: quality: unknown modality {key!r}{nearest(str(key), known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise DataError(f"{name}: quality of {key!r}: expected a number in [0, 1], found {_shown(value)}")
    return {str(key): float(value) for key, value in given.items()}


def _raw(
    modality: Modality,
    contents: Sequence[object],
    where: Sequence[str],
    labels: Sequence[str],
    place: Place,
    quality: np.ndarray,
) -> RawModality:
    lines: list[list[Any]] = []
    row, position, index = [], [], []
    span = np.zeros(len(contents), dtype=int)
    for number, content in enumerate(contents):
        for step, line in enumerate(_lines(modality, content, where[number])):
            beside = "" if modality.length is None else f", {modality.place_name} {step + 1}"
            lines.append(_cells(modality, line, where[number] + beside))
            row.append(number)
            position.append(step)
            index.append(labels[number] + beside)
            span[number] += 1
    path = f"{place.prefix}modality {modality.name!r}"
    table = Table(modality.name, path, Path(place.file), _frame(modality, lines, index), place.unit)
    ordered = modality.length is not None
    return RawModality(
        table,
        np.array(row, dtype=int),
        np.array(position, dtype=int) if ordered else None,
        span if ordered else None,
        quality,
    )


def _lines(modality: Modality, content: object, row: str) -> list[Any]:
    """The lines of one row's content: one of a vector, one per position otherwise, none where it is missing."""
    if content is None:
        return []
    where = f"{row}: modality {modality.name!r}"
    if modality.length is None:
        return [content]
    if isinstance(content, np.ndarray):
        content = list(content)
    if isinstance(content, str) or not isinstance(content, Sequence):
        expected = f"expected a list with an entry per {modality.place_name}"
        raise DataError(f"{where}: {expected}, found {_shown(content)}")
    if len(content) > modality.length:
        which = "last" if modality.kind == "sequence" else "first"
        raise DataError(
            f"{where}: expected at most {modality.length} entries, found {len(content)} "
            f"(the model was trained on the {which} {modality.length})"
        )
    return list(content)


def _cells(modality: Modality, line: object, where: str) -> list[Any]:
    """The cells of a line in the order of the columns; one that is not named is empty."""
    columns = modality.columns
    if isinstance(line, Mapping):
        for key in line:
            if key not in columns:
                place = f"{where}: modality {modality.name!r}"
                raise DataError(f"{place}: unknown column {key!r}{nearest(str(key), list(columns))}")
        return [line.get(column) for column in columns]
    if isinstance(line, np.ndarray):
        line = line.tolist()
    if isinstance(line, str) or not isinstance(line, Sequence):
        expected = f"expected {len(columns)} cells, as an object or a list"
        raise DataError(f"{where}: modality {modality.name!r}: {expected}, found {_shown(line)}")
    if len(line) != len(columns):
        raise DataError(f"{where}: modality {modality.name!r}: expected {len(columns)} cells, found {len(line)}")
    for cell in line:
        if isinstance(cell, (list, tuple, dict)):
            expected = "expected a number, a text or nothing in each cell"
            raise DataError(f"{where}: modality {modality.name!r}: {expected}, found {_shown(cell)}")
    return list(line)


def _frame(modality: Modality, lines: list[list[Any]], index: list[str]) -> pd.DataFrame:
    """Lines as a table of numbers where all are, which is read quicker, else of objects."""
    shape = (len(lines), len(modality.columns))
    if all(type(cell) in (int, float) for line in lines for cell in line):
        with suppress(OverflowError):  # a whole number beyond all floats: told below, with its place
            return pd.DataFrame(np.array(lines, dtype=float).reshape(shape), index, list(modality.columns))
    cells = np.empty(shape, dtype=object)
    for place, line in enumerate(lines):
        cells[place] = line
    return pd.DataFrame(cells, index, list(modality.columns), dtype=object)


def _taken(raw: RawModality, rows: np.ndarray) -> RawModality:
    """The lines of some rows, each of them once, in the order given."""
    assert len(np.unique(rows)) == len(rows), "a row asked for twice"
    place = np.full(len(raw.quality), -1)
    place[rows] = np.arange(len(rows))
    now = np.where(raw.row >= 0, place[raw.row], -1)
    keep = now >= 0
    table = Table(raw.table.name, raw.table.path, raw.table.file, raw.table.frame[keep], raw.table.unit)
    position = None if raw.position is None else raw.position[keep]
    return RawModality(table, now[keep], position, None if raw.span is None else raw.span[rows], raw.quality[rows])


def _encoded(modality: Modality, raw: RawModality, strict: bool) -> dict[str, np.ndarray]:
    made = encode(modality, raw, strict)
    return {name: getattr(made, name) for name in ("inputs", "valid", "observed", "quality")}


def _absent(modality: Modality, rows: int) -> dict[str, np.ndarray]:
    shape = (rows, *modality.shape)
    return {
        "inputs": np.zeros(shape, dtype=np.float32),
        "valid": np.zeros(shape[:-1], dtype=bool),
        "observed": np.zeros(shape, dtype=bool),
        "quality": np.ones(rows, dtype=np.float32),
    }


def _writable(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON can hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
