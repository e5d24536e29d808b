"""One configuration cross-validated into a run: what a training and a cell of a sweep have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from fusion_lab.config import dump_yaml, flatten
from fusion_lab.contracts import Predictions
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.experiment import Experiment, Materials
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.results import Scored, watched_name
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.predictions import RowNames
from fusion_lab.tracking.provenance import dataset_input, environment
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.trial import (
    EXECUTION,
    Outcome,
    fold_metrics,
    log_cross_validation,
    log_predictions,
    summary_metrics,
)
from fusion_lab.training import CrossValidation, cross_validate

SPLITS = ("val", "test")


def cross_validate_in(
    run: Run, chosen: Experiment, materials: Materials, name: str, progress: Progress, checkpoint: Path
) -> CrossValidation:
    """Trains all folds, from the checkpoint if there is one, shown under ``name``; the run knows before what it is of.

    Raises:
        Diverged: a loss that is no number any more.
    """
    plan = materials.plan(chosen)
    describe_run(run, chosen, materials)
    if checkpoint.exists():
        progress.line(f"continues from {checkpoint}")
    score = watched_name(materials.spec, chosen.training.goal)
    return cross_validate(plan, progress.watch(name, score=score), checkpoint)


def describe_run(run: Run, chosen: Experiment, materials: Materials) -> None:
    """What the run is of: fingerprint, environment and data."""
    run.params({"fingerprint": materials.fingerprint(chosen)})
    run.json("environment.json", environment())
    run.inputs([dataset_input(chosen.name, materials.dataset)])


def log_configuration(
    run: Run,
    chosen: Experiment,
    materials: Materials,
    result: CrossValidation,
    scored: Scored,
    keep_checkpoints: bool = False,
) -> Outcome:
    """Gives the run everything but figures: scores of validation and test rows, curves, predictions, maps."""
    scores, summary, splits = _shown(chosen, scored)
    outcome = outcome_of(chosen, materials, result, scores, summary)
    log_cross_validation(run, outcome, splits, keep_checkpoints=keep_checkpoints)
    run.metrics({"objective": scored.value("val")})
    run.tags({EXECUTION: result.execution})
    return outcome


def _shown(chosen: Experiment, scored: Scored) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Scores, their summary and the splits: optimistic test scores do not stand among the clean ones under the same
    name.
    """
    shown = {"test": "test_selected"} if chosen.selected else {}
    scores, summary = (frame.replace({"split": shown}) for frame in (scored.scores.table, scored.summary))
    return scores, summary, [shown.get(split, split) for split in SPLITS]


def outcome_of(
    chosen: Experiment, materials: Materials, result: CrossValidation, scores: pd.DataFrame, summary: pd.DataFrame
) -> Outcome:
    """A configuration with its result and all that is known of its rows."""
    names, folds = names_and_folds(chosen, materials)
    return Outcome(result, materials.spec, scores, summary, chosen.resolved(), names, folds)


def names_and_folds(chosen: Experiment, materials: Materials) -> tuple[RowNames, FoldFacts]:
    """What stands beside predictions, so that they can be compared without the data."""
    dataset = materials.dataset
    facts = FoldFacts.of(materials.folds, dataset.provenance.digest, chosen.folds.seed)
    return RowNames.of(dataset), facts


def log_known(
    run: Run,
    chosen: Experiment,
    materials: Materials,
    predictions: Predictions,
    scored: Scored,
    facts: Mapping[str, float],
) -> None:
    """Gives a run what is left of a configuration that was computed before: settings, scores and predictions, and the
    numbers ``facts``.
    """
    describe_run(run, chosen, materials)
    tasks = safe_parts(task.name for task in materials.spec.tasks)
    scores, summary, splits = _shown(chosen, scored)
    run.params(flatten(chosen.resolved()))
    run.metrics(fold_metrics(scores, splits, tasks) | summary_metrics(summary, splits, tasks))
    run.metrics({"objective": scored.value("val"), **facts})
    run.text("config.yaml", dump_yaml(chosen.resolved()))
    run.text("scores.csv", scores[scores["split"].isin(splits)].to_csv(index=False))
    log_predictions(run, predictions, materials.spec, *names_and_folds(chosen, materials))
