"""Encoders of sequences that go along the time: a recurrent one and a convolutional one, G modalities at once.

Neither sees a step that is not valid: padding in front of a sequence changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_lab.blocks.encoders import Asked, Encoded, Projection
from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import blank, hold
from fusion_lab.blocks.pooling import AttentionPooling
from fusion_lab.blocks.randomness import Dropout, Noise


class GRULayer(nn.Module):
    """A gated recurrent unit (Cho et al., 2014) with the weights of ``torch.nn.GRU``, G at once.

    Step by step in plain matrix products, which stack under ``vmap`` on every device; PyTorch's own layer is taken
    apart there into the same products, group by group, and has no way to pass over a step.
    """

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.given = GroupedLinear(groups, width, 3 * width)  # reset gate, update gate, new state
        self.kept = GroupedLinear(groups, width, 3 * width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x [G,B,T,D]``, ``valid`` bool ``[G,B,T]`` -> the state after each step ``[G,B,T,D]``, which a step that is
        not valid leaves as it was; zeros before the first.
        """
        groups, rows, _, width = x.shape
        reset, update, new = self.given(x).split(width, dim=-1)
        gates = torch.cat([reset, hold(update, valid)], dim=-1)
        state = x.new_zeros(groups, rows, width)
        states = []
        for of_gates, of_new in zip(gates.unbind(2), new.unbind(2), strict=True):
            to_gates, to_new = self.kept(state).split([2 * width, width], dim=-1)
            r, z = torch.sigmoid(of_gates + to_gates).chunk(2, dim=-1)
            state = torch.lerp(torch.tanh(torch.addcmul(of_new, r, to_new)), state, z)
            states.append(state)
        return torch.stack(states, dim=2)


class GRUEncoder(nn.Module):
    """Projection, then GRU layers; the token is the state after the last valid step. No weights.

    A step's output knows of the steps before it alone.
    """

    def __init__(self, widths: tuple[int, ...], width: int, layers: int, dropout: float, asked: Asked) -> None:
        super().__init__()
        self.asked = asked
        self.project = Projection(widths, width)
        self.drop = Dropout(dropout)
        self.layers = nn.ModuleList(GRULayer(len(widths), width) for _ in range(layers))

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Encoded:
        """``x [G,B,T,F]``, ``valid`` bool ``[G,B,T]``."""
        states = self.project(blank(x, valid))
        for layer in self.layers:
            states = layer(self.drop(states, noise), valid)
        token = states[:, :, -1] if self.asked.token else None
        return Encoded(token, steps=blank(states, valid) if self.asked.steps else None)


class ConvolutionLayer(nn.Module):
    """A residual convolution over three steps that lie ``dilation`` apart, centred on its own: linear -> layer norm ->
    GELU. ``[G,B,T,D] -> [G,B,T,D]``, zeros where not valid.
    """

    def __init__(self, groups: int, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilation = dilation
        self.linear = GroupedLinear(groups, 3 * width, width)
        self.norm = GroupedNorm(groups, width)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Tensor:
        """``x`` is zero where ``valid [G,B,T]`` is False."""
        before, after = (
            torch.nn.functional.pad(x, pad) for pad in ((0, 0, self.dilation, 0), (0, 0, 0, self.dilation))
        )
        around = torch.cat([before[:, :, : x.shape[2]], x, after[:, :, self.dilation :]], dim=-1)
        made = torch.nn.functional.gelu(self.norm(self.linear(around)))
        return blank(x + self.drop(made, noise), valid)


class ConvolutionEncoder(nn.Module):
    """A temporal convolutional network (after Bai, Kolter and Koltun, 2018, but centred): projection, convolutions of
    dilation 1, 2, 4, ..., pooled by attention.

    Once the dilation reaches T it starts anew at 1 (as in van den Oord et al., 2016): beyond, there is nothing to see.

    Args:
        length: the largest T.
    """

    def __init__(
        self, widths: tuple[int, ...], length: int, width: int, layers: int, dropout: float, asked: Asked
    ) -> None:
        super().__init__()
        self.asked = asked
        groups, octaves = len(widths), max(1, (length - 1).bit_length())
        self.project = Projection(widths, width)
        self.layers = nn.ModuleList(ConvolutionLayer(groups, width, 2 ** (i % octaves), dropout) for i in range(layers))
        self.pool = AttentionPooling(groups, width) if asked.token else None

    def forward(self, x: Tensor, valid: Tensor, noise: Noise | None) -> Encoded:
        """``x [G,B,T,F]``, ``valid`` bool ``[G,B,T]``."""
        steps = blank(self.project(blank(x, valid)), valid)
        for layer in self.layers:
            steps = layer(steps, valid, noise)
        token, weights = self.pool(steps, valid) if self.pool else (None, None)
        return Encoded(token, weights, steps if self.asked.steps else None)
