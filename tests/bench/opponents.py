"""The cases as their opponents read them."""

from __future__ import annotations

from pathlib import Path

import torch
from case import Case, Fold
from reference import RelapseTransformer
from settings import Settings
from torch import Tensor, nn


class RelapseCase(Case):
    """The relapse model as PyTorch's own layers make it; a binary label."""

    def model(self, fold: Fold) -> RelapseTransformer:
        model = RelapseTransformer(self.settings.d_model, self.settings.nhead, self.settings.dropout).to(self.dtype)
        model.load_state_dict(fold.weights)
        return model

    def criterion(self, fold: Fold) -> nn.Module:
        return nn.BCEWithLogitsLoss(pos_weight=fold.class_weights[1].to(self.dtype))

    def targets(self, labels: Tensor) -> Tensor:
        return labels.to(self.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)


def load(file: Path, settings: Settings) -> Case:
    """The case that was written for these settings, whatever their dropout and precision."""
    leaves = torch.load(file, weights_only=True)
    folds = [Fold(**fold) for fold in leaves.pop("folds")]
    return _kind(settings.case)(settings, folds=folds, **leaves)


def _kind(case: str) -> type[Case]:
    if case == "relapse":
        return RelapseCase
    from activity_case import ActivityCase  # takes this product, which the relapse model's opponents go without

    return ActivityCase
