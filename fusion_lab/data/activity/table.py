"""Sensor recordings in tables: one parquet or CSV file per subject, or files of several subjects each."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.batches import File, Wanted, block_of, subjects_of
from fusion_lab.data.activity.recordings import (
    SENSOR_COLUMNS,
    Block,
    Layout,
    Part,
    Taken,
    as_samples,
    called,
    gather,
    require_columns,
)
from fusion_lab.data.activity.settings import ACTIVITY, SUBJECT, TIME, ActivityConfig
from fusion_lab.data.activity.text import with_header
from fusion_lab.data.readers import clipped, existing_file, file_kind, first_line, parquet_names, quoted, suggest

ROWS_AT_ONCE = 1 << 14


class Parquet(NamedTuple):
    """A parquet file. A group of its rows that holds none of a subject's is not read for it."""

    path: Path
    names: tuple[str, ...]

    def place(self, row: int, column: str) -> str:
        """Where the cell of a row is."""
        return f"{self.path}: row {row + 1}, column {quoted(column)}"

    def subjects(self, column: str) -> list[str | None]:
        """The subjects that a column tells of, in the order in which they come; ``None`` for an empty cell."""
        with self._opened() as file:
            _refuse_nested(self.path, column, file.schema_arrow.field(column).type)
            groups = [self._owners(file, group, column) for group in range(file.num_row_groups)]
        return list(dict.fromkeys(name for names in groups for name in names))

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        """Its rows, in order.

        Raises:
            DataError: the file is damaged, or a column holds no numbers.
        """
        with self._opened() as file:
            _refuse_words(self.path, file.schema_arrow, wanted)
            first = 0
            for group in range(file.num_row_groups):
                alone = wanted.owner is None or wanted.subject is None
                if alone or wanted.subject in self._owners(file, group, str(wanted.owner)):
                    batches = file.iter_batches(ROWS_AT_ONCE, [group], list(wanted.all), use_threads=False)
                    yield from _numbered(batches, wanted, first)
                first += file.metadata.row_group(group).num_rows

    @contextmanager
    def _opened(self) -> Generator[pyarrow.parquet.ParquetFile]:
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path}: expected a readable parquet file, found: {first_line(error)}") from None

    def _owners(self, file: pyarrow.parquet.ParquetFile, group: int, column: str) -> list[str | None]:
        cells = file.read_row_group(group, [column], use_threads=False).column(0).combine_chunks()
        codes, names = subjects_of(cells)
        return [names[code] for code in np.unique(codes)]


def _numbered(batches: Iterable[pa.RecordBatch], wanted: Wanted, first: int) -> Iterator[Block]:
    """Batches that lie one behind the other, from row ``first`` of the file on."""
    for batch in batches:
        yield block_of(batch, wanted, first)
        first += batch.num_rows


def table_files(root: Path) -> list[Path]:
    """The parquet and CSV files in ``root``, or ``root`` where it is one."""
    files = [root] if root.is_file() else sorted(root.iterdir()) if root.is_dir() else []
    return [file for file in files if file.is_file() and file_kind(file.name) in ("csv", "parquet")]


def table_layout(config: ActivityConfig, root: Path, labelled: bool) -> Layout:
    """Every subject of every file.

    Raises:
        DataError: there is no file, a column is missing, or a subject is in two files.
    """
    paths = table_files(root)
    if not paths:
        raise DataError(f"{root}: expected parquet or CSV files, found none")
    files = [_file(config, path, labelled) for path in paths]
    present = [[name for name in SENSOR_COLUMNS if called(config, name) in file.names] for file in files]
    columns = tuple(name for name in present[0] if all(name in names for names in present))
    some = [name for name in SENSOR_COLUMNS if name not in columns and any(name in names for names in present)]
    notes = (f"columns that only some files have are left out: {', '.join(some)}",) if some else ()
    owners = _owners(config, files)
    parts = [Part(s, (f.path,), partial(_read, config, f, s, columns, labelled)) for s, f in owners.items()]
    return Layout(columns, tuple(parts), notes)


def _owners(config: ActivityConfig, files: list[File]) -> dict[str, File]:
    """The file of each subject."""
    owners: dict[str, File] = {}
    column = called(config, SUBJECT)
    for file in files:
        named = file.subjects(column)
        if None in named or not named:
            found = "an empty cell" if named else "no row"
            raise DataError(f"{file.path}: column {quoted(column)}: expected a subject in every row, found {found}")
        for subject in map(str, named):
            if not subject.isprintable():
                raise DataError(f"{file.path}: column {quoted(column)}: expected names in one line, found {subject!r}")
            if subject in owners:
                found = f"found {quoted(subject)} again (first in {owners[subject].path})"
                raise DataError(f"{file.path}: expected each subject in one file, {found}")
            owners[subject] = file
    return owners


def _read(config: ActivityConfig, file: File, subject: str, columns: tuple[str, ...], labelled: bool) -> Taken:
    values = tuple(called(config, name) for name in columns)
    activity = called(config, ACTIVITY) if labelled else None
    wanted = Wanted(called(config, TIME), activity, values, called(config, SUBJECT), subject)
    track = gather(file.blocks(wanted), columns, lambda row, n: file.place(row, called(config, n)), labelled)
    return as_samples(f"{file.path}: subject {subject}", subject, [track], config, columns)


def _file(config: ActivityConfig, path: Path, labelled: bool) -> File:
    existing_file(path.parent, path.name)
    file = with_header(path) if file_kind(path.name) == "csv" else Parquet(path, parquet_names(path))
    for canonical in (SUBJECT, TIME, *([ACTIVITY] if labelled else [])):
        name = called(config, canonical)
        if name not in file.names:
            meant = "" if name == canonical else f" ({canonical})"
            hint = suggest(name, [clipped(other) for other in file.names])
            raise DataError(f"{path}: expected a column {name!r}{meant}, found none{hint}")
    require_columns(str(path), config, file.names)
    return file


def _refuse_words(path: Path, schema: pa.Schema, wanted: Wanted) -> None:
    for name in wanted.all:
        kind = schema.field(name).type
        numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
        if name != wanted.owner and not numbers:
            raise DataError(f"{path}: column {quoted(name)}: expected numbers, found type {kind}")


def _refuse_nested(path: Path, name: str, kind: pa.DataType) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(kind):
        raise DataError(f"{path}: column {quoted(name)}: expected a subject in every row, found type {kind}")
