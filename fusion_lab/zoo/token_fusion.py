"""token_fusion: an encoder per modality makes tokens; a transformer, a bottleneck or gates fuse those of a row, or of
a time step.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fusion_lab.blocks.encoders import Asked, Encoded, TokenEncoder, VectorEncoder
from fusion_lab.blocks.fusion import BottleneckFusion, GatedFusion, TransformerFusion
from fusion_lab.blocks.heads import TaskHead
from fusion_lab.blocks.pooling import AttentionEncoder
from fusion_lab.blocks.randomness import Noise
from fusion_lab.blocks.reversal import Discriminator
from fusion_lab.blocks.sequence import ConvolutionEncoder, GRUEncoder
from fusion_lab.contracts import Axis, Batch, ConfigError, Output, Spec
from fusion_lab.zoo.modalities import Group, group_modalities, numbered, place_map, places, present, stack_group, told
from fusion_lab.zoo.model import AttentionConfig, MapSpec, Model

ADVERSARY = "adversary"
"""Name of the penalty: the cross-entropy of the part that tells the rows' groups."""

Steps = tuple[str, ...]
"""The sequences whose time steps a task labels, in the order of the spec; empty for a task per row."""


class TokenFusionConfig(AttentionConfig):
    """Settings of :class:`TokenFusion`.

    ``sequence_encoder`` and ``bag_encoder`` say what makes a token of a sequence or bag: a ``transformer`` whose
    summary token reads the positions, ``attention`` pooling of positions that know nothing of each other (nor of their
    order), and for sequences a ``gru`` or a ``cnn``, a temporal convolutional network. ``num_encoder_layers`` counts
    their layers, of which a transformer, GRU or CNN has one at least, and residual feed-forward layers for vectors and
    before attention pooling (0 = projection alone). ``quality`` lets the quality given with each modality scale its
    share in the fusion. ``adversary``: how much of its gradient a part that tells the rows' groups, say people, passes
    on turned round, so that what is fused comes to tell less of them (Ganin and Lempitsky, 2015); it grows from 0 over
    ``adversary_warmup`` epochs.
    """

    family: Literal["token_fusion"] = "token_fusion"
    fusion: Literal["transformer", "bottleneck", "gated"] = "transformer"
    sequence_encoder: Literal["transformer", "gru", "cnn", "attention"] = "transformer"
    bag_encoder: Literal["attention", "transformer"] = "transformer"
    num_encoder_layers: int = Field(1, ge=0, le=12)
    num_fusion_layers: int = Field(1, ge=1, le=12)
    num_bottleneck_tokens: int = Field(4, ge=1, le=64)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    quality: bool = True
    adversary: float = Field(0.0, ge=0.0, le=10.0)
    adversary_warmup: int = Field(20, ge=0)


