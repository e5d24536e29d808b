"""Settings of the family hcat, and what they mean for the modalities of a data set."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fusion_lab.config import Config, nearest
from fusion_lab.contracts import ConfigError, Spec

HUNDREDS: dict[str, Any] = {
    "d_model": 128,
    "n_heads": 4,
    "n_global_layers": 2,
    "n_cross_layers": 1,
    "latent": 32,
    "vae_width": 64,
    "uncertainty_weight": 0.9,
}
REFERENCE: dict[str, Any] = {
    "d_model": 512,
    "n_heads": 8,
    "n_global_layers": 3,
    "n_cross_layers": 2,
    "latent": 64,
    "vae_width": 512,
    "uncertainty_weight": 0.1,
}
"""The defaults of the sizes in each preset."""
BRANCHES = {"temporal": ("clinical", "temporal"), "spatial": ("pathological", "spatial"), "semantic": ("semantic",)}
SPARED = ("clinical",)


def _size(name: str, **bounds: Any) -> Any:
    """A field whose default is that of the preset."""

    def default(given: dict[str, Any]) -> Any:
        return (REFERENCE if given.get("preset") == "reference" else HUNDREDS)[name]

    return Field(default_factory=default, **bounds)


class HcatConfig(Config):
    """Settings of :class:`~fusion_lab.zoo.hcat.Hcat`.

    ``preset`` gives the defaults of the sizes: for ``hundreds`` of rows, or the published ones (``reference``). The
    ``imputer`` fills missing modalities (``none``: they are masked everywhere) from a ``latent`` of that width, with
    hidden layers of ``vae_width``; ``vae-iterative`` refines the guess ``n_impute_iterations`` times. ``branches`` name
    the modalities of each branch; without, clinical and temporal are one, pathological and spatial one, every other
    modality one by itself. ``quality`` uses the quality given with each modality. A modality of F features has a share
    of ``narrow`` / F of that of one with ``narrow`` or fewer, for the more features, the more of what is learned from
    hundreds of rows is chance; ``null``: widths have no say.

    While training ``moddrop`` hides modalities, each of a row by itself (``per_sample``) or one of the whole batch
    (``per_batch``), but never those of ``never_dropped`` (without: clinical, where there is one), and ``emb_noise`` is
    the standard deviation of what is added to the scaled inputs. ``alpha_con``, ``alpha_kl`` and ``alpha_impute`` weigh
    the penalties before they leave the model, where ``objective.penalty_weights`` multiplies them once more; 0 leaves
    one out, and what only it reads is not computed. ``contrastive_temp`` is the temperature of the contrastive one.
    ``uncertainty_weight`` is how much an imputation's uncertainty takes from its share, before it is learned.
    """

    family: Literal["hcat"] = "hcat"
    preset: Literal["hundreds", "reference"] = "hundreds"
    imputer: Literal["none", "mean", "vae", "vae-iterative"] = "vae-iterative"
    n_impute_iterations: int = Field(3, ge=1, le=12)
    latent: int = _size("latent", ge=4, le=1024, multiple_of=4)
    vae_width: int = _size("vae_width", ge=4, le=4096, multiple_of=4)
    branches: dict[str, tuple[str, ...]] | None = None
    d_model: int = _size("d_model", ge=4, le=4096)
    n_heads: int = _size("n_heads", ge=1)
    n_global_layers: int = _size("n_global_layers", ge=1, le=12)
    n_cross_layers: int = _size("n_cross_layers", ge=1, le=12)
    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    quality: bool = True
    narrow: int | None = Field(64, ge=1)
    moddrop: float = Field(0.1, ge=0.0, lt=1.0)
    moddrop_mode: Literal["per_sample", "per_batch"] = "per_sample"
    never_dropped: tuple[str, ...] | None = None
    emb_noise: float = Field(0.05, ge=0.0)
    alpha_con: float = Field(0.1, ge=0.0)
    alpha_kl: float = Field(0.05, ge=0.0)
    alpha_impute: float = Field(1.0, ge=0.0)
    contrastive_temp: float = Field(0.07, gt=0.0)
    uncertainty_weight: float = _size("uncertainty_weight", gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"expected d_model to be a multiple of n_heads, found {self.d_model} and {self.n_heads}")
        return self


def check_spec(spec: Spec) -> None:
    for modality in spec.modalities:
        if modality.kind != "vector":
            found = f"{modality.name!r}, a {modality.kind}"
            raise ConfigError(f"model.family: expected modalities that are vectors with hcat, found {found}")
    for task in spec.tasks:
        if task.per_step:
            expected = "expected tasks per row with hcat (token_fusion answers per step)"
            raise ConfigError(f"model.family: {expected}, found task {task.name!r} with a target per step")


def spared_modalities(config: HcatConfig, spec: Spec) -> tuple[str, ...]:
    """Modalities that modality dropout leaves alone."""
    if config.never_dropped is None:
        return SPARED
    _check_names("model.never_dropped", config.never_dropped, spec)
    return config.never_dropped


def width_shares(config: HcatConfig, widths: tuple[int, ...]) -> tuple[float, ...]:
    """What its width leaves each modality of its share: 1 of the narrowest, so that equal widths change nothing.

    >>> width_shares(HcatConfig(), (8, 64, 512)), width_shares(HcatConfig(), (512, 512))
    ((1.0, 1.0, 0.125), (1.0, 1.0))
    """
    counted = [max(width, config.narrow) if config.narrow else 1 for width in widths]
    return tuple(min(counted) / width for width in counted)


def branches_of(config: HcatConfig, spec: Spec) -> dict[str, tuple[str, ...]]:
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
