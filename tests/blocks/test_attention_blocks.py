"""Attention and the transformer layer against PyTorch's own."""

import pytest
import torch
from torch import nn
from torch.func import vmap

from fusion_lab.blocks.attention import Attention, FeedForward, TransformerLayer

WIDTH, HEADS, ROWS, TOKENS = 12, 3, 5, 7


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def attention_like(reference: nn.MultiheadAttention) -> Attention:
    """Ours with the reference's weights; its key bias has no place to go."""
    ours = Attention(1, WIDTH, HEADS, 0.0).double()
    with torch.no_grad():
        for name, weight in zip("qkv", reference.in_proj_weight.chunk(3), strict=True):
            ours.weight[name].copy_(weight.T.unsqueeze(0))
        for name, bias in zip("qkv", reference.in_proj_bias.chunk(3), strict=True):
            if name != "k":
                ours.bias[name].copy_(bias.reshape(1, 1, -1))
        ours.weight["o"].copy_(reference.out_proj.weight.T.unsqueeze(0))
        ours.bias["o"].copy_(reference.out_proj.bias.reshape(1, 1, -1))
    return ours


def torchs_attention(key_bias: float) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_bias.normal_()
        reference.out_proj.bias.normal_()
        reference.in_proj_bias.chunk(3)[1].mul_(key_bias)
    return reference


def torchs_layer() -> nn.TransformerEncoderLayer:
    reference = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 1:
                parameter.normal_()
    return reference


def layer_like(reference: nn.TransformerEncoderLayer) -> TransformerLayer:
    ours = TransformerLayer(1, WIDTH, HEADS, 0.0).double()
    ours.attention = attention_like(reference.self_attn)
    pairs = (
        (ours.norm_attention, reference.norm1),
        (ours.norm_feed, reference.norm2),
        (ours.feed.up, reference.linear1),
        (ours.feed.down, reference.linear2),
    )
    with torch.no_grad():
        for mine, theirs in pairs:
            mine.weight.copy_(theirs.weight.t().reshape(mine.weight.shape))
            mine.bias.copy_(theirs.bias.reshape(mine.bias.shape))
    return ours


def some_valid() -> torch.Tensor:
    valid = torch.rand(ROWS, TOKENS) > 0.4
    valid[:, 0] = True
    return valid


def tokens_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, dtype=torch.float64)


@pytest.mark.parametrize("key_bias", [0.0, 10.0], ids=["no key bias", "a key bias without effect"])
@pytest.mark.parametrize("queries", [1, 2, 7], ids=["folded", "two queries", "many queries"])
def test_attention_is_torchs_multi_head_attention(queries, key_bias):
    reference = torchs_attention(key_bias)
    asked, tokens, valid = tokens_of(ROWS, queries), tokens_of(ROWS, TOKENS), some_valid()
    expected, expected_weights = reference(asked, tokens, tokens, key_padding_mask=~valid, average_attn_weights=False)
    answer, weights = attention_like(reference)(asked[None], tokens[None], valid[None], None)
    torch.testing.assert_close(answer[0], expected)
    torch.testing.assert_close(weights[0], expected_weights)


def test_a_bias_on_the_scores_is_torchs_float_mask():
    reference, bias = torchs_attention(0.0), torch.randn(ROWS, TOKENS, dtype=torch.float64)
    asked, tokens = tokens_of(ROWS, 2), tokens_of(ROWS, TOKENS)
    expected, _ = reference(asked, tokens, tokens, key_padding_mask=bias)
    answer, _ = attention_like(reference)(
        asked[None], tokens[None], torch.ones(1, ROWS, TOKENS).bool(), None, bias[None]
    )
    torch.testing.assert_close(answer[0], expected)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_a_single_query_is_answered_as_among_others_with_the_same_dropout(p):
    """Folding the query into the keys and pooling before projecting is the same function, in gradients too."""
    attention = Attention(1, WIDTH, HEADS, p).double()
    with torch.no_grad():
        for bias in attention.bias.values():
            bias.normal_()
    tokens, valid, key = tokens_of(1, 1, TOKENS), torch.ones(1, 1, TOKENS).bool(), torch.tensor(3, dtype=torch.int32)
    asked = tokens_of(1, 1, 1)
    single, _ = attention(asked, tokens, valid, None)
    twice, _ = attention(asked.expand(-1, -1, 2, -1), tokens, valid, None)
    torch.testing.assert_close(single[:, :, 0], twice[:, :, 1])
    gradients = [
        torch.autograd.grad(answer[:, :, 0].square().sum(), list(attention.parameters())) for answer in (single, twice)
    ]
    for folded, general in zip(*gradients, strict=True):
        torch.testing.assert_close(folded, general)
    dropped, weights = attention(asked, tokens, valid, key)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    assert torch.equal(dropped, single) == (p == 0.0)


