"""Laws of an epoch's means: what the curves of training rows show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_plans import TREE, make_plan

from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.training import Plan, cross_validate
from fusion_lab.training.leaves import stack_models
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.stack import Stack
from fusion_lab.training.steps import LOSS, Steps
from fusion_lab.zoo.token_fusion import TokenFusion, TokenFusionConfig

WAYS = [("stacked", None), ("stacked", 2), ("loop", None)]
PENALTIES = ("size", "one")


class Penalised(TokenFusion):
    """Its answers' size is a penalty while it trains, and so is a 1 for each row."""

    Config = TokenFusionConfig
    penalties = PENALTIES

    def forward(self, batch, noise=None):
        output = super().forward(batch, noise)
        if noise is None:
            return output
        (logit,) = output.heads.values()
        return output._replace(penalties={"size": logit.square(), "one": torch.ones_like(logit)})


def penalised(weights: dict[str, float], **settings) -> Plan:
    """Like :func:`make_plan`, of a model that gives penalties; nothing is drawn unless settings say so."""
    still = {"model.dropout": 0.0, "augmentation.modality_dropout": 0.0}
    plan = make_plan({**still, **{name.replace("__", "."): value for name, value in settings.items()}})
    config = TokenFusionConfig(**{**TREE["model"], "dropout": 0.0})
    spec = plan.dataset.spec
    objective = Objective(ObjectiveConfig(penalty_weights=weights), spec, PENALTIES)
    return dataclasses.replace(plan, build_model=lambda: Penalised(config, spec), objective=objective)


def means_of_an_epoch(plan: Plan, mode, size) -> dict[str, torch.Tensor]:
    steps = Steps(plan, plan.dataset.gather(torch.arange(len(plan.dataset))))
    models = [plan.initial_weights(k) for k in range(len(plan.folds))]
    weights = stack_models(models)
    stack = Stack(models[0], plan.objective, mode, size)
    return steps.run(stack, weights, StackedAdamW(weights, plan.optimisers), 0)


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_a_penalty_is_told_as_its_mean_over_the_training_rows(mode, size):
    plan = penalised({}, training__batch_size=64)  # one step: before it the weights are the initial ones
    told = means_of_an_epoch(plan, mode, size)
    assert told.keys() == {LOSS, *PENALTIES}
    for k, rows in enumerate(plan.folds.train):
        batch = plan.batch(np.flatnonzero(rows), plan.scaler.fold(k))
        with torch.no_grad():
            (logit,) = plan.initial_weights(k)(batch.without_targets()).heads.values()
        torch.testing.assert_close(told["size"][k], logit.square().mean())


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_folds_of_unequal_size_tell_the_mean_over_their_own_rows_in_all_steps(mode, size):
    told = means_of_an_epoch(penalised({}), mode, size)
    torch.testing.assert_close(told["one"], torch.ones_like(told["one"]))


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_the_loss_holds_the_penalties_as_they_weigh(mode, size):
    share = 0.25
    none, some = (
        means_of_an_epoch(penalised({"size": w, "one": w}, training__batch_size=64), mode, size) for w in (0.0, share)
    )
    torch.testing.assert_close(some[LOSS], none[LOSS] + share * (some["size"] + some["one"]))


def test_curves_show_the_penalties_and_validation_has_none():
    plan = penalised({"size": 0.1}, training__epochs=2)
    for fold in cross_validate(plan).folds:
        for row in fold.history:
            assert [name for name in row if name.startswith("train/")] == ["train/loss", "train/size", "train/one"]
            assert row["train/one"] == pytest.approx(1.0)
            assert not any(name.startswith("val/") and name.endswith(PENALTIES) for name in row)


def test_a_model_without_penalties_has_the_loss_alone():
    told = means_of_an_epoch(make_plan(), "loop", None)
    assert told.keys() == {LOSS}
