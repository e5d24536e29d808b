"""Lines of long tables: a position is the rank of its time, whatever the order of the lines and the form of times."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data.long import Lines, positions, read_instances, read_times, refuse_mixed_times, refuse_repeats
from fusion_lab.data.readers import Table


def table(cells, dtype=object, name="v.csv"):
    frame = pd.DataFrame({"day": pd.Series(cells, dtype=dtype)})
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    return Table(name, name, Path(name), frame, "line")


def values(cells, dtype=object):
    return read_times(table(cells, dtype), "day").values


def lines(name, cells, dtype=object):
    """A sequence's lines, all of one id."""
    found = table(cells, dtype, name)
    order, form = read_times(found, "day")
    return Lines(found, np.full(len(order), "a"), order, form=form)


def refusal(cells, dtype=object):
    with pytest.raises(DataError) as refused:
        read_times(table(cells, dtype), "day")
    message = str(refused.value)
    assert "\n" not in message
    return message


@settings(max_examples=60)
@given(data=st.data(), rows=st.integers(1, 4), parts=st.integers(1, 3))
def test_positions_are_ranks_among_all_times_of_a_row(data, rows, parts):
    """Against the plain loop over rows."""
    sizes = [data.draw(st.integers(0, 8)) for _ in range(parts)]
    drawn = [data.draw(st.lists(st.tuples(st.integers(-1, rows - 1), st.integers(0, 5)), max_size=8)) for _ in sizes]
    row = np.array([r for part in drawn for r, _ in part], dtype=int)
    orders = [np.array([t for _, t in part], dtype=int) for part in drawn]
    position, span = positions(row, orders, rows)
    time = np.concatenate(orders)
    for r in range(rows):
        ticks = sorted(set(time[row == r].tolist()))
        assert span[r] == len(ticks)
        assert [ticks.index(t) for t in time[row == r]] == position[row == r].tolist()


def test_times_are_numbers_or_dates():
    assert values(["3", "1.0", "-2"]).tolist() == [3, 1, -2]
    assert values(["3", "1.5"]).tolist() == [3.0, 1.5]
    assert values([4, 2], dtype="int32").tolist() == [4, 2]
    assert values([0.5, 2.0], dtype="float64").tolist() == [0.5, 2.0]
    dates = np.array(["2024-01-05", "2024-01-04T10:30"], dtype="datetime64[us]")
    assert values(["2024-01-05", "2024-01-04 10:30"]).tolist() == dates.tolist()
    assert values(dates, dtype="datetime64[us]").tolist() == dates.tolist()


def test_large_whole_numbers_stay_apart():
    times = [2**60, 2**60 + 1]
    assert values([str(t) for t in times]).tolist() == times
    assert values(times, dtype="int64").tolist() == times


numbers = st.one_of(
    st.integers(0, 3).map(lambda i: str(10**25 + i)),
    st.integers(-2, 2).map(lambda i: str(2**53 + i)),
    st.decimals(-2, 2, places=1).map(str),
    st.sampled_from(["1e-400", "0.1", "0.10000000000000001", "1e3", "1000"]),
)


@settings(max_examples=200)
@given(words=st.lists(numbers, min_size=2, max_size=4))
def test_times_are_ordered_as_their_decimals_or_refused(words):
    exact = [Decimal(word) for word in words]
    try:
        found = values(words)
    except DataError as error:
        assert "expected times that differ as 64-bit numbers, found" in str(error)
        assert len({float(d) for d in exact}) < len(set(exact))
    else:
        for i, j in np.ndindex(len(words), len(words)):
            assert (found[i] < found[j], found[i] == found[j]) == (exact[i] < exact[j], exact[i] == exact[j])


def test_nanoseconds_stay_apart_and_all_years_are_dates():
    words = ["2024-01-01T00:00:00.000000001", "2024-01-01T00:00:00.000000002"]
    stamps = np.array(words, dtype="datetime64[ns]")
    for cells, dtype in ((words, object), (stamps, "datetime64[ns]")):
        assert np.array_equal(values(cells, dtype), stamps)
    far = ["0001-01-01", "9999-12-31"]
    assert np.array_equal(values(far), np.array(far, dtype="datetime64[us]"))


zones = st.sampled_from(["", "", "Z", "+01", "-05", "+0530", "-05:00", " +01:00", " Z"])
clocks = st.sampled_from(["10", "10:30", "1030", "10:30:05", "10:30:05.5", "10:30:05.123456789"])


@settings(max_examples=200)
@given(times=st.lists(st.tuples(st.sampled_from("T "), clocks, zones), min_size=1, max_size=4))
def test_a_time_zone_is_in_every_time_or_in_none(times):
    """Against pandas, one time after the other."""
    words = [f"2024-01-05{sign}{clock}{zone}" for sign, clock, zone in times]
    zoned = [pd.Timestamp(word).tzinfo is not None for word in words]
    if any(zoned) and not all(zoned):
        naive = zoned.index(False)
        told = f"line {naive + 2}, column 'day': expected a time zone in every time or in none, found {words[naive]!r}"
        assert refusal(words) == f"v.csv: {told}"
        return
    found = read_times(table(words), "day")
    assert found.form == ("dates with a time zone" if all(zoned) else "dates without a time zone")
    expected = [
        pd.Timestamp(word).tz_convert("UTC").tz_localize(None) if all(zoned) else pd.Timestamp(word) for word in words
    ]
    assert [pd.Timestamp(value) for value in found.values] == expected


