from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.blocks.task_pooling import COLDEST, HOTTEST, Pooling, TaskAttentionPool

GROUPS, TASKS, WIDTH, HEADS, ROWS, LENGTH = 2, 3, 8, 2, 6, 5
SOURCES = ("tied", "attention_output", "own")
CHOICES: dict[str, dict[str, Any]] = {
    "all": {},
    "top two": {"top_k": 2},
    "mean of two": {"top_k": 2, "top_k_mode": "mean"},
    "sum of two": {"top_k": 2, "top_k_mode": "sum"},
    "top one": {"top_k": 1},
    "argmax": {"top_k": 3, "top_k_mode": "argmax"},
    "pruned": {"prune_below": 0.3},
    "top three, pruned": {"top_k": 3, "prune_below": 0.3},
}
VARIANTS = [
    pytest.param({"source": source, "residual_mean": mean, **choice}, id=f"{source}, {name}{', mean' * mean}")
    for source in SOURCES
    for name, choice in CHOICES.items()
    for mean in (False, True)
]


def build(seed: int = 0, heads: int = HEADS, **how: Any) -> TaskAttentionPool:
    """With queries that differ enough to look elsewhere, and biases."""
    torch.manual_seed(seed)
    pool = TaskAttentionPool(GROUPS, TASKS, WIDTH, heads, Pooling(**{"temperature": 1.0, **how})).double()
    with torch.no_grad():
        for parameter in (pool.queries, pool.ask.bias, pool.value.bias):
            parameter.add_(torch.randn_like(parameter))
    return pool


