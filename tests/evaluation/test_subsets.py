"""Which subsets are scored, what importance says, what a mask leaves."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.data import synthetic
from fusion_lab.evaluation.subsets import choose_subsets, gains, importance, masked, without_any

NAMES = tuple("abcdefghijklmnop")


def all_subsets(names):
    return [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 300), st.integers(0, 1000))
def test_every_subset_or_as_many_as_asked_for(count, most, seed):
    names = NAMES[:count]
    found = choose_subsets(names, most, np.random.default_rng(seed))
    chosen, every = found.chosen, 2**count - 1
    assert found.possible == every
    assert len(set(chosen)) == len(chosen) == min(most, every)
    assert chosen[0] == names
    assert all(subset and subset == tuple(n for n in names if n in subset) for subset in chosen)
    assert (found.note == "") == (len(chosen) == every)
    if every <= most:
        assert set(chosen) == set(all_subsets(names))
    if most >= 2 * count + 1:
        assert set(chosen) >= {(n,) for n in names}
        assert set(chosen) >= {tuple(m for m in names if m != n) for n in names if count > 1}
    assert chosen == choose_subsets(names, most, np.random.default_rng(seed)).chosen


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6), st.floats(-3, 3))
def test_importance_of_scores_that_add_up_is_each_modalitys_share(gains, base):
    names = NAMES[: len(gains)]
    subsets = all_subsets(names)
    scores = [base + sum(gains[names.index(n)] for n in subset) for subset in subsets]
    found = importance(subsets, scores, names)
    with_, without = 2 ** (len(names) - 1), 2 ** (len(names) - 1) - 1
    expected = []
    for i in range(len(names)):
        # other modalities are in 2^(M-2) of the subsets on either side, of which one side holds one subset less
        others = sum(gains) - gains[i]
        expected.append(gains[i] + 2 ** (len(names) - 2) * others * (1 / with_ - 1 / without))
    total = np.abs(expected).sum()
    if total > 1e-3:
        assert list(found.values()) == pytest.approx([e / total for e in expected], abs=1e-6)
        assert sum(abs(v) for v in found.values()) == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6), st.floats(-3, 3), st.integers(5, 70), st.integers(0, 99))
def test_gains_of_scores_that_add_up_are_what_was_added(added, base, most, seed):
    names = NAMES[: len(added)]
    subsets = choose_subsets(names, max(most, 2 * len(names) + 1), np.random.default_rng(seed)).chosen
    found = gains(subsets, [base + sum(added[names.index(n)] for n in subset) for subset in subsets], names)
    assert list(found.values()) == pytest.approx(added, abs=1e-9)


def test_a_modality_that_changes_nothing_gains_nothing_whatever_the_others_do():
    subsets = all_subsets(NAMES[:4])
    of = {}
    for subset in subsets:
        of.setdefault(tuple(n for n in subset if n != "a"), np.random.default_rng(len(of)).random())
    scores = [of[tuple(n for n in subset if n != "a")] for subset in subsets]
    found = gains(subsets, scores, NAMES[:4])
    assert found["a"] == 0
    assert all(found[n] != 0 for n in "bcd")
    assert all(np.isnan(v) for v in gains([("a",)], [0.5], ("a",)).values())


def test_importance_goes_by_membership_and_not_by_letters():
    names = ("hand", "chest", "hand left")
    subsets = all_subsets(names)
    found = importance(subsets, [1.0 if "hand" in subset else 0.0 for subset in subsets], names)
    assert found["hand"] > 0.6
    assert abs(found["hand left"]) < 0.2


def test_importance_without_a_difference_or_without_a_value():
    assert importance([("a", "b"), ("a",), ("b",)], [0.5] * 3, ("a", "b")) == {"a": 0.0, "b": 0.0}
    assert all(np.isnan(v) for v in importance([("a",)], [0.5], ("a",)).values())
    assert all(np.isnan(v) for v in importance([("a", "b"), ("a",), ("b",)], [0.5, np.nan, 1], ("a", "b")).values())


@pytest.fixture(scope="module")
def batch():
    kinds = {
        "v": {"width": 3},
        "s": {"kind": "sequence", "width": 2, "length": 4},
        "g": {"kind": "bag", "width": 2, "length": 3},
    }
    config = synthetic.SyntheticConfig(rows=40, modalities=kinds, missing_modalities=0.4, missing_cells=0.2)
    return synthetic.load(config).gather(torch.arange(40).reshape(2, 20))


def test_a_masked_modality_is_as_one_that_was_never_recorded(batch):
    found = masked(batch, ("s",))
    for name in ("v", "g"):
        assert not any(leaf[name].any() for leaf in (found.inputs, found.valid, found.observed))
        assert batch.valid[name].any()
    for leaves, before in zip(found[:3], batch[:3], strict=True):
        assert leaves["s"] is before["s"]
        assert all(leaves[name].shape == before[name].shape for name in before)
    assert found[3:] == batch[3:]


def test_rows_without_any_of_a_subset_are_counted(batch):
    padded = batch._replace(weight=torch.tensor([[1.0] * 20, [1.0] * 12 + [0.0] * 8]))
    for keep in all_subsets(("v", "s", "g")):
        there = [batch.valid[n] if n == "v" else batch.valid[n].any(-1) for n in keep]
        lone = sum(not any(t[k, i] for t in there) for k in range(2) for i in range(20) if padded.weight[k, i] > 0)
        assert without_any(padded, keep) == lone
