"""Attention and the transformer layer against PyTorch's own; a layer read at one token against the whole of it."""

from math import prod
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from fusion_lab.blocks.attention import Attention, FeedForward, TransformerLayer
from fusion_lab.blocks.randomness import Noise, count_draws

WIDTH, HEADS, ROWS, TOKENS = 12, 3, 5, 7
EXACT = {"rtol": 0, "atol": 1e-12}


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


def randomised(module: nn.Module) -> None:
    """Biases, scales and shifts that are neither 0 nor 1: what has no effect at the start has one later."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def some_noise(count: int) -> Noise:
    return Noise(torch.randint(-(2**15), 2**15, (count,)).to(torch.int16))


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


def test_a_query_is_answered_as_among_others():
    attention = Attention(1, WIDTH, HEADS, 0.4).double()
    randomised(attention)
    tokens, valid, asked = tokens_of(1, ROWS, TOKENS), some_valid()[None], tokens_of(1, ROWS, 3)
    every, every_weights = attention(asked, tokens, valid, None)
    for query in range(3):
        alone, weights = attention(asked[:, :, query : query + 1], tokens, valid, None)
        torch.testing.assert_close(alone[:, :, 0], every[:, :, query], **EXACT)
        torch.testing.assert_close(weights[..., 0, :], every_weights[..., query, :], **EXACT)


def test_dropout_takes_attention_away_and_is_not_in_the_weights_told():
    attention = Attention(1, WIDTH, HEADS, 0.5).double()
    asked, tokens, valid = tokens_of(1, ROWS, 2), tokens_of(1, ROWS, TOKENS), some_valid()[None]
    plain, weights = attention(asked, tokens, valid, None)
    dropped, told = attention(asked, tokens, valid, some_noise(HEADS * ROWS * 2 * TOKENS))
    assert torch.equal(told, weights)
    assert ((dropped - plain).abs().amax(-1) > 1e-6).any()
    everything = Noise(torch.full((HEADS * ROWS * 2 * TOKENS,), -(2**15), dtype=torch.int16))
    gone, _ = attention(asked, tokens, valid, everything)
    torch.testing.assert_close(gone, attention.bias["o"].reshape(1, 1, 1, WIDTH).expand_as(gone), **EXACT)


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


class Reading(NamedTuple):
    """A layer with weights of every kind, and what it reads."""

    layer: TransformerLayer
    summary: Tensor
    tokens: Tensor
    valid: Tensor

    def inputs(self) -> list[Tensor]:
        return [self.summary, self.tokens, *self.layer.parameters()]

    def whole(self, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """The layer over all tokens, of which the first is then taken."""
        groups, rows = self.tokens.shape[:2]
        x = torch.cat([self.summary.expand(groups, rows, WIDTH).unsqueeze(2), self.tokens], dim=2)
        seen = torch.cat([torch.ones_like(self.valid[..., :1]), self.valid], dim=2)
        everything, weights = self.layer(x, seen, noise)
        return everything[:, :, 0], weights[..., 0, :]

    def read(self, noise: Noise | None) -> tuple[Tensor, Tensor]:
        return self.layer.read(self.summary, self.tokens, self.valid, noise)


MISSING = {
    "nothing": lambda valid: torch.ones_like(valid),
    "everything": lambda valid: torch.zeros_like(valid),
    "some": lambda valid: torch.rand(valid.shape) > 0.4,
    "all but the first": lambda valid: torch.ones_like(valid) & (torch.arange(TOKENS) < 1),
    "all but the last": lambda valid: torch.ones_like(valid) & (torch.arange(TOKENS) == TOKENS - 1),
    "whole rows and groups": lambda valid: torch.ones_like(valid) & (torch.rand(valid.shape[:2]) > 0.5).unsqueeze(-1),
}


def reading(groups: int, rows: int, own: bool, missing: str, p: float = 0.0) -> Reading:
    """``own``: a summary for each row in place of one for all."""
    layer = TransformerLayer(groups, WIDTH, HEADS, p).double()
    randomised(layer)
    summary, tokens = tokens_of(groups, rows if own else 1), 2 * tokens_of(groups, rows, TOKENS) + 1
    valid = MISSING[missing](torch.ones(groups, rows, TOKENS).bool())
    return Reading(layer, summary.requires_grad_(), tokens.requires_grad_(), valid)


def assert_read_as_in_the_whole(case: Reading, read: Noise | None, whole: Noise | None) -> None:
    """Values, and the gradients of all inputs and parameters from both answers, are the same."""
    results = [case.read(read), case.whole(whole)]
    shape, weights_shape = results[1][0].shape, results[1][1].shape
    pulls = tokens_of(*shape[:2]), torch.randn(weights_shape, dtype=torch.float64)
    gradients = [torch.autograd.grad(result, case.inputs(), pulls) for result in results]
    for ours, expected in zip((*results[0], *gradients[0]), (*results[1], *gradients[1]), strict=True):
        size = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(ours / size, expected / size, **EXACT)


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("own", [False, True], ids=["one summary", "a summary for each row"])
@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_layer_read_at_the_summary_is_the_whole_layer_at_its_first_token(groups, rows, own, missing):
    assert_read_as_in_the_whole(reading(groups, rows, own, missing), None, None)


def noises(case: Reading) -> tuple[Noise, Noise]:
    """Noise for the whole layer and, of it, what falls to the first token, for reading that alone."""
    groups, rows, steps, _ = case.tokens.shape
    of_weights, of_tokens = (groups, rows, HEADS, 1 + steps, 1 + steps), (groups, rows, 1 + steps)
    shapes = [of_weights, (*of_tokens, WIDTH), (*of_tokens, 4 * WIDTH), (*of_tokens, WIDTH)]
    parts = [some_noise(prod(shape)).values.reshape(shape) for shape in shapes]
    first = [parts[0][:, :, :, 0], *(part[:, :, 0] for part in parts[1:])]
    whole, read = (torch.cat([part.flatten() for part in kept]) for kept in (parts, first))
    return Noise(whole), Noise(read)


@pytest.mark.parametrize("missing", ["nothing", "some", "everything"])
@pytest.mark.parametrize("own", [False, True], ids=["one summary", "a summary for each row"])
@pytest.mark.parametrize("groups", [1, 3])
def test_dropout_while_reading_is_that_of_the_whole_layer_at_its_first_token(groups, own, missing):
    case = reading(groups, ROWS, own, missing, p=0.3)
    whole, read = noises(case)
    assert_read_as_in_the_whole(case, read, whole)
    for noise, forward in ((*noises(case)[:1], case.whole), (*noises(case)[1:], case.read)):
        assert count_draws(forward, torch.device("cpu")) == len(noise.values)


@pytest.mark.parametrize("own", [False, True], ids=["one summary", "a summary for each row"])
def test_dropout_of_the_weights_changes_what_is_read_and_not_the_weights_told(own):
    case = reading(3, ROWS, own, "some", p=0.3)
    case.layer.drop_attention.p = case.layer.drop_feed.p = case.layer.feed.dropout.p = 0.0
    plain, weights = case.read(None)
    dropped, told = case.read(some_noise(3 * ROWS * HEADS * (1 + TOKENS)))
    assert torch.equal(told, weights)
    assert ((dropped - plain).abs().amax(-1) > 1e-6).double().mean() > 0.9


def test_what_is_read_does_not_depend_on_missing_tokens():
    case = reading(3, ROWS, False, "some")
    spoilt = torch.where(case.valid.unsqueeze(-1), case.tokens, 1e3 * torch.randn_like(case.tokens))
    for ours, expected in zip(case._replace(tokens=spoilt).read(None), case.read(None), strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


def test_weights_of_a_reading_sum_to_one_over_the_summary_and_the_tokens_that_are_there():
    case = reading(3, ROWS, True, "some")
    _, weights = case.read(None)
    assert weights.shape == (3, ROWS, HEADS, 1 + TOKENS)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **EXACT)
    assert not weights[..., 1:][~case.valid.unsqueeze(2).expand(3, ROWS, HEADS, TOKENS)].any()


@pytest.mark.parametrize("own", [False, True], ids=["one summary", "a summary for each row"])
def test_what_is_read_is_torchs_pre_norm_encoder_layer_at_its_first_token(own):
    reference = torchs_layer()
    summary, tokens, valid = tokens_of(1, ROWS if own else 1), tokens_of(1, ROWS, TOKENS), some_valid()
    x = torch.cat([summary.expand(1, ROWS, WIDTH).unsqueeze(2), tokens], dim=2)[0]
    seen = torch.cat([torch.ones(ROWS, 1).bool(), valid], dim=1)
    expected = reference(x, src_key_padding_mask=~seen)[:, 0]
    answer, _ = layer_like(reference).read(summary, tokens, valid[None], None)
    torch.testing.assert_close(answer[0], expected)


def test_groups_are_read_as_strangers():
    case = reading(3, ROWS, False, "some")
    together, weights = case.read(None)
    for g in range(3):
        alone = TransformerLayer(1, WIDTH, HEADS, 0.0).double()
        alone.load_state_dict({name: p[g : g + 1] for name, p in case.layer.state_dict().items()})
        one = (part[g : g + 1] for part in (case.summary, case.tokens, case.valid))
        answer, own_weights = alone.read(*one, None)
        torch.testing.assert_close(answer[0], together[g], **EXACT)
        torch.testing.assert_close(own_weights[0], weights[g], **EXACT)


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


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_the_feed_forward_part_is_as_many_times_as_wide_as_is_asked(ratio):
    layer = TransformerLayer(1, WIDTH, 2, 0.0, ratio)
    assert layer.feed.up.weight.shape == (1, WIDTH, ratio * WIDTH)
    assert layer.feed.down.weight.shape == (1, ratio * WIDTH, WIDTH)


def test_feed_forward_is_two_linears_around_gelu():
    feed = FeedForward(1, WIDTH, 0.5).double()
    x = tokens_of(1, ROWS, TOKENS)
    up, down = feed.up, feed.down
    expected = nn.functional.gelu(x[0] @ up.weight[0] + up.bias[0]) @ down.weight[0] + down.bias[0]
    torch.testing.assert_close(feed(x, None)[0], expected)


class Way(nn.Module):
    """One of the two ways through a layer, as a module: weights can be handed to it."""

    def __init__(self, layer: TransformerLayer, name: str) -> None:
        super().__init__()
        self.layer, self.name = layer, name

    def forward(self, summary: Tensor, tokens: Tensor, valid: Tensor, values: Tensor) -> Tensor:
        case = Reading(self.layer, summary, tokens, valid)
        return getattr(case, self.name)(Noise(values))[0].square().sum()


@pytest.mark.parametrize("own", [False, True], ids=["one summary", "a summary for each row"])
def test_reading_and_the_whole_layer_stack_as_they_are_alone(own):
    """Weights, rows and noise of three folds at once: what each fold has alone, in gradients too."""
    cases = [reading(1, ROWS, own, "some", p=0.3) for _ in range(3)]
    inputs = [torch.stack([case[i].detach() for case in cases]) for i in (1, 2, 3)]
    for place, name in enumerate(("whole", "read")):
        ways = [Way(case.layer, name) for case in cases]
        weights = {n: torch.stack([way.get_parameter(n).detach() for way in ways]) for n in ways[0].state_dict()}
        values = torch.stack([noises(case)[place].values for case in cases])
        step = torch.func.grad_and_value(lambda w, *given, way=ways[0]: torch.func.functional_call(way, w, given))
        gradients, losses = vmap(step)(weights, *inputs, values)
        for k, way in enumerate(ways):
            loss = way(*(part[k] for part in inputs), values[k])
            torch.testing.assert_close(losses[k], loss.detach(), rtol=1e-12, atol=1e-12)
            expected = torch.autograd.grad(loss, list(way.parameters()))
            for (parameter, _), gradient in zip(way.named_parameters(), expected, strict=True):
                torch.testing.assert_close(gradients[parameter][k], gradient, rtol=1e-12, atol=1e-11)


def test_where_pytorch_falls_back_the_projects_warning_filter_fires():
    """The filter makes the silent per-fold loop an error; the layers above must not and others do."""
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
