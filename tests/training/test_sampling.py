"""Laws of drawing rows by their rare labels: by training rows alone, the same wherever a fold is trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import make_plan, pick

from fusion_lab.blocks.randomness import generator
from fusion_lab.config import validate
from fusion_lab.contracts import Batch, ConfigError, Spec, Task
from fusion_lab.training import TrainingConfig, cross_validate
from fusion_lab.training.batches import draw
from fusion_lab.training.sampling import SamplerConfig, check_sampler, order_of, row_weights
from fusion_lab.training.steps import Steps

RARE, COMMON = Task("rare", "binary", ("no", "yes")), Task("common", "binary", ("no", "yes"))
STEPS = Task("steps", "binary", ("no", "yes"), steps=("s",))
DOSE = Task("dose", "regression")
ROWS = 60


def labels(seed: int) -> Batch:
    """Tasks of several prevalences, some labels unknown."""
    rng = np.random.default_rng(seed)
    targets = {
        "rare": rng.random(ROWS) < 0.08,
        "common": rng.random(ROWS) < 0.5,
        "steps": rng.random((ROWS, 3)) < 0.05,
        "dose": rng.normal(size=ROWS),
    }
    known = {name: torch.from_numpy(rng.random(target.shape) < 0.8) for name, target in targets.items()}
    leaves = {name: torch.from_numpy(target).float() * known[name] for name, target in targets.items()}
    return Batch({}, {}, {}, {}, leaves, known, torch.ones(ROWS))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    mult=st.floats(0, 200),
    thr=st.floats(0.01, 1),
    cap=st.floats(1, 50),
    count=st.integers(1, ROWS),
)
def test_weights_are_their_formula_row_by_row(seed, mult, thr, cap, count):
    everything, rows = labels(seed), np.random.default_rng(seed).permutation(ROWS)[:count]
    config = SamplerConfig(rare_oversample_mult=mult, rare_prev_thr=thr, sample_weight_cap=cap)
    found = row_weights((RARE, COMMON, STEPS, DOSE), everything, rows, config)
    rare = []
    for name in ("rare", "common", "steps"):
        told = [
            y
            for r in rows
            for y, k in zip(_list(everything.targets, name, r), _list(everything.known, name, r), strict=True)
            if k
        ]
        if told and np.mean(told) < thr:
            rare.append(name)
    for row, weight in zip(rows, found, strict=True):
        positive = any(
            y and k
            for name in rare
            for y, k in zip(_list(everything.targets, name, row), _list(everything.known, name, row), strict=True)
        )
        assert weight == pytest.approx(min(1 + mult * positive, cap))


def _list(leaves: dict[str, torch.Tensor], name: str, row: int) -> list[float]:
    return leaves[name][row].reshape(-1).tolist()


def test_no_other_row_is_read():
    everything, rows = labels(3), np.arange(0, ROWS, 2)
    config = SamplerConfig(rare_oversample_mult=9, rare_prev_thr=0.3)
    before = row_weights((RARE, STEPS), everything, rows, config)
    assert len(set(before)) == 2
    for leaves in (everything.targets, everything.known):
        for leaf in leaves.values():
            leaf[1::2] = ~leaf[1::2] if leaf.dtype == torch.bool else 1 - leaf[1::2]
    assert np.array_equal(row_weights((RARE, STEPS), everything, rows, config), before)


def test_a_task_that_is_common_or_without_known_labels_is_not_rare():
    everything, rows = labels(0), np.arange(ROWS)
    everything.known["rare"][:] = False
    weights = row_weights((RARE, COMMON, DOSE), everything, rows, SamplerConfig(rare_oversample_mult=50))
    assert set(weights) == {1.0}


def test_rows_are_drawn_as_often_as_they_weigh():
    weights, draws = np.array([1.0, 3.0, 1.0]), np.random.default_rng(0)
    drawn = np.concatenate([order_of(np.array([4, 7, 9]), weights, draws) for _ in range(4000)])
    share = np.array([np.mean(drawn == row) for row in (4, 7, 9)])
    deviation = np.sqrt(0.25 / len(drawn))
    assert np.all(np.abs(share - weights / weights.sum()) < 5 * deviation)


SAMPLED = {
    "data.tasks": {"outcome": {"kind": "binary", "prevalence": 0.2}},
    "training.sampler": {"rare_oversample_mult": 8.0, "rare_prev_thr": 0.4},
}


def drawn(plan, alive: list[int], epoch: int) -> list[list[int]]:
    weights = Steps(plan, plan.dataset.gather(torch.arange(len(plan.dataset))))._row_weights
    steps = list(draw(plan, alive, epoch, weights))
    rows, real = (np.concatenate([step[i] for step in steps], axis=1) for i in range(2))
    return [row[mark].tolist() for row, mark in zip(rows, real, strict=True)]


def test_an_epoch_draws_as_many_rows_as_there_are_from_these_alone():
    plan = make_plan(SAMPLED)
    target = plan.dataset.gather(torch.arange(60)).targets["outcome"].numpy()
    orders = drawn(plan, [0, 1, 2, 3], 2)
    for k, order in enumerate(orders):
        rows = np.flatnonzero(plan.folds.train[k])
        assert len(order) == len(rows)
        assert set(order) <= set(rows)
    assert all(len(set(order)) < len(order) for order in orders)
    often = [drawn(plan, [0], epoch)[0] for epoch in range(30)]
    assert target[often].mean() > 2 * target[plan.folds.train[0]].mean()


def test_what_is_drawn_is_a_function_of_seed_trial_fold_and_epoch():
    plan = make_plan(SAMPLED)
    first = drawn(plan, [0, 1, 2, 3], 3)
    assert drawn(plan, [2, 0], 3) == [first[2], first[0]]
    assert drawn(make_plan(SAMPLED, folds=pick(2, 0)), [0, 1], 3) == [first[2], first[0]]
    others = [
        drawn(plan, [1], 4),
        drawn(dataclasses.replace(plan, trial=1), [1], 3),
        drawn(dataclasses.replace(plan, seed=1), [1], 3),
        [first[3]],
    ]
    assert all(other[0] != first[1] for other in others)


def test_without_a_sampler_the_order_is_a_permutation_of_the_same_generator():
    plan = make_plan()
    for k, order in enumerate(drawn(plan, [0, 1, 2, 3], 5)):
        draws = generator(plan.seed, plan.trial, "order", plan.folds.names[k], 5)
        assert order == draws.permutation(np.flatnonzero(plan.folds.train[k])).tolist()


def test_stacked_and_loop_draw_the_same():
    plans = [make_plan({**SAMPLED, "training.mode": mode, "training.epochs": 2}) for mode in ("stacked", "loop")]
    one, other = (cross_validate(dataclasses.replace(plan, dtype=torch.float64)) for plan in plans)
    for a, b in zip(one.folds, other.folds, strict=True):
        for name, leaf in a.weights.items():
            torch.testing.assert_close(leaf, b.weights[name], rtol=0, atol=1e-9)


def test_weights_of_classes_stay_those_of_the_training_rows():
    plan, plain = make_plan(SAMPLED), make_plan({"data.tasks": SAMPLED["data.tasks"]})
    everything = plan.dataset.gather(torch.arange(60))
    own, expected = (Steps(p, everything).class_weights["outcome"] for p in (plan, plain))
    assert torch.equal(own, expected)


def test_a_sampler_without_a_binary_main_task_is_refused():
    config = SamplerConfig(rare_oversample_mult=5)
    for tasks in ((DOSE,), (DOSE, dataclasses.replace(RARE, auxiliary="more"))):
        with pytest.raises(
            ConfigError, match=r"^training.sampler: expected a binary main task.*found dose \(regression\)$"
        ):
            check_sampler(Spec((), tasks), config)
        check_sampler(Spec((), tasks), None)
    check_sampler(Spec((), (RARE, DOSE)), config)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rare_oversample_mult": 201},
        {"rare_oversample_mult": -1},
        {"rare_oversample_mult": 1, "sample_weight_cap": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match="here: sampler"):
        validate(TrainingConfig, {"sampler": settings}, "here")
