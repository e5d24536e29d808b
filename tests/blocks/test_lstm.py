import pytest
import torch
from torch import nn

from fusion_lab.blocks.encoders import Asked
from fusion_lab.blocks.lstm import LSTMEncoder
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise

WIDTHS, WIDTH, ROWS, LENGTH = (5, 3), 8, 4, 7
BOTH = Asked(steps=True)


def lstm(layers: int = 2, asked: Asked = BOTH, dropout: float = 0.0) -> LSTMEncoder:
    torch.manual_seed(0)
    return LSTMEncoder(WIDTHS, WIDTH, layers, dropout, asked).double()


def inputs(share: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    """Holes anywhere; the first row has nothing at all."""
    x = torch.randn(len(WIDTHS), ROWS, LENGTH, max(WIDTHS), dtype=torch.float64)
    for g, width in enumerate(WIDTHS):
        x[g, ..., width:] = 0
    valid = torch.rand(len(WIDTHS), ROWS, LENGTH) < share
    valid[:, 0] = False
    valid[:, 1:, 3] = True
    return x, valid


@pytest.mark.parametrize("layers", [1, 3])
def test_it_is_the_lstm_of_pytorch_over_the_valid_steps_alone(layers):
    encoder, (x, valid) = lstm(layers), inputs()
    token, weights, steps = encoder(x, valid, None)
    assert weights is None
    for g, width in enumerate(WIDTHS):
        project = encoder.project.linear
        linear = x[g, ..., :width] @ project.weight[g, :width] + project.bias[g]
        projected = nn.functional.gelu(nn.functional.layer_norm(linear, (WIDTH,)))
        for row in range(1, ROWS):
            here = valid[g, row]
            states = projected[row, here].unsqueeze(0)
            for layer in encoder.layers:
                states, _ = layer.each[g](states)
            torch.testing.assert_close(steps[g, row, here], states[0])
            torch.testing.assert_close(token[g, row], states[0, -1])
    assert not steps[~valid].any()
    assert not token[:, 0].any()


@pytest.mark.parametrize("more", [1, 4])
def test_padding_changes_nothing_wherever_it_is(more):
    encoder, (x, valid) = lstm(), inputs()
    token, _, steps = encoder(x, valid, None)
    for pad in ((more, 0), (0, more)):
        longer, also = nn.functional.pad(x, (0, 0, *pad), value=9.0), nn.functional.pad(valid, pad)
        padded, _, states = encoder(longer, also, None)
        torch.testing.assert_close(padded, token)
        torch.testing.assert_close(states[:, :, pad[0] : pad[0] + LENGTH], steps)
        assert states.count_nonzero() == steps.count_nonzero()


def test_what_is_not_valid_gets_no_gradient_and_spoils_none():
    encoder, (x, valid) = lstm(), inputs()
    x = torch.where(valid.unsqueeze(-1), x, float("nan")).requires_grad_()
    token, _, steps = encoder(x, valid, None)
    (token.sum() + steps.sum()).backward()
    assert x.grad is not None
    assert not x.grad[~valid].any()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


def test_a_step_knows_of_the_steps_before_it_alone():
    encoder, (x, valid) = lstm(), inputs()
    _, _, before = encoder(x, valid, None)
    x[:, :, 4:] += 1
    _, _, after = encoder(x, valid, None)
    torch.testing.assert_close(before[:, :, :4], after[:, :, :4])
    later = valid[:, :, 4:]
    assert ((before - after)[:, :, 4:][later].abs().amax(-1) > 1e-9).all()


@pytest.mark.parametrize("asked", [Asked(), Asked(token=False, steps=True)])
def test_what_is_not_asked_for_is_not_there(asked):
    encoder, (x, valid) = lstm(asked=asked), inputs()
    made, whole = encoder(x, valid, None), lstm()(x, valid, None)
    assert (made.token is None, made.steps is None) == (not asked.token, not asked.steps)
    for part, expected in zip(made, whole, strict=True):
        if part is not None:
            torch.testing.assert_close(part, expected)


def test_dropout_before_every_layer_is_a_function_of_the_noise():
    encoder, (x, valid) = lstm(dropout=0.5), inputs()
    count = count_draws(lambda noise: encoder(x, valid, noise), x.device)
    assert count == 2 * x.shape[0] * ROWS * LENGTH * WIDTH
    one, again, other = (encoder(x, valid, Noise(torch.from_numpy(draw_noise(count, k)))).token for k in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
