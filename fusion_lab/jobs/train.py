"""``train``: cross-validates one experiment and shows it beside the baselines, on validation and test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion_lab.config import parse_overrides
from fusion_lab.contracts import UserError
from fusion_lab.experiment import Experiment, Materials, read_experiment
from fusion_lab.jobs.baselines import cross_validate_baselines, log_baselines, score_baselines
from fusion_lab.jobs.by_task import guessing_lines, task_lines, task_scores
from fusion_lab.jobs.crossval import SPLITS, cross_validate_in, log_configuration
from fusion_lab.jobs.evaluation import evaluate
from fusion_lab.jobs.final import Trained, enter, link_checkpoints
from fusion_lab.jobs.fold_files import fold_files
from fusion_lab.jobs.progress import Progress, duration
from fusion_lab.jobs.results import Scored, by_fold_lines, fairest, table
from fusion_lab.jobs.session import Session, session
from fusion_lab.jobs.summary import SUMMARY, training_summary
from fusion_lab.jobs.tell import closed_lines, command_line, data_lines, run_lines
from fusion_lab.tracking.descriptions import Scores, data_facts, describe, protocol_sentence
from fusion_lab.tracking.registry import Registry
from fusion_lab.tracking.trial import log_figures
from fusion_lab.training import CrossValidation, Diverged

TUNED = {"best": "folds were stopped and thresholds tuned", "last": "thresholds were tuned"}
"""What the validation rows decided, by the weights that a fold keeps."""
STUDIES = Path("studies")
ONE_GROUP = ("loso", "leave_one_group_out", "loso-transductive")
"""Protocols whose folds are a group each, a person say: every one of them is shown."""


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
    materials.check(chosen)
    with progress, session(chosen.name, "train", f"train {chosen.name}", tracking_uri) as place:
        progress.line("\n".join(closed_lines(place)))
        baselines = _baselines(chosen, materials, place, progress)
        result = _cross_validate(chosen, materials, place, progress)
        progress.now("scores and figures")
        selected = SPLITS if chosen.selected else ()
        scored = Scored.of(chosen.name, "model", result.predictions, materials, chosen.training.goal, selected)
        _log(chosen, materials, place, result, scored)
        _describe(chosen, materials, place, [scored, *baselines], again)
        place.store.flush()
        seconds = duration(result.seconds)
        progress.line(f"{chosen.name}: {len(result.folds)} folds, {result.parameters:,} parameters, {seconds}")
        progress.line(f"folds were computed {result.execution}")
        for split in SPLITS:
            lines = table([scored, *baselines], split, materials.spec, chosen.training.goal)
            progress.line("\n".join(["", title(split, chosen), *lines]))
        each = task_scores(scored, materials.spec, "test")
        if lines := task_lines(each, "test (selected)" if "test" in scored.selected else "test"):
            progress.line("\n".join(["", *lines]))
        if chosen.folds.protocol in ONE_GROUP:
            progress.line("\n".join(["", "one at a time:", *by_fold_lines(scored, "test", materials)]))
        trained = Trained.of(chosen, result)
        found = evaluate(trained, materials, chosen.evaluation, place.run, progress)
        progress.line("\n".join(["", *found, "", *_notes(chosen, result)]))
        link_checkpoints(Registry(place.store), place.run, trained, scored, materials.spec)
        promote = command_line("promote", experiment=experiment, data=data, set=set, tracking_uri=tracking_uri)
        progress.line("\n".join([*enter(trained, materials, place, scored, progress, promote), *run_lines(place)]))
        return result


def title(split: str, chosen: Experiment) -> str:
    """What is told of a table: whose rows they are, and what was decided on them."""
    rows = {"val": f"validation rows, by which {TUNED[chosen.training.restore]}", "test": "test rows, out of fold"}
    return f"{rows[split]}; mean over tasks and folds:"


def _baselines(chosen: Experiment, materials: Materials, place: Session, progress: Progress) -> list[Scored]:
    if not chosen.baselines:
        return []
    progress.now("baselines on the same folds")
    predictions = cross_validate_baselines(materials, None, progress.now)
    scored = score_baselines(predictions, materials, chosen.training.goal)
    log_baselines(place, scored, predictions, materials, SPLITS, {}, chosen.folds.seed)
    return scored


def _cross_validate(chosen: Experiment, materials: Materials, place: Session, progress: Progress) -> CrossValidation:
    fingerprint = materials.fingerprint(chosen)
    checkpoint = STUDIES / f"train-{chosen.name}-{fingerprint[:8]}" / "training.safetensors"
    try:
        result = cross_validate_in(place.run, chosen, materials, chosen.name, progress, checkpoint)
    except Diverged as error:
        raise UserError(f"{chosen.name}: {error}; a lower optimiser.lr or a tighter optimiser.clip may help") from None
    if checkpoint.parent.exists() and not any(checkpoint.parent.iterdir()):
        checkpoint.parent.rmdir()
    return result


def _log(chosen: Experiment, materials: Materials, place: Session, result: CrossValidation, scored: Scored) -> None:
    outcome = log_configuration(place.run, chosen, materials, result, scored, keep_checkpoints=True)
    place.run.json(SUMMARY, training_summary(outcome))
    for path, content in fold_files(outcome):
        place.run.json(path, content)
    log_figures(place.run, outcome, interactive=True)
    if chosen.selected:
        place.run.tags({"fusion_lab.estimate": f"selected by {chosen.selected}: out-of-fold scores are optimistic"})


def _describe(chosen: Experiment, materials: Materials, place: Session, rows: list[Scored], again: str) -> None:
    best = fairest(rows[1:], "test")
    beside = Scores(best.name, best.summary) if best else None
    protocol = protocol_sentence(materials.folds, chosen.folds.seed, chosen.training.restore)
    facts = data_facts(materials.dataset)
    what = chosen.description or f"Cross-validation of {chosen.name}, family {chosen.model.family}."
    guessed = guessing_lines(task_scores(rows[0], materials.spec, "test"))
    notes = [*materials.folds.notes, *(f"On test rows {line}." for line in guessed), *_selection(chosen)]
    scores = Scores(rows[0].label("test"), rows[0].summary)
    place.run.describe(describe(what, facts, protocol, again, scores, beside, "test", notes))


def _notes(chosen: Experiment, result: CrossValidation) -> list[str]:
    return [f"note: {note}" for note in (*result.notes, *_selection(chosen))]


def _selection(chosen: Experiment) -> list[str]:
    if chosen.selected is None:
        return []
    return [f"Chosen by study {chosen.selected} on these folds: its out-of-fold scores are optimistic (selected)."]
