"""One real SQLite store for all tests of tracking, and a made-up cross-validation."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fusion_lab.contracts import AttentionMap, Axis, Feature, Modality, Predictions, Spec, Task
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.tracking.predictions import RowNames
from fusion_lab.tracking.store import Store
from fusion_lab.tracking.trial import Outcome
from fusion_lab.training.results import CrossValidation, FoldResult

SPEC = Spec(
    (Modality("clinical", "vector", (Feature("age"), Feature("stage"))), Modality("blood", "vector", (Feature("hb"),))),
    (Task("death (5 y)", "binary", ("alive", "died")), Task("grade", "multiclass", ("low", "mid", "high"))),
)


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def store(store_folder, empty_store):
    shutil.copy(empty_store / "mlflow.db", store_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store_folder)  # MLflow puts the artifacts of a database into ./mlruns
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        opened = Store.open()
        opened.experiment_id("tests")
    yield opened
    opened.close()


@pytest.fixture
def experiment(store) -> str:
    return store.experiment_id("tests")


@pytest.fixture
def artifact(store):
    """Content of one of a run's files."""

    def read(run, path: str) -> bytes:
        return Path(store.client.download_artifacts(run.id, path)).read_bytes()

    return read


def made_folds(count: int, epochs: int) -> tuple[FoldResult, ...]:
    folds = []
    for k in range(count):
        last = epochs - k
        history = tuple(
            {
                "epoch": e,
                "lr": 1e-3,
                "train/loss": 1 / e,
                "val/loss": 0.5 + 1 / e,
                "val/death (5 y)/auroc": 0.6 + 0.001 * e + 0.01 * k,
                "val/grade/auroc": 0.5 + 0.001 * e,
            }
            for e in range(1, last + 1)
        )
        weights = {"layer.weight": torch.arange(6.0).reshape(2, 3) + k, "layer.bias": torch.zeros(2)}
        folds.append(FoldResult(k, f"fold {k}", last - 1, last, "patience", history, weights))
    return tuple(folds)


def made_predictions(rows: int, count: int) -> Predictions:
    random = np.random.default_rng(0)
    row = np.tile(np.arange(rows), 2)
    fold = np.concatenate([np.arange(rows) % count, (np.arange(rows) + 1) % count])
    split = np.repeat(["val", "test"], rows)
    died = np.tile((np.arange(rows) % 3 == 0).astype(np.float32), 2)
    grade = np.tile((np.arange(rows) % 3).astype(np.float32), 2)
    known = np.tile(np.arange(rows) % 7 > 0, 2)
    scores = {"death (5 y)": random.uniform(size=2 * rows), "grade": random.dirichlet(np.ones(3), 2 * rows)}
    targets = {"death (5 y)": died, "grade": grade}
    return Predictions(fold, split, row, targets, dict.fromkeys(targets, known), scores)


def made_scores(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    lines, means = [], []
    for split in ("val", "test"):
        for task in ("death (5 y)", "grade", ""):
            for metric in ("auroc", "ap", "f1", "brier"):
                values = 0.6 + 0.01 * np.arange(count) + (0.1 if split == "test" else 0)
                if (task, metric) == ("grade", "ap"):
                    values[1] = np.nan
                lines += [(k, split, task, metric, v, "") for k, v in enumerate(values)]
                mean, std = values.mean(), values.std(ddof=1)
                undefined = int(np.isnan(values).sum())
                means.append((split, task, metric, mean, std, mean - 0.1, mean + 0.1, 0.71, undefined))
    scores = pd.DataFrame(lines, columns=["fold", "split", "task", "metric", "value", "note"])
    columns = ["split", "task", "metric", "mean", "std", "ci_low", "ci_high", "pooled", "undefined"]
    return scores, pd.DataFrame(means, columns=columns)


@pytest.fixture
def make_outcome():
    def make(count: int = 5, epochs: int = 50, rows: int = 60) -> Outcome:
        names = ("clinical", "blood")
        row, fold = np.arange(rows), np.arange(rows) % count
        weights = np.random.default_rng(1).dirichlet([2, 1], (rows, 2)).astype(np.float32)
        axes = (Axis("query modality", names), Axis("key modality", names))
        attention = AttentionMap("modalities: last layer", "attention", axes, fold, row, weights)
        predictions = made_predictions(rows, count)
        result = CrossValidation(
            made_folds(count, epochs), predictions, (attention,), 1234, 5.6, "loop (asked for)", ("A note.",)
        )
        config = {"name": "made", "seed": 0, "model": {"family": "token_fusion", "d_model": 16, "dropout": 0.1}}
        scores, summary = made_scores(count)
        names = RowNames(
            np.array([f"patient {i}" for i in range(rows)]),
            recording=np.array([f"visit {i // 3}" for i in range(rows)]),
        )
        sizes = ((40,) * count, (10,) * count, (10,) * count)
        folds = FoldFacts("stratified", tuple(f"fold {k}" for k in range(count)), "split", "data", *sizes, seed=0)
        return Outcome(result, SPEC, scores, summary, config, names, folds)

    return make
