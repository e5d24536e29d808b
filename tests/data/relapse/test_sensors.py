"""Streams are cut into the days that pandas finds in them, one in memory at a time."""

import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data.relapse import sensors
from fusion_lab.data.relapse.sensors import heart_columns, motion_columns, sampling_rate, sensor_days

pytestmark = pytest.mark.filterwarnings("error")


def write_motion(path, days, seconds, xyz=None, **changes):
    values = np.arange(3.0 * len(days)).reshape(3, -1) if xyz is None else xyz
    micro = (np.asarray(seconds) * 1e6).astype(np.int64)
    columns = {"time": pa.array(micro, pa.time64("us")), "day_index": days, **dict(zip("XYZ", values, strict=True))}
    pq.write_table(pa.table(columns | changes), path)
    return path


def refused(path, columns_of=motion_columns):
    with pytest.raises(DataError) as error:
        list(sensor_days(path, columns_of(path)))
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


@given(
    days=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    rows=st.integers(1, 70),
)
def test_days_are_what_pandas_groups_whatever_their_order(tmp_path_factory, days, rows):
    folder = tmp_path_factory.mktemp("order")
    seconds = np.random.default_rng(len(days)).permutation(len(days)).astype(float)  # no time twice
    path = write_motion(folder / "linacc.parquet", days, seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensors, "_ROWS", rows)
        found = {day.day: day for day in sensor_days(path, motion_columns(path))}
    frame = pd.read_parquet(path).assign(seconds=seconds)
    groups = dict(iter(frame.groupby("day_index")))
    assert found.keys() == groups.keys()
    for day, group in groups.items():
        group = group.sort_values("seconds")
        np.testing.assert_array_equal(found[day].seconds, group["seconds"])
        np.testing.assert_array_equal(found[day].values, group[["X", "Y", "Z"]].to_numpy().T)
        assert found[day].repeated == 0


def test_a_day_that_is_there_twice_counts_once(tmp_path):
    seconds = [0, 1, 2, 5, 6, 0, 1, 3]
    path = write_motion(tmp_path / "linacc.parquet", [1, 1, 1, 2, 2, 1, 1, 1], seconds)
    days = {day.day: day for day in sensor_days(path, motion_columns(path))}
    assert (days[1].pieces, days[1].repeated, days[1].seconds.tolist()) == (2, 2, [0, 1, 2, 3])
    assert days[1].values[0].tolist() == [0, 1, 2, 7]  # the first of each
    assert (days[2].pieces, days[2].repeated) == (1, 0)


def test_equal_times_in_one_place_are_samples_like_others(tmp_path):
    path = write_motion(tmp_path / "hrm.parquet", [1, 1, 1], [0, 0, 1])
    (day,) = sensor_days(path, motion_columns(path))
    assert (len(day.seconds), day.repeated) == (3, 0)


def test_memory_does_not_grow_with_the_number_of_days(tmp_path, monkeypatch):
    monkeypatch.setattr(sensors, "_ROWS", 2_000)

    def peak(days):
        rows = np.repeat(np.arange(days), 20_000)
        path = write_motion(tmp_path / f"{days}.parquet", rows, np.tile(np.arange(20_000) * 4.0, days))
        tracemalloc.start()
        for day in sensor_days(path, motion_columns(path)):
            assert len(day.seconds) == 20_000
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)  # what is imported at the first time
    assert peak(8) < 1.5 * peak(2)


@pytest.mark.parametrize("rate", [20, 5, 1, 0.2, 0.05])
def test_the_rate_is_that_of_the_samples_whatever_gaps_there_are(rate):
    seconds = np.arange(1000) / rate
    seconds[400:] += 12_345
    assert sampling_rate(seconds) == rate
    assert sampling_rate(seconds[:1]) == 1.0


def test_columns_of_the_heart_are_located_by_name(tmp_path):
    for names in (("heartRate", "rRInterval"), ("HR", "RR"), ("heart_rate", "rr_interval_ms")):
        path = tmp_path / "hrm.parquet"
        pd.DataFrame(dict.fromkeys(names, [1.0]) | {"time": ["00:00:00"], "day_index": [0]}).to_parquet(path)
        assert heart_columns(path) == names


@pytest.mark.parametrize(
    ("drop", "add", "told"),
    [
        ("rRInterval", {}, "expected one column of the RR interval, found none"),
        ("heartRate", {}, "expected one column of the heart rate, found none"),
        ("", {"rr_other": [1.0]}, "expected one column of the RR interval, found 'rRInterval' and 'rr_other'"),
        ("time", {}, "expected a column 'time'"),
        ("day_index", {"day_indx": [0]}, "did you mean 'day_indx'"),
        ("heartRate", {"heartRate": ["high"]}, "column 'heartRate': expected numbers, found type"),
    ],
)
def test_a_wrong_column_of_the_heart_is_named(tmp_path, drop, add, told):
    columns = {"heartRate": [70.0], "rRInterval": [800.0], "time": ["00:00:00"], "day_index": [0]}
    columns.pop(drop, None)
    pd.DataFrame(columns | add).to_parquet(tmp_path / "hrm.parquet")
    assert told in refused(tmp_path / "hrm.parquet", heart_columns)


def test_a_wrong_cell_is_named_by_its_row_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sensors, "_ROWS", 2)
    path = tmp_path / "gyr.parquet"
    times = ["00:00:00", "00:00:01", "00:00:02", "late"]
    write_motion(path, [1, 1, 1, 1], [0, 1, 2, 3], time=times)
    assert "row 4, column 'time'" in refused(path)
    write_motion(path, [1.0, 1.0, np.nan, 1.0], [0, 1, 2, 3])
    assert "row 3, column 'day_index': expected a whole number up to 10,000,000, found an empty cell" in refused(path)
    write_motion(path, [1.0, 1.5, 1.0, 1.0], [0, 1, 2, 3])
    assert "row 2, column 'day_index': expected a whole number up to 10,000,000, found 1.5" in refused(path)


def test_a_damaged_file_is_named(tmp_path):
    path = write_motion(tmp_path / "linacc.parquet", [1] * 1000, np.arange(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "expected a readable parquet file" in refused(path)
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])  # the footer is whole
    assert "expected a readable parquet file" in refused(path)


def test_a_file_without_rows_has_no_days(tmp_path):
    path = write_motion(tmp_path / "linacc.parquet", pa.array([], pa.int64()), np.zeros(0))
    assert list(sensor_days(path, motion_columns(path))) == []
