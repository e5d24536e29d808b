"""The changing lines at the foot of a terminal: painted by rich, from a thread that looks four times a second."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fusion_lab.jobs.progress import Bar, Flow, Line, Part, Row, writable

SECONDS_BETWEEN_PAINTS = 0.25
WIDEST = 100  # columns: wider is harder to read, and a narrower window later folds longer lines over
GAP = "  "
SHORTEST_BAR, LONGEST_BAR = 6, 30
MOST_FLOW_LINES = 3
DONE, REST = "━", "─"
ASCII_DONE, ASCII_REST = "#", "-"
SHOW_CURSOR = "\x1b[?25h"


class Region:
    """A few rows below the lines that stay, until it is closed. ``rows`` is asked from a thread of the region's own.

    What this process prints otherwise, and what it and the processes it starts write to standard error, is shown above
    the region as lines.
    """

    def __init__(self, stream: TextIO, rows: Callable[[], list[Row]]) -> None:
        self._stream, self._rows = stream, rows
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_painting, name="progress", daemon=True)
        self._aside = Aside() if stream is sys.stdout else None
        self._painted: object = None
        self._text = Text()
        self._ascii = writable(DONE + REST, stream) != DONE + REST
        self._console = Console(
            file=stream,
            force_terminal=True,
            force_interactive=True,
            # rich itself would still write bold and dim; auto takes what the terminal can do
            color_system=None if os.environ.get("NO_COLOR") else "auto",
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._live = Live(
            console=self._console,
            get_renderable=lambda: Group(self._text),
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            redirect_stdout=stream is sys.stdout,
            redirect_stderr=False,
        )

    def start(self) -> None:
        """Hides the cursor and shows the rows."""
        if self._aside is not None:
            self._aside.start()
        self._live.start()
        self.paint()
        self._thread.start()

    def close(self) -> None:
        """Takes the rows away, shows the cursor, gives standard error back."""
        self._ended.set()
        try:
            if self._thread.is_alive():
                self._thread.join()
            self._rows = list  # none: rich would write rows out at its end that the terminal is too low for
            self.paint()
            self._live.stop()
        finally:
            # once more, by itself: whoever is impatient presses Ctrl-C twice, the second time in the midst of the above
            self._stream.write(SHOW_CURSOR)
            self._stream.flush()
            if self._aside is not None:
                self._aside.stop()

    def line(self, text: str) -> None:
        """Lines above the rows, which stay. The terminal breaks those that are too long."""
        with self._lock:
            self._console.print(Text(writable(text, self._stream)), soft_wrap=True)

    def paint(self) -> None:
        """Shows the rows as they are now, if they are others than those that stand there."""
        with self._lock:
            self._console.size = size = terminal_size(self._stream)
            for text in self._aside.lines() if self._aside is not None else []:
                self.line(text)
            self._text = laid_out(self._rows(), min(size[0] - 1, WIDEST), self._ascii)
            painted = self._text.markup, size
            if painted != self._painted:
                self._painted = painted
                self._live.refresh()

    def _keep_painting(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_PAINTS):
            self.paint()


class Aside:
    """Standard error, while it is a terminal, written to a file without a name and read from there.

    A file takes what a process writes that outlives us, where a pipe would end it. Should this process crash, Python's
    own account of it goes to the terminal.
    """

    def __init__(self) -> None:
        self._terminal: int | None = None
        self._file = -1
        self._read = 0
        self._rest = b""
        self._told_of_crashes = False

    def start(self) -> None:
        """From now on; does nothing where standard error is no terminal or no file can be made."""
        if not os.isatty(2):
            return
        with suppress(OSError), tempfile.TemporaryFile() as file:
            sys.stderr.flush()
            self._file, self._terminal = os.dup(file.fileno()), os.dup(2)
            os.dup2(self._file, 2)
            if not faulthandler.is_enabled():
                faulthandler.enable(self._terminal)
                self._told_of_crashes = True

    def lines(self) -> list[str]:
        """The whole lines that were written since, as a terminal would show them: what follows a carriage return
        stands over what was before it.
        """
        if self._terminal is None:
            return []
        # by its own place in the file: the processes that write share another
        *whole, self._rest = (self._rest + self._new()).split(b"\n")
        texts = [line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace") for line in whole]
        return [text for text in texts if text.strip()]

    def stop(self) -> None:
        """Gives standard error back, and to it what nobody has read."""
        if self._terminal is None:
            return
        sys.stderr.flush()
        if self._told_of_crashes:
            faulthandler.disable()
        os.dup2(self._terminal, 2)
        rest = self._rest + self._new()
        if rest:
            os.write(2, rest)
        os.close(self._file)
        os.close(self._terminal)
        self._terminal = None

    def _new(self) -> bytes:
        found = os.pread(self._file, os.fstat(self._file).st_size - self._read, self._read)
        self._read += len(found)
        return found


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal behind ``stream`` as it is now, whatever COLUMNS says; 80 by 24 where unknown.

    rich would ask standard input first.
    """
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        columns, lines = 0, 0
    return columns or 80, lines or 24


def laid_out(rows: Sequence[Row], width: int, ascii_only: bool = False) -> Text:
    """The rows as text of which no line is wider than ``width`` cells."""
    lines: list[Text] = []
    for row in rows:
        lines += _flow(row, width) if isinstance(row, Flow) else [_line(row, width, ascii_only)]
    for line in lines:
        line.truncate(max(width, 1))
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines)


def _line(row: Line, width: int, ascii_only: bool) -> Text:
    """Parts from the left as long as they fit, the first in any case; the bar, if there is room for one then."""
    kept: list[Part | Bar] = []
    room = width + len(GAP)
    for part in row.parts:
        size = 0 if isinstance(part, Bar) else cell_len(_flat(part.text)) + len(GAP)
        if size > room and kept:
            break
        if isinstance(part, Bar) or part.text:
            kept.append(part)
            room -= size
    size = min(room - len(GAP), LONGEST_BAR)
    shown = [part for part in kept if isinstance(part, Part) or size >= SHORTEST_BAR]
    return Text(GAP).join(
        _bar(part, size, ascii_only) if isinstance(part, Bar) else Text(_flat(part.text), part.style) for part in shown
    )


def _bar(bar: Bar, size: int, ascii_only: bool) -> Text:
    full = round(size * min(max(bar.done / bar.total, 0.0), 1.0)) if bar.total > 0 else 0
    done, rest = (ASCII_DONE, ASCII_REST) if ascii_only else (DONE, REST)
    return Text.assemble((done * full, "cyan"), (rest * (size - full), "dim"))


def _flow(row: Flow, width: int) -> list[Text]:
    """The cells after their head, in as many lines as they need, at most three."""
    lines = [Text(row.head)]
    for part in row.cells:
        cell = Text(GAP).append(_flat(part.text), part.style)
        if lines[-1].cell_len + cell.cell_len > width:
            lines.append(Text())
        lines[-1].append_text(cell)
    return lines[:MOST_FLOW_LINES]


def _flat(text: str) -> str:
    return " ".join(text.split())
