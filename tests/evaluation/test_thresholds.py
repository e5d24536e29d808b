"""Thresholds against trying them all, and where they may look."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.calibration import with_temperature
from fusion_lab.evaluation.thresholds import best_f1_threshold, fold_thresholds, pooled_thresholds

SPEC = Spec((), (Task("event", "binary", ("no", "yes")), Task("dose", "regression")))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=25))
def test_no_threshold_has_a_larger_f1_and_none_as_good_is_closer_to_a_half(rows):
    score, target = np.array([s for s, _ in rows]) / 12, np.array([t for _, t in rows], float)
    if not 0 < target.sum() < len(target):
        target[:2] = 0, 1
    found = best_f1_threshold(target, score)
    points = np.concatenate([[0], np.unique(score)])
    tried = np.unique((points[1:] + points[:-1]) / 2)
    f1 = np.array([f1_score(target, score >= t, zero_division=0) for t in tried])
    assert f1_score(target, score >= found, zero_division=0) == pytest.approx(f1.max())
    assert abs(found - 0.5) <= np.abs(tried[np.isclose(f1, f1.max())] - 0.5).min() + 1e-12


def test_neighbouring_floats_are_still_cut_between():
    low = 0.3
    score = np.array([low, np.nextafter(low, 1)])
    assert ((score >= best_f1_threshold(np.array([0.0, 1.0]), score)) == [False, True]).all()


def test_one_class_is_not_asked_for_a_threshold():
    with pytest.raises(AssertionError):
        best_f1_threshold(np.ones(3), np.array([0.1, 0.2, 0.3]))


def _predictions(target, score, split=("val", "test"), known=None):
    """Two folds of four rows per split."""
    count = len(split) * 8
    fold = np.tile(np.repeat([0, 1], 4), len(split))
    both = {"event": np.asarray(target, float), "dose": np.zeros(count)}
    mask = np.ones(count, bool) if known is None else np.asarray(known)
    scores = {"event": np.asarray(score, float), "dose": np.zeros(count)}
    masks = {"event": mask, "dose": np.ones(count, bool)}
    return Predictions(fold, np.repeat(split, 8), np.arange(count), both, masks, scores)


def test_each_fold_looks_at_its_own_known_validation_rows_only():
    rng = np.random.default_rng(0)
    target = [0, 0, 1, 1] * 4
    score = rng.random(16)
    known = np.ones(16, bool)
    known[[1, 6]] = False
    found = fold_thresholds(_predictions(target, score, known=known), SPEC)
    assert set(found.values) == {"event"}  # a regression task has none
    assert found.notes["event"] == ("", "")
    for fold, rows in enumerate(([0, 2, 3], [4, 5, 7])):
        assert found.values["event"][fold] == best_f1_threshold(np.array(target)[rows], score[rows])
    score[8:] = rng.random(8)  # test rows
    score[[1, 6]] = 0.99
    again = fold_thresholds(_predictions(target, score, known=known), SPEC)
    np.testing.assert_array_equal(again.values["event"], found.values["event"])


def test_a_fold_with_one_class_takes_a_half_and_says_so():
    score = np.random.default_rng(1).random(16)
    target = np.array([0, 0, 0, 0, 0, 1, 0, 1] + [0, 1] * 4)
    found = fold_thresholds(_predictions(target, score), SPEC)
    assert found.values["event"][0] == 0.5
    assert found.values["event"][1] == best_f1_threshold(target[4:8], score[4:8])
    assert "threshold 0.5" in found.notes["event"][0]
    assert found.notes["event"][1] == ""


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.booleans())
def test_labels_and_scores_of_a_folds_test_rows_never_move_its_threshold(seed, folds, both):
    """In a K-fold split, where fold k's test rows validate the fold before it, and most folds hold one class."""
    rng = np.random.default_rng(seed)
    of_row = np.arange(folds * 6) % folds
    label = (rng.random(folds * 6) < 0.5) & (of_row == rng.integers(folds))
    label[np.flatnonzero(of_row == 0)[:2]] = 0, both
    score = rng.random((2, folds * 6))

    def thresholds(flipped, moved):
        """``flipped``: the fold whose test rows have the other label; ``moved``: and other scores."""
        entries = []
        for fold in range(folds):
            for split, part in (("val", (fold + 1) % folds), ("test", fold)):
                entries += [(fold, split, row) for row in np.flatnonzero(of_row == part)]
        fold, split, row = (np.array(column) for column in zip(*entries, strict=True))
        hit = of_row[row] == flipped
        target = np.where(hit, ~label[row], label[row]).astype(float)
        answer = np.where(hit & moved, score[1, row], score[0, row])
        known = np.ones(len(row), bool)
        parts = {"event": target, "dose": target}, {"event": known, "dose": known}, {"event": answer, "dose": answer}
        return fold_thresholds(Predictions(fold, split, row, *parts), SPEC)

    before = thresholds(-1, False)
    for fold in range(folds):
        for moved in (False, True):
            after = thresholds(fold, moved)
            assert after.values["event"][fold] == before.values["event"][fold]
            assert after.notes["event"][fold] == before.notes["event"][fold]


@pytest.mark.parametrize("split", [("val", "test"), ("test",)])
def test_without_two_classes_anywhere_the_threshold_is_a_half_and_says_so(split):
    found = fold_thresholds(_predictions(np.zeros(8 * len(split)), np.full(8 * len(split), 0.3), split), SPEC)
    assert found.values["event"].tolist() == [0.5, 0.5]
    assert all("0.5" in note for note in found.notes["event"])


def test_the_pooled_threshold_is_that_of_all_known_validation_rows_after_their_temperature():
    rng = np.random.default_rng(0)
    target, score, known = np.array([0, 0, 1, 1] * 4), rng.random(16), np.ones(16, bool)
    known[[1, 6]] = False
    predictions = _predictions(target, score, known=known)
    rows = known & (np.arange(16) < 8)  # the rest are test rows
    assert pooled_thresholds(predictions, SPEC) == {"event": best_f1_threshold(target[rows], score[rows])}
    found = pooled_thresholds(predictions, SPEC, {"event": 2.5, "dose": 1.0})["event"]
    warm = with_temperature(SPEC.task("event"), score[rows], 2.5)
    assert found == best_f1_threshold(target[rows], warm)
    cut = score[rows] >= pooled_thresholds(predictions, SPEC)["event"]
    np.testing.assert_array_equal(warm >= found, cut)  # the order of rows is the same: so is the best cut


@pytest.mark.parametrize("score", [0.3, np.nan])
def test_the_pooled_threshold_is_a_half_without_two_classes_and_finite_scores(score):
    target = np.zeros(16) if score == 0.3 else np.array([0, 1] * 8)
    assert pooled_thresholds(_predictions(target, np.full(16, score)), SPEC, {"event": 3.0}) == {"event": 0.5}


def test_steps_count_as_rows_of_the_pooled_threshold():
    rng = np.random.default_rng(0)
    shape = (6, 5)
    target, score, known = (rng.random(shape) < 0.5).astype(float), rng.random(shape), rng.random(shape) < 0.8
    columns = {"walk": target}, {"walk": known}, {"walk": score}
    predictions = Predictions(np.repeat([0, 1], 3), np.repeat("val", 6), np.arange(6), *columns)
    spec = Spec((), (Task("walk", "binary", ("no", "yes"), ("sensor",)),))
    assert pooled_thresholds(predictions, spec) == {"walk": best_f1_threshold(target[known], score[known])}
