"""Missing modalities from those that are there, and how sure that is. ``here`` is bool ``[B,M]``; inputs are
:data:`~fusion_lab.blocks.ragged.Ragged` with T = 1, scaled, 0 where a modality is missing.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusion_lab.blocks.attention import Attention, TransformerLayer
from fusion_lab.blocks.grouped import GroupedLinear, GroupedNorm
from fusion_lab.blocks.masking import masked_softmax, weighted_mean
from fusion_lab.blocks.ragged import LinearRagged, Ragged, RaggedLinear, Widths, fill
from fusion_lab.blocks.randomness import Dropout, Noise, normal

HIDDEN = 64
"""Width of the small networks that weigh modalities and tell an uncertainty."""


class Latent(NamedTuple):
    """A normal distribution per row: mean and logarithm of the variance ``[B,L]``."""

    mean: Tensor
    log_variance: Tensor


class Imputation(NamedTuple):
    """What an imputer says of every modality, missing or not.

    ``values [G,B,S,F]``: in each of S stages, of which the last is to be used; after the first, they are meant for
    missing modalities alone. ``uncertainty [B,M]`` in [0, 1]: the share of the variance that the last stage is expected
    to leave unexplained. ``latent``: what it was decoded from.
    """

    values: Ragged
    uncertainty: Tensor
    latent: Latent | None = None

    @property
    def last(self) -> Ragged:
        """The values to be used, ``[G,B,1,F]``."""
        return [part[:, :, -1:] for part in self.values]


class QualityNet(nn.Module):
    """A score per modality from the quality of all, ``[B,M] -> [B,M]``."""

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(modalities, HIDDEN)
        self.out = nn.Linear(HIDDEN, modalities)

    def forward(self, quality: Tensor) -> Tensor:
        return self.out(torch.nn.functional.gelu(self.hidden(quality)))


class MeanImputer(nn.Module):
    """The mean of each feature, which is learned (0 and 1 of a binary one are not scaled), and a learned uncertainty of
    each modality.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.means = nn.ParameterList(torch.zeros(width) for group in widths for width in group)
        self.sizes = tuple(len(group) for group in widths)
        self.doubt = nn.Parameter(torch.zeros(sum(map(len, widths))))

    def forward(self, x: Ragged, quality: Tensor, here: Tensor, noise: Noise | None) -> Imputation:
        """The same in every row, ``[G,B,1,F]``, and an uncertainty ``[B,M]``."""
        by_group = zip(x, _split(list(self.means), self.sizes), strict=True)
        means = [
            torch.stack([nn.functional.pad(m, (0, part.shape[-1] - len(m))) for m in own])[:, None, None].expand_as(
                part
            )
            for part, own in by_group
        ]
        return Imputation(means, torch.sigmoid(self.doubt).expand(here.shape))


def _split(items: list[Tensor], sizes: tuple[int, ...]) -> list[list[Tensor]]:
    ends = list(accumulate(sizes))
    return [items[end - size : end] for size, end in zip(sizes, ends, strict=True)]


