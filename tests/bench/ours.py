"""This product, stacked or fold by fold: what a job does between the data and the tracking store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from reference import STEPS, WIDTHS
from settings import FoldAnswer, Settings

from fusion_lab.evaluation.folds import score_folds, summarise
from fusion_lab.experiment import Experiment, Materials, resolve
from fusion_lab.training import Plan
from fusion_lab.training import cross_validate as train_folds

TASK = "outcome"


def load(file: Path, settings: Settings, mode: str) -> Plan:
    """The plan; ``file`` is the opponents' part of it."""
    return make_plan(settings, mode)


def make_plan(settings: Settings, mode: str) -> Plan:
    """Generated data with missing modalities and cells, in the relapse model's shape."""
    experiment = make_experiment(settings, mode)
    plan = materials(experiment.model_dump_json(include={"data", "folds"}), experiment).plan(experiment)
    return replace(plan, dtype=torch.float64 if settings.double else torch.float32)


def make_experiment(settings: Settings, mode: str) -> Experiment:
    """The settings as an experiment file would have them."""
    modalities = {n: {"kind": "sequence", "width": w, "length": STEPS} for n, w in WIDTHS.items()}
    missing = {"missing_modalities": 0.1, "missing_cells": 0.05}
    data = {"domain": "synthetic", "rows": settings.rows, "modalities": modalities, "planted": "additive", **missing}
    optimiser = {name: getattr(settings, name) for name in ("lr", "weight_decay", "clip")}
    training = {name: getattr(settings, name) for name in ("epochs", "batch_size", "patience")}
    return resolve(
        {
            "name": "bench",
            "data": data,
            "model": {name: getattr(settings, name) for name in ("d_model", "nhead", "dropout")},
            "optimiser": {**optimiser, "schedule": "constant"},
            "training": {**training, "mode": mode, "device": "cpu"},
            "folds": {"k": settings.folds},
        },
        "bench",
    )


def materials(key: str, experiment: Experiment) -> Materials:
    """Data and folds, made once."""
    if key not in _MATERIALS:
        _MATERIALS[key] = Materials.load(experiment)
    return _MATERIALS[key]


_MATERIALS: dict[str, Materials] = {}


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
