"""The words every other module speaks: what a data set, a batch, a model's answer and a fold are.

One alphabet of dimensions, used in every shape comment of the project::

    K folds   R rows of a data set   B rows of a mini-batch   M modalities   T time steps
    N instances of a bag   F features   D width   C classes   U units of a task (tracks)

One meaning of a mask: ``True`` = real. It is inverted for PyTorch nowhere else than in
:mod:`fusion_lab.blocks.masking`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

ModalityKind = Literal["vector", "sequence", "bag"]
FeatureKind = Literal["numeric", "binary", "category", "indicator", "embedding"]
TaskKind = Literal["binary", "multiclass", "regression"]
MapKind = Literal["attention", "gate", "answer"]

UNKNOWN = "unknown"
"""Name of the category that stands for a missing cell and for a category that a fold's training rows do not hold."""


class UserError(ValueError):
    """A mistake of the user's, told in one line: where it is, what was expected, what was found. Exit code 2."""


class ConfigError(UserError):
    """A setting that cannot be used: unknown key, wrong type, value out of range."""


class DataError(UserError):
    """An input file, or a split of its rows, that cannot be used."""


@dataclass(frozen=True)
class Feature:
    """One column of a modality as the models receive it, after encoding.

    A categorical source column becomes one ``category`` feature per category of its vocabulary, side by side, the last
    of them :data:`UNKNOWN`; an ``indicator`` is 1 where its source column's cell is missing. The words of a ``binary``
    column are ``category``, coded 1, and ``other``, coded 0; where both are ``None`` its cells are 0 and 1 themselves.
    ``gaps``: whether cells of the source column were missing in the data that the spec was made from. An ``embedding``
    is a coordinate of a vector whose length means something: it is not scaled, and 0 where it is missing.

    A feature of one of several things of a kind ("track 3") names it as its ``unit``, and what it is of each of them
    as its ``quantity`` ("scale"): the features of one quantity are scaled alike.
    """

    name: str
    kind: FeatureKind = "numeric"
    source: str = ""  # the raw column it was made from; its own name where empty
    category: str | None = None
    other: str | None = None
    gaps: bool = False
    unit: str = ""
    quantity: str = ""

    @property
    def column(self) -> str:
        """Name of the raw column."""
        return self.source or self.name


@dataclass(frozen=True)
class Modality:
    """One input of a model. ``length`` is T of a sequence or the largest N of a bag, ``None`` for a vector.

    A sequence ends at its last position, padding comes before it; a bag starts at its first. ``place`` is what a
    position is called in figures ("day", "conformer"). ``missing``: raw values that stand for a missing cell, besides
    an empty one.
    """

    name: str
    kind: ModalityKind
    features: tuple[Feature, ...]
    length: int | None = None
    place: str = ""
    missing: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """F, the number of features."""
        return len(self.features)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: ``(F,)`` for a vector, ``(length, F)`` otherwise."""
        return (self.width,) if self.length is None else (self.length, self.width)

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that the features are made from, in the features' order."""
        return tuple(dict.fromkeys(f.column for f in self.features))

    @property
    def place_name(self) -> str:
        """What one of the positions is called."""
        return self.place or ("time step" if self.kind == "sequence" else "instance")


@dataclass(frozen=True)
class Task:
    """One target. ``classes`` are in the order of their codes; of a binary task, ``classes[1]`` is the positive one.

    A task per step has a target at every time step of the sequences ``steps``, which are of one length and share their
    clock: position t is the same moment in all of them. Without ``steps`` there is one target per row.

    A task with ``units`` has a target for each of these things at every step, its last axis; the features of a unit
    carry its name. Of a ``causal`` task, the answer at step t may go by nothing later than step t: its targets lie
    ahead, among what later steps of the inputs show.

    An ``auxiliary`` task is there to help the others learn: it is trained and scored, and no mean over tasks, no
    stopping, search or promotion goes by it. The word names the group of auxiliary tasks that it belongs to.
    """

    name: str
    kind: TaskKind
    classes: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    auxiliary: str = ""
    units: tuple[str, ...] = ()
    causal: bool = False

    @property
    def per_step(self) -> bool:
        """Whether there is a target per time step."""
        return bool(self.steps)

    @property
    def positive(self) -> str | None:
        """Name of the positive class of a binary task, ``None`` for other kinds."""
        return self.classes[1] if self.kind == "binary" else None

    @property
    def outputs(self) -> int:
        """Width of the model's head: C for a multiclass task, 1 otherwise."""
        return len(self.classes) if self.kind == "multiclass" else 1


