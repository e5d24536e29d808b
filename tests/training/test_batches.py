"""Laws of drawing rows: each training row once per epoch, no other row ever, and rows that pad count nowhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import TWO_TASKS, make_plan, pick

from fusion_lab.blocks.randomness import draw_noise
from fusion_lab.training.batches import counted, draw, gather, padded
from fusion_lab.training.leaves import stack_models
from fusion_lab.training.stack import Stack


def orders(plan, folds: list[int], epoch: int) -> list[list[int]]:
    """The real rows of each fold in the order of an epoch."""
    steps = list(draw(plan, folds, epoch))
    rows, real = (np.concatenate([step[i] for step in steps], axis=1) for i in range(2))
    return [row[mark].tolist() for row, mark in zip(rows, real, strict=True)]


@settings(max_examples=25, deadline=None)
@given(size=st.integers(2, 40), epoch=st.integers(0, 500), trial=st.integers(0, 500))
def test_an_epoch_is_every_training_row_once_and_no_other(size, epoch, trial):
    plan = make_plan({"training.batch_size": size}, trial=trial)
    for k, order in enumerate(orders(plan, [0, 1, 2, 3], epoch)):
        assert sorted(order) == np.flatnonzero(plan.folds.train[k]).tolist()
    for rows, real in draw(plan, [0, 1, 2, 3], epoch):
        assert rows.shape == real.shape == (4, size)
        for k in range(4):
            assert plan.folds.train[k][rows[k]].all(), "a row that pads is a training row too"


def test_an_order_is_a_function_of_seed_trial_fold_and_epoch():
    plan = make_plan()
    first = orders(plan, [0, 1, 2, 3], 3)
    assert orders(plan, [0, 1, 2, 3], 3) == first
    assert orders(plan, [2, 0], 3) == [first[2], first[0]]
    assert orders(make_plan(folds=pick(2, 0)), [0, 1], 3) == [first[2], first[0]]
    others = [
        orders(plan, [1], 4),
        orders(dataclasses.replace(plan, trial=1), [1], 3),
        orders(dataclasses.replace(plan, seed=1), [1], 3),
        [first[3]],
    ]
    assert all(other[0] != first[1] for other in others)


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6).filter(any), min_size=1, max_size=4))
def test_padding_repeats_rows_of_the_same_fold(members):
    marks = np.array(members)
    rows, real = padded(marks)
    for k, mark in enumerate(marks):
        assert rows[k][real[k]].tolist() == np.flatnonzero(mark).tolist()
        assert mark[rows[k]].all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("mode", "size"), [("stacked", None), ("stacked", 3), ("loop", None)])
def test_rows_that_pad_count_nowhere(mode, size, dropout):
    plan = make_plan({**TWO_TASKS, "model.dropout": dropout}, dtype=torch.float64)
    model = plan.initial_weights(0)
    stack, weights = Stack(model, plan.objective, mode, size), stack_models([model] * 4)
    everything = plan.dataset.gather(torch.arange(60))
    class_weights = plan.objective.class_weights(everything.targets, everything.known, plan.folds.train)
    fillers = np.random.default_rng(0).integers(0, 60, (2, 4, 9))
    rows = [np.concatenate([np.tile(np.arange(12), (4, 1)), filler], axis=1) for filler in fillers]
    draws = stack.draws(gather(plan, (rows[0], np.ones((4, 21), bool)), plan.scaler))
    noise = torch.from_numpy(np.stack([draw_noise(draws, k) for k in range(4)]))

    def step(rows: np.ndarray, real: np.ndarray) -> list[torch.Tensor]:
        batch = gather(plan, (rows, real), plan.scaler)
        parts = list(stack.gradients(weights, batch, noise, class_weights, [True] * 4))
        gradients = [torch.cat([part.gradients[name] for part in parts]) for name in weights]
        answers = stack.answers(weights, batch)
        return [torch.cat([part.losses for part in parts]), stack.losses(answers, batch, class_weights), *gradients]

    real = np.tile(np.arange(21) < 12, (4, 1))
    found = [step(rows[0], real), step(rows[1], real)]
    if dropout == 0.0:  # dropout takes more values for more rows
        found.append(step(rows[0][:, :12], real[:, :12]))
    for other in found[1:]:
        for leaf, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(leaf, same, rtol=0, atol=1e-12)
    assert not torch.allclose(found[0][0], step(rows[0], np.ones((4, 21), bool))[0])


def test_labels_count_where_they_are_known_in_rows_that_count():
    plan = make_plan(TWO_TASKS)
    rows = padded(plan.folds.train)
    batch = gather(plan, rows, plan.scaler)
    for task in plan.dataset.spec.tasks:
        expected = plan.dataset.gather(torch.arange(60)).known[task.name].numpy()[rows[0]] & rows[1]
        np.testing.assert_array_equal(counted(batch, task), expected)
