"""PyTorch's LSTM as an encoder of sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.encoders import Asked, Encoded, Projection
from fusion_lab.blocks.masking import blank
from fusion_lab.blocks.randomness import Dropout, Noise


class LSTMLayer(nn.Module):
    """``torch.nn.LSTM`` for each of G modalities, ``[G,B,T,D] -> [G,B,T,D]``."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([lstm(own)[0] for lstm, own in zip(self.each, x, strict=True)])


class LSTMEncoder(nn.Module):
    """Projection, then LSTM layers (Hochreiter and Schmidhuber, 1997); the token is the state after the last valid
    step. No weights.

    The layers pass over steps that are not valid: the valid ones are moved to the front, where nothing comes before
    them, and their states back to their places. An LSTM is one kernel, which ``torch.func.vmap`` cannot map over folds.
    """

    def __init__(self, widths: tuple[int, ...], width: int, layers: int, dropout: float, asked: Asked) -> None:
        super().__init__()
        self.asked = asked
        self.project = Projection(widths, width)
        self.drop = Dropout(dropout)
        self.layers = nn.ModuleList(LSTMLayer(len(widths), width) for _ in range(layers))

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Encoded:
        """``x [G,B,T,F]``, ``valid`` bool ``[G,B,T]``."""
        first = torch.argsort((~valid).to(torch.uint8), dim=2, stable=True)  # the valid steps, in their order
        states = _at(self.project(blank(x, valid)), first)
        for layer in self.layers:
            states = layer(self.drop(states, noise))
        place = (valid.cumsum(2) - 1).clamp(min=0)  # where each step is now
        token = blank(_at(states, place[:, :, -1:]).squeeze(2), valid.any(2)) if self.asked.token else None
        return Encoded(token, steps=blank(_at(states, place), valid) if self.asked.steps else None)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """``x [G,B,T,D]`` at ``places [G,B,S]``: ``[G,B,S,D]``."""
    return torch.gather(x, 2, places.unsqueeze(-1).expand(*places.shape, x.shape[-1]))
