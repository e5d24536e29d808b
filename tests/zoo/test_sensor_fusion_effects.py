"""What each fusion, the encoders and the patches do to a score, on twins made for them, over five seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
import torch
from contracts.test_effects import Trained, assert_better, experiment, only, train, weights_on_target
from zoo.test_token_fusion_effects import padding, two_events

from fusion_lab.blocks.answering import Steps
from fusion_lab.blocks.hybrid import HybridFusion
from fusion_lab.contracts import Feature, Modality, Provenance, Spec, Task
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.splits import make_folds
from fusion_lab.evaluation.metrics import rank_auroc
from fusion_lab.experiment import Experiment, Materials, resolve
from fusion_lab.training import cross_validate

pytestmark = pytest.mark.slow
SEEDS = range(5)
FUSIONS = ("early", "late", "hybrid")
VECTOR = {"kind": "vector", "width": 6}
TRACK = {"kind": "sequence", "width": 6, "length": 12}
LONGER = {"epochs": 30, "patience": 30, "batch_size": 64, "mode": "stacked", "device": "cpu"}


def sensors(seed: int, data: dict, training: dict | None = None, **model) -> Experiment:
    sections = {} if training is None else {"training": training}
    return experiment(seed, data, {"family": "sensor_fusion", "patch": 3, **model}, **sections)


def pointed_step(config: Experiment, rows: int = 800, length: int = 6) -> Materials:
    """A sequence whose steps have a name and a sign each, in any order; a vector with one of the names. The label is
    the sign of the step of that name.
    """
    rng = np.random.default_rng(config.seed)
    valid = padding(rng, rows, length)
    name = rng.random((rows, length)).argsort(1)
    sign = rng.choice([-1.0, 1.0], (rows, length))
    pointed = np.where(valid, rng.random((rows, length)), -1).argmax(1)
    every = np.arange(rows)
    names = 2 * np.eye(length)
    track = np.concatenate([names[name], 2 * sign[..., None]], axis=-1) + 0.3 * rng.normal(
        size=(rows, length, length + 1)
    )
    which = names[name[every, pointed]] + 0.3 * rng.normal(size=(rows, length))
    label = sign[every, pointed] > 0
    return made(config, {"track": track, "which": which}, {"track": valid, "which": valid.any(1)}, label)


def made(
    config: Experiment, inputs: dict, valid: dict, target: np.ndarray, group: np.ndarray | None = None
) -> Materials:
    """Rows of a sequence ``[R,T,F]`` or vector ``[R,F]`` for every name, with a label and perhaps a group ``[R]``."""
    modalities = tuple(
        Modality(
            name,
            "vector" if x.ndim == 2 else "sequence",
            tuple(Feature(f"{name} {i}") for i in range(x.shape[-1])),
            None if x.ndim == 2 else x.shape[1],
        )
        for name, x in inputs.items()
    )
    rows = len(target)
    data = ArrayDataset.checked(
        spec=Spec(modalities, (Task("outcome", "binary", ("no", "yes")),)),
        ids=np.array([f"row {i}" for i in range(rows)]),
        inputs={name: torch.from_numpy(x.astype(np.float32)) for name, x in inputs.items()},
        valid={name: torch.from_numpy(there) for name, there in valid.items()},
        observed={name: torch.ones(x.shape, dtype=torch.bool) for name, x in inputs.items()},
        quality={name: torch.ones(rows) for name in inputs},
        targets={"outcome": torch.from_numpy(target.astype(np.float32))},
        known={"outcome": torch.ones(rows, dtype=torch.bool)},
        provenance=Provenance(()),
        group=None if group is None else group.astype(str),
    )
    return Materials(data, make_folds(config.folds, data))


def trained(twin: Callable[[Experiment], Materials], config: Experiment) -> Trained:
    materials = twin(config)
    return Trained(materials, cross_validate(materials.plan(config)))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_beats_the_best_single_modality_where_each_knows_a_part(fusion):
    data = {"rows": 300, "planted": "additive", "signal": 6.0, "modalities": dict.fromkeys("abc", TRACK)}
    fused, best_single = [], []
    for seed in SEEDS:
        config = sensors(seed, data, fusion=fusion)
        fused.append(train(config).auroc)
        best_single.append(max(train(config, only(name)).auroc for name in "abc"))
    assert_better(fused, best_single, margin=0.1)


def test_early_and_hybrid_fusion_find_a_product_that_late_fusion_cannot():
    data = {"rows": 600, "signal": 6.0, "modalities": dict.fromkeys("ab", VECTOR)}
    found = {fusion: [train(sensors(seed, data, fusion=fusion)).auroc for seed in SEEDS] for fusion in FUSIONS}
    assert abs(np.mean(found["late"]) - 0.5) < 0.05, found
    for fusion in ("early", "hybrid"):
        assert_better(found[fusion], found["late"], margin=0.2)


def learned(twin: Callable[[Experiment], Materials], seed: int, **model) -> Trained:
    mode = "loop" if model.get("encoder") == "lstm" else "stacked"
    return trained(twin, sensors(seed, {"rows": 20}, {**LONGER, "mode": mode}, **model))


@cache
def reading_steps(seed: int) -> Trained:
    """What several tests look at."""
    return learned(pointed_step, seed, fusion="hybrid", encoder="gru", patch=1)


def score(twin: Callable[[Experiment], Materials], seed: int, **model) -> float:
    return learned(twin, seed, **model).auroc


@pytest.mark.parametrize("encoder", ["gru", "cnn", "transformer", "lstm"])
def test_cross_modal_attention_reads_the_step_that_another_modality_names(encoder):
    early, hybrid = (
        [score(pointed_step, seed, fusion=fusion, encoder=encoder, patch=1) for seed in SEEDS]
        if (fusion, encoder) != ("hybrid", "gru")
        else [reading_steps(seed).auroc for seed in SEEDS]
        for fusion in ("early", "hybrid")
    )
    assert_better(hybrid, early, margin=0.1)


def test_it_is_the_steps_of_the_row_itself_that_tell(monkeypatch):
    hybrid = [reading_steps(seed).auroc for seed in SEEDS]
    forward = HybridFusion.forward

    def astray(fusion, tokens, present, steps, noise):
        others = {place: Steps(of.values.roll(1, 0), of.valid.roll(1, 0)) for place, of in steps.items()}
        return forward(fusion, tokens, present, others, noise)

    monkeypatch.setattr(HybridFusion, "forward", astray)
    shuffled = [score(pointed_step, seed, fusion="hybrid", encoder="gru", patch=1) for seed in SEEDS]
    assert_better(hybrid, shuffled, margin=0.1)


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_any_number_of_heads_learns_to_read_the_named_step(heads):
    told = [score(pointed_step, seed, fusion="hybrid", patch=1, nhead=heads) for seed in SEEDS]
    assert_better(told, [0.5] * len(told), margin=0.4)


def test_attention_lies_on_the_step_that_another_modality_names():
    inside, outside = [], []
    for seed in SEEDS:
        result = reading_steps(seed)
        (asked,) = (m for m in result.result.maps if m.name == "track steps asked by others")
        assert asked.axes[0].labels == ("which",)
        weights, named = asked.values[:, 0], named_steps(result.materials)[asked.row]
        inside.append(float(weights[named].mean()))
        outside.append(float(weights[~named & (weights > 0)].mean()))
    assert_better(inside, outside, margin=0.3)


def named_steps(materials: Materials) -> np.ndarray:
    """bool ``[R,T]``: the step whose name the vector holds."""
    batch = materials.dataset.gather(torch.arange(len(materials.dataset)))
    names = batch.inputs["track"][..., :-1].argmax(-1)
    return (names == batch.inputs["which"].argmax(-1)[:, None]).numpy()


@pytest.mark.parametrize("fusion", ["late", "hybrid"])
def test_fusion_weights_point_at_the_modality_that_tells_the_label(fusion):
    idle = {**VECTOR, "useful": False}
    data = {"rows": 300, "planted": "additive", "signal": 6.0, "modalities": {"b": idle, "a": VECTOR, "c": idle}}
    useful, others = [], []
    for seed in SEEDS:
        found = train(sensors(seed, data, fusion=fusion)).result.maps
        (weights,) = (m.values for m in found if m.name == "modalities")
        useful.append(float(weights[:, 1].mean()))
        others.append(float(weights[:, [0, 2]].max(1).mean()))
    assert_better(useful, others, margin=0.02 if fusion == "late" else 0.2)


def test_hybrid_gates_point_at_the_modality_that_tells_the_label_of_each_row():
    data = {"rows": 300, "planted": "pointer", "signal": 6.0, "modalities": dict.fromkeys("abc", VECTOR)}
    pointed, elsewhere = [], []
    for seed in SEEDS:
        config = sensors(seed, data, fusion="hybrid")
        inside, outside = weights_on_target(train(config), config, "modalities")
        pointed.append(inside)
        elsewhere.append(outside)
    assert_better(pointed, elsewhere, margin=0.2)


def test_what_late_fusion_says_of_each_modality_tells_how_much_it_knows():
    """The answers of the useful modality tell the label about as well as all together; those of the others do not."""
    idle = {**VECTOR, "useful": False}
    data = {"rows": 300, "planted": "additive", "signal": 6.0, "modalities": {"b": idle, "a": VECTOR, "c": idle}}
    by_itself: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for seed in SEEDS:
        result = train(sensors(seed, data, fusion="late"))
        (answers,) = (m for m in result.result.maps if m.name == "outcome by modality")
        target = result.materials.dataset.gather(torch.from_numpy(answers.row)).targets["outcome"].numpy()
        for place, found in by_itself.items():
            found.append(float(rank_auroc(answers.values[:, place], target, np.ones(len(target), dtype=bool))))
    for place in (0, 2):
        assert_better(by_itself[1], by_itself[place], margin=0.3)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("encoder", ["gru", "cnn", "transformer", "lstm"])
def test_an_encoder_tells_which_of_two_events_comes_first_in_patches_too(encoder, patch):
    """Attention pooling alone cannot: see the twin's own test."""
    twin = partial(two_events, length=8)
    told = [score(twin, seed, fusion="early", encoder=encoder, patch=patch, num_layers=2) for seed in SEEDS]
    assert_better(told, [0.5] * len(told), margin=0.2)


