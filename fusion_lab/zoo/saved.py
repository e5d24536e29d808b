"""Fitted baselines as a file that is read back: skops, which builds named types only and never unpickles.

That a type is known says nothing of what an object of it holds, so what scikit-learn follows unchecked, the nodes of
its trees, is checked here.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from fusion_lab.contracts import UserError
from fusion_lab.zoo.baselines import Baseline, BestSingle, LateAverage, Logistic, Prevalence, Single, Trees
from fusion_lab.zoo.persistence import Persistence

TRUSTED = (
    "builtins.dict",
    "builtins.list",
    "builtins.str",  # what skops calls every number, text and None
    "builtins.tuple",
    "fusion_lab.contracts.Feature",
    "fusion_lab.contracts.Modality",
    "fusion_lab.contracts.Task",
    "fusion_lab.zoo.baselines.BestSingle",
    "fusion_lab.zoo.baselines.LateAverage",
    "fusion_lab.zoo.baselines.Logistic",
    "fusion_lab.zoo.baselines.Prevalence",
    "fusion_lab.zoo.baselines.Single",
    "fusion_lab.zoo.baselines.Trees",
    "fusion_lab.zoo.baselines._View",
    "fusion_lab.zoo.persistence.Persistence",
    "fusion_lab.zoo.persistence._Moves",
    "fusion_lab.zoo.persistence._Stays",
    "numpy.float64",
    "numpy.int64",
    "numpy.ndarray",
    "numpy.random._generator.Generator",
    "numpy.uint64",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn._loss._loss.CyHalfMultinomialLoss",
    "sklearn._loss._loss.CyHalfSquaredError",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.linear_model._ridge.Ridge",
    "sklearn.linear_model._ridge.RidgeCV",
    "sklearn.preprocessing._label.LabelEncoder",
)
"""All that a file may be made of."""

_KINDS = (BestSingle, LateAverage, Logistic, Persistence, Prevalence, Single, Trees)
_BOOSTED = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
)


def save_baselines(models: Sequence[Baseline], path: Path) -> None:
    """Writes fitted baselines, one per fold, whole or not at all."""
    import skops.io  # imports all of scikit-learn

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    skops.io.dump(list(models), half, compression=zipfile.ZIP_DEFLATED)
    os.replace(half, path)


def load_baselines(path: Path) -> tuple[Baseline, ...]:
    """Reads what :func:`save_baselines` wrote: baselines that answer bit for bit as before.

    Raises:
        UserError: no file, a damaged one, or one that holds a type which is not :data:`TRUSTED`.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected a file of fitted baselines, found no such file")
    try:
        data = path.read_bytes()
        foreign = sorted(_named(data) - set(TRUSTED))
        models = [] if foreign else _built(data)
    except _DAMAGED as error:
        found = str(error).split("\n", 1)[0] or type(error).__name__
        raise UserError(f"{path}: expected a file of fitted baselines, found a damaged one ({found})") from error
    if foreign:
        raise UserError(f"{path}: expected fitted baselines and what they are made of, found type {foreign[0]!r}")
    other = [m for m in models if not isinstance(m, _KINDS)] if isinstance(models, list) else [models]
    if other:
        raise UserError(f"{path}: expected a list of fitted baselines, found a {type(other[0]).__name__}")
    return tuple(models)


def _named(data: bytes) -> set[str]:
    """All types that a file names, those that skops trusts without being asked included."""
    import skops.io

    with zipfile.ZipFile(BytesIO(data)) as file:
        nodes = [node for node in _inside(json.loads(file.read("schema.json"))) if isinstance(node, dict)]
    types = {f"{node['__module__']}.{node['__class__']}" for node in nodes if "__loader__" in node}
    return types | set(skops.io.get_untrusted_types(data=data))


def _built(data: bytes) -> Any:
    import skops.io

    models = skops.io.loads(data, trusted=TRUSTED)
    for model in _inside(models):
        if isinstance(model, _BOOSTED):
            trees = [tree for step in model._predictors for tree in step]
            for nodes in (tree.nodes for tree in trees):
                _check_nodes(nodes, model.n_features_in_)
    return models


def _check_nodes(nodes: np.ndarray, features: int) -> None:
    """Refuses a tree down which a walk does not end or meets a feature that is not there: scikit-learn would follow."""
    places = np.arange(len(nodes))
    split = nodes["is_leaf"] == 0
    children = np.stack([nodes["left"], nodes["right"]]).astype(int)
    onward = ((places < children) & (children < len(nodes))).all(0)
    numeric = (nodes["feature_idx"] >= 0) & (nodes["feature_idx"] < features) & (nodes["is_categorical"] == 0)
    if not len(nodes) or (split & ~(onward & numeric)).any():
        raise ValueError("a tree that leads nowhere")


def _inside(value: Any) -> Iterator[Any]:
    """The value and whatever it is made of."""
    yield value
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, np.ndarray):
        parts = value.reshape(-1).tolist() if value.dtype == object else ()
    else:
        parts = getattr(value, "__dict__", {}).values()
    for part in parts:
        yield from _inside(part)
