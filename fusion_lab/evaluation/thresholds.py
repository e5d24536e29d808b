"""Where a probability becomes a "yes": chosen on validation rows, never on test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fusion_lab.contracts import Predictions, Spec
from fusion_lab.evaluation.calibration import with_temperature
from fusion_lab.evaluation.metrics import cuts


@dataclass(frozen=True)
class Thresholds:
    """``values``: ``{binary task: float [K]}``; ``notes``: ``{binary task: K texts}``, empty where own rows decided."""

    values: dict[str, np.ndarray]
    notes: dict[str, tuple[str, ...]]


def best_f1_threshold(target: np.ndarray, score: np.ndarray) -> float:
    """The threshold with the largest F1 of ``score >= threshold``, midway between two observed scores.

    ``target`` [P] holds 0 and 1, at least one of each; ``score`` [P] probabilities. Below the smallest score the other
    end is 0. Of equally good thresholds, the one closest to 0.5.

    >>> best_f1_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.7]))
    0.4
    """
    assert has_both_classes(target), "a threshold needs positive and negative rows"
    found = cuts(target, score)
    high = found.score.astype(float)
    low = np.append(high[1:], 0.0)
    middle = (high + low) / 2
    middle = np.where(middle > low, middle, high)  # neighbouring floats have no number between them
    f1 = 2 * found.positives / (found.rows + found.positives[-1])
    best = middle[f1 == f1.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def fold_thresholds(predictions: Predictions, spec: Spec) -> Thresholds:
    """For each binary task and fold, the best-F1 threshold of that fold's own validation rows.

    Where these hold one class only it is 0.5, which is noted. Validation rows of other folds could not decide in their
    place: some of them are test rows of this fold, and the models that scored the rest were trained on its test rows.
    """
    count = int(predictions.fold.max()) + 1 if len(predictions.fold) else 0
    values: dict[str, np.ndarray] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for task in spec.tasks:
        if task.kind == "binary":
            pairs = [_fold_threshold(predictions, task.name, fold) for fold in range(count)]
            values[task.name] = np.array([value for value, _ in pairs], dtype=float)
            notes[task.name] = tuple(note for _, note in pairs)
    return Thresholds(values, notes)


def pooled_thresholds(
    predictions: Predictions, spec: Spec, temperature: Mapping[str, float] | None = None
) -> dict[str, float]:
    """For each binary task, the best-F1 threshold of all folds' validation rows together: for models served as one.

    The steps of a task per step count as rows. ``temperature`` of a task, 1 where it is not named, is that of the
    probabilities which the threshold is for. 0.5 where the rows hold one class only or a score is not finite.
    """
    validation, found = predictions.of("val"), {}
    for task in spec.tasks:
        if task.kind == "binary":
            target, score = _known(validation, task.name)
            usable = _usable(target, score)
            score = with_temperature(task, score, (temperature or {}).get(task.name, 1.0))
            found[task.name] = best_f1_threshold(target, score) if usable else 0.5
    return found


def has_both_classes(target: np.ndarray) -> bool:
    """Whether 0 and 1 both occur."""
    return bool(0 < (target > 0.5).sum() < len(target))


def _fold_threshold(predictions: Predictions, task: str, fold: int) -> tuple[float, str]:
    own = _known(predictions.of("val", fold), task)
    if _usable(*own):
        return best_f1_threshold(*own), ""
    return 0.5, "threshold 0.5: the validation rows do not hold both classes with finite scores"


def _known(predictions: Predictions, task: str) -> tuple[np.ndarray, np.ndarray]:
    known = predictions.known[task]
    return predictions.target[task][known], predictions.score[task][known]


def _usable(target: np.ndarray, score: np.ndarray) -> bool:
    return has_both_classes(target) and bool(np.isfinite(score).all())