class MultiScaleEncoder(nn.Module):
    """Each modality by networks of three widths, W, W/2 and W/4, side by side: ``[M,B,C]``, C = 7/4 L. Both W and L are
    multiples of 4.
    """

    def __init__(self, widths: Widths, width: int, latent: int, dropout: float) -> None:
        super().__init__()
        modalities = sum(map(len, widths))
        self.widths = (width, width // 2, width // 4)
        self.enter = RaggedLinear(widths, sum(self.widths))  # the first layers of all scales in one
        self.norms = nn.ModuleList(GroupedNorm(modalities, w) for w in self.widths)
        self.leave = nn.ModuleList(GroupedLinear(modalities, w, latent * w // width) for w in self.widths)
        self.drop = Dropout(dropout)

    def forward(self, x: Ragged, noise: Noise | None) -> Tensor:
        parts = self.enter(x).split(self.widths, dim=-1)
        made = [
            leave(self.drop(torch.nn.functional.gelu(norm(part)), noise))
            for part, norm, leave in zip(parts, self.norms, self.leave, strict=True)
        ]
        return torch.cat(made, dim=-1).squeeze(2)


class MultiModalVAE(nn.Module):
    """One latent of all modalities that are there (after Kingma and Welling, 2014), from which each is decoded.

    Encodings of three scales are weighed by a softmax of the quality and read each other by attention; their mean tells
    the latent's mean and variance. The latent is drawn while training, and in evaluation it is its mean. The variance
    tells how uncertain each modality is.

    Args:
        widths: F of the modalities, by group.
        width: W of the encoder's largest scale; the decoders' hidden layer is twice as wide.
        latent: L.
        heads: of the attention, whose width is 7/4 L.
    """

    def __init__(self, widths: Widths, width: int, latent: int, heads: int, dropout: float) -> None:
        super().__init__()
        modalities, encoded = sum(map(len, widths)), 7 * latent // 4
        self.hidden = (modalities, 2 * width)
        self.encode = MultiScaleEncoder(widths, width, latent, dropout)
        self.quality_scores = QualityNet(modalities)
        self.attention = Attention(1, encoded, heads, dropout)
        self.mean = nn.Sequential(nn.Linear(encoded, latent), nn.GELU(), nn.Linear(latent, latent))
        self.log_variance = nn.Sequential(nn.Linear(encoded, latent), nn.GELU(), nn.Linear(latent, latent))
        self.widen = nn.Linear(latent, modalities * 2 * width)  # every modality's own first layer
        self.drop = Dropout(dropout)
        self.decode = LinearRagged(2 * width, widths)
        self.ask = nn.Linear(latent, modalities * HIDDEN)
        self.doubt = GroupedLinear(modalities, HIDDEN, 1)

    def forward(self, x: Ragged, quality: Tensor, here: Tensor, noise: Noise | None) -> Imputation:
        """Values ``[G,B,1,F]``; ``quality [B,M]`` is 0 where a modality is missing."""
        latent = self.infer(x, quality, here, noise)
        z = latent.mean
        if noise is not None and noise.distorts:
            z = z + torch.exp(0.5 * latent.log_variance) * normal(noise, z)
        hidden = torch.nn.functional.gelu(self.widen(z)).unflatten(-1, self.hidden).transpose(0, 1)
        values = self.decode(self.drop(hidden, noise).unsqueeze(2))
        asked = (
            torch.nn.functional.gelu(self.ask(latent.log_variance))
            .unflatten(-1, (self.hidden[0], HIDDEN))
            .transpose(0, 1)
        )
        return Imputation(values, torch.sigmoid(self.doubt(asked)).squeeze(-1).transpose(0, 1), latent)

    def infer(self, x: Ragged, quality: Tensor, here: Tensor, noise: Noise | None) -> Latent:
        """The latent of each row, from the modalities that are there."""
        # relative to each other: their mean over what is there is 1
        weight = masked_softmax(self.quality_scores(quality), here) * here.sum(-1, keepdim=True)
        encoded = self.encode(x, noise).transpose(0, 1) * weight.unsqueeze(-1)
        tokens = encoded.unsqueeze(0)
        attended, _ = self.attention(tokens, tokens, here.unsqueeze(0), noise)
        summary = weighted_mean(encoded + 0.5 * attended[0], here, dim=1)
        return Latent(self.mean(summary), self.log_variance(summary).clamp(-10.0, 10.0))


class IterativeImputer(nn.Module):
    """What an imputer guesses, refined: transformer layers over the tokens of all modalities, each of which rewrites
    the missing ones alone. What the layers have changed of a token, back in the modality's own width, is added to the
    first guess.

    After each layer a head tells how sure the token is; the uncertainty becomes a mean of what it was and of that,
    weighted by a learned share, at first 0.9 in the first layer and 0.1 in the last.

    Args:
        first: the imputer whose guesses are refined.
        widths: F of the modalities, by group; tokens are the inputs themselves where each is ``width``.
        width: D of the tokens.
    """

    def __init__(
        self, first: nn.Module, widths: Widths, width: int, heads: int, iterations: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = first
        same = all(w == width for group in widths for w in group)
        self.lift = None if same else RaggedLinear(widths, width)
        self.lower = None if same else LinearRagged(width, widths)
        self.step = nn.Parameter(torch.zeros(iterations, 1)) if same else None
        for parameter in () if self.lower is None else self.lower.parameters():
            nn.init.zeros_(parameter)  # like the step: refinement begins with the first guess as it is
        self.layers = nn.ModuleList(TransformerLayer(1, width, heads, dropout, ratio=2) for _ in range(iterations))
        self.sure = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, 1)) for _ in range(iterations)
        )
        self.keep = nn.Parameter(torch.logit(torch.linspace(0.9, 0.1, iterations)))

    def forward(self, x: Ragged, quality: Tensor, here: Tensor, noise: Noise | None) -> Imputation:
        """``quality`` and ``here`` are ``[B,M]``. The first guess and, behind it, what each layer makes of it: values
        ``[G,B,1+iterations,F]``.
        """
        guess = self.first(x, quality, here, noise)
        filled = fill(x, ~here, guess.values)
        start = torch.cat(filled) if self.lift is None else self.lift(filled)
        start = start.permute(2, 1, 0, 3)  # [1,B,M,D]
        anything = here.any(-1, keepdim=True).expand(here.shape).unsqueeze(0)
        missing = ~here.unsqueeze(-1)
        tokens, uncertainty, changes, shares = start, guess.uncertainty, [], torch.sigmoid(self.keep)
        for layer, sure, share in zip(self.layers, self.sure, shares.unbind(), strict=True):
            made, _ = layer(tokens, anything, noise)
            tokens = torch.where(missing, made, tokens)
            doubt = 1.0 - torch.sigmoid(sure(tokens[0])).squeeze(-1)
            uncertainty = uncertainty * share + doubt * (1.0 - share)
            changes.append(tokens - start)
        return Imputation(self._refined(guess.values, torch.cat(changes)), uncertainty, guess.latent)

    def _refined(self, guess: Ragged, changes: Tensor) -> Ragged:
        """The guess ``[G,B,1,F]`` and its refinements behind it, by what they changed of the tokens ``[S,B,M,D]``."""
        by_modality = changes.permute(2, 1, 0, 3)
        by_modality = by_modality if self.step is None else by_modality * self.step
        lowered = by_modality.split([len(g) for g in guess]) if self.lower is None else self.lower(by_modality)
        return [torch.cat([g, g + more], dim=2) for g, more in zip(guess, lowered, strict=True)]
