"""Evidence is what scikit-learn's leave-one-out ridge regression finds, in the marked rows and in no other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from fusion_lab.data import synthetic
from fusion_lab.data.evidence import LEAST, PENALTIES, evidence, fit_evidence, leave_one_out
from fusion_lab.data.scaling import Scaler, ScalingConfig
from fusion_lab.data.synthetic import SyntheticConfig, SyntheticModality, SyntheticTask

MODALITIES = {
    "loud": SyntheticModality(width=4),
    "faint": SyntheticModality(width=60, useful=False),
    "tiles": SyntheticModality(kind="bag", width=3, length=4, useful=False),
}


def rows_of(seed=0, rows=240, **more):
    config = SyntheticConfig(rows=rows, planted="additive", signal=4.0, modalities=MODALITIES, seed=seed, **more)
    dataset = synthetic.load(config)
    return dataset.spec, dataset.gather(torch.arange(rows))


def test_a_scaler_multiplies_quality_by_it_fold_by_fold_and_remembers_it():
    config = SyntheticConfig(rows=240, planted="quality", modalities=MODALITIES)
    data = synthetic.load(config)
    marks = np.arange(240)[None] % 3 != np.arange(3)[:, None]
    scaler = Scaler.fit(data, marks, ScalingConfig(evidence=True))
    plain = Scaler.fit(data, marks)
    told = fit_evidence(data, marks)
    rows = torch.arange(240).expand(3, 240)
    for name, of in told.items():
        expected = data.quality[name] * of[:, None]
        assert torch.equal(scaler(data.gather(rows)).quality[name], expected)
        assert torch.equal(scaler.fold(1)(data.gather(rows[0])).quality[name], expected[1])
        assert torch.equal(scaler.take([2, 0])(data.gather(rows[:2])).quality[name], expected[[2, 0]])
        assert torch.equal(Scaler.from_state(scaler.state())(data.gather(rows)).quality[name], expected)
        assert torch.equal(plain(data.gather(rows)).quality[name][0], data.quality[name])
        own = evidence(data.gather(rows[0]), data.spec, marks)
        assert torch.equal(own[name], of)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), width=st.integers(1, 30), count=st.integers(5, 20), classes=st.integers(1, 3))
def test_it_is_scikit_learns_ridge_fitted_without_each_row(seed, width, count, classes):
    rng = np.random.default_rng(seed)
    columns, target = rng.normal(size=(count, width)), rng.normal(size=(count, classes))
    x = (columns - columns.mean(0)) / columns.std(0)
    mean = np.array([np.delete(target, i, 0).mean(0) for i in range(count)])
    scores = []
    for penalty in PENALTIES:
        found = cross_val_predict(Ridge(penalty * width), x, target, cv=LeaveOneOut()).reshape(count, -1)
        scores.append(np.mean(1 - ((target - found) ** 2).sum(0) / ((target - mean) ** 2).sum(0)))
    assert leave_one_out(columns, target) == pytest.approx(max(0.0, *scores), abs=1e-9)
    assert r2_score(target, mean) < 0  # what it is held against predicts nothing


def test_a_modality_that_tells_more_has_more():
    spec, batch = rows_of(tasks={"binary": SyntheticTask(), "grade": SyntheticTask(kind="multiclass")})
    found = evidence(batch, spec, np.ones((1, 240), bool))
    assert found["loud"].tolist() == [1.0]
    assert max(float(found["faint"]), float(found["tiles"])) < 0.3


def test_no_other_row_and_no_auxiliary_task_has_a_say():
    tasks = {"outcome": SyntheticTask(), "help": SyntheticTask(kind="regression", auxiliary="more")}
    spec, batch = rows_of(tasks=tasks)
    rows = np.arange(240)[None] < 120
    before = evidence(batch, spec, rows)
    noise = torch.randn(batch.inputs["loud"].shape)
    outside = torch.where(torch.from_numpy(rows[0])[:, None], batch.inputs["loud"], noise)
    targets = {**batch.targets, "help": torch.randn(240)}
    after = evidence(batch._replace(inputs={**batch.inputs, "loud": outside}, targets=targets), spec, rows)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_where_nothing_tells_anything_all_have_the_same_say():
    spec, batch = rows_of()
    constant = batch._replace(inputs={name: torch.zeros_like(leaf) for name, leaf in batch.inputs.items()})
    assert all(of.tolist() == [1.0] for of in evidence(constant, spec, np.ones((1, 240), bool)).values())


def test_what_tells_nothing_keeps_the_least():
    spec, batch = rows_of()
    inputs = {name: leaf if name == "loud" else torch.zeros_like(leaf) for name, leaf in batch.inputs.items()}
    found = evidence(batch._replace(inputs=inputs), spec, np.ones((2, 240), bool))
    assert found["faint"].tolist() == pytest.approx([LEAST] * 2)
