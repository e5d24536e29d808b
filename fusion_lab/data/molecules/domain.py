"""Small molecules: a row is a molecule with a fingerprint, descriptors and a bag of conformers, or some of these."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fusion_lab.contracts import DataError, Modality, Provenance, Source, Spec
from fusion_lab.data.cells import listed
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.molecules.archive import read_archive
from fusion_lab.data.molecules.compounds import (
    Compounds,
    class_counts,
    label_table,
    read_compounds,
    shared_structures,
)
from fusion_lab.data.molecules.dataset import MoleculeDataset, molecule_records
from fusion_lab.data.molecules.packed import Bags, Packed
from fusion_lab.data.molecules.parts import Featured, Part, having, places
from fusion_lab.data.molecules.settings import (
    ARCHIVE,
    FEAT2D,
    FEAT3D,
    FEAT3D_QM,
    ID_COLUMNS,
    SCAFFOLD,
    SMILES_COLUMNS,
    TABLE_ENDINGS,
    MoleculesConfig,
    Name,
)
from fusion_lab.data.molecules.structures import by_scaffold, describe, scaffold_groups
from fusion_lab.data.molecules.tables import Files, read_tables
from fusion_lab.data.raw import Records
from fusion_lab.data.readers import data_folder, file_sha256, quoted
from fusion_lab.data.subset import sampled


class Origin(NamedTuple):
    """Where features come from: tables, the file of an archive, or neither, which means the structures."""

    tables: Files | None = None
    archive: str | None = None


def load(config: MoleculesConfig) -> MoleculeDataset:
    """Reads the table and the features, or computes these, joins them, and checks the result. Values keep their units:
    scaling is fitted per fold, elsewhere.

    Raises:
        ConfigError: RDKit is needed and not installed.
        DataError: a file, a column or a cell that cannot be used.
    """
    origin = _origin(config)
    compounds = read_compounds(config)
    featured = _read(config, origin)
    notes: tuple[str, ...] = ()
    if featured is not None:
        _refuse_unnamed(compounds)
        notes = tuple(_strangers(featured, compounds))
        compounds = _with_features(config, compounds, featured)
    described_later = featured is None and config.sample is None
    if config.group == SCAFFOLD and not described_later:
        group, told = scaffold_groups(*_structures(config, compounds), _say)
        compounds, notes = replace(compounds, group=group), (*notes, *told)
    compounds = _sampled(config, compounds)
    if featured is None:
        described = describe(config, *_structures(config, compounds), _say)
        compounds, featured = compounds.take(described.rows), described.featured
        if config.group == SCAFFOLD and described_later:
            compounds = replace(compounds, group=by_scaffold(described.scaffold, compounds.ids))
    notes = (*notes, *shared_structures(compounds))
    table = compounds.table
    source = Source(table.name, file_sha256(table.file), len(table.frame))
    notes = (*compounds.notes, *featured.notes, *notes, *class_counts(compounds.targets))
    where = {part.modality.name: part.where for part in featured.parts}
    dataset = _assembled(compounds, featured.parts, Provenance((source, *featured.sources), notes))
    del featured  # it may hold everything a second time
    where |= {task.name: table.path for task in dataset.spec.tasks}
    noticed = check_dataset(dataset, where, config.leakage_auroc)
    return replace(dataset, provenance=replace(dataset.provenance, notes=(*notes, *noticed)))


def spec(config: MoleculesConfig) -> Spec:
    """Features and tasks come from the files, so they are read."""
    return load(config).spec


def records(config: MoleculesConfig, labelled: bool = True, spec: Spec | None = None) -> Records:
    """The raw rows: a line per molecule, or per conformer, a column per feature.

    ``labelled``: those of the data set that :func:`load` gives. Otherwise all molecules that there are features of,
    whatever is known of them; ``spec`` is what a model was trained on, of whose modalities some may be missing.

    Raises:
        ConfigError: RDKit is needed and not installed.
        DataError: a file, a column or a cell that cannot be used.
    """
    if labelled:
        dataset = load(config)
        return molecule_records(dataset.ids, [(m, dataset.packed[m.name]) for m in dataset.spec.modalities])
    origin = _origin(config)
    featured = _read(config, origin)
    if featured is None:
        compounds = read_compounds(config, labelled=False)
        featured = describe(config, *_structures(config, compounds), _say).featured
    wanted = [m.name for m in spec.modalities] if spec else [part.modality.name for part in featured.parts]
    parts = [part for part in featured.parts if part.modality.name in wanted]
    if not parts:
        found = listed([part.modality.name for part in featured.parts])
        raise DataError(f"{data_folder(config.root)}: expected features of {', '.join(wanted)}, found {found}")
    ids = featured._replace(parts=tuple(parts)).ids()
    return molecule_records(ids, [(part.modality, _aligned(part, ids)) for part in parts])


def _origin(config: MoleculesConfig) -> Origin:
    """Where the features are to come from.

    Raises:
        DataError: there are none, or several and nobody said which.
    """
    root = data_folder(config.root)
    tables = Files(
        _file(root, config.feat2d, FEAT2D, TABLE_ENDINGS),
        _file(root, config.feat3d, FEAT3D, TABLE_ENDINGS),
        _file(root, config.feat3d_qm, FEAT3D_QM, TABLE_ENDINGS),
    )
    archive = _file(root, config.archive, ARCHIVE, (".npz",))
    there = [what for what, found in (("tables", any(tables)), ("archive", archive is not None)) if found]
    source = config.source or ("smiles" if config.featurise else None)
    if source == "smiles":
        return Origin()
    if source is None and len(there) > 1:
        names = ", ".join(filter(None, (*tables, archive)))
        raise DataError(f"{root}: expected one source of features, found {names} (choose with data.source)")
    if source is None and not there or source is not None and source not in there:
        expected = f"{FEAT2D}, {FEAT3D} and {FEAT3D_QM} (.csv, .parquet)" if source != "archive" else ""
        expected = " or ".join(filter(None, (expected, f"{ARCHIVE}.npz" if source != "tables" else "")))
        if not root.is_dir():
            label_table(config)  # which says what is wrong with the folder
        hint = "(data.featurise makes features of the structures)"
        raise DataError(f"{root}: expected features, {expected}, found none {hint}")
    return Origin(tables=tables) if "tables" in (source, *there[: source is None]) else Origin(archive=archive)


def _file(root: Path, given: Name, usual: str, endings: Sequence[str]) -> str | None:
    """The file that is named, the usual one where it is there, or none."""
    if given is not None:
        return given or None
    there = [f"{usual}{ending}" for ending in endings if (root / f"{usual}{ending}").exists()]
    if len(there) > 1:
        setting = usual.removesuffix("_scaled") if usual != ARCHIVE else "archive"
        raise DataError(f"{root}: expected one of {' and '.join(there)}, found both (choose with data.{setting})")
    return there[0] if there else None


def _read(config: MoleculesConfig, origin: Origin) -> Featured | None:
    if origin.tables is not None:
        featured = read_tables(config, origin.tables)
        if not featured.parts:
            names = ", ".join(config.modalities or ())
            raise DataError(f"{data_folder(config.root)}: expected tables of {names}, found none of them")
        return featured
    return None if origin.archive is None else read_archive(config, origin.archive)


def _structures(config: MoleculesConfig, compounds: Compounds) -> tuple[str, np.ndarray, np.ndarray]:
    """What errors call them, whose they are, and the structures themselves."""
    if compounds.smiles is None:
        expected = f"expected a column of structures ({', '.join(SMILES_COLUMNS)})"
        found = listed([str(name) for name in compounds.table.frame.columns])
        raise DataError(f"{compounds.table.path}: {expected}, found {found} (name it with data.smiles)")
    return compounds.table.path, compounds.ids, compounds.smiles


def _refuse_unnamed(compounds: Compounds) -> None:
    """Features are found by ids: the number of a row is some other molecule's id, if any."""
    if not compounds.named:
        found = listed([str(name) for name in compounds.table.frame.columns])
        expected = f"expected a column of the ids that the features have ({', '.join(ID_COLUMNS)})"
        raise DataError(f"{compounds.table.path}: {expected}, found {found} (name it with data.id)")


