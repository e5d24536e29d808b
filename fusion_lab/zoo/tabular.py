"""A batch as scikit-learn takes it: one table of columns, the lines whose label is known, their weights.

A line is a row or, of a task per step, one step of a row: step t of row b is line ``b * T + t``. Of a task with units
it is a unit at a step: unit u there is line ``(b * T + t) * U + u``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from fusion_lab.contracts import Batch, Modality, Task
from fusion_lab.zoo.modalities import shared_columns, unit_columns

SCREENED = 512  # columns that the trees see: finding the bins of thousands would take longer than growing the trees

LINES = 20_000  # steps that a model is fitted to or asked for at once: its columns have to fit into memory
CELLS, FEWEST = 2_000_000, 2_000
"""Cells that a model is fitted to, of a task per step: a dozen penalties, a hundred passes each. Of very many columns
it sees fewer steps, but so many at least.
"""


def array(values: Tensor) -> np.ndarray:
    """float64, whatever the tensor was."""
    return values.detach().cpu().numpy().astype(float)


def labelled(batch: Batch, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lines that count and whose label is known, their targets and their rows' weights."""
    known = batch.known[task.name].cpu().numpy()
    weight = np.broadcast_to(array(batch.weight).reshape(-1, *[1] * (known.ndim - 1)), known.shape).reshape(-1)
    lines = np.flatnonzero(known.reshape(-1) & (weight > 0))
    return lines, array(batch.targets[task.name]).reshape(-1)[lines], weight[lines]


