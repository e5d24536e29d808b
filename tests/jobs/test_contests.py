"""Comparisons where a fold alone has no score: macro F1 of all folds' rows together, people exchanged as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from subjects_material import ACT, ROWS, subject_out

from fusion_lab.contracts import Predictions
from fusion_lab.evaluation.gates import Facts, PromotionConfig, judge
from fusion_lab.evaluation.metrics import measure
from fusion_lab.jobs.contests import Entrant, _macro_f1, _read, contest
from fusion_lab.jobs.results import Scored


def answers(materials, right: float, seed: int = 0) -> Predictions:
    """Test rows of all folds, in no order, a share of them ``right``."""
    rng = np.random.default_rng(seed)
    target = materials.dataset.targets["act"].numpy().astype(int)
    fold, row = np.nonzero(materials.folds.test)
    order = rng.permutation(len(row))
    fold, row = fold[order], row[order]
    chosen = np.where(rng.random(len(row)) < right, target[row], rng.integers(0, 3, len(row)))
    score = 0.8 * np.eye(3)[chosen] + 0.2 / 3
    known = np.ones(len(row), bool)
    split = np.full(len(row), "test")
    return Predictions(fold, split, row, {"act": target[row].astype(float)}, {"act": known}, {"act": score})


def macro(predictions: Predictions) -> float:
    return f1_score(predictions.target["act"], predictions.score["act"].argmax(-1), average="macro")


def test_people_of_one_class_are_compared_on_the_rows_of_all():
    _, materials = subject_out()
    ours, other = answers(materials, 0.95), answers(materials, 0.2, seed=1)
    found = contest(Entrant("ours", ours), Entrant("champion", other), materials, "f1")
    assert (found.ours, found.theirs) == (pytest.approx(macro(ours)), pytest.approx(macro(other)))
    assert (found.metric, found.rows) == ("macro F1", "the test rows of 7 folds together")
    assert found.paired.n == len(ROWS)
    assert found.paired.difference == pytest.approx(macro(ours) - macro(other))
    assert found.paired.low > 0
    assert found.paired.p == pytest.approx(1 / 2 ** len(ROWS), rel=0.8)  # none but the swap of nobody is as large
    headline = Scored.of("ours", "model", ours, materials, "f1").headlines["test"]
    assert found.ours == pytest.approx(headline.value)


def test_a_gate_says_what_was_compared():
    _, materials = subject_out()
    ours, other = (Entrant(name, answers(materials, right)) for name, right in (("ours", 0.9), ("champion", 0.5)))
    found = contest(ours, other, materials, "f1")
    verdict, *_ = judge(PromotionConfig(), Facts(found, found, found, 0.0, 1))
    assert verdict.passed
    assert verdict.sentence.startswith(f"macro F1 {found.ours:.3f} against {found.theirs:.3f} of champion on the test")
    assert "of 7 groups" in verdict.sentence


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30))
def test_macro_f1_of_choices_is_the_metric_of_scores(seed, rows):
    _, materials = subject_out()
    rng = np.random.default_rng(seed)
    target, score = rng.integers(0, 3, rows).astype(float), rng.dirichlet(np.ones(3), rows)
    score[rng.random(rows) < 0.02] = np.nan
    read = _read({"act": score}, materials.spec, "f1")["act"]
    assert _macro_f1(ACT, target, read) == pytest.approx(measure(ACT, "f1", target, score), nan_ok=True)
