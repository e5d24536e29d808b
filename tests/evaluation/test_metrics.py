"""Metrics against scikit-learn and scipy, and what they say where they are undefined."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from fusion_lab.contracts import Task
from fusion_lab.evaluation.metrics import (
    BINS,
    METRICS,
    RANGES,
    THRESHOLDED,
    confidence_bins,
    cuts,
    ece,
    evaluate,
    expected_error,
    largest_error,
    mce,
    rank_auroc,
    why_undefined,
)

BINARY = Task("event", "binary", ("no", "yes"))
CLASSES = Task("site", "multiclass", ("a", "b", "c"))
VALUE = Task("dose", "regression")


def _auroc(score, target, known):
    score, target = score[known], target[known]
    return reference.roc_auc_score(target, score) if 0 < target.sum() < len(target) else np.nan


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40)),
    levels=st.sampled_from([2, 5, 10**6]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_rank_auroc_is_scikit_learns_with_ties_masks_and_leading_axes(seed, shape, levels, dtype):
    rng = np.random.default_rng(seed)
    score = (rng.integers(-levels, levels, shape) / levels).astype(dtype)
    target, known = (rng.random(shape) < 0.4).astype(dtype), rng.random(shape) < 0.8
    score[~known] = rng.choice([np.nan, np.inf, 0.0])  # what is unknown cannot matter
    found = rank_auroc(score, target, known)
    assert found.shape == shape[:-1]
    for place in np.ndindex(shape[:-1]):
        expected = _auroc(score[place], target[place], known[place])
        np.testing.assert_allclose(found[place], expected, rtol=1e-12, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.booleans()), min_size=2, max_size=30))
def test_float32_scores_are_ordered_as_float64_scores_are(rows):
    score = np.array([value for value, _ in rows], np.float32)  # infinities, subnormals and both zeros among them
    target, known = np.array([label for _, label in rows], float), np.ones(len(rows), bool)
    np.testing.assert_equal(rank_auroc(score, target, known), rank_auroc(score.astype(float), target, known))


def test_rank_auroc_of_tensors_is_that_of_arrays():
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(3, 50, generator=generator, requires_grad=True)
    target = (torch.rand(3, 50, generator=generator) < 0.5).float()
    known = torch.rand(3, 50, generator=generator) < 0.9
    found = rank_auroc(score, target, known)
    assert found.dtype == torch.float64
    expected = rank_auroc(score.detach().numpy(), target.numpy(), known.numpy())
    assert found.tolist() == expected.tolist()


def test_rank_auroc_of_a_known_nan_score_is_undefined_for_its_fold_alone():
    score = np.array([[0.1, np.nan, 0.9], [0.1, 0.2, 0.9]], np.float32)
    target, known = np.array([[0, 1, 1], [0, 1, 1]]), np.ones((2, 3), bool)
    np.testing.assert_array_equal(rank_auroc(score, target, known), [np.nan, 1.0])


def _calibration_errors(target, probabilities, bins):
    """Expected and maximum calibration error as Guo et al. (2017) write them, row by row and bin by bin."""
    expected, largest = 0.0, 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (max(row), row.argmax() == label)
            for row, label in zip(probabilities.astype(float), target, strict=True)
            if low < max(row) <= high
        ]
        if inside:
            gap = abs(sum(hit for _, hit in inside) / len(inside) - sum(sure for sure, _ in inside) / len(inside))
            expected, largest = expected + gap * len(inside) / len(target), max(largest, gap)
    return expected, largest


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 40), st.integers(2, 5), st.floats(0.1, 5))
def test_calibration_errors_are_those_of_the_plain_loop(seed, rows, bins, classes, peaked):
    rng = np.random.default_rng(seed)
    score, target = rng.dirichlet(np.full(classes, 1 / peaked), rows), rng.integers(0, classes, rows)
    found = confidence_bins(target, score, bins)
    both = expected_error(found), largest_error(found)
    assert both == pytest.approx(_calibration_errors(target, score, bins))
    assert 0 <= both[0] <= both[1] <= 1
    assert found.count.sum() == rows
    assert (np.isnan(found.accuracy) == (found.count == 0)).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 101), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_calibration_errors_know_no_order_of_rows_nor_of_classes_nor_how_often_the_rows_are_told(rows, random):
    score, target = np.array([s / 101 for s, _ in rows]), np.array([t for _, t in rows], float)  # no tie at a half
    order = random.sample(range(len(rows)), len(rows))
    for metric in (ece, mce):
        value = metric(target, score)
        assert metric(target[order], score[order]) == pytest.approx(value)
        assert metric(np.tile(target, 3), np.tile(score, 3)) == pytest.approx(value)
        assert metric(1 - target, 1 - score) == pytest.approx(value)
        assert metric(target, np.stack([1 - score, score], 1)) == pytest.approx(value)


@pytest.mark.parametrize("bins", [2, 3, 15])
def test_a_bin_holds_its_upper_edge(bins):
    edges = np.linspace(0, 1, bins + 1)[1:]
    score = np.stack([edges, np.zeros_like(edges)], axis=1)  # the top label's probability lies on an edge
    assert confidence_bins(np.zeros(bins), score, bins).count.tolist() == [1] * bins


def test_a_threshold_does_not_move_the_top_label():
    rng = np.random.default_rng(6)
    target, score = rng.integers(0, 2, 50).astype(float), rng.random(50)
    low, high = (evaluate(BINARY, target, score, threshold) for threshold in (0.1, 0.9))
    assert low["accuracy"] != high["accuracy"]
    assert (low["ece"], low["mce"]) == (high["ece"], high["mce"])


def test_rows_that_are_right_as_often_as_they_are_sure_have_no_error():
    score, target = np.repeat([0.75, 0.25], 4), np.array([1, 1, 1, 0, 0, 0, 0, 1], float)
    assert ece(target, score) == mce(target, score) == 0
    assert ece(1 - target, score) == mce(1 - target, score) == 0.5


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_binary_metrics_are_scikit_learns(threshold):
    rng = np.random.default_rng(1)
    target = (rng.random(80) < 0.3).astype(float)
    score = np.round(0.3 * target + 0.7 * rng.random(80), 2)  # rounded: ties
    chosen = score >= threshold
    expected = {
        "auroc": reference.roc_auc_score(target, score),
        "ap": reference.average_precision_score(target, score),
        "f1": reference.f1_score(target, chosen),
        "precision": reference.precision_score(target, chosen),
        "recall": reference.recall_score(target, chosen),
        "accuracy": reference.accuracy_score(target, chosen),
        "log_loss": reference.log_loss(target, score),
        "brier": reference.brier_score_loss(target, score),
        # a tie of the two is a yes, as at the threshold 0.5
        **dict(
            zip(("ece", "mce"), _calibration_errors(1 - target, np.stack([score, 1 - score], 1), BINS), strict=True)
        ),
    }
    assert evaluate(BINARY, target, score, threshold) == pytest.approx(expected)


def test_multiclass_metrics_are_scikit_learns():
    rng = np.random.default_rng(2)
    target = rng.integers(0, 3, 90).astype(float)
    score = rng.dirichlet(np.ones(3), 90)
    chosen, one_hot = score.argmax(1), np.eye(3)[target.astype(int)]
    expected = {
        "auroc": reference.roc_auc_score(target, score, multi_class="ovr"),
        "ap": reference.average_precision_score(one_hot, score, average="macro"),
        "f1": reference.f1_score(target, chosen, average="macro"),
        "accuracy": reference.accuracy_score(target, chosen),
        "log_loss": reference.log_loss(target, score),
        **dict(zip(("ece", "mce"), _calibration_errors(target, score, BINS), strict=True)),
    }
    assert evaluate(CLASSES, target, score) == pytest.approx(expected)


def test_regression_metrics_are_the_references():
    rng = np.random.default_rng(3)
    target = rng.normal(size=50)
    score = target + rng.normal(size=50)
    expected = {
        "r2": reference.r2_score(target, score),
        "mae": reference.mean_absolute_error(target, score),
        "rmse": reference.root_mean_squared_error(target, score),
        "pearson": stats.pearsonr(target, score).statistic,
    }
    assert evaluate(VALUE, target, score) == pytest.approx(expected)


def test_a_threshold_per_row_is_each_rows_own():
    target, score = np.array([0.0, 1.0, 1.0]), np.array([0.3, 0.3, 0.3])
    found = evaluate(BINARY, target, score, np.array([0.4, 0.2, 0.2]))
    assert (found["f1"], found["accuracy"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("task", "target", "score", "undefined", "reason"),
    [
        (BINARY, [0, 0], [0.2, 0.9], {"auroc", "ap", "f1", "recall"}, "no row of class 'yes'"),
        (BINARY, [1, 1], [0.2, 0.9], {"auroc", "ap"}, "no row of class 'no'"),
        (BINARY, [0, 1], [0.2, 0.1], {"precision"}, "no row predicted 'yes'"),
        (CLASSES, [0, 1], [[0.5, 0.3, 0.2]] * 2, {"auroc", "ap", "f1"}, "no row of class 'c'"),
        (VALUE, [2, 2], [1, 3], {"r2", "pearson"}, "constant target"),
        (VALUE, [1, 2], [0.1, 0.1], {"pearson"}, "constant score"),
    ],
)
def test_undefined_is_nan_with_a_reason_and_without_a_warning(task, target, score, undefined, reason):
    target, score = np.array(target, float), np.array(score, float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(task, target, score)
    assert {name for name, value in found.items() if np.isnan(value)} == undefined
    assert why_undefined(task, target, score) == reason


@pytest.mark.parametrize("task", [BINARY, CLASSES, VALUE])
def test_no_rows_and_scores_that_are_not_finite_define_nothing(task):
    shape = (2, 3) if task.kind == "multiclass" else (2,)
    diverged = np.full(shape, np.nan)
    assert all(np.isnan(value) for value in evaluate(task, np.array([0.0, 1.0]), diverged).values())
    assert why_undefined(task, np.array([0.0, 1.0]), diverged) == "the model's scores are not finite"
    assert all(np.isnan(value) for value in evaluate(task, np.empty(0), diverged[:0]).values())
    assert why_undefined(task, np.empty(0), diverged[:0]) == "no row with a known label"


def test_certain_and_wrong_costs_a_finite_likelihood():
    found = evaluate(BINARY, np.array([1.0, 0.0]), np.array([0.0, 1.0], np.float32))["log_loss"]
    assert found == pytest.approx(-np.log(np.finfo(np.float32).eps), rel=1e-6)


def test_every_metric_has_a_range_and_keeps_to_it():
    rng = np.random.default_rng(4)
    names = {name for metrics in METRICS.values() for name in metrics}
    assert set(RANGES) == names
    assert names >= THRESHOLDED
    for task, target in ((BINARY, rng.integers(0, 2, 30)), (CLASSES, rng.integers(0, 3, 30)), (VALUE, rng.random(30))):
        score = rng.dirichlet(np.ones(3), 30) if task.kind == "multiclass" else rng.random(30)
        for name, value in evaluate(task, target.astype(float), score).items():
            assert RANGES[name][0] <= value <= RANGES[name][1], name


def test_cuts_count_what_lies_at_or_above():
    rng = np.random.default_rng(5)
    target, score = rng.integers(0, 2, 40), rng.integers(0, 8, 40) / 8
    found = cuts(target, score)
    assert found.score.tolist() == sorted(set(score.tolist()), reverse=True)
    for value, positives, rows in zip(*found, strict=True):
        assert (positives, rows) == (target[score >= value].sum(), (score >= value).sum())
