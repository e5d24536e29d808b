"""A planted signal in data of any spec: known useful modalities, known missingness, a known attention target.

Every piece of randomness has a generator of its own, named by its place, so that another missing rate or signal
strength leaves everything else of the data as it was.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from scipy.stats import norm

from fusion_lab.config import Config
from fusion_lab.contracts import UNKNOWN, ConfigError, Feature, Modality, Provenance, Source, Spec, Task, content_hash
from fusion_lab.data import shared_factors
from fusion_lab.data.arrays import ArrayDataset

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
class Truth:
    """What a generator knows of its data.

    ``attention`` of a pointer is the share each place deserves: [R,M] over the modalities, or [R,length] over the
    positions of the one useful modality; all 0 where what carries the label is missing. ``oracle`` is the score that
    the labels were drawn from, [R], or [R,T] of a task per step, seen as if no modality were missing. ``hidden`` is
    shaped as the inputs and holds what they do, and where a modality or a number is missing what would have been there.
    """

    useful: tuple[str, ...]
    attention: Array | None
    oracle: Leaves
    hidden: Leaves


class Generated(NamedTuple):
    dataset: ArrayDataset
    truth: Truth


def twin(like: Spec, plan: Planting | None = None, useful: tuple[str, ...] | None = None) -> ArrayDataset:
    """A data set of a real domain's spec: same names, kinds, widths, categories, lengths, tasks and classes.

    ``useful`` defaults to all modalities but the last, or to all where there are fewer than three.

    Raises:
        ConfigError: the plan cannot be carried out on this spec.
    """
    return generate(like, plan or Planting(), useful).dataset


def generate(
    like: Spec,
    plan: Planting,
    useful: tuple[str, ...] | None = None,
    prevalence: Mapping[str, float] | None = None,
) -> Generated:
    """A data set of the spec ``like`` and the truth about it; ``prevalence`` of binary tasks is 0.5 unless given.

    Raises:
        ConfigError: the plan cannot be carried out on this spec.
    """
    names = tuple(m.name for m in like.modalities)
    if useful is None:
        useful = names[:-1] if len(names) > 2 else names
    prevalence = prevalence or {}
    check_planting(like, plan, useful)
    present = _presence(names, plan)
    valid = {m.name: _positions(m, present[m.name], plan) for m in like.modalities}
    group = None if plan.groups is None else _rng(plan, "group").permutation(np.arange(plan.rows) % plan.groups)
    planted = _plant(like, plan, useful, valid)
    inputs, observed = {}, {}
    for m in like.modalities:
        inputs[m.name], observed[m.name] = _columns(m, planted, plan, group)
    targets, known = _targets(like, planted, plan, prevalence, valid)
    identity = content_hash([asdict(like), plan.model_dump(), useful, dict(prevalence)])
    dataset = ArrayDataset.checked(
        spec=like,
        ids=_numbered("row", np.arange(plan.rows)),
        inputs=_tensors(inputs),
        valid=_tensors(valid),
        observed=_tensors(observed),
        quality={name: torch.from_numpy(planted.quality[name].astype(np.float32)) for name in names},
        targets=_tensors(targets),
        known=_tensors(known),
        provenance=Provenance((Source("synthetic", identity, plan.rows),)),
        group=None if group is None else _numbered("group", group),
    )
    oracle = {t.name: planted.score(t, i) for i, t in enumerate(like.tasks)}
    return Generated(dataset, Truth(useful, planted.attention, oracle, inputs))


@dataclass(frozen=True)
class _Planted:
    """What every modality is to show. ``main`` and ``side`` are two directions in its columns, [R] or [R,length] each.

    ``shown``, [R,width] over the raw columns of a modality, takes their place where the plan is of shared factors.
    ``terms`` [R,P] and, for the sequences whose steps a task labels, ``step_terms`` [R,T,P] make the score with
    ``weights`` [P].
    """

    main: Leaves
    side: Leaves
    quality: Leaves
    terms: Array
    step_terms: dict[tuple[str, ...], Array]
    weights: Array
    attention: Array | None = None
    shown: Leaves = field(default_factory=dict)

    def score(self, task: Task, index: int) -> Array:
        """The standardised score of a task; tasks differ in which term weighs most."""
        terms = self.step_terms[task.steps] if task.per_step else self.terms
        return terms @ np.roll(self.weights, index)


def check_planting(like: Spec, plan: Planting, useful: tuple[str, ...]) -> None:
    """Refuses what cannot be planted in data of the spec ``like`` whose ``useful`` modalities these are.

    Raises:
        ConfigError: a modality or sequence that the spec does not have, fewer useful ones than the plan needs, a
            pointer without room for its cue, a task per step without a useful sequence, with sequences of several
            lengths or where a row has one label only, a poor quality that the plan has no place for.
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


