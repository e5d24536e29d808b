"""Laws of modality dropout and of distorted sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import Batch, ConfigError, Feature, Modality, Spec, Task
from fusion_lab.training.augmentation import (
    AugmentationConfig,
    augment,
    check_augmentation,
    distort,
    drop_modalities,
    mix,
)

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


WALK = Modality("walk", "sequence", (Feature("pace"), Feature("stairs", "binary"), Feature("turn")), 5)
CLINIC = Modality("clinic", "vector", (Feature("age"),))
SPEC = Spec((WALK, CLINIC), ())


def walks(folds: int = 2, rows: int = 6) -> Batch:
    """Normal values; the first step is padding, one cell in five is missing."""
    rng = np.random.default_rng(3)
    valid = {"walk": torch.ones(folds, rows, 5, dtype=torch.bool), "clinic": torch.ones(folds, rows, dtype=torch.bool)}
    valid["walk"][..., 0] = False
    observed = {
        "walk": torch.from_numpy(rng.random((folds, rows, 5, 3)) < 0.8) & valid["walk"].unsqueeze(-1),
        "clinic": torch.ones(folds, rows, 1, dtype=torch.bool),
    }
    inputs = {
        "walk": torch.from_numpy(rng.normal(size=(folds, rows, 5, 3))).float() * valid["walk"].unsqueeze(-1),
        "clinic": torch.from_numpy(rng.normal(size=(folds, rows, 1))).float(),
    }
    return Batch(inputs, valid, observed, {}, {}, {}, torch.ones(folds, rows))


def distorted(batch: Batch, seed: int = 0, **config: float) -> torch.Tensor:
    folds = len(batch.weight)
    return distort(batch, SPEC, AugmentationConfig(**config), generators(seed, folds)).inputs["walk"]


@pytest.mark.parametrize("config", [{"scaling": 0.5}, {"offset": 1.0}, {"jitter": 0.5}])
def test_only_numeric_cells_of_sequences_that_are_there_are_distorted(config):
    before = walks()
    after = distort(before, SPEC, AugmentationConfig(**config), generators(0, 2))
    real = before.observed["walk"] & torch.tensor([True, False, True])
    changed = after.inputs["walk"] != before.inputs["walk"]
    assert torch.equal(changed, real)
    assert torch.equal(after.inputs["clinic"], before.inputs["clinic"])
    assert after._replace(inputs=before.inputs) == before


def test_an_offset_and_a_factor_are_the_same_over_a_row():
    before = walks()
    x, real = before.inputs["walk"], before.observed["walk"] & torch.tensor([True, False, True])

    def spread(change: torch.Tensor) -> torch.Tensor:
        """Deviation over the real steps of each row's feature, where there are two or more."""
        several = real.sum(2) > 1
        of_rows = torch.where(real, change, torch.nan).double().movedim(2, -1)[several]
        return torch.from_numpy(np.nanstd(of_rows.numpy(), axis=-1))

    assert (spread(distorted(before, offset=1.0) - x) < 1e-6).all()
    assert (spread(distorted(before, scaling=0.5) / x) < 1e-5).all()


def test_deviations_are_those_asked_for():
    rows = 4000
    batch = walks(1, rows)
    real = batch.observed["walk"] & torch.tensor([True, False, True])
    x = batch.inputs["walk"]
    for found, deviation, independent in [
        ((distorted(batch, offset=0.4) - x)[real], 0.4, 2 * rows),
        ((distorted(batch, scaling=0.2) / x - 1)[real], 0.2, 2 * rows),
        ((distorted(batch, jitter=0.3) - x)[real], 0.3, 8 * rows),
    ]:
        assert abs(float(found.mean())) < 5 * deviation / np.sqrt(independent)
        np.testing.assert_allclose(float(found.std()), deviation, rtol=5 / np.sqrt(independent))


def test_a_fold_distorts_by_its_own_generator_alone():
    before = walks(3)
    every = distorted(before, offset=1.0, scaling=0.1)
    picked = before.map(lambda leaf: leaf[[2]])
    config = AugmentationConfig(offset=1.0, scaling=0.1)
    alone = distort(picked, SPEC, config, [generator(0, 2)]).inputs["walk"]
    assert torch.equal(alone[0], every[2])


