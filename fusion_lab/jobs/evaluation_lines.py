"""An evaluation in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fusion_lab.contracts import Spec, Task
from fusion_lab.evaluation.calibration import Calibration
from fusion_lab.jobs.results import NAMES, metric_name
from fusion_lab.report.style import counted
from fusion_lab.training.probe import BATCH, Latency

MOST_LINES = 6
"""Subsets of a task that are shown, and modalities whose importance is."""

TOLD = ("accuracy", "f1", "auroc", "r2", "mae")


def calibration_lines(found: Mapping[str, Calibration], bins: int) -> list[str]:
    """A line per task."""
    return [
        f"{_head('calibration of test rows', task, found)} ({bins} bins): ECE {_both(of, 'ece')}, "
        f"MCE {_both(of, 'mce')}, NLL {_both(of, 'nll')} with {_temperature(of)}"
        for task, of in found.items()
    ]


def recording_lines(found: Mapping[str, Mapping[str, Any]], rows: int, spec: Spec) -> list[str]:
    """A line per task, and one for recordings that have no label of their own."""
    lines = []
    for task, of in found.items():
        scores = ", ".join(f"{_name(metric, spec.task(task))} {_number(of[metric])}" for metric in TOLD if metric in of)
        head = _head("whole recordings", task, found)
        lines.append(f"{head} ({of['recordings']} with a label; {counted(rows, 'test row')}): {scores}")
        mixed = len(of["with_differing_labels"])
        if mixed:
            hold = f"{counted(mixed, 'recording')} {'holds' if mixed == 1 else 'hold'}"
            lines.append(f"note: {hold} different labels of {task}: no label as a whole, and no part in these scores")
    return lines


def subset_lines(payload: Mapping[str, Any], spec: Spec) -> list[str]:
    """Per task: all modalities, single ones and the importance of each, on the test rows of all folds together."""
    lines, names = [], payload["modalities"]
    for task, metric in payload["metric"].items():
        shown = [("all modalities", payload["full_modalities"])]
        single = payload["single_modalities"].items()
        ranked = sorted(single, key=lambda pair: -_or_lowest(pair[1]["tasks"][task][metric]["pooled"]))
        if len(names) > 1:
            shown += [(f"{name} alone", line) for name, line in ranked[: MOST_LINES - 1]]
        width = max(len(label) for label, _ in shown)
        head = _head("some modalities only, all folds' test rows together", task, payload["metric"])
        lines.append(f"{head}: {payload['note'] or counted(len(payload['all_combinations']), 'subset')}")
        lines += [f"  {label.ljust(width)}  {_line_scores(line, spec.task(task))}" for label, line in shown]
        called = _name(metric, spec.task(task))
        lines += _importance_lines(payload["modality_importance"][task], payload["modality_gain"][task], called)
    return lines


def uncertainty_lines(payload: Mapping[str, Any], spec: Spec) -> list[str]:
    """A line per task."""
    lines, passes = [], f"{payload['passes']} {'pass' if payload['passes'] == 1 else 'passes'}"
    for task, of in payload["tasks"].items():
        head = _head(f"MC dropout, {passes}", task, payload["tasks"])
        told = ", ".join(
            f"{_name(name, spec.task(task))} {_number(of['mean'][name])} ({_number(of['deterministic'][name])} without)"
            for name in ("accuracy", "r2", "nll", "ece")
            if name in of["mean"]
        )
        errors = of["errors"]
        if "wrong" in errors:
            found = (
                f"AUROC for the {errors['wrong']} of {counted(errors['rows'], 'label')} that the most probable class "
                f"misses: entropy {_number(errors['auroc_entropy'])}, mutual information "
                f"{_number(errors['auroc_mutual_information'])}"
            )
        else:
            found = f"rank correlation of deviation and error {_number(errors['rank_correlation_with_error'])}"
        lines.append(f"{head}: {told}; {found}")
    return lines


def latency_lines(latency: Latency) -> list[str]:
    threads = counted(latency.threads, "thread")
    return [
        f"latency of one row on {latency.device}, {threads}: median {latency.median:.2f} ms, 95 % below "
        f"{latency.p95:.2f} ms; {latency.rows_per_second:,.0f} rows per second in batches of {BATCH}"
    ]


def _importance_lines(importance: Mapping[str, float], gain: Mapping[str, float], called: str) -> list[str]:
    if not all(math.isfinite(value) for value in importance.values()):
        return []
    ranked = sorted(importance, key=lambda name: -importance[name])
    told = ", ".join(f"{name} {importance[name]:.2f} ({gain[name]:+.3f})" for name in ranked[:MOST_LINES])
    more = f", and {len(ranked) - MOST_LINES} more" if len(ranked) > MOST_LINES else ""
    return [f"  importance (and gain in {called}): {told}{more}"]


def _line_scores(line: Mapping[str, Any], task: Task) -> str:
    scores = {metric: of["pooled"] for metric, of in line["tasks"][task.name].items()}
    told = "  ".join(f"{_name(metric, task)} {_number(scores[metric])}" for metric in TOLD if metric in scores)
    empty = line["rows_without_any"]
    return f"{told}  ({counted(empty, 'row')} without any of it)" if empty else told


def _both(found: Calibration, name: str) -> str:
    return f"{_number(getattr(found.before, name))} -> {_number(getattr(found.after, name))}"


def _temperature(found: Calibration) -> str:
    values = [fold.temperature for fold in found.folds]
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"temperature {low}" if low == high else f"temperatures {low} to {high}"


def _head(what: str, task: str, tasks: Mapping[str, Any]) -> str:
    """The task is named where there are several."""
    return f"{what}, {task}" if len(tasks) > 1 else what


def _name(metric: str, task: Task) -> str:
    return metric_name(metric, (task,)) if metric in NAMES else metric.upper()


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "undefined"


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
