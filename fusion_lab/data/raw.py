"""Raw rows, before encoding: what files hold, and what a served model is asked about; and how they are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from fusion_lab.config import nearest
from fusion_lab.contracts import UNKNOWN, DataError, Feature, Modality
from fusion_lab.data.cells import listed, read_numbers, words_of
from fusion_lab.data.readers import Table, quoted

NUMBERS = ("numeric", "embedding")
"""Kinds of features whose cells are any numbers."""


@dataclass(frozen=True)
class RawModality:
    """The lines of one modality's raw table, and the place of each among R rows.

    ======== ========================================================================================
    table    its frame holds raw cells; an error names the line by it
    row      int [lines]: the row of the data set that a line belongs to, -1 for none
    position int [lines]: a line's position from the beginning of its row, None of a vector
    span     int [R]: how many positions a row has, None of a vector; a sequence's clock may tick
             where this modality has no line
    quality  float32 [R], in [0, 1]
    ======== ========================================================================================
    """

    table: Table
    row: np.ndarray
    position: np.ndarray | None
    span: np.ndarray | None
    quality: np.ndarray


@dataclass(frozen=True)
class Records:
    """R raw rows: their names and the modalities that were given."""

    ids: np.ndarray  # str [R]
    modalities: dict[str, RawModality]

    def __len__(self) -> int:
        return len(self.ids)


class Encoded(NamedTuple):
    """A modality over R rows, shaped as in :class:`~fusion_lab.contracts.Batch` with R in place of B."""

    inputs: np.ndarray  # float32 [R,F] or [R,T,F], 0 where not observed
    valid: np.ndarray  # bool [R] or [R,T]
    observed: np.ndarray  # bool, the inputs' shape
    quality: np.ndarray  # float32 [R]


class _Cells(NamedTuple):
    """One raw column as its features."""

    values: np.ndarray  # float32 [lines, features]
    missing: np.ndarray  # bool [lines]


def encode(modality: Modality, raw: RawModality, strict: bool = False) -> Encoded:
    """Raw rows as the modality's features. Nothing is learned from them: what a row becomes depends on it alone.

    A line without any filled cell is not valid. A sequence ends at its last position, index T - 1, and only its last T
    positions stay; a bag's first instance is at index 0, and only its first T stay. A category outside the vocabulary
    counts as unknown, unless ``strict``: then it is an error, as is a missing cell of a column without ``gaps``.

    Raises:
        DataError: other columns than the modality's, or a cell that does not fit its column.
    """
    _check_columns(modality, raw.table)
    values, observed, present = _encode_lines(modality, raw.table, strict)
    line, place = _places(modality, raw, present)
    rows = np.arange(len(raw.quality))
    if modality.length is None and np.array_equal(line, rows) and np.array_equal(place[0], rows):
        return Encoded(values, np.ones(len(rows), bool), observed, raw.quality)  # as below, without a second copy
    shape = (len(rows), *modality.shape)
    made = Encoded(np.zeros(shape, np.float32), np.zeros(shape[:-1], bool), np.zeros(shape, bool), raw.quality)
    made.inputs[place], made.observed[place], made.valid[place] = values[line], observed[line], True
    return made


def placed(length: int, kind: str, position: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Index of each position among T = ``length``, -1 where it does not stay; ``span`` is its row's positions.

    >>> [placed(3, kind, np.arange(4), np.full(4, 4)).tolist() for kind in ("sequence", "bag")]
    [[-1, 0, 1, 2], [0, 1, 2, -1]]
    """
    index = position + length - span if kind == "sequence" else position
    return np.where((index >= 0) & (index < length), index, -1)


