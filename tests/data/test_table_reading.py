"""Sequences, bags, arrays and tasks per step of the table domain, against the plain loop over ids and times."""

import copy
from collections import defaultdict
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, DataError, content_hash
from fusion_lab.data.long import LONGEST
from fusion_lab.data.raw import encode
from fusion_lab.data.splits import FoldsConfig, make_folds
from fusion_lab.data.table import TableConfig, load, records

ROWS = 24
IDS = [f"p{i:02d}" for i in range(ROWS)]
TREE: dict[str, Any] = {
    "domain": "table",
    "id": "pid",
    "targets": {"file": "targets.csv", "tasks": {"died": {"column": "dead", "positive": "yes"}}},
    "modalities": {
        "vitals": {
            "kind": "sequence",
            "file": "vitals.csv",
            "time": "day",
            "kinds": {"mode": "category"},
            "ignore": ["alarm"],
        },
        "cells": {"kind": "bag", "file": "cells.parquet", "instance": "cell"},
    },
}
ALARM = {"column": "alarm", "positive": 1, "steps": ["vitals"]}


def vitals(rng):
    """One to six days of each id but the first, which has none, and of one that the targets do not know."""
    lines = [(i, int(d)) for i in [*IDS[1:], "other"] for d in sorted(rng.choice(9, rng.integers(1, 7), replace=False))]
    frame = pd.DataFrame(lines, columns=["pid", "day"])
    frame["hr"] = rng.normal(80, 9, len(frame)).round(2)
    frame.loc[rng.random(len(frame)) < 0.2, "hr"] = np.nan
    frame["mode"] = rng.choice(["rest", "walk", "run"], len(frame))
    frame["alarm"] = np.where(rng.random(len(frame)) < 0.2, "", rng.choice(["0", "1"], len(frame)))
    frame.loc[0, ["hr", "mode", "alarm"]] = [80.0, "rest", "0"]
    return frame


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    vitals(rng).to_csv(tmp_path / "vitals.csv", index=False)
    lines = [(i, c) for i in IDS for c in rng.choice(50, rng.integers(1, 5), replace=False)]
    cells = pd.DataFrame(lines, columns=["pid", "cell"])
    cells["area"] = rng.normal(size=len(cells)).astype(np.float32)
    cells.to_parquet(tmp_path / "cells.parquet")
    dead = pd.DataFrame({"pid": IDS, "dead": ["yes", "no", "no"] * 8, "site": [f"s{i % 4}" for i in range(ROWS)]})
    dead.to_csv(tmp_path / "targets.csv", index=False)
    return tmp_path


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


def config_of(folder, tree=None):
    return validate(TableConfig, {**(tree or TREE), "root": str(folder)}, "data")


def read(folder, tree=None):
    return load(config_of(folder, tree))


def refusal(folder, tree, kind=DataError):
    with pytest.raises(kind) as refused:
        read(folder, tree)
    message = str(refused.value)
    assert "\n" not in message
    return message


def edit(folder, change, name="vitals.csv"):
    frame = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
    frame = change(frame)
    frame.to_csv(folder / name, index=False)


def leaves(dataset):
    parts = ("inputs", "valid", "observed", "quality", "targets", "known")
    return {f"{part}/{name}": leaf for part in parts for name, leaf in getattr(dataset, part).items()}


def assert_same(one, other):
    assert one.spec == other.spec
    assert one.ids.tolist() == other.ids.tolist()
    for name, leaf in leaves(one).items():
        assert torch.equal(leaf, leaves(other)[name]), name


def lines_of(frame, identifier, by):
    return frame[frame["pid"] == identifier].sort_values(by)


# Sequences and bags


def test_a_sequence_ends_at_its_last_line_and_a_bag_begins_at_its_first(files):
    dataset = read(files)
    days, cells = pd.read_csv(files / "vitals.csv"), pd.read_parquet(files / "cells.parquet")
    sequence, bag = dataset.spec.modality("vitals"), dataset.spec.modality("cells")
    assert sequence.length == days[days["pid"] != "other"]["pid"].value_counts().max()
    assert (sequence.place_name, bag.place_name) == ("day", "cell")
    assert [f.name for f in sequence.features] == ["hr", "mode=rest", "mode=run", "mode=walk", "mode=unknown"]
    assert [f.gaps for f in sequence.features] == [True, *[False] * 4]
    for row, identifier in enumerate(IDS):
        own = lines_of(days, identifier, "day")
        valid = np.arange(sequence.length) >= sequence.length - len(own)
        assert dataset.valid["vitals"][row].tolist() == valid.tolist()
        hr = own["hr"].to_numpy(np.float32)
        assert dataset.inputs["vitals"][row][valid][:, 0].tolist() == np.nan_to_num(hr).tolist()
        assert dataset.observed["vitals"][row][valid][:, 0].tolist() == (~np.isnan(hr)).tolist()
        assert (dataset.inputs["vitals"][row][valid][:, 3] == 1).tolist() == (own["mode"] == "walk").tolist()
        own = lines_of(cells, identifier, "cell")
        assert dataset.valid["cells"][row].tolist() == (np.arange(bag.length) < len(own)).tolist()
        assert dataset.inputs["cells"][row][: len(own), 0].tolist() == own["area"].tolist()


