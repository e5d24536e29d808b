"""Bring your own data: a file per modality keyed by an id, a table of targets, settings that say what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from fusion_lab.config import Config
from fusion_lab.contracts import DataError, Modality, Provenance, Source, Spec
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.encoding import EncodedTable, ModalityConfig, encode_modality, feature_columns
from fusion_lab.data.labels import EncodedTask, TaskConfig, encode_task
from fusion_lab.data.names import usable_names
from fusion_lab.data.readers import Table, as_text, data_folder, file_sha256, read_ids, read_table


class TargetsConfig(Config):
    """The table of targets. Its ids are the rows of the data set, in its order."""

    file: str
    key: str | None = None
    id: str | None = None
    tasks: Annotated[dict[str, TaskConfig], AfterValidator(usable_names)] = Field(min_length=1)


class TableConfig(Config):
    """A data set in files. The targets' ids are its rows; a modality's rows with other ids are left out."""

    domain: Literal["table"] = "table"
    root: str = "."  # folder of the files; data=FOLDER on the command line
    id: str
    targets: TargetsConfig
    modalities: Annotated[dict[str, ModalityConfig], AfterValidator(usable_names)] = Field(min_length=1)
    group: str | None = None  # column of the targets table: rows of a group are never split
    ids: Literal["plain", "hash"] = "plain"  # hash: neither appears in any output; errors do name them
    leakage_auroc: float = Field(default=0.98, gt=0.5, le=1)  # a single feature above this is noted


@dataclass(frozen=True)
class _Joined:
    """A modality over the R rows of the data set."""

    modality: Modality
    inputs: Tensor  # [R,F]
    valid: Tensor  # [R]
    observed: Tensor  # [R,F]
    quality: Tensor  # [R]
    notes: tuple[str, ...]


def load(config: TableConfig) -> ArrayDataset:
    """Reads, joins, encodes and checks the files. Values keep their units: scaling is fitted per fold, elsewhere.

    Raises:
        DataError: a file, a row or a column that cannot be used.
    """
    root = data_folder(config.root)
    targets = config.targets
    id_column = targets.id or config.id
    table = read_table(root, targets.file, targets.key, [n for n in (id_column, config.group) if n])
    ids = read_ids(table, id_column)
    tasks = {name: encode_task(name, task, table) for name, task in targets.tasks.items()}
    tables = _read_modalities(root, config, table)
    joined = {name: _join(name, config, tables[name], table, ids) for name in config.modalities}
    notes = tuple(note for part in (*joined.values(), *tasks.values()) for note in part.notes)
    dataset = _assemble(config, table, ids, joined, tasks, _provenance([table, *tables.values()], notes))
    where = {name: t.path for name, t in tables.items()}
    where |= {name: f"{table.path}: column {task.column!r}" for name, task in targets.tasks.items()}
    noticed = check_dataset(dataset, where, config.leakage_auroc)
    return replace(dataset, provenance=Provenance(dataset.provenance.sources, notes + noticed))


def spec(config: TableConfig) -> Spec:
    """What the files hold: widths and vocabularies come from the data, so they are read."""
    return load(config).spec


def _read_modalities(root: Path, config: TableConfig, targets: Table) -> dict[str, Table]:
    """Each modality's table; one that several modalities share is read once."""
    read: dict[tuple[str, str | None, tuple[str, ...]], Table] = {}
    tables = {}
    for name, modality in config.modalities.items():
        companions = tuple(n for n in (modality.id or config.id, modality.quality) if n)
        place = (modality.file, modality.key, companions)
        if place not in read:
            same = (modality.file, modality.key) == (config.targets.file, config.targets.key)
            read[place] = targets if same else read_table(root, *place)
        tables[name] = read[place]
    return tables


def _join(name: str, config: TableConfig, table: Table, targets: Table, ids: np.ndarray) -> _Joined:
    modality = config.modalities[name]
    id_column = modality.id or config.id
    found = read_ids(table, id_column)
    row_of = {identifier: row for row, identifier in enumerate(ids)}
    place = np.array([row_of.get(identifier, -1) for identifier in found])
    used = place >= 0
    if not used.any():
        raise DataError(
            f"{table.path}: column {id_column!r}: expected ids of {targets.path} (such as {_some(ids)}), "
            f"found none of them but {_some(found)}"
        )
    columns = feature_columns(modality, table, id_column)
    _refuse_targets(name, config, table, targets, columns)
    encoded = encode_modality(modality, table, columns, used)
    return _scatter(name, table, encoded, place, len(ids))


