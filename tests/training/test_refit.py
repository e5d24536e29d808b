"""One model on all development rows: which rows it sees, how long, and that it is the step that folds take."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_plans import make_plan

from fusion_lab.data.scaling import Scaler
from fusion_lab.training.folds import Diverged
from fusion_lab.training.leaves import stack_models
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.refit import development, median_epoch, refit
from fusion_lab.training.stack import Stack
from fusion_lab.training.steps import Steps

LOCKED = {"folds.holdout": 0.2}


def locked_plan(**fields):
    return make_plan(LOCKED, folds=lambda folds, data: folds, **fields)


def fitted(plan, epochs=3, **options):
    scaler = Scaler.fit(plan.dataset, development(plan.folds).fit)
    return refit(plan, scaler, epochs, **options)


def changed(plan, rows):
    """The plan with other inputs in some rows."""
    inputs = {name: leaf.clone() for name, leaf in plan.dataset.inputs.items()}
    for leaf in inputs.values():
        leaf[rows] = leaf[rows] * 3 + 1
    inputs = {n: torch.where(plan.dataset.observed[n], leaf, 0.0) for n, leaf in inputs.items()}
    return replace(plan, dataset=replace(plan.dataset, inputs=inputs))


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_locked_rows_have_no_part_in_it_and_every_other_row_has():
    plan = locked_plan()
    locked = np.flatnonzero(plan.folds.holdout)
    others = np.flatnonzero(~plan.folds.holdout)
    assert len(locked) == 12
    weights = fitted(plan).weights
    assert same(fitted(changed(plan, locked)).weights, weights)
    for row in others[:: len(others) // 3]:
        assert not same(fitted(changed(plan, [row])).weights, weights)


def test_it_takes_the_steps_that_a_fold_of_these_rows_takes():
    plan = replace(locked_plan(dtype=torch.float64), optimisers=make_plan().optimisers)
    weights = fitted(plan, epochs=2).weights
    alone = replace(plan, folds=development(plan.folds), optimisers=plan.optimisers[:1])
    alone = replace(alone, scaler=Scaler.fit(plan.dataset, alone.folds.fit))
    model = alone.initial_weights(0)
    reference = stack_models([model])
    steps = Steps(alone, plan.dataset.gather(torch.arange(len(plan.dataset))))
    optimiser, stack = StackedAdamW(reference, alone.optimisers), Stack(model, plan.objective, "stacked")
    for epoch in range(2):
        steps.run(stack, reference, optimiser, epoch)
    for name, leaf in weights.items():
        torch.testing.assert_close(leaf, reference[name], rtol=0, atol=1e-9)


def test_more_epochs_go_on_where_fewer_ended():
    plan, losses = locked_plan(), {}
    for epochs in (2, 4):
        losses[epochs] = []
        fitted(plan, epochs, on_epoch=lambda epoch, loss, to=losses[epochs]: to.append((epoch, loss)))
    assert [epoch for epoch, _ in losses[4]] == [1, 2, 3, 4]
    assert losses[4][:2] == losses[2]


def test_targets_of_a_regression_are_scaled_by_the_development_rows():
    plan = make_plan(LOCKED | {"data.tasks": {"dose": {"kind": "regression"}}}, folds=lambda folds, data: folds)
    scale = fitted(plan, epochs=1).scale
    values = plan.dataset.targets["dose"].double().numpy()[~plan.folds.holdout]
    assert scale.fold(0)["dose"] == pytest.approx((values.mean(), values.std()))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12))
def test_the_median_epoch_lies_among_the_folds(epochs):
    chosen = median_epoch(epochs)
    assert min(epochs) <= chosen <= max(epochs)
    assert sum(e <= chosen for e in epochs) * 2 >= len(epochs) <= sum(e >= chosen - 0.5 for e in epochs) * 2


def test_a_refit_that_runs_away_is_said_and_not_kept():
    plan = locked_plan()
    inputs = {name: leaf.clone() for name, leaf in plan.dataset.inputs.items()}
    inputs["a"][np.flatnonzero(~plan.folds.holdout)[0], 0] = float("nan")
    scaler = Scaler.fit(plan.dataset, development(plan.folds).fit)
    with pytest.raises(Diverged, match="refit: epoch 1"):
        refit(replace(plan, dataset=replace(plan.dataset, inputs=inputs)), scaler, 2)
