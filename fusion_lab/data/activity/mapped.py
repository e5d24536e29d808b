"""Arrays mapped from ``.npy`` files, whatever these hold; nothing is unpickled."""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.readers import first_line

_FAULTS = (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError)
"""What NumPy answers a file with that holds no array."""


def mapped(path: Path, expected: str) -> np.ndarray:
    """The array of a file, read-only.

    Raises:
        DataError: the file is missing or holds no array of plain numbers or texts; ``expected`` is said of it.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except _FAULTS as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise DataError(f"{path}: expected {expected}, found: {found}") from None
