"""The final model of a configuration: made of what cross-validation left, checked, stored and registered."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.entities.model_registry import ModelVersion
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusion_lab.config import dump_yaml
from fusion_lab.contracts import Predictions, Spec, Task, UserError, content_hash
from fusion_lab.data.scaling import Scaler
from fusion_lab.evaluation.calibration import fit_temperature
from fusion_lab.evaluation.thresholds import pooled_thresholds
from fusion_lab.experiment import Experiment, Materials
from fusion_lab.jobs.locked import score_locked
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.results import Scored, headline_name, score_key
from fusion_lab.jobs.session import Session
from fusion_lab.serving.example import example_row
from fusion_lab.serving.members import Networks
from fusion_lab.serving.package import Origin, Package
from fusion_lab.serving.pyfunc import save
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.predictions import RowNames, prediction_bytes
from fusion_lab.tracking.registry import CHALLENGER, CHAMPION, FINGERPRINT, Registry, model_name
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.trial import checkpoint_dict, summary_metrics
from fusion_lab.training import CrossValidation, Diverged
from fusion_lab.training.plan import Goal
from fusion_lab.training.refit import development, median_epoch, refit
from fusion_lab.training.targets import TargetScale

EVIDENCE = "evidence"
OUT_OF_FOLD, AS_TRAINED = "predictions.parquet", "as_trained.parquet"
"""Files of a version: its out-of-fold predictions, and what a refit model answered when it was trained."""

RANKED = ("auroc", "ap", "min_ap", "f1", "accuracy", "r2", "mae", "rmse")
"""Metrics that stand beside a model in the registry."""

OnEpoch = Callable[[int, int], None]


@dataclass(frozen=True)
class Trained:
    """A cross-validated configuration with its folds' weights; ``checkpoints`` is what belongs beside them, see
    :func:`~fusion_lab.tracking.trial.checkpoint_dict`.
    """

    experiment: Experiment
    weights: Sequence[Mapping[str, Tensor]]
    checkpoints: Sequence[Mapping[str, Any]]
    predictions: Predictions

    @property
    def best_epochs(self) -> list[int]:
        return [checkpoint["best_epoch"] for checkpoint in self.checkpoints]

    def target_scale(self, spec: Spec) -> TargetScale:
        """Of the folds' training rows, as their checkpoints hold it."""
        tasks = [task.name for task in spec.tasks if task.kind == "regression"]
        found = [checkpoint["target_scale"] for checkpoint in self.checkpoints]
        mean, std = (
            {task: torch.tensor([of[task][part] for of in found], dtype=torch.float64) for task in tasks}
            for part in ("mean", "std")
        )
        return TargetScale(mean, std)

    @classmethod
    def of(cls, experiment: Experiment, result: CrossValidation) -> Trained:
        folds = result.folds
        weights = [{n: leaf.detach().to("cpu", copy=True) for n, leaf in fold.weights.items()} for fold in folds]
        return cls(experiment, weights, [checkpoint_dict(fold) for fold in folds], result.predictions)

    @classmethod
    def kept(cls, experiment: Experiment, folder: Path, predictions: Predictions) -> Trained:
        """From the checkpoints that a study kept of a trial."""
        files = [folder / "checkpoints" / f"fold{k}.safetensors" for k in range(int(predictions.fold.max()) + 1)]
        # copies: what safetensors gives lies in the mapped file, unaligned, where kernels round otherwise
        weights = [{name: leaf.clone() for name, leaf in load_file(file).items()} for file in files]
        told = [json.loads(file.with_suffix(".json").read_text()) for file in files]
        return cls(experiment, weights, told, predictions)


@dataclass(frozen=True)
class Scores:
    """What models are ranked by: all of it, and the few that stand beside a version."""

    ranked: Mapping[str, float]
    headlines: Mapping[str, float]

    @classmethod
    def of(cls, scored: Scored, spec: Spec, goal: Goal | str, selected: bool = False) -> Scores:
        tasks, shown = safe_parts(task.name for task in spec.tasks), {"test": "test_selected"} if selected else {}
        named = {split: shown.get(split, split) for split in ("val", "test")}
        every = summary_metrics(scored.summary.replace({"split": named}), list(named.values()), tasks)
        ranked = {name: value for name, value in every.items() if name.split("/")[-1] in RANKED}
        key = score_key(spec, goal)
        return cls(ranked, {f"{name}/{key}": scored.value(split) for split, name in named.items()})


@dataclass(frozen=True)
class Final:
    """A package and what is kept beside it as evidence."""

    package: Package
    predictions: Predictions  # out of fold, validation and test rows
    as_trained: Predictions | None = None  # of a refit model: its answers to the development rows


