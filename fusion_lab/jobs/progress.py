"""What a person sees while a job works: changing lines at the foot of a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NamedTuple, TextIO

from fusion_lab.training import CONTINUE, Decision, Evaluation

if TYPE_CHECKING:
    from fusion_lab.jobs.terminal import Region

SECONDS_BETWEEN_LINES = 15.0
FOLDS_SHOWN = 12
CONTROLS = {code: " " for code in [*range(32), *range(127, 160)] if chr(code) != "\n"}
"""Characters that would move the cursor, or do worse: names and messages may come from a user's files."""


class Part(NamedTuple):
    """A few words of a row; ``style`` is one of rich's."""

    text: str
    style: str = ""


class Bar(NamedTuple):
    """How much of something is done."""

    done: float
    total: float


class Line(NamedTuple):
    """One row, the more important parts first: the last go where the terminal is narrow. A bar takes what is left."""

    parts: tuple[Part | Bar, ...]


class Flow(NamedTuple):
    """Cells that take as many rows as they need, within bounds."""

    head: str
    cells: tuple[Part, ...]


Row = Line | Flow


@dataclass(frozen=True)
class _Study:
    """Where a study stands; ``left`` in seconds, at the time ``at``."""

    done: int
    total: int
    best: str
    beside: str
    left: float | None
    at: float


class _Words(NamedTuple):
    text: str

    def told(self, now: float) -> str:
        return self.text

    def rows(self, now: float) -> list[Row]:
        return [Line((Part(self.text),))]


@dataclass(frozen=True)
class _Step:
    """Some long work of which it is known how much there is."""

    what: str
    done: int
    total: int
    start: float
    at: float

    def left(self, now: float) -> str:
        if not 0 < self.done < self.total:
            return ""
        rest = (self.at - self.start) / self.done * (self.total - self.done) - (now - self.at)
        return f"about {duration(max(rest, 0.0))} left"

    def told(self, now: float) -> str:
        return "  ".join(filter(None, [self.what, f"{self.done}/{self.total}", self.left(now)]))

    def rows(self, now: float) -> list[Row]:
        parts = Part(self.what), Bar(self.done, self.total), Part(f"{self.done}/{self.total}"), Part(self.left(now))
        return [Line(parts)]


@dataclass(frozen=True)
class _Training:
    """All folds of one configuration, as they were at the time ``at``."""

    what: str
    evaluation: Evaluation
    at: float
    score: str = "score"

    def left(self, now: float) -> float:
        """Seconds, if every fold goes on to the last epoch."""
        seen = self.evaluation
        return max(0.0, seen.seconds / seen.epoch * (seen.epochs - seen.epoch) - (now - self.at))

    def told(self, now: float) -> str:
        seen = self.evaluation
        epoch, score = f"epoch {seen.epoch}/{seen.epochs}", f"{self.score} {seen.value:.3f}"
        folds = f"folds {shown(seen.fold_scores)} ({len(seen.running)} running)"
        return f"{self.what}  {epoch}  {score}  {folds}  at most {duration(self.left(now))} left"

    def rows(self, now: float) -> list[Row]:
        seen = self.evaluation
        bar, epoch = Bar(seen.epoch, seen.epochs), Part(f"{seen.epoch}/{seen.epochs} epochs")
        score, left = Part(f"{self.score} {seen.value:.3f}", "bold"), Part(f"at most {duration(self.left(now))} left")
        head = f"folds, {len(seen.running)} of {len(seen.fold_scores)} running*"
        return [Line((Part(self.what), bar, epoch, score, left)), Flow(head, fold_cells(seen))]


