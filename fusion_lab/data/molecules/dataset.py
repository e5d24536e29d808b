"""Molecules packed in memory, laid out as they are asked for; and their raw rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, Modality, Provenance, Spec
from fusion_lab.data.molecules.packed import Bags, Bits, Packed, Vectors
from fusion_lab.data.raw import RawModality, Records
from fusion_lab.data.readers import Table


@dataclass(frozen=True)
class MoleculeDataset:
    """R molecules; implements :class:`fusion_lab.contracts.Dataset`.

    ``packed`` holds each modality of the spec, ``targets`` and ``known`` float32 and bool [R] of each task, targets 0
    where not known; ``emphasis`` float32 [R] of the tasks that have any.
    """

    spec: Spec
    ids: np.ndarray
    packed: Mapping[str, Packed]
    targets: Mapping[str, Tensor]
    known: Mapping[str, Tensor]
    provenance: Provenance = Provenance(())
    group: np.ndarray | None = None
    given_split: np.ndarray | None = None
    given_fold: np.ndarray | None = None
    emphasis: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert set(self.packed) == {m.name for m in self.spec.modalities}
        assert set(self.targets) == set(self.known) == {t.name for t in self.spec.tasks}
        leaves = [*self.packed.values(), *self.targets.values(), *self.known.values(), *self.emphasis.values()]
        assert all(len(leaf) == len(self.ids) for leaf in leaves)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def order(self) -> None:
        """Molecules have no time."""
        return

    @property
    def recording(self) -> None:
        """Molecules are no parts of recordings."""
        return

    @property
    def nbytes(self) -> int:
        """Bytes that the modalities take."""
        return sum(part.nbytes for part in self.packed.values())

    def gather(self, rows: Tensor) -> Batch:
        """Rows by index, int64 ``[B]`` or ``[K,B]``; leaves get the index's leading shape, ``weight`` is 1."""
        flat, leading = rows.reshape(-1), rows.shape
        inputs, valid, observed = {}, {}, {}
        for name, part in self.packed.items():
            values, there = part.gather(flat)
            inputs[name] = values.reshape(*leading, *values.shape[1:])
            valid[name] = there.reshape(*leading, *there.shape[1:])
            observed[name] = valid[name].unsqueeze(-1).expand(inputs[name].shape).contiguous()
        quality = {name: torch.ones(leading) for name in self.packed}
        return self.targets_of(rows)._replace(inputs=inputs, valid=valid, observed=observed, quality=quality)

    def targets_of(self, rows: Tensor) -> Batch:
        """As :meth:`gather`, without modalities."""
        targets, known, emphasis = (
            {name: values[rows] for name, values in of.items()} for of in (self.targets, self.known, self.emphasis)
        )
        return Batch({}, {}, {}, {}, targets, known, torch.ones(rows.shape), emphasis)

    def take(self, rows: np.ndarray) -> MoleculeDataset:
        """Some of the molecules, int [R']. A bag's length stays."""
        index = torch.from_numpy(rows)
        columns = {name: getattr(self, name) for name in ("group", "given_split", "given_fold")}
        leaves = {name: getattr(self, name) for name in ("targets", "known", "emphasis")}
        packed = {name: part.take(rows) for name, part in self.packed.items()}
        for name, part in packed.items():
            if isinstance(part, Bags):
                packed[name] = replace(part, length=self.spec.modality(name).shape[0])
        return replace(
            self,
            ids=self.ids[rows],
            packed=packed,
            **{name: column if column is None else column[rows] for name, column in columns.items()},
            **{part: {name: leaf[index] for name, leaf in of.items()} for part, of in leaves.items()},
        )


def molecule_records(ids: np.ndarray, parts: Iterable[tuple[Modality, Packed]]) -> Records:
    """Raw rows that :func:`fusion_lab.data.raw.encode` makes the same inputs and masks of again: a line per molecule,
    or per instance of its bag, a column per feature.
    """
    return Records(ids, {modality.name: _raw(ids, modality, packed) for modality, packed in parts})


def _raw(ids: np.ndarray, modality: Modality, packed: Packed) -> RawModality:
    row, position, span = np.flatnonzero(packed.present), None, None
    index: pd.Index = pd.Index(ids[row])
    if isinstance(packed, Bags):
        row, position = packed.lines()
        span = packed.counts.numpy()
        cells = packed.take(np.arange(len(packed))).instances[:-1].numpy()
        index = pd.MultiIndex.from_arrays([ids[row], position + 1])
    elif isinstance(packed, Bits):
        cells = np.unpackbits(packed.values.numpy()[row], axis=1)
    else:
        assert isinstance(packed, Vectors)
        cells = packed.values.numpy()[row]
    frame = pd.DataFrame(cells, index, list(modality.columns))
    table = Table(modality.name, f"modality {modality.name!r}", Path(), frame, "row")
    return RawModality(table, row, position, span, np.ones(len(ids), np.float32))
