"""A process that describes patients: jobs come in line by line, what happens goes out line by line.

A job is ``{"patient", "sequences": [[name, folder], ...], "output"}``. Answers are ``{"sequence", "days"}`` for each
sequence that is written, then ``{"fault": ...}``, "" where all went well. When the input ends, the process does,
whatever it is at: so it never outlives its owner, however that ended.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fusion_lab.contracts import DataError
from fusion_lab.data.relapse.daily import described, write_daily
from fusion_lab.data.relapse.patient import describe
from fusion_lab.data.relapse.raw import SensorSequence


def part_name(sequence: SensorSequence) -> str:
    """The file of a sequence while not all are there."""
    return f"{sequence.patient}__{sequence.name}.parquet"


def write_parts(sequences: Sequence[SensorSequence], folder: Path, told: Callable[[SensorSequence, int], None]) -> None:
    """Describes sequences one after the other, and writes each one's days to a file of its own.

    Raises:
        DataError: as :func:`~fusion_lab.data.relapse.patient.describe`; there is no room.
    """
    for sequence in sequences:
        daily, entry = describe(sequence)
        write_daily(folder / part_name(sequence), daily, described(daily, [entry]))
        told(sequence, len(daily))


def _answer(of: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(of) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Works off jobs until the input ends."""
    asked: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        job = json.loads(asked.get())
        sequences = [SensorSequence(job["patient"], name, Path(folder)) for name, folder in job["sequences"]]
        fault = ""
        try:
            write_parts(sequences, Path(job["output"]), lambda of, days: _answer({"sequence": of.name, "days": days}))
        except DataError as error:
            fault = str(error)
        _answer({"fault": fault})


if __name__ == "__main__":
    main()
