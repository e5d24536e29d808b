"""What a model says of rows: class names, probabilities, how far its members differ, and what they weighed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fusion_lab.contracts import DataError, Spec, Task
from fusion_lab.data.raw import Records
from fusion_lab.evaluation.calibration import with_temperature
from fusion_lab.serving.intake import batch_of, spans
from fusion_lab.serving.members import Answer
from fusion_lab.serving.package import Package

ROWS_AT_ONCE = 256
ATTENTION = "attention"


def answer(package: Package, records: Records, rows: np.ndarray | None = None, strict: bool = True) -> Answer:
    """Answers of every member for raw rows, before temperatures: what out-of-fold predictions are compared with."""
    chosen = np.arange(len(records)) if rows is None else rows
    parts = [package.members.answer(batch_of(records, package.spec, part, strict)) for part in _chunks(chosen)]
    if len(parts) == 1:
        return parts[0]
    scores, maps = (
        {
            name: np.concatenate([getattr(part, kind)[name] for part in parts], axis=1)
            for name in getattr(parts[0], kind)
        }
        for kind in ("scores", "maps")
    )
    return Answer(scores, maps)


def pooled(package: Package, scores: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean and deviation over members ``[K,B,...]`` of calibrated probabilities or values: ``[B,...]`` each.

    The deviation of a single member is NaN: there is nothing that it could differ from.
    """
    mean, spread = {}, {}
    for task in package.spec.tasks:
        each = with_temperature(task, scores[task.name], package.temperature.get(task.name, 1.0))
        mean[task.name] = each.mean(0)
        spread[task.name] = each.std(0, ddof=1) if len(each) > 1 else np.full(each.shape[1:], np.nan)
    return mean, spread


def predict(
    package: Package,
    records: Records,
    attention: bool = False,
    on_rows: Callable[[int], object] | None = None,
) -> pd.DataFrame:
    """A line per row. Of a task ``t``: ``t`` (class name or value), ``t.probability.<class>``, ``t.spread``; of a task
    per step lists in place of single values, as long as the sequence that was given, and of a task with units
    ``{unit: value}`` for each step.

    ``t.spread`` is the deviation over members of the probability of the class that is named (of the value of a
    regression), ``None`` for a single member. With ``attention`` a column of that name: ``{map: {"axes": [[name,
    labels], ...], "weights": nested lists}}``, the mean over members. ``on_rows`` is told of every part,
    by the number of its rows.
    """
    lines: list[dict[str, Any]] = []
    for rows in _chunks(np.arange(len(records))):
        found = package.members.answer(batch_of(records, package.spec, rows))
        _refuse_nonsense(package, found)
        mean, spread = pooled(package, found.scores)
        told = {
            t.name: _tell(t, mean[t.name], spread[t.name], package, _spans(t, records, rows))
            for t in package.spec.tasks
        }
        shown = list(_attention(package, found.maps, records, rows)) if attention else [None] * len(rows)
        for place in range(len(rows)):
            line = {name: column[place] for columns in told.values() for name, column in columns.items()}
            lines.append({**line, ATTENTION: shown[place]} if attention else line)
        if on_rows is not None:
            on_rows(len(rows))
    return pd.DataFrame(lines, columns=[*columns_of(package.spec), *([ATTENTION] if attention else [])])


def _refuse_nonsense(package: Package, found: Answer) -> None:
    for task, scores in found.scores.items():
        if not np.isfinite(scores).all():
            raise DataError(f"{package.name}: task {task!r}: expected finite answers of the model, found others")


def columns_of(spec: Spec) -> list[str]:
    """The names of the columns that :func:`predict` gives."""
    return [name for task in spec.tasks for name in _columns(task)]


def _columns(task: Task) -> list[str]:
    return [task.name, *(f"{task.name}.probability.{name}" for name in task.classes), f"{task.name}.spread"]


def _tell(
    task: Task, mean: np.ndarray, spread: np.ndarray, package: Package, span: np.ndarray | None
) -> dict[str, list[Any]]:
    """The columns of one task, an entry per row."""
    if task.kind == "regression":
        columns = [mean, spread]
    else:
        probability = mean if task.kind == "multiclass" else np.stack([1 - mean, mean], axis=-1)
        code = probability.argmax(-1) if task.kind == "multiclass" else mean >= package.threshold.get(task.name, 0.5)
        code = code.astype(int)
        own = np.take_along_axis(spread, code[..., None], -1)[..., 0] if task.kind == "multiclass" else spread
        names = np.array(task.classes, dtype=object)[code]
        columns = [names, *np.moveaxis(probability, -1, 0), own]
    return {name: _plain(column, span, task.units) for name, column in zip(_columns(task), columns, strict=True)}


def _plain(column: np.ndarray, span: np.ndarray | None, units: tuple[str, ...] = ()) -> list[Any]:
    """Python values ``[B]``, NaN as ``None``; of ``[B,T]`` the last ``span`` steps of each row, as lists; of
    ``[B,T,U]`` with the values of each step by ``units``.
    """
    plain = column.astype(object)
    plain[pd.isna(column)] = None
    rows = plain.tolist()
    if span is None:
        return rows
    given = [steps[len(steps) - min(n, len(steps)) :] for steps, n in zip(rows, span, strict=True)]
    return [[dict(zip(units, values, strict=True)) for values in steps] for steps in given] if units else given


def _spans(task: Task, records: Records, rows: np.ndarray) -> np.ndarray | None:
    """How many steps of a task per step each row has; ``None`` of another task."""
    if not task.per_step:
        return None
    return np.max([spans(records, name, rows) for name in task.steps], axis=0)


def _attention(
    package: Package, maps: Mapping[str, np.ndarray], records: Records, rows: np.ndarray
) -> Iterator[dict[str, Any]]:
    """The members' mean maps, row by row."""
    for place in range(len(rows)):
        yield {
            name: {
                "axes": [[axis.name, list(axis.labels)] for axis in package.members.maps[name].axes],
                "weights": values[:, place].mean(0).tolist(),
            }
            for name, values in maps.items()
        }


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