def affordable(columns: int) -> int:
    """Lines that a model of so many columns is fitted to.

    >>> affordable(100), affordable(500), affordable(10_000)
    (20000, 4000, 2000)
    """
    return min(LINES, max(FEWEST, CELLS // max(1, columns)))


def sampled(batch: Batch, task: Task, most: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a model is fitted to: all :func:`labelled` rows, of a task per step at most ``most`` of the steps
    (:data:`LINES` by default).

    They are spread evenly over the steps of each class, one drawn from each of as many equal parts: to take every n-th
    step would be to see the same few places of every row.
    """
    lines, target, weight = labelled(batch, task)
    most = LINES if most is None else most
    if not task.per_step or len(lines) <= most:
        return lines, target, weight
    kinds = np.unique(target, return_inverse=True)[1] if task.kind != "regression" else np.zeros(len(target), int)
    counts = np.bincount(kinds)
    share = 1 + (most - len(counts)) * counts // len(lines)  # of every class at least one, as many as said at most
    rng = np.random.default_rng(0)
    kept = np.sort(np.concatenate([_spread(np.flatnonzero(kinds == k), share[k], rng) for k in range(len(counts))]))
    return lines[kept], target[kept], weight[kept]


def _spread(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """One of each of ``count`` equal parts of ``places``."""
    edges = np.linspace(0, len(places), count + 1).astype(int)
    return places[rng.integers(edges[:-1], edges[1:])]


def step_count(batch: Batch, task: Task) -> int:
    """T of a task per step."""
    return batch.valid[task.steps[0]].shape[1]


def lines_per_row(batch: Batch, task: Task) -> int:
    """How many lines a row of a task per step has: T, or T U."""
    return step_count(batch, task) * max(1, len(task.units))


def learnable(task: Task, target: np.ndarray) -> bool:
    """Whether there is anything to tell apart."""
    return len(target) > 1 if task.kind == "regression" else len(np.unique(target)) > 1


def codes(task: Task, target: np.ndarray) -> np.ndarray:
    """Class codes as integers; a regression's values as they are."""
    return target if task.kind == "regression" else target.astype(int)


def one_hot(task: Task, target: np.ndarray) -> np.ndarray:
    """``[B,C]`` for a multiclass task, ``[B,1]`` otherwise."""
    return np.eye(task.outputs)[target.astype(int)] if task.kind == "multiclass" else target[:, None]


def columns(batch: Batch, modalities: tuple[Modality, ...]) -> np.ndarray:
    """Per modality its columns, NaN where there is no value, then 1 where it is absent: float64 ``[B, columns]``.

    A sequence counts with each feature's mean, deviation, least, greatest and last value, a bag with the first four.
    """
    parts = []
    for modality in modalities:
        valid = batch.valid[modality.name].cpu().numpy()
        real = batch.observed[modality.name].cpu().numpy() & valid[..., None]
        values = np.where(real, array(batch.inputs[modality.name]), np.nan)
        parts.append(values if modality.kind == "vector" else _summary(values, real, modality.kind == "sequence"))
        parts.append(~valid.reshape(len(valid), -1).any(1)[:, None])
    return np.concatenate(parts, axis=1, dtype=float)


def step_columns(
    batch: Batch,
    modalities: tuple[Modality, ...],
    steps: tuple[str, ...],
    lines: np.ndarray,
    units: tuple[str, ...] = (),
) -> np.ndarray:
    """The columns of some lines of a task per step, float64 ``[lines, columns]``.

    Of each of the sequences ``steps``: the values at t and, of all but embeddings, at t - 1 and the mean over the steps
    up to t, NaN where there is no value, then 1 where the sequence is absent at t. Of every other modality the
    :func:`columns` of its row, which are the same at every step.

    Of lines of ``units``, a sequence among ``steps`` has the features that are of no unit, then those of the line's own
    one, whose columns all units share; it must name its features where any is of a unit.
    """
    before, unit = np.divmod(lines, max(1, len(units)))
    rows, places = np.divmod(before, batch.valid[steps[0]].shape[1])

    def of(modality: Modality) -> np.ndarray:
        if modality.name not in steps:
            return columns(batch, (modality,))[rows]
        clock = _clock(batch, modality)
        chosen = _of_units(modality, units) if units else None
        if chosen is None:
            return clock[rows, places]
        clock = np.concatenate([clock, np.full_like(clock[..., :1], np.nan)], axis=2)  # what a unit has none of
        return clock[rows[:, None], places[:, None], chosen[unit]]

    return np.concatenate([of(m) for m in modalities], axis=1)


def _of_units(modality: Modality, units: tuple[str, ...]) -> np.ndarray | None:
    """Which columns of :func:`_clock`, and one beyond them, each unit has: int ``[U, columns]``; ``None``: all."""
    if not any(feature.unit for feature in modality.features):
        return None
    shared, width, lagged = shared_columns(modality), modality.width, _lagged(modality, modality.width)
    rank = np.where(lagged, np.cumsum(lagged) - 1, -1)
    last = width + 2 * int(lagged.sum())  # whether the sequence is absent
    nothing = last + 1

    def columns_of(line: list[int]) -> list[int]:
        now = [place if place >= 0 else nothing for place in line]
        kept = [place for place in line if place < 0 or lagged[place]]
        earlier = [
            [width + part * int(lagged.sum()) + int(rank[place]) if place >= 0 else nothing for place in kept]
            for part in range(2)
        ]
        return [*now, *earlier[0], *earlier[1], last]

    return np.array([columns_of([*shared, *line]) for line in unit_columns(modality, units)])


def _lagged(modality: Modality, width: int) -> np.ndarray:
    """Which features count with earlier steps, too, bool ``[F]``: one number of a vector says too little for that."""
    return np.array([f.kind != "embedding" for f in modality.features] or [True] * width)


def parts(batch: Batch, task: Task) -> Iterator[tuple[Batch, np.ndarray]]:
    """The batch in parts of about :data:`LINES` lines at most, each with all of its lines of a task per step."""
    count, length = len(batch.weight), lines_per_row(batch, task)
    size = max(1, LINES // length)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        part = batch.map(lambda leaf, rows=rows: leaf[rows])
        yield part, np.arange(len(part.weight) * length)


def block_widths(
    modalities: tuple[Modality, ...], steps: tuple[str, ...] = (), units: tuple[str, ...] = ()
) -> np.ndarray:
    """Of each of the :func:`columns`, or :func:`step_columns`, how many its modality has: int ``[columns]``."""
    statistics = {"vector": 1, "bag": 4, "sequence": 5}
    chosen = {m.name: _of_units(m, units) for m in modalities if m.name in steps} if units else {}

    def width(modality: Modality) -> int:
        own = chosen.get(modality.name)
        if own is not None:
            return own.shape[1]
        if modality.name in steps:
            return modality.width + 2 * int(_lagged(modality, modality.width).sum()) + 1
        return statistics[modality.kind] * modality.width + 1

    widths = [width(m) for m in modalities]
    return np.repeat(widths, widths)


def _clock(batch: Batch, modality: Modality) -> np.ndarray:
    """One sequence step by step, ``[B,T,F+2L+1]``, L of its features with earlier steps."""
    valid = batch.valid[modality.name].cpu().numpy()
    real = batch.observed[modality.name].cpu().numpy() & valid[..., None]
    values = array(batch.inputs[modality.name])
    now = np.where(real, values, np.nan)
    lagged = _lagged(modality, values.shape[-1])
    own, values, real = now[..., lagged], values[..., lagged], real[..., lagged]
    before = np.full_like(own, np.nan)
    before[:, 1:] = own[:, :-1]
    with np.errstate(invalid="ignore"):  # 0 / 0 is the answer: no value
        mean = np.where(real, values, 0.0).cumsum(1) / real.cumsum(1)
    return np.concatenate([now, before, mean, ~valid[..., None]], axis=2, dtype=float)


def _summary(values: np.ndarray, real: np.ndarray, ordered: bool) -> np.ndarray:
    """Statistics over the real places of axis 1, ``[B,T,F] -> [B, 4F or 5F]``; NaN where there are none."""
    count, some = real.sum(1), real.any(1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the answer: no value
        mean = np.where(real, values, 0.0).sum(1) / count
        deviation = np.sqrt(np.where(real, (values - mean[:, None]) ** 2, 0.0).sum(1) / count)
    least = np.where(some, np.where(real, values, np.inf).min(1), np.nan)
    greatest = np.where(some, np.where(real, values, -np.inf).max(1), np.nan)
    last = real.shape[1] - 1 - real[:, ::-1].argmax(1)
    ending = [np.take_along_axis(values, last[:, None], 1)[:, 0]] if ordered else []
    return np.concatenate([mean, deviation, least, greatest, *ending], axis=1)


def row_space(columns: np.ndarray) -> np.ndarray | None:
    """Orthonormal directions ``[columns, B]`` that hold all B training rows; ``None`` where there are fewer columns.

    The weights of a linear model with an L2 penalty lie in the space of its training rows (representer theorem), so the
    model fitted there is the same one, with hundreds of weights in place of thousands.
    """
    rows, width = columns.shape
    return np.linalg.qr(columns.T)[0] if width > rows else None


def screen(columns: np.ndarray, targets: np.ndarray, weight: np.ndarray, spared: np.ndarray) -> np.ndarray:
    """Indices of the columns ``[B,F]`` to keep, in their own order.

    First those ``spared``, bool [F], then those that correlate most with any of ``targets`` ``[B,C]``; never a column
    without any value, which scikit-learn's trees cannot bin.
    """
    filled = np.flatnonzero(~np.isnan(columns).all(0))
    if len(filled) <= SCREENED:
        return filled
    root = np.sqrt(weight / weight.sum())[:, None]
    values = np.nan_to_num(columns[:, filled])
    x, y = (root * (a - np.average(a, axis=0, weights=weight)) for a in (values, targets))
    scale = np.linalg.norm(x, axis=0)[:, None] * np.linalg.norm(y, axis=0)
    correlation = np.divide(x.T @ y, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    merit = np.where(spared[filled], np.inf, np.abs(correlation).max(1))
    return np.sort(filled[np.argsort(-merit, kind="stable")[:SCREENED]])
