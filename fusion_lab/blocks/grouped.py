"""Layers with a leading group axis: G strangers of one shape computed in one matrix product.

The modality encoders of a model have the same shape but for their input width; padded to one width and stacked, G of
them cost one kernel in place of G. Activations are ``[G,B,T,D]``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """``[G,...,in] -> [G,...,out]``, a weight of its own for each group.

    ``widths`` gives each group's real input width where inputs are zero-padded to the largest: the padding rows of the
    weight are zero, never receive a gradient and do not count as parameters. ``outs`` gives each group's real output
    width in the same way: what lies beyond is zero, and gets no gradient where nobody reads it. Initialised as
    ``torch.nn.Linear`` is, each group by its own width.
    """

    def __init__(
        self,
        groups: int,
        width: int,
        out: int,
        widths: tuple[int, ...] | None = None,
        outs: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.widths = widths or (width,) * groups
        self.outs = outs or (out,) * groups
        self.weight = nn.Parameter(torch.zeros(groups, width, out))
        self.bias = nn.Parameter(torch.zeros(groups, out))
        for g, (real, wanted) in enumerate(zip(self.widths, self.outs, strict=True)):
            bound = 1.0 / math.sqrt(real)
            nn.init.uniform_(self.weight[g, :real, :wanted], -bound, bound)
            nn.init.uniform_(self.bias[g, :wanted], -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        groups, width, out = self.weight.shape
        flat = x.reshape(groups, -1, width)
        return torch.baddbmm(self.bias.unsqueeze(1), flat, self.weight).reshape(*x.shape[:-1], out)

    def real(self) -> Tensor:
        """bool, the weight's shape: False on the padding."""
        mask = torch.zeros(self.weight.shape, dtype=torch.bool)
        for g, (width, out) in enumerate(zip(self.widths, self.outs, strict=True)):
            mask[g, :width, :out] = True
        return mask

    def real_bias(self) -> Tensor:
        """bool, the bias's shape: False on the padding."""
        return torch.arange(self.bias.shape[1]) < torch.tensor(self.outs).unsqueeze(1)


class GroupedNorm(nn.Module):
    """Layer normalisation over D of ``[G,B,T,D]`` with scale and shift of its own for each group."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(groups, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, self.plain(x), self.weight)

    def plain(self, x: Tensor) -> Tensor:
        """``x`` normalised, before scale and shift."""
        return torch.nn.functional.layer_norm(x, x.shape[-1:])
