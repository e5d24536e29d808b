import pytest
import torch

from fusion_lab.blocks.encoders import Projection, TokenEncoder, VectorEncoder

WIDTHS, WIDTH, ROWS, LENGTH = (5, 3), 8, 4, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def token_encoder(widths=WIDTHS, ordered=True, layers=2) -> TokenEncoder:
    return TokenEncoder(widths, LENGTH, ordered, WIDTH, layers, 2, 0.0).double()


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(len(WIDTHS), ROWS, length, max(WIDTHS), dtype=torch.float64)
    for g, width in enumerate(WIDTHS):
        x[g, ..., width:] = 0
    valid = torch.rand(len(WIDTHS), ROWS, length) > 0.3
    valid[..., 0] = True
    return x, valid


def alone(kind, grouped, g: int):
    """One group of a grouped encoder as an encoder of its own."""
    single = kind((WIDTHS[g],))
    state = {}
    for name, parameter in grouped.state_dict().items():
        own = parameter[g : g + 1]
        state[name] = own[:, : WIDTHS[g]] if name == "project.linear.weight" else own
    single.load_state_dict(state)
    return single


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_group_of_vector_encoders_is_as_many_encoders(layers):
    def kind(widths):
        return VectorEncoder(widths, WIDTH, layers, 0.0).double()

    grouped, (x, valid) = kind(WIDTHS), inputs(1)
    tokens, weights = grouped(x, valid, None)
    assert weights is None
    assert tokens.shape == (2, ROWS, WIDTH)
    for g, width in enumerate(WIDTHS):
        own, _ = alone(kind, grouped, g)(x[g : g + 1, ..., :width], valid[g : g + 1], None)
        torch.testing.assert_close(own[0], tokens[g])


@pytest.mark.parametrize("ordered", [True, False])
def test_a_group_of_token_encoders_is_as_many_encoders(ordered):
    def kind(widths):
        return token_encoder(widths, ordered)

    grouped, (x, valid) = kind(WIDTHS), inputs(LENGTH)
    tokens, weights = grouped(x, valid, None)
    for g, width in enumerate(WIDTHS):
        own, own_weights = alone(kind, grouped, g)(x[g : g + 1, ..., :width], valid[g : g + 1], None)
        torch.testing.assert_close(own[0], tokens[g])
        torch.testing.assert_close(own_weights[0], weights[g])


def test_projection_is_linear_norm_and_gelu():
    project, (x, _) = Projection(WIDTHS, WIDTH).double(), inputs(LENGTH)
    for g, width in enumerate(WIDTHS):
        linear = x[g, ..., :width] @ project.linear.weight[g, :width] + project.linear.bias[g]
        normed = torch.nn.functional.layer_norm(linear, (WIDTH,))
        torch.testing.assert_close(project(x)[g], torch.nn.functional.gelu(normed))


@pytest.mark.parametrize("layers", [1, 2])
def test_the_summary_is_the_first_token_of_the_full_computation(layers):
    encoder, (x, valid) = token_encoder(layers=layers), inputs(LENGTH)
    tokens = torch.cat([encoder.summary.expand(2, ROWS, 1, -1), encoder.project(x * valid.unsqueeze(-1))], 2)
    assert encoder.positions is not None
    tokens = tokens + encoder.positions
    everywhere = torch.cat([torch.ones(2, ROWS, 1).bool(), valid], 2)
    for layer in encoder.layers:
        tokens, weights = layer(tokens, everywhere, None)
    token, over_steps = encoder(x, valid, None)
    torch.testing.assert_close(token, tokens[:, :, 0])
    asked = weights[..., 0, 1:].mean(2)
    torch.testing.assert_close(over_steps, asked / asked.sum(-1, keepdim=True))


def test_a_sequence_has_an_order_and_a_bag_has_none():
    x, valid = inputs(LENGTH)
    order = torch.randperm(LENGTH)
    for ordered in (True, False):
        encoder = token_encoder(ordered=ordered)
        token, weights = encoder(x, valid, None)
        shuffled, shuffled_weights = encoder(x[:, :, order], valid[:, :, order], None)
        same = torch.allclose(token, shuffled, atol=1e-10)
        assert same is not ordered
        if not ordered:
            torch.testing.assert_close(shuffled_weights, weights[..., order])


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_what_stands_under_an_invalid_step_changes_nothing(garbage):
    encoder, (x, valid) = token_encoder(), inputs(LENGTH)
    token, weights = encoder(x, valid, None)
    spoilt = torch.where(valid.unsqueeze(-1), x, torch.full_like(x, garbage))
    spoilt_token, spoilt_weights = encoder(spoilt, valid, None)
    assert torch.equal(token, spoilt_token)
    assert torch.equal(weights, spoilt_weights)


def test_weights_over_steps_sum_to_one_where_a_step_is_valid():
    encoder, (x, valid) = token_encoder(), inputs(LENGTH)
    valid[0, 0] = False
    _, weights = encoder(x, valid, None)
    torch.testing.assert_close(weights.sum(-1), valid.any(-1).double())
    assert not weights[~valid].any()