def swings(config: Experiment, rows: int = 240, length: int = 24) -> Materials:
    """A sequence of noise around zero that swings further where the label is yes; its mean tells nothing."""
    rng = np.random.default_rng(config.seed)
    label = rng.random(rows) < 0.5
    track = rng.normal(size=(rows, length, 4)) * np.where(label, 1.5, 1.0)[:, None, None]
    return made(config, {"track": track}, {"track": padding(rng, rows, length)}, label)


def test_statistics_tell_how_far_a_movement_swings():
    """Better than a state that a GRU ends in; attention, a CNN's own way, finds it as well."""
    found = {
        pooling: [score(swings, seed, fusion="early", encoder="gru", pooling=pooling, patch=1) for seed in SEEDS]
        for pooling in ("statistics", "own")
    }
    assert_better(found["statistics"], found["own"], margin=0.03)


def sits_otherwise(rng: np.random.Generator, person: np.ndarray, label: np.ndarray, length: int) -> np.ndarray:
    """A sensor that swings further where the label is yes, around what depends on how the person wears it."""
    swing = np.where(label, 1.6, 1.0)[:, None, None] * rng.normal(size=(len(person), length, 4))
    return swing + 1.5 * rng.normal(size=(person.max() + 1, 1, 4))[person]


def moves_otherwise(rng: np.random.Generator, person: np.ndarray, label: np.ndarray, length: int) -> np.ndarray:
    """A faint wave, twice as fast where the label is yes, in noise; persons move with different vigour."""
    turns = np.pi * (np.arange(length) + 0.5) / np.where(label, 1, 2)[:, None]
    wave = 0.3 * np.sign(np.sin(turns))[..., None] + rng.normal(size=(len(person), length, 4))
    return wave * np.exp(0.7 * rng.normal(size=(person.max() + 1, 1, 4)))[person]


