"""A data set whose rows lie in memory as tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, Provenance, Spec


@dataclass(frozen=True)
class ArrayDataset:
    """R rows held as tensors; implements :class:`fusion_lab.contracts.Dataset`.

    ``inputs``, ``valid``, ``observed``, ``quality``, ``targets`` and ``known`` are shaped as in
    :class:`~fusion_lab.contracts.Batch` with R in place of B. Inputs must be 0 where not valid or not observed,
    targets 0 where not known: :meth:`checked` makes it so and fails on anything else that breaks the contract.
    """

    spec: Spec
    ids: np.ndarray
    inputs: dict[str, Tensor]
    valid: dict[str, Tensor]
    observed: dict[str, Tensor]
    quality: dict[str, Tensor]
    targets: dict[str, Tensor]
    known: dict[str, Tensor]
    provenance: Provenance
    group: np.ndarray | None = None
    order: np.ndarray | None = None
    recording: np.ndarray | None = None
    given_split: np.ndarray | None = None
    given_fold: np.ndarray | None = None
    emphasis: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def gather(self, rows: Tensor) -> Batch:
        """Rows by index, int64 ``[B]`` or ``[K,B]``; leaves get the index's leading shape, ``weight`` is 1."""
        take = [
            {name: values[rows] for name, values in leaves.items()}
            for leaves in (self.inputs, self.valid, self.observed, self.quality, self.targets, self.known)
        ]
        emphasis = {name: values[rows] for name, values in self.emphasis.items()}
        return Batch(*take, weight=torch.ones(rows.shape), emphasis=emphasis)

    def targets_of(self, rows: Tensor) -> Batch:
        """As :meth:`gather`, without modalities."""
        return replace(self, inputs={}, valid={}, observed={}, quality={}).gather(rows)

    @classmethod
    def checked(cls, **parts) -> ArrayDataset:
        """Builds the data set, zeroing what is masked and asserting the contract's shapes and types.

        Not finite values where ``valid`` and ``observed`` are True are an :class:`AssertionError`: readers refuse a
        user's bad cells before they get here.
        """
        made = cls(**parts)
        rows = len(made.ids)
        for modality in made.spec.modalities:
            name, inputs = modality.name, made.inputs[modality.name]
            valid, observed = made.valid[name], made.observed[name]
            assert inputs.shape == (rows, *modality.shape), (name, inputs.shape, modality.shape)
            assert inputs.dtype == torch.float32, (name, inputs.dtype)
            assert observed.shape == inputs.shape, name
            assert valid.shape == inputs.shape[: 1 if modality.kind == "vector" else 2], (name, valid.shape)
            assert made.quality[name].shape == (rows,), name
            real = observed & valid.unsqueeze(-1)
            made.observed[name] = real
            made.inputs[name] = torch.where(real, inputs, torch.zeros(()))
            # of everything at once, by NumPy: to pick out what is real first would take several times as long
            assert np.isfinite(made.inputs[name].numpy()).all(), f"{name}: not finite where it is valid"
        for task in made.spec.tasks:
            known, target = made.known[task.name], made.targets[task.name]
            assert known.shape == target.shape, task.name
            assert known.shape[0] == rows, task.name
            made.targets[task.name] = torch.where(known, target, torch.zeros(())).float()
        return made
