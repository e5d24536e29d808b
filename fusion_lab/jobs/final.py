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
from fusion_lab.contracts import Dataset, Predictions, Spec
from fusion_lab.data.scaling import Scaler
from fusion_lab.evaluation.calibration import fit_temperature
from fusion_lab.evaluation.thresholds import pooled_thresholds
from fusion_lab.experiment import Experiment, Materials
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.results import Scored, headline_key, headline_name
from fusion_lab.jobs.session import Session
from fusion_lab.jobs.tell import command_line
from fusion_lab.serving.example import example_row
from fusion_lab.serving.members import Members, Networks
from fusion_lab.serving.package import Origin, Package
from fusion_lab.serving.pyfunc import save
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.predictions import prediction_bytes
from fusion_lab.tracking.registry import CHALLENGER, CHAMPION, FINGERPRINT, Registry
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.trial import checkpoint_dict, summary_metrics
from fusion_lab.training import CrossValidation
from fusion_lab.training.refit import development, median_epoch, refit
from fusion_lab.training.targets import TargetScale

EVIDENCE = "evidence"
OUT_OF_FOLD, AS_TRAINED = "predictions.parquet", "as_trained.parquet"
"""Files of a version: its out-of-fold predictions, and what a refit model answered when it was trained."""

RANKED = ("auroc", "ap", "f1", "accuracy", "r2", "mae", "rmse")
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
class Final:
    """A package and what is kept beside it as evidence."""

    package: Package
    predictions: Predictions  # out of fold, validation and test rows
    as_trained: Predictions | None = None  # of a refit model: its answers to the development rows

    @property
    def reference(self) -> Predictions:
        """What the served model is held against."""
        return self.as_trained or self.predictions


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


