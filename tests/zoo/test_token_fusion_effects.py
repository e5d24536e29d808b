"""What each encoder and fusion at every step do to a score, on twins made for them, over five seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.test_effects import Trained, assert_better, experiment, train, weights_on_target

from fusion_lab.contracts import Feature, Modality, Spec, Task
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.splits import make_folds
from fusion_lab.evaluation.metrics import rank_auroc
from fusion_lab.experiment import Experiment, Materials
from fusion_lab.training import cross_validate

pytestmark = pytest.mark.slow
SEEDS = range(5)
SEQUENCE = {"kind": "sequence", "width": 6, "length": 8}
ALONG_TIME = ("transformer", "gru", "cnn")
"""Encoders to which the order of steps means something."""


def auroc(trained: Trained) -> float:
    """Mean over folds, of the test rows or of all their known steps."""
    test, (task,) = trained.result.predictions.of("test"), trained.materials.spec.tasks
    scores = []
    for fold in range(len(trained.materials.folds)):
        rows = test.fold == fold
        parts = (part[task.name][rows].ravel() for part in (test.score, test.target, test.known))
        scores.append(float(rank_auroc(*parts)))
    return float(np.mean(scores))


def only(name: str) -> Callable[[Materials], Materials]:
    """The same rows, folds and labels with one sequence."""

    def change(materials: Materials) -> Materials:
        data = materials.dataset
        assert isinstance(data, ArrayDataset)
        tasks = tuple(replace(task, steps=(name,)) for task in data.spec.tasks)
        parts = {part: {name: getattr(data, part)[name]} for part in ("inputs", "valid", "observed", "quality")}
        return Materials(replace(data, spec=Spec((data.spec.modality(name),), tasks), **parts), materials.folds)

    return change


@pytest.mark.parametrize(
    ("fusion", "encoder"),
    [
        ("transformer", "transformer"),
        ("bottleneck", "transformer"),
        ("gated", "transformer"),
        ("transformer", "gru"),
        ("transformer", "cnn"),
        ("transformer", "attention"),
    ],
)
def test_fusion_at_every_step_finds_what_no_sequence_shows(fusion, encoder):
    data = {
        "rows": 200,
        "signal": 6.0,
        "modalities": {"left": SEQUENCE, "right": SEQUENCE},
        "tasks": {"edit": {"per_step": True}},
    }
    fused, best_single = [], []
    for seed in SEEDS:
        config = experiment(seed, data, {"fusion": fusion, "sequence_encoder": encoder})
        fused.append(auroc(train(config)))
        best_single.append(max(auroc(train(config, only(name))) for name in ("left", "right")))
    assert_better(fused, best_single, margin=0.2)


def made(
    config: Experiment, x: np.ndarray, valid: np.ndarray, target: np.ndarray, known: np.ndarray, steps: tuple[str, ...]
) -> Materials:
    """Rows of one sequence, ``x [R,T,F]``, with a label per row or step."""
    rows, length, width = x.shape
    track = Modality("track", "sequence", tuple(Feature(f"track {i}") for i in range(width)), length)
    task = Task("outcome", "binary", ("no", "yes"), steps)
    data = ArrayDataset.checked(
        spec=Spec((track,), (task,)),
        ids=np.array([f"row {i}" for i in range(rows)]),
        inputs={"track": torch.from_numpy(x.astype(np.float32))},
        valid={"track": torch.from_numpy(valid)},
        observed={"track": torch.ones(x.shape, dtype=torch.bool)},
        quality={"track": torch.ones(rows)},
        targets={task.name: torch.from_numpy(target.astype(np.float32))},
        known={task.name: torch.from_numpy(known)},
        provenance=Materials.load(config).dataset.provenance,
    )
    return Materials(data, make_folds(config.folds, data))


def padding(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    """bool ``[R,T]``: the last half to all of the steps."""
    return np.arange(length) >= length - rng.integers((length + 1) // 2, length + 1, rows)[:, None]


def two_events(config: Experiment, rows: int = 600, length: int = 6) -> Materials:
    """Two events at steps of their own; the label is which of them comes first."""
    rng = np.random.default_rng(config.seed)
    valid = padding(rng, rows, length)
    x = rng.normal(size=(rows, length, 3))
    draw = np.where(valid, rng.random((rows, length)), np.inf).argsort(1)
    first, second, every = draw[:, 0], draw[:, 1], np.arange(rows)
    x[every, first, 0] += 4
    x[every, second, 1] += 4
    return made(config, x, valid, first < second, np.ones(rows, dtype=bool), ())


def echo(config: Experiment, rows: int = 250, length: int = 6) -> Materials:
    """A sign at every step; the label of a step is the sign of the step before, where there is one."""
    rng = np.random.default_rng(config.seed)
    valid = padding(rng, rows, length)
    sign = rng.choice([-1.0, 1.0], (rows, length))
    x = rng.normal(size=(rows, length, 3)) + 3 * sign[..., None]
    known = valid & np.pad(valid[:, :-1], ((0, 0), (1, 0)))
    return made(config, x, valid, np.roll(sign, 1, axis=1) > 0, known, ("track",))


LONGER = {"epochs": 30, "patience": 30, "batch_size": 64, "mode": "stacked", "device": "cpu"}


def score(twin: Callable[[Experiment], Materials], seed: int, encoder: str) -> float:
    model = {"fusion": "gated", "num_encoder_layers": 2, "sequence_encoder": encoder}
    config = experiment(seed, {"rows": 20}, model, training=LONGER)
    materials = twin(config)
    return auroc(Trained(materials, cross_validate(materials.plan(config))))


@pytest.mark.parametrize("twin", [two_events, echo])
def test_an_encoder_along_time_tells_an_order_that_attention_pooling_cannot(twin):
    found = {encoder: [score(twin, seed, encoder) for seed in SEEDS] for encoder in (*ALONG_TIME, "attention")}
    assert abs(np.mean(found["attention"]) - 0.5) < 0.05, found
    for encoder in ALONG_TIME:
        assert_better(found[encoder], found["attention"], margin=0.25)


@pytest.mark.parametrize(("kind", "option"), [("sequence", "sequence_encoder"), ("bag", "bag_encoder")])
def test_attention_pooling_finds_the_place_that_carries_the_label(kind, option):
    data = {
        "rows": 400,
        "planted": "pointer",
        "signal": 6.0,
        "modalities": {"track": {"kind": kind, "width": 6, "length": 6}, "admin": {"width": 2, "useful": False}},
    }
    pointed, elsewhere, told = [], [], []
    for seed in SEEDS:
        config = experiment(seed, data, {"fusion": "gated", option: "attention", "num_encoder_layers": 0})
        trained = train(config)
        inside, outside = weights_on_target(trained, config, f"track {'steps' if kind == 'sequence' else 'instances'}")
        pointed.append(inside)
        elsewhere.append(outside)
        told.append(auroc(trained))
    assert_better(pointed, elsewhere, margin=0.3)
    assert_better(told, [0.5] * len(told), margin=0.2)
