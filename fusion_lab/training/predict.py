"""What the folds' best weights say of rows, as flat tables."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import AttentionMap, Batch, Predictions, Spec
from fusion_lab.training.batches import Padded
from fusion_lab.training.leaves import Leaves
from fusion_lab.training.monitor import probabilities
from fusion_lab.training.stack import Stack
from fusion_lab.training.targets import TargetScale


def predict(
    stack: Stack, spec: Spec, scale: TargetScale, weights: Leaves, split: str, rows: Padded, batch: Batch
) -> tuple[Predictions, tuple[AttentionMap, ...]]:
    """Answers of K folds at ``weights``, leaves ``[K,*shape]``, for the real rows of ``batch``, leaves ``[K,B,...]``,
    in the targets' own units.
    """
    numbers, real = rows
    output = stack.answers(weights, batch)
    fold = np.broadcast_to(np.arange(len(numbers))[:, None], numbers.shape)[real]
    keep = torch.from_numpy(real)

    def flat(leaves: dict[str, Tensor]) -> dict[str, np.ndarray]:
        return {name: leaf.cpu()[keep].numpy() for name, leaf in leaves.items()}

    scores = flat(probabilities(output.heads, spec, scale))
    told = Predictions(fold, np.full(len(fold), split), numbers[real], flat(batch.targets), flat(batch.known), scores)
    kinds = stack.model.maps
    maps = tuple(
        AttentionMap(name, kinds[name].kind, kinds[name].axes, fold, numbers[real], values)
        for name, values in flat(output.maps).items()
    )
    return told, maps


def joined(a: Predictions, b: Predictions) -> Predictions:
    """The entries of both."""

    def both(name: str):
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, dict):
            return {key: np.concatenate([x[key], y[key]]) for key in x}
        return np.concatenate([x, y])

    return Predictions(**{field.name: both(field.name) for field in fields(Predictions)})
