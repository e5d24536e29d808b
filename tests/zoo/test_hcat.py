import re
from typing import Any

import pytest
import torch

from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.config import validate
from fusion_lab.contracts import Batch, ConfigError, Feature, Modality, Spec, Task
from fusion_lab.data.planting import Planting, twin
from fusion_lab.zoo.hcat import Hcat, HcatConfig

NAMES = ("clinical", "temporal", "pathological", "semantic", "spatial")
TASKS = (Task("survival", "binary", ("no", "yes")), Task("recurrence", "binary", ("no", "yes")))
SMALL: dict[str, Any] = {"d_model": 8, "n_heads": 2, "latent": 8, "vae_width": 16, "n_impute_iterations": 2}
ROWS = 16


def modality(name: str, width: int, kind="vector", length: int | None = None) -> Modality:
    return Modality(name, kind, tuple(Feature(f"{name} {i}") for i in range(width)), length)


def patients(widths: tuple[int, ...] = (6, 3, 4, 9, 70)) -> Spec:
    return Spec(tuple(map(modality, NAMES, widths)), TASKS)


def small(**settings: Any) -> HcatConfig:
    return HcatConfig(**{**SMALL, **settings})


def build(spec: Spec, seed: int = 0, **settings: Any) -> Hcat:
    torch.manual_seed(seed)
    return Hcat(small(**settings), spec)


def some_rows(spec: Spec, missing: float = 0.4, seed: int = 1) -> Batch:
    planting = Planting(rows=ROWS, missing_modalities=missing, missing_cells=0.1, planted="quality", seed=seed)
    return twin(spec, planting, useful=tuple(m.name for m in spec.modalities)).gather(torch.arange(ROWS))


def train(model: Hcat, batch: Batch, seed: int = 0):
    """The output of a training step."""
    count = count_draws(lambda noise: model(batch, noise), torch.device("cpu"))
    return model(batch.without_targets(), Noise(torch.from_numpy(draw_noise(count, seed))))


def loss(output) -> torch.Tensor:
    return sum(head.sum() for head in output.heads.values()) + sum(p.sum() for p in output.penalties.values())


def complete(batch: Batch) -> torch.Tensor:
    """bool ``[B]``: rows without a missing modality."""
    return torch.stack(list(batch.valid.values())).all(0)


@pytest.mark.parametrize(("imputer", "published", "attentions"), [("vae-iterative", 35_401_102, 10), ("none", 0, 7)])
def test_parameters_are_the_published_ones_less_the_key_biases(imputer, published, attentions):
    """Without an imputer nothing weighs an uncertainty, a single number of the published 23,320,526. With one there is
    a step for each of three refinements, which is not published.
    """
    with torch.device("meta"):
        model = Hcat(HcatConfig(preset="reference", imputer=imputer), patients((512,) * 5))
    count = sum(p.numel() for p in model.parameters())
    expected = published - 112 + 3 if published else 23_320_526 - 1
    assert count == expected - 512 * attentions


def test_the_preset_fills_what_is_not_given():
    config = HcatConfig(preset="reference", latent=16)
    assert (config.d_model, config.n_heads, config.n_global_layers, config.latent) == (512, 8, 3, 16)
    assert HcatConfig().d_model == 128
    assert validate(HcatConfig, config.model_dump(mode="json"), "here") == config


def test_imputed_modalities_move_the_answers_of_rows_that_lack_one_and_of_no_other():
    spec = patients()
    batch = some_rows(spec)
    for imputer in ("mean", "vae", "vae-iterative"):
        model = build(spec, imputer=imputer)
        before = model(batch).heads
        with torch.no_grad():
            for parameter in model.imputer.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        whole = complete(batch)
        assert 0 < int(whole.sum()) < ROWS
        for task, head in model(batch).heads.items():
            assert torch.equal((head - before[task]).abs() > 1e-6, ~whole), (imputer, task)


