import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import Task
from fusion_lab.evaluation.labelled import Labelled
from fusion_lab.evaluation.metrics import METRICS, measure
from fusion_lab.evaluation.sums import SUMS, has_sums, sums

TASKS = {
    "binary": Task("t", "binary", ("no", "yes")),
    "multiclass": Task("t", "multiclass", ("a", "b", "c")),
    "regression": Task("t", "regression"),
}


def drawn(task, rows, seed):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=rows) if task.kind == "regression" else rng.integers(0, len(task.classes), rows)
    score = rng.normal(size=rows) if task.kind == "regression" else rng.random(rows)
    if task.kind == "multiclass":
        score = rng.dirichlet(np.ones(3), rows)
    index = np.arange(rows)
    return Labelled(np.zeros(rows, int), index, target.astype(float), score, rng.choice([0.3, 0.5], rows))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(list(TASKS)), rows=st.integers(1, 30), groups=st.integers(1, 5), seed=st.integers(0, 9999))
def test_sums_over_drawn_groups_score_as_the_drawn_rows_do(kind, rows, groups, seed):
    task, rng = TASKS[kind], np.random.default_rng(seed)
    labelled, code = drawn(task, rows, seed), rng.integers(0, groups, rows)
    times = rng.integers(0, 3, groups)
    repeated = labelled.of(np.repeat(np.arange(rows), times[code]))
    for metric in set(METRICS[kind]) & set(SUMS):
        found = sums(task, metric, labelled, code, groups)
        value = found.score(times @ found.parts)
        expected = measure(task, metric, repeated.target, repeated.score, repeated.threshold)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9, err_msg=metric)


def test_ranks_are_no_sums():
    assert not has_sums("auroc") and not has_sums("ap")


@pytest.mark.parametrize("metric", ["accuracy", "f1", "log_loss"])
def test_scores_that_are_not_finite_have_no_value(metric):
    labelled = drawn(TASKS["binary"], 6, 0)
    labelled.score[2] = np.nan
    found = sums(TASKS["binary"], metric, labelled, np.zeros(6, int), 1)
    assert np.isnan(found.score(found.parts.sum(0)))
