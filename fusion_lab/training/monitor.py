"""The validation score that is watched while folds train, for all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fusion_lab.contracts import Batch, ConfigError, DataError, Folds, Spec, Task
from fusion_lab.evaluation.metrics import measure, rank_auroc, why_undefined
from fusion_lab.evaluation.over_tasks import over_folds, over_tasks
from fusion_lab.training.batches import counted
from fusion_lab.training.plan import Goal, Monitor, TrainingConfig
from fusion_lab.training.sampling import check_sampler
from fusion_lab.training.targets import TargetScale

AT_HALF = "f1_at_0.5"
"""What the F1 of a binary task is called in curves: of the positive class, by the threshold 0.5."""

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
    """Name and function of a task's watched score: that of ``monitor``, AUROC beside a monitored loss, R2 of a
    regression, AUROC of an auxiliary binary task beside a watched F1.
    """
    name = "ap" if monitor == "macro_plus_min" else "auroc" if monitor == "loss" else monitor
    if task.kind == "regression":
        name = "r2"
    elif task.kind == "binary" and name == "f1":
        name = "auroc"
    return name, SCORES[name]


def also_scored(task: Task, names: Sequence[str]) -> dict[str, Score]:
    """Scores by name that curves of a task with classes show beside the watched one."""
    if task.kind == "regression":
        return {}
    binary = {"f1": (AT_HALF, _named("f1"))} if task.kind == "binary" else {}
    return dict(binary.get(name, (name, SCORES[name])) for name in names)


def score_name(monitor: str) -> str:
    """What a watched score is called in a sentence."""
    return {"f1": "macro F1", "macro_plus_min": "macro + min AP"}.get(monitor, monitor)


def of_main_tasks(spec: Spec, goal: Goal, scores: Mapping[str, Tensor]) -> Tensor:
    """The watched scores of all main tasks as one, float64 ``[K]``; NaN in a fold where one is undefined.

    ``scores``: ``{task: [K]}``, of auxiliary tasks too.
    """
    each = torch.stack([scores[task.name].double().cpu() for task in spec.main_tasks])
    return torch.from_numpy(over_tasks(each.numpy(), goal.min_weight))


def over_all_folds(spec: Spec, goal: Goal, scores: Mapping[str, Tensor], rows: Batch) -> float:
    """The objective of a search: the mean over folds of what :func:`of_main_tasks` makes of them.

    A task whose score is undefined in some fold counts with that of all folds' rows pooled, and the others with their
    mean over folds beside it.

    Args:
        spec: the tasks.
        goal: what is watched, and how the tasks are made one; not the loss.
        scores: ``{task: [K,R,...]}``, as :func:`probabilities` gives them.
        rows: what they are of, leaves ``[K,R,...]``, with targets.
    """
    folds, pooled = [], []
    for task in spec.main_tasks:
        score = watched(task, goal.monitor)[1]
        flat = flat_steps(task, scores[task.name], rows.targets[task.name], counted(rows, task))
        values = score(task, *flat)
        folds.append(values.double().cpu().numpy())
        pooled.append(_of_pooled_rows(task, score, *flat) if torch.isnan(values).any() else np.nan)
    return over_folds(folds, pooled, goal.min_weight)


def _of_pooled_rows(task: Task, score: Score, scores: Tensor, target: Tensor, known: Tensor) -> float:
    pooled = [x.reshape(1, -1, *x.shape[2:]) for x in (scores, target, known)]
    return float(score(task, *pooled)[0])


def flat_steps(task: Task, score: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A per-step task's rows and steps as rows: ``[K,R,T]`` becomes ``[K,R*T]``."""
    if not task.per_step:
        return score, target, known
    folds = len(target)
    return score.reshape(folds, -1, *score.shape[target.ndim :]), target.reshape(folds, -1), known.reshape(folds, -1)


def check_monitor(spec: Spec, monitor: Monitor) -> None:
    """Refuses a watched F1 where it is not that of the most probable class, and an average precision where there is
    none.

    Raises:
        ConfigError: a binary main task, whose F1 depends on a threshold that is tuned on the rows it would be watched
            on; a regression among the main tasks whose average precisions are to be weighed against each other.
    """
    regressions = [task.name for task in spec.main_tasks if task.kind == "regression"]
    if monitor == "macro_plus_min" and regressions:
        raise ConfigError(
            "training.monitor: macro_plus_min is watched of tasks with an average precision; task "
            f"{regressions[0]} is a regression: expected auroc, ap or loss, found 'macro_plus_min'"
        )
    binary = [task.name for task in spec.main_tasks if task.kind == "binary"]
    if monitor == "f1" and binary:
        raise ConfigError(
            f"training.monitor: f1 is watched of multiclass tasks, by their most probable class; task {binary[0]} is "
            "binary: expected auroc, ap or loss, found 'f1'"
        )


def undefined_folds(spec: Spec, training: TrainingConfig, folds: Folds, everything: Batch) -> list[bool]:
    """Whether each fold's validation rows leave the watched score of a main task undefined, so that the loss stops it.

    Raises:
        ConfigError: a score that is not watched of such a task, see :func:`check_monitor`; a sampler without a task to
            go by.
        DataError: the configuration says ``undefined: refuse``, or there is nothing to watch instead: no known label
            in a fold, or a score that is undefined on the validation rows of all folds together.
    """
    check_monitor(spec, training.monitor)
    check_sampler(spec, training.sampler)
    tasks = [(t, everything.targets[t.name].numpy(), everything.known[t.name].numpy()) for t in spec.main_tasks]
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
