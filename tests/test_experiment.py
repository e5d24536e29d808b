"""Laws of experiment files: what was resolved is an experiment file, and its parts are what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import BASE, base, loaded

import fusion_lab
from fusion_lab.config import dump_yaml, load_yaml, parse_yaml
from fusion_lab.contracts import ConfigError
from fusion_lab.data.scaling import ScalingConfig
from fusion_lab.data.synthetic import SyntheticConfig
from fusion_lab.experiment import SHORT_NAMES, Materials, find, override, read_experiment, resolve
from fusion_lab.search.sweep import read_settings

ROOT = Path(fusion_lab.__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_what_was_resolved_is_the_same_experiment(file):
    experiment = read_experiment(str(file))
    text = dump_yaml(experiment.resolved())
    assert resolve(parse_yaml(text, "again"), "again") == experiment
    assert dump_yaml(resolve(parse_yaml(text, "again"), "again").resolved()) == text


@settings(max_examples=25, deadline=None)
@given(
    lr=st.floats(1e-8, 1.0),
    name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9 ._-]{0,12}\Z"),
    description=st.text(max_size=60),
    seed=st.integers(0, 2**40),
)
def test_any_settings_survive_being_written(lr, name, description, seed):
    experiment = base({"optimiser.lr": lr, "name": name, "description": description, "seed": seed})
    assert resolve(parse_yaml(dump_yaml(experiment.resolved()), "again"), "again") == experiment


def test_names_are_found_here_first_and_then_in_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("experiments", "demo") == ROOT / "experiments" / "demo.yaml"
    own = tmp_path / "experiments" / "demo.yaml"
    own.parent.mkdir()
    own.write_text("data: {domain: synthetic}\n")
    assert find("experiments", "demo").resolve() == own
    assert find("experiments", "some/where.yaml") == Path("some/where.yaml")
    with pytest.raises(ConfigError, match=r"experiments/dmeo.yaml: expected a file .*\(did you mean 'demo'\?\)"):
        find("experiments", "dmeo")


def test_an_experiment_is_named_as_its_file_unless_it_says_otherwise(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {domain: synthetic}\n")
    assert read_experiment(str(file)).name == "mine"
    file.write_text("name: other\ndata: {domain: synthetic}\n")
    assert read_experiment(str(file)).name == "other"


def test_the_command_line_goes_over_the_file():
    experiment = read_experiment("demo", {"optimiser.lr": 0.5, "data.rows": 50, "seed": 7})
    written = load_yaml(find("experiments", "demo"))
    assert (experiment.optimiser.lr, experiment.resolved()["data"]["rows"], experiment.seed) == (0.5, 50, 7)
    assert experiment.model.d_model == written["model"]["d_model"]


def test_a_folder_of_data_takes_the_place_of_the_files(tmp_path):
    assert read_experiment("hancock", data=str(tmp_path)).resolved()["data"]["root"] == str(tmp_path)
    with pytest.raises(ConfigError, match="demo.yaml makes its own data .synthetic. and takes no folder, found 'here'"):
        read_experiment("demo", data="here")


def test_another_domain_starts_its_section_anew():
    experiment = read_experiment("hancock", {"data.domain": "synthetic", "data.rows": 50})
    assert experiment.data == SyntheticConfig(rows=50)


FAULTS = {
    "model: {family: tokn_fusion}": "f.yaml: model.family: unknown 'tokn_fusion' (did you mean 'token_fusion'?)",
    "model: {family: [a]}": "f.yaml: model.family: unknown ['a'] (known: hcat, multitrack, sensor_fusion, task_mil, ",
    "model: {d_modle: 8}": "f.yaml: model.d_modle: unknown key (did you mean 'd_model'?)",
    "model: {d_model: 8, nhead: 3}": "f.yaml: model: expected d_model to be a multiple of nhead, found 8 and 3",
    "model: null": "f.yaml: model: expected an object, found null",
    "data: {domain: synthetc}": "f.yaml: data.domain: unknown 'synthetc' (did you mean 'synthetic'?)",
    "data: {rows: 3}": "f.yaml: data: expected a key 'domain', found none",
    "data: {domain: synthetic, rwos: 3}": "f.yaml: data.rwos: unknown key (did you mean 'rows'?)",
    "data: {domain: synthetic, modalities: {a: {wdth: 3}}}": "f.yaml: data.modalities.a.wdth: unknown key",
    "optimiser: {lr: -1}": "f.yaml: optimiser.lr: expected greater than 0, found -1",
    "optimiser: {schedule: cosin}": "f.yaml: optimiser.schedule: expected 'constant', 'cosine',",
    "folds: {k: 2}": "f.yaml: folds.k: expected greater than or equal to 3, found 2",
    "name: ../x": "f.yaml: name: expected ",
    "seed: -1": "f.yaml: seed: expected greater than or equal to 0, found -1",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_told_in_one_line(text):
    tree = {"name": "x", "data": {"domain": "synthetic"}, **parse_yaml(text, "f.yaml")}
    with pytest.raises(ConfigError) as error:
        resolve(tree, "f.yaml")
    assert str(error.value).startswith(FAULTS[text])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("short", "path"), SHORT_NAMES.items())
def test_a_short_name_is_the_setting_that_it_stands_for(short, path):
    tree = load_yaml(ROOT / "experiments" / "oncology.yaml")
    value = "per_batch" if short == "moddrop_mode" else 3
    spelled = override(tree, {path: value})
    assert override(tree, {short: value}) == spelled == override(tree | {short: value}, {}) != tree
    with pytest.raises(ConfigError, match=f"^{short}: expected this or {path}, which is the same setting, found both"):
        override(tree, {short: value, path: value})


def test_overrides_leave_the_tree_they_go_over():
    before = dump_yaml(BASE)
    override(BASE, {"model.d_model": 99, "data.modalities.a.width": 7, "data.domain": "table"})
    assert dump_yaml(BASE) == before


def test_a_fingerprint_is_that_of_what_will_be_computed():
    materials = loaded(60, 0)
    first = materials.fingerprint(base())
    assert materials.fingerprint(base({"name": "other", "description": "told otherwise", "selected": "s"})) == first
    changes = [{"optimiser.lr": 0.5}, {"seed": 1}, {"trial": 1}, {"training.epochs": 7}, {"scaling.method": "robust"}]
    others = {materials.fingerprint(base(change)) for change in changes}
    others |= {loaded(66, 0).fingerprint(base()), loaded(60, 1).fingerprint(base())}
    assert len({first, *others}) == len(changes) + 3


def test_a_plan_has_the_parts_that_the_experiment_says():
    materials = loaded(60, 0)
    experiment = base({"seed": 3, "trial": 5, "training.batch_size": 7, "scaling.method": "robust"})
    plan = materials.plan(experiment)
    assert (plan.seed, plan.trial, plan.training.batch_size) == (3, 5, 7)
    assert plan.dataset is materials.dataset
    assert plan.folds is materials.folds
    assert plan.fingerprint == materials.fingerprint(experiment)
    assert plan.scaler is materials.scaler(ScalingConfig(method="robust"))
    assert plan.initial_weights(0).count_parameters() > 0


def test_materials_are_the_same_whenever_they_are_loaded():
    first, second = Materials.load(base()), Materials.load(base())
    assert first.dataset.provenance.digest == second.dataset.provenance.digest
    assert first.folds.digest == second.folds.digest
    np.testing.assert_array_equal(first.folds.train, second.folds.train)
    assert Materials.load(base({"folds.seed": 1})).folds.digest != first.folds.digest


def test_a_short_name_and_its_path_in_one_file_are_refused():
    tree = load_yaml(ROOT / "experiments" / "oncology.yaml")
    with pytest.raises(ConfigError, match="^moddrop: expected this or model.moddrop, which is the same setting"):
        override(tree | {"moddrop": 0.2, "model": {"family": "hcat", "moddrop": 0.3}}, {})


def test_another_preset_brings_its_sizes_over_settings_that_were_resolved():
    tree = load_yaml(ROOT / "experiments" / "oncology.yaml")
    resolved = resolve({"name": "oncology", **tree}, "test").resolved()
    asked = {"model.preset": "reference", "model.n_heads": 4}
    fresh, again = (resolve(override({"name": "oncology", **t}, asked), "test") for t in (tree, resolved))
    assert fresh.model == again.model
    assert (fresh.model.d_model, fresh.model.n_heads) == (512, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: &data\n  domain: synthetic\n  inner: *data\n", "that do not contain themselves, found a loop"),
        ("data: {domain: synthetic}\nmodel: {d_model: [8, 16], !!binary aGk=: 1}\n", "keys that are texts or numbers"),
    ],
)
def test_a_file_that_no_text_can_hold_is_refused_before_a_sweep_is_looked_for_in_it(tmp_path, text, expected):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        read_experiment(str(path))
    with pytest.raises(ConfigError, match=expected):
        read_settings(str(path), None, None, {})