@dataclass(frozen=True)
class Spec:
    """What a model has to take and to answer."""

    modalities: tuple[Modality, ...]
    tasks: tuple[Task, ...]
    groups: int = 0  # of how many groups (people) the rows are, for models that are trained not to know them

    @property
    def main_tasks(self) -> tuple[Task, ...]:
        """The tasks that decide: all but auxiliary ones."""
        return tuple(t for t in self.tasks if not t.auxiliary)

    def modality(self, name: str) -> Modality:
        return next(m for m in self.modalities if m.name == name)

    def task(self, name: str) -> Task:
        return next(t for t in self.tasks if t.name == name)

    def target_shape(self, task: Task) -> tuple[int, ...]:
        """Shape of one row's target: ``()``, ``(T,)`` of a task per step, with U after it of one per unit."""
        steps = (self.modality(task.steps[0]).shape[0],) if task.steps else ()
        return (*steps, *([len(task.units)] if task.units else []))


class Batch(NamedTuple):
    """Some rows of a data set. Every leaf may carry a leading K axis.

    ======== ============================================ ===================================================
    inputs   {modality: float [B,F] | [B,T,F] | [B,N,F]}  0 wherever ``valid`` or ``observed`` is False
    valid    {modality: bool [B] | [B,T] | [B,N]}         a missing modality is all False
    observed {modality: bool, the inputs' shape}          False = a missing cell inside a present modality
    quality  {modality: float [B]}                        in [0, 1]; 1 where unknown
    targets  {task: float [B] | [B,T] | [B,T,U]}          class code or value; 0 where not ``known``
    known    {task: bool, the target's shape}
    weight   float [B]                                    0 = a padding row: counts nowhere
    emphasis {task: float [B]}                            >= 0, how much a row counts in the task's loss beside
                                                          others; a task that is not named: every row 1
    group    {"code": int64 [B], "strength": float [B]}   of training rows of models that are trained not to know them:
                                                          the row's group, and how far it counts; else empty
    ======== ============================================ ===================================================

    A named tuple because ``torch.func`` maps over it without being taught.
    """

    inputs: dict[str, Tensor]
    valid: dict[str, Tensor]
    observed: dict[str, Tensor]
    quality: dict[str, Tensor]
    targets: dict[str, Tensor]
    known: dict[str, Tensor]
    weight: Tensor
    emphasis: dict[str, Tensor] = {}  # nobody writes into a batch
    group: dict[str, Tensor] = {}

    def without_targets(self) -> Batch:
        """What a model may see."""
        return self._replace(targets={}, known={}, emphasis={})

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every leaf changed."""

        def changed(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(leaf) for name, leaf in leaves.items()}

        return Batch(
            inputs=changed(self.inputs),
            valid=changed(self.valid),
            observed=changed(self.observed),
            quality=changed(self.quality),
            targets=changed(self.targets),
            known=changed(self.known),
            weight=change(self.weight),
            emphasis=changed(self.emphasis),
            group=changed(self.group),
        )


class Output(NamedTuple):
    """A model's answer.

    ``heads``: ``{task: [B]}`` logits of a binary task or values of a regression, ``{task: [B,C]}`` logits of a
    multiclass one (with T, and U where the task has units, before C when per step). ``penalties``: ``{name: [B]}``,
    added to the loss. ``maps``: ``{name: [B,...]}``, attention or gate weights; the model's ``maps`` say what their
    axes are.
    """

    heads: dict[str, Tensor]
    penalties: dict[str, Tensor]
    maps: dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """One input file, or one generator, and the SHA-256 of its content."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Provenance:
    """Where a data set comes from, and what was noticed while reading it (one plain sentence each)."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over all sources: the identity of the data."""
        return content_hash([asdict(s) for s in self.sources])


