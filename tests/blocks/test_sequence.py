import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fusion_lab.blocks.encoders import Asked
from fusion_lab.blocks.pooling import AttentionPooling
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.blocks.sequence import ConvolutionEncoder, GRUEncoder, GRULayer

WIDTHS, WIDTH, ROWS, LENGTH = (5, 3), 8, 4, 7
BOTH = Asked(steps=True)
STEPS = Asked(token=False, steps=True)


def gru(layers=2, asked=BOTH, dropout=0.0) -> GRUEncoder:
    return GRUEncoder(WIDTHS, WIDTH, layers, dropout, asked).double()


def cnn(layers=2, asked=BOTH, dropout=0.0) -> ConvolutionEncoder:
    return ConvolutionEncoder(WIDTHS, LENGTH, WIDTH, layers, dropout, asked).double()


ENCODERS = {"gru": gru, "cnn": cnn}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs(share: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    """Holes anywhere; the first row has nothing at all."""
    x = torch.randn(len(WIDTHS), ROWS, LENGTH, max(WIDTHS), dtype=torch.float64)
    for g, width in enumerate(WIDTHS):
        x[g, ..., width:] = 0
    valid = torch.rand(len(WIDTHS), ROWS, LENGTH) < share
    valid[:, 0] = False
    valid[:, 1:, 3] = True
    return x, valid


def padded_in_front() -> tuple[torch.Tensor, torch.Tensor]:
    x, valid = inputs()
    return x, (torch.arange(LENGTH) >= torch.tensor([LENGTH, 0, 2, 5])[:, None]).expand_as(valid)


def torch_gru(layers: nn.ModuleList, g: int) -> nn.GRU:
    """PyTorch's own layers with the weights of one group."""
    own = nn.GRU(WIDTH, WIDTH, num_layers=len(layers), batch_first=True).double()
    state = {}
    for place, layer in enumerate(layers):
        for name, part in (("ih", layer.given), ("hh", layer.kept)):
            state[f"weight_{name}_l{place}"], state[f"bias_{name}_l{place}"] = part.weight[g].T, part.bias[g]
    own.load_state_dict(state)
    return own


@pytest.mark.parametrize("layers", [1, 3])
def test_a_gru_is_that_of_pytorch_over_the_valid_steps_alone(layers):
    encoder, (x, valid) = gru(layers), inputs()
    token, weights, steps = encoder(x, valid, None)
    assert weights is None
    for g, width in enumerate(WIDTHS):
        project, plain = encoder.project.linear, torch_gru(encoder.layers, g)
        linear = x[g, ..., :width] @ project.weight[g, :width] + project.bias[g]
        projected = nn.functional.gelu(nn.functional.layer_norm(linear, (WIDTH,)))
        for row in range(1, ROWS):
            here = valid[g, row]
            states, _ = plain(projected[row, here].unsqueeze(0))
            torch.testing.assert_close(steps[g, row, here], states[0])
            torch.testing.assert_close(token[g, row], states[0, -1])
    assert not steps[~valid].any()
    assert not token[:, 0].any()


def test_a_gru_layer_has_the_gradients_of_that_of_pytorch():
    layer, x = GRULayer(1, WIDTH).double(), torch.randn(1, ROWS, LENGTH, WIDTH, dtype=torch.float64)
    plain = torch_gru(nn.ModuleList([layer]), 0)
    pull = torch.randn(ROWS, LENGTH, WIDTH, dtype=torch.float64)
    everywhere = torch.ones(1, ROWS, LENGTH, dtype=torch.bool)
    found = torch.autograd.grad(layer(x, everywhere)[0], list(layer.parameters()), pull)
    expected = torch.autograd.grad(plain(x[0])[0], list(plain.parameters()), pull)
    ours = dict(zip((n for n, _ in layer.named_parameters()), found, strict=True))
    theirs = dict(zip((n for n, _ in plain.named_parameters()), expected, strict=True))
    for part, name in (("given", "ih"), ("kept", "hh")):
        torch.testing.assert_close(ours[f"{part}.weight"][0].T, theirs[f"weight_{name}_l0"])
        torch.testing.assert_close(ours[f"{part}.bias"][0], theirs[f"bias_{name}_l0"])


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_a_cnn_is_conv1d_on_the_steps_without_their_padding(layers):
    encoder, (x, valid) = cnn(layers), padded_in_front()
    token, weights, steps = encoder(x, valid, None)
    for g, width in enumerate(WIDTHS):
        project = encoder.project.linear
        pool = AttentionPooling(1, WIDTH).double()
        pool.load_state_dict({n: p[g : g + 1] for n, p in encoder.pool.state_dict().items()})
        for row in range(1, ROWS):
            own = x[g, row, valid[g, row], :width]
            made = nn.functional.layer_norm(own @ project.weight[g, :width] + project.bias[g], (WIDTH,))
            made = nn.functional.gelu(made).T.unsqueeze(0)  # [1, D, T]
            for place, layer in enumerate(encoder.layers):
                dilation = (1, 2, 4)[place % 3]
                kernel = layer.linear.weight[g].reshape(3, WIDTH, WIDTH).permute(2, 1, 0)
                around = nn.functional.conv1d(made, kernel, layer.linear.bias[g], padding=dilation, dilation=dilation)
                normed = nn.functional.layer_norm(around.transpose(1, 2), (WIDTH,)).transpose(1, 2)
                made = made + nn.functional.gelu(normed)
            alone = made[0].T
            torch.testing.assert_close(steps[g, row, valid[g, row]], alone)
            pooled, shares = pool(alone[None, None], torch.ones(1, 1, len(alone), dtype=torch.bool))
            torch.testing.assert_close(token[g, row], pooled[0, 0])
            torch.testing.assert_close(weights[g, row, valid[g, row]], shares[0, 0])


@pytest.mark.parametrize("length", [1, 2, 3, 5, 9, 17])
def test_a_convolution_reaches_no_further_than_the_sequence(length):
    encoder = ConvolutionEncoder((3,), length, WIDTH, 7, 0.0, BOTH)
    dilations = [layer.dilation for layer in encoder.layers]
    assert dilations[0] == 1
    assert max(dilations) < max(2, length)
    assert 2 * max(dilations) >= length - 1 or len(dilations) < length.bit_length()
    assert all(after in (1, 2 * before) for before, after in zip(dilations, dilations[1:], strict=False))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_group_of_encoders_is_as_many_encoders(name):
    grouped, (x, valid) = ENCODERS[name](), inputs()
    together = grouped(x, valid, None)
    for g, width in enumerate(WIDTHS):
        size = {"gru": (), "cnn": (LENGTH,)}[name]
        single = type(grouped)((width,), *size, WIDTH, 2, 0.0, BOTH).double()
        state = {n: p[g : g + 1] for n, p in grouped.state_dict().items()}
        state["project.linear.weight"] = state["project.linear.weight"][:, :width]
        single.load_state_dict(state)
        own = single(x[g : g + 1, ..., :width], valid[g : g + 1], None)
        for one, all_of_them in zip(own, together, strict=True):
            if all_of_them is not None:
                torch.testing.assert_close(one[0], all_of_them[g])


@given(
    name=st.sampled_from(sorted(ENCODERS)),
    share=st.floats(0.1, 1.0),
    padding=st.integers(0, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_padding_in_front_and_what_stands_under_it_change_nothing(name, share, padding, seed):
    torch.manual_seed(seed)
    encoder, (x, valid) = ENCODERS[name](), inputs(share)
    longer = torch.cat([torch.full_like(x[:, :, :padding], torch.nan), x], dim=2)
    spoilt = torch.where(
        torch.cat([torch.zeros_like(valid[:, :, :padding]), valid], dim=2).unsqueeze(-1),
        longer,
        torch.full_like(longer, torch.inf),
    )
    seen = torch.cat([torch.zeros_like(valid[:, :, :padding]), valid], dim=2)
    plain, padded = encoder(x, valid, None), encoder(spoilt, seen, None)
    torch.testing.assert_close(padded.token, plain.token)
    torch.testing.assert_close(padded.steps[:, :, padding:], plain.steps)
    assert not padded.steps[~seen].any()
    if plain.weights is not None:
        torch.testing.assert_close(padded.weights[..., padding:], plain.weights)
        torch.testing.assert_close(padded.weights.sum(-1), seen.any(-1).double())


@pytest.mark.parametrize(("name", "sees_ahead"), [("gru", False), ("cnn", True)])
def test_a_step_of_a_gru_knows_the_past_alone_and_one_of_a_cnn_both_sides(name, sees_ahead):
    encoder, (x, _) = ENCODERS[name](), inputs()
    everywhere = torch.ones(x.shape[:3], dtype=torch.bool)
    other = x.clone()
    other[:, :, 3, :3] += 1
    moved = (encoder(other, everywhere, None).steps - encoder(x, everywhere, None).steps).abs().amax(-1) > 1e-12
    assert moved[..., 3:].all()
    assert moved[..., 2].all() == sees_ahead
    assert moved[..., :3].any() == sees_ahead


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_has_a_gradient_whatever_is_asked(name):
    for asked in (Asked(), BOTH, STEPS):
        encoder, (x, _) = ENCODERS[name](asked=asked), inputs()
        made = encoder(x, torch.ones(x.shape[:3], dtype=torch.bool), None)
        assert (made.token is not None, made.steps is not None) == asked
        sum((part**2).sum() for part in (made.token, made.steps) if part is not None).backward()
        for parameter_name, parameter in encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), parameter_name


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", ENCODERS)
def test_dropout_acts_in_every_layer(name, layers):
    encoder, (x, valid) = ENCODERS[name](layers, Asked(), 0.3), inputs()
    draws = count_draws(lambda noise: encoder(x, valid, noise), torch.device("cpu"))
    assert draws == layers * len(WIDTHS) * ROWS * LENGTH * WIDTH
    dropped = encoder(x, valid, Noise(torch.from_numpy(draw_noise(draws, 0)))).token
    assert torch.equal(torch.isclose(dropped, encoder(x, valid, None).token).all(-1), ~valid.any(-1))
