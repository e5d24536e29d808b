"""What a dense stream comes to from step to step is what NumPy says of the samples that lie there."""

from dataclasses import replace

import numpy as np
import pytest
from alignment_material import FACES, PLAIN, SLACK, VECTOR, Recording, kept_rows, recordings
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.alignment import Column, Rules, Stream, align, summarise, summary_columns

EVERY = settings(max_examples=100, deadline=None)
BY_NUMPY = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max, "last": lambda x: x[-1]}
CLOCK = np.arange(10) / 10


def plainly(of: Recording, statistics: list[str], span: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and observed, a step and a column at a time."""
    rows = kept_rows(of.stream.times.tolist())
    times, table = of.stream.times[rows], of.stream.values[rows].astype(np.float32).astype(float)
    shape = (len(of.clock), len(of.columns), len(statistics))
    values, observed = np.zeros(shape), np.zeros(shape, dtype=bool)
    for step, t in enumerate(of.clock):
        inside = (times >= t - SLACK) & (times < t + span - SLACK)
        for at, column in enumerate(of.columns):
            fits = inside & ~np.isnan(table[:, at])
            if column.only_where is not None:
                guard = table[:, [one.name for one in of.columns].index(column.only_where)]
                known = np.flatnonzero(~np.isnan(guard))
                last = [max([i for i in known if i <= row], default=min(known, default=-1)) for row in range(len(rows))]
                fits &= np.array([i >= 0 and guard[i] > 0 for i in last], dtype=bool)
            if fits.any():
                observed[step, at] = True
                values[step, at] = [BY_NUMPY[name](table[fits, at]) for name in statistics]
    return values.reshape(len(of.clock), -1), observed.reshape(len(of.clock), -1)


@settings(max_examples=150, deadline=None)
@given(
    of=recordings(layouts=(PLAIN, FACES, (*FACES, *PLAIN))),
    statistics=st.lists(st.sampled_from(list(BY_NUMPY)), min_size=1, unique=True),
    span=st.sampled_from([0.05, 0.1, 1.0, 4.0]),
)
def test_a_step_has_the_statistics_of_its_samples(of, statistics, span):
    """Spans that overlap and spans that leave samples out."""
    found = summarise(of.stream, of.clock, of.columns, statistics, span, of.rules)
    values, observed = plainly(of, statistics, span)
    np.testing.assert_array_equal(found.observed, observed)
    np.testing.assert_allclose(found.values, values, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.valid, observed.any(axis=1))
    np.testing.assert_array_equal(found.matched, found.valid)
    told = found.coverage
    assert (told.matched, told.interpolated, told.masked) == (found.valid.sum(), 0, (~found.valid).sum())
    assert told.missing_cells == np.isnan(of.stream.values[kept_rows(of.stream.times.tolist())]).sum()


@EVERY
@given(recordings(layouts=(PLAIN, FACES)), st.permutations(range(24)))
def test_the_order_of_the_file_changes_nothing(of, places):
    rows = kept_rows(of.stream.times.tolist())
    mixed = [rows[at] for at in places if at < len(rows)]
    streams = [replace(of.stream, times=of.stream.times[r], values=of.stream.values[r]) for r in (rows, mixed)]
    one, other = (summarise(s, of.clock, of.columns, list(BY_NUMPY), 1.0) for s in streams)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.observed, other.observed)


def test_the_span_is_the_clocks_median_step_where_it_is_not_given():
    rng = np.random.default_rng(0)
    stream = Stream("s", np.arange(100) / 100, rng.normal(size=(100, 1)))
    clock = np.append(CLOCK, 5.0)
    by_default = summarise(stream, clock, [Column("x")], ["mean"])
    np.testing.assert_array_equal(by_default.values, summarise(stream, clock, [Column("x")], ["mean"], 0.1).values)
    assert by_default.valid.tolist() == [True] * 10 + [False]
    with pytest.raises(DataError, match=r"^stream 's', 0 to 0 s: expected two steps or more where the span is not giv"):
        summarise(stream, np.zeros(1), [Column("x")], ["mean"])
    assert summarise(stream, np.zeros(1), [Column("x")], ["mean"], 0.5).valid.all()
    assert summarise(stream, np.array([0.0, 0.5]), [Column("x")], ["mean"]).valid.all()


def test_messages_are_those_of_alignment():
    stream, columns = Stream("s", np.array([0.2, 0.1, 0.1]), np.zeros((3, 1))), [Column("x")]
    rules = Rules(max_gap=0.3, report_gap=0.2)
    ours, theirs = (
        found.coverage
        for found in (
            summarise(stream, CLOCK, columns, ["mean"], rules=rules, where="video 'a'"),
            align(stream, CLOCK, columns, rules, "video 'a'"),
        )
    )
    assert ours.gaps == theirs.gaps and ours.duplicates == theirs.duplicates == 1 and ours.resorted
    assert ours.warnings == theirs.warnings[:2] + theirs.warnings[-1:]
    with pytest.raises(DataError, match=r"^video 'a', stream 's', 0 to 0.9 s: expected 2 columns, found 1$"):
        summarise(stream, CLOCK, columns * 2, ["mean"], where="video 'a'")
    empty = summarise(Stream("s", np.arange(3.0), np.full((3, 1), np.nan)), CLOCK, columns, ["mean"])
    assert empty.coverage.warnings[0].endswith("no value in any of 3 samples")
    some = Stream("s", np.arange(3.0), np.array([[np.nan, 1.0]] * 3))
    half = summarise(some, CLOCK, [Column("x"), Column("y")], ["mean"])
    assert half.coverage.warnings[0].endswith("no value in column 'x'")


@pytest.mark.parametrize(
    ("columns", "statistics", "told"),
    [
        (PLAIN, [], "expected different statistics, found none"),
        (PLAIN, ["mean", "max", "mean"], "expected different statistics, found mean, max, mean"),
        (PLAIN, ["men"], "expected statistics out of mean, std, min, max, last, found 'men' (did you mean 'mean'?)"),
        (VECTOR, ["mean"], "column 'clip 0': expected a column that has statistics, found an embedding"),
    ],
)
def test_statistics_that_there_are_not_are_refused(columns, statistics, told):
    with pytest.raises(ConfigError) as error:
        summarise(Stream("s", np.zeros(1), np.zeros((1, 3))), CLOCK, columns, statistics)
    assert str(error.value).startswith("stream 's'") and told in str(error.value)


def test_summaries_are_named_in_the_order_of_their_columns():
    made = summary_columns(PLAIN[:2], ["min", "max"])
    assert made == [Column(name) for name in ("level min", "level max", "mode min", "mode max")]
    rows = np.array([[1.0, 10.0], [3.0, 30.0]])
    found = summarise(Stream("s", np.zeros(2) + [0, 0.01], rows), CLOCK, PLAIN[:2], ["min", "max"])
    assert found.values[0].tolist() == [1.0, 3.0, 10.0, 30.0]
