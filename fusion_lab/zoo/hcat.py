"""hcat: hierarchical cross-modal attention over vectors of which some are missing and imputed."""

from __future__ import annotations

from math import gcd, log
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fusion_lab.blocks.attention import TransformerLayer
from fusion_lab.blocks.contrast import info_nce
from fusion_lab.blocks.encoders import Asked
from fusion_lab.blocks.fusion import share_bias
from fusion_lab.blocks.hiding import hide_each, hide_one_more, hide_one_of_all
from fusion_lab.blocks.imputation import Imputation, IterativeImputer, MeanImputer, MultiModalVAE, QualityNet
from fusion_lab.blocks.masking import blank
from fusion_lab.blocks.ragged import Ragged, RaggedLinear, Widths, fill, squared_errors, variances
from fusion_lab.blocks.randomness import Noise, normal
from fusion_lab.blocks.routing import BranchEncoder, Branches, BranchPool, TaskRouting, branch_mean
from fusion_lab.config import Config, nearest
from fusion_lab.contracts import Axis, Batch, ConfigError, Output, Spec
from fusion_lab.zoo.modalities import group_modalities, stack_group
from fusion_lab.zoo.model import MapSpec, Model

REFERENCE: dict[str, Any] = {
    "d_model": 512,
    "n_heads": 8,
    "n_global_layers": 3,
    "n_cross_layers": 2,
    "latent": 64,
    "vae_width": 512,
    "uncertainty_weight": 0.1,
}
"""Defaults of the preset of this name, where they are not those of the fields."""
BRANCHES = {"temporal": ("clinical", "temporal"), "spatial": ("pathological", "spatial"), "semantic": ("semantic",)}
SPARED = ("clinical",)
TASKS_SHARE = 0.02
"""Of the gradient of what is made of an imputed value, how much reaches the imputer. All of it drowns the truth: where
labels are few, the imputer learns them by heart, and what it imputes is further from the truth than the mean is."""
OUTLIER = 4.0
"""No error counts for more than so many variances where an uncertainty learns to tell it."""


