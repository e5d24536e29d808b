"""What every layout of sensor recordings is read as: each subject's samples in order, and where recordings begin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Source


class Recording(NamedTuple):
    """Samples ``start`` to ``start + rows`` of a subject: one activity, without a gap."""

    start: int
    rows: int
    seconds: float  # time of the first sample, since the session began
    activity: int | None  # the data set's id; None where nobody knows it
    split: str = ""  # "train", "val" or "test" where the files say so


class Samples(NamedTuple):
    """One subject's samples, float32 ``[N, columns]``, NaN where missing, possibly mapped from a file.

    The heart rate, measured about nine times a second, is carried forward inside each recording.
    """

    subject: str  # "" where the files do not tell
    values: np.ndarray
    recordings: tuple[Recording, ...]


class Recorded(NamedTuple):
    """All subjects, in the order of their names. ``columns``: canonical names of the values' columns."""

    columns: tuple[str, ...]
    subjects: tuple[Samples, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()
