"""Scaling, imputation and unknown categories, fitted fold by fold on that fold's ``fit`` rows and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fusion_lab.config import Config
from fusion_lab.contracts import UNKNOWN, Batch, Dataset, Modality
from fusion_lab.data.evidence import fit_evidence
from fusion_lab.data.portions import CELLS, in_portions

NORMAL_IQR = 0.7413
"""Standard deviation of a normal variable over its interquartile range."""
QUARTILES = (0.25, 0.5, 0.75)
CONSTANT = 1e-8
"""A column whose deviation is below this share of its mean varies by rounding only."""


class ScalingConfig(Config):
    """``clip`` bounds scaled numeric values to [-clip, clip]; with ``method: none`` values keep their units.

    ``evidence`` multiplies the quality of every modality by how much it tells of the labels by itself, in the fold's
    own training rows (:mod:`fusion_lab.data.evidence`): for few rows and modalities that are wide and tell little.
    Models that do not use quality are not changed by it.
    """

    method: Literal["standard", "robust", "none"] = "standard"
    impute: Literal["mean", "median"] = "mean"
    clip: float | None = Field(default=10.0, gt=0)
    evidence: bool = False


@dataclass(frozen=True)
class ModalityScaler:
    """One modality's statistics: stacked, for leaves ``[K,B,...]``, or of one fold without K, for leaves ``[B,...]``.

    ========  ============  =========================================================================
    shift     [K,F]         subtracted, in the column's units
    scale     [K,F]         divided by, in the column's units
    fill      [K,F]         what a missing cell becomes, in scaled units; 0 where the fold has no cell
    seen      [K,F] bool    False = a category that no fit row holds
    bound     [F]           largest absolute scaled value
    category  [C] int64     the category columns ...
    unknown   [C] int64     ... and the unknown column of each
    ========  ============  =========================================================================
    """

    shift: Tensor
    scale: Tensor
    fill: Tensor
    seen: Tensor
    bound: Tensor
    category: Tensor
    unknown: Tensor

    def __call__(self, inputs: Tensor, valid: Tensor, observed: Tensor) -> Tensor:
        """Scaled inputs: missing cells filled, unseen categories moved to the unknown column, invalid positions 0.

        Masks enter as factors 0 and 1, exact and several times faster than a choice per cell: what lies under a mask
        has to be finite, as the contract of a batch has it.
        """
        scaled = (inputs - self._like(self.shift, inputs)).div_(self._like(self.scale, inputs))
        scaled.clamp_(-self.bound, self.bound)
        present = valid.unsqueeze(-1).to(scaled.dtype)
        real = observed.to(scaled.dtype).mul_(present)
        scaled.mul_(real).addcmul_(present - real, self._like(self.fill, inputs).to(scaled.dtype))
        return self._move_unseen(scaled) if self.category.numel() else scaled

    def inverse(self, scaled: Tensor, valid: Tensor, observed: Tensor) -> Tensor:
        """Values in the columns' units, 0 where invalid or not observed: the inputs that ``scaled`` was made of.

        What was clipped comes back as the bound, and a category that no fit row holds as unknown.
        """
        found = scaled * self._like(self.scale, scaled) + self._like(self.shift, scaled)
        return found.mul_(observed & valid.unsqueeze(-1))

    def map(self, change: Callable[[Tensor], Tensor], stacked_only: bool = False) -> ModalityScaler:
        """``change`` applied to every tensor, or to those with a K axis only."""
        names = STACKED if stacked_only else [f.name for f in fields(self)]
        return ModalityScaler(**{**self.tensors(), **{name: change(getattr(self, name)) for name in names}})

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _like(self, statistic: Tensor, inputs: Tensor) -> Tensor:
        """[K,F] as [K,1,...,F]; [F] stays."""
        if statistic.dim() == 1:
            return statistic
        return statistic.view(len(statistic), *[1] * (inputs.dim() - 2), statistic.shape[-1])

    def _move_unseen(self, scaled: Tensor) -> Tensor:
        seen = self._like(self.seen, scaled)
        unseen = torch.where(seen, 0.0, scaled)[..., self.category]
        return torch.where(seen, scaled, 0.0).index_add_(-1, self.unknown, unseen)


EVIDENCE = "evidence"
STACKED = ("shift", "scale", "fill", "seen")


@dataclass(frozen=True)
class Scaler:
    """Per-fold statistics of every modality; takes a raw batch, returns a scaled one with everything else unchanged."""

    modalities: dict[str, ModalityScaler]
    evidence: dict[str, Tensor] = field(default_factory=dict)  # [K] of a modality; by what its quality is multiplied

    @classmethod
    def fit(cls, dataset: Dataset, rows: np.ndarray, config: ScalingConfig | None = None) -> Scaler:
        """Statistics of K folds from the rows marked in ``rows``, bool ``[K,R]``; no other row changes a bit of them.

        Only cells that are valid and observed count. Numeric columns are standardised (population deviation), or
        centred on the median and divided by the interquartile range times 0.7413 (by the deviation where the range is
        0); a column without spread is divided by 1. Numeric columns of one :attr:`Feature.quantity` have one statistic,
        that of the cells of all of them. Missing numeric cells get the mean or median, missing binary cells the share
        of ones, missing categories the unknown column. An embedding stays as it is, 0 where it is missing.

        >>> from fusion_lab.data import synthetic
        >>> data = synthetic.load(synthetic.SyntheticConfig(rows=20))
        >>> scaler = Scaler.fit(data, np.eye(2, 20) < 1)
        >>> scaler(data.gather(torch.arange(20).expand(2, 20))).inputs["clinical"].shape
        torch.Size([2, 20, 8])
        """
        config = config or ScalingConfig()
        assert rows.dtype == np.bool_, rows.dtype
        assert rows.ndim == 2, rows.shape
        assert rows.shape[1] == len(dataset), (rows.shape, len(dataset))
        assert rows.any(axis=1).all(), "a fold without rows to fit on"
        found = {m.name: _Statistics(m, config) for m in dataset.spec.modalities}
        used = np.flatnonzero(rows.any(axis=0))
        for part, batch in in_portions(dataset, used):
            for statistics in found.values():
                statistics.add(batch, torch.from_numpy(rows[:, part]))
        told = fit_evidence(dataset, rows) if config.evidence else {}
        return cls({name: statistics.scaler() for name, statistics in found.items()}, told)

    def __call__(self, batch: Batch) -> Batch:
        inputs = {
            name: self.modalities[name](values, batch.valid[name], batch.observed[name])
            for name, values in batch.inputs.items()
        }
        if not self.evidence:
            return batch._replace(inputs=inputs)
        quality = {name: values * self.evidence[name].unsqueeze(-1) for name, values in batch.quality.items()}
        return batch._replace(inputs=inputs, quality=quality)

    def inverse(self, batch: Batch) -> Batch:
        """The raw batch that a scaled one was made of, but for its quality: see :meth:`ModalityScaler.inverse`."""
        return batch._replace(
            inputs={
                name: self.modalities[name].inverse(values, batch.valid[name], batch.observed[name])
                for name, values in batch.inputs.items()
            }
        )

    def fold(self, k: int) -> Scaler:
        """The scaler of one fold, without the K axis: takes leaves ``[B,...]``."""
        return self._map(lambda s: s[k], stacked_only=True)

    def take(self, folds: Sequence[int]) -> Scaler:
        """The scalers of some folds, still stacked, in the order given."""
        index = torch.tensor(list(folds), dtype=torch.int64)
        return self._map(lambda s: s[index.to(s.device)], stacked_only=True)

    def to(self, device: torch.device | str) -> Scaler:
        return self._map(lambda s: s.to(device))

    def _map(self, change: Callable[[Tensor], Tensor], stacked_only: bool = False) -> Scaler:
        scalers = {name: scaler.map(change, stacked_only) for name, scaler in self.modalities.items()}
        return Scaler(scalers, {name: change(of) for name, of in self.evidence.items()})

    def state(self) -> dict[str, Tensor]:
        """All statistics as ``{"<modality>/<statistic>": tensor}``, contiguous: a safetensors file as it is."""
        every = {f"{n}/{s}": t.contiguous() for n, m in self.modalities.items() for s, t in m.tensors().items()}
        return every | {f"{name}/{EVIDENCE}": of.contiguous() for name, of in self.evidence.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Scaler:
        """The scaler whose :meth:`state` this is."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            name, _, statistic = key.rpartition("/")
            parts.setdefault(name, {})[statistic] = tensor
        told = {name: tensors.pop(EVIDENCE) for name, tensors in parts.items() if EVIDENCE in tensors}
        return cls({name: ModalityScaler(**tensors) for name, tensors in parts.items()}, told)


