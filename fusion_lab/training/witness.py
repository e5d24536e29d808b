"""Who called what: names the function of PyTorch's, the module and the line behind an error, a warning or a number."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType, TracebackType
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

_TORCH = str(Path(torch.__file__).parent)
_CHECKPOINT = "torch.utils.checkpoint"


class Call(NamedTuple):
    """A function of PyTorch's, where in the model it was called, and what PyTorch said of it."""

    function: str
    where: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.function} {self.where}"


def class_name(module: nn.Module) -> str:
    """PyTorch's public name of a class of PyTorch's, the bare name of any other.

    >>> class_name(nn.LSTM(1, 1))
    'torch.nn.LSTM'
    """
    kind = type(module)
    return f"torch.nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__


def aten_name(message: str) -> str:
    """The first operation that a message of PyTorch's names, "" where it names none.

    >>> aten_name("Attempted to vmap over aten::nonzero. Please file an issue")
    'aten::nonzero'
    """
    found = re.search(r"aten::\w+", message)
    return found[0] if found else ""


class Places:
    """Tells from frames of Python, the outermost first, which module of a model is running and what it calls.

    ``others`` names further objects whose methods take part: ``{"the objective": objective}``.
    """

    def __init__(self, model: nn.Module, others: dict[str, object]) -> None:
        self.names = {id(m): f"`{n}` ({type(m).__name__})" if n else type(m).__name__ for n, m in model.named_modules()}
        self.names |= {id(value): name for name, value in others.items()}

    def here(self, function: str, message: str = "") -> Call:
        """The call that is running now."""
        return self.find(list(walk_stack(None))[::-1], function, message)

    def find(self, frames: list[tuple[FrameType, int]], function: str, message: str) -> Call:
        """The call that ``frames``, pairs with the number of a line, end in.

        ``function`` is its name where a :class:`Witness` knows it, else "": then it is read from the frames or from the
        message.
        """
        frames = [f for f in frames if _module(f[0]) not in (__name__, "warnings")]
        if any(_module(frame) == _CHECKPOINT for frame, _ in frames):
            function = f"{_CHECKPOINT}.checkpoint"
        running = [i for i, (frame, _) in enumerate(frames) if id(frame.f_locals.get("self")) in self.names]
        if not running:
            return Call(function or aten_name(message) or "torch.autograd.grad", "in the gradient", message)
        module = frames[running[-1]][0].f_locals["self"]
        written = [i for i, (frame, _) in enumerate(frames) if i >= running[0] and not _of_torch(frame)]
        line = f", {_line(*frames[written[-1]])}" if written else ""
        below = [frame for frame, _ in frames[max(running[-1], *written, 0) + 1 :]]
        function = function or _called(module, below) or aten_name(message) or "forward"
        return Call(function, f"in {self.names[id(module)]}{line}", message)


def _called(module: object, frames: list[FrameType]) -> str:
    """The first public function of PyTorch's among the frames below a module's own."""
    if isinstance(module, nn.Module) and class_name(module).startswith("torch.nn."):
        return class_name(module)
    names = [f"{_module(frame)}.{frame.f_code.co_qualname}" for frame in frames]
    return next((name for name in names if "._" not in name and "<" not in name), "")


def _line(frame: FrameType, number: int) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{number}"


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")


def _of_torch(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_TORCH)


class Witness(TorchFunctionMode):
    """Knows which of PyTorch's functions is running, and in which one an error was raised."""

    def __init__(self) -> None:
        super().__init__()
        self.running = ""
        self.failed: tuple[BaseException | None, str] = (None, "")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.running = _public(resolve_name(func) or "")
        try:
            result = func(*args, **(kwargs or {}))
            self.note(result)
            return result
        except Exception as error:
            if self.failed[0] is not error:
                self.failed = error, self.running
            raise
        finally:
            self.running = ""

    def note(self, result: Any) -> None:
        """Called with what each function gave."""


def _public(name: str) -> str:
    return name.replace("torch.functional.", "torch.").removesuffix(".__get__")


class Listener:
    """Hears the first warning of a missing batching rule in its block, or the error that ends the block.

    The error goes no further: a block is listened to that is known to work without ``vmap``.
    """

    def __init__(self, places: Places, witness: Witness | None = None) -> None:
        self.places, self.witness = places, witness
        self.heard: Call | None = None
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> Listener:
        self._filters.__enter__()
        warnings.filterwarnings("always", message=".*batching rule.*")
        warnings.showwarning = self._hear  # ty: ignore[invalid-assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._filters.__exit__(kind, error, traceback)
        if isinstance(error, Exception) and self.heard is None:
            function = self.witness.failed[1] if self.witness and self.witness.failed[0] is error else ""
            self.heard = self.places.find(list(walk_tb(traceback)), function, str(error) or type(error).__name__)
        return isinstance(error, Exception)

    def _hear(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if self.heard is None:
            self.heard = self.places.here(self.witness.running if self.witness else "", str(message))


class Tracer(Witness):
    """Takes a fingerprint of what each function of PyTorch's gives, and a mark of what is watched.

    Args:
        watch: gives the mark.
        places: with ``at``, to tell which call number ``at`` is.
    """

    def __init__(
        self, watch: Callable[[], object] = lambda: None, places: Places | None = None, at: int | None = None
    ) -> None:
        super().__init__()
        self.watch, self.places, self.at = watch, places, at
        self.call: Call | None = None
        self.prints: list[Tensor] = []
        self.marks: list[object] = []

    def note(self, result: Any) -> None:
        if self.places is not None and len(self.prints) == self.at:
            self.call = self.places.here(self.running)
        uninitialised = "empty" in self.running
        self.prints.append(_fingerprint(() if uninitialised else result))
        self.marks.append(self.watch())


def _fingerprint(result: Any) -> Tensor:
    """One float64 for all tensors in a result: a change of values or of their order changes it."""
    total = torch.zeros((), dtype=torch.float64)
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor):
            flat = (leaf.abs() if leaf.is_complex() else leaf).detach().double().reshape(-1)
            total = total + (flat * torch.linspace(1, 2, len(flat)).to(flat)).sum().cpu()
    return total
