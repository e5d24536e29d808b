"""The table of every test row as a file, and what was imputed in a few lines of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa

from fusion_lab.tracking.predictions import parquet_bytes

MOST_CELLS = 2_000_000
"""Of a table that is written as text, about 20 MB; a larger one is a parquet file."""


def table_file(path: str, table: pd.DataFrame) -> tuple[str, Callable[[], bytes]]:
    """The path with the ending that the table's size asks for, and what makes the file's content."""
    if table.size <= MOST_CELLS:
        return f"{path}.csv", partial(_csv, table)
    return f"{path}.parquet", partial(_parquet, table)


def imputation_numbers(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`fusion_lab.report.confidence.confidence_dict` gave, without single rows."""
    every = payload["modalities"].items()
    return {name: {key: value for key, value in of.items() if key != "points"} for name, of in every}


def imputation_lines(payload: Mapping[str, Any]) -> list[str]:
    """One line for the modalities that were imputed."""
    told = [
        f"{name} {of['imputed']} of {of['missing']} ({of['confidence']['median']:.2f})"
        for name, of in payload["modalities"].items()
        if of["imputed"]
    ]
    head = f"imputed of those missing among {payload['rows']} test rows (median confidence)"
    return [f"{head}: {', '.join(told)}"] if told else []


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def _parquet(table: pd.DataFrame) -> bytes:
    return parquet_bytes(pa.Table.from_pandas(table, preserve_index=False))
