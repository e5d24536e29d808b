"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fusion_lab.contracts import UserError


@contextmanager
def locked(folder: Path, what: str) -> Generator[None]:
    """Makes the folder and holds it; a second process is refused. The lock goes with the process, however it ends.

    Raises:
        UserError: the folder cannot be made, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: expected a folder for the {what}, found: {error.strerror}") from None
    with open(folder / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UserError(f"{what}: expected to be the only one running it, found process {holder} at it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
