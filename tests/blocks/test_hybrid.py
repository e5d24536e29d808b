import pytest
import torch

from fusion_lab.blocks.answering import Steps
from fusion_lab.blocks.hybrid import QUIET, HybridFusion

CLOCKS = ("day", None, "hour", "day", None)
LENGTHS = {0: 6, 2: 4, 3: 6}
MODALITIES, WIDTH, HIDDEN, ROWS = len(CLOCKS), 6, 8, 7
Given = tuple[torch.Tensor, torch.Tensor, dict[int, Steps]]


def fusion(clocks: tuple[str | None, ...] = CLOCKS) -> HybridFusion:
    torch.manual_seed(0)
    return HybridFusion(clocks, WIDTH, HIDDEN, 2, (1, 3), 0.0).double()


def some_rows() -> Given:
    """Tokens, presence and steps; the first row has everything, the last nothing."""
    torch.manual_seed(1)
    tokens, present = torch.randn(MODALITIES, ROWS, WIDTH, dtype=torch.float64), torch.rand(MODALITIES, ROWS) < 0.6
    present[:, 0], present[:, -1] = True, False
    steps = {}
    for place, length in LENGTHS.items():
        valid = torch.rand(ROWS, length) < 0.7
        valid[:, -1] = True
        steps[place] = Steps(torch.randn(ROWS, length, WIDTH, dtype=torch.float64), valid & present[place][:, None])
    return tokens, present, steps


def test_a_row_is_what_the_modalities_that_it_has_make_of_each_other():
    """Pair by pair: the token, plus the mean of what it reads, weighed by the softmax of the gates."""
    made, (tokens, present, steps) = fusion(), some_rows()
    heads, weights, own, asked = made(tokens, present, steps, None)
    x = torch.nn.functional.gelu(made.project(tokens))
    read, _ = made._read(x, tokens, present, steps, None)
    assert set(read) == {(a, b) for a in range(MODALITIES) for b in range(MODALITIES) if a != b}
    assert own == []
    for row in range(ROWS - 1):
        here = present[:, row].nonzero().flatten().tolist()
        mixed, gates = [], []
        for a in here:
            parts = [read[a, b][row] for b in here if b != a]
            mixed.append(x[a, row] + (torch.stack(parts).mean(0) if parts else 0.0))
            gates.append(mixed[-1] @ made.gate.weight[a, :, 0] + made.gate.bias[a, 0])
        expected = torch.softmax(torch.stack(gates), 0)
        torch.testing.assert_close(weights[row, here], expected)
        fused = (torch.stack(mixed) * expected[:, None]).sum(0)
        for head, answer in zip(made.heads, heads, strict=True):
            torch.testing.assert_close(answer[row], head(fused[None], None)[0])
    assert not weights[~present.T].any()


def test_a_modality_of_several_steps_is_read_step_by_step_and_one_of_a_single_step_as_it_is():
    made, (tokens, present, steps) = fusion(), some_rows()
    *_, asked = made(tokens, present, steps, None)
    assert set(asked) == set(LENGTHS)
    for b, weights in asked.items():
        assert weights.shape == (ROWS, MODALITIES - 1, LENGTHS[b])
        others = [a for a in range(MODALITIES) if a != b]
        for place, a in enumerate(others):
            both = present[a] & present[b]
            torch.testing.assert_close(weights[:, place].sum(-1), both.double())
            assert not weights[:, place][~steps[b].valid].any()
    read, _ = made._read(torch.randn(MODALITIES, ROWS, HIDDEN).double(), tokens, present, steps, None)
    other, _ = made._read(torch.randn(MODALITIES, ROWS, HIDDEN).double(), tokens, present, steps, None)
    for (a, b), answer in read.items():
        assert torch.equal(answer, other[a, b]) == (CLOCKS[b] is None), "only a choice depends on who asks"


def test_what_is_absent_has_no_influence():
    made, (tokens, present, steps) = fusion(), some_rows()
    spoilt = torch.where(present.unsqueeze(-1), tokens, 1e3 * torch.randn_like(tokens))
    garbage = {b: Steps(torch.where(of.valid.unsqueeze(-1), of.values, 1e3), of.valid) for b, of in steps.items()}
    one, other = made(tokens, present, steps, None), made(spoilt, present, garbage, None)
    for a, b in zip([*one.heads, one.weights], [*other.heads, other.weights], strict=True):
        torch.testing.assert_close(a, b)
    for b, weights in one.asked.items():
        torch.testing.assert_close(weights, other.asked[b])


@pytest.mark.parametrize("clock", ["day", None])
def test_a_modality_that_is_alone_reads_nothing(clock):
    made, (tokens, present, steps) = fusion((clock,)), some_rows()
    heads, weights, _, asked = made(tokens[:1], present[:1], {0: steps[0]}, None)
    assert asked == {}
    assert torch.equal(weights, present[:1].T.double())
    x = torch.nn.functional.gelu(made.project(tokens[:1]))[0] * present[0][:, None]
    for head, answer in zip(made.heads, heads, strict=True):
        torch.testing.assert_close(answer, head(x, None))


def test_what_is_read_starts_quietly():
    made = fusion()
    assert made.tell is not None
    assert 0 < made.tell.weight.abs().max() <= QUIET / WIDTH**0.5
    for attention in made.ask:
        assert 0 < attention.out.weight.abs().max() <= QUIET * (3 / HIDDEN) ** 0.5
