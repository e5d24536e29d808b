"""Days that are made up: the same settings give the same days, missingness is as asked for, and the past tells more."""

import numpy as np
import pytest
from relapse_material import config
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fusion_lab.data.relapse import load
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.settings import TwinConfig
from fusion_lab.data.relapse.twin import made_days

SMALL = {"hr": 6, "sleep": 4}


@pytest.fixture(scope="module")
def frame():
    return made_days(TwinConfig())[0]


def columns(frame, modality):
    return frame[[name for name in frame.columns if name.startswith(f"{modality}__")]].to_numpy()


def test_nine_patients_have_the_modalities_of_the_real_data(frame):
    assert frame["patient"].nunique() == 9
    assert {name: columns(frame, name).shape[1] for name in MODALITIES} == {n: len(f) for n, f in MODALITIES.items()}
    assert [n for n in frame.columns if "__" in n] == [f"{m}__{f}" for m, of in MODALITIES.items() for f in of]
    assert set(frame["sequence"]) == {"train_0", "val_0", "val_1", "test_0", "test_1"}


def test_the_same_settings_give_the_same_days_and_other_settings_others():
    one, again, other = (made_days(TwinConfig(widths=SMALL, seed=seed)) for seed in (0, 0, 1))
    assert one[0].equals(again[0]) and one[1] == again[1]
    assert one[1].sha256 != other[1].sha256


def test_relapses_are_where_they_may_be(frame):
    assert not frame.loc[frame["sequence"] == "train_0", "label"].any()
    relapse = frame[frame["label"] == 1]
    watched = frame[frame["sequence"] != "train_0"]
    early, late = (watched[watched["day"] < 15]["label"].mean(), watched[watched["day"] >= 15]["label"].mean())
    assert early > late / 2  # where a day is in its sequence does not tell it
    assert 0.15 < frame["label"].mean() < 0.35
    assert set(relapse["patient"]) == set(frame["patient"])


def test_days_modalities_and_cells_are_missing_as_asked_for():
    whole = made_days(TwinConfig(widths=SMALL, gaps=0, missing=0, cells=0))[0]
    assert not whole.isna().any().any()
    assert (whole.groupby(["patient", "sequence"])["day"].diff().dropna() == 1).all()
    some = made_days(TwinConfig(widths=SMALL, gaps=0.2, missing=0.3, cells=0.1))[0]
    assert len(some) < len(whole)
    off = np.isnan(columns(some, "hr")).all(axis=1)
    assert 0 < off.mean() < 1 and 0 < np.isnan(columns(some, "hr")[~off]).mean() < 1
    assert not np.isnan(some.filter(like="__").to_numpy()).all(axis=1).any()


def auroc(dataset, last_alone):
    """Of people whom a linear model has not seen, from their last day or from all days; per person, then the mean."""
    parts = []
    for name, inputs in dataset.inputs.items():
        values = np.where(dataset.observed[name], inputs, np.nan)[:, -1 if last_alone else 0 :]
        flat = values.reshape(len(values), -1)
        parts.append(np.nan_to_num((flat - np.nanmean(flat, axis=0)) / np.nanstd(flat, axis=0)))
    cells, label, scores = np.concatenate(parts, axis=1), dataset.targets["relapse"].numpy(), []
    for person in np.unique(dataset.group):
        own = dataset.group == person
        model = LogisticRegression(C=0.003, max_iter=300).fit(cells[~own], label[~own])
        scores.append(roc_auc_score(label[own], model.decision_function(cells[own])))
    return float(np.mean(scores))


def test_a_week_tells_more_than_its_last_day_and_without_a_signal_neither_tells_anything():
    twin = {"patients": 6, "widths": {"hr": 6, "sleep": 6, "step": 6}, "missing": 0.1}
    week = load(config(twin=twin))
    nothing = load(config(twin={**twin, "signal": 0.0}))
    assert auroc(week, last_alone=False) > auroc(week, last_alone=True) + 0.05
    assert auroc(week, last_alone=False) > 0.65
    assert auroc(nothing, last_alone=False) < 0.58  # below a half: whom a model has not seen has the other share
