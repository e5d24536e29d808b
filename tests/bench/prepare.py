"""Writes cases for the opponents from the product's own plans: the same rows, folds, orders and initial weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ours import TASK, make_plan
from reference import WIDTHS
from settings import PARAMETERS, Settings
from torch import Tensor

from fusion_lab.training import Plan
from fusion_lab.training.batches import draw
from fusion_lab.training.execution import settle


def write_case(file: Path, settings: Settings) -> None:
    """One file that :func:`opponents.load` reads."""
    plan = make_plan(settings, "loop")
    everything = plan.dataset.gather(torch.arange(len(plan.dataset)))
    assert everything.known[TASK].all(), "opponents do without a mask of known labels"
    class_weights = plan.objective.class_weights(everything.targets, everything.known, plan.folds.train)[TASK]
    leaves = {
        "inputs": everything.inputs,
        "observed": everything.observed,
        "valid": everything.valid,
        "labels": everything.targets[TASK],
        "folds": [
            _fold(plan, k) | {"class_weights": class_weights[k].clone(), "weights": _weights(settings, plan, k)}
            for k in range(len(plan.folds))
        ],
    }
    torch.save(leaves, file)


def told(settings: Settings) -> dict[str, Any]:
    """The model's size, and how the product left to itself computes these folds, timed here and now."""
    model = make_plan(settings, "loop").initial_weights(0)
    execution = settle(make_plan(settings, "auto"))
    return {
        "parameters": PARAMETERS[settings.d_model] if settings.case == "relapse" else model.count_parameters(),
        "auto": {"mode": execution.mode, "reason": execution.reason},
    }


def _fold(plan: Plan, k: int) -> dict:
    parts = {n: torch.from_numpy(np.flatnonzero(getattr(plan.folds, n)[k])) for n in ("train", "val", "test")}
    scaler = plan.scaler.fold(k).modalities
    assert not any(part.fill.any() for part in scaler.values()), "opponents put missing cells at the mean, which is 0"
    return {
        **parts,
        "orders": [_order(plan, k, epoch, parts["train"]) for epoch in range(plan.training.epochs)],
        "shift": {name: part.shift.clone() for name, part in scaler.items()},
        "scale": {name: part.scale.clone() for name, part in scaler.items()},
    }


def _weights(settings: Settings, plan: Plan, k: int) -> dict[str, Tensor]:
    """Of the model that the opponents train: the relapse model is another, the activity model is ours."""
    ours = plan.initial_weights(k)
    return reference_weights(dict(ours.named_parameters())) if settings.case == "relapse" else ours.state_dict()


def _order(plan: Plan, k: int, epoch: int, train: Tensor) -> Tensor:
    """The epoch's rows as places in ``train``, in the order in which the product's batches hold them."""
    drawn = torch.from_numpy(np.concatenate([rows[0][real[0]] for rows, real in draw(plan, [k], epoch)]))
    return torch.searchsorted(train, drawn)


def reference_weights(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the product's model, or gradients, under the names and in the shapes of the reference.

    Ours has no bias of the keys, which changes no output: the reference's is 0.
    """
    ours = {name: leaf.detach() for name, leaf in ours.items()}
    weights = {"kind": ours["fusion.kind"], **_layer(ours, "fusion.layers.0", 0, "fusion.layers.0")}
    for g, (name, width) in enumerate(WIDTHS.items()):
        there = f"encoders.{name}"
        project = "encoders.0.project"
        weights |= {
            f"{there}.summary": ours["encoders.0.summary"][g],
            f"{there}.positions": ours["encoders.0.positions"][g],
            f"{there}.project.0.weight": ours[f"{project}.linear.weight"][g, :width].T,
            f"{there}.project.0.bias": ours[f"{project}.linear.bias"][g],
            f"{there}.project.1.weight": ours[f"{project}.norm.weight"][g].flatten(),
            f"{there}.project.1.bias": ours[f"{project}.norm.bias"][g].flatten(),
            **_layer(ours, "encoders.0.last", g, f"{there}.transformer.layers.0"),
        }
    for here, there in (("hidden", "0"), ("out", "3")):
        weights |= {f"head.{there}.{kind}": ours[f"heads.0.{here}.{kind}"] for kind in ("weight", "bias")}
    return {name: leaf.clone(memory_format=torch.contiguous_format) for name, leaf in weights.items()}


def _layer(ours: Mapping[str, Tensor], here: str, g: int, there: str) -> dict[str, Tensor]:
    """Group ``g`` of a transformer layer; ``torch.nn.Linear`` keeps its weight transposed."""
    leaf = {name.removeprefix(f"{here}."): part[g] for name, part in ours.items() if name.startswith(f"{here}.")}
    q, k, v, o = (leaf[f"attention.weight.{n}"].T for n in "qkvo")
    q_bias, v_bias, o_bias = (leaf[f"attention.bias.{n}"].flatten() for n in "qvo")
    weights = {
        "self_attn.in_proj_weight": torch.cat([q, k, v]),
        "self_attn.in_proj_bias": torch.cat([q_bias, torch.zeros_like(q_bias), v_bias]),
        "self_attn.out_proj.weight": o,
        "self_attn.out_proj.bias": o_bias,
        "linear1.weight": leaf["feed.up.weight"].T,
        "linear1.bias": leaf["feed.up.bias"],
        "linear2.weight": leaf["feed.down.weight"].T,
        "linear2.bias": leaf["feed.down.bias"],
    }
    for norm, name in (("norm1", "norm_attention"), ("norm2", "norm_feed")):
        weights |= {f"{norm}.{kind}": leaf[f"{name}.{kind}"].flatten() for kind in ("weight", "bias")}
    return {f"{there}.{name}": weight for name, weight in weights.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for file, request in json.loads(sys.argv[1]):
        of_case = Settings(**request)
        write_case(Path(file), of_case)
        sys.stdout.write(json.dumps(told(of_case)) + "\n")
