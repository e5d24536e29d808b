"""Alignment gives what its rules say: the properties of values, by their numbers, and the references."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from alignment_material import FACES, LAYOUTS, PLAIN, VECTOR, Recording, plainly, recordings
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.data.alignment import Aligned, Column, Stream, align, cells

EVERY = settings(max_examples=100, deadline=None)
CLEAN = recordings(layouts=(PLAIN,), missing=(0.0,), sorted_only=True)


def aligned(of: Recording) -> Aligned:
    return align(of.stream, of.clock, of.columns, of.rules)


def assert_same(found: Aligned, expected) -> None:
    for mask in ("observed", "valid", "matched"):
        np.testing.assert_array_equal(getattr(found, mask), getattr(expected, mask), err_msg=mask)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-4)


@EVERY
@given(recordings())
def test_property_02_a_match_lies_within_tolerance(of):
    """Fails where ``neighbours`` takes the farther of the two neighbours for the nearest."""
    there = of.stream.times[np.isfinite(of.stream.values.astype(np.float32)).all(axis=1)]
    found = aligned(of)
    for t, matched in zip(of.clock, found.matched, strict=True):
        nearest = np.abs(of.stream.times - t).min(initial=np.inf)
        assert not matched or nearest <= of.rules.tolerance + 1e-6
        if len(there) == len(of.stream.times):  # no cell is missing
            assert matched == (nearest <= of.rules.tolerance + 1e-6)


@settings(max_examples=250, deadline=None)
@given(recordings())
def test_property_03_the_rule_is_that_of_the_columns_kind(of):
    """Fails where ``_fill`` takes a discrete column for a continuous one."""
    assert_same(aligned(of), plainly(of))


@EVERY
@given(CLEAN)
def test_property_03_continuous_columns_are_what_numpy_interpolates(of):
    """Fails where ``_between`` gives the left sample the weight of the right one."""
    found = aligned(of)
    for at in (0, 2):
        expected = np.interp(of.clock, of.stream.times, of.stream.values[:, at])
        seen = found.observed[:, at]
        np.testing.assert_allclose(found.values[seen, at], expected[seen], rtol=1e-5, atol=1e-4)
    assert (found.observed[:, 0] == found.valid).all()


@EVERY
@given(CLEAN)
def test_property_04_a_held_value_is_the_last_known_one(of):
    """Fails where ``Steps.of`` searches for what lies before a step only: at a sample's time the one before is held."""
    frame = pd.DataFrame({"t": of.stream.times, "mode": of.stream.values[:, 1].astype(float)})
    joined = pd.merge_asof(pd.DataFrame({"t": of.clock}), frame, on="t", direction="backward")["mode"].to_numpy()
    found = aligned(of)
    seen = found.observed[:, 1]
    first = np.isnan(joined)
    np.testing.assert_array_equal(found.values[seen & ~first, 1], joined[seen & ~first])
    assert (found.values[seen & first, 1] == of.stream.values[0, 1].astype(np.float32)).all()


@EVERY
@given(CLEAN)
def test_property_04_no_value_is_held_for_longer_than_the_longest_gap(of):
    """Fails where ``fresh`` of ``neighbours`` is ``reached``: a match with the next sample shows a stale value."""
    found = aligned(of)
    for t, seen in zip(of.clock, found.observed[:, 1], strict=True):
        before = of.stream.times[of.stream.times <= t]
        if seen and len(before):
            assert t - before[-1] <= of.rules.max_gap + 1e-6


@EVERY
@given(recordings(layouts=(VECTOR, LAYOUTS[3], tuple(Column(str(d), "embedding") for d in range(512))), most=8))
def test_property_08_embeddings_have_length_one(of):
    """Fails where ``_directions`` divides by the square of the length."""
    found = aligned(of)
    vector = [at for at, column in enumerate(of.columns) if column.kind == "embedding"]
    seen = found.observed[:, vector]
    assert (seen.all(axis=1) == seen.any(axis=1)).all()
    length = np.linalg.norm(found.values[:, vector].astype(np.float64), axis=1)
    np.testing.assert_allclose(length, seen[:, 0], atol=1e-6)


@EVERY
@given(recordings(layouts=(FACES, LAYOUTS[3])))
def test_property_09_without_a_face_all_that_tells_of_faces_is_zero(of):
    """Fails where ``_near`` counts the samples of a guarded column in which there is no face."""
    found = aligned(of)
    names = [column.name for column in of.columns]
    none = ~(found.observed[:, names.index("faces")] & (found.values[:, names.index("faces")] > 0))
    for name in ("face x", "face kind"):
        assert not found.values[none, names.index(name)].any()
        assert not found.observed[none, names.index(name)].any()


@EVERY
@given(recordings(layouts=(FACES,), missing=(0.0,), types=("float32",), sorted_only=True))
def test_property_09_no_value_lies_between_a_face_and_none(of):
    """Fails where ``spells_of`` gives all spells one number: two faces are joined across the time without one."""
    values = of.stream.values.copy()
    faces = values[:, 1] > 0
    values[:, 0] = np.where(faces, np.cumsum(~faces), -1)  # a spell keeps a number of its own
    found = align(replace(of.stream, values=values), of.clock, of.columns, of.rules)
    assert np.isin(found.values[found.observed[:, 0], 0], values[faces, 0]).all()


