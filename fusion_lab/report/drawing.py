"""Figures drawn by a process of their own, so that drawing takes nothing from training.

Matplotlib takes a fifth of a second for a figure and holds the interpreter all the while; a search draws two or more
for every trial. Requests and answers go through pipes as a length and as many bytes: JSON there, a PNG back. The
process ends when its input does, however its owner ended.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from fusion_lab.report.attention import summary_of
from fusion_lab.report.attention_picture import attention_png
from fusion_lab.report.calibration import calibration_png
from fusion_lab.report.confidence import confidence_png
from fusion_lab.report.curves import curves_png
from fusion_lab.report.subsets import subsets_png
from fusion_lab.training.results import FoldResult

Draw = Callable[[str, Mapping[str, Any]], bytes]
LENGTH = struct.Struct(">Q")
NICE = 10  # training comes first where processors are few


def draw_curves(payload: Mapping[str, Any]) -> bytes:
    """The PNG of what :func:`fusion_lab.report.curves.curves_dict` gave."""
    return curves_png([_fold(plain) for plain in payload["folds"]])


def _fold(plain: Mapping[str, Any]) -> FoldResult:
    facts: dict[str, Any] = {name: plain[name] for name in ("fold", "name", "best_epoch", "epochs", "ending")}
    return FoldResult(**facts, history=tuple(plain["history"]), weights={})


def draw_attention(payload: Mapping[str, Any]) -> bytes:
    """The PNG of what :func:`fusion_lab.report.attention.attention_dict` gave."""
    return attention_png(summary_of(payload))


DRAWERS: dict[str, Callable[[Mapping[str, Any]], bytes]] = {
    "curves": draw_curves,
    "attention": draw_attention,
    "calibration": calibration_png,
    "confidence": confidence_png,
    "subsets": subsets_png,
}


def draw_here(kind: str, payload: Mapping[str, Any]) -> bytes:
    """Draws in this process."""
    return DRAWERS[kind](payload)


class DrawingProcess:
    """A process that draws for this one; a context manager. Started by the first figure, for use by one thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def draw(self, kind: str, payload: Mapping[str, Any]) -> bytes:
        """The figure's PNG. Where the process has ended, by whatever cause, the figure is drawn here."""
        if self._process is None:
            command = [sys.executable, "-m", "fusion_lab.report.drawing"]
            # a session of its own: Ctrl-C is for the owner, who still wants the figures of what is finished
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, json.dumps([kind, payload]).encode())
            return _receive(self._process.stdout)
        except (OSError, EOFError, ValueError):  # ValueError: a pipe that was closed meanwhile
            return draw_here(kind, payload)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.close()
            self._process.wait(timeout=30)
            self._process = None

    def __enter__(self) -> DrawingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    """Draws what standard input asks for until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    while True:
        try:
            kind, payload = json.loads(_receive(sys.stdin.buffer))
        except EOFError:
            return
        _send(sys.stdout.buffer, draw_here(kind, payload))


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(LENGTH.pack(len(content)) + content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    (length,) = LENGTH.unpack(_exactly(pipe, LENGTH.size))
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    content = pipe.read(count)
    if len(content) < count:
        raise EOFError
    return content


if __name__ == "__main__":
    main()
