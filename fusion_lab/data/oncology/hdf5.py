"""Data sets at the root of an HDF5 file, whatever the file holds: no link is followed, no other file is opened."""

from __future__ import annotations

import difflib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.cells import listed
from fusion_lab.data.hdf5_files import open_hdf5
from fusion_lab.data.readers import clipped, first_line, hdf5_array, suggest

_FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""What h5py answers a damaged file with."""


class Hdf5:
    """An open file; ``names`` are those of its root that are text in one line, as all names are that are looked for."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        with _faults(path):  # h5py gives a name that is no UTF-8 as bytes
            self.names = [name for name in file if isinstance(name, str) and len(name.splitlines()) == 1]

    def place(self, name: str) -> str:
        """What errors call a data set."""
        return f"{self.path}: data set {clipped(name)!r}"

    def find(self, role: str, keys: Sequence[str], given: str | None, setting: str = "") -> str | None:
        """Name of the data set that is ``given``, or else of the first of ``keys`` that is there.

        Raises:
            DataError: there is none that is called as given; the nearest name is suggested.
        """
        if given is not None and given not in self.names:
            expected = f"expected a data set {given!r} ({role}: {setting})"
            raise DataError(f"{self.path}: {expected}, found none{suggest(given, self.names)}")
        return given if given is not None else next((key for key in keys if key in self.names), None)

    def require(self, role: str, keys: Sequence[str], given: str | None, setting: str) -> str:
        """As :meth:`find`, where there has to be one.

        Raises:
            DataError: there is none; all names are told, and one that looks misspelled.
        """
        found = self.find(role, keys, given, setting)
        if found is None:
            near = next((n for n in self.names if difflib.get_close_matches(n.lower(), keys, 1, 0.75)), None)
            hint = f" (is {near!r} meant? say so with {setting})" if near else f" (name it with {setting})"
            raise DataError(f"{self.path}: expected {role} ({', '.join(keys)}), found {self.content()}{hint}")
        return found

    def content(self) -> str:
        """The names at the root, for an error."""
        return listed(self.names) or "an empty file"

    def is_matrix(self, name: str, rows: int) -> bool:
        """Whether it is a data set of numbers with ``rows`` rows and two dimensions."""
        with _faults(self.path):
            if not isinstance(self._file.get(name, getlink=True), h5py.HardLink):
                return False
            node = self._file[name]
            return isinstance(node, h5py.Dataset) and node.ndim == 2 and len(node) == rows and node.dtype.kind in "iuf"

    def numbers(self, name: str, dims: Sequence[int] = (1,)) -> np.ndarray:
        """A data set of numbers or truth values.

        Raises:
            DataError: it is missing, a link, a group, text, of another number of dimensions or larger than the file.
        """
        array = self._array(name, dims)
        if array.dtype.kind not in "biuf":
            raise DataError(f"{self.place(name)}: expected numbers, found text")
        return array

    def texts(self, name: str) -> list[str]:
        """A data set of text, one per row, without blanks around it; whole numbers are taken for text.

        Raises:
            DataError: as of :meth:`numbers`; or a number is not whole.
        """
        array = self._array(name, (1,))
        if array.dtype.kind == "f":
            odd = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
            if len(odd):
                row = int(odd[0])
                raise DataError(
                    f"{self.place(name)}: row {row + 1}: expected text or a whole number, found {array[row]!s}"
                )
            return [str(int(value)) for value in array.tolist()]
        if array.dtype.kind == "b":
            raise DataError(f"{self.place(name)}: expected text or whole numbers, found truth values")
        return [str(value).strip() for value in array.tolist()]

    def attribute(self, name: str, of: str | None = None) -> tuple[str, ...]:
        """The texts of an attribute of the file, or of a data set; none where there is no such attribute.

        Raises:
            DataError: it holds anything else.
        """
        with _faults(self.path):
            attributes = self._file.attrs if of is None else self._dataset(of).attrs
            value: Any = attributes.get(name)
        if value is None:
            return ()
        values = value.ravel().tolist() if isinstance(value, np.ndarray) else [value]
        values = [v.decode("utf-8", errors="replace") if isinstance(v, bytes) else v for v in values]
        if not all(isinstance(v, str) and v.strip() for v in values):
            place = self.path if of is None else self.place(of)
            raise DataError(f"{place}: attribute {name!r}: expected text, found {clipped(value)}")
        return tuple(" ".join(v.split()) for v in values)

    def _dataset(self, name: str) -> h5py.Dataset:
        link = self._file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{self.path}: expected a data set {clipped(name)!r}, found a link, which is not followed")
        node = self._file[name]
        if not isinstance(node, h5py.Dataset):
            found = "a group" if isinstance(node, h5py.Group) else "a type"
            raise DataError(f"{self.path}: expected a data set {clipped(name)!r}, found {found}")
        if node.is_virtual or node.external:
            raise DataError(f"{self.place(name)}: expected its values in this file, found them in another one")
        if node.shape is None:
            raise DataError(f"{self.place(name)}: expected values, found none")
        return node

    def _array(self, name: str, dims: Sequence[int]) -> np.ndarray:
        with _faults(self.path):
            return hdf5_array(self.place(name), self._dataset(name), dims)


@contextmanager
def opened(path: Path) -> Generator[Hdf5]:
    """An HDF5 file, closed again at the end.

    Raises:
        DataError: the file is missing, no regular file, empty or damaged.
    """
    with _faults(path):
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no regular file" if path.exists() else "no such file"
            raise DataError(f"{path}: expected an HDF5 file, found {found}")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: expected an HDF5 file, found an empty one")
        file = open_hdf5(path)
    with file:
        yield Hdf5(path, file)


@contextmanager
def _faults(path: Path) -> Generator[None]:
    """Around calls of h5py alone, so that nobody else's fault is told as the file's."""
    try:
        yield
    except DataError:
        raise
    except _FAULTS as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise DataError(f"{path}: expected a readable HDF5 file, found: {found}") from None
