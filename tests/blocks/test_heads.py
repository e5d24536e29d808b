import pytest
import torch
from torch import nn

from fusion_lab.blocks.heads import TaskHead
from fusion_lab.blocks.randomness import Noise, draw_noise


@pytest.mark.parametrize(("outputs", "shape"), [(1, (5,)), (3, (5, 3))])
def test_a_head_is_two_linears_around_gelu_without_an_axis_of_one(outputs, shape):
    head, x = TaskHead(8, outputs, 0.5), torch.randn(5, 8)
    expected = head.out(nn.functional.gelu(head.hidden(x)))
    assert head(x, None).shape == shape
    torch.testing.assert_close(head(x, None), expected.reshape(shape))


def test_dropout_of_a_head_needs_noise_for_its_hidden_layer():
    head, x = TaskHead(8, 1, 0.5), torch.randn(5, 8)
    assert torch.equal(head(x, None), head(x, None))
    noise = Noise(torch.from_numpy(draw_noise(5 * 8, 1)))
    hidden = head.drop(nn.functional.gelu(head.hidden(x)), Noise(noise.values))
    dropped = head(x, noise)
    torch.testing.assert_close(dropped, head.out(hidden).squeeze(-1))
    assert noise.taken == 5 * 8
    assert not torch.equal(head(x, None), dropped)
