"""Features of molecules in tables: descriptors of the molecule, geometry and quantum mechanics of its conformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, Source
from fusion_lab.data.cells import in_order
from fusion_lab.data.molecules.columns import Columns, read_columns
from fusion_lab.data.molecules.packed import Bags, Vectors
from fusion_lab.data.molecules.parts import Featured, Part, conformers, descriptors
from fusion_lab.data.molecules.settings import ID_COLUMNS, SMILES_COLUMNS, SPLIT_COLUMN, MoleculesConfig
from fusion_lab.data.readers import data_folder, file_sha256

CONFORMER_ID = "conf_id"
STATUS, ERROR, RECORD = "status", "error", "record_index"
KEPT = ("ok", "success", "0", "1", "true", None)
"""The status of a calculation that can be used, where it tells of no error."""

Keys = tuple[str, ...]


class Keyed(NamedTuple):
    """Lines of a table by their keys, each once: ``keys`` (id,) or (id, conformer) [L], ``values`` float32 [L,F]."""

    keys: list[Keys]
    names: tuple[str, ...]
    values: np.ndarray


class Files(NamedTuple):
    """The tables that are there, in the data folder."""

    feat2d: str | None
    feat3d: str | None
    feat3d_qm: str | None


def read_tables(config: MoleculesConfig, files: Files) -> Featured:
    """Reads and joins the tables. A conformer is described by its geometry and its quantum mechanics: only what both
    tables have is kept. Lines of one key are averaged. Conformers are sorted by their ids.

    Raises:
        DataError: a table or a column is missing, or a cell cannot be used.
    """
    parts: list[Part] = []
    sources: dict[str, Source] = {}
    notes: list[str] = []
    if files.feat2d is not None and config.keeps("descriptors"):
        table, id_column = _read(config, files.feat2d)
        vectors = _keyed(table, [id_column], np.ones(len(table), bool), notes)
        ids = np.array([key[0] for key in vectors.keys])
        parts.append(Part(descriptors(vectors.names), ids, Vectors.of(vectors.values), str(table.path)))
        sources[files.feat2d] = _source(table)
    found: dict[str, Keyed] = {}
    for file, quantum in ((files.feat3d, False), (files.feat3d_qm, True)):
        if file is not None and config.keeps("conformers"):
            table, id_column = _read(config, file, CONFORMER_ID, quantum=quantum)
            used = _usable(table, notes) if quantum else np.ones(len(table), bool)
            found[file] = _keyed(table, [id_column, CONFORMER_ID], used, notes)
            sources[file] = _source(table)
    if found:
        joined = next(iter(found.values())) if len(found) == 1 else _joined(found, notes)
        ids, bags = _bags(joined)
        where = " and ".join(str(data_folder(config.root) / file) for file in found)
        parts.append(Part(conformers(joined.names, bags), ids, bags, where))
    return Featured(tuple(parts), tuple(sources.values()), tuple(notes))


def _read(config: MoleculesConfig, file: str, *keys: str, quantum: bool = False) -> tuple[Columns, str]:
    """The table, and its column of ids."""
    root = data_folder(config.root)
    id_column = config.id or ID_COLUMNS[0]
    optional = (STATUS, ERROR) if quantum else ()
    beside = [*SMILES_COLUMNS, SPLIT_COLUMN, *filter(None, (config.smiles, config.split)), *config.ignore]
    beside += [RECORD] if quantum else []
    return read_columns(root, file, (id_column, *keys), optional, beside), id_column


def _source(table: Columns) -> Source:
    return Source(table.file, file_sha256(table.path), len(table))


def _usable(table: Columns, notes: list[str]) -> np.ndarray:
    """Lines of calculations that came to an end, bool [L]."""
    nothing = np.full(len(table), None, object)
    status, error = table.words.get(STATUS, nothing), table.words.get(ERROR, nothing)
    used = [e is None and (s if s is None else s.lower()) in KEPT for s, e in zip(status, error, strict=True)]
    left_out = len(used) - sum(used)
    if left_out == len(used):
        raise DataError(f"{table.path}: expected a line with status ok and without an error, found none of {len(used)}")
    if left_out:
        notes.append(f"{table.file}: {left_out} of {len(used)} lines left out: an error, or a status other than ok")
    return np.array(used, bool)


def _keyed(table: Columns, columns: list[str], used: np.ndarray, notes: list[str]) -> Keyed:
    """The lines ``used``, in the order in which their keys first come; lines of one key as their mean."""
    table.require_finite(used)
    for column in columns:
        empty = np.fromiter((word is None for word in table.words[column]), bool, len(table)) & used
        if empty.any():
            where = table.place(int(np.argmax(empty)), column)
            raise DataError(f"{where}: expected an id, found an empty cell ({int(empty.sum())} such rows)")
    lines = np.flatnonzero(used)
    place: dict[Keys, int] = {}
    words = zip(*(table.words[column][lines].tolist() for column in columns), strict=True)
    of_line = np.array([place.setdefault(key, len(place)) for key in words])
    values = table.values[lines]
    if len(place) < len(lines):
        counts = np.bincount(of_line)
        sums = np.zeros((len(place), values.shape[1]))
        np.add.at(sums, of_line, values)
        values = (sums / counts[:, None]).astype(np.float32)
        again, what = int((counts > 1).sum()), " and ".join(columns)
        notes.append(f"{table.file}: {len(lines) - len(place)} lines repeat {what}: means of {again} are taken")
    return Keyed(list(place), table.names, values)


def _joined(found: Mapping[str, Keyed], notes: list[str]) -> Keyed:
    """What both tables have, geometry beside quantum mechanics, the columns of each by name."""
    (one, geometry), (other, quantum) = found.items()
    place = {key: at for at, key in enumerate(quantum.keys)}
    pairs = np.array([(at, place[key]) for at, key in enumerate(geometry.keys) if key in place], int).reshape(-1, 2)
    if not len(pairs):
        found_keys = f"none of {len(geometry.keys)} and {len(quantum.keys)}"
        raise DataError(f"{one} and {other}: expected conformers that both describe, found {found_keys}")
    alone = len(geometry.keys) - len(pairs), len(quantum.keys) - len(pairs)
    if any(alone):
        notes.append(f"{len(pairs)} conformers are in {one} and {other}; only in one of them: {alone[0]}, {alone[1]}")
    (names, values), (more, beside) = _by_name(geometry), _by_name(quantum)
    apart = tuple(f"{name} (qm)" if name in names else name for name in more)
    keys = [geometry.keys[at] for at in pairs[:, 0].tolist()]
    return Keyed(keys, (*names, *apart), np.hstack([values[pairs[:, 0]], beside[pairs[:, 1]]]))


def _by_name(table: Keyed) -> tuple[tuple[str, ...], np.ndarray]:
    order = sorted(range(len(table.names)), key=lambda at: table.names[at])
    return tuple(table.names[at] for at in order), table.values[:, order]


def _bags(conformers: Keyed) -> tuple[np.ndarray, Bags]:
    """Molecules in the order in which they first come, and their conformers by id: numbers by size, then words."""
    ids, owner = _codes([key[0] for key in conformers.keys])
    names = [key[1] for key in conformers.keys]
    rank = {name: at for at, name in enumerate(in_order(np.array(names, object)))}
    order = np.lexsort((np.array([rank[name] for name in names]), owner))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(ids)))])
    return np.array(ids), Bags.of(conformers.values[order], offsets)


def _codes(names: list[str]) -> tuple[list[str], np.ndarray]:
    place: dict[str, int] = {}
    codes = np.array([place.setdefault(name, len(place)) for name in names])
    return list(place), codes
