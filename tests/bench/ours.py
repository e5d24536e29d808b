"""This product, stacked or fold by fold: what a job does between the data and the tracking store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import STEPS, WIDTHS
from settings import FoldAnswer, Settings

from fusion_lab.data import synthetic
from fusion_lab.data.splits import make_folds
from fusion_lab.evaluation.folds import score_folds, summarise
from fusion_lab.experiment import Experiment, Materials, resolve
from fusion_lab.training import Plan
from fusion_lab.training import cross_validate as train_folds

TASK = "outcome"

SENSORS = {"hand": 9, "chest": 9, "ankle": 9, "heart_rate": 1}
"""Channels of the activity data's sensors."""
CHUNKS = (170, 179, 100, 121, 97, 115, 25)
"""Of each subject in the part of PAMAP2 that is at hand: folds that leave one subject out are uneven."""


def load(file: Path, settings: Settings, mode: str) -> Plan:
    """The plan; ``file`` is the opponents' part of it."""
    return make_plan(settings, mode)


def make_plan(settings: Settings, mode: str) -> Plan:
    """Generated data in the shape of the case's own, and its model."""
    experiment = make_experiment(settings, mode)
    plan = materials(settings, experiment).plan(experiment)
    return replace(plan, dtype=torch.float64 if settings.double else torch.float32)


def make_experiment(settings: Settings, mode: str) -> Experiment:
    """The settings as an experiment file would have them."""
    optimiser = {name: getattr(settings, name) for name in ("lr", "weight_decay", "clip")}
    training = {name: getattr(settings, name) for name in ("epochs", "batch_size", "patience")}
    model = {name: getattr(settings, name) for name in ("d_model", "nhead", "dropout")}
    own = {"relapse": _relapse, "activity": _activity}[settings.case](settings)
    return resolve(
        {
            "name": "bench",
            "data": {"domain": "synthetic", "rows": settings.rows, "planted": "additive", **own["data"]},
            "model": {**model, **own["model"]},
            "optimiser": {**optimiser, "schedule": "constant"},
            "training": {**training, "mode": mode, "device": "cpu"},
            "folds": own["folds"],
        },
        "bench",
    )


def _relapse(settings: Settings) -> dict[str, dict[str, Any]]:
    """Modalities and cells are missing."""
    modalities = {n: {"kind": "sequence", "width": w, "length": STEPS} for n, w in WIDTHS.items()}
    missing = {"missing_modalities": 0.1, "missing_cells": 0.05}
    return {"data": {"modalities": modalities, **missing}, "model": {}, "folds": {"k": settings.folds}}


def _activity(settings: Settings) -> dict[str, dict[str, Any]]:
    """Chunks are half to wholly filled; nothing is missing of what there is."""
    modalities = {n: {"kind": "sequence", "width": w, "length": settings.samples} for n, w in SENSORS.items()}
    tasks = {TASK: {"kind": "multiclass", "classes": 3}}
    model = {"family": "sensor_fusion", "fusion": "hybrid", "encoder": settings.encoder, "patch": 8}
    return {"data": {"modalities": modalities, "tasks": tasks}, "model": model, "folds": {"protocol": "loso"}}


def subjects(settings: Settings) -> np.ndarray:
    """Whose each row is, str [R]: as many subjects as folds, with shares of the rows as in the data at hand."""
    ends = np.cumsum(CHUNKS[: settings.folds]) / sum(CHUNKS[: settings.folds])
    place = np.searchsorted(np.round(ends * settings.rows), np.arange(settings.rows), side="right")
    return np.char.add("subject ", place.astype(str))


def materials(settings: Settings, experiment: Experiment) -> Materials:
    """Data and folds, made once."""
    key = (settings.case, settings.rows, settings.folds, settings.samples)
    if key not in _MATERIALS:
        _MATERIALS[key] = _materials(settings, experiment)
    return _MATERIALS[key]


_MATERIALS: dict[tuple, Materials] = {}


def _materials(settings: Settings, experiment: Experiment) -> Materials:
    if settings.case == "relapse":
        return Materials.load(experiment)
    dataset = replace(synthetic.load(experiment.data), group=subjects(settings))
    return Materials(dataset, make_folds(experiment.folds, dataset))


def cross_validate(plan: Plan) -> list[FoldAnswer]:
    """Trains, predicts and scores every fold as a job does: all metrics of both splits, tables and intervals."""
    result = train_folds(plan)
    scored = score_folds(result.predictions, plan.dataset.spec)
    summarise(scored, plan.folds)
    table = scored.table[scored.table.task == TASK]
    best: list[dict[str, float]] = [{} for _ in result.folds]
    for fold, split, metric, value in zip(table.fold, table.split, table.metric, table.value, strict=True):
        best[fold][f"{split}_{metric}"] = value
    names = ("train/loss", "val/loss", f"val/{TASK}/auroc")
    curves = [[[row[name] for row in fold.history] for name in names] for fold in result.folds]
    return [FoldAnswer(*of_fold, scores) for of_fold, scores in zip(curves, best, strict=True)]
