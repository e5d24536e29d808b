"""The state of a cross-validation between two epochs: all that continuing needs, and nothing that can be derived."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusion_lab.contracts import DataError
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.plan import Plan
from fusion_lab.training.results import Ending
from fusion_lab.training.stack import Layout


@dataclass
class State:
    """K folds, A of them still running (``alive``).

    ``weights [A,P]``; ``best_weights [K,P]`` and, per task, the validation scores ``best_scores [K,R,...]`` at each
    fold's best epoch; ``watched [K]`` the best watched value; ``histories`` a row per fold and epoch.
    """

    epoch: int
    alive: list[int]
    weights: Tensor
    optimiser: StackedAdamW
    best_weights: Tensor
    best_scores: dict[str, Tensor]
    watched: list[float]
    best_epoch: list[int]
    endings: list[Ending | None]
    histories: list[list[dict[str, float]]]

    @classmethod
    def start(cls, plan: Plan, layout: Layout, blank_scores: dict[str, Tensor]) -> State:
        """Initial weights of every fold, nothing trained."""
        folds = range(len(plan.folds))
        rows = [layout.join(dict(plan.initial_weights(k).named_parameters())) for k in folds]
        weights = torch.stack(rows).to(plan.device)
        return cls(
            epoch=0,
            alive=list(folds),
            weights=weights,
            optimiser=StackedAdamW(weights, plan.optimiser),
            best_weights=weights.clone(),
            best_scores=blank_scores,
            watched=[-float("inf")] * len(plan.folds),
            best_epoch=[0] * len(plan.folds),
            endings=[None] * len(plan.folds),
            histories=[[] for _ in folds],
        )

    def compact(self) -> bool:
        """Takes folds that have ended out of the stack; whether there were any."""
        stay = [place for place, k in enumerate(self.alive) if self.endings[k] is None]
        if len(stay) == len(self.alive):
            return False
        self.weights = self.weights[stay].clone()
        self.optimiser.keep(self.weights, stay)
        self.alive = [self.alive[place] for place in stay]
        return True

    def save(self, path: Path, fingerprint: str) -> None:
        """Writes the state to one safetensors file, whole or not at all; its header carries the numbers as JSON.

        Raises:
            DataError: the file cannot be written.
        """
        tensors = {"weights": self.weights, "best_weights": self.best_weights, **self.optimiser.moments()}
        tensors |= {f"best_scores/{name}": scores for name, scores in self.best_scores.items()}
        numbers = {
            name: getattr(self, name) for name in ("epoch", "alive", "watched", "best_epoch", "endings", "histories")
        }
        cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        half = path.with_suffix(".part")
        with _told(path, "expected a checkpoint that can be written"):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file(cpu, half, metadata={"fingerprint": fingerprint, "numbers": json.dumps(numbers)})
                os.replace(half, path)
            except (OSError, SafetensorError):
                with suppress(OSError):
                    half.unlink()
                raise

    @classmethod
    def load(cls, path: Path, plan: Plan) -> State:
        """Takes up a saved state.

        Raises:
            DataError: the file is damaged, or belongs to another configuration, data set or split.
        """
        with _told(path, "expected a checkpoint in safetensors format"), safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # Copies: what safetensors gives lies in the mapped file, unaligned, where kernels round otherwise.
            loaded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tensors = {name: tensor.to(plan.device, copy=True) for name, tensor in loaded.items()}
        if header.get("fingerprint") != plan.fingerprint:
            raise DataError(
                f"{path}: expected a checkpoint of this configuration, data and split, found one of another"
            )
        numbers = json.loads(header["numbers"])
        weights = tensors.pop("weights")
        optimiser = StackedAdamW(weights, plan.optimiser)
        optimiser.restore({name: tensors.pop(name) for name in ("exp_avg", "exp_avg_sq", "steps")})
        best_weights = tensors.pop("best_weights")
        best_scores = {name.removeprefix("best_scores/"): tensor for name, tensor in tensors.items()}
        return cls(weights=weights, optimiser=optimiser, best_weights=best_weights, best_scores=best_scores, **numbers)


def discard(path: Path) -> None:
    """Removes a checkpoint that has done its work.

    Raises:
        DataError: it cannot be removed.
    """
    with _told(path, "expected a checkpoint that can be removed"), suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


@contextmanager
def _told(path: Path, expected: str) -> Generator[None]:
    """What the file system or safetensors does not like about a checkpoint, in one line that names it."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: {expected}, found: {' '.join(str(error).split())}") from None
