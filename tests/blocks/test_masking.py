import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusion_lab.blocks.masking import blank, hold, masked_softmax, weighted_mean

SHAPE = (3, 5)
scores = arrays(np.float64, SHAPE, elements=st.floats(-50, 50))
masks = arrays(np.bool_, SHAPE)


@given(scores, masks)
@settings(max_examples=50, deadline=None)
def test_masked_softmax_is_a_softmax_over_what_is_valid(values, valid):
    weights = masked_softmax(torch.from_numpy(values), torch.from_numpy(valid)).numpy()
    for row in range(SHAPE[0]):
        kept = valid[row]
        expected = np.exp(values[row, kept] - values[row, kept].max()) if kept.any() else np.zeros(0)
        np.testing.assert_allclose(weights[row, kept], expected / max(expected.sum(), 1e-300), atol=1e-12)
        assert (weights[row, ~kept] == 0).all()


@given(scores, masks)
@settings(max_examples=25, deadline=None)
def test_masked_softmax_has_finite_gradients_that_ignore_what_is_masked(values, valid):
    logits = torch.from_numpy(values).requires_grad_()
    weights = masked_softmax(logits, torch.from_numpy(valid))
    (weights * torch.arange(5.0)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[torch.from_numpy(~valid)].any()


@given(
    arrays(np.float64, (*SHAPE, 2), elements=st.floats(-1e3, 1e3)),
    arrays(np.float64, SHAPE, elements=st.floats(0.01, 1)),
    masks,
)
@settings(max_examples=50, deadline=None)
def test_weighted_mean_is_numpys_average_and_zero_without_weight(values, weight, valid):
    weight = weight * valid
    mean = weighted_mean(torch.from_numpy(values), torch.from_numpy(weight), dim=1).numpy()
    for row in range(SHAPE[0]):
        expected = np.average(values[row], axis=0, weights=weight[row]) if valid[row].any() else np.zeros(2)
        np.testing.assert_allclose(mean[row], expected, atol=1e-9)


@given(scores, masks)
@settings(max_examples=25, deadline=None)
def test_a_held_gate_is_open_exactly_where_nothing_is_valid_and_itself_elsewhere(values, valid):
    for dtype in (torch.float32, torch.float64):
        plain, mask = torch.from_numpy(values).to(dtype), torch.from_numpy(valid[:, 0])
        held = torch.sigmoid(hold(plain, mask))
        assert (held[~mask] == 1).all()
        assert torch.equal(held[mask], torch.sigmoid(plain)[mask])


def test_blank_removes_whatever_stood_there():
    x = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]])
    assert blank(x, torch.tensor([True, False])).tolist() == [[1.0, 2.0], [0.0, 0.0]]
