"""Cells as text: what stands for a missing one, how ids and categories are compared, how errors repeat them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from fusion_lab.config import nearest

MISSING = frozenset({"", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL"})
"""What an empty cell looks like. ``None`` and ``none`` are not among them: they are names of real categories."""

LONGEST_SHOWN = 40
"""Characters of a cell that an error repeats."""

_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def as_text(cells: pd.Series) -> np.ndarray:
    """Cells in the form in which ids and categories are compared, object ``[rows]``; ``None`` where missing.

    >>> as_text(pd.Series([" a ", 1.0, "2.0", True, float("nan"), "NA"], dtype=object)).tolist()
    ['a', '1', '2', 'true', None, None]
    """
    return np.array([cell_text(cell) for cell in cells.tolist()], dtype=object)


def cell_text(cell: object) -> str | None:
    """One cell as trimmed text, whole numbers without fraction, truth values in lower case; ``None`` where missing."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return None
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", errors="replace")
    text = str(cell).strip()
    if text in MISSING:
        return None
    whole = _WHOLE.fullmatch(text)
    if whole:
        return whole.group(1)
    return text.lower() if text.lower() in ("true", "false") else text


def clipped(cell: object) -> str:
    """A cell as an error repeats it: in one line, the end of a long one left out.

    >>> clipped("two\\nlines"), clipped("1" * 400)
    ('two lines', '1111111111111111111111111111111111111...')
    """
    text = " ".join(str(cell).splitlines())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def quoted(word: object) -> str:
    """A text cell, or a name, in an error: quoted, and clipped."""
    return repr(clipped(word))


def suggest(word: str, known: list[str]) -> str:
    """The nearest known name, or the first few of many."""
    hint = nearest(word, known)
    return (
        hint
        if len(known) <= 20 or "did you mean" in hint
        else f" (known: {', '.join(known[:8])}, ... {len(known)} in all)"
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
