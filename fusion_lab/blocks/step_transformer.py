"""A transformer over the steps of one clock that answers at every step, where asked for without looking ahead."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fusion_lab.blocks.attention import Attention
from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.randomness import Dropout, Noise

NormPlace = Literal["pre", "post"]
LONGEST_WAVE = 10_000.0


class StepLayer(nn.Module):
    """A transformer layer with its norms before each part and GELU (``pre``; Xiong et al., 2020), or after it and ReLU
    (``post``; Vaswani et al., 2017); its feed-forward part is ``hidden`` wide.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, norm: NormPlace) -> None:
        super().__init__()
        self.post = norm == "post"
        self.attention = Attention(1, width, heads, dropout)
        self.up, self.down = GroupedLinear(1, width, hidden), GroupedLinear(1, hidden, width)
        self.norm_attention, self.norm_feed = GroupedNorm(1, width), GroupedNorm(1, width)
        self.drop_attention, self.drop_hidden, self.drop_feed = (Dropout(dropout) for _ in range(3))

    def forward(self, x: Tensor, seen: Tensor, noise: Noise | None) -> Tensor:
        """``x [1,B,T,D]``; ``seen`` bool ``[1,B,T,T]``, or ``[1,B,1,T]``: which steps each one reads."""
        if self.post:
            x = self.norm_attention(x + self._attended(x, seen, noise))
            return self.norm_feed(x + self._fed(x, noise))
        x = x + self._attended(self.norm_attention(x), seen, noise)
        return x + self._fed(self.norm_feed(x), noise)

    def _attended(self, x: Tensor, seen: Tensor, noise: Noise | None) -> Tensor:
        return self.drop_attention(self.attention(x, x, seen, noise)[0], noise)

    def _fed(self, x: Tensor, noise: Noise | None) -> Tensor:
        act = torch.relu if self.post else torch.nn.functional.gelu
        return self.drop_feed(self.down(self.drop_hidden(act(self.up(x)), noise)), noise)


class StepTransformer(nn.Module):
    """Layers one after the other, with a last norm where norms come before; ``[B,T,D] -> [B,T,D]``.

    A step that is not valid is read by none, itself included. ``causal``: a step reads itself and what came before.
    """

    def __init__(
        self, width: int, heads: int, layers: int, hidden: int, dropout: float, norm: NormPlace, causal: bool
    ) -> None:
        super().__init__()
        self.causal = causal
        self.layers = nn.ModuleList(StepLayer(width, heads, hidden, dropout, norm) for _ in range(layers))
        self.norm = GroupedNorm(1, width) if norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Tensor:
        """``valid`` is bool ``[B,T]``."""
        seen = valid[None, :, None, :]
        if self.causal:
            length = valid.shape[-1]
            seen = seen & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        made = x.unsqueeze(0)
        for layer in self.layers:
            made = layer(made, seen, noise)
        return self.norm(made).squeeze(0)


def waves(valid: Tensor, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of each step's distance from the first valid one (after Vaswani et al., 2017), ``[B,T,D]``
    from bool ``[B,T]``, of the type of ``like``; those of step 0 where nothing has come yet.

    >>> made = waves(torch.tensor([[False, True, True]]), 2, torch.zeros(()))
    >>> bool(torch.equal(made[0, 0], made[0, 1])), [round(float(of), 2) for of in made[0, 2]]
    (True, [0.84, 0.54])
    """
    length, half = valid.shape[-1], (width + 1) // 2
    rate = torch.exp(torch.arange(half, device=valid.device, dtype=like.dtype) * (-math.log(LONGEST_WAVE) / half))
    angle = torch.arange(length, device=valid.device, dtype=like.dtype).unsqueeze(-1) * rate
    table = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)[:, :width]
    return table[steps_since_first(valid)]


def steps_since_first(valid: Tensor) -> Tensor:
    """How many steps each one comes after the first valid one, int64 ``[B,T]``; 0 before it.

    >>> steps_since_first(torch.tensor([[False, True, False, True]])).tolist()
    [[0, 0, 1, 2]]
    """
    begun = valid.cumsum(-1) > 0
    return (begun.cumsum(-1) - 1).clamp(min=0)
