"""Any data set of vectors in the layout of HDF5 files that this domain reads: one file per modality."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch

from fusion_lab.config import nearest
from fusion_lab.contracts import (
    Batch,
    ConfigError,
    DataError,
    Dataset,
    Modality,
    Spec,
    Task,
    array_hash,
    content_hash,
)
from fusion_lab.data.cells import listed
from fusion_lab.data.oncology.hdf5 import opened
from fusion_lab.data.oncology.ids import normalised
from fusion_lab.data.oncology.settings import ENCODER, FEATURE_KINDS, FEATURE_NAMES, LABEL_SUFFIX, OBSERVED
from fusion_lab.data.output import PART, alone, writable, written
from fusion_lab.data.readers import quoted

PATIENTS = "clinical"
"""The modality whose file holds the list of patients and their labels."""

WIDTH = 64
"""Columns at most that a PCA leaves of a modality, unless told otherwise."""

NEGLIGIBLE = 1e-7
"""A component with a smaller share of the variance is rounding error, and scaling would make it as large as any."""

ENDING = ".h5"
GROUP = "group"
WRITER = "fusion-lab prepare"
TRANSDUCTIVE = (
    "warning: every PCA is fitted on all patients, those of test folds included (transductive); no label is used"
)

Tell = Callable[[str], None]


class Cells(NamedTuple):
    """A modality of the N patients who have it, and in words how it was made."""

    values: np.ndarray  # float32 [N,F], 0 where not observed
    observed: np.ndarray  # bool [N,F]
    features: tuple[str, ...]
    kinds: tuple[str, ...]  # "numeric", or "binary" of a column of 0 and 1, which is not scaled
    encoder: str


class Part(NamedTuple):
    """What one file is made of. ``content``: the identity of it all, the encoder included."""

    modality: Modality
    ids: np.ndarray  # str [N]
    cells: Cells  # before they are encoded
    quality: np.ndarray  # float32 [N]
    labels: dict[Task, np.ndarray]  # int8 [N], -1 unknown; of the patients' file only, as the groups are
    group: np.ndarray | None  # str [N]
    content: str

    @property
    def file(self) -> str:
        return f"{self.modality.name}{ENDING}"


def write(dataset: Dataset, output: Path, encoder: str, tell: Tell, *, width: int | None = None) -> None:
    """Writes a data set of vectors to the folder ``output``: per modality a file with the patients who have it.

    The patients' file comes last and goes first: a folder without it is not read, so that one that is not finished
    never passes for a smaller data set. Files that an earlier run wrote of the same content are kept.

    Args:
        encoder: "none" writes the modalities as they are, nothing fitted; "pca" fills missing cells with means,
            standardises, and keeps at most ``width`` principal components, fitted on all patients without labels.
        width: of "pca" only; 64 unless given.

    Raises:
        ConfigError: an encoder that there is not, or a width for nothing.
        DataError: something that the layout has no place for, ids that it does not tell apart; ``output`` holds other
            things, cannot be written, or is being written by another process.
    """
    _check_encoder(encoder, width)
    _refuse_unfit(dataset)
    parts = _parts(dataset, f"{encoder} {width or WIDTH}")
    _refuse_foreign(output, [part.file for part in parts])
    for line in _told(dataset, encoder):
        tell(line)
    with alone(output):
        _write_files(parts, output, lambda part: ENCODERS[encoder](part, width or WIDTH), tell)


def _told(dataset: Dataset, encoder: str) -> Iterator[str]:
    """What to know before the data set is used as it was written."""
    if encoder != "none":
        yield TRANSDUCTIVE
    if dataset.group is not None:
        yield f"note: groups are kept together where data.{GROUP}={GROUP} is set"
    other = next((i for i in dataset.ids.tolist() if normalised(i) != i), None)
    if other is not None:
        yield f"note: patients are read by their numbers, {quoted(other)} as {quoted(normalised(other))}"


def _write_files(parts: list[Part], output: Path, encode: Callable[[Part], Cells], tell: Tell) -> None:
    kept = {part.file for part in parts if _content(output / part.file) == part.content}
    stale = [path for path in sorted(output.iterdir()) if path.name not in kept]
    if not stale and len(kept) == len(parts):
        tell(f"{output}: all {len(parts)} modalities are written already")
        return
    kept.discard(parts[-1].file)
    _remove(output / parts[-1].file, *stale)
    for number, part in enumerate(parts, 1):
        count = f"({number} of {len(parts)})"
        if part.file in kept:
            tell(f"{part.modality.name}: written already {count}")
            continue
        cells = encode(part)
        with written(output / part.file) as half:
            half.write_bytes(_hdf5(part, cells))
        tell(f"{part.modality.name}: {len(part.ids):,} patients, {cells.values.shape[1]} features {count}")


def _check_encoder(encoder: str, width: int | None) -> None:
    if encoder not in ENCODERS:
        names = ", ".join(ENCODERS)
        raise ConfigError(f"encoder: expected one of {names}, found {encoder!r}{nearest(encoder, list(ENCODERS))}")
    if encoder == "none" and width is not None:
        raise ConfigError(f"width: expected none without an encoder that is fitted, found {width}")


def _refuse_unfit(dataset: Dataset) -> None:
    """An error for what would be lost: the layout holds vectors and binary labels of patients, one row each."""
    for modality in dataset.spec.modalities:
        if modality.kind != "vector":
            raise DataError(
                f"modality {modality.name!r}: expected a vector, as HDF5 embeddings are, found a {modality.kind}"
            )
    for task in dataset.spec.tasks:
        if task.kind != "binary":
            raise DataError(f"task {task.name!r}: expected a binary task, as HDF5 labels are, found {task.kind}")
    beside = {
        "an order of rows": dataset.order,
        "recordings": dataset.recording,
        "a split": dataset.given_split,
    }
    for what, column in beside.items():
        if column is not None:
            raise DataError(f"data: expected patients on their own, one row each, found {what}, which would be lost")


def _parts(dataset: Dataset, recipe: str) -> list[Part]:
    """What goes into each file, the patients' file last. ``recipe``: encoder and width, as a part of its identity."""
    rows = dataset.gather(torch.arange(len(dataset)))
    _refuse_missing_patients(dataset.spec, rows)
    _refuse_collisions(dataset.ids)
    parts = [_part(modality, dataset.ids, rows, recipe) for modality in dataset.spec.modalities]
    others = [part for part in parts if part.modality.name != PATIENTS]
    return [*others, *(_with_outcomes(part, dataset, rows) for part in parts if part not in others)]


