"""The transformer over steps against PyTorch's layers, what each step may read, and positions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.blocks.step_transformer import LONGEST_WAVE, StepLayer, StepTransformer, steps_since_first, waves

WIDTH, HEADS, HIDDEN, ROWS, STEPS = 8, 2, 12, 3, 5
LAYOUTS = [("pre", False), ("pre", True), ("post", False), ("post", True)]


def some(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, STEPS, WIDTH, generator=g, dtype=torch.float64)
    first = torch.tensor([0, 1, 3])[:, None]
    return x, torch.arange(STEPS) >= first


def copied(layer: StepLayer) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the same numbers."""
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, "relu" if layer.post else "gelu", batch_first=True, norm_first=not layer.post
    ).double()
    ours = layer.attention
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([ours.weight[n][0].T for n in "qkv"]))
        nothing = torch.zeros(WIDTH)
        theirs.self_attn.in_proj_bias.copy_(torch.cat([ours.bias["q"].flatten(), nothing, ours.bias["v"].flatten()]))
        theirs.self_attn.out_proj.weight.copy_(ours.weight["o"][0].T)
        theirs.self_attn.out_proj.bias.copy_(ours.bias["o"].flatten())
        for mine, other in ((layer.up, theirs.linear1), (layer.down, theirs.linear2)):
            other.weight.copy_(mine.weight[0].T)
            other.bias.copy_(mine.bias[0])
        for mine, other in ((layer.norm_attention, theirs.norm1), (layer.norm_feed, theirs.norm2)):
            other.weight.copy_(mine.weight.flatten())
            other.bias.copy_(mine.bias.flatten())
    return theirs.eval()


@pytest.mark.parametrize(("norm", "causal"), LAYOUTS)
def test_layers_are_pytorchs(norm, causal):
    torch.manual_seed(0)
    model = StepTransformer(WIDTH, HEADS, 2, HIDDEN, 0.0, norm, causal).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, valid = some()
    expected = x
    later = nn.Transformer.generate_square_subsequent_mask(STEPS, dtype=torch.float64).isinf() if causal else None
    for layer in model.layers:
        expected = copied(layer)(expected, src_mask=later, src_key_padding_mask=~valid)
    if norm == "pre":
        expected = model.norm(expected.unsqueeze(0)).squeeze(0)
    found = model(x, valid, None)
    # PyTorch has no answer for a step that reads nothing
    torch.testing.assert_close(found[valid], expected[valid])
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("norm", "causal"), LAYOUTS)
def test_a_step_reads_what_is_valid_and_of_causal_layers_nothing_later(norm, causal):
    torch.manual_seed(1)
    model = StepTransformer(WIDTH, HEADS, 1, HIDDEN, 0.0, norm, causal).double()
    x, valid = some(1)
    before = model(x, valid, None)
    for t in range(STEPS):
        changed = x.clone()
        changed[:, t] += torch.randn(WIDTH, dtype=torch.float64)
        moved = (model(changed, valid, None) - before).abs().amax(-1) > 1e-12
        reads = valid[:, t, None] & (torch.arange(STEPS) >= t if causal else torch.ones(STEPS, dtype=torch.bool))
        reads[:, t] = True  # what stands there itself
        assert torch.equal(moved, reads)


@given(length=st.integers(1, 12), width=st.integers(1, 9), seed=st.integers(0, 999))
def test_waves_count_from_the_first_valid_step_whatever_lies_before_it_or_is_missing_after(length, width, seed):
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, length, generator=g) < 0.5
    like = torch.zeros((), dtype=torch.float64)
    found = waves(valid, width, like)
    half = (width + 1) // 2
    for row in range(2):
        first = int(valid[row].int().argmax()) if valid[row].any() else length
        for t in range(length):
            distance = max(0, t - first)
            assert int(steps_since_first(valid)[row, t]) == distance
            angles = [distance / LONGEST_WAVE ** (i / half) for i in range(half)]
            expected = [*map(math.sin, angles), *map(math.cos, angles)][:width]
            torch.testing.assert_close(found[row, t], torch.tensor(expected, dtype=torch.float64))
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.bool), valid], dim=1)
    torch.testing.assert_close(waves(padded, width, like)[:, 3:], found)


def test_dropout_is_drawn_in_every_layer():
    model = StepTransformer(WIDTH, HEADS, 2, HIDDEN, 0.5, "pre", True).double()
    x, valid = some(2)
    count = count_draws(lambda noise: model(x, valid, noise), torch.device("cpu"))
    cells = ROWS * STEPS
    assert count == 2 * cells * (HEADS * STEPS + 2 * WIDTH + HIDDEN)
    noise = Noise(torch.from_numpy(draw_noise(count, 1)))
    assert not torch.allclose(model(x, valid, noise), model(x, valid, None))