def test_where_nothing_is_valid_only_the_output_bias_answers():
    attention = Attention(1, WIDTH, HEADS, 0.0).double()
    with torch.no_grad():
        for bias in attention.bias.values():
            bias.normal_()
    for queries in (1, 3):
        answer, weights = attention(
            tokens_of(1, ROWS, queries), tokens_of(1, ROWS, TOKENS), torch.zeros(1, ROWS, TOKENS).bool(), None
        )
        assert not weights.any()
        torch.testing.assert_close(answer, attention.bias["o"].reshape(1, 1, 1, WIDTH).expand_as(answer))


def test_the_layer_is_torchs_pre_norm_encoder_layer():
    reference, x, valid = torchs_layer(), tokens_of(ROWS, TOKENS), some_valid()
    expected = reference(x, src_key_padding_mask=~valid)
    answer, _ = layer_like(reference)(x[None], valid[None], None)
    torch.testing.assert_close(answer[0][valid], expected[valid])


@pytest.mark.parametrize("read", [1, 2])
def test_reading_the_first_tokens_equals_computing_all_of_them(read):
    layer = layer_like(torchs_layer())
    x, valid = tokens_of(1, ROWS, TOKENS), some_valid()[None]
    everything, all_weights = layer(x, valid, None)
    first, weights = layer(x, valid, None, read=read)
    torch.testing.assert_close(first, everything[:, :, :read])
    torch.testing.assert_close(weights, all_weights[..., :read, :])


@pytest.mark.parametrize("queries", [1, 4])
def test_groups_are_strangers(queries):
    """G groups at once answer as each does alone."""
    grouped = Attention(3, WIDTH, HEADS, 0.0).double()
    asked, tokens = tokens_of(3, ROWS, queries), tokens_of(3, ROWS, TOKENS)
    valid = torch.stack([some_valid() for _ in range(3)])
    together, weights = grouped(asked, tokens, valid, None)
    for g in range(3):
        alone = Attention(1, WIDTH, HEADS, 0.0).double()
        alone.load_state_dict({name: p[g : g + 1] for name, p in grouped.state_dict().items()})
        answer, own_weights = alone(asked[g : g + 1], tokens[g : g + 1], valid[g : g + 1], None)
        torch.testing.assert_close(answer[0], together[g])
        torch.testing.assert_close(own_weights[0], weights[g])


def test_feed_forward_is_two_linears_around_gelu():
    feed = FeedForward(1, WIDTH, 0.5).double()
    x = tokens_of(1, ROWS, TOKENS)
    up, down = feed.up, feed.down
    expected = nn.functional.gelu(x[0] @ up.weight[0] + up.bias[0]) @ down.weight[0] + down.bias[0]
    torch.testing.assert_close(feed(x, None)[0], expected)


def test_the_layer_stacks_without_a_fallback_and_torchs_own_attention_does_not():
    """The project's warning filter makes the silent per-fold loop an error; it has to fire where there is one."""
    layer = TransformerLayer(1, WIDTH, HEADS, 0.1)
    x, valid, keys = torch.randn(2, 1, ROWS, TOKENS, WIDTH), some_valid()[None], torch.arange(2, dtype=torch.int32)
    vmap(lambda x, key: layer(x, valid, key)[0])(x, keys)
    fused = nn.functional.scaled_dot_product_attention
    lstm = nn.LSTM(3, 4, batch_first=True)

    def recurrent(x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda x: lstm(x)[0].sum())(x)

    falls_back = [
        lambda: vmap(lambda x: fused(x, x, x))(torch.randn(2, 3, 2, 5, 4)),
        lambda: vmap(recurrent)(torch.randn(2, 5, 6, 3)),
    ]
    for call in falls_back:
        with pytest.raises(UserWarning, match="batching rule"):
            call()