def _part(modality: Modality, ids: np.ndarray, rows: Batch, recipe: str) -> Part:
    name = modality.name
    there = rows.valid[name].numpy()
    leaves = (ids, rows.inputs[name].numpy(), rows.observed[name].numpy(), rows.quality[name].numpy())
    own, values, observed, quality = (leaf[there] for leaf in leaves)
    kinds = tuple("numeric" if f.kind == "numeric" else "binary" for f in modality.features)
    cells = Cells(values, observed, tuple(f.name for f in modality.features), kinds, "none fitted")
    content = content_hash([recipe, cells.features, kinds, array_hash(own, values, observed, quality)])
    return Part(modality, own, cells, quality, {}, None, content)


def _with_outcomes(part: Part, dataset: Dataset, rows: Batch) -> Part:
    """The patients' file: it holds labels and groups, too."""
    labels = {t: np.where(rows.known[t.name], rows.targets[t.name], -1).astype(np.int8) for t in dataset.spec.tasks}
    arrays = [*labels.values(), *([] if dataset.group is None else [dataset.group])]
    content = content_hash([part.content, [asdict(task) for task in labels], array_hash(*arrays)])
    return part._replace(labels=labels, group=dataset.group, content=content)


def _refuse_missing_patients(spec: Spec, rows: Batch) -> None:
    where = f"modality {PATIENTS!r}: expected it for every patient, since its file holds their list and labels"
    if PATIENTS not in rows.valid:
        raise DataError(f"{where}, found none of that name but {listed([m.name for m in spec.modalities])}")
    there = rows.valid[PATIENTS]
    if not there.all():
        raise DataError(f"{where}, found {int((~there).sum())} of {len(there)} without it")