LARGE = st.floats(-(2.0**127), 2.0**127, width=32)


@EVERY
@given(pool=st.lists(LARGE, min_size=1, max_size=3), seed=st.integers(0, 10_000))
def test_property_30_an_interpolated_value_lies_between_its_neighbours(pool, seed):
    """Fails where ``_fill`` does not bound continuous values: rounding carries some beyond two equal neighbours."""
    rng = np.random.default_rng(seed)
    times, clock = np.unique(rng.integers(0, 5000, 6)) / 1000, np.unique(rng.integers(0, 5000, 40)) / 1000
    values = rng.choice(np.array(pool, dtype=np.float32), len(times))
    found = align(Stream("s", times, values[:, None]), clock, [Column("x")])
    assert found.observed.all()
    for t, value in zip(clock, found.values[:, 0], strict=True):
        near = values[max(np.searchsorted(times, t, side="right") - 1, 0) : np.searchsorted(times, t, side="left") + 1]
        assert near.min() <= value <= near.max()


@EVERY
@given(recordings())
def test_what_is_masked_is_zero_and_nothing_is_ever_other_than_finite(of):
    found = aligned(of)
    assert found.values.dtype == np.float32 and np.isfinite(found.values).all()
    assert not found.values[~found.observed].any()
    assert not found.observed[~found.valid].any() and found.valid[found.matched].all()


@EVERY
@given(recordings(), st.randoms(use_true_random=False))
def test_a_column_is_aligned_alike_whatever_lies_beside_it(of, random):
    """As long as the columns that it goes by are there, and any value of each row."""
    extra = replace(
        of,
        columns=(Column("always"), *of.columns),
        stream=replace(of.stream, values=np.column_stack([np.zeros(len(of.stream.times)), of.stream.values])),
    )
    found = aligned(extra)
    for at, column in enumerate(of.columns, start=1):
        if column.kind == "embedding" or column.only_where is not None:
            continue
        alone = align(
            replace(of.stream, values=extra.stream.values[:, [0, at]]), of.clock, [Column("always"), column], of.rules
        )
        np.testing.assert_array_equal(alone.values[:, 1], found.values[:, at])
        np.testing.assert_array_equal(alone.observed[:, 1], found.observed[:, at])


@EVERY
@given(recordings())
def test_cells_are_worked_on_in_parts_without_a_trace(of):
    whole = aligned(of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "BLOCK", 2 * len(of.columns))
        parts = aligned(of)
    assert_same(parts, whole)
    np.testing.assert_array_equal(parts.values, whole.values)
    assert parts.coverage == whole.coverage


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_how_a_stream_is_kept_changes_nothing_that_it_can_hold(kind):
    rng = np.random.default_rng(0)
    columns = LAYOUTS[3]
    values = np.round(rng.normal(0, 10, (50, len(columns)))).astype(kind)  # whole numbers: all of these hold them
    clock = np.arange(0, 3, 0.07)
    found = align(Stream("s", np.arange(50) / 16, values), clock, columns)
    expected = align(Stream("s", np.arange(50) / 16, values.astype(np.float32)), clock, columns)
    np.testing.assert_array_equal(found.values, expected.values)


def test_an_infinite_cell_is_a_missing_one():
    """Too large a number for float32 is one as well."""
    values = np.array([[0.0], [np.inf], [1e300], [3.0]])
    found = align(Stream("s", np.arange(4.0), values), np.arange(4.0), [Column("x")])
    np.testing.assert_allclose(found.values[:, 0], [0, 1, 2, 3], rtol=1e-6)
    assert found.coverage.missing_cells == 2


@pytest.mark.parametrize(("later", "held"), [(5e-7, 2.0), (1e-5, 1.0)])
def test_the_moment_is_the_same_within_a_microsecond(later, held):
    mode = Stream("s", np.array([0.0, 0.3 + later]), np.array([[1.0], [2.0]]))
    assert align(mode, np.array([0.3]), [PLAIN[1]]).values.tolist() == [[held]]


def test_a_vector_of_no_length_is_not_observed():
    """Nor is one halfway between two that are opposite."""
    values = np.array([[0.0, 0.0], [3e-6, 4e-6], [-3e-6, -4e-6]])  # a short one has a direction
    columns = [Column("a", "embedding"), Column("b", "embedding")]
    found = align(Stream("s", np.array([0.0, 1.0, 2.0]), values), np.array([0.0, 1.0, 1.5, 2.0]), columns)
    np.testing.assert_allclose(found.values, [[0, 0], [0.6, 0.8], [0, 0], [-0.6, -0.8]], rtol=1e-6)
    assert found.observed.all(axis=1).tolist() == [False, True, False, True] and found.valid.all()


def test_a_float16_embedding_is_never_widened_as_a_whole():
    """What is alive at once beside input and output stays far below the input in float32."""
    import tracemalloc

    rows, width = 4000, 512
    values = np.ones((rows, width), dtype=np.float16)
    columns = [Column(str(d), "embedding") for d in range(width)]
    tracemalloc.start()
    try:
        found = align(Stream("s", np.arange(rows) / 25, values), np.arange(0, rows / 25, 0.4), columns)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.valid.all() and peak < values.nbytes
