"""Processes that describe chunks of molecules, one chunk each at a time, and write what they find to files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, NamedTuple

from fusion_lab.contracts import DataError

PROGRAM = Path(__file__).with_name("chemistry_chunk.py")
SECONDS_TO_END = 10
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Job(NamedTuple):
    """The molecules of a chunk, what is wanted of them, the file to write, and what it says of itself."""

    smiles: Sequence[str | None]
    options: dict[str, Any]
    path: Path
    key: str

    @property
    def line(self) -> str:
        return json.dumps(self._asdict() | {"path": str(self.path)}) + "\n"


def work_off(jobs: Sequence[Job], processes: int, done: Callable[[Job], None]) -> None:
    """Has all jobs done, and tells each that is. No process is left, however this ends.

    Raises:
        DataError: a file cannot be written, or a process ended.
    """
    left = deque(jobs)
    with ExitStack() as stack:
        told = stack.enter_context(tempfile.TemporaryFile("w+"))
        busy: dict[int, tuple[_Worker, Job]] = {}  # by the file that the answer comes from
        for _ in range(min(processes, len(jobs))):
            worker = _Worker(told)
            stack.callback(worker.end)
            busy[worker.answers.fileno()] = worker, worker.begin(left.popleft())
        while busy:
            for answers in wait(list(busy)):
                assert isinstance(answers, int)
                worker, job = busy.pop(answers)
                worker.finish(job)
                if left:
                    busy[worker.answers.fileno()] = worker, worker.begin(left.popleft())
                done(job)


class _Worker:
    """A process of its own session: Ctrl-C is for its owner, who ends it. It ends by itself when its input does."""

    def __init__(self, told: IO[str]) -> None:
        self._told = told
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            env=os.environ | ONE_THREAD,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self.answers = self._process.stdin, self._process.stdout

    def begin(self, job: Job) -> Job:
        with suppress(BrokenPipeError):  # it has ended, which whoever waits for its answer is told
            self._input.write(job.line)
            self._input.flush()
        return job

    def finish(self, job: Job) -> None:
        line = self.answers.readline()
        if not line:
            code = self._process.wait()
            self._told.seek(0)
            last = self._told.read().strip().rpartition("\n")[2]
            found = f"that the process which computed them ended with code {code}"
            raise DataError(f"featurise: expected values of molecules, found {': '.join(filter(None, [found, last]))}")
        if fault := json.loads(line):
            raise DataError(f"{job.path}: expected a place with room to write, found: {fault}")

    def end(self) -> None:
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.answers.close()