class TokenFusion(Model):
    """After the e-Prevention relapse transformer: modality encoders -> tokens ``[B,M,D]`` -> fusion -> a head per task.

    For a task per step the same fusion takes, at every step, the outputs of the task's sequences there and the one
    token of every other modality, ``[B*T,M,D]``; a sequence that is not valid at a step is missing there.

    At five daily modalities of widths 38, 38, 26, 10 and 9 over 7 days and ``d_model`` 64 it has the parameters of that
    model (316,033; 365,953 with ``bottleneck`` and 266,054 with ``gated`` fusion) less 64 for the key bias of each
    attention, which has no effect. The adversary has 2,377 for nine people.

    Raises:
        ConfigError: a causal task, and an encoder of sequences that looks ahead; an adversary where the rows have no
            groups or no task is per row.
    """

    Config = TokenFusionConfig
    penalties: ClassVar[tuple[str, ...]] = (ADVERSARY,)

    def __init__(self, config: TokenFusionConfig, spec: Spec) -> None:
        self.super_init()
        _check_causal(config, spec)
        self.use_quality = config.quality
        self.names = tuple(m.name for m in spec.modalities)
        self.tasks = {t.name: tuple(name for name in self.names if name in t.steps) for t in spec.tasks}
        self.fused = _fused(self.tasks)
        asked = _asked(self.names, tuple(self.fused))
        self.groups = group_modalities(spec.modalities, asked)
        self.encoders = nn.ModuleList(_encoder(group, asked[group[0].name], config) for group in self.groups)
        self.fusion = _fusion(len(self.names), config)
        self.heads = nn.ModuleList(TaskHead(config.d_model, t.outputs, config.dropout) for t in spec.tasks)
        self.adversary = _adversary(config, spec)
        self.strength = config.adversary
        self.maps = _fusion_maps(config, spec, self.fused) | _encoder_maps(self.groups, self.encoders)

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        encoded, maps = self._encode(batch, noise)
        quality = torch.stack([batch.quality[name] for name in self.names], dim=-1)
        share = quality if self.use_quality else torch.ones_like(quality)
        fused: dict[Steps, Tensor] = {}
        for steps, name in self.fused.items():
            fused[steps], maps[name] = (
                self._fuse_steps(steps, encoded, batch, share, noise)
                if steps
                else self._fuse_rows(encoded, batch, share, noise)
            )
        heads = {
            task: head(fused[steps], noise) for (task, steps), head in zip(self.tasks.items(), self.heads, strict=True)
        }
        return Output(heads, self._penalties(fused, batch, noise), maps)

    def _penalties(self, fused: dict[Steps, Tensor], batch: Batch, noise: Noise | None) -> dict[str, Tensor]:
        """Of training rows, how badly their groups are told."""
        if self.adversary is None or not batch.group or noise is None:
            return {}
        strength = batch.group["strength"] * self.strength
        return {ADVERSARY: self.adversary(fused[()], batch.group["code"], strength, noise)}

    def _encode(self, batch: Batch, noise: Noise | None) -> tuple[dict[str, Encoded], dict[str, Tensor]]:
        """Every modality's own answers, without the group axis, and the maps of the encoders."""
        encoded: dict[str, Encoded] = {}
        for group, encoder in zip(self.groups, self.encoders, strict=True):
            made = encoder(*stack_group(group, batch.inputs, batch.valid), noise)
            for g, modality in enumerate(group):
                encoded[modality.name] = Encoded(*(None if part is None else part[g] for part in made))
        maps = {place_map(m): encoded[m.name].weights for group in self.groups for m in group}
        return encoded, {name: weights for name, weights in maps.items() if weights is not None}

    def _fuse_rows(
        self, encoded: dict[str, Encoded], batch: Batch, share: Tensor, noise: Noise | None
    ) -> tuple[Tensor, Tensor]:
        """``[B,D]`` and the map of the fusion."""
        tokens = torch.stack([told(encoded[name].token) for name in self.names], dim=1)
        valid = torch.stack([present(batch.valid[name]) for name in self.names], dim=-1)
        return self.fusion(tokens, valid, share, noise)

    def _fuse_steps(
        self, steps: Steps, encoded: dict[str, Encoded], batch: Batch, share: Tensor, noise: Noise | None
    ) -> tuple[Tensor, Tensor]:
        """``[B,T,D]`` and the map of the fusion, whose second axis is T; all 0 at a step that no sequence has."""
        there = torch.stack([batch.valid[name] for name in steps]).any(0)
        rows, length = there.shape
        tokens, valid = [], []
        for name in self.names:
            if name in steps:
                tokens.append(told(encoded[name].steps))
                valid.append(batch.valid[name])
            else:
                tokens.append(told(encoded[name].token).unsqueeze(1).expand(-1, length, -1))
                valid.append(present(batch.valid[name]).unsqueeze(1).expand(-1, length))
        fused, weights = self.fusion(
            torch.stack(tokens, dim=2).flatten(0, 1),
            torch.stack(valid, dim=-1).flatten(0, 1),
            share.unsqueeze(1).expand(-1, length, -1).flatten(0, 1),
            noise,
        )
        of_steps = weights * there.flatten().reshape(-1, *[1] * (weights.ndim - 1))
        return fused.reshape(rows, length, -1), of_steps.reshape(rows, length, *weights.shape[1:])


