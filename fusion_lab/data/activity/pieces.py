"""Text files in pieces of whole rows, and work on several pieces at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

BYTES_AT_ONCE = 1 << 21
"""Of a piece: enough for the calls that each column costs not to count, and few enough to stay in a cache."""

MOST_THREADS = 8
"""Files are read while nothing is trained, so the processors are free."""


def pieces(path: Path, quoting: bool) -> Iterator[bytes]:
    """The bytes of a text file in pieces that end with a row.

    Args:
        path: the file.
        quoting: whether a cell between quotes may go over several lines.
    """
    with path.open("rb") as stream:
        while begin := stream.read(BYTES_AT_ONCE):
            lines = [begin, stream.readline()]
            inside = quoting and sum(line.count(b'"') for line in lines) % 2
            while inside and (line := stream.readline()):
                lines.append(line)
                inside ^= line.count(b'"') % 2
            yield b"".join(lines)


def side_by_side(work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """What ``work`` gives for each item, in their order, from several threads; a few items are held at a time.

    All of it, not one by one: what is left half-way would leave threads behind.

    >>> side_by_side(abs, [-1, 2])
    [1, 2]
    """
    threads = min(MOST_THREADS, 1 + (os.cpu_count() or 1))  # one waits for Python's lock
    begun: deque[Future[B]] = deque()
    done: list[B] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > 2 * threads:
                    done.append(begun.popleft().result())
            return done + [future.result() for future in begun]
        finally:
            pool.shutdown(cancel_futures=True)
