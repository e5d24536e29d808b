"""Laws of the random numbers: where they come from, how they are handed over, what dropout makes of them."""

from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.func import vmap

from fusion_lab.blocks.randomness import LEVELS, Dropout, Noise, count_draws, draw_noise, generator, key, normal

COUNT = 100_000
SIGNIFICANCE = 1e-4  # the coordinates are fixed, so that a test passes for good or fails for good
coordinates = st.lists(st.one_of(st.integers(0, 10**9), st.text(max_size=8)), min_size=1, max_size=5)
shapes = st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=5)

PLACES = [
    (0, 0, "dropout", "fold 0", 0),
    (0, 0, "dropout", "fold 0", 1),
    (0, 0, "dropout", "fold 1", 0),
    (0, 1, "dropout", "fold 0", 0),
    (1, 0, "dropout", "fold 0", 0),
    (2**32 - 1, 2**31, "dropout", "2019-05", 99 * 1_000_000 + 7),
]
EVERY_VALUE = torch.arange(-LEVELS // 2, LEVELS // 2).to(torch.int16)


def noise(count: int, *place: int | str) -> Noise:
    return Noise(torch.from_numpy(draw_noise(count, *(place or (4,)))))


def centred(*place: int | str) -> np.ndarray:
    return draw_noise(COUNT, *place).astype(np.float64) + 0.5


def mask(*place: int | str, p: float = 0.5) -> np.ndarray:
    return Dropout(p)(torch.ones(COUNT), noise(COUNT, *place)).numpy() > 0


@given(coordinates)
@settings(max_examples=50)
def test_keys_generators_and_noise_are_functions_of_their_coordinates(place):
    assert key(*place) == key(*place)
    assert -(2**31) <= key(*place) < 2**31
    assert generator(*place).random() == generator(*place).random()
    assert draw_noise(9, *place).tolist() == draw_noise(9, *place).tolist()


def test_keys_and_streams_of_folds_steps_and_trials_do_not_collide():
    places = list(product(range(3), range(3), ["dropout"], range(9), range(50)))
    keys = {key(*place) for place in places}
    assert len(keys) >= 4050 - 2  # a birthday collision among 4050 of 2^32 happens once in 500 tries
    assert len({draw_noise(4, *place).tobytes() for place in places}) == 4050
    assert len({tuple(sorted(draw_noise(64, *place).tolist())) for place in places}) == 4050, "the same in other orders"


@given(st.integers(0, 50), st.integers(0, 50), coordinates)
@settings(max_examples=50)
def test_a_shorter_draw_is_the_beginning_of_a_longer_one(short, longer, place):
    whole = draw_noise(short + longer, *place)
    assert whole.dtype == np.int16
    assert whole.shape == (short + longer,)
    assert draw_noise(short, *place).tolist() == whole[:short].tolist()


@pytest.mark.parametrize("place", PLACES)
def test_noise_is_uniform_over_all_of_its_values(place):
    draws = draw_noise(16 * LEVELS, *place).astype(np.int64) + LEVELS // 2
    for lane in (draws, *(draws[i::4] for i in range(4))):  # four are made at once
        fit = stats.chisquare(np.bincount(lane, minlength=LEVELS)).pvalue
        assert SIGNIFICANCE < fit < 1 - SIGNIFICANCE, "not uniform, or more even than chance is"
    for bit in range(16):
        ones = int((draws >> bit & 1).sum())
        assert stats.binomtest(ones, len(draws)).pvalue > SIGNIFICANCE, bit


def test_pairs_of_neighbours_are_uniform_too():
    draws = draw_noise(64 * LEVELS, 5, "pairs").astype(np.int64) + LEVELS // 2
    for lag in (1, 2, 3, 4):
        cells = (draws[:-lag] >> 10) * 64 + (draws[lag:] >> 10)
        assert stats.chisquare(np.bincount(cells, minlength=64 * 64)).pvalue > SIGNIFICANCE, lag


@pytest.mark.parametrize("place", PLACES[:2])
def test_noise_has_no_serial_correlation(place):
    draws = centred(*place)
    for lag in (1, 2, 3, 4, 5, 8, 16, 64, 1024):
        assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 4 / np.sqrt(COUNT), lag


def test_streams_of_neighbouring_places_are_uncorrelated():
    places = list(product(range(2), range(2), ["dropout", "augment"], ["fold 0", "fold 1"], range(2)))
    streams = np.stack([centred(*place) for place in places])
    for shift in (0, 1, 4):  # a stream that is another one, delayed
        correlation = np.corrcoef(streams[:, shift:], streams[:, : COUNT - shift])[: len(places), len(places) :]
        apart = correlation[~np.eye(len(places), dtype=bool)]
        assert np.abs(apart).max() < 5 / np.sqrt(COUNT), shift  # of 992 correlations, once in 1,700 tries


def test_two_streams_share_no_run():
    """Nor does one come back to where it was."""
    runs = [draw_noise(COUNT, *place).view(np.int64) for place in PLACES]
    assert len(np.unique(np.concatenate(runs))) == sum(map(len, runs))


@given(shapes)
def test_noise_is_handed_out_once_and_in_order(wanted):
    total = sum(prod(shape) for shape in wanted)
    source = noise(total + 3)
    parts = [source.take(shape) for shape in wanted]
    assert [list(part.shape) for part in parts] == wanted
    assert [v for part in parts for v in part.flatten().tolist()] == source.values[:total].tolist()
    assert source.taken == total
    assert source.take([3]).tolist() == source.values[total:].tolist()


def test_noise_that_is_used_up_gives_no_more():
    source = noise(7)
    source.take((2, 3))
    with pytest.raises(AssertionError, match="8 random values wanted, 7 given"):
        source.take((2,))


def test_noise_under_vmap_is_that_of_each_fold():
    values = torch.from_numpy(np.stack([draw_noise(20, fold) for fold in range(3)]))

    def both(own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        source = Noise(own)
        return source.take((2, 3)), source.take((4,))

    for stacked, alone in zip(vmap(both)(values), zip(*map(both, values), strict=True), strict=True):
        assert torch.equal(stacked, torch.stack(alone))


@given(shapes, st.floats(0.01, 0.9))
def test_as_many_values_are_counted_as_are_taken(wanted, p):
    def forward(source: Noise) -> None:
        for shape in wanted:
            assert Dropout(p)(torch.ones(shape), source).shape == tuple(shape)

    count = count_draws(forward, torch.device("cpu"))
    assert count == sum(prod(shape) for shape in wanted)
    forward(noise(count))
    if count:
        with pytest.raises(AssertionError, match="random values wanted"):
            forward(noise(count - 1))


def test_counting_draws_keeps_nothing_for_gradients():
    seen = []
    count_draws(lambda source: seen.append(torch.ones(3, requires_grad=True) * 2), torch.device("cpu"))
    assert not seen[0].requires_grad


@pytest.mark.parametrize("p", [1 / LEVELS, 0.05, 0.1, 0.25, 0.3, 0.5, 0.9, 0.999])
def test_of_all_values_dropout_drops_the_share_it_says(p):
    out = Dropout(p)(torch.ones(LEVELS), Noise(EVERY_VALUE))
    dropped = int((out == 0).sum())
    assert dropped == round(p * LEVELS)
    assert abs(dropped / LEVELS - p) < 1e-5
    assert out.double().mean().item() == pytest.approx(1.0, rel=1e-6), "the mean is kept"


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_dropout_keeps_the_rate_it_says(p):
    kept = mask(1, 2, "dropout", 0, 0, p=p).sum()
    assert stats.chisquare([kept, COUNT - kept], [COUNT * (1 - p), COUNT * p]).pvalue > SIGNIFICANCE


def test_dropout_is_a_function_of_the_noise():
    first = mask(0, 0, "dropout", 0, 0)
    assert (first == mask(0, 0, "dropout", 0, 0)).all()
    others = {
        "fold": mask(0, 0, "dropout", 1, 0),
        "step": mask(0, 0, "dropout", 0, 1),
        "trial": mask(0, 1, "dropout", 0, 0),
    }
    for changed, other in others.items():
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(COUNT), changed


def test_every_dropout_of_a_model_takes_values_of_its_own():
    drops, source, ones = nn.ModuleList(Dropout(0.5) for _ in range(3)), noise(3 * COUNT), torch.ones(COUNT)
    masks = np.stack([drop(ones, source).numpy() > 0 for drop in drops])
    assert np.abs(np.corrcoef(masks) - np.eye(3)).max() < 4 / np.sqrt(COUNT)
    one_by_one = [Dropout(0.5)(ones, Noise(part)).numpy() > 0 for part in source.values.split(COUNT)]
    assert (masks == one_by_one).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_scales_what_it_keeps_and_evaluation_is_the_identity(dtype):
    x, drop = torch.rand(1000, dtype=dtype) + 1, Dropout(0.25)
    dropped = drop(x, noise(1000))
    assert dropped.dtype == dtype
    kept = dropped != 0
    assert 0.7 < kept.double().mean() < 0.8
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75, rtol=1e-6, atol=0)
    assert drop(x, None) is x


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-14), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_dropout_works_in_the_precision_of_what_it_drops(dtype, rtol):
    x = torch.rand(1000).to(dtype) + 1
    dropped = Dropout(0.3)(x, noise(1000))
    assert dropped.dtype == dtype
    kept = dropped != 0
    scale = LEVELS / (LEVELS - round(0.3 * LEVELS))
    torch.testing.assert_close(dropped[kept].double(), x[kept].double() * scale, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    "p",
    [
        1 - 1 / LEVELS,
        1 - 0.4 / LEVELS,
    ],
)
def test_a_rate_next_to_one_stays_finite(p):
    assert torch.isfinite(Dropout(p)(torch.ones(LEVELS), Noise(EVERY_VALUE))).all()


