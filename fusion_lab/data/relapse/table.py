"""A table of daily features, one row per day of a person: ours, that ``prepare`` writes, or anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd

from fusion_lab.config import nearest
from fusion_lab.contracts import DataError
from fusion_lab.data.cells import listed, read_numbers
from fusion_lab.data.labels import EncodedTask, TaskConfig, encode_task
from fusion_lab.data.names import usable_names
from fusion_lab.data.readers import Table, as_text, cell_text, clipped, quoted, read_ids
from fusion_lab.data.relapse.settings import (
    BETWEEN,
    DATE_COLUMN,
    DAY_COLUMN,
    FURTHEST,
    SEQUENCE_COLUMN,
    SPLIT_COLUMN,
    SPLITS,
    SUBJECT_COLUMNS,
    WEEKDAY,
    WEEKDAYS,
    DayLabel,
    Name,
    RelapseConfig,
)
from fusion_lab.data.relapse.windows import Days, split_of


class _Whose(NamedTuple):
    """What says which day a row is, and the columns that say it."""

    patient: np.ndarray  # str [rows]
    sequence: np.ndarray  # str [rows]
    split: np.ndarray  # str [rows]
    day: np.ndarray  # int64 [rows]
    columns: tuple[str, ...]

    @property
    def order(self) -> np.ndarray:
        """Rows by patient, sequence and day, int [rows]."""
        return np.lexsort((self.day, self.sequence, self.patient))


def read_days(config: RelapseConfig, table: Table, labelled: bool = True) -> tuple[Days, tuple[str, ...]]:
    """The days of a table, and notes on them. Without ``labelled``, no column of labels is looked for.

    Raises:
        DataError: a column that is missing, a cell that cannot be used, a day that is there twice.
    """
    whose = _whose(config, table)
    tasks = [_task(name, label, table) for name, label in config.labels.items()] if labelled else []
    columns = _columns(config, table, [*whose.columns, *([config.weekday] if config.weekday else [])])
    zeros = set(config.zeros_missing)
    table.require(config.zeros_missing, "zeros that mean missing")
    order = whose.order
    _refuse_twice(table, whose, order)
    values, observed = {}, {}
    for name, own in columns.items():
        numbers, seen = read_numbers(table, own, ())
        seen &= ~(np.isin(own, list(zeros)) & (numbers == 0))
        values[name], observed[name] = np.where(seen, numbers, np.float32(0.0))[order], seen[order]
    features = {name: tuple(c.removeprefix(f"{name}{BETWEEN}") for c in own) for name, own in columns.items()}
    if config.weekday is not None and WEEKDAY in features:
        raise DataError(f"{table.path}: expected no modality {WEEKDAY!r} beside data.weekday, found one")
    if config.weekday is not None and WEEKDAY in (config.use or (WEEKDAY,)):
        features[WEEKDAY] = WEEKDAYS
        values[WEEKDAY] = np.eye(len(WEEKDAYS), dtype=np.float32)[_weekdays(table, config)[order]]
        observed[WEEKDAY] = np.ones_like(values[WEEKDAY], dtype=bool)
    days = Days(
        patient=whose.patient[order],
        sequence=whose.sequence[order],
        split=whose.split[order],
        day=whose.day[order],
        features=features,
        values=values,
        observed=observed,
        tasks=tuple(encoded.task for encoded in tasks),
        targets={encoded.task.name: encoded.values[order] for encoded in tasks},
        known={encoded.task.name: encoded.known[order] for encoded in tasks},
    )
    return days, tuple(note for encoded in tasks for note in encoded.notes)


def _whose(config: RelapseConfig, table: Table) -> _Whose:
    there = [str(name) for name in table.frame.columns]
    subject = config.subject or next((name for name in SUBJECT_COLUMNS if name in there), SUBJECT_COLUMNS[0])
    patient = read_ids(table, subject, once=False)
    day_column = config.day or (DAY_COLUMN if config.date is None and DAY_COLUMN in there else None)
    if day_column is None:
        day_column = config.date or DATE_COLUMN
        if config.date is None and day_column not in there:
            expected = f"expected a column {DAY_COLUMN!r} or {DATE_COLUMN!r} (the day of each row)"
            raise DataError(f"{table.path}: {expected}, found none (name it with data.day or data.date)")
        day = _since_first(patient, _dates(table, day_column))
    else:
        day = _whole_numbers(table, day_column)
    sequence_column = _optional(config.sequence, SEQUENCE_COLUMN, there)
    split_column = _optional(config.split, SPLIT_COLUMN, there)
    sequence = _words(table, sequence_column, "the sequences") if sequence_column else np.full(len(day), "")
    split = _splits(table, split_column) if split_column else np.array([split_of(s) for s in sequence.tolist()])
    used = filter(None, (subject, day_column, sequence_column, split_column))
    return _Whose(patient, sequence, split, day, tuple(used))


def _optional(given: Name, usual: str, there: Sequence[str]) -> str:
    """The column that is named, the usual one where it is there, or none."""
    return given if given is not None else usual if usual in there else ""


def _words(table: Table, column: str, role: str) -> np.ndarray:
    words = as_text(table.column(column, role))
    for row, word in enumerate(words):
        if word is None:
            raise DataError(f"{table.place(row, column)}: expected a name ({role}), found an empty cell")
    return words.astype(str)


def _splits(table: Table, column: str) -> np.ndarray:
    """Words of the split; an empty cell is none."""
    words = np.array([word or "" for word in as_text(table.column(column, "the split"))])
    odd = np.flatnonzero(~np.isin(words, ("", *SPLITS)))
    if len(odd):
        row = int(odd[0])
        expected = f"expected {', '.join(SPLITS)} or an empty cell"
        raise DataError(f"{table.place(row, column)}: {expected}, found {quoted(words[row])}")
    return words


def _whole_numbers(table: Table, column: str, role: str = "the day") -> np.ndarray:
    cells = table.column(column, f"{role} of each row")
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    odd = np.flatnonzero(~(np.abs(numbers) <= FURTHEST) | (numbers != np.round(numbers)))
    if len(odd):
        row = int(odd[0])
        found = "an empty cell" if cell_text(cells.iloc[row]) is None else clipped(cells.iloc[row])
        raise DataError(
            f"{table.place(row, column)}: expected a whole number up to {FURTHEST:,}, {role}, found {found}"
        )
    return numbers.astype(np.int64)


def _weekdays(table: Table, config: RelapseConfig) -> np.ndarray:
    """0 Monday to 6 Sunday, int64 [rows]."""
    column = config.weekday or ""
    if _holds_dates(table.column(column, "the weekday of each row")):
        return (_dates(table, column) - 1) % len(WEEKDAYS)  # the proleptic calendar begins with a Monday
    days = _whole_numbers(table, column, "the weekday")
    odd = np.flatnonzero((days < 0) | (days >= len(WEEKDAYS)))
    if len(odd):
        row = int(odd[0])
        raise DataError(f"{table.place(row, column)}: expected 0 (Monday) to 6 (Sunday), found {days[row]}")
    return days


def _holds_dates(cells: pd.Series) -> bool:
    """Whether the first cell that is filled is a date."""
    first = next((text for text in as_text(cells) if text is not None), "")
    try:
        datetime.fromisoformat(first)
    except ValueError:
        return False
    return not first.isdecimal()  # 20210524 is a number


def _dates(table: Table, column: str) -> np.ndarray:
    """Days of the calendar, int64 [rows]; the time of day is left out, and with a time zone it is the day there."""
    cells = table.column(column, "the date of each row")
    texts = as_text(cells)
    days = np.zeros(len(texts), np.int64)
    for row, text in enumerate(texts):
        try:
            days[row] = datetime.fromisoformat(text or "").toordinal()
        except ValueError:
            found = "an empty cell" if text is None else quoted(text)
            raise DataError(
                f"{table.place(row, column)}: expected a date (such as 2021-05-24), found {found}"
            ) from None
    return days


def _since_first(patient: np.ndarray, date: np.ndarray) -> np.ndarray:
    """Days since each person's first one."""
    _, whose = np.unique(patient, return_inverse=True)
    first = np.full(whose.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, whose, date)
    return date - first[whose]


