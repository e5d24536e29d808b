"""Comparisons where a fold alone has no score: macro F1 of all folds' rows together, people exchanged as a whole."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs_stage import TINY
from sklearn.metrics import average_precision_score, f1_score
from subjects_material import ACT, ROWS, subject_out

from fusion_lab.contracts import Predictions
from fusion_lab.evaluation.gates import Facts, PromotionConfig, judge
from fusion_lab.evaluation.metrics import measure
from fusion_lab.experiment import Materials, override, resolve
from fusion_lab.jobs.contests import Entrant, _macro_f1, _read, contest
from fusion_lab.jobs.results import Scored
from fusion_lab.training.plan import Goal


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
    read = _read({"act": score}, materials.spec, Goal.of("f1"))["act"]
    assert _macro_f1(ACT, target, read) == pytest.approx(measure(ACT, "f1", target, score), nan_ok=True)


TASKS = {
    "outcome": {"kind": "binary"},
    "relapse": {"kind": "binary", "prevalence": 0.3},
    "dose": {"kind": "regression"},
}
GOAL = Goal("macro_plus_min", 0.4)


def two_tasks(seed: int, right: float, protocol: str) -> tuple[Materials, Predictions]:
    """Test rows, and how well two main tasks are answered on them, beside an auxiliary one that is answered anyhow."""
    settings = {"data.tasks": TASKS, "folds.protocol": protocol}
    loaded = Materials.load(resolve(override({"name": "tiny", **TINY}, settings), "tiny"))
    tasks = (replace(t, auxiliary="doses" if t.kind == "regression" else "") for t in loaded.spec.tasks)
    dataset = replace(loaded.dataset, spec=replace(loaded.spec, tasks=tuple(tasks)))
    rng = np.random.default_rng(seed)
    fold, row = np.nonzero(loaded.folds.test)
    target = {name: dataset.targets[name].numpy()[row] for name in TASKS}
    score = {name: right * values + rng.random(len(row)) for name, values in target.items()}
    score = {name: values / 2 for name, values in score.items()} | {"dose": rng.normal(size=len(row))}
    known = {name: np.ones(len(row), bool) for name in TASKS}
    predictions = Predictions(fold, np.full(len(row), "test"), row, target, known, score)
    return Materials(dataset, loaded.folds), predictions


def goal_of(predictions: Predictions) -> float:
    each = [average_precision_score(predictions.target[t], predictions.score[t]) for t in ("outcome", "relapse")]
    return (1 - GOAL.min_weight) * np.mean(each) + GOAL.min_weight * min(each)


@pytest.mark.parametrize("protocol", ["stratified", "holdout"])
def test_the_mean_and_the_lowest_main_task_are_compared(protocol):
    materials, ours = two_tasks(0, 1.0, protocol)
    _, other = two_tasks(1, 0.1, protocol)
    found = contest(Entrant("ours", ours), Entrant("champion", other), materials, GOAL)
    assert found.metric == "macro + min AP"
    folds = range(len(materials.folds))
    ours_value, theirs = (np.mean([goal_of(p.of("test", k)) for k in folds]) for p in (ours, other))
    assert (found.ours, found.theirs) == pytest.approx((ours_value, theirs))
    assert found.paired.difference == pytest.approx(ours_value - theirs)


@pytest.mark.slow
def test_locked_rows_are_compared_by_the_mean_and_the_lowest_main_task_too():
    materials, _ = two_tasks(0, 1.0, "stratified")
    rows = np.arange(len(materials.dataset)) < 25
    locked = Materials(materials.dataset, replace(materials.folds, holdout=rows))
    rng = np.random.default_rng(0)
    target = {name: materials.dataset.targets[name].numpy()[rows] for name in TASKS}
    answers = [{name: right * target[name] + rng.random(25) for name in TASKS} for right in (1.0, 0.0)]
    nothing = answers[0]["outcome"][:0].astype(int)
    empty = Predictions(nothing, nothing.astype(str), nothing, {}, {}, {})
    ours, other = (Entrant(name, empty, of) for name, of in zip(("ours", "other"), answers, strict=True))
    found = contest(ours, other, locked, GOAL)
    known = {name: np.ones(25, bool) for name in TASKS}
    whole = [Predictions(np.zeros(25, int), np.full(25, "test"), np.arange(25), target, known, of) for of in answers]
    assert (found.ours, found.theirs) == pytest.approx(tuple(map(goal_of, whole)))
    assert found.rows == "25 holdout rows"
    assert found.paired.low > 0