def _scatter(name: str, table: Table, encoded: EncodedTable, place: np.ndarray, rows: int) -> _Joined:
    """The table's rows at their places among the data set's; a row whose cells are all empty counts as absent."""
    used = place >= 0
    filled = used & encoded.present
    valid = np.zeros(rows, dtype=bool)
    valid[place[filled]] = True
    inputs, observed = (
        np.zeros((rows, len(encoded.features)), np.float32),
        np.zeros((rows, len(encoded.features)), bool),
    )
    inputs[place[filled]], observed[place[filled]] = encoded.values[filled], encoded.observed[filled]
    quality = np.ones(rows, np.float32)
    quality[place[filled]] = encoded.quality[filled]
    counts = {
        f"{table.name}: {{}} of {len(place)} rows left out: their ids are not among the targets": (~used).sum(),
        f"{table.name}: {{}} rows hold nothing but empty cells and count as absent": (used & ~filled).sum(),
    }
    notes = (*encoded.notes, *(text.format(count) for text, count in counts.items() if count))
    parts = [torch.from_numpy(a) for a in (inputs, valid, observed, quality)]
    return _Joined(Modality(name, "vector", encoded.features), *parts, notes=notes)


def _refuse_targets(name: str, config: TableConfig, table: Table, targets: Table, columns: list[str]) -> None:
    """A target among the features, by its name: in the same file surely, in another one most likely."""
    for task, settings in config.targets.tasks.items():
        if settings.column in columns:
            same = "" if table.path == targets.path else f" in {targets.path}"
            raise DataError(
                f"{table.path}: column {settings.column!r}: expected a feature of modality {name!r}, "
                f"found the target of task {task!r}{same} (leave it out with ignore)"
            )


def _assemble(
    config: TableConfig,
    table: Table,
    ids: np.ndarray,
    joined: Mapping[str, _Joined],
    tasks: Mapping[str, EncodedTask],
    provenance: Provenance,
) -> ArrayDataset:
    group = _group(config.group, table) if config.group else None
    if config.ids == "hash":
        salt = hashlib.sha256(b"ids" + table.file.read_bytes()).digest()
        ids, group = _hashed(salt, ids), None if group is None else _hashed(salt, group)
    return ArrayDataset.checked(
        spec=Spec(tuple(j.modality for j in joined.values()), tuple(t.task for t in tasks.values())),
        ids=ids,
        inputs={name: j.inputs for name, j in joined.items()},
        valid={name: j.valid for name, j in joined.items()},
        observed={name: j.observed for name, j in joined.items()},
        quality={name: j.quality for name, j in joined.items()},
        targets={name: torch.from_numpy(t.values) for name, t in tasks.items()},
        known={name: torch.from_numpy(t.known) for name, t in tasks.items()},
        provenance=provenance,
        group=group,
    )


def _group(column: str, table: Table) -> np.ndarray:
    groups = as_text(table.column(column, "the groups"))
    for row, group in enumerate(groups):
        if group is None:
            raise DataError(f"{table.place(row, column)}: expected a group, found an empty cell")
    return groups.astype(str)


def _hashed(salt: bytes, names: np.ndarray) -> np.ndarray:
    """Sixteen hexadecimal digits per name. Salted with the targets file: who lacks it cannot try ids out."""
    digests = {name: hashlib.sha256(salt + name.encode()).hexdigest()[:16] for name in set(names.tolist())}
    assert len(set(digests.values())) == len(digests), "two names with one hash"
    return np.array([digests[name] for name in names.tolist()])


def _provenance(tables: list[Table], notes: tuple[str, ...]) -> Provenance:
    hashes = {file: file_sha256(file) for file in {table.file for table in tables}}
    sources = {table.name: Source(table.name, hashes[table.file], len(table.frame)) for table in tables}
    return Provenance(tuple(sources.values()), notes)


def _some(ids: np.ndarray) -> str:
    return ", ".join(map(repr, ids[:3].tolist()))
