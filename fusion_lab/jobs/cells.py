"""What the cells of a sweep share and leave behind: materials that are loaded once, a folder for each cell, and what
their runs and the sweep's are told of them.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_lab.contracts import Predictions, content_hash
from fusion_lab.evaluation.predictions import load_predictions, save_predictions
from fusion_lab.experiment import Experiment, Materials
from fusion_lab.jobs.results import Scored
from fusion_lab.report.comparison import Report
from fusion_lab.search.sweep import Cell
from fusion_lab.tracking.descriptions import Scores, data_facts, describe, protocol_sentence

GROUP_TAG, CELL_TAG, SAME_TAG, REFERENCE_TAG = (f"fusion_lab.{n}" for n in ("group", "cell", "same_as", "reference"))
"""Tags of a cell's run: its group, its name in the group, the cell that is the same, and ``true`` where others are held
against it, ``false`` where they no longer are."""
CELL = "cell"
"""The kind of a cell's run, and of its line in the comparison."""
PREDICTIONS, RESULT = "predictions.npz", "result.json"
"""Files of a cell that is finished; the second is written last."""


class Shelf:
    """Materials by the settings that they are made from: loaded once, and given away after their last use."""

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        self._uses = Counter(_made_from(experiment) for experiment in experiments)
        self._loaded: dict[str, Materials] = {}

    def get(self, experiment: Experiment) -> Materials:
        """The materials of an experiment.

        Raises:
            DataError: an input that cannot be used, or an impossible split.
        """
        key = _made_from(experiment)
        if key not in self._loaded:
            self._loaded[key] = Materials.load(experiment)
        return self._loaded[key]

    def release(self, experiment: Experiment) -> None:
        """One of the experiments is done with its materials."""
        key = _made_from(experiment)
        self._uses[key] -= 1
        if not self._uses[key]:
            self._loaded.pop(key, None)


def _made_from(experiment: Experiment) -> str:
    return content_hash(experiment.model_dump(mode="json", include={"data", "folds"}))


@dataclass(frozen=True)
class Done:
    """A finished cell. ``facts``: its fingerprint, its run, and the numbers parameters, seconds and best_epoch."""

    predictions: Predictions
    facts: Mapping[str, Any]

    @property
    def numbers(self) -> dict[str, float]:
        return {name: float(self.facts[name]) for name in ("parameters", "seconds", "best_epoch")}


def save_cell(folder: Path, done: Done) -> None:
    """Leaves a finished cell in its folder, whole or not at all."""
    (folder / RESULT).unlink(missing_ok=True)  # else it would vouch for predictions that are not its own
    save_predictions(done.predictions, folder / PREDICTIONS)
    half = folder / f"{RESULT}.part"
    half.write_text(json.dumps(dict(done.facts)))
    os.replace(half, folder / RESULT)


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether the folder holds a cell of this very configuration, data and folds."""
    file = folder / RESULT
    if not (file.is_file() and (folder / PREDICTIONS).is_file()):
        return False
    return json.loads(file.read_text())["fingerprint"] == fingerprint


def load_cell(folder: Path, fingerprint: str) -> Done | None:
    """What :func:`save_cell` left; ``None`` where that is another configuration, or nothing."""
    if not is_finished(folder, fingerprint):
        return None
    return Done(load_predictions(folder / PREDICTIONS), json.loads((folder / RESULT).read_text()))


def cell_description(cell: Cell, sweep: str, materials: Materials, scored: Scored, again: str, same: str = "") -> str:
    """A cell's run in words; ``sweep`` is its sweep's name, ``same`` the cell that is the same configuration."""
    experiment = cell.experiment
    settings = ", ".join(f"`{path}`: {json.dumps(value)}" for path, value in cell.settings.items())
    twin = f" The same configuration as {same}, which was computed once." if same else ""
    what = f"Cell {cell.label} of sweep {sweep}, group {cell.group} ({settings}).{twin} Its whole experiment, for"
    what = f"{what} `fusion-lab train --experiment`, is `config.yaml` among its files."
    protocol = protocol_sentence(materials.folds, experiment.folds.seed, experiment.training.restore)
    scores = Scores(f"{cell.label} (selected)" if experiment.selected else cell.label, scored.summary)
    facts = data_facts(materials.dataset)
    return describe(what, facts, protocol, again, scores, split="test", notes=materials.folds.notes)


def best_cell(report: Report) -> str:
    """Name of the cell with the highest validation headline, "" where none has one; test rows have no say."""
    if report.comparison is None:
        return ""
    found = {}
    for name in dict.fromkeys(line.entry for line in report.lines if line.kind == CELL and line.entry):
        standing = report.comparison.standing(name, report.headline.key, "val")
        if standing is not None and math.isfinite(standing.value):
            found[name] = standing.value
    return max(found, key=lambda name: found[name], default="")


def sweep_metrics(report: Report) -> dict[str, float]:
    """How many cells there are and are missing, and the scores of :func:`best_cell` under the names that a study's best
    trial has.
    """
    cells, best = [line for line in report.lines if line.kind == CELL], best_cell(report)
    missing = sum(not line.entry for line in cells)
    metrics: dict[str, float] = {"cells_finished": len(cells) - missing, "cells_missing": missing}
    if not best or report.comparison is None:
        return metrics
    for split, shown in (("val", "val"), ("test", "test_selected")):
        for measure in report.comparison.measures:
            standing = report.comparison.standing(best, measure.key, split)
            if standing is None:
                continue
            name = f"{shown}/{measure.key}{'_pooled' if standing.pooled else ''}"
            found = {name: standing.value, f"{name}_ci_low": standing.low, f"{name}_ci_high": standing.high}
            metrics |= {name: value for name, value in found.items() if math.isfinite(value)}
            if (split, measure.key) == ("val", report.headline.key):
                metrics["objective"] = standing.value
    return metrics
