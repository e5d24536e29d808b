import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.blocks.encoders import Asked
from fusion_lab.blocks.pooling import AttentionEncoder, AttentionPooling
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise

WIDTHS, WIDTH, ROWS, LENGTH = (5, 3), 8, 4, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(len(WIDTHS), ROWS, LENGTH, max(WIDTHS), dtype=torch.float64)
    for g, width in enumerate(WIDTHS):
        x[g, ..., width:] = 0
    valid = torch.rand(len(WIDTHS), ROWS, LENGTH) > 0.4
    valid[:, 0] = False
    valid[..., 1:, 2] = True
    return x, valid


def by_the_formula(pooling: AttentionPooling, x: np.ndarray, valid: np.ndarray, g: int, row: int) -> tuple:
    """One row of one group, position by position (Ilse et al., 2018, equations 7 and 9)."""
    weight, bias = pooling.gated.weight[g].detach().numpy(), pooling.gated.bias[g].detach().numpy()
    score = pooling.score[g].detach().numpy()[:, 0]
    scores = {}
    for t in np.flatnonzero(valid):
        both = x[t] @ weight + bias
        scores[t] = score @ (np.tanh(both[:WIDTH]) / (1 + np.exp(-both[WIDTH:])))
    total = sum(np.exp(s) for s in scores.values())
    weights = np.array([np.exp(scores[t]) / total if t in scores else 0.0 for t in range(LENGTH)])
    return sum((weights[t] * x[t] for t in scores), np.zeros(WIDTH)), weights


def test_pooling_is_gated_attention_by_the_formula():
    pooling, (_, valid) = AttentionPooling(len(WIDTHS), WIDTH).double(), inputs()
    x = 2 * torch.randn(len(WIDTHS), ROWS, LENGTH, WIDTH, dtype=torch.float64)
    token, weights = pooling(x, valid)
    for g in range(len(WIDTHS)):
        for row in range(ROWS):
            expected = by_the_formula(pooling, x[g, row].numpy(), valid[g, row].numpy(), g, row)
            np.testing.assert_allclose(token[g, row].detach(), expected[0], atol=1e-12)
            np.testing.assert_allclose(weights[g, row].detach(), expected[1], atol=1e-12)


@given(order=st.permutations(range(LENGTH)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_order_of_positions_permutes_weights_and_steps_and_nothing_else(order, seed):
    torch.manual_seed(seed)
    encoder, (x, valid) = AttentionEncoder(WIDTHS, WIDTH, 1, 0.0, Asked(steps=True)).double(), inputs()
    token, weights, steps = encoder(x, valid, None)
    shuffled = encoder(x[:, :, order], valid[:, :, order], None)
    torch.testing.assert_close(shuffled.token, token)
    torch.testing.assert_close(shuffled.weights, weights[..., order])
    torch.testing.assert_close(shuffled.steps, steps[:, :, order])


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_what_stands_under_an_invalid_position_changes_nothing(garbage):
    encoder, (x, valid) = AttentionEncoder(WIDTHS, WIDTH, 1, 0.0, Asked(steps=True)).double(), inputs()
    spoilt = torch.where(valid.unsqueeze(-1), x, torch.full_like(x, garbage))
    for clean, other in zip(encoder(x, valid, None), encoder(spoilt, valid, None), strict=True):
        assert torch.equal(clean, other)
    assert not encoder(x, valid, None).steps[~valid].any()


def test_a_step_knows_of_no_other_step():
    encoder, (x, valid) = AttentionEncoder(WIDTHS, WIDTH, 2, 0.0, Asked(False, True)).double(), inputs()
    token, weights, steps = encoder(x, valid, None)
    assert token is weights is None
    other = x.clone()
    other[:, :, 2] += 1
    moved = (encoder(other, valid, None).steps - steps).abs().amax(-1) > 1e-9
    assert torch.equal(moved, valid & (torch.arange(LENGTH) == 2))


def test_what_is_not_asked_for_has_no_parameters():
    counts = {
        asked: sum(p.numel() for p in AttentionEncoder(WIDTHS, WIDTH, 1, 0.0, asked).parameters())
        for asked in (Asked(), Asked(True, True), Asked(False, True))
    }
    pooling = sum(p.numel() for p in AttentionPooling(len(WIDTHS), WIDTH).parameters())
    assert counts[Asked()] == counts[Asked(True, True)] == counts[Asked(False, True)] + pooling


@pytest.mark.parametrize("layers", [0, 2])
def test_dropout_acts_in_every_layer(layers):
    encoder, (x, valid) = AttentionEncoder(WIDTHS, WIDTH, layers, 0.3, Asked()).double(), inputs()
    draws = count_draws(lambda noise: encoder(x, valid, noise), torch.device("cpu"))
    assert draws == 2 * ROWS * LENGTH * WIDTH * (1 + 4 * layers)
    dropped = encoder(x, valid, Noise(torch.from_numpy(draw_noise(draws, 0)))).token
    assert torch.equal(torch.isclose(dropped, encoder(x, valid, None).token).all(-1), ~valid.any(-1))