def origin_of(experiment: Experiment, materials: Materials, run: str, beside: str = "") -> Origin:
    """What a model was made from; ``beside`` tells apart what is made of one configuration."""
    mark = [experiment.final] if experiment.final != "ensemble" else []
    return Origin(
        data=materials.dataset.provenance.digest,
        folds=materials.folds.digest,
        fingerprint="-".join([materials.fingerprint(experiment), *mark, *([beside] if beside else [])]),
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
    tasks = [task.name for task in materials.spec.tasks if task.kind == "regression"]
    mean, std = (
        {t: torch.tensor([c["target_scale"][t][part] for c in trained.checkpoints], dtype=torch.float64) for t in tasks}
        for part in ("mean", "std")
    )
    experiment = trained.experiment
    return Networks(
        experiment.model.model_dump(mode="json"),
        materials.spec,
        weights,
        materials.scaler(experiment.scaling),
        TargetScale(mean, std),
    )


def _refit(
    trained: Trained, materials: Materials, on_epoch: OnEpoch | None
) -> tuple[Networks, tuple[int, ...], Predictions]:
    experiment, epochs = trained.experiment, median_epoch(trained.best_epochs)
    rows = development(materials.folds).train
    scaler = Scaler.fit(materials.dataset, rows, experiment.scaling)

    def tell(epoch: int, loss: float) -> None:
        if on_epoch is not None:
            on_epoch(epoch, epochs)

    weights, scale = refit(materials.plan(experiment), scaler, epochs, tell)
    networks = Networks(experiment.model.model_dump(mode="json"), materials.spec, weights, scaler, scale)
    return networks, (epochs,), _answers(networks, materials.dataset, np.flatnonzero(rows[0]))


def _answers(members: Members, dataset: Dataset, rows: np.ndarray, at_once: int = 256) -> Predictions:
    """What the first member says of rows of the data set, taken the way that training takes them."""
    parts = []
    for start in range(0, len(rows), at_once):
        batch = dataset.gather(torch.from_numpy(rows[start : start + at_once]))
        scores = members.answer(batch.without_targets()).scores
        parts.append((batch.targets, batch.known, {task: found[0] for task, found in scores.items()}))
    target, known, score = (
        {task: np.concatenate([np.asarray(part[kind][task]) for part in parts]) for task in parts[0][kind]}
        for kind in range(3)
    )
    return Predictions(np.zeros(len(rows), dtype=int), np.full(len(rows), "val"), rows, target, known, score)


def register(
    final: Final,
    materials: Materials,
    registry: Registry,
    run: Run,
    metrics: Mapping[str, float],
    shown: Sequence[str],
    facts: str,
) -> ModelVersion:
    """Stores the model with its run and makes it the challenger. One that is registered already is only named so; the
    champion stays what it is.

    ``metrics`` are the scores that models are ranked by, those of ``shown`` stand beside the version; ``facts``
    describe it.
    """
    package = final.package
    known = registry.with_fingerprint(package.name, package.origin.fingerprint)
    if known is not None:
        champion = registry.of_alias(package.name, CHAMPION)
        if champion is None or champion.version != known.version:
            registry.point(package.name, CHALLENGER, str(known.version))
        return known
    with tempfile.TemporaryDirectory(prefix="fusion_lab-") as scratch:
        folder = Path(scratch, "model")
        write(final, materials, folder)
        tags = {
            FINGERPRINT: package.origin.fingerprint,
            "model": package.label,
            "data": package.origin.data,
            **({"selected by": package.origin.selected} if package.origin.selected else {}),
            **{name: f"{metrics[name]:.4f}" for name in shown if np.isfinite(metrics.get(name, np.nan))},
        }
        params = {"model": package.label, "final": package.final, "members": len(package.members)}
        model_id = registry.log_model(run, package.name, folder, metrics, "final", params, tags=tags)
    about = str(package.experiment["description"]) or f"Final models of the experiment {package.name}."
    return registry.register(package.name, model_id, run, facts, tags, about)


def write(final: Final, materials: Materials, folder: Path) -> None:
    """The model's directory, as MLflow loads it, with its configuration and its evidence."""
    package, ids = final.package, materials.dataset.ids
    scaler = package.members.scaler  # ty: ignore[missing-attribute] - both kinds of members have one
    facts = {"fusion_lab": package.label, "data": package.origin.data, "folds": package.origin.folds}
    save(package, folder, example_row(package.spec, scaler), facts)
    evidence = folder / EVIDENCE
    evidence.mkdir()
    (evidence / "config.yaml").write_text(dump_yaml(package.experiment))
    (evidence / OUT_OF_FOLD).write_bytes(prediction_bytes(final.predictions, package.spec, ids))
    if final.as_trained is not None:
        (evidence / AS_TRAINED).write_bytes(prediction_bytes(final.as_trained, package.spec, ids))


def link_checkpoints(registry: Registry, run: Run, trained: Trained, scored: Scored, spec: Spec) -> None:
    """Gives every fold's checkpoint a place among the store's models, with the fold's validation scores, so that
    checkpoints can be ranked there; once per run.
    """
    if registry.has_models(run):
        return
    tasks, scores = safe_parts(task.name for task in spec.tasks), scored.scores.table
    for weights, checkpoint in zip(trained.weights, trained.checkpoints, strict=True):
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
            epoch, name = checkpoint["best_epoch"], f"{trained.experiment.name} fold {checkpoint['fold']}"
            params = {"fold": checkpoint["name"], "best_epoch": epoch}
            registry.log_model(run, name, Path(scratch), metrics, "checkpoint", params, epoch)


def enter(trained: Trained, materials: Materials, place: Session, scored: Scored, progress: Progress) -> list[str]:
    """Registers a configuration's final model as the challenger, where its experiment wants that; lines to be shown."""
    experiment, splits = trained.experiment, ("val", "test")
    if not experiment.promotion.challenger:
        return []
    progress.now("the final model")

    def tell(epoch: int, epochs: int) -> None:
        progress.now(f"refit on all development rows  epoch {epoch}/{epochs}")

    final = final_model(trained, materials, place.run.id, tell)
    tasks = safe_parts(task.name for task in materials.spec.tasks)
    shown = {"test": "test_selected"} if experiment.selected else {}
    metrics = summary_metrics(scored.summary.replace({"split": shown}), [shown.get(s, s) for s in splits], tasks)
    ranked = {metric: value for metric, value in metrics.items() if metric.split("/")[-1] in RANKED}
    headline = headline_key(materials.spec, experiment.training.monitor)
    beside = [f"{shown.get(split, split)}/{headline}" for split in splits]
    registry, facts = Registry(place.store), _facts(final, materials, scored)
    version = register(final, materials, registry, place.run, ranked, beside, facts)
    name, label = experiment.name, final.package.label
    champion = registry.of_alias(name, CHAMPION)
    if champion is not None and champion.version == version.version:
        return [f"{name} version {version.version} is this very model, and champion: nothing was registered"]
    return [
        f"registered {name} version {version.version} as challenger: {label}",
        f"promote it: {command_line('promote', experiment=name)}",
    ]


def _facts(final: Final, materials: Materials, scored: Scored) -> str:
    """The description of a version."""
    package, lines = final.package, []
    for split, headline in scored.headlines.items():
        said = f"{headline.value:.3f} ({headline.low:.3f} to {headline.high:.3f})"
        lines.append(f"- {split} {headline_name(materials.spec, monitor_of(package))}, mean over folds: {said}")
    selected = package.origin.selected
    chosen = f"\n\nChosen by study {selected} on these folds: out-of-fold scores are optimistic." if selected else ""
    rows, data = len(materials.dataset), package.origin.data[:12]
    return f"{package.label}, from {rows} rows (data `{data}`).\n\n" + "\n".join(lines) + chosen


def monitor_of(package: Package) -> str:
    """The score that the model's training watched."""
    return package.experiment["training"]["monitor"]
