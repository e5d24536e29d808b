"""The reading case: the file is one of PAMAP2, and the product and pandas read the same numbers from it."""

import json
from pathlib import Path

import numpy as np
import pytest
from reading_case import FILE, by_pandas, checked, difference, measure, write_session
from results import APART, PANDAS, read_too_differently, reading, reading_table
from test_bench import bench

from fusion_lab.data.activity.settings import ACTIVITIES, ACTIVITY, COLUMNS, TIME, TRANSIENT

ROWS = 400


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("raw") / FILE
    write_session(file, ROWS)
    return file


def test_the_file_is_in_the_published_format(session):
    lines = session.read_text().splitlines()
    assert len(lines) == ROWS and {line.count(" ") + 1 for line in lines} == {len(COLUMNS)}
    frame = by_pandas(session)
    np.testing.assert_allclose(np.diff(frame[TIME]), 1 / 100)
    assert set(frame[ACTIVITY]) <= {TRANSIENT, *ACTIVITIES} and frame.isna().any().any()


def test_what_is_read_is_what_pandas_reads(session):
    assert difference(checked(session), by_pandas(session)) <= APART


@pytest.mark.parametrize("value", [2.0, np.nan])
@pytest.mark.parametrize("column", [TIME, ACTIVITY, COLUMNS[-1]])
def test_a_single_number_that_is_read_differently_is_told(session, column, value):
    frame = by_pandas(session)
    row = frame.index[frame[ACTIVITY] != TRANSIENT][-1]
    other = frame.astype({column: float})
    other.loc[row, column] += value
    found = {"difference": difference(checked(session), other)}
    assert found["difference"] > APART and len(read_too_differently(found)) == 1


def test_what_is_read_between_activities_is_no_difference(session):
    frame = by_pandas(session)
    frame.loc[frame[ACTIVITY] == TRANSIENT, COLUMNS[-1]] = 5.0
    assert difference(checked(session), frame) <= APART


def taken(*seconds: float) -> dict:
    times = [{"wall": one, "cpu": 3 * one} for one in seconds]
    return {"cold": times[0], "rounds": times}


def test_rates_are_rows_a_second_and_ratios_of_the_same_round():
    own, pandas = taken(1.0, 2.0, 4.0), taken(3.0, 2.0, 2.0)
    found = reading({"rows": 600, "bytes": 1, "difference": 0.0, "readers": {"checked": own, PANDAS: pandas}})
    assert {name: of["rate"] for name, of in found["readers"].items()} == {"checked": 300, PANDAS: 300}
    assert list(found["ratios"]) == ["checked"]
    against = found["ratios"]["checked"][PANDAS]
    assert against["wall"] == against["cpu"] == {"min": 0.5, "median": 1.0, "max": 3.0}
    _, _, ours, theirs = reading_table(found)
    assert ours.count("1.00 (0.50-3.00)") == 2 and "(" not in theirs


@pytest.mark.slow
def test_every_reader_is_timed_in_every_round():
    found = measure(ROWS, rounds=2)
    assert found["rows"] == ROWS and found["difference"] <= APART
    assert set(found["readers"]) == {"checked", "recorded", "prepared", PANDAS}
    for of in found["readers"].values():
        assert len(of["rounds"]) == 2 and min(one["wall"] for one in (of["cold"], *of["rounds"])) > 0


@pytest.mark.slow
def test_the_benchmark_reads_without_training(tmp_path):
    done = bench(tmp_path, "--case", "reading", "--quick", "--output", "quick.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "quick.json").read_text())
    assert found["equal"] and "by_width" not in found
    assert all(PANDAS in against for against in found["reading"]["ratios"].values())
    assert f"{PANDAS} " in done.stdout and done.stderr == ""
