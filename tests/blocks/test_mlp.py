from typing import get_args

import pytest
import torch
from torch import nn

from fusion_lab.blocks.mlp import ACTIVATIONS, MLP, ActivationName
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise

WIDTH, HIDDEN = 5, 7


@pytest.mark.parametrize("activation", get_args(ActivationName))
@pytest.mark.parametrize("layers", [1, 3])
def test_it_is_the_layers_of_pytorch_one_after_the_other(activation, layers):
    torch.manual_seed(0)
    ours, x, plain = MLP(1, WIDTH, HIDDEN, layers, 0.2, activation).double(), torch.randn(1, 4, 3, WIDTH).double(), []
    for i, layer in enumerate(ours.layers):
        linear = nn.Linear(WIDTH if i == 0 else HIDDEN, HIDDEN).double()
        linear.load_state_dict({"weight": layer.linear.weight[0].T, "bias": layer.linear.bias[0]})
        plain += [linear, nn.LayerNorm(HIDDEN).double(), getattr(nn, activation)()]
    torch.testing.assert_close(ours(x, None), nn.Sequential(*plain)(x))


def test_every_activation_has_its_name():
    assert set(ACTIVATIONS) == set(get_args(ActivationName))


def test_dropout_acts_behind_every_layer():
    mlp, x = MLP(2, WIDTH, HIDDEN, 3, 0.2, "GELU"), torch.randn(2, 4, WIDTH)
    draws = count_draws(lambda noise: mlp(x, noise), torch.device("cpu"))
    assert draws == 3 * 2 * 4 * HIDDEN
    assert not torch.allclose(mlp(x, Noise(torch.from_numpy(draw_noise(draws, 0)))), mlp(x, None))


def test_groups_are_strangers_of_one_shape():
    """Each group answers as an MLP that has its weights alone."""
    together, x = MLP(3, WIDTH, HIDDEN, 2, 0.0, "SiLU").double(), torch.randn(3, 4, WIDTH).double()
    made = together(x, None)
    for g in range(3):
        alone = MLP(1, WIDTH, HIDDEN, 2, 0.0, "SiLU").double()
        alone.load_state_dict({name: leaf[g : g + 1] for name, leaf in together.state_dict().items()})
        torch.testing.assert_close(made[g : g + 1], alone(x[g : g + 1], None))
