"""From one vector to each task's logits or values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.randomness import Dropout, Noise


class TaskHead(nn.Module):
    """Linear -> GELU -> dropout -> linear; ``[B,D] -> [B]`` for one output, ``[B,C]`` for C."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.drop = Dropout(dropout)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        answer = self.out(self.drop(torch.nn.functional.gelu(self.hidden(x)), noise))
        return answer.squeeze(-1) if self.out.out_features == 1 else answer
