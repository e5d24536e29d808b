"""What alignment tells of a stream: counts, gaps, warnings and refusals, by the numbers of their properties."""

from dataclasses import replace

import numpy as np
import pytest
from alignment_material import FACES, PLAIN, SLACK, VECTOR, Recording, kept_rows, plainly, recordings
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.alignment import Aligned, Column, Rules, Stream, absent, align, check_columns, ordered

EVERY = settings(max_examples=100, deadline=None)
WHERE = "video 'a'"
CLOCK = np.arange(100) / 10
LEVEL = [Column("level")]


def aligned(of: Recording) -> Aligned:
    return align(of.stream, of.clock, of.columns, of.rules, WHERE)


def level(times, where: str = WHERE, clock: np.ndarray = CLOCK, rules: Rules | None = None) -> Aligned:
    """One column that counts its samples."""
    times = np.asarray(times, dtype=float)
    return align(Stream("audio", times, np.arange(len(times))[:, None] * 1.0), clock, LEVEL, rules, where)


def sentences(found: Aligned) -> list[str]:
    """The warnings without what they begin with."""
    place = f"{WHERE}, stream 'audio', 0 to 9.9 s: "
    assert all(line.startswith(place) for line in found.coverage.warnings)
    return [line.removeprefix(place) for line in found.coverage.warnings]


@st.composite
def broken(draw) -> tuple[Stream, np.ndarray, list[Column]]:
    """A stream that cannot be aligned, in one of the ways there are, anywhere in it."""
    n, at = draw(st.integers(2, 9)), draw(st.integers(0, 8))
    start, how = draw(st.integers(-50, 50)), draw(st.integers(0, 5))
    times, values, clock = start + np.arange(n) * 1.0, np.zeros((n, 2)), start + np.arange(n) * 0.5
    columns = [Column("x"), Column("y")]
    if how == 0:
        times[at % n] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    elif how == 1:
        times = times[1:]
    elif how == 2:
        columns = columns[1:]
    elif how == 3:
        clock[1 + at % (n - 1)] = clock[at % (n - 1)] - draw(st.sampled_from([0.0, 1.0]))
    elif how == 4:
        values = np.zeros((n, 3))
    else:
        clock[1:-1] = np.nan
        clock = np.append(clock, clock[-1] + 1) if n > 2 else np.array([clock[0], np.nan, clock[1]])
    return Stream("audio", times, values), clock, columns


@EVERY
@given(broken())
def test_property_23_a_failure_names_video_and_time_range(of):
    """Fails where ``place_of`` leaves the span of the clock out."""
    stream, clock, columns = of
    with pytest.raises(DataError) as told:
        align(stream, clock, columns, where=WHERE)
    line = str(told.value)
    assert line.startswith(f"{WHERE}, stream 'audio', {clock[0]:g} to {clock[-1]:g} s: ")
    assert "expected " in line and "found " in line and "\n" not in line


@EVERY
@given(recordings())
def test_property_24_the_interpolated_percentage_is_told(of):
    """Fails where ``Coverage.told`` tells of ``coverage_pct`` in its place."""
    found, expected = aligned(of).coverage, plainly(of)
    interpolated = 100 * (expected.valid & ~expected.matched).mean()
    assert found.interpolated_pct == pytest.approx(interpolated)
    assert f" {found.interpolated_pct:.1f} % interpolated" in found.told()
    assert f" {found.coverage_pct:.1f} % matched" in found.told()
    assert f" {100 * found.masked / found.steps:.1f} % masked" in found.told()
    warned = [line for line in found.warnings if "are interpolated" in line]
    assert len(warned) == (interpolated > 100 * of.rules.most_interpolated)
    assert all(f"{found.interpolated_pct:.1f} % of {found.steps:,} steps" in line for line in warned)


@EVERY
@given(
    name=st.sampled_from(["audio", "visual", "text"]),
    video=st.text("abc_-0123", min_size=1, max_size=8),
    steps=st.integers(1, 30),
    width=st.integers(1, 9),
)
def test_property_25_a_missing_stream_is_told(name, video, steps, width):
    """Fails where ``_of_samples`` passes over a stream without samples."""
    clock, columns = np.arange(steps) / 10, [Column(str(f)) for f in range(width)]
    nothing = align(Stream(name, np.empty(0), np.empty((0, width))), clock, columns, where=f"video '{video}'")
    for found in (absent(name, clock, columns, f"video '{video}'"), nothing):
        (line,) = found.coverage.warnings
        assert f"video '{video}', stream '{name}'" in line and "there is none, all steps are masked" in line
        assert found.values.shape == found.observed.shape == (steps, width) and found.values.dtype == np.float32
        assert not found.valid.any() and not found.observed.any() and not found.matched.any()
        assert found.coverage.masked == found.coverage.steps == steps and not found.coverage.missing_cells
        assert found.coverage.max_gap == pytest.approx(clock[-1] - clock[0])


