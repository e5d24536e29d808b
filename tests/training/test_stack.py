"""The two ways through a stack agree, and both agree with the model by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_plans import TWO_TASKS, make_plan
from torch.utils import _pytree as pytree

from fusion_lab.training.batches import gather
from fusion_lab.training.stack import Layout, Stack


@pytest.fixture(scope="module")
def parts():
    plan = make_plan(TWO_TASKS, dtype=torch.float64)
    models = [plan.initial_weights(k) for k in range(4)]
    layout = Layout(models[0])
    weights = torch.stack([layout.join(dict(m.named_parameters())) for m in models])
    rows = np.random.default_rng(0).integers(0, 60, (4, 10))
    batch = gather(plan, (rows, np.ones(rows.shape, bool)), plan.scaler)
    everything = plan.dataset.gather(torch.arange(60))
    class_weights = plan.objective.class_weights(everything.targets, everything.known, plan.folds.train)
    return plan, models, weights, batch, class_weights


def test_weights_go_into_a_row_and_back(parts):
    _, models, weights, _, _ = parts
    layout = Layout(models[0])
    for model, row in zip(models, weights, strict=True):
        named = dict(model.named_parameters())
        back = layout.split(row)
        assert back.keys() == named.keys()
        assert all(torch.equal(back[name], leaf) for name, leaf in named.items())


def test_folds_start_from_weights_of_their_own(parts):
    weights = parts[2]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


@pytest.mark.parametrize("mode", ["stacked", "loop"])
def test_gradients_are_those_of_backward_on_each_model(parts, mode):
    plan, models, weights, batch, class_weights = parts
    keys = torch.tensor([3, 1, -4, 1], dtype=torch.int32)
    losses, gradients = Stack(models[0], plan.objective, mode).gradients(
        weights, batch, keys, class_weights, [True, True, False, True]
    )
    for k, model in enumerate(models):
        if k == 2:
            continue
        own = pytree.tree_map(lambda leaf, k=k: leaf[k], batch)
        model.zero_grad()
        loss = plan.objective(model(own.without_targets(), keys[k]), own, {t: w[k] for t, w in class_weights.items()})
        loss.backward()
        row = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(losses[k], loss.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(gradients[k], row.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["stacked", "loop"])
def test_answers_are_those_of_each_model_and_drop_nothing(parts, mode):
    plan, models, weights, batch, _ = parts
    found = Stack(models[0], plan.objective, mode).answers(weights, batch)
    for k, model in enumerate(models):
        own = pytree.tree_map(lambda leaf, k=k: leaf[k], batch)
        with torch.no_grad():
            expected = model(own.without_targets())
        for kind in ("heads", "maps"):
            for name, leaf in getattr(expected, kind).items():
                torch.testing.assert_close(getattr(found, kind)[name][k], leaf, rtol=0, atol=1e-12)
