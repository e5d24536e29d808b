"""Predictions as a table that outlives the program: one line per fold, row, step, unit, task and class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from fusion_lab.contracts import DataError, Dataset, Predictions, Spec, Task

COLUMNS = ("id", "group", "recording", "fold", "split", "task", "class", "step", "unit", "target", "known", "score")
NEEDED = tuple(name for name in COLUMNS if name not in ("group", "recording", "unit"))
"""What a table has to hold: those of earlier versions know nothing of groups, recordings and units."""
AUXILIARY = b"fusion_lab.auxiliary"
_ENTRY = ["fold", "split", "id"]


@dataclass(frozen=True)
class RowNames:
    """What a data set calls its rows: ``ids`` str [R], ``group`` and ``recording`` alike or ``None``."""

    ids: np.ndarray
    group: np.ndarray | None = None
    recording: np.ndarray | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> RowNames:
        return cls(dataset.ids, dataset.group, dataset.recording)


def prediction_table(predictions: Predictions, spec: Spec, names: RowNames) -> pa.Table:
    """The columns :data:`COLUMNS`, a line per entry, task, step, unit and class.

    ``group`` and ``recording`` are null where the data set has none. ``class`` is what ``score`` is the probability of:
    the positive class of a binary task, each class of a multiclass one in turn, empty for a regression. ``target`` is
    the class's code or the value, null where unknown. ``step`` is 0 without steps, ``unit`` empty without units. The
    groups of auxiliary tasks are in the schema's metadata, :data:`AUXILIARY`, ``{task: group}`` as JSON.
    """
    table = pa.concat_tables([_task_table(predictions, task, names) for task in spec.tasks])
    auxiliary = {task.name: task.auxiliary for task in spec.tasks if task.auxiliary}
    return table.replace_schema_metadata({AUXILIARY: json.dumps(auxiliary)}) if auxiliary else table


def prediction_bytes(predictions: Predictions, spec: Spec, names: RowNames) -> bytes:
    """The table of :func:`prediction_table` as a parquet file."""
    return parquet_bytes(prediction_table(predictions, spec, names))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a parquet file."""
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_predictions(data: bytes | Path) -> pa.Table:
    """The table that :func:`prediction_bytes` wrote, from memory or from a file.

    Raises:
        DataError: not a parquet file.
    """
    try:
        return parquet.read_table(pa.BufferReader(data) if isinstance(data, bytes) else data)
    except (pa.ArrowException, OSError) as error:
        where = "predictions" if isinstance(data, bytes) else data
        found = str(error).split("\n", 1)[0]
        raise DataError(f"{where}: expected a parquet file of predictions, found {found}") from error


def predictions_from_table(table: pa.Table, spec: Spec, ids: np.ndarray) -> Predictions:
    """The inverse of :func:`prediction_table`, whatever the order of the table's lines: rows are places in ``ids``.

    Entries are in the order in which the table's first task has them; unknown targets are 0, scores are float64.

    Raises:
        DataError: an id that is not among ``ids``, a task that is not in the table, lines missing or too many.
    """
    _refuse_missing(table)
    frame = table.to_pandas()
    parts = {task.name: frame[frame["task"] == task.name] for task in spec.tasks}
    keys = pd.MultiIndex.from_frame(parts[spec.tasks[0].name][_ENTRY].astype({"split": str})).unique()
    row = pd.Index(np.asarray(ids).astype(str)).get_indexer(keys.get_level_values("id").astype(str))
    if (row < 0).any():
        expected = "predictions: expected ids of the data set"
        raise DataError(f"{expected}, found {(row < 0).sum()} of {len(row)} entries with an id that is not in it")
    columns = {task.name: _task_columns(parts[task.name], task, keys) for task in spec.tasks}
    by_kind = ({name: of[kind] for name, of in columns.items()} for kind in range(3))
    fold = keys.get_level_values("fold").to_numpy().astype(int)
    return Predictions(fold, keys.get_level_values("split").to_numpy().astype(str), row, *by_kind)


def row_names(table: pa.Table) -> RowNames:
    """The rows that a table of predictions tells of, in the order of their ids.

    Raises:
        DataError: a column is missing, or a row is said to be of two groups or recordings.
    """
    _refuse_missing(table)
    named = [name for name in ("group", "recording") if name in table.column_names]
    frame = table.select(["id", *named]).to_pandas().drop_duplicates().sort_values("id")
    if frame["id"].duplicated().any():
        expected = f"predictions: expected one {' and one '.join(named)} per row"
        raise DataError(f"{expected}, found row {frame['id'][frame['id'].duplicated()].iloc[0]!r} with several")
    found = {name: frame[name].to_numpy().astype(str) for name in named if frame[name].notna().all() and len(frame)}
    return RowNames(frame["id"].to_numpy().astype(str), found.get("group"), found.get("recording"))