@pytest.mark.parametrize("imputer", ["mean", "vae", "vae-iterative"])
def test_the_task_alone_teaches_the_imputer(imputer):
    spec = patients()
    model = build(spec, imputer=imputer, alpha_con=0.0, alpha_impute=0.0, alpha_kl=0.0)
    output = train(model, some_rows(spec, missing=0.6))
    assert not output.penalties
    loss(output).backward()
    silent = [n for n, p in model.imputer.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert model.uncertainty_weight.grad.any()


@pytest.mark.parametrize(
    ("setting", "off"),
    [
        ("quality", False),
        ("alpha_con", 0.0),
        ("alpha_kl", 0.0),
        ("alpha_impute", 0.0),
        ("moddrop", 0.0),
        ("emb_noise", 0.0),
    ],
)
def test_turning_a_part_off_changes_what_is_learned(setting, off):
    """The same weights; of the quality, which is no matter of training, the answers too."""
    spec = patients()
    batch = some_rows(spec)
    models = [build(spec, moddrop=0.5), build(spec, **{"moddrop": 0.5, setting: off})]
    models[1].load_state_dict({n: p for n, p in models[0].state_dict().items() if n in models[1].state_dict()})
    gradients = []
    for model in models:
        loss(train(model, batch)).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert any(not torch.allclose(g, gradients[0][n]) for n, g in gradients[1].items())
    same = all(torch.equal(a, b) for a, b in zip(*(m(batch).heads.values() for m in models), strict=True))
    assert same is (setting != "quality")


def test_a_wide_modality_weighs_less_and_equal_widths_change_nothing():
    for widths, same in (((6, 60), False), ((60, 60), True), ((6, 8), True)):
        spec = patients(widths)
        batch, models = some_rows(spec), [build(spec, narrow=narrow) for narrow in (8, None)]
        models[1].load_state_dict(models[0].state_dict())
        weights = [model(batch).maps["modalities"][..., 1].mean() for model in models]
        assert torch.equal(*weights) if same else weights[0] < 0.5 * weights[1]


@pytest.mark.parametrize(("setting", "on"), [("emb_noise", 0.5), ("moddrop", 0.5), ("alpha_con", 0.5)])
def test_a_part_acts_by_what_it_does_and_not_by_what_it_draws(setting, on):
    """Without dropout nothing else is drawn: a part that is on changes the gradient, one all but off does not."""
    spec, plain = patients(), {"dropout": 0.0, "imputer": "mean", "emb_noise": 0.0, "moddrop": 0.0, "alpha_con": 0.0}
    batch, found = some_rows(spec), []
    for value in (0.0, 1e-9, on):
        model = build(spec, **(plain | {"alpha_impute": 0.0, setting: value}))
        model.load_state_dict(build(spec, **plain).state_dict(), strict=False)
        loss(train(model, batch)).backward()
        found.append(
            torch.cat([p.grad.flatten() for n, p in model.named_parameters() if n.startswith("global_layers.")])
        )
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2], rtol=1e-3)


def test_dropout_in_evaluation_draws_for_dropout_alone():
    spec = patients()
    batch, device = some_rows(spec).without_targets(), torch.device("cpu")
    assert count_draws(lambda noise: build(spec, dropout=0.0)(batch, noise), device, distorts=False) == 0
    model = build(spec)
    count = count_draws(lambda noise: model(batch, noise), device, distorts=False)
    output = model(batch, Noise(torch.from_numpy(draw_noise(count, 0)), distorts=False))
    assert count and not output.penalties
    assert torch.equal(output.maps["confidence"] == 1, torch.stack(list(batch.valid.values()), dim=-1))


def test_penalties_are_given_in_training_alone_and_by_the_names_declared():
    spec = patients()
    batch = some_rows(spec)
    given = {"none": {"contrastive"}, "mean": {"contrastive", "imputation"}, "vae": set(Hcat.penalties)}
    for imputer, names in given.items():
        model = build(spec, imputer=imputer)
        assert not model(batch).penalties
        penalties = train(model, batch).penalties
        assert set(penalties) == names
        assert all(p.shape == (ROWS,) and (p >= 0).all() and p.any() for p in penalties.values())


@pytest.mark.parametrize("mode", ["per_sample", "per_batch"])
def test_a_row_of_weight_0_changes_no_other_row(mode):
    spec = patients()
    batch = some_rows(spec)
    batch.weight[-4:] = 0
    counted = batch.weight > 0
    spoilt = batch._replace(
        inputs={n: torch.where(counted[:, None], x, 100 * torch.randn_like(x)) for n, x in batch.inputs.items()},
        valid={n: v & counted for n, v in batch.valid.items()},
    )
    model = build(spec, moddrop_mode=mode, moddrop=0.9)
    for seed in range(5):
        before, after = train(model, batch, seed), train(model, spoilt, seed)
        for name, penalty in before.penalties.items():
            torch.testing.assert_close(penalty[counted], after.penalties[name][counted])
        for task, head in before.heads.items():
            torch.testing.assert_close(head[counted], after.heads[task][counted])


