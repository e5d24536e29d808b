"""Outcome of cancer patients from embeddings of which some are missing: a row is a patient, a vector per modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fusion_lab.contracts import DataError, Feature, Modality, Provenance, Source, Spec
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.cells import listed
from fusion_lab.data.checks import check_dataset, speak_of_outcome
from fusion_lab.data.oncology.folder import chosen_files, modality_files, require_file, shown
from fusion_lab.data.oncology.outcomes import Patients, read_patients
from fusion_lab.data.oncology.reading import Embedded, read_embedded
from fusion_lab.data.oncology.settings import OncologyConfig
from fusion_lab.data.raw import Records
from fusion_lab.data.readers import data_folder, file_sha256, quoted
from fusion_lab.data.records import records_of


def load(config: OncologyConfig) -> ArrayDataset:
    """Reads the folder, joins the modalities to the patients, and checks the result. Values keep their units: scaling
    is fitted per fold, elsewhere.

    Raises:
        DataError: the folder, a file, a data set or a value that cannot be used.
    """
    files = modality_files(config)
    chosen = chosen_files(config, files)
    patients = read_patients(config, require_file(config, files, config.patients, "patients"))
    embedded = {name: _read(config, name, path) for name, path in chosen.items()}
    for name, found in embedded.items():
        _refuse_strangers(name, found, patients)
    sources = _sources(data_folder(config.root), patients, embedded)
    dataset = _assembled(patients.ids, embedded, Provenance(sources), patients)
    where = {name: str(path) for name, path in chosen.items()}
    where |= {o.task.name: f"{patients.path}: data set {o.label!r}" for o in patients.outcomes}
    noticed = check_dataset(dataset, where, config.leakage_auroc)
    notes = (*_told(embedded, patients), *(outcome.counts() for outcome in patients.outcomes), *noticed)
    return replace(dataset, provenance=Provenance(sources, notes))


def spec(config: OncologyConfig) -> Spec:
    """Modalities, widths and tasks come from the files, so they are read."""
    return load(config).spec


def records(config: OncologyConfig, labelled: bool = True, spec: Spec | None = None) -> Records:
    """The raw rows of the patients, a column per feature.

    ``labelled``: those of the data set that :func:`load` gives. Otherwise the patients of all files, those of the
    patients' file first, whatever is known of their outcomes; ``spec`` is what a model was trained on, of whose
    modalities some may have no file.

    Raises:
        DataError: the folder, a file, a data set or a value that cannot be used.
    """
    return records_of(load(config) if labelled else _unlabelled(config, spec))


def _unlabelled(config: OncologyConfig, spec: Spec | None = None) -> ArrayDataset:
    """The patients of a folder as a model of ``spec`` takes them; without a task.

    Raises:
        DataError: no modality of the model's, other features than its, or a file that cannot be used.
    """
    there = {name: path for name, path in modality_files(config).items() if path.exists() or path.is_symlink()}
    wanted = [m.name for m in spec.modalities] if spec else list(config.modalities or there)
    chosen = {name: path for name, path in there.items() if name in wanted}
    if not chosen:
        raise DataError(
            f"{data_folder(config.root)}: expected the file of one modality at least ({', '.join(wanted)}), "
            f"found {listed(list(there)) or 'none'}"
        )
    embedded = {name: _read(config, name, path, new=True) for name, path in chosen.items()}
    for name, found in embedded.items():
        if spec:
            _refuse_other_features(found, spec.modality(name))
    first = sorted(embedded, key=lambda name: name != config.patients)
    ids = np.array(list(dict.fromkeys(identifier for name in first for identifier in embedded[name].ids.tolist())))
    return _assembled(ids, embedded, Provenance(()))


def _read(config: OncologyConfig, name: str, path: Path, new: bool = False) -> Embedded:
    return read_embedded(path, name, config.file(name), config.normalise_ids, new)


def _refuse_strangers(name: str, found: Embedded, patients: Patients) -> None:
    if not np.isin(found.ids, patients.ids).any():
        some, own = (", ".join(map(quoted, ids[:3].tolist())) for ids in (patients.ids, found.ids))
        raise DataError(
            f"{found.path}: modality {name!r}: expected patients of {patients.path} (such as {some}), "
            f"found none of them but {own}"
        )


def _refuse_other_features(found: Embedded, modality: Modality) -> None:
    lacking = [column for column in modality.columns if column not in found.features]
    more = [feature for feature in found.features if feature not in modality.columns]
    if lacking or more:
        parts = [f"no {listed(lacking)}"] * bool(lacking) + [f"{listed(more)} as well"] * bool(more)
        expected = f"the {modality.width} features of modality {modality.name!r} that the model was trained on"
        raise DataError(f"{found.path}: expected {expected}, found {len(found.features)}: {', '.join(parts)}")


def _assembled(
    ids: np.ndarray, embedded: Mapping[str, Embedded], provenance: Provenance, patients: Patients | None = None
) -> ArrayDataset:
    """The rows ``ids``. A patient whom a file does not hold, or of whom it holds nothing, lacks the modality."""
    leaves: dict[str, dict[str, torch.Tensor]] = {part: {} for part in ("inputs", "valid", "observed", "quality")}
    modalities = []
    for name, found in embedded.items():
        row, line = _matched(ids, found.ids)
        there = found.observed[line].any(axis=1)
        row, line = row[there], line[there]
        made = {
            "inputs": np.zeros((len(ids), len(found.features)), np.float32),
            "observed": np.zeros((len(ids), len(found.features)), bool),
            "valid": np.zeros(len(ids), bool),
            "quality": np.ones(len(ids), np.float32),
        }
        made["inputs"][row], made["observed"][row] = found.values[line], found.observed[line]
        made["quality"][row], made["valid"][row] = found.quality[line], True
        gaps = (~found.observed[line]).any(axis=0)
        told = zip(found.features, found.kinds, gaps, strict=True)
        features = tuple(Feature(name, kind, gaps=bool(gap)) for name, kind, gap in told)
        modalities.append(Modality(name, "vector", features))
        for part, values in made.items():
            leaves[part][name] = torch.from_numpy(values)
    outcomes = patients.outcomes if patients else ()
    return ArrayDataset.checked(
        spec=Spec(tuple(modalities), tuple(outcome.task for outcome in outcomes)),
        ids=ids,
        targets={outcome.task.name: torch.from_numpy(outcome.codes) for outcome in outcomes},
        known={outcome.task.name: torch.from_numpy(outcome.known) for outcome in outcomes},
        provenance=provenance,
        group=patients.group if patients else None,
        **leaves,
    )


def _matched(ids: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the data set and lines of a file that are of one patient."""
    place = {identifier: row for row, identifier in enumerate(ids.tolist())}
    rows = np.array([place.get(identifier, -1) for identifier in found.tolist()])
    line = np.flatnonzero(rows >= 0)
    return rows[line], line


