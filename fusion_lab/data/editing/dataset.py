"""Videos packed step after step in memory, windows of which are laid out as they are asked for; and their raw rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, Modality, Provenance, Spec
from fusion_lab.data.alignment import Coverage
from fusion_lab.data.editing.windows import Windows
from fusion_lab.data.raw import RawModality, Records
from fusion_lab.data.readers import Table
from fusion_lab.data.records import raw_columns


class Answer(NamedTuple):
    """One task's answers at S + 1 steps, each at the step that it is about; the last stands for none.

    ``values`` float32 [S+1] or [S+1,U], finite, of tracks a view of their cells; ``known`` bool, its shape.
    """

    values: Tensor
    known: Tensor


@dataclass(frozen=True)
class Steps:
    """One modality at the S steps of all videos. The step after the last stands for every position without one.

    ========== ===============  =======================================================================
    values     float32 [S+1,F]  0 where not observed
    observed   bool [S+1,F]
    vectors    [S+1,E]          an embedding, the features after these; float16 or float32
    directed   bool [S+1]       where the embedding is observed
    ========== ===============  =======================================================================
    """

    values: Tensor
    observed: Tensor
    vectors: Tensor
    directed: Tensor

    @classmethod
    def blank(cls, steps: int, width: int, embedding: int, half: bool) -> Steps:
        """Room for S steps of which nothing is observed yet."""
        return cls(
            torch.zeros(steps + 1, width),
            torch.zeros(steps + 1, width, dtype=torch.bool),
            torch.zeros(steps + 1, embedding, dtype=torch.float16 if half else torch.float32),
            torch.zeros(steps + 1, dtype=torch.bool),
        )

    def put(self, start: int, values: np.ndarray, observed: np.ndarray) -> None:
        """Writes steps from ``start`` on: float32 and bool [m,F+E]. A vector that lacks a cell is not there."""
        width, end = self.values.shape[1], start + len(values)
        real = observed & np.isfinite(values)
        self.observed[start:end] = torch.from_numpy(real[:, :width])
        self.values[start:end] = torch.from_numpy(np.where(real[:, :width], values[:, :width], np.float32(0)))
        if values.shape[1] > width:
            directed = real[:, width:].all(axis=1)
            self.directed[start:end] = torch.from_numpy(directed)
            self.vectors[start:end] = torch.from_numpy(np.where(directed[:, None], values[:, width:], np.float32(0)))

    @property
    def there(self) -> Tensor:
        """Steps at which anything is observed, bool [S+1]."""
        return self.observed.any(dim=1) | self.directed

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.values, self.observed, self.vectors, self.directed))

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``inputs`` float32, ``valid`` and ``observed`` of steps, int64 [B,T]."""
        observed, directed = self.observed[index], self.directed[index]
        if not self.vectors.shape[1]:
            return self.values[index], observed.any(dim=-1), observed
        inputs = torch.cat([self.values[index], self.vectors[index].float()], dim=-1)
        whole = directed.unsqueeze(-1).expand(*directed.shape, self.vectors.shape[1])
        return inputs, observed.any(dim=-1) | directed, torch.cat([observed, whole], dim=-1)


class Surveyed(NamedTuple):
    """What was found of one stream of one video."""

    video: str
    stream: str
    there: bool
    rows: int
    coverage: Coverage


@dataclass(frozen=True)
class WindowDataset:
    """R windows; implements :class:`fusion_lab.contracts.Dataset`. A row ends at its window's last step.

    ``times`` float64 [S] are those of all steps, s from the beginning of their video; ``ahead`` int64 [S+1] is the step
    that a step's answers are about, S where there is none; ``survey`` tells of every stream of every video.
    """

    spec: Spec
    ids: np.ndarray
    windows: Windows
    length: int
    times: np.ndarray
    steps: Mapping[str, Steps]
    answers: Mapping[str, Answer]
    ahead: Tensor
    group: np.ndarray
    order: np.ndarray
    provenance: Provenance
    given_split: np.ndarray | None = None
    survey: tuple[Surveyed, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        assert set(self.steps) == {m.name for m in self.spec.modalities}
        assert set(self.answers) == {t.name for t in self.spec.tasks}
        assert len(self.ids) == len(self.group) == len(self.order) == len(self.windows.start)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def recording(self) -> None:
        """The windows of a video are rows of their own."""
        return

    @property
    def given_fold(self) -> None:
        """Recordings come without folds."""
        return

    @property
    def nbytes(self) -> int:
        """Bytes that the modalities take."""
        return sum(part.nbytes for part in self.steps.values())

    def index(self, rows: Tensor) -> Tensor:
        """The step at each position of some windows, int64 [B,T]; that of padding, which comes before, is S."""
        start, count = (torch.from_numpy(part)[rows].unsqueeze(-1) for part in self.windows[:2])
        position = torch.arange(self.length) - self.length + count
        return torch.where(position >= 0, start + position, len(self.times))

    def gather(self, rows: Tensor) -> Batch:
        """Rows by index, int64 ``[B]`` or ``[K,B]``; leaves get the index's leading shape, ``weight`` is 1."""
        index = self.index(rows)
        inputs, valid, observed = {}, {}, {}
        for name, part in self.steps.items():
            inputs[name], valid[name], observed[name] = part.gather(index)
        quality = {name: torch.ones(rows.shape) for name in self.steps}
        return self.targets_of(rows)._replace(inputs=inputs, valid=valid, observed=observed, quality=quality)

    def targets_of(self, rows: Tensor) -> Batch:
        """As :meth:`gather`, without modalities."""
        about = self.ahead[self.index(rows)]
        known = {name: answer.known[about] for name, answer in self.answers.items()}
        targets = {name: answer.values[about] * known[name] for name, answer in self.answers.items()}
        return Batch({}, {}, {}, {}, targets, known, torch.ones(rows.shape))

    def noted(self, *notes: str) -> WindowDataset:
        """With more notes."""
        return replace(self, provenance=replace(self.provenance, notes=(*self.provenance.notes, *notes)))


def window_records(dataset: WindowDataset) -> Records:
    """Raw rows that :func:`fusion_lab.data.raw.encode` makes the same inputs and masks of again: a line per step at
    which a stream is there, a column per feature. Every row spans all T positions, so that a line stays at its index.
    """
    index = dataset.index(torch.arange(len(dataset))).numpy()
    return Records(dataset.ids, {m.name: _raw(dataset, m, index) for m in dataset.spec.modalities})


def _raw(dataset: WindowDataset, modality: Modality, index: np.ndarray) -> RawModality:
    part = dataset.steps[modality.name]
    row, position = np.nonzero(part.there.numpy()[index])
    step = index[row, position]
    width = part.values.shape[1]
    cells = np.full((len(step), modality.width), np.nan, np.float32)
    np.copyto(cells[:, :width], part.values.numpy()[step], where=part.observed.numpy()[step])
    if modality.width > width:
        directed = part.directed.numpy()[step]
        cells[directed, width:] = part.vectors.numpy()[step[directed]]
    labels = pd.MultiIndex.from_arrays([dataset.ids[row], position + 1])
    frame = pd.DataFrame(raw_columns(modality, cells), labels)
    table = Table(modality.name, f"modality {modality.name!r}", Path(), frame, "row")
    span = np.full(len(dataset), dataset.length)
    return RawModality(table, row, position, span, np.ones(len(dataset), np.float32))
