"""The validation score that is watched while folds train, for all of them at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, ConfigError, DataError, Folds, Spec, Task
from fusion_lab.evaluation.metrics import measure, rank_auroc, why_undefined
from fusion_lab.training.plan import Monitor, TrainingConfig
from fusion_lab.training.targets import TargetScale

Score = Callable[[Task, Tensor, Tensor, Tensor], Tensor]


def probabilities(heads: dict[str, Tensor], spec: Spec, scale: TargetScale) -> dict[str, Tensor]:
    """Each task's head ``[K,B,...]`` as probabilities: of the positive class, of the classes, or as a value in the
    target's own unit.
    """
    scores: dict[str, Tensor] = {}
    for task in spec.tasks:
        head = heads[task.name]
        if task.kind == "binary":
            scores[task.name] = torch.sigmoid(head)
        elif task.kind == "multiclass":
            scores[task.name] = torch.softmax(head, dim=-1)
        else:
            scores[task.name] = scale.restore(task.name, head)
    return scores


def auroc(task: Task, score: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """AUROC per fold ``[K]`` from ``[K,R]``, or from ``[K,R,C]`` one class against the rest, their mean; NaN where
    undefined.
    """
    if task.kind == "multiclass":
        per_class = [rank_auroc(score[..., c], target == c, known) for c in range(len(task.classes))]
        return torch.stack([torch.as_tensor(a) for a in per_class]).mean(0)
    return torch.as_tensor(rank_auroc(score, target, known))


def macro_f1(task: Task, score: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Macro F1 per fold ``[K]`` of the most probable class, from ``[K,R,C]``; NaN in a fold without rows of a class."""
    chosen = score.argmax(-1)
    per_class = []
    for code in range(len(task.classes)):
        answered, true = known & (chosen == code), known & (target == code)
        hits, rows = (answered & true).sum(-1), true.sum(-1)
        per_class.append(torch.where(rows > 0, 2.0 * hits.double() / (answered.sum(-1) + rows), torch.nan))
    finite = (torch.isfinite(score).all(-1) | ~known).all(-1)
    return torch.where(finite, torch.stack(per_class).mean(0), torch.nan)


def _named(metric: str) -> Score:
    def per_fold(task: Task, score: Tensor, target: Tensor, known: Tensor) -> Tensor:
        arrays = zip(score.cpu().numpy(), target.cpu().numpy(), known.cpu().numpy(), strict=True)
        return torch.tensor([measure(task, metric, t[k], s[k]) for s, t, k in arrays], dtype=torch.float64)

    return per_fold


SCORES: dict[str, Score] = {"auroc": auroc, "ap": _named("ap"), "f1": macro_f1, "r2": _named("r2")}


def watched(task: Task, monitor: str) -> tuple[str, Score]:
    """Name and function of a task's watched score: ``monitor``, AUROC beside a monitored loss, R2 of a regression."""
    name = "r2" if task.kind == "regression" else "auroc" if monitor == "loss" else monitor
    return name, SCORES[name]


def mean_over_folds(task: Task, score: Score, scores: Tensor, target: Tensor, known: Tensor) -> float:
    """Mean over folds, or the score of all folds' rows pooled where a fold has none of its own."""
    values = score(task, scores, target, known)
    if not torch.isnan(values).any():
        return float(values.mean())
    pooled = [x.reshape(1, -1, *x.shape[2:]) for x in (scores, target, known)]
    return float(score(task, *pooled)[0])


def flat_steps(task: Task, score: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A per-step task's rows and steps as rows: ``[K,R,T]`` becomes ``[K,R*T]``."""
    if not task.per_step:
        return score, target, known
    folds = len(target)
    return score.reshape(folds, -1, *score.shape[target.ndim :]), target.reshape(folds, -1), known.reshape(folds, -1)


def check_monitor(spec: Spec, monitor: Monitor) -> None:
    """Refuses a watched F1 where it is not that of the most probable class.

    Raises:
        ConfigError: a binary task, whose F1 depends on a threshold that is tuned on the rows it would be watched on.
    """
    binary = [task.name for task in spec.tasks if task.kind == "binary"]
    if monitor == "f1" and binary:
        raise ConfigError(
            f"training.monitor: f1 is watched of multiclass tasks, by their most probable class; task {binary[0]} is "
            "binary: expected auroc, ap or loss, found 'f1'"
        )


def undefined_folds(spec: Spec, training: TrainingConfig, folds: Folds, everything: Batch) -> list[bool]:
    """Whether each fold's validation rows leave the watched score undefined, so that the loss stops it.

    Raises:
        ConfigError: a score that is not watched of such a task, see :func:`check_monitor`.
        DataError: the configuration says ``undefined: refuse``, or there is nothing to watch instead: no known label
            in a fold, or a score that is undefined on the validation rows of all folds together.
    """
    check_monitor(spec, training.monitor)
    tasks = [(t, everything.targets[t.name].numpy(), everything.known[t.name].numpy()) for t in spec.tasks]
    for name, rows in zip(folds.names, folds.val, strict=True):
        if not any(known[rows].any() for _, _, known in tasks):
            raise DataError(f"{name}: expected known labels among the validation rows, by which it stops, found none")
    undefined = [False] * len(folds)
    if training.monitor == "loss":
        return undefined
    for task, target, known in tasks:
        why = [_why_undefined(task, target[rows], known[rows]) for rows in folds.val]
        for k, reason in enumerate(why):
            if reason and training.undefined == "refuse":
                raise DataError(f"{folds.names[k]}: {_expected(task, training)} on the validation rows, found {reason}")
        together = folds.val.any(axis=0)
        if any(why) and (reason := _why_undefined(task, target[together], known[together])):
            raise DataError(f"{_expected(task, training)} on all folds' validation rows, found {reason}")
        undefined = [before or bool(reason) for before, reason in zip(undefined, why, strict=True)]
    return undefined


def _expected(task: Task, training: TrainingConfig) -> str:
    return f"task {task.name}: expected a defined {watched(task, training.monitor)[0]}"


def _why_undefined(task: Task, target: np.ndarray, known: np.ndarray) -> str:
    """Why a watched score has no value on these rows, whatever the model says; "" if it has one.

    Scores that rank rows and macro F1 need a row of every class, R2 needs two values.
    """
    labels = target[known]
    found = len(np.unique(labels))
    if found >= (2 if task.kind == "regression" else len(task.classes)):
        return ""
    return why_undefined(task, labels, np.zeros(len(labels)))
