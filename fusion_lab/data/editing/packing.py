"""Streams of videos brought to their clocks, one video after the other, and packed."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, Feature, Modality
from fusion_lab.data.alignment import (
    Aligned,
    Column,
    Rules,
    Stream,
    absent,
    align,
    ordered,
    summarise,
    summary_columns,
)
from fusion_lab.data.editing.dataset import Steps, Surveyed
from fusion_lab.data.editing.recordings import Recordings, StreamSource
from fusion_lab.data.editing.settings import TARGETS, EditingConfig, StreamConfig

PLACE = "step"
SHORTEST = 1e-12
"""A vector that is not longer than this has no direction."""


class Clocks(NamedTuple):
    """The steps of all videos, video after video: place of their video int [S], s from its beginning float64 [S]; and
    where those of each video begin and end, int [V+1].
    """

    video: np.ndarray
    time: np.ndarray
    bounds: np.ndarray

    def of(self, place: int) -> np.ndarray:
        """The clock of a video."""
        return self.time[self.bounds[place] : self.bounds[place + 1]]


class Packed(NamedTuple):
    """One stream of all videos."""

    modality: Modality
    steps: Steps
    survey: tuple[Surveyed, ...]
    low: np.ndarray  # of the columns but the embedding's, infinite where there is no value
    high: np.ndarray
    unused: tuple[str, ...]


def clocks_of(config: EditingConfig, recordings: Recordings) -> Clocks:
    """The clock of every video.

    Raises:
        DataError: a video without a step, or a clock whose steps are closer than half of 1 / rate.
    """
    clocks = [clock_of(config, recordings, video) for video in recordings.videos]
    for video, clock in zip(recordings.videos, clocks, strict=True):
        if not len(clock):
            raise DataError(f"{recordings.where}: video {video!r}: expected steps of a clock, found none")
        if len(clock) > 1 and np.diff(clock).min() < 0.5 / config.rate:
            found = f"{np.diff(clock).min():g} s"
            expected = f"expected steps {1 / config.rate:g} s apart (data.rate={config.rate:g})"
            raise DataError(f"{recordings.where}: video {video!r}: {expected}, found {found}")
    sizes = [len(clock) for clock in clocks]
    return Clocks(np.repeat(np.arange(len(clocks)), sizes), np.concatenate(clocks), np.cumsum([0, *sizes]))


def clock_of(config: EditingConfig, recordings: Recordings, video: str) -> np.ndarray:
    """The steps of a video, s from its beginning."""
    if recordings.tracks is not None:
        return recordings.tracks.of(video)
    if config.clock == TARGETS and recordings.targets is not None:
        return recordings.targets.by_video[video].times
    if config.clock is not None and config.clock in recordings.streams:
        return ordered(recordings.streams[config.clock].times(video)).times
    times = [stream.times(video) for stream in recordings.streams.values() if stream.has(video)]
    if not times:
        return np.zeros(0)
    first, last = (of(of(part) for part in times) for of in (min, max))
    return np.arange(np.ceil(first * config.rate - 1e-6), np.floor(last * config.rate + 1e-6) + 1) / config.rate


def pack(config: EditingConfig, recordings: Recordings, name: str, clocks: Clocks) -> Packed:
    """Reads, aligns and packs one stream, a video at a time.

    Raises:
        DataError: a file that cannot be used, or a video that cannot be aligned: the error names it and the time range.
    """
    source, settings = recordings.streams[name], config.streams[name]
    columns = source.columns()
    modality, plain = modality_of(config, name, columns)
    steps = Steps.blank(len(clocks.time), plain, modality.width - plain, settings.half)
    survey, unused = [], set()
    low, high = np.full(plain, np.inf), np.full(plain, -np.inf)
    for place, video in enumerate(recordings.videos):
        clock = clocks.of(place)
        aligned, rows, others = aligned_stream(config, source, name, columns, video, clock)
        survey.append(Surveyed(video, name, source.has(video), rows, aligned.coverage))
        unused |= set(others)
        steps.put(int(clocks.bounds[place]), aligned.values, aligned.observed)
        cells = np.where(aligned.observed[:, :plain], aligned.values[:, :plain], np.nan)
        low, high = np.fmin(low, np.fmin.reduce(cells)), np.fmax(high, np.fmax.reduce(cells))
    modality = with_gaps(modality, steps)
    return Packed(modality, steps, tuple(survey), low, high, tuple(sorted(unused)))


def aligned_stream(
    config: EditingConfig, source: StreamSource, name: str, columns: tuple[Column, ...], video: str, clock: np.ndarray
) -> tuple[Aligned, int, tuple[str, ...]]:
    """The stream of a video at its clock, how many samples it had and which columns were not used."""
    where = f"video {video!r}"
    if not source.has(video):
        settings = config.streams[name]
        made = _summarised(columns, settings) if settings.summary else list(columns)
        return absent(name, clock, made, where), 0, ()
    stream, others = source.get(video)
    return bring(config, name, stream, columns, clock, where), len(stream.times), others


def bring(
    config: EditingConfig, name: str, stream: Stream, columns: tuple[Column, ...], clock: np.ndarray, where: str
) -> Aligned:
    """One video's stream on its clock: between its samples or, where its settings ask for it, as statistics of them."""
    settings = config.streams[name]
    rules = Rules(config.tolerance, config.max_gap, config.report_gap, config.most_interpolated)
    stream = replace(stream, values=_logarithms(stream.values, settings))
    if settings.summary is None:
        return align(stream, clock, columns, rules, where)
    plain, found = _plain(columns), []
    for begins, span in _spans(config, settings):
        if plain:
            own = Stream(stream.name, stream.times, stream.values[:, :plain])
            found.append(summarise(own, clock + begins, columns[:plain], settings.summary, span, rules, where))
    if plain < len(columns):
        own = Stream(stream.name, stream.times, stream.values[:, plain:])
        vector = [Column(column.name) for column in columns[plain:]]
        found.append(_directions(summarise(own, clock, vector, ["mean"], 1 / config.rate, rules, where)))
    values, observed = (np.concatenate([getattr(of, part) for of in found], axis=1) for part in ("values", "observed"))
    return found[0]._replace(values=values, observed=observed, valid=observed.any(axis=1))


