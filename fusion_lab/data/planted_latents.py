"""What is planted: its settings, the latents that modalities are to show, and the score that labels are drawn from.

Every piece of randomness has a generator of its own, named by its place, so that another missing rate or signal
strength leaves everything else of the data as it was.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from fusion_lab.config import Config
from fusion_lab.contracts import ConfigError, Modality, Spec, Task
from fusion_lab.data import shared_factors

LOUDNESS = 3.0
"""Length of a latent's direction over the columns of a modality, in standard deviations of the noise."""
GROUP_EFFECT = 0.3
"""Standard deviation of a group's offset on a column, in those of the noise."""
ACTIVE = 0.5
"""Share of a sequence's or bag's positions in which a latent shows."""
QUALITIES = (0.1, 1.0)
"""Of a modality in a row, one or the other: the chance that it shows the row's own latent."""
Array = np.ndarray
Leaves = dict[str, np.ndarray]


class Planting(Config):
    """What is planted in a data set of any spec.

    =============== ==========================================================================================
    interaction     products of the latents of neighbouring useful modalities, the first pair loudest; a modality
                    alone tells nothing, or a little with ``main_effect``
    additive        the sum of the useful modalities' latents
    quality         as additive, but a modality of low quality mostly shows another row's latent: its quality is the
                    chance that it shows the row's own, and nothing else tells
    pointer         one useful modality per row carries the label's sign, marked by a cue in its columns; the others
                    carry a random sign without the cue. With a single useful sequence or bag: one of its positions
    shared          a few common factors, of which every useful modality shows two well and the others faintly, beside
                    factors of its own: each task is a direction of the common ones
    =============== ==========================================================================================

    ``signal`` is the slope of the log odds over the standardised score, 0 makes labels independent of every input;
    ``noise`` the columns' own deviation. ``missing_modalities``, ``missing_cells`` and ``unknown_labels`` are shares,
    and so is ``poor_quality``, of shared factors only: of the modalities of rows whose quality is anything from 0.1 to
    1, which is the correlation of the factors that the modality shows with the row's own.
    """

    rows: int = Field(default=400, ge=1)
    groups: int | None = Field(default=None, ge=1)
    missing_modalities: float = Field(default=0.0, ge=0, lt=1)
    missing_cells: float = Field(default=0.0, ge=0, lt=1)
    unknown_labels: float = Field(default=0.0, ge=0, lt=1)
    poor_quality: float = Field(default=0.0, ge=0, le=1)
    planted: Literal["interaction", "pointer", "additive", "quality", "shared"] = "interaction"
    signal: float = Field(default=2.0, ge=0)
    main_effect: float = Field(default=0.0, ge=0)
    noise: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Planted:
    """What every modality is to show. ``main`` and ``side`` are two directions in its columns, [R] or [R,length] each.

    ``of_units``, [R,length] for each unit that the features of a sequence are of, comes on top in that unit's columns.
    ``shown``, [R,width] over the raw columns of a modality, takes their place where the plan is of shared factors.
    ``terms`` [R,P] and, for the sequences whose steps a task labels, ``step_terms`` [R,T,P] make the score with
    ``weights`` [P]; ``unit_terms`` [R,T,U,P] those of a task with units.
    """

    main: Leaves
    side: Leaves
    quality: Leaves
    terms: Array
    step_terms: dict[tuple[str, ...], Array]
    weights: Array
    attention: Array | None = None
    shown: Leaves = field(default_factory=dict)
    of_units: dict[str, Leaves] = field(default_factory=dict)
    unit_terms: dict[tuple[tuple[str, ...], tuple[str, ...]], Array] = field(default_factory=dict)

    def score(self, task: Task, index: int) -> Array:
        """The standardised score of a task; tasks differ in which term weighs most."""
        if task.units:
            terms = self.unit_terms[task.steps, task.units]
        else:
            terms = self.step_terms[task.steps] if task.per_step else self.terms
        return terms @ np.roll(self.weights, index)


