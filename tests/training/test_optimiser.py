"""The stacked optimiser against torch's own, fold by fold, and schedules against torch's schedulers."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
)

from fusion_lab.training.leaves import Leaves
from fusion_lab.training.optimiser import OptimiserConfig, StackedAdamW, learning_rate

FOLDS, EPOCHS = 4, 6
SCHEDULES = get_args(OptimiserConfig.model_fields["schedule"].annotation)
SHAPES = {"weight": (3, 5), "bias": (7,), "gain": (1,), "grouped": (2, 1, 3)}


class OwnAdamW:
    """One fold: ``torch.optim.AdamW`` on its weights alone, clipped by ``clip_grad_norm_``."""

    def __init__(self, weights: Leaves, config: OptimiserConfig, **options: Any) -> None:
        self.weights = {name: leaf.clone().requires_grad_() for name, leaf in weights.items()}
        self.config = config
        leaves = list(self.weights.values())
        self.adamw = torch.optim.AdamW(leaves, lr=config.lr, weight_decay=config.weight_decay, **options)

    def step(self, gradients: Leaves, epoch: int) -> None:
        self.adamw.param_groups[0]["lr"] = learning_rate(self.config, epoch, EPOCHS)
        for name, leaf in self.weights.items():
            leaf.grad = gradients[name].clone()
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.config.clip)
        self.adamw.step()


def random_leaves(draw: torch.Generator, folds: int = FOLDS, dtype: torch.dtype = torch.float64) -> Leaves:
    return {name: torch.randn(folds, *shape, generator=draw, dtype=dtype) for name, shape in SHAPES.items()}


def of_fold(leaves: Leaves, place: int) -> Leaves:
    return {name: leaf[place] for name, leaf in leaves.items()}


def copied(leaves: Leaves) -> Leaves:
    return {name: leaf.clone() for name, leaf in leaves.items()}


def uneven(gradients: Leaves, draw: torch.Generator) -> Leaves:
    """Of norms from far below a bound to far above it, in each fold and leaf."""
    scales = {n: 10.0 ** torch.randint(-3, 3, (len(g),), generator=draw) for n, g in gradients.items()}
    return {n: g * scales[n].reshape(-1, *(1,) * (g.ndim - 1)) for n, g in gradients.items()}


def in_parts(folds: int, edges: set[int]) -> list[slice]:
    cuts = [0, *sorted(edge for edge in edges if 0 < edge < folds), folds]
    return [slice(start, stop) for start, stop in pairwise(cuts)]


configs = st.builds(
    OptimiserConfig,
    lr=st.sampled_from([1e-4, 0.01, 0.1]),
    weight_decay=st.sampled_from([0.0, 0.01, 3.0]),
    clip=st.sampled_from([None, 0.1, 1.0, 100.0]),
    schedule=st.sampled_from(SCHEDULES),
    warmup_epochs=st.integers(1, 8),
    restart_epochs=st.sampled_from([None, 1, 2]),
    final_lr_share=st.sampled_from([0.0, 0.1]),
)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    settings_of=st.lists(configs, min_size=FOLDS, max_size=FOLDS),
    turns=st.lists(st.lists(st.booleans(), min_size=FOLDS, max_size=FOLDS), min_size=1, max_size=EPOCHS),
    kept=st.lists(st.integers(0, FOLDS - 1), min_size=1, max_size=FOLDS, unique=True),
    edges=st.lists(st.sets(st.integers(1, FOLDS - 1)), min_size=1, max_size=4),
)
def test_each_fold_is_optimised_as_if_alone(seed, settings_of, turns, kept, edges):
    """Each by its own schedule, decay and bound, however the step is cut into parts."""
    draw = torch.Generator().manual_seed(seed)
    weights = random_leaves(draw)
    own = [OwnAdamW(of_fold(weights, k), config) for k, config in enumerate(settings_of)]
    stacked, alive = StackedAdamW(weights, settings_of), list(range(FOLDS))
    for step, turn in enumerate([*turns, *turns]):
        if step == len(turns):  # half-way some folds leave the stack
            weights, alive = {name: leaf[kept] for name, leaf in weights.items()}, kept
            stacked.keep(weights, kept)
        epoch, active = step // 2, [turn[k] for k in alive]
        gradients = uneven(random_leaves(draw), draw)
        for k in (k for k in alive if turn[k]):
            own[k].step(of_fold(gradients, k), epoch)
        rates = [learning_rate(settings_of[k], epoch, EPOCHS) for k in alive]
        given_ = {name: leaf[alive] for name, leaf in gradients.items()}
        for name in given_:
            given_[name][[not on for on in active]] = torch.nan  # worthless, and nobody else's business
        for folds in in_parts(len(alive), edges[step % len(edges)]):
            if any(active[folds]):
                stacked.step(folds, {name: leaf[folds] for name, leaf in given_.items()}, active, rates)
        for place, k in enumerate(alive):
            for name, leaf in own[k].weights.items():
                torch.testing.assert_close(weights[name][place], leaf.detach(), rtol=0, atol=1e-12)


def test_in_single_precision_it_is_torchs_fused_kernel_bit_by_bit_wherever_a_fold_lies():
    draw, config = torch.Generator().manual_seed(0), OptimiserConfig(clip=None, weight_decay=0.1)
    weights = random_leaves(draw, dtype=torch.float32)
    own = [OwnAdamW(of_fold(weights, k), config, fused=True) for k in range(FOLDS)]
    stacked = StackedAdamW(weights, [config] * FOLDS)
    for epoch in range(EPOCHS):
        gradients = random_leaves(draw, dtype=torch.float32)
        stacked.step(slice(0, FOLDS), gradients, [True] * FOLDS, [learning_rate(config, epoch, EPOCHS)] * FOLDS)
        for k in range(FOLDS):
            own[k].step(of_fold(gradients, k), epoch)
            assert all(torch.equal(weights[name][k], leaf) for name, leaf in own[k].weights.items())


def everything(optimiser: StackedAdamW, weights: Leaves) -> Leaves:
    return {**weights, **{f"memory of {name}": leaf for name, leaf in optimiser.moments().items()}}


def test_a_fold_whose_turn_it_is_not_stays_bit_by_bit():
    draw = torch.Generator().manual_seed(0)
    weights = random_leaves(draw)
    optimiser = StackedAdamW(weights, [OptimiserConfig(weight_decay=1.0)] * FOLDS)
    optimiser.step(slice(0, FOLDS), random_leaves(draw), [True] * FOLDS, [0.1] * FOLDS)
    before = copied(everything(optimiser, weights))
    broken = {name: torch.full_like(leaf[:3], torch.nan) for name, leaf in weights.items()}
    optimiser.step(slice(0, 3), broken, [False] * FOLDS, [0.1] * FOLDS)
    optimiser.step(slice(3, 4), of_part(random_leaves(draw), slice(3, 4)), [True] * FOLDS, [0.1] * FOLDS)
    after = everything(optimiser, weights)
    assert all(torch.equal(leaf[:3], before[name][:3]) for name, leaf in after.items())
    assert not any(torch.equal(leaf[3], before[name][3]) for name, leaf in after.items())


def of_part(leaves: Leaves, folds: slice) -> Leaves:
    return {name: leaf[folds] for name, leaf in leaves.items()}


@pytest.mark.parametrize("bounds", [(1.0, 1.0, 1.0), (1.0, 0.25, None), (None, None, None)])
def test_clipping_bounds_each_fold_by_the_norm_of_all_its_leaves(bounds):
    gradients = {
        "a": torch.tensor([[3.0, 0.0], [0.3, 0.0], [6.0, 0.0]]),
        "b": torch.tensor([[[4.0]], [[0.4]], [[8.0]]]),
    }
    before = copied(gradients)
    weights = {name: torch.zeros_like(leaf) for name, leaf in gradients.items()}
    configs = [OptimiserConfig(clip=bound) for bound in bounds]
    StackedAdamW(weights, configs).step(slice(0, 3), gradients, [True] * 3, [0.1] * 3)
    for k, (norm, bound) in enumerate(zip((5.0, 0.5, 10.0), bounds, strict=True)):
        share = 1.0 if bound is None else min(1.0, bound / norm)
        for name, leaf in gradients.items():
            torch.testing.assert_close(leaf[k], before[name][k] * share)


def test_a_fold_without_a_gradient_stays_finite_when_clipped():
    weights = {"a": torch.ones(2, 3)}
    optimiser = StackedAdamW(weights, [OptimiserConfig(clip=0.1, weight_decay=0.0)] * 2)
    optimiser.step(slice(0, 2), {"a": torch.tensor([[0.0] * 3, [1.0] * 3])}, [True, True], [0.1, 0.1])
    assert weights["a"][0].tolist() == [1.0] * 3


def test_memory_taken_up_continues_bit_by_bit():
    draw = torch.Generator().manual_seed(0)
    configs = [OptimiserConfig(clip=clip, weight_decay=0.1) for clip in (None, 0.1, 1.0)]
    weights = random_leaves(draw, 3)
    first, turn = StackedAdamW(weights, configs), [True, True, False]
    first.step(slice(0, 3), random_leaves(draw, 3), turn, [0.1] * 3)
    copy = copied(weights)
    second = StackedAdamW(copy, configs)
    second.restore(copied(first.moments()))
    for _ in range(3):
        gradients = random_leaves(draw, 3)
        for optimiser in (first, second):
            optimiser.step(slice(0, 3), copied(gradients), [True, False, True], [0.1, 0.2, 0.3])
    one, other = everything(first, weights), everything(second, copy)
    assert one.keys() == other.keys()
    assert all(torch.equal(leaf, other[name]) for name, leaf in one.items())
    assert first.moments()["steps"].tolist() == [4.0, 1.0, 3.0]


def test_memory_taken_up_is_a_copy():
    draw = torch.Generator().manual_seed(0)
    weights = random_leaves(draw)
    first = StackedAdamW(weights, [OptimiserConfig()] * FOLDS)
    second = StackedAdamW(copied(weights), [OptimiserConfig()] * FOLDS)
    second.restore(first.moments())
    before = copied(second.moments())
    first.step(slice(0, FOLDS), random_leaves(draw), [True] * FOLDS, [0.1] * FOLDS)
    assert all(torch.equal(leaf, before[name]) for name, leaf in second.moments().items())


def test_gradients_belong_to_the_weights_of_their_name():
    draw = torch.Generator().manual_seed(0)
    weights = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}
    gradients = {"b": torch.randn(2, 3, generator=draw), "a": torch.zeros(2, 3)}
    configs = [OptimiserConfig(weight_decay=0.0)] * 2
    StackedAdamW(weights, configs).step(slice(0, 2), gradients, [True] * 2, [0.1] * 2)
    assert not weights["a"].any()
    assert weights["b"].all()


def test_a_parameter_that_is_a_number_is_optimised_as_if_alone():
    weights, config = {"scale": torch.ones(2)}, OptimiserConfig(clip=0.5)
    own = [OwnAdamW(of_fold(weights, k), config) for k in range(2)]
    gradients = {"scale": torch.tensor([3.0, -0.1])}
    for k in range(2):
        own[k].step(of_fold(gradients, k), 0)
    StackedAdamW(weights, [config] * 2).step(slice(0, 2), gradients, [True] * 2, [learning_rate(config, 0, EPOCHS)] * 2)
    for k in range(2):
        torch.testing.assert_close(weights["scale"][k], own[k].weights["scale"].detach())


@pytest.mark.parametrize("bounds", [(None, 1.0), (None, None)])
def test_a_fold_without_a_bound_is_left_alone_beside_one_with_a_bound(bounds):
    """Even where the squares of its gradient are beyond single precision."""
    gradients = {"a": torch.tensor([[1e25, 2e25, 0.0], [3.0, 4.0, 0.0]])}
    before = copied(gradients)
    configs = [OptimiserConfig(clip=bound) for bound in bounds]
    StackedAdamW({"a": torch.zeros(2, 3)}, configs).step(slice(0, 2), gradients, [True] * 2, [0.1] * 2)
    assert torch.equal(gradients["a"][0], before["a"][0])


def scheduled(make: type[LRScheduler], epochs: int, **options) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    scheduler, rates = make(optimiser, **options), []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no step of the optimiser is needed to see its learning rate
            scheduler.step()
    return rates


def rates(epochs: int, **options) -> list[float]:
    config = OptimiserConfig(lr=0.2, **options)
    return [learning_rate(config, epoch, epochs) for epoch in range(epochs)]


@pytest.mark.parametrize("epochs", [1, 2, 10])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_schedules_are_those_of_torch(epochs, share):
    constant = scheduled(ConstantLR, epochs, factor=1.0)
    cosine = scheduled(CosineAnnealingLR, epochs, T_max=epochs, eta_min=0.2 * share)
    assert rates(epochs, schedule="constant") == pytest.approx(constant)
    assert rates(epochs, schedule="cosine", final_lr_share=share) == pytest.approx(cosine)


def test_a_warm_up_comes_before_the_schedule():
    rise = scheduled(LinearLR, 3, start_factor=0.01, end_factor=1.0, total_iters=3)
    fall = scheduled(CosineAnnealingLR, 7, T_max=7, eta_min=0.0)
    assert rates(10, schedule="warmup_cosine", warmup_epochs=3) == pytest.approx(rise + fall)
    assert rates(10, schedule="warmup_constant", warmup_epochs=3) == pytest.approx(rise + [0.2] * 7)


@given(
    epochs=st.integers(1, 60),
    first=st.integers(1, 20),
    factor=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.01, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_warm_restarts_are_those_of_torch_counted_in_epochs(epochs, first, factor, share):
    torchs = scheduled(CosineAnnealingWarmRestarts, epochs, T_0=first, T_mult=factor, eta_min=0.2 * share)
    own = {"restart_epochs": first, "restart_factor": factor, "final_lr_share": share}
    assert rates(epochs, schedule="warm_restarts", **own) == pytest.approx(torchs)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 7, 50])
def test_the_first_of_warm_restarts_takes_a_quarter_of_the_epochs(epochs):
    own = rates(epochs, schedule="warm_restarts")
    torchs = scheduled(CosineAnnealingWarmRestarts, epochs, T_0=max(1, epochs // 4), T_mult=2)
    assert own == pytest.approx(torchs)
    assert own[max(1, epochs // 4) :][:1] in ([], [0.2]), "it begins anew from the peak"


@given(
    epochs=st.integers(1, 30),
    warmup=st.integers(1, 40),
    share=st.floats(0.0, 1.0),
    schedule=st.sampled_from(SCHEDULES),
    restart=st.none() | st.integers(1, 40),
    factor=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_a_learning_rate_is_never_above_its_peak_nor_without_effect(epochs, warmup, share, schedule, restart, factor):
    options = {"warmup_epochs": warmup, "restart_epochs": restart, "restart_factor": factor}
    found = rates(epochs, schedule=schedule, final_lr_share=share, **options)
    assert all(0 < rate <= 0.2 * (1 + 1e-12) for rate in found)
