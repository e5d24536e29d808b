"""A model that breaks a rule of stacking is refused with the operation named, and trains in the loop all the same."""

from __future__ import annotations

import copy
import random
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from fusion_lab.blocks.randomness import Dropout, Noise
from fusion_lab.config import Config
from fusion_lab.contracts import Batch, Feature, Modality, Output, Spec, Task
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.training.leaves import stack_models
from fusion_lab.training.rules import broken_rule
from fusion_lab.training.stack import Stack
from fusion_lab.zoo import Model

FOLDS, ROWS, STEPS, WIDTH = 3, 5, 4, 6
SPEC = Spec(
    (Modality("gait", "sequence", tuple(Feature(f"gait {i}") for i in range(WIDTH)), STEPS),),
    (Task("death", "binary", ("no", "yes")),),
)
OBJECTIVE = Objective(ObjectiveConfig(), SPEC)
CLASS_WEIGHTS = {"death": torch.ones(FOLDS, 2)}


class Toy(Model):
    """A linear layer per step, one module that may break a rule (``inner``), the mean over steps, a linear head."""

    Config = Config

    def __init__(self, inner: nn.Module) -> None:
        self.super_init()
        torch.manual_seed(0)
        self.enter = nn.Linear(WIDTH, WIDTH)
        self.inner = inner
        self.out = nn.Linear(WIDTH, 1)
        self.maps = {}

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        x = torch.tanh(self.enter(batch.inputs["gait"]))
        return Output({"death": self.out(self.inner(x, noise).mean(1)).squeeze(-1)}, {}, {})


class Inner(nn.Module):
    """A module of one operation ``(module, x [B,T,D]) -> [B,T,D]`` with some layers of its own."""

    def __init__(self, operation: Callable[..., Tensor], **attributes) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.operation = operation
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        return self.operation(self, x)


def toy(operation: Callable[..., Tensor], **attributes) -> Toy:
    return Toy(Inner(operation, **attributes))


def make_batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    shape = (FOLDS, ROWS)
    return Batch(
        inputs={"gait": torch.randn(*shape, STEPS, WIDTH, generator=draw)},
        valid={"gait": torch.ones(*shape, STEPS, dtype=torch.bool)},
        observed={"gait": torch.ones(*shape, STEPS, WIDTH, dtype=torch.bool)},
        quality={"gait": torch.ones(shape)},
        targets={"death": torch.randint(0, 2, shape, generator=draw).float()},
        known={"death": torch.ones(shape, dtype=torch.bool)},
        weight=torch.ones(shape),
    )


def rule(model: Model, batch: Batch | None = None) -> str | None:
    return broken_rule(model, OBJECTIVE, batch or make_batch(), CLASS_WEIGHTS)


def trains_in_the_loop(model: Model) -> bool:
    weights = stack_models([model] * FOLDS)
    stack = Stack(copy.deepcopy(model), OBJECTIVE, "loop")
    noise = torch.zeros(FOLDS, stack.draws(pytree.tree_map(torch.clone, make_batch())), dtype=torch.int16)
    parts = list(stack.gradients(weights, make_batch(), noise, CLASS_WEIGHTS, [True] * FOLDS))
    return all(torch.isfinite(leaf).all() for part in parts for leaf in part.gradients.values()) and any(
        leaf.any() for leaf in parts[0].gradients.values()
    )


def boolean_indexing(module: nn.Module, x: Tensor) -> Tensor:
    return x + x[x > 0].mean()


def boolean_writing(module: nn.Module, x: Tensor) -> Tensor:
    x = x.clone()
    x[x > 0] = 0.5
    return x


