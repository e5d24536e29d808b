"""Numbers beside how they lie to fixed thresholds, so that what is linear in them can follow curves."""

from __future__ import annotations

import torch
from torch import Tensor

SLOPE = 4.0
"""How steeply an answer rises at its threshold: within about half a standard deviation."""


def with_thresholds(x: Tensor, count: int, columns: list[int]) -> Tensor:
    """Scaled features and, of the Q ones at the places ``columns``, an answer to each of ``count`` thresholds:
    ``[...,F] -> [...,F + Q * count]``, the features first.

    Thresholds are the quantiles that cut a standard normal variable into ``count + 1`` equal shares. The answer is
    ``tanh(SLOPE * (x - threshold))`` less its value at 0, so that what is missing, 0 in scaled units, adds nothing. A
    linear map of them all is a sum of curves, one of each feature: a generalised additive model (Hastie and Tibshirani,
    1986), with soft stumps in place of splines. The encoding by bins of Gorishniy et al., 2022 ("On Embeddings for
    Numerical Features in Tabular Deep Learning") is the kindred one; here nothing is fitted to training rows.

    >>> [round(float(of), 2) for of in with_thresholds(torch.tensor([0.2, 1.0]), 1, [0])]
    [0.2, 1.0, 0.66]
    """
    knots = torch.special.ndtri((torch.arange(count, device=x.device, dtype=x.dtype) + 1) / (count + 1))
    above = torch.tanh(SLOPE * (x[..., columns].unsqueeze(-1) - knots)) + torch.tanh(SLOPE * knots)
    return torch.cat([x, above.flatten(-2)], dim=-1)
