"""A file per fold says what the tables of scores and the curves say, by other names."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fusion_lab.contracts import Folds, Predictions, Spec, Task
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.evaluation.folds import score_folds, summarise
from fusion_lab.experiment import resolve
from fusion_lab.jobs.fold_files import METRICS, NAMES, fold_files
from fusion_lab.tracking.predictions import RowNames
from fusion_lab.tracking.runs import json_bytes
from fusion_lab.tracking.trial import Outcome
from fusion_lab.training.results import CrossValidation, FoldResult

ROWS, FOLDS = 60, 3
CONFIG = resolve(
    {"name": "made", "data": {"domain": "synthetic"}, "model": {"d_model": 8, "nhead": 2}, "optimiser": {"lr": 0.5}}, ""
)


def outcome(tasks: tuple[str, ...]) -> Outcome:
    """Fold k tests and validates a third each; the last fold's test rows are all negative."""
    rng, part = np.random.default_rng(0), np.arange(ROWS) % FOLDS
    spec = Spec((), tuple(Task(task, "binary", ("no", "yes")) for task in tasks))
    test, val = (np.stack([part == (k + by) % FOLDS for k in range(FOLDS)]) for by in (0, 1))
    folds = Folds("kfold", ~test & ~val, val, test, ~test & ~val, np.zeros(ROWS, bool), ("a", "b", "c"))
    target = {task: np.where(part == FOLDS - 1, 0, rng.integers(0, 2, ROWS)).astype(float) for task in tasks}
    score = {task: rng.random(ROWS) for task in tasks}
    known = {task: rng.random(ROWS) < 0.9 for task in tasks}
    places = [
        (k, split, row)
        for k in range(FOLDS)
        for split, of in (("val", val), ("test", test))
        for row in np.flatnonzero(of[k])
    ]
    fold, split, row = (np.array(column) for column in zip(*places, strict=True))
    predictions = Predictions(fold, split, row, *({t: of[t][row] for t in tasks} for of in (target, known, score)))
    history = tuple(
        {"epoch": float(e), "lr": 0.1, "train/loss": 1 / e, "val/loss": 2 / e} | {f"val/{t}/auroc": 0.5 for t in tasks}
        for e in (1, 2)
    )
    results = tuple(FoldResult(k, folds.names[k], 2, 2, "epochs", history, {}) for k in range(FOLDS))
    scores = score_folds(predictions, spec)
    result = CrossValidation(results, predictions, (), 7, 1.5, "loop (asked for)")
    names, facts = RowNames(np.arange(ROWS).astype(str), None), FoldFacts.of(folds, "data")
    return Outcome(result, spec, scores.table, summarise(scores, folds), CONFIG.resolved(), names, facts)


def files(of: Outcome) -> dict[str, dict]:
    return {path: json.loads(json_bytes(content)) for path, content in fold_files(of)}


def test_every_fold_has_a_file_with_its_settings_sizes_and_curves():
    found = files(outcome(("death",)))
    assert list(found) == [f"outputs/train__fold={k}.json" for k in range(FOLDS)]
    for k, content in enumerate(found.values()):
        assert (content["exp_name"], content["fold"], content["held_out"]) == ("made", k, "abc"[k])
        assert (content["d_model"], content["nhead"], content["lr"]) == (8, 2, 0.5)
        assert (content["model_params"], content["best_epoch"], content["elapsed_seconds"]) == (7, 2, 1.5)
        assert content["split_sizes"] == {"n_train": 20, "n_val": 20, "n_test": 20}
        assert [row["val_auroc"] for row in content["history"]] == [0.5, 0.5]
        assert content["history"][1] == {"epoch": 2.0, "lr": 0.1, "train_loss": 0.5, "val_loss": 1.0, "val_auroc": 0.5}


def test_scores_are_those_of_the_table_and_undefined_ones_are_null():
    made = outcome(("death",))
    for k, content in enumerate(files(made).values()):
        for split in ("val", "test"):
            rows = made.scores[(made.scores["fold"] == k) & (made.scores["split"] == split)]
            told = rows[rows["task"] == "death"].set_index("metric")
            for ours, theirs in METRICS.items():
                if ours in told.index:
                    expected = told["value"][ours]
                    assert content[split][theirs] == (None if np.isnan(expected) else pytest.approx(expected))
            part = made.result.predictions.of(split, k)
            labels = part.target["death"][part.known["death"]]
            assert content[split]["n_samples"] == len(labels)
            assert (content[split]["n_pos"], content[split]["n_neg"]) == (labels.sum(), (labels == 0).sum())
    assert content["test"]["auroc"] is None


def test_the_threshold_is_the_one_that_the_test_scores_go_by():
    made = outcome(("death",))
    for k, content in enumerate(files(made).values()):
        part = made.result.predictions.of("test", k)
        known = part.known["death"]
        said = part.score["death"][known] >= content["threshold"]
        assert content["test"]["accuracy"] == pytest.approx((said == part.target["death"][known]).mean())
    assert set(next(iter(files(outcome(("death", "falls"))).values()))["threshold"]) == {"death", "falls"}


def test_several_tasks_have_their_scores_and_curves_by_name():
    content = next(iter(files(outcome(("death", "falls"))).values()))
    assert set(content["test"]) == {"death", "falls"} and "auprc" in content["test"]["falls"]
    assert "val_death_auroc" in content["history"][0]


def test_an_auxiliary_task_does_not_take_the_main_ones_place():
    made = outcome(("death", "falls"))
    tasks = (made.spec.tasks[0], replace(made.spec.tasks[1], auxiliary="help"))
    folds = [
        replace(
            fold, history=tuple({**row, "val/falls/auroc": 0.1, "val/death/f1_at_0.5": 0.2} for row in fold.history)
        )
        for fold in made.result.folds
    ]
    changed = replace(made, spec=replace(made.spec, tasks=tasks), result=replace(made.result, folds=tuple(folds)))
    row = next(iter(files(changed).values()))["history"][0]
    assert (row["val_auroc"], row["val_f1"], row["val_falls_auroc"]) == (0.5, 0.2, 0.1)


def test_the_names_of_settings_lead_to_settings():
    settings = outcome(("death",)).config
    for path in NAMES.values():
        node = settings
        for key in path.split("."):
            assert key in node, path
            node = node[key]
