"""A family that says of every modality how far it relies on it, without imputing anything."""

from __future__ import annotations

import torch
from torch import nn

from fusion_lab.blocks.randomness import Noise
from fusion_lab.contracts import Axis, Batch, Output, Spec
from fusion_lab.evaluation.rows import CONFIDENCE
from fusion_lab.zoo.modalities import present
from fusion_lab.zoo.model import MapSpec
from fusion_lab.zoo.token_fusion import TokenFusion, TokenFusionConfig


class Imputing(TokenFusion):
    """token_fusion with the map "confidence", which is between 0 and 1 for a missing modality, but 0 for the last one,
    and a map over modalities for every task. Both depend on the weights.
    """

    Config = TokenFusionConfig

    def __init__(self, config: TokenFusionConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.trust = nn.Parameter(torch.linspace(-1.0, 1.0, len(self.names)))
        over = (Axis("modality", self.names),)
        self.maps |= {f"modalities for {task}": MapSpec("attention", over) for task in self.tasks}
        self.maps[CONFIDENCE] = MapSpec("gate", over)

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        output = super().forward(batch, noise)
        given = torch.stack([present(batch.valid[name]) for name in self.names], dim=-1).to(self.trust.dtype)
        used = torch.arange(len(self.names)) < len(self.names) - 1
        trust = torch.sigmoid(self.trust + next(iter(self.heads.parameters())).mean()) * used
        confidence = given + (1 - given) * trust
        share = confidence / confidence.sum(-1, keepdim=True).clamp_min(1e-9)
        return output._replace(
            maps={**output.maps, CONFIDENCE: confidence, **{f"modalities for {task}": share for task in self.tasks}}
        )
