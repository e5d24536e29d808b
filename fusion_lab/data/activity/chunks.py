"""Where chunks lie in recordings, and their samples as sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fusion_lab.data.activity.samples import Recorded


class Cutting(NamedTuple):
    """Chunks of up to ``length`` samples, one every ``stride``; none shorter than ``least``."""

    length: int
    stride: int
    least: int

    @classmethod
    def of(cls, chunk: int, stride: int | None, shortest: float) -> Cutting:
        """From the settings: ``shortest`` is a share of ``chunk``.

        >>> Cutting.of(10, None, 0.3)
        Cutting(length=10, stride=10, least=3)
        """
        return cls(chunk, stride or chunk, max(1, math.ceil(shortest * chunk - 1e-9)))


class Chunks(NamedTuple):
    """R chunks, int ``[R]`` each, in the order of subjects, recordings and time."""

    subject: np.ndarray  # place among the subjects
    recording: np.ndarray  # place among its subject's recordings
    number: np.ndarray  # place inside its recording
    start: np.ndarray  # first sample, in its subject's values
    rows: np.ndarray  # samples
    activity: np.ndarray  # the data set's id, -1 where nobody knows it

    def where(self, keep: np.ndarray) -> Chunks:
        """The chunks marked True in ``keep``, bool [R]."""
        return Chunks(*(part[keep] for part in self))


class Cut(NamedTuple):
    """A modality of R chunks: a chunk ends at its last position, padding comes before it."""

    inputs: np.ndarray  # float32 [R,T,F], 0 where not observed
    valid: np.ndarray  # bool [R,T]: a sample of which any cell is filled
    observed: np.ndarray  # bool [R,T,F]


def chunks_of(recorded: Recorded, cutting: Cutting) -> Chunks:
    """The chunks of all recordings; none crosses the end of one."""
    parts: list[tuple[np.ndarray, ...]] = [(np.zeros(0, int),) * len(Chunks._fields)]
    for s, samples in enumerate(recorded.subjects):
        for r, recording in enumerate(samples.recordings):
            offset, rows = inside(recording.rows, cutting)
            activity = -1 if recording.activity is None else recording.activity
            subject, place, label = (np.full(len(offset), value) for value in (s, r, activity))
            parts.append((subject, place, np.arange(len(offset)), recording.start + offset, rows, label))
    return Chunks(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def inside(rows: int, cutting: Cutting) -> tuple[np.ndarray, np.ndarray]:
    """First sample and number of samples of each chunk in a recording of so many ``rows``. Only the last may be shorter
    than the others, and only for samples that no other holds.

    >>> [part.tolist() for part in inside(10, Cutting(length=4, stride=4, least=2))]
    [[0, 4, 8], [4, 4, 2]]
    """
    length, stride, least = cutting
    whole = (rows - length) // stride + 1 if rows >= length else 0
    end = (whole - 1) * stride + length if whole else 0
    left = rows - whole * stride
    shorter = left >= least and end < rows
    offset = np.arange(whole + shorter) * stride
    return offset, np.minimum(rows - offset, length)


def held(chunks: Chunks, cutting: Cutting) -> int:
    """How many different samples the chunks hold: those that two of them share count once."""
    twice = max(0, cutting.length - cutting.stride) * int((chunks.number > 0).sum())
    return int(chunks.rows.sum()) - twice


def cut(recorded: Recorded, chunks: Chunks, columns: Sequence[str], length: int) -> Cut:
    """The chunks' samples of the ``columns``, T = ``length``, copied subject by subject."""
    at = [recorded.columns.index(name) for name in columns]
    inputs = np.empty((len(chunks.start), length, len(at)), np.float32)
    bounds = np.searchsorted(chunks.subject, np.arange(len(recorded.subjects) + 1))
    position = np.arange(-length, 0)
    for s, samples in enumerate(recorded.subjects):
        own = slice(bounds[s], bounds[s + 1])
        sample = (chunks.start + chunks.rows)[own, None] + position
        values = np.ascontiguousarray(samples.values[:, at])
        np.take(values, sample, axis=0, out=inputs[own], mode="clip")  # what padding takes is masked below
    real = position >= -chunks.rows[:, None]
    observed = ~np.isnan(inputs) & real[:, :, None]
    np.copyto(inputs, 0.0, where=~observed)
    return Cut(inputs, observed.any(axis=2), observed)
