"""However a stack is cut into parts, it agrees with the model by itself."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_plans import TWO_TASKS, make_plan
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fusion_lab.blocks.randomness import Noise, draw_noise
from fusion_lab.config import Config
from fusion_lab.contracts import Batch, Output
from fusion_lab.objectives import Objective
from fusion_lab.training.batches import gather
from fusion_lab.training.leaves import Leaves, stack_models, take
from fusion_lab.training.plan import Mode, Plan
from fusion_lab.training.stack import Part, Stack
from fusion_lab.zoo import Model

FOLDS = 4
WAYS: list[tuple[Mode, int | None]] = [("loop", None), *(("stacked", size) for size in (None, 1, 2, 3, 4, 9))]
EVERY = [True] * FOLDS


class Case(NamedTuple):
    """Four models of one shape and what a step of each takes."""

    plan: Plan
    models: list[Model]
    weights: Leaves
    batch: Batch
    noise: Tensor
    class_weights: Leaves

    def stack(self, mode: Mode = "stacked", size: int | None = None) -> Stack:
        return Stack(self.models[0], self.plan.objective, mode, size)

    def step(self, stack: Stack, active: list[bool]) -> list[Part]:
        return list(stack.gradients(self.weights, self.batch, self.noise, self.class_weights, active))

    def of_fold(self, k: int) -> tuple[Model, Batch, Noise, Leaves]:
        batch, class_weights = pytree.tree_map(lambda leaf: leaf[k], (self.batch, self.class_weights))
        return self.models[k], batch, Noise(self.noise[k]), class_weights


@pytest.fixture(scope="module")
def case() -> Case:
    plan = make_plan({**TWO_TASKS, "model.fusion": "bottleneck"}, dtype=torch.float64)
    models = [plan.initial_weights(k) for k in range(FOLDS)]
    rows = np.random.default_rng(0).integers(0, 60, (FOLDS, 10))
    batch = gather(plan, (rows, np.arange(10) < np.array([[10], [7], [10], [1]])), plan.scaler)
    everything = plan.dataset.gather(torch.arange(60))
    class_weights = plan.objective.class_weights(everything.targets, everything.known, plan.folds.train)
    draws = Stack(models[0], plan.objective, "loop").draws(batch)
    noise = torch.from_numpy(np.stack([draw_noise(draws, k) for k in range(FOLDS)]))
    return Case(plan, models, stack_models(models), batch, noise, class_weights)


def test_leaves_are_the_parameters_of_each_model(case):
    for k, model in enumerate(case.models):
        named = dict(model.named_parameters())
        assert list(case.weights) == list(named)
        assert all(torch.equal(leaf[k], named[name]) for name, leaf in case.weights.items())
    assert all(leaf.is_contiguous() and not leaf.requires_grad for leaf in case.weights.values())


def test_what_is_taken_is_a_copy_in_the_order_given(case):
    some = take(case.weights, [2, 0])
    for name, leaf in case.weights.items():
        assert torch.equal(some[name], torch.stack([leaf[2], leaf[0]]))
        assert some[name].untyped_storage().data_ptr() != leaf.untyped_storage().data_ptr()
    assert all(
        leaf.untyped_storage().data_ptr() != case.weights[name].untyped_storage().data_ptr()
        for name, leaf in take(case.weights, range(FOLDS)).items()
    )


def test_a_model_with_a_buffer_cannot_be_stacked():
    with pytest.raises(AssertionError, match="hidden state"):
        stack_models([nn.BatchNorm1d(3)])


def test_folds_start_from_weights_of_their_own(case):
    for name, leaf in case.weights.items():
        if leaf[0].numel() > 1 and leaf[0].std() > 0 and not torch.equal(leaf[0], leaf[0].round()):
            assert not any(torch.equal(leaf[0], other) for other in leaf[1:]), name


@given(folds=st.integers(1, 200), size=st.one_of(st.none(), st.integers(1, 250)))
def test_parts_cover_every_fold_once_in_order_as_evenly_as_can_be(case, folds, size):
    parts = case.stack("stacked", size).parts(folds)
    places = [range(folds)[part] for part in parts]
    assert list(chain(*places)) == list(range(folds))
    sizes = [len(part) for part in places]
    assert min(sizes) >= 1
    assert max(sizes) <= (size or folds)
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == -(-folds // (size or folds)), "no more parts than the size asks for"
    assert case.stack("loop", size).parts(folds) == [slice(k, k + 1) for k in range(folds)]


def expected_step(case: Case, k: int) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a model by itself."""
    model, batch, noise, class_weights = case.of_fold(k)
    model.zero_grad()
    loss = case.plan.objective(model(batch.without_targets(), noise), batch, class_weights)
    loss.backward()
    return loss.detach(), [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


@pytest.mark.parametrize("active", [EVERY, [True, True, False, True]])
@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_gradients_are_those_of_backward_on_each_model(case, mode, size, active):
    seen = []
    for part in case.step(case.stack(mode, size), active):
        folds = range(FOLDS)[part.folds]
        assert part.losses.shape == (len(folds),)
        assert list(part.gradients) == list(case.weights)
        seen += folds
        for place, k in enumerate(folds):
            if not active[k]:
                continue
            loss, gradients = expected_step(case, k)
            torch.testing.assert_close(part.losses[place], loss, rtol=0, atol=1e-12)
            for (name, leaf), gradient in zip(part.gradients.items(), gradients, strict=True):
                assert leaf.shape == (len(folds), *gradient.shape)
                torch.testing.assert_close(leaf[place], gradient, rtol=0, atol=1e-12, msg=name)
    assert set(seen) >= {k for k in range(FOLDS) if active[k]}
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("mode", "size", "active", "left"),
    [
        ("stacked", 2, [True, False, False, False], [slice(0, 2)]),
        ("stacked", 2, [False, False, False, True], [slice(2, 4)]),
        ("stacked", 2, [True, False, False, True], [slice(0, 2), slice(2, 4)]),
        ("stacked", 1, [False, True, False, True], [slice(1, 2), slice(3, 4)]),
        ("stacked", None, [False, False, False, True], [slice(0, 4)]),
        ("stacked", None, [False] * 4, []),
        ("loop", None, [False, True, False, True], [slice(1, 2), slice(3, 4)]),
    ],
)
def test_a_part_of_inactive_folds_is_left_out(case, mode, size, active, left):
    assert [part.folds for part in case.step(case.stack(mode, size), active)] == left


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_weights_that_change_between_parts_change_no_other_part(case, mode, size):
    """The optimiser's step on a part comes before the gradients of the next."""
    still = case.step(case.stack(mode, size), EVERY)
    moving, weights = [], {name: leaf.clone() for name, leaf in case.weights.items()}
    stack = case.stack(mode, size)
    for part in stack.gradients(weights, case.batch, case.noise, case.class_weights, EVERY):
        moving.append(part)
        for leaf in weights.values():
            leaf[part.folds] += 1.0
    for one, other in zip(still, moving, strict=True):
        assert torch.equal(one.losses, other.losses)
        assert all(torch.equal(leaf, other.gradients[name]) for name, leaf in one.gradients.items())


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_answers_are_those_of_each_model_and_drop_nothing(case, mode, size):
    found = case.stack(mode, size).answers(case.weights, case.batch)
    for k in range(FOLDS):
        model, batch, _, _ = case.of_fold(k)
        with torch.no_grad():
            expected = model(batch.without_targets())
        for kind in ("heads", "maps"):
            assert getattr(found, kind).keys() == getattr(expected, kind).keys()
            for name, leaf in getattr(expected, kind).items():
                real = batch.weight > 0
                torch.testing.assert_close(getattr(found, kind)[name][k][real], leaf[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bytes_at_once", [1, 2000, 10**9])
def test_how_many_rows_a_stack_answers_in_a_call_changes_nothing(case, bytes_at_once, monkeypatch):
    whole = case.stack("stacked", None).answers(case.weights, case.batch)
    monkeypatch.setattr("fusion_lab.training.stack.BYTES_AT_ONCE", bytes_at_once)
    parts = case.stack("stacked", None).answers(case.weights, case.batch)
    for name, leaf in whole.heads.items():
        torch.testing.assert_close(parts.heads[name], leaf, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_rows_that_weigh_nothing_are_answered_by_zeros_wherever_they_are(case, mode, size):
    weight = torch.zeros_like(case.batch.weight)
    weight[:, [0, 6]] = 1.0
    whole = case.stack(mode, size).answers(case.weights, case.batch._replace(weight=torch.ones_like(weight))).heads
    found = case.stack(mode, size).answers(case.weights, case.batch._replace(weight=weight)).heads
    for name, leaf in whole.items():
        expected = torch.zeros_like(leaf)
        expected[:, [0, 6]] = leaf[:, [0, 6]]
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_what_stands_in_rows_that_weigh_nothing_reaches_no_answer(case, mode, size):
    counted = torch.ones_like(case.batch.weight, dtype=torch.bool)
    counted[1, [0, 5]], counted[2, 9], counted[3, 3] = False, False, False
    spoilt = {
        name: torch.where(counted.reshape(*counted.shape, *[1] * (leaf.ndim - 2)), leaf, torch.nan)
        for name, leaf in case.batch.inputs.items()
    }
    stack, weight = case.stack(mode, size), counted.to(case.batch.weight)
    clean = stack.answers(case.weights, case.batch._replace(weight=weight))
    seen = stack.answers(case.weights, case.batch._replace(inputs=spoilt, weight=torch.ones_like(weight)))
    assert all(leaf[~counted].isnan().any() for leaf in seen.heads.values()), "where they weigh something they do"
    found = stack.answers(case.weights, case.batch._replace(inputs=spoilt, weight=weight))
    for kind in ("heads", "maps"):
        for name, leaf in getattr(clean, kind).items():
            assert not getattr(found, kind)[name][~counted].any(), name
            torch.testing.assert_close(getattr(found, kind)[name], leaf, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_losses_of_answers_are_the_objective_of_each_fold(case, mode, size):
    stack = case.stack(mode, size)
    found = stack.losses(stack.answers(case.weights, case.batch), case.batch, case.class_weights)
    for k in range(FOLDS):
        model, batch, _, class_weights = case.of_fold(k)
        expected = case.plan.objective(model(batch.without_targets()), batch, class_weights)
        torch.testing.assert_close(found[k], expected.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_draws_are_what_a_forward_takes(case, rows):
    batch = pytree.tree_map(lambda leaf: leaf[:, :rows], case.batch)
    draws = case.stack().draws(batch)
    one = pytree.tree_map(lambda leaf: leaf[0], batch.without_targets())
    noise = Noise(torch.zeros(draws, dtype=torch.int16))
    case.models[0](one, noise)
    assert noise.taken == draws > 0
    with pytest.raises(AssertionError, match="random values wanted"):
        case.models[0](one, Noise(torch.zeros(draws - 1, dtype=torch.int16)))


def test_without_dropout_nothing_is_drawn(case):
    plan = make_plan({"model.dropout": 0.0}, dtype=torch.float64)
    assert Stack(plan.initial_weights(0), plan.objective, "stacked").draws(case.batch) == 0


class Plain(Model):
    """A model of one linear map, as a family of the user's own might have it."""

    Config = Config

    def __init__(self, part: nn.Module) -> None:
        self.super_init()
        self.part, self.maps = part, {}

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        return Output({"y": self.part(batch.inputs["x"]).sum(-1)}, {}, {})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 3), nn.Linear(3, 3)
        self.down.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = self.other = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.tanh(self.one(x)))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


PARTS = [
    pytest.param(lambda: nn.Linear(3, 2, bias=False), id="no bias"),
    pytest.param(lambda: nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2, elementwise_affine=False)), id="a bare norm"),
    pytest.param(Tied, id="one parameter under two names"),
    pytest.param(Twice, id="one module under two names"),
    pytest.param(Unused, id="a parameter without effect"),
    pytest.param(Scaled, id="a number"),
]


def objective(output: Output, batch: Batch, class_weights: Leaves) -> Tensor:
    return output.heads["y"].square().mean()


class SquaresAlone(Objective):
    """An objective without tasks."""

    def __init__(self) -> None: ...

    def with_curves(self, output, batch, class_weights):
        return objective(output, batch, class_weights), {}


def small_stack(make, mode: Mode, size: int | None) -> tuple[list[Model], Batch, list[Part], Tensor]:
    """Three models on rows of their own, what a step gives and what they answer."""
    models: list[Model] = [Plain(make()).double() for _ in range(3)]
    stack, weights = Stack(models[0], SquaresAlone(), mode, size), stack_models(models)
    batch = Batch({"x": torch.randn(3, 5, 3, dtype=torch.float64)}, {}, {}, {}, {}, {}, torch.ones(3, 5))
    parts = list(stack.gradients(weights, batch, torch.zeros(3, 0, dtype=torch.int16), {}, [True] * 3))
    return models, batch, parts, stack.answers(weights, batch).heads["y"]


def assert_as_each_model_alone(models: list[Model], batch: Batch, parts: list[Part], answers: Tensor) -> None:
    for k, model in enumerate(models):
        output = model(batch._replace(inputs={"x": batch.inputs["x"][k]}))
        torch.testing.assert_close(answers[k], output.heads["y"].detach(), rtol=0, atol=1e-12)
        names, leaves = zip(*model.named_parameters(), strict=True)
        loss = objective(output, batch, {})
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        (part,) = (part for part in parts if k in range(3)[part.folds])
        place = k - part.folds.start
        torch.testing.assert_close(part.losses[place], loss.detach(), rtol=0, atol=1e-12)
        for name, gradient in zip(names, gradients, strict=True):
            torch.testing.assert_close(part.gradients[name][place], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", PARTS)
@pytest.mark.parametrize(("mode", "size"), [("loop", None), ("stacked", None), ("stacked", 2)])
def test_any_module_can_be_stacked(make, mode, size):
    assert_as_each_model_alone(*small_stack(make, mode, size))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        made = self.linear(x)
        return made if made.sum() > 0 else 2 * made


def test_the_loop_runs_what_cannot_be_stacked():
    assert_as_each_model_alone(*small_stack(Branching, "loop", None))
    for size in (None, 1):
        with pytest.raises(RuntimeError, match="data-dependent"):
            small_stack(Branching, "stacked", size)


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_the_model_keeps_its_own_parameters(case, mode, size, monkeypatch):
    model = case.models[0]
    before, values = list(model.parameters()), [p.detach().clone() for p in model.parameters()]

    def fails(*arguments):
        raise ArithmeticError("in the middle of it")

    stack = case.stack(mode, size)
    case.step(stack, EVERY)
    stack.answers(case.weights, case.batch)
    monkeypatch.setattr(type(model.fusion), "forward", fails)
    for run in (lambda: case.step(stack, EVERY), lambda: stack.answers(case.weights, case.batch)):
        with pytest.raises(ArithmeticError, match="in the middle of it"):
            run()
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), values, strict=True))
