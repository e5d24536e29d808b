"""Laws of modality dropout."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import Batch
from fusion_lab.training.augmentation import drop_modalities

NAMES = ("a", "b", "steps")


def batch(present: torch.Tensor) -> Batch:
    """``present`` bool ``[K,B,3]``; the third modality is a sequence of 4 steps, of which the last is never valid."""
    valid = {name: present[..., m] for m, name in enumerate(NAMES)}
    valid["steps"] = valid["steps"].unsqueeze(-1) & (torch.arange(4) < 3)
    inputs = {name: torch.ones(*v.shape, 2) for name, v in valid.items()}
    return Batch(inputs, valid, {}, {}, {}, {}, torch.ones(present.shape[:2]))


def kept(result: Batch) -> torch.Tensor:
    return torch.stack([result.valid["a"], result.valid["b"], result.valid["steps"].any(-1)], -1)


def generators(seed: int, folds: int) -> list[np.random.Generator]:
    return [generator(seed, k) for k in range(folds)]


def masks(seed: int, folds: int = 2, rows: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((folds, rows, 3)) < 0.6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), p=st.floats(0.01, 0.99))
def test_what_is_absent_stays_absent_and_the_last_present_modality_stays(seed, p):
    present = masks(seed)
    after = kept(drop_modalities(batch(present), p, generators(seed, 2)))
    assert not (after & ~present).any()
    assert torch.equal(after.any(-1), present.any(-1))


def test_a_modality_is_hidden_as_a_whole_and_nothing_else_changes():
    before = batch(masks(0))
    after = drop_modalities(before, 0.5, generators(0, 2))
    whole = after.valid["steps"].any(-1)
    assert torch.equal(after.valid["steps"], before.valid["steps"] & whole.unsqueeze(-1))
    assert (before.valid["steps"].any(-1) & ~whole).any()
    assert after._replace(valid=before.valid) == before


def test_each_modality_is_hidden_at_the_rate_asked_for():
    p, rows = 0.3, 40_000
    after = kept(drop_modalities(batch(torch.ones(1, rows, 3, dtype=torch.bool)), p, generators(5, 1)))
    hidden = 1 - after.double().mean((0, 1))
    expected = p - p**3 / 3  # of the rows in which all three would go, one of the three stays
    np.testing.assert_allclose(hidden, expected, atol=4 * np.sqrt(p * (1 - p) / rows))
    together = float((~after[..., 0] & ~after[..., 1]).double().mean())
    assert abs(together - (p**2 - p**3 * 2 / 3)) < 4 * np.sqrt(p**2 / rows)


def test_a_fold_hides_by_its_own_generator_alone():
    present = masks(1, folds=3)
    every = kept(drop_modalities(batch(present), 0.5, [generator(7, k) for k in (0, 1, 2)]))
    some = kept(drop_modalities(batch(present[[2, 0]]), 0.5, [generator(7, k) for k in (2, 0)]))
    assert torch.equal(some, every[[2, 0]])
    assert not torch.equal(every, kept(drop_modalities(batch(present), 0.5, generators(8, 3))))


def test_no_dropout_is_the_same_batch():
    before = batch(masks(2))
    assert drop_modalities(before, 0.0, generators(0, 2)) is before


def test_generators_are_made_one_by_one_and_only_where_they_are_needed():
    made = []

    def lazily():
        for generator_ in generators(4, 2):
            made.append(generator_)
            yield generator_

    present = batch(masks(4))
    assert torch.equal(
        kept(drop_modalities(present, 0.5, lazily())), kept(drop_modalities(present, 0.5, generators(4, 2)))
    )
    assert len(made) == 2
    drop_modalities(present, 0.0, lazily())
    assert len(made) == 2