def control_flow(module: nn.Module, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else 2 * x


def one_hot(module: nn.Module, x: Tensor) -> Tensor:
    return x + F.one_hot((x > 0).long()).sum(-1)


def write_in_place(module: nn.Module, x: Tensor) -> Tensor:
    buffer = torch.zeros(x.shape, dtype=x.dtype)
    buffer[:, 1:] = x[:, :-1]
    return buffer


def add_in_place(module: nn.Module, x: Tensor) -> Tensor:
    buffer = torch.zeros(x.shape, dtype=x.dtype)
    buffer += x
    return buffer


def fused_attention(module: nn.Module, x: Tensor) -> Tensor:
    heads = x.reshape(ROWS, STEPS, 2, WIDTH // 2).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(x.shape)


def packed(module: nn.Module, x: Tensor) -> Tensor:
    lengths = torch.full((ROWS,), STEPS)
    return x + nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True).data.mean()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "boolean indexing": (boolean_indexing, "torch.Tensor.__getitem__"),
    "boolean writing": (boolean_writing, "torch.Tensor.__setitem__"),
    "nonzero": (lambda m, x: x + torch.nonzero(x > 0).sum(), "aten::nonzero"),
    "where with one argument": (lambda m, x: x + x[torch.where(x > 0)].mean(), "torch.where"),
    "masked_select": (lambda m, x: x + torch.masked_select(x, x > 0).mean(), "torch.masked_select"),
    "unique": (lambda m, x: x + len(torch.unique(x > 0)), "torch.unique"),
    "item": (lambda m, x: x * x.sum().item(), "torch.Tensor.item"),
    "float": (lambda m, x: x * float(x.sum()), "torch.Tensor.__float__"),
    "tolist": (lambda m, x: x * x.sum().tolist(), "torch.Tensor.tolist"),
    "numpy": (lambda m, x: x * torch.from_numpy(x.detach().numpy()), "torch.Tensor.numpy"),
    "if tensor": (control_flow, "torch.Tensor.__bool__"),
    "equal": (lambda m, x: x if torch.equal(x, x.abs()) else -x, "torch.equal"),
    "one_hot": (one_hot, "torch.nn.functional.one_hot"),
    "item assignment in place": (write_in_place, "torch.Tensor.__setitem__"),
    "addition in place": (add_in_place, "torch.Tensor.add_"),
    "fused attention": (fused_attention, "torch.nn.functional.scaled_dot_product_attention"),
    "packed sequence": (packed, "torch.nn.utils.rnn.pack_padded_sequence"),
    "an old autograd.Function": (lambda m, x: Doubled.apply(x), "torch.autograd.function.Function.apply"),
    "quantile": (lambda m, x: x + torch.quantile(x, 0.5), "torch.quantile"),
    "functional dropout": (lambda m, x: F.dropout(x, 0.5), "torch.nn.functional.dropout"),
    "randn": (lambda m, x: x + torch.randn(x.shape), "torch.randn"),
    "rand_like": (lambda m, x: x + torch.rand_like(x), "torch.rand_like"),
    "bernoulli": (lambda m, x: x * torch.bernoulli(torch.full(x.shape, 0.5)), "torch.bernoulli"),
    "randperm": (lambda m, x: x[:, torch.randperm(STEPS)], "torch.randperm"),
    "uniform_": (lambda m, x: x + torch.zeros(x.shape).uniform_(), "torch.Tensor.uniform_"),
    "a seeded generator": (
        lambda m, x: x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0)),
        "torch.rand ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operation_that_cannot_be_stacked_is_named_with_its_module_and_line(name):
    operation, named = REFUSED[name]
    model = toy(operation)
    sentence = rule(model)
    assert sentence is not None
    assert named in sentence.partition(":")[0] + sentence.rpartition("(")[2]
    assert "in `inner` (Inner), test_rules.py:" in sentence
    assert "\n" not in sentence
    assert trains_in_the_loop(model)


def test_a_module_of_pytorchs_is_named_by_its_place_in_the_model():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, dropout=0.0, batch_first=True)
    sentence = rule(toy(lambda m, x: m.layer(x), layer=layer))
    assert sentence is not None
    assert sentence.startswith("torch.nn.functional.multi_head_attention_forward in `inner.layer.self_attn`")
    assert "aten::_scaled_dot_product_flash_attention_for_cpu has no batching rule" in sentence


def test_an_lstm_is_refused():
    model = toy(lambda m, x: m.layer(x)[0], layer=nn.LSTM(WIDTH, WIDTH, batch_first=True))
    sentence = rule(model)
    assert sentence is not None
    assert sentence.startswith("torch.lstm in `inner.layer` (LSTM), test_rules.py:")
    assert "batching rule" in sentence
    assert trains_in_the_loop(model)


def test_checkpointing_is_refused():
    model = toy(lambda m, x: checkpoint(m.layer, x, use_reentrant=False), layer=nn.Linear(WIDTH, WIDTH))
    sentence = rule(model)
    assert sentence is not None
    assert sentence.startswith("torch.utils.checkpoint.checkpoint in `inner")
    assert trains_in_the_loop(model)


