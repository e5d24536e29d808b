"""The stacked optimiser against torch's own, fold by fold, and schedules against torch's schedulers."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler

from fusion_lab.training.optimiser import OptimiserConfig, StackedAdamW, learning_rate

FOLDS, SIZE = 4, 7


class OwnAdamW:
    """One fold: ``torch.optim.AdamW`` on its weights alone, clipped by ``clip_grad_norm_``."""

    def __init__(self, weights: Tensor, config: OptimiserConfig) -> None:
        self.weights = weights.clone().requires_grad_()
        self.clip = config.clip
        self.adamw = torch.optim.AdamW([self.weights], lr=config.lr, weight_decay=config.weight_decay)

    def step(self, gradient: Tensor, lr: float) -> None:
        self.adamw.param_groups[0]["lr"] = lr
        self.weights.grad = gradient.clone()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_([self.weights], self.clip)
        self.adamw.step()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    clip=st.sampled_from([None, 0.1, 1.0, 100.0]),
    decay=st.sampled_from([0.0, 0.3]),
    turns=st.lists(st.lists(st.booleans(), min_size=FOLDS, max_size=FOLDS), min_size=1, max_size=8),
    kept=st.lists(st.integers(0, FOLDS - 1), min_size=1, max_size=FOLDS, unique=True).map(sorted),
)
def test_each_fold_is_optimised_as_if_alone(seed, clip, decay, turns, kept):
    draw = torch.Generator().manual_seed(seed)
    config = OptimiserConfig(lr=0.05, clip=clip, weight_decay=decay)
    weights = torch.randn(FOLDS, SIZE, generator=draw, dtype=torch.float64)
    own = [OwnAdamW(row, config) for row in weights]
    stacked, alive = StackedAdamW(weights, config), list(range(FOLDS))
    for step, turn in enumerate([*turns, *turns]):
        if step == len(turns):  # half-way some folds leave the stack
            weights, alive = weights[kept].clone(), kept
            stacked.keep(weights, kept)
        scale = torch.tensor([0.01, 1.0, 10.0, 100.0], dtype=torch.float64).unsqueeze(1)
        gradients = scale * torch.randn(FOLDS, SIZE, generator=draw, dtype=torch.float64)
        active = [turn[k] for k in alive]
        for k in (k for k in alive if turn[k]):
            own[k].step(gradients[k], lr=0.05 / (step + 1))
        stacked.step(gradients[alive], active, lr=0.05 / (step + 1))
        for place, k in enumerate(alive):
            torch.testing.assert_close(weights[place], own[k].weights.detach(), rtol=0, atol=1e-12)


def test_a_fold_whose_turn_it_is_not_stays_bit_by_bit():
    weights = torch.randn(3, SIZE)
    optimiser = StackedAdamW(weights, OptimiserConfig(weight_decay=1.0))
    optimiser.step(torch.randn(3, SIZE), [True] * 3, 0.1)
    before, memory = weights.clone(), {name: leaf.clone() for name, leaf in optimiser.moments().items()}
    optimiser.step(torch.full((3, SIZE), torch.nan), [False] * 3, 0.1)
    assert torch.equal(weights, before)
    assert all(torch.equal(leaf, memory[name]) for name, leaf in optimiser.moments().items())


def test_clipping_bounds_each_fold_by_its_own_norm():
    gradients = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    StackedAdamW(torch.zeros(3, 2), OptimiserConfig(clip=1.0)).step(gradients, [True] * 3, 0.1)
    torch.testing.assert_close(gradients.norm(dim=1), torch.tensor([1.0, 0.5, 0.0]))


def test_memory_taken_up_continues_bit_by_bit():
    draw = torch.Generator().manual_seed(0)
    config, weights = OptimiserConfig(), torch.randn(3, SIZE, generator=draw)
    first = StackedAdamW(weights, config)
    first.step(torch.randn(3, SIZE, generator=draw), [True, True, False], 0.1)
    copy = weights.clone()
    second = StackedAdamW(copy, config)
    second.restore(first.moments())
    for _ in range(3):
        gradients = torch.randn(3, SIZE, generator=draw)
        first.step(gradients.clone(), [True, False, True], 0.1)
        second.step(gradients.clone(), [True, False, True], 0.1)
    assert torch.equal(weights, copy)
    assert first.moments()["steps"].tolist() == second.moments()["steps"].tolist() == [4.0, 1.0, 3.0]


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
    epochs=st.integers(1, 30),
    warmup=st.integers(1, 40),
    share=st.floats(0.0, 1.0),
    schedule=st.sampled_from(["constant", "cosine", "warmup_constant", "warmup_cosine"]),
)
@settings(max_examples=100, deadline=None)
def test_a_learning_rate_is_never_above_its_peak_nor_without_effect(epochs, warmup, share, schedule):
    found = rates(epochs, schedule=schedule, warmup_epochs=warmup, final_lr_share=share)
    assert all(0 < rate <= 0.2 * (1 + 1e-12) for rate in found)