@EVERY
@given(st.lists(st.integers(-20, 20), max_size=30))
def test_property_26_times_strictly_increase(times):
    """Fails where ``ordered`` keeps the first of repeated times, and where it keeps all."""
    found = ordered(np.array(times, dtype=np.float64))
    assert (np.diff(found.times) > 0).all()
    assert found.rows.tolist() == kept_rows([float(t) for t in times])
    assert found.times.tolist() == [times[row] for row in found.rows]
    assert found.duplicates == len(times) - len(set(times))
    assert found.resorted == (times != sorted(times))


@EVERY
@given(recordings())
def test_property_26_a_stream_out_of_order_is_aligned_as_the_sorted_one(of):
    """Fails where ``align`` reads cells by their place in the file."""
    rows = kept_rows(of.stream.times.tolist())
    tidy = replace(of, stream=replace(of.stream, times=of.stream.times[rows], values=of.stream.values[rows]))
    found, expected = aligned(of), aligned(tidy)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.observed, expected.observed)
    resorted = bool((np.diff(of.stream.times) < 0).any())
    assert found.coverage.duplicates == len(of.stream.times) - len(rows)
    assert found.coverage.resorted == resorted == any("sorted" in line for line in found.coverage.warnings)
    assert (found.coverage.duplicates > 0) == any("times are repeated" in line for line in found.coverage.warnings)
    assert not expected.coverage.resorted and not expected.coverage.duplicates


@EVERY
@given(recordings())
def test_property_27_coverage_is_the_percentage_of_matched_steps(of):
    """Fails where ``coverage_pct`` counts interpolated steps in."""
    found, expected = aligned(of).coverage, plainly(of)
    assert found.coverage_pct == pytest.approx(100 * expected.matched.sum() / len(of.clock))
    assert found.matched == expected.matched.sum() and found.masked == (~expected.valid).sum()
    assert found.matched + found.interpolated + found.masked == found.steps == len(of.clock)


@EVERY
@given(recordings(sorted_only=True))
def test_property_28_gaps_of_more_than_a_second_are_reported(of):
    """Fails where ``cover`` reports gaps of ``report_gap`` on; with gaps of exactly a second among the recordings'."""
    found = aligned(of).coverage
    some = np.isfinite(of.stream.values.astype(np.float32))
    vector = [at for at, column in enumerate(of.columns) if column.kind == "embedding"]
    some[:, vector] = some[:, vector].all(axis=1, keepdims=True)
    times = of.stream.times[some.any(axis=1)].tolist()
    first, last = float(of.clock[0]), float(of.clock[-1])
    inner = [t for t in times if first < t < last]
    low = max([t for t in times if t <= first], default=first)
    high = min([t for t in times if t >= last], default=last)
    points = [low, *inner, high]
    gaps = [(a, b) for a, b in zip(points, points[1:], strict=False)]
    assert found.max_gap == pytest.approx(max(b - a for a, b in gaps))
    assert list(found.gaps) == [(a, b) for a, b in gaps if b - a > of.rules.report_gap + SLACK]
    if times:
        long = found.max_gap > of.rules.max_gap + SLACK
        assert long == any(f"a gap of {found.max_gap:g} s" in line for line in found.warnings)


@EVERY
@given(width=st.sampled_from([1, 5, 17, 180, 522]), other=st.sampled_from([1, 5, 17, 180, 522]))
def test_property_29_widths_are_validated(width, other):
    """Fails where ``check`` lets wider streams pass."""
    stream = Stream("visual", np.arange(3.0), np.ones((3, other)))
    columns = [Column(str(at)) for at in range(width)]
    if width == other:
        assert align(stream, CLOCK, columns, where=WHERE).values.shape == (len(CLOCK), width)
        return
    with pytest.raises(DataError, match=f"'visual', 0 to 9.9 s: expected {width} columns, found {other}$"):
        align(stream, CLOCK, columns, where=WHERE)


@EVERY
@given(recordings())
def test_missing_cells_are_counted(of):
    rows = kept_rows(of.stream.times.tolist())
    missing = int(np.isnan(of.stream.values[rows]).sum())
    found = aligned(of).coverage
    assert found.missing_cells == missing
    assert found.told().endswith(f"; {missing:,} missing cells") == (missing > 0)


def test_a_stream_that_fits_has_nothing_to_tell():
    found = level(np.arange(250) / 25)
    assert found.coverage == (100, 100, 0, 0, pytest.approx(0.04), (), 0, False, 0, ())
    assert found.coverage.told() == ("100 steps: 100.0 % matched, 0.0 % interpolated, 0.0 % masked; longest gap 0.04 s")


