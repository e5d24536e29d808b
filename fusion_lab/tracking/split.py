"""``folds.json``: how the rows behind a run's predictions were split, so that runs can be compared without the data."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from fusion_lab.contracts import DataError
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.tracking.runs import json_bytes

FILE = "folds.json"


def facts_bytes(facts: FoldFacts) -> bytes:
    """The file's content."""
    return json_bytes(asdict(facts))


def read_facts(content: bytes) -> FoldFacts:
    """What :func:`facts_bytes` wrote; keys of later versions are left out.

    Raises:
        DataError: something else.
    """
    known = {field.name for field in fields(FoldFacts)}
    told: dict[str, Any] = {}
    try:
        told = {n: tuple(v) if isinstance(v, list) else v for n, v in json.loads(content).items() if n in known}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{FILE}: expected facts of a split, found {error}") from None
    return FoldFacts(**told)
