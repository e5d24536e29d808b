"""Laws of a training's summary: what it says is what the curves say."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.jobs.summary import training_summary
from fusion_lab.tracking.predictions import RowNames
from fusion_lab.tracking.runs import json_bytes
from fusion_lab.tracking.trial import Outcome
from fusion_lab.training.results import CrossValidation, FoldResult

TASKS = ("death", "a/b")
ROWS = 6


def made_outcome(folds: tuple[FoldResult, ...]) -> Outcome:
    nothing = Predictions(np.zeros(0, int), np.zeros(0, str), np.zeros(0, int), {}, {}, {})
    result = CrossValidation(folds, nothing, (), 7, 1.5, "loop (asked for)", ("A note.",))
    spec = Spec((), tuple(Task(task, "binary", ("no", "yes")) for task in TASKS))
    names = RowNames(np.arange(ROWS).astype(str), np.array(["p", "p", "q", "q", "q", "r"]))
    return Outcome(result, spec, None, None, {"name": "made", "seed": 3}, names, FoldFacts())


@st.composite
def outcomes(draw) -> Outcome:
    folds = []
    for k in range(draw(st.integers(1, 3))):
        epochs = draw(st.integers(1, 4))
        undefined = draw(st.sampled_from([(), ("death",), TASKS]))  # in all epochs: it is the labels that are missing
        rows = tuple(
            {
                "epoch": float(epoch + 1),
                "lr": 0.1,
                "train/loss": 1.0,
                "val/loss": draw(st.floats(0, 9)),
                **{f"val/{t}/auroc": math.nan if t in undefined else draw(st.floats(0, 1)) for t in TASKS},
            }
            for epoch in range(epochs)
        )
        best = draw(st.integers(1, epochs))
        folds.append(FoldResult(k, f"fold {k}", best, epochs, "epochs", rows, {}))
    return made_outcome(tuple(folds))


def curves(fold: FoldResult) -> dict[str, list[float]]:
    """The values that are looked at, the higher the better."""
    of_task = {task: [row[f"val/{task}/auroc"] for row in fold.history] for task in TASKS}
    mean = [sum(values) / len(TASKS) for values in zip(*of_task.values(), strict=True)]
    return {**of_task, "mean": mean, "loss": [-row["val/loss"] for row in fold.history]}


def entries(part: dict) -> dict[str, dict]:
    return {**part["tasks"], "mean": part["mean"], "loss": part["loss"]}


@given(outcome=outcomes())
def test_best_is_the_first_highest_value_and_restored_the_value_of_the_restored_epoch(outcome):
    told = json.loads(json_bytes(training_summary(outcome)))
    for name, entry in entries(told["best"]).items():
        restored, values = entries(told["restored"])[name], []
        for fold, best, own in zip(outcome.result.folds, entry["folds"], restored["folds"], strict=True):
            curve = curves(fold)[name]
            assert (best["fold"], own["fold"], own["epoch"]) == (fold.name, fold.name, fold.best_epoch)
            if math.isnan(curve[0]):
                assert best["epoch"] is best["value"] is own["value"] is None
                continue
            sign = -1 if name == "loss" else 1
            assert (best["epoch"], sign * best["value"]) == (curve.index(max(curve)) + 1, max(curve))
            assert sign * own["value"] == curve[fold.best_epoch - 1]
            values.append(best["value"])
        if len(values) < len(outcome.result.folds):
            assert entry["mean"] is None, "a mean over fewer folds is not the mean"
        else:
            np.testing.assert_allclose(entry["mean"], np.mean(values))


@given(outcome=outcomes())
def test_the_summary_holds_curves_configuration_and_size(outcome):
    result, told = outcome.result, training_summary(outcome)
    assert [line["history"] for line in told["folds"]] == [list(fold.history) for fold in result.folds]
    assert (told["config"], told["experiment"]) == (outcome.config, outcome.config["name"])
    assert (told["rows"], told["groups"]) == (ROWS, len(set(outcome.names.group)))
    assert (told["parameters"], told["seconds"], told["execution"]) == (7, 1.5, result.execution)
    files = told["checkpoints"]["restored"]
    assert {fold: line["epoch"] for fold, line in files.items()} == {f.name: f.best_epoch for f in result.folds}
    assert len({line["file"] for line in files.values()}) == len(result.folds)


@given(outcomes())
def test_more_curves_change_nothing_of_what_is_summarised(outcome):
    """Also where training went on with others."""
    more = [
        replace(
            fold,
            history=tuple(
                {**row, **({f"val/{task}/ap": 0.5 for task in TASKS} if place % 2 == 0 else {})}
                for place, row in enumerate(fold.history)
            ),
        )
        for fold in outcome.result.folds
    ]
    one, other = (training_summary(of) for of in (outcome, made_outcome(tuple(more))))
    kept = set(one) - {"folds", "config"}
    assert json.dumps({k: one[k] for k in kept}, sort_keys=True) == json.dumps(
        {k: other[k] for k in kept}, sort_keys=True
    )