def _check_pointer(like: Spec, useful: tuple[str, ...]) -> None:
    if len(useful) == 1 and like.modality(useful[0]).kind == "vector":
        raise ConfigError("planted: pointer expects two useful modalities, or one sequence or bag, found one vector")
    for name in useful:
        if len(_sources(like.modality(name))) < 2:
            raise ConfigError(f"planted: pointer expects two columns, sign and cue, in {name}, found one")


def _rng(plan: Planting, place: str) -> np.random.Generator:
    return np.random.default_rng([plan.seed, zlib.crc32(place.encode())])


def _signs(plan: Planting, place: str, shape: tuple[int, ...]) -> Array:
    """Two well separated lumps of unit size: their products are as clear as they are."""
    rng = _rng(plan, place)
    return rng.choice([-1.0, 1.0], shape) * (1 + 0.2 * rng.standard_normal(shape))


def _presence(names: tuple[str, ...], plan: Planting) -> Leaves:
    """Which rows have which modality; below a missing share of 0.9 no row is left without any."""
    rng = _rng(plan, "missing modalities")
    present = rng.random((plan.rows, len(names))) >= plan.missing_modalities
    kept = rng.integers(0, len(names), plan.rows)
    if plan.missing_modalities <= 0.9:
        empty = ~present.any(axis=1)
        present[empty, kept[empty]] = True
    return dict(zip(names, present.T, strict=True))


