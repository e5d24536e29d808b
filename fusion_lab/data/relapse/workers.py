"""Processes that describe patients, one patient each at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

import fusion_lab
from fusion_lab.contracts import DataError
from fusion_lab.data.relapse.raw import SensorSequence

Told = Callable[[SensorSequence, int], None]

_MODULE = "fusion_lab.data.relapse.worker"
_SECONDS_TO_END = 10
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_BYTES = 1 << 16
"""Of answers, read at a time."""


def work_off(patients: Sequence[Sequence[SensorSequence]], folder: Path, processes: int, told: Told) -> None:
    """Has all patients described: a file in ``folder`` per sequence, and ``told(sequence, days)`` for each of them.

    No process is left, however this ends.

    Raises:
        DataError: what is wrong with a file; a process ended.
    """
    waiting = deque(sorted(patients, key=_size, reverse=True))  # the longest first, so that all end at about one time
    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile("w+"))
        busy: dict[int, _Worker] = {}  # by the file that the answers come from
        for _ in range(min(processes, len(patients))):
            worker = _Worker(errors)
            stack.callback(worker.end)
            worker.begin(waiting.popleft(), folder)
            busy[worker.answers] = worker
        while busy:
            for answers in wait(list(busy)):
                assert isinstance(answers, int)
                worker = busy[answers]
                if not _hear(worker, told):
                    continue
                if waiting:
                    worker.begin(waiting.popleft(), folder)
                else:
                    del busy[answers]


def _hear(worker: _Worker, told: Told) -> bool:
    """Tells what a process has to say; whether it has done its patient."""
    done = False
    for answer in worker.heard():
        if "sequence" in answer:
            told(worker.sequences[answer["sequence"]], answer["days"])
        elif answer["fault"]:
            raise DataError(answer["fault"])
        else:
            done = True
    return done


def _size(sequences: Iterable[SensorSequence]) -> int:
    return sum(path.stat().st_size for sequence in sequences for path in sequence.files)


class _Worker:
    """A process of its own session: Ctrl-C is for its owner, who ends it. It ends by itself when its input does."""

    def __init__(self, errors: IO[str]) -> None:
        self._errors = errors
        paths = [str(Path(fusion_lab.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._begun = b""  # of a line whose end has not come yet
        self.sequences: dict[str, SensorSequence] = {}

    @property
    def answers(self) -> int:
        """The file descriptor that has something to read when this process has something to say."""
        return self._output.fileno()

    def begin(self, sequences: Sequence[SensorSequence], folder: Path) -> None:
        """Sends a patient off."""
        self.sequences = {sequence.name: sequence for sequence in sequences}
        job = {
            "patient": sequences[0].patient,
            "sequences": [(sequence.name, str(sequence.folder)) for sequence in sequences],
            "output": str(folder),
        }
        with suppress(BrokenPipeError):  # it has ended, which whoever waits for its answer is told
            self._input.write(json.dumps(job).encode() + b"\n")
            self._input.flush()

    def heard(self) -> list[dict[str, Any]]:
        """The answers that have come.

        Raises:
            DataError: none will, since the process has ended.
        """
        read = os.read(self.answers, _BYTES)
        if not read:
            code = self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().rpartition("\n")[2]
            found = f"that the process which computed them ended with code {code}"
            raise DataError(f"prepare: expected daily features, found {': '.join(filter(None, [found, last]))}")
        *lines, self._begun = (self._begun + read).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Ends the process, whatever it is at."""
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
