"""The one place where masks (True = real) become numbers. All finite, so that a row with nothing real gives zeros,
never NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAR = -1e9


def masked_softmax(scores: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the last axis among what is valid; all zeros where nothing is.

    >>> masked_softmax(torch.zeros(2, 3), torch.tensor([[True, True, False], [False, False, False]])).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    real = valid.to(scores.dtype)
    return torch.softmax(scores + (1.0 - real) * FAR, dim=-1) * real


def hold(scores: Tensor, valid: Tensor) -> Tensor:
    """Scores ``[..., D]`` of a gate that lets a state stay: their sigmoid is exactly 1 where ``valid [...]`` is False.

    >>> torch.sigmoid(hold(torch.zeros(2, 1), torch.tensor([True, False]))).tolist()
    [[0.5], [1.0]]
    """
    return scores - (1.0 - valid.unsqueeze(-1).to(scores.dtype)) * FAR


def weighted_mean(x: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Mean of ``x [..., D]`` over axis ``dim`` with weights ``[...]`` >= 0; zeros where all weights are 0."""
    w = weight.unsqueeze(-1).to(x.dtype)
    total = w.sum(dim)
    return (x * w).sum(dim) / torch.where(total > 0, total, torch.ones_like(total))


def blank(x: Tensor, valid: Tensor) -> Tensor:
    """``x [..., F]`` with zeros wherever ``valid [...]`` is False, whatever stood there, NaN included."""
    return torch.where(valid.unsqueeze(-1), x, torch.zeros((), dtype=x.dtype, device=x.device))
