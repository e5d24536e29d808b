from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.func import vmap

from fusion_lab.blocks.randomness import Dropout, generator, hashed_uniform, key, name_places

COUNT = 100_000
SIGNIFICANCE = 1e-4  # the keys are fixed, so that a test passes for good or fails for good
coordinates = st.lists(st.one_of(st.integers(0, 10**9), st.text(max_size=8)), min_size=1, max_size=5)


def int32(value: int) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int32)


def uniform(value: int, place: int, count: int = COUNT) -> np.ndarray:
    """The hash as numbers in [0, 1)."""
    return (hashed_uniform(int32(value), place, (count,)).numpy().astype(np.float64) + 2**31) / 2**32


def mask(value: int, place: int, p: float = 0.5, count: int = COUNT) -> np.ndarray:
    drop = Dropout(p)
    drop.place = place
    return drop(torch.ones(count), int32(value)).numpy() > 0


@given(coordinates)
@settings(max_examples=50)
def test_keys_and_generators_are_functions_of_their_coordinates(place):
    assert key(*place) == key(*place)
    assert -(2**31) <= key(*place) < 2**31
    assert generator(*place).random() == generator(*place).random()


def test_keys_of_folds_steps_and_places_do_not_collide():
    keys = {
        key(seed, trial, "dropout", fold, step)
        for seed, trial, fold, step in product(range(3), range(3), range(9), range(50))
    }
    assert len(keys) >= 4050 - 2  # a birthday collision among 4050 of 2^32 happens once in 500 tries


@pytest.mark.parametrize("value", [0, 1, -1, 2**31 - 1, -(2**31), key(0, 0, "dropout", 0, 0)])
def test_the_hash_is_uniform(value):
    draws = uniform(value, 7)
    assert stats.kstest(draws, "uniform").pvalue > SIGNIFICANCE
    for power in (1, 256, 2**16):  # high, middle and low digits
        digits = np.floor(draws * power * 64).astype(np.int64) % 64
        assert stats.chisquare(np.bincount(digits, minlength=64)).pvalue > SIGNIFICANCE


def test_the_hash_has_no_serial_correlation():
    draws = uniform(key(3), 7)
    for lag in (1, 2, 3, 16, 64, 1024):
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 4 / np.sqrt(COUNT)


def test_streams_of_different_keys_and_places_are_uncorrelated():
    keys = [key(0, 0, "dropout", fold, step) for fold, step in product(range(3), range(2))]
    neighbours = [uniform(k, place) for k, place in product(keys, (0, 1, 99))]
    correlation = np.corrcoef(np.stack(neighbours))
    assert np.abs(correlation - np.eye(len(neighbours))).max() < 4.5 / np.sqrt(COUNT)


def test_two_keys_do_not_give_two_orders_of_the_same_numbers():
    one, other = (set(hashed_uniform(int32(k), 0, (4096,)).tolist()) for k in (1, 2))
    assert len(one & other) <= 2  # by chance 4096^2 / 2^32 = 0.004 are expected


def test_the_hash_under_vmap_equals_the_hash_alone():
    keys = torch.tensor([5, -9, 12], dtype=torch.int32)
    stacked = vmap(lambda k: hashed_uniform(k, 3, (4, 5)))(keys)
    assert torch.equal(stacked, torch.stack([hashed_uniform(k, 3, (4, 5)) for k in keys]))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_dropout_keeps_the_rate_it_says(p):
    kept = mask(key(1, 2, "dropout", 0, 0), 11, p).sum()
    assert stats.chisquare([kept, COUNT - kept], [COUNT * (1 - p), COUNT * p]).pvalue > SIGNIFICANCE


def test_dropout_is_a_function_of_key_and_place():
    first = mask(key(0, 0, "dropout", 0, 0), 1)
    assert (first == mask(key(0, 0, "dropout", 0, 0), 1)).all()
    others = {
        "place": mask(key(0, 0, "dropout", 0, 0), 2),
        "fold": mask(key(0, 0, "dropout", 1, 0), 1),
        "step": mask(key(0, 0, "dropout", 0, 1), 1),
        "trial": mask(key(0, 1, "dropout", 0, 0), 1),
    }
    for changed, other in others.items():
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(COUNT), changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_scales_what_it_keeps_and_evaluation_is_the_identity(dtype):
    x, drop = torch.rand(1000, dtype=dtype) + 1, Dropout(0.3)
    dropped = drop(x, int32(4))
    assert dropped.dtype == dtype
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], x[kept] / 0.7)
    assert drop(x, None) is x
    assert Dropout(0.0)(x, int32(4)) is x


def test_every_dropout_of_a_model_has_a_place_of_its_own():
    model = nn.Sequential(Dropout(0.1), nn.Sequential(Dropout(0.1), nn.Linear(2, 2)), Dropout(0.1))
    name_places(model)
    places = [m.place for m in model.modules() if isinstance(m, Dropout)]
    assert len(set(places)) == 3
    assert all(-(2**31) <= place < 2**31 for place in places)
