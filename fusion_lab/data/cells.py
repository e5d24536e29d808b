"""Cells of a table as numbers or as words, and what stands for a missing one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from fusion_lab.contracts import DataError
from fusion_lab.data.readers import Table, as_text, cell_text, clipped, quoted

Scalar = str | int | float | bool
"""A value as a settings file writes it."""

# YAML reads an unquoted yes, no, on or off as a truth value; the column then still holds the word.
_TRUTH = {"true": ("true", "yes", "on"), "false": ("false", "no", "off")}


def read_numbers(
    table: Table, columns: Sequence[str], missing: Sequence[Scalar], features: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Numeric columns as float32 ``[rows, columns]``, and bool: where a cell holds something.

    ``features``: they are a modality's columns whose kinds the settings may declare, which an error then says.

    Raises:
        DataError: a cell is no number, or not finite as a 32-bit one.
    """
    frame = table.frame[list(columns)]
    values = np.empty(frame.shape)
    numeric = [
        i for i, dtype in enumerate(frame.dtypes) if pd.api.types.is_numeric_dtype(dtype) and dtype.kind in "biuf"
    ]
    values[:, numeric] = frame.iloc[:, numeric].to_numpy(dtype=np.float64, na_value=np.nan)
    for i in sorted(set(range(len(columns))) - set(numeric)):
        values[:, i] = _parse_numbers(table, columns[i], missing, features)
    observed = ~np.isnan(values) & ~np.isin(values, _numbers_among(missing))
    with np.errstate(over="ignore"):
        values = np.where(observed, values, 0.0).astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        found = clipped(frame.iloc[row, column])
        raise DataError(f"{table.place(int(row), columns[column])}: expected a finite number, found {found}")
    return values, observed


def _parse_numbers(table: Table, column: str, missing: Sequence[Scalar], feature: bool) -> np.ndarray:
    empty = {cell_text(value) for value in missing}
    values = np.full(len(table.frame), np.nan)
    for row, cell in enumerate(table.frame[column].tolist()):
        if not empty and isinstance(cell, str) and (plain := as_number(cell)) is not None:
            values[row] = plain  # most cells by far, without a detour over their text
            continue
        word = cell_text(cell)
        if word is None or word in empty:
            continue
        number = as_number(word)
        if number is None:
            hint = f" (a category is declared with kinds: {{{column}: category}})" if feature else ""
            raise DataError(f"{table.place(row, column)}: expected a number, found {quoted(word)}{hint}")
        values[row] = number
    return values


def as_number(word: str) -> float | None:
    """A text as a number, ``true`` and ``false`` as 1 and 0; ``None`` where it is none."""
    if word in ("true", "false"):
        return float(word == "true")
    try:
        number = float(word)
    except ValueError:
        return None
    return None if "_" in word or math.isnan(number) else number


def _numbers_among(values: Sequence[Scalar]) -> list[float]:
    numbers = (as_number(str(value)) for value in values if cell_text(value) not in _TRUTH)
    return [number for number in numbers if number is not None]


def words_of(cells: pd.Series, missing: Collection[str]) -> np.ndarray:
    """Cells as text, object ``[rows]``; ``None`` where empty or one of ``missing``, as they are spelled."""
    words = as_text(cells)
    words[np.fromiter((word in missing for word in words), bool, len(words))] = None
    return words


def spelled(values: Sequence[Scalar], columns: Iterable[pd.Series]) -> tuple[str, ...]:
    """Declared values as these columns spell them; one that stands for an empty cell anyway is left out."""
    texts = [text for value in values if (text := cell_text(value)) is not None]
    if not any(text in _TRUTH for text in texts):
        return tuple(dict.fromkeys(texts))
    found = [sorted({word for word in as_text(cells) if word is not None}) for cells in columns] or [[]]
    return tuple(dict.fromkeys(spelling(text, words) for text in texts for words in found))


def spelling(value: object, found: list[str]) -> str:
    """A declared value as the column spells it."""
    text = cell_text(value) or str(value)
    return next((word for word in _TRUTH.get(text, ()) if word in found), text)


def in_order(words: np.ndarray) -> list[str]:
    """Distinct values: numbers by size, then words by letters."""

    def key(word: str) -> tuple[bool, float, str]:
        number = as_number(word)
        return (number is None, number or 0.0, word)

    return sorted({word for word in words if word is not None}, key=key)


def listed(names: list[str]) -> str:
    """The first few of some names, for an error or a note."""
    shown = ", ".join(map(quoted, names[:6]))
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