class Dataset(Protocol):
    """R rows behind one door. How they are stored is the data set's own business."""

    @property
    def spec(self) -> Spec: ...

    @property
    def ids(self) -> np.ndarray:
        """Names of the rows, str ``[R]``, all different."""
        ...

    @property
    def group(self) -> np.ndarray | None:
        """str ``[R]``: rows of one group are never split over train, val and test."""
        ...

    @property
    def order(self) -> np.ndarray | None:
        """``[R]``: position in time inside a group."""
        ...

    @property
    def recording(self) -> np.ndarray | None:
        """str ``[R]``: rows of one name are parts of one recording, whose prediction is the mean over them."""
        ...

    @property
    def given_split(self) -> np.ndarray | None:
        """str ``[R]``, "train", "val" or "test": a split that the data came with. Rows of "holdout" are locked away
        under every protocol.
        """
        ...

    @property
    def given_fold(self) -> np.ndarray | None:
        """str ``[R]``: the fold that each row tests, of folds that the data came with; "" of a row of none."""
        ...

    @property
    def provenance(self) -> Provenance: ...

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> Batch:
        """Rows by index, int64 ``[B]`` or ``[K,B]``; every leaf gets the index's leading shape. ``weight`` is 1."""
        ...


@dataclass(frozen=True)
class Folds:
    """Which rows do what in each of K folds. All arrays are bool ``[K,R]``; ``train``, ``val`` and ``test`` are
    disjoint.

    ``fit`` marks the rows on which scalers and encoders are fitted, ``train`` unless the protocol says otherwise.
    ``holdout``, bool ``[R]``, marks rows locked away from every fold.
    """

    protocol: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    fit: np.ndarray
    holdout: np.ndarray
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what a reader of the scores should know of this split
    digest: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.train)


@dataclass(frozen=True)
class Predictions:
    """What a cross-validated model said of validation and test rows: one entry per (fold, row).

    ``score`` is a probability of the positive class ``[P]``, class probabilities ``[P,C]`` or a value ``[P]``.
    """

    fold: np.ndarray  # int [P]
    split: np.ndarray  # str [P]: "val", "test" or "holdout"
    row: np.ndarray  # int [P]: row of the data set
    target: Mapping[str, np.ndarray]
    known: Mapping[str, np.ndarray]
    score: Mapping[str, np.ndarray]

    def where(self, keep: np.ndarray) -> Predictions:
        """The entries marked True in ``keep``, bool [P]."""
        columns = [{n: a[keep] for n, a in d.items()} for d in (self.target, self.known, self.score)]
        return Predictions(self.fold[keep], self.split[keep], self.row[keep], *columns)

    def of(self, split: str, fold: int | None = None) -> Predictions:
        """The entries of one split, and of one fold when given."""
        keep = self.split == split
        return self.where(keep if fold is None else keep & (self.fold == fold))


class Axis(NamedTuple):
    """One axis of an attention map: what it runs over ("query modality", "time step") and the name of each place."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class AttentionMap:
    """Attention or gate weights of some rows: ``values`` float32 ``[P, *len(axis.labels)]``, entry p is ``row[p]`` in
    ``fold[p]``.

    The last axis holds what is weighed. Of an attention map (``kind == "attention"``) it sums to 1 over what is valid;
    each weight of a gate (``kind == "gate"``) lies in [0, 1] by itself. An answer map (``kind == "answer"``) weighs
    nothing: it holds what each part of a model says by itself, as logits or in the unit of the head.
    """

    name: str
    kind: MapKind
    axes: tuple[Axis, ...]
    fold: np.ndarray
    row: np.ndarray
    values: np.ndarray


def content_hash(value: object) -> str:
    """SHA-256 of a value made of dicts, lists, strings and numbers, whatever the order of its keys.

    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def array_hash(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays' values, shapes and types.

    >>> array_hash(np.zeros(2)) == array_hash(np.zeros((2, 1)))
    False
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def fold_rows(mask: np.ndarray) -> list[Tensor]:
    """Row indices of each fold from a bool ``[K,R]`` array, as int64 tensors.

    >>> [r.tolist() for r in fold_rows(np.array([[True, False, True], [False, True, False]]))]
    [[0, 2], [1]]
    """
    return [torch.from_numpy(np.flatnonzero(row)) for row in mask]
