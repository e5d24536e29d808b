"""What is done to training rows between scaling and the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fusion_lab.config import Config
from fusion_lab.contracts import Batch, ConfigError, Spec


class AugmentationConfig(Config):
    """``modality_dropout``: chance that a present modality is hidden from a row; the last one left always stays.

    The others distort the numeric features of sequences, drawn anew for every row in each epoch, as they come out of
    the scaler (after Um et al., 2017, "Data augmentation of wearable sensor data"): ``scaling`` multiplies a feature
    over the whole row by 1 + ``scaling`` z, ``offset`` adds ``offset`` z to it, z being standard normal. An offset is
    in standard deviations of the training rows, unless these are left in their own units (``method: none``). A model
    learns not to go by how a sensor happens to sit. ``jitter`` adds ``jitter`` z to every cell by itself.

    ``mixup`` (Zhang et al., 2018) mixes a row with another of its batch, inputs and targets, with the chance
    ``mixup_share``: the row keeps the share max(l, 1 - l), l drawn from Beta(``mixup``, ``mixup``).
    """

    modality_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    scaling: float = Field(0.0, ge=0.0, le=1.0)
    offset: float = Field(0.0, ge=0.0, le=10.0)
    jitter: float = Field(0.0, ge=0.0, le=10.0)
    mixup: float = Field(0.0, ge=0.0, le=10.0)
    mixup_share: float = Field(0.5, ge=0.0, le=1.0)

    @property
    def distorts(self) -> bool:
        """Whether values are changed."""
        return max(self.scaling, self.offset, self.jitter) > 0

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return self.modality_dropout > 0 or self.distorts or self.mixup > 0


def augment(batch: Batch, spec: Spec, config: AugmentationConfig, generators: Iterable[np.random.Generator]) -> Batch:
    """Scaled training rows ``[K,B,...]`` as the model is to see them, each fold by its own generator."""
    if not config.changes:
        return batch
    own = list(generators)
    return mix(distort(drop_modalities(batch, config.modality_dropout, own), spec, config, own), spec, config, own)


def check_augmentation(spec: Spec, config: AugmentationConfig) -> None:
    """Refuses what the tasks cannot be augmented by.

    Raises:
        ConfigError: classes of which a row would have to be in several at once.
    """
    multiclass = [task.name for task in spec.tasks if task.kind == "multiclass"]
    if config.mixup > 0 and multiclass:
        raise ConfigError(
            "augmentation.mixup: expected binary tasks and regressions, whose targets can be mixed, found "
            f"{multiclass[0]}, a multiclass task"
        )


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
        added = added + _normal(own, tuple(x.shape[1:]), config.jitter, x)
        inputs[modality.name] = torch.where(real, x * factor + added, x)
    return batch._replace(inputs=inputs)


def mix(batch: Batch, spec: Spec, config: AugmentationConfig, generators: Iterable[np.random.Generator]) -> Batch:
    """Rows ``[K,B,...]`` mixed with others of their fold, numeric cells and known targets alike.

    A row keeps its masks: what it lacks it does not get from the other, and what the other lacks it keeps as it is.
    Padding rows are mixed with nothing.
    """
    if config.mixup == 0.0:
        return batch
    drawn = [_partners(weight, config, own) for weight, own in zip(batch.weight, generators, strict=True)]
    others, shares = zip(*drawn, strict=True)
    share = torch.from_numpy(np.stack(shares)).to(batch.weight)
    place = torch.from_numpy(np.stack(others)).to(share.device)

    def mixed(own: Tensor, both: Tensor) -> Tensor:
        other = torch.take_along_dim(own, place.reshape(_as(place, own)), dim=1)
        kept = share.reshape(_as(share, own))
        return torch.where(both, kept * own + (1 - kept) * other, own)

    inputs = dict(batch.inputs)
    for modality in spec.modalities:
        x, numeric = inputs[modality.name], torch.tensor([f.kind == "numeric" for f in modality.features])
        real = batch.observed[modality.name] & batch.valid[modality.name].unsqueeze(-1)
        inputs[modality.name] = mixed(x, _both(real, place) & numeric.to(x.device))
    targets = {name: mixed(target, _both(batch.known[name], place)) for name, target in batch.targets.items()}
    return batch._replace(inputs=inputs, targets=targets)


def _partners(
    weight: Tensor, config: AugmentationConfig, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of a fold's batch the place of the other row, and the share that it keeps of itself."""
    rows = np.flatnonzero(weight.cpu().numpy() > 0)
    other, share = np.arange(len(weight)), np.ones(len(weight), np.float32)
    other[rows] = generator.permutation(rows)
    drawn = generator.beta(config.mixup, config.mixup, len(rows))
    chosen = generator.random(len(rows)) < config.mixup_share
    share[rows] = np.where(chosen, np.maximum(drawn, 1 - drawn), 1.0)
    return other, share


def _both(real: Tensor, place: Tensor) -> Tensor:
    """Where a row and its partner have something."""
    return real & torch.take_along_dim(real, place.reshape(_as(place, real)), dim=1)


def _as(rows: Tensor, leaf: Tensor) -> tuple[int, ...]:
    """The shape of ``rows [K,B]`` beside a leaf ``[K,B,...]``."""
    return (*rows.shape, *[1] * (leaf.ndim - 2))


def _normal(generators: list[np.random.Generator], shape: tuple[int, ...], deviation: float, like: Tensor) -> Tensor:
    """Normal draws ``[K,*shape]``; a deviation of 0 draws nothing."""
    if deviation == 0.0:
        return like.new_zeros(())
    drawn = np.stack([g.standard_normal(shape, dtype=np.float32) for g in generators])
    return torch.from_numpy(drawn * np.float32(deviation)).to(like)


def _any_step(valid: Tensor) -> Tensor:
    return valid if valid.ndim == 2 else valid.any(-1)
