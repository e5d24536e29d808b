"""The file that a study's trials are kept in: it survives a kill at any moment, and nobody waits for a dead process."""

from __future__ import annotations

import fcntl
import os
from json import JSONDecodeError
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fusion_lab.contracts import DataError


class FileLock:
    """A lock that goes with its process, however it ends; Optuna's own is left behind by a kill and waited for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: int | None = None

    def acquire(self) -> bool:
        """Waits until the lock is free."""
        self._held = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        assert self._held is not None, "released without being held"
        os.close(self._held)
        self._held = None


def open_study(path: Path, name: str, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """The study kept in the journal at ``path``, begun where there is none; higher values are better.

    Raises:
        DataError: the file is no journal.
    """
    lock = FileLock(path.with_suffix(".lock"))
    _drop_half_line(path, lock)
    backend = JournalFileBackend(str(path), lock)  # ty: ignore[invalid-argument-type] - its base class is private
    try:
        storage = JournalStorage(backend)
        return optuna.create_study(
            study_name=name, storage=storage, direction="maximize", pruner=pruner, load_if_exists=True
        )
    except JSONDecodeError as error:
        raise DataError(f"{path}: expected a study's journal, found a line that is no JSON ({error})") from None


def _drop_half_line(path: Path, lock: FileLock) -> None:
    """Cuts off what a killed process, or a full disk, left of its last line: nothing could be written behind it."""
    lock.acquire()
    try:
        if path.exists():
            text = path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                os.truncate(path, whole)
    finally:
        lock.release()
