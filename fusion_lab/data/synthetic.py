"""The domain of generated data: modalities and tasks in the settings, a planted signal in the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from fusion_lab.blocks.randomness import generator
from fusion_lab.config import Config
from fusion_lab.contracts import (
    ConfigError,
    Feature,
    Modality,
    ModalityKind,
    Source,
    Spec,
    Task,
    TaskKind,
    array_hash,
)
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.names import usable_names
from fusion_lab.data.planting import Generated, Planting, Truth, check_planting, generate


class SyntheticModality(Config):
    """``width`` numeric columns, of a sequence with ``units`` so many of each unit; ``length`` positions of a sequence
    or bag, each called ``step`` in figures; not ``useful``: no label depends on it.
    """

    kind: ModalityKind = "vector"
    width: int = Field(default=8, ge=1)
    units: int = Field(default=0, ge=0)
    length: int | None = Field(default=None, ge=1)
    step: str = ""
    useful: bool = True

    @model_validator(mode="after")
    def _length_fits_kind(self) -> SyntheticModality:
        if (self.length is None) != (self.kind == "vector"):
            expected = "no length" if self.kind == "vector" else "a length"
            raise ValueError(f"expected {expected} with kind {self.kind}, found {self.length}")
        if self.units and self.kind != "sequence":
            raise ValueError(f"expected no units with kind {self.kind}, found {self.units}")
        return self


class SyntheticTask(Config):
    """``classes`` of a multiclass task, equally frequent; ``prevalence`` of a binary task's positive class.

    ``per_step``: a label at every time step of the useful sequences that are as long as the first of them;
    ``per_unit``: there, one for each unit of the first useful sequence that has units; ``causal``: what is later than
    a step is not to be read for it. ``auxiliary``: the group of auxiliary tasks that it belongs to. ``uneven``: rows
    differ in how much they count in the task's loss, by a log-normal factor of this deviation.
    """

    kind: TaskKind = "binary"
    per_step: bool = False
    per_unit: bool = False
    causal: bool = False
    classes: int = Field(default=3, ge=3)
    prevalence: float = Field(default=0.5, gt=0, lt=1)
    auxiliary: str = ""
    uneven: float = Field(default=0.0, ge=0, le=3)

    @model_validator(mode="after")
    def _of_steps(self) -> SyntheticTask:
        if (self.per_unit or self.causal) and not self.per_step:
            raise ValueError("expected per_step with per_unit or causal, found one label per row")
        return self


class SyntheticConfig(Planting):
    """A plan together with the modalities and tasks it is carried out on."""

    domain: Literal["synthetic"] = "synthetic"
    modalities: Annotated[dict[str, SyntheticModality], AfterValidator(usable_names)] = Field(
        default={
            "clinical": SyntheticModality(width=8),
            "imaging": SyntheticModality(width=16),
            "sensor": SyntheticModality(kind="sequence", width=6, length=12),
            "admin": SyntheticModality(width=8, useful=False),
        }
    )
    tasks: Annotated[dict[str, SyntheticTask], AfterValidator(usable_names)] = Field(
        default={"outcome": SyntheticTask()}, min_length=1
    )

    @model_validator(mode="after")
    def _can_be_planted(self) -> SyntheticConfig:
        if any(t.per_step for t in self.tasks.values()) and not self.clock:
            raise ConfigError("tasks: a task per step expects a useful sequence, found none")
        if any(t.per_unit for t in self.tasks.values()) and not self.units:
            raise ConfigError("tasks: a task per unit expects a useful sequence with units, found none")
        if all(t.auxiliary for t in self.tasks.values()):
            raise ConfigError("tasks: expected one that is not auxiliary, found none")
        check_planting(spec(self), self, self.useful)
        return self

    @property
    def useful(self) -> tuple[str, ...]:
        return tuple(name for name, modality in self.modalities.items() if modality.useful)

    @property
    def clock(self) -> tuple[str, ...]:
        """The sequences whose steps a task per step labels."""
        lengths = {n: m.length for n, m in self.modalities.items() if m.useful and m.kind == "sequence"}
        return tuple(n for n, length in lengths.items() if length == next(iter(lengths.values())))

    @property
    def units(self) -> tuple[str, ...]:
        """The units that a task per unit labels."""
        held = next((n for n in self.clock if self.modalities[n].units), None)
        return () if held is None else _units(held, self.modalities[held])


def spec(config: SyntheticConfig) -> Spec:
    """The spec of ``load(config)``, without generating anything."""
    return Spec(
        tuple(_modality(name, m, config.missing_cells > 0) for name, m in config.modalities.items()),
        tuple(_task(name, task, config) for name, task in config.tasks.items()),
    )


def _modality(name: str, modality: SyntheticModality, gaps: bool) -> Modality:
    columns = range(modality.width)
    if modality.units:
        features = tuple(
            Feature(f"{unit} {i}", gaps=gaps, unit=unit, quantity=f"{name} {i}")
            for unit in _units(name, modality)
            for i in columns
        )
    else:
        features = tuple(Feature(f"{name} {i}", gaps=gaps) for i in columns)
    return Modality(name, modality.kind, features, modality.length, modality.step)


def _task(name: str, task: SyntheticTask, config: SyntheticConfig) -> Task:
    return Task(
        name,
        task.kind,
        _class_names(task),
        config.clock if task.per_step else (),
        task.auxiliary,
        config.units if task.per_unit else (),
        task.causal,
    )


def _units(name: str, modality: SyntheticModality) -> tuple[str, ...]:
    return tuple(f"{name} unit {i + 1}" for i in range(modality.units))


def load(config: SyntheticConfig) -> ArrayDataset:
    """The data set of the settings: the same settings give the same bits.

    >>> data = load(SyntheticConfig(rows=10))
    >>> {name: tuple(leaf.shape) for name, leaf in data.inputs.items()}["sensor"]
    (10, 12, 6)
    """
    return _from_config(config).dataset


def truth(config: SyntheticConfig) -> Truth:
    """What is known of ``load(config)``."""
    return _from_config(config).truth


def _from_config(config: SyntheticConfig) -> Generated:
    plan = Planting(**{name: getattr(config, name) for name in Planting.model_fields})
    made = generate(spec(config), plan, config.useful, {n: t.prevalence for n, t in config.tasks.items()})
    uneven = {name: _uneven(name, task, config) for name, task in config.tasks.items() if task.uneven}
    if not uneven:
        return made
    drawn = Source("emphasis", array_hash(*(values.numpy() for values in uneven.values())), config.rows)
    provenance = replace(made.dataset.provenance, sources=(*made.dataset.provenance.sources, drawn))
    return made._replace(dataset=replace(made.dataset, emphasis=uneven, provenance=provenance))


def _uneven(name: str, task: SyntheticTask, config: SyntheticConfig) -> Tensor:
    """How much each row counts, [R], of mean 1."""
    drawn = generator(config.seed, "emphasis", name).lognormal(-(task.uneven**2) / 2, task.uneven, config.rows)
    return torch.from_numpy(drawn.astype(np.float32))


def _class_names(task: SyntheticTask) -> tuple[str, ...]:
    if task.kind == "binary":
        return ("no", "yes")
    return tuple(f"class {i}" for i in range(task.classes)) if task.kind == "multiclass" else ()
