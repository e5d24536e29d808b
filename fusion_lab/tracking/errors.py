"""What went wrong at the tracking store, told in one line."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fusion_lab.contracts import UserError
from fusion_lab.tracking.names import truncated

_FULL = {errno.ENOSPC: "no space left on the device", errno.EDQUOT: "the disk quota is used up"}


class StoreError(UserError):
    """The tracking store, or the place of its artifacts, cannot be used."""


def reason(error: BaseException) -> str:
    """Why, in one line: the system's own words where an operating system error lies underneath.

    >>> reason(OSError(errno.ENOSPC, "No space left on device"))
    'no space left on the device'
    """
    system = [e for e in _chain(error) if isinstance(e, OSError)]
    root = system[-1] if system else None
    if root is not None and (root.errno is not None or isinstance(root, TimeoutError)):
        return _FULL.get(root.errno or 0, root.strerror or str(root))
    text = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
    return "no space left on the device" if "disk is full" in text else truncated(text or type(error).__name__, 300)


@contextmanager
def told(what: str) -> Generator[None]:
    """Turns a failure of the store into a :class:`StoreError` that begins with ``what``."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError, ValueError) as error:
        # ImportError: a database's driver is imported late; ValueError: an address that is none
        raise StoreError(f"{what}, found: {reason(error)}") from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or step.__context__
