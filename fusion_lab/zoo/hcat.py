"""hcat: hierarchical cross-modal attention over vectors of which some are missing and imputed."""

from __future__ import annotations

from math import gcd, log
from typing import ClassVar

import torch
from torch import Tensor, nn

from fusion_lab.blocks.attention import TransformerLayer
from fusion_lab.blocks.contrast import info_nce
from fusion_lab.blocks.encoders import Asked
from fusion_lab.blocks.fusion import share_bias
from fusion_lab.blocks.hiding import hide_each, hide_one_more, hide_one_of_all
from fusion_lab.blocks.imputation import Imputation, IterativeImputer, MeanImputer, MultiModalVAE, QualityNet
from fusion_lab.blocks.imputation_penalties import divergence, imputation_penalty
from fusion_lab.blocks.masking import blank
from fusion_lab.blocks.ragged import RaggedLinear, Widths, fill
from fusion_lab.blocks.randomness import Noise, normal
from fusion_lab.blocks.routing import BranchEncoder, Branches, BranchPool, TaskRouting, branch_mean
from fusion_lab.blocks.views import Filled, Rows
from fusion_lab.contracts import Axis, Batch, Output, Spec
from fusion_lab.zoo.hcat_settings import (
    REFERENCE,
    HcatConfig,
    branches_of,
    check_spec,
    spared_modalities,
    width_shares,
)
from fusion_lab.zoo.modalities import group_modalities, stack_group
from fusion_lab.zoo.model import MapSpec, Model

__all__ = ["REFERENCE", "Hcat", "HcatConfig"]

TASKS_SHARE = 0.02
"""Of the gradient of what is made of an imputed value, how much reaches the imputer. All of it drowns the truth: where
labels are few, the imputer learns them by heart, and what it imputes is further from the truth than the mean is."""


