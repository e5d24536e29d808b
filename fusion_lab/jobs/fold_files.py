"""One JSON file per fold, with the keys of the e-Prevention relapse trainer's results: for scripts that read these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from fusion_lab.config import flatten
from fusion_lab.contracts import Task
from fusion_lab.evaluation.thresholds import fold_thresholds
from fusion_lab.report.curves import metric_of, task_of
from fusion_lab.tracking.trial import Outcome
from fusion_lab.training.results import FoldResult

METRICS = {
    "auroc": "auroc",
    "ap": "auprc",
    "f1": "f1",
    "f1_at_0.5": "f1",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "r2": "r2",
    "mae": "mae",
    "rmse": "rmse",
}
"""The metrics by our names, and by those of the files."""

NAMES = {
    "model_name": "model.fusion",
    "d_model": "model.d_model",
    "nhead": "model.nhead",
    "num_encoder_layers": "model.num_encoder_layers",
    "num_fusion_layers": "model.num_fusion_layers",
    "num_bottleneck_tokens": "model.num_bottleneck_tokens",
    "dann_lambda": "model.adversary",
    "dann_warmup_epochs": "model.adversary_warmup",
    "dropout": "model.dropout",
    "lr": "optimiser.lr",
    "weight_decay": "optimiser.weight_decay",
    "lr_schedule": "optimiser.schedule",
    "warmup_epochs": "optimiser.warmup_epochs",
    "batch_size": "training.batch_size",
    "epochs": "training.epochs",
    "patience": "training.patience",
    "early_stop_metric": "training.monitor",
    "loss_fn": "objective.binary",
    "focal_alpha": "objective.focal_alpha",
    "focal_gamma": "objective.focal_gamma",
    "focal_gamma_neg": "objective.focal_gamma_negatives",
    "label_smoothing": "objective.label_smoothing",
    "mixup_alpha": "augmentation.mixup",
    "seed": "seed",
}
"""The settings by the names of the files, and where the experiment keeps them; those that it has not are left out."""

NOTE = (
    "f1, precision, recall and accuracy go by the threshold, which is tuned on the fold's validation rows (0.5 where "
    "they are of one class); of an epoch the watched score is kept and those of training.curves, f1 by the threshold "
    "0.5; elapsed_seconds are those of all folds together, which train in one step; undefined scores are null"
)


def fold_files(outcome: Outcome) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(path in the run, content)`` of every fold: settings, scores of validation and test rows, curves, sizes.

    ``val``, ``test`` and ``threshold`` hold what is of the only main task, or ``{task: ...}`` of several. ``epoch``
    counts from 1.
    """
    settings = flatten(outcome.config)
    known = {name: settings[path] for name, path in NAMES.items() if path in settings}
    thresholds = fold_thresholds(outcome.result.predictions, outcome.spec).values
    for fold in outcome.result.folds:
        rows = outcome.scores[outcome.scores["fold"] == fold.fold]
        splits = {split: _of_tasks(rows[rows["split"] == split], outcome) for split in rows["split"].unique()}
        content = {
            "exp_name": outcome.config["name"],
            "fold": fold.fold,
            "held_out": fold.name,
            **known,
            "model_params": outcome.result.parameters,
            "best_epoch": fold.best_epoch,
            "epochs_run": fold.epochs,
            **splits,
            "threshold": _only(
                {t.name: thresholds[t.name][fold.fold] for t in outcome.spec.main_tasks if t.name in thresholds}
            ),
            "history": [_row(row, outcome.spec.main_tasks) for row in fold.history],
            "split_sizes": _sizes(outcome, fold),
            "elapsed_seconds": outcome.result.seconds,
            "note": NOTE,
            "config": outcome.config,
        }
        yield f"outputs/train__fold={fold.fold}.json", content


def _of_tasks(rows: pd.DataFrame, outcome: Outcome) -> dict[str, Any]:
    return _only({task.name: _scores(rows[rows["task"] == task.name]) for task in outcome.spec.main_tasks})


def _only(told: dict[str, Any]) -> Any:
    """What is told of a single task, or all by their names."""
    return next(iter(told.values())) if len(told) == 1 else told


def _scores(rows: pd.DataFrame) -> dict[str, Any]:
    """Of one task, fold and split."""
    found = rows.set_index("metric")
    told: dict[str, Any] = {name: found["value"][ours] for ours, name in METRICS.items() if ours in found.index}
    first = found.iloc[0]
    told["n_samples"] = int(first["n"])
    if not pd.isna(first["n_positive"]):
        told["n_pos"] = int(first["n_positive"])
        told["n_neg"] = told["n_samples"] - told["n_pos"]
    return told


def _row(row: Mapping[str, float], main: Sequence[Task]) -> dict[str, float]:
    """An epoch: ``train_loss``, ``val_loss``, ``lr`` and the scores that curves hold, ``val_auroc`` of a single main
    task, ``val_<task>_auroc`` of others.
    """
    only = main[0].name if len(main) == 1 else ""
    told: dict[str, float] = {}
    for name, value in row.items():
        task = task_of(name)
        if not task:
            told[name.replace("/", "_")] = value
        else:
            metric = METRICS.get(metric_of(name), metric_of(name))
            told[f"val_{metric}" if task == only else f"val_{task}_{metric}"] = value
    return told


def _sizes(outcome: Outcome, fold: FoldResult) -> dict[str, int]:
    parts = {"train": outcome.folds.train, "val": outcome.folds.val, "test": outcome.folds.test}
    return {f"n_{name}": sizes[fold.fold] for name, sizes in parts.items() if sizes}
