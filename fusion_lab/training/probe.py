"""The folds' best weights asked about their own test rows once more: with fewer modalities, with dropout, by the
clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.contracts import AttentionMap, Batch, Predictions
from fusion_lab.data.scaling import Scaler
from fusion_lab.evaluation.rows import Inputs, over_modalities
from fusion_lab.evaluation.subsets import Subset, masked, without_any
from fusion_lab.training.batches import gather, padded
from fusion_lab.training.leaves import Leaves, stack_models
from fusion_lab.training.monitor import probabilities
from fusion_lab.training.plan import Plan
from fusion_lab.training.stack import Stack
from fusion_lab.training.targets import TargetScale
from fusion_lab.zoo import Model

ROWS_AT_ONCE = 256
"""Of a pass with dropout, whose random values would take too much memory for all rows together, and where maps are
asked for, as those of time steps would.
"""
WARM_UP, BATCH, BATCHES = 10, 32, 10


class Latency(NamedTuple):
    """Milliseconds from one raw row to its answer, and how many rows per second batches of :data:`BATCH` give."""

    mean: float
    std: float
    median: float
    p95: float
    rows: int
    rows_per_second: float
    device: str
    threads: int


class Probe:
    """Models of K folds and their test rows, scaled and gathered once. ``weights``: those of each fold, by name;
    ``scale``: the folds' target statistics.
    """

    def __init__(self, plan: Plan, weights: Sequence[Mapping[str, Tensor]], scale: TargetScale) -> None:
        self.plan, self.spec = plan, plan.dataset.spec
        self.scale = scale.to(plan.device)
        self.models = [self._model(k, leaves) for k, leaves in enumerate(weights)]
        self.rows = padded(plan.folds.test)
        self._draws: dict[int, int] = {}

    @cached_property
    def batch(self) -> Batch:
        """Test rows, leaves ``[K,B,...]``, those that pad with weight 0."""
        return gather(self.plan, self.rows, self.plan.scaler)

    def ask(self, keep: Subset) -> Predictions:
        """What the models say of their test rows where only the modalities ``keep`` are there; of all modalities, what
        they said at the end of training.
        """
        batch, (numbers, real) = masked(self.batch, keep), self.rows
        heads = self._stack.answers(self._weights, batch).heads
        fold = self._folds
        chosen = torch.from_numpy(real)
        parts = (batch.targets, batch.known, probabilities(heads, self.spec, self.scale))
        leaves = ({name: leaf.cpu()[chosen].numpy() for name, leaf in part.items()} for part in parts)
        return Predictions(fold, np.full(len(fold), "test"), numbers[real], *leaves)

    def without_any(self, keep: Subset) -> int:
        """How many test rows have none of the modalities ``keep``."""
        return without_any(self.batch, keep)

    def inputs(self) -> Inputs:
        """What the test rows hold of each modality, in the order of :meth:`ask`."""
        real = torch.from_numpy(self.rows[1])
        valid = {name: leaf.cpu()[real].reshape(int(real.sum()), -1) for name, leaf in self.batch.valid.items()}
        quality = {name: leaf.cpu()[real].numpy() for name, leaf in self.batch.quality.items()}
        return Inputs({name: leaf.any(-1).numpy() for name, leaf in valid.items()}, quality)

    def modality_maps(self) -> tuple[AttentionMap, ...]:
        """The models' maps whose only axis is the modalities, of their test rows, in the order of :meth:`ask`."""
        kinds = {name: kind for name, kind in self.models[0].maps.items() if over_modalities(kind.axes, self.spec)}
        if not kinds:
            return ()
        parts = [self._some_maps(k, rows, tuple(kinds)) for k in range(len(self.models)) for rows in self._slices(k)]
        row = self.rows[0][self.rows[1]]
        return tuple(
            AttentionMap(name, kind.kind, kind.axes, self._folds, row, np.concatenate([part[name] for part in parts]))
            for name, kind in kinds.items()
        )

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ at all."""
        return self._count(self._part(0, slice(0, 1))) > 0

    def passes(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Scores of ``count`` passes with dropout on, in the order of :meth:`ask`. What is dropped is a function of
        (seed, trial, fold's name, pass, row's place).
        """
        for number in range(count):
            folds = [self._noisy_fold(k, number) for k in range(len(self.models))]
            yield {task.name: np.concatenate([fold[task.name] for fold in folds]) for task in self.spec.tasks}

    def latency(self, rows: int) -> Latency:
        """Of the first fold's model: test rows from memory, one after the other, through scaler and model."""
        chosen = np.resize(np.flatnonzero(self.plan.folds.test[0]), max(rows, BATCH * BATCHES))
        single = [chosen[i : i + 1] for i in range(rows)]
        batches = [chosen[i * BATCH : (i + 1) * BATCH] for i in range(BATCHES)]
        for some in (*single[:WARM_UP], batches[0]):
            self._seconds(some)
        seconds = np.array([self._seconds(row) for row in single])
        of_batch = float(np.median([self._seconds(some) for some in batches]))
        milliseconds = 1e3 * seconds
        return Latency(
            mean=float(milliseconds.mean()),
            std=float(milliseconds.std()),
            median=float(np.median(milliseconds)),
            p95=float(np.quantile(milliseconds, 0.95)),
            rows=rows,
            rows_per_second=BATCH / of_batch,
            device=str(self.plan.device),
            threads=torch.get_num_threads(),
        )

    def _model(self, k: int, weights: Mapping[str, Tensor]) -> Model:
        model = self.plan.initial_weights(k).to(self.plan.device)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        return model

    @cached_property
    def _weights(self) -> Leaves:
        return stack_models(self.models)

    @cached_property
    def _stack(self) -> Stack:
        training = self.plan.training
        mode = "stacked" if training.mode == "stacked" else "loop"  # without gradients a stack gains nothing on a CPU
        return Stack(self.plan.initial_weights(0).to(self.plan.device), self.plan.objective, mode, training.stack_size)

    def _part(self, k: int, rows: slice) -> Batch:
        """Some test rows of a fold as a model sees them."""
        return pytree.tree_map(lambda leaf: leaf[k, rows], self.batch.without_targets())

    @property
    def _folds(self) -> np.ndarray:
        """Fold of each test row, in the order of :meth:`ask`."""
        real = self.rows[1]
        return np.broadcast_to(np.arange(len(real))[:, None], real.shape)[real]

    def _slices(self, k: int) -> list[slice]:
        """A fold's test rows, some at a time."""
        count = int(self.plan.folds.test[k].sum())
        return [slice(start, min(start + ROWS_AT_ONCE, count)) for start in range(0, count, ROWS_AT_ONCE)]

    @torch.no_grad()
    def _some_maps(self, k: int, rows: slice, names: Sequence[str]) -> dict[str, np.ndarray]:
        maps = self.models[k](self._part(k, rows)).maps
        return {name: maps[name].cpu().numpy() for name in names}

    def _noisy_fold(self, k: int, number: int) -> dict[str, np.ndarray]:
        parts = [self._noisy(k, number, rows) for rows in self._slices(k)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def _noisy(self, k: int, number: int, rows: slice) -> dict[str, np.ndarray]:
        """Scores of one pass for some rows of a fold."""
        plan, batch = self.plan, self._part(k, rows)
        place = (plan.seed, plan.trial, "mc dropout", plan.folds.names[k], number, rows.start)
        noise = Noise(torch.from_numpy(draw_noise(self._count(batch), *place)).to(plan.device), distorts=False)
        heads = {name: head.unsqueeze(0) for name, head in self.models[k](batch, noise).heads.items()}
        scores = probabilities(heads, self.spec, self.scale.take([k]))
        return {name: leaf[0].cpu().numpy() for name, leaf in scores.items()}

    def _count(self, batch: Batch) -> int:
        """How many random values a pass over such a batch takes."""
        rows = len(batch.weight)
        if rows not in self._draws:
            self._draws[rows] = count_draws(lambda noise: self.models[0](batch, noise), self.plan.device, False)
        return self._draws[rows]

    @torch.no_grad()
    def _seconds(self, rows: np.ndarray) -> float:
        """From raw rows, which are gathered before the clock starts, to their answers."""
        plan = self.plan
        raw = plan.dataset.gather(torch.from_numpy(rows)).without_targets()
        start = time.perf_counter()
        scaled = self._scaler(raw)
        self.models[0](pytree.tree_map(lambda leaf: _moved(leaf, plan), scaled))
        if plan.device.type == "cuda":
            torch.cuda.synchronize(plan.device)
        return time.perf_counter() - start

    @cached_property
    def _scaler(self) -> Scaler:
        return self.plan.scaler.fold(0)


def _moved(leaf: Tensor, plan: Plan) -> Tensor:
    return leaf.to(plan.device, plan.dtype if leaf.is_floating_point() else leaf.dtype)
