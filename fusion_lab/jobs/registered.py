"""A version of a registered model, loaded through MLflow and held against what it was in training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from yaml import YAMLError

from fusion_lab.contracts import Predictions, UserError
from fusion_lab.experiment import Experiment, Materials, override, resolve
from fusion_lab.jobs.final import AS_TRAINED, EVIDENCE, OUT_OF_FOLD
from fusion_lab.serving.answers import answer
from fusion_lab.serving.example import example_row
from fusion_lab.serving.package import Package
from fusion_lab.serving.pyfunc import RECORD
from fusion_lab.tracking.predictions import predictions_from_table, read_predictions
from fusion_lab.tracking.registry import Registry

UNLOADABLE = (MlflowException, YAMLError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError)
"""What MLflow's loader raises for a model directory that is none, or damaged."""


@dataclass(frozen=True)
class Registered:
    """A version, its package and the folder that it was downloaded to."""

    version: ModelVersion
    package: Package
    folder: Path
    served: Any  # mlflow.pyfunc.PyFuncModel

    @classmethod
    def load(cls, registry: Registry, version: ModelVersion, folder: Path) -> Registered:
        """Through MLflow's own loader.

        Raises:
            UserError: it is no model of ours, or a damaged one.
        """
        folder.mkdir()
        local = registry.download(version, folder)
        try:
            served = mlflow.pyfunc.load_model(str(local))
            package = served.get_raw_model()
        except UserError as error:
            raise UserError(f"{version.name} version {version.version}: {error}") from None
        except UNLOADABLE as error:
            found = " ".join(str(error).split())[:300]
            raise UserError(
                f"{version.name} version {version.version}: expected a model of fusion_lab, found: {found}"
            ) from None
        return cls(version, package, local, served)

    @property
    def name(self) -> str:
        return f"version {self.version.version} ({self.package.label})"

    def out_of_fold(self, ids: np.ndarray) -> Predictions:
        """Its predictions of validation and test rows, in cross-validation."""
        return self._predictions(OUT_OF_FOLD, ids)

    def materials(self, root: str | None) -> tuple[Experiment, Materials]:
        """The data and folds that it was made from, read from where they lie now."""
        tree: Mapping[str, Any] = self.package.experiment
        if root is not None and "root" in tree["data"]:
            tree = override(tree, {"data.root": root})
        experiment = resolve(tree, self.name)
        return experiment, Materials.load(experiment)

    def difference(self, materials: Materials, experiment: Experiment) -> tuple[float, int]:
        """The largest difference between its answers to raw rows and those that it gave in training, and how many
        answers were compared. Infinite where an answer is no number, or the served model does not take its own example.
        """
        if not self._takes_its_example():
            return math.inf, 0
        ids, records = materials.dataset.ids, materials.records(experiment)
        trained = (self.folder / EVIDENCE / AS_TRAINED).is_file()
        before = self._predictions(AS_TRAINED if trained else OUT_OF_FOLD, ids)
        rows = np.unique(before.row)
        # rows of training data count as they did in training, also where a served model would refuse them
        scores = answer(self.package, records, rows, strict=False).scores
        place = np.searchsorted(rows, before.row)
        largest, compared = 0.0, 0
        for task in self.package.spec.tasks:
            now, then = scores[task.name][before.fold, place], before.score[task.name]
            unit = float(np.std(then)) or 1.0 if task.kind == "regression" else 1.0
            apart = np.abs(now - then)
            largest = max(largest, float(np.where(np.isfinite(apart), apart, math.inf).max(initial=0.0)) / unit)
            compared += len(then)
        return largest, compared

    def _takes_its_example(self) -> bool:
        scaler = self.package.members.scaler  # ty: ignore[missing-attribute] - both kinds of members have one
        row = example_row(self.package.spec, scaler)
        try:
            return len(self.served.predict(pd.DataFrame({RECORD: [row]}))) == 1
        except MlflowException:
            return False

    def _predictions(self, file: str, ids: np.ndarray) -> Predictions:
        try:
            return predictions_from_table(read_predictions(self.folder / EVIDENCE / file), self.package.spec, ids)
        except UserError as error:
            raise UserError(f"{self.version.name} {self.name}: {file}: {error}") from None
