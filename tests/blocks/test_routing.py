import pytest
import torch

from fusion_lab.blocks.randomness import Noise, draw_noise
from fusion_lab.blocks.routing import BranchEncoder, BranchPool, TaskRouting, branch_mean

BRANCHES = ((3, 1), (0,), (2, 5), (4,))
ROWS, MODALITIES, WIDTH = 6, 6, 8
BRANCH = {m: n for n, branch in enumerate(BRANCHES) for m in branch}


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    tokens = torch.randn(ROWS, MODALITIES, WIDTH, dtype=torch.float64)
    used = torch.rand(ROWS, MODALITIES) > 0.3
    used[0], used[1] = False, True
    return tokens, used, torch.rand(ROWS, MODALITIES, dtype=torch.float64)


@pytest.mark.parametrize("changed", range(MODALITIES))
def test_a_token_is_read_in_its_own_branch_alone(changed):
    encoder, (tokens, _, share) = BranchEncoder(BRANCHES, WIDTH, 2, 0.0).double(), rows()
    used = torch.ones(ROWS, MODALITIES, dtype=torch.bool)
    other = tokens.clone()
    other[:, changed] = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    moved = (encoder(tokens, used, share, None) != encoder(other, used, share, None)).any(-1).all(0)
    assert moved.tolist() == [BRANCH[m] == BRANCH[changed] for m in range(MODALITIES)]


def test_branches_have_weights_of_their_own():
    """Two branches of one size, told the same, make different things of it."""
    encoder, (tokens, _, share) = BranchEncoder(((0, 1), (2, 3)), WIDTH, 2, 0.0).double(), rows()
    alike, used = tokens[:, [0, 1, 0, 1]], torch.ones(ROWS, 4, dtype=torch.bool)
    made = encoder(alike, used, share[:, [0, 1, 0, 1]], None)
    assert not torch.isclose(made[:, :2], made[:, 2:]).any(-1).all()


def test_pooling_weighs_what_is_used_in_each_branch_and_nothing_else():
    pool, (tokens, used, share) = BranchPool(BRANCHES, WIDTH).double(), rows()
    found = pool(tokens, used, share)
    for n, branch in enumerate(BRANCHES):
        inside = used[:, list(branch)]
        assert torch.equal(found.used[:, n], inside.any(1))
        torch.testing.assert_close(found.weights[:, n].sum(-1), inside.any(1).double())
        assert not found.weights[:, n][:, [m for m in range(MODALITIES) if m not in branch]].any()
        assert not found.weights[:, n][~used].any()
        torch.testing.assert_close(found.share[:, n], (share * used)[:, list(branch)].amax(1))
    assert not found.vectors[~found.used].any()
    garbage = torch.where(used.unsqueeze(-1), tokens, 1e3)
    torch.testing.assert_close(pool(garbage, used, share).vectors, found.vectors)


def test_the_share_multiplies_a_tokens_weight_in_its_pool():
    pool, (tokens, _, share) = BranchPool(((0, 1),), WIDTH).double(), rows()
    used, share = torch.ones(ROWS, 2, dtype=torch.bool), share[:, :2].clamp(min=0.01)
    weights = pool(tokens[:, :2], used, share).weights[:, 0]
    plain = pool(tokens[:, :2], used, torch.ones_like(share)).weights[:, 0]
    torch.testing.assert_close(weights[:, 0] / weights[:, 1], plain[:, 0] / plain[:, 1] * share[:, 0] / share[:, 1])


def test_routing_weighs_used_branches_by_their_share_and_answers_from_them_alone():
    torch.manual_seed(0)
    routing = TaskRouting(4, WIDTH, (1, 3), 0.0).double()
    vectors = torch.randn(ROWS, 4, WIDTH, dtype=torch.float64)
    used, share = torch.rand(ROWS, 4) > 0.3, torch.rand(ROWS, 4, dtype=torch.float64)
    used[0] = False
    (binary, classes), weights = routing(vectors, used, share, None)
    assert binary.shape == (ROWS,) and classes.shape == (ROWS, 3)
    torch.testing.assert_close(weights.sum(-1), used.any(-1).double().expand(2, -1))
    assert not weights[:, ~used].any()
    garbage = torch.where(used.unsqueeze(-1), vectors, 1e3)
    torch.testing.assert_close(routing(garbage, used, share, None)[0], [binary, classes])
    lower = share.clone()
    lower[:, 0] /= 100
    both = used[:, 0] & (used.sum(-1) > 1)
    assert both.any()
    assert (routing(vectors, used, lower, None)[1][:, both, 0] < weights[:, both, 0]).all()


def test_a_single_branch_has_nothing_to_route():
    routing = TaskRouting(1, WIDTH, (1,), 0.2)
    used = torch.tensor([[True], [False]])
    values = Noise(torch.from_numpy(draw_noise(2 * (WIDTH // 2 + WIDTH // 4), 0)))
    _, weights = routing(torch.randn(2, 1, WIDTH), used, torch.ones(2, 1), values)
    assert torch.equal(weights, used.float().unsqueeze(0))
    assert not [name for name, _ in routing.named_parameters() if name.startswith(("ask", "route"))]


def test_the_mean_of_branches_is_weighted_by_share_and_0_without_any():
    vectors, used = torch.randn(2, 3, WIDTH), torch.tensor([[True, True, False], [False] * 3])
    share = torch.tensor([[0.2, 0.6, 1.0], [1.0, 1.0, 1.0]])
    found = branch_mean(vectors, used, share)
    torch.testing.assert_close(found[0], (vectors[0, 0] + 3 * vectors[0, 1]) / 4)
    assert not found[1].any()
