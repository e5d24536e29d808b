"""Fusions of a step: what is there, how much of it, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.blocks.step_fusion import AddSteps, AttentionSteps, ConcatSteps, GatedSteps, step_fusion

ROWS, STEPS, WIDTH, HEADS = 2, 4, 8, 2
NAMES = ("gated", "concat", "add", "attention")
WEIGHING = ("gated", "add", "attention")


def made(name, modalities: int = 3, seed: int = 0, dropout: float = 0.0) -> torch.nn.Module:
    """A fusion whose every number is drawn, the ones that start at 0 too."""
    torch.manual_seed(seed)
    fusion = step_fusion(name, modalities, WIDTH, HEADS, dropout).double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return fusion


def tokens_of(modalities: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens and which of them are there: all of the first step's, none of the last one's."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(modalities, ROWS, STEPS, WIDTH, generator=g, dtype=torch.float64)
    valid = torch.rand(modalities, ROWS, STEPS, generator=g) < 0.6
    valid[..., 0], valid[..., -1] = True, False
    return tokens, valid


@pytest.mark.parametrize("name", NAMES)
@given(modalities=st.integers(2, 4), seed=st.integers(0, 999), garbage=st.sampled_from([1e6, float("nan")]))
def test_what_is_not_there_changes_nothing_and_what_is_does(name, modalities, seed, garbage):
    fusion, (tokens, valid) = made(name, modalities, seed), tokens_of(modalities, seed)
    spoilt = torch.where(valid.unsqueeze(-1), tokens, garbage)
    before, after = fusion(tokens, valid, None), fusion(spoilt, valid, None)
    torch.testing.assert_close(before[0], after[0], rtol=0, atol=0)
    assert before[0].shape == (ROWS, STEPS, WIDTH)
    for m in range(modalities):
        moved = fusion(tokens.index_add(0, torch.tensor([m]), torch.ones_like(tokens[:1])), valid, None)[0]
        assert torch.equal((moved - before[0]).abs().amax(-1) > 1e-12, valid[m])


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_fused_by_itself(name):
    fusion, (tokens, valid) = made(name), tokens_of(3, 0)
    whole, weights = fusion(tokens, valid, None)
    for t in range(STEPS):
        alone, own = fusion(tokens[:, :, t : t + 1], valid[:, :, t : t + 1], None)
        torch.testing.assert_close(alone, whole[:, t : t + 1])
        if weights is not None:
            torch.testing.assert_close(own, weights[:, t : t + 1])


@pytest.mark.parametrize("name", WEIGHING)
@given(modalities=st.integers(2, 4), seed=st.integers(0, 999))
def test_only_what_is_there_weighs(name, modalities, seed):
    fusion, (tokens, valid) = made(name, modalities, seed), tokens_of(modalities, seed)
    weights, seen = fusion(tokens, valid, None)[1], valid.permute(1, 2, 0)
    assert weights.shape == seen.shape
    assert torch.equal(weights > 0, seen)
    assert (weights <= 1).all()
    if name != "gated":
        torch.testing.assert_close(weights.sum(-1), seen.any(-1).double())


@pytest.mark.parametrize("name", WEIGHING)
def test_a_step_without_anything_is_zeros(name):
    fusion, (tokens, valid) = made(name), tokens_of(3, 1)
    assert not fusion(tokens, valid, None)[0][:, -1].any()


def test_gated_is_the_sum_over_modalities_of_gated_tokens():
    fusion, (tokens, valid) = made("gated"), tokens_of(3, 2)
    assert isinstance(fusion, GatedSteps)
    fused, weights = fusion(tokens, valid, None)
    for row, t in ((0, 0), (1, 2)):
        expected = torch.zeros(WIDTH, dtype=torch.float64)
        for m in range(3):
            gate = torch.sigmoid(tokens[m, row, t] @ fusion.gate.weight[m] + fusion.gate.bias[m])
            if valid[m, row, t]:
                expected += gate * tokens[m, row, t]
                torch.testing.assert_close(weights[row, t, m], gate.mean())
        torch.testing.assert_close(fused[row, t], expected)


def test_concat_is_a_linear_map_of_the_tokens_side_by_side():
    fusion, (tokens, valid) = made("concat"), tokens_of(3, 3)
    assert isinstance(fusion, ConcatSteps)
    fused, weights = fusion(tokens, valid, None)
    beside = torch.cat([tokens[m] * valid[m].unsqueeze(-1) for m in range(3)], dim=-1)
    torch.testing.assert_close(fused, beside @ fusion.mix.weight.T + fusion.mix.bias)
    assert weights is None


def test_attention_is_pytorchs_with_the_mean_of_what_is_there_as_query():
    """Where all modalities have the same projections, which PyTorch's layer has."""
    fusion, (tokens, valid) = made("attention"), tokens_of(3, 4)
    assert isinstance(fusion, AttentionSteps)
    with torch.no_grad():
        for leaf in (fusion.key, fusion.value.weight, fusion.value.bias):
            leaf.copy_(leaf[:1].expand_as(leaf))
    layer = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    with torch.no_grad():
        weights = (fusion.query.weight, fusion.key[0, 0].T, fusion.value.weight[0].T)
        layer.in_proj_weight.copy_(torch.cat(weights))
        layer.in_proj_bias.copy_(torch.cat([fusion.query.bias, torch.zeros(WIDTH), fusion.value.bias[0]]))
        layer.out_proj.weight.copy_(fusion.out.weight)
        layer.out_proj.bias.copy_(fusion.out.bias)
    fused, found = fusion(tokens, valid, None)
    at = valid.any(0)
    keys = (tokens * valid.unsqueeze(-1)).permute(1, 2, 0, 3)[at]
    seen = valid.permute(1, 2, 0)[at]
    mean = keys.sum(1, keepdim=True) / seen.sum(1)[:, None, None]
    read, expected = layer(mean, keys, keys, key_padding_mask=~seen)
    torch.testing.assert_close(fused[at], (mean + read)[:, 0])
    torch.testing.assert_close(found[at], expected[:, 0])


def test_add_starts_as_the_mean_of_what_is_there():
    tokens, valid = tokens_of(3, 5)
    fused, _ = AddSteps(3).double()(tokens, valid, None)
    real = valid.unsqueeze(-1).double()
    torch.testing.assert_close(fused, (tokens * real).sum(0) / real.sum(0).clamp(min=1))


def test_attention_drops_weights_while_training_and_tells_those_before():
    fusion, (tokens, valid) = made("attention", dropout=0.4), tokens_of(3, 6)
    count = count_draws(lambda noise: fusion(tokens, valid, noise), torch.device("cpu"))
    noisy, told = fusion(tokens, valid, Noise(torch.from_numpy(draw_noise(count, 0))))
    still, weights = fusion(tokens, valid, None)
    assert count == ROWS * STEPS * HEADS * 3
    assert not torch.allclose(noisy, still)
    torch.testing.assert_close(told, weights)


def test_heads_have_to_divide_the_width():
    with pytest.raises(AssertionError, match="3 heads do not divide"):
        AttentionSteps(2, 8, 3, 0.0)


def test_keys_start_as_xaviers():
    torch.manual_seed(0)
    width = 32
    key, bound = AttentionSteps(3, width, 2, 0.0).key.detach().abs(), (6 / (2 * width)) ** 0.5
    assert (key <= bound).all()
    assert (key.flatten(1).amax(1) > 0.95 * bound).all()
    torch.testing.assert_close(key.mean(), torch.tensor(bound / 2), rtol=0.05, atol=0)
