"""What an imputer is trained by: the truth about what was hidden from it, and the divergence of its latent."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion_lab.blocks.imputation import Imputation, Latent
from fusion_lab.blocks.ragged import squared_errors, variances
from fusion_lab.blocks.views import Rows

OUTLIER = 4.0
"""No error counts for more than so many variances where an uncertainty learns to tell it."""


def imputation_penalty(truth: Rows, seen: Rows, guess: Imputation, counted: Tensor) -> Tensor:
    """Per row ``[B]``, over its views: half the error of decoding what is seen, and half that of imputing what is
    hidden though known, in all stages, with that of the uncertainty, which is to tell the last stage's error as a share
    of the modality's variance among the rows ``counted``. Each is 0 where there is nothing of the kind.
    """
    views = len(truth.here) // len(counted)
    errors = squared_errors(guess.values, truth.inputs, truth.cells)  # [B,M,S]
    known = torch.cat([cell.flatten(2).any(-1) for cell in truth.cells]).transpose(0, 1)
    hidden = known & truth.here & ~seen.here
    share = errors[..., -1] / variances(truth.inputs, truth.cells, counted.repeat(views)).clamp(min=1e-6)
    wrong = (guess.uncertainty - share.detach().clamp(max=OUTLIER)) ** 2
    penalty = 0.5 * _row_mean(errors.mean(-1) + wrong, hidden, views)
    if guess.latent is not None:
        penalty = penalty + 0.5 * _row_mean(errors[..., 0], known & seen.here, views)
    return penalty


def _row_mean(values: Tensor, counted: Tensor, views: int) -> Tensor:
    """The mean of what is counted of a row in all of its views, ``[views*B,M] -> [B]``; 0 where nothing is."""
    total, count = (
        (leaf * counted).unflatten(0, (views, -1)).sum((0, 2)) for leaf in (values, torch.ones_like(values))
    )
    return total / count.clamp(min=1.0)


def divergence(latent: Latent, views: int) -> Tensor:
    """Per row ``[B]``, the mean over its views: the divergence of the latent from a standard normal distribution, in
    nats per latent. Summed over latents, beside an error that is a mean over cells, it would empty the latent.
    """
    mean, log_variance = latent
    per_latent = -0.5 * (1.0 + log_variance - mean**2 - torch.exp(log_variance))
    return per_latent.mean(-1).unflatten(0, (views, -1)).mean(0)
