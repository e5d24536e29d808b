"""The gates: each passes and refuses where its sentence says so, and says the numbers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fusion_lab.evaluation.gates import GATES, Contest, Facts, PromotionConfig, judge
from fusion_lab.evaluation.paired import Paired, paired_folds


def against(ours: float, theirs: float, p: float = 0.5, other: str = "the other") -> Contest:
    paired = Paired(ours - theirs, ours - theirs - 0.1, ours - theirs + 0.1, p, 5, "a paired test")
    return Contest(other, "AUROC", "test rows of 5 folds", ours, theirs, paired)


GOOD = Facts(None, against(0.7, 0.6), against(0.7, 0.65), 1e-6, 100)


def verdict(facts: Facts, **gate):
    (found,) = judge(PromotionConfig.model_validate({"gates": (gate,)}), facts)
    return found


def test_the_default_gates_pass_a_model_that_beats_all_and_each_can_refuse_it():
    assert [v.rule for v in judge(PromotionConfig(), GOOD)] == list(GATES)
    assert all(v.passed for v in judge(PromotionConfig(), GOOD))
    spoilt = {
        "better_than_champion": replace(GOOD, champion=against(0.7, 0.69, p=0.4)),
        "not_worse_than_single": replace(GOOD, single=against(0.7, 0.701)),
        "not_worse_than_baseline": replace(GOOD, baseline=against(0.7, 0.71)),
        "answers_as_trained": replace(GOOD, difference=0.01),
    }
    assert spoilt.keys() == GATES.keys()
    for rule, facts in spoilt.items():
        assert [v.rule for v in judge(PromotionConfig(), facts) if not v.passed] == [rule]


@given(st.floats(0, 1), st.floats(0.01, 0.99))
def test_the_champion_is_beaten_where_p_is_at_most_alpha(p, alpha):
    found = verdict(replace(GOOD, champion=against(0.8, 0.7, p)), rule="better_than_champion", alpha=alpha)
    assert found.passed == (p <= alpha)
    assert found.numbers["p"] == p


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.2))
def test_not_worse_allows_the_margin_and_no_more(ours, theirs, margin):
    found = verdict(replace(GOOD, baseline=against(ours, theirs)), rule="not_worse_than_baseline", margin=margin)
    assert found.passed == (ours - theirs >= -margin)


def test_a_test_without_an_answer_refuses():
    same = paired_folds(np.full(5, 0.8), np.full(5, 0.7), 80, 20)
    assert np.isnan(same.p)
    contest = replace(against(0.8, 0.7), paired=same)
    found = verdict(replace(GOOD, champion=contest), rule="better_than_champion")
    assert not found.passed and "p is undefined" in found.sentence


def test_a_champion_that_cannot_be_compared_refuses_and_says_why():
    found = verdict(replace(GOOD, champion="it was made from other rows"), rule="better_than_champion")
    assert not found.passed and "it was made from other rows" in found.sentence


def test_nothing_compared_is_no_proof():
    assert not verdict(replace(GOOD, difference=0.0, compared=0), rule="answers_as_trained").passed


def test_sentences_hold_scores_rows_and_difference():
    found = verdict(replace(GOOD, baseline=against(0.6, 0.65, other="baseline trees")), rule="not_worse_than_baseline")
    assert found.sentence == (
        "AUROC 0.600 against 0.650 of baseline trees on test rows of 5 folds, "
        "difference -0.050 (95 %: -0.150 to +0.050)"
    )
    assert str(found).startswith("REFUSED  not_worse_than_baseline: ")


@pytest.mark.parametrize(
    "gate",
    [
        {"rule": "best_ever"},
        {"rule": "better_than_champion", "margin": 1.0},
        {"rule": "answers_as_trained", "tolerance": 0.0},
    ],
)
def test_unknown_rules_and_settings_of_other_rules_are_refused(gate):
    with pytest.raises(ValidationError):
        PromotionConfig.model_validate({"gates": (gate,)})