class _Statistics:
    """What one modality's scaler is made of, gathered portion by portion."""

    def __init__(self, modality: Modality, config: ScalingConfig) -> None:
        self.modality, self.config = modality, config
        kind = np.array([f.kind for f in modality.features])
        self.numeric, self.binary = torch.from_numpy(kind == "numeric"), torch.from_numpy(kind == "binary")
        self.robust = bool(self.numeric.any()) and (config.method == "robust" or config.impute == "median")
        self.shared = _shared(modality)
        self.moments: _Moments | None = None
        self.cells: list[tuple[Tensor, Tensor, Tensor]] = []  # of numeric columns, where quantiles are asked for

    def add(self, batch: Batch, rows: Tensor) -> None:
        """Takes the rows of ``batch`` in; ``rows`` is bool [K,B] over them."""
        inputs, valid = batch.inputs[self.modality.name], batch.valid[self.modality.name]
        real = batch.observed[self.modality.name] & valid.unsqueeze(-1)
        found = _moments(inputs, real, rows, self.numeric)
        self.moments = found if self.moments is None else self.moments.and_(found)
        if self.robust:
            self.cells.append((inputs[..., self.numeric], real[..., self.numeric], rows))

    def scaler(self) -> ModalityScaler:
        """The statistics as they are applied."""
        assert self.moments is not None
        moments = self.moments.pooled(self.shared)
        config, numeric, count, mean, deviation = self.config, self.numeric, *moments[:2], moments.deviation
        category, unknown = _unknown_columns(self.modality)
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        shift, scale, centre = mean, deviation, mean
        if self.robust:
            lower, median, upper = self._quartiles()
            centre = median if config.impute == "median" else mean
            if config.method == "robust":
                spread = (upper - lower) * NORMAL_IQR
                shift, scale = median, torch.where(spread > CONSTANT * median.abs(), spread, deviation)
        scaled = numeric & (config.method != "none")
        shift = torch.where(scaled, shift, zero)
        scale = torch.where(scaled & (scale > 0), scale, one)
        fill = torch.where(numeric & (count > 0), (centre - shift) / scale, torch.where(self.binary, mean, zero))
        fill[:, unknown] = 1.0
        seen = torch.ones_like(mean, dtype=torch.bool)
        seen[:, category] = mean[:, category] > 0
        seen[:, unknown] = True
        bound = torch.where(scaled, torch.inf if config.clip is None else config.clip, torch.inf)
        return ModalityScaler(shift.float(), scale.float(), fill.float(), seen, bound.float(), category, unknown)

    def _quartiles(self) -> list[Tensor]:
        """Lower quartile, median and upper quartile of numeric columns, 0 of others: float64 [K,F] each."""
        inputs, real, rows = zip(*self.cells, strict=True)
        cells, there, marks = torch.cat(inputs), torch.cat(real), torch.cat(rows, dim=1)
        found = _quantiles(cells, there, marks, QUARTILES)
        whole = [torch.zeros(len(values), self.modality.width, dtype=values.dtype) for values in found]
        place = self.numeric.cumsum(0) - 1  # of a feature among the numeric ones
        for values, columns in zip(found, whole, strict=True):
            columns[:, self.numeric] = values
        for group in self.shared:
            own, known = (leaf[..., place[group]].flatten(1).unsqueeze(-1) for leaf in (cells, there))
            for values, columns in zip(_quantiles(own, known, marks, QUARTILES), whole, strict=True):
                columns[:, group] = values
        return whole


