"""The models of an ensemble: raw rows in, each member's answers out, in the targets' own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from fusion_lab.contracts import Batch, DataError, Spec
from fusion_lab.data.scaling import Scaler
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.training.leaves import Leaves
from fusion_lab.training.monitor import probabilities
from fusion_lab.training.stack import Stack
from fusion_lab.training.targets import TargetScale
from fusion_lab.zoo import FAMILIES, MapSpec
from fusion_lab.zoo.baselines import Baseline
from fusion_lab.zoo.saved import load_baselines, save_baselines

WEIGHTS, BASELINES = "weights.safetensors", "baselines.skops"


class Answer(NamedTuple):
    """``scores``: ``{task: float64 [K,B,...]}``, probabilities or values of K members, shaped as in
    :class:`~fusion_lab.contracts.Predictions`. ``maps``: ``{name: float32 [K,B,...]}``.
    """

    scores: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]


class Members(Protocol):
    """K models that were trained alike, each with the statistics of its own training rows."""

    @property
    def maps(self) -> Mapping[str, MapSpec]:
        """The attention maps that an answer holds."""
        ...

    def __len__(self) -> int: ...

    def answer(self, batch: Batch) -> Answer:
        """Answers of all members for raw rows, leaves ``[B,...]``."""
        ...

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Networks:
    """K copies of one model of the zoo.

    ``weights`` are leaves ``[K,*shape]``, ``scaler`` and ``scale`` the statistics of K folds; ``config`` is the
    ``model`` section of the experiment.
    """

    config: Mapping[str, Any]
    spec: Spec
    weights: Leaves
    scaler: Scaler
    scale: TargetScale

    def __post_init__(self) -> None:
        family = FAMILIES[self.config["family"]]
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn and not used
            model = family(family.Config.model_validate(dict(self.config)), self.spec).eval()
        expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
        found = {name: tuple(leaf.shape[1:]) for name, leaf in self.weights.items()}
        if expected != found:
            odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
            raise DataError(
                f"{odd}: expected a weight of shape {expected.get(odd)} in every member, found {found.get(odd)}"
            )
        object.__setattr__(self, "_stack", Stack(model, Objective(ObjectiveConfig(), self.spec), "loop"))
        object.__setattr__(self, "_turn", Lock())

    @property
    def maps(self) -> Mapping[str, MapSpec]:
        return self._model_stack.model.maps

    @property
    def _model_stack(self) -> Stack:
        return vars(self)["_stack"]  # set once, in __post_init__

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def answer(self, batch: Batch) -> Answer:
        every = pytree.tree_map(lambda leaf: leaf.expand(len(self), *leaf.shape), batch)
        with vars(self)["_turn"]:  # the stack lends its one module to each member in turn, and servers have threads
            output = self._model_stack.answers(self.weights, self.scaler(every))
        scores = probabilities(output.heads, self.spec, self.scale)
        return Answer(
            {task: leaf.double().numpy() for task, leaf in scores.items()},
            {name: leaf.float().numpy() for name, leaf in output.maps.items()},
        )

    def save(self, folder: Path) -> None:
        parts: dict[str, Mapping[str, Tensor]] = {
            "weights": self.weights,
            "scaler": self.scaler.state(),
            "mean": self.scale.mean,
            "std": self.scale.std,
        }
        named = {f"{part}/{name}": leaf for part, leaves in parts.items() for name, leaf in leaves.items()}
        save_file({name: leaf.detach().cpu().contiguous() for name, leaf in named.items()}, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], spec: Spec) -> Networks:
        parts = _tensors(folder / WEIGHTS)
        names = sorted(parts["weights"])
        weights = {name: parts["weights"][name] for name in names}
        scale = TargetScale(parts.get("mean", {}), parts.get("std", {}))
        return cls(config, spec, weights, Scaler.from_state(parts["scaler"]), scale)


@dataclass(frozen=True)
class Baselines:
    """A baseline, fitted to each of K folds; ``scaler`` holds the folds' statistics."""

    models: Sequence[Baseline]
    spec: Spec
    scaler: Scaler

    @property
    def maps(self) -> Mapping[str, MapSpec]:
        return {}

    def __len__(self) -> int:
        return len(self.models)

    def answer(self, batch: Batch) -> Answer:
        each = [model.predict(self.scaler.fold(k)(batch)) for k, model in enumerate(self.models)]
        scores = {task.name: np.stack([answers[task.name] for answers in each]) for task in self.spec.tasks}
        return Answer({task: np.asarray(found, dtype=np.float64) for task, found in scores.items()}, {})

    def save(self, folder: Path) -> None:
        save_baselines(self.models, folder / BASELINES)
        state = {f"scaler/{name}": leaf for name, leaf in self.scaler.state().items()}
        save_file(state, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path, spec: Spec) -> Baselines:
        scaler = Scaler.from_state(_tensors(folder / WEIGHTS)["scaler"])
        return cls(load_baselines(folder / BASELINES), spec, scaler)


def _tensors(file: Path) -> dict[str, dict[str, Tensor]]:
    """``{part: {name: tensor}}`` of a safetensors file whose names begin with their part.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                part, _, name = key.partition("/")
                # a copy: what safetensors gives lies in the mapped file, unaligned, where kernels round otherwise
                parts.setdefault(part, {})[name] = opened.get_tensor(key).clone()
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file.name}: expected weights in safetensors format, found: {error}") from None
    return parts
