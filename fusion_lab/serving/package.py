"""A model as a folder: weights as safetensors (a baseline: skops), everything else as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

import fusion_lab
from fusion_lab.config import Config
from fusion_lab.contracts import DataError, Spec, UserError
from fusion_lab.data.raw import Records
from fusion_lab.serving.intake import batch_of
from fusion_lab.serving.members import Baselines, Members, Networks
from fusion_lab.zoo.baselines import SINGLE

FORMAT = 1
MODEL = "model.json"

Final = Literal["ensemble", "refit"]


@dataclass(frozen=True)
class Origin:
    """What a model was made from: hashes of data, split and configuration, and the run that holds its scores."""

    data: str
    folds: str
    fingerprint: str
    run: str
    selected: str | None = None  # the study that chose the configuration on the same folds
    holdout: int = 0  # rows that no member has seen


@dataclass(frozen=True)
class Package:
    """A model that answers raw rows, and all that belongs to it.

    ``final``: ``ensemble`` of the folds' models, or one ``refit`` on all development rows; ``baseline`` names it where
    it is one. ``temperature`` divides a task's logits, ``threshold`` is where a binary task says yes; both come from
    the pooled validation predictions.
    """

    name: str
    members: Members = field(repr=False)
    spec: Spec
    experiment: Mapping[str, Any]
    origin: Origin
    final: Final = "ensemble"
    baseline: str | None = None
    temperature: Mapping[str, float] = field(default_factory=dict)
    threshold: Mapping[str, float] = field(default_factory=dict)
    epochs: tuple[int, ...] = ()
    version: str = fusion_lab.__version__

    @property
    def reads(self) -> tuple[str, ...]:
        """The modalities that its answers go by: all of the spec's, unless it is a model of some of them."""
        names = tuple(m.name for m in self.spec.modalities)
        chosen = None if self.baseline else self.experiment["model"].get("modalities")
        if self.baseline and self.baseline.startswith(SINGLE):
            chosen = (self.baseline.removeprefix(SINGLE),)
        return names if chosen is None else tuple(name for name in names if name in chosen)

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        family = self.experiment["model"]["family"]
        what = f"baseline {self.baseline}" if self.baseline else family
        if not self.baseline and len(self.reads) < len(self.spec.modalities):
            what = f"{what} of {' and '.join(self.reads)} alone"
        count = len(self.members)
        return f"{what}, refit on all development rows" if self.final == "refit" else f"{what}, {count} fold models"

    def save(self, folder: Path) -> None:
        """Writes the folder's files; it has to be there."""
        self.members.save(folder)
        told = {name: value for name, value in vars(self).items() if name != "members"}
        tree = {"format": FORMAT, **told, "spec": asdict(self.spec), "origin": asdict(self.origin)}
        (folder / MODEL).write_text(json.dumps(tree, indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Package:
        """The model of a folder.

        Raises:
            DataError: a file is missing, damaged, or written by another version.
        """
        told = _read(folder / MODEL)
        try:
            members = _members(folder, told)
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # what torch, NumPy and pydantic say of numbers of other shapes or types than the description's
            found = " ".join(str(error).split())[:200]
            raise DataError(f"{MODEL}: expected weights that fit the description, found: {found}") from None
        return cls(members=members, **{name: value for name, value in vars(told).items() if name != "format"})


def _members(folder: Path, told: _Told) -> Members:
    """The members, having answered a row that misses everything: what does not fit together shows."""
    if told.baseline is not None:
        members: Members = Baselines.load(folder, told.spec)
    else:
        members = Networks.load(folder, told.experiment["model"], told.spec)
    members.answer(batch_of(Records(np.array(["nothing"]), {}), told.spec))
    return members


class _Told(Config):
    """What ``model.json`` holds."""

    format: Literal[1]
    name: str
    spec: Spec
    experiment: dict[str, Any]
    origin: Origin
    final: Final
    baseline: str | None
    temperature: dict[str, Annotated[float, Field(gt=0.0)]]
    threshold: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]]
    epochs: tuple[int, ...]
    version: str


def _read(file: Path) -> _Told:
    try:
        return _Told.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise DataError(f"{MODEL}: {where}: expected a model of format {FORMAT}, found: {first['msg']}") from None
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{MODEL}: expected a model's description, found: {found}") from None
