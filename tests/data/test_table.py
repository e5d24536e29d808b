"""The table domain: what is in the files is in the data set, and a mistake in them is one clear line."""

import copy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from data_miniature import STAINS, write_miniature
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fusion_lab.config import load_yaml, validate
from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.readers import LONGEST_SHOWN
from fusion_lab.data.table import TableConfig, load, spec

CHECKOUT = Path(__file__).parents[2]
REAL = CHECKOUT.parent / "shared" / "data" / "clinical_hancock"
ROWS = 30
TREE: dict[str, Any] = {
    "domain": "table",
    "id": "pid",
    "targets": {"file": "targets.csv", "tasks": {"died": {"column": "dead", "positive": "yes"}}},
    "modalities": {
        "clinic": {"file": "clinic.csv", "kinds": {"sex": "binary", "site": "category"}},
        "image": {"file": "image.h5", "key": "HE"},
    },
}


@pytest.fixture
def files(tmp_path):
    """A targets table of 30 rows, a clinical one with gaps and rows of its own, an embedding of 25 rows."""
    rng = np.random.default_rng(0)
    ids = np.arange(1, ROWS + 1)
    targets = pd.DataFrame({"pid": ids, "dead": ["yes", "no", ""] * 10, "days": ids * 7.5, "clinic": ids % 5})
    clinic = pd.DataFrame({"pid": ids + 2, "age": rng.normal(60, 9, ROWS).round(1), "sex": ["m", "f"] * 15})
    clinic["site"] = ["lung", "", "skin", "lung", "liver"] * 6
    clinic["good"] = 0.5
    clinic.loc[4, "age"] = np.nan
    targets.to_csv(tmp_path / "targets.csv", index=False)
    clinic.drop(columns="good").to_csv(tmp_path / "clinic.csv", index=False)
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["HE/pid"] = ids[5:].astype(np.int32)
        file["HE/embedding"] = rng.normal(size=(ROWS - 5, 3)).astype(np.float16)
    return tmp_path


def settings_of(folder, tree=None):
    return validate(TableConfig, {**(tree or TREE), "root": str(folder)}, "data")


def changed(**paths):
    """TREE with values at paths written with double underscores."""
    tree = copy.deepcopy(TREE)
    for path, value in paths.items():
        *parents, leaf = path.split("__")
        node = tree
        for key in parents:
            node = node[key]
        node[leaf] = value
    return tree


def edit(folder, name, change):
    frame = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
    change(frame)
    frame.to_csv(folder / name, index=False)


def edit_image(folder, change):
    with h5py.File(folder / "image.h5", "r+") as file:
        ids, embedding = change(file["HE/pid"][()], file["HE/embedding"][()])
        del file["HE/pid"], file["HE/embedding"]
        file["HE/pid"], file["HE/embedding"] = ids, embedding


def column(dataset, modality, name):
    names = [f.name for f in dataset.spec.modality(modality).features]
    return dataset.inputs[modality][:, names.index(name)]


# What is read


def test_rows_are_the_targets_and_values_land_on_their_ids(files):
    dataset = load(settings_of(files))
    clinic = pd.read_csv(files / "clinic.csv").set_index("pid")
    targets = pd.read_csv(files / "targets.csv")
    assert dataset.ids.tolist() == targets["pid"].astype(str).tolist()
    for row, identifier in enumerate(targets["pid"]):
        there = identifier in clinic.index
        assert bool(dataset.valid["clinic"][row]) == there
        age = clinic["age"].get(identifier, np.nan)
        assert column(dataset, "clinic", "age")[row] == pytest.approx(0.0 if np.isnan(age) else age)
        assert bool(dataset.observed["clinic"][row, 0]) == (not np.isnan(age))
        assert bool(dataset.known["died"][row]) == isinstance(targets["dead"][row], str)
        assert dataset.targets["died"][row] == (targets["dead"][row] == "yes")


