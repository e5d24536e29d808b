"""Everything a cross-validation needs, built: the seam between `experiment`, which builds it, and `training`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fusion_lab.blocks.randomness import key
from fusion_lab.config import Config
from fusion_lab.contracts import Batch, ConfigError, Dataset, Folds
from fusion_lab.data.scaling import Scaler
from fusion_lab.objectives import Objective
from fusion_lab.training.augmentation import AugmentationConfig
from fusion_lab.training.optimiser import OptimiserConfig
from fusion_lab.training.sampling import SamplerConfig
from fusion_lab.zoo import Model

Mode = Literal["stacked", "loop"]
Monitor = Literal["auroc", "ap", "macro_plus_min", "f1", "loss"]


class Goal(NamedTuple):
    """What trainings and models are judged by: a score of each main task, and how much of it all is the lowest one, the
    rest being their mean.
    """

    monitor: Monitor
    min_weight: float = 0.0

    @classmethod
    def of(cls, goal: Goal | str) -> Goal:
        """Also from the name of a monitor that is a plain mean over tasks."""
        if isinstance(goal, Goal):
            return goal
        assert goal in get_args(Monitor) and goal != "macro_plus_min", f"{goal}: no goal by itself"
        return cls(cast(Monitor, goal))

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Goal:
        """From ``monitor`` and ``min_weight`` of a training's settings, which may be texts."""
        share = float(settings["min_weight"]) if settings["monitor"] == "macro_plus_min" else 0.0
        return cls(settings["monitor"], share)


class TrainingConfig(Config):
    """How long and how folds are trained.

    ``monitor`` is the validation score that stops a fold and picks its epoch, and the objective of a search: the mean
    over main tasks of ``auroc``, ``ap`` or ``f1`` (R2 for a regression), or minus the validation ``loss``. ``f1`` is
    the macro F1 of the most probable class, of multiclass tasks alone: that of a binary task depends on a threshold,
    which is tuned on the same rows. ``macro_plus_min`` is ``1 - min_weight`` times the mean over main tasks of the
    average precision plus ``min_weight`` times the lowest. A fold in which the score is undefined (validation rows that
    lack a class) stops by its validation loss. ``undefined`` says what the mean over folds becomes then: ``pooled``,
    the score of the pooled validation predictions of all folds, or ``refuse``.

    ``restore`` says which weights a fold keeps: those of its ``best`` epoch, or of the ``last`` one, without patience.
    Where validation rows are few, or of other people than those asked about, the best epoch is one that chance chose,
    and a learning rate that falls to 0 makes the last one good.

    ``checkpoints: all`` keeps more weights of each fold beside the ``restored`` ones, which decides nothing of what
    comes out: those of every task's own best epoch, by the score of this task that the curves show, those of the best
    epoch by ``monitor``, and the last ones; see :mod:`fusion_lab.training.checkpoints`.

    ``curves``: more scores of tasks with classes that are kept of every epoch and decide nothing, ``ap`` and ``f1``,
    that of a binary task by the threshold 0.5.

    ``sampler`` draws rows with rare positive labels more often, see
    :class:`~fusion_lab.training.sampling.SamplerConfig`; ``null``: an epoch is every training row once. The optimiser
    takes a step for every ``accumulate`` mini-batches, and at the end of an epoch, see
    :class:`~fusion_lab.training.accumulation.Accumulation`.

    ``mode`` says how folds are computed, which decides the time and not what comes out: all in one step (``stacked``),
    one after the other (``loop``), or whichever of the two is quicker here (``auto``). ``stack_size`` folds share a
    step; ``null`` for all.
    """

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(32, ge=2)
    accumulate: int = Field(1, ge=1)
    sampler: SamplerConfig | None = None
    patience: int = Field(15, ge=1)
    restore: Literal["best", "last"] = "best"
    checkpoints: Literal["restored", "all"] = "restored"
    curves: Annotated[tuple[Literal["auroc", "ap", "f1"], ...], Field(strict=False)] = ()  # given as a list
    monitor: Monitor = "auroc"
    min_weight: float = Field(0.4, ge=0.0, le=1.0)
    undefined: Literal["pooled", "refuse"] = "pooled"
    mode: Literal["auto", "stacked", "loop"] = "auto"
    stack_size: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def goal(self) -> Goal:
        """What the training is judged by."""
        return Goal.read({"monitor": self.monitor, "min_weight": self.min_weight})

    def pick_device(self) -> torch.device:
        """CUDA where there is one and ``device`` is auto.

        Raises:
            ConfigError: ``device`` is cuda and there is none.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("training.device: expected auto or cpu where PyTorch sees no CUDA device, found 'cuda'")
        return torch.device(self.device)


class Execution(NamedTuple):
    """How folds are computed: the way, how many share a step (``None``: all), and why so."""

    mode: Mode
    size: int | None
    reason: str

    def __str__(self) -> str:
        size = f" by {self.size}" if self.size else ""
        return f"{self.mode}{size} ({self.reason})"


class Groups(NamedTuple):
    """What a model that is trained not to know the rows' groups is told of them."""

    codes: np.ndarray  # int [R]
    warmup: int  # epochs until they count in full

    @classmethod
    def of(cls, group: np.ndarray, warmup: int) -> Groups:
        """From the names of the groups, str ``[R]``."""
        return cls(np.unique(group, return_inverse=True)[1].astype(np.int64), warmup)

    def leaves(self, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """What a batch ``[K,B]`` of these rows holds in an epoch, from 0."""
        strength = min(1.0, (epoch + 1) / self.warmup) if self.warmup else 1.0
        return {"code": torch.from_numpy(self.codes[rows]), "strength": torch.full(rows.shape, strength)}


@dataclass(frozen=True)
class Plan:
    """Built parts of one configuration's cross-validation."""

    build_model: Callable[[], Model]  # draws initial weights from torch's global generator
    dataset: Dataset
    folds: Folds
    scaler: Scaler
    objective: Objective
    optimisers: tuple[OptimiserConfig, ...]  # one per fold
    training: TrainingConfig
    augmentation: AugmentationConfig
    seed: int
    trial: int  # number of the stream of randomness: a search gives each trial its own
    fingerprint: str  # identity of data, folds and configuration: a checkpoint of another is refused
    dtype: torch.dtype = field(default=torch.float32)
    groups: Groups | None = None

    @property
    def device(self) -> torch.device:
        return self.training.pick_device()

    def key(self, *place: int | str) -> int:
        """A random key of this trial at a place such as ``("dropout", fold's name, step)``.

        A fold goes by its name: what it draws does not depend on which folds are trained beside it.
        """
        return key(self.seed, self.trial, *place)

    def initial_weights(self, fold: int) -> Model:
        """The model with the initial weights of a fold; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.key("init", self.folds.names[fold]))
            return self.build_model().to(self.dtype)

    def batch(self, rows: np.ndarray | Tensor, scaler: Scaler) -> Batch:
        """Scaled rows ``[K,B]`` (or ``[B]``, with one fold's scaler) on the plan's device."""
        index = torch.as_tensor(rows)
        gathered = scaler(self.dataset.gather(index))
        return _moved(gathered, self.device, self.dtype)


def _moved(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    if device.type == "cpu" and dtype == torch.float32:
        return batch

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype)

    return batch.map(move)