class HcatConfig(Config):
    """Settings of :class:`Hcat`.

    ``preset`` gives the defaults of the sizes: for ``hundreds`` of rows, or the published ones (``reference``). The
    ``imputer`` fills missing modalities (``none``: they are masked everywhere) from a ``latent`` of that width, with
    hidden layers of ``vae_width``; ``vae-iterative`` refines the guess ``n_impute_iterations`` times. ``branches`` name
    the modalities of each branch; without, clinical and temporal are one, pathological and spatial one, every other
    modality one by itself. ``quality`` uses the quality given with each modality.

    While training ``moddrop`` hides modalities, each of a row by itself (``per_sample``) or one of the whole batch
    (``per_batch``), but never those of ``never_dropped`` (without: clinical, where there is one), and ``emb_noise`` is
    the standard deviation of what is added to the scaled inputs. ``alpha_con``, ``alpha_kl`` and ``alpha_impute`` weigh
    the penalties; 0 leaves one out. ``contrastive_temp`` is the temperature of the contrastive one.
    ``uncertainty_weight`` is how much an imputation's uncertainty takes from its share, before it is learned.
    """

    family: Literal["hcat"] = "hcat"
    preset: Literal["hundreds", "reference"] = "hundreds"
    imputer: Literal["none", "mean", "vae", "vae-iterative"] = "vae-iterative"
    n_impute_iterations: int = Field(3, ge=1, le=12)
    latent: int = Field(32, ge=4, le=1024, multiple_of=4)
    vae_width: int = Field(64, ge=4, le=4096, multiple_of=4)
    branches: dict[str, tuple[str, ...]] | None = None
    d_model: int = Field(128, ge=4, le=4096)
    n_heads: int = Field(4, ge=1)
    n_global_layers: int = Field(2, ge=1, le=12)
    n_cross_layers: int = Field(1, ge=1, le=12)
    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    quality: bool = True
    moddrop: float = Field(0.1, ge=0.0, lt=1.0)
    moddrop_mode: Literal["per_sample", "per_batch"] = "per_sample"
    never_dropped: tuple[str, ...] | None = None
    emb_noise: float = Field(0.05, ge=0.0)
    alpha_con: float = Field(0.1, ge=0.0)
    alpha_kl: float = Field(0.05, ge=0.0)
    alpha_impute: float = Field(1.0, ge=0.0)
    contrastive_temp: float = Field(0.07, gt=0.0)
    uncertainty_weight: float = Field(0.9, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.preset == "reference":
            self.__dict__.update({n: v for n, v in REFERENCE.items() if n not in self.model_fields_set})
        if self.d_model % self.n_heads:
            raise ValueError(f"expected d_model to be a multiple of n_heads, found {self.d_model} and {self.n_heads}")
        return self


class Rows(NamedTuple):
    """Some rows as the model reads them, modalities in the order of their groups.

    ``inputs`` and ``cells`` are :data:`Ragged`, ``[G,B,1,F]``: values, 0 where a modality is missing, and which of them
    were measured: a missing cell of a modality that is there holds what the scaler fills in. ``here``
    bool and ``quality`` are ``[B,M]``; quality is 0 where a modality is missing.
    """

    inputs: Ragged
    cells: Ragged
    here: Tensor
    quality: Tensor

    def shown(self, here: Tensor) -> Rows:
        """The same with other modalities missing."""
        seen = [mask[..., None, None] for mask in _by_group(here, self.inputs)]
        cells = [cell & mask for cell, mask in zip(self.cells, seen, strict=True)]
        return Rows(_where(seen, self.inputs), cells, here, self.quality * here)

    def twice(self) -> Rows:
        """The rows, and the rows again behind them."""
        inputs, cells = ([torch.cat([part, part], dim=1) for part in leaf] for leaf in (self.inputs, self.cells))
        return Rows(inputs, cells, torch.cat([self.here] * 2), torch.cat([self.quality] * 2))


class Filled(NamedTuple):
    """What the branches read: every modality's values, which of them are ``used``, and their share in the fusion and
    the confidence in them, ``[B,M]``.
    """

    values: Ragged
    used: Tensor
    share: Tensor
    confidence: Tensor

    def first(self, rows: int) -> Filled:
        """The first rows alone."""
        return Filled([v[:, :rows] for v in self.values], self.used[:rows], self.share[:rows], self.confidence[:rows])


class Hcat(Model):
    """After EnhancedHCAT: modalities -> missing ones imputed -> tokens ``[B,M,D]`` -> branches -> a transformer over
    all tokens -> a vector per branch -> a transformer over branches -> per task a routing over branches and a head.

    A share in [0, 1] of every modality is what quality and imputation do: a gate told by the quality of all, times its
    own, which of an imputed one is the mean quality of what is there, less a learned part of the imputation's
    uncertainty. It multiplies a token's weight in every attention and in the pools, and the largest of a
    branch its weight over the branches. (The published model multiplies the tokens, which their layer norms undo.)

    While training every row is seen in two views, with modalities hidden and noise added, in the second one more hidden
    where there are two: answers are of the first. Penalties: ``contrastive`` (InfoNCE between the views),
    ``imputation`` (what the imputer decodes of modalities seen, and imputes for those hidden, against the truth; and
    its uncertainty against the error made), ``kl`` (of the latent, in nats per latent).

    With ``preset: reference``, five modalities of width 512 and two binary tasks it has the published 35,401,102
    parameters less the key bias of each attention, which has no effect: 512 of each of ten and 112 of the VAE's; and a
    step, at first 0, for each refinement.
    It differs in that heads use GELU, pools tanh (a sum of linear features is no more than one of them, and their bias
    of no effect), layer norms stand for batch norms, and the VAE tells its uncertainty from the latent's variance.

    Raises:
        ConfigError: a modality that is no vector, a task per step, branches that do not hold every modality once.
    """

    Config = HcatConfig
    penalties: ClassVar[tuple[str, ...]] = ("contrastive", "imputation", "kl")

    def __init__(self, config: HcatConfig, spec: Spec) -> None:
        self.super_init()
        _check_spec(spec)
        self.config = config
        width, heads, dropout = config.d_model, config.n_heads, config.dropout
        self.groups = group_modalities(spec.modalities, {m.name: Asked() for m in spec.modalities})
        self.names = tuple(m.name for group in self.groups for m in group)
        self.order = tuple(self.names.index(m.name) for m in spec.modalities)
        self.tasks = tuple(task.name for task in spec.tasks)
        spared = _spared(config, spec)
        self.spared = tuple(name in spared for name in self.names)
        branches = tuple(tuple(self.names.index(n) for n in b) for b in _branches(config, spec).values())
        widths = tuple(tuple(m.width for m in group) for group in self.groups)
        # nothing is known of the only modality of a row that does not have it
        self.imputer = _imputer(widths, config) if len(self.names) > 1 else None
        self.trust = nn.Parameter(_logit(config.uncertainty_weight)) if self.imputer is not None else None
        as_it_is = config.preset == "reference" and all(m.width == width for m in spec.modalities)
        self.lift = None if as_it_is else RaggedLinear(widths, width)
        self.kind = nn.Parameter(torch.randn(len(self.names), width) * 0.02)
        self.gate = QualityNet(len(self.names))
        self.branches = BranchEncoder(branches, width, heads, dropout)
        self.all = _layers(config.n_global_layers, config)
        self.pool = BranchPool(branches, width)
        self.across = _layers(config.n_cross_layers if len(branches) > 1 else 0, config)
        self.routing = TaskRouting(len(branches), width, tuple(t.outputs for t in spec.tasks), dropout)
        self.project = nn.Linear(width, width // 4) if config.alpha_con > 0 else None
        self.maps = _maps(spec)

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
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
        if guess is None or self.trust is None:
            return Filled(seen.inputs, seen.here, self._share(seen.quality), seen.here.to(seen.quality.dtype))
        anything = seen.here.any(-1, keepdim=True)
        mean = seen.quality.sum(-1, keepdim=True) / seen.here.sum(-1, keepdim=True).clamp(min=1)
        doubt = torch.sigmoid(self.trust) * _damped(guess.uncertainty, TASKS_SHARE)
        quality = torch.where(seen.here, seen.quality, mean * (1.0 - doubt))
        confidence = torch.where(seen.here, 1.0, 1.0 - guess.uncertainty) * anything
        values = fill(seen.inputs, ~seen.here, [_damped(part, TASKS_SHARE) for part in guess.last])
        return Filled(values, anything.expand(seen.here.shape), self._share(quality), confidence)

    def _share(self, quality: Tensor) -> Tensor:
        """A gate, told by the quality of all modalities, times each one's own, ``[B,M]``."""
        return torch.sigmoid(self.gate(quality)) * quality

    def _fuse(self, filled: Filled, noise: Noise | None) -> tuple[Branches, Tensor]:
        """The branches after they have read each other, and the attention between modalities ``[B,M,M]``."""
        made = torch.cat(filled.values) if self.lift is None else self.lift(filled.values)
        tokens = blank(made.squeeze(2).transpose(0, 1), filled.used) + self.kind
        tokens = self.branches(tokens, filled.used, filled.share, noise).unsqueeze(0)
        used, bias = filled.used.unsqueeze(0), share_bias(filled.share).unsqueeze(0)
        for layer in self.all:
            tokens, weights = layer(tokens, used, noise, bias)
        found = self.pool(tokens[0], filled.used, filled.share)
        vectors, used, bias = (x.unsqueeze(0) for x in (found.vectors, found.used, share_bias(found.share)))
        for layer in self.across:
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
            made["imputation"] = config.alpha_impute * _imputation_penalty(truth, seen, guess, counted)
        if guess is not None and guess.latent is not None and config.alpha_kl > 0:
            mean, log_variance = guess.latent
            # summed over latents, beside an error that is a mean over cells, it empties the latent
            per_latent = -0.5 * (1.0 + log_variance - mean**2 - torch.exp(log_variance))
            made["kl"] = config.alpha_kl * per_latent.mean(-1).unflatten(0, (views, -1)).mean(0)
        return made


def _imputation_penalty(truth: Rows, seen: Rows, guess: Imputation, counted: Tensor) -> Tensor:
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


def _damped(values: Tensor, share: float) -> Tensor:
    """The same values; of their gradient a share passes."""
    fixed = values.detach()
    return fixed + share * (values - fixed)


def _by_group(masks: Tensor, inputs: Ragged) -> tuple[Tensor, ...]:
    """``[B,M]`` as ``[G,B]`` of each group."""
    return masks.transpose(0, 1).split([len(part) for part in inputs])


def _where(cells: Ragged, values: Ragged) -> Ragged:
    return [
        torch.where(cell, x, torch.zeros((), dtype=x.dtype, device=x.device))
        for cell, x in zip(cells, values, strict=True)
    ]


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


def _check_spec(spec: Spec) -> None:
    for modality in spec.modalities:
        if modality.kind != "vector":
            found = f"{modality.name!r}, a {modality.kind}"
            raise ConfigError(f"model.family: expected modalities that are vectors with hcat, found {found}")
    for task in spec.tasks:
        if task.per_step:
            expected = "expected tasks per row with hcat (token_fusion answers per step)"
            raise ConfigError(f"model.family: {expected}, found task {task.name!r} with a target per step")


def _spared(config: HcatConfig, spec: Spec) -> tuple[str, ...]:
    """Modalities that modality dropout leaves alone."""
    if config.never_dropped is None:
        return SPARED
    _check_names("model.never_dropped", config.never_dropped, spec)
    return config.never_dropped


def _branches(config: HcatConfig, spec: Spec) -> dict[str, tuple[str, ...]]:
    """The modalities of each branch, every one in one branch."""
    names = [m.name for m in spec.modalities]
    if config.branches is None:
        known = {b: tuple(n for n in names if n in members) for b, members in BRANCHES.items()}
        placed = {n for members in known.values() for n in members}
        return {b: members for b, members in known.items() if members} | {n: (n,) for n in names if n not in placed}
    held = [name for members in config.branches.values() for name in members]
    for branch, members in config.branches.items():
        _check_names(f"model.branches.{branch}", members, spec)
        if not members:
            raise ConfigError(f"model.branches.{branch}: expected a modality at least, found none")
    for name in names:
        if held.count(name) != 1:
            found = "none" if name not in held else f"{held.count(name)}"
            raise ConfigError(f"model.branches: expected modality {name!r} in one branch, found it in {found}")
    return config.branches


def _check_names(where: str, names: tuple[str, ...], spec: Spec) -> None:
    known = [m.name for m in spec.modalities]
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: unknown modality {name!r}{nearest(name, known)}")


def _maps(spec: Spec) -> dict[str, MapSpec]:
    names = tuple(m.name for m in spec.modalities)
    over = Axis("modality", names)
    maps = {"modalities": MapSpec("attention", (Axis("asking modality", names), over))}
    maps |= {f"modalities for {task.name}": MapSpec("attention", (over,)) for task in spec.tasks}
    return maps | {"confidence": MapSpec("gate", (over,))}
