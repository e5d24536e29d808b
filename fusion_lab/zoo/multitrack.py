"""multitrack: streams of one clock are fused step by step, a transformer reads the steps, and each track answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fusion_lab.blocks.encoders import Asked, Projection
from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.heads import TaskHead
from fusion_lab.blocks.masking import blank, weighted_mean
from fusion_lab.blocks.randomness import Dropout, Noise
from fusion_lab.blocks.soft_thresholds import with_thresholds
from fusion_lab.blocks.step_fusion import StepFusionName, step_fusion
from fusion_lab.blocks.step_transformer import NormPlace, StepTransformer, waves
from fusion_lab.blocks.unit_heads import UnitHeads
from fusion_lab.config import nearest
from fusion_lab.contracts import Axis, Batch, ConfigError, Modality, Output, Spec, Task
from fusion_lab.zoo.modalities import group_modalities, places, stack_group, unit_columns
from fusion_lab.zoo.model import AttentionConfig, MapSpec, Model

REFERENCE: dict[str, Any] = {
    "d_model": 256,
    "nhead": 8,
    "num_encoder_layers": 6,
    "dim_feedforward": 1024,
    "norm": "post",
    "embedding": "linear",
    "unit_head": "linear",
    "unit_inputs": False,
    "direct": False,
    "thresholds": 0,
    "ridge": 0.0,
}
"""Defaults of the preset of this name, where they are not those of the fields."""

STEPS = "modalities at each step"
"""Name of the map of the fusion."""


class MultitrackConfig(AttentionConfig):
    """Settings of :class:`Multitrack`.

    ``preset`` gives the defaults of the others: for a ``small`` machine and few data, or the sizes and the structure of
    the published model (``reference``). ``fusion`` is told by :mod:`fusion_lab.blocks.step_fusion`. ``modalities``
    names what is read, all of them by default; the others then have no effect. ``causal``: no step reads a later one;
    ``auto`` where a task is causal. ``norm`` and ``dim_feedforward`` are those of the ``num_encoder_layers`` layers.
    An ``embedding`` of a modality is a ``linear`` map of its features, or with a layer norm and GELU behind it
    (``projection``). A ``unit_head`` has a GELU before its last layer and linear maps of the units' own beside it
    (``mlp``), without which units differ by constants alone (``linear``). ``unit_inputs``: each unit also goes by its
    own features at the step. ``direct``: to the answers without units a linear map of all features at the step is
    added, 0 at first, so that a model of few rows is a linear one to begin with.
    ``thresholds``: embeddings and direct map also read how each numeric feature lies to so many fixed thresholds
    (:func:`~fusion_lab.blocks.soft_thresholds.with_thresholds`), so that the direct map is a sum of curves in place of
    straight lines. ``ridge`` times the squares of the direct map's weights is added to the loss: unlike the optimiser's
    weight decay it holds a task back the more, the less the task weighs in the objective.
    """

    family: Literal["multitrack"] = "multitrack"
    preset: Literal["small", "reference"] = "small"
    fusion: StepFusionName = "gated"
    modalities: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None  # given as a list
    causal: Literal["auto"] | bool = "auto"
    num_encoder_layers: int = Field(2, ge=1, le=24)
    dim_feedforward: int = Field(128, ge=1, le=16384)
    norm: NormPlace = "pre"
    embedding: Literal["projection", "linear"] = "projection"
    unit_head: Literal["mlp", "linear"] = "mlp"
    unit_inputs: bool = True
    direct: bool = True
    thresholds: int = Field(0, ge=0, le=64)
    ridge: float = Field(0.0, ge=0.0)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _ridge_holds_something(self) -> MultitrackConfig:
        if self.ridge and not self.direct:
            raise ValueError(f"ridge: expected 0 where direct is false, found {self.ridge:g}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        """What is given, over the settings of the preset that it asks for."""
        is_reference = isinstance(given, Mapping) and given.get("preset") == "reference"
        return {**REFERENCE, **given} if is_reference else given


class Multitrack(Model):
    """After MultimodalTransformer: an embedding of each modality at each step -> fusion ``[B,T,D]`` -> positions -> a
    transformer over the steps -> a head per task: of each step, of each unit at each step, or of the mean over the
    steps that are there. A vector is at every step. A single modality needs no fusion.

    With ``preset: reference``, streams of 5, 522 and 180 features and 20 tracks with two classes, ten classes and seven
    values it has the published 5,193,491 parameters (gated; 5,192,979 concat, 4,996,118 add; 4,860,691 of the track
    stream alone) less the key biases, which have no effect, and one of the two logits of the binary task.

    Raises:
        ConfigError: a bag, sequences of several lengths or clocks, no sequence among what is read, an unknown name in
            ``modalities``, a causal task without causal attention.
    """

    Config = MultitrackConfig
    units: ClassVar[bool] = True
    penalties: ClassVar[tuple[str, ...]] = ("ridge",)

    def __init__(self, config: MultitrackConfig, spec: Spec) -> None:
        self.super_init()
        read = modalities_read(config, spec)
        _check_clock(read, spec.tasks)
        width, dropout = config.d_model, config.dropout
        self.names = tuple(m.name for m in read)
        self.sequences = tuple(m.name for m in read if m.kind == "sequence")
        self.thresholds, self.ridge = config.thresholds, config.ridge
        self.numeric = {m.name: [i for i, f in enumerate(m.features) if f.kind == "numeric"] for m in read}
        widths = {m.name: m.width + config.thresholds * len(self.numeric[m.name]) for m in read}
        self.groups = group_modalities(read, {m.name: Asked(token=False, steps=True) for m in read}, widths)
        self.embeddings = nn.ModuleList(_embedding(tuple(widths[m.name] for m in g), config) for g in self.groups)
        self.drop = Dropout(dropout)
        self.fusion = step_fusion(config.fusion, len(read), width, config.nhead, dropout) if len(read) > 1 else None
        self.drop_fused = Dropout(dropout)
        self.transformer = StepTransformer(
            width,
            config.nhead,
            config.num_encoder_layers,
            config.dim_feedforward,
            dropout,
            config.norm,
            _is_causal(config, spec),
        )
        self.order = tuple(task.name for task in spec.tasks)
        alone = tuple(task for task in spec.tasks if not task.units)
        self.per_step = {task.name: task.per_step for task in alone}
        self.outputs = [task.outputs for task in alone]
        self.heads = nn.ModuleList(TaskHead(width, task.outputs, dropout) for task in alone)
        self.direct = _direct(sum(widths.values()), alone) if config.direct and alone else None
        shared = dict.fromkeys(task.units for task in spec.tasks if task.units)
        self.unit_tasks = [tuple(t for t in spec.tasks if t.units == units) for units in shared]
        self.unit_inputs = [_unit_inputs(read, units) if config.unit_inputs else {} for units in shared]
        self.unit_heads = nn.ModuleList(
            UnitHeads(
                len(tasks[0].units),
                width,
                tuple(task.outputs for task in tasks),
                sum(len(columns[0]) for columns in inputs.values()),
                dropout,
                config.unit_head == "linear",
            )
            for tasks, inputs in zip(self.unit_tasks, self.unit_inputs, strict=True)
        )
        self.maps = _maps(config, read)

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        there = torch.stack([batch.valid[name] for name in self.sequences]).any(0)  # [B,T]
        read = {name: self._read(name, batch) for name in self.names}
        fused, maps = self._fuse(read, batch.valid, there, noise)
        steps = self.transformer(fused + waves(there, fused.shape[-1], fused), there, noise)
        heads = self._of_steps(steps, there, read, noise) | self._of_units(steps, batch, noise)
        return Output({task: heads[task] for task in self.order}, self._penalties(batch, noise), maps)

    def _read(self, name: str, batch: Batch) -> Tensor:
        """Features of a modality with the thresholds of its numeric ones, 0 where it is missing."""
        x = blank(batch.inputs[name], batch.valid[name])
        return with_thresholds(x, self.thresholds, self.numeric[name]) if self.thresholds else x

    def _penalties(self, batch: Batch, noise: Noise | None) -> dict[str, Tensor]:
        """What holds the direct map back while it is trained, the same for every row: ``[B]``."""
        if noise is None or self.direct is None or not self.ridge:
            return {}
        return {"ridge": (self.ridge * self.direct.weight.square().sum()).expand(len(batch.weight))}

    def _fuse(
        self, read: Mapping[str, Tensor], there_of: Mapping[str, Tensor], there: Tensor, noise: Noise | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``[B,T,D]``, and the map of the fusion, all 0 at a step that no sequence has."""
        made: dict[str, tuple[Tensor, Tensor]] = {}
        for group, embedding in zip(self.groups, self.embeddings, strict=True):
            x, valid = stack_group(group, read, there_of)
            tokens = self.drop(embedding(x), noise).expand(-1, -1, there.shape[-1], -1)
            valid = valid.expand(-1, -1, there.shape[-1])
            made |= {m.name: (tokens[g], valid[g]) for g, m in enumerate(group)}
        tokens, valid = (torch.stack(part) for part in zip(*(made[name] for name in self.names), strict=True))
        if self.fusion is None:
            return self.drop_fused(blank(tokens[0], valid[0]), noise), {}
        fused, weights = self.fusion(tokens, valid, noise)
        maps = {} if weights is None else {STEPS: weights * there.unsqueeze(-1)}
        return self.drop_fused(fused, noise), maps

    def _of_steps(
        self, steps: Tensor, there: Tensor, read: Mapping[str, Tensor], noise: Noise | None
    ) -> dict[str, Tensor]:
        """Answers of the tasks without units. A row without any step has a vector at best, at all steps alike."""
        counted = there | ~there.any(-1, keepdim=True)
        row = weighted_mean(steps, counted, dim=1)
        answers = {
            task: head(steps if per_step else row, noise)
            for (task, per_step), head in zip(self.per_step.items(), self.heads, strict=True)
        }
        if self.direct is None:
            return answers
        at_steps = (x if x.ndim > 2 else x.unsqueeze(1).expand(-1, there.shape[-1], -1) for x in read.values())
        added = self.direct(torch.cat(list(at_steps), dim=-1))
        places = torch.split(added, self.outputs, dim=-1)
        for (task, per_step), own in zip(self.per_step.items(), places, strict=True):
            told = own if per_step else weighted_mean(own, counted, dim=1)
            answers[task] = answers[task] + (told.squeeze(-1) if told.shape[-1] == 1 else told)
        return answers

    def _of_units(self, steps: Tensor, batch: Batch, noise: Noise | None) -> dict[str, Tensor]:
        answers: dict[str, Tensor] = {}
        for tasks, inputs, head in zip(self.unit_tasks, self.unit_inputs, self.unit_heads, strict=True):
            own = [_of_each(blank(batch.inputs[name], batch.valid[name]), columns) for name, columns in inputs.items()]
            told = head(steps, torch.cat(own, dim=-1) if own else None, noise)
            answers |= {task.name: answer for task, answer in zip(tasks, told, strict=True)}
        return answers


