"""The table of molecules: which columns are tasks, what is unknown, repeated, weighted, locked away."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from molecules_material import TASKS, config, made, refusal, write_archive

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError
from fusion_lab.data.molecules import MoleculesConfig, load
from fusion_lab.data.molecules.compounds import Compounds, class_counts, read_compounds, shared_structures

ROWS = 30


@pytest.fixture
def folder(tmp_path):
    write_archive(tmp_path, made(ROWS))
    return tmp_path


def table(folder, **columns):
    """Changes the table: each column a list, or what changes it."""
    frame = pd.read_csv(folder / "compounds.csv", dtype=object)
    for name, cells in columns.items():
        frame[name] = cells(frame[name]) if callable(cells) else cells
    frame.to_csv(folder / "compounds.csv", index=False)
    return frame


def at(row, value):
    return lambda cells: cells.where(cells.index != row, value)


def test_columns_of_zeros_and_ones_are_the_tasks(folder):
    numbers = np.arange(ROWS)
    table(folder, yes=numbers % 2, cv_fold=numbers % 2, mass=numbers / 7, code=numbers % 3, note="", truth="true")
    found = read_compounds(config(folder))
    assert [target.task.name for target in found.targets] == [*TASKS, "yes", "truth"]
    assert "columns that hold nothing are no tasks: 'note'" in found.notes
    assert "columns of 0, 1 and something else are no tasks: code ('2')" in found.notes


@given(st.lists(st.sampled_from(["0", "1", "", "NA", "?"]), min_size=20, max_size=20), st.sampled_from([0, 1]))
def test_unknown_labels_are_masked(tmp_path_factory, cells, positive):
    words = ["0", "1", *cells]
    folder = tmp_path_factory.mktemp("table")
    pd.DataFrame({"ID": range(len(words)), "toxic": words}).to_csv(folder / "compounds.csv", index=False)
    settings = {"tasks": {"toxic": {"positive": positive}}, "unknown": ["?"]}
    (target,) = read_compounds(config(folder, **settings)).targets
    assert target.known.tolist() == [word in ("0", "1") for word in words]
    assert target.values.tolist() == [float(word == str(positive)) for word in words]
    assert target.task.positive == ("positive" if positive else "negative")


def test_a_task_has_the_column_and_classes_of_its_settings(folder):
    settings = {"absorbing": {"column": "absorbs", "classes": ["clear", "dark"]}}
    (task,) = load(config(folder, tasks=settings)).spec.tasks
    assert (task.name, task.classes) == ("absorbing", ("clear", "dark"))


def test_auxiliary_tasks_are_regressions_with_masks_of_their_own(folder):
    cells = [str(i / 4) if i % 3 else "" for i in range(ROWS)]
    table(folder, wavelength=cells, quantum_yield=np.arange(ROWS))
    auxiliary = {"light": {"wl": "wavelength", "qy": "quantum_yield", "wl_again": "wavelength"}}
    dataset = load(config(folder, auxiliary=auxiliary))
    assert [t.name for t in dataset.spec.main_tasks] == list(TASKS)
    assert {t.name: (t.kind, t.auxiliary) for t in dataset.spec.tasks[2:]} == dict.fromkeys(
        ("wl", "qy", "wl_again"), ("regression", "light")
    )
    assert dataset.known["wl"].tolist() == [bool(cell) for cell in cells]
    assert dataset.targets["wl"].tolist() == [float(cell or 0) for cell in cells]
    assert dataset.targets["wl_again"].tolist() == dataset.targets["wl"].tolist()


def test_weights_are_one_where_missing_and_never_below_zero(folder):
    table(folder, w=["-2", "", *np.arange(2, ROWS).astype(str)])
    dataset = load(config(folder, weights={"w": ["glows"]}))
    assert set(dataset.emphasis) == {"glows"}
    assert dataset.emphasis["glows"].tolist() == [0, 1, *range(2, ROWS)]
    assert "weights of 'w': 1 below 0 count as 0" in dataset.provenance.notes


def test_the_same_molecule_twice_counts_once(folder):
    frame = table(folder)
    pd.concat([frame, frame.iloc[[3, 3, 5]]]).to_csv(folder / "compounds.csv", index=False)
    dataset = load(config(folder))
    assert dataset.ids.tolist() == frame["ID"].tolist()
    assert "3 rows of compounds.csv repeat a molecule, labels and all, and count once" in dataset.provenance.notes


@pytest.mark.parametrize("column", ["SMILES", "absorbs", "scaffold_group"])
def test_one_id_is_of_one_molecule(folder, column):
    frame = table(folder)
    other = frame.iloc[[3]].assign(**{column: "1" if frame[column].iloc[3] != "1" else "0"})
    pd.concat([frame, other]).to_csv(folder / "compounds.csv", index=False)
    told = refusal(folder)
    assert (
        f"compounds.csv: line {ROWS + 2}, column '{column}': expected" in told and "as in line 5 of the same id" in told
    )


def test_molecules_without_ids_are_named_by_their_rows(folder):
    table(folder).drop(columns="ID").to_csv(folder / "compounds.csv", index=False)
    found = read_compounds(config(folder))
    assert found.ids.tolist() == [str(row + 1) for row in range(ROWS)]
    assert any("no column of ids" in note for note in found.notes)


@pytest.mark.parametrize("name", ["SMILES", "smiles", "curated_SMILES"])
def test_structures_are_found_by_their_usual_names(folder, name):
    table(folder).rename(columns={"SMILES": name}).to_csv(folder / "compounds.csv", index=False)
    smiles = read_compounds(config(folder)).smiles
    assert smiles is not None and smiles.tolist() == ["C" * (1 + row) for row in range(ROWS)]


def test_a_split_locks_away_what_the_settings_name(folder):
    words = (["train", "val", "test"] * ROWS)[: ROWS - 4] + ["secret"] * 4
    table(folder, split=words)
    split = load(config(folder, locked=["secret"])).given_split
    assert split is not None
    assert split.tolist() == [word.replace("secret", "holdout") for word in words]
    assert "found 'secret' (what is to be locked away is named in data.locked, 4 such rows)" in refusal(folder)
    assert load(config(folder, split="")).given_split is None


REFUSALS = {
    "a third value": ({"glows": at(4, "2")}, {"tasks": {"glows": {}}}, "line 6, column 'glows': expected 0, 1 or"),
    "no label": ({"glows": ""}, {"tasks": {"glows": {}}}, f"expected known labels of task 'glows', found {ROWS} empty"),
    "no task": ({"glows": "x", "absorbs": "y"}, {}, "expected a column of 0, 1 and empty cells per task, found none"),
    "one class": ({"glows": "0"}, {}, "task 'glows': expected two or more classes or values"),
    "misnamed task": ({}, {"tasks": {"glow": {}}}, "expected a column 'glow' (task 'glow'), found none (did you mean"),
    "misnamed group": ({}, {"group": "scaffold_grup"}, "'scaffold_grup' (named in the settings), found none"),
    "misnamed weights": ({}, {"weights": {"w": ["glows"]}}, "expected a column 'w' (the weights), found none"),
    "weights of no task": ({"w": "1"}, {"weights": {"w": ["dim"]}}, "expected a task 'dim' (data.weights), found"),
    "weights of nothing": (
        {"w": ""},
        {"weights": {"w": ["glows"]}},
        f"column 'w': expected weights, found {ROWS} empty",
    ),
    "infinite weights": (
        {"w": ["1", "inf"] * 15},
        {"weights": {"w": ["glows"]}},
        "column 'w': expected a finite number",
    ),
    "weights of words": (
        {"w": ["1", "big"] * 15},
        {"weights": {"w": ["glows"]}},
        "line 3, column 'w': expected a number",
    ),
    "a word among labels": (
        {"glows": at(4, "maybe")},
        {},
        "line 6, column 'glows': expected 0, 1 or an empty cell, as",
    ),
    "weights of 0": ({"w": "0"}, {"weights": {"w": ["glows"]}}, "column 'w': expected a weight above 0, found none"),
    "auxiliary words": ({}, {"auxiliary": {"a": {"b": "SMILES"}}}, "line 2, column 'SMILES': expected a number"),
    "auxiliary twin": (
        {"x": "3"},
        {"auxiliary": {"a": {"glows": "x"}}},
        "a name of its own for auxiliary task 'glows'",
    ),
    "a fold with gaps": ({"cv_fold": ["0", "", ""] * 10}, {}, "line 3, column 'cv_fold': expected a fold of every"),
    "a group with gaps": ({"scaffold_group": at(2, "")}, {}, "line 4, column 'scaffold_group': expected a group"),
    "a structure with gaps": ({"SMILES": at(2, "")}, {}, "line 4, column 'SMILES': expected a structure (SMILES)"),
    "an id with gaps": ({"ID": at(2, "")}, {}, "line 4, column 'ID': expected an id, found an empty cell"),
    "a sample of more": ({}, {"sample": 500}, "data.sample: expected more molecules than the sample of 500, found 30"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_used_is_refused_in_one_line(folder, case):
    changes, settings, expected = REFUSALS[case]
    table(folder, **changes)
    assert expected in refusal(folder, **settings)


def test_an_unusable_name_of_a_task_is_refused(folder):
    table(folder).rename(columns={"glows": "glows (nM)"}).to_csv(folder / "compounds.csv", index=False)
    assert "name it with data.tasks" in refusal(folder)


def test_a_folder_without_a_table_says_what_is_there(tmp_path):
    assert "found no such folder" in refusal(tmp_path / "nowhere")
    write_archive(tmp_path)
    (tmp_path / "compounds.csv").rename(tmp_path / "molecules.csv")
    assert "found 'conformer_bags.npz', 'molecules.csv' (name it with data.labels)" in refusal(tmp_path)
    (tmp_path / "labels.csv").touch()
    assert "expected a table, found an empty file" in refusal(tmp_path)


WRONG = {
    "two tasks of one name": {"auxiliary": {"a": {"x": "c"}, "b": {"x": "c"}}},
    "a task and an auxiliary one of one name": {"tasks": {"x": {}}, "auxiliary": {"a": {"x": "c"}}},
    "an empty group": {"auxiliary": {"a": {}}},
    "two weights of a task": {"weights": {"v": ["x"], "w": ["x"]}},
    "classes of one name": {"tasks": {"x": {"classes": ["a", "a"]}}},
    "no task": {"tasks": {}},
    "a reserved name": {"tasks": {"id": {"column": "c"}}},
    "features of two sources": {"featurise": {}, "source": "archive"},
    "a modality twice": {"modalities": ["descriptors", "descriptors"]},
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_contradict_each_other_are_refused(case):
    with pytest.raises(ConfigError):
        validate(MoleculesConfig, {"domain": "molecules", **WRONG[case]}, "test")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20), st.booleans())
def test_structures_of_several_groups_are_counted(pairs, grouped):
    """Against the plain loop; without groups every molecule is one."""
    smiles, group = np.array([["C" * (1 + kind), str(of)] for kind, of in pairs]).T
    ids = np.arange(len(pairs)).astype(str)
    compounds = Compounds(None, np.arange(len(pairs)), ids, smiles, group=group if grouped else None)
    keys = group if grouped else ids
    count = sum(len({k for s, k in zip(smiles, keys, strict=True) if s == own}) > 1 for own in smiles)
    assert [note.split()[0] for note in shared_structures(compounds)] == [str(count)] * (count > 0)


def test_classes_are_counted(folder):
    found = read_compounds(config(folder))
    for target, line in zip(found.targets, class_counts(found.targets), strict=True):
        positive, known = int(target.values.sum()), int(target.known.sum())
        assert line.startswith(f"{target.task.name}: {positive} of {known} positive")
        assert ("unknown" in line) == (known < ROWS)
