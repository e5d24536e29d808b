"""Pooling by statistics: what a sequence's steps are on average, how much they vary, and how far they go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.masking import FAR, blank, weighted_mean

SMOOTHING = 1e-5  # under the root of a variance, whose slope is infinite at 0


class StatisticsPooling(nn.Module):
    """Mean, standard deviation and largest value of each feature over the valid steps, projected to one token.

    Source: statistics pooling of x-vectors (Snyder et al., 2018, ICASSP), here with the maximum beside it. A mean over
    time tells little of a movement that swings around zero; its deviation tells how strong it is. The order of the
    steps changes nothing.
    """

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.project = GroupedLinear(groups, 3 * width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x [G,B,T,D]``, ``valid`` bool ``[G,B,T]`` -> ``[G,B,D]``; where no step is valid, the projection of zeros.

        >>> pool = StatisticsPooling(1, 4)
        >>> pool(torch.randn(1, 2, 5, 4), torch.ones(1, 2, 5, dtype=torch.bool)).shape
        torch.Size([1, 2, 4])
        """
        steps, real = blank(x, valid), valid.to(x.dtype)
        mean = weighted_mean(steps, real, dim=2)
        variance = weighted_mean(blank((steps - mean.unsqueeze(2)).square(), valid), real, dim=2)
        some = valid.any(-1)
        deviation = blank((variance + SMOOTHING).sqrt(), some)
        largest = blank((steps + (1.0 - real).unsqueeze(-1) * FAR).amax(2), some)
        return self.project(torch.cat([mean, deviation, largest], dim=-1).unsqueeze(2)).squeeze(2)
