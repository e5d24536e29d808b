"""What every domain is held to: loader and synthetic twin give one spec, masks mean what they say, nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from activity_material import sessions, write_parquet
from data_miniature import write_follow_up, write_miniature
from editing_material import settings, write_twin
from molecules_material import made, write_archive
from oncology_material import write_layout
from relapse_material import days, write_days
from torch import Tensor

from fusion_lab.config import Config, load_yaml, validate
from fusion_lab.contracts import Batch, Dataset
from fusion_lab.data import DOMAINS, Domain
from fusion_lab.data.activity.settings import HEART_RATE_BPM
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.planting import Planting, twin
from fusion_lab.data.raw import Encoded, encode
from fusion_lab.data.scaling import Scaler, ScalingConfig
from fusion_lab.data.splits import FoldsConfig, make_folds

HANCOCK = Path(__file__).parents[2] / "experiments" / "hancock.yaml"
GROUPS = 9


class Example(NamedTuple):
    """Settings of a domain, and how to change a byte of each thing its data set is made from.

    ``unknown_labels``: some rows have them, as they may in this domain. ``one_clock``: position t is the same moment in
    all sequences of a row, so that one of them may lack the last.
    """

    settings: dict[str, Any]
    changes: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...]
    unknown_labels: bool = True
    one_clock: bool = False


def synthetic_example(folder: Path) -> Example:
    tree = {
        "rows": 90,
        "groups": GROUPS,
        "missing_modalities": 0.2,
        "missing_cells": 0.1,
        "unknown_labels": 0.1,
        "modalities": {
            "clinic": {"width": 4},
            "gait": {"kind": "sequence", "width": 3, "length": 6},
            "cells": {"kind": "bag", "width": 3, "length": 5},
            "admin": {"width": 4, "useful": False},
        },
        "tasks": {
            "death": {"prevalence": 0.4},
            "grade": {"kind": "multiclass"},
            "months": {"kind": "regression"},
            "falls": {"per_step": True},
        },
    }
    changed = ({"seed": 1}, {"signal": 1.0}, {"rows": 89}, {"tasks": {"death": {"prevalence": 0.5}}})
    return Example(tree, tuple(lambda tree, c=c: {**tree, **c} for c in changed))


def table_example(folder: Path) -> Example:
    write_miniature(folder, rows=90)
    targets = pd.read_csv(folder / "targets.csv")
    targets["clinic_number"] = np.arange(len(targets)) % GROUPS
    targets.to_csv(folder / "targets.csv", index=False)
    write_follow_up(folder)
    files = sorted(p for p in folder.iterdir())
    data = load_yaml(HANCOCK)["data"]
    kept = {name: m for name, m in data["modalities"].items() if m.get("key") in (None, "HE", "CD3")}  # of eight stains
    kept["clinical"] = {**kept["clinical"], "vocabulary": {"smoking_status": [0, 1, 2, 3]}}  # no code outside it
    day = {"kind": "sequence", "time": "day"}
    kept |= {
        "visits": {**day, "file": "visits.csv", "kinds": {"diet": "category"}, "indicators": True, "length": 5},
        "laboratory": {**day, "file": "laboratory.csv"},
        "cells": {"kind": "bag", "file": "cells.csv", "instance": "cell"},
    }
    well = {"column": "well", "positive": "yes", "file": "well.csv", "steps": ["visits", "laboratory"]}
    targets = {**data["targets"], "tasks": {**data["targets"]["tasks"], "well": well}}
    tree = {**data, "targets": targets, "modalities": kept, "root": str(folder), "group": "clinic_number"}
    return Example(tree, tuple(lambda tree, f=f: _touched(tree, f) for f in files))


def _touched(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    if file.suffix == ".h5":
        with h5py.File(file, "r+") as opened:
            opened["HE/embedding"][0, 0] += np.float16(1.0)
    else:
        text = file.read_bytes()
        file.write_bytes(text + b"\n")
    return tree


def activity_example(folder: Path) -> Example:
    frames = sessions([str(101 + i) for i in range(GROUPS)], (4, 12, 24), rows=120, missing=0.05, signal=True)
    frames["101"][HEART_RATE_BPM] = np.nan  # who wore no belt
    frames["102"].loc[::7, "hand_gyro_x_rads"] = np.nan
    write_parquet(folder, frames)
    files = sorted(folder.iterdir())
    changes = tuple(lambda tree, f=f: _exchanged(tree, f) for f in files)
    return Example({"root": str(folder), "chunk": 32}, changes, unknown_labels=False, one_clock=True)


def _exchanged(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    frame = pd.read_parquet(file)
    frame.loc[0, "hand_mag_x_ut"] += np.float32(1.0)
    frame.to_parquet(file, index=False)
    return tree


def oncology_example(folder: Path) -> Example:
    write_layout(folder, rows=90, gaps=0.05, slides=2, groups=GROUPS)
    files = sorted(folder.iterdir())
    return Example(
        {"root": str(folder), "group": "site"}, tuple(lambda tree, f=f: _requalified(tree, f) for f in files)
    )


def _requalified(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    with h5py.File(file, "r+") as opened:
        opened["quality_score"][0] = 0.125
    return tree


def molecules_example(folder: Path) -> Example:
    write_archive(folder, made(90, groups=GROUPS))
    files = sorted(folder.iterdir())
    return Example({"root": str(folder)}, tuple(lambda tree, f=f: _rewritten(tree, f) for f in files))


def _rewritten(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    if file.suffix == ".npz":
        with np.load(file) as opened:
            arrays = dict(opened)
        arrays["desc2d"][0, 0] += np.float32(1.0)
        np.savez(file, **arrays)
    else:
        file.write_bytes(file.read_bytes() + b"\n")
    return tree


def editing_example(folder: Path) -> Example:
    config = write_twin(folder, settings(twin={"videos": GROUPS, "seconds": 9}))
    files = sorted(folder.iterdir())
    kept = [*(file for file in files if file.suffix == ".npz"), *files[:2]]
    tree = config.model_dump(mode="json", exclude={"domain"})
    return Example(tree, tuple(lambda tree, f=f: _resaved(tree, f) for f in kept), one_clock=True)


def _resaved(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    if file.suffix == ".npz":
        with np.load(file) as opened:
            arrays = dict(opened)
        arrays["sequences"][0, 0, 2] += np.float32(1.0)
        np.savez(file, **arrays)
    else:
        file.write_bytes(file.read_bytes() + b"\n")
    return tree


def relapse_example(folder: Path) -> Example:
    write_days(folder, days(patients=GROUPS))
    changed = ({"window": 4, "root": None, "source": "twin", "twin": {"patients": GROUPS, "widths": {"hr": 2}}},)
    return Example(
        {"root": str(folder), "window": 4, "rows": "all"},
        (lambda tree: _remeasured(tree, folder), *(lambda tree, c=c: {**tree, **c} for c in changed)),
        one_clock=True,
    )


def _remeasured(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    frame = pd.read_parquet(folder / "daily.parquet")
    frame.loc[0, "sleep__1"] += np.float32(1.0)
    write_days(folder, frame)
    return tree


EXAMPLES: dict[str, Callable[[Path], Example]] = {
    "synthetic": synthetic_example,
    "table": table_example,
    "activity": activity_example,
    "molecules": molecules_example,
    "oncology": oncology_example,
    "editing": editing_example,
    "relapse": relapse_example,
}


class Loaded(NamedTuple):
    example: Example
    domain: Domain
    config: Config
    dataset: Dataset


@pytest.fixture(scope="module", params=EXAMPLES)
def loaded(request, tmp_path_factory) -> Loaded:
    domain = DOMAINS[request.param]
    example = EXAMPLES[request.param](tmp_path_factory.mktemp(request.param))
    config = validate(domain.config, {"domain": request.param, **example.settings}, "test")
    return Loaded(example, domain, config, domain.load(config))


def everything(dataset: Dataset | ArrayDataset) -> Batch:
    return dataset.gather(torch.arange(len(dataset)))


def named_leaves(batch: Batch) -> dict[str, Tensor]:
    parts = (part for part in Batch._fields if part != "weight")
    return {f"{part}/{n}": leaf for part in parts for n, leaf in getattr(batch, part).items()}


def test_the_suite_has_an_example_of_every_domain():
    assert set(EXAMPLES) == set(DOMAINS)


def test_the_spec_is_known_without_and_with_the_data(loaded):
    assert loaded.domain.spec(loaded.config) == loaded.dataset.spec


def test_the_spec_can_be_written_down(loaded):
    """A registered model holds it as JSON, which knows Python's types alone."""
    assert json.loads(json.dumps(asdict(loaded.dataset.spec)))


