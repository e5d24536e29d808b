import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.blocks.patches import patch_count, to_patches

ROWS, LENGTH, WIDTH = 4, 7, 3


def some_rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Holes anywhere, with something in them; the first row has nothing."""
    draw = torch.Generator().manual_seed(seed)
    x, valid = torch.randn(ROWS, LENGTH, WIDTH, generator=draw), torch.rand(ROWS, LENGTH, generator=draw) < 0.6
    valid[0] = False
    return x, valid


def test_patches_of_one_sample_are_the_samples():
    x, valid = some_rows()
    made, there = to_patches(x, valid, 1)
    assert torch.equal(made, x)
    assert torch.equal(there, valid)


@given(size=st.integers(2, LENGTH), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_valid_sample_is_once_in_its_patch_and_all_else_is_zero(size, seed):
    x, valid = some_rows(seed)
    made, there = to_patches(x, valid, size)
    count = patch_count(LENGTH, size)
    assert made.shape == (ROWS, count, size * WIDTH)
    for row in range(ROWS):
        samples = made[row].reshape(count * size, WIDTH)
        front = count * size - LENGTH
        assert not samples[:front].any()
        for t in range(LENGTH):
            expected = x[row, t] if valid[row, t] else torch.zeros(WIDTH)
            assert torch.equal(samples[front + t], expected)
        held = [bool(valid[row, max(0, p * size - front) : (p + 1) * size - front].any()) for p in range(count)]
        assert there[row].tolist() == held


@pytest.mark.parametrize("size", [2, 3, 5])
def test_padding_in_front_changes_no_patch(size):
    x, valid = some_rows()
    padded = [torch.nn.functional.pad(part, pad) for part, pad in ((x, (0, 0, 4, 0)), (valid, (4, 0)))]
    (made, there), (longer, more) = to_patches(x, valid, size), to_patches(*padded, size)
    count = made.shape[1]
    assert torch.equal(longer[:, -count:], made)
    assert torch.equal(more[:, -count:], there)
    assert not more[:, :-count].any()
