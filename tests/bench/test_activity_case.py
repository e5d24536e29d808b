"""The activity case: its folds are those of the data at hand, and all who train it train the same thing."""

from dataclasses import asdict, replace

import numpy as np
import ours
import plain
import pytest
import torch
from activity_case import ActivityCase
from opponents import load
from ours import CHUNKS, make_plan, subjects
from prepare import told, write_case
from results import TOLERANCES, differences
from settings import CASES, QUICK, Settings

SMALL = [replace(base, **QUICK["activity"] | {"samples": 24}, d_model=32) for base in CASES["activity"]]


def encoder(settings: Settings) -> str:
    return str(settings.encoder)


@pytest.fixture
def case(request, tmp_path) -> ActivityCase:
    """As the opponents read it."""
    write_case(tmp_path / "case.pt", request.param)
    return load(tmp_path / "case.pt", request.param)


def test_subjects_have_as_many_rows_as_in_the_data_at_hand():
    settings = CASES["activity"][0]
    names, rows = np.unique(subjects(settings), return_counts=True)
    assert settings.rows == sum(CHUNKS) and settings.folds == len(CHUNKS) == len(names)
    assert rows.tolist() == list(CHUNKS)


def test_every_fold_leaves_one_subject_out():
    plan = make_plan(SMALL[0], "loop")
    who = plan.dataset.group
    assert [np.unique(who[rows]).tolist() for rows in plan.folds.test] == [[name] for name in np.unique(who)]
    for train, test in zip(plan.folds.train, plan.folds.test, strict=True):
        assert not set(who[train]) & set(who[test])


@pytest.mark.parametrize("settings", [SMALL[0], pytest.param(SMALL[1], marks=pytest.mark.slow)], ids=encoder)
def test_without_dropout_a_plain_loop_trains_what_the_product_trains(settings, tmp_path):
    """In the float64 that the benchmark's own check takes as the sharp one; and for more than one epoch."""
    settings = replace(settings, dropout=0.0, double=True, epochs=2)
    write_case(tmp_path / "case.pt", settings)
    trained = {mode: ours.cross_validate(make_plan(settings, mode)) for mode in ("stacked", "loop")}
    trained["plain"] = plain.cross_validate(load(tmp_path / "case.pt", settings))
    found = differences({name: [asdict(fold) for fold in folds] for name, folds in trained.items()})
    for name, most in TOLERANCES["float64"].items():
        assert found[name] <= most
    for name in ("val_auroc", "test_auroc", "test_ap"):
        assert found[name] < 1e-6


@pytest.mark.parametrize("case", SMALL, ids=encoder, indirect=True)
def test_the_opponents_model_draws_for_dropout_in_training_alone(case):
    fold = case.folds[0]
    batch, model = case.columns(fold, fold.val), case.model(fold)
    answers = [model.train(training)(batch["features"], batch["masks"]) for training in (True, True, False, False)]
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])
    assert torch.equal(answers[2], answers[3])


@pytest.mark.parametrize("case", SMALL[:1], ids=encoder, indirect=True)
def test_the_opponents_loss_is_the_products(case):
    """Weights of the classes divide by the number of rows, as ours do."""
    fold, plan = case.folds[0], make_plan(case.settings, "loop")
    batch = plan.batch(fold.train, plan.scaler.fold(0))
    with torch.no_grad():
        output = case.model(fold).eval().family(batch.without_targets())
        expected = plan.objective(output, batch, {ours.TASK: fold.class_weights})
    labels = case.columns(fold, fold.train)["label"]
    torch.testing.assert_close(case.criterion(fold)(output.heads[ours.TASK], labels), expected)


def test_what_is_told_of_a_case_is_its_size_and_the_products_own_choice():
    settings = SMALL[0]
    found = told(settings)
    assert found["parameters"] == make_plan(settings, "loop").initial_weights(0).count_parameters()
    assert found["auto"]["mode"] in ("stacked", "loop") and found["auto"]["reason"]
