"""Baselines that are read back answer as before, and nothing else is read."""

import json
import zipfile

import numpy as np
import pytest
import torch
from baseline_material import quicken
from sklearn.svm import SVC

from fusion_lab.contracts import Batch, Feature, Modality, Spec, Task, UserError
from fusion_lab.zoo.baselines import Logistic, Prevalence, TrainingFold, Trees, baseline_names, fit_baseline
from fusion_lab.zoo.saved import TRUSTED, load_baselines, save_baselines

ROWS, TIME = 60, 4
CLASSES = ("a", "b", "c")
SPEC = Spec(
    (
        Modality("blood", "vector", (Feature("f0"), Feature("f1"))),
        Modality("motion", "sequence", (Feature("f0"),), TIME),
        Modality("cells", "bag", (Feature("f0"),), 3),
    ),
    (
        Task("event", "binary", ("no", "yes")),
        Task("site", "multiclass", CLASSES),
        Task("dose", "regression"),
        Task("walk", "binary", ("no", "yes"), ("motion",)),
        Task("act", "multiclass", CLASSES, ("motion",)),
        Task("pace", "regression", steps=("motion",)),
    ),
)


def _batch(spec=SPEC, seed=0):
    g = torch.Generator().manual_seed(seed)
    valid = {m.name: torch.rand(ROWS, *m.shape[:-1], generator=g) < 0.9 for m in spec.modalities}
    observed = {m.name: valid[m.name].unsqueeze(-1).expand(ROWS, *m.shape) for m in spec.modalities}
    inputs = {m.name: torch.randn(ROWS, *m.shape, generator=g) * observed[m.name] for m in spec.modalities}
    targets, known = {}, {}
    for task in spec.tasks:
        shape = (ROWS, *spec.target_shape(task))
        values = torch.randint(0, max(2, len(task.classes)), shape, generator=g).float()
        targets[task.name] = torch.randn(shape, generator=g) if task.kind == "regression" else values
        known[task.name] = torch.ones(shape, dtype=torch.bool)
    quality = {m.name: torch.ones(ROWS) for m in spec.modalities}
    return Batch(inputs, valid, observed, quality, targets, known, torch.ones(ROWS))


@pytest.fixture(scope="module")
def fitted():
    fold = TrainingFold(SPEC, _batch(), _batch(seed=1))
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        return {name: fit_baseline(name, fold) for name in baseline_names(SPEC)}


@pytest.mark.parametrize("name", baseline_names(SPEC))
def test_what_is_read_back_answers_bit_for_bit_as_before(name, fitted, tmp_path):
    path = tmp_path / "models" / "baseline.skops"
    save_baselines([fitted[name], fitted["prevalence"]], path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    found, asked = load_baselines(path), _batch(seed=2)
    assert [type(model) for model in found] == [type(fitted[name]), Prevalence]
    for model, before in zip(found, (fitted[name], fitted["prevalence"]), strict=True):
        answers, expected = model.predict(asked), before.predict(asked)
        assert set(answers) == {task.name for task in SPEC.tasks}
        for task in SPEC.tasks:
            np.testing.assert_array_equal(answers[task.name], expected[task.name])


def test_weights_and_wide_modalities_are_read_back_too(tmp_path, quick_baselines):
    spec = Spec((Modality("blood", "vector", tuple(Feature(f"f{i}") for i in range(90))),), SPEC.tasks[:3])
    batch = _batch(spec)._replace(weight=torch.rand(ROWS, generator=torch.Generator().manual_seed(3)))
    models = [Logistic().fit(batch, spec), Trees().fit(batch, spec)]
    save_baselines(models, tmp_path / "m.skops")
    for model, before in zip(load_baselines(tmp_path / "m.skops"), models, strict=True):
        for task in spec.tasks:
            np.testing.assert_array_equal(model.predict(batch)[task.name], before.predict(batch)[task.name])


class Foreign:
    """Nothing that a baseline is made of."""


def _dump(value, path):
    import skops.io  # looks through all of scikit-learn when it is imported

    skops.io.dump(value, path)
    return path


@pytest.mark.parametrize(
    ("foreign", "name"),
    [(Foreign(), "Foreign"), (SVC(), "sklearn.svm._classes.SVC"), (np.float32(1), "numpy.float32")],
)
def test_a_foreign_type_is_refused_by_its_name(foreign, name, fitted, tmp_path):
    path = _dump([fitted["prevalence"], foreign], tmp_path / "m.skops")
    with pytest.raises(UserError, match=f"m.skops: .*found type '.*{name}'"):
        load_baselines(path)


def test_a_foreign_type_inside_of_a_baseline_is_refused(tmp_path):
    model = Prevalence().fit(_batch(), SPEC)
    model._answers = Foreign()
    with pytest.raises(UserError, match="found type '.*Foreign'"):
        load_baselines(_dump([model], tmp_path / "m.skops"))


def test_a_method_of_a_trusted_type_is_refused(fitted, tmp_path):
    with pytest.raises(UserError, match=r"found type '.*Prevalence\.predict'"):
        load_baselines(_dump([fitted["prevalence"].predict], tmp_path / "m.skops"))


@pytest.mark.parametrize("value", [{"a": 1}, ["text"], Prevalence()])
def test_trusted_types_that_are_no_list_of_baselines_are_refused(value, tmp_path):
    with pytest.raises(UserError, match="expected a list of fitted baselines, found a (dict|str|Prevalence)"):
        load_baselines(_dump(value, tmp_path / "m.skops"))


def test_a_file_that_is_missing_or_damaged_is_one_line(fitted, tmp_path):
    path = tmp_path / "m.skops"
    with pytest.raises(UserError, match="found no such file"):
        load_baselines(path)
    save_baselines([fitted["logistic"]], path)
    whole = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("schema.json", json.dumps({"protocol": 2}))
    broken = [b"", b"text", whole[: len(whole) // 2], whole[:500] + bytes(200) + whole[700:]]
    for data in (*broken, (tmp_path / "other.zip").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="found a damaged one") as told:
            load_baselines(path)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("column", "value"), [("left", 10_000), ("right", 0), ("feature_idx", 10_000), ("is_categorical", 1)]
)
def test_a_tree_that_would_lead_out_of_its_memory_is_refused(column, value, tmp_path, quick_baselines):
    spec = Spec(SPEC.modalities, SPEC.tasks[:1])
    model = Trees().fit(_batch(spec), spec)
    nodes = model._models["event"][1]._predictors[0][0].nodes
    nodes[column][0] = value
    assert not nodes["is_leaf"][0]
    save_baselines([model], tmp_path / "m.skops")
    with pytest.raises(UserError, match="a tree that leads nowhere"):
        load_baselines(tmp_path / "m.skops")


def test_the_trusted_types_are_named_once_and_in_order():
    assert list(TRUSTED) == sorted(set(TRUSTED))
