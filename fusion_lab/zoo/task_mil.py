"""task_mil: vectors beside bags of instances, which every task reads by attention of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fusion_lab.blocks.encoders import Asked
from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.masking import blank
from fusion_lab.blocks.members import disagreement
from fusion_lab.blocks.mlp import MLP, ActivationName, NormedLinear
from fusion_lab.blocks.randomness import Dropout, Noise
from fusion_lab.blocks.swiglu import DropPath, SwiGLUEncoder
from fusion_lab.blocks.task_pooling import COLDEST, HOTTEST, Pooling, TaskAttentionPool
from fusion_lab.config import Config
from fusion_lab.contracts import Axis, Batch, ConfigError, Output, Spec
from fusion_lab.zoo.modalities import group_modalities, place_map, places, stack_group
from fusion_lab.zoo.model import MapSpec, Model

REFERENCE: dict[str, Any] = {
    "mol_hidden": 1024,
    "mol_layers": 3,
    "inst_hidden": 256,
    "inst_layers": 3,
    "proj_dim": 512,
    "attn_heads": 8,
    "mixer_hidden": 512,
    "mixer_layers": 3,
}
"""Defaults of the preset of this name, where they are not those of the fields."""


class TaskMilConfig(Config):
    """Settings of :class:`TaskMil`.

    ``preset`` gives the defaults of the sizes: for a ``small`` machine, or those of the published example
    (``reference``). ``mol_*`` are the encoder of the vectors, ``inst_*`` those of the bags' instances, ``attn_*`` the
    attention over instances, ``mixer_*`` the layers that join both; ``proj_dim`` is the width of what each hands to
    them. ``activation`` is that of the mixer alone: encoders are gated. ``members`` is how many encoders of vectors,
    mixers and heads there are, which answer together and learn each for itself. ``input_dropout`` is that of the
    vectors' features, ``bag_dropout`` the chance that a row goes without what is read of its bags, and ``input_start``
    the share of its usual size at which the vectors' projection starts. ``pool``, ``temperature``, ``top_k``,
    ``top_k_mode`` (which means something with ``top_k`` alone), ``prune_below`` and ``residual_mean`` are told by
    :class:`~fusion_lab.blocks.task_pooling.Pooling`.
    """

    family: Literal["task_mil"] = "task_mil"
    preset: Literal["small", "reference"] = "small"
    mol_hidden: int = Field(128, ge=4, le=4096)
    mol_layers: int = Field(2, ge=1, le=12)
    mol_dropout: float = Field(0.15, ge=0.0, lt=1.0)
    inst_hidden: int = Field(64, ge=4, le=4096)
    inst_layers: int = Field(2, ge=1, le=12)
    inst_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    proj_dim: int = Field(64, ge=4, le=4096)
    attn_heads: int = Field(4, ge=1)
    attn_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    mixer_hidden: int = Field(128, ge=4, le=4096)
    mixer_layers: int = Field(2, ge=1, le=12)
    mixer_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    activation: ActivationName = "GELU"
    members: int = Field(1, ge=1, le=64)
    input_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    input_start: float = Field(1.0, gt=0.0, le=1.0)
    bag_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    pool: Literal["tied", "attention_output", "own"] = "tied"
    temperature: float = Field(0.3, gt=COLDEST, lt=HOTTEST)
    top_k: int | None = Field(None, ge=1)
    top_k_mode: Literal["renorm", "mean", "sum", "argmax"] = "renorm"
    prune_below: float | None = Field(None, gt=0.0, lt=1.0)
    residual_mean: bool = False

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        """What is given, over the sizes of the preset that it asks for."""
        is_reference = isinstance(given, Mapping) and given.get("preset") == "reference"
        return {**REFERENCE, **given} if is_reference else given

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.inst_hidden % self.attn_heads:
            found = f"{self.inst_hidden} and {self.attn_heads}"
            raise ValueError(f"expected inst_hidden to be a multiple of attn_heads, found {found}")
        return self

    @property
    def pooling(self) -> Pooling:
        return Pooling(
            source=self.pool,
            temperature=self.temperature,
            dropout=self.attn_dropout,
            top_k=self.top_k,
            top_k_mode=self.top_k_mode,
            prune_below=self.prune_below,
            residual_mean=self.residual_mean,
        )


class TaskMil(Model):
    """After MILTaskAttnMixerWithAux: vectors side by side -> an encoder -> ``[B,1,P]``, the same for every task; each
    bag -> an encoder of its instances -> attention with a query per main task -> ``[B,T,P]``; side by side, a mixer
    whose weights all tasks share makes ``[B,T,D]``, of which each main task has a linear output for itself. Auxiliary
    tasks have linear outputs of the mean over the main tasks.

    Of encoders of vectors, mixers and outputs there are G ``members``, strangers to each other, which read the bags by
    one attention. The answer is the mean of theirs (of logits); the penalty ``members``, with the loss of that mean,
    is the mean of their own losses (:func:`~fusion_lab.blocks.members.disagreement`).

    Beside each input stands whether it is there. A vector that is missing is zeros without that mark, which no vector
    that is there can be; so is what is pooled of a bag without instances, for which the bias of the layer behind it is
    the learned vector.

    With ``preset: reference``, a vector of 1000 features, a bag of 200, four main tasks of one output each and six
    auxiliary outputs it has 23,074,833 parameters, the published 23,139,346 less what never changed an answer (the
    65,792 of attention's output projection, the 256 of its key bias, the residual mix), with 1024 and 512 for the marks
    of vector and bag. ``attention_output`` has the output projection, ``residual_mean`` the mix; ``own`` lacks the 512
    of the instances' norm. It differs in that the temperature acts, in ``own`` pooling (which reads instances as they
    come), in dropout of attention, which never empties a bag, and in the last blocks of encoders, which start near 0
    (see :mod:`~fusion_lab.blocks.swiglu`).

    Raises:
        ConfigError: a sequence, a task per step, or no task but auxiliary ones.
    """

    Config = TaskMilConfig
    penalties: ClassVar[tuple[str, ...]] = ("members",)

    def __init__(self, config: TaskMilConfig, spec: Spec) -> None:
        self.super_init()
        _check_spec(spec)
        vectors = tuple(m for m in spec.modalities if m.kind == "vector")
        bags = tuple(m for m in spec.modalities if m.kind == "bag")
        main, auxiliary = spec.main_tasks, tuple(t for t in spec.tasks if t.auxiliary)
        self.vectors = tuple(m.name for m in vectors)
        self.tasks = spec.tasks
        self.groups = group_modalities(bags, {m.name: Asked() for m in bags})
        self.main = {task.name: task.outputs for task in main}
        self.auxiliary = {task.name: task.outputs for task in auxiliary}
        joined, members = sum(m.width for m in vectors) + len(vectors), config.members
        self.members = members
        self.drop_inputs, self.drop_bags = Dropout(config.input_dropout), DropPath(config.bag_dropout)
        self.mol = _encoder((joined,) * members, config) if vectors else None
        self.mol_out = NormedLinear(members, config.mol_hidden, config.proj_dim) if vectors else None
        self.instances = nn.ModuleList(
            SwiGLUEncoder(tuple(m.width for m in g), config.inst_hidden, config.inst_layers, config.inst_dropout)
            for g in self.groups
        )
        self.pools = nn.ModuleList(
            TaskAttentionPool(len(g), len(main), config.inst_hidden, config.attn_heads, config.pooling)
            for g in self.groups
        )
        self.bag_out = nn.ModuleList(NormedLinear(len(g), config.inst_hidden + 1, config.proj_dim) for g in self.groups)
        width = (bool(vectors) + len(bags)) * config.proj_dim
        self.mixer = MLP(
            members, width, config.mixer_hidden, config.mixer_layers, config.mixer_dropout, config.activation
        )
        outputs = tuple(self.main.values()) * members
        self.heads = GroupedLinear(len(outputs), config.mixer_hidden, max(outputs), outs=outputs)
        helping = sum(self.auxiliary.values())
        self.auxiliary_heads = GroupedLinear(members, config.mixer_hidden, helping) if auxiliary else None
        over = Axis("task", tuple(self.main))
        self.maps = {place_map(m): MapSpec("attention", (over, places(m))) for g in self.groups for m in g}

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        rows = len(batch.weight)
        parts, maps = self._bags(batch, noise)
        if self.mol is not None:
            parts = [self._vectors(batch, noise), *parts]
        read = torch.cat([p.expand(self.members, rows, len(self.main), -1) for p in parts], dim=-1)
        answers = self._answers(self.mixer(read, noise))
        means = {task: a.mean(0) for task, a in answers.items()}
        heads = {task: a.squeeze(-1) if a.shape[-1] == 1 else a for task, a in means.items()}
        penalties = {} if noise is None or self.members == 1 else {"members": self._disagreement(answers)}
        return Output({task.name: heads[task.name] for task in self.tasks}, penalties, maps)

    def _answers(self, mixed: Tensor) -> dict[str, Tensor]:
        """``[G,B,T,D] -> {task: [G,B,outputs]}``."""
        own = self.heads(mixed.transpose(1, 2).flatten(0, 1)).unflatten(0, (self.members, -1))
        answers = {task: own[:, t, :, :outputs] for t, (task, outputs) in enumerate(self.main.items())}
        if self.auxiliary_heads is not None:
            told = self.auxiliary_heads(mixed.mean(2)).split(list(self.auxiliary.values()), dim=-1)
            answers |= dict(zip(self.auxiliary, told, strict=True))
        return answers

    def _disagreement(self, answers: dict[str, Tensor]) -> Tensor:
        """Of the members in main tasks, ``[B]``."""
        return torch.stack([disagreement(t, answers[t.name]) for t in self.tasks if not t.auxiliary]).sum(0)

    def _vectors(self, batch: Batch, noise: Noise | None) -> Tensor:
        """``[G,B,1,P]``."""
        assert self.mol is not None
        assert self.mol_out is not None
        there = torch.stack([batch.valid[name] for name in self.vectors], dim=-1)
        values = torch.cat([blank(batch.inputs[name], batch.valid[name]) for name in self.vectors], dim=-1)
        seen = self.drop_inputs(values.expand(self.members, *values.shape), noise)
        marks = there.to(values.dtype).expand(self.members, *there.shape)
        return self.mol_out(self.mol(torch.cat([seen, marks], dim=-1).unsqueeze(2), noise))

    def _bags(self, batch: Batch, noise: Noise | None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """``[B,T,P]`` of every bag, and its map ``[B,T,N]``."""
        parts, maps = [], {}
        for group, encoder, pool, out in zip(self.groups, self.instances, self.pools, self.bag_out, strict=True):
            x, valid = stack_group(group, batch.inputs, batch.valid)
            pooled, weights = pool(encoder(blank(x, valid), noise), valid, noise)
            there = valid.any(-1)[..., None, None].to(pooled.dtype)
            made = out(torch.cat([pooled, there.expand(*pooled.shape[:-1], 1)], dim=-1))
            parts.extend(self.drop_bags(made, noise).unbind())
            maps |= {place_map(m): own for m, own in zip(group, weights.unbind(), strict=True)}
        return parts, maps


def _encoder(widths: tuple[int, ...], config: TaskMilConfig) -> SwiGLUEncoder:
    """Of vectors. Bits that few training rows have keep the weights that they start with, which tell nothing: a
    projection that starts small has little of them.
    """
    encoder = SwiGLUEncoder(widths, config.mol_hidden, config.mol_layers, config.mol_dropout)
    encoder.project.weight.data.mul_(config.input_start)
    return encoder


def _check_spec(spec: Spec) -> None:
    for modality in spec.modalities:
        if modality.kind == "sequence":
            found = f"{modality.name!r}, a {modality.kind}"
            raise ConfigError(
                f"model.family: expected modalities that are vectors or bags with task_mil, found {found}"
            )
    for task in spec.tasks:
        if task.per_step:
            expected = "expected tasks per row with task_mil (token_fusion answers per step)"
            raise ConfigError(f"model.family: {expected}, found task {task.name!r} with a target per step")
    if not spec.main_tasks:
        raise ConfigError("model.family: expected a task that is not auxiliary with task_mil, found none")