def _refuse_twice(table: Table, whose: _Whose, order: np.ndarray) -> None:
    before, after = order[:-1], order[1:]
    same = np.logical_and.reduce([of[before] == of[after] for of in (whose.patient, whose.sequence, whose.day)])
    if same.any():
        at = int(np.argmax(same))
        first, again = sorted((int(before[at]), int(after[at])))
        name = "/".join(filter(None, (whose.patient[again], whose.sequence[again])))
        found = f"day {whose.day[again]} again (first in {table.line(first)}; {int(same.sum())} such rows)"
        raise DataError(f"{table.place(again, whose.columns[1])}: expected each day of {name} once, found {found}")


def _columns(config: RelapseConfig, table: Table, taken: Sequence[str]) -> dict[str, list[str]]:
    """The columns of each modality that is kept."""
    if config.modalities is not None:
        columns: Mapping[str, list[str]] = {name: list(own) for name, own in config.modalities.items()}
        for name, own in columns.items():
            table.require(own, f"modality {name!r}")
    else:
        labels = {label.column for label in config.labels.values()}
        columns = _by_name(table, {*taken, *labels})
    for name in config.use or ():
        if name not in columns and not (name == WEEKDAY and config.weekday):
            raise DataError(
                f"{table.path}: expected modality {name!r} (data.use), found none{nearest(name, [*columns])}"
            )
    return {name: own for name, own in columns.items() if name in (config.use or columns)}


def _by_name(table: Table, taken: set[str | None]) -> dict[str, list[str]]:
    """Columns ``<modality>__<feature>``, in their order."""
    columns: dict[str, list[str]] = {}
    for column in map(str, table.frame.columns):
        name, between, feature = column.partition(BETWEEN)
        if between and name and feature and column not in taken:
            columns.setdefault(name, []).append(column)
    if not columns:
        found = listed([str(name) for name in table.frame.columns])
        expected = f"expected columns of features, named <modality>{BETWEEN}<feature>"
        raise DataError(f"{table.path}: {expected}, found {found} (or name them with data.modalities)")
    try:
        return usable_names(columns)
    except ValueError as error:
        raise DataError(f"{table.path}: columns of features: {error}") from None


def _task(name: str, label: DayLabel, table: Table) -> EncodedTask:
    """Labels, which are the negative value, the positive one or unknown."""
    assert label.column is not None
    classes = {str(label.negative): label.classes[0], str(label.positive): label.classes[1]}
    settings = TaskConfig(column=label.column, positive=label.positive, classes=classes, unknown=list(label.unknown))
    encoded = encode_task(name, settings, table)
    return replace(encoded, task=replace(encoded.task, auxiliary=label.auxiliary))
