"""Small cohorts of cancer patients, one HDF5 file per modality, as the oncology domain reads them.

``write_layout(folder, ...)`` writes a cohort and gives back what it wrote::

    cohort = write_layout(tmp_path, rows=60, widths={"clinical": 4, "temporal": 3}, missing=0.3, seed=1)
    cohort.present["temporal"]  # who has it, bool [R]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fusion_lab.contracts import DataError
from fusion_lab.data.oncology import OncologyConfig, load

WIDTHS = {"clinical": 6, "temporal": 5, "pathological": 4, "semantic": 7, "spatial": 3}
EMBEDDING = {"semantic": "text_combined_embedding_512", "spatial": "embedding_mean_512"}
LABELS = {"survival": "surv_5yr_label", "recurrence": "rec_2yr_label"}


@dataclass(frozen=True)
class Cohort:
    """R patients: ``ids`` as they are compared, ``embeddings`` float32 ``[R,F]`` (0 where absent or not observed),
    ``observed`` bool ``[R,F]``, ``present`` bool ``[R]`` and ``quality`` float32 ``[R]`` of each modality; ``labels``
    int8 ``[R]`` of each task, -1 unknown.
    """

    ids: np.ndarray
    embeddings: dict[str, np.ndarray]
    observed: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    quality: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def cohort(
    rows: int = 60,
    widths: Mapping[str, int] | None = None,
    missing: float = 0.2,
    gaps: float = 0.0,
    unknown: float = 0.2,
    signal: float = 1.5,
    seed: int = 0,
) -> Cohort:
    """Patients of whom a latent of two dimensions shows in every modality and decides on both labels, more so with more
    ``signal``. All have the first modality and a share ``missing`` lacks each other one; ``gaps`` and ``unknown`` are
    the shares of cells not observed and of unknown labels.
    """
    rng, widths = np.random.default_rng(seed), widths or WIDTHS
    latent = rng.normal(size=(rows, 2))
    embeddings, observed, present, quality = {}, {}, {}, {}
    for place, (name, width) in enumerate(widths.items()):
        there = (rng.random(rows) >= missing) | (place == 0)
        there[rng.integers(rows)] = True
        values = (latent @ rng.normal(size=(2, width)) + rng.normal(size=(rows, width))).astype(np.float32)
        seen = (rng.random((rows, width)) >= gaps) & there[:, None]
        seen[there, 0] = True
        embeddings[name], observed[name], present[name] = np.where(seen, values, np.float32(0)), seen, there
        quality[name] = np.where(there, np.round(rng.uniform(0.2, 1, rows), 2), 1).astype(np.float32)
    labels = {}
    for task, way in zip(LABELS, (latent[:, 0], latent.sum(axis=1)), strict=True):
        label = (rng.random(rows) < 1 / (1 + np.exp(-signal * way))).astype(np.int8)
        label[rng.random(rows) < unknown] = -1
        label[:4] = [0, 1, 0, 1]
        labels[task] = label
    ids = np.array([str(number) for number in rng.permutation(np.arange(1, 10 * rows))[:rows]])
    return Cohort(ids, embeddings, observed, present, quality, labels)


def write_layout(
    folder: Path,
    rows: int = 60,
    widths: Mapping[str, int] | None = None,
    missing: float = 0.2,
    seed: int = 0,
    *,
    made: Cohort | None = None,
    slides: int = 1,
    labelled: bool = True,
    groups: int = 0,
    **what: Any,
) -> Cohort:
    """A file per modality: those who have it, in an order of its own and with ids written in its own way.

    ``made`` is written in place of a new cohort; ``slides``: "spatial" has so many rows of each patient, whose weighted
    mean is theirs; ``groups``: the clinical file tells as many sites. More arguments as of :func:`cohort`.
    """
    made = made or cohort(rows, widths, missing, seed=seed, **what)
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(made.embeddings):
        order = np.flatnonzero(made.present[name])
        if place:
            order = np.random.default_rng([seed, place]).permutation(order)
        arrays: dict[str, Any] = {
            "patient_id": [_written(made.ids[row], place) for row in order],
            EMBEDDING.get(name, "embedding_512"): made.embeddings[name][order],
            "quality_score": made.quality[name][order],
        }
        if not made.observed[name][order].all():
            arrays["observed"] = made.observed[name][order]
        if name == "spatial" and slides > 1:
            arrays = _slides(arrays, slides, np.random.default_rng([seed, place, 1]))
        if place == 0 and labelled:
            for task, label in made.labels.items():
                arrays[LABELS[task]] = label
                arrays[LABELS[task].split("_")[0] + "_known_mask"] = label >= 0
        if place == 0 and groups:
            arrays["site"] = [f"site {row % groups}" for row in range(len(order))]
        write_file(folder / f"{name}.h5", arrays)
    return made


def write_file(path: Path, arrays: Mapping[str, Any], **attributes: str) -> None:
    """An HDF5 file with these data sets at its root; texts have variable length and are UTF-8."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = _storable(array)
        file.attrs.update(attributes)


def change(path: Path, **arrays: Any) -> None:
    """Puts these data sets in place of those of the same names; ``None`` takes one away."""
    with h5py.File(path, "r+") as file:
        for name, array in arrays.items():
            if name in file:
                del file[name]
            if array is not None:
                file[name] = _storable(array)


def refusal(folder: Path, **settings: Any) -> str:
    """The one line with which a folder is refused, without the folder's path."""
    with pytest.raises(DataError) as refused:
        load(OncologyConfig(root=str(folder), **settings))
    message = str(refused.value)
    assert message.startswith(str(folder)), message
    assert len(message.splitlines()) == 1
    return message.removeprefix(str(folder)).removeprefix("/")


def _storable(array: Any) -> np.ndarray:
    """h5py writes texts as objects only."""
    values = np.asarray(array)
    return values.astype(object) if values.dtype.kind == "U" else values


def _written(identifier: str, place: int) -> str:
    """An id as one file or the other writes it."""
    return (identifier.zfill(5), identifier, f"patient_{identifier}", f"P{identifier.zfill(4)}-a")[place % 4]


def _slides(arrays: dict[str, Any], slides: int, rng: np.random.Generator) -> dict[str, Any]:
    """Rows of slides that deviate from their patient's embedding by what the numbers of patches weigh out."""
    (name,) = (key for key in arrays if key.startswith("embedding"))
    values, count = arrays[name].astype(np.float64), len(arrays[name])
    patches = rng.integers(1, 9, (count, slides))
    off = rng.normal(size=(count, slides, values.shape[1]))
    off -= (patches[..., None] * off).sum(1, keepdims=True) / patches.sum(1)[:, None, None]
    shuffled = rng.permutation(count * slides)
    made = {key: np.repeat(np.array(array), slides, axis=0)[shuffled] for key, array in arrays.items()}
    if "observed" in made:
        off *= np.asarray(arrays["observed"])[:, None]
    made[name] = (values[:, None] + off).reshape(count * slides, -1).astype(np.float32)[shuffled]
    made["n_patches"] = patches.ravel()[shuffled].astype(np.int32)
    return made
