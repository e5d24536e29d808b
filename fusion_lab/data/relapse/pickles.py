"""Pickles of arrays and plain Python values, read without running anything that they name.

A pickle is a program: it names functions and says what they are called with. Here no name is ever looked up. The few
that NumPy's own pickles hold stand for functions of this module, which make arrays of numbers and text out of bytes and
nothing else; any other name is refused before anything is called. Not even NumPy's own functions will do: what its
types are told in a pickle they believe, so that a made-up type can point anywhere into memory. What is left to a file
that means harm is to ask for more memory than there is.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.words import clipped, first_line

_KIND = re.compile(r"b1|[iu][1248]|f[248]|[SU][0-9]+")
"""Types of numbers, truth values and text, as NumPy's pickles call them."""
_FAULTS = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError, ValueError),
    *(OverflowError, MemoryError, RecursionError, NotImplementedError),
)
"""What Python answers a damaged pickle with."""


class RefusedError(Exception):
    """Something that is not to be read, in words that follow "found"."""


class Array:
    """An array in the making: what a pickle calls ``_reconstruct`` for, and then tells what is in it."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("an array without its contents")
        _, shape, kind, by_column, raw = state
        self.array = _filled(raw, kind, shape, "F" if by_column else "C")


class _Type:
    """A type of numbers or text."""

    __slots__ = ("dtype",)

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or not _KIND.fullmatch(name):
            raise RefusedError(f"an array of type {clipped(repr(name))}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise RefusedError("a type of no known form")
        if any(part is not None for part in state[2:5]):
            raise RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Call:
    """A function that a pickle may call, and can change nothing of."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., object]) -> None:
        self._run = run

    def __call__(self, *arguments: object) -> object:
        return self._run(*arguments)

    def __setstate__(self, state: object) -> None:
        raise RefusedError("a function that is to be changed")


def _filled(raw: object, kind: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(raw, bytes | bytearray):
        raise RefusedError("an array of Python objects")
    given = shape if isinstance(shape, tuple) else (shape,)
    sizes = [size for size in given if type(size) is int and size >= 0]
    if len(sizes) < len(given) or order not in ("C", "F"):
        raise RefusedError("an array of no known shape")
    if prod(sizes) * kind.dtype.itemsize != len(raw):
        raise RefusedError(f"{len(raw)} bytes of an array of shape {clipped(tuple(sizes))} and type {kind.dtype}")
    return np.ndarray(sizes, kind.dtype, bytes(raw), order="F" if order == "F" else "C")


def _never(*_: object) -> object:
    raise RefusedError("a call of numpy.ndarray, which is not made")


def _begun(what: object, *_: object) -> Array:
    return Array()


def _from_buffer(raw: object, kind: object, shape: object, order: object = "C") -> Array:
    return Array(_filled(raw, kind, shape, order))


def _scalar(kind: object, raw: object) -> Array:
    return Array(_filled(raw, kind, (), "C"))


def _type(name: object, *_: object) -> _Type:
    return _Type(name)


_KNOWN: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _never,  # a pickle only says that this is what an array is
    ("numpy", "dtype"): _type,
    ("numpy.core.multiarray", "_reconstruct"): _begun,
    ("numpy._core.multiarray", "_reconstruct"): _begun,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}
"""All names that are read, of NumPy before and since 2.0."""


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _KNOWN:
            raise RefusedError(f"{clipped(f'{module_name}.{global_name}')}, which is not loaded")
        return _Call(_KNOWN[module_name, global_name])


def read_pickle(path: Path) -> object:
    """What a pickle holds: plain Python values, and every array or number of NumPy's as an :class:`Array`.

    Raises:
        DataError: it names anything else than NumPy's arrays, types and numbers; or it is damaged or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return _Reader(stream).load()
    except RefusedError as refused:
        raise DataError(f"{path}: expected arrays of numbers and plain Python values, found {refused}") from None
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, found: {error.strerror}") from None
    except _FAULTS as error:
        raise DataError(f"{path}: expected a readable pickle, found: {clipped(first_line(error))}") from None


def plain(value: object) -> Any:
    """A value of a pickle as it is used: an array as NumPy's, one of no dimension as Python's number or text."""
    if isinstance(value, Array):
        if value.array is None:
            raise RefusedError("an array without its contents")
        return value.array if value.array.ndim else value.array.item()
    return value
