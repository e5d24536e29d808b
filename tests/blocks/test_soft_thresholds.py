import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fusion_lab.blocks.soft_thresholds import with_thresholds

EXAMPLES = settings(max_examples=50, deadline=None)
COUNTS = st.integers(1, 16)
VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=6)


def answers(values: torch.Tensor, count: int) -> torch.Tensor:
    """Of numbers ``[P]`` to each threshold, ``[P, count]``."""
    return with_thresholds(values.unsqueeze(-1), count, [0])[:, 1:]


@EXAMPLES
@given(values=VALUES, count=COUNTS, picked=st.sets(st.integers(0, 5)))
def test_features_stand_first_as_they_are_and_those_picked_have_answers_behind(values, count, picked):
    columns = sorted(place for place in picked if place < len(values))
    x = torch.tensor([values, values[::-1]], dtype=torch.float64)
    made = with_thresholds(x, count, columns)
    assert made.shape == (2, len(values) + count * len(columns))
    assert torch.equal(made[:, : len(values)], x)
    for place, own in zip(columns, made[:, len(values) :].unflatten(-1, (len(columns), count)).unbind(1), strict=True):
        torch.testing.assert_close(own, answers(x[:, place], count))


@EXAMPLES
@given(count=COUNTS)
def test_what_is_missing_adds_nothing(count):
    assert not with_thresholds(torch.zeros(2, 3), count, [0, 1, 2]).any()


@EXAMPLES
@given(count=COUNTS)
def test_answers_rise_most_at_the_quantiles_of_a_standard_normal(count):
    points = torch.tensor(norm.ppf(np.arange(1, count + 1) / (count + 1))).requires_grad_()
    centre = torch.diagonal(answers(points, count)).sum()
    (slope,) = torch.autograd.grad(centre, points)
    for aside in (-0.05, 0.05):
        moved = (points.detach() + aside).requires_grad_()
        (less,) = torch.autograd.grad(torch.diagonal(answers(moved, count)).sum(), moved)
        assert (less < slope).all()
    torch.testing.assert_close(slope, slope[:1].expand_as(slope))


@EXAMPLES
@given(values=VALUES, count=COUNTS)
def test_answers_never_fall_and_stay_within_two(values, count):
    made = answers(torch.tensor(sorted(values), dtype=torch.float64), count)
    assert (made.diff(dim=0) >= 0).all()
    assert (made.abs() <= 2).all()


@pytest.mark.parametrize("curve", [np.abs, np.sign, lambda x: np.exp(-x * x)])
def test_a_linear_map_of_them_follows_curves_that_no_line_follows(curve):
    x = np.random.default_rng(0).standard_normal(400)
    target = curve(x)
    errors = []
    for columns in ([], [0]):
        made = with_thresholds(torch.tensor(x).unsqueeze(-1), 8, columns).numpy()
        made = np.column_stack([made, np.ones(len(x))])
        errors.append(np.mean((target - made @ np.linalg.lstsq(made, target, rcond=None)[0]) ** 2))
    assert errors[1] < errors[0] / 4