def _positions(modality: Modality, present: Array, plan: Planting) -> Array:
    """``valid``: [R] of a vector; half to all of the positions, padded left in sequences and right in bags."""
    if modality.length is None:
        return present
    length = modality.length
    real = _rng(plan, f"{modality.name} lengths").integers((length + 1) // 2, length + 1, plan.rows)[:, None]
    place = np.arange(length)
    return present[:, None] & ((place >= length - real) if modality.kind == "sequence" else (place < real))


def _plant(like: Spec, plan: Planting, useful: tuple[str, ...], valid: Leaves) -> _Planted:
    latent = {m.name: _signs(plan, f"{m.name} latent", (plan.rows,)) for m in like.modalities}
    quality = {name: np.ones(plan.rows) for name in latent}
    if plan.planted == "pointer":
        return _pointer(like, plan, useful, valid, latent, quality)
    if plan.planted == "shared":
        return _shared(like, plan, useful, valid, latent)
    shown = {name: np.arange(plan.rows) for name in latent}  # the row whose latent is shown
    if plan.planted == "quality":
        quality = {name: _rng(plan, f"{name} quality").choice(QUALITIES, plan.rows) for name in latent}
        shown = {name: _exchanged(quality[name], _rng(plan, f"{name} exchange")) for name in latent}
    terms, weights = TERMS[plan.planted]([latent[name] for name in useful], plan.main_effect)
    clocks = dict.fromkeys(t.steps for t in like.tasks if t.per_step)
    stepwise = {
        name: _step_latent(like.modality(name), plan) for name in useful if any(name in steps for steps in clocks)
    }
    step_terms = {}
    for steps in clocks:
        parts = [stepwise[name] if name in steps else latent[name][:, None] for name in useful]
        step_terms[steps], _ = TERMS[plan.planted](list(np.broadcast_arrays(*parts)), plan.main_effect)
    main = {name: _somewhere(z[shown[name]], valid[name], plan, name) for name, z in latent.items()}
    side = {name: z[shown[name]] for name, z in stepwise.items()}
    return _Planted(main, side, quality, terms, step_terms, weights)


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
    draw = np.where(valid, _rng(plan, f"{name} active").random(valid.shape), np.inf)
    return latent[:, None] * ((draw < ACTIVE) | (draw == draw.min(axis=1, keepdims=True)))


def _step_latent(modality: Modality, plan: Planting) -> Array:
    """A sign per step of a sequence, [R,T], that switches now and then."""
    shape = (plan.rows, modality.length or 0)
    switches = np.where(_rng(plan, f"{modality.name} switches").random(shape) < 0.2, -1.0, 1.0)
    return np.cumprod(switches, axis=1) * _signs(plan, f"{modality.name} start", (plan.rows, 1))


def _pointer(
    like: Spec, plan: Planting, useful: tuple[str, ...], valid: Leaves, main: Leaves, quality: Leaves
) -> _Planted:
    sign = _signs(plan, "sign", (plan.rows,))
    if len(useful) == 1:
        name = useful[0]
        target = _pick(valid[name], _rng(plan, "pointer"))
        decoy = _signs(plan, f"{name} decoys", target.shape)
        main = main | {name: np.where(target, sign[:, None], decoy)}
        side = {name: target * 2.0 - 1.0}
    else:
        names = [m.name for m in like.modalities]
        there = np.stack([valid[n].reshape(plan.rows, -1).any(1) & (n in useful) for n in names], axis=1)
        target = _pick(there, _rng(plan, "pointer"))
        pointed = dict(zip(names, target.T, strict=True))
        main = {n: np.where(pointed[n], sign, z) for n, z in main.items()}
        side = {n: pointed[n] * 2.0 - 1.0 for n in useful}
    terms = np.where(target.any(axis=1), sign, 0.0)[:, None]
    return _Planted(main, side, quality, terms, {}, np.ones(1), target.astype(np.float32))


def _shared(like: Spec, plan: Planting, useful: tuple[str, ...], valid: Leaves, latent: Leaves) -> _Planted:
    factors = _rng(plan, "factors").standard_normal((plan.rows, shared_factors.FACTORS))
    quality = {n: shared_factors.draw_quality(plan.rows, plan.poor_quality, _rng(plan, f"{n} quality")) for n in latent}
    shown = {}
    for place, name in enumerate(useful):
        seen = shared_factors.blurred(factors, quality[name], _rng(plan, f"{name} blur"))
        width = len(_sources(like.modality(name)))
        shown[name] = shared_factors.columns(seen, place, width, LOUDNESS, _rng(plan, f"{name} factors"))
    main = {name: _somewhere(z, valid[name], plan, name) for name, z in latent.items()}
    return _Planted(main, {}, quality, factors, {}, shared_factors.DIRECTION, shown=shown)


def _pick(there: Array, rng: np.random.Generator) -> Array:
    """One of the places that are there in each row, bool like ``there``; none where none is."""
    draw = np.where(there, rng.random(there.shape), np.inf)
    return there & (draw == draw.min(axis=1, keepdims=True))


def _sources(modality: Modality) -> dict[str, list[int]]:
    """The features made from each raw column, indicators aside."""
    sources: dict[str, list[int]] = {}
    for index, feature in enumerate(modality.features):
        if feature.kind != "indicator":
            sources.setdefault(feature.column, []).append(index)
    return sources


def _columns(modality: Modality, planted: _Planted, plan: Planting, group: Array | None) -> tuple[Array, Array]:
    """``inputs`` and ``observed``, [R,...,F]: raw columns around the latents, then encoded as the spec has it."""
    sources = _sources(modality)
    raw = _raw(modality, len(sources), planted, plan, group)
    missing = _rng(plan, f"{modality.name} cells").random(raw.shape) < plan.missing_cells
    inputs = np.zeros((plan.rows, *modality.shape), dtype=np.float32)
    observed = np.ones(inputs.shape, dtype=bool)
    for column, features in enumerate(sources.values()):
        kinds = [modality.features[i] for i in features]
        made, seen = _encode(kinds, raw[..., column], missing[..., column], plan, modality.name)
        inputs[..., features], observed[..., features] = made, seen
    places = {name: column for column, name in enumerate(sources)}
    for index, feature in enumerate(modality.features):
        if feature.kind == "indicator" and feature.source in places:
            inputs[..., index] = missing[..., places[feature.source]]
    return inputs, observed


def _raw(modality: Modality, width: int, planted: _Planted, plan: Planting, group: Array | None) -> Array:
    """Unscaled raw columns, float32 [R,width] or [R,length,width]: what is planted, a group's offset, and noise."""
    shape = (plan.rows, *modality.shape[:-1], width)
    raw = plan.noise * _rng(plan, f"{modality.name} noise").standard_normal(shape, dtype=np.float32)
    if modality.name in planted.shown:
        raw += _over_positions(planted.shown[modality.name], shape)
    else:
        _add_directions(raw, planted, modality.name, _rng(plan, f"{modality.name} directions"))
    if group is not None:
        offset = _rng(plan, f"{modality.name} groups").standard_normal((plan.groups or 0, width), dtype=np.float32)
        raw += GROUP_EFFECT * plan.noise * _over_positions(offset[group], shape)
    return raw


def _add_directions(raw: Array, planted: _Planted, name: str, rng: np.random.Generator) -> None:
    """Adds the modality's two directions: each has every other column, the only column of a sequence has both."""
    width = raw.shape[-1]
    side = planted.side.get(name)
    odd = np.arange(width) % 2 == 1
    of_main = ~odd if side is not None and width > 1 else np.ones(width, dtype=bool)
    of_side = odd if width > 1 else np.ones(width, dtype=bool)
    turn = rng.choice([-LOUDNESS, LOUDNESS], width)
    raw += _along(planted.main[name], raw.shape) * (turn * of_main / np.sqrt(of_main.sum())).astype(np.float32)
    if side is not None:
        raw += _along(side, raw.shape) * (turn * of_side / np.sqrt(of_side.sum())).astype(np.float32)


def _over_positions(values: Array, shape: tuple[int, ...]) -> Array:
    """[R,width], the same at every position: float32 with axes of size 1 between, up to those of ``shape``."""
    return values.astype(np.float32).reshape(len(values), *[1] * (len(shape) - 2), shape[-1])


def _along(latent: Array, shape: tuple[int, ...]) -> Array:
    """[R] or [R,length] with axes of size 1 up to those of ``shape``."""
    return latent.astype(np.float32).reshape(*latent.shape, *[1] * (len(shape) - latent.ndim))


def _encode(features: list[Feature], raw: Array, missing: Array, plan: Planting, modality: str) -> tuple[Array, Array]:
    """One raw column as its features: values and ``observed``, [R,...,features]. A missing category is unknown."""
    rng = _rng(plan, f"{modality} {features[0].column} units")
    if features[0].kind == "numeric":
        return (rng.normal(0, 5) + rng.lognormal(0, 1) * raw)[..., None], ~missing[..., None]
    if features[0].kind == "binary":
        return (raw > rng.normal(0, 0.5))[..., None], ~missing[..., None]
    names = [f.category for f in features]
    slots = [i for i, name in enumerate(names) if name != UNKNOWN] or [0]
    cuts = norm.ppf(np.linspace(0, 1, len(slots) + 1)[1:-1], scale=np.hypot(LOUDNESS, plan.noise))
    chosen = np.array(slots)[np.searchsorted(cuts, raw)]
    if UNKNOWN in names:
        chosen = np.where(missing, names.index(UNKNOWN), chosen)
        missing = np.zeros_like(missing)
    return np.eye(len(features))[chosen], np.repeat(~missing[..., None], len(features), axis=-1)


def _targets(
    like: Spec, planted: _Planted, plan: Planting, prevalence: Mapping[str, float], valid: Leaves
) -> tuple[Leaves, Leaves]:
    targets, known = {}, {}
    for index, task in enumerate(like.tasks):
        score = planted.score(task, index)
        targets[task.name] = _draw_target(task, score, plan, prevalence.get(task.name, 0.5)).astype(np.float32)
        told = _rng(plan, f"{task.name} known").random(plan.rows) >= plan.unknown_labels
        known[task.name] = told if score.ndim == 1 else told[:, None] & _any_step(task, valid)
    return targets, known


def _draw_target(task: Task, score: Array, plan: Planting, prevalence: float) -> Array:
    """Class codes whose log odds rise with ``signal`` times the score, of the asked frequencies; or the noisy value."""
    rng = _rng(plan, f"{task.name} label")
    if task.kind == "regression":
        return plan.signal * score + rng.standard_normal(score.shape)
    drive = plan.signal * score + rng.logistic(size=score.shape)
    shares = [1 - prevalence] if task.kind == "binary" else np.linspace(0, 1, len(task.classes) + 1)[1:-1]
    return np.searchsorted(np.quantile(drive, shares), drive)


def _any_step(task: Task, valid: Leaves) -> Array:
    """Steps, [R,T], that at least one of the task's sequences has."""
    return np.any([valid[name] for name in task.steps], axis=0)


def _numbered(word: str, numbers: Array) -> Array:
    digits = len(str(max(len(numbers) - 1, 0)))
    return np.array([f"{word} {n:0{digits}d}" for n in numbers])


def _tensors(leaves: Leaves) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(leaf)) for name, leaf in leaves.items()}
