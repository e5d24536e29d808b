"""Watched scores of all folds at once against scikit-learn, fold by fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, r2_score, roc_auc_score

from fusion_lab.contracts import ConfigError, Modality, Spec, Task
from fusion_lab.evaluation.metrics import measure
from fusion_lab.training.monitor import (
    auroc,
    check_monitor,
    flat_steps,
    macro_f1,
    mean_over_folds,
    probabilities,
    watched,
)
from fusion_lab.training.targets import TargetScale

BINARY = Task("relapse", "binary", ("no", "yes"))
GRADE = Task("grade", "multiclass", ("low", "mid", "high"))
DOSE = Task("dose", "regression")


def drawn(seed: int, classes: int, folds: int = 3, rows: int = 40):
    """Scores with ties, targets of all classes, and a mask, each ``[K,R]``."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (folds, rows)).astype(np.float32)
    target[:, :classes] = np.arange(classes)
    known = rng.random((folds, rows)) < 0.7
    known[:, :classes] = True
    score = np.round(rng.random((folds, rows, classes)).astype(np.float32), 1)
    return torch.from_numpy(score), torch.from_numpy(target), torch.from_numpy(known)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scores_of_binary_tasks_are_those_of_scikit_learn(seed):
    score, target, known = drawn(seed, 2)
    for monitor, reference in (("auroc", roc_auc_score), ("ap", average_precision_score)):
        name, function = watched(BINARY, monitor)
        found = function(BINARY, score[..., 1], target, known)
        own = [reference(t[k], s[k]) for s, t, k in zip(score[..., 1], target, known, strict=True)]
        assert name == monitor
        np.testing.assert_allclose(found, own, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_auroc_of_a_multiclass_task_is_the_mean_of_one_class_against_the_rest(seed):
    score, target, known = drawn(seed, 3)
    own = [
        np.mean([roc_auc_score(t[k] == c, s[k][:, c]) for c in range(3)])
        for s, t, k in zip(score, target, known, strict=True)
    ]
    np.testing.assert_allclose(auroc(GRADE, score, target, known), own, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_f1_of_a_multiclass_task_is_scikit_learns_macro_f1_of_the_most_probable_class(seed):
    score, target, known = drawn(seed, 3)
    name, function = watched(GRADE, "f1")
    found = function(GRADE, score, target, known)
    own = [
        f1_score(t[k], s[k].argmax(-1), average="macro", zero_division=0)
        for s, t, k in zip(score.numpy(), target.numpy(), known.numpy(), strict=True)
    ]
    assert name == "f1"
    np.testing.assert_allclose(found, own, atol=1e-12)


def test_macro_f1_is_undefined_where_the_metric_is_and_the_mean_is_pooled_then():
    score, target, known = drawn(1, 3)
    target[1][target[1] == 2] = 0
    known[0] &= target[0] != 1
    found = macro_f1(GRADE, score, target, known)
    arrays = zip(score.numpy(), target.numpy(), known.numpy(), strict=True)
    np.testing.assert_allclose(found, [measure(GRADE, "f1", t[k], s[k]) for s, t, k in arrays])
    assert torch.isnan(found).tolist() == [True, True, False]
    together = f1_score(target[known], score[known].argmax(-1), average="macro")
    assert mean_over_folds(GRADE, macro_f1, score, target, known) == pytest.approx(together)
    score[2, 5, 1], known[2, 5] = torch.nan, False
    assert not torch.isnan(macro_f1(GRADE, score, target, known)[2])  # a row that does not count
    known[2, 5] = True
    assert torch.isnan(macro_f1(GRADE, score, target, known)[2])


def test_f1_is_refused_where_it_would_depend_on_a_threshold():
    def of(*tasks: Task) -> Spec:
        return Spec((Modality("m", "vector", ()),), tasks)

    check_monitor(of(GRADE, DOSE), "f1")
    check_monitor(of(GRADE, BINARY), "auroc")
    with pytest.raises(
        ConfigError, match=r"training.monitor: f1 .* task relapse is binary: expected auroc, ap or loss"
    ):
        check_monitor(of(GRADE, BINARY), "f1")


def test_a_regression_is_watched_by_r2_whatever_the_monitor():
    score, target, known = drawn(0, 4)
    for monitor in ("auroc", "ap", "f1", "loss"):
        name, function = watched(DOSE, monitor)
        found = function(DOSE, score[..., 0], target, known)
        assert name == "r2"
        own = [r2_score(t[k], s[k]) for s, t, k in zip(score[..., 0], target, known, strict=True)]
        np.testing.assert_allclose(found, own, atol=1e-6)


def test_a_fold_with_one_class_makes_the_mean_the_score_of_all_rows_together():
    score, target, known = drawn(1, 2)
    rows = score[..., 1], target, known
    per_fold = auroc(BINARY, *rows)
    assert mean_over_folds(BINARY, auroc, *rows) == pytest.approx(float(per_fold.mean()))
    target[1] = 0
    assert torch.isnan(auroc(BINARY, *rows)).tolist() == [False, True, False]
    together = roc_auc_score(target[known], score[..., 1][known])
    assert mean_over_folds(BINARY, auroc, *rows) == pytest.approx(together)


def test_heads_become_probabilities_and_values_in_the_targets_unit():
    tasks = (BINARY, GRADE, DOSE)
    heads = {"relapse": torch.randn(2, 5), "grade": torch.randn(2, 5, 3), "dose": torch.randn(2, 5)}
    scale = TargetScale({"dose": torch.tensor([2000.0, 0.0])}, {"dose": torch.tensor([10.0, 1.0])})
    found = probabilities(heads, Spec((Modality("m", "vector", ()),), tasks), scale)
    torch.testing.assert_close(found["relapse"], 1 / (1 + torch.exp(-heads["relapse"])))
    torch.testing.assert_close(found["grade"].sum(-1), torch.ones(2, 5))
    assert torch.equal(found["grade"].argmax(-1), heads["grade"].argmax(-1))
    torch.testing.assert_close(found["dose"][0], 2000 + 10 * heads["dose"][0])
    assert torch.equal(found["dose"][1], heads["dose"][1])


def test_steps_of_a_per_step_task_are_scored_as_rows():
    score, target, known = drawn(2, 2, folds=2, rows=40)
    steps = [leaf.reshape(2, 10, 4) for leaf in (score[..., 1], target, known)]
    per_step = Task("walking", "binary", ("no", "yes"), steps=("sensor",))
    expected = auroc(BINARY, score[..., 1], target, known)
    np.testing.assert_array_equal(auroc(per_step, *flat_steps(per_step, *steps)), expected)
