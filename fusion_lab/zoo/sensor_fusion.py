"""sensor_fusion: early, late or hybrid fusion over an encoder per sensor."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fusion_lab.blocks.answering import EarlyFusion, LateFusion, Steps
from fusion_lab.blocks.encoders import Asked, Encoded, TokenEncoder, VectorEncoder
from fusion_lab.blocks.grouped import GroupedNorm
from fusion_lab.blocks.hybrid import HybridFusion
from fusion_lab.blocks.lstm import LSTMEncoder
from fusion_lab.blocks.patches import patch_count, to_patches
from fusion_lab.blocks.pooling import AttentionEncoder
from fusion_lab.blocks.randomness import Noise
from fusion_lab.blocks.sequence import ConvolutionEncoder, GRUEncoder
from fusion_lab.blocks.statistics import StatisticsPooling
from fusion_lab.contracts import Axis, Batch, ConfigError, Modality, Output, Spec
from fusion_lab.zoo.modalities import Group, group_modalities, place_map, places, present, stack_group, told
from fusion_lab.zoo.model import AttentionConfig, MapSpec, Model


class SensorFusionConfig(AttentionConfig):
    """Settings of :class:`SensorFusion`.

    ``early`` concatenates the sensors' tokens, ``late`` adds up the answers that each sensor gives by itself,
    ``hybrid`` lets each sensor's token read the others' time steps before gates weigh them. ``patch`` consecutive
    samples make one time step of the ``encoder``. An ``lstm`` cannot be stacked over folds. ``pooling`` makes a token
    of an encoder's steps: their ``statistics``, or the encoder's ``own`` way (last state, attention, summary token).
    """

    family: Literal["sensor_fusion"] = "sensor_fusion"
    fusion: Literal["early", "late", "hybrid"] = "hybrid"
    encoder: Literal["gru", "cnn", "transformer", "lstm"] = "gru"
    pooling: Literal["statistics", "own"] = "statistics"
    num_layers: int = Field(1, ge=1, le=12)
    patch: int = Field(8, ge=1, le=4096)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)


class SensorFusion(Model):
    """An encoder per sensor and a layer norm make tokens ``[M,B,D]``; their fusion, of width 2 D, answers the tasks of
    a row.

    Raises:
        ConfigError: a task has a target per time step.
    """

    Config = SensorFusionConfig

    def __init__(self, config: SensorFusionConfig, spec: Spec) -> None:
        self.super_init()
        _check_tasks(spec)
        self.names = tuple(m.name for m in spec.modalities)
        self.tasks = tuple(t.name for t in spec.tasks)
        self.patch = {m.name: min(config.patch, m.length or 1) for m in spec.modalities if m.kind == "sequence"}
        widths = {m.name: m.width * self.patch.get(m.name, 1) for m in spec.modalities}
        read = _read(spec, config)
        pooled = {m.name for m in spec.modalities if m.length is not None and config.pooling == "statistics"}
        asked = {n: Asked(token=n not in pooled, steps=n in read or n in pooled) for n in self.names}
        # up to this width a projection costs less than what follows it, and another group another pass over time
        self.groups = group_modalities(spec.modalities, asked, widths, narrow=max(64, 4 * config.d_model))
        self.encoders = nn.ModuleList(
            _encoder(group, tuple(widths[m.name] for m in group), asked[group[0].name], config) for group in self.groups
        )
        self.pools = nn.ModuleList(
            StatisticsPooling(len(group), config.d_model) if group[0].name in pooled else nn.Identity()
            for group in self.groups
        )
        self.norms = nn.ModuleList(GroupedNorm(len(group), config.d_model) for group in self.groups)
        self.fusion = _fusion(spec, config)
        self.maps = _encoder_maps(self.groups, self.encoders, config.patch) | _fusion_maps(spec, config)
        self.read = read

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        encoded, valid, maps = self._encode(batch, noise)
        tokens = torch.stack([told(encoded[name].token) for name in self.names])
        there = torch.stack([present(valid[name]) for name in self.names])
        steps = {self.names.index(name): Steps(told(encoded[name].steps), valid[name]) for name in self.read}
        heads, weights, own, asked = self.fusion(tokens, there, steps, noise)
        if weights is not None:
            maps["modalities"] = weights
        maps |= {_own_map(task): of for task, of in zip(self.tasks, own, strict=False)}
        maps |= {self.read[self.names[place]]: of for place, of in asked.items()}
        return Output(dict(zip(self.tasks, heads, strict=True)), {}, maps)

    def _encode(
        self, batch: Batch, noise: Noise | None
    ) -> tuple[dict[str, Encoded], dict[str, Tensor], dict[str, Tensor]]:
        """Every modality's normalised token and its steps, without the group axis; what is valid of them; the maps of
        the encoders.
        """
        made = {n: to_patches(batch.inputs[n], batch.valid[n], size) for n, size in self.patch.items()}
        inputs = batch.inputs | {name: x for name, (x, _) in made.items()}
        valid = batch.valid | {name: there for name, (_, there) in made.items()}
        encoded, maps = {}, {}
        for group, encoder, pool, norm in zip(self.groups, self.encoders, self.pools, self.norms, strict=True):
            x, there = stack_group(group, inputs, valid)
            token, weights, steps = encoder(x, there, noise)
            if isinstance(pool, StatisticsPooling):
                token = pool(told(steps), there)
            token = norm(token.unsqueeze(2)).squeeze(2)
            for g, modality in enumerate(group):
                encoded[modality.name] = Encoded(token[g], steps=None if steps is None else steps[g])
                if weights is not None:
                    maps[place_map(modality)] = weights[g]
        return encoded, valid, maps


def _check_tasks(spec: Spec) -> None:
    for task in spec.tasks:
        if task.per_step:
            expected = "expected tasks per row with sensor_fusion (token_fusion answers per step)"
            raise ConfigError(f"model.family: {expected}, found task {task.name!r} with a target per step")


def _steps(modality: Modality, patch: int) -> int:
    """T of a sequence in patches, N of a bag, 1 of a vector."""
    length = modality.length or 1
    return patch_count(length, min(patch, length)) if modality.kind == "sequence" else length


def _read(spec: Spec, config: SensorFusionConfig) -> dict[str, str]:
    """The modalities whose steps the others read, and the name of the map of what they weigh there."""
    if config.fusion != "hybrid" or len(spec.modalities) == 1:
        return {}
    return {m.name: f"{place_map(m)} asked by others" for m in spec.modalities if _steps(m, config.patch) > 1}


def _encoder(group: Group, widths: tuple[int, ...], asked: Asked, config: SensorFusionConfig) -> nn.Module:
    """``encoder`` for sequences; instances of a bag have no order, so that only a transformer is one for both."""
    width, layers, dropout, first = config.d_model, config.num_layers, config.dropout, group[0]
    length = _steps(first, config.patch)
    if first.length is None:
        return VectorEncoder(widths, width, layers, dropout)
    if config.encoder == "transformer":
        return TokenEncoder(widths, length, first.kind == "sequence", width, layers, config.nhead, dropout, asked)
    if first.kind == "bag":
        return AttentionEncoder(widths, width, layers, dropout, asked)
    if config.encoder == "cnn":
        return ConvolutionEncoder(widths, length, width, layers, dropout, asked)
    return {"gru": GRUEncoder, "lstm": LSTMEncoder}[config.encoder](widths, width, layers, dropout, asked)


def _fusion(spec: Spec, config: SensorFusionConfig) -> nn.Module:
    outputs, width = tuple(task.outputs for task in spec.tasks), config.d_model
    if config.fusion == "hybrid":
        clocks = tuple((m.kind, m.length) if _steps(m, config.patch) > 1 else None for m in spec.modalities)
        return HybridFusion(clocks, width, 2 * width, config.nhead, outputs, config.dropout)
    kind = {"early": EarlyFusion, "late": LateFusion}[config.fusion]
    return kind(len(spec.modalities), width, 2 * width, outputs, config.dropout)


def _encoder_maps(groups: tuple[Group, ...], encoders: nn.ModuleList, patch: int) -> dict[str, MapSpec]:
    return {
        place_map(modality): MapSpec("attention", (_places(modality, patch),))
        for group, encoder in zip(groups, encoders, strict=True)
        for modality in group
        if isinstance(encoder, TokenEncoder | AttentionEncoder | ConvolutionEncoder) and encoder.asked.token
    }


def _fusion_maps(spec: Spec, config: SensorFusionConfig) -> dict[str, MapSpec]:
    if config.fusion == "early":
        return {}
    names = tuple(m.name for m in spec.modalities)
    over = Axis("modality", names)
    maps = {"modalities": MapSpec("attention", (over,))}
    if config.fusion == "late":
        maps |= {
            _own_map(t.name): MapSpec("answer", (over, Axis("class", t.classes)) if t.kind == "multiclass" else (over,))
            for t in spec.tasks
        }
    for name, told_by in _read(spec, config).items():
        asking = Axis("asking modality", tuple(n for n in names if n != name))
        maps[told_by] = MapSpec("attention", (asking, _places(spec.modality(name), config.patch)))
    return maps


def _own_map(task: str) -> str:
    return f"{task} by modality"


def _places(modality: Modality, patch: int) -> Axis:
    """The positions of a sequence or bag; of patches, the first and last of their samples."""
    length = modality.length or 0
    size = min(patch, length)
    if modality.kind != "sequence" or size == 1:
        return places(modality)
    spans = [(max(1, end - size + 1), end) for end in range(length, 0, -size)][::-1]
    return Axis(modality.place_name, tuple(str(a) if a == b else f"{a}-{b}" for a, b in spans))
