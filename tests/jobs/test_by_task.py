"""What is told of each task by itself."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fusion_lab.contracts import Spec, Task
from fusion_lab.jobs.by_task import MOST_TASKS, guessing_lines, task_lines, task_scores

COLUMNS = ("split", "task", "metric", "mean", "ci_low", "ci_high", "pooled", "pooled_ci_low", "pooled_ci_high")


class Scored:
    """The summary of one, which is all that is asked of it."""

    def __init__(self, *lines: tuple[object, ...]) -> None:
        self.summary = pd.DataFrame(lines, columns=list(COLUMNS))


def task(name: str, kind: str = "binary", auxiliary: str = "") -> Task:
    return Task(name, kind, () if kind == "regression" else ("no", "yes"), auxiliary=auxiliary)


def told(*tasks: Task, lines: tuple[tuple[object, ...], ...]) -> list[str]:
    return task_lines(task_scores(Scored(*lines), Spec((), tasks), "test"), "test")


GOOD = ("test", "place", "auroc", 0.7, 0.6, 0.8, 0.71, 0.6, 0.8)
GUESSED = ("test", "mood", "auroc", 0.56, 0.44, 0.68, 0.55, 0.45, 0.65)


def test_tasks_whose_interval_holds_what_guessing_gives_are_named():
    lines = told(task("place"), task("mood", auxiliary="mood"), lines=(GOOD, GUESSED))
    assert lines[2].split() == ["place", "AUROC", "0.700", "0.600", "to", "0.800"]
    assert lines[3].split() == ["mood", "(auxiliary)", "AUROC", "0.560", "0.440", "to", "0.680"]
    assert lines[-1] == "not told apart from guessing (AUROC 0.5): mood"


def test_a_single_task_is_in_the_table_above_already():
    assert told(task("place"), lines=(GOOD,)) == []
    assert told(task("mood"), lines=(GUESSED,)) == ["not told apart from guessing (AUROC 0.5): mood"]


def test_scores_of_other_splits_and_metrics_are_not_looked_at():
    others = (("val", *GUESSED[1:]), ("test", "mood", "ap", *GOOD[3:]))
    scores = task_scores(Scored(GOOD, GUESSED, *others), Spec((), (task("place"), task("mood"))), "test")
    assert [(score.metric, score.value) for score in scores] == [("auroc", 0.7), ("auroc", 0.56)]


def test_a_score_that_a_fold_leaves_undefined_is_that_of_all_rows_together():
    undefined = ("test", "mood", "auroc", np.nan, np.nan, np.nan, 0.7, 0.6, 0.8)
    (score,) = task_scores(Scored(undefined), Spec((), (task("mood"),)), "test")
    assert (score.value, score.low, score.high, score.guessed) == (0.7, 0.6, 0.8, False)


def test_a_score_that_is_nowhere_defined_is_told_as_such():
    nothing = ("test", "mood", "auroc", *[np.nan] * 6)
    assert told(task("place"), task("mood"), lines=(GOOD, nothing))[3].split() == ["mood", "AUROC", "undefined"]


@pytest.mark.parametrize(("low", "guessed"), [(-0.1, True), (0.0, True), (0.01, False), (math.nan, False)])
def test_a_regression_goes_by_r2_and_without_an_interval_nothing_is_said(low, guessed):
    line = ("test", "dose", "r2", 0.2, low, 0.5, 0.2, low, 0.5)
    found = list(guessing_lines(task_scores(Scored(line), Spec((), (task("dose", "regression"),)), "test")))
    assert found == (["not told apart from guessing (R2 0): dose"] if guessed else [])


def test_of_many_tasks_the_first_are_shown_and_all_are_judged():
    names = [f"t{i}" for i in range(MOST_TASKS + 3)]
    lines = told(*map(task, names), lines=tuple(("test", name, *GUESSED[2:]) for name in names))
    assert f"t{MOST_TASKS - 1}" in lines[-3] and lines[-2] == "and 3 tasks more"
    assert lines[-1].endswith(", ".join(names[-3:]))