def tasks_of(table: pa.Table) -> tuple[Task, ...]:
    """The tasks that a table of predictions tells of: names, kinds and classes, as far as its lines show them.

    The other class of a binary task is called ``not <class>``.
    """
    _refuse_missing(table)
    beside = ["unit"] if "unit" in table.column_names else []
    frame = table.select(["task", "class", "step", *beside]).to_pandas()
    tasks, auxiliary = [], json.loads((table.schema.metadata or {}).get(AUXILIARY, b"{}"))
    for name, lines in frame.groupby("task", sort=False, observed=True):
        classes, group = tuple(str(c) for c in lines["class"].unique()), auxiliary.get(str(name), "")
        units = tuple(str(unit) for unit in lines["unit"].unique() if unit) if beside else ()
        steps = ("steps",) if lines["step"].max() > 0 or units else ()
        if classes == ("",):
            tasks.append(Task(str(name), "regression", (), steps, group, units))
        elif len(classes) == 1:
            tasks.append(Task(str(name), "binary", (f"not {classes[0]}", *classes), steps, group, units))
        else:
            tasks.append(Task(str(name), "multiclass", classes, steps, group, units))
    return tuple(tasks)


def _refuse_missing(table: pa.Table) -> None:
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise DataError(f"predictions: expected columns {', '.join(NEEDED)}, found none named {missing[0]!r}")


def _task_columns(part: pd.DataFrame, task: Task, keys: pd.MultiIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, known and score of one task's lines."""
    classes, units = _classes(task), list(task.units or ("",))
    entry = keys.get_indexer(pd.MultiIndex.from_frame(part[_ENTRY].astype({"split": str})))
    step, code = part["step"].to_numpy(), pd.Index(classes).get_indexer(part["class"].astype(str))
    named = part["unit"].astype(str) if "unit" in part else np.full(len(part), "")
    unit = pd.Index(units).get_indexer(named)
    shape = len(keys), int(step.max(initial=0)) + 1, len(units), len(classes)
    inside = (entry >= 0) & (step >= 0) & (unit >= 0) & (code >= 0)
    place = np.ravel_multi_index((entry[inside], step[inside], unit[inside], code[inside]), shape)
    if not len(part) or len(np.unique(place)) != len(part) or len(part) != np.prod(shape):
        places = "step, unit and class" if task.units else "step and class"
        expected = f"predictions: expected one line per entry, {places} of task {task.name!r}"
        found = f"{len(part)} lines, {len(np.unique(place))} of them such ones" if len(part) else "none"
        raise DataError(f"{expected}, {np.prod(shape)} in all, found {found}")
    lines = np.argsort(place)
    target, known, score = (part[name].to_numpy()[lines].reshape(shape) for name in ("target", "known", "score"))
    target, known = (values[..., 0] for values in (np.where(known, target, 0.0), known))
    if task.kind != "multiclass":
        score = score[..., 0]
    of_units = slice(None) if task.units else 0
    target, known, score = (values[:, :, of_units] for values in (target, known, score))
    return (target, known, score) if task.per_step else (target[:, 0], known[:, 0], score[:, 0])


def _classes(task: Task) -> list[str]:
    return list(task.classes) if task.kind == "multiclass" else [task.positive or ""]


def _task_table(predictions: Predictions, task: Task, names: RowNames) -> pa.Table:
    classes = _classes(task)
    entries = len(predictions.row)
    units = task.units or ("",)
    target = predictions.target[task.name].reshape(entries, -1)  # [P, T U], T = 1 without steps, U = 1 without units
    known = predictions.known[task.name].astype(bool).reshape(entries, -1)
    places = target.shape[1]
    score = predictions.score[task.name].reshape(entries, places, len(classes))
    shape = score.shape
    step, unit = np.divmod(np.arange(places, dtype=np.int32), np.int32(len(units)))

    def each(values: np.ndarray) -> np.ndarray:
        """``[P]`` or ``[P, T U]`` for every line."""
        return np.broadcast_to(values.reshape(entries, -1, 1), shape).reshape(-1)

    def named(of_row: np.ndarray | None) -> pa.DictionaryArray:
        if of_row is None:
            return pa.nulls(score.size, pa.string()).dictionary_encode()
        return pa.array(each(np.asarray(of_row)[predictions.row]).astype(str)).dictionary_encode()

    return pa.table(
        {
            "id": pa.array(each(np.asarray(names.ids)[predictions.row]).astype(str)),
            "group": named(names.group),
            "recording": named(names.recording),
            "fold": pa.array(each(predictions.fold).astype(np.int32)),
            "split": pa.array(each(predictions.split).astype(str)).dictionary_encode(),
            "task": pa.array([task.name] * score.size, pa.string()).dictionary_encode(),
            "class": pa.array(classes * (entries * places), pa.string()).dictionary_encode(),
            "step": pa.array(np.broadcast_to(step[:, None], shape).reshape(-1)),
            "unit": pa.DictionaryArray.from_arrays(np.broadcast_to(unit[:, None], shape).reshape(-1), list(units)),
            "target": pa.array(each(target).astype(np.float64), mask=~each(known)),
            "known": pa.array(each(known)),
            "score": pa.array(score.reshape(-1).astype(np.float64)),
        }
    )
