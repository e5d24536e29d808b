"""Opening HDF5 files: one that would keep libhdf5 busy for ever is refused first."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from fusion_lab.contracts import DataError

_HEAP = b"GCOL\x01\0\0\0"
"""How a global heap begins, in which a file's texts of any length lie (HDF5 file format specification 3.0, III.E)."""


def open_hdf5(path: Path) -> h5py.File:
    """A file to read from; closing it is the caller's business.

    Raises:
        DataError: its texts are damaged in such a way that reading them would never end.
        OSError: it cannot be read, or is no HDF5 file.
    """
    if path.stat().st_size:
        _check_heaps(path)
    return h5py.File(path, "r")


def _check_heaps(path: Path) -> None:
    """Walks through the texts of a file as HDF5 does, which walks on for ever where a damaged one has no length.

    Raises:
        DataError: there is such a text.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_HEAP)
        while at >= 0:
            if not _ends(content, at):
                raise DataError(f"{path}: expected a readable HDF5 file, found damaged texts from byte {at} on")
            at = content.find(_HEAP, at + len(_HEAP))


def _ends(content: mmap.mmap, start: int) -> bool:
    """Whether the objects of a heap lie in it, one behind the other. Each begins with 16 bytes, of which the first two
    are its number, 0 of the space that is left, and the last eight its length, of that space with the 16 bytes.
    """
    if start + 16 > len(content):
        return True
    (length,) = struct.unpack_from("<Q", content, start + 8)
    end, at = start + length, start + 16
    while at + 16 <= min(end, len(content)):
        number, size = struct.unpack_from("<H6xQ", content, at)
        step = 16 + (size + 7) // 8 * 8 if number else size
        if not 0 < step <= end - at:
            return False
        at += step
    return True


def longest_text(dataset: h5py.Dataset) -> int:
    """Bytes of the longest text in a data set of texts of any length, as the file tells them; 0 where it does not show.

    The library makes room for a text before it looks for it, 4 GB where a damaged one says so. What is compressed does
    not show; damage to it shows by itself.
    """
    references: list[np.ndarray] = [np.frombuffer(block, np.uint8).view(_REFERENCE) for block in _stored(dataset)]
    return max((int(part["length"].max()) for part in references if len(part)), default=0)


_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
"""How a text of any length stands in its data set: its length, and where it lies (specification 3.0, IV.B, of offsets
of eight bytes)."""


def _stored(dataset: h5py.Dataset) -> Iterator[bytes]:
    """The values as they lie in the file, where they are not compressed; whole references alone."""
    stored = dataset.id
    if stored.get_create_plist().get_nfilters():
        return
    if dataset.chunks is None:
        places = [(stored.get_offset(), stored.get_storage_size())]
    else:
        chunks = (stored.get_chunk_info(number) for number in range(stored.get_num_chunks()))
        places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    with open(dataset.file.filename, "rb") as file:
        for offset, size in places:
            if offset is not None:  # small ones lie elsewhere
                file.seek(offset)
                found = file.read(min(size, _REFERENCE.itemsize * dataset.size if dataset.chunks is None else size))
                yield found[: len(found) // _REFERENCE.itemsize * _REFERENCE.itemsize]
