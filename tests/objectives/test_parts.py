"""The objective's parts: the published loss of tracks, its curves, weights and faults."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multitrack_material import VALUES, made, rows_of, track_tasks, tracks
from torch import Tensor
from torch.nn import functional as F

from fusion_lab.config import validate
from fusion_lab.contracts import Batch, ConfigError, Output, Spec, Task
from fusion_lab.objectives import PART, Objective, ObjectiveConfig

LENGTH, COUNT, ASSETS, ROWS = 4, 3, 5, 3
TASKS = track_tasks(COUNT, ASSETS, steps=("track",))
SPEC = Spec((tracks(COUNT, LENGTH),), TASKS)
PARTS = {"position": ("pos_x", "pos_y"), "crop": ("crop_l", "crop_r", "crop_t", "crop_b")}
FIVE = ("active", "asset", "scale", "position", "crop")
REFERENCE = ObjectiveConfig(binary="bce", multiclass="cross_entropy", regression="mse", parts=PARTS)
CLASS_WEIGHTS = {t.name: torch.ones(max(2, t.outputs)).double() for t in TASKS}


def multi_track_loss(
    heads: dict[str, Tensor], targets: dict[str, Tensor], frames: Tensor, weights: dict[str, float]
) -> dict[str, Tensor]:
    """The published loss, written from its description: ``frames`` bool [B,T] are valid, two logits tell active, a
    regression counts where the track is active.
    """
    valid = frames[..., None].expand(-1, -1, COUNT)
    active = valid & (targets["active"] == 1)

    def entropy(logits: Tensor, codes: Tensor) -> Tensor:
        return F.cross_entropy(logits[valid], codes[valid].long(), reduction="sum") / max(1, int(valid.sum()))

    def squared(name: str) -> Tensor:
        return ((heads[name] - targets[name]) ** 2)[active].sum() / max(1, int(active.sum()))

    two = torch.stack([torch.zeros_like(heads["active"]), heads["active"]], dim=-1)
    parts = {
        "active": entropy(two, targets["active"]),
        "asset": entropy(heads["asset"], targets["asset"]),
        "scale": squared("scale"),
        "position": squared("pos_x") + squared("pos_y"),
        "crop": squared("crop_l") + squared("crop_r") + squared("crop_t") + squared("crop_b"),
    }
    weighted = {name: weights.get(name, 1.0) * loss for name, loss in parts.items()}
    return {"total": torch.stack(list(weighted.values())).sum(), **weighted}


def drawn(seed: int) -> tuple[Output, Batch, dict[str, Tensor], Tensor]:
    """Answers, rows whose regressions are known where a track is active, all targets, valid frames."""
    g = torch.Generator().manual_seed(seed)
    shape = (ROWS, LENGTH, COUNT)
    heads = {t.name: torch.randn(*shape, *([ASSETS] if t.classes[2:] else []), generator=g).double() for t in TASKS}
    targets = {name: torch.randn(shape, generator=g).double() for name in VALUES}
    targets["active"] = (torch.rand(shape, generator=g) < 0.4).double()
    targets["asset"] = torch.randint(ASSETS, shape, generator=g).double()
    frames = torch.rand(ROWS, LENGTH, generator=g) < 0.8
    valid = frames.unsqueeze(-1).expand(shape)
    known = {t.name: valid & (targets["active"] == 1) if t.kind == "regression" else valid for t in TASKS}
    batch = Batch({}, {}, {}, {}, targets, known, torch.ones(ROWS).double())
    return Output(heads, {}, {}), batch, targets, frames


SHARES = st.dictionaries(st.sampled_from(FIVE), st.sampled_from([0.0, 0.5, 1.0, 3.0]), max_size=5)


@settings(max_examples=100)
@given(seed=st.integers(0, 9_999), weights=SHARES)
def test_property_17_the_loss_is_the_published_one_and_its_five_parts_add_up(seed, weights):
    """Fails when ``_counted`` takes all targets for known: ``torch.ones_like(known)`` in place of ``known``."""
    if all(weights.get(name, 1.0) == 0 for name in FIVE):
        return
    output, batch, targets, frames = drawn(seed)
    objective = Objective(REFERENCE.model_copy(update={"task_weights": weights}), SPEC)
    total, curves = objective.with_curves(output, batch, CLASS_WEIGHTS)
    expected = multi_track_loss(output.heads, targets, frames, weights)
    torch.testing.assert_close(total, expected.pop("total"))
    assert list(curves) == [f"{PART}{name}" for name in FIVE]
    for name, loss in expected.items():
        torch.testing.assert_close(curves[f"{PART}{name}"], loss)
    torch.testing.assert_close(torch.stack(list(curves.values())).sum(), total)


@settings(max_examples=100)
@given(seed=st.integers(0, 9_999))
def test_property_17_equal_answers_have_the_loss_of_the_track_alone(seed):
    """Of a model that reads other streams too and one that does not, where they say the same. Fails when the objective
    multiplies its total by the number of modalities that the batch holds: ``len(batch.inputs)``.
    """
    spec = replace(SPEC, tasks=TASKS[:3])
    objective = Objective(REFERENCE.model_copy(update={"parts": {}}), spec)
    alone, targets = rows_of(spec, ROWS, seed), drawn(seed)[1]
    beside = alone._replace(
        inputs={**alone.inputs, "audio": torch.ones(ROWS, LENGTH, 2).double()},
        valid={**alone.valid, "audio": torch.ones(ROWS, LENGTH, dtype=torch.bool)},
    )
    answers = made(spec, seed)(alone)
    losses = [
        objective(answers, batch._replace(targets=targets.targets, known=targets.known), CLASS_WEIGHTS)
        for batch in (alone, beside)
    ]
    torch.testing.assert_close(*losses, rtol=0, atol=0)


def test_without_parts_there_are_no_curves_of_them():
    output, batch, *_ = drawn(0)
    objective = Objective(REFERENCE.model_copy(update={"parts": {}}), SPEC)
    assert objective.with_curves(output, batch, CLASS_WEIGHTS)[1] == {}
    assert objective.parts_of_main_tasks(output, batch, CLASS_WEIGHTS) == {}


def test_parts_hold_no_gradient_and_stand_beside_penalties():
    output, batch, *_ = drawn(1)
    heads = {name: head.requires_grad_() for name, head in output.heads.items()}
    output = Output(heads, {"kl": torch.rand(ROWS).double().requires_grad_()}, {})
    total, curves = Objective(REFERENCE, SPEC, ("kl",)).with_curves(output, batch, CLASS_WEIGHTS)
    assert total.requires_grad
    assert not any(curve.requires_grad for curve in curves.values())
    assert list(curves) == [*(f"{PART}{name}" for name in FIVE), "kl"]
    torch.testing.assert_close(torch.stack(list(curves.values())).sum(), total.detach())


def test_auxiliary_tasks_are_in_the_parts_of_training_and_in_none_of_validation():
    tasks = (*TASKS[:5], *(replace(t, auxiliary="frame") for t in TASKS[5:]))
    objective, (output, batch, *_) = Objective(REFERENCE, Spec((), tasks)), drawn(2)
    trained = objective.with_curves(output, batch, CLASS_WEIGHTS)[1]
    judged = objective.parts_of_main_tasks(output, batch, CLASS_WEIGHTS)
    assert list(judged) == [f"{PART}{name}" for name in FIVE[:4]]
    assert list(trained) == [f"{PART}{name}" for name in FIVE]
    torch.testing.assert_close(
        torch.stack(list(judged.values())).sum(), objective.of_main_tasks(output, batch, CLASS_WEIGHTS)
    )


def test_the_weight_of_a_part_multiplies_those_of_its_tasks():
    output, batch, *_ = drawn(3)
    weights = {"position": 2.0, "pos_x": 0.25, "crop": 0.0}
    whole = Objective(REFERENCE.model_copy(update={"task_weights": weights}), SPEC)(output, batch, CLASS_WEIGHTS)
    single = {"pos_x": 0.5, "pos_y": 2.0, **dict.fromkeys(PARTS["crop"], 0.0)}
    config = REFERENCE.model_copy(update={"task_weights": single, "parts": {}})
    torch.testing.assert_close(whole, Objective(config, SPEC)(output, batch, CLASS_WEIGHTS))


FAULTS = {
    "a strange task": ({"parts": {"crop": ["crop_m"]}}, "objective.parts.crop: unknown task 'crop_m' (did you mean"),
    "twice": ({"parts": {"a": ["scale"], "b": ["scale"]}}, "objective.parts.b: expected tasks of one part each, found"),
    "a task's name": ({"parts": {"scale": ["pos_x"]}}, "objective.parts.scale: expected a name that is no task's"),
    "a strange weight": (
        {"parts": {"crop": ["crop_l"]}, "task_weights": {"crops": 2.0}},
        "objective.task_weights.crops: unknown task (did you mean 'crop'",
    ),
    "nothing left": (
        {"parts": {"all": [t.name for t in TASKS]}, "task_weights": {"all": 0.0}},
        "objective.task_weights: expected a weight above 0",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_told_in_one_line(case):
    tree, message = FAULTS[case]
    with pytest.raises(ConfigError, match=re.escape(message)) as told:
        Objective(validate(ObjectiveConfig, tree, "here"), SPEC)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("parts", [{"crop": []}, {"a/b": ["scale"]}, {"": ["scale"]}])
def test_a_part_has_a_plain_name_and_a_task(parts):
    with pytest.raises(ConfigError, match="parts"):
        validate(ObjectiveConfig, {"parts": parts}, "here")


def test_parts_are_in_the_order_of_their_first_tasks():
    spec = Spec((), tuple(Task(name, "regression") for name in ("x", "size", "y")))
    output = Output({name: torch.zeros(2) for name in ("x", "size", "y")}, {}, {})
    batch = Batch(
        {}, {}, {}, {}, output.heads, {n: torch.ones(2, dtype=torch.bool) for n in output.heads}, torch.ones(2)
    )
    objective = Objective(ObjectiveConfig(parts={"place": ("y", "x")}), spec)
    assert list(
        objective.with_curves(
            output,
            batch,
            dict.fromkeys("x", torch.ones(1)) | CLASS_WEIGHTS | {"size": torch.ones(1), "y": torch.ones(1)},
        )[1]
    ) == [f"{PART}place", f"{PART}size"]
