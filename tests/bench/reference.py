"""The relapse model as PyTorch's own layers make it: one encoder per modality, a transformer over their summaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = {"accel": 38, "gyr": 38, "hr": 26, "step": 10, "sleep": 9}
STEPS = 7


class ModalityEncoder(nn.Module):
    """A modality's steps ``[B,T,F]`` as one token ``[B,D]``: a learned summary token reads them."""

    def __init__(self, features: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width), nn.GELU())
        self.summary = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, STEPS + 1, width) * 0.02)
        self.transformer = transformer(width, heads, dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        tokens = torch.cat([self.summary.expand(len(x), -1, -1), self.project(x)], dim=1) + self.positions
        seen = torch.cat([valid.new_ones(len(x), 1), valid], dim=1)
        return self.transformer(tokens, src_key_padding_mask=~seen)[:, 0]


class RelapseTransformer(nn.Module):
    """Logits ``[B]`` from all modalities' features side by side, float ``[B,T,F]``, and masks bool ``[B,T,M]``, True =
    real.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({n: ModalityEncoder(f, width, heads, dropout) for n, f in WIDTHS.items()})
        self.kind = nn.Parameter(torch.randn(len(WIDTHS), width) * 0.02)
        self.fusion = transformer(width, heads, dropout)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        parts = zip(
            self.encoders.values(), features.split(list(WIDTHS.values()), dim=-1), masks.unbind(-1), strict=True
        )
        tokens = [encoder(x, valid) for encoder, x, valid in parts]
        present = masks.any(dim=1)
        # Attention over nothing is NaN: where every modality is missing all are let in, and none counts in the mean.
        seen = present | ~present.any(dim=1, keepdim=True)
        fused = self.fusion(torch.stack(tokens, dim=1) + self.kind, src_key_padding_mask=~seen)
        weight = present.unsqueeze(-1).to(fused.dtype)
        return self.head((fused * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).squeeze(-1)


def transformer(width: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """One pre-norm layer without a final norm."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
