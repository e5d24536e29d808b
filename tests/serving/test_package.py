"""A model as a folder: what comes back answers bit by bit the same, and as it did when it was trained."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from serving_material import experiment, final, materials, records

from fusion_lab.contracts import DataError
from fusion_lab.jobs.baselines import fit_baseline
from fusion_lab.serving.answers import answer
from fusion_lab.serving.members import WEIGHTS
from fusion_lab.serving.package import MODEL, Origin, Package
from fusion_lab.zoo.baselines import baseline_names


def saved(package: Package, folder) -> Package:
    folder.mkdir(exist_ok=True)
    package.save(folder)
    return Package.load(folder)


@pytest.mark.parametrize("kind", ["ensemble", "refit"])
def test_a_package_that_is_read_again_answers_the_same(kind, tmp_path):
    package = final(kind).package
    again = saved(package, tmp_path)
    first, second = answer(package, records()), answer(again, records())
    for task, scores in first.scores.items():
        np.testing.assert_array_equal(scores, second.scores[task])
    for name, weights in first.maps.items():
        np.testing.assert_array_equal(weights, second.maps[name])
    for part in ("name", "spec", "origin", "final", "temperature", "threshold", "epochs", "version", "label"):
        assert getattr(package, part) == getattr(again, part)
    assert again.experiment == package.experiment


def test_raw_rows_get_the_answers_of_training():
    """Each fold's model, asked about its validation and test rows: what it said when it was cross-validated."""
    package, before = final().package, final().predictions
    scores = answer(package, records()).scores
    for task in materials().spec.tasks:
        now = scores[task.name][before.fold, before.row]
        np.testing.assert_allclose(now, before.score[task.name], atol=1e-5, rtol=1e-5)


def test_a_refit_model_answers_raw_rows_as_it_was_trained():
    made = final("refit")
    assert made.as_trained is not None
    assert set(made.as_trained.row) == set(np.flatnonzero(~materials().folds.holdout))
    scores = answer(made.package, records(), made.as_trained.row).scores
    for task, then in made.as_trained.score.items():
        np.testing.assert_allclose(scores[task][0], then, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", baseline_names(materials().spec))
def test_every_baseline_can_be_packaged(name, tmp_path, quick_baselines):
    members = fit_baseline(name, materials(), lambda text: None)
    origin = Origin("data", "folds", "print", "run")
    package = Package("served", members, materials().spec, experiment().resolved(), origin, baseline=name)
    again = saved(package, tmp_path)
    batch = materials().dataset.gather(torch.arange(20)).without_targets()
    for task, scores in members.answer(batch).scores.items():
        np.testing.assert_array_equal(scores, again.members.answer(batch).scores[task])
    assert name in again.label


def damage_json(folder):
    (folder / MODEL).write_text("{")


def damage_format(folder):
    tree = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps({**tree, "format": 99}))


def damage_spec(folder):
    tree = json.loads((folder / MODEL).read_text())
    tree["spec"]["modalities"][0]["kind"] = "cube"
    (folder / MODEL).write_text(json.dumps(tree))


def damage_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def lose_weights(folder):
    (folder / WEIGHTS).unlink()


def exchange_model(folder):
    tree = json.loads((folder / MODEL).read_text())
    tree["experiment"]["model"]["d_model"] = 16
    (folder / MODEL).write_text(json.dumps(tree))


def edit_json(folder, change):
    tree = json.loads((folder / MODEL).read_text())
    change(tree)
    (folder / MODEL).write_text(json.dumps(tree))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def unknown_family(folder):
    edit_json(folder, lambda tree: tree["experiment"]["model"].update(family="foo"))


def no_model(folder):
    edit_json(folder, lambda tree: tree["experiment"].pop("model"))


def odd_setting(folder):
    edit_json(folder, lambda tree: tree["experiment"]["model"].update(d_model="x"))


def cold_model(folder):
    edit_json(folder, lambda tree: tree["temperature"].update(outcome=0.0))


def impossible_threshold(folder):
    edit_json(folder, lambda tree: tree["threshold"].update(outcome=7.0))


def no_scaler(folder):
    edit_weights(folder, lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith("scaler/")])


def fewer_folds(folder):
    edit_weights(folder, lambda tensors: tensors.update({n: t[:2] for n, t in tensors.items() if "/shift" in n}))


def half_weights(folder):
    edit_weights(folder, lambda tensors: tensors.update({n: t.half() for n, t in tensors.items() if "weights/" in n}))


DAMAGES = [
    *(unknown_family, no_model, odd_setting, cold_model, impossible_threshold),
    *(no_scaler, fewer_folds, half_weights),
]


@pytest.mark.parametrize(
    "damage", [*DAMAGES, damage_json, damage_format, damage_spec, damage_weights, lose_weights, exchange_model]
)
def test_a_damaged_package_is_refused_in_one_line(damage, tmp_path):
    final().package.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as refused:
        Package.load(tmp_path)
    assert "expected" in str(refused.value) and "\n" not in str(refused.value)


def test_nothing_is_pickled(tmp_path, quick_baselines):
    final().package.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [MODEL, WEIGHTS]
    baseline = fit_baseline("trees", materials(), lambda text: None)
    (tmp_path / "b").mkdir()
    baseline.save(tmp_path / "b")
    assert {file.suffix for file in (tmp_path / "b").iterdir()} == {".safetensors", ".skops"}


def test_requests_that_overlap_do_not_mix_the_members():
    """A server answers each request in a thread of its own."""
    package = final().package
    parts = [np.arange(start, start + 15) for start in (0, 15, 30, 45)]
    alone = [answer(package, records(), part).scores["outcome"] for part in parts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: answer(package, records(), part).scores["outcome"], parts * 10))
    for number, scores in enumerate(found):
        np.testing.assert_array_equal(scores, alone[number % 4])