def _shared(modality: Modality) -> list[Tensor]:
    """The numeric columns of each quantity that several of them measure, int64 each."""
    found: dict[str, list[int]] = {}
    for at, feature in enumerate(modality.features):
        if feature.quantity and feature.kind == "numeric":
            found.setdefault(feature.quantity, []).append(at)
    return [torch.tensor(columns) for columns in found.values() if len(columns) > 1]


def _unknown_columns(modality: Modality) -> tuple[Tensor, Tensor]:
    """The category columns that have an unknown column beside them, and that column of each: int64 [C], [C]."""
    unknown = {f.source: i for i, f in enumerate(modality.features) if f.kind == "category" and f.category == UNKNOWN}
    pairs = [
        (i, unknown[f.source])
        for i, f in enumerate(modality.features)
        if f.kind == "category" and f.source in unknown and f.category != UNKNOWN
    ]
    return (
        torch.tensor([i for i, _ in pairs], dtype=torch.int64),
        torch.tensor([u for _, u in pairs], dtype=torch.int64),
    )


class _Moments(NamedTuple):
    """Count, mean and sum of squared differences from it of each fold's cells: float64 [K,F] each."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    @property
    def deviation(self) -> Tensor:
        """The population's; 0 of a column that varies by rounding only."""
        deviation = (self.squares / self.count.clamp(min=1)).sqrt()
        deviation[deviation <= CONSTANT * self.mean.abs()] = 0.0
        return deviation

    def and_(self, other: _Moments) -> _Moments:
        """Of the cells of both, by Chan, Golub & LeVeque (1979)."""
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart.square() * self.count * share
        # where one has no cell the other's mean stays as it is, to the bit
        mean = torch.where(self.count > 0, self.mean + apart * share, other.mean)
        return _Moments(count, mean, squares)

    def pooled(self, groups: Sequence[Tensor]) -> _Moments:
        """With the columns of each group as one: what is theirs is that of the cells of all of them."""
        whole = _Moments(*(statistic.clone() for statistic in self))
        for columns in groups:
            alone = [_Moments(*(statistic[:, [at]] for statistic in self)) for at in columns.tolist()]
            for statistic, together in zip(whole, reduce(_Moments.and_, alone), strict=True):
                statistic[:, columns] = together
        return whole