@pytest.mark.parametrize("p", [0.0, 0.4 / LEVELS])
def test_dropout_below_the_smallest_rate_is_the_identity_and_takes_nothing(p):
    x, source = torch.ones(10), noise(0)
    assert Dropout(p)(x, source) is x
    assert source.taken == 0


def test_dropout_under_vmap_is_that_of_each_fold():
    x, values = torch.rand(3, 4, 5), torch.from_numpy(np.stack([draw_noise(20, fold) for fold in range(3)]))
    drop = Dropout(0.3)
    stacked = vmap(lambda own, v: drop(own, Noise(v)))(x, values)
    assert torch.equal(stacked, torch.stack([drop(own, Noise(v)) for own, v in zip(x, values, strict=True)]))
    apart = vmap(lambda v: drop(x[0], Noise(v)))(values)
    assert not torch.equal(apart[0], apart[1]), "rows that are shared are not dropped alike"


def test_gradients_pass_through_what_is_kept_alone():
    x = torch.ones(1000, requires_grad=True)
    out = Dropout(0.3)(x, noise(1000))
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_normal_values_are_standard_normal_and_finite_whatever_is_drawn():
    like = torch.empty(COUNT, dtype=torch.float64)
    values = normal(noise(COUNT), like)
    assert values.dtype == like.dtype
    assert stats.kstest(values.numpy(), "norm").pvalue > SIGNIFICANCE
    outermost = torch.tensor([-(2**15), 2**15 - 1], dtype=torch.int16)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        low, high = normal(Noise(outermost), torch.empty(2, dtype=dtype)).tolist()
        assert -5 < low == -high < -4
