"""``predict``: a registered model's answers to the rows of a file, or of a folder laid out as its training data."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusion_lab.config import validate
from fusion_lab.contracts import DataError, UserError
from fusion_lab.data import DOMAINS
from fusion_lab.data.raw import Records
from fusion_lab.data.readers import read_table
from fusion_lab.jobs.progress import Progress
from fusion_lab.serving.answers import predict
from fusion_lab.serving.intake import ID, read_rows
from fusion_lab.serving.package import Package
from fusion_lab.tracking.registry import Registry
from fusion_lab.tracking.store import Store

SEPARATOR = "."
TABLES = (".csv", ".tsv", ".parquet", ".pq")
WRITERS = (".csv", ".parquet", ".jsonl")


def run(
    model: str, input: str, output: str = "predictions.csv", attention: bool = False, tracking_uri: str | None = None
) -> Path:
    """Writes a line per row of ``input``, whole or not at all.

    ``model`` is ``name@champion``, ``name/3`` or ``name``. ``input`` is a table with columns
    ``<modality>.<column>``, a file of JSON lines with a record each, or a folder with files as the model's experiment
    describes them, targets not needed.
    """
    target = Path(output)
    if target.suffix not in WRITERS:
        raise UserError(f"{target}: expected an output that ends in {', '.join(WRITERS)}, found {target.suffix!r}")
    if not target.resolve().parent.is_dir():
        raise UserError(f"{target}: expected a folder to write to, found no {target.parent}")
    _refuse_input(target, Path(input))
    with Progress() as progress, Store.open(tracking_uri) as store, tempfile.TemporaryDirectory() as scratch:
        registry = Registry(store)
        version = registry.find(model)
        package = Package.load(package_folder(registry.download(version, Path(scratch))))
        progress.line(f"{version.name} version {version.version}: {package.label}")
        records = read_input(Path(input), package)
        progress.line(f"{input}: {len(records)} rows, modalities: {', '.join(records.modalities)}")

        answers = predict(package, records, attention, progress.track("rows", len(records)))
        answers.insert(0, ID, records.ids)
        write_answers(answers, target)
        progress.line(f"wrote {len(answers)} rows to {target}")
    return target


def _refuse_input(target: Path, given: Path) -> None:
    """Nobody's rows are written over."""
    inside = given.is_dir() and target.exists() and target.resolve().parent == given.resolve()
    if target.resolve() == given.resolve() or inside:
        raise UserError(f"{target}: expected an output that is no input, found a file of {given}")


def package_folder(model: Path) -> Path:
    """The package inside MLflow's model directory."""
    found = sorted(model.rglob("model.json"))
    if not found:
        raise UserError(f"{model}: expected a model of fusion_lab, found another kind of model")
    return found[0].parent


def read_input(path: Path, package: Package) -> Records:
    """Raw rows of a file or folder.

    Raises:
        DataError: it cannot be read, or does not fit the model.
    """
    if path.is_dir():
        return _from_folder(path, package)
    if path.suffix == ".jsonl":
        return _named(read_rows(_json_lines(path), package.spec), _json_lines(path))
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


def _json_lines(path: Path) -> list[Mapping[str, Any]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file of JSON lines, found: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}: line {number}: expected JSON, found: {error}") from None
    if not rows:
        raise DataError(f"{path}: expected at least one line, found none")
    return rows


def _from_table(path: Path, package: Package) -> Records:
    """Vectors as columns ``<modality>.<column>``; a modality whose cells are all empty in a row is missing there."""
    table = read_table(path.parent, path.name)
    vectors = {m.name: m for m in package.spec.modalities if m.length is None}
    by_modality: dict[str, list[str]] = {}
    for column in table.frame.columns:
        name, dot, _ = str(column).partition(SEPARATOR)
        if not dot and column == ID:
            continue
        if name not in vectors:
            known = ", ".join(f"{n}{SEPARATOR}<column>" for n in vectors) or "none: give JSON lines or a folder"
            raise DataError(f"{path}: column {column!r}: expected {known}, found no vector modality {name!r}")
        by_modality.setdefault(name, []).append(str(column))
    cells = {name: _cells(table.frame, columns) for name, columns in by_modality.items()}
    rows: list[dict[str, Any]] = []
    for place in range(len(table.frame)):
        row: dict[str, Any] = {name: lines[place] for name, lines in cells.items() if lines[place]}
        if ID in table.frame.columns:
            row[ID] = table.frame[ID].iloc[place]
        rows.append(row)
    return _named(read_rows(rows, package.spec), rows)


def _cells(frame: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Per row its cells by the column's own name, empty ones as ``None``; nothing where all are empty."""
    own = [column.partition(SEPARATOR)[2] for column in columns]
    part = frame[columns].astype(object)
    part = part.where(part.notna(), None)
    lines = [dict(zip(own, line, strict=True)) for line in part.itertuples(index=False, name=None)]
    return [line if any(cell not in (None, "") for cell in line.values()) else {} for line in lines]


def _named(records: Records, rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> Records:
    """The records under the ids that were given, or the numbers of their rows."""
    ids = [str(row[ID]) if row.get(ID) is not None else str(number) for number, row in enumerate(rows, 1)]
    return Records(np.array(ids, dtype=str), records.modalities)


WRITE: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: frame.map(_as_cell).to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.map(_as_plain).to_parquet(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, force_ascii=False),
}


def write_answers(answers: pd.DataFrame, target: Path) -> None:
    """Writes the table whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    half = target.with_name(f"{target.name}.part")
    try:
        WRITE[target.suffix](answers, half)
        os.replace(half, target)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise UserError(f"{target}: expected a file that can be written, found: {error.strerror}") from None


def _as_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _as_plain(value: Any) -> Any:
    """Attention is nested unevenly, which parquet does not take: as JSON text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