def test_leaves_have_the_shapes_and_types_of_the_contract(loaded):
    batch, rows, spec = everything(loaded.dataset), len(loaded.dataset), loaded.dataset.spec
    names = {m.name for m in spec.modalities}
    assert all(set(leaves) == names for leaves in (batch.inputs, batch.valid, batch.observed, batch.quality))
    for m in spec.modalities:
        assert batch.inputs[m.name].shape == batch.observed[m.name].shape == (rows, *m.shape)
        assert batch.valid[m.name].shape == ((rows,) if m.length is None else (rows, m.length))
        assert batch.valid[m.name].dtype == batch.observed[m.name].dtype == torch.bool
        assert ((batch.quality[m.name] >= 0) & (batch.quality[m.name] <= 1)).all()
    assert set(batch.targets) == set(batch.known) == {t.name for t in spec.tasks}
    for task in spec.tasks:
        shape = (rows, *spec.target_shape(task))
        assert batch.targets[task.name].shape == batch.known[task.name].shape == shape
        codes = batch.targets[task.name][batch.known[task.name]]
        if task.kind != "regression":
            assert set(codes.unique().tolist()) == set(map(float, range(len(task.classes)))), task.name


def test_everything_is_finite_and_zero_under_every_mask(loaded):
    batch = everything(loaded.dataset)
    for name, inputs in batch.inputs.items():
        real = batch.observed[name] & batch.valid[name].unsqueeze(-1)
        assert torch.isfinite(inputs).all(), name
        assert not inputs[~real].any(), name
        assert inputs[real].any(), name
    for task, target in batch.targets.items():
        assert torch.isfinite(target).all(), task
        assert not target[~batch.known[task]].any(), task
    assert any(not v.reshape(len(v), -1).any(1).all() for v in batch.valid.values()), "the example misses no modality"
    assert any(not k.all() for k in batch.known.values()) == loaded.example.unknown_labels


