from functools import partial

import pytest
import torch

from fusion_lab.blocks.hiding import hide_each, hide_one_more, hide_one_of_all
from fusion_lab.blocks.randomness import Noise, draw_noise

ROWS, MODALITIES, RATE = 2000, 4, 0.3
NOBODY = (False,) * MODALITIES
COUNTED = torch.ones(ROWS, dtype=torch.bool)


def noise(seed: int) -> Noise:
    return Noise(torch.from_numpy(draw_noise(ROWS * MODALITIES + 1, seed)))


def rows(seed: int, missing: float = 0.4) -> torch.Tensor:
    return torch.rand(ROWS, MODALITIES, generator=torch.Generator().manual_seed(seed)) > missing


HIDING = {
    "each": partial(hide_each, rate=RATE, spared=NOBODY),
    "one of all": partial(hide_one_of_all, rate=RATE, spared=NOBODY, counted=COUNTED),
    "one more": hide_one_more,
}


@pytest.mark.parametrize("way", HIDING)
def test_nothing_appears_and_no_row_loses_its_last_modality(way):
    for seed in range(20):
        here = rows(seed)
        left = HIDING[way](here, noise=noise(seed))
        assert not (left & ~here).any()
        assert torch.equal(left.any(1), here.any(1))


def test_equal_draws_leave_every_row_something_and_hide_one_modality_at_most():
    here, same = rows(0), Noise(torch.full((ROWS * MODALITIES + 1,), -(2**15), dtype=torch.int16))
    for way in HIDING.values():
        same.taken = 0
        left = way(here, noise=same)
        assert torch.equal(left.any(1), here.any(1))
    assert torch.equal((here & ~left).sum(1), (here.sum(1) > 1).long())


def test_each_modality_is_hidden_at_the_rate_but_those_spared():
    here = torch.ones(ROWS, MODALITIES, dtype=torch.bool)
    hidden = (here & ~hide_each(here, RATE, (True, False, False, False), noise(1))).double().mean(0)
    assert hidden[0] == 0
    deviation = (RATE * (1 - RATE) / ROWS) ** 0.5
    assert ((hidden[1:] - RATE).abs() < 5 * deviation).all()


def test_of_a_whole_batch_one_modality_is_hidden_at_the_rate_where_rows_have_another():
    here, spared = rows(2), (True, False, False, False)
    hidden = [here & ~hide_one_of_all(here, RATE, spared, COUNTED, noise(seed)) for seed in range(300)]
    hit = [columns for columns in (h.any(0) for h in hidden) if columns.any()]
    assert abs(len(hit) / 300 - RATE) < 5 * (RATE * (1 - RATE) / 300) ** 0.5
    assert all(int(columns.sum()) == 1 for columns in hit)
    assert torch.stack(hit).any(0).tolist() == [not s for s in spared]
    lost = next(h for h in hidden if h.any())
    (place,) = lost.any(0).nonzero()[0].tolist()
    assert torch.equal(lost[:, place], here[:, place] & (here.sum(1) > 1))


def test_rows_that_do_not_count_do_not_decide_what_is_hidden():
    """Two rows with two modalities each; the one that counts cannot spare what the other has."""
    here = torch.tensor([[True, True, False, False], [False, False, True, True]])
    for seed in range(40):
        left = hide_one_of_all(here, 0.99, NOBODY, torch.tensor([True, False]), noise(seed))
        assert torch.equal(left[1], here[1])


def test_one_more_is_hidden_in_every_row_that_has_two():
    here = rows(3)
    left = hide_one_more(here, noise(3))
    assert torch.equal((here & ~left).sum(1), (here.sum(1) > 1).long())
    assert (here & ~left).any(0).all(), "each of them in some row"
