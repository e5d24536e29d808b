"""Lines of long tables: a position is the rank of its time, whatever the order of the lines and the form of times."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data.long import Lines, positions, read_instances, read_times, refuse_mixed_times, refuse_repeats
from fusion_lab.data.readers import Table


def table(cells, dtype=object):
    frame = pd.DataFrame({"day": pd.Series(cells, dtype=dtype)})
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    return Table("v.csv", "v.csv", Path("v.csv"), frame, "line")


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
    assert read_times(table(["3", "1.0", "-2"]), "day").tolist() == [3, 1, -2]
    assert read_times(table(["3", "1.5"]), "day").tolist() == [3.0, 1.5]
    assert read_times(table([4, 2], dtype="int32"), "day").tolist() == [4, 2]
    assert read_times(table([0.5, 2.0], dtype="float64"), "day").tolist() == [0.5, 2.0]
    dates = np.array(["2024-01-05", "2024-01-04T10:30"], dtype="datetime64[us]")
    assert read_times(table(["2024-01-05", "2024-01-04 10:30"]), "day").tolist() == dates.tolist()
    assert read_times(table(dates, dtype="datetime64[us]"), "day").tolist() == dates.tolist()


def test_large_whole_numbers_stay_apart():
    times = [2**60, 2**60 + 1]
    assert read_times(table([str(t) for t in times]), "day").tolist() == times
    assert read_times(table(times, dtype="int64"), "day").tolist() == times


def test_time_zones_are_taken_into_account():
    here = read_times(table(["2024-01-05T12:00+02:00", "2024-01-05T11:00Z"]), "day")
    assert here[0] == np.datetime64("2024-01-05T10:00")
    assert here[1] > here[0]
    stamps = pd.to_datetime(["2024-01-05T12:00+02:00"])
    assert read_times(table(stamps, dtype=stamps.dtype), "day")[0] == here[0]


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
    ],
)
def test_bad_times(cells, told):
    with pytest.raises(DataError) as refused:
        read_times(table(cells), "day")
    assert str(refused.value).startswith(f"v.csv: {told}")


def test_a_missing_time_of_a_timestamp_column():
    with pytest.raises(DataError, match="v.csv: line 3, column 'day': expected a time, found an empty cell"):
        read_times(table([pd.Timestamp("2024-01-01"), pd.NaT], dtype="datetime64[us]"), "day")


def test_instances_are_ranked_numbers_by_size():
    assert read_instances(table(["10", "9", "b", "a", "9"]), "day").tolist() == [1, 0, 3, 2, 0]
    with pytest.raises(DataError, match="line 3, column 'day': expected an instance, found an empty cell"):
        read_instances(table(["1", " "]), "day")


def test_a_time_of_an_id_twice_is_told_with_both_lines():
    lines = Lines(table(["1", "2", "1.0", "1"]), np.array(["a", "a", "b", "a"]), np.array([1, 2, 1, 1]))
    with pytest.raises(DataError) as refused:
        refuse_repeats(lines, "day", "time")
    assert str(refused.value) == (
        "v.csv: line 5, column 'day': expected each time of an id once, found '1' of id 'a' again (first in line 2)"
    )
    refuse_repeats(Lines(lines.table, np.array(["a", "a", "b", "c"]), lines.order), "day", "time")


def test_dates_and_numbers_make_no_clock():
    dates = np.array(["2024-01-01"], dtype="datetime64[us]")
    refuse_mixed_times([("a.csv", np.array([1])), ("b.csv", np.array([0.5]))])
    with pytest.raises(
        DataError, match="^b.csv: expected numbers as times, as in a.csv of the same clock, found dates"
    ):
        refuse_mixed_times([("a.csv", np.array([1])), ("b.csv", dates)])
