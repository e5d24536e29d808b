"""What is done to training rows between scaling and the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pydantic import Field

from fusion_lab.config import Config
from fusion_lab.contracts import Batch


class AugmentationConfig(Config):
    """``modality_dropout``: chance that a present modality is hidden from a row; the last one left always stays."""

    modality_dropout: float = Field(0.0, ge=0.0, lt=1.0)


def drop_modalities(batch: Batch, p: float, generators: Iterable[np.random.Generator]) -> Batch:
    """Hides whole modalities of ``[K,B,...]`` rows, each fold by its own generator."""
    if p == 0.0:
        return batch
    names = sorted(batch.valid)
    present = torch.stack([_any_step(batch.valid[name]) for name in names], dim=-1)
    draw = torch.from_numpy(np.stack([g.random(present.shape[1:], dtype=np.float32) for g in generators])).to(
        present.device
    )
    draw = torch.where(present, draw, torch.full((), -1.0, device=draw.device))
    keep = (draw >= p) | (draw == draw.amax(-1, keepdim=True))
    valid = {
        name: batch.valid[name] & keep[..., m].reshape(keep.shape[:2] + (1,) * (batch.valid[name].ndim - 2))
        for m, name in enumerate(names)
    }
    return batch._replace(valid=valid)


def _any_step(valid: torch.Tensor) -> torch.Tensor:
    return valid if valid.ndim == 2 else valid.any(-1)
