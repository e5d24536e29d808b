"""What the columns of a table are as features of a modality: their kinds from the settings, vocabularies off the data.

Nothing is fitted. :func:`fusion_lab.data.raw.encode` applies what is found here to raw rows, these or others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from fusion_lab.config import Config
from fusion_lab.contracts import UNKNOWN, DataError, Feature, ModalityKind
from fusion_lab.data.cells import Scalar, in_order, listed, read_numbers, spelled, spelling, words_of
from fusion_lab.data.long import LONGEST
from fusion_lab.data.readers import Table, cell_text, file_kind, quoted

ColumnKind = Literal["numeric", "binary", "category"]

LARGEST_VOCABULARY = 50
"""More categories than this are an id or free text more often than a category: they have to be declared."""


class ModalityConfig(Config):
    """One modality: a file, and what its columns are: numeric features but for the ids, unless said otherwise.

    The table of a ``sequence`` or ``bag`` is long: it has a line per time step or instance, many of one id.
    """

    file: str
    kind: ModalityKind = "vector"
    key: str | None = None  # group or dataset of an HDF5 file, array of an NPZ file
    id: str | None = None  # where this file names its ids otherwise
    time: str | None = None  # of a sequence: column of numbers or ISO dates that the lines of an id are sorted by
    instance: str | None = None  # of a bag: column that names the instances of an id; else they are in the file's order
    length: int | None = Field(
        default=None, ge=1
    )  # positions kept, the last or a bag's first, 4096 at most; default: all
    step: str | None = None  # what a position is called in figures; default: the name of the column
    valid: str | None = None  # of an array [R,T,F]: name of the array, bool [R,T], that says which positions are there
    columns_from: str | None = None  # of an array: name of the array that holds the names of its columns
    columns: list[str] | None = None  # only these are features
    ignore: list[str] = []
    kinds: dict[str, ColumnKind] = {}
    vocabulary: dict[str, list[Scalar]] = {}  # of a category; of a binary column, the value coded 0 and the one coded 1
    missing: list[Scalar] = []  # values that stand for an empty cell
    quality: str | None = None  # column in [0, 1], no feature
    indicators: bool = False  # one more feature per numeric or binary column with missing cells
    drop_constant: bool = False  # leave out columns that never vary instead of refusing them

    @model_validator(mode="after")
    def _kind_fits(self) -> ModalityConfig:
        only: dict[str, tuple[str, ...]] = {"time": ("sequence",), "instance": ("bag",)}
        only |= dict.fromkeys(("length", "step", "valid"), ("sequence", "bag"))
        for setting, kinds in only.items():
            if getattr(self, setting) is not None and self.kind not in kinds:
                raise ValueError(f"{setting}: expected none of a {self.kind}, found {getattr(self, setting)!r}")
        if self.length is not None and self.length > LONGEST:
            raise ValueError(f"length: expected at most {LONGEST} positions of an id, found {self.length}")
        return self

    @model_validator(mode="after")
    def _roles_fit(self) -> ModalityConfig:
        for role in ("id", "time", "instance", "quality"):
            column = getattr(self, role)
            for setting in ("columns", "kinds", "vocabulary"):
                if column is not None and column in (getattr(self, setting) or ()):
                    expected = "expected a column that is no feature (a second one may hold the same values)"
                    raise ValueError(f"{role}: {expected}, found {column!r} in {setting}, too")
        return self

    @model_validator(mode="after")
    def _file_fits(self) -> ModalityConfig:
        file = file_kind(self.file)
        if file in ("csv", "parquet"):
            for setting in ("valid", "columns_from"):
                if getattr(self, setting) is not None:
                    raise ValueError(f"{setting}: expected an NPZ or HDF5 file, found {PurePath(self.file).name}")
            if self.kind == "sequence" and self.time is None:
                raise ValueError("time: expected the column of a sequence's times, found none")
        if file == "npz":
            for setting in ("time", "instance"):
                if getattr(self, setting) is not None:
                    raise ValueError(f"{setting}: expected none of an NPZ array, whose second axis says it")
            if self.key is None:
                raise ValueError("key: expected the name of an array of the NPZ file, found none")
        return self

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
class Derived:
    """What a table's columns are as features; ``present``, bool ``[lines]``: at least one cell holds something."""

    features: tuple[Feature, ...]
    missing: tuple[str, ...]
    present: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    features: tuple[Feature, ...]
    values: np.ndarray  # [lines]: number, code or place in the vocabulary
    missing: np.ndarray  # bool [lines]: the raw cell is missing
    varies: bool
    notes: tuple[str, ...] = ()


def feature_columns(
    config: ModalityConfig, table: Table, besides: Sequence[str | None], new: bool = False
) -> list[str]:
    """The columns of a modality that are features, in the file's order: none of ``besides``, the ids and the like.

    A table of ``new`` rows may lack columns that would be ignored.

    Raises:
        DataError: a column named in the settings is not in the file, or none is left.
    """
    named = {
        "columns": config.columns or [],
        "ignore": [] if new else config.ignore,
        "kinds": config.kinds,
        "vocabulary": config.vocabulary,
    }
    for setting, columns in named.items():
        table.require(columns, f"named in {setting}")
    left_out = {*besides, config.quality, *config.ignore}
    chosen = [c for c in table.frame.columns if c not in left_out and (config.columns is None or c in config.columns)]
    if not chosen:
        others = ", ".join(sorted(filter(None, left_out)))
        raise DataError(f"{table.path}: expected at least one feature column, found none besides {others}")
    return chosen