def test_hidden_modalities_are_drawn_as_they_are_without_distortion():
    before, dropout = walks(), {"modality_dropout": 0.5}
    plain = augment(before, SPEC, AugmentationConfig(**dropout), generators(1, 2))
    both = augment(before, SPEC, AugmentationConfig(**dropout, offset=1.0), generators(1, 2))
    assert all(torch.equal(plain.valid[name], both.valid[name]) for name in plain.valid)
    assert torch.equal(drop_modalities(before, 0.5, generators(1, 2)).valid["walk"], plain.valid["walk"])


def test_nothing_asked_for_is_the_same_batch():
    before = walks()
    assert augment(before, SPEC, AugmentationConfig(), generators(0, 2)) is before


DEATH, MONTHS = Task("death", "binary", ("no", "yes")), Task("months", "regression")
MIXED = Spec((WALK, CLINIC), (DEATH, MONTHS))


def labelled(folds: int = 2, rows: int = 30) -> Batch:
    """Rows with targets, of which some are not known; the last two are padding."""
    batch, rng = walks(folds, rows), np.random.default_rng(4)
    known = {name: torch.from_numpy(rng.random((folds, rows)) < 0.7) for name in ("death", "months")}
    death = torch.from_numpy(rng.integers(0, 2, (folds, rows))).float()
    months = torch.from_numpy(rng.normal(size=(folds, rows))).float()
    targets = {"death": death * known["death"], "months": months * known["months"]}
    weight = torch.ones(folds, rows)
    weight[:, -2:] = 0
    return batch._replace(targets=targets, known=known, weight=weight)


def test_a_mixed_row_is_its_share_of_itself_and_the_rest_of_one_other_row():
    before, config = labelled(), AugmentationConfig(mixup=0.4, mixup_share=1.0)
    after = mix(before, MIXED, config, generators(2, 2))
    for k, own in enumerate(generators(2, 2)):
        rows = np.flatnonzero(before.weight[k].numpy())
        partner, drawn = own.permutation(rows), own.beta(0.4, 0.4, len(rows))
        for row, other, share in zip(rows, partner, np.maximum(drawn, 1 - drawn), strict=True):
            for name, mask in (("walk", before.observed["walk"]), ("clinic", before.observed["clinic"])):
                a, b = before.inputs[name][k, row], before.inputs[name][k, other]
                both = mask[k, row] & mask[k, other]
                if name == "walk":
                    both = both & torch.tensor([True, False, True])
                expected = torch.where(both, share * a + (1 - share) * b, a).float()
                torch.testing.assert_close(after.inputs[name][k, row], expected)
            for name in ("death", "months"):
                a, b = before.targets[name][k, row], before.targets[name][k, other]
                both = before.known[name][k, row] & before.known[name][k, other]
                torch.testing.assert_close(
                    after.targets[name][k, row], (share * a + (1 - share) * b if both else a).float()
                )
    assert after.valid is before.valid and after.known is before.known
    for name, leaf in after.inputs.items():
        assert torch.equal(leaf[:, -2:], before.inputs[name][:, -2:])


def test_rows_are_mixed_as_often_as_asked_for():
    rows, share = 20_000, 0.3
    before = labelled(1, rows)
    after = mix(before, MIXED, AugmentationConfig(mixup=1.0, mixup_share=share), generators(0, 1))
    changed = (after.inputs["clinic"] != before.inputs["clinic"])[0, :-2, 0].double().mean()
    np.testing.assert_allclose(float(changed), share, atol=4 * np.sqrt(share * (1 - share) / rows))


def test_a_fold_mixes_by_its_own_generator_alone():
    before, config = labelled(3), AugmentationConfig(mixup=0.2)
    every = mix(before, MIXED, config, generators(0, 3)).inputs["walk"]
    alone = mix(before.map(lambda leaf: leaf[[2]]), MIXED, config, [generator(0, 2)]).inputs["walk"]
    assert torch.equal(alone[0], every[2])


def test_classes_cannot_be_mixed():
    grade = Task("grade", "multiclass", ("low", "mid", "high"))
    check_augmentation(MIXED, AugmentationConfig(mixup=0.2))
    check_augmentation(Spec((WALK,), (grade,)), AugmentationConfig(jitter=0.2))
    with pytest.raises(ConfigError, match="found grade, a multiclass task"):
        check_augmentation(Spec((WALK,), (DEATH, grade)), AugmentationConfig(mixup=0.2))
