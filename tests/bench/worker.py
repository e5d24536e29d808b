"""One contender's process: told over a pipe to cross-validate, it answers with what that took and what came out."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from settings import CONTENDERS, OURS, Settings


def main(name: str) -> None:
    """Reads a request a line, ``{"settings": ..., "case": path}``; the first line written is what starting took."""
    with _answers() as answers:
        contender = import_module(CONTENDERS[name])
        _say(answers, {"cpu": time.process_time()})
        import torch

        torch.set_num_threads(1)
        for line in sys.stdin:
            request = json.loads(line)
            place = Path(request["case"]), Settings(**request["settings"])
            loaded = contender.load(*place, name) if name in OURS else contender.load(*place)
            _say(answers, _measured(contender.cross_validate, loaded))


def _measured(cross_validate: Any, loaded: Any) -> dict[str, Any]:
    """CPU time of all threads and wall time of one cross-validation, and the largest memory the process has had."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    folds = cross_validate(loaded)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "peak_mb": _peak_mb(), "folds": [asdict(fold) for fold in folds]}


def _peak_mb() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _answers() -> IO[str]:
    """The pipe on which answers are awaited; whatever else is printed goes with the errors."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _say(answers: IO[str], what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