def test_time_zones_are_taken_into_account():
    here = values(["2024-01-05T12:00+02:00", "2024-01-05T11:00Z"])
    assert here[0] == np.datetime64("2024-01-05T10:00")
    assert here[1] > here[0]
    stamps = pd.to_datetime(["2024-01-05T12:00+02:00"])
    assert values(stamps, dtype=stamps.dtype)[0] == here[0]


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["1", ""], "line 3, column 'day': expected a time, found an empty cell"),
        (["soon"], "line 2, column 'day': expected a number or an ISO date, found 'soon'"),
        (["1", "2024-01-01"], "line 3, column 'day': expected a number like the other times, found '2024-01-01'"),
        (["1", "inf"], "line 3, column 'day': expected a number like the other times, found 'inf'"),
        (["2024-01-01", "7"], "line 3, column 'day': expected an ISO date like the other times, found '7'"),
        (["2024-01-01", "2024-02-30"], "line 3, column 'day': expected an ISO date like the other times, found '2024"),
        (
            ["2024-01-01T10:00Z", "2024-01-01T10:00"],
            "line 3, column 'day': expected a time zone in every time or in none, found '2024-01-01T10:00'",
        ),
        (
            ["2024-01-01T10:00:00", "2024-01-01T10:00:00+01"],
            "line 2, column 'day': expected a time zone in every time or in none, found '2024-01-01T10:00:00'",
        ),
        (
            ["2024-01-01T10Z", "2024-01-01T10"],
            "line 3, column 'day': expected a time zone in every time or in none, found '2024-01-01T10'",
        ),
        (
            ["2024-01-01T10:00:00.5", "2024-01-01T10:00:00.0000000001"],
            "line 3, column 'day': expected no more than nanoseconds, found '2024-01-01T10:00:00.0000000001'",
        ),
        (
            ["2024-01-01T10:00:00.000000001", "9999-01-01"],
            "line 3, column 'day': expected an ISO date like the other times (of the years 1678 to 2261 beside nanosec",
        ),
        (
            [str(10**25), str(10**25 + 1)],
            f"line 3, column 'day': expected times that differ as 64-bit numbers, found '{10**25 + 1}' "
            f"beside '{10**25}' in line 2",
        ),
        (
            ["0", "1e-99999999999999999999"],
            "line 3, column 'day': expected times that differ as 64-bit numbers, found '1e",
        ),
        (["true"], "line 2, column 'day': expected a number or an ISO date, found 'true'"),
        (["1", "9" * 400], f"line 3, column 'day': expected a number like the other times, found '{'9' * 37}...'"),
    ],
)
def test_bad_times(cells, told):
    assert refusal(cells).startswith(f"v.csv: {told}")


def test_a_missing_time_of_a_timestamp_column():
    with pytest.raises(DataError, match="v.csv: line 3, column 'day': expected a time, found an empty cell"):
        read_times(table([pd.Timestamp("2024-01-01"), pd.NaT], dtype="datetime64[us]"), "day")


def test_instances_are_ranked_numbers_by_size():
    assert read_instances(table(["10", "9", "b", "a", "9"]), "day").tolist() == [1, 0, 3, 2, 0]
    with pytest.raises(DataError, match="line 3, column 'day': expected an instance, found an empty cell"):
        read_instances(table(["1", " "]), "day")


def test_a_time_of_an_id_twice_is_told_with_both_lines():
    found = Lines(table(["1", "2", "1.0", "1"]), np.array(["a", "a", "b", "a"]), np.array([1, 2, 1, 1]))
    with pytest.raises(DataError) as refused:
        refuse_repeats(found, "day", "time")
    assert str(refused.value) == (
        "v.csv: line 5, column 'day': expected each time of an id once, found '1' of id 'a' again (first in line 2)"
    )
    refuse_repeats(Lines(found.table, np.array(["a", "a", "b", "c"]), found.order), "day", "time")


def test_files_of_one_clock_have_times_that_compare():
    refuse_mixed_times([lines("a.csv", ["1", str(2**53)]), lines("b.csv", ["0.5"])])
    refuse_mixed_times([lines("a.csv", [str(2**53 + 1)]), lines("b.csv", ["1"])])
    refuse_mixed_times([lines("a.csv", ["9999-01-01"]), lines("b.csv", ["2024-01-01T10:00"])])
    refuse_mixed_times([lines("a.csv", ["2024-01-01"]), lines("b.csv", ["2024-01-01T10:00:00.000000001"])])


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (["1"], ["2024-01-01"], "b.csv: expected numbers as times, as in a.csv of the same clock, found dates without"),
        (
            ["2024-01-01T10:00Z"],
            ["2024-01-01T10:00"],
            "b.csv: expected dates with a time zone as times, as in a.csv of the same clock, found dates without a",
        ),
        (
            ["0.5"],
            ["1", str(2**53 + 1)],
            f"b.csv: line 3: expected times that 64 bits hold exactly beside fractions in another file of the same "
            f"clock, found {2**53 + 1}",
        ),
        (
            ["9999-01-01"],
            ["2024-01-01T10:00:00.000000001"],
            "a.csv: line 2: expected times that 64 bits hold exactly beside nanoseconds in another file of the same "
            "clock, found 9999-01-01T00:00:00",
        ),
    ],
)
def test_times_that_do_not_compare_make_no_clock(first, second, told):
    with pytest.raises(DataError) as refused:
        refuse_mixed_times([lines("a.csv", first), lines("b.csv", second)])
    assert str(refused.value).startswith(told)
