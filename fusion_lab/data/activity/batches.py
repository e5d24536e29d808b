"""Arrow's columns as rows of samples: what text and parquet files have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from fusion_lab.data.activity.recordings import Block
from fusion_lab.data.readers import as_text


class Wanted(NamedTuple):
    """Names that a file has for what is read of it; ``values`` in the order in which they are given back.

    With a ``subject``, a name, only the rows of which the column ``owner`` says so.
    """

    time: str
    activity: str | None
    values: tuple[str, ...]
    owner: str | None = None
    subject: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """Every column that is read."""
        return tuple(name for name in (self.time, self.activity, self.owner, *self.values) if name is not None)


class File(Protocol):
    """A file of samples with named columns that is read piece by piece."""

    @property
    def path(self) -> Path: ...

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns, in order."""
        ...

    def place(self, row: int, column: str) -> str:
        """Where the cell of a row, counted from 0, is, for the beginning of an error."""
        ...

    def subjects(self, column: str) -> list[str | None]:
        """The subjects that a column tells of, in the order in which they come; ``None`` for an empty cell."""
        ...

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """Its rows, in order.

        Raises:
            DataError: a line or a cell cannot be read.
        """
        ...


def block_of(batch: pa.RecordBatch, wanted: Wanted, first: int = 0) -> Block:
    """Arrow's columns as rows, of which the first is the ``first``-th of the file."""
    rows = np.arange(first, first + batch.num_rows)
    if wanted.owner is not None and wanted.subject is not None:
        codes, names = subjects_of(batch.column(wanted.owner))
        mine = np.array([name == wanted.subject for name in names], bool)[codes]
        batch, rows = (batch, rows) if mine.all() else (batch.filter(pa.array(mine)), rows[mine])
    activity = None if wanted.activity is None else _numbers(batch, wanted.activity)
    return Block(rows, _numbers(batch, wanted.time), activity, _values(batch, wanted.values))


def _values(batch: pa.RecordBatch, names: Sequence[str]) -> np.ndarray:
    """Columns side by side, float32 ``[n, names]``, NaN where null."""
    if names and all(batch.schema.field(name).type == pa.float32() for name in names):
        # one call that other threads need not wait for
        return batch.select(list(names)).to_tensor(null_to_nan=True, row_major=True).to_numpy()
    values = np.empty((batch.num_rows, len(names)), np.float32)
    with np.errstate(over="ignore"):  # what 32 bits do not hold is infinite, which is refused later
        for place, name in enumerate(names):
            values[:, place] = _numbers(batch, name)
    return values


def subjects_of(cells: pa.Array) -> tuple[np.ndarray, list[str | None]]:
    """The subject of each row as int [n] into names, and the names; an empty cell has the name ``None``."""
    encoded = cells if isinstance(cells, pa.DictionaryArray) else cells.dictionary_encode()
    names = [*as_text(encoded.dictionary.to_pandas()), None]
    return encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False).astype(int), names


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """One column, NaN where it is null: float32 as it is, anything else as float64."""
    numbers = batch.column(name).to_numpy(zero_copy_only=False)
    return numbers if numbers.dtype == np.float32 else numbers.astype(np.float64, copy=False)