def modalities_read(config: MultitrackConfig, spec: Spec) -> tuple[Modality, ...]:
    """What a model reads of a spec, in its order.

    Raises:
        ConfigError: a name that is no modality's, a bag, no sequence.
    """
    names = [m.name for m in spec.modalities]
    for name in config.modalities or ():
        if name not in names:
            raise ConfigError(f"model.modalities: unknown modality {name!r}{nearest(name, names)}")
    read = tuple(m for m in spec.modalities if config.modalities is None or m.name in config.modalities)
    for modality in read:
        if modality.kind == "bag":
            expected = "expected sequences and vectors with multitrack (model.modalities names what is read)"
            raise ConfigError(f"model.family: {expected}, found {modality.name!r}, a bag")
    if not any(m.kind == "sequence" for m in read):
        found = f"{read[0].name!r}, a vector"
        raise ConfigError(
            f"model.family: expected at least one modality that is a sequence with multitrack, found {found}"
        )
    return read


def _check_clock(read: tuple[Modality, ...], tasks: tuple[Task, ...]) -> None:
    """Refuses sequences of several lengths, and such as no task per step says to be of one clock."""
    hint = "(model.modalities names what is read)"
    sequences = {m.name: m.length for m in read if m.kind == "sequence"}
    first = next(iter(sequences))
    for name, length in sequences.items():
        if length != sequences[first]:
            found = f"{first!r} of {sequences[first]} and {name!r} of {length}"
            raise ConfigError(f"model.family: expected sequences of one length with multitrack {hint}, found {found}")
    clock = _of_one_clock({first}, tasks)
    if not any(task.per_step for task in tasks):
        return
    for name in (*sequences, *(name for task in tasks for name in task.steps[:1])):
        if name not in clock:
            found = f"{first!r} and {name!r}, whose steps no task has in common"
            raise ConfigError(f"model.family: expected sequences of one clock with multitrack {hint}, found {found}")


