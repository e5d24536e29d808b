"""Plain layers one after the other, with an activation that is chosen by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.randomness import Dropout, Noise

ActivationName = Literal["GELU", "SiLU", "Mish", "ReLU", "LeakyReLU"]
ACTIVATIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "GELU": torch.nn.functional.gelu,
    "SiLU": torch.nn.functional.silu,
    "Mish": torch.nn.functional.mish,
    "ReLU": torch.nn.functional.relu,
    "LeakyReLU": torch.nn.functional.leaky_relu,
}


class NormedLinear(nn.Module):
    """Linear -> layer norm, a weight of its own for each group; ``[G,B,T,width] -> [G,B,T,out]``."""

    def __init__(self, groups: int, width: int, out: int) -> None:
        super().__init__()
        self.linear = GroupedLinear(groups, width, out)
        self.norm = GroupedNorm(groups, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class MLP(nn.Module):
    """``layers`` times linear -> layer norm -> activation -> dropout, a weight of its own for each group;
    ``[G,...,width] -> [G,...,hidden]``.
    """

    def __init__(
        self, groups: int, width: int, hidden: int, layers: int, dropout: float, activation: ActivationName
    ) -> None:
        super().__init__()
        assert layers >= 1, layers
        self.layers = nn.ModuleList(NormedLinear(groups, width if i == 0 else hidden, hidden) for i in range(layers))
        self.drop = Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        act = ACTIVATIONS[self.activation]
        made = x.reshape(len(x), 1, -1, x.shape[-1])
        for layer in self.layers:
            made = self.drop(act(layer(made)), noise)
        return made.reshape(*x.shape[:-1], -1)
