"""Specs and rows of streams on one clock: audio, visual, and tracks with values of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fusion_lab.config import validate
from fusion_lab.contracts import Batch, Feature, Modality, Spec, Task
from fusion_lab.zoo.multitrack import Multitrack, MultitrackConfig

SMALL = {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "dim_feedforward": 16, "dropout": 0.0}
STREAMS = ("audio", "visual", "track")
VALUES = ("scale", "pos_x", "pos_y", "crop_l", "crop_r", "crop_t", "crop_b")
QUANTITIES = ("active", "asset", *VALUES)


def stream(name: str, width: int, length: int) -> Modality:
    return Modality(name, "sequence", tuple(Feature(f"{name} {i}") for i in range(width)), length)


def unit_names(count: int) -> tuple[str, ...]:
    return tuple(f"track {i + 1}" for i in range(count))


def tracks(count: int, length: int, quantities: tuple[str, ...] = QUANTITIES) -> Modality:
    """The values of every track, track after track."""
    features = (Feature(f"{unit} {q}", unit=unit, quantity=q) for unit in unit_names(count) for q in quantities)
    return Modality("track", "sequence", tuple(features), length)


def track_tasks(
    count: int, assets: int = 10, causal: bool = True, steps: tuple[str, ...] = STREAMS
) -> tuple[Task, ...]:
    """Active, asset and the values of each track."""
    active = Task("active", "binary", ("idle", "active"), steps, "", unit_names(count), causal)
    asset = replace(active, name="asset", kind="multiclass", classes=tuple(f"asset {i}" for i in range(assets)))
    return (active, asset, *(replace(active, name=name, kind="regression", classes=()) for name in VALUES))


def editing(audio: int = 5, visual: int = 522, count: int = 20, length: int = 100, causal: bool = True) -> Spec:
    """The published streams."""
    modalities = (stream("audio", audio, length), stream("visual", visual, length), tracks(count, length))
    return Spec(modalities, track_tasks(count, causal=causal))


def rows_of(spec: Spec, rows: int = 3, seed: int = 0, there: float = 0.7) -> Batch:
    """Random rows in float64, padded in front; a stream is there at this share of the steps."""
    g = torch.Generator().manual_seed(seed)
    inputs, valid = {}, {}
    for m in spec.modalities:
        shape = m.shape[:-1]
        valid[m.name] = torch.rand(rows, *shape, generator=g) < there
        if m.kind == "sequence":
            begin = torch.randint(0, (m.length or 0) // 2 + 1, (rows, 1), generator=torch.Generator().manual_seed(seed))
            valid[m.name] &= torch.arange(m.length or 0) >= begin
        inputs[m.name] = torch.randn(rows, *m.shape, generator=g, dtype=torch.float64) * valid[m.name].unsqueeze(-1)
    observed = {n: v.unsqueeze(-1).expand_as(inputs[n]) for n, v in valid.items()}
    quality = {m.name: torch.ones(rows, dtype=torch.float64) for m in spec.modalities}
    return Batch(inputs, valid, observed, quality, {}, {}, torch.ones(rows, dtype=torch.float64))


def made(spec: Spec, seed: int = 0, **settings) -> Multitrack:
    """A small model, every number of it drawn. It is the same object for the same settings: what is hung on it has to
    be taken off again.
    """
    model, real = _built(spec, tuple(sorted(settings.items())))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
            parameter.copy_((0.4 * drawn + 0.1 * drawn.sign()) * real[name])  # none is nearly 0
    return model


@cache
def _built(spec: Spec, settings: tuple[tuple[str, Any], ...]) -> tuple[Multitrack, dict[str, Tensor]]:
    tree = {"family": "multitrack", **SMALL, **dict(settings)}
    model = Multitrack(validate(MultitrackConfig, tree, "test"), spec).double()
    return model, model.real_parameters()


@contextmanager
def watched(module: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """What it is given, and what it gives."""
    seen: list[tuple[Any, Any]] = []
    handle = module.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    try:
        yield seen
    finally:
        handle.remove()


def without(batch: Batch, *names: str) -> Batch:
    """The rows as if these streams had not been recorded."""
    gone = {n: torch.zeros_like(batch.valid[n]) for n in names}
    empty: dict[str, Tensor] = {n: torch.zeros_like(batch.inputs[n]) for n in names}
    return batch._replace(inputs=batch.inputs | empty, valid=batch.valid | gone)


def replaced(batch: Batch, *names: str, seed: int = 9) -> Batch:
    """The rows with other values, at other steps, of these streams."""
    g = torch.Generator().manual_seed(seed)
    valid = {n: torch.rand(batch.valid[n].shape, generator=g) < 0.5 for n in names}
    inputs = {
        n: torch.randn(batch.inputs[n].shape, generator=g, dtype=torch.float64) * valid[n].unsqueeze(-1) for n in names
    }
    return batch._replace(inputs=batch.inputs | inputs, valid=batch.valid | valid)