def final_model(trained: Trained, materials: Materials, run: str, on_epoch: OnEpoch | None = None) -> Final:
    """Builds the model that the configuration's ``final`` asks for; ``on_epoch(epoch, epochs)`` hears of a refit."""
    experiment, spec = trained.experiment, materials.spec
    as_trained = None
    if experiment.final == "refit":
        members, epochs, as_trained = _refit(trained, materials, on_epoch)
    else:
        members, epochs = _ensemble(trained, materials), tuple(trained.best_epochs)
    temperature = temperatures(trained.predictions, spec)
    package = Package(
        name=experiment.name,
        members=members,
        spec=spec,
        experiment=experiment.resolved(),
        origin=origin_of(experiment, materials, run),
        final=experiment.final,
        temperature=temperature,
        threshold=pooled_thresholds(trained.predictions, spec, temperature),
        epochs=epochs,
    )
    return Final(package, trained.predictions, as_trained)


def origin_of(experiment: Experiment, materials: Materials, run: str, baseline: str | None = None) -> Origin:
    """What a model was made from. A baseline is the same whatever the model's settings are."""
    data, folds = materials.dataset.provenance.digest, materials.folds.digest
    made = ["baseline", baseline, data, folds] if baseline else [experiment.final, materials.fingerprint(experiment)]
    return Origin(
        data=data,
        folds=folds,
        fingerprint=content_hash(made),
        run=run,
        selected=experiment.selected,
        holdout=int(materials.folds.holdout.sum()),
    )


def temperatures(predictions: Predictions, spec: Spec) -> dict[str, float]:
    """Of every task with classes, from the pooled validation predictions."""
    val = predictions.of("val")
    known = {task.name: val.known[task.name] for task in spec.tasks}
    return {
        task.name: fit_temperature(
            task, val.score[task.name][known[task.name]], val.target[task.name][known[task.name]]
        )
        for task in spec.tasks
        if task.classes
    }


def _ensemble(trained: Trained, materials: Materials) -> Networks:
    names = list(trained.weights[0])
    weights = {name: torch.stack([fold[name] for fold in trained.weights]) for name in names}
    experiment, spec = trained.experiment, materials.spec
    config, scaler = experiment.model.model_dump(mode="json"), materials.scaler(experiment.scaling)
    return Networks(config, spec, weights, scaler, trained.target_scale(spec))


def _refit(
    trained: Trained, materials: Materials, on_epoch: OnEpoch | None
) -> tuple[Networks, tuple[int, ...], Predictions]:
    experiment, epochs = trained.experiment, median_epoch(trained.best_epochs)
    scaler = Scaler.fit(materials.dataset, development(materials.folds).fit, experiment.scaling)

    def tell(epoch: int, loss: float) -> None:
        if on_epoch is not None:
            on_epoch(epoch, epochs)

    try:
        made = refit(materials.plan(experiment), scaler, epochs, tell)
    except Diverged as error:
        raise UserError(f"{experiment.name}: {error}; final: ensemble keeps the folds' models") from None
    config = experiment.model.model_dump(mode="json")
    return Networks(config, materials.spec, made.weights, scaler, made.scale), (epochs,), made.predictions


def known_version(registry: Registry, name: str, fingerprint: str) -> ModelVersion | None:
    """The version that holds this very model, named challenger unless it is the champion."""
    known = registry.with_fingerprint(name, fingerprint)
    if known is not None and not is_champion(registry, known):
        registry.point(name, CHALLENGER, str(known.version))
    return known


def is_champion(registry: Registry, version: ModelVersion) -> bool:
    champion = registry.of_alias(version.name, CHAMPION)
    return champion is not None and champion.version == version.version


def register(
    final: Final, materials: Materials, registry: Registry, run: Run, scores: Scores, facts: str
) -> ModelVersion:
    """Stores the model with its run and makes it the challenger; ``facts`` describe the version."""
    package = final.package
    with tempfile.TemporaryDirectory(prefix="fusion_lab-") as scratch:
        folder = Path(scratch, "model")
        write(final, materials, folder)
        tags = {
            FINGERPRINT: package.origin.fingerprint,
            "model": package.label,
            "data": package.origin.data,
            **({"selected by": package.origin.selected} if package.origin.selected else {}),
            **{name: f"{value:.4f}" for name, value in scores.headlines.items() if np.isfinite(value)},
        }
        params = {"model": package.label, "final": package.final, "members": len(package.members)}
        every = {**scores.ranked, **scores.headlines}
        model_id = registry.log_model(run, package.name, folder, every, "final", params, tags=tags)
    about = str(package.experiment["description"]) or f"Final models of the experiment {package.name}."
    return registry.register(package.name, model_id, run, facts, tags, about)


