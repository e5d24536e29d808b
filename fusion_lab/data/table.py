"""Bring your own data: a file per modality keyed by an id, a table of targets, settings that say what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch

from fusion_lab.contracts import Provenance, Source, Spec
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.raw import Records, encode
from fusion_lab.data.readers import Table, file_sha256
from fusion_lab.data.table_reading import Contents, read_contents, read_new
from fusion_lab.data.table_settings import TableConfig, TargetsConfig

__all__ = ["TableConfig", "TargetsConfig", "load", "records", "spec"]


def load(config: TableConfig) -> ArrayDataset:
    """Reads, joins, encodes and checks the files. Values keep their units: scaling is fitted per fold, elsewhere.

    Raises:
        DataError: a file, a row or a column that cannot be used.
    """
    contents = read_contents(config)
    dataset = _assemble(config, contents)
    noticed = check_dataset(dataset, contents.where, config.leakage_auroc)
    return replace(dataset, provenance=Provenance(dataset.provenance.sources, contents.notes + noticed))


def spec(config: TableConfig) -> Spec:
    """What the files hold: widths and vocabularies come from the data, so they are read."""
    return load(config).spec


def records(config: TableConfig, labelled: bool = True, spec: Spec | None = None) -> Records:
    """The raw rows of the files, with the ids that are in them.

    ``labelled``: the rows of the data set that :func:`load` gives. Otherwise new rows, for which no targets are
    read and a modality's file may be missing; ``spec``, what a model was trained on, says which of the columns
    ``drop_constant`` had left out.

    Raises:
        DataError: a file, a row or a column that cannot be used.
    """
    if not labelled:
        return read_new(config, spec)
    contents = read_contents(config)
    return Records(contents.ids, contents.raws)


def _assemble(config: TableConfig, contents: Contents) -> ArrayDataset:
    ids, group = contents.ids, contents.group
    if config.ids == "hash":
        salt = hashlib.sha256(b"ids" + contents.tables[0].file.read_bytes()).digest()
        ids, group = _hashed(salt, ids), None if group is None else _hashed(salt, group)
    encoded = {name: encode(modality, contents.raws[name]) for name, modality in contents.modalities.items()}
    parts = ("inputs", "valid", "observed", "quality")
    leaves = {part: {n: torch.from_numpy(getattr(made, part)) for n, made in encoded.items()} for part in parts}
    return ArrayDataset.checked(
        spec=Spec(tuple(contents.modalities.values()), tuple(t.task for t in contents.tasks.values())),
        ids=ids,
        targets={name: torch.from_numpy(t.values) for name, t in contents.tasks.items()},
        known={name: torch.from_numpy(t.known) for name, t in contents.tasks.items()},
        provenance=_provenance(contents.tables, contents.notes),
        group=group,
        **leaves,
    )


def _hashed(salt: bytes, names: np.ndarray) -> np.ndarray:
    """Sixteen hexadecimal digits per name. Salted with the targets file: who lacks it cannot try ids out."""
    digests = {name: hashlib.sha256(salt + name.encode()).hexdigest()[:16] for name in set(names.tolist())}
    assert len(set(digests.values())) == len(digests), "two names with one hash"
    return np.array([digests[name] for name in names.tolist()])


def _provenance(tables: tuple[Table, ...], notes: tuple[str, ...]) -> Provenance:
    hashes = {file: file_sha256(file) for file in {table.file for table in tables}}
    sources = {table.name: Source(table.name, hashes[table.file], len(table.frame)) for table in tables}
    return Provenance(tuple(sources.values()), notes)
