"""What a person sees while a job works: one line that changes in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from fusion_lab.training import CONTINUE, Decision, Evaluation

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Writes lines to ``stream`` (standard output) and keeps one changing line below them where it is a terminal."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self._clock = clock
        self._last = clock()
        self._shown = 0

    def line(self, text: str = "") -> None:
        """Lines that stay; nothing for an empty text."""
        if not text:
            return
        self._wipe()
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def now(self, text: str) -> None:
        """What happens at this moment."""
        if self.terminal:
            self._wipe()
            self.stream.write(text[:120])
            self._shown = len(text[:120])
            self.stream.flush()
        elif self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self.line(text)
        else:
            return
        self._last = self._clock()

    def watch(self, what: str, tail: Callable[[], str] = lambda: "") -> Callable[[Evaluation], Decision]:
        """An ``on_eval`` that tells of every epoch: folds still running, the score so far, the time left of this
        training.
        """

        def tell(evaluation: Evaluation) -> Decision:
            left = evaluation.seconds / evaluation.epoch * (evaluation.epochs - evaluation.epoch)
            folds = f"folds {shown(evaluation.fold_scores)} ({len(evaluation.running)} running)"
            epoch = f"epoch {evaluation.epoch}/{evaluation.epochs}"
            score = f"score {evaluation.value:.3f}"
            self.now(f"{what}  {epoch}  {score}  {folds}  at most {duration(left)} left{tail()}")
            return CONTINUE

        return tell

    def _wipe(self) -> None:
        if self.terminal and self._shown:
            self.stream.write("\r" + " " * self._shown + "\r")
            self._shown = 0


def shown(scores: Sequence[float], most: int = 12) -> str:
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
