"""What the opponents train on: data, folds, the order of rows in every epoch and initial weights, from one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from settings import Settings
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

Row = dict[str, Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]
"""``criterion(logits, labels)``: the mean loss of a batch."""
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
    class_weights: Tensor  # [C], of the training rows
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Case(ABC):
    """Inputs ``[R,T,F]`` in their own units, ``observed`` of the same shape, ``valid [R,T]``, ``labels [R]``.

    What is a model's or a task's own is for the two that there are to say.
    """

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
        for name in self.inputs:
            real = self.observed[name][rows] & self.valid[name][rows].unsqueeze(-1)
            scaled = (self.inputs[name][rows] - fold.shift[name]) / fold.scale[name]
            features.append(torch.where(real, scaled.clamp(-CLIP, CLIP), 0.0).to(self.dtype))
        masks = torch.stack([self.valid[name][rows] for name in self.inputs], dim=-1)
        return {"features": torch.cat(features, dim=-1), "masks": masks, "label": self.targets(self.labels[rows])}

    def rows(self, fold: Fold) -> tuple[Rows, Rows, Rows]:
        """Training, validation and test rows."""
        return tuple(Rows(self.columns(fold, part)) for part in (fold.train, fold.val, fold.test))

    @abstractmethod
    def model(self, fold: Fold) -> nn.Module:
        """The model at the fold's initial weights: ``model(features, masks)`` gives logits."""

    @abstractmethod
    def criterion(self, fold: Fold) -> Criterion:
        """What is minimised."""

    @abstractmethod
    def targets(self, labels: Tensor) -> Tensor:
        """Labels as the criterion takes them."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the positive class ``[B]``, or of the classes ``[B,C]``."""

    def auroc(self, labels: Tensor, logits: Tensor) -> float:
        """By scikit-learn; of several classes one against the rest, their mean."""
        score = logits if logits.ndim == 1 else self.probabilities(logits)
        return float(roc_auc_score(labels.numpy(), score.numpy(), multi_class="ovr"))

    def scores(self, split: str, labels: Tensor, probabilities: Tensor) -> dict[str, float]:
        """AUROC, average precision and F1 by scikit-learn, under the split's name: F1 at 0.5, or of the most probable
        class.
        """
        y, p = labels.numpy(), probabilities.numpy()
        chosen = p > 0.5 if p.ndim == 1 else p.argmax(-1)
        return {
            f"{split}_auroc": float(roc_auc_score(y, p, multi_class="ovr")),
            f"{split}_ap": float(average_precision_score(y, p)),
            f"{split}_f1": float(f1_score(y, chosen, average="binary" if p.ndim == 1 else "macro")),
        }


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
