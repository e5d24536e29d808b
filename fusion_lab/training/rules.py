"""Whether a model keeps the rules that let all folds train in one vectorised step, and which operation breaks one.

Three looks, the cheapest first: at the modules, at what PyTorch says while the folds run stacked, at the numbers of the
stacked folds beside those of the loop. Only where something is wrong is the run repeated before a witness, to name the
operation.
"""

from __future__ import annotations

import copy
import random
import re
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from fusion_lab.blocks.randomness import Noise, draw_noise, generator, key
from fusion_lab.contracts import Batch
from fusion_lab.objectives import Objective
from fusion_lab.training.leaves import Leaves
from fusion_lab.training.stack import Mode, Stack
from fusion_lab.training.witness import Call, Listener, Places, Tracer, Witness, aten_name, class_name
from fusion_lab.zoo import Model

_CLOSE = 1e-9


def broken_rule(model: Model, objective: Objective, batch: Batch, class_weights: Leaves) -> str | None:
    """One sentence on what keeps a model from being stacked over folds, the operation first; ``None`` where nothing
    does.

    The model, the tensors given and the global generators of PyTorch, NumPy and Python are left as they were.

    Args:
        model: any weights; each fold is tried with others near them.
        objective: what the model is trained for.
        batch: a few scaled rows with targets, leaves ``[K,B,...]``, K >= 2. Some operations are stackable at some
            shapes only: all sizes but K and B are to be those of training.
        class_weights: ``{task: [K,C]}``.

    Raises:
        Exception: the model's own mistakes, which it makes in the loop over folds too.
    """
    assert len(batch.weight) >= 2, "one fold is no stack"
    with _left_as_it_was(model):
        return _rule_of_modules(model) or _Folds(model, objective, batch, class_weights).broken_rule()


@contextmanager
def _left_as_it_was(model: Model) -> Generator[None, None, None]:
    """Gradients on and warnings off inside; what happens to the global generators is undone."""
    cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=cuda), torch.enable_grad():
            warnings.simplefilter("ignore")
            _seed_generators()
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def _seed_generators() -> None:
    """From a seed that no model has, so that one which sets a seed is seen to move the generator."""
    seed = key("rules") & 0x7FFFFFFF
    torch.random.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


# What the modules say of themselves.

_DRAWS = "draws from PyTorch's generator, whose stream depends on how many folds share a step"
_NOT_ATTRIBUTES = frozenset(vars(nn.Module()))


def _rule_of_modules(model: Model) -> str | None:
    for name, module in model.named_modules():
        what = f"{class_name(module)} `{name}`" if name else class_name(module)
        buffers = [buffer for buffer, _ in module.named_buffers(recurse=False)]
        if buffers:
            return f"{what}: keeps {', '.join(buffers)} in a buffer, a state that the folds of a stack would share"
        if isinstance(module, _BatchNorm):
            return f"{what}: its statistics run over all rows of a step, those that pad a shorter fold included"
        if isinstance(module, _DropoutNd) and module.p > 0:
            return f"{what}: {_DRAWS} (blocks.randomness.Dropout does not)"
        for attribute, value in _attributes(module):
            if not all(map(_copies, pytree.tree_leaves(value))):
                return f"{what}: keeps a tensor of an earlier forward in `{attribute}`"
    return _shared_memory(model)


def _shared_memory(model: Model) -> str | None:
    """One parameter under two names is fine (it is one leaf); two parameters that lie in one memory are not."""
    spans = sorted((*_addresses(p), name) for name, p in model.named_parameters() if p.numel())
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            return f"torch.nn.Parameter `{other}`: shares its memory with `{name}`, while in a stack each has its own"
    return None