class Hcat(Model):
    """After EnhancedHCAT: modalities -> missing ones imputed -> tokens ``[B,M,D]`` -> branches -> a transformer over
    all tokens -> a vector per branch -> a transformer over branches -> per task a routing over branches and a head.

    A share in [0, 1] of every modality is what quality, width and imputation do: a gate told by all qualities, times
    its own, which of an imputed one is the mean quality of what is there, less a learned part of the imputation's
    uncertainty; and less the wider it is (``narrow``). It multiplies a token's weight in every attention and in the
    pools, and the largest of a branch its weight over the branches. (The published model multiplies the tokens, which
    their layer norms undo.)

    While training every row is seen in two views, with modalities hidden and noise added, in the second one more hidden
    where there are two: answers are of the first. Penalties: ``contrastive`` (InfoNCE between the views),
    ``imputation`` (what the imputer decodes of modalities seen, and imputes for those hidden, against the truth; and
    its uncertainty against the error made), ``kl`` (of the latent, in nats per latent).

    With ``preset: reference``, five modalities of width 512 and two binary tasks it has the published 35,401,102
    parameters less the key bias of each attention, which has no effect: 512 of each of ten and 112 of the VAE's; and a
    step, at first 0, for each refinement.
    It differs in that heads use GELU, pools tanh (a sum of linear features is no more than one of them, and their bias
    of no effect), layer norms stand for batch norms, and the VAE tells its uncertainty from the latent's variance.
    Its tokens are the inputs themselves where each is as wide as the model. Without the preset every modality has a
    linear map of its own, also there: a search over widths would else meet another model at one of them by chance.

    Raises:
        ConfigError: a modality that is no vector, a task per step, branches that do not hold every modality once.
    """

    Config = HcatConfig
    penalties: ClassVar[tuple[str, ...]] = ("contrastive", "imputation", "kl")

    def __init__(self, config: HcatConfig, spec: Spec) -> None:
        self.super_init()
        check_spec(spec)
        self.config = config
        width, heads, dropout = config.d_model, config.n_heads, config.dropout
        self.groups = group_modalities(spec.modalities, {m.name: Asked() for m in spec.modalities})
        self.names = tuple(m.name for group in self.groups for m in group)
        self.order = tuple(self.names.index(m.name) for m in spec.modalities)
        self.tasks = tuple(task.name for task in spec.tasks)
        spared = spared_modalities(config, spec)
        self.spared = tuple(name in spared for name in self.names)
        branches = tuple(tuple(self.names.index(n) for n in b) for b in branches_of(config, spec).values())
        widths = tuple(tuple(m.width for m in group) for group in self.groups)
        # nothing is known of the only modality of a row that does not have it
        self.imputer = _imputer(widths, config) if len(self.names) > 1 else None
        self.uncertainty_weight = nn.Parameter(_logit(config.uncertainty_weight)) if self.imputer is not None else None
        as_it_is = config.preset == "reference" and all(m.width == width for m in spec.modalities)
        self.lift = None if as_it_is else RaggedLinear(widths, width)
        self.modality_embedding = nn.Parameter(torch.randn(len(self.names), width) * 0.02)
        self.gate = QualityNet(len(self.names))
        self.width_shares = width_shares(config, tuple(width for group in widths for width in group))
        self.branches = BranchEncoder(branches, width, heads, dropout)
        self.global_layers = _layers(config.n_global_layers, config)
        self.pool = BranchPool(branches, width)
        self.cross_layers = _layers(config.n_cross_layers if len(branches) > 1 else 0, config)
        self.routing = TaskRouting(len(branches), width, tuple(t.outputs for t in spec.tasks), dropout)
        self.project = nn.Linear(width, width // 4) if config.alpha_con > 0 else None
        self.maps = _maps(spec)

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        """Heads ``[B]`` or ``[B,C]``; maps of attention between modalities ``[B,M,M]``, of each task over modalities
        ``[B,M]``, and the confidence in each ``[B,M]``; penalties ``[B]`` while training. Inside, the first B rows are
        the views that are answered, and where a penalty reads second views, B more are these.
        """
        count = len(batch.weight)
        rows = self._read(batch)
        learning = noise is not None and noise.distorts
        truth, seen = (rows, rows) if noise is None or not learning else self._views(rows, batch.weight > 0, noise)
        guess = None if self.imputer is None else self.imputer(seen.inputs, seen.quality, seen.here, noise)
        filled = self._fill(seen, guess)
        if self.project is None:  # nobody reads the second view
            filled = filled.first(count)
        found, weights = self._fuse(filled, noise)
        first = Branches(*(leaf[:count] for leaf in found))
        heads, routing = self.routing(first.vectors, first.used, first.share, noise)
        maps = {"modalities": weights[:count][:, self.order][..., self.order]}
        maps |= {
            f"modalities for {task}": self._in_order((own.unsqueeze(1) @ first.weights).squeeze(1))
            for task, own in zip(self.tasks, routing.unbind(), strict=True)
        }
        maps["confidence"] = self._in_order(filled.confidence[:count])
        penalties = {} if not learning else self._penalties(truth, seen, guess, found, batch.weight > 0)
        return Output(dict(zip(self.tasks, heads, strict=True)), penalties, maps)

    @torch.no_grad()
    def impute(self, batch: Batch) -> dict[str, Tensor]:
        """What stands for each modality where it is missing, ``{modality: [B,F]}`` in the scale of the inputs; 0
        without an imputer. Of a modality that is there the imputer has seen the truth.
        """
        rows = self._read(batch)
        made = [torch.zeros_like(part) for part in rows.inputs]
        if self.imputer is not None:
            made = self.imputer(rows.inputs, rows.quality, rows.here, None).last
        values = [values[:, 0] for part in made for values in part.unbind()]
        return {name: v[:, : batch.inputs[name].shape[1]] for name, v in zip(self.names, values, strict=True)}

    def _read(self, batch: Batch) -> Rows:
        inputs, cells = [], []
        for group in self.groups:
            x, there = stack_group(group, batch.inputs, batch.valid)
            observed, _ = stack_group(group, batch.observed, batch.valid)
            cells.append(observed & there.unsqueeze(-1))
            inputs.append(blank(x, there))
        here = torch.stack([batch.valid[name] for name in self.names], dim=-1)
        quality = torch.stack([batch.quality[name] for name in self.names], dim=-1)
        given = quality if self.config.quality else torch.ones_like(quality)
        return Rows(inputs, cells, here, torch.where(here, given, 0.0))

    def _views(self, rows: Rows, counted: Tensor, noise: Noise) -> tuple[Rows, Rows]:
        """The truth and what is seen of it: of each row, and of each again where a penalty reads a second view."""
        here = self._hide(rows.here, counted, noise)
        if self.project is not None or (self.imputer is not None and self.config.alpha_impute > 0):
            other = hide_one_more(self._hide(rows.here, counted, noise), noise)
            rows, here = rows.twice(), torch.cat([here, other])
        seen = rows.shown(here)
        if self.config.emb_noise > 0:
            noisy = [
                x + self.config.emb_noise * normal(noise, x) * cell
                for x, cell in zip(seen.inputs, seen.cells, strict=True)
            ]
            seen = seen._replace(inputs=noisy)
        return rows, seen

    def _hide(self, here: Tensor, counted: Tensor, noise: Noise) -> Tensor:
        if self.config.moddrop == 0:
            return here
        if self.config.moddrop_mode == "per_batch":
            return hide_one_of_all(here, self.config.moddrop, self.spared, counted, noise)
        return hide_each(here, self.config.moddrop, self.spared, noise)

    def _fill(self, seen: Rows, guess: Imputation | None) -> Filled:
        """What is missing, imputed where the row has anything."""
        if guess is None or self.uncertainty_weight is None:
            return Filled(seen.inputs, seen.here, self._share(seen.quality), seen.here.to(seen.quality.dtype))
        anything = seen.here.any(-1, keepdim=True)
        mean = seen.quality.sum(-1, keepdim=True) / seen.here.sum(-1, keepdim=True).clamp(min=1)
        doubt = torch.sigmoid(self.uncertainty_weight) * _damped(guess.uncertainty, TASKS_SHARE)
        quality = torch.where(seen.here, seen.quality, mean * (1.0 - doubt))
        confidence = torch.where(seen.here, 1.0, 1.0 - guess.uncertainty) * anything
        values = fill(seen.inputs, ~seen.here, [_damped(part, TASKS_SHARE) for part in guess.last])
        return Filled(values, anything.expand(seen.here.shape), self._share(quality), confidence)

    def _share(self, quality: Tensor) -> Tensor:
        """A gate, told by the quality of all modalities, times each one's own and what its width leaves, ``[B,M]``."""
        share = torch.sigmoid(self.gate(quality)) * quality
        return share if min(self.width_shares) == 1.0 else share * quality.new_tensor(self.width_shares)

    def _fuse(self, filled: Filled, noise: Noise | None) -> tuple[Branches, Tensor]:
        """The branches after they have read each other, and the attention between modalities ``[B,M,M]``."""
        made = torch.cat(filled.values) if self.lift is None else self.lift(filled.values)
        tokens = blank(made.squeeze(2).transpose(0, 1), filled.used) + self.modality_embedding
        tokens = self.branches(tokens, filled.used, filled.share, noise).unsqueeze(0)
        used, bias = filled.used.unsqueeze(0), share_bias(filled.share).unsqueeze(0)
        for layer in self.global_layers:
            tokens, weights = layer(tokens, used, noise, bias)
        found = self.pool(tokens[0], filled.used, filled.share)
        vectors, used, bias = (x.unsqueeze(0) for x in (found.vectors, found.used, share_bias(found.share)))
        for layer in self.cross_layers:
            vectors, _ = layer(vectors, used, noise, bias)
        return found._replace(vectors=vectors[0]), weights[0].mean(1)

    def _in_order(self, leaf: Tensor) -> Tensor:
        """``[B,M]`` in the order of the spec."""
        return leaf[:, self.order]

    def _penalties(
        self, truth: Rows, seen: Rows, guess: Imputation | None, found: Branches, counted: Tensor
    ) -> dict[str, Tensor]:
        made, views, config = {}, len(truth.here) // len(counted), self.config
        if self.project is not None:
            projected = self.project(branch_mean(found.vectors, found.used, found.share))
            one, other = torch.nn.functional.normalize(projected, dim=-1).chunk(2)
            made["contrastive"] = config.alpha_con * info_nce(one, other, counted, config.contrastive_temp)
        if guess is not None and config.alpha_impute > 0:
            made["imputation"] = config.alpha_impute * imputation_penalty(truth, seen, guess, counted)
        if guess is not None and guess.latent is not None and config.alpha_kl > 0:
            made["kl"] = config.alpha_kl * divergence(guess.latent, views)
        return made


def _damped(values: Tensor, share: float) -> Tensor:
    """The same values; of their gradient a share passes."""
    fixed = values.detach()
    return fixed + share * (values - fixed)


def _logit(share: float) -> Tensor:
    return torch.tensor([log(share / (1.0 - share))])


def _imputer(widths: Widths, config: HcatConfig) -> nn.Module | None:
    if config.imputer == "none":
        return None
    if config.imputer == "mean":
        return MeanImputer(widths)
    heads = gcd(config.n_heads, 7 * config.latent // 4)
    vae = MultiModalVAE(widths, config.vae_width, config.latent, heads, config.dropout)
    if config.imputer == "vae":
        return vae
    return IterativeImputer(vae, widths, config.d_model, config.n_heads, config.n_impute_iterations, config.dropout)


def _layers(count: int, config: HcatConfig) -> nn.ModuleList:
    return nn.ModuleList(TransformerLayer(1, config.d_model, config.n_heads, config.dropout) for _ in range(count))


def _maps(spec: Spec) -> dict[str, MapSpec]:
    names = tuple(m.name for m in spec.modalities)
    over = Axis("modality", names)
    maps = {"modalities": MapSpec("attention", (Axis("asking modality", names), over))}
    maps |= {f"modalities for {task.name}": MapSpec("attention", (over,)) for task in spec.tasks}
    return maps | {"confidence": MapSpec("gate", (over,))}