def test_the_objective_is_named_where_it_breaks_a_rule():
    class Reading(Objective):
        def with_curves(self, output: Output, batch: Batch, class_weights: dict[str, Tensor]):
            loss, curves = super().with_curves(output, batch, class_weights)
            return (loss if loss > 0 else -loss), curves

    sentence = broken_rule(toy(lambda m, x: x), Reading(ObjectiveConfig(), SPEC), make_batch(), CLASS_WEIGHTS)
    assert sentence is not None
    assert sentence.startswith("torch.Tensor.__bool__ in the objective, test_rules.py:")


# What the modules say of themselves.


class Sharing(nn.Module):
    """Two parameters in one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.shift = nn.Parameter(self.scale.data[2:])

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        return x * self.scale + F.pad(self.shift, (2, 0))


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.arange(WIDTH))

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        return x + self.positions


def flat(module: nn.Module, x: Tensor) -> Tensor:
    return module.layer(x.reshape(-1, WIDTH)).reshape(x.shape)


STATIC = {
    "running statistics": (toy(flat, layer=nn.BatchNorm1d(WIDTH)), "torch.nn.BatchNorm1d `inner.layer`", "buffer"),
    "batch statistics": (
        toy(flat, layer=nn.BatchNorm1d(WIDTH, track_running_stats=False)),
        "torch.nn.BatchNorm1d `inner.layer`",
        "statistics",
    ),
    "a buffer": (Toy(Constant()), "Constant `inner`", "positions"),
    "dropout": (toy(flat, layer=nn.Dropout(0.1)), "torch.nn.Dropout `inner.layer`", "generator"),
    "shared memory": (Toy(Sharing()), "torch.nn.Parameter `inner.shift`", "`inner.scale`"),
}


@pytest.mark.parametrize("name", STATIC)
def test_a_module_that_breaks_a_rule_is_named(name):
    model, named, why = STATIC[name]
    sentence = rule(model)
    assert sentence is not None
    assert sentence.startswith(f"{named}: ")
    assert why in sentence


def test_a_model_that_kept_a_tensor_of_an_earlier_forward_is_refused():
    def keep(module: nn.Module, x: Tensor) -> Tensor:
        module.last = x
        return x

    model = toy(keep)
    assert rule(model) == "Inner.forward: leaves a tensor behind in `inner.last` (its place is Output.maps)"
    model(pytree.tree_map(lambda leaf: leaf[0], make_batch()))
    assert rule(model) == "Inner `inner`: keeps a tensor of an earlier forward in `last`"


# What the numbers say.


def numpys_mask(module: nn.Module, x: Tensor) -> Tensor:
    return x * torch.from_numpy(np.random.random(x.shape)).to(x.dtype)


def pythons_scale(module: nn.Module, x: Tensor) -> Tensor:
    return x * random.random()


def own_generator(module: nn.Module, x: Tensor) -> Tensor:
    return x * torch.from_numpy(module.draw.random(x.shape)).to(x.dtype)


def fresh_generator(module: nn.Module, x: Tensor) -> Tensor:
    return x * torch.from_numpy(np.random.default_rng().random(x.shape)).to(x.dtype)


def counting(module: nn.Module, x: Tensor) -> Tensor:
    module.calls += 1
    return torch.mul(x, module.calls)


def remembering(module: nn.Module, x: Tensor) -> Tensor:
    before, module.memory = module.memory, x.detach().mean()
    return torch.add(x, before)


def remembering_in_a_list(module: nn.Module, x: Tensor) -> Tensor:
    module.seen.append(1)
    return torch.div(x, len(module.seen))


def moving_the_seed(module: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(3)
    return torch.abs(x)


def writing_weights(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.layer.weight.mul_(0.5)
    return module.layer(x)


IMPURE: dict[str, tuple[Toy, str, str]] = {
    "numpy": (toy(numpys_mask), "numpy.random in `inner`", "all folds of a stack get one draw"),
    "random": (toy(pythons_scale), "random in `inner`", "all folds of a stack get one draw"),
    "manual_seed": (toy(moving_the_seed), "torch.random in `inner`", "generator of the whole process"),
    "a generator": (toy(own_generator, draw=np.random.default_rng(0)), "torch.Tensor.to in `inner`", "`inner.draw`"),
    "a fresh generator": (toy(fresh_generator), "torch.Tensor.to in `inner`", "second call with the same noise"),
    "a counter": (toy(counting, calls=0), "torch.mul in `inner`", "`inner.calls`"),
    "a list": (toy(remembering_in_a_list, seen=[]), "torch.div in `inner`", "`inner.seen`"),
    "weights": (
        toy(writing_weights, layer=nn.Linear(WIDTH, WIDTH)),
        "torch.Tensor.mul_ in `inner`",
        "writes into `weights['inner.layer.weight']` in place",
    ),
}


@pytest.mark.parametrize("name", IMPURE)
def test_a_forward_that_is_no_function_of_batch_and_noise_is_refused_by_what_it_does(name):
    model, named, why = IMPURE[name]
    sentence = rule(model)
    assert sentence is not None
    assert sentence.startswith(f"{named} (Inner), test_rules.py:")
    assert why in sentence
    assert trains_in_the_loop(model)


def test_a_memory_that_outlives_a_forward_is_refused():
    sentence = rule(toy(remembering, memory=0.0))
    assert sentence is not None
    assert sentence.startswith("torch.add in `inner` (Inner), test_rules.py:")


def test_a_value_that_the_first_fold_leaves_to_the_others_is_found_by_the_numbers():
    def caching(module: nn.Module, x: Tensor) -> Tensor:
        if module.cache is None:
            module.cache = x.detach().mean()
        return x + module.cache

    sentence = rule(toy(caching, cache=None))
    assert sentence is not None
    assert " in `inner` (Inner), test_rules.py:" in sentence
    assert "of fold 1 by" in sentence and "`inner.cache`" in sentence


def test_a_model_that_writes_into_its_batch_is_refused():
    class Writing(Toy):
        Config = Config

        def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
            batch.inputs["gait"].mul_(0.5)
            return super().forward(batch, noise)

    batch = make_batch()
    before = batch.inputs["gait"].clone()
    sentence = rule(Writing(Inner(lambda m, x: x)), batch)
    assert sentence is not None
    assert sentence.startswith("torch.Tensor.mul_ in Writing, test_rules.py:")
    assert sentence.endswith("writes into `batch.inputs['gait']` in place")
    assert torch.equal(batch.inputs["gait"], before)


class NormOverTheStack(torch.autograd.Function):
    """Correct by itself; its rule for vmap takes one norm over all folds."""

    @staticmethod
    def forward(x):
        return x / x.norm()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient / x.norm()

    @staticmethod
    def vmap(info, in_dims, x):
        return x / x.norm(), in_dims[0]


class NoGradientInAStack(torch.autograd.Function):
    """The identity; its rule for vmap forgets the gradient."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def vmap(info, in_dims, x):
        return x.detach().clone(), in_dims[0]


