"""Heads of units: shared weights, a vector and inputs of their own."""

from __future__ import annotations

import pytest
import torch

from fusion_lab.blocks.unit_heads import UnitHeads

ROWS, STEPS, UNITS, WIDTH, INPUTS = 2, 3, 4, 6, 5


def made(inputs: int = INPUTS, bare: bool = False) -> UnitHeads:
    torch.manual_seed(0)
    heads = UnitHeads(UNITS, WIDTH, (1, 3), inputs, 0.0, bare).double()
    with torch.no_grad():
        for leaf in (*(direct.weight for direct in heads.direct), *heads.each):
            leaf.normal_()
    return heads


def some() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    steps = torch.randn(ROWS, STEPS, WIDTH, generator=g, dtype=torch.float64)
    return steps, torch.randn(ROWS, STEPS, UNITS, INPUTS, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("bare", [True, False])
def test_each_answer_is_that_of_the_plain_loop(bare):
    heads, (steps, inputs) = made(bare=bare), some()
    single, several = heads(steps, inputs, None)
    assert single.shape == (ROWS, STEPS, UNITS)
    assert several.shape == (ROWS, STEPS, UNITS, 3)
    for row, t, u in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        own = inputs[row, t, u]
        mixed = heads.mix(steps[row, t] + heads.unit[u] + heads.own(own))
        mixed = mixed if bare else torch.nn.functional.gelu(mixed)
        each = [steps[row, t] @ weight[:, u] for weight in heads.each] or [0.0, 0.0]
        torch.testing.assert_close(several[row, t, u], heads.out[1](mixed) + heads.direct[1](own) + each[1])
        torch.testing.assert_close(single[row, t, u], (heads.out[0](mixed) + heads.direct[0](own) + each[0])[0])


def test_units_are_told_apart_by_what_is_their_own_alone():
    heads, (steps, inputs) = made(), some()
    order = torch.tensor([2, 0, 3, 1])
    before = heads(steps, inputs, None)
    with torch.no_grad():
        heads.unit.copy_(heads.unit[order].clone())
        for each in heads.each:
            each.copy_(each[:, order].clone())
    for one, other in zip(before, heads(steps, inputs[:, :, order], None), strict=True):
        torch.testing.assert_close(one[:, :, order], other)


def test_bare_units_without_inputs_differ_by_a_constant():
    """What a GELU between is for."""
    steps, _ = some()
    bare, mixed = (made(0, bare)(steps, None, None)[0] for bare in (True, False))
    apart = bare[..., 1] - bare[..., 0]
    torch.testing.assert_close(apart, apart[0, 0].expand_as(apart))
    apart = mixed[..., 1] - mixed[..., 0]
    assert apart.std() > 1e-3


def test_at_first_everything_goes_to_answers_through_the_shared_layer_alone():
    torch.manual_seed(0)
    heads = UnitHeads(UNITS, WIDTH, (1,), INPUTS, 0.0, False)
    assert not any(direct.weight.any() for direct in heads.direct)
    assert not any(each.any() for each in heads.each)
    assert not UnitHeads(UNITS, WIDTH, (1,), INPUTS, 0.0, True).each
    assert not UnitHeads(UNITS, WIDTH, (1,), 0, 0.0, False).direct
