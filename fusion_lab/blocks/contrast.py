"""Two views of a row told apart from those of other rows."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion_lab.blocks.masking import FAR


def info_nce(one: Tensor, other: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al., 2018) between two views, in both directions: per row ``[B]``, how badly one view
    finds the other among the other views of all rows.

    Args:
        one: ``[B,D]``, of length 1.
        other: ``[B,D]``, of length 1.
        counted: bool ``[B]``: the rows that others are told apart from.
        temperature: divides the similarities; smaller is stricter.
    """
    exact = torch.promote_types(one.dtype, torch.float32)
    scores = (one.to(exact) @ other.to(exact).T) / temperature
    own = torch.eye(len(counted), dtype=torch.bool, device=counted.device)
    away = torch.where(counted | own, 0.0, FAR)  # a row that does not count is still told apart from those that do
    directions = (torch.logsumexp(s + away, dim=-1) for s in (scores, scores.T))
    return (sum(directions) / 2 - scores.diagonal()).to(one.dtype)