def _moments(inputs: Tensor, real: Tensor, rows: Tensor, numeric: Tensor) -> _Moments:
    """Of the real cells of each fold's rows. Squares are those of ``numeric`` columns, bool [F], 0 of the others.

    The cells of a row are reduced once; folds then combine rows by Chan, Golub & LeVeque (1979), so that a long
    sequence is not walked through K times. Rows outside a fold enter as exact zeros.
    """
    cells, values = real.double(), inputs.double()
    if inputs.dim() == 3:
        count = cells.sum(1)
        mean = (values * cells).sum(1) / count.clamp(min=1)
        inner = ((values - mean.unsqueeze(1)).square() * cells).sum(1)
    else:
        count, mean, inner = cells, values * cells, None
    folds = [_combine(weight, count, mean, inner, numeric) for weight in rows.double()]
    return _Moments(*(torch.stack(part) for part in zip(*folds, strict=True)))


def _combine(
    weight: Tensor, count: Tensor, mean: Tensor, inner: Tensor | None, numeric: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One fold's count, mean and squares [F] from the rows' [R,F] and ``weight`` [R], 0 or 1."""
    total = weight @ count
    centre = weight @ (count * mean) / total.clamp(min=1)
    if not numeric.any():
        return total, centre, torch.zeros_like(centre)
    squares = weight @ (mean - centre).square_().mul_(count)
    if inner is not None:
        squares = squares + weight @ inner
    return total, centre, squares.masked_fill(~numeric, 0.0)


def _quantiles(inputs: Tensor, real: Tensor, rows: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    """Quantiles of the real cells of each fold's rows, linearly interpolated: float64 [K,F] per share, 0 without cells.

    Columns are sorted once for all folds, some at a time; a fold counts its own cells along that order.
    """
    width, positions = inputs.shape[-1], inputs[0, ..., 0].numel()
    block = max(1, CELLS // (len(inputs) * positions))
    blocks = []
    for start in range(0, width, block):
        columns = slice(start, start + block)
        own, there = (leaf[..., columns].reshape(len(inputs) * positions, -1).T for leaf in (inputs, real))
        ordered, order = own.masked_fill(~there, torch.inf).sort(dim=1)  # [F, cells]
        blocks.append(_along(ordered, order // positions, rows, shares))
    return [torch.cat(found, dim=1) for found in zip(*blocks, strict=True)]


def _along(ordered: Tensor, owner: Tensor, rows: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    """Quantiles of sorted cells [F,cells], infinite where there is none, whose rows are ``owner``."""
    finite = torch.isfinite(ordered)
    found: list[list[Tensor]] = [[] for _ in shares]
    for marks in rows:
        rank = (marks[owner] & finite).cumsum(dim=1)
        count = rank[:, -1]
        for share, values in zip(shares, found, strict=True):
            place = share * (count - 1).clamp(min=0).double()
            below, above = (_nth(ordered, rank, n) for n in (place.floor(), place.ceil()))
            value = below + (above - below) * (place - place.floor())
            values.append(torch.where(count > 0, value, 0.0))
    return [torch.stack(values) for values in found]


def _nth(ordered: Tensor, rank: Tensor, n: Tensor) -> Tensor:
    """The n-th (from 0) counted cell of each column, float64 [F]."""
    place = torch.searchsorted(rank, n.long().unsqueeze(1) + 1).clamp(max=rank.shape[1] - 1)
    return ordered.gather(1, place).squeeze(1).double()
