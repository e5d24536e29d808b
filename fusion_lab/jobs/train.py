"""``train``: cross-validates one experiment and shows it beside the baselines, on validation and test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion_lab.config import parse_overrides
from fusion_lab.experiment import Experiment, Materials, read_experiment
from fusion_lab.jobs.baselines import cross_validate_baselines, log_baselines, score_baselines
from fusion_lab.jobs.progress import Progress, duration
from fusion_lab.jobs.results import Scored, table
from fusion_lab.jobs.session import Session, session
from fusion_lab.jobs.tell import command_line, data_lines, run_lines
from fusion_lab.tracking.descriptions import Scores, data_facts, describe, protocol_sentence
from fusion_lab.tracking.provenance import dataset_input, environment
from fusion_lab.tracking.trial import Outcome, log_cross_validation, log_figures
from fusion_lab.training import CrossValidation, cross_validate

SPLITS = ("val", "test")
STUDIES = Path("studies")


def run(
    experiment: str, data: str | None = None, seed: int | None = None, set: str = "", tracking_uri: str | None = None
) -> CrossValidation:
    """Cross-validates the experiment of this name or path; the same command continues one that was interrupted."""
    overrides: dict[str, Any] = parse_overrides(set)
    if seed is not None:
        overrides["seed"] = seed
    chosen = read_experiment(experiment, overrides, data)
    again = command_line("train", experiment=experiment, data=data, seed=seed, set=set)
    progress = Progress()
    materials = Materials.load(chosen)
    progress.line("\n".join(data_lines(chosen.name, materials)))
    with session(chosen.name, "train", f"train {chosen.name}", tracking_uri) as place:
        baselines = _baselines(chosen, materials, place, progress)
        result = _cross_validate(chosen, materials, place, progress)
        scored = Scored.of(chosen.name, "model", result.predictions, materials)
        _log(chosen, materials, place, result, scored)
        _describe(chosen, materials, place, [scored, *baselines], again)
        place.store.flush()
        seconds = duration(result.seconds)
        progress.line(f"{chosen.name}: {len(result.folds)} folds, {result.parameters:,} parameters, {seconds}")
        for split in SPLITS:
            mark = " (selected)" if chosen.selected and split == "test" else ""
            progress.line("\n" + "\n".join(table([scored, *baselines], split, mark)))
        progress.line("\n".join(["", *_notes(chosen, result), *run_lines(place)]))
        return result


def _baselines(chosen: Experiment, materials: Materials, place: Session, progress: Progress) -> list[Scored]:
    if not chosen.baselines:
        return []
    progress.now("baselines on the same folds")
    predictions, _ = cross_validate_baselines(materials, None, progress.now)
    scored = score_baselines(predictions, materials)
    log_baselines(place, scored, predictions, materials, SPLITS, {})
    return scored


def _cross_validate(chosen: Experiment, materials: Materials, place: Session, progress: Progress) -> CrossValidation:
    plan = materials.plan(chosen)
    place.run.params({"fingerprint": plan.fingerprint})
    place.run.json("environment.json", environment())
    place.run.inputs([dataset_input(chosen.name, materials.dataset)])
    checkpoint = STUDIES / f"train-{chosen.name}-{plan.fingerprint[:8]}" / "training.safetensors"
    if checkpoint.exists():
        progress.line(f"continues from {checkpoint}")
    result = cross_validate(plan, progress.watch(chosen.name), checkpoint)
    if checkpoint.parent.exists() and not any(checkpoint.parent.iterdir()):
        checkpoint.parent.rmdir()
    return result


def _log(chosen: Experiment, materials: Materials, place: Session, result: CrossValidation, scored: Scored) -> None:
    ids = materials.dataset.ids
    outcome = Outcome(result, materials.spec, scored.scores.table, scored.summary, chosen.resolved(), ids)
    log_cross_validation(place.run, outcome, SPLITS, keep_checkpoints=True)
    log_figures(place.run, outcome, interactive=True)
    if chosen.selected:
        place.run.tags({"fusion_lab.estimate": f"selected by {chosen.selected}: out-of-fold scores are optimistic"})


def _describe(chosen: Experiment, materials: Materials, place: Session, rows: list[Scored], again: str) -> None:
    scores = [Scores(row.name, row.summary) for row in rows[:2]]
    facts, protocol = data_facts(materials.dataset), protocol_sentence(materials.folds, chosen.folds.seed)
    what = chosen.description or f"Cross-validation of {chosen.name}, family {chosen.model.family}."
    notes = [*materials.folds.notes, *_selection(chosen)]
    beside = scores[1] if len(scores) > 1 else None
    place.run.describe(describe(what, facts, protocol, again, scores[0], beside, "test", notes))


def _notes(chosen: Experiment, result: CrossValidation) -> list[str]:
    return [f"note: {note}" for note in (*result.notes, *_selection(chosen))]


def _selection(chosen: Experiment) -> list[str]:
    if chosen.selected is None:
        return []
    return [f"Chosen by study {chosen.selected} on these folds: its out-of-fold scores are optimistic (selected)."]
