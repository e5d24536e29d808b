import pytest
import torch

from fusion_lab.blocks.answering import EarlyFusion, LateFusion

MODALITIES, WIDTH, HIDDEN, ROWS = 4, 6, 10, 5
OUTPUTS = (1, 3)
KINDS = {"early": EarlyFusion, "late": LateFusion}


def fusion(kind: str) -> EarlyFusion | LateFusion:
    torch.manual_seed(0)
    return KINDS[kind](MODALITIES, WIDTH, HIDDEN, OUTPUTS, 0.0).double()


def some_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """The first row has everything, the last nothing."""
    torch.manual_seed(1)
    tokens, present = torch.randn(MODALITIES, ROWS, WIDTH, dtype=torch.float64), torch.rand(MODALITIES, ROWS) < 0.6
    present[:, 0], present[:, -1] = True, False
    return tokens, present


@pytest.mark.parametrize("kind", KINDS)
def test_the_token_of_an_absent_modality_has_no_influence(kind):
    made, (tokens, present) = fusion(kind), some_rows()
    other = torch.where(present.unsqueeze(-1), tokens, 1e3 * torch.randn_like(tokens))
    one, two = made(tokens, present, {}, None), made(other, present, {}, None)
    for a, b in zip([*one.heads, *one.own], [*two.heads, *two.own], strict=True):
        torch.testing.assert_close(a, b)
    assert [tuple(head.shape) for head in one.heads] == [(ROWS,), (ROWS, 3)]
    assert all(torch.isfinite(head).all() for head in one.heads)


def test_early_fusion_is_two_hidden_layers_over_the_tokens_side_by_side():
    made, (tokens, present) = fusion("early"), some_rows()
    shown = torch.where(present.unsqueeze(-1), tokens, 0.0)
    for row in range(ROWS):
        hidden = torch.nn.functional.gelu(made.mix(torch.cat(list(shown[:, row]))))
        for head, answer in zip(made.heads, made(tokens, present, {}, None).heads, strict=True):
            torch.testing.assert_close(answer[row], head(hidden[None], None)[0])


def test_late_fusion_is_the_sum_of_what_the_modalities_say_alone_by_their_learned_weights():
    made, (tokens, present) = fusion("late"), some_rows()
    torch.nn.init.normal_(made.trust)
    heads, weights, own, _ = made(tokens, present, {}, None)
    for row in range(ROWS - 1):
        here = present[:, row]
        expected = torch.zeros(MODALITIES, dtype=torch.float64)
        expected[here] = torch.softmax(made.trust[here], 0)
        torch.testing.assert_close(weights[row], expected)
        for head, answers in zip(heads, own, strict=True):
            torch.testing.assert_close(head[row], torch.tensordot(expected, answers[row], 1))
            assert not answers[row, ~here].any()


def test_in_late_fusion_a_modality_speaks_for_itself_whoever_else_is_there():
    made, (tokens, _) = fusion("late"), some_rows()
    everyone = torch.ones(MODALITIES, ROWS, dtype=torch.bool)
    _, _, own, _ = made(tokens, everyone, {}, None)
    for m in range(MODALITIES):
        alone = torch.zeros_like(everyone)
        alone[m] = True
        heads, weights, _, _ = made(tokens, alone, {}, None)
        assert torch.equal(weights, alone.T.double())
        for head, answers in zip(heads, own, strict=True):
            torch.testing.assert_close(head, answers[:, m])


def test_without_any_modality_all_weigh_alike_and_the_map_says_that_none_is_there():
    made, (tokens, _) = fusion("late"), some_rows()
    torch.nn.init.normal_(made.trust)
    heads, weights, own, _ = made(tokens, torch.zeros(MODALITIES, ROWS, dtype=torch.bool), {}, None)
    assert not weights.any()
    assert not any(answers.any() for answers in own)
    silent = made.hidden(torch.zeros(MODALITIES, 1, WIDTH, dtype=torch.float64))
    for head, out in zip(heads, made.out, strict=True):
        expected = out(torch.nn.functional.gelu(silent)).mean(0)
        torch.testing.assert_close(head.reshape(ROWS, -1), expected.expand(ROWS, -1))