def _strangers(featured: Featured, compounds: Compounds) -> Iterator[str]:
    """A note on the molecules of each modality that the table does not have.

    Raises:
        DataError: it has none of them.
    """
    for part in featured.parts:
        unknown = places(part.ids, compounds.ids) < 0
        if unknown.all():
            some, own = (", ".join(map(quoted, ids[:3].tolist())) for ids in (compounds.ids, part.ids))
            expected = f"expected molecules of {compounds.table.path} (such as {some})"
            raise DataError(f"{part.where}: {expected}, found none of them but {own}")
        if unknown.any():
            bags = part.packed.counts.numpy()[unknown] if isinstance(part.packed, Bags) else None
            what = "" if bags is None else f"{int(bags.sum())} conformers of "
            yield f"{part.modality.name}: {what}{int(unknown.sum())} molecules left out: not in {compounds.table.name}"


def _with_features(config: MoleculesConfig, compounds: Compounds, featured: Featured) -> Compounds:
    """The molecules that are the rows."""
    has = having(compounds.ids, featured.parts)
    lacking = int((~has).sum())
    if not lacking:
        return compounds
    if config.rows == "all":
        return compounds.take(np.arange(len(has)), f"{lacking} of {len(has)} molecules have no features")
    note = f"{len(has) - lacking} of {len(has)} molecules are rows: those that have features (data.rows)"
    return compounds.take(np.flatnonzero(has), note)