def test_features_and_tasks_of_the_spec(files):
    found = spec(settings_of(files))
    features = found.modality("clinic").features
    assert [f.name for f in features] == ["age", "sex", "site=liver", "site=lung", "site=skin", "site=unknown"]
    assert [f.kind for f in features] == ["numeric", "binary", *["category"] * 4]
    assert [(f.source, f.category) for f in features[1:3]] == [("sex", "m"), ("site", "liver")]
    assert found.modality("image").shape == (3,)
    assert found.task("died").classes == ("no", "yes")
    assert found.task("died").positive == "yes"


def test_modalities_that_are_not_used_are_as_if_they_were_not_described(files):
    used = settings_of(files, changed(use=["image"]))
    alone = settings_of(files, changed(modalities={"image": changed()["modalities"]["image"]}))
    assert [m.name for m in load(used).spec.modalities] == ["image"]
    assert load(used).provenance.digest == load(alone).provenance.digest
    assert settings_of(files, used.model_dump(mode="json")) == used, "what is logged reads back to it"


def test_the_spec_knows_both_words_of_a_binary_column_and_which_columns_have_gaps(files):
    edit(files, "clinic.csv", lambda f: f.__setitem__("ever", ["0", "1"] * 15))
    tree = changed(modalities__clinic__kinds={"sex": "binary", "ever": "binary", "site": "category"})
    features = spec(settings_of(files, tree)).modality("clinic").features
    assert [(f.other, f.category) for f in features if f.kind == "binary"] == [("f", "m"), (None, None)]
    assert {f.column: f.gaps for f in features} == {"age": True, "sex": False, "site": True, "ever": False}


def test_gaps_are_those_of_the_rows_used(files):
    def gap_of_the_last(frame):  # whose id the targets do not know
        frame.loc[4, "age"], frame.loc[29, "age"] = "50", ""

    edit(files, "clinic.csv", gap_of_the_last)
    features = spec(settings_of(files)).modality("clinic").features
    assert not next(f for f in features if f.column == "age").gaps


def test_a_cell_outside_the_declared_vocabulary_is_a_gap(files):
    edit(files, "clinic.csv", lambda f: f.__setitem__("site", ["lung", "skin", "bone"] * 10))
    for vocabulary, gaps in ((["lung", "skin", "bone"], False), (["lung", "skin"], True)):
        found = spec(settings_of(files, changed(modalities__clinic__vocabulary={"site": vocabulary})))
        assert all(f.gaps == gaps for f in found.modality("clinic").features if f.column == "site")


def test_declared_missing_values_are_in_the_spec_as_the_columns_spell_them(files):
    """YAML reads a bare no as a truth value; the file holds the word."""
    edit(files, "clinic.csv", lambda f: f.__setitem__("ever", ["no", "rarely", "often"] * 10))
    tree = changed(
        modalities__clinic__missing=[False, -9.0, ""], modalities__clinic__vocabulary={"ever": ["rarely", "often"]}
    )
    dataset = load(settings_of(files, tree))
    assert dataset.spec.modality("clinic").missing == ("false", "no", "-9")
    assert not any("outside" in note for note in dataset.provenance.notes)


def test_a_missing_category_is_the_unknown_one_and_observed(files):
    dataset = load(settings_of(files))
    sites = slice(2, 6)
    valid = dataset.valid["clinic"]
    assert (dataset.inputs["clinic"][valid][:, sites].sum(1) == 1).all()
    assert dataset.observed["clinic"][valid][:, sites].all()
    sources = pd.read_csv(files / "clinic.csv").set_index("pid")["site"]
    unknown = column(dataset, "clinic", "site=unknown")
    assert all(unknown[i] == float(pd.isna(sources.get(i + 1, "absent"))) for i in range(ROWS))


def test_rows_left_out_are_counted(files):
    notes = load(settings_of(files)).provenance.notes
    assert "clinic.csv: 2 of 30 rows left out: their ids are not among the targets" in notes
    assert any(note.startswith("rows that have each modality, of 30: clinic 28, image 25") for note in notes)


