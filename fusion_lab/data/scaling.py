"""Scaling, imputation and unknown categories, fitted fold by fold on that fold's ``fit`` rows and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fusion_lab.config import Config
from fusion_lab.contracts import UNKNOWN, Batch, Dataset, Modality

NORMAL_IQR = 0.7413
"""Standard deviation of a normal variable over its interquartile range."""
CONSTANT = 1e-8
"""A column whose deviation is below this share of its mean varies by rounding only."""


class ScalingConfig(Config):
    """``clip`` bounds scaled numeric values to [-clip, clip]; with ``method: none`` values keep their units."""

    method: Literal["standard", "robust", "none"] = "standard"
    impute: Literal["mean", "median"] = "mean"
    clip: float | None = Field(default=10.0, gt=0)


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


STACKED = ("shift", "scale", "fill", "seen")


@dataclass(frozen=True)
class Scaler:
    """Per-fold statistics of every modality; takes a raw batch, returns a scaled one with everything else unchanged."""

    modalities: dict[str, ModalityScaler]

    @classmethod
    def fit(cls, dataset: Dataset, rows: np.ndarray, config: ScalingConfig | None = None) -> Scaler:
        """Statistics of K folds from the rows marked in ``rows``, bool ``[K,R]``; no other row changes a bit of them.

        Only cells that are valid and observed count. Numeric columns are standardised (population deviation), or
        centred on the median and divided by the interquartile range times 0.7413 (by the deviation where the range is
        0); a column without spread is divided by 1. Missing numeric cells get the mean or median, missing binary cells
        the share of ones, missing categories the unknown column.

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
        used = np.flatnonzero(rows.any(axis=0))
        batch = dataset.gather(torch.from_numpy(used))
        marks = torch.from_numpy(rows[:, used])
        return cls({m.name: _fit(m, batch, marks, config) for m in dataset.spec.modalities})

    def __call__(self, batch: Batch) -> Batch:
        inputs = {
            name: self.modalities[name](values, batch.valid[name], batch.observed[name])
            for name, values in batch.inputs.items()
        }
        return batch._replace(inputs=inputs)

    def fold(self, k: int) -> Scaler:
        """The scaler of one fold, without the K axis: takes leaves ``[B,...]``."""
        return Scaler({n: m.map(lambda s: s[k], stacked_only=True) for n, m in self.modalities.items()})

    def take(self, folds: Sequence[int]) -> Scaler:
        """The scalers of some folds, still stacked, in the order given."""
        index = torch.tensor(list(folds), dtype=torch.int64)
        return Scaler(
            {n: m.map(lambda s: s[index.to(s.device)], stacked_only=True) for n, m in self.modalities.items()}
        )

    def to(self, device: torch.device | str) -> Scaler:
        return Scaler({n: m.map(lambda s: s.to(device)) for n, m in self.modalities.items()})

    def state(self) -> dict[str, Tensor]:
        """All statistics as ``{"<modality>/<statistic>": tensor}``, contiguous: a safetensors file as it is."""
        return {f"{n}/{s}": t.contiguous() for n, m in self.modalities.items() for s, t in m.tensors().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Scaler:
        """The scaler whose :meth:`state` this is."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            name, _, statistic = key.rpartition("/")
            parts.setdefault(name, {})[statistic] = tensor
        return cls({name: ModalityScaler(**tensors) for name, tensors in parts.items()})


def _fit(modality: Modality, batch: Batch, rows: Tensor, config: ScalingConfig) -> ModalityScaler:
    """Statistics of one modality; ``rows`` is bool [K,R] over the R rows of ``batch``."""
    inputs, valid = batch.inputs[modality.name], batch.valid[modality.name]
    real = batch.observed[modality.name] & valid.unsqueeze(-1)
    kind = np.array([f.kind for f in modality.features])
    numeric, binary = torch.from_numpy(kind == "numeric"), torch.from_numpy(kind == "binary")
    category, unknown = _unknown_columns(modality)
    count, mean, deviation = _moments(inputs, real, rows)
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    shift, scale, centre = mean, deviation, mean
    if config.method == "robust" or config.impute == "median":
        lower, median, upper = _quantiles(inputs, real, rows, (0.25, 0.5, 0.75))
        centre = median if config.impute == "median" else mean
        if config.method == "robust":
            spread = (upper - lower) * NORMAL_IQR
            shift, scale = median, torch.where(spread > CONSTANT * median.abs(), spread, deviation)
    scaled = numeric & (config.method != "none")
    shift = torch.where(scaled, shift, zero)
    scale = torch.where(scaled & (scale > 0), scale, one)
    fill = torch.where(numeric & (count > 0), (centre - shift) / scale, torch.where(binary, mean, zero))
    fill[:, unknown] = 1.0
    seen = torch.ones_like(mean, dtype=torch.bool)
    seen[:, category] = mean[:, category] > 0
    seen[:, unknown] = True
    bound = torch.where(scaled, torch.inf if config.clip is None else config.clip, torch.inf)
    return ModalityScaler(shift.float(), scale.float(), fill.float(), seen, bound.float(), category, unknown)


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


def _moments(inputs: Tensor, real: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and population deviation of the real cells of each fold's rows: float64 [K,F] each.

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
    folds = [_combine(weight, count, mean, inner) for weight in rows.double()]
    total, centre, deviation = (torch.stack(part) for part in zip(*folds, strict=True))
    deviation[deviation <= CONSTANT * centre.abs()] = 0.0
    return total, centre, deviation


def _combine(weight: Tensor, count: Tensor, mean: Tensor, inner: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """One fold's count, mean and deviation [F] from the rows' [R,F] and ``weight`` [R], 0 or 1."""
    total = weight @ count
    centre = weight @ (count * mean) / total.clamp(min=1)
    squares = weight @ (mean - centre).square_().mul_(count)
    if inner is not None:
        squares = squares + weight @ inner
    return total, centre, (squares / total.clamp(min=1)).sqrt()


def _quantiles(inputs: Tensor, real: Tensor, rows: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    """Quantiles of the real cells of each fold's rows, linearly interpolated: float64 [K,F] per share, 0 without cells.

    Columns are sorted once for all folds; a fold counts its own cells along that order.
    """
    width = inputs.shape[-1]
    cells = inputs.reshape(-1, width).T.masked_fill(~real.reshape(-1, width).T, torch.inf)  # [F, cells]
    ordered, order = cells.sort(dim=1)
    owner = torch.arange(len(inputs)).repeat_interleave(cells.shape[1] // max(len(inputs), 1))[order]
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