def _told(embedded: Mapping[str, Embedded], patients: Patients) -> Iterator[str]:
    """What was left out or pooled, and what is known of how the embeddings were made."""
    for name, found in embedded.items():
        strangers = int((~np.isin(found.ids, patients.ids)).sum())
        if strangers:
            yield f"{name}: {strangers} of {len(found.ids)} patients left out: not in {patients.path.name}"
        if found.rows > len(found.ids):
            yield f"{name}: {found.rows} rows of {len(found.ids)} patients, means weighted by the number of patches"
        empty = int((~found.observed.any(axis=1)).sum())
        if empty:
            yield f"{name}: {empty} patients have nothing but missing cells and count as without it"
        if "transductive" in found.encoder.lower():
            yield f"{name}: made by an encoder that has seen test patients: {found.encoder}"
        speaking = speak_of_outcome(found.original)
        if speaking:
            yield f"{name}: was made from columns whose names speak of an outcome: {speaking}"


def _sources(root: Path, patients: Patients, embedded: Mapping[str, Embedded]) -> tuple[Source, ...]:
    """Every file that was read, once."""
    rows = {patients.path: len(patients.ids)} | {found.path: found.rows for found in embedded.values()}
    return tuple(Source(shown(root, path), file_sha256(path), count) for path, count in rows.items())
