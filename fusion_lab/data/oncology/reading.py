"""One modality of a folder: the embedding of every patient who has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, FeatureKind
from fusion_lab.data.cells import listed
from fusion_lab.data.oncology.hdf5 import Hdf5, opened
from fusion_lab.data.oncology.ids import read_patient_ids
from fusion_lab.data.oncology.settings import (
    EMBEDDING_KEYS,
    ENCODER,
    FEATURE_KINDS,
    FEATURE_NAMES,
    OBSERVED,
    ORIGINAL_NAMES,
    PATCHES,
    QUALITY_KEYS,
    FileConfig,
)
from fusion_lab.data.readers import quoted, suggest


@dataclass(frozen=True)
class Embedded:
    """N patients of one file, each once, and F features.

    ``values`` float32 ``[N,F]`` are 0 where not ``observed``, bool ``[N,F]``; ``quality`` float32 ``[N]`` is in [0, 1].
    ``rows`` counts those of the file, which are more where they are slides. ``original`` names the columns that the
    embedding was made of, where the file tells and they are not its features.
    """

    path: Path
    ids: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    quality: np.ndarray
    features: tuple[str, ...]
    kinds: tuple[FeatureKind, ...]
    original: tuple[str, ...]
    encoder: str
    rows: int


class _Rows(NamedTuple):
    """The rows of a file, as :class:`Embedded` has them; ``quality`` is NaN where unknown."""

    ids: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    quality: np.ndarray


def read_embedded(
    path: Path, modality: str, settings: FileConfig, normalise: bool = True, new: bool = False
) -> Embedded:
    """Reads a modality's file. Slides of one patient become their mean, weighted by their numbers of patches; the
    quality is the plain mean. Features to ignore need not be in a file of ``new`` patients.

    Raises:
        DataError: the file, a data set or a value in it cannot be used.
    """
    setting = f"data.files.{modality}"
    with opened(path) as file:
        patches = _patches(file)
        ids = read_patient_ids(file, settings.ids, f"{setting}.ids", normalise, repeated=patches is not None)
        name = _embedding_name(file, settings, setting, len(ids))
        values, observed = _embedding(file, name, ids)
        rows = _Rows(ids, values, observed, _quality(file, settings.quality, f"{setting}.quality", ids))
        features, original = _feature_names(file, values.shape[1])
        kinds = _feature_kinds(file, name, ids, values, observed)
        encoder = " ".join(file.attribute(ENCODER))
        if patches is not None:
            _require_length(file, PATCHES, patches.shape, ids)
            rows, kinds = _pooled(rows, patches), ("numeric",) * len(kinds)  # the mean of slides is a share, not 0 or 1
        kept = _kept(file, features, settings.ignore, f"{setting}.ignore", new)
    return Embedded(
        path,
        rows.ids,
        rows.values[:, kept],
        rows.observed[:, kept],
        np.where(np.isnan(rows.quality), 1.0, rows.quality).astype(np.float32),
        tuple(features[i] for i in kept),
        tuple(kinds[i] for i in kept),
        original,
        encoder,
        len(ids),
    )


def _embedding_name(file: Hdf5, settings: FileConfig, setting: str, rows: int) -> str:
    """As the settings say; or the first known name; or the only matrix with a row per id."""
    name = file.find("the embedding", EMBEDDING_KEYS, settings.embedding, f"{setting}.embedding")
    if name is None:
        others = (OBSERVED, *QUALITY_KEYS, settings.quality)
        matrices = [n for n in file.names if n not in others and file.is_matrix(n, rows)]
        if len(matrices) > 1:
            raise DataError(
                f"{file.path}: expected one embedding ({', '.join(EMBEDDING_KEYS)}), "
                f"found {listed(matrices)} (choose with {setting}.embedding)"
            )
        name = matrices[0] if matrices else None
    return name or file.require("an embedding", EMBEDDING_KEYS, None, f"{setting}.embedding")


def _embedding(file: Hdf5, name: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, 0 where not observed, and where they are: float32 and bool ``[N,F]``."""
    raw = file.numbers(name, (2,))
    _require_length(file, name, raw.shape, ids)
    if not raw.shape[1]:
        raise DataError(f"{file.place(name)}: expected one feature at least, found shape {raw.shape}")
    observed = np.ones(raw.shape, bool)
    if OBSERVED in file.names:
        marks = file.numbers(OBSERVED, (2,))
        if marks.shape != raw.shape:
            raise DataError(f"{file.place(OBSERVED)}: expected shape {raw.shape} as of {name!r}, found {marks.shape}")
        _refuse(file, OBSERVED, ids, marks, (marks == 0) | (marks == 1), "0 or 1")
        observed = marks == 1
    with np.errstate(over="ignore"):  # what 32 bits do not hold is infinite, and refused
        values = np.where(observed, raw, 0).astype(np.float32)
    _refuse(file, name, ids, raw, np.isfinite(values), "a finite number")
    return values, observed


def _quality(file: Hdf5, key: str | None, setting: str, ids: np.ndarray) -> np.ndarray:
    """The quality of each row, ``[N]``; NaN where it is not known. Of several scores of a row, their mean."""
    name = file.find("the quality", QUALITY_KEYS, key, setting)
    if name is None:
        return np.full(len(ids), np.nan)
    given = file.numbers(name, (1, 2))
    _require_length(file, name, given.shape, ids)
    scores = given.astype(np.float64)
    known = ~np.isnan(scores)
    _refuse(file, name, ids, given, ~known | ((scores >= 0) & (scores <= 1)), "a quality in [0, 1]")
    if scores.ndim == 1:
        return scores
    sums = np.where(known, scores, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1), np.nan)


