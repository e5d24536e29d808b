"""Work that one process at a time does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fusion_lab.contracts import UserError


@contextmanager
def locked(file: Path, what: str) -> Generator[None]:
    """Holds the file, which is made with its folder; a second process is refused. The lock goes with the process,
    however it ends.

    Raises:
        UserError: the file cannot be made, or another process holds it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        expected = f"{file.parent}: expected a folder for the {what} that can be written to"
        raise UserError(f"{expected}, found: {error.strerror}") from None
    with os.fdopen(descriptor, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock.read().strip() or "unknown"
            raise UserError(f"{what}: expected to be the only one running it, found process {holder} at it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
