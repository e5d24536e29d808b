"""The baseline of forecasts: what is now will be later.

A causal task may ask for a later value of what a feature shows: the feature of the task's unit whose ``quantity`` has
the task's name. Its present value is the answer, of a regression as it is. Of classes the answer is how often, in
training rows, each class came where this value was: of a binary task the frequency with which a 1 stayed, or a 0
became one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fusion_lab.contracts import Batch, Modality, Spec, Task
from fusion_lab.zoo import tabular

EXACT = 1e-3
"""Of the targets' variance, what may be left when they are lined up with a feature's later values: rounding."""


class Answers(Protocol):
    """What answers where no present value does: ``{task: [B,...]}``."""

    def predict(self, batch: Batch) -> dict[str, np.ndarray]: ...


class Persistence:
    """Tasks without such a feature, and lines at which it is missing, get the answer of ``otherwise``."""

    def __init__(self, otherwise: Answers) -> None:
        self._otherwise = otherwise

    def fit(self, batch: Batch, spec: Spec) -> Persistence:
        self._places = {task.name: found for task in spec.tasks if (found := present_values(task, spec))}
        self._has_units = {task.name: bool(task.units) for task in spec.tasks}
        self._rules: dict[str, _Stays | _Moves] = {}
        for task in spec.tasks:
            if task.name in self._places:
                now = _now(batch, self._places[task.name], bool(task.units))
                self._rules[task.name] = (_Stays if task.kind == "regression" else _Moves)().fit(task, now, batch)
        return self

    def predict(self, batch: Batch) -> dict[str, np.ndarray]:
        answers = self._otherwise.predict(batch)
        for name, rule in self._rules.items():
            now = _now(batch, self._places[name], self._has_units[name])
            found = rule.answer(now)
            known = ~np.isnan(found).reshape(*now.shape[: now.ndim - 1], -1).any(-1)
            answers[name][known] = found[known]
        return answers


def present_values(task: Task, spec: Spec) -> tuple[str, list[list[int]]] | None:
    """The sequence that shows the present values of what a causal task asks for, and the places of the features,
    ``[U,Q]``, U 1 without units: one, or one for each class in the order of the codes. ``None`` where there is none.
    """
    if not (task.causal and task.per_step):
        return None
    for modality in (spec.modality(name) for name in task.steps):
        found = [_features(modality, task, unit) for unit in task.units or ("",)]
        if all(found):
            return modality.name, found
    return None


def _features(modality: Modality, task: Task, unit: str) -> list[int]:
    of = [(i, f) for i, f in enumerate(modality.features) if f.quantity == task.name and f.unit == unit]
    by_class = {f.category: i for i, f in of if f.kind == "category"}
    if task.classes and set(task.classes) <= set(by_class):
        return [by_class[name] for name in task.classes]
    return [i for i, f in of if f.kind in ("numeric", "binary")][:1]


def _now(batch: Batch, place: tuple[str, list[list[int]]], has_units: bool) -> np.ndarray:
    """The present values, float64 ``[B,T,Q]`` or ``[B,T,U,Q]``, NaN where there is none."""
    name, columns = place
    real = (batch.observed[name] & batch.valid[name].unsqueeze(-1)).cpu().numpy()
    values = np.where(real, tabular.array(batch.inputs[name]), np.nan)[..., np.array(columns)]
    return values if has_units else values[:, :, 0]


class _Stays:
    """A regression's value as it is, in the target's own unit: scale and offset are those with which targets are the
    feature's values some steps later; where they are so at no distance, those of equal means and deviations.
    """

    def fit(self, task: Task, now: np.ndarray, batch: Batch) -> _Stays:
        target = tabular.array(batch.targets[task.name])
        counts = (batch.known[task.name].cpu().numpy().T & (tabular.array(batch.weight) > 0)).T
        value, wanted = now[..., 0], np.where(counts, target, np.nan)
        fits = [_line(value[:, ahead:], wanted[:, : value.shape[1] - ahead]) for ahead in range(1, value.shape[1])]
        best = min(fits, key=lambda fit: fit[2], default=(1.0, 0.0, np.inf))
        self._scale, self._offset = best[:2] if best[2] < EXACT else _moments(value, wanted)
        return self

    def answer(self, now: np.ndarray) -> np.ndarray:
        return self._scale * now[..., 0] + self._offset


class _Moves:
    """Class frequencies after each present value, those of the training rows; the nearest value of theirs counts."""

    def fit(self, task: Task, now: np.ndarray, batch: Batch) -> _Moves:
        lines, target, weight = tabular.labelled(batch, task)
        value = _value(now).reshape(-1)[lines]
        seen = ~np.isnan(value)
        self._values, place = np.unique(value[seen], return_inverse=True)
        counts = np.zeros((len(self._values), len(task.classes)))
        np.add.at(counts, (place.reshape(-1), target[seen].astype(int)), weight[seen])
        self._shares = counts / counts.sum(1, keepdims=True)
        self._binary = task.kind == "binary"
        return self

    def answer(self, now: np.ndarray) -> np.ndarray:
        value = _value(now)
        shares = np.full((*value.shape, self._shares.shape[1]), np.nan)
        known = ~np.isnan(value)
        if len(self._values):
            middles = (self._values[1:] + self._values[:-1]) / 2
            shares[known] = self._shares[np.searchsorted(middles, value[known])]
        return shares[..., 1] if self._binary else shares


def _value(now: np.ndarray) -> np.ndarray:
    """``[...,Q]`` as one number ``[...]``: of several features, which are classes, the place of the largest, NaN where
    none of them is there (a category that is unknown).
    """
    if now.shape[-1] == 1:
        return now[..., 0]
    found = np.nan_to_num(now)
    return np.where(np.isnan(now).any(-1) | ~(found > 0).any(-1), np.nan, found.argmax(-1))


def _line(value: np.ndarray, target: np.ndarray) -> tuple[float, float, float]:
    """Slope and offset of the line through the targets over the values, and the share of their variance that it
    leaves; inf where there is no line.
    """
    both = ~(np.isnan(value) | np.isnan(target))
    x, y = value[both], target[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 1.0, 0.0, np.inf
    covariance = np.cov(x, y, ddof=0)
    slope = covariance[0, 1] / covariance[0, 0]
    return float(slope), float(y.mean() - slope * x.mean()), float(1 - slope * covariance[0, 1] / covariance[1, 1])


def _moments(value: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    x, y = value[~np.isnan(value)], target[~np.isnan(target)]
    if not len(x) or not len(y):
        return 1.0, 0.0
    slope = float(y.std() / x.std()) if x.std() > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())
