from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fusion_lab.contracts import Folds, Provenance, Spec, Task
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.tracking.descriptions import DataFacts, Scores, data_facts, describe, protocol_sentence, result_table

CLASSES = pd.DataFrame(
    [("death", "alive", 300, 300), ("death", "died", 170, 170), ("death", "(unknown)", 140, 140)],
    columns=["task", "class", "rows", "groups"],
)
MODALITIES = pd.DataFrame(
    [("blood", "vector", 16, 500, 110)], columns=["modality", "kind", "features", "rows", "missing"]
)
DATA = DataFacts(610, None, CLASSES, MODALITIES, "abcdef123456", ("A stain is missing often.",))


@pytest.fixture
def summary() -> pd.DataFrame:
    lines = [
        ("val", "death", "auroc", 0.71, 0.03, 0.65, 0.77, 0.70, 0),
        ("val", "", "auroc", 0.69, 0.02, 0.64, 0.74, 0.68, 0),
        ("val", "relapse|2", "ap", np.nan, np.nan, np.nan, np.nan, 0.44, 2),
        ("test", "death", "auroc", 0.123, 0.03, 0.1, 0.2, 0.1, 0),
    ]
    columns = ["split", "task", "metric", "mean", "std", "ci_low", "ci_high", "pooled", "undefined"]
    return pd.DataFrame(lines, columns=columns)


def test_a_description_says_what_a_reader_asks(summary):
    text = describe("Search of 15 trials.", DATA, "5 folds.", "fusion-lab train best.yaml", Scores("trial 3", summary))
    assert text.startswith("Search of 15 trials.")
    assert "| mean over tasks | AUROC | **0.690 ± 0.020** (95 %: 0.640 to 0.740) |" in text
    assert "610 rows" in text
    assert "alive 300, died 170, (unknown) 140" in text
    assert "| `blood` | vector | 16 | 500 | 110 |" in text
    assert "```\nfusion-lab train best.yaml\n```" in text
    assert "A stain is missing often." in text
    assert "average precision of `relapse/2` is undefined in 2 folds" in text
    assert "0.123" not in text


def test_the_best_baseline_stands_beside_the_result(summary):
    baseline = summary[summary["task"] == "death"].assign(mean=0.701, std=0.04, ci_low=0.6, ci_high=0.8)
    table = result_table(Scores("trial 3", summary), Scores("logistic", baseline), "val").splitlines()
    assert table[0] == "| task | metric | `trial 3` | baseline `logistic` |"
    assert table[2].endswith("| – |")
    assert "0.710 ± 0.030** (95 %: 0.650 to 0.770) | 0.701 ± 0.040 (95 %: 0.600 to 0.800) |" in table[3]
    assert "| **pooled 0.440**  |" in table[4]
    assert {line.count(" | ") for line in table} == {3}


def test_a_pooled_score_stands_with_its_own_interval_and_f1_of_several_classes_is_called_macro():
    columns = ["split", "task", "metric", "mean", "std", "ci_low", "ci_high", "pooled", "undefined"]
    lines = [
        ("val", task, metric, *((np.nan,) * 4 if metric == "f1" else (0.8, 0.1, 0.7, 0.9)), 0.931, 2 * (metric == "f1"))
        for task in ("act", "")
        for metric in ("f1", "accuracy")
    ]
    summary = pd.DataFrame(lines, columns=columns).assign(pooled_ci_low=0.88, pooled_ci_high=0.97)
    several = pd.DataFrame(
        [("act", name, 10, 2) for name in ("sit", "walk", "run", "(unknown)")],
        columns=["task", "class", "rows", "groups"],
    )
    data = DataFacts(40, 7, several, MODALITIES, "abcdef123456")
    text = describe("What.", data, "7 folds.", "the command", Scores("model", summary))
    assert "| mean over tasks | macro F1 | **pooled 0.931** (95 %: 0.880 to 0.970) |" in text
    assert "| `act` | accuracy | **0.800 ± 0.100** (95 %: 0.700 to 0.900) |" in text
    assert "macro F1 of `act` is undefined in 2 folds: pooled is the score of all folds' rows together." in text
    both = DataFacts(40, 7, pd.concat([several, CLASSES]), MODALITIES, "abcdef123456")
    assert both.multiclass == {"act"}
    assert "| mean over tasks | F1 |" in describe("What.", both, "7 folds.", "the command", Scores("model", summary))


def test_the_f1_of_main_tasks_is_named_whatever_auxiliary_tasks_are():
    codes = torch.arange(40) % 3
    grade, died, dose = (
        Task("grade", "multiclass", ("1", "2", "3")),
        Task("died", "binary", ("no", "yes"), auxiliary="help"),
        Task("dose", "regression", auxiliary="help"),
    )

    def multiclass(*tasks):
        leaves = {"targets": {t.name: codes % 2 if t is died else codes for t in tasks}}
        leaves["known"] = {t.name: torch.ones(40, dtype=torch.bool) for t in tasks}
        empty = {name: {} for name in ("inputs", "valid", "observed", "quality")}
        parts = {"spec": Spec((), tasks), "ids": np.arange(40).astype(str), "provenance": Provenance(())}
        return data_facts(ArrayDataset.checked(**parts, **leaves, **empty)).multiclass

    assert multiclass(grade) == multiclass(grade, died, dose) == {"grade", ""}
    assert multiclass(grade, replace(died, auxiliary="")) == {"grade"}
    assert multiclass(died, dose, replace(grade, auxiliary="help"), replace(died, name="x", auxiliary="")) == {"grade"}


def test_a_long_description_keeps_its_command():
    wide = pd.concat([MODALITIES.assign(modality=f"modality {i}") for i in range(400)])
    data = DataFacts(610, 12, CLASSES, wide, "abcdef123456")
    text = describe("What.", data, "5 folds.", "the command")
    assert len(text) <= 8000
    assert text.endswith("```\nthe command\n```")


def test_the_protocol_in_a_sentence():
    part = np.eye(3, dtype=bool).repeat(10, 1)
    folds = Folds("stratified", part, np.roll(part, 1, 0), np.roll(part, 2, 0), part, np.zeros(30, bool))
    assert protocol_sentence(folds, 7) == (
        "3 folds, stratified, seed 7: on average 10 rows train, 10 stop the training and tune thresholds, 10 are"
        " predicted out of fold."
    )
    last = protocol_sentence(folds, 7, "last")
    assert "stop" not in last and "10 rows train, 10 tune thresholds, 10 are" in last