def _addresses(t: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module holds besides parameters, buffers and modules."""
    return ((name, value) for name, value in vars(module).items() if name not in _NOT_ATTRIBUTES)


def _copies(leaf: object) -> bool:
    try:
        return not isinstance(leaf, Tensor) or copy.deepcopy(leaf) is not None
    except RuntimeError:  # it has a history, or it escaped from vmap
        return False


# What PyTorch says while the folds run.

_REASONS = {
    r"utils\.checkpoint": "runs its forward again in the backward pass, where the folds' axis is not known",
    r"dynamic shape|differently shaped": "gives a result whose shape depends on the data",
    r"\.item\(\)|control flow|annot access (data pointer|storage)|num_classes argument": "needs a value of a tensor in "
    "Python, and in a stack each fold has another",
    r"random": _DRAWS,
    r"inplace arithmetic|doesn't match the broadcast shape": "writes what differs between folds into a tensor that all "
    "folds share",
    r"setup_context|generate_vmap_rule": "is a torch.autograd.Function without a rule for vmap",
    r"saved tensor hooks": "needs saved tensor hooks, which torch.func does not have",
    r"Batch norm got a batched": "updates running statistics that all folds share",
    r"have escaped": "uses a tensor that an earlier forward left behind",
}


def _sentence(call: Call) -> str:
    said = f"{call.function}: {call.message}"
    unbatched = re.search(r"batching rule.*?(aten::\w+)", said, flags=re.IGNORECASE | re.DOTALL)
    if unbatched:
        return f"{call}: {unbatched[1]} has no batching rule, so that PyTorch runs it fold by fold or not at all"
    known = next((reason for pattern, reason in _REASONS.items() if re.search(pattern, said)), None)
    aten = f" ({aten_name(said)})" if aten_name(said) else ""
    return f"{call}: {known + aten if known else call.message.partition(chr(10))[0]}"


# What the numbers say.

Numbers = dict[str, Tensor]


def _copied(tree: Any, dtype: torch.dtype) -> Any:
    """Copies of all tensors, the floating-point ones of ``dtype``."""
    return pytree.tree_map(lambda leaf: leaf.clone().to(dtype if leaf.is_floating_point() else leaf.dtype), tree)


class _Inputs(NamedTuple):
    weights: Leaves
    batch: Batch
    noise: Tensor
    class_weights: Leaves

    def to(self, dtype: torch.dtype) -> _Inputs:
        return _copied(self, dtype)

    def fold(self, k: int) -> _Inputs:
        return pytree.tree_map(lambda leaf: leaf[k], self)


class _Folds:
    """A model's folds, stacked and in the loop, in the model's own precision and in float64."""

    def __init__(self, model: Model, objective: Objective, batch: Batch, class_weights: Leaves) -> None:
        self.model, self.objective = model, objective
        self.precision = next(model.parameters()).dtype
        folds, draws = len(batch.weight), self._stack("loop", self.precision).draws(_copied(batch, self.precision))
        _seed_generators()
        weights = {name: _nearby(name, p, folds) for name, p in model.named_parameters()}
        noise = torch.from_numpy(np.stack([draw_noise(draws, "rules", k) for k in range(folds)]))
        self.inputs = _Inputs(weights, batch, noise.to(batch.weight.device), class_weights)

    def broken_rule(self) -> str | None:
        """A sentence on the first thing found: a step that fails in float64, what PyTorch refuses to stack, what a step
        moves outside the model, numbers that are others in a second step or for the stacked folds, a tensor that the
        model keeps. ``None`` where there is nothing.
        """
        inputs, stack = self.inputs.to(torch.float64), self._stack("loop", torch.float64)
        outside, inside = _read(_outside(inputs)), _inside(stack.model)
        try:
            loop = [_numbers(stack, inputs) for _ in range(2)]
        except RuntimeError as error:
            return self._fails_in_double(error)
        moved, left = _changed(outside, _read(_outside(inputs))), _changed(inside, _inside(stack.model))
        stacked: list[Numbers] = []
        for dtype in dict.fromkeys((self.precision, torch.float64)):
            refused, stacked = self._stacked(dtype)
            if refused is not None:
                return _sentence(refused)
        return (
            self._moves(moved)
            or self._wanders(loop, left)
            or self._couples(loop[0], stacked, left)
            or _keeps_tensor(stack.model, left)
        )

    def _stack(self, mode: Mode, dtype: torch.dtype) -> Stack:
        """A stack of a copy: a state that the model keeps starts anew."""
        return Stack(_converted(copy.deepcopy(self.model), dtype), self.objective, mode)

    def _places(self, stack: Stack) -> Places:
        return Places(stack.model, {"the objective": self.objective})

    def _fails_in_double(self, error: RuntimeError) -> str:
        if self.precision == torch.float64:
            raise error
        _numbers(self._stack("loop", self.precision), self.inputs.to(self.precision))
        return f"forward: fails in float64, in which stacked folds are compared with the loop ({error})"

    def _stacked(self, dtype: torch.dtype) -> tuple[Call | None, list[Numbers]]:
        """What PyTorch has against stacked folds, and their numbers (in float64 two steps: one may spoil the next)."""
        heard, numbers = None, []
        # The witness comes second: where one looks, some modules of PyTorch take a slower way than they would.
        for witness in (None, Witness()):
            stack, inputs = self._stack("stacked", dtype), self.inputs.to(dtype)
            with Listener(self._places(stack), witness) as listener, witness or nullcontext():
                numbers = [_numbers(stack, inputs) for _ in range(2 if dtype == torch.float64 else 1)]
            heard = listener.heard or heard
            if heard is None:
                break
        return heard, numbers

    def _moves(self, moved: list[str]) -> str | None:
        """A sentence on what a step in the loop changed outside the model."""
        if not moved:
            return None
        name = moved[0]

        def first(training: bool) -> int | None:
            inputs = self.inputs.to(torch.float64).fold(0)
            tracer = Tracer(watch=_outside(inputs)[name])
            _seed_generators()
            before = tracer.watch()
            self._trace(self._stack("loop", torch.float64).model, inputs, training, tracer)
            return next((i for i, mark in enumerate(tracer.marks) if mark != before), None)

        call = self._locate(first)
        if name in _GENERATORS:
            call = call and call._replace(function=name)
            return f"{call or name}: moves a generator of the whole process, and all folds of a stack get one draw"
        return f"{call or 'forward'}: writes into `{name}` in place"

    def _wanders(self, loop: list[Numbers], left: list[str]) -> str | None:
        """A sentence on what differs between two steps with the same noise."""
        on_cpu = self.inputs.noise.device.type == "cpu"  # elsewhere sums may be taken in any order
        what = _first_apart(loop[0], loop[1], 0.0 if on_cpu else _CLOSE)
        if what is None:
            return None

        def first(training: bool) -> int | None:
            model, inputs = self._stack("loop", torch.float64).model, self.inputs.to(torch.float64).fold(0)
            return _first_index(*(self._trace(model, inputs, training, Tracer()) for _ in range(2)))

        call = self._locate(first) or "forward"
        return f"{call}: the first whose values are others in a second call with the same noise ({what}{_hint(left)})"

    def _couples(self, loop: Numbers, stacked: list[Numbers], left: list[str]) -> str | None:
        """A sentence on what differs between the stacked folds and the loop."""
        what = next(filter(None, (_first_apart(loop, numbers, _CLOSE) for numbers in stacked)), None)
        if what is None:
            return None

        def first(training: bool) -> int | None:
            inputs = self.inputs.to(torch.float64)
            alone, together = (self._stack("loop", torch.float64).model for _ in range(2))
            one_by_one = [self._trace(alone, inputs.fold(k), training, Tracer()) for k in range(len(inputs.noise))]
            at_once = vmap(lambda *parts: self._trace(together, _Inputs(*parts), training, Tracer()))(*inputs)
            shortest = min(map(len, one_by_one))  # a state can make a later fold go another way
            return _first_index(torch.stack([trace[:shortest] for trace in one_by_one]), at_once)

        call = self._locate(first) or "forward"
        return f"{call}: the first whose values are others for stacked folds than in the loop ({what}{_hint(left)})"

    def _locate(self, first: Callable[[bool], int | None]) -> Call | None:
        """The call at the place that ``first`` finds in the trace of training, else in that of evaluation."""
        for training in (True, False):
            stack = self._stack("loop", torch.float64)
            places = self._places(stack)
            with Listener(places):  # what is wrong is known: an error in a trace leaves it without a place
                place = first(training)
                if place is None:
                    continue
                tracer = Tracer(places=places, at=place)
                self._trace(stack.model, self.inputs.to(torch.float64).fold(0), training, tracer)
                return tracer.call
        return None

    @torch.no_grad()
    def _trace(self, model: Model, inputs: _Inputs, training: bool, tracer: Tracer) -> Tensor:
        """One fold's forward and objective; a number for each function of PyTorch's that is called, ``[n]``."""
        weights, batch, noise, class_weights = inputs
        with tracer:
            output = functional_call(model, weights, (batch.without_targets(), Noise(noise) if training else None))
            self.objective(output, batch, class_weights)
        return torch.stack(tracer.prints)


def _nearby(name: str, parameter: Tensor, folds: int) -> Tensor:
    """Weights ``[K,*shape]`` in float64, a little beside a parameter and in each fold elsewhere."""
    noise = generator("rules", name).standard_normal((folds, *parameter.shape))
    return parameter.detach().double() + 0.05 * torch.from_numpy(noise).to(parameter.device)


def _numbers(stack: Stack, inputs: _Inputs) -> Numbers:
    """All that a training step and an evaluation give, by name, leaves ``[K,...]``."""
    weights, batch, noise, class_weights = inputs
    parts = list(stack.gradients(weights, batch, noise, class_weights, [True] * len(noise)))
    losses = {"the loss": torch.cat([part.losses for part in parts])}
    answers = stack.answers(weights, batch)._asdict().items()
    outputs = {f"{kind} {name}": leaf for kind, leaves in answers for name, leaf in leaves.items()}
    gradients = {f"the gradient of `{n}`": torch.cat([part.gradients[n] for part in parts]) for n in weights}
    return losses | outputs | gradients


def _first_apart(one: Numbers, other: Numbers, close: float) -> str | None:
    """What differs, in which fold and by how much: the loss, an answer or a gradient."""
    for name, numbers in one.items():
        apart = ~_near(numbers, other[name], close).reshape(len(numbers), -1)
        if apart.any():
            fold = int(apart.any(1).int().argmax())
            by = (numbers.double() - other[name].double())[fold].abs().max()
            return f"{name} of fold {fold} by {by:.1e}"
    return None


def _first_index(one: Tensor, other: Tensor) -> int | None:
    """Place in the last axis where two traces part, ``[n]`` or ``[K,n]``: the end of the shorter one at the latest."""
    n = min(one.shape[-1], other.shape[-1])
    apart = ~_near(one[..., :n], other[..., :n], _CLOSE).reshape(-1, n).all(0)
    if apart.any():
        return int(apart.int().argmax())
    return n if one.shape[-1] != other.shape[-1] else None


def _near(one: Tensor, other: Tensor, close: float) -> Tensor:
    return torch.isclose(one, other, rtol=close, atol=close, equal_nan=True)


_GENERATORS: dict[str, Callable[[], object]] = {
    "numpy.random": lambda: [_mark(part) for part in np.random.get_state()],
    "random": random.getstate,
    "torch.random": lambda: _mark(torch.get_rng_state()),
}


def _outside(inputs: _Inputs) -> dict[str, Callable[[], object]]:
    """For all that a step must leave as it is, by name, what marks its state now."""
    leaves, _ = pytree.tree_flatten_with_path(inputs)
    return _GENERATORS | {pytree.keystr(path).lstrip("."): partial(_mark, leaf) for path, leaf in leaves}


def _read(marks: dict[str, Callable[[], object]]) -> dict[str, object]:
    return {name: mark() for name, mark in marks.items()}


def _inside(model: nn.Module) -> dict[str, object]:
    """A mark of every attribute of every module, by its qualified name."""
    return {f"{n}.{a}".lstrip("."): _mark(value) for n, m in model.named_modules() for a, value in _attributes(m)}


def _mark(value: Any) -> object:
    """What is equal for equal values; of an object of an unknown kind, its identity."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return _mark(value.get_state())
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return value
    leaves, structure = pytree.tree_flatten(value)
    return id(value) if structure.is_leaf() else tuple(map(_mark, leaves))


def _changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [name for name, mark in after.items() if name not in before or before[name] != mark]


def _hint(left: list[str]) -> str:
    return f"; forward changes {', '.join(f'`{name}`' for name in left)}" if left else ""


def _keeps_tensor(model: nn.Module, left: list[str]) -> str | None:
    for name, module in model.named_modules():
        for attribute, value in _attributes(module):
            qualified = f"{name}.{attribute}".lstrip(".")
            if qualified in left and any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
                return (
                    f"{class_name(module)}.forward: leaves a tensor behind in `{qualified}` (its place is Output.maps)"
                )
    return None


def _converted(model: Model, dtype: torch.dtype) -> Model:
    """The model with parameters of ``dtype``, and the constants too that it keeps as attributes."""

    def convert(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    for module in model.modules():
        for name, value in list(_attributes(module)):
            if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
                setattr(module, name, pytree.tree_map(convert, value))
    return model.to(dtype)
