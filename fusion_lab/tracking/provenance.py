"""Where a run comes from: packages, machine, commit, data set."""

from __future__ import annotations

import functools
import getpass
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.entities import Dataset as TrackedDataset
from mlflow.entities import DatasetInput, InputTag

import fusion_lab
from fusion_lab.contracts import Dataset, Modality, Task, array_hash, content_hash
from fusion_lab.data.portions import in_portions, targets_of

_PACKAGE = Path(fusion_lab.__file__).resolve().parent
_NAME_LENGTH, _VALUE_LENGTH, _DIGEST_LENGTH = 500, 60_000, 32


def environment() -> dict[str, Any]:
    """Python, packages, machine, device and commit, as plain values.

    >>> sorted(environment())
    ['commit', 'device', 'dirty', 'fusion_lab', 'packages', 'platform', 'python', 'threads']
    """
    commit, dirty = git_commit()
    return {
        "fusion_lab": fusion_lab.__version__,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Versions of what the project depends on, as they are installed; ``"absent"`` where one is not."""
    try:
        required = metadata.requires("fusion-lab") or []
    except metadata.PackageNotFoundError:
        required = ["h5py", "mlflow", "numpy", "optuna", "pandas", "pyarrow", "scikit-learn", "scipy", "torch"]
    names = {re.split(r"[^\w.\-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line}
    return {name: _version(name) for name in sorted(names, key=str.lower)}


def git_commit(folder: Path = _PACKAGE) -> tuple[str | None, bool]:
    """The commit that ``folder`` is at, and whether tracked files differ from it; ``(None, False)`` without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    return commit or None, bool(commit and _git(folder, "status", "--porcelain", "--untracked-files=no"))


@functools.cache
def source_tags() -> dict[str, str]:
    """The tags behind the columns User, Source and Version of MLflow's run table."""
    commit, dirty = git_commit()
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "fusion-lab",
        "fusion_lab.version": fusion_lab.__version__,
    }
    if commit:
        tags |= {"mlflow.source.git.commit": commit, "fusion_lab.dirty": "true" if dirty else "false"}
    return tags


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 over sources, names of the rows and columns: one file read in two ways (other chunks, other modalities)
    is two data sets.
    """
    rows = array_hash(np.asarray(dataset.ids, dtype=str))
    return content_hash([dataset.provenance.digest, rows, asdict(dataset.spec)])


def dataset_input(name: str, dataset: Dataset, context: str = "cross-validation") -> DatasetInput:
    """The data set as a run's page shows it: digest, sources with their hashes, columns, rows per class.

    ``context`` is what the run did with it, shown beside the name.
    """
    sources = [{"name": s.name, "sha256": s.sha256, "rows": s.rows} for s in dataset.provenance.sources]
    columns = [_column(m) for m in dataset.spec.modalities] + [_target(t) for t in dataset.spec.tasks]
    counts = class_table(dataset).to_dict(orient="records")
    groups = None if dataset.group is None else len(np.unique(dataset.group))
    tracked = TrackedDataset(
        name=name[:_NAME_LENGTH],
        digest=dataset_digest(dataset)[:_DIGEST_LENGTH],
        source_type="local",
        source=_fitting({"uri": ", ".join(s.name for s in dataset.provenance.sources), "sources": sources}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": len(dataset), "num_groups": groups, "rows_per_class": counts}),
    )
    return DatasetInput(tracked, [InputTag("mlflow.data.context", context)])


def class_table(dataset: Dataset) -> pd.DataFrame:
    """Rows and groups per task and class: columns ``task``, ``class``, ``rows``, ``groups``; unknown labels come last.

    A task with steps counts a row in every class that one of its known steps has; a regression has one class, "known".
    """
    batch = targets_of(dataset)
    group = np.arange(len(dataset)) if dataset.group is None else dataset.group
    lines = []
    for task in dataset.spec.tasks:
        target, known = (leaf[task.name].numpy().reshape(len(dataset), -1) for leaf in (batch.targets, batch.known))
        held = {name: (known & (target == code)).any(1) for code, name in enumerate(task.classes)}
        held = held or {"known": known.any(1)}
        for name, rows in {**held, "(unknown)": ~known.any(1)}.items():
            lines.append((task.name, name, int(rows.sum()), len(np.unique(group[rows]))))
    return pd.DataFrame(lines, columns=["task", "class", "rows", "groups"])


def modality_table(dataset: Dataset) -> pd.DataFrame:
    """Who has what: columns ``modality``, ``kind``, ``features``, ``rows`` that have it, ``missing`` ones."""
    there = dict.fromkeys((modality.name for modality in dataset.spec.modalities), 0)
    for rows, batch in in_portions(dataset):
        for name, valid in batch.valid.items():
            there[name] += int(valid.reshape(len(rows), -1).any(1).sum())
    lines = [(m.name, m.kind, m.width, there[m.name], len(dataset) - there[m.name]) for m in dataset.spec.modalities]
    return pd.DataFrame(lines, columns=["modality", "kind", "features", "rows", "missing"])


def _column(modality: Modality) -> dict[str, object]:
    return {"name": modality.name, "type": f"{modality.kind} {'x'.join(map(str, modality.shape))}", "required": False}


def _target(task: Task) -> dict[str, object]:
    classes = f": {', '.join(task.classes)}" if task.classes else ""
    return {"name": task.name, "type": f"target, {task.kind}{classes}", "required": False}


def _fitting(source: dict[str, object]) -> str:
    """The source as JSON, without the list of files where that is too long for MLflow."""
    text = json.dumps(source)
    return text if len(text) <= _VALUE_LENGTH else json.dumps({"uri": str(source["uri"])[:1000]})


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; ``None`` where it is not installed or ``folder`` is no checkout of the project."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid()) if sys.platform != "win32" else "unknown"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
