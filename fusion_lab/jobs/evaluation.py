"""What is found out about a trained configuration beside its scores: how far its probabilities can be trusted, what it
does without some modalities, how fast it is, what it says of whole recordings, and of every single row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from fusion_lab.blocks.randomness import generator
from fusion_lab.contracts import Predictions, Task
from fusion_lab.evaluation.calibration import Calibration, calibrate, reliability
from fusion_lab.evaluation.folds import score_folds, summarise
from fusion_lab.evaluation.labelled import Told, labelled, told_scores
from fusion_lab.evaluation.metrics import top_label
from fusion_lab.evaluation.recordings import by_recording, group_table, mixed_recordings
from fusion_lab.evaluation.rows import imputations, rows_table
from fusion_lab.evaluation.settings import EvaluationConfig
from fusion_lab.evaluation.subsets import SubsetScores, choose_subsets, worth
from fusion_lab.evaluation.thresholds import fold_thresholds
from fusion_lab.evaluation.uncertainty import Spread, finds_errors, over_passes, rank_correlation
from fusion_lab.experiment import Materials
from fusion_lab.jobs import evaluation_lines as lines
from fusion_lab.jobs.final import Trained
from fusion_lab.jobs.progress import Progress
from fusion_lab.jobs.rows_table import imputation_lines, imputation_numbers, table_file
from fusion_lab.report.calibration import calibration_dict
from fusion_lab.report.confidence import confidence_dict
from fusion_lab.report.drawing import Draw, draw_here
from fusion_lab.report.subsets import subsets_dict
from fusion_lab.tracking.names import safe_parts
from fusion_lab.tracking.predictions import parquet_bytes
from fusion_lab.tracking.runs import Run
from fusion_lab.tracking.trial import PER_FOLD, summary_metrics
from fusion_lab.training.probe import Latency, Probe

FOLDER = "evaluation"
RESULTS = f"{FOLDER}/results.json"
MISSING_MODALITY = f"{FOLDER}/missing_modality.json"
ERRORS = ("ece", "mce", "nll")


def evaluate(
    trained: Trained,
    materials: Materials,
    config: EvaluationConfig,
    run: Run,
    progress: Progress,
    draw: Draw | None = None,
) -> list[str]:
    """Evaluates a configuration on its test rows, out of fold, gives the run files under ``evaluation/`` and metrics,
    and returns the lines to be shown. Figures are drawn by ``draw``, here unless given, in the run's writer.

    Temperatures and thresholds are fitted on each fold's validation rows. Metrics of a configuration that was chosen on
    these folds are named ``evaluation_selected/``, as they are optimistic.
    """
    return _Evaluation(trained, materials, config, run, progress, draw or draw_here).run()


class _Evaluation:
    def __init__(
        self,
        trained: Trained,
        materials: Materials,
        config: EvaluationConfig,
        run: Run,
        progress: Progress,
        draw: Draw,
    ) -> None:
        self.trained, self.materials, self.config = trained, materials, config
        self.to, self.progress, self.draw = run, progress, draw
        self.spec, self.dataset = materials.spec, materials.dataset
        self.predictions, self.test = trained.predictions, trained.predictions.of("test")
        self.thresholds = fold_thresholds(self.predictions, self.spec)
        self.probe = Probe(materials.plan(trained.experiment), trained.weights, trained.target_scale(materials.spec))
        rows, real = self.probe.rows
        assert np.array_equal(rows[real], self.test.row), "predictions in another order than their folds"
        self.results: dict[str, Any] = {}
        self.spreads: Mapping[str, Spread] | None = None  # over passes with dropout, once they were made
        self.metrics: dict[str, dict[str, float]] = {task.name: {} for task in self.spec.tasks}

    def run(self) -> list[str]:
        """All of it, one part after the other; returns the lines to be shown. The run gets :data:`RESULTS` and the
        metrics at the end.
        """
        latency = self._latency()  # before there are figures, whose drawing would disturb the clock
        told = [*self._scores(), *self._recordings(), *self._subsets(), *self._uncertainty(), *self._rows(), *latency]
        experiment = self.trained.experiment
        about = {
            "name": experiment.name,
            "data": {"domain": experiment.data.domain, "digest": self.dataset.provenance.digest},
            "folds": {"protocol": self.materials.folds.protocol, "digest": self.materials.folds.digest},
            "family": experiment.model.family,
            "model": experiment.model.model_dump(mode="json"),
            "selected": experiment.selected,
            "bins": self.config.bins,
        }
        self.to.json(RESULTS, about | self.results)
        self._log_metrics()
        return told

    def _scores(self) -> list[str]:
        """Scores of test rows and their calibration."""
        self.progress.now("calibration")
        tasks = [task for task in self.spec.tasks if task.classes]
        found = {task.name: calibrate(self.predictions, task, self.config.bins) for task in tasks}
        scores = told_scores(self.test, self.spec, self.thresholds)
        self.results["tasks"] = {}
        for task in self.spec.tasks:
            own = _errors(found[task.name]) if task.name in found else {}
            fitted = _fitted(found[task.name], self._names) if task.name in found else {}
            self.results["tasks"][task.name] = {"kind": task.kind, **own, **fitted, **_flat(scores[task.name])}
            self.metrics[task.name] |= own | {metric: told.pooled for metric, told in scores[task.name].items()}
        if found:
            payload = {"bins": self.config.bins, **calibration_dict(found, self.spec, self._names)}
            self.to.json(f"{FOLDER}/calibration.json", payload)
            self.to.bytes(f"{FOLDER}/calibration.png", partial(self.draw, "calibration", payload))
        return lines.calibration_lines(found, self.config.bins)

    def _recordings(self) -> list[str]:
        recording, group = self.dataset.recording, self.dataset.group
        if group is not None:
            table = group_table(self.test, self.spec, self.thresholds, group, recording)
            self.to.bytes(f"{FOLDER}/groups.csv", table.to_csv(index=False).encode())
        if recording is None:
            return []
        told, names = by_recording(self.predictions, recording)
        mixed = mixed_recordings(self.test, recording)
        of_recording = None if group is None else group[np.unique(recording, return_index=True)[1]]
        summary = summarise(score_folds(told, self.spec, ("test",), of_recording), self.materials.folds)
        split = f"recordings/test{'_selected' if self.trained.experiment.selected else ''}"
        shown = summary[summary["metric"].isin(PER_FOLD)].replace({"split": {"test": split}})
        self.to.metrics(summary_metrics(shown, [split], self._parts))
        test = told.of("test")
        scores = told_scores(test, self.spec, fold_thresholds(told, self.spec))
        self.results["recordings"] = {
            task.name: {
                "recordings": len(np.unique(test.row[test.known[task.name]])),
                "with_differing_labels": list(mixed[task.name]),
                **_flat(scores[task.name]),
            }
            for task in self.spec.tasks
        }
        return lines.recording_lines(self.results["recordings"], len(np.unique(self.test.row)), self.spec)

    def _subsets(self) -> list[str]:
        names = tuple(m.name for m in self.spec.modalities)
        draw = generator(self.trained.experiment.seed, "subsets of modalities")
        subsets = choose_subsets(names, self.config.most_subsets, draw)
        advance = self.progress.track("subsets of modalities", len(subsets.chosen))
        scored = []
        for subset in subsets.chosen:
            answers = self.probe.ask(subset)
            scores = told_scores(answers, self.spec, self.thresholds)
            scored.append(SubsetScores(subset, scores, self.probe.without_any(subset)))
            advance(1)
        payload = subsets_dict(scored, worth(scored, names), names, subsets.note)
        self.to.json(MISSING_MODALITY, payload)
        self.to.bytes(f"{FOLDER}/missing_modality.png", partial(self.draw, "subsets", payload))
        self.results |= {name: payload[name] for name in ("modality_importance", "modality_gain")}
        return lines.subset_lines(payload, self.spec)

    def _uncertainty(self) -> list[str]:
        if not self.config.mc_samples:
            return []
        self.progress.now("passes with dropout")
        if not self.probe.has_dropout:
            return ["MC dropout: the model has no dropout, so that all passes would be one"]
        self.spreads = spreads = over_passes(self.probe.passes(self.config.mc_samples), self.spec)
        mean = replace(self.test, score={task: spread.mean for task, spread in spreads.items()})
        found = {t.name: self._task_uncertainty(t, spreads[t.name], mean) for t in self.spec.tasks}
        payload = {"passes": self.config.mc_samples, "tasks": found}
        self.to.json(f"{FOLDER}/uncertainty.json", payload)
        table = uncertainty_table(mean, spreads, self.materials)
        self.to.bytes(f"{FOLDER}/uncertainty.parquet", partial(parquet_bytes, table))
        for task, of in found.items():
            values = {**of["mean"], **of["errors"]}
            self.metrics[task] |= {f"mc_{name}": v for name, v in values.items() if isinstance(v, float)}  # no counts
        self.results["mc_dropout"] = payload
        return lines.uncertainty_lines(payload, self.spec)

    def _task_uncertainty(self, task: Task, spread: Spread, mean: Predictions) -> dict[str, Any]:
        """Scores of the predictive mean beside those of the model as it is, and whether uncertainty finds errors."""
        known = self.test.known[task.name]
        target = self.test.target[task.name][known]
        scores = {name: self._pass_scores(task, part) for name, part in (("deterministic", self.test), ("mean", mean))}
        if spread.entropy is None or spread.information is None:
            assert spread.std is not None
            error, std = np.abs(spread.mean[known] - target), spread.std[known]
            errors = {"std": _mean(std), "rank_correlation_with_error": rank_correlation(std, error)}
            return {**scores, "errors": errors}
        entropy, information = spread.entropy[known], spread.information[known]
        errors = {
            "wrong": int((top_label(spread.mean[known])[1] != target).sum()),
            "rows": len(target),
            "entropy": _mean(entropy),
            "mutual_information": _mean(information),
            "auroc_entropy": finds_errors(target, spread.mean[known], entropy),
            "auroc_mutual_information": finds_errors(target, spread.mean[known], information),
        }
        return {**scores, "errors": errors}

    def _pass_scores(self, task: Task, part: Predictions) -> dict[str, float]:
        rows = labelled(part, task, self.thresholds)
        told = told_scores(part, self.spec, self.thresholds)[task.name]
        scores = {metric: value.pooled for metric, value in told.items()}
        if task.classes:
            found = reliability(task, rows.target, rows.score, self.config.bins)
            scores |= {name: getattr(found, name) for name in ERRORS}
        return scores

    def _rows(self) -> list[str]:
        """Every test row by itself, after :meth:`_uncertainty`; and what was imputed, where anything was."""
        self.progress.now("the table of rows")
        inputs, maps = self.probe.inputs(), self.probe.modality_maps()
        table = rows_table(self.test, self.spec, self.thresholds, self.dataset, inputs, maps, self.spreads)
        self.to.bytes(*table_file(f"{FOLDER}/rows", table))
        found = imputations(inputs, maps, self.spec)
        if not found:
            return []
        payload = confidence_dict(found, len(table))
        self.to.bytes(f"{FOLDER}/confidence.png", partial(self.draw, "confidence", payload))
        self.results["imputation"] = imputation_numbers(payload)
        return imputation_lines(payload)

    def _latency(self) -> list[str]:
        if not self.config.latency_rows:
            return []
        self.progress.now("timing single rows")
        self.to.flush()
        latency: Latency = self.probe.latency(self.config.latency_rows)
        self.results["latency"] = latency._asdict()
        self.to.metrics({f"{FOLDER}/latency_ms": latency.median, f"{FOLDER}/rows_per_second": latency.rows_per_second})
        return lines.latency_lines(latency)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.materials.folds.names

    @property
    def _parts(self) -> dict[str, str]:
        return safe_parts(task.name for task in self.spec.tasks)

    def _log_metrics(self) -> None:
        """``evaluation/<task>/ece``, and ``evaluation/ece``, the mean over tasks, of what all tasks have."""
        prefix = f"{FOLDER}_selected" if self.trained.experiment.selected else FOLDER
        first, *others = self.metrics.values()
        shared = [name for name in first if all(name in other for other in others)]
        means = {f"{prefix}/{n}": float(np.mean([of[n] for of in self.metrics.values()])) for n in shared}
        own = {
            f"{prefix}/{self._parts[task]}/{name}": value
            for task, of in self.metrics.items()
            for name, value in of.items()
        }
        self.to.metrics(own | means)


def uncertainty_table(mean: Predictions, spreads: Mapping[str, Spread], materials: Materials) -> pa.Table:
    """A line per test row (and step and unit) and task: ``id``, ``fold``, ``task``, ``step`` (0 without steps),
    ``unit`` (empty without units), ``target`` (null where unknown), ``predicted`` (class code or mean value),
    ``confidence``, ``entropy``, ``mutual_information``, ``std`` (of a binary task, of the positive class's
    probability); null what the task's kind does not have.
    """
    return pa.concat_tables(
        [_task_table(task, mean, spreads[task.name], materials.dataset.ids) for task in materials.spec.tasks]
    )


def _task_table(task: Task, mean: Predictions, spread: Spread, ids: np.ndarray) -> pa.Table:
    known = mean.known[task.name]
    entry = np.repeat(np.arange(len(known)), int(np.prod(known.shape[1:])))
    score = spread.mean.reshape(len(entry), *spread.mean.shape[known.ndim :])
    confidence, predicted = top_label(score) if task.classes else (None, score)
    units = task.units or ("",)
    step, unit = np.divmod(np.tile(np.arange(len(entry) // max(len(known), 1)), len(known)), len(units))

    def column(values: np.ndarray | None, unknown: np.ndarray | None = None) -> pa.Array:
        if values is None:
            return pa.nulls(len(entry), pa.float64())
        return pa.array(values.reshape(-1).astype(float), mask=unknown)

    return pa.table(
        {
            "id": pa.array(np.asarray(ids)[mean.row[entry]].astype(str)),
            "fold": pa.array(mean.fold[entry].astype(np.int32)),
            "task": pa.array([task.name] * len(entry), pa.string()),
            "step": pa.array(step.astype(np.int32)),
            "unit": pa.array(np.array(units, dtype=object)[unit], pa.string()),
            "target": column(mean.target[task.name], ~known.reshape(-1)),
            "predicted": column(predicted),
            "confidence": column(confidence),
            "entropy": column(spread.entropy),
            "mutual_information": column(spread.information),
            "std": column(spread.std),
        }
    )


def _flat(scores: Mapping[str, Told]) -> dict[str, Any]:
    """Scores of all folds' rows together, and their means over folds."""
    pooled = {metric: told.pooled for metric, told in scores.items()}
    return {**pooled, "mean_over_folds": {metric: told.mean for metric, told in scores.items()}}


def _errors(found: Calibration) -> dict[str, float]:
    """Calibration of all folds' rows together, as trained and with temperatures (``_calibrated``)."""
    before = {name: getattr(found.before, name) for name in ERRORS}
    return before | {f"{name}_calibrated": getattr(found.after, name) for name in ERRORS}


def _fitted(found: Calibration, folds: tuple[str, ...]) -> dict[str, Any]:
    return {"temperature": {folds[fold.fold]: fold.temperature for fold in found.folds}}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
