"""Names of modalities and tasks, the same rule for every domain whose settings choose them."""

from __future__ import annotations

import re
from typing import TypeVar

RESERVED = ("id", "attention", "quality", "record")
"""What rows and answers of a served model hold beside modalities and tasks."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

Value = TypeVar("Value")


def usable_names(named: dict[str, Value]) -> dict[str, Value]:
    """``named`` as it is: its names become parts of file paths and of the names of metrics and parameters.

    Raises:
        ValueError: a name that is not letters, digits, ``_`` and ``-`` after a letter, or one of :data:`RESERVED`.
    """
    for name in named:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected names of letters, digits, _ and -, a letter first, found {name!r}")
        if name in RESERVED:
            raise ValueError(
                f"expected none of the reserved names {', '.join(RESERVED)}, found {name!r}: choose another"
            )
    return named
