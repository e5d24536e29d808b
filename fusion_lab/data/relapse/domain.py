"""Relapse, or anything else that is known of days, from the daily features of wearables: a row is a window of calendar
days that ends at the day to be told, one sequence per modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fusion_lab.contracts import DataError, Feature, Modality, Provenance, Source, Spec
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.raw import Records
from fusion_lab.data.readers import Table, data_folder, existing_file, file_sha256, read_table
from fusion_lab.data.records import records_of
from fusion_lab.data.relapse.archives import archive_files, read_archives
from fusion_lab.data.relapse.daily import noticed, read_prepared
from fusion_lab.data.relapse.last_day import check_last_day, refuse_copies
from fusion_lab.data.relapse.metadata import BY_PAST, METADATA, PER_PATIENT, read_metadata
from fusion_lab.data.relapse.personal import against_past, personal
from fusion_lab.data.relapse.prepare import prepare_tree
from fusion_lab.data.relapse.raw import NoTreeError, find_sequences
from fusion_lab.data.relapse.settings import DAILY, WEEKDAY, RelapseConfig
from fusion_lab.data.relapse.table import read_days
from fusion_lab.data.relapse.twin import made_days
from fusion_lab.data.relapse.windows import Days, Windows, cut

PLACE = "day"
WRITTEN = {"patient": PER_PATIENT, "past": BY_PAST}
"""What archives call each way of ``normalise``."""
TWIN = "these days are made up (data.twin): point data= at a folder of real ones"


class _Read(NamedTuple):
    """Windows, and what they were made from."""

    windows: Windows
    sources: tuple[Source, ...]
    notes: tuple[str, ...]


def load(config: RelapseConfig) -> ArrayDataset:
    """Reads the days, or makes them up, cuts windows, and checks the result. Values keep their units, unless they are
    standardised by patient: scaling is fitted per fold, elsewhere.

    Raises:
        DataError: a file, a row or a cell that cannot be used, a feature that is a label, or a raw tree, which is
            prepared first.
    """
    read = _read(config)
    dataset = _assembled(read)
    odd = check_dataset(dataset, leakage_auroc=config.leakage_auroc)
    odd += check_last_day(read.windows, config.leakage_auroc)
    odd = tuple(note for note in odd if note not in read.notes)  # archives bring what was said when they were written
    return replace(dataset, provenance=replace(dataset.provenance, notes=dataset.provenance.notes + odd))


def spec(config: RelapseConfig) -> Spec:
    """The features come from the data, so they are read."""
    return load(config).spec


def records(config: RelapseConfig, labelled: bool = True, spec: Spec | None = None) -> Records:
    """The raw rows: a line per day of a window, a column per feature.

    ``labelled``: the rows of the data set that :func:`load` gives. Otherwise a window for every day, whatever is known
    of it, with the columns and of the length that ``spec``, what a model was trained on, has; a modality of which there
    is no column is left out.

    Raises:
        DataError: a file, a row or a cell that cannot be used.
    """
    if labelled:
        return records_of(load(config))
    length = max((m.length or 1 for m in spec.modalities), default=config.window) if spec else config.window
    everything = config.model_copy(update={"rows": "all", "window": length, "use": None})
    dataset = _assembled(_read(everything, labelled=False))
    return records_of(dataset if spec is None else _as_trained(config, dataset, spec))


def prepare(config: RelapseConfig, output: Path, tell: Callable[[str], None]) -> None:
    """Writes the daily features of a raw sensor tree to the folder ``output``.

    Raises:
        DataError: ``root`` is no such tree, or what :func:`.prepare.prepare_tree` refuses.
    """
    found = source_of(config)
    if found != "raw":
        where = "none (data=TREE)" if config.root is None else {"daily": "a table of days"}.get(found, found)
        raise DataError(f"{config.root or 'data'}: expected a raw sensor tree to prepare, found {where}")
    assert config.root is not None
    prepare_tree(data_folder(config.root), output, tell)


def source_of(config: RelapseConfig) -> str:
    """What there is to read: ``raw``, ``daily``, ``archives`` or ``twin``.

    Raises:
        DataError: the folder is missing, nothing of the kind is in it, or what is there cannot be read.
    """
    if config.source != "auto":
        return config.source
    if config.root is None:
        return "twin"
    root = data_folder(config.root)
    if (root / config.file).is_file():
        return "daily"
    if archive_files(root):
        return "archives"
    if _is_raw(root):
        return "raw"
    if not root.is_dir() or config.file != DAILY:
        existing_file(root, config.file)  # which says what is wrong
    expected = f"expected {config.file} (data.file), fold archives (fold_0/train.npz) or a raw tree (P1/train_0)"
    raise DataError(f"{root}: {expected}, found none of them")


def _is_raw(root: Path) -> bool:
    try:
        return bool(find_sequences(root))
    except NoTreeError:
        return False


def _read(config: RelapseConfig, labelled: bool = True) -> _Read:
    found = source_of(config)
    if found == "raw":
        again = f"fusion-lab prepare --experiment relapse --data {config.root} --output FOLDER"
        raise DataError(
            f"{config.root}: expected daily features, found a raw sensor tree: run {again}, then data=FOLDER"
        )
    if found == "archives":
        read = _of_archives(config)
    else:
        table, sources, told = _made(config) if found == "twin" else _table(config)
        days, notes = read_days(config, table, labelled)
        read = _of_days(config, days, sources, (*told, *notes))
    if not len(read.windows):
        place = config.root or "twin"
        raise DataError(f"{place}: expected days with a known label, found none (data.rows=all keeps the others)")
    return read


def _made(config: RelapseConfig) -> tuple[Table, tuple[Source, ...], tuple[str, ...]]:
    frame, source = made_days(config.twin)
    frame.index = frame.index + 1
    return Table("twin", "twin", Path(), frame, "row"), (source,), (TWIN,)


def _table(config: RelapseConfig) -> tuple[Table, tuple[Source, ...], tuple[str, ...]]:
    assert config.root is not None
    table = read_table(data_folder(config.root), config.file)
    source = Source(table.name, file_sha256(table.file), len(table.frame))
    return table, (source,), _preparation(table.file)


def _preparation(path: Path) -> tuple[str, ...]:
    """What was noticed while raw files were prepared, where it was by ``prepare``."""
    try:
        return noticed(read_prepared(path))
    except DataError:
        return ()


def _of_archives(config: RelapseConfig) -> _Read:
    assert config.root is not None
    windows, sources, notes = read_archives(config, data_folder(config.root))
    how = read_metadata(data_folder(config.root) / METADATA).normalisation
    if config.normalise != "none" and how != WRITTEN[config.normalise]:
        expected = f"expected archives whose values are standardised {WRITTEN[config.normalise]}"
        raise DataError(f"{config.root}: {expected} (data.normalise={config.normalise}), found {how or 'nothing told'}")
    if config.weekday is not None and WEEKDAY not in windows.features:
        found = ", ".join(windows.features)
        raise DataError(f"{config.root}: expected archives with a modality {WEEKDAY!r} (data.weekday), found {found}")
    if config.rows == "labelled":
        known = np.any(list(windows.known.values()), axis=0)
        windows = windows.take(np.flatnonzero(known))
    return _Read(windows, sources, notes)


def _of_days(config: RelapseConfig, days: Days, sources: tuple[Source, ...], notes: tuple[str, ...]) -> _Read:
    told = list(_told(days))
    refuse_copies(days)
    if config.normalise != "none":
        days, measured = (personal if config.normalise == "patient" else against_past)(days)
        told += measured
    ends = np.flatnonzero(days.labelled) if config.rows == "labelled" else np.arange(len(days))
    windows = cut(days, ends, config.window, config.context)
    return _Read(windows, sources, (*notes, *told, *_padded(windows)))


def _told(days: Days) -> Iterator[str]:
    """How many days there are, and what lies between them."""
    if not len(days):
        return
    patients, sequences = len(np.unique(days.patient)), int(days.code[-1]) + 1
    what = f" in {sequences} sequences" if sequences > patients else ""
    yield f"{len(days):,} days of {patients} people{what}, {int(days.labelled.sum()):,} of them with a known label"
    same = days.code[1:] == days.code[:-1]
    between = int((np.diff(days.day)[same] - 1).sum())
    if between:
        yield f"{between:,} days between others are not there: padded places"


def _padded(windows: Windows) -> Iterator[str]:
    there = np.any(list(windows.valid.values()), axis=0)
    share = 1 - there.mean() if there.size else 0.0
    if share:
        yield f"{share:.1%} of the places in windows of {windows.length} days are padded or show no modality"


def _assembled(read: _Read) -> ArrayDataset:
    """The data set, unchecked."""
    windows = read.windows
    tensors = {
        part: {name: torch.from_numpy(np.ascontiguousarray(leaf)) for name, leaf in getattr(windows, part).items()}
        for part in ("inputs", "valid", "observed", "targets", "known")
    }
    return ArrayDataset.checked(
        spec=Spec(tuple(_modality(windows, name) for name in windows.features), windows.tasks),
        ids=windows.ids,
        quality={name: torch.ones(len(windows)) for name in windows.features},
        provenance=Provenance(read.sources, read.notes),
        group=windows.patient,
        order=windows.day,
        given_split=windows.split if (windows.split != "").any() else None,
        **tensors,
    )


def _modality(windows: Windows, name: str) -> Modality:
    """A sequence of days; its features say which of them are missing on days that have others."""
    lines = np.count_nonzero(windows.valid[name])
    filled = windows.observed[name].sum(axis=(0, 1))
    names = windows.features[name]
    features = tuple(Feature(own, gaps=bool(n < lines)) for own, n in zip(names, filled, strict=True))
    return Modality(name, "sequence", features, windows.length, PLACE)


def _as_trained(config: RelapseConfig, dataset: ArrayDataset, spec: Spec) -> ArrayDataset:
    """The modalities that a model takes, as far as they are there, and nothing else."""
    found = {m.name: m for m in dataset.spec.modalities}
    there = [m for m in spec.modalities if m.name in found]
    if not there:
        wanted = ", ".join(m.name for m in spec.modalities)
        raise DataError(f"{config.root}: expected one of the modalities {wanted}, found {', '.join(found)}")
    leaves = {
        part: {m.name: getattr(dataset, part)[m.name] for m in there}
        for part in ("inputs", "valid", "observed", "quality")
    }
    return replace(dataset, spec=Spec(tuple(found[m.name] for m in there), ()), **leaves)
