"""From the columns of a table to a modality's features. Nothing is fitted: only vocabularies are read off the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import model_validator

from fusion_lab.config import Config
from fusion_lab.contracts import UNKNOWN, DataError, Feature
from fusion_lab.data.cells import Scalar, in_order, listed, read_numbers, spelling, words_of
from fusion_lab.data.readers import Table, cell_text

ColumnKind = Literal["numeric", "binary", "category"]

LARGEST_VOCABULARY = 50
"""More categories than this are an id or free text more often than a category: they have to be declared."""


class ModalityConfig(Config):
    """One modality: a file, and what its columns are: numeric features but for the ids, unless said otherwise."""

    file: str
    key: str | None = None  # group or dataset of an HDF5 file
    id: str | None = None  # where this file names its ids otherwise
    columns: list[str] | None = None  # only these are features
    ignore: list[str] = []
    kinds: dict[str, ColumnKind] = {}
    vocabulary: dict[str, list[Scalar]] = {}  # of a category; of a binary column, the value coded 0 and the one coded 1
    missing: list[Scalar] = []  # values that stand for an empty cell
    quality: str | None = None  # column in [0, 1], no feature
    indicators: bool = False  # one more feature per numeric or binary column with missing cells
    drop_constant: bool = False  # leave out columns that never vary instead of refusing them

    @model_validator(mode="after")
    def _vocabulary_fits(self) -> ModalityConfig:
        for column, values in self.vocabulary.items():
            if self.kinds.get(column) == "numeric":
                raise ValueError(f"vocabulary.{column}: expected a category or binary column, found kind numeric")
            if self.kinds.get(column) == "binary" and len(set(map(cell_text, values))) != 2:
                raise ValueError(f"vocabulary.{column}: expected two values of a binary column, found {values}")
            if not values:
                raise ValueError(f"vocabulary.{column}: expected at least one value, found none")
        return self


@dataclass(frozen=True)
class EncodedTable:
    """A modality over the rows of its file: ``values`` float32 ``[rows,F]``, ``observed`` bool ``[rows,F]``."""

    features: tuple[Feature, ...]
    values: np.ndarray
    observed: np.ndarray
    present: np.ndarray  # bool [rows]: at least one cell holds something
    quality: np.ndarray  # float32 [rows]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    features: tuple[Feature, ...]
    values: np.ndarray  # float32 [rows, features]
    missing: np.ndarray  # bool [rows]: the raw cell is missing
    varies: bool
    notes: tuple[str, ...] = ()


def feature_columns(config: ModalityConfig, table: Table, id_column: str) -> list[str]:
    """The columns of a modality that are features, in the file's order.

    Raises:
        DataError: a column named in the settings is not in the file, or none is left.
    """
    named = {
        "columns": config.columns or [],
        "ignore": config.ignore,
        "kinds": config.kinds,
        "vocabulary": config.vocabulary,
    }
    for setting, columns in named.items():
        table.require(columns, f"named in {setting}")
    left_out = {id_column, config.quality, *config.ignore}
    chosen = [c for c in table.frame.columns if c not in left_out and (config.columns is None or c in config.columns)]
    if not chosen:
        besides = ", ".join(sorted(filter(None, left_out)))
        raise DataError(f"{table.path}: expected at least one feature column, found none besides {besides}")
    return chosen


def encode_modality(config: ModalityConfig, table: Table, columns: list[str], used: np.ndarray) -> EncodedTable:
    """Features of a table's rows; ``used``, bool ``[rows]``, marks those that the data set takes.

    Vocabularies are read off all rows, a category's last feature stands for what is missing or outside the vocabulary.

    Raises:
        DataError: a cell does not fit its column's kind, or a column never varies.
    """
    encoded = _encode_columns(config, table, columns)
    encoded, notes = _without_constants(config, table, encoded, used)
    kept = list(encoded.values())
    notes += tuple(note for column in kept for note in column.notes)
    if config.indicators:
        kept += [_indicator(name, c) for name, c in encoded.items() if _takes_indicator(c) and c.missing[used].any()]
    features = tuple(feature for column in kept for feature in column.features)
    _check_names(table, features)
    values = np.concatenate([column.values for column in kept], axis=1)
    observed = np.concatenate([_observed(column) for column in kept], axis=1)
    present = np.stack([~column.missing for column in encoded.values()]).max(axis=0)
    return EncodedTable(features, values, observed, present, _quality(config, table), notes)


def _encode_columns(config: ModalityConfig, table: Table, columns: list[str]) -> dict[str, _Column]:
    kinds = {c: config.kinds.get(c, "category" if c in config.vocabulary else "numeric") for c in columns}
    numeric = [c for c in columns if kinds[c] == "numeric"]
    values, observed = read_numbers(table, numeric, config.missing)
    made = {c: _numeric(c, values[:, [i]], observed[:, i]) for i, c in enumerate(numeric)}
    for column in columns:
        if kinds[column] == "binary":
            made[column] = _binary(config, table, column)
        elif kinds[column] == "category":
            made[column] = _category(config, table, column)
    return {column: made[column] for column in columns}


def _numeric(column: str, values: np.ndarray, observed: np.ndarray) -> _Column:
    present = values[observed, 0]
    varies = bool(len(present) and present.min() != present.max())
    return _Column((Feature(column, "numeric", column),), values, ~observed, varies)


def _binary(config: ModalityConfig, table: Table, column: str) -> _Column:
    """0 and 1: as they are, as declared, or in the order of the words; ``category`` is the word coded 1."""
    words = words_of(table.frame[column], config.missing)
    found = in_order(words)
    declared = [spelling(value, found) for value in config.vocabulary.get(column, [])]
    zero_one = ["0", "1"] if set(found) <= {"0", "1"} else found
    values = declared or zero_one
    for row, word in enumerate(words):
        if word is not None and word not in values[:2]:
            expected = " or ".join(map(repr, values[:2]))
            raise DataError(f"{table.place(row, column)}: expected {expected} in a binary column, found {word!r}")
    codes = np.array([[float(word == values[-1])] for word in words], dtype=np.float32)
    feature = Feature(column, "binary", column, None if values == ["0", "1"] else values[-1] if values else None)
    return _Column((feature,), codes, np.array([word is None for word in words]), len(found) == 2)


def _category(config: ModalityConfig, table: Table, column: str) -> _Column:
    words = words_of(table.frame[column], config.missing)
    found = in_order(words)
    declared = [spelling(value, found) for value in config.vocabulary.get(column, [])]
    if not declared and len(found) > LARGEST_VOCABULARY:
        raise DataError(
            f"{table.path}: column {column!r}: expected at most {LARGEST_VOCABULARY} categories, found {len(found)} "
            "(leave it out with ignore, or declare its vocabulary)"
        )
    vocabulary = [word for word in dict.fromkeys(declared or found) if word != UNKNOWN]
    place = {word: i for i, word in enumerate(vocabulary)}
    slots = [place.get(word, len(vocabulary)) for word in words]
    features = tuple(Feature(f"{column}={word}", "category", column, word) for word in [*vocabulary, UNKNOWN])
    outside = sum(word is not None and word != UNKNOWN and word not in place for word in words)
    note = f"{table.name}: column {column!r}: {outside} cells outside the declared vocabulary count as {UNKNOWN}"
    values = np.eye(len(features), dtype=np.float32)[slots]
    missing = np.array([word is None for word in words])
    return _Column(features, values, missing, len(set(slots)) > 1, (note,) if outside else ())


def _without_constants(
    config: ModalityConfig, table: Table, columns: dict[str, _Column], used: np.ndarray
) -> tuple[dict[str, _Column], tuple[str, ...]]:
    """Refuses columns that never vary in the file, or leaves out those that never vary in the rows used."""
    constant = [name for name, column in columns.items() if not column.varies]
    if config.drop_constant:
        constant = [name for name, column in columns.items() if not column.varies or _constant(column, used)]
        if len(constant) == len(columns):
            raise DataError(f"{table.path}: expected a column that varies, found none among {len(columns)}")
        notes = (f"{table.name}: left out {listed(constant)}: never varies",) if constant else ()
        return {n: c for n, c in columns.items() if n not in set(constant)}, notes
    if constant:
        column = columns[constant[0]]
        found = "only empty cells" if column.missing.all() else "one value throughout"
        more = f" (and in {len(constant) - 1} more columns)" if len(constant) > 1 else ""
        raise DataError(
            f"{table.path}: column {constant[0]!r}: expected values that vary, found {found}{more} "
            "(leave it out with ignore, or set drop_constant: true)"
        )
    return columns, ()


def _constant(column: _Column, used: np.ndarray) -> bool:
    rows = used & ~column.missing if column.features[0].kind != "category" else used
    values = column.values[rows]
    return len(values) == 0 or bool((values == values[0]).all())


def _observed(column: _Column) -> np.ndarray:
    """A category's missing cell is observed: it is the unknown category."""
    whole = column.features[0].kind in ("category", "indicator")
    return np.ones_like(column.values, dtype=bool) if whole else ~column.missing[:, None]


def _takes_indicator(column: _Column) -> bool:
    return column.features[0].kind in ("numeric", "binary")


def _indicator(name: str, column: _Column) -> _Column:
    feature = Feature(f"{name} missing", "indicator", name)
    return _Column((feature,), column.missing[:, None].astype(np.float32), np.zeros_like(column.missing), True)


def _quality(config: ModalityConfig, table: Table) -> np.ndarray:
    if config.quality is None:
        return np.ones(len(table.frame), dtype=np.float32)
    table.require([config.quality], "the quality")
    values, observed = read_numbers(table, [config.quality], config.missing)
    quality = np.where(observed[:, 0], values[:, 0], 1.0).astype(np.float32)
    bad = np.flatnonzero((quality < 0) | (quality > 1))
    if len(bad):
        row = int(bad[0])
        raise DataError(f"{table.place(row, config.quality)}: expected a quality in [0, 1], found {quality[row]:g}")
    return quality


def _check_names(table: Table, features: tuple[Feature, ...]) -> None:
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise DataError(
                f"{table.path}: column {feature.source!r}: expected feature names once, found {feature.name!r} again"
            )
        seen.add(feature.name)
