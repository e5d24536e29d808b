import pytest
import torch
from torch import nn

from fusion_lab.blocks.ragged import LinearRagged, RaggedLinear, fill, squared_errors

WIDTHS = ((7, 3), (2,))
FLAT = [width for group in WIDTHS for width in group]
ROWS, WIDTH = 5, 4


def side_by_side(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each modality's ``[B,F]`` as the groups of :data:`WIDTHS` have it."""
    rest, groups = iter(inputs), []
    for group in WIDTHS:
        padded = [torch.nn.functional.pad(next(rest), (0, max(group) - width)) for width in group]
        groups.append(torch.stack(padded).unsqueeze(2))
    return groups


def apart(groups: list[torch.Tensor]) -> list[torch.Tensor]:
    """The reverse of it."""
    parts = [part[:, 0] for group in groups for part in group]
    return [part[:, :width] for part, width in zip(parts, FLAT, strict=True)]


def some(seed: int) -> list[torch.Tensor]:
    seeded = torch.Generator().manual_seed(seed)
    return [torch.randn(ROWS, width, generator=seeded) for width in FLAT]


def test_each_modality_has_a_linear_map_of_its_own_into_one_width():
    layer, x = RaggedLinear(WIDTHS, WIDTH), some(0)
    made = layer(side_by_side(x))
    weights = [w for part in layer.layers for w in zip(part.weight, part.bias, strict=True)]
    for m, (width, (weight, bias)) in enumerate(zip(FLAT, weights, strict=True)):
        torch.testing.assert_close(made[m, :, 0], nn.functional.linear(x[m], weight[:width].T, bias))


def test_each_modality_has_a_linear_map_of_its_own_back_and_padding_stays_zero_without_a_gradient():
    layer = LinearRagged(WIDTH, WIDTHS)
    x = torch.randn(len(FLAT), ROWS, 1, WIDTH)
    made = layer(x)
    weights = [w for part in layer.layers for w in zip(part.weight, part.bias, strict=True)]
    for m, (found, (weight, bias)) in enumerate(zip(apart(made), weights, strict=True)):
        width = FLAT[m]
        torch.testing.assert_close(found, nn.functional.linear(x[m, :, 0], weight[:, :width].T, bias[:width]))
    assert not made[0][1, :, :, FLAT[1] :].any()
    sum((found**2).sum() for found in apart(made)).backward()
    for part in layer.layers:
        assert part.weight.grad is not None and part.bias.grad is not None
        assert part.weight.grad[part.real()].all() and part.bias.grad[part.real_bias()].all()
        assert not part.weight.grad[~part.real()].any() and not part.bias.grad[~part.real_bias()].any()


def test_only_what_is_missing_is_filled():
    x, values = some(1), some(2)
    missing = torch.rand(ROWS, len(FLAT)) > 0.5
    filled = apart(fill(side_by_side(x), missing, side_by_side(values)))
    for m, found in enumerate(filled):
        assert torch.equal(found, torch.where(missing[:, m : m + 1], values[m], x[m]))


@pytest.mark.parametrize("known", [0.0, 0.6, 1.0])
def test_squared_errors_are_means_over_the_cells_that_are_known(known):
    truth, guesses = some(3), [some(4), some(5)]
    cells = [torch.rand(ROWS, width) < known for width in FLAT]
    stages = [torch.cat(parts, dim=2) for parts in zip(*map(side_by_side, guesses), strict=True)]
    found = squared_errors(stages, side_by_side(truth), side_by_side(cells))
    for m, cell in enumerate(cells):
        for s, guess in enumerate(guesses):
            for row in range(ROWS):
                errors = (guess[m][row] - truth[m][row])[cell[row]] ** 2
                expected = errors.mean() if len(errors) else torch.tensor(0.0)
                torch.testing.assert_close(found[row, m, s], expected)
