"""token_fusion: an encoder per modality makes one token each; a transformer, a bottleneck or gates fuse the tokens."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fusion_lab.blocks.encoders import TokenEncoder, VectorEncoder
from fusion_lab.blocks.fusion import BottleneckFusion, GatedFusion, TransformerFusion
from fusion_lab.blocks.heads import TaskHead
from fusion_lab.blocks.randomness import Noise
from fusion_lab.config import Config
from fusion_lab.contracts import Axis, Batch, ConfigError, Modality, Output, Spec
from fusion_lab.zoo.model import MapSpec, Model


class TokenFusionConfig(Config):
    """Settings of :class:`TokenFusion`.

    ``num_encoder_layers`` counts transformer layers for sequences and bags, residual feed-forward layers for vectors
    (0 = projection alone). ``quality`` lets the quality given with each modality scale its share in the fusion.
    """

    family: Literal["token_fusion"] = "token_fusion"
    fusion: Literal["transformer", "bottleneck", "gated"] = "transformer"
    d_model: int = Field(64, ge=4, le=4096)
    nhead: int = Field(4, ge=1)
    num_encoder_layers: int = Field(1, ge=0, le=12)
    num_fusion_layers: int = Field(1, ge=1, le=12)
    num_bottleneck_tokens: int = Field(4, ge=1, le=64)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    quality: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> TokenFusionConfig:
        if self.d_model % self.nhead:
            raise ValueError(f"expected d_model to be a multiple of nhead, found {self.d_model} and {self.nhead}")
        return self


class TokenFusion(Model):
    """After the e-Prevention relapse transformer: modality encoders -> tokens ``[B,M,D]`` -> fusion -> a head per task.

    At five daily modalities of widths 38, 38, 26, 10 and 9 over 7 days and ``d_model`` 64 it has the parameters of that
    model (316,033; 365,953 with ``bottleneck`` and 266,054 with ``gated`` fusion) less 64 for the key bias of each
    attention, which has no effect.

    Raises:
        ConfigError: a task with a target per step.
    """

    Config = TokenFusionConfig

    def __init__(self, config: TokenFusionConfig, spec: Spec) -> None:
        self.super_init()
        _refuse_steps(spec)
        self.use_quality = config.quality
        self.groups = group_modalities(spec.modalities)
        self.names = tuple(m.name for m in spec.modalities)
        self.encoders = nn.ModuleList(_encoder(group, config) for group in self.groups)
        self.fusion = _fusion(len(self.names), config)
        self.heads = nn.ModuleList(TaskHead(config.d_model, t.outputs, config.dropout) for t in spec.tasks)
        self.tasks = tuple(t.name for t in spec.tasks)
        self.maps = _maps(config, self.names, self.groups)

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        tokens: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        for group, encoder in zip(self.groups, self.encoders, strict=True):
            x, valid = _stack(group, batch)
            token, weights = encoder(x, valid, noise)
            for g, modality in enumerate(group):
                tokens[modality.name] = token[g]
                if weights is not None:
                    maps[_step_map(modality)] = weights[g]
        valid = torch.stack([_present(batch.valid[name]) for name in self.names], dim=-1)
        quality = torch.stack([batch.quality[name] for name in self.names], dim=-1)
        share = quality if self.use_quality else torch.ones_like(quality)
        stacked = torch.stack([tokens[name] for name in self.names], dim=1)
        fused, maps["modalities"] = self.fusion(stacked, valid, share, noise)
        heads = {task: head(fused, noise) for task, head in zip(self.tasks, self.heads, strict=True)}
        return Output(heads, {}, maps)


def _refuse_steps(spec: Spec) -> None:
    for task in spec.tasks:
        if task.per_step:
            raise ConfigError(
                f"model.family: token_fusion answers once per row, found task {task.name!r} with a target per step"
            )


def group_modalities(modalities: tuple[Modality, ...]) -> tuple[tuple[Modality, ...], ...]:
    """Modalities that share one grouped encoder: of one kind and length, and of widths worth padding to the widest.

    A narrow modality joins a wider one where that is at most 64 wide, or at most twice its own width: beyond, the
    padding costs more than the kernel it saves.
    """
    alike: dict[tuple[str, int | None], list[Modality]] = defaultdict(list)
    for modality in sorted(modalities, key=lambda m: -m.width):
        alike[modality.kind, modality.length].append(modality)
    groups: list[list[Modality]] = []
    for members in alike.values():
        groups.append([members[0]])
        for modality in members[1:]:
            widest = groups[-1][0].width
            if widest <= max(64, 2 * modality.width):
                groups[-1].append(modality)
            else:
                groups.append([modality])
    return tuple(tuple(group) for group in groups)


def _encoder(group: tuple[Modality, ...], config: TokenFusionConfig) -> nn.Module:
    widths, first = tuple(m.width for m in group), group[0]
    if first.length is None:
        return VectorEncoder(widths, config.d_model, config.num_encoder_layers, config.dropout)
    layers = max(1, config.num_encoder_layers)
    ordered = first.kind == "sequence"
    return TokenEncoder(widths, first.length, ordered, config.d_model, layers, config.nhead, config.dropout)


def _fusion(modalities: int, config: TokenFusionConfig) -> nn.Module:
    if config.fusion == "transformer":
        return TransformerFusion(modalities, config.d_model, config.nhead, config.num_fusion_layers, config.dropout)
    if config.fusion == "bottleneck":
        return BottleneckFusion(config.num_bottleneck_tokens, config.d_model, config.nhead, config.dropout)
    return GatedFusion(modalities, config.d_model)


def _maps(
    config: TokenFusionConfig, names: tuple[str, ...], groups: tuple[tuple[Modality, ...], ...]
) -> dict[str, MapSpec]:
    weighed = Axis("modality", names)
    fusion = {
        "transformer": MapSpec("attention", (Axis("asking modality", names), weighed)),
        "bottleneck": MapSpec("attention", (_numbered("latent", config.num_bottleneck_tokens), weighed)),
        "gated": MapSpec("gate", (weighed,)),
    }[config.fusion]
    maps = {"modalities": fusion}
    for modality in (m for group in groups for m in group if m.length is not None):
        place = "time step" if modality.kind == "sequence" else "instance"
        maps[_step_map(modality)] = MapSpec("attention", (_numbered(place, modality.length or 0),))
    return maps


def _numbered(name: str, count: int) -> Axis:
    return Axis(name, tuple(str(i + 1) for i in range(count)))


def _step_map(modality: Modality) -> str:
    return f"{modality.name} {'steps' if modality.kind == 'sequence' else 'instances'}"


def _stack(group: tuple[Modality, ...], batch: Batch) -> tuple[Tensor, Tensor]:
    """A group's inputs padded to one width, ``[G,B,T,F]``, and their masks ``[G,B,T]``; T is 1 for vectors."""
    widest = group[0].width
    inputs = [
        batch.inputs[m.name]
        if m.width == widest
        else torch.nn.functional.pad(batch.inputs[m.name], (0, widest - m.width))
        for m in group
    ]
    x, valid = torch.stack(inputs), torch.stack([batch.valid[m.name] for m in group])
    return (x.unsqueeze(2), valid.unsqueeze(2)) if group[0].length is None else (x, valid)


def _present(valid: Tensor) -> Tensor:
    """bool ``[B]``: a modality of which anything is real."""
    return valid if valid.ndim == 1 else valid.any(-1)