def test_rows_without_any_modality_stay_finite_in_training():
    spec = patients()
    batch = some_rows(spec)
    empty = batch._replace(valid={n: torch.zeros_like(v) for n, v in batch.valid.items()})
    model = build(spec)
    output = train(model, empty)
    loss(output).backward()
    assert all(torch.isfinite(leaf).all() for part in output for leaf in part.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert not any(weights.any() for weights in output.maps.values())


def test_without_any_randomness_training_answers_as_evaluation_does():
    spec = patients()
    batch = some_rows(spec)
    still = {"dropout": 0.0, "moddrop": 0.0, "emb_noise": 0.0}
    model = build(spec, imputer="none", alpha_con=0.0, **still)
    assert count_draws(lambda noise: model(batch, noise), torch.device("cpu")) == 0
    for task, head in train(model, batch).heads.items():
        assert torch.equal(head, model(batch).heads[task])


@pytest.mark.parametrize(("never", "kept"), [(None, {"clinical"}), ((), set()), (("semantic",), {"semantic"})])
def test_modality_dropout_leaves_alone_what_it_is_told_to(never, kept):
    spec = patients()
    batch = some_rows(spec, missing=0.0)
    model = build(spec, imputer="none", moddrop=0.6, never_dropped=never)
    seen = torch.stack([train(model, batch, seed).maps["confidence"] for seed in range(4)])
    lost = {name for m, name in enumerate(NAMES) if not seen[..., m].all()}
    assert lost == set(NAMES) - kept
    assert seen.any(-1).all(), "every row keeps one"


def test_confidence_is_1_for_what_is_there_and_the_imputations_for_the_rest():
    spec = patients()
    batch = some_rows(spec)
    here = torch.stack([batch.valid[name] for name in NAMES], dim=-1)
    confidence = build(spec)(batch).maps["confidence"]
    assert (confidence[here] == 1).all()
    assert ((confidence[~here] > 0) & (confidence[~here] < 1)).all()
    assert torch.equal(build(spec, imputer="none")(batch).maps["confidence"], here.float())


def test_an_uncertain_imputation_weighs_less():
    """Where every modality is a branch by itself, in the routing too."""
    spec = patients()
    batch = some_rows(spec)
    model = build(spec, imputer="mean", branches={name: (name,) for name in NAMES}, uncertainty_weight=0.99)
    weights = []
    for doubt in (-9.0, 9.0):
        with torch.no_grad():
            model.imputer.doubt.fill_(doubt)
        weights.append(model(batch).maps)
    missing = torch.stack([~batch.valid[name] for name in NAMES], dim=-1)
    assert (weights[1]["confidence"][missing] < weights[0]["confidence"][missing]).all()
    for name in ("modalities for survival", "modalities for recurrence"):
        assert (weights[1][name][missing] < weights[0][name][missing]).all()


def test_quality_is_heard_in_a_branch_of_one_modality():
    """A layer norm would undo it in a token; it is the branch that weighs less."""
    spec = patients()
    batch = some_rows(spec, missing=0.0)
    model = build(spec)
    lower = batch._replace(quality={**batch.quality, "semantic": 0.01 * batch.quality["semantic"]})
    before, after = (model(b).maps["modalities for survival"][:, 3] for b in (batch, lower))
    assert (after < before).all()


def linear_factors(rows: int, widths: tuple[int, ...], seed: int) -> Batch:
    """Modalities that all show the same two factors."""
    seeded = torch.Generator().manual_seed(seed)
    factors = torch.randn(rows, 2, generator=seeded)
    inputs = {}
    for m, (name, width) in enumerate(zip(NAMES, widths, strict=False)):
        loads = torch.nn.functional.normalize(torch.randn(2, width, generator=torch.Generator().manual_seed(m)), dim=0)
        inputs[name] = 0.9 * factors @ loads + 0.19**0.5 * torch.randn(rows, width, generator=seeded)
    there = {name: torch.ones(rows, dtype=torch.bool) for name in inputs}
    observed = {name: torch.ones_like(x, dtype=torch.bool) for name, x in inputs.items()}
    return Batch(inputs, there, observed, {n: t.float() for n, t in there.items()}, {}, {}, torch.ones(rows))


@torch.no_grad()
def unexplained(model: Hcat, batch: Batch, name: str) -> tuple[float, float]:
    """Mean squared error of a hidden modality, whose variance is 1, and the uncertainty told of it."""
    hidden = batch._replace(valid={**batch.valid, name: torch.zeros_like(batch.valid[name])})
    rows = model._read(hidden)
    made = model.imputer(rows.inputs, rows.quality, rows.here, None)
    place, width = model.names.index(name), batch.inputs[name].shape[1]
    guess = torch.cat([part.unbind()[g] for part in made.last for g in range(len(part))], dim=1)[:, place, :width]
    return float(((guess - batch.inputs[name]) ** 2).mean()), float(made.uncertainty[:, place].mean())


@pytest.mark.slow
@pytest.mark.parametrize("imputer", ["vae", "vae-iterative"])
def test_its_penalties_alone_teach_the_imputer_to_beat_the_mean_and_to_know_by_how_much(imputer):
    widths = (4, 5, 6)
    spec = Spec(tuple(map(modality, NAMES[:3], widths)), TASKS)
    model = build(spec, imputer=imputer, alpha_con=0.0, dropout=0.0, d_model=16, latent=16)
    batch = linear_factors(256, widths, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(150):
        rows = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:64]
        some = batch.map(lambda leaf, rows=rows: leaf[rows])
        optimiser.zero_grad()
        sum(p.mean() for p in train(model, some, step).penalties.values()).backward()
        optimiser.step()
    fresh = linear_factors(256, widths, seed=1)
    for name in NAMES[:3]:
        error, told = unexplained(model, fresh, name)
        of_mean = float((fresh.inputs[name] ** 2).mean())
        assert error < 0.6 * of_mean
        assert abs(told - error / of_mean) < 0.2


def test_the_uncertainty_of_the_mean_becomes_the_share_it_leaves_unexplained():
    spec = Spec(tuple(map(modality, NAMES[:2], (3, 3))), TASKS)
    batch = linear_factors(512, (3, 3), seed=0)
    narrow = batch._replace(inputs={**batch.inputs, "temporal": 0.5 * batch.inputs["temporal"]})
    model = build(spec, imputer="mean", alpha_con=0.0)
    optimiser = torch.optim.Adam(model.imputer.parameters(), lr=0.1)
    for step in range(60):
        optimiser.zero_grad()
        train(model, narrow, step).penalties["imputation"].mean().backward()
        optimiser.step()
    for name in NAMES[:2]:  # all of it, in whatever unit
        assert torch.sigmoid(model.imputer.doubt)[model.names.index(name)] > 0.9


def test_the_mean_of_what_is_not_scaled_is_learned():
    batch = linear_factors(256, (3, 3), seed=0)
    words = (batch.inputs["temporal"] > 0.5).float()
    coded = batch._replace(inputs={**batch.inputs, "temporal": words})
    model = build(Spec(tuple(map(modality, NAMES[:2], (3, 3))), TASKS), imputer="mean", alpha_con=0.0)
    optimiser = torch.optim.Adam(model.imputer.parameters(), lr=0.1)
    for step in range(60):
        optimiser.zero_grad()
        train(model, coded, step).penalties["imputation"].mean().backward()
        optimiser.step()
    torch.testing.assert_close(
        model.impute(coded)["temporal"][0], words[batch.valid["temporal"]].mean(0), atol=0.1, rtol=0
    )


BRANCHES = {
    "unknown": ({"a": NAMES, "b": ("blood",)}, "model.branches.b: unknown modality 'blood'"),
    "missing": ({"a": NAMES[1:]}, "model.branches: expected modality 'clinical' in one branch, found it in none"),
    "twice": ({"a": NAMES, "b": NAMES[:1]}, "expected modality 'clinical' in one branch, found it in 2"),
    "empty": ({"a": NAMES, "b": ()}, "model.branches.b: expected a modality at least, found none"),
}


@pytest.mark.parametrize("fault", BRANCHES)
def test_branches_that_do_not_hold_every_modality_once_are_refused(fault):
    branches, told = BRANCHES[fault]
    with pytest.raises(ConfigError, match=re.escape(told)):
        build(patients(), branches=branches)


def test_one_branch_of_all_and_a_branch_of_each_are_ways_to_build_it():
    spec = patients()
    batch = some_rows(spec)
    for branches in ({"all": NAMES}, {name: (name,) for name in NAMES}):
        model = build(spec, branches=branches)
        output = train(model, batch)
        loss(output).backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        for task in ("survival", "recurrence"):
            torch.testing.assert_close(output.maps[f"modalities for {task}"].sum(-1), torch.ones(ROWS))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"d_model": 10, "n_heads": 4}, "expected d_model to be a multiple of n_heads, found 10 and 4"),
        ({"latent": 30}, "latent: expected a multiple of 4"),
        ({"uncertainty_weight": 1.0}, "uncertainty_weight: expected less than 1"),
        ({"imputer": "vea"}, "imputer: expected 'none', 'mean', 'vae' or 'vae-iterative'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        validate(HcatConfig, settings, "here")


def test_a_modality_that_is_never_dropped_must_be_there():
    with pytest.raises(ConfigError, match=re.escape("model.never_dropped: unknown modality 'sematic' (did you mean")):
        build(patients(), never_dropped=("sematic",))


def test_the_order_of_modalities_in_the_maps_is_that_of_the_spec():
    """Modalities are computed widest first."""
    spec = patients()
    model = build(spec, imputer="none")
    assert model.names != NAMES
    batch = some_rows(spec)
    here = torch.stack([batch.valid[name] for name in NAMES], dim=-1)
    maps = model(batch).maps
    for name, described in model.maps.items():
        assert described.axes[-1].labels == NAMES
        assert not maps[name][(~here if maps[name].ndim == 2 else ~here.unsqueeze(1).expand(-1, 5, -1))].any()
    assert torch.equal(maps["confidence"] > 0, here)
