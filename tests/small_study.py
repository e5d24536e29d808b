"""A study on a small synthetic cohort, and an objective that costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import log10
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from fusion_lab.config import validate
from fusion_lab.experiment import Experiment, Materials, override, resolve
from fusion_lab.search.study import Study, StudyConfig, Suggestion

BASE = {
    "name": "small",
    "data": {"domain": "synthetic", "rows": 60, "modalities": {"a": {"width": 3}, "b": {"width": 2}}},
    "model": {"d_model": 8, "nhead": 2},
    "training": {"epochs": 6, "batch_size": 16, "mode": "stacked"},
    "folds": {"k": 3},
}
SPACE = {
    "model": {
        "d_model": {"choice": [8, 16]},
        "fusion": {"choice": {"transformer": {"num_fusion_layers": {"int": [1, 3]}}, "gated": {}}},
        "dropout": {"float": [0.0, 0.5]},
    },
    "optimiser": {"lr": {"float": [1e-4, 1e-2], "log": True}},
}
CONFIG = {
    "experiment": "small",
    "space": SPACE,
    "sampler": {"name": "tpe", "startup_trials": 3},
    "pruner": {"name": "none"},
}


def base(changes: Mapping[str, Any] | None = None) -> Experiment:
    return resolve(override(BASE, changes or {}), "small")


@cache
def loaded(rows: int, fold_seed: int) -> Materials:
    return Materials.load(base({"data.rows": rows, "folds.seed": fold_seed}))


def open_study(
    folder: Path, config: Mapping[str, Any] | None = None, experiment: Mapping[str, Any] | None = None
) -> Study:
    """What the same command gives in a new process: a study on ``folder``, settings over CONFIG and BASE."""
    chosen = base(experiment)
    settings = validate(StudyConfig, {**CONFIG, **(config or {})}, "hpo/small.yaml")
    materials = loaded(chosen.resolved()["data"]["rows"], chosen.folds.seed)
    return Study(settings, chosen, materials, folder, "hpo/small.yaml")


def score(suggestion: Suggestion) -> float:
    """Highest at a dropout of 0.2 and a learning rate of 1e-3; a little higher with gates."""
    e = suggestion.experiment
    bonus = 0.1 if e.model.fusion == "gated" else 0.02 * e.model.num_fusion_layers
    return bonus - (e.model.dropout - 0.2) ** 2 - (log10(e.optimiser.lr) + 3) ** 2


def run(study: Study, trials: int) -> list[dict[str, Any]]:
    """Carries out some trials; their configurations. Every fourth fails."""
    done = []
    for _ in range(trials):
        suggestion = study.ask()
        done.append(suggestion.experiment.resolved())
        failed = suggestion.experiment.trial % 4 == 3
        study.tell(
            suggestion, None if failed else score(suggestion), TrialState.FAIL if failed else TrialState.COMPLETE
        )
    return done
