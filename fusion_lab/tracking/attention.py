"""The attention maps of a cross-validation as files: means, every row's weights, and one page of all maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fusion_lab.contracts import AttentionMap, Axis, Spec
from fusion_lab.report.attention import Summary, is_places, summarise, there
from fusion_lab.report.attention_page import Shown, attention_page
from fusion_lab.report.rows import choose_samples, row_groups
from fusion_lab.tracking.names import safe_parts
from fusion_lab.training.results import CrossValidation

FOLDER = "attention"
PAGE = f"{FOLDER}/attention.html"
MOST_BYTES = 5_000_000
"""What the weights of all maps of a trial may take, 4 bytes each, for every row's to be kept; beyond, its means are."""
TOO_LARGE = f"not kept: a trial keeps them where all of its maps take at most {MOST_BYTES // 10**6} MB"
LINES_AT_ONCE = 1_000_000


def drawn_maps(result: CrossValidation) -> dict[str, AttentionMap]:
    """The maps that have rows, by their path without an ending."""
    names = safe_parts(weights.name for weights in result.maps)
    return {f"{FOLDER}/{names[weights.name]}": weights for weights in result.maps if len(weights.row)}


def summary_of_map(weights: AttentionMap, result: CrossValidation, spec: Spec) -> Summary:
    """Means of a map over all validation rows and over groups of them by their target."""
    return summarise(weights, row_groups(weights.row, result.predictions.of("val"), spec))


def is_small(result: CrossValidation) -> bool:
    """Whether a trial keeps every row's weights: at most :data:`MOST_BYTES` over all maps."""
    return 4 * sum(int(np.count_nonzero(weights.values)) for weights in result.maps) <= MOST_BYTES


def attention_html(result: CrossValidation, spec: Spec, ids: np.ndarray) -> str:
    """One page of all maps, with their averages and some single rows; about 5 MB."""
    predictions = result.predictions.of("val")
    folds = {fold.fold: fold.name for fold in result.folds}
    maps = [
        Shown(weights, summary_of_map(weights, result, spec), f"{path.partition('/')[2]}.parquet")
        for path, weights in drawn_maps(result).items()
    ]
    return attention_page(maps, choose_samples(predictions, spec, ids, folds))


def attention_schema(axes: Sequence[Axis], value: str = "weight") -> pa.Schema:
    """Columns ``id``, ``fold``, one per axis under its name, ``value``; a name that is taken gets an underscore."""
    names = ["id", "fold"]
    for axis in axes:
        name = axis.name
        while name in (*names, value):
            name += "_"
        names.append(name)
    words = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([*zip(names, (words, pa.int32(), *[words] * len(axes)), strict=True), (value, pa.float32())])


def attention_table(weights: AttentionMap, ids: np.ndarray) -> pa.Table:
    """Every validation row's weights, a line each: positions in time or in a bag that a row does not have are left out,
    a modality that it does not have has weight 0, and no line where it would answer.
    """
    schema = _schema(weights)
    entry, *places = np.nonzero(_kept(weights))
    names, name_of = np.unique(np.asarray(ids)[weights.row].astype(str), return_inverse=True)
    columns = [
        _words(name_of[entry], names),
        pa.array(weights.fold[entry].astype(np.int32)),
        *(_words(place, axis.labels) for place, axis in zip(places, weights.axes, strict=True)),
        pa.array(weights.values[(entry, *places)].astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def attention_bytes(weights: AttentionMap, ids: np.ndarray) -> bytes:
    """:func:`attention_table` as a parquet file, some rows at a time: a map over time steps may have a great many."""
    sink = pa.BufferOutputStream()
    step = max(1, LINES_AT_ONCE // max(1, int(np.prod(weights.values.shape[1:]))))
    with parquet.ParquetWriter(sink, _schema(weights), compression="zstd") as writer:
        for first in range(0, len(weights.row), step):
            writer.write_table(attention_table(_entries(weights, slice(first, first + step)), ids))
    return sink.getvalue().to_pybytes()


def _schema(weights: AttentionMap) -> pa.Schema:
    return attention_schema(weights.axes, "answer" if weights.kind == "answer" else "weight")


def _kept(weights: AttentionMap) -> np.ndarray:
    """bool ``[P, ...]``: all but positions, along any axis of them, at which a row has no weight at all; of answers,
    those that were given.
    """
    if weights.kind == "answer":
        return there(weights)
    kept = np.ones(weights.values.shape, bool)
    for place, axis in enumerate(weights.axes, start=1):
        if is_places(axis):
            others = tuple(a for a in range(1, kept.ndim) if a != place)
            kept &= (weights.values > 0).any(others, keepdims=True)
    return kept


def _words(place: np.ndarray, words: Sequence[str] | np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32)), pa.array(list(words), pa.string()))


def _entries(weights: AttentionMap, keep: slice) -> AttentionMap:
    columns = (weights.fold[keep], weights.row[keep], weights.values[keep])
    return AttentionMap(weights.name, weights.kind, weights.axes, *columns)