def _logarithms(values: np.ndarray, settings: StreamConfig) -> np.ndarray:
    if not settings.log:
        return values
    changed = values.astype(np.float32)
    for at, name in enumerate(settings.columns):
        if name in settings.log:
            changed[:, at] = np.log(np.maximum(changed[:, at], np.float32(settings.log[name])))
    return changed


def _spans(config: EditingConfig, settings: StreamConfig) -> list[tuple[float, float]]:
    """When the time that is summed up begins, s after a step, and how long it is: of the step first.

    What answers lie ahead of is never told by what comes after the step.
    """
    step = 1 / config.rate
    share = 1.0 if config.horizon else 0.5
    return [(0.0, step), *((-share * (span - step), span) for span in settings.spans)]


def _plain(columns: tuple[Column, ...]) -> int:
    """Columns that are no embedding's."""
    return sum(column.kind != "embedding" for column in columns)


def _directions(means: Aligned) -> Aligned:
    """Means of vectors divided by their length; one that lacks a cell, or has no length, is not observed."""
    length = np.linalg.norm(means.values.astype(np.float64), axis=1)
    long = means.observed.all(axis=1) & (length > SHORTEST)
    values = (means.values / np.where(long, length, 1.0)[:, None]).astype(np.float32)
    observed = np.broadcast_to(long[:, None], values.shape)
    return means._replace(values=np.where(observed, values, np.float32(0)), observed=observed, valid=long)


def _summarised(columns: tuple[Column, ...], settings: StreamConfig) -> list[Column]:
    plain = columns[: _plain(columns)]
    every = summary_columns(plain, settings.summary or ()) if plain else []
    wide = [Column(f"{column.name} {span:g} s") for span in settings.spans for column in every]
    return [*every, *wide, *columns[len(plain) :]]


def modality_of(config: EditingConfig, name: str, columns: tuple[Column, ...]) -> tuple[Modality, int]:
    """A stream's modality, and how many of its features, the first ones, are no embedding's."""
    settings = config.streams[name]
    made = tuple(_summarised(columns, settings)) if settings.summary else columns
    binary = {column for column, kind in settings.columns.items() if kind == "binary"} if not settings.summary else ()
    features = (
        Feature(
            column.name,
            "embedding" if column.kind == "embedding" else "binary" if column.name in binary else "numeric",
        )
        for column in made
    )
    return Modality(name, "sequence", tuple(features), config.length, PLACE), _plain(made)


def with_gaps(modality: Modality, steps: Steps) -> Modality:
    """The modality, its features marked that some step misses at which others are there."""
    there = steps.there
    plain = (~steps.observed & there.unsqueeze(-1)).any(dim=0).tolist()
    vector = bool((~steps.directed & there).any())
    gaps = [*plain, *[vector] * steps.vectors.shape[1]]
    features = (replace(feature, gaps=gap) for feature, gap in zip(modality.features, gaps, strict=True))
    return replace(modality, features=tuple(features))