def _places(modality: Modality, raw: RawModality, present: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The lines that stay, and where in ``[R]`` or ``[R,T]`` each goes."""
    stays = (raw.row >= 0) & present
    if modality.length is None:
        line = np.flatnonzero(stays)
        place = (raw.row[line],)
    else:
        assert raw.position is not None, modality.name
        assert raw.span is not None, modality.name
        index = placed(modality.length, modality.kind, raw.position, raw.span[raw.row])
        line = np.flatnonzero(stays & (index >= 0))
        place = (raw.row[line], index[line])
    flat = np.ravel_multi_index(place, (len(raw.quality), *modality.shape[:-1]))
    assert len(np.unique(flat)) == len(flat), f"{modality.name}: two lines at one place"
    return line, place


def _check_columns(modality: Modality, table: Table) -> None:
    known = dict.fromkeys(modality.columns)
    table.require(known, f"modality {modality.name!r}")
    for column in table.frame.columns:
        if column not in known:
            hint = nearest(str(column), list(known)) if len(known) <= 20 else ""
            raise DataError(
                f"{table.path}: expected the {len(known)} columns of modality {modality.name!r}, "
                f"found {column!r} as well{hint}"
            )


def _encode_lines(modality: Modality, table: Table, strict: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``values`` float32 and ``observed`` bool, both [lines,F], and which lines hold anything, bool [lines]."""
    columns = _columns(modality)
    kinds = {name: modality.features[features[0]].kind for name, features in columns.items()}
    numeric = [name for name, kind in kinds.items() if kind in NUMBERS]
    numbers, filled = read_numbers(table, numeric, modality.missing)
    at = {name: i for i, name in enumerate(numeric)}
    shape = (len(table.frame), modality.width)
    values, observed = np.zeros(shape, np.float32), np.ones(shape, bool)
    missing = np.zeros((len(table.frame), len(columns)), bool)
    for c, (name, features) in enumerate(columns.items()):
        if name in at:
            cells = _Cells(numbers[:, [at[name]]], ~filled[:, at[name]])
        else:
            cells = _encode_words(modality, [modality.features[i] for i in features], table, strict)
        missing[:, c] = cells.missing
        values[:, features] = cells.values
        if kinds[name] != "category":  # a category's missing cell is observed as unknown
            observed[:, features] = ~cells.missing[:, None]
    for i, feature in enumerate(modality.features):
        if feature.kind == "indicator":
            values[:, i] = missing[:, list(columns).index(feature.column)]
    present = np.asarray(~missing.all(axis=1))
    if strict:
        _refuse_gaps(modality, columns, table, missing & present[:, None])
    return values, observed, present


def _columns(modality: Modality) -> dict[str, list[int]]:
    """The features made from each raw column, indicators aside, in the features' order."""
    columns: dict[str, list[int]] = {}
    for i, feature in enumerate(modality.features):
        if feature.kind != "indicator":
            columns.setdefault(feature.column, []).append(i)
    return columns


def _encode_words(modality: Modality, features: list[Feature], table: Table, strict: bool) -> _Cells:
    """A binary or category column."""
    column = features[0].column
    cells, of_line = _different(table.frame[column])
    words = words_of(cells, modality.missing)
    binary = features[0].kind == "binary"
    if binary:
        known = ["0", "1"] if features[0].category is None else [features[0].other, features[0].category]
    else:
        known = [f.category for f in features]
    codes = {word: code for code, word in enumerate(known)}
    if binary or strict:
        _refuse_others(table, column, words, of_line, [w for w in known if w is not None], strict)
    missing = np.fromiter((word is None for word in words), bool, len(words))
    if binary:
        values = np.fromiter((word == known[-1] for word in words), np.float32, len(words))[:, None]
    else:
        slots = np.fromiter((codes.get(word, codes[UNKNOWN]) for word in words), int, len(words))
        values = np.eye(len(known), dtype=np.float32)[slots]
    return _Cells(values[of_line], missing[of_line])


def _different(cells: pd.Series) -> tuple[pd.Series, np.ndarray]:
    """Cells, and which of them that of each line is, int [lines]: of numbers those that differ, of which there are two
    where they are bits, so that a thousand columns of bits are not read cell by cell. Text is left as it is.
    """
    if not isinstance(cells.dtype, np.dtype) or cells.dtype.kind not in "biuf":
        return cells, np.arange(len(cells))
    of_line, different = pd.factorize(cells.to_numpy(), use_na_sentinel=False)
    return pd.Series(different), of_line


def _refuse_others(
    table: Table, column: str, words: np.ndarray, of_line: np.ndarray, known: list[str], strict: bool
) -> None:
    odd = np.fromiter((word is not None and word not in known for word in words), bool, len(words))[of_line]
    if odd.any():
        line = int(np.argmax(odd))
        expected = f"one of {listed(known)}" if strict else f"{' or '.join(map(repr, known))} in a binary column"
        found = quoted(words[of_line[line]])
        raise DataError(f"{table.place(line, column)}: expected {expected}, found {found}")


def _refuse_gaps(modality: Modality, columns: dict[str, list[int]], table: Table, missing: np.ndarray) -> None:
    for c, (name, features) in enumerate(columns.items()):
        lines = np.flatnonzero(missing[:, c])
        if len(lines) and not modality.features[features[0]].gaps:
            raise DataError(
                f"{table.place(int(lines[0]), name)}: expected a value: no training row misses it, "
                "found an empty cell; leave the whole modality out where it is not known"
            )
