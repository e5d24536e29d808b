"""How well a stream covers a clock, and the warnings that follow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusion_lab.data.alignment.order import Order
from fusion_lab.data.alignment.streams import SLACK, Coverage, Rules
from fusion_lab.data.words import quoted


class Samples(NamedTuple):
    """What a stream holds: ``times`` of the samples with a value in any column; cells and columns without one."""

    order: Order
    times: np.ndarray
    missing_cells: int
    empty: tuple[str, ...]


def cover(
    samples: Samples, clock: np.ndarray, matched: np.ndarray, valid: np.ndarray, rules: Rules, place: str
) -> Coverage:
    """``matched`` and ``valid`` are those of the steps, bool [m]; messages begin with ``place``."""
    starts, ends = _gaps(samples.times, clock)
    lengths = ends - starts
    long = np.flatnonzero(lengths > rules.report_gap + SLACK)
    found = Coverage(
        steps=len(clock),
        matched=int(matched.sum()),
        interpolated=int((valid & ~matched).sum()),
        masked=int((~valid).sum()),
        max_gap=float(lengths.max()),
        gaps=tuple((float(starts[at]), float(ends[at])) for at in long),
        missing_cells=samples.missing_cells,
        resorted=samples.order.resorted,
        duplicates=samples.order.duplicates,
        warnings=(),
    )
    told = [*_of_samples(samples), *_of_steps(found, samples.times, clock, rules)]
    if found.max_gap > rules.max_gap + SLACK and len(samples.times):
        start = float(starts[lengths.argmax()])
        told.append(f"a gap of {found.max_gap:g} s from {start:g} s on, longer than {rules.max_gap:g} s")
    return found._replace(warnings=tuple(f"{place}: {sentence}" for sentence in told))


def _gaps(times: np.ndarray, clock: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the stretches without a sample from the clock's first step to its last.

    They begin and end at samples, outside of the clock too, where there are any, and else with the clock.
    """
    first, last = np.searchsorted(times, clock[0], side="right"), np.searchsorted(times, clock[-1], side="left")
    low = times[first - 1] if first > 0 else clock[0]
    high = times[last] if last < len(times) else clock[-1]
    points = np.concatenate([[low], times[first:last], [high]])
    return points[:-1], points[1:]


def _of_samples(samples: Samples) -> list[str]:
    order, told = samples.order, []
    if not len(order.times):
        told.append("there is none, all steps are masked")
    elif not len(samples.times):
        told.append(f"no value in any of {len(order.times):,} samples")
    elif samples.empty:
        first, count = quoted(samples.empty[0]), len(samples.empty)
        told.append(f"no value in {count:,} columns, first {first}" if count > 1 else f"no value in column {first}")
    if order.resorted:
        told.append("times were not in order and have been sorted")
    if order.duplicates:
        told.append(f"times are repeated and the last sample of each counts ({order.duplicates:,} left out)")
    return told


def _of_steps(found: Coverage, times: np.ndarray, clock: np.ndarray, rules: Rules) -> list[str]:
    told = []
    if len(times) and (times[-1] < clock[0] or times[0] > clock[-1]):
        told.append(f"its samples, {times[0]:g} to {times[-1]:g} s, do not overlap the clock")
    if found.interpolated > rules.most_interpolated * found.steps:
        most = f"more than {100 * rules.most_interpolated:g} %"
        told.append(f"{found.interpolated_pct:.1f} % of {found.steps:,} steps are interpolated, {most}")
    return told
