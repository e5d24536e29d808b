"""What every family of the zoo is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.randomness import Noise
from fusion_lab.config import Config
from fusion_lab.contracts import Axis, Batch, ConfigError, MapKind, Output, Spec


class MapSpec(NamedTuple):
    """What an attention map of a model's :class:`~fusion_lab.contracts.Output` holds; its last axis is what is
    weighed.
    """

    kind: MapKind
    axes: tuple[Axis, ...]


class AttentionConfig(Config):
    """Settings of a family whose tokens, of width ``d_model``, are read by attention with ``nhead`` heads."""

    family: str
    d_model: int = Field(64, ge=4, le=4096)
    nhead: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.d_model % self.nhead:
            raise ValueError(f"expected d_model to be a multiple of nhead, found {self.d_model} and {self.nhead}")
        return self


class Model(nn.Module):
    """A family: built from its config and a :class:`~fusion_lab.contracts.Spec`, pure in tensors.

    ``forward`` sees no target, draws nothing (``noise`` is drawn for it, see :mod:`fusion_lab.blocks.randomness`) and
    has static shapes, so that ``torch.func`` can stack it over folds.
    """

    Config: ClassVar[type[Config]]
    penalties: ClassVar[tuple[str, ...]] = ()
    """Names of what its training adds to the loss."""
    units: ClassVar[bool] = False
    """Whether it answers tasks with units."""
    maps: dict[str, MapSpec]

    def __new__(cls, config: Config | None = None, spec: Spec | None = None) -> Self:
        """Before a family's own constructor sees a spec, what none but some answer is refused."""
        if spec is not None and not cls.units:
            refuse_units(config, spec)
        return super().__new__(cls)

    @abstractmethod
    def __init__(self, config: Config, spec: Spec) -> None: ...

    @abstractmethod
    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        """Answers for a batch of scaled rows. ``noise`` is given while training, ``None`` in evaluation."""

    def real_parameters(self) -> dict[str, Tensor]:
        """For each parameter, bool of its shape: False on the zero padding of grouped encoders."""
        real = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in self.named_parameters()}
        for name, module in self.named_modules():
            if isinstance(module, GroupedLinear):
                real[f"{name}.weight"], real[f"{name}.bias"] = module.real(), module.real_bias()
        return real

    def count_parameters(self) -> int:
        """Number of trainable numbers that are not padding."""
        return int(sum(mask.sum() for mask in self.real_parameters().values()))

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        assert "Config" in vars(cls), f"{cls.__name__} has no Config"

    def super_init(self) -> None:
        """``nn.Module``'s own constructor, for subclasses whose ``__init__`` signature is the family's."""
        nn.Module.__init__(self)


def refuse_units(config: object, spec: Spec) -> None:
    """
    Raises:
        ConfigError: a task has a target per unit.
    """
    family = getattr(config, "family", "this family")
    for task in spec.tasks:
        if task.units:
            expected = f"expected tasks without units with {family} (multitrack answers for each unit)"
            found = f"task {task.name!r} with a target for each of {len(task.units)} units"
            raise ConfigError(f"model.family: {expected}, found {found}")
