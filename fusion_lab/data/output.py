"""Writing into a folder of one's own: nobody else at the same time, nothing half-written under its last name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusion_lab.contracts import DataError

PART = ".part"
"""How the name of a file ends while it is written."""


@contextmanager
def alone(output: Path) -> Generator[None]:
    """Makes the folder and holds it; another prepare there is refused. The lock goes with the process.

    Raises:
        DataError: the folder cannot be made, or another process holds it.
    """
    with writable(output):
        output.mkdir(parents=True, exist_ok=True)
        folder = os.open(output, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network drive that locks no folder
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"{output}: expected nobody else to write there, found another prepare at it") from None
        yield
    finally:
        os.close(folder)


@contextmanager
def written(path: Path) -> Generator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` when all is written, and else is removed.

    Raises:
        DataError: there is no room, or no right to write there.
    """
    half = path.with_name(path.name + PART)
    with writable(path):
        try:
            yield half
            os.replace(half, path)
        finally:
            half.unlink(missing_ok=True)


@contextmanager
def writable(path: Path) -> Generator[None]:
    """What the system says against writing, such as that the disk is full, as one line."""
    try:
        yield
    except OSError as error:
        found = error.strerror or "room for a part of it"  # NumPy's answer to a disk that is full
        raise DataError(f"{path}: expected a place with room to write, found: {found}") from None


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or folder, be it there or not.

    >>> same_place(Path("a/../b"), Path("b/."))
    True
    """
    return os.path.realpath(one) == os.path.realpath(other)
