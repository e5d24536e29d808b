"""A run's description: what a person wants to read first, as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from fusion_lab.contracts import Dataset, Folds
from fusion_lab.tracking.names import TAG_LENGTH, truncated
from fusion_lab.tracking.provenance import class_table, dataset_digest, modality_table

SPLITS = {"val": "validation rows", "test": "test rows (out of fold)"}
NAMES = {
    "auroc": "AUROC",
    "ap": "average precision",
    "min_ap": "lowest average precision",
    "f1": "F1",
    "accuracy": "accuracy",
    "r2": "R²",
    "mae": "MAE",
    "rmse": "RMSE",
}
DECIDE = {"best": "stop the training and tune thresholds", "last": "tune thresholds"}
"""What validation rows do, by the weights that a fold keeps."""
_UNKNOWN = "(unknown)"
"""What :func:`~fusion_lab.tracking.provenance.class_table` calls rows without a label."""


@dataclass(frozen=True)
class DataFacts:
    """What a reader should know of a data set; see :func:`data_facts`."""

    rows: int
    groups: int | None
    classes: pd.DataFrame
    modalities: pd.DataFrame
    digest: str
    notes: tuple[str, ...] = ()
    auxiliary: frozenset[str] = frozenset()  # tasks that are in no mean over tasks

    @property
    def multiclass(self) -> frozenset[str]:
        """Tasks of more than two classes, whose F1 is a mean over them; ``""``, the mean over main tasks, if all of
        these are such.
        """
        named = self.classes[self.classes["class"] != _UNKNOWN]
        counts = named.groupby("task")["class"].count()
        several = frozenset(counts[counts > 2].index)
        return several | {""} if set(counts.index) - self.auxiliary <= several else several


@dataclass(frozen=True)
class Scores:
    """Whose scores, and their summary, as :class:`fusion_lab.tracking.trial.Outcome` has it."""

    name: str
    summary: pd.DataFrame


def data_facts(dataset: Dataset) -> DataFacts:
    """Gathers them; once per study, not per trial."""
    groups = None if dataset.group is None else len(np.unique(dataset.group))
    tables = class_table(dataset), modality_table(dataset)
    auxiliary = frozenset(task.name for task in dataset.spec.tasks if task.auxiliary)
    return DataFacts(len(dataset), groups, *tables, dataset_digest(dataset)[:12], dataset.provenance.notes, auxiliary)


def protocol_sentence(folds: Folds, seed: int, restore: Literal["best", "last"] = "best") -> str:
    """How the rows were split, in a sentence; ``restore``: which epoch's weights a fold keeps, the last one whatever
    its validation rows say.
    """
    sizes = (round(float(part.sum(1).mean())) for part in (folds.train, folds.val, folds.test))
    train, val, test = sizes
    locked = int(folds.holdout.sum())
    kept = f"; {locked} rows are locked away and in no fold" if locked else ""
    return (
        f"{len(folds)} folds, {folds.protocol}, seed {seed}: on average {train} rows train, {val} {DECIDE[restore]},"
        f" {test} are predicted out of fold{kept}."
    )


def describe(
    what: str,
    data: DataFacts,
    protocol: str,
    command: str,
    scores: Scores | None = None,
    baseline: Scores | None = None,
    split: str = "val",
    notes: Sequence[str] = (),
) -> str:
    """Markdown: what was run, on which data, how, the result beside the best baseline, and how to do it again."""
    sections = [what.strip()]
    if scores is not None:
        sections.append(
            f"### Result on {SPLITS.get(split, split)}\n{result_table(scores, baseline, split, data.multiclass)}"
        )
    noted = [*_undefined(scores, split, data.multiclass), *notes, *data.notes]
    if noted:
        sections.append("### To keep in mind\n" + "\n".join(f"- {_line(note)}" for note in dict.fromkeys(noted)))
    sections.append(f"### Data\n{_data_text(data)}")
    sections.append(f"### Protocol\n{protocol}")
    sections.append(f"### Do it again\n```\n{command}\n```")
    return _fitting(sections)


def result_table(scores: Scores, baseline: Scores | None, split: str, multiclass: Collection[str] = ()) -> str:
    """A line per task and metric: mean over folds, deviation, 95 % interval, and the baseline's beside it. Where a fold
    leaves the mean undefined, the score of all folds' rows together. ``multiclass``: see :class:`DataFacts`.
    """
    heads = ["task", "metric", _cell(scores.name), *([f"baseline {_cell(baseline.name)}"] if baseline else [])]
    lines = [heads, ["---"] * len(heads)]
    others = {} if baseline is None else {(o["task"], o["metric"]): o for o in _of(baseline.summary, split)}
    for line in _of(scores.summary, split):
        task = _cell(line["task"]) if line["task"] else _of_all_tasks(line["metric"])
        other = others.get((line["task"], line["metric"]))
        beside = [] if baseline is None else ["–" if other is None else f"{_mean(other)} {_interval(other)}"]
        lines.append([task, _name(line, multiclass), f"**{_mean(line)}** {_interval(line)}", *beside])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _of_all_tasks(metric: str) -> str:
    return "lowest of the tasks" if metric == "min_ap" else "mean over tasks"


def _of(summary: pd.DataFrame, split: str) -> list[dict[str, Any]]:
    """The lines that a description shows: the mean over tasks first."""
    lines = summary.to_dict(orient="records")
    shown = [line for line in lines if line["split"] == split and line["metric"] in NAMES]
    return sorted(shown, key=lambda line: line["task"] != "")


def _name(line: dict[str, Any], multiclass: Collection[str]) -> str:
    macro = line["metric"] == "f1" and line["task"] in multiclass
    return f"macro {NAMES['f1']}" if macro else NAMES[line["metric"]]


def _mean(line: dict[str, Any]) -> str:
    if not np.isfinite(line["mean"]):
        pooled = line.get("pooled", np.nan)
        return f"pooled {pooled:.3f}" if np.isfinite(pooled) else "undefined"
    return f"{line['mean']:.3f} ± {line['std']:.3f}" if np.isfinite(line["std"]) else f"{line['mean']:.3f}"


def _interval(line: dict[str, Any]) -> str:
    of = "" if np.isfinite(line["mean"]) else "pooled_"
    low, high = (line.get(f"{of}{end}", np.nan) for end in ("ci_low", "ci_high"))
    return f"(95 %: {low:.3f} to {high:.3f})" if np.isfinite(low) else ""


def _undefined(scores: Scores | None, split: str, multiclass: Collection[str]) -> list[str]:
    if scores is None or "undefined" not in scores.summary:
        return []
    missing = [line for line in _of(scores.summary, split) if line["task"] and line["undefined"]]
    return [
        f"{_name(line, multiclass)} of {_cell(line['task'])} is undefined in {line['undefined']} "
        f"fold{'' if line['undefined'] == 1 else 's'}: "
        + ("pooled is the score of all folds' rows together." if np.isfinite(line["pooled"]) else "no mean is shown.")
        for line in missing
    ]


def _data_text(data: DataFacts) -> str:
    groups = f" in {data.groups} groups" if data.groups is not None else ""
    classes = []
    for task, lines in data.classes.groupby("task", sort=False):
        counts = (f"{_line(name)} {rows}" for name, rows in zip(lines["class"], lines["rows"], strict=True))
        classes.append(f"- {_cell(task)}: {', '.join(counts)}")
    modalities = ["| modality | kind | features | rows | missing |", "| --- | --- | --- | --- | --- |"]
    for name, *facts in data.modalities.itertuples(index=False, name=None):
        modalities.append(f"| {' | '.join([_cell(name), *map(str, facts)])} |")
    head = f"{data.rows} rows{groups}, content hash `{data.digest}`. Rows per class:"
    return "\n".join([head, *classes, "", *modalities])


def _cell(text: object) -> str:
    """A name of the user's, which may hold what Markdown would read."""
    return f"`{_line(text).replace('`', chr(39)).replace('|', '/')}`"


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _fitting(sections: list[str]) -> str:
    """The sections, the longest one cut where MLflow's limit asks for it."""
    text = "\n\n".join(sections)
    if len(text) <= TAG_LENGTH:
        return text
    longest = max(range(len(sections)), key=lambda i: len(sections[i]))
    room = TAG_LENGTH - (len(text) - len(sections[longest]))
    sections[longest] = truncated(sections[longest], max(room, 200))
    return truncated("\n\n".join(sections), TAG_LENGTH)
