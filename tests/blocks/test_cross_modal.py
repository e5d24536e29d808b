import pytest
import torch
from torch import nn

from fusion_lab.blocks.cross_modal import CrossModalAttention
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise

ASKED, ASKERS, WIDTH, HIDDEN, HEADS, ROWS, LENGTH = 2, 3, 6, 8, 2, 5, 7
PAIRS = ASKED * ASKERS


def attention(heads: int = HEADS, dropout: float = 0.0) -> CrossModalAttention:
    torch.manual_seed(0)
    made = CrossModalAttention(ASKED, ASKERS, WIDTH, HIDDEN, heads, dropout).double()
    for parameter in made.parameters():  # biases that are not 0
        nn.init.normal_(parameter, std=0.5)
    return made


def arguments(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, steps and their masks; the first row lacks a modality that is asked, the second one that asks."""
    torch.manual_seed(seed)
    queries = torch.randn(PAIRS, ROWS, HIDDEN, dtype=torch.float64)
    steps = torch.randn(ASKED, ROWS, LENGTH, WIDTH, dtype=torch.float64)
    valid, present = torch.rand(ASKED, ROWS, LENGTH) < 0.6, torch.ones(PAIRS, ROWS, dtype=torch.bool)
    valid[:, :, 2] = True
    valid[0, 0] = False
    present[1, 1] = False
    return queries, steps, valid, present


def torch_attention(own: CrossModalAttention, asked: int, asker: int) -> nn.MultiheadAttention:
    """PyTorch's own with the weights of one pair, and a key bias, which changes nothing."""
    pair = asked * ASKERS + asker
    made = nn.MultiheadAttention(HIDDEN, own.key.shape[2], kdim=WIDTH, vdim=WIDTH, batch_first=True).double()
    state = {
        "q_proj_weight": own.query.weight[pair].T,
        "k_proj_weight": own.key[asked, asker].reshape(HIDDEN, WIDTH),
        "v_proj_weight": own.value[asked, asker].transpose(1, 2).reshape(HIDDEN, WIDTH),
        "in_proj_bias": torch.cat([own.query.bias[pair], torch.randn(HIDDEN), own.bias[asked, asker].flatten()]),
        "out_proj.weight": own.out.weight[pair].T,
        "out_proj.bias": own.out.bias[pair],
    }
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_each_pair_is_the_attention_of_pytorch(heads):
    own, (queries, steps, valid, present) = attention(heads), arguments()
    answers, weights = own(queries, steps, valid, present, None)
    for asked in range(ASKED):
        keys = nn.functional.layer_norm(steps[asked], (WIDTH,))
        some = valid[asked].any(1)
        for asker in range(ASKERS):
            pair = asked * ASKERS + asker
            here = some & present[pair]
            query = nn.functional.layer_norm(queries[pair], (HIDDEN,)).unsqueeze(1)
            plain = torch_attention(own, asked, asker)
            expected, shares = plain(query[here], keys[here], keys[here], key_padding_mask=~valid[asked, here])
            torch.testing.assert_close(answers[pair, here], expected[:, 0])
            torch.testing.assert_close(weights[asked, here, asker], shares[:, 0])
            assert not weights[asked, ~here, asker].any()


def test_where_nothing_is_there_nothing_but_the_bias_of_the_output_is_added():
    own, (queries, steps, valid, present) = attention(), arguments()
    answers, _ = own(queries, steps, valid, present, None)
    for pair, row in ((0, 0), (1, 0), (2, 0), (1, 1)):
        torch.testing.assert_close(answers[pair, row], own.out.bias[pair])


def test_weights_follow_the_query_and_the_order_of_the_keys():
    own, (queries, steps, _, _) = attention(), arguments()
    valid, present = (torch.ones(shape, dtype=torch.bool) for shape in ((ASKED, ROWS, LENGTH), (PAIRS, ROWS)))
    answers, weights = own(queries, steps, valid, present, None)
    same = steps[:, :1].expand_as(steps)
    _, of_same = own(queries, same, valid, present, None)
    rows = of_same.transpose(1, 2).flatten(0, 1)  # different queries, the same keys
    assert (torch.cdist(rows, rows) + torch.eye(ROWS) > 1e-6).all()
    order = torch.randperm(LENGTH)
    turned, turned_weights = own(queries, steps[:, :, order], valid, present, None)
    torch.testing.assert_close(turned, answers)
    torch.testing.assert_close(turned_weights, weights[..., order])


def test_what_is_not_valid_changes_nothing_whatever_it_is():
    own, (queries, steps, valid, present) = attention(), arguments()
    spoilt = torch.where(valid.unsqueeze(-1), steps, float("nan"))
    for one, other in zip(
        own(queries, steps, valid, present, None), own(queries, spoilt, valid, present, None), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_dropped_weights_are_not_in_the_answer_but_in_the_map():
    own, given = attention(dropout=0.5), arguments()
    count = count_draws(lambda noise: own(*given, noise), given[0].device)
    assert count == ASKED * ROWS * ASKERS * HEADS * LENGTH
    answers, weights = own(*given, Noise(torch.from_numpy(draw_noise(count, 1))))
    plain, shares = own(*given, None)
    torch.testing.assert_close(weights, shares)
    assert not torch.allclose(answers, plain)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(AssertionError, match="3 heads do not divide a width of 8"):
        attention(heads=3)
