"""The domain of generated data: modalities and tasks in the settings, a planted signal in the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fusion_lab.config import Config
from fusion_lab.contracts import Feature, Modality, ModalityKind, Spec, Task, TaskKind
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.names import usable_names
from fusion_lab.data.planting import Generated, Planting, Truth, check_planting, generate


class SyntheticModality(Config):
    """``width`` numeric columns; ``length`` positions of a sequence or bag; not ``useful``: no label depends on it."""

    kind: ModalityKind = "vector"
    width: int = Field(default=8, ge=1)
    length: int | None = Field(default=None, ge=1)
    useful: bool = True

    @model_validator(mode="after")
    def _length_fits_kind(self) -> SyntheticModality:
        if (self.length is None) != (self.kind == "vector"):
            expected = "no length" if self.kind == "vector" else "a length"
            raise ValueError(f"expected {expected} with kind {self.kind}, found {self.length}")
        return self


class SyntheticTask(Config):
    """``classes`` of a multiclass task, equally frequent; ``prevalence`` of a binary task's positive class."""

    kind: TaskKind = "binary"
    classes: int = Field(default=3, ge=3)
    prevalence: float = Field(default=0.5, gt=0, lt=1)


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
        check_planting(spec(self), self, self.useful)
        return self

    @property
    def useful(self) -> tuple[str, ...]:
        return tuple(name for name, modality in self.modalities.items() if modality.useful)


def spec(config: SyntheticConfig) -> Spec:
    """The spec of ``load(config)``, without generating anything."""
    return Spec(
        tuple(
            Modality(name, m.kind, tuple(Feature(f"{name} {i}") for i in range(m.width)), m.length)
            for name, m in config.modalities.items()
        ),
        tuple(Task(name, t.kind, _class_names(t)) for name, t in config.tasks.items()),
    )


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
    return generate(spec(config), plan, config.useful, {n: t.prevalence for n, t in config.tasks.items()})


def _class_names(task: SyntheticTask) -> tuple[str, ...]:
    if task.kind == "binary":
        return ("no", "yes")
    return tuple(f"class {i}" for i in range(task.classes)) if task.kind == "multiclass" else ()