def _patches(file: Hdf5) -> np.ndarray | None:
    """How many patches each slide has, int ``[N]``, in a file of slides."""
    if PATCHES not in file.names:
        return None
    patches = file.numbers(PATCHES)
    bad = np.flatnonzero(patches <= 0) if patches.dtype.kind in "iu" else np.arange(len(patches))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{file.place(PATCHES)}: row {row + 1}: expected a whole number of patches, one at least, "
            f"found {patches[row]} ({patches.dtype})"
        )
    return patches


def _feature_names(file: Hdf5, width: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the features, and of the columns that they were made of, where these are others."""
    original = (
        tuple(" ".join(name.split()) for name in file.texts(ORIGINAL_NAMES)) if ORIGINAL_NAMES in file.names else ()
    )
    if FEATURE_NAMES in file.names:
        names = file.texts(FEATURE_NAMES)
        if len(names) != width:
            raise DataError(f"{file.place(FEATURE_NAMES)}: expected {width} names of features, found {len(names)}")
        _check_names(file, FEATURE_NAMES, names)
        return tuple(names), original if original != tuple(names) else ()
    if len(original) == width:
        _check_names(file, ORIGINAL_NAMES, original)
        return original, ()
    return tuple(f"e{i}" for i in range(width)), original


def _feature_kinds(
    file: Hdf5, name: str, ids: np.ndarray, values: np.ndarray, observed: np.ndarray
) -> tuple[FeatureKind, ...]:
    """Which features are measured, and which are 0 or 1, and so not scaled; measured unless the file says otherwise."""
    width = values.shape[1]
    if FEATURE_KINDS not in file.names:
        return ("numeric",) * width
    told = file.texts(FEATURE_KINDS)
    if len(told) != width or not {*told} <= {"numeric", "binary"}:
        raise DataError(
            f"{file.place(FEATURE_KINDS)}: expected {width} words numeric or binary, found {len(told)}: "
            f"{listed(sorted({*told}))}"
        )
    binary = np.array([kind == "binary" for kind in told])
    _refuse(file, name, ids, values, ~(binary & observed) | np.isin(values, (0, 1)), "0 or 1 in a binary feature")
    return tuple("binary" if one else "numeric" for one in binary)


def _check_names(file: Hdf5, key: str, names: list[str] | tuple[str, ...]) -> None:
    seen: set[str] = set()
    for place, name in enumerate(names, 1):
        if not name or len(name.splitlines()) > 1:
            raise DataError(f"{file.place(key)}: row {place}: expected a name in one line, found {quoted(name)}")
        if name in seen:
            raise DataError(f"{file.place(key)}: row {place}: expected each name once, found {quoted(name)} again")
        seen.add(name)


def _kept(file: Hdf5, features: tuple[str, ...], ignore: tuple[str, ...], setting: str, new: bool) -> list[int]:
    """The places of the features that are not ignored."""
    for name in ignore:
        if name not in features and not new:
            hint = suggest(name, list(features))
            raise DataError(f"{file.path}: expected a feature {quoted(name)} ({setting}), found none{hint}")
    kept = [i for i, name in enumerate(features) if name not in ignore]
    if not kept:
        raise DataError(f"{file.path}: expected a feature besides those of {setting}, found none")
    return kept


def _pooled(rows: _Rows, patches: np.ndarray) -> _Rows:
    """One row per patient, in order of first appearance; what is not observed has no weight."""
    _, first, group = np.unique(rows.ids, return_index=True, return_inverse=True)
    if len(first) == len(rows.ids):
        return rows
    order = np.argsort(first)
    place = np.argsort(order)[group]
    weights = patches[:, None] * rows.observed.astype(np.float64)
    total = _sums(place, weights, len(first))
    values = _sums(place, weights * rows.values, len(first)) / np.maximum(total, 1)
    known = ~np.isnan(rows.quality)[:, None]
    scores = _sums(place, np.where(known, rows.quality[:, None], 0.0), len(first))[:, 0]
    counts = _sums(place, known.astype(np.float64), len(first))[:, 0]
    quality = np.where(counts > 0, scores / np.maximum(counts, 1), np.nan)
    return _Rows(rows.ids[first[order]], values.astype(np.float32), total > 0, quality)


def _sums(place: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sums over the rows of each place: ``[count,F]``."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, place, values)
    return sums


def _require_length(file: Hdf5, name: str, shape: tuple[int, ...], ids: np.ndarray) -> None:
    if shape[0] != len(ids):
        raise DataError(f"{file.place(name)}: expected {len(ids)} rows as there are ids, found {shape[0]}")


def _refuse(file: Hdf5, name: str, ids: np.ndarray, found: np.ndarray, fits: np.ndarray, expected: str) -> None:
    """An error for the first value that does not fit, by its row, patient and column."""
    if not fits.all():
        at = tuple(int(i) for i in np.argwhere(~fits)[0])
        column = f", column {at[1] + 1}" if len(at) > 1 else ""
        where = f"row {at[0] + 1} (patient {quoted(ids[at[0]])}){column}"
        raise DataError(f"{file.place(name)}: {where}: expected {expected}, found {found[at]!s}")
