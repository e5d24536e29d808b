"""Predictions as a table that outlives the program: one line per fold, row, task and class."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fusion_lab.contracts import Predictions, Spec, Task


def prediction_table(predictions: Predictions, spec: Spec, ids: np.ndarray) -> pa.Table:
    """Columns ``id``, ``fold``, ``split``, ``task``, ``class``, ``step``, ``target``, ``known``, ``score``.

    ``class`` is what ``score`` is the probability of: the positive class of a binary task, each class of a multiclass
    one in turn, empty for a regression. ``target`` is the class's code or the value, null where unknown. ``step`` is 0
    without steps.
    """
    return pa.concat_tables([_task_table(predictions, task, ids) for task in spec.tasks])


def prediction_bytes(predictions: Predictions, spec: Spec, ids: np.ndarray) -> bytes:
    """The table as a parquet file."""
    sink = pa.BufferOutputStream()
    parquet.write_table(prediction_table(predictions, spec, ids), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _task_table(predictions: Predictions, task: Task, ids: np.ndarray) -> pa.Table:
    classes = list(task.classes) if task.kind == "multiclass" else [task.positive or ""]
    entries = len(predictions.row)
    target = predictions.target[task.name].reshape(entries, -1)  # [P, T], T = 1 without steps
    known = predictions.known[task.name].astype(bool).reshape(entries, -1)
    steps = target.shape[1]
    score = predictions.score[task.name].reshape(entries, steps, len(classes))
    shape = score.shape

    def each(values: np.ndarray) -> np.ndarray:
        """``[P]`` or ``[P, T]`` for every line."""
        return np.broadcast_to(values.reshape(entries, -1, 1), shape).reshape(-1)

    return pa.table(
        {
            "id": pa.array(each(np.asarray(ids)[predictions.row]).astype(str)),
            "fold": pa.array(each(predictions.fold).astype(np.int32)),
            "split": pa.array(each(predictions.split).astype(str)).dictionary_encode(),
            "task": pa.array([task.name] * score.size, pa.string()).dictionary_encode(),
            "class": pa.array(classes * (entries * steps), pa.string()).dictionary_encode(),
            "step": pa.array(np.broadcast_to(np.arange(steps, dtype=np.int32)[:, None], shape).reshape(-1)),
            "target": pa.array(each(target).astype(np.float64), mask=~each(known)),
            "known": pa.array(each(known)),
            "score": pa.array(score.reshape(-1).astype(np.float64)),
        }
    )
