"""Names that MLflow takes: of metrics, parameters and files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

LONGEST = 250
"""Characters of a key; MLflow refuses longer ones."""

PARAM_LENGTH, TAG_LENGTH = 6000, 8000
"""Characters of a value."""

_REFUSED = re.compile(r"[^\w.\- ]")  # MLflow takes ":" too, but not on Windows


def safe_part(name: str) -> str:
    """One part of a slashed name, without what MLflow refuses or reads as a path.

    >>> safe_part("death < 5 y / any cause")
    'death _ 5 y _ any cause'
    """
    part = _REFUSED.sub("_", name).strip() or "_"
    return part.replace(".", "_") if set(part) == {"."} else part


def safe_name(name: str) -> str:
    """A slashed name that MLflow takes as a key; a name that was fine stays as it is.

    >>> safe_name("fold3/val/relapse (2 y)/auroc")
    'fold3/val/relapse _2 y_/auroc'
    """
    safe = "/".join(safe_part(part) for part in name.split("/"))
    if len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def safe_parts(names: Iterable[str]) -> dict[str, str]:
    """``{name: its safe part}``, different for different names.

    >>> safe_parts(["a:b", "a/b"])
    {'a:b': 'a_b', 'a/b': 'a_b 2'}
    """
    safe: dict[str, str] = {}
    for name in names:
        part, number = safe_part(name), 1
        while (part if number == 1 else f"{part} {number}") in safe.values():
            number += 1
        safe[name] = part if number == 1 else f"{part} {number}"
    return safe


def truncated(text: str, limit: int) -> str:
    """The text, or its beginning and an ellipsis.

    >>> truncated("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"
