"""Laws of several tasks' scores as one number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusion_lab.evaluation.over_tasks import over_folds, over_tasks

scores = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: arrays(float, shape, elements=st.floats(0, 1, width=32))
)
share = st.floats(0, 1)


@given(scores, share)
def test_it_lies_between_the_lowest_and_the_mean(each, weight):
    found = over_tasks(each, weight)
    assert (found >= each.min(0) - 1e-12).all()
    assert (found <= each.mean(0) + 1e-12).all()
    np.testing.assert_array_equal(over_tasks(each), each.mean(0))
    np.testing.assert_allclose(over_tasks(each, 1.0), each.min(0), atol=1e-12)


@given(scores, share)
def test_of_one_task_it_is_its_score(each, weight):
    np.testing.assert_allclose(over_tasks(each[:1], weight), each[0], atol=1e-12)


@given(scores, share)
def test_folds_are_made_one_after_tasks_are(each, weight):
    nothing = [np.nan] * len(each)
    assert over_folds(each, nothing, weight) == pytest.approx(over_tasks(each, weight).mean(), abs=1e-12)


@given(scores, share, st.data())
def test_a_task_that_a_fold_leaves_undefined_counts_with_its_pooled_score(each, weight, data):
    lacking, pooled = data.draw(st.integers(0, len(each) - 1)), data.draw(st.floats(0, 1))
    holed = each.copy()
    holed[lacking, 0] = np.nan
    instead = [pooled if task == lacking else np.nan for task in range(len(each))]
    means = [pooled if task == lacking else own.mean() for task, own in enumerate(each)]
    assert over_folds(holed, instead, weight) == pytest.approx(float(over_tasks(means, weight)), abs=1e-12)
    assert np.isnan(over_tasks(holed, weight)[0])
