"""A sweep's file: what its cells are, and every way in which it can be wrong, told in one line."""

import os
from pathlib import Path

import pytest
from jobs_stage import PROJECT, TINY

from fusion_lab.config import dump_yaml
from fusion_lab.contracts import ConfigError, UserError, content_hash
from fusion_lab.experiment import list_valued, override, read_experiment, resolve
from fusion_lab.search.lock import locked
from fusion_lab.search.sweep import make_cells, named, read_settings, read_sweep, sweep_name

BASE = resolve({"name": "tiny", **TINY}, "tiny")


def cells_of(groups, **more):
    return make_cells(config_of(groups, **more), BASE, "s.yaml")


def config_of(groups, path=None, **more):
    file = path or Path("s.yaml")
    file.write_text(dump_yaml({"cells": groups, **more}))
    return read_sweep(file)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_group_is_the_product_of_its_lists():
    lists = {"model.fusion": ["transformer", "gated"], "model.d_model": [8, 16, 32], "optimiser.lr": 1e-2}
    cells = cells_of({"both": lists})
    found = [(c.experiment.model.fusion, c.experiment.model.d_model) for c in cells]
    assert found == [(f, d) for f in lists["model.fusion"] for d in lists["model.d_model"]]
    assert all(c.experiment.optimiser.lr == 1e-2 for c in cells)
    assert cells[0].name == "fusion=transformer d_model=8" and cells[0].group == "both"


def test_a_cell_is_the_experiment_with_its_settings():
    (cell,) = cells_of({"one": {"model.d_model": [32], "training.epochs": 1}})
    assert cell.experiment == resolve(override(BASE.resolved(), cell.settings), "")
    assert cell.name == "d_model=32"


def test_an_option_may_be_a_list_or_stand_in_place_of_a_mapping():
    left, right, third = ({name: {"width": 3}} for name in ("left", "right", "third"))
    cells = cells_of({"two": {"data.modalities": [left | right, right | third]}})
    assert [list(c.experiment.data.modalities) for c in cells] == [["left", "right"], ["right", "third"]]
    assert [c.name for c in cells] == ["modalities=left+right", "modalities=right+third"]
    activity = resolve({"name": "a", "data": {"domain": "activity"}}, "")
    cells = make_cells(config_of({"one": {"data.modalities": [["hand"], ["hand", "chest"]]}}), activity, "s.yaml")
    assert [c.experiment.data.modalities for c in cells] == [("hand",), ("hand", "chest")]
    assert [c.name for c in cells] == ["modalities=hand", "modalities=hand+chest"]


def test_places_of_cells_do_not_collide():
    groups = {
        "a": {"model.dropout": [0.0, 0.1], "model.d_model": [8, 16]},
        "a/b": {"model.dropout": [0.0, 0.1]},
        "a_b": {"model.dropout": [0.0, 0.1]},
        "..": {"model.dropout": [0.0, 0.1]},
        "x" * 300: {"model.dropout": [0.0, 0.1]},
    }
    cells = cells_of(groups)
    folders = [cell.folder for cell in cells]
    assert len(set(folders)) == len(cells)
    for place in folders:
        assert len(place.parts) == 2 and not any(p.startswith(".") or len(p) > 100 for p in place.parts)


def test_labels_are_unique_and_say_no_more_than_needed():
    cells = cells_of({"a": {"model.d_model": [8, 16]}, "b": {"model.d_model": [8, 32]}})
    assert [c.label for c in cells] == ["a/d_model=8", "d_model=16", "b/d_model=8", "d_model=32"]
    assert named(cells, "b/d_model=8", "") is cells[2] and named(cells, "d_model=16", "") is cells[1]


