import io
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import AttentionMap, Axis
from fusion_lab.tracking import attention
from fusion_lab.tracking.attention import (
    attention_bytes,
    attention_html,
    attention_table,
    drawn_maps,
    is_small,
    summary_of_map,
)

IDS = np.array([f"patient {i}" for i in range(100)], dtype=object)
NAMES = {
    "step": "time step",
    "asking": "asking modality",
    "modality": "modality",
    "day": "day",
    "latent": "latent",
    "class": "class",
}


def make_map(names: list[str], sizes: list[int], there: np.ndarray, kind: str = "attention", seed: int = 0):
    """Weights of rows 3, 4, ... in folds 0, 1, 0, ...; ``there`` broadcasts to their shape."""
    rows = len(there)
    held = np.broadcast_to(there, (rows, *sizes))
    raw = np.random.default_rng(seed).uniform(0.1, 1, (rows, *sizes)) * held
    total = raw.sum(-1, keepdims=True)
    values = np.divide(raw, total, out=np.zeros_like(raw), where=total > 0) if kind == "attention" else raw
    axes = tuple(Axis(NAMES[n], tuple(str(i + 1) for i in range(size))) for n, size in zip(names, sizes, strict=True))
    return AttentionMap("map", kind, axes, np.arange(rows) % 2, np.arange(rows) + 3, values.astype(np.float32))


def lengths(rows: int, steps: int, seed: int) -> np.ndarray:
    """bool [rows, steps]: some or none of the last positions."""
    length = np.random.default_rng(seed).integers(0, steps + 1, rows)
    return np.arange(steps) >= steps - length[:, None]


def read(weights: AttentionMap):
    return parquet.read_table(io.BytesIO(attention_bytes(weights, IDS))).to_pandas()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 12), steps=st.integers(1, 6))
def test_a_line_for_each_position_that_a_row_has_and_its_weights_sum_to_1(seed, rows, steps):
    held = lengths(rows, steps, seed)
    weights = make_map(["day"], [steps], held, seed=seed)
    table = read(weights)
    expected = {(IDS[p + 3], p % 2, str(t + 1)): weights.values[p, t] for p, t in zip(*np.nonzero(held), strict=True)}
    found = {(r.id, r.fold, r.day): r.weight for r in table.itertuples()}
    assert found == pytest.approx(expected)
    assert len(table) == held.sum()
    assert np.allclose(table.groupby("id", observed=True)["weight"].sum(), 1, atol=1e-5)


def test_shares_of_every_row_and_query_sum_to_1_over_time_too():
    has = np.random.default_rng(1).uniform(size=(9, 3)) < 0.7
    has[:, 0] = True
    steps = lengths(9, 5, 1)
    weights = make_map(["step", "asking", "modality"], [5, 3, 3], steps[:, :, None, None] & has[:, None, None, :])
    table = read(weights)
    assert list(table.columns) == ["id", "fold", "time step", "asking modality", "modality", "weight"]
    sums = table.groupby(["id", "fold", "time step", "asking modality"], observed=True)["weight"].sum()
    assert len(sums) == steps.sum() * 3
    assert np.allclose(sums, 1, atol=1e-5)
    # a modality that a row does not have has its line, with weight 0: the steps that it has are whole
    assert len(table) == steps.sum() * 9
    assert (table["weight"] == 0).sum() == (steps.sum(1) * (~has).sum(1) * 3).sum()


def test_modalities_of_a_row_with_none_are_kept_as_zeros():
    weights = make_map(["latent", "modality"], [2, 3], np.zeros((4, 1, 1), bool))
    assert read(weights)["weight"].tolist() == [0] * 24


def test_gates_are_kept_as_they_are():
    weights = make_map(["modality"], [3], np.ones((5, 1), bool), kind="gate")
    assert np.array_equal(read(weights)["weight"].to_numpy().reshape(5, 3), weights.values)


def test_answers_are_kept_where_they_were_given():
    has = np.random.default_rng(1).uniform(size=(9, 3)) < 0.7
    weights = make_map(["modality", "class"], [3, 4], has[:, :, None], kind="answer")
    table = read(weights)
    assert list(table.columns) == ["id", "fold", "modality", "class", "answer"]
    assert np.array_equal(table["answer"].to_numpy(), weights.values[np.broadcast_to(has[:, :, None], (9, 3, 4))])


def test_many_rows_are_written_some_at_a_time(monkeypatch):
    weights = make_map(["day"], [6], lengths(40, 6, 2))
    whole = attention_table(weights, IDS).to_pandas().astype({"id": str, "day": str})
    monkeypatch.setattr(attention, "LINES_AT_ONCE", 30)
    content = attention_bytes(weights, IDS)
    assert parquet.ParquetFile(io.BytesIO(content)).num_row_groups > 1
    assert read(weights).astype({"id": str, "day": str}).equals(whole)
    columns = parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    assert {columns.column(i).compression for i in range(columns.num_columns)} == {"ZSTD"}


def test_an_axis_may_be_called_as_a_column():
    weights = make_map(["day", "modality"], [2, 2], np.ones((3, 1, 1), bool))
    for name in ("id", "fold", "weight"):
        axes = (weights.axes[0]._replace(name=name), weights.axes[1])
        assert read(replace(weights, axes=axes)).columns.tolist() == ["id", "fold", f"{name}_", "modality", "weight"]


def test_a_trial_keeps_every_row_up_to_a_size_over_all_maps(make_outcome, monkeypatch):
    result = make_outcome(count=3, epochs=4).result
    weights = result.maps[0]
    taken = 4 * np.count_nonzero(weights.values)
    twice = replace(result, maps=(weights, replace(weights, name="again")))
    monkeypatch.setattr(attention, "MOST_BYTES", taken)
    assert is_small(result)
    assert not is_small(twice)
    monkeypatch.setattr(attention, "MOST_BYTES", 2 * taken)
    assert is_small(twice)


def test_maps_without_rows_are_not_drawn(make_outcome):
    result = make_outcome(count=3, epochs=4).result
    weights = result.maps[0]
    empty = replace(weights, name="empty", fold=weights.fold[:0], row=weights.row[:0], values=weights.values[:0])
    assert drawn_maps(replace(result, maps=(weights, empty))) == {"attention/modalities_ last layer": weights}


def test_panels_are_the_classes_of_the_first_task(make_outcome):
    outcome = make_outcome(count=3)
    summary = summary_of_map(outcome.result.maps[0], outcome.result, outcome.spec)
    classes = Counter("" if i % 7 == 0 else "died" if i % 3 == 0 else "alive" for i in range(60))
    assert [(p.name, p.rows) for p in summary.main.panels] == [
        ("all rows", 60),
        ("alive", classes["alive"]),
        ("died", classes["died"]),
    ]
    assert summary.by == "classes of death (5 y)"


def test_the_page_holds_every_map_and_names_rows_by_their_ids(make_outcome):
    outcome = make_outcome(count=3)
    weights = outcome.result.maps[0]
    result = replace(outcome.result, maps=(weights, replace(weights, name="modalities/ last layer")))
    page = attention_html(result, outcome.spec, outcome.ids)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [m["name"] for m in data["maps"]] == ["modalities: last layer", "modalities/ last layer"]
    assert len({m["table"] for m in data["maps"]}) == 2
    named = {sample["id"] for sample in data["samples"]}
    assert named == {f"patient {i}" for i in range(60) if i % 7}  # the others' class is unknown
