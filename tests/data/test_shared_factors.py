"""Laws of the plan in which all modalities show a few common factors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, Feature, Modality, Spec, Task
from fusion_lab.data import shared_factors
from fusion_lab.data.planting import Planting, generate
from fusion_lab.data.synthetic import SyntheticConfig, SyntheticModality, SyntheticTask, load, truth

FIVE = {name: SyntheticModality(width=width) for name, width in zip("abcde", (12, 16, 16, 24, 32), strict=True)}
TASKS = {"survival": SyntheticTask(), "recurrence": SyntheticTask()}
ROWS = 1200
TRAIN, TEST = slice(None, ROWS // 2), slice(ROWS // 2, None)


def twin(**settings) -> SyntheticConfig:
    return SyntheticConfig(**{"rows": ROWS, "planted": "shared", "modalities": FIVE, "tasks": TASKS, **settings})


def standardised(values) -> np.ndarray:
    return (values - values.mean(0)) / values.std(0)


def hidden(config: SyntheticConfig) -> dict[str, np.ndarray]:
    return {name: standardised(values) for name, values in truth(config).hidden.items()}


def r2(found: np.ndarray, told: np.ndarray) -> float:
    """Of standardised columns, all together."""
    return float(1 - ((found - told) ** 2).sum() / (told**2).sum())


def told_by(x: np.ndarray, y: np.ndarray) -> float:
    """AUROC of a logistic regression of the first half on the second."""
    model = LogisticRegression(C=0.01).fit(x[TRAIN], y[TRAIN])
    return float(roc_auc_score(y[TEST], model.decision_function(x[TEST])))


def test_hidden_inputs_are_the_inputs_and_what_was_masked():
    config = twin(missing_modalities=0.4, missing_cells=0.2)
    data, full = load(config), load(twin())
    for name, values in truth(config).hidden.items():
        assert np.array_equal(np.where(data.observed[name], values, 0), data.inputs[name])
        assert np.array_equal(values, full.inputs[name])
    there = torch.stack(list(data.valid.values())).float().mean().item()
    assert there == pytest.approx(0.6, abs=0.02)  # a row without any gets one back


def test_a_ridge_regression_tells_a_missing_modality_from_those_that_are_there():
    config = twin(missing_modalities=0.4, noise=0.5)
    valid, values = load(config).valid, hidden(config)
    for name in FIVE:
        others = [other for other in FIVE if other != name]
        x = np.concatenate([values[o] * valid[o].numpy()[:, None] for o in others], axis=1)
        there = valid[name].numpy()
        known, missing = np.flatnonzero(there[TRAIN]), ROWS // 2 + np.flatnonzero(~there[TEST])
        model = RidgeCV(np.logspace(0, 4, 9)).fit(x[known], values[name][known])
        assert r2(model.predict(x[missing]), values[name][missing]) > 0.1
        wrong = np.random.default_rng(0).permutation(missing)
        assert r2(model.predict(x[wrong]), values[name][missing]) < 0, "another row's modalities tell nothing"


def test_what_no_factor_reaches_cannot_be_told():
    config = twin(modalities={**FIVE, "admin": SyntheticModality(width=8, useful=False)})
    values = hidden(config)
    x = np.concatenate([values[name] for name in FIVE], axis=1)
    model = RidgeCV(np.logspace(0, 6, 9)).fit(x[TRAIN], values["admin"][TRAIN])
    assert r2(model.predict(x[TEST]), values["admin"][TEST]) < 0.02


def test_no_modality_tells_all_and_all_tell_more_than_those_that_are_there():
    config = twin(missing_modalities=0.4, signal=4.0, noise=0.5)
    data, values = load(config), hidden(config)
    y = data.targets["survival"].numpy()
    masked = {name: values[name] * data.valid[name].numpy()[:, None] for name in FIVE}
    alone = [told_by(values[name], y) for name in FIVE]
    there = told_by(np.concatenate(list(masked.values()), axis=1), y)
    together = told_by(np.concatenate(list(values.values()), axis=1), y)
    oracle = roc_auc_score(y[TEST], truth(config).oracle["survival"][TEST])
    assert min(alone) > 0.6
    assert max(alone) < together - 0.03
    assert there + 0.02 < together <= oracle


@pytest.mark.parametrize("change", [{"noise": 4.0}, {"poor_quality": 1.0}, {"missing_modalities": 0.6}])
def test_what_hides_the_factors_lowers_what_the_modalities_tell_and_not_the_oracle(change):
    told, best = [], []
    for config in (twin(), twin(**change)):
        data = load(config)
        y = data.targets["survival"].numpy()
        x = {n: values * data.valid[n].numpy()[:, None] for n, values in hidden(config).items()}
        told.append(told_by(np.concatenate(list(x.values()), axis=1), y))
        best.append(roc_auc_score(y, truth(config).oracle["survival"]))
    assert told[1] < told[0] - 0.03
    assert best[0] == best[1]


def test_more_signal_lets_the_oracle_tell_more():
    told = []
    for signal in (0.5, 1.0, 2.0, 4.0):
        config = twin(signal=signal)
        told.append(roc_auc_score(load(config).targets["survival"], truth(config).oracle["survival"]))
    assert told == sorted(told)
    assert told[0] < 0.7 < 0.9 < told[-1]


def test_tasks_are_directions_that_have_nothing_to_do_with_each_other():
    names = [f"task{i}" for i in range(shared_factors.FACTORS)]
    oracle = truth(twin(tasks=dict.fromkeys(names, SyntheticTask()))).oracle
    found = np.corrcoef([oracle[name] for name in names])
    assert np.abs(found - np.eye(len(names))).max() < 4 / np.sqrt(ROWS)


def test_the_quality_is_how_far_a_modality_shows_the_rows_own_factors():
    config = twin(poor_quality=1.0, rows=4000)
    data, values = load(config), hidden(config)
    own = hidden(twin(rows=4000))
    for name in FIVE:
        quality = data.quality[name].numpy()
        assert 0.1 <= quality.min() < 0.15 < 0.95 < quality.max() <= 1
        error = np.square(values[name] - own[name]).mean(1)
        assert stats.spearmanr(quality, error).statistic < -0.5
        size = np.square(values[name]).mean(1)
        assert abs(stats.spearmanr(quality, size).statistic) < 4 / np.sqrt(len(size)), "nothing but the quality tells"
    assert all((values == 1).all() for values in load(twin()).quality.values())


def test_the_share_of_poor_quality_is_as_asked():
    quality = torch.stack(list(load(twin(poor_quality=0.3)).quality.values()))
    assert (quality < 1).float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_a_model_that_weighs_by_quality_wins_where_it_is_planted():
    gains = []
    for seed in range(5):
        config = twin(poor_quality=0.8, signal=4.0, seed=seed)
        data, values = load(config), hidden(config)
        y = data.targets["survival"].numpy()
        weighed = [values[name] * data.quality[name].numpy()[:, None] for name in FIVE]
        plain = told_by(np.concatenate(list(values.values()), axis=1), y)
        gains.append(told_by(np.concatenate(weighed, axis=1), y) - plain)
    assert stats.ttest_1samp(gains, 0, alternative="greater").pvalue < 0.05


@given(
    rows=st.integers(10, 40),
    poor=st.sampled_from([0.0, 0.5, 1.0]),
    missing=st.sampled_from([0.0, 0.4, 0.95]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_any_spec_of_row_tasks_can_carry_it(rows, poor, missing, seed):
    stage = tuple(Feature(f"stage={c}", "category", "stage", c) for c in ("I", "II", "unknown"))
    like = Spec(
        (
            Modality("clinic", "vector", (Feature("age"), Feature("smoker", "binary"), *stage)),
            Modality("gait", "sequence", (Feature("x"), Feature("y")), length=6),
            Modality("cells", "bag", (Feature("area"),), length=5),
        ),
        (Task("death", "binary", ("no", "yes")), Task("months", "regression")),
    )
    plan = Planting(
        rows=rows, planted="shared", poor_quality=poor, missing_modalities=missing, missing_cells=0.2, seed=seed
    )
    made = generate(like, plan, useful=("clinic", "gait", "cells"))
    assert made.dataset.spec == like
    for modality in like.modalities:
        name = modality.name
        assert made.truth.hidden[name].shape == (rows, *modality.shape)
        assert not made.dataset.inputs[name][~made.dataset.valid[name]].any()
        quality = made.dataset.quality[name]
        assert ((quality >= 0) & (quality <= 1)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"planted": "additive", "poor_quality": 0.5}, "poor_quality: expected 0 unless shared factors .* found 0.5"),
        (
            {"modalities": {"s": {"kind": "sequence", "length": 4}}, "tasks": {"t": {"per_step": True}}},
            "shared expects one label per row, found a task per step",
        ),
    ],
)
def test_what_it_has_no_place_for_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(SyntheticConfig, {"planted": "shared", **settings}, "demo.yaml")
