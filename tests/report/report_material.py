"""Made-up folds, maps and a study for the figures."""

import numpy as np
import pandas as pd
import torch

from fusion_lab.contracts import AttentionMap, Axis, Predictions, Spec, Task
from fusion_lab.report.rows import Groups
from fusion_lab.report.study import Study
from fusion_lab.training.results import FoldResult


def make_folds(lengths=(6, 4), bests=(5, 2), undefined=()) -> tuple[FoldResult, ...]:
    folds = []
    for k, (length, best) in enumerate(zip(lengths, bests, strict=True)):
        history = tuple(
            {
                "epoch": e,
                "train/loss": 1 / e + k,
                "val/loss": 2 / e + k,
                "val/death/auroc": np.nan if (k, e) in undefined else 0.5 + 0.01 * e,
                "val/a/b/auroc": 0.7 + 0.01 * e,
            }
            for e in range(1, length + 1)
        )
        folds.append(FoldResult(k, f"fold {k}", best, length, "patience", history, {"w": torch.zeros(1)}))
    return tuple(folds)


def make_map(
    *sizes: int, rows: int = 40, name: str = "attention", kind="attention", axes=(), there=None, seed: int = 0
) -> AttentionMap:
    """A map over axes of these sizes, called "axis 0" and so on but for ``axes``; ``there``, bool, broadcasts to
    ``[rows, *sizes]``.
    """
    names = [*axes, *(f"axis {i}" for i in range(len(axes), len(sizes)))]
    of = tuple(
        # axes over modalities are over the same ones
        Axis(name, tuple(f"{'modality' if 'modality' in name else name} {j}" for j in range(size)))
        for name, size in zip(names, sizes, strict=True)
    )
    random = np.random.default_rng(seed)
    held = np.broadcast_to(True if there is None else there, (rows, *sizes))
    raw = random.gamma(1.0, size=(rows, *sizes)) * held + 1e-3 * held
    total = raw.sum(-1, keepdims=True)
    values = np.divide(raw, total, out=np.zeros_like(raw), where=total > 0)
    if kind == "gate":
        values = random.uniform(0.01, 1, (rows, *sizes)) * held
    if kind == "answer":
        values = 2 * random.normal(size=(rows, *sizes)) * held
    return AttentionMap(name, kind, of, np.arange(rows) % 4, np.arange(rows), values.astype(np.float32))


BINARY = Task("death", "binary", ("alive", "died"))
DOSE = Task("dose", "regression")


def make_predictions(task: Task, rows: int = 40, known: float = 0.9, seed: int = 0) -> tuple[Predictions, Spec]:
    """Validation answers for a task, each row in fold ``row % 4``."""
    random = np.random.default_rng(seed)
    if task.kind == "regression":
        target, score = random.normal(size=rows), random.normal(size=rows)
    else:
        target = random.integers(0, len(task.classes), rows).astype(float)
        score = (
            random.uniform(size=rows) if task.kind == "binary" else random.dirichlet([1.0] * len(task.classes), rows)
        )
    told = random.uniform(size=rows) < known
    row = np.arange(rows)
    columns = ({task.name: np.where(told, target, 0)}, {task.name: told}, {task.name: score})
    return Predictions(row % 4, np.full(rows, "val"), row, *columns), Spec((), (task,))


def make_groups(rows: int = 40) -> Groups:
    return Groups("classes of death", ("alive", "died"), np.arange(rows) % 3 - 1)


def make_study() -> Study:
    trials = pd.DataFrame(
        {
            "number": range(6),
            "value": [0.6, 0.7, 0.65, 0.68, np.nan, 0.72],
            "state": ["complete", "complete", "pruned", "complete", "failed", "complete"],
        }
    )
    params = pd.DataFrame(
        {
            "optimiser.lr": [1e-4, 1e-3, 1e-2, 3e-3, 1e-3, 2e-4],
            "model.fusion": ["gated", "transformer", "gated", "bottleneck", "gated", "transformer"],
            "model.dropout": [0.1, None, 0.3, 0.2, 0.1, 0.5],
            "fixed": [1] * 6,
        }
    )
    scores = pd.DataFrame(
        [
            ("prevalence", "baseline", 0.5, 0.5, 0.5),
            ("logistic <regression>", "baseline", 0.7, 0.62, 0.78),
            ("trial 5", "trial", 0.72, 0.65, 0.79),
            ("undefined", "baseline", np.nan, np.nan, np.nan),
        ],
        columns=["name", "kind", "mean", "ci_low", "ci_high"],
    )
    importance = pd.Series({"optimiser.lr": 0.2, "model.fusion": 0.7})
    return Study("demo", "auroc", trials, params, scores, importance, log=("optimiser.lr",))
