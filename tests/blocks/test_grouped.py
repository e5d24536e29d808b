import pytest
import torch
from torch import nn

from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm

WIDTHS = (5, 3, 1)


def padded(parts: list[torch.Tensor], width: int) -> torch.Tensor:
    return torch.stack([nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts])


def test_a_grouped_linear_is_as_many_linears():
    grouped = GroupedLinear(3, 5, 4, WIDTHS)
    inputs = [torch.randn(2, 6, width) for width in WIDTHS]
    outputs = grouped(padded(inputs, 5))
    for g, width in enumerate(WIDTHS):
        linear = nn.Linear(width, 4)
        with torch.no_grad():
            linear.weight.copy_(grouped.weight[g, :width].T)
            linear.bias.copy_(grouped.bias[g])
        torch.testing.assert_close(outputs[g], linear(inputs[g]))


def test_padding_is_zero_gets_no_gradient_and_does_not_count():
    grouped = GroupedLinear(3, 5, 4, WIDTHS)
    real = grouped.real()
    assert not grouped.weight[~real].any()
    assert int(real.sum()) == sum(width * 4 for width in WIDTHS)
    grouped(padded([torch.randn(2, 6, width) for width in WIDTHS], 5)).square().sum().backward()
    assert grouped.weight.grad is not None
    assert not grouped.weight.grad[~real].any()
    assert grouped.weight.grad[real].all()


@pytest.mark.parametrize("group", [0, 1])
def test_each_group_is_initialised_as_torchs_linear_of_its_own_width(group):
    torch.manual_seed(0)
    widths = (400, 25)
    grouped = GroupedLinear(2, 400, 300, widths)
    linear = nn.Linear(widths[group], 300)
    bound = widths[group] ** -0.5
    for ours, theirs in ((grouped.weight[group, : widths[group]], linear.weight), (grouped.bias[group], linear.bias)):
        assert ours.abs().max() <= bound
        assert ours.abs().max() > 0.95 * bound
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.15)


def test_each_group_may_have_an_output_width_of_its_own():
    grouped = GroupedLinear(3, 4, 5, outs=WIDTHS)
    x = torch.randn(3, 2, 6, 4)
    for g, (out, width) in enumerate(zip(grouped(x), WIDTHS, strict=True)):
        expected = nn.functional.linear(x[g], grouped.weight[g, :, :width].T, grouped.bias[g, :width])
        torch.testing.assert_close(out[..., :width], expected)
        assert not out[..., width:].any()
    assert grouped.real().sum(1).count_nonzero(-1).tolist() == list(WIDTHS)
    assert grouped.real_bias().sum(-1).tolist() == list(WIDTHS)
    assert not grouped.weight[~grouped.real()].any() and not grouped.bias[~grouped.real_bias()].any()


def some_norm() -> GroupedNorm:
    grouped = GroupedNorm(2, 6)
    with torch.no_grad():
        grouped.weight.uniform_(0.5, 2)
        grouped.bias.normal_()
    return grouped


def test_a_grouped_norm_is_as_many_layer_norms():
    grouped, x = some_norm(), torch.randn(2, 4, 3, 6)
    for g, out in enumerate(grouped(x)):
        expected = nn.functional.layer_norm(x[g], (6,), grouped.weight[g].flatten(), grouped.bias[g].flatten())
        torch.testing.assert_close(out, expected)


def test_a_plain_norm_is_the_norm_before_scale_and_shift():
    grouped, x = some_norm(), 3 * torch.randn(2, 4, 3, 6) + 1
    torch.testing.assert_close(grouped.plain(x), nn.functional.layer_norm(x, (6,)))
    torch.testing.assert_close(grouped(x), grouped.plain(x) * grouped.weight + grouped.bias)