def derive(config: ModalityConfig, table: Table, columns: list[str], used: np.ndarray) -> Derived:
    """Features of a table's columns; ``used``, bool ``[lines]``, marks the lines that the data set takes.

    Vocabularies are read off all lines, a category's last feature stands for what is missing or outside the vocabulary.

    Raises:
        DataError: a cell does not fit its column's kind, or a column never varies.
    """
    kinds = {c: config.kinds.get(c, "category" if c in config.vocabulary else "numeric") for c in columns}
    missing = spelled(config.missing, [table.frame[c] for c in columns if kinds[c] != "numeric"])
    found, notes = _without_constants(config, table, _columns(config, table, kinds, missing), used)
    notes += tuple(note for column in found.values() for note in column.notes)
    present = ~np.logical_and.reduce([column.missing for column in found.values()])
    features = [feature for column in found.values() for feature in _marked(column.features, column, used & present)]
    if config.indicators:
        for name, column in found.items():
            if column.features[0].kind in ("numeric", "binary") and column.missing[used].any():
                indicator = Feature(f"{name} missing", "indicator", name)
                features += _marked((indicator,), column, used & present)
    _check_names(table, features)
    return Derived(tuple(features), missing, present, notes)


def read_quality(config: ModalityConfig, table: Table) -> np.ndarray:
    """The quality of each line, float32 ``[lines]``; 1 where it is not told.

    Raises:
        DataError: there is no such column, or a cell is no number in [0, 1].
    """
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


def _marked(features: tuple[Feature, ...], column: _Column, lines: np.ndarray) -> list[Feature]:
    """The features, knowing whether cells are missing in these lines, or count as unknown, which is the same there."""
    category = column.features[0].kind == "category"
    missing = column.values == len(column.features) - 1 if category else column.missing
    return [replace(feature, gaps=bool(missing[lines].any())) for feature in features]


def _columns(
    config: ModalityConfig, table: Table, kinds: Mapping[str, str], missing: tuple[str, ...]
) -> dict[str, _Column]:
    numeric = [c for c, kind in kinds.items() if kind == "numeric"]
    values, observed = read_numbers(table, numeric, missing, features=True)
    made = {c: _numeric(c, values[:, i], observed[:, i]) for i, c in enumerate(numeric)}
    for column, kind in kinds.items():
        if kind == "binary":
            made[column] = _binary(config, table, column, missing)
        elif kind == "category":
            made[column] = _category(config, table, column, missing)
    return {column: made[column] for column in kinds}


def _numeric(column: str, values: np.ndarray, observed: np.ndarray) -> _Column:
    present = values[observed]
    varies = bool(len(present) and present.min() != present.max())
    return _Column((Feature(column, "numeric", column),), values, ~observed, varies)


def _binary(config: ModalityConfig, table: Table, column: str, missing: tuple[str, ...]) -> _Column:
    """0 and 1: as they are, as declared, or in the order of the words."""
    words = words_of(table.frame[column], missing)
    found = in_order(words)
    declared = [spelling(value, found) for value in config.vocabulary.get(column, [])]
    values = declared or (["0", "1"] if set(found) <= {"0", "1"} else found)
    for row, word in enumerate(words):
        if word is not None and word not in values[:2]:
            expected = " or ".join(map(quoted, values[:2]))
            raise DataError(f"{table.place(row, column)}: expected {expected} in a binary column, found {quoted(word)}")
    own = values == ["0", "1"] or len(values) < 2  # of fewer than two words the column is constant: it is not kept
    zero, one = (None, None) if own else values[:2]
    codes = np.array([float(word == values[-1]) for word in words], dtype=np.float32)
    feature = Feature(column, "binary", column, one, zero)
    return _Column((feature,), codes, np.array([word is None for word in words]), len(found) == 2)


def _category(config: ModalityConfig, table: Table, column: str, missing: tuple[str, ...]) -> _Column:
    words = words_of(table.frame[column], missing)
    found = in_order(words)
    declared = [spelling(value, found) for value in config.vocabulary.get(column, [])]
    if not declared and len(found) > LARGEST_VOCABULARY:
        raise DataError(
            f"{table.path}: column {column!r}: expected at most {LARGEST_VOCABULARY} categories, found {len(found)} "
            "(leave it out with ignore, or declare its vocabulary)"
        )
    vocabulary = [word for word in dict.fromkeys(declared or found) if word != UNKNOWN]
    place = {word: i for i, word in enumerate(vocabulary)}
    slots = np.array([place.get(word, len(vocabulary)) for word in words])
    features = tuple(Feature(f"{column}={word}", "category", column, word) for word in [*vocabulary, UNKNOWN])
    outside = sum(word is not None and word != UNKNOWN and word not in place for word in words)
    note = f"{table.name}: column {column!r}: {outside} cells outside the declared vocabulary count as {UNKNOWN}"
    missed = np.array([word is None for word in words])
    return _Column(features, slots, missed, len(np.unique(slots)) > 1, (note,) if outside else ())


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
            f"{table.path}: column {quoted(constant[0])}: expected values that vary, found {found}{more} "
            "(leave it out with ignore, or set drop_constant: true)"
        )
    return columns, ()


def _constant(column: _Column, used: np.ndarray) -> bool:
    rows = used & ~column.missing if column.features[0].kind != "category" else used
    values = column.values[rows]
    return len(values) == 0 or bool((values == values[0]).all())


def _check_names(table: Table, features: Sequence[Feature]) -> None:
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise DataError(
                f"{table.path}: column {quoted(feature.source)}: expected feature names once, "
                f"found {quoted(feature.name)} again"
            )
        seen.add(feature.name)
