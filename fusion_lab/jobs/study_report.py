"""What is told of a study at its end, however far it came: on the terminal, in its folder and in its run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from fusion_lab.config import dump_yaml
from fusion_lab.evaluation.predictions import load_predictions
from fusion_lab.experiment import Materials
from fusion_lab.jobs.best import log_best
from fusion_lab.jobs.results import Scored, headline_metric, table
from fusion_lab.jobs.session import STUDY, Session
from fusion_lab.jobs.tell import view_lines
from fusion_lab.report.study import Study as StudyFigures
from fusion_lab.report.study import comparison_png, history_png, parameters_png
from fusion_lab.report.study_page import study_html
from fusion_lab.search.study import INTERRUPTED, REASON, Study
from fusion_lab.tracking import views
from fusion_lab.tracking.descriptions import Scores, data_facts, describe, protocol_sentence

TRIALS_SHOWN = 5
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
PARTS = {"": "mean", "_std": "std", "_ci_low": "ci_low", "_ci_high": "ci_high"}
OPTIMISTIC = "The best of several trials is optimistic: its scores are selected."


def predictions_file(study: Study, number: int) -> Path:
    """Where a trial's predictions of validation and test rows are kept."""
    return study.folder / "predictions" / f"{number:04d}.npz"


def report_study(
    study: Study, materials: Materials, baselines: Sequence[Scored], place: Session, again: str
) -> list[str]:
    """Writes ``best.yaml``, gives the study's run its figures and scores, and returns the lines to be shown."""
    complete = [t for t in study.trials() if t.state == TrialState.COMPLETE and t.value is not None]
    if not complete:
        return ["no trial is complete yet: the same command continues"]
    ranked = sorted(complete, key=lambda t: (-_value(t), t.number))[:TRIALS_SHOWN]
    trials = [
        Scored.of(f"trial {t.number}", "trial", load_predictions(predictions_file(study, t.number)), materials)
        for t in ranked
    ]
    best_file = study.folder / "best.yaml"
    best_file.write_text(dump_yaml(study.experiment_of(ranked[0]).resolved()))
    _log_scores(place, ranked[0], trials[0])
    _log_pages(study, materials, trials, baselines, place)
    _describe(study, materials, trials[0], baselines, place, again)
    place.run.file(best_file)
    log_best(place.run, study.folder / "best")
    place.run.flush()
    return [*_tables(trials, baselines), "", *_where(best_file, place, study.name)]


def save_study_view(study: Study, place: Session) -> None:
    """The link that a person gets: trials and baselines sorted by score, with the settings that were searched."""
    monitor = study.base.training.monitor
    metric = "objective" if monitor == "loss" else f"val/{monitor}"
    metrics = [metric, f"{metric}_ci_low", f"{metric}_ci_high"]
    searched = sorted({name.split("@")[0] for name in study.space.names()})
    only = f"tags.`{STUDY}` = '{study.name}'"
    state = views.table(metrics, ["model.family", *searched], metric, search=only)
    views.save_view(place.store, place.experiment_id, study.name, f"study {study.name}", state)


def _tables(trials: Sequence[Scored], baselines: Sequence[Scored]) -> list[str]:
    chosen = Scored(f"{trials[0].name} (selected)", "trial", trials[0].scores, trials[0].summary)
    rows = sorted([*trials, *baselines], key=lambda row: -_or_lowest(row.value("val", headline_metric(row))))
    return [
        "",
        "validation scores, mean over tasks and folds (trials were selected by them):",
        *table(rows, "val"),
        "",
        "out-of-fold test scores (selected: the configuration was chosen on the same folds):",
        *table([chosen, *baselines], "test"),
    ]


def _where(best_file: Path, place: Session, name: str) -> list[str]:
    return [
        f"best configuration: {best_file}",
        f"reproduce it:       fusion-lab train --experiment {best_file}",
        *view_lines(place, name),
    ]


def _log_scores(place: Session, best: FrozenTrial, winner: Scored) -> None:
    for split, prefix in (("val", "val"), ("test", "selected/test")):
        for metric in ("auroc", "ap", "f1", "r2"):
            line = winner.line(split, metric)
            if line is not None:
                values = {f"{prefix}/{metric}{suffix}": float(line[part]) for suffix, part in PARTS.items()}
                place.run.metrics(values)
    place.run.metrics({"objective": _value(best), "best_trial": best.number})


def _log_pages(
    study: Study, materials: Materials, trials: Sequence[Scored], baselines: Sequence[Scored], place: Session
) -> None:
    figures, run = _figures(study, [*trials, *baselines]), place.run
    run.bytes("study/history.png", lambda: history_png(figures))
    run.bytes("study/comparison.png", lambda: comparison_png(figures))
    run.bytes("study/parameters.png", lambda: parameters_png(figures))
    run.bytes("study/study.html", lambda: study_html(figures, materials.notes).encode())


def _figures(study: Study, rows: Sequence[Scored]) -> StudyFigures:
    ended = [t for t in study.trials() if t.state in STATES and t.user_attrs.get(REASON) != INTERRUPTED]
    lines = [(row, row.line("val", headline_metric(row))) for row in rows]
    scores = [
        {"name": row.name, "kind": row.kind, **line[["mean", "ci_low", "ci_high"]].to_dict()}
        for row, line in lines
        if line is not None
    ]
    trials = [{"number": t.number, "value": _value(t), "state": STATES[t.state]} for t in ended]
    return StudyFigures(
        name=study.name,
        metric=study.base.training.monitor,
        trials=pd.DataFrame(trials),
        params=pd.DataFrame([t.params for t in ended]),
        scores=pd.DataFrame(scores),
        importance=pd.Series(study.importance(), dtype=float),
        log=study.space.logarithmic(),
    )


def _describe(
    study: Study, materials: Materials, winner: Scored, baselines: Sequence[Scored], place: Session, again: str
) -> None:
    searched = ", ".join(f"`{name}`" for name in study.space.names())
    what = f"{study.base.description}\n\nA search of {len(study.ended())} trials over {searched}; best: {winner.name}."
    beside = Scores(baselines[0].name, baselines[0].summary) if baselines else None
    protocol = protocol_sentence(materials.folds, study.base.folds.seed)
    notes = [*materials.folds.notes, OPTIMISTIC]
    scores = Scores(winner.name, winner.summary)
    place.run.describe(describe(what, data_facts(materials.dataset), protocol, again, scores, beside, "val", notes))


def _value(trial: FrozenTrial) -> float:
    """The trial's value; of a pruned one the last that it reported."""
    if trial.value is not None:
        return float(trial.value)
    return float(trial.intermediate_values[max(trial.intermediate_values)]) if trial.intermediate_values else math.nan


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
