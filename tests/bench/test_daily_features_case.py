"""The daily features case: the product and pandas, with SciPy, make the same 121 numbers of a day's raw files."""

import json

import numpy as np
import pytest
from daily_features_case import by_pandas, difference, measure, write_days
from results import APART, PANDAS, daily_features_table, days_too_different, reading
from settings import DAILY_FEATURES
from test_bench import bench

from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.patient import describe

pytestmark = pytest.mark.slow

DAYS, RATES = 2, (0.02, 1.0)
"""Of the heart so high that no frequency that is asked for is a multiple of it, where SciPy divides 0 by 0."""


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """Features of the same days by both."""
    sequence = write_days(tmp_path_factory.mktemp("days"), DAYS, *RATES)
    return dict(describe(sequence)[0].features), by_pandas(sequence)


def test_the_product_and_pandas_make_the_same(described):
    assert difference(*described) <= APART
    assert all(of[name].shape == (DAYS, len(names)) for of in described for name, names in MODALITIES.items())
    assert sum(map(len, MODALITIES.values())) == sum(np.isfinite(values[-1]).sum() for values in described[1].values())


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_single_value_that_differs_is_told(described, modality):
    ours, theirs = described
    spoilt = theirs | {modality: theirs[modality].copy()}
    spoilt[modality][-1, -1] += 1e-5 * max(1, abs(spoilt[modality][-1, -1]))
    found = {"difference": difference(ours, spoilt)}
    assert found["difference"] > APART and len(days_too_different(found)) == 1
    spoilt[modality][-1, -1] = np.nan
    assert difference(ours, spoilt) == float("inf")


@pytest.mark.slow
def test_every_contender_is_timed_in_every_round():
    found = measure(1, 2, *RATES)
    assert found["rows"] == 1 and found["difference"] <= APART and PANDAS in found["readers"]
    for of in found["readers"].values():
        assert len(of["rounds"]) == 2 and np.all([one["wall"] > 0 for one in (of["cold"], *of["rounds"])])
    assert len(daily_features_table(reading(found))) == 2 + len(found["readers"])


@pytest.mark.slow
def test_the_benchmark_describes_days_without_training(tmp_path):
    done = bench(tmp_path, "--case", DAILY_FEATURES, "--quick", "--output", "quick.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "quick.json").read_text())
    assert found["equal"] and "by_width" not in found
    assert all(PANDAS in against for against in found[DAILY_FEATURES]["ratios"].values())
    assert f"{PANDAS} " in done.stdout and done.stderr == ""
