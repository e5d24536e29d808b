"""What is done to training rows between scaling and the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pydantic import Field

from fusion_lab.config import Config
from fusion_lab.contracts import Batch, Spec


class AugmentationConfig(Config):
    """``modality_dropout``: chance that a present modality is hidden from a row; the last one left always stays.

    The others distort the numeric features of sequences, drawn anew for every row in each epoch, as they come out of
    the scaler (after Um et al., 2017, "Data augmentation of wearable sensor data"): ``scaling`` multiplies a feature
    over the whole row by 1 + ``scaling`` z, ``offset`` adds ``offset`` z to it, z being standard normal. An offset is
    in standard deviations of the training rows, unless these are left in their own units (``method: none``). A model
    learns not to go by how a sensor happens to sit.
    """

    modality_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    scaling: float = Field(0.0, ge=0.0, le=1.0)
    offset: float = Field(0.0, ge=0.0, le=10.0)

    @property
    def distorts(self) -> bool:
        """Whether values are changed."""
        return max(self.scaling, self.offset) > 0


def augment(batch: Batch, spec: Spec, config: AugmentationConfig, generators: Iterable[np.random.Generator]) -> Batch:
    """Scaled training rows ``[K,B,...]`` as the model is to see them, each fold by its own generator."""
    if config.modality_dropout == 0.0 and not config.distorts:
        return batch
    own = list(generators)
    return distort(drop_modalities(batch, config.modality_dropout, own), spec, config, own)


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


def distort(batch: Batch, spec: Spec, config: AugmentationConfig, generators: Iterable[np.random.Generator]) -> Batch:
    """Distorts the numeric features of sequences ``[K,B,T,F]`` where they are valid and observed."""
    sequences = [m for m in spec.modalities if m.kind == "sequence" and any(f.kind == "numeric" for f in m.features)]
    if not config.distorts or not sequences:
        return batch
    own, inputs = list(generators), dict(batch.inputs)
    for modality in sequences:
        x = inputs[modality.name]
        numeric = torch.tensor([f.kind == "numeric" for f in modality.features], device=x.device)
        real = batch.observed[modality.name] & batch.valid[modality.name].unsqueeze(-1) & numeric
        shape = (x.shape[1], 1, x.shape[3])
        factor, added = 1.0 + _normal(own, shape, config.scaling, x), _normal(own, shape, config.offset, x)
        inputs[modality.name] = torch.where(real, x * factor + added, x)
    return batch._replace(inputs=inputs)


def _normal(
    generators: list[np.random.Generator], shape: tuple[int, ...], deviation: float, like: torch.Tensor
) -> torch.Tensor:
    """Normal draws ``[K,*shape]``; a deviation of 0 draws nothing."""
    if deviation == 0.0:
        return like.new_zeros(())
    drawn = np.stack([g.standard_normal(shape, dtype=np.float32) for g in generators])
    return torch.from_numpy(drawn * np.float32(deviation)).to(like)


def _any_step(valid: torch.Tensor) -> torch.Tensor:
    return valid if valid.ndim == 2 else valid.any(-1)
