"""Contenders in turn: each a process of its own that is started once and kept, one of them at work at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from settings import Settings

HERE = Path(__file__).parent
Tell = Callable[..., None]
"""``tell(text)`` or ``tell(text, end="")``, as ``print`` has it."""
LAST_LINES = 15
"""Of what a process that failed has written."""


class Failed(RuntimeError):  # noqa: N818 - it says what happened
    """A contender's process ended before it had answered."""


class Contender:
    """A contender's process. ``startup`` is what its imports took."""

    def __init__(self, name: str, errors: Path) -> None:
        self.name, self._errors = name, errors
        with errors.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=one_thread(),
            )

    def ask(self, settings: Settings, case: Path) -> None:
        """Sends a cross-validation off; :meth:`answer` waits for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"settings": asdict(settings), "case": str(case)}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def answer(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            Failed: there will be none.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _failure(self) -> Failed:
        code = self._process.wait()
        told = "\n".join(self._errors.read_text().splitlines()[-LAST_LINES:])
        return Failed(f"{self.name}: expected an answer, found that its process ended with code {code}:\n{told}")


@contextmanager
def processes(names: Iterable[str]) -> Generator[Iterator[Contender]]:
    """The contenders' processes, each started when it is asked for; all are ended at the end."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def start(name: str) -> Contender:
            contender = Contender(name, Path(folder, f"{name}.txt"))
            stack.callback(contender.close)
            return contender

        yield map(start, names)


def write_cases(files: Mapping[Settings, Path]) -> list[dict[str, Any]]:
    """The opponents' data, a file for each of the settings; what is told of each: :func:`prepare.told`.

    Raises:
        Failed: one could not be made.
    """
    requests = [(str(file), asdict(settings)) for settings, file in files.items()]
    return _answers("the cases: expected files", "prepare.py", requests)


def read(rows: int, rounds: int) -> dict[str, Any]:
    """What reading a raw file of so many rows takes: :func:`reading_case.measure`.

    Raises:
        Failed: it could not be measured.
    """
    return _answers("reading: expected times", "reading_case.py", (rows, rounds))[0]


def describe(molecules: int, rounds: int) -> dict[str, Any]:
    """What describing so many molecules takes: :func:`fingerprints_case.measure`.

    Raises:
        Failed: it could not be measured.
    """
    return _answers("fingerprints: expected times", "fingerprints_case.py", (molecules, rounds))[0]


def align(seconds: int, rounds: int) -> dict[str, Any]:
    """What bringing streams of so many seconds to one clock takes: :func:`alignment_case.measure`.

    Raises:
        Failed: it could not be measured.
    """
    return _answers("alignment: expected times", "alignment_case.py", (seconds, rounds))[0]


def describe_days(days: int, rounds: int, motion_hz: float, heart_hz: float) -> dict[str, Any]:
    """What describing days of raw sensor files takes: :func:`daily_features_case.measure`.

    Raises:
        Failed: it could not be measured.
    """
    request = (days, rounds, motion_hz, heart_hz)
    return _answers("daily features: expected times", "daily_features_case.py", request)[0]


def _answers(expected: str, program: str, request: Any) -> list[Any]:
    """The lines that a program of its own answers a request with."""
    command = [sys.executable, str(HERE / program), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread(), check=False)
    if done.returncode:
        told = "\n".join(done.stderr.splitlines()[-LAST_LINES:])
        raise Failed(f"{expected}, found that their process ended with code {done.returncode}:\n{told}")
    return [json.loads(line) for line in done.stdout.splitlines()]


class Request(NamedTuple):
    """A cross-validation by several contenders."""

    names: Sequence[str]
    settings: Settings
    case: Path


def train_all(requests: Sequence[Request]) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """For each request the folds of each contender, trained all at once: nothing is timed here."""
    with processes(dict.fromkeys(name for request in requests for name in request.names)) as started:
        running = {contender.name: contender for contender in started}
        for contender in running.values():
            contender.answer()
        for names, settings, case in requests:
            for name in names:
                running[name].ask(settings, case)
            yield {name: running[name].answer()["folds"] for name in names}


def race(request: Request, rounds: int, tell: Tell) -> dict[str, dict[str, Any]]:
    """What each contender takes: ``{"start", "cold", "rounds", "peak_mb"}``, times as ``{"cpu", "wall"}`` in seconds.

    A process's first cross-validation is its cold one and no part of the rounds. Whose turn is first moves on by one
    from round to round, and every other round goes the other way round.
    """
    names, settings, case = request
    taken: dict[str, dict[str, Any]] = {}
    with processes(names) as started:
        running = {}
        for contender in started:  # one after the other, since starting is timed
            running[contender.name] = contender
            taken[contender.name] = {"start": contender.answer(), "rounds": []}
        for number in range(rounds + 1):
            which = f"round {number} of {rounds}" if number else "cold"
            for name in turns(list(names), number):
                tell(f"{settings.title}, {which}: {name} ...", end=" ")
                running[name].ask(settings, case)
                answer = running[name].answer()
                times = {"cpu": answer["cpu"], "wall": answer["wall"]}
                tell(f"{times['cpu']:.1f} s of CPU time")
                taken[name]["peak_mb"] = answer["peak_mb"]
                if number:
                    taken[name]["rounds"].append(times)
                else:
                    taken[name]["cold"] = times
    return taken


def turns(names: list[str], number: int) -> list[str]:
    """The order of a round.

    >>> turns(["a", "b", "c"], 0), turns(["a", "b", "c"], 1), turns(["a", "b", "c"], 2)
    (['a', 'b', 'c'], ['a', 'c', 'b'], ['c', 'a', 'b'])
    """
    first = number % len(names)
    order = names[first:] + names[:first]
    return order[::-1] if number % 2 else order


def one_thread() -> dict[str, str]:
    """The environment with a single thread for every library that would take more."""
    return os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