def bags(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Bags of none (the first row) to all instances."""
    torch.manual_seed(seed)
    counts = torch.randint(2, LENGTH + 1, (GROUPS, ROWS))
    counts[:, 0] = 0
    return 2 * torch.randn(GROUPS, ROWS, LENGTH, WIDTH).double(), torch.arange(LENGTH) < counts.unsqueeze(-1)


def noise_for(pool: TaskAttentionPool, x: torch.Tensor, valid: torch.Tensor, *place: int) -> Noise:
    return Noise(torch.from_numpy(draw_noise(count_draws(lambda n: pool(x, valid, n), x.device), *(place or (0,)))))


def plain(pool: TaskAttentionPool, g: int) -> nn.MultiheadAttention:
    """PyTorch's own attention with the weights of one group."""
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    out = pool.out.weight[g].T if pool.out is not None else torch.eye(WIDTH)
    state = {
        "in_proj_weight": torch.cat([pool.ask.weight[g].T, pool.key[g].T, pool.value.weight[g].T]),
        "in_proj_bias": torch.cat([pool.ask.bias[g], torch.zeros(WIDTH), pool.value.bias[g]]),
        "out_proj.weight": out,
        "out_proj.bias": pool.out.bias[g] if pool.out is not None else torch.zeros(WIDTH),
    }
    attention.load_state_dict(state)
    return attention


@pytest.mark.parametrize("source", SOURCES)
def test_weights_and_pooled_values_are_those_of_pytorchs_attention(source):
    pool, (x, valid) = build(source=source), bags()
    pooled, weights = pool(x, valid, None)
    norm = nn.LayerNorm(WIDTH).double()
    for g in range(GROUPS):
        some = slice(1, None)  # PyTorch's answer to an empty bag is NaN
        queries, keys = norm(pool.queries[g]).expand(ROWS - 1, -1, -1), norm(x[g, some])
        answer, expected = plain(pool, g)(queries, keys, keys, key_padding_mask=~valid[g, some])
        torch.testing.assert_close(weights[g, some], expected)
        if source != "attention_output":
            read = keys if source == "tied" else x[g, some]
            answer = expected @ (read @ pool.value.weight[g]) + pool.value.bias[g]
        torch.testing.assert_close(pooled[g, some], answer)


@pytest.mark.parametrize("how", VARIANTS)
def test_an_empty_bag_is_zeros_and_all_else_is_weighed_to_one(how):
    pool, (x, valid) = build(**how), bags()
    pooled, weights = pool(x, valid, None)
    assert not pooled[:, 0].any()
    assert not weights[:, 0].any()
    assert not weights.masked_select(~valid.unsqueeze(2)).any()
    torch.testing.assert_close(weights[:, 1:].sum(-1), torch.ones(GROUPS, ROWS - 1, TASKS).double())
    assert (weights >= 0).all()


@pytest.mark.parametrize("how", VARIANTS)
def test_every_parameter_has_a_gradient_in_every_variant(how):
    pool, (x, valid) = build(**how), bags()
    (pool(x, valid, None)[0] * torch.randn(GROUPS, ROWS, TASKS, WIDTH)).sum().backward()
    assert [n for n, p in pool.named_parameters() if not p.grad.all()] == []
    assert all(torch.isfinite(p.grad).all() for p in pool.parameters())


@pytest.mark.parametrize("how", VARIANTS)
@given(order=st.permutations(range(LENGTH)), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_the_order_of_instances_changes_nothing_but_the_order_of_their_weights(how, order, seed):
    pool, (x, valid) = build(seed, **how), bags(seed)
    x[:, :, 1] = x[:, :, 0]  # two alike
    pooled, weights = pool(x, valid, None)
    again, moved = pool(x[:, :, order], valid[:, :, order], None)
    torch.testing.assert_close(again, pooled)
    torch.testing.assert_close(moved, weights[..., order])


@pytest.mark.parametrize("how", VARIANTS)
def test_padding_changes_nothing(how):
    pool, (x, valid) = build(**how), bags()
    longer = torch.cat([x, 9 * torch.randn_like(x)], dim=2), torch.cat([valid, torch.zeros_like(valid)], dim=2)
    pooled, weights = pool(x, valid, None)
    again, more = pool(*longer, None)
    torch.testing.assert_close(again, pooled)
    torch.testing.assert_close(more[..., :LENGTH], weights)
    assert not more[..., LENGTH:].any()


@pytest.mark.parametrize("how", VARIANTS)
def test_groups_and_rows_are_strangers(how):
    pool, (x, valid) = build(**how), bags()
    pooled, weights = pool(x, valid, None)
    for g in range(GROUPS):
        alone = TaskAttentionPool(1, TASKS, WIDTH, HEADS, pool.how).double()
        alone.load_state_dict({n: p[g : g + 1] for n, p in pool.state_dict().items()})
        for row in range(ROWS):
            one = alone(x[g : g + 1, row : row + 1], valid[g : g + 1, row : row + 1], None)
            torch.testing.assert_close(one[0][0, 0], pooled[g, row])
            torch.testing.assert_close(one[1][0, 0], weights[g, row])


@pytest.mark.parametrize("how", VARIANTS)
def test_folds_can_be_stacked(how):
    folds = [build(seed, dropout=0.3, **how) for seed in range(3)]
    made = [bags(seed) for seed in range(3)]
    noises = torch.stack([noise_for(folds[0], *made[0], k).values for k in range(3)])
    leaves = {n: torch.stack([dict(f.named_parameters())[n] for f in folds]) for n, _ in folds[0].named_parameters()}

    def one(weights, x, valid, values):
        return torch.func.functional_call(folds[0], weights, (x, valid, Noise(values)))

    x, valid = (torch.stack(part) for part in zip(*made, strict=True))
    stacked = torch.func.vmap(one)(leaves, x, valid, noises)
    for k, fold in enumerate(folds):
        for found, expected in zip(stacked, fold(*made[k], Noise(noises[k])), strict=True):
            torch.testing.assert_close(found[k], expected)


def counts(weights: torch.Tensor) -> torch.Tensor:
    return (weights > 0).sum(-1)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("mode", ["renorm", "mean", "sum", "argmax"])
@pytest.mark.parametrize("k", [1, 2, 4, LENGTH + 2])
def test_top_k_keeps_the_k_largest_weights(source, mode, k):
    x, valid = bags()
    everything = build(source=source)(x, valid, None)[1]
    weights = build(source=source, top_k=k, top_k_mode=mode)(x, valid, None)[1]
    kept = (1 if mode == "argmax" else k) * torch.ones_like(counts(weights))
    assert torch.equal(counts(weights), torch.minimum(kept, valid.sum(-1, keepdim=True)))
    worst = everything.masked_fill(weights == 0, 2).amin(-1)
    assert (everything.masked_fill(weights > 0, -1).amax(-1) <= worst).all()
    if mode == "mean":
        torch.testing.assert_close(weights[:, 1:], (weights > 0)[:, 1:] / counts(weights)[:, 1:, :, None].double())
    elif source != "attention_output":
        chosen = everything * (weights > 0)
        torch.testing.assert_close(weights[:, 1:], chosen[:, 1:] / chosen[:, 1:].sum(-1, keepdim=True))


def test_the_modes_pool_what_they_say():
    x, valid = bags()
    everything = build()(x, valid, None)[1]
    for mode in ("renorm", "mean", "sum", "argmax"):
        pool = build(top_k=2, top_k_mode=mode)
        pooled, weights = pool(x, valid, None)
        used = everything * (weights > 0) if mode == "sum" else weights
        expected = used @ pool.norm(x) @ pool.value.weight.unsqueeze(1) + pool.value.bias[:, None, None]
        torch.testing.assert_close(pooled[:, 1:], expected[:, 1:])


@given(below=st.floats(0.01, 0.99), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_pruning_keeps_what_reaches_the_threshold_or_else_the_largest(below, seed):
    x, valid = bags(seed)
    everything = build(seed)(x, valid, None)[1]
    weights = build(seed, prune_below=below)(x, valid, None)[1]
    expected = everything >= below
    expected |= ~expected.any(-1, keepdim=True) & (everything == everything.amax(-1, keepdim=True)) & (everything > 0)
    assert torch.equal(weights > 0, expected)


@pytest.mark.parametrize("source", SOURCES)
def test_a_choice_has_the_gradient_of_the_weights_that_it_is_made_from(source):
    """Also of one that keeps a single instance, whose weight is always 1."""
    x, valid = bags()
    found = []
    for choice in ({}, {"top_k": LENGTH}, {"top_k": 1}):
        pool = build(source=source, **choice)
        pool(x, valid, None)[0].sum().backward()
        found.append(pool.key.grad)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_the_residual_mean_is_of_valid_instances_alone_and_half_at_first():
    x, valid = bags()
    pool, bare = build(residual_mean=True), build()
    bare.load_state_dict(pool.state_dict(), strict=False)
    values = pool.norm(x) @ pool.value.weight.unsqueeze(1) + pool.value.bias[:, None, None]
    mean = (values * valid.unsqueeze(-1)).sum(2) / valid.sum(2).clamp(min=1).unsqueeze(-1)
    attended = bare(x, valid, None)[0]
    for mix in (0.0, -2.0, 30.0):
        pool.mix.data.fill_(mix)
        share = torch.sigmoid(torch.tensor(mix))
        torch.testing.assert_close(pool(x, valid, None)[0], (1 - share) * attended + share * mean.unsqueeze(2))
    assert torch.equal(pool(x, valid, None)[1], bare(x, valid, None)[1]), "the map is of attention alone"


@pytest.mark.parametrize("source", SOURCES)
def test_the_higher_the_temperature_the_more_even_the_weights_of_a_head(source):
    x, valid = bags()
    entropies = []
    for temperature in (0.11, 0.3, 1.0, 3.0, 9.9):
        weights = build(heads=1, source=source, temperature=temperature)(x, valid, None)[1][:, 1:]
        entropies.append(torch.special.entr(weights).sum(-1))
    for colder, hotter in zip(entropies, entropies[1:], strict=False):
        assert (hotter > colder).all()


@given(start=st.floats(0.11, 9.9), step=st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_a_temperature_starts_where_it_is_told_and_stays_within_its_bounds_wherever_it_goes(start, step):
    pool = build(temperature=start)
    torch.testing.assert_close(pool.temperature, torch.full_like(pool.temperature, start), rtol=1e-5, atol=0)
    pool.warmth.data.add_(step)
    assert (pool.temperature >= COLDEST * (1 - 1e-12)).all()
    assert (pool.temperature <= HOTTEST * (1 + 1e-12)).all()


@pytest.mark.parametrize("how", VARIANTS)
@pytest.mark.parametrize("count", [1, 2])
def test_dropout_never_empties_a_bag(how, count):
    pool = build(dropout=0.95, **how)
    x, valid = 2 * torch.randn(GROUPS, 200, LENGTH, WIDTH).double(), torch.arange(LENGTH) < count
    valid = valid.expand(GROUPS, 200, -1)
    pooled, weights = pool(x, valid, noise_for(pool, x, valid))
    assert torch.isfinite(pooled).all()
    assert not weights[..., count:].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(GROUPS, 200, TASKS).double())
    pooled.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pool.parameters())


def test_dropout_drops_instances_and_where_it_would_drop_all_drops_none():
    """Of two instances one weighs all, or both what they do without dropout: each head by itself, here one head."""
    torch.manual_seed(0)
    pool = TaskAttentionPool(1, 1, WIDTH, 1, Pooling(temperature=1.0, dropout=0.6)).double()
    x, valid = torch.randn(1, 3000, 2, WIDTH).double(), torch.ones(1, 3000, 2, dtype=torch.bool)
    weights, whole = pool(x, valid, noise_for(pool, x, valid))[1], pool(x, valid, None)[1]
    same = torch.isclose(weights, whole).all(-1)
    alone = (weights == 1).any(-1)
    assert (same | alone).all()
    share = 0.6**2 + 0.4**2  # none is kept, or both
    assert abs(same.double().mean() - share) < 4 * (share * (1 - share) / same.numel()) ** 0.5


def test_scores_that_leave_dropout_next_to_nothing_have_finite_gradients():
    """A dropped instance may have had all the weight that single precision can tell from none."""
    pool = TaskAttentionPool(1, TASKS, WIDTH, HEADS, Pooling(temperature=0.11, dropout=0.5))
    pool.queries.data.normal_()
    pool.ask.weight.data.mul_(200)
    x, valid = torch.randn(1, 200, LENGTH, WIDTH), torch.ones(1, 200, LENGTH, dtype=torch.bool)
    assert pool(x, valid, None)[1].amin() == 0
    pool(x, valid, noise_for(pool, x, valid))[0].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pool.parameters())


def test_each_task_looks_for_itself():
    pool, (x, valid) = build(), bags()
    before = pool(x, valid, None)
    pool.queries.data[:, :, 1] += torch.randn(WIDTH)
    for part, other in zip(before, pool(x, valid, None), strict=True):
        moved = (part - other).abs().flatten(3).amax((0, 1, 3)) > 1e-9
        assert moved.tolist() == [False, True, False]