class Progress:
    """Writes lines that stay to ``stream`` (standard output) and tells what happens meanwhile; a context manager.

    In a terminal, between entering and leaving, a few changing lines stand below those that stay. Elsewhere, and where
    TERM is empty or ``dumb``, every fifteen seconds one more line is written, without a control character.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
        self._clock = clock
        self._last = clock()
        self._study: _Study | None = None
        self._doing: _Words | _Step | _Training | None = None
        self._entered: ExitStack | None = None
        self._region: Region | None = None

    def __enter__(self) -> Progress:
        self._entered = ExitStack()
        if self.terminal:
            self._entered.enter_context(_terminable())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the changing lines away and gives the terminal back as it was. Lines can still be written."""
        entered, self._entered = self._entered, None
        region, self._region = self._region, None
        with entered or ExitStack():
            if region is not None:
                region.close()

    def line(self, text: str = "") -> None:
        """Lines that stay; nothing for an empty text."""
        if not text:
            return
        if self._region is not None:
            self._region.line(text)
        else:
            self.stream.write(f"{self._safe(text)}\n")
            self.stream.flush()

    def now(self, text: str) -> None:
        """What happens at this moment."""
        self._show(_Words(self._safe(text)))

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Long work in ``total`` pieces; what comes back is called with the number of pieces that were done since."""
        start, done = self._clock(), 0

        def advance(count: int = 1) -> None:
            nonlocal done
            done += count
            self._show(_Step(self._safe(what), done, total, start, self._clock()))

        advance(0)
        return advance

    def study(self, done: int, total: int, best: str = "", beside: str = "", left: float | None = None) -> None:
        """Where the study stands that the rest is part of: trials, the best so far, what to hold it against, and the
        seconds that are left, where that can be told. Seen in a terminal only: elsewhere every trial has its line.
        """
        self._study = _Study(done, total, self._safe(best), self._safe(beside), left, self._clock())

    def watch(
        self, what: str, tail: Callable[[], str] = lambda: "", score: str = "score"
    ) -> Callable[[Evaluation], Decision]:
        """An ``on_eval`` that tells of every epoch: folds still running, the score so far under the name ``score``, the
        time left of this training. ``tail`` ends the lines that are written where there is no terminal.
        """
        if self.terminal:
            self.now(what)

        def tell(evaluation: Evaluation) -> Decision:
            self._show(_Training(self._safe(what), evaluation, self._clock(), self._safe(score)), tail)
            return CONTINUE

        return tell

    def rows(self) -> list[Row]:
        """What stands below the lines that stay, as it is now."""
        now, doing = self._clock(), self._doing
        study = [] if self._study is None else _study_rows(self._study, doing, now)
        return study + (doing.rows(now) if doing else [])

    def _show(self, doing: _Words | _Step | _Training, tail: Callable[[], str] = lambda: "") -> None:
        self._doing = doing
        if self.terminal:
            self._open()
        elif self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self.line(doing.told(self._clock()) + tail())
            self._last = self._clock()

    def _open(self) -> None:
        if self._entered is not None and self._region is None:
            from fusion_lab.jobs.terminal import Region  # rich, which nobody else needs

            self._region = Region(self.stream, self.rows)
            self._region.start()

    def _safe(self, text: str) -> str:
        return writable(text, self.stream)


def _study_rows(study: _Study, doing: object, now: float) -> list[Row]:
    bar, count = Bar(study.done, study.total), Part(f"{study.done}/{study.total}")
    rows: list[Row] = [Line((Part("trials"), bar, count, Part(_time_left(study, doing, now))))]
    if study.best or study.beside:
        rows.append(Line((Part(study.best, "green"), Part(study.beside))))
    return rows


def _time_left(study: _Study, doing: object, now: float) -> str:
    """By the trials so far; while there are none, by the one that runs."""
    if study.done >= study.total:
        return ""
    if study.left is not None:
        return f"about {duration(max(0.0, study.left - (now - study.at)))} left"
    if isinstance(doing, _Training):
        trial = doing.evaluation.seconds / doing.evaluation.epoch * doing.evaluation.epochs
        return f"at most {duration(doing.left(now) + trial * (study.total - study.done - 1))} left"
    return ""


def fold_cells(evaluation: Evaluation, most: int = FOLDS_SHOWN) -> tuple[Part, ...]:
    """The best score of each fold, with a star while it is running; of many folds the first, and how many more.

    >>> [cell.text for cell in fold_cells(Evaluation(1, 9, 0.7, (0.71, float("nan"), 0.8), (0,), 1.0), most=2)]
    ['0.71*', '-', 'and 1 more']
    """
    scores = evaluation.fold_scores
    cells = [
        Part(shown([score]) + ("*" if k in evaluation.running else ""), "cyan" if k in evaluation.running else "")
        for k, score in enumerate(scores[:most])
    ]
    return (*cells, *([Part(f"and {len(scores) - most} more")] if len(scores) > most else []))


@contextmanager
def _terminable() -> Generator[None]:
    """SIGTERM ends the job as Ctrl-C does, where it would end the process on the spot and leave the cursor hidden."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("terminated")

    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def writable(text: str, stream: TextIO) -> str:
    """``text`` without control characters, and without those that the stream's encoding does not have.

    >>> writable("red \\x1b[31m", sys.stdout)
    'red  [31m'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.translate(CONTROLS).encode(encoding, "replace").decode(encoding)


def shown(scores: Sequence[float], most: int = FOLDS_SHOWN) -> str:
    """Scores of folds in few characters.

    >>> shown([0.7134, float("nan")])
    '0.71 -'
    """
    cells = [f"{score:.2f}" if math.isfinite(score) else "-" for score in scores[:most]]
    return " ".join(cells + (["..."] if len(scores) > most else []))


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> [duration(s) for s in (4.2, 75, 4000)]
    ['4 s', '1 min 15 s', '1 h 06 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
