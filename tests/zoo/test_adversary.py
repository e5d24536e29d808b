"""token_fusion's adversary: what it is told, which way its gradients go, and that people are told less well of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion_lab.blocks.randomness import Noise, count_draws
from fusion_lab.contracts import Batch, ConfigError, Feature, Modality, Provenance, Source, Spec, Task
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.splits import FoldsConfig, make_folds
from fusion_lab.experiment import Materials, resolve
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.training import cross_validate
from fusion_lab.training.plan import Groups
from fusion_lab.training.stack import Stack
from fusion_lab.zoo.token_fusion import ADVERSARY, TokenFusion, TokenFusionConfig

NINE = {"accel": 38, "gyr": 38, "hr": 26, "step": 10, "sleep": 9}
OUTCOME = Task("outcome", "binary", ("no", "yes"))


def days(groups: int) -> Spec:
    of = {name: tuple(Feature(f"{name} {i}") for i in range(width)) for name, width in NINE.items()}
    return Spec(tuple(Modality(name, "sequence", columns, 7) for name, columns in of.items()), (OUTCOME,), groups)


def small(adversary: float = 0.5, **more) -> TokenFusionConfig:
    return TokenFusionConfig(d_model=8, nhead=2, dropout=0.2, adversary=adversary, **more)


def vectors(groups: int = 4) -> Spec:
    return Spec(
        tuple(Modality(name, "vector", tuple(Feature(f"{name}{i}") for i in range(3))) for name in "ab"),
        (OUTCOME,),
        groups,
    )


def batch(spec: Spec, folds: int = 3, rows: int = 10) -> Batch:
    draws = torch.Generator().manual_seed(1)
    names = [modality.name for modality in spec.modalities]
    there = torch.ones(folds, rows, dtype=torch.bool)
    target = torch.randint(2, (folds, rows), generator=draws).float()
    return Batch(
        {name: torch.randn(folds, rows, 3, generator=draws) for name in names},
        dict.fromkeys(names, there),
        dict.fromkeys(names, there.unsqueeze(-1).expand(-1, -1, 3)),
        dict.fromkeys(names, torch.ones(folds, rows)),
        {"outcome": target},
        {"outcome": there},
        torch.ones(folds, rows),
        group={
            "code": torch.randint(spec.groups, (folds, rows), generator=draws),
            "strength": torch.full((folds, rows), 0.7),
        },
    )


def made(spec: Spec, config: TokenFusionConfig) -> TokenFusion:
    torch.manual_seed(0)
    return TokenFusion(config, spec)


def test_it_has_the_parameters_of_the_published_one():
    """d -> d/2 -> 9 at d = 64: 318,410 of the published model less 316,033 of the one without."""
    plain, with_it = (made(days(9), TokenFusionConfig(adversary=weight)) for weight in (0.0, 0.1))
    assert with_it.count_parameters() - plain.count_parameters() == 2_377


def penalty_and_gradients(strength: float) -> tuple[float, dict[str, torch.Tensor]]:
    spec = vectors()
    model = made(spec, small())
    one = batch(spec).map(lambda leaf: leaf[0])
    one = one._replace(group={**one.group, "strength": torch.full_like(one.weight, strength)})
    noise = torch.zeros(count_draws(lambda n: model(one, n), one.weight.device), dtype=torch.int16)
    output = model(one.without_targets(), Noise(noise))
    loss = output.penalties[ADVERSARY].mean()
    names, leaves = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return float(loss.detach()), dict(zip(names, gradients, strict=True))


def test_it_learns_itself_and_turns_the_gradient_of_what_it_reads_round():
    """At strength -1 / weight nothing is turned: what it reads learns with it."""
    loss, found = penalty_and_gradients(0.7)
    same, learning = penalty_and_gradients(-1 / 0.5)
    assert loss == pytest.approx(same)
    for name, gradient in found.items():
        factor = 1.0 if name.startswith("adversary") else -0.7 * 0.5
        torch.testing.assert_close(gradient, factor * learning[name], msg=name)
    assert any(bool(g.abs().max() > 1e-4) for n, g in found.items() if n.startswith("encoders"))


def test_answers_know_nothing_of_groups():
    spec = vectors()
    model, told = made(spec, small()), batch(spec).map(lambda leaf: leaf[0])
    plain = model(told._replace(group={}))
    assert model(told).penalties == {} == plain.penalties
    assert torch.equal(model(told).heads["outcome"], plain.heads["outcome"])


def test_folds_together_are_folds_in_turn():
    spec = vectors()
    told = batch(spec)
    models = [made(spec, small()) for _ in range(3)]
    objective = Objective(ObjectiveConfig(binary="bce"), spec, TokenFusion.penalties)
    weights = {
        name: torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        for name in dict(models[0].named_parameters())
    }
    found = {}
    for mode in ("stacked", "loop"):
        stack = Stack(models[0], objective, mode)
        noise = torch.randint(-30000, 30000, (3, stack.draws(told)), generator=torch.Generator().manual_seed(3))
        classes = {"outcome": torch.ones(3, 2)}
        parts = list(stack.gradients(weights, told, noise.to(torch.int16), classes, [True] * 3))
        found[mode] = {name: torch.cat([part.gradients[name] for part in parts]) for name in weights}
    for name in weights:
        torch.testing.assert_close(found["stacked"][name], found["loop"][name], rtol=1e-4, atol=1e-6)


def test_its_strength_grows_over_the_warm_up():
    groups = Groups.of(np.array(["b", "a", "b"]), 4)
    rows = np.array([[0, 2], [1, 1]])
    told = [groups.leaves(rows, epoch) for epoch in range(6)]
    assert [float(of["strength"][0, 0]) for of in told] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert told[0]["code"].tolist() == [[1, 1], [0, 0]]
    assert float(Groups.of(np.array(["a"]), 0).leaves(rows[:1] * 0, 0)["strength"][0, 0]) == 1.0


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (vectors(0), "rows of two groups or more, found 0"),
        (
            Spec(days(9).modalities, (replace(OUTCOME, steps=("accel",)),), 9),
            "a task per row, whose vector it reads, found tasks per step alone",
        ),
    ],
)
def test_what_it_cannot_read_is_refused_in_one_line(spec, says):
    with pytest.raises(ConfigError, match=says):
        made(spec, small())


PEOPLE, EACH, WIDTH = 12, 30, 6


def people(seed: int) -> ArrayDataset:
    """Half of the columns tell the label a little, the others who a person is; half of the people say yes nine times
    in ten, the others once.
    """
    draws = np.random.default_rng(seed)
    who, rows, half = np.repeat(np.arange(PEOPLE), EACH), PEOPLE * EACH, WIDTH // 2
    label = (draws.random(rows) < np.where(who % 2 == 0, 0.1, 0.9)).astype(np.float32)
    inputs = {}
    for name in "ab":
        telling = np.concatenate([draws.choice([-1, 1], half) / np.sqrt(half), np.zeros(half)])
        offsets = np.concatenate([np.zeros((PEOPLE, half)), 3 * draws.normal(size=(PEOPLE, half))], axis=1)
        spread = np.concatenate([np.ones(half), np.full(half, 0.3)])
        values = draws.normal(size=(rows, WIDTH)) * spread + offsets[who] + 0.5 * (2 * label[:, None] - 1) * telling
        inputs[name] = torch.from_numpy(values.astype(np.float32))
    there = torch.ones(rows, dtype=torch.bool)
    spec = Spec(
        tuple(Modality(name, "vector", tuple(Feature(f"{name}{i}") for i in range(WIDTH))) for name in inputs),
        (OUTCOME,),
    )
    return ArrayDataset.checked(
        spec=spec,
        ids=np.arange(rows).astype(str),
        inputs=inputs,
        valid=dict.fromkeys(inputs, there),
        observed={name: torch.ones(rows, WIDTH, dtype=torch.bool) for name in inputs},
        quality={name: torch.ones(rows) for name in inputs},
        targets={"outcome": torch.from_numpy(label)},
        known={"outcome": there},
        provenance=Provenance((Source("people", str(seed), rows),)),
        group=np.array([f"P{k:02d}" for k in who]),
    )


def trained(data: ArrayDataset, adversary: float, **training) -> list[float]:
    """The curve of the penalty in the first fold."""
    chosen = resolve(
        {
            "name": "people",
            "data": {"domain": "synthetic"},
            "model": {"d_model": 32, "nhead": 2, "adversary": adversary, "adversary_warmup": 5},
            "optimiser": {"lr": 3e-3},
            "training": {"epochs": 30, "restore": "last", "mode": "stacked", **training},
            "folds": {"protocol": "loso"},
        },
        "",
    )
    materials = Materials(data, make_folds(FoldsConfig(protocol="loso"), data))
    result = cross_validate(materials.plan(chosen))
    return [row[f"train/{ADVERSARY}"] for row in result.folds[0].history]


def test_people_are_needed():
    data = people(0)
    lonely = ArrayDataset.checked(**{**vars(data), "group": None})
    chosen = resolve({"name": "x", "data": {"domain": "synthetic"}, "model": {"adversary": 0.1}}, "")
    with pytest.raises(ConfigError, match="expected data with groups"):
        Materials(lonely, make_folds(FoldsConfig(), lonely)).plan(chosen)


def test_the_penalty_has_a_curve():
    curve = trained(people(0), 0.3, epochs=2)
    assert len(curve) == 2 and all(np.isfinite(curve))


@pytest.mark.effects
def test_what_is_fused_comes_to_tell_less_of_people():
    """The part that tells people apart does so where nothing is passed on, and is left guessing where it is: eleven
    people to learn from have a cross-entropy of log(11) where nothing tells them apart.
    """
    alone = trained(people(0), 1e-6)
    turned = trained(people(0), 0.3)
    assert alone[-1] < 0.5 * np.log(PEOPLE - 1)
    assert turned[-1] > 1.5 * alone[-1]
