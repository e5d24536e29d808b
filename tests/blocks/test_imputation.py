import pytest
import torch

from fusion_lab.blocks.imputation import IterativeImputer, MeanImputer, MultiModalVAE
from fusion_lab.blocks.ragged import fill
from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise

WIDTHS = ((9, 6), (3,))
MODALITIES, ROWS, WIDTH = 3, 8, 8


def vae(widths=WIDTHS, dropout: float = 0.0) -> MultiModalVAE:
    return MultiModalVAE(widths, 16, 8, 2, dropout)


IMPUTERS = {
    "mean": lambda: MeanImputer(WIDTHS),
    "vae": vae,
    "iterative": lambda: IterativeImputer(vae(), WIDTHS, WIDTH, 2, 2, 0.0),
    "iterative at one width": lambda: IterativeImputer(vae(((WIDTH,) * 3,)), ((WIDTH,) * 3,), WIDTH, 2, 3, 0.0),
}


LEARNED = [name for name in IMPUTERS if name != "mean"]  # the mean knows nothing of a row


def build(name: str):
    torch.manual_seed(0)
    return IMPUTERS[name]().double()


def rows(imputer, seed: int = 0):
    """Inputs of the imputer's widths, quality and what is there; one row has nothing, one everything."""
    seeded = torch.Generator().manual_seed(seed)
    one_width = isinstance(imputer, IterativeImputer) and imputer.lift is None
    widths = ((WIDTH,) * 3,) if one_width else WIDTHS
    here = torch.rand(ROWS, MODALITIES, generator=seeded) > 0.4
    here[0], here[1] = False, True
    x = []
    for group in widths:
        part = torch.randn(len(group), ROWS, 1, max(group), generator=seeded, dtype=torch.float64)
        for g, width in enumerate(group):
            part[g, ..., width:] = 0
        x.append(part)
    x = fill(x, ~here, [torch.zeros_like(part) for part in x])
    quality = torch.rand(ROWS, MODALITIES, generator=seeded, dtype=torch.float64)
    return x, quality * here, here


@pytest.mark.parametrize("name", IMPUTERS)
def test_every_modality_of_every_row_gets_a_finite_guess_and_an_uncertainty(name):
    imputer = build(name)
    x, quality, here = rows(imputer)
    made = imputer(x, quality, here, None)
    assert [part.shape for part in made.last] == [part.shape for part in x]
    assert all(torch.isfinite(part).all() for part in made.values)
    assert made.uncertainty.shape == here.shape
    assert ((made.uncertainty > 0) & (made.uncertainty < 1)).all()


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_there_tells_what_is_missing(name):
    """A modality changes the guesses of the others, in its own row alone."""
    imputer = build(name)
    x, quality, here = rows(imputer)
    here[2], here[3] = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    before = imputer(x, quality, here, None)
    other = [part.clone() for part in x]
    other[0][0, 2] = torch.randn_like(other[0][0, 2]) * (other[0][0, 1] != 0)
    after = imputer(other, quality, here, None)
    moved = [(a != b).flatten(2).any(-1) for a, b in zip(before.last, after.last, strict=True)]
    assert torch.cat(moved)[2, 2], "the missing one"
    assert not torch.cat(moved)[:, [r for r in range(ROWS) if r != 2]].any()


@pytest.mark.parametrize("name", LEARNED)
def test_quality_is_heard(name):
    imputer = build(name)
    x, quality, here = rows(imputer)
    lower = quality.clone()
    lower[1, 0] /= 10
    before, after = (imputer(x, q, here, None).last[0][:, 1] for q in (quality, lower))
    assert not torch.allclose(before, after)


def test_the_latent_is_drawn_in_training_and_is_its_mean_in_evaluation():
    model = vae().double()
    x, quality, here = rows(model)
    count = count_draws(lambda noise: model(x, quality, here, noise), torch.device("cpu"))
    assert count == ROWS * 8
    draws = [model(x, quality, here, Noise(torch.from_numpy(draw_noise(count, seed)))) for seed in (0, 0, 1)]
    evaluation = model(x, quality, here, None)
    assert torch.equal(draws[0].last[0], draws[1].last[0])
    assert not torch.allclose(draws[0].last[0], draws[2].last[0])
    assert not torch.allclose(draws[0].last[0], evaluation.last[0])
    for draw in draws:
        assert torch.equal(draw.latent.mean, evaluation.latent.mean)


@pytest.mark.parametrize("name", ["iterative", "iterative at one width"])
def test_refinement_starts_from_the_first_guess_and_rewrites_what_is_missing_alone(name):
    model = build(name)
    x, quality, here = rows(model)
    first = model.first(x, quality, here, None)
    for stages, guess in zip(model(x, quality, here, None).values, first.values, strict=True):
        torch.testing.assert_close(stages, guess.expand_as(stages))
    with torch.no_grad():
        for parameter in (model.step,) if model.lower is None else model.lower.parameters():
            parameter.normal_()
    stages = torch.cat([s.flatten(3)[..., :1] for s in model(x, quality, here, None).values])
    changed = (stages[:, :, 1:] != stages[:, :, :-1]).any(-1)  # [M,B,S]
    missing = ~here & here.any(-1, keepdim=True)
    assert changed[missing.T].all()
    if model.lower is None:  # with a bias, what is added to a modality that is there is read by nobody
        assert not changed[here.T].any()


def test_uncertainty_becomes_what_the_heads_say_where_nothing_is_kept():
    """With the shares at 0 the last head alone counts, at 1 the first guess does."""
    model = build("iterative")
    x, quality, here = rows(model)
    with torch.no_grad():
        model.keep.fill_(100.0)
        torch.testing.assert_close(
            model(x, quality, here, None).uncertainty, model.first(x, quality, here, None).uncertainty
        )
        model.keep.fill_(-100.0)
        model.sure[0][2].bias.add_(3.0)
        before = model(x, quality, here, None).uncertainty
        model.sure[1][2].bias.add_(3.0)
        after = model(x, quality, here, None).uncertainty
    assert (after < before).all(), "surer"
    torch.testing.assert_close(torch.logit(before) - torch.logit(after), torch.full_like(before, 3.0))