def test_folds_that_a_norm_couples_are_found_by_their_numbers():
    sentence = rule(toy(lambda m, x: NormOverTheStack.apply(x)))
    assert sentence is not None
    assert sentence.startswith("torch.Tensor.norm in `inner` (Inner), test_rules.py:")
    assert "the loss of fold 0 by" in sentence


def test_a_gradient_that_differs_alone_is_named_by_its_parameter():
    sentence = rule(toy(lambda m, x: NoGradientInAStack.apply(x)))
    assert sentence is not None
    assert "the gradient of `enter.weight` of fold 0 by" in sentence


# What keeps the rules, and what is none of this check's business.


class Keyed(nn.Module):
    """Dropout from the noise, and another path without one."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = Dropout(0.3)

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        return torch.relu(x) if noise is None else self.drop(x, noise)


class Tied(nn.Module):
    """One parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.there = nn.Linear(WIDTH, WIDTH)
        self.back = nn.Linear(WIDTH, WIDTH)
        self.back.weight = self.there.weight

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        return self.back(torch.tanh(self.there(x)))


def topk(module: nn.Module, x: Tensor) -> Tensor:
    return x + x.topk(2, dim=1).values.sum(1, keepdim=True)


def recurrence(module: nn.Module, x: Tensor) -> Tensor:
    states = [torch.zeros_like(x[:, 0])]
    for step in x.unbind(1):
        states.append(torch.tanh(module.layer(torch.cat([step, states[-1]], dim=-1))))
    return torch.stack(states[1:], dim=1)


