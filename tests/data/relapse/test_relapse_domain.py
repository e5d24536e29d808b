"""The data set of days: where it comes from, its rows, what a served model is asked about; the protocols for people."""

import numpy as np
import pytest
import torch
from relapse_material import as_pickles, config, days, notes, refusal, write_archives, write_days

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.raw import encode
from fusion_lab.data.relapse import load, prepare, records
from fusion_lab.data.relapse.domain import source_of
from fusion_lab.data.relapse.personal import MEASURED, PAST
from fusion_lab.data.splits import FoldsConfig, make_folds
from fusion_lab.experiment import Experiment

TRANSDUCTIVE = FoldsConfig(protocol="loso-transductive")
SMALL_TWIN = {"patients": 3, "widths": {"hr": 2, "sleep": 1}}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw" / "P1" / "train_0"
    folder.mkdir(parents=True)
    (folder / "step.parquet").write_bytes(b"x")
    return tmp_path / "raw"


def test_what_a_folder_holds_decides_what_is_read(tmp_path, raw):
    assert source_of(config()) == "twin"
    assert source_of(config(raw)) == "raw"
    write_days(tmp_path)
    assert source_of(config(tmp_path)) == "daily"
    archives = write_archives(tmp_path / "archives", load(config(tmp_path)))
    assert source_of(config(archives)) == source_of(config(as_pickles(archives))) == "archives"
    assert source_of(config(tmp_path, source="twin", twin=SMALL_TWIN)) == "twin"


def test_what_is_wrong_with_a_raw_tree_is_told_before_it_is_taken_for_none(tmp_path):
    (tmp_path / "P\n1" / "val_0").mkdir(parents=True)
    assert refusal(tmp_path) == "FOLDER: expected folders of patients with printable names, found 'P\\n1'"


def test_a_raw_tree_is_prepared_first_and_nothing_else_is(raw, tmp_path):
    line = refusal(raw)
    assert "found a raw sensor tree: run fusion-lab prepare --experiment relapse --data" in line
    write_days(tmp_path)
    with pytest.raises(DataError, match="expected a raw sensor tree to prepare, found a table of days"):
        prepare(config(tmp_path), tmp_path / "out", print)
    with pytest.raises(DataError, match="expected a raw sensor tree to prepare, found none"):
        prepare(config(), tmp_path / "out", print)


