"""The baselines of a job: run first, on the same folds, kept with the study, shown beside the models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusion_lab.contracts import Predictions
from fusion_lab.data.scaling import ScalingConfig
from fusion_lab.evaluation.entries import FoldFacts
from fusion_lab.evaluation.predictions import load_predictions, save_predictions
from fusion_lab.experiment import Materials
from fusion_lab.jobs.results import Scored, best_first
from fusion_lab.jobs.session import Session
from fusion_lab.serving.members import Baselines
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.predictions import RowNames
from fusion_lab.tracking.trial import fold_metrics, log_predictions, summary_metrics
from fusion_lab.training.plan import Goal
from fusion_lab.zoo.baselines import BatchOf, baseline_names, fit_folds, run_baselines

Tell = Callable[[str], None]


def cross_validate_baselines(materials: Materials, folder: Path | None, tell: Tell) -> dict[str, Predictions]:
    """Predictions of every baseline, from ``folder`` where an earlier run left them all."""
    names = baseline_names(materials.spec)
    files = {name: folder / f"{name.replace(':', '-')}.npz" for name in names} if folder else {}
    if files and all(file.is_file() for file in files.values()):
        return {name: load_predictions(file) for name, file in files.items()}
    done = run_baselines(materials.spec, materials.folds, _batches(materials), on_fold=_told(materials, tell))
    for name, file in files.items():
        save_predictions(done[name], file)
    return done


def fit_baseline(name: str, materials: Materials, tell: Tell) -> Baselines:
    """The models of one baseline, fitted to every fold as :func:`cross_validate_baselines` fits them."""
    models = fit_folds(name, materials.spec, materials.folds, _batches(materials), _told(materials, tell))
    return Baselines(models, materials.spec, materials.scaler(ScalingConfig()))


def _batches(materials: Materials) -> BatchOf:
    """Rows of each fold, scaled with ``scaling``'s defaults whatever the experiment says."""
    scaler = materials.scaler(ScalingConfig())
    folds = [scaler.fold(k) for k in range(len(materials.folds))]
    return lambda fold, rows: folds[fold](materials.dataset.gather(rows))


def _told(materials: Materials, tell: Tell) -> Callable[[str, int], None]:
    return lambda name, fold: tell(f"baselines  fold {fold + 1}/{len(materials.folds)}  {name}")


def score_baselines(predictions: dict[str, Predictions], materials: Materials, goal: Goal | str) -> list[Scored]:
    """The baselines' scores, best validation score first; ``best_single`` was chosen on validation rows."""
    scored = [
        Scored.of(name, "baseline", found, materials, goal, ("val",) if name == "best_single" else ())
        for name, found in predictions.items()
    ]
    return best_first(scored, "val")


def log_baselines(
    session: Session,
    scored: list[Scored],
    predictions: dict[str, Predictions],
    materials: Materials,
    splits: tuple[str, ...],
    tags: dict[str, str],
    seed: int,
) -> None:
    """A child run for each baseline, with the metrics that trials have; ``seed`` is that of the split."""
    folds = FoldFacts.of(materials.folds, materials.dataset.provenance.digest, seed)
    names, spec = RowNames.of(materials.dataset), materials.spec
    tasks = safe_parts(task.name for task in materials.spec.tasks)
    for row in scored:
        run = session.child(f"baseline {row.label('val')}", "baseline", tags)
        with run:
            run.params({"model.family": f"baseline {row.name}"})
            run.metrics({"objective": row.value("val")})
            run.metrics(fold_metrics(row.scores.table, splits, tasks) | summary_metrics(row.summary, splits, tasks))
            shown = row.scores.table[row.scores.table["split"].isin(list(splits))]
            run.bytes("scores.csv", shown.to_csv(index=False).encode())
            log_predictions(run, predictions[row.name], spec, names, folds)
