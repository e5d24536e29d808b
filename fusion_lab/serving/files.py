"""Files and folders of rows on their way in, and tables of answers on their way out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from fusion_lab.config import validate
from fusion_lab.contracts import DataError, UserError
from fusion_lab.data import DOMAINS
from fusion_lab.data.raw import Records
from fusion_lab.data.readers import read_table
from fusion_lab.serving.intake import ID, Place, read_rows
from fusion_lab.serving.package import Package

SEPARATOR = "."
TABLES = (".csv", ".tsv", ".parquet", ".pq")


def read_input(path: Path, package: Package) -> Records:
    """Raw rows of a file or folder.

    Raises:
        DataError: it cannot be read, or does not fit the model.
    """
    if path.is_dir():
        return _from_folder(path, package)
    if path.suffix == ".jsonl":
        numbers, rows = _json_lines(path)
        return read_rows(rows, package.spec, Place(str(path), "line", numbers))
    if path.suffix in TABLES:
        return _from_table(path, package)
    expected = f"expected a folder or a file that ends in {', '.join((*TABLES, '.jsonl'))}"
    raise DataError(f"{path}: {expected}, found {'none' if not path.exists() else repr(path.suffix)}")


def _from_folder(path: Path, package: Package) -> Records:
    section = {**package.experiment["data"], "root": str(path)}
    domain = DOMAINS[section["domain"]]
    if "root" not in domain.config.model_fields:
        raise DataError(f"{path}: expected a file, for domain {section['domain']!r} reads no folder")
    return domain.records(validate(domain.config, section, str(path)), labelled=False, spec=package.spec)


def _json_lines(path: Path) -> tuple[list[int], list[Mapping[str, Any]]]:
    """Numbers and contents of the lines that are not blank."""
    numbers, rows = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: expected a text file of JSON lines, found: {found}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_pairs_hook=_each_key_once))
            except (ValueError, RecursionError) as error:
                found = "objects nested too deep" if isinstance(error, RecursionError) else error
                raise DataError(f"{path}: line {number}: expected JSON, found: {found}") from None
            numbers.append(number)
    if not rows:
        raise DataError(f"{path}: expected at least one line, found none")
    return numbers, rows


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} given twice")
    return made


def _from_table(path: Path, package: Package) -> Records:
    """Vectors as columns ``<modality>.<column>``; a modality whose cells are all empty in a row is missing there."""
    table = read_table(path.parent, path.name)
    vectors = {m.name: m for m in package.spec.modalities if m.length is None}
    by_modality: dict[str, list[str]] = {}
    for column in table.frame.columns:
        name, dot, _ = str(column).partition(SEPARATOR)
        if not dot and column == ID:
            continue
        if not dot or name not in vectors:
            known = ", ".join(f"{n}{SEPARATOR}<column>" for n in vectors) or "none: give JSON lines or a folder"
            raise DataError(f"{path}: column {column!r}: expected {known}, found no vector modality of that name")
        by_modality.setdefault(name, []).append(str(column))
    cells = {name: _cells(table.frame, columns) for name, columns in by_modality.items()}
    rows: list[dict[str, Any]] = []
    for place in range(len(table.frame)):
        row: dict[str, Any] = {name: lines[place] for name, lines in cells.items() if lines[place]}
        if ID in table.frame.columns and pd.notna(name := table.frame[ID].iloc[place]):
            row[ID] = name.item() if hasattr(name, "item") else name
        rows.append(row)
    return read_rows(rows, package.spec, Place(str(path), table.unit, [int(n) for n in table.frame.index]))


def _cells(frame: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Per row its cells by the column's own name, empty ones as ``None``; nothing where all are empty."""
    own = [column.partition(SEPARATOR)[2] for column in columns]
    part = frame[columns].astype(object)
    part = part.where(part.notna(), None)
    lines = [dict(zip(own, line, strict=True)) for line in part.itertuples(index=False, name=None)]
    return [line if any(cell not in (None, "") for cell in line.values()) else {} for line in lines]


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: frame.map(_as_cell).to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.map(_as_plain).to_parquet(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(
        path, orient="records", lines=True, force_ascii=False, double_precision=15
    ),
}


def write_answers(answers: pd.DataFrame, target: Path) -> None:
    """Writes the table whole or not at all, also when it is interrupted.

    Raises:
        UserError: the file cannot be written.
    """
    half = target.with_name(f"{target.name}.part")
    try:
        WRITERS[target.suffix](answers, half)
        os.replace(half, target)
    except OSError as error:
        raise UserError(f"{target}: expected a file that can be written, found: {error.strerror}") from None
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)


def _as_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _as_plain(value: Any) -> Any:
    """Attention is nested unevenly, which parquet does not take: as JSON text. What units say at each step is even."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