def check_planting(like: Spec, plan: Planting, useful: tuple[str, ...]) -> None:
    """Refuses what cannot be planted in data of the spec ``like`` whose ``useful`` modalities these are.

    Raises:
        ConfigError: a modality or sequence that the spec does not have, fewer useful ones than the plan needs, a
            pointer without room for its cue, a task per step without a useful sequence, with sequences of several
            lengths or where a row has one label only, a task with units of which no useful sequence has features, a
            poor quality that the plan has no place for.
    """
    kinds = {m.name: m.kind for m in like.modalities}
    unknown = [name for name in useful if name not in kinds]
    if unknown:
        raise ConfigError(f"useful: expected modalities of the spec, found {unknown[0]!r}")
    if not useful:
        raise ConfigError("modalities: expected at least one useful modality, found none")
    if plan.planted == "interaction" and len(useful) < 2:
        raise ConfigError(f"planted: interaction expects at least two useful modalities, found {len(useful)}")
    if plan.poor_quality and plan.planted != "shared":
        raise ConfigError(f"poor_quality: expected 0 unless shared factors are planted, found {plan.poor_quality:g}")
    if plan.planted in ("pointer", "shared") and any(t.per_step for t in like.tasks):
        raise ConfigError(f"planted: {plan.planted} expects one label per row, found a task per step")
    if plan.planted == "pointer":
        _check_pointer(like, useful)
    for task in like.tasks:
        _check_steps(like, task, useful)


def _check_steps(like: Spec, task: Task, useful: tuple[str, ...]) -> None:
    sequences = {m.name: m.length for m in like.modalities if m.kind == "sequence"}
    unknown = [name for name in task.steps if name not in sequences]
    if unknown:
        raise ConfigError(f"task {task.name}: expected steps of sequences of the spec, found {unknown[0]!r}")
    lengths = sorted({sequences[name] or 0 for name in task.steps})
    if len(lengths) > 1:
        raise ConfigError(f"task {task.name}: expected steps of sequences of one length, found {lengths}")
    if task.per_step and not set(task.steps) & set(useful):
        raise ConfigError(f"task {task.name}: a task per step expects a useful sequence among its steps, found none")
    held = {f.unit for name in task.steps if name in useful for f in like.modality(name).features}
    strange = [unit for unit in task.units if unit not in held]
    if strange:
        expected = "expected features of each unit in a useful sequence among its steps"
        raise ConfigError(f"task {task.name}: {expected}, found none of {strange[0]!r}")


def _check_pointer(like: Spec, useful: tuple[str, ...]) -> None:
    if len(useful) == 1 and like.modality(useful[0]).kind == "vector":
        raise ConfigError("planted: pointer expects two useful modalities, or one sequence or bag, found one vector")
    for name in useful:
        if len(raw_columns(like.modality(name))) < 2:
            raise ConfigError(f"planted: pointer expects two columns, sign and cue, in {name}, found one")


def rng_of(plan: Planting, place: str) -> np.random.Generator:
    return np.random.default_rng([plan.seed, zlib.crc32(place.encode())])


def _signs(plan: Planting, place: str, shape: tuple[int, ...]) -> Array:
    """Two well separated lumps of unit size: their products are as clear as they are."""
    rng = rng_of(plan, place)
    return rng.choice([-1.0, 1.0], shape) * (1 + 0.2 * rng.standard_normal(shape))


def presence(names: tuple[str, ...], plan: Planting) -> Leaves:
    """Which rows have which modality; below a missing share of 0.9 no row is left without any."""
    rng = rng_of(plan, "missing modalities")
    present = rng.random((plan.rows, len(names))) >= plan.missing_modalities
    kept = rng.integers(0, len(names), plan.rows)
    if plan.missing_modalities <= 0.9:
        empty = ~present.any(axis=1)
        present[empty, kept[empty]] = True
    return dict(zip(names, present.T, strict=True))