def _adversary(config: TokenFusionConfig, spec: Spec) -> Discriminator | None:
    if not config.adversary:
        return None
    if spec.groups < 2:
        raise ConfigError(f"model.adversary: expected rows of two groups or more, found {spec.groups}")
    if all(task.per_step for task in spec.tasks):
        raise ConfigError("model.adversary: expected a task per row, whose vector it reads, found tasks per step alone")
    return Discriminator(config.d_model, spec.groups, config.dropout)


def _check_causal(config: TokenFusionConfig, spec: Spec) -> None:
    for task in spec.tasks:
        if task.causal and config.sequence_encoder != "gru":
            expected = f"expected gru, which looks at no later step, with the causal task {task.name!r}"
            raise ConfigError(f"model.sequence_encoder: {expected}, found {config.sequence_encoder!r}")


def _fused(tasks: dict[str, Steps]) -> dict[Steps, str]:
    """What is fused: the modalities of a row, or of each step of some sequences; and the name of its map."""
    wanted = dict.fromkeys(sorted(tasks.values(), key=bool))
    clocks = sum(map(bool, wanted))
    names = {steps: f" of {' and '.join(steps)}" if clocks > 1 else "" for steps in wanted}
    return {steps: f"modalities at each step{names[steps]}" if steps else "modalities" for steps in wanted}


def _asked(modalities: tuple[str, ...], fused: tuple[Steps, ...]) -> dict[str, Asked]:
    """What is asked of each modality: a step output where its steps are fused, one token where anything else is."""
    return {
        name: Asked(token=any(name not in steps for steps in fused), steps=any(name in steps for steps in fused))
        for name in modalities
    }


def _encoder(group: Group, asked: Asked, config: TokenFusionConfig) -> nn.Module:
    widths, first = tuple(m.width for m in group), group[0]
    width, layers, dropout = config.d_model, config.num_encoder_layers, config.dropout
    if first.length is None:
        return VectorEncoder(widths, width, layers, dropout)
    kind = config.sequence_encoder if first.kind == "sequence" else config.bag_encoder
    if kind == "attention":
        return AttentionEncoder(widths, width, layers, dropout, asked)
    layers = max(1, layers)
    if kind == "gru":
        return GRUEncoder(widths, width, layers, dropout, asked)
    if kind == "cnn":
        return ConvolutionEncoder(widths, first.length, width, layers, dropout, asked)
    return TokenEncoder(widths, first.length, first.kind == "sequence", width, layers, config.nhead, dropout, asked)


def _fusion(modalities: int, config: TokenFusionConfig) -> nn.Module:
    if config.fusion == "transformer":
        return TransformerFusion(modalities, config.d_model, config.nhead, config.num_fusion_layers, config.dropout)
    if config.fusion == "bottleneck":
        return BottleneckFusion(config.num_bottleneck_tokens, config.d_model, config.nhead, config.dropout)
    return GatedFusion(modalities, config.d_model)


def _fusion_maps(config: TokenFusionConfig, spec: Spec, fused: dict[Steps, str]) -> dict[str, MapSpec]:
    names = tuple(m.name for m in spec.modalities)
    asking: tuple[Axis, ...] = {
        "transformer": (Axis("asking modality", names),),
        "bottleneck": (numbered("latent", config.num_bottleneck_tokens),),
        "gated": (),
    }[config.fusion]
    kind: Literal["attention", "gate"] = "gate" if config.fusion == "gated" else "attention"
    return {
        name: MapSpec(kind, (*(places(spec.modality(s)) for s in steps[:1]), *asking, Axis("modality", names)))
        for steps, name in fused.items()
    }


def _encoder_maps(groups: tuple[Group, ...], encoders: nn.ModuleList) -> dict[str, MapSpec]:
    return {
        place_map(modality): MapSpec("attention", (places(modality),))
        for group, encoder in zip(groups, encoders, strict=True)
        for modality in group
        if _weighs(encoder)
    }


def _weighs(encoder: nn.Module) -> bool:
    """Whether an encoder tells what its token's positions weigh."""
    return isinstance(encoder, TokenEncoder | AttentionEncoder | ConvolutionEncoder) and encoder.asked.token