def write(final: Final, materials: Materials, folder: Path) -> None:
    """The model's directory, as MLflow loads it, with its configuration and its evidence."""
    package, names = final.package, RowNames.of(materials.dataset)
    scaler = package.members.scaler  # ty: ignore[missing-attribute] - both kinds of members have one
    facts = {"fusion_lab": package.label, "data": package.origin.data, "folds": package.origin.folds}
    save(package, folder, example_row(package.spec, scaler), facts)
    evidence = folder / EVIDENCE
    evidence.mkdir()
    (evidence / "config.yaml").write_text(dump_yaml(package.experiment))
    (evidence / OUT_OF_FOLD).write_bytes(prediction_bytes(final.predictions, package.spec, names))
    if final.as_trained is not None:
        (evidence / AS_TRAINED).write_bytes(prediction_bytes(final.as_trained, package.spec, names))


def link_checkpoints(registry: Registry, run: Run, trained: Trained, scored: Scored, spec: Spec) -> None:
    """Gives every fold's checkpoint a place among the store's models, with the fold's validation scores, so that
    checkpoints can be ranked there; those that have one already are left alone.
    """
    tasks, scores, there = safe_parts(task.name for task in spec.tasks), scored.scores.table, registry.models_of(run)
    for weights, checkpoint in zip(trained.weights, trained.checkpoints, strict=True):
        epoch, name = checkpoint["best_epoch"], f"{trained.experiment.name} fold {checkpoint['fold']}"
        if model_name(name) in there:
            continue
        own = scores[(scores["fold"] == checkpoint["fold"]) & (scores["split"] == "val")]
        metrics = {
            # a name of its own: the run has the mean over folds under the name without it
            f"checkpoint/val/{tasks[task]}/{metric}" if task else f"checkpoint/val/{metric}": value
            for task, metric, value in zip(own["task"], own["metric"], own["value"], strict=True)
            if metric in RANKED
        }
        with tempfile.TemporaryDirectory(prefix="fusion_lab-") as scratch:
            save_file({n: leaf.contiguous() for n, leaf in weights.items()}, Path(scratch, "weights.safetensors"))
            Path(scratch, "checkpoint.json").write_text(json.dumps(checkpoint))
            params = {"fold": checkpoint["name"], "best_epoch": epoch}
            registry.log_model(run, name, Path(scratch), metrics, "checkpoint", params, epoch)


def enter(
    trained: Trained, materials: Materials, place: Session, scored: Scored, progress: Progress, again: str
) -> list[str]:
    """Registers a configuration's final model as the challenger, where its experiment wants that; lines to be shown.
    ``again`` is the command that promotes it.
    """
    experiment, registry = trained.experiment, Registry(place.store)
    name = experiment.name
    if not experiment.promotion.challenger:
        return []
    known = known_version(registry, name, origin_of(experiment, materials, place.run.id).fingerprint)
    if known is not None and is_champion(registry, known):
        return [f"{name} version {known.version} is this very model, and champion: nothing was registered"]
    if known is not None:
        return [f"{name} version {known.version} is this very model: it is the challenger", f"promote it: {again}"]
    progress.now("the final model")

    def tell(epoch: int, epochs: int) -> None:
        progress.now(f"refit on all development rows  epoch {epoch}/{epochs}")

    final = final_model(trained, materials, place.run.id, tell)
    scores = Scores.of(scored, materials.spec, experiment.training.goal, experiment.selected is not None)
    version = register(final, materials, registry, place.run, scores, describe_version(final, materials, scored))
    label = final.package.label
    told = score_locked(final.package, materials, place.run)
    return [*told, f"registered {name} version {version.version} as challenger: {label}", f"promote it: {again}"]


def describe_version(final: Final, materials: Materials, scored: Scored) -> str:
    """The description of a version: what it is, its scores, what was fitted on validation rows."""
    package = final.package
    goal = Goal.read(package.experiment["training"])
    lines = []
    for split, headline in scored.headlines.items():
        metric, said = headline_name(materials.spec, goal), f"{headline.value:.3f}"
        interval = f" ({headline.low:.3f} to {headline.high:.3f})" if np.isfinite(headline.low) else ""
        lines.append(f"- {split} {metric}, {headline.how}: {said}{interval}")
    lines += [f"- {_fitted(package, task)}" for task in materials.spec.tasks if task.classes]
    selected = package.origin.selected
    chosen = f"\n\nChosen by study {selected} on these folds: out-of-fold scores are optimistic." if selected else ""
    rows, data = len(materials.dataset), package.origin.data[:12]
    return f"{package.label}, from {rows} rows (data `{data}`).\n\n" + "\n".join(lines) + chosen


def _fitted(package: Package, task: Task) -> str:
    """Temperature and threshold of a task, and whether validation rows had anything to say."""
    threshold = f", threshold {package.threshold[task.name]:.3f}" if task.name in package.threshold else ""
    divisor = package.temperature[task.name]
    default = " (the default: validation rows ask for no other)" if divisor == 1 else ""
    return f"{task.name}: temperature {divisor:.3f}{default}{threshold}"
