import numpy as np
import torch
from scipy.special import logsumexp

from fusion_lab.blocks.contrast import info_nce


def views(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    made = [torch.from_numpy(rng.standard_normal((rows, 5))) for _ in range(2)]
    one, other = (torch.nn.functional.normalize(x, dim=-1) for x in made)
    return one, other


def plain(one: np.ndarray, other: np.ndarray, counted: np.ndarray, temperature: float) -> np.ndarray:
    """Row by row, direction by direction."""
    losses = np.zeros(len(one))
    for row in range(len(one)):
        among = [r for r in range(len(one)) if counted[r] or r == row]
        for a, b in ((one, other), (other, one)):
            scores = [a[row] @ b[r] / temperature for r in among]
            losses[row] += (logsumexp(scores) - a[row] @ b[row] / temperature) / 2
    return losses


def test_it_is_the_mean_cross_entropy_of_both_directions():
    for seed, temperature in enumerate((0.07, 0.5, 1.0)):
        one, other = views(8, seed)
        counted = torch.rand(8, generator=torch.Generator().manual_seed(seed)) > 0.3
        found = info_nce(one, other, counted, temperature)
        np.testing.assert_allclose(found, plain(one.numpy(), other.numpy(), counted.numpy(), temperature), atol=1e-12)


def test_a_row_that_does_not_count_changes_nothing_for_the_others():
    one, other = views(6, 0)
    counted = torch.tensor([True] * 4 + [False] * 2)
    alone = info_nce(one[:4], other[:4], counted[:4], 0.07)
    torch.testing.assert_close(info_nce(one, other, counted, 0.07)[:4], alone)


def test_a_row_without_others_costs_nothing():
    one, other = views(1, 0)
    torch.testing.assert_close(info_nce(one, other, torch.tensor([True]), 0.07), torch.zeros(1).double())


def test_half_precision_is_summed_in_single():
    one, other = views(8, 1)
    counted = torch.ones(8, dtype=torch.bool)
    half = info_nce(one.bfloat16(), other.bfloat16(), counted, 0.07)
    exact = info_nce(one.bfloat16().float(), other.bfloat16().float(), counted, 0.07)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())
