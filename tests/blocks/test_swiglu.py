import pytest
import torch
from torch import nn

from fusion_lab.blocks import swiglu
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.blocks.swiglu import DropPath, SwiGLUBlock, SwiGLUEncoder

GROUPS, ROWS, LENGTH, WIDTH = 2, 4, 3, 40


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def positions(width: int = WIDTH) -> torch.Tensor:
    return torch.randn(GROUPS, ROWS, LENGTH, width, dtype=torch.float64)


def noise_for(forward, *place: int) -> Noise:
    return Noise(torch.from_numpy(draw_noise(count_draws(forward, torch.device("cpu")), *(place or (0,)))))


def test_a_block_is_the_layers_of_pytorch_one_after_the_other():
    block, x = SwiGLUBlock(GROUPS, WIDTH, 0.1, 0.1, scale=0.3).double(), positions()
    hidden = block.down.weight.shape[1]
    for g in range(GROUPS):
        up, down = (nn.Linear(*layer.weight[g].shape).double() for layer in (block.up, block.down))
        for ours, plain in ((block.up, up), (block.down, down)):
            plain.load_state_dict({"weight": ours.weight[g].T, "bias": ours.bias[g]})
        gate, content = up(nn.LayerNorm(WIDTH).double()(x[g])).split(hidden, dim=-1)
        expected = x[g] + torch.tanh(torch.tensor(0.3)) * down(nn.SiLU()(gate) * content)
        torch.testing.assert_close(block(x, None)[g], expected)


@pytest.mark.parametrize("width", [4, 32, 33, 100, 256])
def test_the_hidden_width_is_the_next_multiple_of_64_of_twice_the_width(width):
    hidden = SwiGLUBlock(1, width, 0.0, 0.0, 0.1).down.weight.shape[1]
    assert hidden % 64 == 0
    assert 0 <= hidden - 2 * width < 64


def test_drop_path_keeps_a_row_whole_or_drops_it_and_keeps_the_mean():
    path, x = DropPath(0.3), torch.rand(2, 5000, 3, 2) + 1
    kept = path(x, noise_for(lambda noise: path(x, noise))) / x
    torch.testing.assert_close(kept, kept[..., :1, :1].expand_as(kept))
    rows = kept[..., 0, 0]
    assert ((rows == 0) | torch.isclose(rows, torch.tensor(1 / 0.7), rtol=1e-3)).all()
    assert not torch.equal(rows[0], rows[1])
    deviation = (0.3 / 0.7 / rows.numel()) ** 0.5
    assert abs(rows.mean() - 1) < 4 * deviation
    assert path(x, None) is x


def test_the_chance_of_being_left_out_rises_in_even_steps_and_the_last_two_blocks_are_louder():
    blocks = SwiGLUEncoder((5,), 8, 4, 0.0).blocks
    torch.testing.assert_close([b.drop_path.drop.p for b in blocks], torch.linspace(0, swiglu.DROP_PATH, 4).tolist())
    early, late = swiglu.SCALES
    torch.testing.assert_close([b.scale.mean().item() for b in blocks], [early, early, late, late])


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_at_first_little_is_added_to_the_projection_and_least_by_the_last_block(layers):
    encoder, x = SwiGLUEncoder((6, 5), WIDTH, layers, 0.0).double(), positions(6)
    with torch.no_grad():
        states = [encoder.project(x)]
        for block in encoder.blocks:
            states.append(block(states[-1], None))
    added = [float((b - a).norm() / a.norm()) for a, b in zip(states, states[1:], strict=False)]
    assert max(added) < 0.1
    assert added[-1] == min(added) > 0
    assert torch.equal(encoder(x, None), states[-1])


def test_every_parameter_has_a_gradient_in_the_first_step():
    encoder, x = SwiGLUEncoder((6, 6), WIDTH, 3, 0.1).double(), positions(6)
    encoder(x, noise_for(lambda noise: encoder(x, noise))).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if not p.grad.all()] == []


def test_every_position_is_encoded_by_itself():
    encoder, x = SwiGLUEncoder((6, 6), WIDTH, 2, 0.0).double(), positions(6)
    other = x.clone()
    other[:, 1, 2] += 1
    moved = (encoder(x, None) - encoder(other, None)).abs().amax(-1) > 1e-9
    assert moved.nonzero().tolist() == [[g, 1, 2] for g in range(GROUPS)]


@pytest.mark.parametrize("place", ["drop", "drop_residual", "drop_path"])
def test_each_kind_of_dropout_acts_by_itself(place):
    block, x = SwiGLUBlock(GROUPS, WIDTH, 0.0, 0.0, 0.3).double(), positions()
    block.drop_residual.p = 0.0
    part = getattr(block, place)
    (part.drop if isinstance(part, DropPath) else part).p = 0.5
    one, other = (block(x, noise_for(lambda noise: block(x, noise), seed)) for seed in range(2))
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, block(x, None))