def _sampled(config: MoleculesConfig, compounds: Compounds) -> Compounds:
    """About as many molecules as the settings say, with the same shares of every label; groups stay whole."""
    if config.sample is None:
        return compounds
    if config.sample >= len(compounds):
        found = f"{len(compounds)} molecules"
        raise DataError(f"data.sample: expected more molecules than the sample of {config.sample}, found {found}")
    subset = sampled(_assembled(compounds, (), Provenance(())), config.sample, config.sample_seed)
    return compounds.take(subset.rows, subset.why)


def _assembled(compounds: Compounds, parts: Sequence[Part], provenance: Provenance) -> MoleculeDataset:
    packed = {part.modality.name: _aligned(part, compounds.ids) for part in parts}
    return MoleculeDataset(
        spec=Spec(
            tuple(_as_long(part.modality, packed[part.modality.name]) for part in parts),
            tuple(target.task for target in compounds.targets),
        ),
        ids=compounds.ids,
        packed=packed,
        targets={task.name: torch.from_numpy(values.astype(np.float32)) for task, values, _ in compounds.targets},
        known={task.name: torch.from_numpy(known) for task, _, known in compounds.targets},
        provenance=provenance,
        group=compounds.group,
        given_split=compounds.split,
        given_fold=compounds.fold,
        emphasis={task: torch.from_numpy(weights) for task, weights in (compounds.emphasis or {}).items()},
    )


def _aligned(part: Part, ids: np.ndarray) -> Packed:
    if np.array_equal(ids, part.ids):
        return part.packed  # not a copy of the largest thing that there is
    return part.packed.take(places(ids, part.ids))


def _as_long(modality: Modality, packed: Packed) -> Modality:
    """A bag as long as the largest that is left."""
    return replace(modality, length=packed.length) if isinstance(packed, Bags) else modality


def _say(line: str) -> None:
    """Progress of what takes minutes: nobody reads data without waiting for it."""
    sys.stderr.write(f"{line}\n")
