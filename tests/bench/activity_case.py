"""The activity model for the opponents: the product's own family in a module of everyday shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from case import Case, Criterion, Fold
from ours import TASK, make_experiment
from torch import Tensor, nn

from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.contracts import Batch
from fusion_lab.data import synthetic
from fusion_lab.zoo import FAMILIES, Model


class Classifier(nn.Module):
    """Logits ``[B,C]`` from all sensors' features side by side, float ``[B,T,F]``, and masks bool ``[B,T,M]``, True =
    real. Dropout is by values that the family is handed: in training they are drawn here, by the product's own
    generator, which takes a quarter of the time that PyTorch's takes.
    """

    def __init__(self, family: Model, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.family, self.widths = family, widths
        self.draws: int | None = None  # of the first batch, the largest
        self.steps = 0

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        inputs = dict(zip(self.widths, features.split(list(self.widths.values()), dim=-1), strict=True))
        valid = dict(zip(self.widths, masks.unbind(-1), strict=True))
        batch = Batch(inputs, valid, {}, {}, {}, {}, features.new_ones(len(features)))
        return self.family(batch, self._noise(batch) if self.training else None).heads[TASK]

    def _noise(self, batch: Batch) -> Noise:
        if self.draws is None:
            self.draws = count_draws(lambda noise: self.family(batch, noise), batch.weight.device)
        self.steps += 1
        return Noise(torch.from_numpy(draw_noise(self.draws, self.steps)))


class ActivityCase(Case):
    """The product's own activity model; a label of several classes."""

    def model(self, fold: Fold) -> Classifier:
        experiment = make_experiment(self.settings, "loop")
        family = FAMILIES[experiment.model.family](experiment.model, synthetic.spec(experiment.data)).to(self.dtype)
        family.load_state_dict(fold.weights)
        return Classifier(family, {name: x.shape[-1] for name, x in self.inputs.items()})

    def criterion(self, fold: Fold) -> Criterion:
        weights = fold.class_weights.to(self.dtype)
        losses = nn.CrossEntropyLoss(weights, reduction="none")  # its own mean is over weights, not rows
        return lambda logits, labels: losses(logits, labels).mean()

    def targets(self, labels: Tensor) -> Tensor:
        return labels.long()

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=-1)