@pytest.mark.parametrize(
    ("augmentation", "twin"), [({"offset": 1.0}, sits_otherwise), ({"scaling": 0.5}, moves_otherwise)]
)
def test_distortions_teach_a_model_not_to_go_by_who_it_is(augmentation, twin):
    """Each person does one thing more often than the other, so that on few of them who it is tells the label."""
    plain, distorted = [], []
    for seed in SEEDS:
        for found, settings in ((plain, {}), (distorted, augmentation)):
            training = {**LONGER, "restore": "last"}
            config = sensors(seed, {"rows": 20, "groups": 5}, training, fusion="early", encoder="cnn", patch=1)
            tree = {**config.resolved(), "augmentation": settings, "folds": {"protocol": "loso"}}
            found.append(trained(partial(people, twin), resolve(tree, "test")).auroc)
    assert_better(distorted, plain, margin=0.04)


def people(
    track: Callable[..., np.ndarray], config: Experiment, persons: int = 6, rows: int = 60, length: int = 12
) -> Materials:
    rng = np.random.default_rng(config.seed)
    person = np.repeat(np.arange(persons), rows)
    label = rng.random(len(person)) < np.where(person % 2, 0.85, 0.15)
    inputs = {"track": track(rng, person, label, length)}
    return made(config, inputs, {"track": np.ones((len(person), length), bool)}, label, person)
