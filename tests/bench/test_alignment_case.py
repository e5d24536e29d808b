"""The alignment case: streams of 527 columns, and the product and pandas find the same values at every step."""

import json

import numpy as np
import pytest
from alignment_case import CLOCK_RATE, PICTURE, SOUND, aligned, by_pandas, clock, difference, measure, streams
from results import APART, PANDAS, aligned_too_differently, alignment_table, reading
from settings import ALIGNMENT
from test_bench import bench

SECONDS = 4


def test_the_streams_have_rates_of_their_own_and_the_columns_of_the_reference():
    made, steps = streams(SECONDS), clock(SECONDS)
    assert [stream.values.shape[1] for stream, _ in made] == [len(SOUND), len(PICTURE)] == [5, 522]
    assert len({round(1 / np.diff(stream.times).mean()) for stream, _ in made} | {CLOCK_RATE}) == 3
    assert all(stream.times[0] == steps[0] and stream.times[-1] >= steps[-1] for stream, _ in made)
    assert made[1][0].values.dtype == np.float16


def test_the_product_and_pandas_find_the_same():
    made, steps = streams(SECONDS), clock(SECONDS)
    assert difference(aligned(made, steps), by_pandas(made, steps)) <= APART


@pytest.mark.parametrize(("stream", "columns"), [(0, SOUND), (1, PICTURE)], ids=["sound", "picture"])
def test_a_single_value_that_differs_is_told(stream, columns):
    made, steps = streams(SECONDS), clock(SECONDS)
    for place in (0, len(columns) - 1):
        theirs = by_pandas(made, steps)
        theirs[stream][-1, place] += 1e-3
        found = {"difference": difference(aligned(made, steps), theirs)}
        assert found["difference"] > APART and len(aligned_too_differently(found)) == 1


@pytest.mark.slow
def test_every_contender_is_timed_in_every_round():
    found = measure(SECONDS, rounds=2)
    assert found["rows"] == len(clock(SECONDS)) and found["difference"] <= APART and PANDAS in found["readers"]
    for of in found["readers"].values():
        assert len(of["rounds"]) == 2 and np.all([one["wall"] > 0 for one in (of["cold"], *of["rounds"])])
    assert len(alignment_table(reading(found))) == 2 + len(found["readers"])


@pytest.mark.slow
def test_the_benchmark_aligns_without_training(tmp_path):
    done = bench(tmp_path, "--case", ALIGNMENT, "--quick", "--output", "quick.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "quick.json").read_text())
    assert found["equal"] and "by_width" not in found
    assert all(PANDAS in against for against in found[ALIGNMENT]["ratios"].values())
    assert f"{PANDAS} " in done.stdout and done.stderr == ""
