"""The state of a cross-validation between two epochs: all that continuing needs, and nothing that can be derived."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusion_lab.contracts import DataError
from fusion_lab.training.checkpoints import FINAL, Kept, kept_names
from fusion_lab.training.leaves import Leaves, stack_models, take
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.plan import Execution, Plan
from fusion_lab.training.results import Ending


@dataclass
class State:
    """K folds, A of them still running (``alive``).

    ``weights`` are leaves ``[A,*shape]``, ``best_weights`` leaves ``[K,*shape]`` and, per task, the validation scores
    ``best_scores [K,R,...]`` at each fold's best epoch; ``watched [K]`` the best watched value; ``kept`` further
    checkpoints by name; ``histories`` a row per fold and epoch. ``execution`` stays what it was when training started.
    """

    execution: Execution
    epoch: int
    alive: list[int]
    weights: Leaves
    optimiser: StackedAdamW
    best_weights: Leaves
    best_scores: dict[str, Tensor]
    watched: list[float]
    best_epoch: list[int]
    endings: list[Ending | None]
    histories: list[list[dict[str, float]]]
    kept: dict[str, Kept]

    @classmethod
    def start(cls, plan: Plan, execution: Execution, blank_scores: dict[str, Tensor]) -> State:
        """Initial weights of every fold, nothing trained."""
        folds = range(len(plan.folds))
        weights = stack_models([plan.initial_weights(k).to(plan.device) for k in folds])
        return cls(
            execution=execution,
            epoch=0,
            alive=list(folds),
            weights=weights,
            optimiser=StackedAdamW(weights, plan.optimisers),
            best_weights=take(weights, folds),
            best_scores=blank_scores,
            watched=[-float("inf")] * len(plan.folds),
            best_epoch=[0] * len(plan.folds),
            endings=[None] * len(plan.folds),
            histories=[[] for _ in folds],
            kept={name: Kept.blank(weights) for name in kept_names(plan.dataset.spec, plan.training)},
        )

    def compact(self) -> bool:
        """Takes folds that have ended out of the stack, their last weights kept where these are asked for; whether
        there were any.
        """
        stay = [place for place, k in enumerate(self.alive) if self.endings[k] is None]
        if len(stay) == len(self.alive):
            return False
        if FINAL in self.kept:
            for place in set(range(len(self.alive))) - set(stay):
                self.kept[FINAL].put(self.alive[place], self.weights, place, self.epoch)
        self.weights = take(self.weights, stay)
        self.optimiser.keep(self.weights, stay)
        self.alive = [self.alive[place] for place in stay]
        return True

    def save(self, path: Path, fingerprint: str) -> None:
        """Writes the state to one safetensors file, whole or not at all; its header carries the numbers as JSON.

        Raises:
            DataError: the file cannot be written.
        """
        parts = {"weights": self.weights, "best_weights": self.best_weights, "best_scores": self.best_scores}
        parts["optimiser"] = self.optimiser.moments()
        parts |= {f"kept {number}": kept.weights for number, kept in enumerate(self.kept.values())}
        tensors = {f"{part}/{name}": leaf for part, leaves in parts.items() for name, leaf in leaves.items()}
        numbers = {
            name: getattr(self, name)
            for name in ("execution", "epoch", "alive", "watched", "best_epoch", "endings", "histories")
        }
        numbers["kept"] = {name: kept.numbers() for name, kept in self.kept.items()}
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
            DataError: the file is damaged, or belongs to another configuration, data set or split, or to a training
                that did not keep the checkpoints which are asked for now.
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
        numbers["execution"] = Execution(*numbers["execution"])
        told = numbers.pop("kept")
        # in the model's order, in which norms are added up: a file has another
        names = [name for name, _ in plan.initial_weights(0).named_parameters()]
        weights, best_weights = ({n: tensors[f"{part}/{n}"] for n in names} for part in ("weights", "best_weights"))
        optimiser = StackedAdamW(weights, [plan.optimisers[k] for k in numbers["alive"]])
        optimiser.restore(_part(tensors, "optimiser"))
        kept = {
            name: Kept({n: tensors[f"kept {number}/{n}"] for n in names}, **told[name])
            for number, name in enumerate(told)
        }
        return cls(
            weights=weights,
            optimiser=optimiser,
            best_weights=best_weights,
            best_scores=_part(tensors, "best_scores"),
            kept=_asked_for(kept, plan, path),
            **numbers,
        )


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of a file that belong to one part of the state."""
    return {name.removeprefix(f"{part}/"): leaf for name, leaf in tensors.items() if name.startswith(f"{part}/")}


def _asked_for(kept: dict[str, Kept], plan: Plan, path: Path) -> dict[str, Kept]:
    """The kept checkpoints that the plan asks for: what of them lies behind cannot be made good."""
    names = kept_names(plan.dataset.spec, plan.training)
    missing = [name for name in names if name not in kept]
    if missing:
        raise DataError(
            f"{path}: expected the state of a training that keeps {', '.join(missing)} (training.checkpoints: all), "
            "found one that began without them; set it to restored, or remove the file"
        )
    return {name: kept[name] for name in names}


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