@settings(max_examples=25)
@given(order=st.permutations(range(ROWS)))
def test_order_of_a_modality_file_changes_nothing(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("order")
    ids = np.arange(ROWS)
    pd.DataFrame({"pid": ids, "dead": ids % 2}).to_csv(folder / "t.csv", index=False)
    table = pd.DataFrame({"pid": ids, "a": ids * 0.5, "b": ids % 3}).iloc[list(order)]
    table.to_csv(folder / "m.csv", index=False)
    tree = {
        "id": "pid",
        "targets": {"file": "t.csv", "tasks": {"died": {"column": "dead", "positive": 1}}},
        "modalities": {"m": {"file": "m.csv", "kinds": {"b": "category"}}},
    }
    dataset = load(settings_of(folder, tree))
    np.testing.assert_array_equal(column(dataset, "m", "a"), ids * 0.5)
    np.testing.assert_array_equal(dataset.inputs["m"][:, 1:4], np.eye(3)[ids % 3])


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_formats_give_one_data_set(files, suffix):
    from_csv = load(settings_of(files))
    frame = pd.read_csv(files / "clinic.csv")
    if suffix == ".parquet":
        frame.to_parquet(files / "clinic.parquet")
    else:
        with h5py.File(files / "clinic.h5", "w") as file:
            for name in frame:
                values = frame[name].to_numpy(na_value=np.nan if name == "age" else "")
                file[name] = values.astype(object) if name in ("sex", "site") else values
    tree = changed(modalities__clinic__file=f"clinic{suffix}", modalities__clinic__columns=["age", "sex", "site"])
    other = load(settings_of(files, tree))
    assert other.spec == from_csv.spec
    assert torch.equal(other.inputs["clinic"], from_csv.inputs["clinic"])
    assert torch.equal(other.observed["clinic"], from_csv.observed["clinic"])


def test_declared_vocabulary_fixes_width_and_counts_what_is_outside(files):
    dataset = load(settings_of(files, changed(modalities__clinic__vocabulary={"site": ["skin", "bone"]})))
    names = [f.name for f in dataset.spec.modality("clinic").features]
    assert names == ["age", "sex", "site=skin", "site=bone", "site=unknown"]
    assert (
        "clinic.csv: column 'site': 18 cells outside the declared vocabulary count as unknown"
        in dataset.provenance.notes
    )


def test_declared_order_of_a_binary_column(files):
    tree = changed(modalities__clinic__vocabulary={"sex": ["m", "f"]})
    dataset = load(settings_of(files, tree))
    plain = load(settings_of(files))
    valid = dataset.valid["clinic"]
    assert torch.equal(column(dataset, "clinic", "sex")[valid], 1 - column(plain, "clinic", "sex")[valid])


def test_indicators_mark_the_columns_with_gaps(files):
    dataset = load(settings_of(files, changed(modalities__clinic__indicators=True)))
    feature = dataset.spec.modality("clinic").features[-1]
    assert (feature.name, feature.kind, feature.source) == ("age missing", "indicator", "age")
    valid = dataset.valid["clinic"]
    assert torch.equal(column(dataset, "clinic", "age missing")[valid] == 1, ~dataset.observed["clinic"][valid, 0])


def test_values_declared_missing(files):
    edit(files, "clinic.csv", lambda f: f.__setitem__("age", ["-9", *f["age"][1:]]))
    dataset = load(settings_of(files, changed(modalities__clinic__missing=[-9, "lung"])))
    assert not dataset.observed["clinic"][2, 0]
    assert "site=lung" not in [f.name for f in dataset.spec.modality("clinic").features]


def test_quality_is_no_feature_and_one_where_empty(files):
    edit(files, "clinic.csv", lambda f: f.__setitem__("good", ["", *["0.25"] * 29]))
    dataset = load(settings_of(files, changed(modalities__clinic__quality="good")))
    assert dataset.quality["clinic"].tolist() == [1.0, 1.0, 1.0, *[0.25] * 27]
    assert "good" not in [f.name for f in dataset.spec.modality("clinic").features]


def test_missing_cells_of_an_array(files):
    def spoil(ids, embedding):
        embedding[0], embedding[1, 2] = np.nan, np.nan
        return ids, embedding

    edit_image(files, spoil)
    dataset = load(settings_of(files))
    assert not dataset.valid["image"][5]
    assert dataset.observed["image"][6].tolist() == [True, True, False]
    assert "image.h5#HE: 1 rows hold nothing but empty cells and count as absent" in dataset.provenance.notes


def test_constant_columns_are_left_out_where_asked(files):
    edit(files, "clinic.csv", lambda f: f.__setitem__("same", "7"))
    dataset = load(settings_of(files, changed(modalities__clinic__drop_constant=True)))
    assert "same" not in [f.name for f in dataset.spec.modality("clinic").features]
    assert "clinic.csv: left out 'same': never varies" in dataset.provenance.notes


def test_column_constant_in_the_rows_used_is_noted(files):
    edit(files, "clinic.csv", lambda f: f.__setitem__("late", ["0"] * 28 + ["1"] * 2))
    assert "clinic: never varies in the rows used: late" in load(settings_of(files)).provenance.notes


def test_tasks_of_other_kinds(files):
    tasks = {
        "place": {
            "column": "clinic",
            "kind": "multiclass",
            "classes": {"4": "D", "1": "A", "2": "B", "3": "C"},
            "unknown": [0],
        },
        "time": {"column": "days", "kind": "regression"},
    }
    dataset = load(settings_of(files, changed(targets__tasks=tasks)))
    codes = np.arange(1, ROWS + 1) % 5
    assert dataset.spec.task("place").classes == ("D", "A", "B", "C")
    assert dataset.known["place"].tolist() == (codes > 0).tolist()
    assert dataset.targets["place"].tolist() == (codes % 4).tolist()
    np.testing.assert_allclose(dataset.targets["time"], np.arange(1, ROWS + 1) * 7.5)


def test_unquoted_yes_of_yaml_means_the_word(files):
    """YAML reads a bare yes as a truth value; the file holds the word."""
    task = {"column": "dead", "positive": True, "classes": {"false": "alive", "true": "dead"}}
    dataset = load(settings_of(files, changed(targets__tasks={"died": task})))
    assert dataset.spec.task("died").classes == ("alive", "dead")
    assert torch.equal(dataset.targets["died"], load(settings_of(files)).targets["died"])


def test_groups_and_hashed_ids(files):
    plain = load(settings_of(files, changed(group="clinic")))
    hashed = load(settings_of(files, changed(group="clinic", ids="hash")))
    assert plain.group is not None
    assert hashed.group is not None
    assert plain.group.tolist() == [str(i % 5) for i in range(1, ROWS + 1)]
    assert len(set(hashed.ids)) == ROWS
    assert all(len(name) == 16 for name in hashed.ids)
    pairs = set(zip(plain.group.tolist(), hashed.group.tolist(), strict=True))
    assert len(pairs) == 5
    assert hashed.ids.tolist() == load(settings_of(files, changed(ids="hash"))).ids.tolist()


def test_provenance_follows_the_bytes(files):
    before = load(settings_of(files)).provenance
    assert [(s.name, s.rows) for s in before.sources] == [("targets.csv", 30), ("clinic.csv", 30), ("image.h5#HE", 25)]
    edit(files, "clinic.csv", lambda f: f.__setitem__("age", ["61", *f["age"][1:]]))
    after = load(settings_of(files)).provenance
    assert before.digest != after.digest
    assert before.sources[0] == after.sources[0]


def test_a_root_in_the_home_of_an_unknown_user(files):
    with pytest.raises(DataError, match="^~nosuchuser/x: expected a folder of data files"):
        load(settings_of(files).model_copy(update={"root": "~nosuchuser/x"}))


def test_one_file_for_everything(files):
    clinic = pd.read_csv(files / "clinic.csv")
    targets = pd.read_csv(files / "targets.csv")
    targets.merge(clinic, on="pid").to_csv(files / "all.csv", index=False)
    tree = changed(targets__file="all.csv", modalities__clinic__file="all.csv")
    del tree["modalities"]["image"]
    tree["modalities"]["clinic"]["columns"] = ["age", "sex", "site"]
    assert len(load(settings_of(files, tree))) == 28


# What is refused: (change of the files, change of the settings, what the one line holds)

BAD = {
    "unknown file": ({}, {"modalities__clinic__file": "clinik.csv"}, ["clinik.csv", "no such file", "'clinic.csv'"]),
    "unknown key": (
        {},
        {"modalities__image__key": "HF"},
        ["image.h5#HF", "expected a group or dataset 'HF'", "known: HE,"],
    ),
    "id column": ({}, {"id": "pjd"}, ["targets.csv", "expected a column 'pjd'", "did you mean 'pid'"]),
    "target column": (
        {},
        {"targets__tasks__died__column": "deat"},
        ["targets.csv", "expected a column 'deat' (task 'died')", "did you mean 'dead'"],
    ),
    "kind of no column": ({}, {"modalities__clinic__kinds": {"sexx": "binary"}}, ["clinic.csv", "'sexx'", "'sex'"]),
    "group column": ({}, {"group": "clinc"}, ["targets.csv", "expected a column 'clinc' (the groups)", "'clinic'"]),
    "no feature left": (
        {},
        {"modalities__clinic__columns": ["age"], "modalities__clinic__ignore": ["age"]},
        ["clinic.csv", "expected at least one feature column", "found none"],
    ),
    "positive value": (
        {},
        {"targets__tasks__died__positive": "ja"},
        ["targets.csv: column 'dead'", "expected the positive value 'ja' to occur", "found 'no', 'yes'"],
    ),
    "constant": (
        {"clinic.csv": lambda f: f.__setitem__("same", "7")},
        {},
        ["clinic.csv: column 'same'", "expected values that vary", "found one value throughout", "ignore"],
    ),
    "all missing": (
        {"clinic.csv": lambda f: f.__setitem__("none", "")},
        {},
        ["clinic.csv: column 'none'", "expected values that vary", "found only empty cells"],
    ),
    "no number": (
        {"clinic.csv": lambda f: f.__setitem__("age", ["50", "old", *f["age"][2:]])},
        {},
        ["clinic.csv: line 3, column 'age'", "expected a number", "found 'old'"],
    ),
    "infinite": (
        {"clinic.csv": lambda f: f.__setitem__("age", ["50", "60", "-inf", *f["age"][3:]])},
        {},
        ["clinic.csv: line 4, column 'age'", "expected a finite number", "found -inf"],
    ),
    "third value of a binary column": (
        {"clinic.csv": lambda f: f.__setitem__("sex", ["m", "f", "x", *f["sex"][3:]])},
        {},
        ["clinic.csv: line 4, column 'sex'", "expected 'f' or 'm' in a binary column", "found 'x'"],
    ),
    "third value of a binary task": (
        {"targets.csv": lambda f: f.__setitem__("dead", ["yes", "no", "perhaps", *f["dead"][3:]])},
        {},
        [
            "targets.csv: line 4, column 'dead': expected 'no' or 'yes' of binary task 'died', found 'perhaps' as one "
            "of 3 values: 'no', 'perhaps', 'yes'"
        ],
    ),
    "value of no declared class": (
        {"targets.csv": lambda f: f.__setitem__("dead", ["yes", "no", "perhaps", *f["dead"][3:]])},
        {"targets__tasks__died__classes": {"no": "alive", "yes": "dead"}},
        ["targets.csv: line 4, column 'dead'", "expected 'no' or 'yes' of binary task 'died'", "found 'perhaps'"],
    ),
    "three numbers of a binary task": (
        {"targets.csv": lambda f: f.__setitem__("dead", ["-1", "0", "1"] * 10)},
        {"targets__tasks__died__positive": 1},
        [
            "targets.csv: line 3, column 'dead': expected '-1' or '1' of binary task 'died', found '0' as one of "
            "3 values: '-1', '0', '1' (name those that mean not known with unknown)"
        ],
    ),
    "one class": (
        {"targets.csv": lambda f: f.__setitem__("dead", ["yes", "", ""] * 10)},
        {},
        ["targets.csv: column 'dead'", "expected two classes", "found only 'yes'"],
    ),
    "no label": (
        {"targets.csv": lambda f: f.__setitem__("dead", "")},
        {},
        ["targets.csv: column 'dead'", "expected known labels", "found none"],
    ),
    "duplicate id": (
        {"clinic.csv": lambda f: f.__setitem__("pid", ["4", *f["pid"][1:]])},
        {},
        ["clinic.csv: line 3, column 'pid'", "expected each id once", "found '4' again (first in line 2)"],
    ),
    "missing id": (
        {"targets.csv": lambda f: f.__setitem__("pid", ["1", "", *f["pid"][2:]])},
        {},
        ["targets.csv: line 3, column 'pid'", "expected an id", "found an empty cell"],
    ),
    "ids that match nothing": (
        {"clinic.csv": lambda f: f.__setitem__("pid", "P-" + f["pid"])},
        {},
        ["clinic.csv: column 'pid'", "expected ids of", "targets.csv (such as '1', '2', '3')", "'P-3'"],
    ),
    "missing group": (
        {"targets.csv": lambda f: f.__setitem__("clinic", ["1", " ", *f["clinic"][2:]])},
        {"group": "clinic"},
        ["targets.csv: line 3, column 'clinic'", "expected a group", "found an empty cell"],
    ),
    "quality": (
        {"clinic.csv": lambda f: f.__setitem__("good", ["1", "1.5", *["0"] * 28])},
        {"modalities__clinic__quality": "good"},
        ["clinic.csv: line 3, column 'good'", "expected a quality in [0, 1]", "found 1.5"],
    ),
    "target in a modality": (
        {"clinic.csv": lambda f: f.__setitem__("dead", ["1", "0"] * 15)},
        {},
        ["clinic.csv: column 'dead'", "found the target of task 'died'", "ignore"],
    ),
    "targets file as a modality": (
        {},
        {"modalities__clinic": {"file": "targets.csv"}},
        ["targets.csv: column 'dead'", "expected a feature of modality 'clinic'", "found the target of task 'died'"],
    ),
    "copy of the target": (
        {
            "targets.csv": lambda f: f.__setitem__("dead", ["yes", "no", "no"] * 10),
            "clinic.csv": lambda f: f.__setitem__("secret", ["0", "1", "0"] * 10),
        },
        {},
        ["clinic.csv: column 'secret'", "found the values of task 'died' in every row"],
    ),
    "too many categories": (
        {"clinic.csv": lambda f: f.__setitem__("note", [f"text {i}" for i in range(30)])},
        {"modalities__clinic__kinds": {"note": "category", "site": "category", "sex": "binary"}},
        ["clinic.csv: column 'note'", "expected at most 20 categories", "found 30"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(files, case, monkeypatch):
    edits, setting, told = BAD[case]
    monkeypatch.setattr("fusion_lab.data.encoding.LARGEST_VOCABULARY", 20)
    for name, change in edits.items():
        edit(files, name, change)
    with pytest.raises(DataError) as refused:
        load(settings_of(files, changed(**setting)))
    message = str(refused.value)
    assert "\n" not in message
    assert str(files) in message
    assert all(part in message for part in told), message


HINT = "(a category is declared with kinds: "


def test_a_category_is_suggested_for_features_alone(files):
    def refusal(name, column, **setting):
        before = (files / name).read_text()
        edit(files, name, lambda f: f.__setitem__(column, ["much", *["1", "0"] * (len(f) // 2), "1"][: len(f)]))
        with pytest.raises(DataError) as refused:
            load(settings_of(files, changed(**setting)))
        (files / name).write_text(before)
        assert "line 2, column " in str(refused.value)
        assert "expected a number, found 'much'" in str(refused.value)
        return str(refused.value)

    assert HINT in refusal("clinic.csv", "age")
    assert HINT not in refusal("clinic.csv", "good", modalities__clinic__quality="good")
    days = {"column": "days", "kind": "regression"}
    assert HINT not in refusal("targets.csv", "days", targets__tasks={"days": days})


LONG = "9" * 400


@pytest.mark.parametrize(
    ("name", "column", "setting"),
    [
        ("clinic.csv", "age", {}),
        ("clinic.csv", "pid", {}),
        ("clinic.csv", "sex", {}),
        ("targets.csv", "dead", {}),
        ("targets.csv", "dead", {"targets__tasks__died__classes": {"no": "a", "yes": "b"}}),
        ("targets.csv", "pid", {}),
    ],
)
@pytest.mark.parametrize("cell", [LONG, "x" * 5000])
def test_a_long_cell_is_not_repeated_whole(files, name, column, setting, cell):
    edit(files, name, lambda f: f.__setitem__(column, [*f[column][:2], cell, cell, *f[column][4:]]))
    with pytest.raises(DataError) as refused:
        load(settings_of(files, changed(**setting)))
    assert cell[: LONGEST_SHOWN - 3] in str(refused.value)
    assert cell[:LONGEST_SHOWN] not in str(refused.value)


def test_truncated_csv(files):
    content = (files / "clinic.csv").read_text().rstrip()
    (files / "clinic.csv").write_text(content[: content.rindex(",f,")])
    with pytest.raises(DataError, match="clinic.csv: line 31: expected 4 cells as in the header, found 2"):
        load(settings_of(files))


def test_infinite_value_of_an_array(files):
    edit_image(files, lambda ids, embedding: (ids, np.where(np.arange(25)[:, None] == 3, np.inf, embedding)))
    with pytest.raises(
        DataError, match=r"image.h5#HE: row 4, column 'embedding_0': expected a finite number, found inf"
    ):
        load(settings_of(files))


def test_uneven_array(files):
    edit_image(files, lambda ids, embedding: (ids, embedding[1:]))
    with pytest.raises(DataError, match=r"image.h5#HE: dataset 'embedding': expected 25 rows as in 'pid', found 24"):
        load(settings_of(files))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"modalities__clinic__ignor": []}, "modalities.clinic.ignor: unknown key (did you mean 'ignore'?)"),
        (
            {"targets__tasks__died": {"column": "dead"}},
            "positive: expected the value of the positive class, found None",
        ),
        (
            {"targets__tasks__died__classes": {"no": "", "yes": "x"}},
            "targets.tasks.died: classes.no: expected a name in one line, found ''",
        ),
        ({"targets__tasks__died__classes": {"no": "a", "yes": "x\ny"}}, "expected a name in one line, found 'x\\ny'"),
        (
            {"modalities__clinic": {"file": "c.csv", "quality": "good", "columns": ["age", "good"]}},
            "modalities.clinic: quality: expected a column that is no feature (a second one may hold the same values), "
            "found 'good' in columns, too",
        ),
        ({"targets__tasks__died__classes": {"a": "x"}}, "classes: expected two classes of a binary task, found 1"),
        ({"modalities__clinic__vocabulary": {"sex": ["m"]}}, "expected two values of a binary column, found ['m']"),
        ({"modalities": {}}, "modalities: expected at least 1 item, found {}"),
        ({"modalities": {"a/b": {"file": "clinic.csv"}}}, "modalities: expected names of letters, digits"),
        ({"use": ["clinc"]}, "use: expected names of modalities, found 'clinc' (did you mean 'clinic'?)"),
        ({"use": []}, "use: expected at least 1 item"),
        ({"leakage_auroc": 1.5}, "leakage_auroc: expected less than or equal to 1, found 1.5"),
    ],
)
def test_bad_settings(files, setting, told):
    with pytest.raises(ConfigError) as refused:
        settings_of(files, changed(**setting))
    assert told in str(refused.value)


# The head-and-neck cancer cohort: its miniature always, the real files where they lie beside the checkout

COUNTS = {"clinical": 610, "pathological": 610, "blood": 555, "icd_codes": 573, "cell_density": 589}
LABELS = {"death_5y": (141, 197), "recurrence_2y": (109, 358)}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    folder = tmp_path_factory.mktemp("miniature")
    write_miniature(folder)
    return folder


def hancock(folder):
    tree = load_yaml(CHECKOUT / "experiments" / "hancock.yaml")["data"]
    return load(settings_of(folder, tree))


@pytest.mark.parametrize("source", ["miniature", *(["real"] if REAL.is_dir() else [])])
def test_hancock_experiment_reads_its_files(miniature, source):
    dataset = hancock(miniature if source == "miniature" else REAL)
    widths = {m.name: m.width for m in dataset.spec.modalities}
    assert widths == {
        "clinical": 7,
        "pathological": 43,
        "blood": 16,
        "icd_codes": 40,
        "cell_density": 4,
        **{f"tma_{stain}": 512 for stain in STAINS},
    }
    assert all(not dataset.inputs[m][~dataset.valid[m]].any() for m in widths)
    assert len(dataset.provenance.sources) == 14
    if source == "real":
        assert {m: int(dataset.valid[m].sum()) for m in COUNTS} == COUNTS
        assert all(595 <= dataset.valid[f"tma_{stain}"].sum() <= 607 for stain in STAINS)
        ones = {t: int(dataset.targets[t].sum()) for t in LABELS}
        assert {t: (n, int(dataset.known[t].sum()) - n) for t, n in ones.items()} == LABELS


def test_miniature_has_the_real_columns_and_types(miniature):
    """Of the files beside the checkout, or, without them, of what the experiment file and the spec rely on."""
    dataset = hancock(miniature)
    assert not any(dataset.valid[m].all() for m in ("blood", "icd_codes", "cell_density", "tma_HE"))
    assert not dataset.observed["cell_density"][dataset.valid["cell_density"]].all()
    assert all(0 < dataset.known[t].sum() < len(dataset) for t in LABELS)
    if REAL.is_dir():
        for path in sorted(REAL.glob("*.csv")):
            real, small = (pd.read_csv(folder / path.name) for folder in (REAL, miniature))
            assert small.columns.tolist() == real.columns.tolist()
        with h5py.File(REAL / "tma_embeddings.h5") as real, h5py.File(miniature / "tma_embeddings.h5") as small:
            for name in (f"{stain}/{leaf}" for stain in STAINS for leaf in ("patient_id", "embedding")):
                assert small[name].dtype == real[name].dtype
                assert small[name].shape[1:] == real[name].shape[1:]


@pytest.mark.parametrize("task", LABELS)
def test_miniature_carries_a_signal(tmp_path, task):
    write_miniature(tmp_path, rows=300)
    dataset = hancock(tmp_path)
    known = dataset.known[task].numpy()
    inputs = np.concatenate([dataset.inputs[m].numpy()[known] for m in ("clinical", "blood")], axis=1)
    target = dataset.targets[task].numpy()[known]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    score = cross_val_predict(model, inputs, target, cv=5, method="predict_proba")[:, 1]
    assert roc_auc_score(target, score) > 0.65
