"""What the opponents train on: data, folds, the order of rows in every epoch and initial weights, from one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from reference import WIDTHS, RelapseTransformer
from settings import Settings
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Row = dict[str, Tensor]
CLIP = 10.0
"""Bound of standardised values."""


@dataclass(frozen=True)
class Fold:
    """``train``, ``val`` and ``test`` are row numbers; ``orders [epochs]`` are places in ``train``."""

    train: Tensor
    val: Tensor
    test: Tensor
    orders: list[Tensor]
    shift: dict[str, Tensor]  # [F]
    scale: dict[str, Tensor]  # [F]
    positive_weight: Tensor  # negatives over positives of the training rows
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Inputs ``[R,T,F]`` in their own units, ``observed`` of the same shape, ``valid [R,T]``, ``labels [R]``."""

    settings: Settings
    inputs: dict[str, Tensor]
    observed: dict[str, Tensor]
    valid: dict[str, Tensor]
    labels: Tensor
    folds: list[Fold]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.settings.double else torch.float32

    def columns(self, fold: Fold, rows: Tensor) -> Row:
        """Rows as the model takes them, standardised by the fold's statistics, missing cells at the mean; and labels
        beside them. Three tensors a row: one per modality and mask, eleven in all, take twice as long to collate.
        """
        features: list[Tensor] = []
        for name in WIDTHS:
            real = self.observed[name][rows] & self.valid[name][rows].unsqueeze(-1)
            scaled = (self.inputs[name][rows] - fold.shift[name]) / fold.scale[name]
            features.append(torch.where(real, scaled.clamp(-CLIP, CLIP), 0.0).to(self.dtype))
        masks = torch.stack([self.valid[name][rows] for name in WIDTHS], dim=-1)
        return {"features": torch.cat(features, dim=-1), "masks": masks, "label": self.labels[rows].to(self.dtype)}

    def rows(self, fold: Fold) -> tuple[Rows, Rows, Rows]:
        """Training, validation and test rows."""
        return tuple(Rows(self.columns(fold, part)) for part in (fold.train, fold.val, fold.test))

    def model(self, fold: Fold) -> RelapseTransformer:
        """The model at the fold's initial weights."""
        model = RelapseTransformer(self.settings.d_model, self.settings.nhead, self.settings.dropout).to(self.dtype)
        model.load_state_dict(fold.weights)
        return model


def load(file: Path, settings: Settings) -> Case:
    """The case that was written for these settings, whatever their dropout and precision."""
    leaves = torch.load(file, weights_only=True)
    folds = [Fold(**fold) for fold in leaves.pop("folds")]
    return Case(settings, folds=folds, **leaves)


class Rows(Dataset[Row]):
    """Rows as dicts of tensors."""

    def __init__(self, columns: Row) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, index: int) -> Row:
        return {name: column[index] for name, column in self.columns.items()}


class Replay(Sampler[int]):
    """In place of a random sampler: each pass over the rows is the next epoch's, in the order all contenders use."""

    def __init__(self, orders: Sequence[Tensor]) -> None:
        self.rows = len(orders[0])
        self.orders = iter(orders)

    def __iter__(self) -> Iterator[int]:
        return iter(next(self.orders).tolist())

    def __len__(self) -> int:
        return self.rows


def scores(split: str, label: Tensor, probability: Tensor) -> dict[str, float]:
    """AUROC, average precision and F1 at 0.5 by scikit-learn, under the split's name."""
    y, p = label.numpy(), probability.numpy()
    return {
        f"{split}_auroc": float(roc_auc_score(y, p)),
        f"{split}_ap": float(average_precision_score(y, p)),
        f"{split}_f1": float(f1_score(y, p > 0.5)),
    }
