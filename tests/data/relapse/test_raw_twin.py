"""The made-up tree: the same each time, irregular, with a relapse that can be seen where one was planted."""

import numpy as np
import pandas as pd
import pytest

from fusion_lab.data.relapse.daily import Daily, together
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.patient import describe
from fusion_lab.data.relapse.raw import FILES, find_sequences
from fusion_lab.data.relapse.raw_twin import RawTwinConfig, write_raw_tree

pytestmark = pytest.mark.filterwarnings("error")

LOW = {"motion_hz": 1 / 60, "heart_hz": 1 / 60}


def written(folder, **settings):
    write_raw_tree(folder, RawTwinConfig(**(LOW | settings)))
    return folder


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.*"))}


def watched(root) -> Daily:
    """Days with a label that might be either."""
    daily = together([describe(s)[0] for s in find_sequences(root) if s.name.startswith("val")])
    return daily.take(np.flatnonzero(daily.label >= 0))


def effect(daily, modality, feature):
    """Mean of days in relapse less that of stable days, in deviations of a person's days."""
    values = daily.features[modality][:, MODALITIES[modality].index(feature)].astype(float)
    apart = []
    for patient in np.unique(daily.patient):
        own = (daily.patient == patient) & ~np.isnan(values)
        stable, relapse = values[own & (daily.label == 0)], values[own & (daily.label == 1)]
        if len(stable) > 1 and len(relapse) > 1:
            apart.append((relapse.mean() - stable.mean()) / stable.std(ddof=1))
    return float(np.mean(apart))


def test_the_same_settings_write_the_same_files(tmp_path):
    one, other = (written(tmp_path / name, patients=2, days=2) for name in ("one", "other"))
    assert files(one) == files(other)
    assert files(one) != files(written(tmp_path / "third", patients=2, days=2, seed=1))


@pytest.mark.slow
def test_the_tree_is_as_irregular_as_real_ones(tmp_path):
    root = written(tmp_path / "raw", patients=9, days=4)
    sequences = find_sequences(root)
    of = [sum(s.patient == patient for s in sequences) for patient in {s.patient for s in sequences}]
    assert len(of) == 9 and len(set(of)) > 1
    assert any(s.file(modality) is None for s in sequences for modality in FILES)
    kinds, samples, days = set(), [], []
    for sequence in sequences:
        if path := sequence.file("accel"):
            frame = pd.read_parquet(path)
            kinds.add(type(frame["time"].iloc[0]).__name__)
            samples += frame.groupby("day_index").size().tolist()
            days.append(frame["day_index"].nunique())
    assert kinds == {"str", "time"}
    assert min(samples) < max(samples) == 24 * 60 and min(days) < max(days) == 4
    labels = pd.read_csv(next(s for s in sequences if s.name == "val_0").folder / "relapses.csv")
    assert labels["day_index"].tolist() == [0, 1, 2, 3, 999]  # the last row is spurious


def test_a_relapse_is_seen_in_activity_heart_and_sleep_where_one_is_planted(tmp_path):
    planted = watched(written(tmp_path / "planted", patients=3, days=16, signal=3.0))
    assert effect(planted, "accel", "magnitude_mean") < -0.5
    assert effect(planted, "step", "total_steps") < -0.2
    assert effect(planted, "hr", "rate_mean") > 0.5 and effect(planted, "hr", "rmssd") < -0.5
    assert effect(planted, "sleep", "total_minutes") > 0.5


def test_without_a_signal_days_of_a_relapse_are_days_like_others(tmp_path):
    """The same draws give the same days, whatever the label says of them."""
    none, planted = (watched(written(tmp_path / str(s), patients=1, days=8, signal=s)) for s in (0.0, 3.0))
    stable = none.label == 0
    np.testing.assert_array_equal(none.label, planted.label)
    np.testing.assert_array_equal(none.features["hr"][stable], planted.features["hr"][stable])
    assert not np.array_equal(none.features["hr"][~stable], planted.features["hr"][~stable], equal_nan=True)
