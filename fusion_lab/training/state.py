"""The state of a cross-validation between two epochs: all that continuing needs, and nothing that can be derived."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fusion_lab.contracts import DataError
from fusion_lab.training.checkpoints import FINAL, Kept, kept_names
from fusion_lab.training.leaves import Leaves, stack_models, take
from fusion_lab.training.optimiser import StackedAdamW
from fusion_lab.training.plan import Execution, Plan
from fusion_lab.training.results import Ending
from fusion_lab.training.safetensors_stream import Entry, write_stream
from fusion_lab.training.shelf import Shelf

SHELF = "shelf"
"""What the parts of a file are called that hold a fold's weights after one epoch: "shelf <fold> <epoch>"."""


@dataclass
class State:
    """K folds, A of them still running (``alive``).

    ``weights`` are leaves ``[A,*shape]`` and, per task, ``best_scores [K,R,...]`` the validation scores at each fold's
    best epoch; ``watched [K]`` the best watched value; ``kept`` further checkpoints by name. The weights of the epochs
    that these name lie on the ``shelf``, those of a fold's last one since it ended and if they are asked for
    (``keeps_last``). ``histories`` hold a row per fold and epoch. ``execution`` stays what it was when training began.
    """

    execution: Execution
    epoch: int
    alive: list[int]
    weights: Leaves
    optimiser: StackedAdamW
    shelf: Shelf
    best_scores: dict[str, Tensor]
    watched: list[float]
    best_epoch: list[int]
    endings: list[Ending | None]
    histories: list[list[dict[str, float]]]
    kept: dict[str, Kept]
    keeps_last: bool

    @classmethod
    def start(
        cls, plan: Plan, execution: Execution, blank_scores: dict[str, Tensor], folder: Path | None = None
    ) -> State:
        """Initial weights of every fold, nothing trained. ``folder``: for what memory should not hold."""
        folds = range(len(plan.folds))
        models = [plan.initial_weights(k).to(plan.device) for k in folds]
        weights = stack_models(models)
        names = kept_names(plan.dataset.spec, plan.training)
        return cls(
            execution=execution,
            epoch=0,
            alive=list(folds),
            weights=weights,
            optimiser=StackedAdamW(weights, plan.optimisers),
            shelf=Shelf.holding((1 + len(names)) * len(folds), models[0], folder),
            best_scores=blank_scores,
            watched=[-float("inf")] * len(plan.folds),
            best_epoch=[0] * len(plan.folds),
            endings=[None] * len(plan.folds),
            histories=[[] for _ in folds],
            kept={name: Kept.blank(len(folds)) for name in names},
            keeps_last=_keeps_last(plan, names),
        )

    def put_by(self, place: int) -> None:
        """Copies the weights of a running fold in its ``place`` to the shelf, as those of this epoch."""
        self.shelf.put((self.alive[place], self.epoch), {name: leaf[place] for name, leaf in self.weights.items()})

    def clear_shelf(self) -> None:
        """Takes from the shelf what is no fold's best of any kind any more."""
        epochs = [self.best_epoch, *(kept.epoch for kept in self.kept.values())]
        self.shelf.retain({slot for epoch in epochs for slot in enumerate(epoch)})

    def compact(self) -> bool:
        """Takes folds that have ended out of the stack, their last weights kept where these are asked for; whether
        there were any.
        """
        stay = [place for place, k in enumerate(self.alive) if self.endings[k] is None]
        if len(stay) == len(self.alive):
            return False
        for place in set(range(len(self.alive))) - set(stay) if self.keeps_last else ():
            self.put_by(place)
            if FINAL in self.kept:
                self.kept[FINAL].epoch[self.alive[place]] = self.epoch
        self.weights = take(self.weights, stay)
        self.optimiser.keep(self.weights, stay)
        self.alive = [self.alive[place] for place in stay]
        return True

    def save(self, path: Path, fingerprint: str) -> None:
        """Writes the state to one safetensors file, whole or not at all; its header carries the numbers as JSON.

        Raises:
            DataError: the file cannot be written.
        """
        parts = {"weights": self.weights, "best_scores": self.best_scores, "optimiser": self.optimiser.moments()}
        entries = {f"{part}/{name}": Entry.of(leaf) for part, leaves in parts.items() for name, leaf in leaves.items()}
        for fold, epoch in self.shelf:
            own = self.shelf.get((fold, epoch))
            for name, leaf in self.weights.items():
                entries[f"{SHELF} {fold} {epoch}/{name}"] = Entry(
                    leaf.shape[1:], leaf.dtype, partial(getitem, own, name)
                )
        numbers = {
            name: getattr(self, name)
            for name in ("execution", "epoch", "alive", "watched", "best_epoch", "endings", "histories")
        }
        numbers["kept"] = {name: asdict(kept) for name, kept in self.kept.items()}
        numbers["shelf"] = list(self.shelf)
        half = path.with_suffix(".part")
        with _told(path, "expected a checkpoint that can be written"):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_stream(half, entries, {"fingerprint": fingerprint, "numbers": json.dumps(numbers)})
                os.replace(half, path)
            except OSError:
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
        with _told(path, "expected a checkpoint in safetensors format"):
            with safe_open(path, framework="pt") as file:
                header, names = file.metadata() or {}, list(file.keys())
            if header.get("fingerprint") != plan.fingerprint:
                raise DataError(
                    f"{path}: expected a checkpoint of this configuration, data and split, found one of another"
                )
            return cls._read(path, _parts(names), json.loads(header["numbers"]), plan)

    @classmethod
    def _read(cls, path: Path, parts: Mapping[str, list[str]], numbers: dict[str, Any], plan: Plan) -> State:
        # in the model's order, in which norms are added up: a file has another
        numbers["execution"] = Execution(*numbers["execution"])
        model = plan.initial_weights(0)
        names = [name for name, _ in model.named_parameters()]
        kept = _asked_for({name: Kept(**told) for name, told in numbers.pop("kept").items()}, plan, path)
        weights = _tensors(path, "weights", names, plan.device)
        optimiser = StackedAdamW(weights, [plan.optimisers[k] for k in numbers["alive"]])
        for name, leaf in optimiser.moments().items():  # in place: they are there twice otherwise
            leaf.copy_(_tensors(path, "optimiser", [name], plan.device)[name])
        shelf = Shelf.holding((1 + len(kept)) * len(plan.folds), model, path.parent)
        for fold, epoch in numbers.pop("shelf"):
            shelf.put((fold, epoch), _tensors(path, f"{SHELF} {fold} {epoch}", names, plan.device))
        state = cls(
            weights=weights,
            optimiser=optimiser,
            shelf=shelf,
            best_scores=_tensors(path, "best_scores", parts["best_scores"], plan.device),
            kept=kept,
            keeps_last=_keeps_last(plan, list(kept)),
            **numbers,
        )
        state.clear_shelf()
        return state


def _keeps_last(plan: Plan, names: Collection[str]) -> bool:
    return FINAL in names or plan.training.restore == "last"


def _parts(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of a file's tensors by the part of the state that they belong to."""
    parts: dict[str, list[str]] = defaultdict(list)
    for part, _, name in (name.partition("/") for name in names):
        parts[part].append(name)
    return parts


def _tensors(path: Path, part: str, names: Iterable[str], device: torch.device) -> dict[str, Tensor]:
    """Some tensors of a part of the file. Copies: what safetensors gives lies in the mapped file, unaligned, where
    kernels round otherwise, and pages of the file stay in memory as long as it is open.
    """
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(f"{part}/{name}").to(device, copy=True) for name in names}


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
