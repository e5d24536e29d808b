"""Small cross-validated models of every kind of modality and task, with their raw rows."""

from __future__ import annotations

from functools import cache
from typing import Any

from fusion_lab.data import DOMAINS
from fusion_lab.data.raw import Records
from fusion_lab.experiment import Experiment, Materials, override, resolve
from fusion_lab.jobs.final import Final, Trained, final_model
from fusion_lab.training import cross_validate

TREE: dict[str, Any] = {
    "name": "served",
    "data": {
        "domain": "synthetic",
        "rows": 60,
        "missing_modalities": 0.15,
        "missing_cells": 0.05,
        "modalities": {
            "left": {"width": 3},
            "walk": {"kind": "sequence", "width": 2, "length": 5},
            "cells": {"kind": "bag", "width": 2, "length": 4},
        },
        "tasks": {
            "outcome": {"kind": "binary"},
            "grade": {"kind": "multiclass", "classes": 3},
            "dose": {"kind": "regression"},
            "moving": {"kind": "binary", "per_step": True},
        },
        "planted": "additive",
    },
    "model": {"d_model": 8, "nhead": 2},
    "training": {"epochs": 2, "batch_size": 16, "mode": "loop"},
    "folds": {"k": 3, "holdout": 0.2},
    "baselines": False,
}


def experiment(**changes: Any) -> Experiment:
    """The settings, with ``{dotted path with __ for dots: value}`` over them."""
    return resolve(override(TREE, {name.replace("__", "."): value for name, value in changes.items()}), "served")


@cache
def materials() -> Materials:
    return Materials.load(experiment())


@cache
def records() -> Records:
    return DOMAINS["synthetic"].records(experiment().data)


@cache
def trained() -> Trained:
    chosen = experiment()
    return Trained.of(chosen, cross_validate(materials().plan(chosen)))


@cache
def final(kind: str = "ensemble") -> Final:
    of = trained()
    chosen = experiment(final=kind)
    return final_model(Trained(chosen, of.weights, of.checkpoints, of.predictions), materials(), "a run")
