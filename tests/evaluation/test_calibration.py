"""Temperatures against those that were planted, against brute force, and what they may change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brute
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import norm

from fusion_lab.contracts import Predictions, Task
from fusion_lab.evaluation.calibration import (
    GREATEST,
    LEAST,
    PRIOR,
    calibrate,
    fit_temperature,
    reliability,
    with_temperature,
)
from fusion_lab.evaluation.metrics import evaluate

EVENT = Task("event", "binary", ("no", "yes"))
SITE = Task("site", "multiclass", ("a", "b", "c"))
DOSE = Task("dose", "regression")


def _drawn(task, rows, temperature, seed=0):
    """Labels drawn from honest probabilities, and the scores of a model whose logits are ``temperature`` times them."""
    rng = np.random.default_rng(seed)
    if task.kind == "binary":
        logits = rng.normal(size=rows)
        target = (rng.random(rows) < expit(logits)).astype(float)
        return expit(logits * temperature), target, expit(logits)
    logits = rng.normal(size=(rows, 3))
    honest = softmax(logits, axis=1)
    target = (rng.random((rows, 1)) > honest.cumsum(1)).sum(1).astype(float)
    return softmax(logits * temperature, axis=1), target, honest


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("task", [EVENT, SITE], ids=lambda task: task.kind)
def test_a_planted_temperature_is_found(task, temperature):
    score, target, honest = _drawn(task, 20_000, temperature)
    found = fit_temperature(task, score, target)
    assert found == pytest.approx(temperature, rel=0.08)  # its standard error is about 2 %
    np.testing.assert_allclose(with_temperature(task, score, temperature), honest, atol=1e-9)


@pytest.mark.parametrize("task", [EVENT, SITE], ids=lambda task: task.kind)
@pytest.mark.parametrize("seed", range(4))
def test_no_temperature_is_likelier(task, seed):
    """Brute force over the likelihood times the prior, a normal one on the logarithm."""
    score, target, _ = _drawn(task, 40, (0.3, 0.9, 2.0, 6.0)[seed], seed)
    codes = target.astype(int)

    def loss(at):
        temperature = np.exp(np.atleast_1d(at)[0])
        if task.kind == "binary":
            return np.logaddexp(0, (1 - 2 * codes) * logit(score) / temperature).sum() - prior(at)
        return -log_softmax(np.log(score) / temperature, axis=1)[np.arange(40), codes].sum() - prior(at)

    def prior(at):
        return norm.logpdf(np.atleast_1d(at)[0], scale=PRIOR)

    best = brute(loss, [(np.log(LEAST), np.log(GREATEST))], Ns=2000, finish=None)
    found = fit_temperature(task, score, target)
    assert loss(np.log(found)) <= loss(best) + 1e-6
    assert found == pytest.approx(np.exp(best), rel=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.sampled_from([EVENT, SITE]), st.floats(0.1, 10))
def test_the_loss_of_the_fitting_rows_never_gets_worse(seed, rows, task, temperature):
    score, target, _ = _drawn(task, rows, temperature, seed)
    target = np.random.default_rng(seed).permutation(target)  # whatever the labels
    after = with_temperature(task, score, fit_temperature(task, score, target))
    losses = [evaluate(task, target, s)["log_loss"] for s in (score, after)]
    assert losses[1] <= losses[0] + 1e-12
    assert LEAST <= fit_temperature(task, score, target) <= GREATEST


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(LEAST, GREATEST))
def test_rows_never_change_places(scores, temperature):
    score = np.sort(np.array(scores))
    after = with_temperature(EVENT, score, temperature)
    assert (np.diff(after) >= 0).all()
    assert ((after >= 0) & (after <= 1)).all()
    np.testing.assert_array_equal(after >= 0.5, score >= 0.5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 99), min_size=2, max_size=20, unique=True), st.floats(0.5, GREATEST))
def test_rows_that_differ_still_differ(percent, temperature):
    score = np.sort(np.array(percent)) / 100
    assert (np.diff(with_temperature(EVENT, score, temperature)) > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("task", [EVENT, SITE, DOSE], ids=lambda task: task.kind)
def test_a_temperature_of_one_changes_no_bit(task, dtype):
    score = np.concatenate([[0.0, 1.0], np.random.default_rng(0).random(10)]).astype(dtype).reshape(4, 3)
    np.testing.assert_array_equal(with_temperature(task, score, 1.0), score)


@pytest.mark.parametrize("task", [EVENT, SITE], ids=lambda task: task.kind)
def test_leading_axes_are_the_callers_own(task):
    score, target, _ = _drawn(task, 24, 2.0)
    cells = score.shape[1:]
    found = with_temperature(task, score.reshape(2, 3, 4, *cells), 1.7)
    np.testing.assert_array_equal(found, with_temperature(task, score, 1.7).reshape(2, 3, 4, *cells))
    steps = fit_temperature(task, score.reshape(6, 4, *cells), target.reshape(6, 4))
    assert steps == fit_temperature(task, score, target)
    if task.kind == "multiclass":
        np.testing.assert_allclose(found.sum(-1), 1)


def test_a_handful_of_separated_rows_does_not_make_certain():
    score, target = np.linspace(0.40, 0.62, 8), (np.arange(8) >= 4).astype(float)
    found = fit_temperature(EVENT, score, target)
    assert 0.2 < found < 1
    many = fit_temperature(EVENT, np.tile(score, 500), np.tile(target, 500))
    assert many < found / 2  # four thousand of them are believed


def test_certainty_has_a_finite_cost():
    score = np.array([0.0, 1.0, 1.0, 0.0], np.float32)
    found = fit_temperature(EVENT, score, np.array([0.0, 1.0, 0.0, 1.0]))
    after = with_temperature(EVENT, score, found)
    assert 2 < found < GREATEST  # half of them are wrong, and only four speak
    assert ((after > 0) & (after < 1)).all()
    certain = np.array([[1.0, 0.0, 0.0]] * 2)
    assert np.isfinite(with_temperature(SITE, certain, 0.1)).all()


@pytest.mark.parametrize(
    ("task", "score", "target"),
    [
        (EVENT, [0.2, 0.9], [1, 1]),
        (EVENT, [], []),
        (EVENT, [0.2, np.nan], [0, 1]),
        (SITE, [[0.2, 0.3, 0.5]] * 2, [2, 2]),
        (SITE, [[np.inf, 0.3, 0.5]] * 2, [0, 2]),
        (DOSE, [3.0, 4.0], [1, 2]),
    ],
)
def test_where_there_is_nothing_to_fit_the_temperature_is_one(task, score, target):
    assert fit_temperature(task, np.array(score), np.array(target, float)) == 1.0


def _predictions(task, temperatures, rows=600, known=0.8, steps=()):
    """Validation and test rows of one fold per temperature, whose logits are so many times too large."""
    parts = []
    for fold, temperature in enumerate(temperatures):
        count = rows * int(np.prod(steps))
        score, target, _ = _drawn(task, count, temperature, seed=fold)
        parts.append((score.reshape(rows, *steps, *score.shape[1:]), target.reshape(rows, *steps)))
    score, target = (np.concatenate(part) for part in zip(*parts, strict=True))
    split = np.tile(np.repeat(["val", "test"], rows // 2), len(temperatures))
    told = np.random.default_rng(1).random(target.shape) < known
    fold = np.repeat(np.arange(len(temperatures)), rows)
    return Predictions(fold, split, np.arange(len(fold)), {task.name: target}, {task.name: told}, {task.name: score})


@pytest.mark.parametrize("steps", [(), (3,)], ids=["rows", "steps"])
@pytest.mark.parametrize("task", [EVENT, SITE], ids=lambda task: task.kind)
def test_each_folds_temperature_is_that_of_its_validation_rows_and_serves_its_test_rows(task, steps):
    predictions = _predictions(task, (3.0, 0.5, 1.0), steps=steps)
    found, after, targets = calibrate(predictions, task), [], []
    for fold in found.folds:
        val, test = (predictions.of(split, fold.fold) for split in ("val", "test"))
        known = val.known[task.name]
        expected = fit_temperature(task, val.score[task.name][known], val.target[task.name][known])
        assert (fold.temperature, fold.fitted_on) == (expected, known.sum())
        known = test.known[task.name]
        target, score = test.target[task.name][known], test.score[task.name][known]
        for told, probabilities in ((fold.before, score), (fold.after, with_temperature(task, score, expected))):
            values = evaluate(task, target, probabilities)
            assert (told.ece, told.mce, told.nll, told.rows) == (
                values["ece"],
                values["mce"],
                values["log_loss"],
                len(target),
            )
        after.append(with_temperature(task, score, expected))
        targets.append(target)
    pooled = evaluate(task, np.concatenate(targets), np.concatenate(after))
    assert (found.after.ece, found.after.nll) == (pooled["ece"], pooled["log_loss"])


@pytest.mark.parametrize("task", [EVENT, SITE], ids=lambda task: task.kind)
def test_what_is_too_sure_becomes_calibrated(task):
    found = calibrate(_predictions(task, (3.0, 4.0), rows=8000), task)
    assert found.after.ece < found.before.ece / 3
    assert found.after.nll < found.before.nll


def test_test_rows_do_not_reach_a_temperature():
    predictions = _predictions(EVENT, (2.0, 0.7))
    other = _predictions(EVENT, (2.0, 0.7))
    other.target["event"][other.split == "test"] = 0.0
    other.score["event"][other.split == "test"] = 0.3
    temperatures = [[fold.temperature for fold in calibrate(p, EVENT).folds] for p in (predictions, other)]
    assert temperatures[0] == temperatures[1]


@pytest.mark.parametrize("score", [[], [np.nan, 0.2]])
def test_without_rows_or_with_scores_that_are_no_numbers_nothing_is_defined(score):
    found = reliability(EVENT, np.zeros(len(score)), np.array(score, float))
    assert np.isnan([found.ece, found.mce, found.nll]).all()
    assert not found.bins.count.any()
