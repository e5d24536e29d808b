"""Made-up folds, maps and a study for the figures."""

import numpy as np
import pandas as pd
import torch

from fusion_lab.contracts import AttentionMap, Axis
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


def make_map(*sizes: int, rows: int = 40, name: str = "modality attention", kind="attention") -> AttentionMap:
    axes = tuple(Axis(f"axis {i}", tuple(f"place {i} {j}" for j in range(n))) for i, n in enumerate(sizes))
    values = np.random.default_rng(0).dirichlet(np.ones(sizes[-1]), (rows, *sizes[:-1])).astype(np.float32)
    return AttentionMap(name, kind, axes, np.arange(rows) % 4, np.arange(rows), values)


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