def test_warnings_are_plain_sentences():
    assert sentences(level([0.0, 9.9])) == ["a gap of 9.9 s from 0 s on, longer than 5 s"]
    assert sentences(level([2.0, 2.0, 1.0])) == [
        "times were not in order and have been sorted",
        "times are repeated and the last sample of each counts (1 left out)",
        "69.0 % of 100 steps are interpolated, more than 50 %",
        "a gap of 7.9 s from 2 s on, longer than 5 s",
    ]
    assert sentences(level(np.arange(20, 30))) == [
        "its samples, 20 to 29 s, do not overlap the clock",
        "a gap of 20 s from 0 s on, longer than 5 s",
    ]
    assert sentences(level([-7.0, -1.0])) == [
        "its samples, -7 to -1 s, do not overlap the clock",
        "a gap of 10.9 s from -1 s on, longer than 5 s",
    ]


@pytest.mark.parametrize("edge", [0.0, 9.9])
def test_a_stream_that_touches_the_clock_overlaps_it(edge):
    times = [-1.0, 0.0] if edge == 0 else [9.9, 12.0]
    assert not any("overlap" in line for line in sentences(level(times)))


@pytest.mark.parametrize(("interpolated", "warned"), [(50, False), (51, True)])
def test_half_of_the_steps_may_be_interpolated(interpolated, warned):
    found = level(CLOCK[: len(CLOCK) - interpolated], rules=Rules(max_gap=9.0))
    assert found.coverage.interpolated == interpolated
    assert any("are interpolated" in line for line in sentences(found)) == warned


def test_gaps_are_listed_from_a_second_on_where_nothing_else_is_said():
    assert level([0.0, 1.0, 2.5, 3.0, 5.5, 9.9]).coverage.gaps == ((1.0, 2.5), (3.0, 5.5), (5.5, 9.9))


def test_samples_and_columns_without_a_value_are_told():
    values = np.full((250, 3), np.nan)
    stream = Stream("audio", np.arange(250) / 25, values)
    (line, *_) = sentences(align(stream, CLOCK, PLAIN, where=WHERE))
    assert line == "no value in any of 250 samples"
    values[:, 1] = 1.0
    assert sentences(align(stream, CLOCK, PLAIN, where=WHERE)) == ["no value in 2 columns, first 'level'"]
    values[7, 0] = 1.0
    assert sentences(align(stream, CLOCK, PLAIN, where=WHERE)) == ["no value in column 'other level'"]


def test_a_gap_is_masked_and_its_ends_are_not():
    found = level([0.0, 9.9], rules=Rules(tolerance=0.15))
    assert np.flatnonzero(found.valid).tolist() == [0, 1, 98, 99] == np.flatnonzero(found.matched).tolist()
    ends = level([3.0, 4.0], rules=Rules(max_gap=2.0))
    assert np.flatnonzero(ends.valid).tolist() == list(range(10, 61))
    assert (ends.values[10:31] == 0).all() and (ends.values[40:61] == 1).all()


def test_without_where_a_message_begins_with_the_stream():
    with pytest.raises(
        DataError, match=r"^stream 'audio', 0 to 9.9 s: row 2: expected a time, found nan \(1 such rows"
    ):
        level([0.0, np.nan], where="")
    with pytest.raises(DataError, match=r"^stream 'audio': expected a clock of one step or more, found none$"):
        level([0.0], where="", clock=np.empty(0))
    with pytest.raises(DataError, match=r": expected a time for each of 2 rows, found 1$"):
        align(Stream("audio", np.zeros(1), np.zeros((2, 1))), CLOCK, LEVEL)
    with pytest.raises(DataError, match=r": expected steps of the clock to increase, found 1 s at step 3$"):
        level([0.0], clock=np.array([0.0, 1.0, 1.0]))
    with pytest.raises(DataError, match=r": expected steps of the clock to increase, found inf s at step 2$"):
        level([0.0], clock=np.array([0.0, np.inf]))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([], "a: expected one column or more, found none"),
        (
            [Column("x", only_where="n")],
            "a, column 'x': only_where: expected a discrete column of it, found 'n'",
        ),
        (
            [Column("x", only_where="number"), Column("numbers", "discrete")],
            "a, column 'x': only_where: expected a discrete column of it, found 'number' (did you mean 'numbers'?)",
        ),
        (
            [Column("x", only_where="n"), Column("n")],
            "a, column 'x': only_where: expected a discrete column of it, found 'n'",
        ),
        (
            [Column("x", "discrete", only_where="y"), Column("y", "discrete", only_where="x")],
            "a, column 'x': only_where: expected a discrete column of it, found 'y'",
        ),
        (
            [Column("n", "discrete"), Column("x", "embedding", only_where="n")],
            "a, column 'x': only_where: expected none, found an embedding",
        ),
    ],
)
def test_columns_that_contradict_each_other_are_refused(columns, told):
    with pytest.raises(ConfigError) as error:
        check_columns(columns, "a")
    assert str(error.value).startswith(told)


def test_columns_that_fit_are_taken_and_a_stream_checks_its_own():
    check_columns((*PLAIN, *FACES, *VECTOR), "a")
    with pytest.raises(ConfigError, match=r"^stream 'audio', column 'x': only_where"):
        align(Stream("audio", np.zeros(1), np.zeros((1, 1))), CLOCK, [Column("x", only_where="n")])
