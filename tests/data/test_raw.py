"""Encoding raw rows: a function of the spec and of the row alone; what a served model cannot know is refused."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import UNKNOWN, DataError, Feature, Modality
from fusion_lab.data.cells import words_of
from fusion_lab.data.raw import RawModality, encode
from fusion_lab.data.readers import Table

FEATURES = (
    Feature("age", "numeric", gaps=True),
    Feature("sex", "binary", "sex", "m", "f"),
    Feature("ever", "binary"),
    *(Feature(f"site={name}", "category", "site", name, gaps=True) for name in ("lung", "skin", UNKNOWN)),
    Feature("age missing", "indicator", "age", gaps=True),
)
VECTOR = Modality("clinic", "vector", FEATURES, missing=("-9", "?"))


def raw(lines, row=None, position=None, span=None, rows=None, columns=("age", "sex", "ever", "site")):
    row = np.arange(len(lines)) if row is None else np.array(row, dtype=int)
    rows = len(lines) if rows is None else rows
    cells = np.array(lines, dtype=object).reshape(len(lines), len(columns))
    frame = pd.DataFrame(cells, pd.RangeIndex(2, len(lines) + 2), list(columns), dtype=object)
    place = [None if part is None else np.array(part, dtype=int) for part in (position, span)]
    return RawModality(Table("c.csv", "c.csv", Path(), frame, "line"), row, *place, np.ones(rows, np.float32))


def test_cells_become_features():
    made = encode(VECTOR, raw([("61", "m", "0", "skin"), (-9, "f", 1.0, "?"), (" ", None, "", "NA")]))
    assert made.inputs.tolist() == [[61, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1, 1], [0] * 7]
    assert made.observed.tolist() == [[True] * 7, [False, *[True] * 6], [False] * 7]
    assert made.valid.tolist() == [True, True, False]


def test_a_category_outside_the_vocabulary_is_unknown_unless_strict():
    rows = raw([("61", "m", "0", "bone")])
    assert encode(VECTOR, rows).inputs[0, 3:6].tolist() == [0, 0, 1]
    with pytest.raises(DataError) as refused:
        encode(VECTOR, rows, strict=True)
    found = "expected one of 'lung', 'skin', 'unknown', found 'bone'"
    assert str(refused.value) == f"c.csv: line 2, column 'site': {found}"
    assert encode(VECTOR, raw([("61", "m", "0", UNKNOWN)]), strict=True).inputs[0, 5] == 1


@pytest.mark.parametrize(
    ("line", "strict", "told"),
    [
        (("61", "x", "0", "skin"), True, "column 'sex': expected one of 'f', 'm', found 'x'"),
        (("61", "x", "0", "skin"), False, "column 'sex': expected 'f' or 'm' in a binary column, found 'x'"),
        (("61", "m", "2", "skin"), True, "column 'ever': expected one of '0', '1', found '2'"),
        (("old", "m", "1", "skin"), True, "column 'age': expected a number, found 'old'"),
        (("inf", "m", "1", "skin"), True, "column 'age': expected a finite number, found inf"),
        (
            ("61", "", "1", "skin"),
            True,
            "column 'sex': expected a value: no training row misses it, found an empty cell; "
            "leave the whole modality out where it is not known",
        ),
        (("61", "m", "?", "skin"), True, "column 'ever': expected a value: no training row misses it"),
    ],
)
def test_cells_that_do_not_fit_are_told_with_their_line(line, strict, told):
    with pytest.raises(DataError) as refused:
        encode(VECTOR, raw([("50", "f", "1", "lung"), line]), strict)
    assert str(refused.value).startswith(f"c.csv: line 3, {told}")


@pytest.mark.parametrize("kind", ["numeric", "embedding"])
def test_numbers_are_taken_as_they_are(kind):
    modality = Modality("m", "vector", (Feature("x", kind, gaps=True), Feature("y", kind, gaps=True)))
    made = encode(modality, raw([("0.5", -2.0), ("", "1e-3")], columns=("x", "y")))
    np.testing.assert_array_equal(made.inputs, np.float32([[0.5, -2], [0, 1e-3]]))
    assert made.observed.tolist() == [[True, True], [False, True]]


def test_a_row_without_any_cell_is_absent_even_where_cells_must_not_be_missing():
    made = encode(VECTOR, raw([("", "", "", "")]), strict=True)
    assert not made.valid.any()
    assert not made.observed.any()


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (("age", "sex", "ever", "sight"), "expected a column 'site' (modality 'clinic'), found none (did you mean 's"),
        (
            ("age", "sex", "ever", "site", "agee"),
            "expected the 4 columns of modality 'clinic', found 'agee' as well (did you mean 'age'?)",
        ),
    ],
)
def test_other_columns_than_the_modality_has(columns, told):
    with pytest.raises(DataError, match=re.escape(f"c.csv: {told}")):
        encode(VECTOR, raw([["1"] * len(columns)], columns=columns))


def test_order_of_columns_does_not_matter():
    rows = raw([("skin", "1", "m", "61")], columns=("site", "ever", "sex", "age"))
    np.testing.assert_array_equal(encode(VECTOR, rows).inputs, encode(VECTOR, raw([("61", "m", "1", "skin")])).inputs)


def test_no_lines_at_all():
    made = encode(VECTOR, raw([], rows=3), strict=True)
    assert made.inputs.shape == (3, 7)
    assert not made.valid.any()


@settings(max_examples=80)
@given(kind=st.sampled_from(["sequence", "bag"]), length=st.integers(1, 5), data=st.data())
def test_positions_land_at_the_end_of_a_sequence_and_the_beginning_of_a_bag(kind, length, data):
    """Against the plain loop over lines."""
    spans = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    places = [(r, p) for r, s in enumerate(spans) for p in range(s) if data.draw(st.booleans())]
    places = [*data.draw(st.permutations(places)), (-1, 0)]
    lines = [(float(i + 1),) for i in range(len(places))]
    modality = Modality("m", kind, (Feature("x"),), length)
    row, position = zip(*places, strict=True)
    made = encode(modality, raw(lines, row, position, spans, len(spans), ("x",)), strict=True)
    expected = np.zeros((len(spans), length, 1), np.float32)
    for (r, p), (value,) in zip(places, lines, strict=True):
        index = length - spans[r] + p if kind == "sequence" else p
        if r >= 0 and 0 <= index < length:
            expected[r, index] = value
    np.testing.assert_array_equal(made.inputs, expected)
    np.testing.assert_array_equal(made.valid, expected[..., 0] > 0)
    np.testing.assert_array_equal(made.observed, expected > 0)


def test_an_empty_line_keeps_its_position():
    modality = Modality("m", "sequence", (Feature("x", gaps=True), Feature("y", gaps=True)), 4)
    lines = [("1", "2"), ("", ""), ("3", "")]
    made = encode(modality, raw(lines, [0, 0, 0], [0, 1, 2], [3], 1, ("x", "y")), strict=True)
    assert made.valid[0].tolist() == [False, True, False, True]
    assert made.inputs[0].tolist() == [[0, 0], [1, 2], [0, 0], [3, 0]]
    assert made.observed[0, 3].tolist() == [True, False]


BITS_AND_SITE = (
    Feature("bit", "binary", gaps=True),
    Feature("named", "binary", "named", "0", "1", gaps=True),
    *(Feature(f"site={name}", "category", "site", name, gaps=True) for name in ("0", "1", "0.5", UNKNOWN)),
)


def encoded_cell_by_cell(modality, frame, strict):
    """Values [lines,F] and missing [lines, columns], or the line and column of the first cell that does not fit."""
    values, missing = np.zeros((len(frame), modality.width)), np.zeros((len(frame), 3), bool)
    known = {"bit": ["0", "1"], "named": ["1", "0"], "site": [f.category for f in modality.features[2:]]}
    for c, (column, words) in enumerate(known.items()):
        for line, word in enumerate(words_of(frame[column].astype(object), modality.missing)):
            missing[line, c] = word is None
            if word is not None and word not in words and (strict or column != "site"):
                return f"line {frame.index[line]}, column {column!r}"
            if column == "site":
                values[line, 2 + (words.index(word) if word in words else 3)] = 1
            else:
                values[line, c] = word == words[1]
    return values, missing


TYPES = ["u1", "i8", "f4", "f8", "?", "object", "Int64"]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from([0, 1, 1, -0.0, 0.5, np.nan, np.inf])] * 3), max_size=6),
    st.tuples(*[st.sampled_from(TYPES)] * 3),
    st.sampled_from([(), ("1",), ("0.5", "inf")]),
    st.booleans(),
)
def test_columns_of_any_type_are_encoded_as_cell_by_cell(lines, types, missing, strict):
    """Those of numbers are looked at once per different number."""
    modality = Modality("m", "vector", BITS_AND_SITE, missing=missing)
    cells = np.array(lines, dtype=float).reshape(len(lines), 3)
    whole = np.nan_to_num(cells, posinf=3).astype(int)
    fits = {
        name: cells[:, i].astype(of) if of in ("f4", "f8", "object") else pd.array(whole[:, i]).astype(of)
        for i, (name, of) in enumerate(zip(("bit", "named", "site"), types, strict=True))
    }
    frame = pd.DataFrame(fits, pd.RangeIndex(2, len(lines) + 2))
    rows = RawModality(
        Table("c.csv", "c.csv", Path(), frame, "line"), np.arange(len(lines)), None, None, np.ones(len(lines))
    )
    expected = encoded_cell_by_cell(modality, frame, strict)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=re.escape(f"c.csv: {expected}: expected ")):
            encode(modality, rows, strict)
        return
    values, gaps = expected
    made = encode(modality, rows, strict)
    there = ~gaps.all(axis=1)
    assert made.valid.tolist() == there.tolist()
    np.testing.assert_array_equal(made.inputs, np.where(made.observed & there[:, None], values, 0))
    np.testing.assert_array_equal(made.observed[:, :2], ~gaps[:, :2] & there[:, None])
    backwards = encode(modality, replace(rows, row=rows.row[::-1]), strict)
    for of, other in zip(made[:3], backwards[:3], strict=True):
        np.testing.assert_array_equal(of[::-1], other)
