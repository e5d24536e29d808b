"""Packed modalities: what is gathered is what a loop over molecules collates; taking rows leaves nothing behind."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.data.molecules.packed import Bags, Bits, Vectors

seeds = st.integers(0, 10**6)
bag_sizes = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def some_bags(sizes, seed, width=3):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, width)).astype(np.float32) for size in sizes]


def packed(bags) -> Bags:
    return Bags.of(np.concatenate(bags), np.cumsum([0, *map(len, bags)]))


def collated(bags, length):
    """One molecule after the other, padded with 0."""
    inputs = torch.zeros(len(bags), length, bags[0].shape[1])
    valid = torch.zeros(len(bags), length, dtype=torch.bool)
    for row, bag in enumerate(bags):
        inputs[row, : len(bag)], valid[row, : len(bag)] = torch.from_numpy(bag), True
    return inputs, valid


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@given(bag_sizes, seeds, st.lists(st.integers(0, 11), max_size=20))
def test_bags_are_gathered_as_a_loop_collates_them(sizes, seed, chosen):
    bags = some_bags(sizes, seed)
    rows = [row % len(bags) for row in chosen]
    made = packed(bags)
    assert made.length == max(1, *sizes)
    inputs, valid = made.gather(torch.tensor(rows, dtype=torch.int64))
    if rows:
        assert same((inputs, valid), collated([bags[row] for row in rows], made.length))
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(bags[row]) for row in rows], batch_first=True)
        assert torch.equal(inputs[:, : padded.shape[1]], padded)
    assert len(inputs) == len(valid) == len(rows)


@given(bag_sizes, seeds, st.lists(st.integers(-1, 11), min_size=1, max_size=20))
def test_some_bags_are_those_bags_end_to_end(sizes, seed, chosen):
    bags = some_bags(sizes, seed)
    rows = np.array([row if row < 0 else row % len(bags) for row in chosen])
    made = packed(bags).take(rows)
    kept = [bags[row] if row >= 0 else bags[0][:0] for row in rows]
    assert torch.equal(made.instances[:-1], torch.from_numpy(np.concatenate(kept)))
    assert not made.instances[-1].any()
    assert made.present.tolist() == [len(bag) > 0 for bag in kept]
    assert same(made.gather(torch.arange(len(kept))), collated(kept, made.length))
    row, position = made.lines()
    assert [(r, p) for r, bag in enumerate(kept) for p in range(len(bag))] == list(zip(row, position, strict=True))


@given(st.integers(1, 9), st.integers(1, 5), seeds)
def test_bits_come_back_as_they_were_packed(rows, octets, seed):
    bits = np.random.default_rng(seed).random((rows, 8 * octets)) < 0.5
    made = Bits.of(np.packbits(bits, axis=1))
    inputs, valid = made.gather(torch.arange(rows))
    assert inputs.dtype == torch.float32
    np.testing.assert_array_equal(inputs, bits)
    assert valid.all() and made.nbytes == rows * (octets + 1)


@pytest.mark.parametrize("kind", ["vectors", "bits"])
@given(chosen=st.lists(st.integers(-1, 6), max_size=9), seed=seeds)
def test_molecules_that_lack_a_vector_have_zeros(kind, chosen, seed):
    bits = np.random.default_rng(seed).random((7, 16)) < 0.5
    whole = Bits.of(np.packbits(bits, axis=1)) if kind == "bits" else Vectors.of(bits.astype(np.float32))
    made = whole.take(np.array(chosen, dtype=int))
    inputs, valid = made.gather(torch.arange(len(chosen)))
    assert made.present.tolist() == valid.tolist() == [row >= 0 for row in chosen]
    expected = [bits[row] if row >= 0 else np.zeros(16) for row in chosen]
    np.testing.assert_array_equal(inputs, np.array(expected).reshape(-1, 16))


def test_what_is_taken_of_nothing_is_missing():
    empty = np.zeros((0, 2), np.float32)
    for whole in (Vectors.of(empty), Bits.of(empty.astype(np.uint8))):
        assert not whole.take(np.array([-1, -1])).present.any()