def test_categories_are_one_hot_where_they_are_observed(loaded):
    batch = everything(loaded.dataset)
    for m in loaded.dataset.spec.modalities:
        sources = {f.source for f in m.features if f.kind == "category"}
        for source in sources:
            columns = [i for i, f in enumerate(m.features) if f.kind == "category" and f.source == source]
            chosen = batch.inputs[m.name][batch.valid[m.name]][:, columns]
            assert (chosen.sum(1) == 1).all(), (m.name, source)


def test_encoding_the_raw_rows_gives_the_data_set(loaded):
    records = loaded.domain.records(loaded.config)
    assert records.ids.tolist() == loaded.dataset.ids.tolist()
    batch = everything(loaded.dataset)
    for m in loaded.dataset.spec.modalities:
        for strict in (False, True):  # these rows are those that the spec was made from: none of them is a surprise
            encoded = encode(m, records.modalities[m.name], strict)
            for part in Encoded._fields:
                assert torch.equal(torch.from_numpy(getattr(encoded, part)), getattr(batch, part)[m.name]), (m, part)


def test_sequences_end_and_bags_begin_with_what_is_there(loaded):
    batch = everything(loaded.dataset)
    for m in loaded.dataset.spec.modalities:
        if m.length is not None:
            valid = batch.valid[m.name]
            edge = valid[:, 0 if m.kind == "bag" else -1]
            shared = loaded.example.one_clock or any(m.name in task.steps for task in loaded.dataset.spec.tasks)
            assert edge.any() if shared else torch.equal(edge, valid.any(1)), m.name
    if loaded.example.one_clock:
        together = torch.stack(list(batch.valid.values())).any(0)
        assert torch.equal(together[:, -1], together.any(1))


def test_ids_are_unique_and_groups_have_a_name_each(loaded):
    ids = loaded.dataset.ids
    assert len(set(ids.tolist())) == len(ids) == len(loaded.dataset)
    assert loaded.dataset.group is not None
    assert len(set(loaded.dataset.group.tolist())) == GROUPS


def test_a_recording_is_of_one_group(loaded):
    recording, group = loaded.dataset.recording, loaded.dataset.group
    if recording is not None:
        assert len(set(zip(recording, group, strict=True))) == len(set(recording)) < len(recording)


def test_rows_are_gathered_by_index_with_any_leading_shape(loaded):
    rows = torch.tensor([[3, 0, 3], [7, 8, 1]])
    stacked, whole = loaded.dataset.gather(rows), named_leaves(everything(loaded.dataset))
    for name, leaf in named_leaves(stacked).items():
        assert torch.equal(leaf, whole[name][rows]), name
    assert torch.equal(stacked.weight, torch.ones(2, 3))


def test_a_twin_has_the_spec_and_the_shapes_of_the_data(loaded):
    like = loaded.dataset.spec
    plan = Planting(rows=40, missing_modalities=0.1, missing_cells=0.05)
    dataset = twin(like, plan)
    assert dataset.spec == like
    ours, real = named_leaves(everything(dataset)), named_leaves(everything(loaded.dataset))
    assert set(ours) == set(real)
    for name, leaf in ours.items():
        assert (leaf.shape[1:], leaf.dtype) == (real[name].shape[1:], real[name].dtype), name


