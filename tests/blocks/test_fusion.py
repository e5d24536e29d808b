import math

import pytest
import torch

from fusion_lab.blocks.fusion import BottleneckFusion, GatedFusion, TransformerFusion, share_bias

MODALITIES, WIDTH, ROWS = 4, 8, 6
FUSIONS = {
    "transformer": lambda: TransformerFusion(MODALITIES, WIDTH, 2, 2, 0.0),
    "bottleneck": lambda: BottleneckFusion(3, WIDTH, 2, 0.0),
    "gated": lambda: GatedFusion(MODALITIES, WIDTH),
}


@pytest.fixture(params=FUSIONS)
def fusion(request):
    torch.manual_seed(0)
    return FUSIONS[request.param]().double()


def some_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = torch.randn(ROWS, MODALITIES, WIDTH, dtype=torch.float64)
    valid = torch.rand(ROWS, MODALITIES) > 0.3
    valid[:, 0], valid[0, 1] = True, False
    return tokens, valid, torch.rand(ROWS, MODALITIES, dtype=torch.float64)


def test_the_token_of_a_missing_modality_has_no_influence(fusion):
    tokens, valid, share = some_rows()
    fused, weights = fusion(tokens, valid, share, None)
    other_tokens = torch.where(valid.unsqueeze(-1), tokens, 1e3 * torch.randn_like(tokens))
    other_share = torch.where(valid, share, torch.rand_like(share))
    other, other_weights = fusion(other_tokens, valid, other_share, None)
    torch.testing.assert_close(fused, other)
    assert not weights.masked_select(~valid.reshape(ROWS, *[1] * (weights.ndim - 2), MODALITIES)).any()
    if weights.ndim == 2 or weights.shape[1] != MODALITIES:  # a missing modality that asks has a row of its own
        torch.testing.assert_close(weights, other_weights)


def test_without_any_modality_the_answer_is_finite_and_the_same_for_every_row(fusion):
    tokens, valid, share = some_rows()
    fused, weights = fusion(tokens, torch.zeros_like(valid), share, None)
    assert torch.isfinite(fused).all()
    assert not weights.any()
    torch.testing.assert_close(fused, fused[:1].expand_as(fused))


def test_a_larger_share_moves_the_answer_towards_the_modality(fusion):
    tokens, valid, share = some_rows()
    low, high = share.clone(), share.clone()
    low[:, 0], high[:, 0] = 0.2, 0.9
    weights = [fusion(tokens, torch.ones_like(valid), s, None)[1] for s in (low, high)]
    first = [w.reshape(ROWS, -1, MODALITIES).mean(1)[:, 0] for w in weights]
    assert (first[1] > first[0]).all()


def test_attention_is_proportional_to_the_share_where_scores_are_equal():
    fusion = BottleneckFusion(3, WIDTH, 2, 0.0).double()
    share = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    tokens = torch.ones(1, MODALITIES, WIDTH, dtype=torch.float64)
    _, weights = fusion(tokens, torch.ones(1, MODALITIES).bool(), share, None)
    torch.testing.assert_close(weights, share.expand_as(weights))


def test_gated_fusion_is_the_mean_weighted_by_the_gates():
    fusion = GatedFusion(MODALITIES, WIDTH).double()
    tokens, valid, share = some_rows()
    fused, gates = fusion(tokens, valid, share, None)
    assert ((gates >= 0) & (gates <= 1)).all()
    scale, bias = fusion.weight.detach(), fusion.bias.detach()
    for row in range(ROWS):
        total, weight = torch.zeros(WIDTH, dtype=torch.float64), 0.0
        for m in range(MODALITIES):
            score = float(tokens[row, m] @ scale[m] + bias[m])
            gate = float(valid[row, m]) * float(share[row, m]) / (1 + math.exp(-score))
            assert gates[row, m].item() == pytest.approx(gate)
            total, weight = total + gate * tokens[row, m], weight + gate
        torch.testing.assert_close(fused[row], total / weight)


def test_transformer_fusion_is_the_mean_of_what_comes_out_weighted_by_the_shares():
    fusion = TransformerFusion(MODALITIES, WIDTH, 2, 1, 0.0).double()
    tokens, valid, share = some_rows()
    fused, weights = fusion(tokens, valid, share, None)
    answer, asked = fusion.layers[0]((tokens + fusion.kind)[None], valid[None], None, bias=share.log()[None])
    part = (valid * share).unsqueeze(-1)
    torch.testing.assert_close(fused, (answer[0] * part).sum(1) / part.sum(1))
    torch.testing.assert_close(weights, asked[0].mean(1))


def test_a_share_of_zero_stays_finite():
    assert torch.isfinite(share_bias(torch.zeros(3))).all()
    assert share_bias(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]
