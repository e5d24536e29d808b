"""What one cross-validated configuration leaves in its run: scores, curves, predictions, maps and weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from fusion_lab.config import dump_yaml, flatten
from fusion_lab.contracts import AttentionMap, Predictions, Spec
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.report.attention import attention_dict
from fusion_lab.report.curves import curves_dict, curves_html, mean_curves, metric_of, part_of, task_of
from fusion_lab.report.drawing import Draw, draw_here
from fusion_lab.tracking.attention import (
    PAGE,
    TOO_LARGE,
    attention_bytes,
    attention_html,
    drawn_maps,
    is_small,
    summary_of_map,
)
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.predictions import RowNames, prediction_bytes
from fusion_lab.tracking.runs import Run, json_bytes
from fusion_lab.tracking.split import FILE as FOLDS
from fusion_lab.tracking.split import facts_bytes
from fusion_lab.training.results import CrossValidation, FoldResult

EXECUTION = "fusion_lab.execution"
"""The tag that says how folds were computed, and why so."""
PREDICTIONS = "predictions.parquet"
PER_FOLD = ("auroc", "ap", "min_ap", "f1", "accuracy", "r2", "mae", "rmse")
"""Metrics that every fold shows in the run; ``scores.csv`` holds all of them."""


@dataclass(frozen=True)
class Outcome:
    """A configuration and what cross-validation said of it.

    ``scores``: a row per fold, split, task and metric, columns ``fold``, ``split``, ``task``, ``metric``, ``value``.
    ``summary``: a row per split, task (``""`` = mean over tasks) and metric, columns ``mean``, ``std``, ``ci_low``,
    ``ci_high``, ``pooled``. ``config``: the complete resolved experiment. ``names``: of the data set's rows. ``folds``:
    how they were split.
    """

    result: CrossValidation
    spec: Spec
    scores: pd.DataFrame
    summary: pd.DataFrame
    config: Mapping[str, Any]
    names: RowNames
    folds: FoldFacts

    @property
    def ids(self) -> np.ndarray:
        """Of the data set's rows, str ``[R]``."""
        return self.names.ids


def log_cross_validation(
    run: Run,
    outcome: Outcome,
    splits: Sequence[str] = ("val",),
    keep_checkpoints: bool = False,
) -> None:
    """Gives the run all of it but figures; returns before it is written.

    Only the scores of ``splits`` are shown, so that whoever selects among runs does not select on test rows; the file
    of predictions holds both splits. Attention and gates are kept as means, and as the weights of every validation row
    in a run that keeps its checkpoints or where they are small (:func:`fusion_lab.tracking.attention.is_small`).
    """
    result = outcome.result
    tasks = safe_parts(task.name for task in outcome.spec.tasks)
    run.params(flatten(outcome.config))
    for epoch, values in curve_metrics(result.folds, tasks, _auxiliary(outcome.spec)):
        run.metrics(values, step=epoch)
    run.metrics(fold_metrics(outcome.scores, splits, tasks) | summary_metrics(outcome.summary, splits, tasks))
    run.metrics({"parameters": result.parameters, "seconds": result.seconds})
    run.metrics({"best_epoch": float(np.median([f.best_epoch for f in result.folds]))})
    if result.notes:
        run.tags({"notes": " ".join(result.notes)})
    _log_files(run, outcome, splits)
    run.bytes("curves.json", lambda: json_bytes(curves_dict(result.folds)))
    every_row = keep_checkpoints or is_small(result)
    for path, weights in drawn_maps(result).items():
        run.bytes(f"{path}.json", partial(_means, weights, outcome, every_row))
        if every_row:
            run.bytes(f"{path}.parquet", partial(attention_bytes, weights, outcome.ids))
    if keep_checkpoints:
        for file in checkpoint_files(result.folds):
            run.bytes(f"{file.path}.safetensors", partial(safetensors_bytes, file.weights))
            run.json(f"{file.path}.json", file.told)


def log_figures(run: Run, outcome: Outcome, draw: Draw = draw_here, interactive: bool = False) -> None:
    """Gives the run curves and maps as pictures; returns before they are drawn, in the writer's thread, by ``draw``.

    ``interactive`` adds pages with their script inside, about 5 MB each: the curves, and all maps together.
    """
    curves, result = curves_dict(outcome.result.folds), outcome.result
    run.bytes("curves.png", lambda: draw("curves", curves))
    if interactive:
        run.bytes("curves.html", lambda: curves_html(result.folds).encode())
    maps = drawn_maps(result)
    for path, weights in maps.items():
        run.bytes(f"{path}.png", partial(_picture, weights, outcome, draw))
    if interactive and maps:
        run.bytes(PAGE, lambda: attention_html(result, outcome.spec, outcome.ids).encode())


def _means(weights: AttentionMap, outcome: Outcome, every_row: bool) -> bytes:
    means = attention_dict(summary_of_map(weights, outcome.result, outcome.spec))
    return json_bytes({**means, "weights_of_every_row": every_row or TOO_LARGE})


def _picture(weights: AttentionMap, outcome: Outcome, draw: Draw) -> bytes:
    return draw("attention", attention_dict(summary_of_map(weights, outcome.result, outcome.spec)))


