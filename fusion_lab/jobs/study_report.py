"""What is told of a study at its end, however far it came: on the terminal, in its folder and in its run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from fusion_lab.config import dump_yaml
from fusion_lab.contracts import Spec
from fusion_lab.evaluation.folds import ALL_TASKS
from fusion_lab.evaluation.predictions import load_predictions
from fusion_lab.experiment import Materials
from fusion_lab.jobs.kept import how_many, kept_folder, log_kept
from fusion_lab.jobs.results import NAMES, Scored, best_first, fairest, headline_key, headline_name, table
from fusion_lab.jobs.session import STUDY, Session
from fusion_lab.jobs.tell import view_lines
from fusion_lab.report.study import Study as StudyFigures
from fusion_lab.report.study import comparison_png, history_png, parameters_png
from fusion_lab.report.study_page import study_html
from fusion_lab.search.study import INTERRUPTED, REASON, RUN, Study
from fusion_lab.tracking import views
from fusion_lab.tracking.descriptions import Scores, data_facts, describe, protocol_sentence
from fusion_lab.tracking.trial import summary_metrics
from fusion_lab.training.monitor import score_name
from fusion_lab.training.plan import Goal

TRIALS_SHOWN = 5
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
OPTIMISTIC = "The best of several trials is optimistic: its scores are selected."


def predictions_file(study: Study, number: int) -> Path:
    """Where a trial's predictions of validation and test rows are kept."""
    return study.folder / "predictions" / f"{number:04d}.npz"


def report_study(
    study: Study, materials: Materials, baselines: Sequence[Scored], place: Session, again: str
) -> list[str]:
    """Writes ``best.yaml``, gives the study's run its figures and scores, and returns the lines to be shown."""
    ranked = study.ranked()
    if not ranked:
        failed = [t for t in study.ended() if t.state == TrialState.FAIL]
        reasons = dict.fromkeys(str(t.user_attrs.get(REASON)) for t in failed)
        return ["no trial is complete yet: the same command continues", *(f"failed: {why}" for why in reasons)]
    goal = study.base.training.goal
    winner = _scored(study, ranked[0], materials, goal, ("val", "test"))
    trials = [winner, *(_scored(study, t, materials, goal, ("val",)) for t in ranked[1:TRIALS_SHOWN])]
    best_file = study.folder / "best.yaml"
    best_file.write_text(dump_yaml(study.experiment_of(ranked[0]).resolved()))
    _log_scores(place, ranked[0], winner)
    _log_pages(study, materials, trials, baselines, place)
    _describe(study, materials, winner, baselines, place, again)
    place.run.file(best_file)
    _log_kept(study, ranked, place)
    place.run.flush()
    return [*_tables(trials, baselines, materials, goal), "", *_where(best_file, place, study.name)]


def _scored(study: Study, trial: FrozenTrial, materials: Materials, goal: Goal, splits: Sequence[str]) -> Scored:
    """A trial's scores; those of test rows for the chosen one only."""
    predictions = load_predictions(predictions_file(study, trial.number))
    shown = predictions.where(np.isin(predictions.split, list(splits)))
    return Scored.of(f"trial {trial.number}", "trial", shown, materials, goal, ("val", "test"))


def _log_kept(study: Study, ranked: Sequence[FrozenTrial], place: Session) -> None:
    """The best trial's weights and pages in the study's run, those of ``top-n`` also in their own."""
    log_kept(place.run, kept_folder(study.folder, ranked[0].number), "best")
    if study.config.keep.startswith("top-"):
        for trial in ranked[: how_many(study.config.keep)]:
            folder, run_id = kept_folder(study.folder, trial.number), trial.user_attrs[RUN]
            if folder.is_dir() and place.store.has_run(run_id):
                log_kept(place.store.run(run_id, place.experiment_id), folder, ".", "checkpoints")


def save_study_view(study: Study, spec: Spec, place: Session, pooled: bool = False) -> None:
    """The link that a person gets: trials and baselines sorted by score, with the settings that were searched.

    ``pooled``: the score has no mean over folds, so that its columns are those of the pooled one.
    """
    metric = headline_key(spec, study.base.training.goal)
    score = f"val/{metric}{'_pooled' if pooled else ''}"
    intervals = [] if metric in ("loss", "score", "macro_plus_min") else [f"{score}_ci_low", f"{score}_ci_high"]
    metrics = ["objective", *intervals]
    searched = sorted({name.split("@")[0] for name in study.space.names()})
    only = f"tags.`{STUDY}` = '{study.name}'"
    state = views.table(metrics, ["model.family", *searched], "objective", search=only)
    views.save_view(place.store, place.experiment_id, study.name, f"study {study.name}", state)