@pytest.mark.parametrize("holdout", [0.0, 0.2])
@pytest.mark.parametrize("protocol", ["stratified", "kfold", "grouped", "leave_one_group_out", "loso", "holdout"])
def test_groups_never_straddle_a_split(loaded, protocol, holdout):
    dataset = loaded.dataset
    folds = make_folds(FoldsConfig(protocol=protocol, k=3, holdout=holdout), dataset)
    assert dataset.group is not None
    locked = set(dataset.group[folds.holdout])
    assert bool(locked) == (holdout > 0)
    for k in range(len(folds)):
        parts = [set(dataset.group[rows]) for rows in (folds.train[k], folds.val[k], folds.test[k])] + [locked]
        assert sum(map(len, parts)) == len(set.union(*parts)) == GROUPS
        assert all(parts[:3])


class Tampered:
    """A data set of which some rows, bool [R], were exchanged for noise without any missing cell."""

    def __init__(self, dataset: Dataset, rows: np.ndarray) -> None:
        self.dataset, self.rows = dataset, rows
        self.spec, self.ids, self.provenance = dataset.spec, dataset.ids, dataset.provenance
        self.group, self.order = dataset.group, dataset.order
        self.recording, self.given_split = dataset.recording, dataset.given_split

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, rows: Tensor) -> Batch:
        batch = self.dataset.gather(rows)
        hit = torch.from_numpy(self.rows)[rows]
        for m in self.dataset.spec.modalities:
            inputs, noise = (
                batch.inputs[m.name],
                torch.from_numpy(np.random.default_rng(0).normal(9, 99, batch.inputs[m.name].shape)),
            )
            batch.inputs[m.name] = torch.where(_like(hit, inputs), noise.float(), inputs)
            for masks in (batch.valid, batch.observed):
                masks[m.name] = masks[m.name] | _like(hit, masks[m.name])
        return batch


def _like(hit: Tensor, leaf: Tensor) -> Tensor:
    return hit.reshape(*hit.shape, *[1] * (leaf.ndim - hit.ndim))


@pytest.mark.parametrize("method", ["standard", "robust"])
def test_no_validation_or_test_row_changes_a_statistic(loaded, method):
    folds = make_folds(FoldsConfig(k=3, holdout=0.2), loaded.dataset)
    config = ScalingConfig(method=method, impute="median" if method == "robust" else "mean")
    honest = Scaler.fit(loaded.dataset, folds.fit, config)
    for k in range(len(folds)):
        for others in (folds.val[k], folds.test[k], ~folds.train[k]):
            other = Scaler.fit(Tampered(loaded.dataset, others), folds.fit, config)
            for name, statistic in honest.fold(k).state().items():
                assert torch.equal(statistic, other.fold(k).state()[name]), name
    spoilt = Scaler.fit(Tampered(loaded.dataset, folds.train[0]), folds.fit, config)
    assert any(not torch.equal(s, spoilt.state()[name]) for name, s in honest.state().items())


@pytest.mark.parametrize("method", ["standard", "robust", "none"])
def test_scaled_rows_are_finite_and_zero_where_invalid(loaded, method):
    folds = make_folds(FoldsConfig(k=3), loaded.dataset)
    scaler = Scaler.fit(loaded.dataset, folds.fit, ScalingConfig(method=method))
    batch = scaler(loaded.dataset.gather(torch.arange(len(loaded.dataset)).expand(3, -1)))
    for name, inputs in batch.inputs.items():
        assert torch.isfinite(inputs).all(), name
        assert not inputs[~batch.valid[name]].any(), name


def test_loading_again_gives_the_same_data_and_the_same_digest(loaded):
    again = loaded.domain.load(loaded.config)
    assert again.provenance == loaded.dataset.provenance
    assert again.provenance.digest == loaded.dataset.provenance.digest
    assert again.ids.tolist() == loaded.dataset.ids.tolist()
    for name, leaf in named_leaves(everything(loaded.dataset)).items():
        assert torch.equal(leaf, named_leaves(everything(again))[name]), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_changed_byte_of_any_source_changes_the_digest(name, tmp_path):
    domain, example = DOMAINS[name], EXAMPLES[name](tmp_path)

    def digest(tree: dict[str, Any]) -> str:
        return domain.load(validate(domain.config, {"domain": name, **tree}, "test")).provenance.digest

    digests = [digest(example.settings), *(digest(change(example.settings)) for change in example.changes)]
    assert len(example.changes) >= 2
    assert len(set(digests)) == len(digests)
