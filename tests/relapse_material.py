"""Small tables of days and fold archives, as the relapse domain reads them.

``days(...)`` makes a table, ``write_days(folder, frame)`` writes it as ``prepare`` names it, ``write_archives(folder,
...)`` writes windows as the pickles of old or as our arrays::

    frame = write_days(tmp_path, days(patients=3))
    dataset = load(config(tmp_path))
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fusion_lab.config import validate
from fusion_lab.contracts import UserError
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.relapse import RelapseConfig, load
from fusion_lab.data.relapse.archive_writing import write

WIDTHS = {"accel": 3, "sleep": 2}
SEQUENCES = ("train_0", "val_0", "test_0")


def days(
    patients: int = 9, length: int = 8, unknown: float = 0.1, gaps: float = 0.1, cells: float = 0.05, seed: int = 0
) -> pd.DataFrame:
    """``length`` days of every sequence, some of them left out; a modality is off on some days, cells are missing. No
    day is without any modality.
    """
    rng = np.random.default_rng(seed)
    names = [f"{modality}__{i}" for modality, width in WIDTHS.items() for i in range(width)]
    parts = []
    for patient in range(patients):
        for sequence in SEQUENCES:
            label = (np.arange(length) % 3 == 0).astype(float)
            values = rng.normal(label[:, None] + patient, 1, (length, len(names)))
            values[rng.random(values.shape) < cells] = np.nan
            values[:, -1] = np.nan_to_num(values[:, -1])
            label[rng.random(length) < unknown] = np.nan
            frame = pd.DataFrame(values.astype(np.float32), columns=names)
            frame.loc[rng.random(length) < 0.3, names[: WIDTHS["accel"]]] = np.nan
            frame.insert(0, "day", np.arange(length))
            frame.insert(0, "sequence", sequence)
            frame.insert(0, "patient", f"P{patient + 1}")
            frame["label"] = pd.array(label, dtype="Int8")
            parts.append(frame[rng.random(length) >= gaps])
    return pd.concat(parts, ignore_index=True)


def write_days(folder: Path, frame: pd.DataFrame | None = None, name: str = "daily.parquet") -> pd.DataFrame:
    """Writes a table of days as parquet or CSV, and gives it back."""
    frame = days() if frame is None else frame
    path = folder / name
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    return frame


def config(root: Path | None = None, **settings: Any) -> RelapseConfig:
    where = {} if root is None else {"root": str(root)}
    return validate(RelapseConfig, {"domain": "relapse", **where, **settings}, "test")


def refusal(root: Path | None, **settings: Any) -> str:
    """The one line that a user is told, without the folder."""
    with pytest.raises(UserError) as error:
        load(config(root, **settings))
    (line,) = str(error.value).splitlines()
    return line.replace(f"{root}/", "").replace(f"{root}", "FOLDER")


def notes(root: Path | None, **settings: Any) -> str:
    return "\n".join(load(config(root, **settings)).provenance.notes)


def write_archives(folder: Path, dataset: ArrayDataset) -> Path:
    """Fold archives of a data set, in our form."""
    write(dataset, folder, "none", lambda line: None)
    return folder


def window_dicts(path: Path) -> list[dict[str, Any]]:
    """The windows of one of our files, each as the dict that pickles held. Missing cells are 0 in these."""
    with np.load(path) as opened:
        arrays = dict(opened)
    windows = []
    for row in range(len(arrays["patient_id"])):
        own = {name: of[row] for name, of in arrays.items()}
        parts = {
            part: {name.split("/")[1]: own[name] for name in own if name.startswith(f"{part}/")}
            for part in ("features", "modality_masks")
        }
        texts = {name: str(own[name]) for name in ("patient_id", "sequence_name")}
        end = {"window_end_day": int(own["window_end_day"]), "window_days": own["window_days"].tolist()}
        masks = {name: own[name] for name in ("padding_mask", "labels", "label_mask")}
        windows.append({**texts, **end, **parts, **masks})
    return windows


def as_pickles(folder: Path, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    """Our files as pickles in their place."""
    for path in sorted(folder.glob("fold_*/*.npz")):
        path.with_suffix(".pkl").write_bytes(pickle.dumps(window_dicts(path), protocol))
        path.unlink()
    return folder


def assert_same(one: ArrayDataset, other: ArrayDataset) -> None:
    """Both have the same rows, bit for bit."""
    assert one.ids.tolist() == other.ids.tolist()
    assert one.spec == other.spec
    for part in ("inputs", "valid", "observed", "targets", "known"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert ours.keys() == theirs.keys()
        for name, leaf in ours.items():
            assert torch.equal(leaf, theirs[name]), (part, name)
