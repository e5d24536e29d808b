"""Statistics pooling against NumPy, and what must not change it."""

from __future__ import annotations

import numpy as np
import torch

from fusion_lab.blocks.statistics import SMOOTHING, StatisticsPooling

GROUPS, ROWS, STEPS, WIDTH = 2, 7, 6, 3


def pool() -> StatisticsPooling:
    torch.manual_seed(0)
    return StatisticsPooling(GROUPS, WIDTH).double()


def some_steps() -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of which some are not valid; the last row has none."""
    rng = np.random.default_rng(1)
    valid = torch.from_numpy(rng.random((GROUPS, ROWS, STEPS)) < 0.7)
    valid[:, 0], valid[:, -1] = True, False
    return torch.from_numpy(rng.normal(size=(GROUPS, ROWS, STEPS, WIDTH))), valid


def test_the_token_is_a_projection_of_numpys_statistics():
    made, (x, valid) = pool(), some_steps()
    expected = np.zeros((GROUPS, ROWS, 3 * WIDTH))
    for g, b in np.ndindex(GROUPS, ROWS):
        steps = x[g, b][valid[g, b]].numpy()
        if len(steps):
            expected[g, b] = np.concatenate([steps.mean(0), np.sqrt(steps.var(0) + SMOOTHING), steps.max(0)])
    token = np.einsum("gbf,gfd->gbd", expected, made.project.weight.detach().numpy())
    token += made.project.bias.detach().numpy()[:, None]
    np.testing.assert_allclose(made(x, valid).detach(), token, atol=1e-9)


def test_neither_order_nor_what_is_not_valid_changes_the_token():
    made, (x, valid) = pool(), some_steps()
    order = torch.randperm(STEPS)
    torch.testing.assert_close(made(x[:, :, order], valid[:, :, order]), made(x, valid))
    other = torch.where(valid.unsqueeze(-1), x, torch.full_like(x, torch.nan))
    torch.testing.assert_close(made(other, valid), made(x, valid))


def test_gradients_are_finite_also_of_constant_and_of_absent_steps():
    made, (x, valid) = pool(), some_steps()
    constant = torch.ones_like(x).requires_grad_()
    made(constant, valid).sum().backward()
    assert constant.grad is not None and torch.isfinite(constant.grad).all()
    assert not constant.grad[~valid].any()
