"""Small sets of molecules, as the molecules domain reads them: a table, and features in tables or in an archive.

``write_archive(folder, ...)`` and ``write_tables(folder, ...)`` write made-up molecules and give back what they wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusion_lab.config import validate
from fusion_lab.contracts import UserError
from fusion_lab.data.molecules import MoleculesConfig, load

TASKS = ("absorbs", "glows")
BITS, DESCRIPTORS, GEOMETRY, QUANTUM = 24, 3, 4, 2


@dataclass(frozen=True)
class Made:
    """R molecules: ``table`` has a line each, ``bits`` bool [R,bits], ``vectors`` [R,F], ``bags`` R arrays [N,F]."""

    table: pd.DataFrame
    bits: np.ndarray
    vectors: np.ndarray
    bags: list[np.ndarray]

    @property
    def ids(self) -> list[str]:
        return [str(name) for name in self.table["ID"]]


def made(rows: int = 60, unknown: float = 0.1, groups: int = 9, largest: int = 4, seed: int = 0) -> Made:
    """Molecules of which a latent shows in every feature and decides the labels; the first has no conformer."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=rows)
    table = pd.DataFrame({"ID": np.arange(rows) * 3 + 7, "SMILES": ["C" * (1 + row) for row in range(rows)]})
    for name in TASKS:
        label = (latent + rng.normal(size=rows) > 0.3).astype(float)
        label[rng.random(rows) < unknown] = np.nan
        table[name] = pd.array(label, dtype="Int8")
    table["scaffold_group"] = np.arange(rows) % groups
    counts = rng.integers(0, largest + 1, rows)
    counts[:2] = 0, largest
    bags = [rng.normal(latent[row], 1, (n, GEOMETRY + QUANTUM)).astype(np.float32) for row, n in enumerate(counts)]
    bits = rng.random((rows, BITS)) < 1 / (1 + np.exp(-latent[:, None]))
    vectors = rng.normal(latent[:, None], 1, (rows, DESCRIPTORS)).astype(np.float32)
    return Made(table, bits, vectors, bags)


def arrays_of(of: Made) -> dict[str, np.ndarray]:
    """The arrays of an archive."""
    return {
        "ID": of.table["ID"].to_numpy(),
        "fp_packed": np.packbits(of.bits, axis=1),
        "desc2d": of.vectors,
        "bag_offset": np.cumsum([0, *map(len, of.bags)]).astype(np.int32),
        "x3d": np.concatenate(of.bags),
    }


def write_archive(folder: Path, of: Made | None = None, **changed: Any) -> Made:
    """``compounds.csv`` and ``conformer_bags.npz``; ``changed`` arrays take the place of those, ``None`` leaves out."""
    of = of or made()
    of.table.to_csv(folder / "compounds.csv", index=False)
    arrays = {**arrays_of(of), **changed}
    np.savez(folder / "conformer_bags.npz", **{name: array for name, array in arrays.items() if array is not None})
    return of


def frames_of(of: Made) -> dict[str, pd.DataFrame]:
    """The feature tables, by name of the file: geometry and quantum mechanics of each conformer, columns unsorted."""
    ids = np.repeat(of.table["ID"].to_numpy(), list(map(len, of.bags)))
    conformer = np.concatenate([np.arange(len(bag)) for bag in of.bags])
    values = np.concatenate(of.bags).astype(float)
    keys = pd.DataFrame({"ID": ids, "conf_id": conformer})
    vectors = pd.DataFrame(of.vectors.astype(float), columns=[f"d{i}" for i in range(DESCRIPTORS)])
    geometry = pd.DataFrame(values[:, :GEOMETRY], columns=[f"g{i}" for i in range(GEOMETRY)])
    quantum = pd.DataFrame(values[:, GEOMETRY:], columns=[f"q{i}" for i in range(QUANTUM)])
    told = {"status": "ok", "error": None, "split": "train"}
    return {
        "feat2d_scaled": pd.concat([of.table[["ID"]], vectors], axis=1).assign(split="train"),
        "feat3d_scaled": pd.concat([keys, geometry[geometry.columns[::-1]]], axis=1).assign(smiles="C"),
        "feat3d_qm_scaled": pd.concat([keys, quantum], axis=1).assign(record_index=range(len(ids)), **told),
    }


def write_tables(folder: Path, of: Made | None = None, ending: str = ".csv", **changed: pd.DataFrame | None) -> Made:
    """``labels.csv`` and the feature tables; ``changed`` ones take the place of those, ``None`` leaves out."""
    of = of or made()
    of.table.to_csv(folder / "labels.csv", index=False)
    for name, frame in {**frames_of(of), **changed}.items():
        if frame is not None:
            path = folder / f"{name}{ending}"
            frame.to_csv(path, index=False) if ending == ".csv" else frame.to_parquet(path, index=False)
    return of


def config(folder: Path | str, **settings: Any) -> MoleculesConfig:
    return validate(MoleculesConfig, {"domain": "molecules", "root": str(folder), **settings}, "test")


def notes(folder: Path, **settings: Any) -> str:
    return "\n".join(load(config(folder, **settings)).provenance.notes)


def refusal(folder: Path, **settings: Any) -> str:
    """The one line that a user is told."""
    with pytest.raises(UserError) as error:
        load(config(folder, **settings))
    (line,) = str(error.value).splitlines()
    return line
