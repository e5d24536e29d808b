"""``train``: cross-validates one experiment and shows it beside the baselines, validation and out-of-fold scores both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion_lab.config import parse_overrides
from fusion_lab.experiment import Experiment, Materials, read_experiment
from fusion_lab.jobs.baselines import cross_validate_baselines, log_baselines, score_baselines
from fusion_lab.jobs.progress import Progress, duration
from fusion_lab.jobs.results import Scored, table
from fusion_lab.jobs.session import Session, session
from fusion_lab.jobs.tell import data_lines, run_lines
from fusion_lab.tracking.descriptions import Scores, data_facts, describe, protocol_sentence
from fusion_lab.tracking.provenance import dataset_input, environment
from fusion_lab.tracking.trial import Outcome, log_cross_validation
from fusion_lab.training import CrossValidation, cross_validate

SPLITS = ("val", "test")


def run(
    experiment: str, data: str | None = None, seed: int | None = None, set: str = "", tracking_uri: str | None = None
) -> CrossValidation:
    """Cross-validates the experiment of this name or path; the same command continues one that was interrupted."""
    overrides: dict[str, Any] = parse_overrides(set)
    if seed is not None:
        overrides["seed"] = seed
    chosen = read_experiment(experiment, overrides, data)
    progress = Progress()
    with session(chosen.name, "train", f"train {chosen.name}", tracking_uri) as place:
        materials = Materials.load(chosen)
        progress.line("\n".join(data_lines(chosen.name, materials)))
        return _train(chosen, materials, place, progress, command(experiment, data, seed, set))


def command(experiment: str, data: str | None, seed: int | None, set: str) -> str:
    """What to type to do it again."""
    options = {"experiment": experiment, "data": data, "seed": seed, "set": f"'{set}'" if set else None}
    return "fusion-lab train " + " ".join(f"--{k} {v}" for k, v in options.items() if v is not None)


def _train(chosen: Experiment, materials: Materials, place: Session, progress: Progress, again: str) -> CrossValidation:
    plan = materials.plan(chosen)
    folder = Path("studies", f"train-{chosen.name}-{plan.fingerprint[:8]}")
    place.run.params({"fingerprint": plan.fingerprint})
    place.run.json("environment.json", environment())
    place.run.inputs([dataset_input(chosen.name, materials.dataset)])
    baselines = []
    if chosen.baselines:
        progress.now("baselines on the same folds")
        predictions, _ = cross_validate_baselines(materials, None, progress.now)
        baselines = score_baselines(predictions, materials)
        log_baselines(place, baselines, predictions, materials, SPLITS, {})
    checkpoint = folder / "training.safetensors"
    if checkpoint.exists():
        progress.line(f"continuing from {checkpoint}")
    result = cross_validate(plan, progress.watch(chosen.name), checkpoint)
    scored = Scored.of(chosen.name, "model", result.predictions, materials)
    config = chosen.resolved()
    outcome = Outcome(result, materials.spec, scored.scores.table, scored.summary, config, materials.dataset.ids)
    log_cross_validation(place.run, outcome, SPLITS, keep_checkpoints=True, interactive=True)
    mark = " (selected)" if chosen.selected else ""
    best = Scores(baselines[0].name, baselines[0].summary) if baselines else None
    notes = [*materials.folds.notes, *result.notes, *_selected(chosen)]
    what = chosen.description or f"Cross-validation of {chosen.name}, family {chosen.model.family}."
    protocol = protocol_sentence(materials.folds, chosen.folds.seed)
    facts = data_facts(materials.dataset)
    place.run.describe(describe(what, facts, protocol, again, Scores(chosen.name, scored.summary), best, "test", notes))
    if chosen.selected:
        place.run.tags({"fusion_lab.estimate": f"selected by {chosen.selected}: out-of-fold scores are optimistic"})
    place.store.flush()
    progress.line(f"{chosen.name}: {len(result.folds)} folds, {result.parameters:,} parameters, {duration(result.seconds)}")
    for split in SPLITS:
        progress.line("\n" + "\n".join(table([scored, *baselines], split, mark if split == "test" else "")))
    progress.line("\n".join(["", *notes, *run_lines(place)]))
    return result


def _selected(chosen: Experiment) -> list[str]:
    if chosen.selected is None:
        return []
    return [f"Chosen by study {chosen.selected} on these folds' validation rows: its out-of-fold scores are optimistic (selected)."]
