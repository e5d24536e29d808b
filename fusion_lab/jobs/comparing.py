"""A comparison from entries to its page: what ``sweep`` and ``compare`` end with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fusion_lab.contracts import Spec, Task, UserError
from fusion_lab.evaluation.comparison import compare, measures
from fusion_lab.evaluation.entries import Entry
from fusion_lab.jobs.results import NAMES, headline_metric, headline_name, metric_name, score_key
from fusion_lab.report.comparison import Line, Report, comparison_dict, comparison_frame, comparison_png
from fusion_lab.report.comparison_page import comparison_html
from fusion_lab.tracking.runs import Run, json_bytes
from fusion_lab.training.plan import Goal

FILES = ("comparison.html", "comparison.png", "comparison.csv", "comparison.json")
MORE_NAMES = {"log_loss": "log loss"}


def made_report(
    title: str, lines: Sequence[Line], entries: Sequence[Entry], reference: str, goal: Goal | str, notes: Sequence[str]
) -> Report:
    """The comparison of entries that predict the same tasks with the one called ``reference``, by the scores that
    ``goal`` has comparisons go by.
    """
    if not entries:
        return Report(title, tuple(lines), None, {}, (), tuple(notes))
    tasks = entries[0].tasks
    spec = Spec((), tasks)
    headline = {task.name: headline_metric(task, goal) for task in tasks}
    every = measures(tasks, headline, score_key(spec, goal), Goal.of(goal).min_weight)
    names = {measure.key: _called(measure.key, spec.main_tasks) for measure in every[1:]}
    names[every[0].key] = headline_name(spec, goal)
    base = next(entry for entry in entries if entry.name == reference)
    folds = base.folds.names or tuple(f"fold {k}" for k in range(base.count))
    return Report(title, tuple(lines), compare(entries, every, reference), names, folds, (_rows(base), *notes))


def _rows(base: Entry) -> str:
    """What the scores are of."""
    rows, groups = (
        len(base.rows.name),
        f" of {len(np.unique(base.rows.unit)):,} groups" if base.group is not None else "",
    )
    protocol = f" ({base.folds.protocol})" if base.folds.protocol else ""
    return f"{base.count} folds{protocol}; {base.name} is scored on {rows:,} test rows{groups}."


def _called(metric: str, tasks: Sequence[Task]) -> str:
    return metric_name(metric, tasks) if metric in NAMES else MORE_NAMES.get(metric, metric)


def log_report(run: Run, report: Report) -> None:
    """Gives a run the page, its picture and its tables."""
    for name, content in _contents(report).items():
        run.bytes(f"comparison{name}", content)


def save_report(report: Report, page: Path) -> list[Path]:
    """Writes the page, and picture and tables beside it under the same name, each whole or not at all.

    Raises:
        UserError: they cannot be written.
    """
    files = []
    for ending, content in _contents(report).items():
        file = page.with_suffix(ending)
        half = file.with_name(f"{file.name}.part")
        try:
            half.write_bytes(content())
            os.replace(half, file)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise UserError(f"{file}: expected a file that can be written, found: {error.strerror}") from None
        files.append(file)
    return files


def _contents(report: Report):
    return {
        ".html": lambda: comparison_html(report).encode(),
        ".png": partial(comparison_png, report),
        ".csv": lambda: comparison_frame(report).to_csv(index=False).encode(),
        ".json": lambda: json_bytes(comparison_dict(report)),
    }