def _of_one_clock(names: set[str], tasks: tuple[Task, ...]) -> set[str]:
    """The sequences whose steps are the same moments as those of ``names``, as far as tasks tell."""
    more = names.union(*(task.steps for task in tasks if names & set(task.steps)))
    return names if more == names else _of_one_clock(more, tasks)


def _is_causal(config: MultitrackConfig, spec: Spec) -> bool:
    causal = next((task.name for task in spec.tasks if task.causal), None)
    if config.causal is False and causal is not None:
        raise ConfigError(f"model.causal: expected true or auto with the causal task {causal!r}, found false")
    return causal is not None if config.causal == "auto" else config.causal


def _embedding(widths: tuple[int, ...], config: MultitrackConfig) -> nn.Module:
    if config.embedding == "projection":
        return Projection(widths, config.d_model)
    linear = GroupedLinear(len(widths), widths[0], config.d_model, widths)
    for g, width in enumerate(widths):
        bound = math.sqrt(6.0 / (width + config.d_model))  # Xavier
        nn.init.uniform_(linear.weight[g, :width], -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear


def _direct(width: int, tasks: tuple[Task, ...]) -> nn.Linear:
    """From all that is read at a step to the answers of all tasks without units."""
    made = nn.Linear(width, sum(task.outputs for task in tasks), bias=False)
    nn.init.zeros_(made.weight)
    return made


def _unit_inputs(read: tuple[Modality, ...], units: tuple[str, ...]) -> dict[str, list[list[int]]]:
    """Where the features of each unit lie in the sequences that have any."""
    found = {m.name: unit_columns(m, units) for m in read if m.kind == "sequence"}
    return {name: columns for name, columns in found.items() if columns[0]}


def _of_each(x: Tensor, columns: list[list[int]]) -> Tensor:
    """``[B,T,F]`` at the places ``[U,Q]``: ``[B,T,U,Q]``, 0 where a place is -1."""
    flat = [place for line in columns for place in line]
    if min(flat) < 0:
        x = torch.nn.functional.pad(x, (0, 1))
    places = torch.tensor([place if place >= 0 else x.shape[-1] - 1 for place in flat], device=x.device)
    return x.index_select(-1, places).unflatten(-1, (len(columns), -1))


def _maps(config: MultitrackConfig, read: tuple[Modality, ...]) -> dict[str, MapSpec]:
    if config.fusion == "concat" or len(read) == 1:
        return {}
    clock = places(next(m for m in read if m.kind == "sequence"))
    kind: Literal["attention", "gate"] = "gate" if config.fusion == "gated" else "attention"
    return {STEPS: MapSpec(kind, (clock, Axis("modality", tuple(m.name for m in read))))}