def _refuse_collisions(ids: np.ndarray) -> None:
    """An error for ids that a reader takes for one."""
    seen: dict[str, str] = {}
    for identifier in ids.tolist():
        known = normalised(identifier)
        if known in seen:
            found = f"{quoted(seen[known])} and {quoted(identifier)}, both read as {quoted(known)}"
            raise DataError(f"ids: expected ids with different numbers, found {found}")
        seen[known] = identifier


def _refuse_foreign(output: Path, files: Sequence[str]) -> None:
    """An error if the folder holds what prepare has not written."""
    try:
        paths = sorted(output.iterdir()) if output.exists() else []
    except NotADirectoryError:
        raise DataError(f"{output}: expected a folder, found a file") from None
    except OSError as error:
        raise DataError(f"{output}: expected a folder that can be read, found: {error.strerror}") from None
    for path in paths:
        half = path.name.endswith(PART) and path.name.removesuffix(PART) in files
        if not half and _content(path) is None:
            raise DataError(f"{output}: expected an empty folder, or one that prepare wrote, found {path.name!r}")


def _content(path: Path) -> str | None:
    """The identity of what a file was made of; ``None`` where there is no file, or one that something else wrote."""
    if path.suffix != ENDING:
        return None
    try:
        with opened(path) as file:
            return " ".join(file.attribute("content")) if file.attribute("written_by") == (WRITER,) else None
    except DataError:
        return None


def _remove(*paths: Path) -> None:
    for path in paths:
        with writable(path):
            path.unlink(missing_ok=True)


def _as_they_are(part: Part, width: int) -> Cells:
    return part.cells


def _principal_components(part: Part, width: int) -> Cells:
    """Mean fill, standardisation and PCA of one modality, fitted on the N patients who have it."""
    from sklearn.decomposition import PCA  # one verb's business, and slow to import
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cells = np.where(part.cells.observed, part.cells.values, np.nan).astype(np.float64)
    scaled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()).fit_transform(cells)
    if not scaled.any():
        expected = "expected features that vary, to fit a PCA on"
        raise DataError(f"modality {part.modality.name!r}: {expected}, found none in {len(cells)} patients")
    pca = PCA(min(width, *cells.shape), svd_solver="full")
    values = pca.fit_transform(scaled)[:, pca.explained_variance_ratio_ > NEGLIGIBLE].astype(np.float32)
    names = tuple(f"component {i + 1}" for i in range(values.shape[1]))
    told = f"pca, unsupervised, fitted on all {len(cells)} patients (transductive)"
    return Cells(values, np.ones(values.shape, dtype=bool), names, ("numeric",) * len(names), told)


ENCODERS: dict[str, Callable[[Part, int], Cells]] = {
    "none": _as_they_are,
    "pca": _principal_components,
}


def _hdf5(part: Part, cells: Cells) -> bytes:
    """A whole file, made in memory: the same content gives the same bytes."""
    image = io.BytesIO()
    with h5py.File(image, "w", track_order=True) as file:  # labels stay in the order of the tasks
        file.attrs.update({"written_by": WRITER, "content": part.content, "patients": PATIENTS, ENCODER: cells.encoder})
        _text(file, "patient_id", part.ids.tolist())
        file["embedding"] = cells.values
        if not cells.observed.all():
            file[OBSERVED] = cells.observed
        _text(file, FEATURE_NAMES, cells.features)
        if "binary" in cells.kinds:
            _text(file, FEATURE_KINDS, cells.kinds)
        if (part.quality != 1).any():
            file["quality_score"] = part.quality
        for task, labels in part.labels.items():
            label = file.create_dataset(f"{task.name}{LABEL_SUFFIX}", data=labels)
            label.attrs["task"] = task.name
            label.attrs.create("classes", list(task.classes), dtype=h5py.string_dtype())
        if part.group is not None:
            _text(file, GROUP, part.group.tolist())
    return image.getvalue()


def _text(file: h5py.File, name: str, words: Sequence[str]) -> None:
    file.create_dataset(name, data=list(words), dtype=h5py.string_dtype())