def fold_metrics(scores: pd.DataFrame, splits: Sequence[str], tasks: Mapping[str, str]) -> dict[str, float]:
    """``{"fold3/val/<task>/auroc": value}`` of the metrics :data:`PER_FOLD`; undefined ones are NaN."""
    shown = scores[scores["split"].isin(list(splits)) & scores["metric"].isin(PER_FOLD)]
    columns = (shown[c] for c in ("fold", "split", "task", "metric", "value"))
    return {
        f"fold{fold}/{_path(split, task, metric, tasks)}": value
        for fold, split, task, metric, value in zip(*columns, strict=True)
    }


def summary_metrics(summary: pd.DataFrame, splits: Sequence[str], tasks: Mapping[str, str]) -> dict[str, float]:
    """``val/<task>/auroc`` and ``val/auroc``, each with ``_std``, ``_ci_low`` and ``_ci_high``.

    Where a mean is undefined, since a fold is, the score of the pooled predictions stands beside it as ``_pooled``,
    with its interval.
    """
    metrics: dict[str, float] = {}
    for line in summary[summary["split"].isin(list(splits))].to_dict(orient="records"):
        path = _path(line["split"], line["task"], line["metric"], tasks)
        metrics[path] = line["mean"]
        if np.isfinite(line["mean"]):
            metrics |= {f"{path}_{part}": line[part] for part in ("std", "ci_low", "ci_high")}
        else:
            parts = ("pooled", "pooled_ci_low", "pooled_ci_high")
            metrics |= {f"{path}_{part}": line[part] for part in parts if np.isfinite(line.get(part, np.nan))}
    return metrics


def _auxiliary(spec: Spec) -> frozenset[str]:
    return frozenset(task.name for task in spec.tasks if task.auxiliary)


def curve_metrics(
    folds: Sequence[FoldResult], tasks: Mapping[str, str], auxiliary: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, float]]]:
    """``(epoch, {"curve/val/loss": mean over the folds, ...})``, epochs from 1; ``auxiliary`` tasks are in no mean over
    tasks.
    """
    curves: dict[str, np.ndarray] = {}
    for name, curve in mean_curves(folds, auxiliary).items():
        task, part = task_of(name), part_of(name)
        plain = name.removesuffix(part) + tasks.get(part, part)
        curves[f"curve/val/{tasks.get(task, task)}/{metric_of(name)}" if task else f"curve/{plain}"] = curve
    for index in range(max(len(f.history) for f in folds)):
        yield index + 1, {name: float(curve[index]) for name, curve in curves.items()}


class CheckpointFile(NamedTuple):
    """Weights of a fold that are kept: under which name, of which epoch, where (without the ending: the weights are a
    safetensors file, ``told`` is a JSON file beside it).
    """

    name: str
    fold: str
    epoch: int
    path: str
    weights: dict[str, Tensor]
    told: dict[str, object]


RESTORED = "restored"
"""The name of the weights that a fold answers with."""


def checkpoint_files(folds: Sequence[FoldResult]) -> Iterator[CheckpointFile]:
    """All weights that folds keep: ``checkpoints/fold<k>`` those that they answer with, ``checkpoints/<name>/fold<k>``
    those beside them.
    """
    for fold in folds:
        path = f"checkpoints/fold{fold.fold}"
        yield CheckpointFile(RESTORED, fold.name, fold.best_epoch, path, fold.weights, checkpoint_dict(fold))
        safe = safe_parts(fold.checkpoints)
        for name, (epoch, weights) in fold.checkpoints.items():
            told = {"checkpoint": name, **checkpoint_dict(replace(fold, best_epoch=epoch, weights=weights))}
            path = f"checkpoints/{safe[name]}/fold{fold.fold}"
            yield CheckpointFile(name, fold.name, epoch, path, weights, told)


def checkpoint_dict(fold: FoldResult) -> dict[str, object]:
    """What belongs beside a fold's weights."""
    return {
        "fold": fold.fold,
        "name": fold.name,
        "best_epoch": fold.best_epoch,
        "epochs": fold.epochs,
        "ending": fold.ending,
        # a regression's head answers in deviations of the training rows: value = mean + std * head
        "target_scale": {task: {"mean": mean, "std": std} for task, (mean, std) in fold.target_scale.items()},
        "tensors": {name: list(tensor.shape) for name, tensor in fold.weights.items()},
    }


def _path(split: str, task: str, metric: str, tasks: Mapping[str, str]) -> str:
    return f"{split}/{tasks.get(task, task)}/{metric}" if task else f"{split}/{metric}"


def _log_files(run: Run, outcome: Outcome, splits: Sequence[str]) -> None:
    shown = outcome.scores[outcome.scores["split"].isin(list(splits))]
    predictions = outcome.result.predictions
    run.bytes("config.yaml", lambda: dump_yaml(outcome.config).encode())
    run.bytes("scores.csv", lambda: shown.to_csv(index=False).encode())
    log_predictions(run, predictions, outcome.spec, outcome.names, outcome.folds)


def log_predictions(run: Run, predictions: Predictions, spec: Spec, names: RowNames, folds: FoldFacts) -> None:
    """Predictions with all that a later comparison with other runs has to know of their rows."""
    run.bytes(PREDICTIONS, lambda: prediction_bytes(predictions, spec, names))
    run.bytes(FOLDS, facts_bytes(folds))