def positions(modality: Modality, present: Array, plan: Planting) -> Array:
    """``valid``: [R] of a vector; half to all of the positions, padded left in sequences and right in bags."""
    if modality.length is None:
        return present
    length = modality.length
    real = rng_of(plan, f"{modality.name} lengths").integers((length + 1) // 2, length + 1, plan.rows)[:, None]
    place = np.arange(length)
    return present[:, None] & ((place >= length - real) if modality.kind == "sequence" else (place < real))


def plant_latents(like: Spec, plan: Planting, useful: tuple[str, ...], valid: Leaves) -> Planted:
    """What modalities show and what the answers follow, by ``plan.planted``: ``useful`` modalities carry the signal,
    the others show latents that nothing hangs on; ``valid`` says where there is anything to show.
    """
    latent = {m.name: _signs(plan, f"{m.name} latent", (plan.rows,)) for m in like.modalities}
    quality = {name: np.ones(plan.rows) for name in latent}
    if plan.planted == "pointer":
        return _pointer(like, plan, useful, valid, latent, quality)
    if plan.planted == "shared":
        return _shared(like, plan, useful, valid, latent)
    shown = {name: np.arange(plan.rows) for name in latent}  # the row whose latent is shown
    if plan.planted == "quality":
        quality = {name: rng_of(plan, f"{name} quality").choice(QUALITIES, plan.rows) for name in latent}
        shown = {name: _exchanged(quality[name], rng_of(plan, f"{name} exchange")) for name in latent}
    terms, weights = TERMS[plan.planted]([latent[name] for name in useful], plan.main_effect)
    clocks = dict.fromkeys(t.steps for t in like.tasks if t.per_step)
    stepwise = {
        name: _step_latent(like.modality(name), plan) for name in useful if any(name in steps for steps in clocks)
    }
    step_terms = {}
    for steps in clocks:
        parts = [stepwise[name] if name in steps else latent[name][:, None] for name in useful]
        step_terms[steps], _ = TERMS[plan.planted](list(np.broadcast_arrays(*parts)), plan.main_effect)
    of_units = {name: _unit_latents(like.modality(name), plan) for name in stepwise}
    unit_terms = {
        (t.steps, t.units): _unit_terms(t, plan, useful, latent, stepwise, of_units) for t in like.tasks if t.units
    }
    main = {name: _somewhere(z[shown[name]], valid[name], plan, name) for name, z in latent.items()}
    side = {name: z[shown[name]] for name, z in stepwise.items()}
    shown_units = {name: {unit: z[shown[name]] for unit, z in of.items()} for name, of in of_units.items()}
    return Planted(main, side, quality, terms, step_terms, weights, of_units=shown_units, unit_terms=unit_terms)


def _unit_terms(
    task: Task, plan: Planting, useful: tuple[str, ...], latent: Leaves, stepwise: Leaves, of_units: dict[str, Leaves]
) -> Array:
    """Terms of each unit, [R,T,U,P]: its own latent in place of that of the sequence which has features of it."""

    def part(name: str, unit: str) -> Array:
        if name not in task.steps:
            return latent[name][:, None]
        return of_units[name].get(unit, stepwise[name])

    each = [
        TERMS[plan.planted](list(np.broadcast_arrays(*(part(n, unit) for n in useful))), plan.main_effect)[0]
        for unit in task.units
    ]
    return np.stack(each, axis=2)


def _unit_latents(modality: Modality, plan: Planting) -> Leaves:
    """A sign per step, [R,T], for each unit that features of the sequence are of."""
    units = dict.fromkeys(f.unit for f in modality.features if f.unit)
    return {unit: _step_latent(modality, plan, f" {unit}") for unit in units}


def _exchanged(own: Array, rng: np.random.Generator) -> Array:
    """A row number for every row, int [R]: its own with the chance ``own`` [R] and another row's otherwise."""
    return np.where(rng.random(len(own)) < own, np.arange(len(own)), rng.permutation(len(own)))


def _products(latents: list[Array], main_effect: float) -> tuple[Array, Array]:
    pairs = list(zip(latents, latents[1:], strict=False))
    terms = np.stack([a * b + main_effect * (a + b) / np.sqrt(2) for a, b in pairs], axis=-1)
    weights = 0.5 ** np.arange(len(pairs))
    return terms, weights / np.sqrt((weights**2).sum() * (1 + main_effect**2))


def _sum(latents: list[Array], _main_effect: float) -> tuple[Array, Array]:
    return np.stack(latents, axis=-1), np.full(len(latents), len(latents) ** -0.5)


TERMS: dict[str, Callable[[list[Array], float], tuple[Array, Array]]] = {
    "interaction": _products,
    "additive": _sum,
    "quality": _sum,
}


def _somewhere(latent: Array, valid: Array, plan: Planting, name: str) -> Array:
    """A row's latent [R] in some valid positions, one at least: [R,length], or as it is for a vector."""
    if valid.ndim == 1:
        return latent
    draw = np.where(valid, rng_of(plan, f"{name} active").random(valid.shape), np.inf)
    return latent[:, None] * ((draw < ACTIVE) | (draw == draw.min(axis=1, keepdims=True)))


def _step_latent(modality: Modality, plan: Planting, unit: str = "") -> Array:
    """A sign per step of a sequence, or of one of its units, [R,T], that switches now and then."""
    shape = (plan.rows, modality.length or 0)
    switches = np.where(rng_of(plan, f"{modality.name}{unit} switches").random(shape) < 0.2, -1.0, 1.0)
    return np.cumprod(switches, axis=1) * _signs(plan, f"{modality.name}{unit} start", (plan.rows, 1))


def _pointer(
    like: Spec, plan: Planting, useful: tuple[str, ...], valid: Leaves, main: Leaves, quality: Leaves
) -> Planted:
    sign = _signs(plan, "sign", (plan.rows,))
    if len(useful) == 1:
        name = useful[0]
        target = _pick(valid[name], rng_of(plan, "pointer"))
        decoy = _signs(plan, f"{name} decoys", target.shape)
        main = main | {name: np.where(target, sign[:, None], decoy)}
        side = {name: target * 2.0 - 1.0}
    else:
        names = [m.name for m in like.modalities]
        there = np.stack([valid[n].reshape(plan.rows, -1).any(1) & (n in useful) for n in names], axis=1)
        target = _pick(there, rng_of(plan, "pointer"))
        pointed = dict(zip(names, target.T, strict=True))
        main = {n: np.where(pointed[n], sign, z) for n, z in main.items()}
        side = {n: pointed[n] * 2.0 - 1.0 for n in useful}
    terms = np.where(target.any(axis=1), sign, 0.0)[:, None]
    return Planted(main, side, quality, terms, {}, np.ones(1), target.astype(np.float32))


def _shared(like: Spec, plan: Planting, useful: tuple[str, ...], valid: Leaves, latent: Leaves) -> Planted:
    factors = rng_of(plan, "factors").standard_normal((plan.rows, shared_factors.FACTORS))
    quality = {
        n: shared_factors.draw_quality(plan.rows, plan.poor_quality, rng_of(plan, f"{n} quality")) for n in latent
    }
    shown = {}
    for place, name in enumerate(useful):
        seen = shared_factors.blurred(factors, quality[name], rng_of(plan, f"{name} blur"))
        width = len(raw_columns(like.modality(name)))
        shown[name] = shared_factors.columns(seen, place, width, LOUDNESS, rng_of(plan, f"{name} factors"))
    main = {name: _somewhere(z, valid[name], plan, name) for name, z in latent.items()}
    return Planted(main, {}, quality, factors, {}, shared_factors.DIRECTION, shown=shown)


def _pick(there: Array, rng: np.random.Generator) -> Array:
    """One of the places that are there in each row, bool like ``there``; none where none is."""
    draw = np.where(there, rng.random(there.shape), np.inf)
    return there & (draw == draw.min(axis=1, keepdims=True))


def raw_columns(modality: Modality) -> dict[str, list[int]]:
    """The features made from each raw column, indicators aside."""
    sources: dict[str, list[int]] = {}
    for index, feature in enumerate(modality.features):
        if feature.kind != "indicator":
            sources.setdefault(feature.column, []).append(index)
    return sources
