"""A generated miniature of the HANCOCK feature tables: its files, columns and types, few rows, a planted signal."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

STAINS = ("CD163", "CD3", "CD56", "CD68", "CD8", "HE", "MHC1", "PDL1")
ICD_CODES = [  # chapter letter and number, as the cohort's files write them
    *(f"c{n:03d}" for n in (20, 21, 22, 28, 29, 48, 51, 52, 58, 68, 90, 91, 98, 99, 100, 102, 108, 109, 111, 130)),
    *(f"c{n:03d}" for n in (131, 132, 138, 139, 148, 320, 321, 322, 323, 328, 329, 770, 778, 800)),
    *("d000", "d370", "d380", "r590", "r599", "t810"),
]
BLOOD = {  # column: (mean, deviation, weight of the latent risk)
    "Leukocytes [#/volume] in Blood": (8.2, 2.0, 0.8),
    "Hemoglobin [Mass/volume] in Blood": (14.2, 1.6, -1.0),
    "Platelets [#/volume] in Blood": (265.0, 60.0, 0.0),
    "Erythrocytes [#/volume] in Blood": (4.6, 0.5, 0.0),
    "Hematocrit [Volume Fraction] of Blood": (41.4, 4.0, -0.5),
    "Erythrocyte mean corpuscular hemoglobin [Entitic mass]": (31.1, 2.0, 0.0),
    "Erythrocyte mean corpuscular volume [Entitic volume]": (90.7, 5.0, 0.0),
    "Erythrocyte mean corpuscular hemoglobin concentration [Mass/volume]": (34.3, 1.0, 0.0),
    "Erythrocyte distribution width [Ratio]": (13.7, 1.1, 0.0),
    "Platelet mean volume [Entitic volume] in Blood": (10.5, 0.9, 0.0),
    "Granulocytes [#/volume] in Blood": (5.5, 1.5, 0.0),
    "Eosinophils [#/volume] in Blood": (0.15, 0.03, 0.0),
    "Basophils [#/volume] in Blood": (0.04, 0.01, 0.0),
    "Lymphocytes [#/volume] in Blood": (1.8, 0.4, -1.0),
    "Monocytes [#/volume] in Blood": (0.7, 0.15, 0.0),
    "Platelet distribution width [Entitic volume] in Blood by Automated count": (12.5, 1.9, 0.0),
}
ALWAYS = 10
"""The first rows miss no modality, so that every code of a column is there whatever the number of rows."""


def write_miniature(folder: Path, rows: int = 120, seed: int = 0) -> None:
    """Writes the seven files for ``rows`` patients; a risk planted in clinical and blood values drives both labels."""
    assert rows >= 4 * ALWAYS, rows
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.sort(rng.choice(np.arange(1, 2 * rows + 1), rows, replace=False))
    age, lab = rng.normal(size=(2, rows))
    tables = {
        "clinical.csv": _clinical(rng, age),
        "pathological.csv": _pathological(rng, rows),
        "blood.csv": _blood(rng, lab),
        "icd_codes.csv": _icd_codes(rng, rows),
        "tma_cell_density.csv": _cell_density(rng, rows),
        "targets.csv": _targets(rng, age + lab),
    }
    absent = {"blood.csv": 0.09, "icd_codes.csv": 0.06, "tma_cell_density.csv": 0.04}
    for name, table in tables.items():
        table.insert(0, "patient_id", ids)
        table[_present(rng, rows, absent.get(name, 0.0))].to_csv(folder / name, index=False)
    with h5py.File(folder / "tma_embeddings.h5", "w") as file:
        for stain in STAINS:
            present = _present(rng, rows, 0.02)
            file[f"{stain}/patient_id"] = ids[present].astype(np.int32)
            file[f"{stain}/embedding"] = rng.normal(0, 0.03, (present.sum(), 512)).astype(np.float16)


def write_follow_up(folder: Path, seed: int = 0) -> None:
    """Writes long tables beside the miniature's: visits after the operation, values that a laboratory found between
    them, whether the patient was well on a day, and the cells of a section. The cohort itself has none.
    """
    rng = np.random.default_rng(seed)
    ids = pd.read_csv(folder / "clinical.csv")["patient_id"].to_numpy()
    ids = ids[_present(rng, len(ids), 0.1)]
    visits, laboratory = (_days(rng, ids, most) for most in (6, 4))
    visits["weight"] = _gaps(rng, rng.normal(75, 9, len(visits)).round(1), 0.1)
    visits["diet"] = rng.choice(["full", "soft", "tube"], len(visits))
    laboratory["crp"] = rng.gamma(2, 9, len(laboratory)).round(1)
    well = visits[["patient_id", "day"]].assign(well=rng.choice(["no", "yes"], len(visits)))
    well.loc[rng.random(len(well)) < 0.1, "well"] = ""
    cells = _days(rng, ids, 5).rename(columns={"day": "cell"})
    cells["area"], cells["round"] = rng.normal(60, 9, len(cells)).round(1), rng.random(len(cells)).round(3)
    for name, table in {"visits": visits, "laboratory": laboratory, "well": well, "cells": cells}.items():
        table.to_csv(folder / f"{name}.csv", index=False)


def _days(rng: np.random.Generator, ids: np.ndarray, most: int) -> pd.DataFrame:
    """One to ``most`` different days of each id, in any order."""
    lines = [(i, day) for i in ids for day in rng.choice(30, rng.integers(1, most + 1), replace=False)]
    return pd.DataFrame(lines, columns=["patient_id", "day"])


def _present(rng: np.random.Generator, rows: int, absent: float) -> np.ndarray:
    present = rng.random(rows) >= absent
    present[:ALWAYS] = True
    present[-1] = absent == 0
    return present


def _codes(rng: np.random.Generator, rows: int, codes: int, first: float = 0.6) -> np.ndarray:
    """Random codes, the first one the most frequent; every code is there."""
    drawn = np.where(rng.random(rows) < first, 0, rng.integers(0, codes, rows))
    drawn[:codes] = np.arange(codes)
    return drawn


def _gaps(rng: np.random.Generator, values: np.ndarray, share: float) -> np.ndarray:
    gaps = rng.random(len(values)) < share
    gaps[:ALWAYS] = False
    return np.where(gaps, np.nan, values)


def _clinical(rng: np.random.Generator, age: np.ndarray) -> pd.DataFrame:
    rows = len(age)
    return pd.DataFrame(
        {
            "sex": _codes(rng, rows, 2),
            "primarily_metastasis": _gaps(rng, _codes(rng, rows, 2, 0.9), 0.05),
            "smoking_status": _codes(rng, rows, 4, 0.2),
            "age_at_initial_diagnosis": np.round(61 + 10 * age).astype(int),
        }
    )


def _pathological(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "perinodal_invasion": _gaps(rng, _codes(rng, rows, 2, 0.0), 0.45),
            "lymphovascular_invasion_L": _codes(rng, rows, 2),
            "vascular_invasion_V": _codes(rng, rows, 2, 0.9),
            "perineural_invasion_Pn": _codes(rng, rows, 2),
            "carcinoma_in_situ": _codes(rng, rows, 2),
            "primary_tumor_site": _codes(rng, rows, 5, 0.1),
            "grading": _codes(rng, rows, 4, 0.1),
            "hpv_association_p16": _codes(rng, rows, 3, 0.2),
            "resection_status": _codes(rng, rows, 4, 0.8),
            "resection_status_carcinoma_in_situ": _codes(rng, rows, 3),
            "histologic_type": _codes(rng, rows, 9, 0.1),
            "number_of_positive_lymph_nodes": _gaps(rng, rng.poisson(2.4, rows), 0.2),
            "infiltration_depth_in_mm": _gaps(rng, rng.integers(0, 40, rows), 0.2),
            "pT_stage": _codes(rng, rows, 9, 0.0),
            "pN_stage": _codes(rng, rows, 10, 0.3),
        }
    )


def _blood(rng: np.random.Generator, lab: np.ndarray) -> pd.DataFrame:
    noise = rng.normal(size=(len(BLOOD), len(lab)))
    return pd.DataFrame(
        {
            name: np.round(mean + deviation * (weight * lab + 0.7 * e), 3)
            for e, (name, (mean, deviation, weight)) in zip(noise, BLOOD.items(), strict=True)
        }
    )


def _icd_codes(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    counts = rng.binomial(3, 0.02, (rows, len(ICD_CODES)))
    counts[rng.integers(0, ALWAYS, len(ICD_CODES)), np.arange(len(ICD_CODES))] = 1
    counts[ALWAYS] = 0
    return pd.DataFrame(counts, columns=ICD_CODES)


def _cell_density(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    names = ("cd3_z", "cd3_inv", "cd8_z", "cd8_inv")
    return pd.DataFrame({n: _gaps(rng, np.round(rng.gamma(1.0, 700.0, rows), 2), 0.05) for n in names})


def _targets(rng: np.random.Generator, risk: np.ndarray) -> pd.DataFrame:
    """Labels are drawn from the risk; follow-up that ends early leaves them unknown."""
    rows = len(risk)
    died, recurred = rng.random((2, rows)) < 1 / (1 + np.exp(-1.8 * risk - [[0.3], [-0.6]]))
    censored = rng.random((2, rows)) < [[0.35], [0.2]]
    censored[:, :ALWAYS] = False
    died[:4], recurred[:4] = [True, True, False, False], [True, False, True, False]
    days = rng.integers(100, 3000, rows)
    return pd.DataFrame(
        {
            "recurrence": np.where(recurred, "yes", "no"),
            "days_to_recurrence": np.where(recurred, rng.integers(50, 700, rows), np.nan),
            "survival_status": np.where(died, "deceased", "living"),
            "survival_status_with_cause": np.where(died, "deceased - tumor specific", "living"),
            "days_to_last_information": days,
            "rfs_event": (died | recurred).astype(int),
            "days_to_rfs_event": days - 30,
            "label_5y_survival": np.where(censored[0], np.nan, died),
            "label_2y_recurrence": np.where(censored[1], np.nan, recurred),
        }
    )
