"""What imputation, quality and penalties of hcat do, over five seeds of twins whose modalities share a few factors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from contracts.test_effects import Trained, assert_better, train

from fusion_lab.contracts import Batch
from fusion_lab.data import synthetic
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.evaluation.metrics import rank_auroc
from fusion_lab.experiment import Experiment, resolve
from fusion_lab.zoo.hcat import Hcat, HcatConfig

pytestmark = pytest.mark.effects
SEEDS = range(5)
WIDTHS = {"clinical": 12, "temporal": 16, "pathological": 16, "semantic": 24, "spatial": 32}
PATIENTS = {
    "domain": "synthetic",
    "rows": 1200,
    "planted": "shared",
    "noise": 0.5,
    "signal": 4.0,
    "missing_modalities": 0.4,
    "unknown_labels": 0.5,
    "modalities": {name: {"width": width} for name, width in WIDTHS.items()},
    "tasks": {"survival": {}, "recurrence": {}},
}
"""As many labels are unknown as in cohorts. Of this twin's hidden cells a ridge regression on the modalities that are
there tells R2 0.22; a logistic regression has AUROC 0.88, 0.90 after that imputation, 0.93 with nothing missing."""
MODEL = {"family": "hcat", "d_model": 32}
SECTIONS = {
    "optimiser": {"lr": 3e-3},
    "training": {"epochs": 20, "batch_size": 64, "restore": "last", "mode": "loop", "device": "cpu"},
    "folds": {"protocol": "holdout", "test_fraction": 0.4, "val_fraction": 0.12},
}


def patients(seed: int, data: dict[str, Any] | None = None, **model: Any) -> Experiment:
    sections = {"data": {**PATIENTS, "seed": seed, **(data or {})}, "model": {**MODEL, **model}, **SECTIONS}
    return resolve({"name": "twin", **sections, "seed": seed}, "test")


@cache
def trained(seed: int, imputer: str = "vae-iterative") -> Trained:
    return train(patients(seed, imputer=imputer))


def auroc(made: Trained) -> float:
    """Of the test rows, mean over the tasks."""
    test = made.result.predictions.of("test")
    names = [task.name for task in made.materials.spec.tasks]
    return float(np.mean([rank_auroc(test.score[n], test.target[n], test.known[n]) for n in names]))


def asked(made: Trained, config: Experiment) -> tuple[Hcat, Batch, Batch]:
    """The trained model, its test rows, and these with nothing missing."""
    plan, data = made.materials.plan(config), made.materials.dataset
    assert isinstance(data, ArrayDataset)
    assert isinstance(config.data, synthetic.SyntheticConfig)
    model = plan.initial_weights(0)
    assert isinstance(model, Hcat)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(made.result.folds[0].weights[name])
    whole = replace(
        data,
        inputs={name: torch.from_numpy(values) for name, values in synthetic.truth(config.data).hidden.items()},
        valid={name: torch.ones_like(leaf) for name, leaf in data.valid.items()},
        observed={name: torch.ones_like(leaf) for name, leaf in data.observed.items()},
    )
    rows, scaler = torch.from_numpy(np.flatnonzero(made.materials.folds.test[0])), plan.scaler.fold(0)
    return model, scaler(data.gather(rows)), scaler(whole.gather(rows))


def r2(made: Trained, config: Experiment) -> float:
    """Of the cells of missing modalities; 0 is what the mean of the training rows has."""
    model, batch, whole = asked(made, config)
    imputed = model.impute(batch)
    left, all_of_it = 0.0, 0.0
    for name, values in imputed.items():
        missing = ~batch.valid[name]
        truth = whole.inputs[name][missing]
        left += float((values[missing] - truth).square().sum())
        all_of_it += float(truth.square().sum())
    return 1 - left / all_of_it


def test_imputers_tell_missing_modalities_better_than_the_mean():
    found = {
        imputer: [r2(trained(seed, imputer), patients(seed, imputer=imputer)) for seed in SEEDS]
        for imputer in ("vae", "vae-iterative")
    }
    for values in found.values():
        assert_better(values, [0.0] * len(values), margin=0.1)
    assert np.mean(found["vae-iterative"]) > np.mean(found["vae"]) - 0.01, found


@pytest.mark.parametrize("other", ["none", "mean"])
def test_iterative_imputation_tells_the_outcome_better(other):
    scores = {imputer: [auroc(trained(seed, imputer)) for seed in SEEDS] for imputer in ("vae-iterative", other)}
    assert_better(scores["vae-iterative"], scores[other], margin=0.0)


def test_quality_helps_where_it_tells_what_can_be_trusted():
    data = {"poor_quality": 0.8, "missing_modalities": 0.0, "unknown_labels": 0.0}
    scores = {
        quality: [auroc(train(patients(seed, data, quality=quality, imputer="none"))) for seed in SEEDS]
        for quality in (True, False)
    }
    assert_better(scores[True], scores[False], margin=0.01)


WEAK = 0.01
FEW = range(3)


@pytest.mark.parametrize(
    ("penalty", "setting"), [("contrastive", "alpha_con"), ("kl", "alpha_kl"), ("imputation", "alpha_impute")]
)
def test_a_penalty_is_the_lower_the_more_it_weighs(penalty, setting):
    """Of the training rows in the last epoch, as it is without its weight."""
    weight = getattr(HcatConfig(), setting)

    def found(made: Trained, alpha: float) -> float:
        return made.result.folds[0].history[-1][f"train/{penalty}"] / alpha

    usual = [found(trained(seed), weight) for seed in FEW]
    weak = [found(train(patients(seed, **{setting: WEAK * weight})), WEAK * weight) for seed in FEW]
    assert_better(weak, usual, margin=0.0)
