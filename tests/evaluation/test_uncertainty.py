"""Entropies and passes against NumPy, scipy and their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from fusion_lab.contracts import Spec, Task
from fusion_lab.evaluation.uncertainty import entropy, finds_errors, over_passes, rank_correlation

EVENT = Task("event", "binary", ("no", "yes"))
SITE = Task("site", "multiclass", ("a", "b", "c"))
DOSE = Task("dose", "regression")
PHASE = Task("phase", "multiclass", ("on", "off"), steps=("wrist",))
SPEC = Spec((), (EVENT, SITE, DOSE, PHASE))


def drawn(passes, rows, seed=0, peaked=1.0):
    rng = np.random.default_rng(seed)
    return [
        {
            "event": rng.beta(peaked, peaked, rows),
            "site": rng.dirichlet(np.full(3, peaked), rows),
            "dose": rng.normal(5, 2, rows),
            "phase": rng.dirichlet(np.full(2, peaked), (rows, 4)),
        }
        for _ in range(passes)
    ]


def classes_of(task, score):
    return np.stack([1 - score, score], -1) if task.kind == "binary" else score


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 1000), st.sampled_from([0.02, 1.0, 50.0]))
def test_mean_entropy_and_information_are_their_definitions(passes, rows, seed, peaked):
    scores = drawn(passes, rows, seed, peaked)
    found = over_passes(iter(scores), SPEC)
    for task in (EVENT, SITE, PHASE):
        stacked = np.stack([classes_of(task, s[task.name]) for s in scores])
        whole, own = stats.entropy(stacked.mean(0), axis=-1), stats.entropy(stacked, axis=-1)
        of = found[task.name]
        np.testing.assert_allclose(classes_of(task, of.mean), stacked.mean(0), atol=1e-12)
        np.testing.assert_allclose(of.entropy, whole, atol=1e-10)
        np.testing.assert_allclose(of.information, whole - own.mean(0), atol=1e-10)
        assert (of.information >= 0).all()
        assert (of.information <= of.entropy + 1e-12).all()
        assert (of.entropy <= np.log(stacked.shape[-1]) + 1e-12).all()


def test_the_deviation_of_values_and_probabilities_is_numpys():
    scores = drawn(7, 30)
    for task in (DOSE, EVENT):
        stacked = np.stack([s[task.name] for s in scores])
        found = over_passes(scores, SPEC)[task.name]
        np.testing.assert_allclose(found.mean, stacked.mean(0))
        np.testing.assert_allclose(found.std, stacked.std(0, ddof=1))
        assert (found.entropy is None) == (found.information is None) == (task is DOSE)
        assert np.isnan(over_passes(scores[:1], SPEC)[task.name].std).all()
    assert over_passes(scores, SPEC)["site"].std is None


def test_passes_that_agree_say_nothing_of_the_weights():
    found = over_passes(drawn(1, 20) * 6, SPEC)
    for task in (EVENT, SITE, PHASE):
        np.testing.assert_allclose(found[task.name].information, 0, atol=1e-12)
    np.testing.assert_allclose(found["dose"].std, 0, atol=1e-12)


def test_passes_that_are_certain_and_disagree_tell_all_of_the_entropy():
    scores = [{**drawn(1, 2)[0], "event": np.full(2, value)} for value in (0.0, 1.0)]
    found = over_passes(scores, SPEC)["event"]
    np.testing.assert_allclose(found.information, np.log(2))
    np.testing.assert_allclose(found.entropy, found.information)


def test_certainty_has_no_entropy():
    assert entropy(EVENT, np.array([0.0, 1.0], np.float32)).tolist() == [0, 0]
    assert entropy(SITE, np.eye(3)).tolist() == [0, 0, 0]


def test_finding_errors_is_scikit_learns_area():
    rng = np.random.default_rng(4)
    score, target, doubt = rng.dirichlet(np.ones(3), 80), rng.integers(0, 3, 80), rng.integers(0, 9, 80) / 9
    wrong = score.argmax(1) != target
    assert finds_errors(target, score, doubt) == pytest.approx(roc_auc_score(wrong, doubt))
    assert finds_errors(target, score, wrong.astype(float)) == 1
    assert np.isnan(finds_errors(score.argmax(1), score, doubt))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30))
def test_rank_correlation_is_scipys(pairs):
    a, b = (np.array(part, float) for part in zip(*pairs, strict=True))
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    else:
        assert np.isnan(rank_correlation(a, b))