def test_a_folder_of_nothing_is_refused(tmp_path):
    assert refusal(tmp_path).endswith("or a raw tree (P1/train_0), found none of them")
    assert "found no such folder" in refusal(tmp_path / "nowhere")
    assert "days.csv: expected a data file, found no such file" in refusal(tmp_path, file="days.csv")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"day": "a", "date": "b"}, "day: expected this or date, found both 'a' and 'b'"),
        ({"label": "a", "tasks": {"b": {}}}, "label: expected this or tasks, found both 'a' and b"),
        ({"source": "daily"}, "root: expected a folder where source is daily, found none"),
        ({"modalities": {"a": ["x", "x"]}}, "modalities.a: expected different columns, one at least"),
        ({"use": ["a", "a"]}, "use: expected each name once"),
        ({"tasks": {"b": {"positive": 0}}}, "expected different values of negative, positive and unknown cells"),
        ({"tasks": {"b": {"classes": ["x", "x"]}}}, "classes: expected different names, found 'x' twice"),
        ({"twin": {"widths": {"a": 0}}}, "widths.a: expected at least 1 feature, found 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, line):
    with pytest.raises(ConfigError) as error:
        config(**settings)
    assert line in str(error.value)


def test_labelled_days_are_the_rows_or_all_of_them(tmp_path):
    frame = write_days(tmp_path)
    labelled, everything = load(config(tmp_path)), load(config(tmp_path, rows="all"))
    assert len(labelled) == frame["label"].notna().sum() < len(everything) == len(frame)
    place = {name: row for row, name in enumerate(everything.ids.tolist())}
    at = torch.tensor([place[name] for name in labelled.ids.tolist()])
    for name, inputs in labelled.inputs.items():
        assert torch.equal(inputs, everything.inputs[name][at])


def test_nothing_to_predict_is_refused(tmp_path):
    write_days(tmp_path, days(unknown=1.0).assign(label=0))
    assert "expected the positive value '1' to occur" in refusal(tmp_path)


def test_a_served_model_gets_every_day_with_the_columns_it_knows(tmp_path):
    frame = write_days(tmp_path)
    dataset = load(config(tmp_path, use=["sleep"], window=3))
    write_days(tmp_path, frame.drop(columns="label"))
    asked = records(config(tmp_path), labelled=False, spec=dataset.spec)
    assert len(asked) == len(frame) and list(asked.modalities) == ["sleep"]
    place = {name: row for row, name in enumerate(asked.ids.tolist())}
    rows = [place[name] for name in dataset.ids.tolist()]
    again = encode(dataset.spec.modality("sleep"), asked.modalities["sleep"])
    assert np.array_equal(again.inputs[rows], dataset.inputs["sleep"].numpy())
    assert np.array_equal(again.valid[rows], dataset.valid["sleep"].numpy())


def test_a_model_of_other_sensors_is_refused(tmp_path):
    write_days(tmp_path)
    other = load(config(twin=SMALL_TWIN)).spec
    asked = records(config(tmp_path), labelled=False, spec=other)
    assert list(asked.modalities) == ["sleep"]
    write_days(tmp_path, days().drop(columns=["sleep__0", "sleep__1"]))
    with pytest.raises(DataError, match="expected one of the modalities hr, sleep, found accel"):
        records(config(tmp_path), labelled=False, spec=other)


def held_out(folds, dataset, k):
    (name,) = set(dataset.group[folds.test[k]])
    return dataset.group == name


def test_the_transductive_protocol_is_the_split_of_old(tmp_path):
    write_days(tmp_path)
    dataset = load(config(tmp_path))
    folds = make_folds(TRANSDUCTIVE, dataset)
    assert folds.protocol == "loso-transductive" and folds.names == tuple(np.unique(dataset.group))
    for k in range(len(folds)):
        own = held_out(folds, dataset, k)
        assert np.array_equal(folds.train[k], ~own)
        assert np.array_equal(folds.val[k], own & (dataset.given_split == "val"))
        assert np.array_equal(folds.test[k], own & (dataset.given_split == "test"))
    assert any("scores are optimistic" in note for note in folds.notes)


def test_a_person_without_validation_days_is_validated_on_the_next_who_does_not_train(tmp_path):
    frame = days()
    frame.loc[(frame["patient"] == "P2") & (frame["sequence"] == "val_0"), "label"] = None
    write_days(tmp_path, frame)
    dataset = load(config(tmp_path))
    folds = make_folds(TRANSDUCTIVE, dataset)
    k = folds.names.index("P2")
    assert np.array_equal(folds.val[k], dataset.group == "P3")
    assert set(dataset.group[folds.train[k]]) == set(dataset.group) - {"P2", "P3"}
    assert any("no labelled validation rows of their own" in note and "P2 on P3" in note for note in folds.notes)


def test_the_transductive_protocol_needs_test_days_and_a_split(tmp_path):
    frame = days()
    write_days(tmp_path, frame[(frame["patient"] != "P2") | (frame["sequence"] != "test_0")])
    with pytest.raises(
        DataError, match="expects labelled rows of the given split test of every group, found none of P2"
    ):
        make_folds(TRANSDUCTIVE, load(config(tmp_path)))
    write_days(tmp_path, frame[frame["sequence"] == "val_0"].drop(columns="sequence"))
    with pytest.raises(ConfigError, match="loso-transductive expects a split that comes with the data, found none"):
        make_folds(TRANSDUCTIVE, load(config(tmp_path)))
    with pytest.raises(ValueError, match="expected repeats 1 and holdout 0 with protocol loso-transductive"):
        FoldsConfig(protocol="loso-transductive", repeats=2)


def test_values_by_person_are_for_the_transductive_protocol_alone(tmp_path):
    tree = {"name": "x", "data": {"domain": "relapse", "normalise": "patient"}, "folds": {"protocol": "loso"}}
    with pytest.raises(
        ConfigError, match="data.normalise: expected none or past under folds.protocol loso, found 'patient'"
    ):
        validate(Experiment, tree, "test")
    assert validate(Experiment, {**tree, "folds": {"protocol": "loso-transductive"}}, "test")
    write_days(tmp_path)
    assert MEASURED in notes(tmp_path, normalise="patient")
    assert MEASURED not in notes(tmp_path)


def test_values_against_earlier_days_are_for_every_protocol(tmp_path):
    tree = {"name": "x", "data": {"domain": "relapse", "normalise": "past"}, "folds": {"protocol": "loso"}}
    assert validate(Experiment, tree, "test")
    write_days(tmp_path)
    assert PAST in notes(tmp_path, normalise="past")