def test_lines_left_out_are_counted(files):
    others = (pd.read_csv(files / "vitals.csv")["pid"] == "other").sum()
    total = len(pd.read_csv(files / "vitals.csv"))
    note = f"vitals.csv: {others} of {total} lines left out: their ids are not among the targets"
    assert read(files).provenance.notes.count(note) == 1
    tree = changed()
    tree["targets"]["tasks"]["alarm"] = ALARM
    assert read(files, tree).provenance.notes.count(note) == 1


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_order_of_the_lines_changes_nothing(tmp_path_factory, seed):
    folder, rng = tmp_path_factory.mktemp("order"), np.random.default_rng(seed)
    pd.DataFrame({"pid": IDS, "dead": ["yes", "no"] * (ROWS // 2)}).to_csv(folder / "targets.csv", index=False)
    frame = vitals(rng)
    tree = changed(modalities__cells={"kind": "bag", "file": "vitals.csv", "instance": "day", "columns": ["hr"]})
    tree["targets"]["tasks"]["alarm"] = ALARM
    made = []
    for shuffled in (frame, frame.sample(frac=1, random_state=seed)):
        shuffled.to_csv(folder / "vitals.csv", index=False)
        made.append(read(folder, tree))
    assert_same(*made)


@pytest.mark.parametrize("keep", [1, 3])
def test_length_keeps_the_last_days_and_the_first_cells(files, keep):
    whole = read(files)
    cut = read(files, changed(modalities__vitals__length=keep, modalities__cells__length=keep))
    assert torch.equal(cut.inputs["vitals"], whole.inputs["vitals"][:, -keep:])
    assert torch.equal(cut.inputs["cells"], whole.inputs["cells"][:, :keep])
    spans = {name: whole.valid[name].sum(1) for name in ("vitals", "cells")}
    for name, which in (("vitals", "last"), ("cells", "first")):
        count = int((spans[name] > keep).sum())
        assert f"{name}: {count} of {ROWS} rows cut to their {which} {keep} positions" in cut.provenance.notes


def test_more_than_the_longest_is_padding(files):
    whole, wide = read(files), read(files, changed(modalities__vitals__length=20, modalities__cells__length=20))
    length = whole.spec.modality("vitals").length
    assert torch.equal(wide.inputs["vitals"][:, -length:], whole.inputs["vitals"])
    assert not wide.valid["vitals"][:, :-length].any()
    assert not any("cut" in note for note in wide.provenance.notes)


def test_a_bag_without_instances_is_in_the_order_of_the_file(files):
    cells = pd.read_parquet(files / "cells.parquet")
    cells.drop(columns="cell").to_parquet(files / "cells.parquet")
    dataset = read(files, changed(modalities__cells={"kind": "bag", "file": "cells.parquet", "step": "nucleus"}))
    assert dataset.spec.modality("cells").place_name == "nucleus"
    for row, identifier in enumerate(IDS):
        own = cells[cells["pid"] == identifier]["area"].tolist()
        assert dataset.inputs["cells"][row][: len(own), 0].tolist() == own


def test_empty_lines_are_not_valid_and_keep_their_place(files):
    edit(files, lambda f: f.assign(hr=[*f["hr"][:1], "", *f["hr"][2:]], mode=[*f["mode"][:1], "", *f["mode"][2:]]))
    frame = pd.read_csv(files / "vitals.csv")
    dataset, length = read(files), read(files).spec.modality("vitals").length
    row = IDS.index(frame["pid"][1])
    own = lines_of(frame, frame["pid"][1], "day")
    place = length - len(own) + own.index.tolist().index(1)
    assert not dataset.valid["vitals"][row, place]
    assert dataset.valid["vitals"][row].sum() == len(own) - 1
    assert "vitals.csv: 1 lines hold nothing but empty cells and count as absent" in dataset.provenance.notes


def test_quality_is_the_mean_over_the_lines(files):
    rng = np.random.default_rng(1)
    edit(files, lambda f: f.assign(good=rng.random(len(f)).round(3).astype(str)))
    dataset = read(files, changed(modalities__vitals__quality="good"))
    means = pd.read_csv(files / "vitals.csv").groupby("pid")["good"].mean()
    expected = [means.get(identifier, 1.0) for identifier in IDS]
    np.testing.assert_allclose(dataset.quality["vitals"], expected, rtol=1e-6)


def test_dates_sort_as_dates(files):
    plain = read(files)
    start = np.datetime64("2023-12-28")
    edit(files, lambda f: f.assign(day=[str(start + int(d)) for d in f["day"]]))
    dated = read(files)
    assert_same(plain, dated)


def test_indicators_and_declared_missing_values(files):
    edit(files, lambda f: f.assign(hr=f["hr"].replace("", "-9")))
    tree = changed(modalities__vitals__missing=[-9, "walk"], modalities__vitals__indicators=True)
    dataset = read(files, tree)
    modality, valid = dataset.spec.modality("vitals"), dataset.valid["vitals"]
    assert modality.missing == ("-9", "walk")
    assert [f.name for f in modality.features] == ["hr", "mode=rest", "mode=run", "mode=unknown", "hr missing"]
    assert torch.equal(dataset.inputs["vitals"][valid][:, -1] == 1, ~dataset.observed["vitals"][valid][:, 0])


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_formats_give_one_data_set(files, suffix):
    from_csv = read(files)
    frame = pd.read_csv(files / "vitals.csv")
    if suffix == ".parquet":
        frame.to_parquet(files / "vitals.parquet")
    else:
        with h5py.File(files / "vitals.h5", "w") as file:
            for name in frame:
                values = frame[name].to_numpy(na_value=np.nan) if name == "hr" else frame[name].fillna(0).to_numpy()
                file[name] = values.astype(object) if name in ("pid", "mode") else values
    tree = changed(modalities__vitals__file=f"vitals{suffix}", modalities__vitals__columns=["hr", "mode"])
    assert_same(read(files, tree), from_csv)


# Arrays


def grids(files):
    """The days as arrays [R,T,F], padded at the end, and the ids in another order than the targets'."""
    frame = pd.read_csv(files / "vitals.csv")
    ids = np.array(sorted(set(frame["pid"]), reverse=True))
    longest = frame["pid"].value_counts().max()
    values, alarm = np.full((len(ids), longest, 2), np.nan, np.float32), np.full((len(ids), longest), np.nan)
    for row, identifier in enumerate(ids):
        own = lines_of(frame, identifier, "day")
        values[row, : len(own)] = np.stack([own["hr"], own["day"]], axis=1)
        alarm[row, : len(own)] = own["alarm"]
    return {
        "x": values,
        "who": ids,
        "names": np.array(["hr", "day"]),
        "real": ~np.isnan(values[..., 1]),
        "alarm": alarm,
    }


def as_arrays(files, suffix):
    arrays = grids(files)
    if suffix == ".npz":
        np.savez(files / "vitals.npz", **arrays)
    else:
        with h5py.File(files / "vitals.h5", "w") as file:
            for name, array in arrays.items():
                file[f"icu/{name}"] = array.astype(object) if array.dtype.kind == "U" else array
    key = "x" if suffix == ".npz" else "icu/x"
    tree = changed(modalities__vitals={"kind": "sequence", "file": f"vitals{suffix}", "key": key, "id": "who"})
    tree["modalities"]["vitals"]["columns_from"] = "names"
    return tree


def as_lines():
    vitals = {"kind": "sequence", "file": "vitals.csv", "time": "day", "columns": ["hr", "when"], "step": "time step"}
    return changed(modalities__vitals=vitals)


@pytest.mark.parametrize("valid", [None, "real"])
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_arrays_are_the_lines_they_hold(files, suffix, valid):
    tree = as_arrays(files, suffix)
    tree["modalities"]["vitals"]["valid"] = valid
    tree["targets"]["tasks"]["alarm"] = {"column": "alarm", "positive": 1, "steps": ["vitals"]}
    edit(files, lambda f: f.assign(when=f["day"]))
    plain = as_lines()
    plain["targets"]["tasks"]["alarm"] = ALARM
    ours, lines = read(files, tree), read(files, plain)
    for name, leaf in leaves(ours).items():
        assert torch.equal(leaf, leaves(lines)[name]), name
    assert ours.spec.task("alarm") == lines.spec.task("alarm")
    assert [f.name for f in ours.spec.modality("vitals").features] == ["hr", "day"]
    assert any(source.name.startswith(f"vitals{suffix}#") for source in ours.provenance.sources)


def test_an_array_of_vectors(files):
    values = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    np.savez(files / "scan.npz", emb=values[::-1], pid=np.array(IDS)[::-1])
    dataset = read(files, changed(modalities__scan={"file": "scan.npz", "key": "emb"}))
    assert dataset.inputs["scan"].tolist() == values.tolist()
    assert [f.name for f in dataset.spec.modality("scan").features] == ["x_0", "x_1", "x_2"]


def test_everything_in_one_npz_file(files):
    rng = np.random.default_rng(0)
    parts = {"x": rng.normal(size=(ROWS, 3)), "steps": rng.normal(size=(ROWS, 4, 2)), "y": np.arange(ROWS) % 2}
    np.savez(files / "all.npz", pid=np.arange(ROWS), **parts)
    tree = {
        "id": "pid",
        "targets": {"file": "all.npz", "tasks": {"died": {"column": "y", "positive": 1}}},
        "modalities": {
            "x": {"file": "all.npz", "key": "x"},
            "steps": {"kind": "sequence", "file": "all.npz", "key": "steps"},
        },
    }
    dataset = read(files, tree)
    np.testing.assert_array_equal(dataset.targets["died"], parts["y"])
    np.testing.assert_array_equal(dataset.inputs["steps"], parts["steps"].astype(np.float32))


def test_infinite_value_of_an_array_is_told_with_id_and_position(files):
    tree = as_arrays(files, ".npz")
    arrays = grids(files)
    arrays["x"][2, 0, 1] = np.inf
    np.savez(files / "vitals.npz", **arrays)
    told = f"vitals.npz#x: row {arrays['who'][2]}, position 1, column 'day': expected a finite number, found inf"
    assert refusal(files, tree).endswith(told)


# Tasks per step and clocks


def test_labels_stand_at_their_steps(files):
    tree = changed()
    tree["targets"]["tasks"] |= {
        "alarm": ALARM,
        "state": {"column": "mode", "kind": "multiclass", "steps": ["vitals"]},
        "hr": {"column": "hr", "kind": "regression", "steps": ["vitals"]},
    }
    tree["modalities"]["vitals"] |= {"ignore": ["alarm", "mode", "hr"], "kinds": {}}
    edit(files, lambda f: f.assign(bp=np.arange(len(f)).astype(str)))
    dataset, frame = read(files, tree), pd.read_csv(files / "vitals.csv")
    length = dataset.spec.modality("vitals").length
    assert dataset.spec.task("alarm").steps == ("vitals",)
    assert dataset.spec.task("state").classes == ("rest", "run", "walk")
    for row, identifier in enumerate(IDS):
        own, steps = lines_of(frame, identifier, "day"), dataset.valid["vitals"][row]
        for task, cells in (("alarm", own["alarm"]), ("hr", own["hr"])):
            assert dataset.known[task][row][steps].tolist() == cells.notna().tolist()
            assert not dataset.known[task][row][~steps].any()
            assert dataset.targets[task][row][steps].tolist() == cells.fillna(0).astype(np.float32).tolist()
        codes = [("rest", "run", "walk").index(word) for word in own["mode"]]
        assert dataset.targets["state"][row][length - len(own) :].tolist() == codes


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), length=st.none() | st.integers(1, 6))
def test_a_shared_clock_is_the_union_of_times(tmp_path_factory, seed, length):
    """Two sequences and labels of a third file, each at times of its own; against the plain loop."""
    folder, rng = tmp_path_factory.mktemp("clock"), np.random.default_rng(seed)
    ids = IDS[:6]
    times: dict[str, dict[str, set[int]]] = defaultdict(dict)
    for name in ("a", "b", "labels"):
        lines = [(i, d) for i in ids for d in rng.choice(7, rng.integers(1, 5), replace=False)]
        frame = pd.DataFrame(lines, columns=["pid", "day"])
        frame["value"] = frame["day"] * 10 + np.arange(len(frame)) / 1000
        frame["state"] = np.where(rng.random(len(frame)) < 0.3, "", np.where(np.arange(len(frame)) % 2 > 0, "x", "y"))
        frame.loc[:1, "state"] = ["x", "y"]
        frame.drop(columns="value" if name == "labels" else "state").to_csv(folder / f"{name}.csv", index=False)
        real = frame[frame["state"] != ""] if name == "labels" else frame
        for identifier in ids:
            times[name][identifier] = set(real[real["pid"] == identifier]["day"].tolist())
    sequence = {"kind": "sequence", "time": "day"}
    tree = {
        "id": "pid",
        "targets": {
            "tasks": {"state": {"column": "state", "positive": "x", "steps": ["a", "b"], "file": "labels.csv"}}
        },
        "modalities": {
            "a": {**sequence, "file": "a.csv", **({} if length is None else {"length": length})},
            "b": {**sequence, "file": "b.csv"},
        },
    }
    try:
        dataset = read(folder, tree)
    except DataError as error:  # chance left no label of a class among the steps kept
        assert length is not None
        assert "expected" in str(error)
        return
    unions = {i: sorted(set.union(*(times[name][i] for name in times))) for i in ids}
    steps = length or max(map(len, unions.values()))
    for row, identifier in enumerate(dataset.ids):
        ticks = [None] * steps + unions[identifier]
        for name, mask in (("a", dataset.valid["a"]), ("b", dataset.valid["b"]), ("labels", dataset.known["state"])):
            there = [tick in times[name][identifier] for tick in ticks[-steps:]]
            assert mask[row].tolist() == there, name
        values = dataset.inputs["a"][row][dataset.valid["a"][row], 0]
        assert (values // 10).tolist() == [t for t in ticks[-steps:] if t in times["a"][identifier]]


def test_without_a_targets_file_the_rows_are_the_first_sequences_ids(files):
    edit(files, lambda f: f.assign(ward=f["pid"].str[-1]).sample(frac=1, random_state=0))
    tree = changed(targets={"tasks": {"alarm": ALARM}}, group="ward")
    dataset, frame = read(files, tree), pd.read_csv(files / "vitals.csv", dtype=str)
    assert dataset.ids.tolist() == list(dict.fromkeys(frame["pid"]))
    assert dataset.group is not None
    assert dataset.group.tolist() == [identifier[-1] for identifier in dataset.ids]
    assert "ward" not in dataset.spec.modality("vitals").columns
    folds = make_folds(FoldsConfig(protocol="grouped", k=3), dataset)
    assert folds.test.sum() == len(dataset)
    hashed = read(files, {**tree, "ids": "hash"})
    assert not set(hashed.ids) & set(dataset.ids)


def test_a_group_that_changes_within_an_id(files):
    edit(files, lambda f: f.assign(ward=[str(i) for i in range(len(f))]))
    message = refusal(files, changed(targets={"tasks": {"alarm": ALARM}}, group="ward"))
    frame = pd.read_csv(files / "vitals.csv")
    line = int(np.flatnonzero(frame["pid"].duplicated())[0])
    first = frame.index[frame["pid"] == frame["pid"][line]][0]
    place = f"vitals.csv: line {line + 2}, column 'ward': expected one group of id {frame['pid'][line]!r}"
    assert message.endswith(f"{place}, found '{line}' after '{first}'")


def test_labels_at_times_without_a_line_are_counted_and_refused_where_all_are(files):
    frame = pd.read_csv(files / "vitals.csv", dtype=str)[["pid", "day", "alarm"]]
    frame = frame[frame["pid"] != "other"]
    tree = changed(targets={"tasks": {"alarm": {**ALARM, "file": "labels.csv"}}})
    late = np.arange(len(frame)) % 3 > 0
    frame["day"] = np.where(late, frame["day"].astype(int) + 100, frame["day"]).astype(str)
    frame.to_csv(files / "labels.csv", index=False)
    known = frame["alarm"].notna()
    note = f"{(late & known).sum()} of {known.sum()} labelled steps lie at times at which no sequence has a line"
    assert f"task 'alarm': {note}" in read(files, tree).provenance.notes
    frame[late].to_csv(files / "labels.csv", index=False)
    told = "labels.csv: task 'alarm': expected labels at times at which vitals has a line, found none among "
    assert f"{told}{(late & known).sum()} labelled steps" in refusal(files, tree)
    frame[~late].to_csv(files / "labels.csv", index=False)
    assert not any("labelled steps" in note for note in read(files, tree).provenance.notes)


@pytest.mark.parametrize("shift", [0, 100])
def test_sequences_of_one_clock_without_a_common_time_are_noted(files, shift):
    frame = pd.read_csv(files / "vitals.csv", dtype=str)[["pid", "day", "hr"]]
    frame["day"] = (frame["day"].astype(int) + shift).astype(str)
    frame.to_csv(files / "blood.csv", index=False)
    tree = changed(modalities__blood={"kind": "sequence", "file": "blood.csv", "time": "day"})
    tree["targets"] = {"tasks": {"alarm": {**ALARM, "steps": ["vitals", "blood"]}}}
    steps = len(frame) * (2 if shift else 1)
    note = f"vitals, blood: {steps} of {steps} time steps of their clock hold a line of only one of them"
    assert (note in read(files, tree).provenance.notes) == bool(shift)


def test_time_zones_of_one_clock_are_not_mixed(files):
    frame = pd.read_csv(files / "vitals.csv", dtype=str)[["pid", "day", "hr", "alarm"]]
    for name, zone in (("blood.csv", "Z"), ("gas.csv", "")):
        days = [f"2024-01-{int(day) + 1:02d}T10:00{zone}" for day in frame["day"]]
        frame.assign(day=days).to_csv(files / name, index=False)
    sequence = {"kind": "sequence", "time": "day", "ignore": ["alarm"]}
    tree = changed(modalities={name: {**sequence, "file": f"{name}.csv"} for name in ("blood", "gas")})
    tree["targets"] = {"tasks": {"alarm": {**ALARM, "steps": ["blood", "gas"]}}}
    message = refusal(files, tree)
    assert "gas.csv: expected dates with a time zone as times, as in " in message
    assert message.endswith("blood.csv of the same clock, found dates without a time zone")


def test_a_length_far_beyond_the_longest_row_is_noted(files):
    longest = read(files).spec.modality("vitals").length
    for length, far in ((2 * longest, False), (2 * longest + 1, True)):
        dataset = read(files, changed(modalities__vitals__length=length))
        note = f"vitals: length {length} is more than twice what the longest row has: {longest} positions"
        assert (note in dataset.provenance.notes) == far
        assert dataset.spec.modality("vitals").length == length


# Provenance and records


def test_every_file_counts_for_the_digest(files):
    edit(files, lambda f: f)
    labels = pd.read_csv(files / "vitals.csv", dtype=str)[["pid", "day", "alarm"]]
    labels.to_csv(files / "labels.csv", index=False)
    tree = changed()
    tree["targets"]["tasks"]["alarm"] = {**ALARM, "file": "labels.csv"}
    before = read(files, tree).provenance
    names = [source.name for source in before.sources]
    assert names == ["targets.csv", "vitals.csv", "cells.parquet", "labels.csv"]
    for name in ("vitals.csv", "labels.csv"):
        (files / name).write_bytes((files / name).read_bytes() + b"\n")
        after = read(files, tree).provenance
        assert content_hash(after.digest) != content_hash(before.digest)
        before = after


@pytest.mark.parametrize("strict", [False, True])
def test_encoding_the_records_gives_the_data_set(files, strict):
    tree = changed(modalities__vitals__length=3, modalities__vitals__indicators=True)
    tree["targets"]["tasks"]["alarm"] = ALARM
    dataset, raw = read(files, tree), records(config_of(files, tree))
    assert raw.ids.tolist() == IDS
    for modality in dataset.spec.modalities:
        made = encode(modality, raw.modalities[modality.name], strict)
        for part in ("inputs", "valid", "observed", "quality"):
            np.testing.assert_array_equal(getattr(made, part), getattr(dataset, part)[modality.name])


def test_new_rows_need_no_targets(files, tmp_path_factory):
    """The same lines without targets and labels: what was an id of the data set is encoded as it was there."""
    folder, tree = tmp_path_factory.mktemp("new"), changed(ids="hash", group="site")
    tree["targets"]["tasks"]["alarm"] = ALARM
    dataset = read(files, tree)
    frame = pd.read_csv(files / "vitals.csv").drop(columns="alarm").sample(frac=1, random_state=0)
    frame.to_csv(folder / "vitals.csv", index=False)
    raw = records(config_of(folder, tree), labelled=False)
    assert set(raw.modalities) == {"vitals"}
    assert raw.ids.tolist() == list(dict.fromkeys(frame["pid"]))
    made = encode(dataset.spec.modality("vitals"), raw.modalities["vitals"], strict=True)
    for row, identifier in enumerate(raw.ids):
        if identifier != "other":
            assert made.inputs[row].tolist() == dataset.inputs["vitals"][IDS.index(identifier)].tolist()


def test_new_rows_of_several_files_are_their_ids_in_order(files):
    (files / "targets.csv").unlink()
    raw = records(config_of(files), labelled=False)
    days, cells = pd.read_csv(files / "vitals.csv"), pd.read_parquet(files / "cells.parquet")
    assert raw.ids.tolist() == list(dict.fromkeys([*days["pid"], *cells["pid"]]))
    assert {name: len(found.quality) for name, found in raw.modalities.items()} == dict.fromkeys(
        ("vitals", "cells"), len(raw.ids)
    )


def test_new_rows_may_be_constant_and_lack_what_was_left_out_as_constant(files):
    edit(files, lambda f: f.assign(ward="7"))
    tree = changed(modalities__vitals__drop_constant=True)
    spec = read(files, tree).spec
    edit(files, lambda f: f.iloc[:1])
    raw = records(config_of(files, tree), labelled=False, spec=spec)
    assert encode(spec.modality("vitals"), raw.modalities["vitals"], strict=True).valid.sum() == 1
    with pytest.raises(DataError, match="found 'ward' as well"):
        encode(spec.modality("vitals"), records(config_of(files, tree), labelled=False).modalities["vitals"])


def test_a_folder_without_any_of_the_files(tmp_path):
    with pytest.raises(DataError, match=r"expected the file of one modality at least \(vitals.csv, cells.parquet\)"):
        records(config_of(tmp_path), labelled=False)
    with pytest.raises(DataError, match="expected a folder of data files, found no such folder"):
        records(config_of(tmp_path / "nowhere"), labelled=False)


# What is refused: (change of vitals.csv, change of the settings, what the one line holds)


def doubled(frame):
    return pd.concat([frame, frame.iloc[[3]]])


BAD = {
    "time twice": (doubled, {}, ["vitals.csv: line ", "column 'day': expected each time of an id once", "(first in l"]),
    "instance twice": (
        None,
        {"modalities__cells": {"kind": "bag", "file": "vitals.csv", "instance": "mode", "columns": ["hr"]}},
        ["vitals.csv: line ", "column 'mode': expected each instance of an id once"],
    ),
    "no time": (
        lambda f: f.assign(day=["", *f["day"][1:]]),
        {},
        ["vitals.csv: line 2, column 'day': expected a time, found an empty cell"],
    ),
    "no such time": (
        None,
        {"modalities__vitals__time": "dya"},
        ["vitals.csv: expected a column 'dya' (the times), found none (did you mean 'day'?)"],
    ),
    "no id": (
        lambda f: f.assign(pid=["", *f["pid"][1:]]),
        {},
        ["vitals.csv: line 2, column 'pid': expected an id, found an empty cell"],
    ),
    "no number": (
        lambda f: f.assign(hr=["1", "fast", *f["hr"][2:]]),
        {},
        ["vitals.csv: line 3, column 'hr': expected a number, found 'fast'"],
    ),
    "infinite": (
        lambda f: f.assign(hr=["1", "-inf", *f["hr"][2:]]),
        {},
        ["vitals.csv: line 3, column 'hr': expected a finite number, found -inf"],
    ),
    "strangers": (
        lambda f: f.assign(pid="x" + f["pid"]),
        {},
        ["vitals.csv: column 'pid': expected ids of ", "targets.csv (such as 'p00', 'p01', 'p02')", "but 'xp01'"],
    ),
    "label as a feature": (
        None,
        {"targets__tasks__alarm": ALARM, "modalities__vitals__ignore": []},
        ["vitals.csv: column 'alarm': expected a feature of modality 'vitals', found the target of task 'alarm' (lea"],
    ),
    "label of another file": (
        None,
        {"targets__tasks__alarm": {**ALARM, "file": "none.csv"}},
        ["none.csv: expected a data file, found no such file"],
    ),
    "no such label": (
        None,
        {"targets__tasks__alarm": {**ALARM, "column": "alram"}},
        ["vitals.csv: expected a column 'alram' (task 'alarm'), found none (did you mean 'alarm'?)"],
    ),
    "third value of a label": (
        lambda f: f.assign(alarm=["0", "1", "2", *f["alarm"][3:]]),
        {"targets__tasks__alarm": {**ALARM, "classes": {"0": "quiet", "1": "alarm"}}},
        ["vitals.csv: line 4, column 'alarm': expected '0' or '1' of binary task 'alarm', found '2'"],
    ),
    "quality": (
        lambda f: f.assign(good=["1", "1.5", *["1"] * (len(f) - 2)]),
        {"modalities__vitals__quality": "good"},
        ["vitals.csv: line 3, column 'good': expected a quality in [0, 1], found 1.5"],
    ),
    "too long": (
        None,
        {},
        ["vitals.csv: expected at most 3 positions of an id, found 6 of id ", "last to keep: modalities.vitals.length"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(files, case, monkeypatch):
    change, setting, told = BAD[case]
    if case == "too long":
        monkeypatch.setattr("fusion_lab.data.table_reading.LONGEST", 3)
    if change:
        edit(files, change)
    message = refusal(files, changed(**setting))
    assert str(files) in message
    assert all(part in message for part in told), message


@pytest.mark.parametrize(
    ("vitals", "told"),
    [
        ({"kind": "sequence"}, "time: expected the column of a sequence's times, found none"),
        (
            {"kind": "sequence", "key": "icu/x", "time": "day"},
            "time: expected none of an array, whose second axis says it, found 'day'",
        ),
        (
            {"kind": "bag", "key": "icu", "valid": "real"},
            "valid: expected none of a table, only of an array, found 'real'",
        ),
    ],
)
def test_settings_that_only_the_file_can_refuse(files, vitals, told):
    as_arrays(files, ".h5")
    with h5py.File(files / "vitals.h5", "r+") as file:
        file["pid"], file["hr"] = np.array(IDS, dtype=object), np.arange(ROWS)
    tree = changed(modalities__vitals={"file": "vitals.h5", **vitals})
    assert refusal(files, tree, ConfigError) == f"modalities.vitals.{told}"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"modalities__vitals__time": None}, "modalities.vitals: time: expected the column of a sequence's times"),
        ({"modalities__vitals__instance": "x"}, "modalities.vitals: instance: expected none of a sequence, found 'x'"),
        ({"modalities__cells__time": "x"}, "modalities.cells: time: expected none of a bag, found 'x'"),
        ({"modalities__x": {"file": "x.csv", "length": 3}}, "modalities.x: length: expected none of a vector, found 3"),
        ({"modalities__vitals__length": 0}, "modalities.vitals.length: expected greater than or equal to 1, found 0"),
        (
            {"modalities__cells__length": LONGEST + 1},
            f"modalities.cells: length: expected at most {LONGEST} positions of an id, found {LONGEST + 1}",
        ),
        *(
            (
                {"modalities__vitals": {"kind": "sequence", "file": "v.csv", "time": "day", setting: value}},
                "modalities.vitals: time: expected a column that is no feature (a second one may hold the same "
                f"values), found 'day' in {setting}, too",
            )
            for setting, value in {
                "columns": ["hr", "day"],
                "kinds": {"day": "binary"},
                "vocabulary": {"day": [1, 2]},
            }.items()
        ),
        ({"modalities__cells__columns": ["cell", "area"]}, "modalities.cells: instance: expected a column that is no"),
        (
            {"modalities__vitals__valid": "x"},
            "modalities.vitals: valid: expected an NPZ or HDF5 file, found vitals.csv",
        ),
        ({"modalities__x": {"file": "x.npz"}}, "modalities.x: key: expected the name of an array of the NPZ file"),
        (
            {"modalities__x": {"kind": "sequence", "file": "x.npz", "key": "x", "time": "t"}},
            "modalities.x: time: expected none of an NPZ array, whose second axis says it",
        ),
        ({"targets__tasks__alarm": {"kind": "regression"}}, "tasks.alarm: column: expected a value, found none"),
        ({"targets__tasks__died__time": "day"}, "targets.tasks.died: time: expected none of a task without steps"),
        (
            {"targets__tasks__alarm": {**ALARM, "steps": []}},
            "tasks.alarm: steps: expected different sequences, one at least, found []",
        ),
        (
            {"targets__tasks__alarm": {**ALARM, "steps": ["vital"]}},
            "targets.tasks.alarm.steps: expected modalities of kind sequence, found 'vital' (did you mean 'vitals'?)",
        ),
        (
            {"targets__tasks__alarm": {**ALARM, "steps": ["cells"]}},
            "targets.tasks.alarm.steps: expected modalities of kind sequence, found 'cells'",
        ),
        ({"targets__file": None}, "targets: file: expected the table of task 'died', which has no steps, found none"),
        ({"targets": {"tasks": {"alarm": ALARM}, "id": "x"}}, "targets: id: expected none without a file, found 'x'"),
    ],
)
def test_bad_settings(files, setting, told):
    assert told in refusal(files, changed(**setting), ConfigError)


def two_sequences(**lengths):
    sequences = {
        name: {**TREE["modalities"]["vitals"], **({"length": lengths[name]} if name in lengths else {})}
        for name in ("a", "b", "c")
    }
    tasks = {"one": {**ALARM, "steps": ["a", "b"]}, "two": {**ALARM, "steps": ["c", "b"]}}
    return {"id": "pid", "targets": {"tasks": tasks}, "modalities": sequences}


def test_sequences_that_share_a_third_share_their_clock_and_length(files):
    config = config_of(files, two_sequences(c=4))
    assert [tuple(clock) for clock in config.clocks()] == [(("a", "b", "c"), ("one", "two"), 4)]
    dataset = read(files, two_sequences(c=4))
    assert {m.length for m in dataset.spec.modalities} == {4}
    assert dataset.spec.target_shape(dataset.spec.task("two")) == dataset.targets["two"].shape[1:] == (4,)
    told = "targets.tasks.one.steps: expected sequences of one length, found 3 of a, 4 of c"
    assert told in refusal(files, two_sequences(a=3, c=4), ConfigError)
