"""One line per test row: what was known of it, what the model said, how sure it was and what it went by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fusion_lab.contracts import AttentionMap, Axis, Dataset, Predictions, Spec, Task
from fusion_lab.evaluation.thresholds import Thresholds
from fusion_lab.evaluation.uncertainty import Spread

CONFIDENCE = "confidence"
"""Name of the gate over modalities that says how far each was relied on: 1 where it was observed, the confidence of
its imputation where it was imputed, 0 where it was not used.
"""


class Inputs(NamedTuple):
    """What P rows hold of each modality, ``{modality: [P]}``: ``given``, bool, whether anything of it is there, and its
    ``quality``, float in [0, 1].
    """

    given: Mapping[str, np.ndarray]
    quality: Mapping[str, np.ndarray]


class Imputation(NamedTuple):
    """Of one modality: how many rows lack it, and the confidence [I] of the I of them for which it was imputed."""

    missing: int
    confidence: np.ndarray


def rows_table(
    test: Predictions,
    spec: Spec,
    thresholds: Thresholds,
    dataset: Dataset,
    inputs: Inputs,
    maps: Iterable[AttentionMap] = (),
    spreads: Mapping[str, Spread] | None = None,
) -> pd.DataFrame:
    """A line per entry of ``test``, in its order; what is not known, or not there, is empty.

    ============================= ==================================================================================
    id, fold, group, recording    ``fold`` is the number of the fold; the last two where the data set has them
    <task>/target, /predicted     class name or value; a binary task's class is chosen by ``<task>/threshold``, that
                                  of the fold, the class of one of several is the most probable one
    <task>/probability of <class> of the positive class of a binary task, or of each class
    <task>/std, /entropy,         over passes with dropout, where ``spreads`` has them: deviation of the value or of
    /mutual information           the positive class's probability, the others in nats
    <modality>/given, /quality    "yes" or "no"; empty quality where it is not given
    <modality>/confidence,        of a model with the map :data:`CONFIDENCE`; imputed is what was used though it was
    /imputed                      not given
    <modality>/attention ...      each attention map over modalities alone: "attention for <task>" of the map
                                  "modalities for <task>"
    ============================= ==================================================================================

    Tasks per step are left out. ``maps`` have the entries of ``test``.
    """
    over = [one for one in maps if over_modalities(one.axes, spec)]
    for one in over:
        assert np.array_equal(one.fold, test.fold) and np.array_equal(one.row, test.row), f"{one.name}: other rows"
    columns: dict[str, Any] = {"id": dataset.ids[test.row], "fold": test.fold}
    for name, named in (("group", dataset.group), ("recording", dataset.recording)):
        if named is not None:
            columns[name] = named[test.row]
    for task in spec.tasks:
        if not task.per_step:
            columns |= _answers(test, task, thresholds) | _uncertainty((spreads or {}).get(task.name), task)
    for modality in spec.modalities:
        columns |= _of_modality(modality.name, inputs, over)
    return pd.DataFrame(columns)


def over_modalities(axes: Sequence[Axis], spec: Spec) -> bool:
    """Whether a map of these axes holds a number per modality, and nothing else."""
    return len(axes) == 1 and set(axes[0].labels) <= {modality.name for modality in spec.modalities}


def imputations(inputs: Inputs, maps: Iterable[AttentionMap], spec: Spec) -> dict[str, Imputation]:
    """Of the modalities that some rows lack; empty where the model imputes nothing."""
    over = [one for one in maps if over_modalities(one.axes, spec)]
    found: dict[str, Imputation] = {}
    for name, given in inputs.given.items():
        confidence = _confidence(name, over)
        if confidence is not None and not given.all():
            found[name] = Imputation(int((~given).sum()), confidence[imputed(given, confidence)])
    return found if any(len(one.confidence) for one in found.values()) else {}


def imputed(given: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """bool [P]: what was not given and used nevertheless.

    >>> imputed(np.array([True, False, False]), np.array([1.0, 0.4, 0.0])).tolist()
    [False, True, False]
    """
    return ~given & (confidence > 0)


def _answers(test: Predictions, task: Task, thresholds: Thresholds) -> dict[str, Any]:
    name, score = task.name, test.score[task.name]
    target, known = test.target[name], test.known[name].astype(bool)
    if not task.classes:
        return {f"{name}/target": np.where(known, target, np.nan), f"{name}/predicted": score}
    classes = np.array(task.classes, dtype=object)
    told: dict[str, Any] = {f"{name}/target": np.where(known, classes[target.astype(int)], None)}
    if task.kind == "multiclass":
        probability = {f"{name}/probability of {c}": score[:, code] for code, c in enumerate(task.classes)}
        return told | {f"{name}/predicted": classes[score.argmax(-1)]} | probability
    threshold = thresholds.values[name][test.fold]
    return told | {
        f"{name}/predicted": classes[(score >= threshold).astype(int)],
        f"{name}/probability of {task.positive}": score,
        f"{name}/threshold": threshold,
    }


def _uncertainty(spread: Spread | None, task: Task) -> dict[str, Any]:
    """What the task's kind has; columns of nothing without passes."""
    kinds = {
        "std": task.kind != "multiclass",
        "entropy": bool(task.classes),
        "mutual information": bool(task.classes),
    }
    of = (None, None, None) if spread is None else (spread.std, spread.entropy, spread.information)
    return {
        f"{task.name}/{kind}": np.nan if values is None else values
        for (kind, has), values in zip(kinds.items(), of, strict=True)
        if has
    }


def _of_modality(name: str, inputs: Inputs, maps: Sequence[AttentionMap]) -> dict[str, np.ndarray]:
    given, confidence = inputs.given[name], _confidence(name, maps)
    told = {f"{name}/given": _yes(given), f"{name}/quality": np.where(given, inputs.quality[name], np.nan)}
    if confidence is not None:
        told |= {f"{name}/confidence": confidence, f"{name}/imputed": _yes(imputed(given, confidence))}
    for one in maps:
        if one.kind == "attention" and name in one.axes[0].labels:
            told[f"{name}/{_column(one.name)}"] = _weights(name, one)
    return told


def _confidence(name: str, maps: Sequence[AttentionMap]) -> np.ndarray | None:
    held = (one for one in maps if one.kind == "gate" and one.name == CONFIDENCE and name in one.axes[0].labels)
    found = next(held, None)
    return None if found is None else _weights(name, found)


def _weights(name: str, one: AttentionMap) -> np.ndarray:
    return one.values[:, one.axes[0].labels.index(name)]


def _column(name: str) -> str:
    """What a map's column is called.

    >>> _column("modalities for survival"), _column("modalities"), _column("sensors")
    ('attention for survival', 'attention', 'attention, sensors')
    """
    rest = name.removeprefix("modalities")
    return f"attention{rest}" if rest != name else f"attention, {name}"


def _yes(values: np.ndarray) -> np.ndarray:
    return np.where(values, "yes", "no")
