"""The validation score that is watched while folds train, for all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Spec, Task
from fusion_lab.evaluation.metrics import measure, rank_auroc

Score = Callable[[Task, Tensor, Tensor, Tensor], Tensor]


def probabilities(heads: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Each task's head as probabilities: of the positive class, of the classes, or the value itself."""
    scores: dict[str, Tensor] = {}
    for task in spec.tasks:
        head = heads[task.name]
        if task.kind == "binary":
            scores[task.name] = torch.sigmoid(head)
        elif task.kind == "multiclass":
            scores[task.name] = torch.softmax(head, dim=-1)
        else:
            scores[task.name] = head
    return scores


def auroc(task: Task, score: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """AUROC per fold ``[K]`` from ``[K,R]`` (one against the rest, mean over classes, from ``[K,R,C]``); NaN where undefined."""
    if task.kind == "multiclass":
        per_class = [rank_auroc(score[..., c], target == c, known) for c in range(len(task.classes))]
        return torch.stack([torch.as_tensor(a) for a in per_class]).mean(0)
    return torch.as_tensor(rank_auroc(score, target, known))


def _named(metric: str) -> Score:
    def per_fold(task: Task, score: Tensor, target: Tensor, known: Tensor) -> Tensor:
        arrays = zip(score.cpu().numpy(), target.cpu().numpy(), known.cpu().numpy(), strict=True)
        return torch.tensor([measure(task, metric, t[k], s[k]) for s, t, k in arrays], dtype=torch.float64)

    return per_fold


def watched(task: Task, monitor: Literal["auroc", "ap", "loss"]) -> tuple[str, Score]:
    """Name and function of the score watched for a task: ``monitor``, AUROC beside a monitored loss, R2 of a regression."""
    if task.kind == "regression":
        return "r2", _named("r2")
    return ("ap", _named("ap")) if monitor == "ap" else ("auroc", auroc)


def mean_over_folds(task: Task, score: Score, scores: Tensor, target: Tensor, known: Tensor) -> float:
    """Mean over folds, or the score of all folds' rows pooled where a fold has none of its own."""
    values = score(task, scores, target, known)
    if not torch.isnan(values).any():
        return float(values.mean())
    pooled = [x.reshape(1, -1, *x.shape[2:]) for x in (scores, target, known)]
    return float(score(task, *pooled)[0])


def is_undefined(task: Task, target: np.ndarray, known: np.ndarray) -> bool:
    """Whether a ranking score has no value on these rows: a class is missing among the known labels."""
    return task.kind != "regression" and len(np.unique(target[known])) < len(task.classes)