def _tables(trials: Sequence[Scored], baselines: Sequence[Scored], materials: Materials, goal: Goal) -> list[str]:
    watched = "loss" if goal.monitor == "loss" else headline_name(materials.spec, goal)
    return [
        "",
        f"validation scores, mean over tasks and folds; trials were selected by validation {watched}:",
        *table(best_first([*trials, *baselines], "val"), "val", materials.spec, goal),
        "",
        "out-of-fold test scores (selected: the configuration was chosen on the same folds):",
        *table([trials[0], *best_first(baselines, "test")], "test", materials.spec, goal),
    ]


def _where(best_file: Path, place: Session, name: str) -> list[str]:
    return [
        f"best configuration: {best_file}",
        f"reproduce it:       fusion-lab train --experiment {best_file}",
        *view_lines(place, name),
    ]


def _log_scores(place: Session, best: FrozenTrial, winner: Scored) -> None:
    shown = winner.summary[(winner.summary["task"] == ALL_TASKS) & winner.summary["metric"].isin(list(NAMES))]
    named = shown.replace({"split": {"test": "test_selected"}})
    place.run.metrics(summary_metrics(named, ["val", "test_selected"], {}))
    place.run.metrics({"objective": _value(best), "best_trial": best.number})


def _log_pages(
    study: Study, materials: Materials, trials: Sequence[Scored], baselines: Sequence[Scored], place: Session
) -> None:
    figures, run = _figures(study, materials.spec, [*trials, *baselines]), place.run
    run.bytes("study/history.png", lambda: history_png(figures))
    run.bytes("study/comparison.png", lambda: comparison_png(figures))
    run.bytes("study/parameters.png", lambda: parameters_png(figures))
    run.bytes("study/study.html", lambda: study_html(figures, materials.notes).encode())


def _figures(study: Study, spec: Spec, rows: Sequence[Scored]) -> StudyFigures:
    metric = headline_key(spec, study.base.training.goal)
    ended = [t for t in study.trials() if t.state in STATES and t.user_attrs.get(REASON) != INTERRUPTED]
    # a loss has no place on the axis of a score: beside it stand no baselines
    shown = [] if study.base.training.monitor == "loss" else rows
    scores = [
        {"name": row.label("val"), "kind": row.kind, "mean": h.value, "ci_low": h.low, "ci_high": h.high}
        for row, h in ((row, row.headlines["val"]) for row in shown)
    ]
    trials = [{"number": t.number, "value": _value(t), "state": STATES[t.state]} for t in ended]
    return StudyFigures(
        name=study.name,
        metric=score_name(metric),
        trials=pd.DataFrame(trials),
        params=pd.DataFrame([t.params for t in ended]),
        scores=pd.DataFrame(scores, columns=["name", "kind", "mean", "ci_low", "ci_high"]),
        importance=pd.Series(study.importance(), dtype=float),
        log=study.space.logarithmic(),
        pooled=any(row.headlines["val"].undefined for row in shown),
    )


def _describe(
    study: Study, materials: Materials, winner: Scored, baselines: Sequence[Scored], place: Session, again: str
) -> None:
    searched = ", ".join(f"`{name}`" for name in study.space.names())
    what = f"{study.base.description}\n\nA search of {len(study.ended())} trials over {searched}; best: {winner.name}."
    best = fairest(baselines, "val")
    beside = Scores(best.name, best.summary) if best else None
    protocol = protocol_sentence(materials.folds, study.base.folds.seed, study.base.training.restore)
    notes = [*materials.folds.notes, OPTIMISTIC]
    scores = Scores(winner.label("val"), winner.summary)
    place.run.describe(describe(what, data_facts(materials.dataset), protocol, again, scores, beside, "val", notes))


def _value(trial: FrozenTrial) -> float:
    """The trial's value; of a pruned one the last that it reported."""
    if trial.value is not None:
        return float(trial.value)
    return float(trial.intermediate_values[max(trial.intermediate_values)]) if trial.intermediate_values else math.nan
