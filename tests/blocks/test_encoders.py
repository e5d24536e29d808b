import pytest
import torch

from fusion_lab.blocks.encoders import Asked, Projection, TokenEncoder, VectorEncoder
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise

WIDTHS, WIDTH, ROWS, LENGTH = (5, 3), 8, 4, 6
ASKED = (Asked(), Asked(steps=True), Asked(token=False, steps=True))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def token_encoder(widths=WIDTHS, ordered=True, layers=2, asked=ASKED[0], dropout=0.0) -> TokenEncoder:
    return TokenEncoder(widths, LENGTH, ordered, WIDTH, layers, 2, dropout, asked).double()


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
    tokens, weights, steps = grouped(x, valid, None)
    assert weights is steps is None
    assert tokens.shape == (2, ROWS, WIDTH)
    for g, width in enumerate(WIDTHS):
        own, _, _ = alone(kind, grouped, g)(x[g : g + 1, ..., :width], valid[g : g + 1], None)
        torch.testing.assert_close(own[0], tokens[g])


@pytest.mark.parametrize("ordered", [True, False])
def test_a_group_of_token_encoders_is_as_many_encoders(ordered):
    def kind(widths):
        return token_encoder(widths, ordered, asked=Asked(steps=True))

    grouped, (x, valid) = kind(WIDTHS), inputs(LENGTH)
    together = grouped(x, valid, None)
    for g, width in enumerate(WIDTHS):
        own = alone(kind, grouped, g)(x[g : g + 1, ..., :width], valid[g : g + 1], None)
        for one, all_of_them in zip(own, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[g])


def test_projection_is_linear_norm_and_gelu():
    project, (x, _) = Projection(WIDTHS, WIDTH).double(), inputs(LENGTH)
    for g, width in enumerate(WIDTHS):
        linear = x[g, ..., :width] @ project.linear.weight[g, :width] + project.linear.bias[g]
        normed = torch.nn.functional.layer_norm(linear, (WIDTH,))
        torch.testing.assert_close(project(x)[g], torch.nn.functional.gelu(normed))


def whole(encoder: TokenEncoder, x: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What an encoder is, all tokens of all layers computed."""
    tokens = torch.cat([encoder.summary.expand(2, ROWS, 1, -1), encoder.project(x * valid.unsqueeze(-1))], 2)
    if encoder.positions is not None:
        tokens = tokens + encoder.positions
    everywhere = torch.cat([torch.ones(2, ROWS, 1).bool(), valid], 2)
    for layer in (*encoder.layers, encoder.last):
        tokens, weights = layer(tokens, everywhere, None)
    asked = weights[..., 0, 1:].mean(2)
    total = asked.sum(-1, keepdim=True)
    steps = tokens[:, :, 1:] * valid.unsqueeze(-1)
    return tokens[:, :, 0], asked / total.masked_fill(total == 0, 1.0), steps


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("missing", ["some", "nothing", "everything in some rows"])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_is_asked_for_is_that_part_of_the_full_computation(layers, ordered, missing, asked):
    encoder, (x, valid) = token_encoder(ordered=ordered, layers=layers, asked=asked), inputs(LENGTH)
    with torch.no_grad():
        for parameter in (*encoder.layers.parameters(), *encoder.last.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    valid = {"some": valid, "nothing": torch.ones_like(valid)}.get(missing, valid & (torch.arange(ROWS) > 1)[:, None])
    made, expected = encoder(x, valid, None), whole(encoder, x, valid)
    assert [part is not None for part in made] == [asked.token, asked.token, asked.steps]
    ours, theirs = zip(*((m, e) for m, e in zip(made, expected, strict=True) if m is not None), strict=True)
    pulls = [torch.randn_like(part) for part in theirs]
    gradients = [torch.autograd.grad(result, list(encoder.parameters()), pulls) for result in (ours, theirs)]
    for one, other in zip((*ours, *gradients[0]), (*theirs, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_shorter_sequence_has_the_last_positions():
    encoder, (x, valid) = token_encoder(asked=Asked(steps=True)), inputs(LENGTH)
    valid[:, :, :2] = False
    padded, cut = encoder(x, valid, None), encoder(x[:, :, 2:], valid[:, :, 2:], None)
    torch.testing.assert_close(cut.token, padded.token)
    torch.testing.assert_close(cut.weights, padded.weights[..., 2:])
    torch.testing.assert_close(cut.steps, padded.steps[:, :, 2:])


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_acts_in_every_layer_of_a_token_encoder(layers):
    encoder, (x, valid) = token_encoder(layers=layers, dropout=0.3), inputs(LENGTH)
    draws = count_draws(lambda noise: encoder(x, valid, noise), torch.device("cpu"))
    values = torch.from_numpy(draw_noise(draws, 0))
    plain, first, again = (encoder(x, valid, n).token for n in (None, Noise(values), Noise(values)))
    assert torch.equal(first, again)
    assert not torch.isclose(first, plain).all(-1).any(), "a row without dropout"
    tokens = 1 + LENGTH
    of_whole = 2 * ROWS * (2 * tokens * tokens + tokens * (1 + 4 + 1) * WIDTH)
    of_summary = 2 * ROWS * (2 * tokens + (1 + 4 + 1) * WIDTH)
    assert draws == (layers - 1) * of_whole + of_summary, "attention weights, attended, inside and after feeding"


@pytest.mark.parametrize("layers", [0, 2])
def test_dropout_acts_in_every_layer_of_a_vector_encoder(layers):
    encoder, (x, valid) = VectorEncoder(WIDTHS, WIDTH, layers, 0.3).double(), inputs(1)
    draws = count_draws(lambda noise: encoder(x, valid, noise), torch.device("cpu"))
    assert draws == 2 * ROWS * WIDTH * (1 + 4 * layers)
    dropped = encoder(x, valid, Noise(torch.from_numpy(draw_noise(draws, 0)))).token
    assert not torch.isclose(dropped, encoder(x, valid, None).token).all(-1).any()


def test_a_sequence_has_an_order_and_a_bag_has_none():
    x, valid = inputs(LENGTH)
    order = torch.randperm(LENGTH)
    for ordered in (True, False):
        encoder = token_encoder(ordered=ordered)
        token, weights, _ = encoder(x, valid, None)
        shuffled, shuffled_weights, _ = encoder(x[:, :, order], valid[:, :, order], None)
        same = torch.allclose(token, shuffled, atol=1e-10)
        assert same is not ordered
        if not ordered:
            torch.testing.assert_close(shuffled_weights, weights[..., order])


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_what_stands_under_an_invalid_step_changes_nothing(garbage):
    encoder, (x, valid) = token_encoder(asked=Asked(steps=True)), inputs(LENGTH)
    spoilt = torch.where(valid.unsqueeze(-1), x, torch.full_like(x, garbage))
    for clean, other in zip(encoder(x, valid, None), encoder(spoilt, valid, None), strict=True):
        assert torch.equal(clean, other)


def test_weights_over_steps_sum_to_one_where_a_step_is_valid():
    encoder, (x, valid) = token_encoder(), inputs(LENGTH)
    valid[0, 0] = False
    weights = encoder(x, valid, None).weights
    torch.testing.assert_close(weights.sum(-1), valid.any(-1).double())
    assert not weights[~valid].any()