def test_numbers_and_switches_stay_what_they_are():
    cells = cells_of({"a": {"baselines": [True, False], "seed": [0, 1]}})
    assert [(c.experiment.baselines, c.experiment.seed) for c in cells] == [
        (True, 0),
        (True, 1),
        (False, 0),
        (False, 1),
    ]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"a": {"model.d_modle": [8]}}, ("cells.a", "d_modle=8", "did you mean 'd_model'")),
        ({"a": {"model.dropout": [0.1, 1.5]}}, ("cells.a", "dropout=1.5", "less than 1")),
        ({"a": {"model.d_model": [8, 9]}}, ("cells.a", "d_model=9")),
        ({"a": {"model.family": ["token_fusoin"]}}, ("cells.a", "family=token_fusoin", "did you mean")),
        ({"a": {"model.d_model": 8}}, ("cells.a", "expected at least one setting with a list")),
        ({"a": {}}, ("cells.a", "expected at least one setting with a list")),
        ({"a": {"model.d_model": []}}, ("cells.a", "model.d_model", "an empty one")),
        ({"a": {"model.d_model": [8, 8]}}, ("cells.a", "'d_model=8' twice")),
        (
            {"a": {"model": [{"d_model": 8}, {"d_model": 16}]}},
            ("cells of different names, found 'model=d_model' twice",),
        ),
        ({"a": {1: [2, 3]}}, ("cells.a: 1=2: 1: unknown key",)),
        ({"a": [8]}, ("cells.a", "expected an object")),
        ({"a": None}, ("cells.a", "expected an object")),
        ({}, ("cells", "at least 1 item")),
        ([], ("cells", "expected an object")),
        ({"a": {"seed": list(range(300))}}, ("cells.a", "at most 200 cells, found 300")),
        ({"a": {"seed": list(range(150))}, "b": {"trial": list(range(150))}}, ("at most 200 cells, found 300",)),
    ],
)
def test_a_bad_group_is_told_in_one_line(groups, says):
    with pytest.raises(ConfigError) as told:
        cells_of(groups)
    assert "\n" not in str(told.value) and str(told.value).startswith("s.yaml: ")
    for part in says:
        assert part in str(told.value), told.value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1", "expected a mapping of settings"),
        ("experiment: tiny", "cells: expected a value"),
        ("cells: {a: {seed: [0]}}\nrefrence: a", "did you mean 'reference'"),
        ("cells: {a: {seed: [0, 1]}}\nreference: seed=2", "reference: expected the name of a cell, found 'seed=2'"),
        ("cells: {a: {seed: [0]}, a: {seed: [1]}}", "given twice"),
    ],
)
def test_a_bad_file_is_told_in_one_line(text, says):
    Path("s.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        make_cells(read_sweep(Path("s.yaml")), BASE, "s.yaml")
    assert says in str(told.value) and "\n" not in str(told.value)


def test_a_sweeps_folder_depends_on_its_name_and_the_base_experiment():
    def name(path, **changes):
        return sweep_name(Path(path), resolve(override(BASE.resolved(), changes), ""))

    assert name("x/a.yaml") == name("y/a.yaml")
    assert len({name("a.yaml"), name("b.yaml"), name("a.yaml", seed=1)}) == 3


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    alone = "sweep s: expected to be the only one running it, found process"
    file = tmp_path / "s" / ".lock"
    with (
        locked(file, "sweep s"),
        pytest.raises(UserError, match=f"{alone} {os.getpid()} at it"),
        locked(file, "sweep s"),
    ):
        pass
    with locked(file, "sweep s"):
        assert file.read_text() == str(os.getpid())


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "held" / ".lock").mkdir(parents=True)
    for file in (tmp_path / "file" / "s" / ".lock", tmp_path / "held" / ".lock"):
        with pytest.raises(UserError, match="expected a folder for the sweep s"), locked(file, "sweep s"):
            pass


def test_the_ablation_matrix_has_thirteen_cells():
    config = read_sweep(PROJECT / "experiments/sweeps/activity.yaml")
    base = resolve({"name": "activity", "data": {"domain": "activity"}, "model": {"family": "sensor_fusion"}}, "")
    cells = make_cells(config, base, "activity.yaml")
    assert len(cells) == 13 and len({c.label for c in cells}) == 13
    same = [c.label for c in cells if c.experiment.identity() == base.identity()]
    assert same == ["fusion=hybrid", "nhead=4", "chunk=256"]


@pytest.mark.parametrize("file", sorted((PROJECT / "experiments/sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_matrix_of_the_project_is_of_experiments_there_are(file):
    config = read_sweep(file)
    assert config.experiment is not None
    cells = make_cells(config, read_experiment(config.experiment), file.name)
    assert len({content_hash(cell.experiment.identity()) for cell in cells}) > 1


def asked(tree, overrides=None, sweep=None):
    Path("mine.yaml").write_text(dump_yaml({**TINY, **tree}))
    base, config, source = read_settings("./mine.yaml", sweep, None, overrides or {})
    return base, make_cells(config, base, str(source))


def test_lists_in_place_of_single_values_are_their_product():
    model = {**TINY["model"], "d_model": [8, 16]}
    base, cells = asked({"model": model}, {"optimiser.lr": [1e-3, 1e-2], "seed": 3})
    found = {(c.experiment.model.d_model, c.experiment.optimiser.lr) for c in cells}
    assert found == {(d, lr) for d in (8, 16) for lr in (1e-3, 1e-2)} and len(cells) == len(found)
    assert base == cells[0].experiment and {c.experiment.seed for c in cells} == {3}


def test_a_list_that_a_setting_takes_is_none_to_be_multiplied():
    activity = {"data": {"domain": "activity", "modalities": ["hand", "chest"]}}
    assert list_valued({"name": "a", **activity}) == {}
    several = {"data": {"domain": "activity", "modalities": [["hand"], ["hand", "chest"]]}}
    assert list_valued({"name": "a", **several}) == {"data.modalities": [["hand"], ["hand", "chest"]]}


def test_families_can_be_multiplied():
    _, cells = asked({}, {"model.family": ["token_fusion", "sensor_fusion"]})
    assert [c.experiment.model.family for c in cells] == ["token_fusion", "sensor_fusion"]


def test_one_value_of_each_is_asked_for_where_no_sweep_is():
    Path("mine.yaml").write_text(dump_yaml(TINY))
    with pytest.raises(ConfigError, match=r"model\.d_model: expected .* \(several values of model\.d_model: that is a"):
        read_experiment("./mine.yaml", {"model.d_model": [8, 16]})


def test_cells_and_lists_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"found both \(optimiser\.lr\)"):
        asked({}, {"optimiser.lr": [1e-3, 1e-2]}, sweep="some")
