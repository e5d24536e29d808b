"""A terminal for a process under test: what it was sent, and what stands on its screen."""

from __future__ import annotations

import codecs
import os
import re
import select
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field

from jobs_stage import PROJECT, SECONDS

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
LINES = 30
READY = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal the one whose Ctrl-C reaches the process."""


@dataclass
class Screen:
    """What a terminal shows of what it was sent: the codes that are in use here, and no others."""

    columns: int
    lines: list[list[str]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    cursor: bool = True
    cut: str = ""  # the beginning of a code whose end was not read yet

    def feed(self, text: str) -> None:
        text = self.cut + text
        self.cut = found[0] if (found := re.search(r"\x1b(\[[?\d;]*)?$", text)) else ""
        text = text.removesuffix(self.cut)
        for code, final, letter in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|([^\x1b])", text, flags=re.DOTALL):
            if letter:
                self._put(letter)
            else:
                self._obey(code, final)

    @property
    def text(self) -> list[str]:
        shown = ["".join(line).rstrip() for line in self.lines]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self._down()
        else:
            assert letter.isprintable(), repr(letter)
            if self.column >= self.columns:
                self._down()
                self.column = 0
            line = self.lines[self.row]
            line += [" "] * (self.column + 1 - len(line))
            line[self.column] = letter
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])

    def _obey(self, code: str, final: str) -> None:
        if final == "A":
            self.row = max(0, self.row - int(code or 1))
        elif final == "K" and code == "2":
            self.lines[self.row] = []
        elif final in "hl" and code == "?25":
            self.cursor = final == "h"
        else:
            assert final == "m", f"a code that this screen does not know: {code}{final}"


class Terminal:
    """A process at a terminal of its own, killed at the end of the context; typed keys are not echoed."""

    def __init__(self, command: list[str], columns: int = 100, **environment: str) -> None:
        self.master, slave = os.openpty()
        termios.tcsetwinsize(slave, (LINES, columns))
        modes = termios.tcgetattr(slave)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
        env = {**kept, "PYTHONPATH": paths, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", READY, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.sent = ""
        self.screen = Screen(columns)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def read(self) -> bool:
        """Takes in what was written, waiting for some; False once there will be no more."""
        assert select.select([self.master], [], [], SECONDS)[0], ("nothing was written", self.screen.text)
        try:
            new = os.read(self.master, 2**16)
        except OSError:  # the other end was closed
            return False
        text = self._decoder.decode(new)
        self.sent += text
        self.screen.feed(text)
        return bool(new)

    def until(self, *shown: str) -> None:
        """Waits until all of this stands on the screen."""
        start = time.monotonic()
        while not all(text in "\n".join(self.screen.text) for text in shown):
            assert self.read() and time.monotonic() - start < SECONDS, (shown, self.screen.text)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def resize(self, columns: int) -> None:
        termios.tcsetwinsize(self.master, (LINES, columns))
        self.screen.columns = columns

    def end(self) -> int:
        """Waits for the end of the process; its exit code."""
        while self.read():
            pass
        return self.process.wait(timeout=SECONDS)

    def check_clean(self) -> None:
        """The cursor is there and nothing that changes is left."""
        assert self.screen.cursor and self.sent.rindex(SHOW) > self.sent.rindex(HIDE)
        assert not [line for line in self.screen.text if "epochs" in line or "━" in line]