KEPT: dict[str, Toy] = {
    "nothing": toy(lambda m, x: x),
    "conv1d": toy(lambda m, x: m.layer(x.transpose(1, 2)).transpose(1, 2), layer=nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
    "a recurrence by hand": toy(recurrence, layer=nn.Linear(2 * WIDTH, WIDTH)),
    "einsum": toy(lambda m, x: torch.einsum("btd,bsd,bse->bte", x, x, x)),
    "topk": toy(topk),
    "gather": toy(lambda m, x: x.gather(1, (x > 0).long())),
    "masked_fill and where": toy(lambda m, x: torch.where(x > 0, x, x.masked_fill(x < 0, 0.1))),
    "layer norm": toy(lambda m, x: m.layer(x), layer=nn.LayerNorm(WIDTH)),
    "embedding": toy(lambda m, x: x + m.layer((x[..., 0] > 0).long()), layer=nn.Embedding(2, WIDTH)),
    "sort and cumsum": toy(lambda m, x: x.sort(1).values.cumsum(1)),
    "a buffer filled by columns": toy(lambda m, x: torch.empty_like(x).copy_(x)),
    "dropout that is off": toy(flat, layer=nn.Dropout(0.0)),
    "a constant in single precision": toy(lambda m, x: x @ m.basis, basis=torch.eye(WIDTH) + 1),
    "a counter that nobody reads": toy(lambda m, x: setattr(m, "calls", m.calls + 1) or x, calls=0),
    "noise, and a way without": Toy(Keyed()),
    "a tied parameter": Toy(Tied()),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_keeps_the_rules_is_not_refused(name):
    assert rule(KEPT[name]) is None


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("layer", "options"), [(nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})])
def test_gru_and_rnn_layers_keep_the_rules(layer, options, bidirectional):
    inner = layer(
        WIDTH, WIDTH // 2 if bidirectional else WIDTH, 2, batch_first=True, bidirectional=bidirectional, **options
    )
    assert rule(toy(lambda m, x: m.layer(x)[0], layer=inner)) is None


def test_a_models_own_mistake_is_raised():
    def mistaken(module: nn.Module, x: Tensor) -> Tensor:
        raise ValueError("expected four modalities")

    with pytest.raises(ValueError, match="expected four modalities"):
        rule(toy(mistaken))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        rule(toy(lambda m, x: x @ torch.ones(WIDTH + 1, 2, dtype=x.dtype)))
    reentrant = toy(lambda m, x: checkpoint(m.layer, x, use_reentrant=True), layer=nn.Linear(WIDTH, WIDTH))
    with pytest.raises(RuntimeError, match="checkpoint is incompatible"):
        rule(reentrant)


def test_a_model_of_one_precision_alone_is_refused_rather_than_broken():
    model = toy(lambda m, x: x @ torch.eye(WIDTH))
    sentence = rule(model)
    assert sentence is not None
    assert sentence.startswith("forward: fails in float64")
    assert trains_in_the_loop(model)


@pytest.mark.parametrize("outer", ["error", "always"])
@pytest.mark.parametrize("operation", [fused_attention, numpys_mask, lambda m, x: F.dropout(x), topk])
def test_everything_is_left_as_it_was(operation, outer):
    model, batch = toy(operation), make_batch()
    weights, leaves = copy.deepcopy(model.state_dict()), [leaf.clone() for leaf in pytree.tree_leaves(batch)]
    states = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter(outer)
        rule(model, batch)
    assert heard == []
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1][0])
    assert (np.random.get_state()[2], random.getstate()) == (states[1][1], states[2])
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())
    assert all(torch.equal(leaf, weights[name]) for name, leaf in model.state_dict().items())
    assert all(torch.equal(leaf, was) for leaf, was in zip(pytree.tree_leaves(batch), leaves, strict=True))


def test_a_caller_may_be_without_gradients():
    with torch.no_grad():
        assert rule(toy(topk)) is None
        assert not torch.is_grad_enabled()


def test_the_answer_is_one_of_the_model_and_not_of_the_day():
    model = toy(fused_attention)
    assert rule(model) == rule(model)


def test_a_check_is_cheap():
    model = toy(topk)
    rule(model)
    start = time.process_time()
    rule(model)
    assert time.process_time() - start < 0.5
