"""The same model behind MLflow's pyfunc interface, for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``.

Saved with a loader module and a folder of data, MLflow's way without pickle; the package's code travels with it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array, Object, Property

import fusion_lab
from fusion_lab.contracts import Spec, Task, UserError
from fusion_lab.serving.answers import ATTENTION, predict
from fusion_lab.serving.intake import ID, QUALITY, read_rows
from fusion_lab.serving.package import Package

RECORD = "record"
"""The one input column: it holds a row, ``{modality: content}``, see :mod:`fusion_lab.serving.intake`. MLflow drops
columns that a signature does not know; inside a record nothing is dropped unseen.
"""
PACKAGE = "package"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "PyYAML", "safetensors", "scikit-learn", "scipy")
BESIDE = ("h5py", "skops", "threadpoolctl", "torch")


class Served:
    """What MLflow calls: ``predict(frame, params) -> frame``."""

    def __init__(self, package: Package) -> None:
        self.package = package

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answers for the rows of the column :data:`RECORD`; ``params={"attention": True}`` adds what was weighed.

        Raises:
            MlflowException: a row that cannot be used; HTTP 400 when served.
        """
        wanted = bool((params or {}).get(ATTENTION, False))
        try:
            records = read_rows(model_input[RECORD].tolist(), self.package.spec)
            return predict(self.package, records, wanted)
        except UserError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None

    def get_raw_model(self) -> Package:
        """What ``mlflow.pyfunc``'s method of this name gives."""
        return self.package


def _load_pyfunc(data_path: str) -> Served:
    """Called by MLflow."""
    return Served(Package.load(Path(data_path)))


def save(package: Package, folder: Path, example: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> Model:
    """Writes ``folder``, which must not be there, as MLflow's model directory.

    Args:
        package: the model.
        folder: where to.
        example: one row of input.
        facts: metadata of the ``MLmodel`` file.
    """
    model = Model()
    code = Path(fusion_lab.__file__).parent
    with tempfile.TemporaryDirectory(prefix="fusion_lab-") as scratch:
        data = Path(scratch, PACKAGE)
        data.mkdir()
        package.save(data)
        shutil.copytree(code, Path(scratch, "code", code.name), ignore=shutil.ignore_patterns("__pycache__"))
        save_model(
            str(folder),
            loader_module=__name__,
            data_path=str(data),
            code_paths=[str(Path(scratch, "code", code.name))],
            mlflow_model=model,
            signature=signature(package.spec),
            input_example=None if example is None else pd.DataFrame({RECORD: [example]}),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in (*REQUIREMENTS, *BESIDE)],
            metadata=dict(facts),
        )
    return model


def signature(spec: Spec) -> ModelSignature:
    """One record in, a line of answers out; ``attention`` as parameter."""
    contents = [Property(m.name, AnyType(), required=False) for m in spec.modalities]
    beside = [Property(name, AnyType(), required=False) for name in (ID, QUALITY) if name not in _names(spec)]
    outputs = [column for task in spec.tasks for column in _outputs(task)]
    return ModelSignature(
        Schema([ColSpec(Object([*contents, *beside]), RECORD)]),
        Schema([*outputs, ColSpec(AnyType(), ATTENTION, required=False)]),
        ParamSchema([ParamSpec(ATTENTION, DataType.boolean, False)]),
    )


def _names(spec: Spec) -> set[str]:
    return {m.name for m in spec.modalities}


def _outputs(task: Task) -> list[ColSpec]:
    def column(name: str, kind: DataType, required: bool = True) -> ColSpec:
        one = Object([Property(unit, kind, required=required) for unit in task.units]) if task.units else kind
        return ColSpec(Array(one) if task.per_step else kind, name, required=required)

    probabilities = [column(f"{task.name}.probability.{name}", DataType.double) for name in task.classes]
    answer = column(task.name, DataType.string if task.classes else DataType.double)
    return [answer, *probabilities, column(f"{task.name}.spread", DataType.double, required=False)]
