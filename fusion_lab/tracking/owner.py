"""Which process a run belongs to, so that a run whose process is gone can be recognised."""

from __future__ import annotations

import os
import socket
from pathlib import Path

OWNER = "fusion_lab.owner"
"""Tag of every run that is started or adopted: ``"host pid start"``."""

_PROC = Path("/proc")


def owner(pid: int | None = None) -> str:
    """``"host pid start"`` of a living process, this one by default."""
    pid = os.getpid() if pid is None else pid
    return f"{socket.gethostname()} {pid} {process_start(pid)}"


def process_start(pid: int) -> str | None:
    """When a process started (clock ticks since boot on Linux, ``"running"`` elsewhere); ``None`` if there is none.

    The field is number 22 of ``/proc/<pid>/stat`` (proc(5)), read after the command's name, which may hold blanks. A
    zombie counts as gone: it will not close its runs.

    >>> process_start(os.getpid()) is not None
    True
    """
    if not (_PROC / "self").exists():
        return "running" if _answers(pid) else None
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_gone(tag: str) -> bool:
    """True where the tag names a process of this host that no longer runs; False for other hosts and unread tags."""
    parts = tag.split(" ")
    if len(parts) != 3 or parts[0] != socket.gethostname() or not parts[1].isdecimal():
        return False
    return process_start(int(parts[1])) != parts[2]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
