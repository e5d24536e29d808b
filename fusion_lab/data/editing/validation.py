"""Every stream of every video by itself: what can be read, how it lies on the clock, what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.alignment import Coverage
from fusion_lab.data.editing.domain import dataset_of, recordings_of
from fusion_lab.data.editing.packing import aligned_stream, clock_of
from fusion_lab.data.editing.recordings import Recordings
from fusion_lab.data.editing.settings import EditingConfig
from fusion_lab.data.validation import YES_OR_NO, Checked, Validation

COLUMNS = {
    "samples": "",
    "columns": "",
    "increasing": YES_OR_NO,
    "repeated": "",
    "steps": "",
    "coverage": "%",
    "interpolated": "%",
    "masked": "%",
    "longest gap": "s",
    "gaps": "",
    "missing cells": "",
}
"""``increasing`` is 1 where times are in order, 0 where they had to be sorted; ``repeated`` counts samples that a later
one of the same time replaces, ``gaps`` those longer than ``report_gap``; the others are those of
:class:`~fusion_lab.data.alignment.Coverage`.
"""


def validate(config: EditingConfig, tell: Callable[[str], None]) -> Validation:
    """Reads and aligns every stream of every video, and goes on after a fault; ``tell`` hears of every video.

    Raises:
        DataError: there is no such folder.
    """
    try:
        recordings = recordings_of(config)
    except DataError as error:
        return Validation(str(config.folder), COLUMNS, (), (str(error),))
    checked: list[Checked] = []
    for number, video in enumerate(recordings.videos, 1):
        tell(f"checks video {number}/{len(recordings.videos)} {video}")
        checked += _of_video(config, recordings, video)
    faults, notes = (), recordings.notes
    if not any(one.fault for one in checked):
        try:
            notes = dataset_of(config, recordings).provenance.notes
        except DataError as error:
            faults = (str(error),)
    return Validation(recordings.where, COLUMNS, tuple(checked), faults, tuple(notes))


def _of_video(config: EditingConfig, recordings: Recordings, video: str) -> Iterator[Checked]:
    try:
        clock = clock_of(config, recordings, video)
    except DataError as error:
        yield Checked(video, "clock", {}, fault=str(error))
        return
    if not len(clock):
        yield Checked(video, "clock", {"steps": 0}, fault="expected steps of a clock, found none")
        return
    for name in recordings.streams:
        yield _of_stream(config, recordings, video, name, clock)


def _of_stream(config: EditingConfig, recordings: Recordings, video: str, name: str, clock: np.ndarray) -> Checked:
    source = recordings.streams[name]
    if not source.has(video):
        return Checked(video, name, {"samples": 0, "steps": len(clock)})
    try:
        columns = source.columns()
        aligned, rows, _ = aligned_stream(config, source, name, columns, video, clock)
    except DataError as error:
        return Checked(video, name, {"steps": len(clock)}, fault=str(error))
    return Checked(video, name, _facts(aligned.coverage, rows, len(columns)), aligned.coverage.warnings)


def _facts(coverage: Coverage, rows: int, columns: int) -> dict[str, float]:
    return {
        "samples": rows,
        "columns": columns,
        "increasing": int(not coverage.resorted),
        "repeated": coverage.duplicates,
        "steps": coverage.steps,
        "coverage": coverage.coverage_pct,
        "interpolated": coverage.interpolated_pct,
        "masked": 100.0 * coverage.masked / coverage.steps,
        "longest gap": coverage.max_gap,
        "gaps": len(coverage.gaps),
        "missing cells": coverage.missing_cells,
    }
