"""A planted signal in data of any spec: known useful modalities, known missingness, a known attention target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm

from fusion_lab.contracts import UNKNOWN, Feature, Modality, Provenance, Source, Spec, Task, content_hash
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.planted_latents import (
    GROUP_EFFECT,
    LOUDNESS,
    Planted,
    Planting,
    check_planting,
    plant_latents,
    positions,
    presence,
    raw_columns,
    rng_of,
)

__all__ = ["Generated", "Planting", "Truth", "check_planting", "generate", "twin"]

Array = np.ndarray
Leaves = dict[str, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """What a generator knows of its data.

    ``attention`` of a pointer is the share each place deserves: [R,M] over the modalities, or [R,length] over the
    positions of the one useful modality; all 0 where what carries the label is missing. ``oracle`` is the score that
    the labels were drawn from, [R], or [R,T] of a task per step (with U after it of one with units), seen as if no
    modality were missing. ``hidden`` is shaped as the inputs and holds what they do, and where a modality or a number
    is missing what would have been there.
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

    ``useful`` defaults to all modalities but the last, or to all where there are fewer than three or the last has
    units.

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
        spared = len(names) > 2 and not any(feature.unit for feature in like.modalities[-1].features)
        useful = names[:-1] if spared else names
    prevalence = prevalence or {}
    check_planting(like, plan, useful)
    present = presence(names, plan)
    valid = {m.name: positions(m, present[m.name], plan) for m in like.modalities}
    group = None if plan.groups is None else rng_of(plan, "group").permutation(np.arange(plan.rows) % plan.groups)
    planted = plant_latents(like, plan, useful, valid)
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


def _columns(modality: Modality, planted: Planted, plan: Planting, group: Array | None) -> tuple[Array, Array]:
    """``inputs`` and ``observed``, [R,...,F]: raw columns around the latents, then encoded as the spec has it."""
    sources = raw_columns(modality)
    raw = _raw(modality, len(sources), planted, plan, group)
    missing = rng_of(plan, f"{modality.name} cells").random(raw.shape) < plan.missing_cells
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


def _raw(modality: Modality, width: int, planted: Planted, plan: Planting, group: Array | None) -> Array:
    """Unscaled raw columns, float32 [R,width] or [R,length,width]: what is planted, a group's offset, and noise."""
    shape = (plan.rows, *modality.shape[:-1], width)
    raw = plan.noise * rng_of(plan, f"{modality.name} noise").standard_normal(shape, dtype=np.float32)
    if modality.name in planted.shown:
        raw += _over_positions(planted.shown[modality.name], shape)
    else:
        _add_directions(raw, planted, modality.name, rng_of(plan, f"{modality.name} directions"))
        _add_units(raw, planted, modality, rng_of(plan, f"{modality.name} units' directions"))
    if group is not None:
        offset = rng_of(plan, f"{modality.name} groups").standard_normal((plan.groups or 0, width), dtype=np.float32)
        raw += GROUP_EFFECT * plan.noise * _over_positions(offset[group], shape)
    return raw


def _add_directions(raw: Array, planted: Planted, name: str, rng: np.random.Generator) -> None:
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


def _add_units(raw: Array, planted: Planted, modality: Modality, rng: np.random.Generator) -> None:
    """Adds what each unit's own columns show."""
    columns = [modality.features[places[0]].unit for places in raw_columns(modality).values()]
    for unit, latent in planted.of_units.get(modality.name, {}).items():
        own = np.flatnonzero([name == unit for name in columns])
        turn = rng.choice([-LOUDNESS, LOUDNESS], len(own)) / np.sqrt(len(own))
        raw[..., own] += _along(latent, raw.shape) * turn.astype(np.float32)


def _over_positions(values: Array, shape: tuple[int, ...]) -> Array:
    """[R,width], the same at every position: float32 with axes of size 1 between, up to those of ``shape``."""
    return values.astype(np.float32).reshape(len(values), *[1] * (len(shape) - 2), shape[-1])


def _along(latent: Array, shape: tuple[int, ...]) -> Array:
    """[R] or [R,length] with axes of size 1 up to those of ``shape``."""
    return latent.astype(np.float32).reshape(*latent.shape, *[1] * (len(shape) - latent.ndim))


def _encode(features: list[Feature], raw: Array, missing: Array, plan: Planting, modality: str) -> tuple[Array, Array]:
    """One raw column as its features: values and ``observed``, [R,...,features]. A missing category is unknown."""
    rng = rng_of(plan, f"{modality} {features[0].column} units")
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
    like: Spec, planted: Planted, plan: Planting, prevalence: Mapping[str, float], valid: Leaves
) -> tuple[Leaves, Leaves]:
    targets, known = {}, {}
    for index, task in enumerate(like.tasks):
        score = planted.score(task, index)
        targets[task.name] = _draw_target(task, score, plan, prevalence.get(task.name, 0.5)).astype(np.float32)
        told = rng_of(plan, f"{task.name} known").random(plan.rows) >= plan.unknown_labels
        if task.per_step:
            there = told[:, None] & _any_step(task, valid)
            told = np.broadcast_to(there.reshape(*there.shape, *[1] * (score.ndim - 2)), score.shape).copy()
        known[task.name] = told
    return targets, known


def _draw_target(task: Task, score: Array, plan: Planting, prevalence: float) -> Array:
    """Class codes whose log odds rise with ``signal`` times the score, of the asked frequencies; or the noisy value."""
    rng = rng_of(plan, f"{task.name} label")
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
