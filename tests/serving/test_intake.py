"""Rows of a caller: what they may look like, and what is said where they cannot be used."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.contracts import UNKNOWN, DataError, Feature, Modality, Spec, Task
from fusion_lab.serving.intake import Place, batch_of, read_rows, spans

CLINIC = Modality(
    "clinic",
    "vector",
    (
        Feature("age", "numeric", "age"),
        Feature("hb", "numeric", "hb", gaps=True),
        Feature("sex", "binary", "sex", category="m", other="f"),
        *(Feature(f"stage={word}", "category", "stage", word, gaps=True) for word in ("I", "II", UNKNOWN)),
        Feature("hb missing", "indicator", "hb"),
    ),
    missing=("-9",),
)
GAIT = Modality("gait", "sequence", (Feature("x"), Feature("y", gaps=True)), length=4, place="second")
CELLS = Modality("cells", "bag", (Feature("size"),), length=3, place="cell")
SPEC = Spec((CLINIC, GAIT, CELLS), (Task("death", "binary", ("no", "yes")),))
ROW = {
    "clinic": {"age": 61, "hb": 13.5, "sex": "m", "stage": "II"},
    "gait": [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": None}],
    "cells": [[5.0], [6.0]],
}


def read(*rows):
    return batch_of(read_rows(rows, SPEC), SPEC)


def test_a_row_becomes_what_the_spec_says():
    batch = read(ROW)
    assert batch.inputs["clinic"].tolist() == [[61, 13.5, 1, 0, 1, 0, 0]]
    assert batch.valid["gait"].tolist() == [[False, False, True, True]]
    assert batch.inputs["gait"][0, 2:].tolist() == [[1, 2], [3, 0]]
    assert batch.observed["gait"][0, 3].tolist() == [True, False]
    assert batch.inputs["cells"][0, :, 0].tolist() == [5, 6, 0]
    assert batch.valid["cells"].tolist() == [[True, True, False]]
    assert all(quality.tolist() == [1.0] for quality in batch.quality.values())


def test_lists_in_the_order_of_the_columns_are_the_same_row():
    short = {"clinic": [61, 13.5, "m", "II"], "gait": [[1.0, 2.0], [3.0, None]], "cells": [{"size": 5}, {"size": 6}]}
    arrays = {**ROW, "gait": np.array([[1.0, 2.0], [3.0, np.nan]]), "cells": np.array([[5.0], [6.0]])}
    for other in (short, arrays):
        for first, second in zip(read(ROW)[:4], read(other)[:4], strict=True):
            for name in first:
                torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


@pytest.mark.slow
@given(st.lists(st.sets(st.sampled_from(["clinic", "gait", "cells"]), min_size=1), min_size=1, max_size=5))
def test_any_subset_of_modalities_is_taken_and_a_row_does_not_change_its_neighbours(subsets):
    rows = [{name: ROW[name] for name in subset} for subset in subsets]
    batch = read(*rows)
    for number, subset in enumerate(subsets):
        alone = read(rows[number])
        for name in ("clinic", "gait", "cells"):
            assert bool(batch.valid[name][number].any()) == (name in subset)
            assert torch.equal(batch.inputs[name][number], alone.inputs[name][0])


def test_none_is_missing_and_so_is_an_empty_list():
    batch = read({"clinic": None, "gait": [], "cells": ROW["cells"]}, ROW)
    assert batch.valid["clinic"].tolist() == [False, True]
    assert batch.valid["gait"].any(1).tolist() == [False, True]


def test_a_declared_missing_value_and_an_empty_category_are_as_in_training():
    batch = read({"clinic": {**ROW["clinic"], "hb": -9, "stage": None}})
    assert batch.observed["clinic"][0].tolist() == [True, False, True, True, True, True, True]
    assert batch.inputs["clinic"][0, 3:].tolist() == [0, 0, 1, 1]


def test_quality_is_taken_and_one_where_it_is_not_given():
    batch = read({**ROW, "quality": {"gait": 0.25}}, ROW)
    assert batch.quality["gait"].tolist() == [0.25, 1.0]
    assert batch.quality["clinic"].tolist() == [1.0, 1.0]


def test_spans_tell_how_many_steps_were_given():
    cells = {"cells": ROW["cells"]}
    found = read_rows([ROW, cells, {"gait": [[1.0, 2.0]] * 4}], SPEC)
    assert spans(found, "gait", np.arange(3)).tolist() == [2, 0, 4]
    assert spans(read_rows([cells], SPEC), "gait", np.arange(1)).tolist() == [0]


def test_rows_go_by_their_ids_and_errors_of_a_file_by_their_lines():
    rows = [{**ROW, "id": "p7"}, {**ROW, "id": 8}, ROW]
    place = Place("rows.jsonl", "line", [1, 3, 4])
    assert read_rows(rows, SPEC, place).ids.tolist() == ["p7", "8", "4"]
    for broken, said in (
        ({"gate": []}, "rows.jsonl: line 4: unknown modality 'gate'"),
        (
            but("clinic", age="old"),
            "rows.jsonl: modality 'clinic': line 4, column 'age': expected a number, found 'old'",
        ),
        ({"gait": [[1]]}, "rows.jsonl: line 4, second 1: modality 'gait': expected 2 cells, found 1"),
    ):
        with pytest.raises(DataError) as refused:
            batch_of(read_rows([*rows[:2], broken], SPEC, place), SPEC)
        assert str(refused.value).startswith(said), str(refused.value)


def but(modality, **cells):
    return {**ROW, modality: {**ROW[modality], **cells}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "row 1: expected at least one modality of clinic, gait, cells, found none"),
        ({"id": 3, "gait": [], "clinic": None}, "row 1 (3): expected at least one modality"),
        ({**ROW, "id": [1]}, "row 1: id: expected a text or a number, found [1]"),
        ({**ROW, "id": "\ud800"}, "row 1: id: expected one line of text"),
        ("text", "row 1: expected an object of modalities, found 'text'"),
        ({"clinc": {}}, "row 1: unknown modality 'clinc' (did you mean 'clinic'?)"),
        ({"id": "p7", "gate": []}, "row 1 (p7): unknown modality 'gate'"),
        (but("clinic", agee=3), "row 1: modality 'clinic': unknown column 'agee' (did you mean 'age'?)"),
        (but("clinic", age="old"), "modality 'clinic': row 1, column 'age': expected a number, found 'old'"),
        (
            but("clinic", age=float("inf")),
            "modality 'clinic': row 1, column 'age': expected a finite number, found inf",
        ),
        ({"cells": [[10**400]]}, "modality 'cells': row 1, cell 1, column 'size': expected a finite number"),
        (but("clinic", age=float("nan")), "modality 'clinic': row 1, column 'age': expected a value"),
        (but("clinic", age=None), "modality 'clinic': row 1, column 'age': expected a value"),
        (but("clinic", stage="IV"), "modality 'clinic': row 1, column 'stage': expected"),
        (but("clinic", sex="x"), "modality 'clinic': row 1, column 'sex': expected"),
        ({"clinic": [1, 2]}, "row 1: modality 'clinic': expected 4 cells, found 2"),
        ({"clinic": 3}, "row 1: modality 'clinic': expected 4 cells, as an object or a list, found 3"),
        (
            {"clinic": [[1], 2, 3, 4]},
            "row 1: modality 'clinic': expected a number, a text or nothing in each cell, found [1]",
        ),
        ({"gait": 1.0}, "row 1: modality 'gait': expected a list with an entry per second, found 1.0"),
        ({"gait": [1.0, 2.0]}, "row 1, second 1: modality 'gait': expected 2 cells, as an object or a list, found 1.0"),
        ({"gait": [[1, 2]] * 5}, "row 1: modality 'gait': expected at most 4 entries, found 5"),
        ({"gait": [[1, 2], [None, 2]]}, "modality 'gait': row 1, second 2, column 'x': expected a value"),
        (
            {"gait": [[1, 2], [3, float("-inf")]]},
            "modality 'gait': row 1, second 2, column 'y': expected a finite number",
        ),
        ({"quality": {"gait": 2}}, "row 1: quality of 'gait': expected a number in [0, 1], found 2"),
        ({"quality": {"gate": 1}}, "row 1: quality: unknown modality 'gate'"),
        ({"quality": 1}, "row 1: quality: expected {modality: number in [0, 1]}, found 1"),
    ],
)
def test_what_cannot_be_used_is_named_by_row_modality_and_column(row, said):
    with pytest.raises(DataError) as refused:
        read(row)
    assert said in str(refused.value), str(refused.value)


def test_the_row_at_fault_is_named():
    with pytest.raises(DataError, match="row 3"):
        read(ROW, ROW, but("clinic", age="old"))
