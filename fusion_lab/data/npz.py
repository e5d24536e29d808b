"""Arrays of an NPZ file: nothing in it is ever unpickled, and its headers are read before its content."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fusion_lab.contracts import DataError

LARGEST_COMPRESSION = 1100
"""Deflate shrinks by 1032 at most; beyond that a damaged header would fill the memory."""

_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, KeyError),
    *(ValueError, TypeError, SyntaxError, TokenError, OverflowError, MemoryError),
)
"""What Python's zip reader and NumPy's header reader answer a damaged file with."""
_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def npz_names(path: Path) -> list[str]:
    """Names of the arrays.

    Raises:
        DataError: the file cannot be read.
    """
    with _opened(path) as file:
        return _names(file)


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array.

    Raises:
        DataError: the file cannot be read, or an array holds Python objects.
    """
    with _opened(path) as file:
        return {name: _header(path, file, name)[0] for name in _names(file)}


def npz_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names: numbers, truth values or text; 16-bit numbers become 32-bit ones.

    Raises:
        DataError: there is no such array, it holds anything else, or the file cannot be read.
    """
    with _opened(path) as file:
        return {name: _array(path, file, name) for name in names}


@contextmanager
def _opened(path: Path) -> Generator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except DataError:
        raise
    except _FAULTS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path}: expected a readable NPZ file, found: {lines[0]}") from None


def _names(file: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]


def _header(path: Path, file: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with file.open(f"{name}.npy") as stream:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise DataError(f"{path}: array {name!r}: expected numbers or text, found a record")
        shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise DataError(
            f"{path}: array {name!r}: expected numbers or text, found Python objects, which are never unpickled "
            "(save text as an array of type str)"
        )
    return shape, dtype


def _array(path: Path, file: zipfile.ZipFile, name: str) -> np.ndarray:
    shape, dtype = _header(path, file, name)
    if dtype.kind not in "biufUS":
        raise DataError(f"{path}: array {name!r}: expected numbers or text, found type {dtype}")
    size = dtype.itemsize * np.prod([float(n) for n in shape])
    if size > LARGEST_COMPRESSION * path.stat().st_size:
        raise DataError(f"{path}: array {name!r}: expected an array that fits the file, found shape {shape}")
    with file.open(f"{name}.npy") as stream:
        array = npy.read_array(stream, allow_pickle=False)
    return array.astype(np.float32) if array.dtype == np.float16 else array
