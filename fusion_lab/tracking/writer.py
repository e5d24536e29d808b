"""One background thread that writes to the store while training goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Writer:
    """Runs jobs one after the other, in the order given, in a thread of its own.

    A job's exception is raised once, in the caller's thread, at the next :meth:`check` or :meth:`flush`. Jobs still
    waiting when the interpreter ends are run before it does.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking")
        self._pending: deque[Future[None]] = deque()

    def put(self, job: Callable[[], None]) -> None:
        """Queues a job. Raises nothing, so that a run can be closed after a failure."""
        self._pending.append(self._pool.submit(job))

    def check(self) -> None:
        """Raises the oldest failure that was not raised yet."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def flush(self) -> None:
        """Waits until everything is written; raises the oldest failure."""
        while self._pending:
            wait([self._pending[0]])
            self._pending.popleft().result()

    def close(self) -> None:
        """Waits until everything is written, raising nothing, and ends the thread."""
        self._pool.shutdown(wait=True)
