"""The domain of molecules: rows are what was written, whatever form it has; joins, groups, samples, new molecules."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules_material import TASKS, config, frames_of, made, notes, refusal, write_archive, write_tables

from fusion_lab.cli import main
from fusion_lab.data.molecules import MoleculesConfig, load, records, spec
from fusion_lab.data.molecules.chemistry import FeaturiseConfig
from fusion_lab.data.raw import Encoded, encode
from fusion_lab.data.readers import file_sha256
from fusion_lab.data.splits import FoldsConfig, make_folds


def everything(dataset):
    return dataset.gather(torch.arange(len(dataset)))


def assert_is(dataset, of, bits=True):
    """The rows of the data set are the molecules."""
    batch = everything(dataset)
    assert dataset.ids.tolist() == of.ids
    np.testing.assert_array_equal(batch.inputs["descriptors"], of.vectors)
    if bits:
        np.testing.assert_array_equal(batch.inputs["fingerprint"], of.bits)
    assert batch.valid["conformers"].sum(1).tolist() == list(map(len, of.bags))
    for row, bag in enumerate(of.bags):
        np.testing.assert_array_equal(batch.inputs["conformers"][row, : len(bag)], bag)
        assert not batch.inputs["conformers"][row, len(bag) :].any()
    for task in TASKS:
        known = of.table[task].notna().to_numpy()
        np.testing.assert_array_equal(batch.known[task], known)
        np.testing.assert_array_equal(batch.targets[task], of.table[task].fillna(0).astype(float))


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 50), st.floats(0, 0.5), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_what_is_written_is_what_is_gathered(rows, unknown, largest, seed, archive):
    of = made(rows, unknown, largest=largest, seed=seed)
    with TemporaryDirectory() as folder:
        (write_archive if archive else write_tables)(Path(folder), of)
        assert_is(load(config(folder)), of, bits=archive)


def test_tables_are_the_same_as_parquet(tmp_path):
    of = write_tables(tmp_path, ending=".parquet")
    assert_is(load(config(tmp_path)), of, bits=False)


def test_features_are_named_and_bits_are_not_scaled(tmp_path):
    write_archive(tmp_path)
    made_spec = spec(config(tmp_path))
    assert {f.kind for f in made_spec.modality("fingerprint").features} == {"binary"}
    assert {f.kind for m in ("descriptors", "conformers") for f in made_spec.modality(m).features} == {"numeric"}
    assert made_spec.modality("conformers").place == "conformer"
    assert [task.name for task in made_spec.tasks] == list(TASKS)
    write_archive(tmp_path, desc2d_names=np.array(["mass", "logP", "rings"]))
    assert [f.name for f in spec(config(tmp_path)).modality("descriptors").features] == ["mass", "logP", "rings"]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["ok", "SUCCESS", "1", "True", "failed", "2", None]))
def test_conformers_are_joined_as_pandas_joins_them(seed, status):
    """Lines repeated, left out, refused by status or error, in any order; conformers sorted by number."""
    rng = np.random.default_rng(seed)
    of = made(25, largest=12, seed=seed)
    frames = frames_of(of)
    geometry = frames["feat3d_scaled"].sample(frac=1.2, replace=True, random_state=seed)
    quantum = frames["feat3d_qm_scaled"].sample(frac=1.2, replace=True, random_state=seed + 1)
    quantum["q0"] += rng.normal(size=len(quantum))
    quantum["status"] = np.where(rng.random(len(quantum)) < 0.3, status, "ok")
    quantum["error"] = np.where(rng.random(len(quantum)) < 0.1, "no convergence", None)
    with TemporaryDirectory() as folder:
        write_tables(Path(folder), of, feat3d_scaled=geometry, feat3d_qm_scaled=quantum)
        dataset = load(config(folder))
    usable = quantum["error"].isna() & (
        quantum["status"].isna() | quantum["status"].astype(str).str.lower().isin(["ok", "success", "0", "1", "true"])
    )
    keys = ["ID", "conf_id"]
    one = geometry.drop(columns="smiles").groupby(keys).mean()
    other = quantum[usable].drop(columns=["status", "error", "split", "record_index"]).groupby(keys).mean()
    joined = one[sorted(one)].join(other[sorted(other)], how="inner", validate="one_to_one").sort_index()
    bags = {str(name): bag.to_numpy() for name, bag in joined.groupby(level="ID")}
    batch = everything(dataset)
    assert [f.name for f in dataset.spec.modality("conformers").features] == list(joined.columns)
    for row, name in enumerate(dataset.ids):
        there = batch.valid["conformers"][row]
        expected = bags.get(name, np.zeros((0, joined.shape[1])))
        np.testing.assert_allclose(batch.inputs["conformers"][row][there], expected, rtol=1e-5, atol=1e-6)


def test_joins_are_told(tmp_path):
    of = made(30)
    frames = frames_of(of)
    geometry, quantum = frames["feat3d_scaled"].iloc[2:], frames["feat3d_qm_scaled"].iloc[:-3]
    quantum = pd.concat([quantum, quantum.iloc[5:7]])
    quantum.loc[quantum.index == 8, "status"] = "failed"
    strange = geometry.iloc[:2].assign(ID=999_999)
    write_tables(tmp_path, of, feat3d_scaled=pd.concat([geometry, strange]), feat3d_qm_scaled=quantum)
    told = notes(tmp_path)
    assert "feat3d_qm_scaled.csv: 1 of" in told and "lines left out: an error, or a status other than ok" in told
    assert "feat3d_qm_scaled.csv: 2 lines repeat ID and conf_id: means of 2 are taken" in told
    assert "only in one of them: 6, 2" in told  # 3 cut off, 1 failed and 2 strange; 2 cut off


def test_conformers_of_unknown_molecules_are_counted_and_left_out(tmp_path):
    of = made(30)
    write_archive(tmp_path, of)
    of.table.iloc[5:].to_csv(tmp_path / "compounds.csv", index=False)
    lost = sum(len(bag) for bag in of.bags[:5])
    assert f"conformers: {lost} conformers of 5 molecules left out: not in compounds.csv" in notes(tmp_path)
    assert load(config(tmp_path)).ids.tolist() == of.ids[5:]


@pytest.mark.parametrize("rows", ["with_features", "all"])
def test_rows_are_the_molecules_with_features_or_all(tmp_path, rows):
    of = made(40)
    write_archive(tmp_path, of)
    more = of.table.assign(ID=of.table["ID"] + 10_000, SMILES="N" + of.table["SMILES"])
    pd.concat([of.table, more]).to_csv(tmp_path / "compounds.csv", index=False)
    dataset = load(config(tmp_path, rows=rows))
    assert len(dataset) == (40 if rows == "with_features" else 80)
    valid = everything(dataset).valid["fingerprint"]
    assert valid.tolist() == [True] * 40 + [False] * (len(dataset) - 40)
    told = "40 of 80 molecules " + ("are rows" if rows == "with_features" else "have no features")
    assert told in "\n".join(dataset.provenance.notes)


def test_some_modalities_only(tmp_path):
    write_archive(tmp_path)
    assert [m.name for m in spec(config(tmp_path, modalities=["conformers", "descriptors"])).modalities] == [
        "descriptors",
        "conformers",
    ]


@pytest.mark.parametrize("archive", [True, False])
def test_sources_are_the_files_that_were_read(tmp_path, archive):
    (write_archive if archive else write_tables)(tmp_path)
    sources = {s.name: s.sha256 for s in load(config(tmp_path)).provenance.sources}
    assert sources == {path.name: file_sha256(path) for path in tmp_path.iterdir()}


def test_a_sample_keeps_groups_whole_and_shares_of_labels(tmp_path):
    of = made(400, groups=100)
    write_archive(tmp_path, of)
    whole, part = load(config(tmp_path)), load(config(tmp_path, sample=100))
    assert whole.group is not None and part.group is not None
    assert abs(len(part) - 100) <= 4  # as whole groups of four allow
    assert len(part) == np.isin(whole.group, part.group).sum()
    for task in TASKS:
        share = [float(d.targets[task].sum() / len(d)) for d in (part, whole)]
        assert share[0] == pytest.approx(share[1], abs=0.03)
    (told,) = [note for note in part.provenance.notes if "subsample" in note]
    assert f"{len(part)} of 400" in told
    again, other = load(config(tmp_path, sample=100)), load(config(tmp_path, sample=100, sample_seed=1))
    assert again.ids.tolist() == part.ids.tolist() != other.ids.tolist()


def test_new_molecules_are_read_as_a_model_takes_them(tmp_path):
    of = write_archive(tmp_path)
    trained = load(config(tmp_path))
    for name in ("compounds.csv",):
        (tmp_path / name).unlink()
    new = records(config(tmp_path), labelled=False, spec=trained.spec)
    assert new.ids.tolist() == of.ids
    batch = everything(trained)
    for modality in trained.spec.modalities:
        encoded = encode(modality, new.modalities[modality.name], strict=True)
        for part in Encoded._fields:
            assert torch.equal(torch.from_numpy(getattr(encoded, part)), getattr(batch, part)[modality.name])


def test_a_model_of_descriptors_leaves_the_rest_of_new_molecules(tmp_path):
    write_archive(tmp_path)
    trained = spec(config(tmp_path, modalities=["descriptors"]))
    assert set(records(config(tmp_path), labelled=False, spec=trained).modalities) == {"descriptors"}


def test_taking_rows_takes_all_that_belongs_to_them(tmp_path):
    of = made(40)
    of.table["weight"] = np.arange(40) / 10
    write_archive(tmp_path, of)
    dataset = load(config(tmp_path, weights={"weight": ["glows"]}))
    rows = np.array([7, 3, 3 + 20])
    taken, batch = everything(dataset.take(rows)), dataset.gather(torch.from_numpy(rows))
    for one, other in zip(taken, batch, strict=True):
        if isinstance(one, dict):
            assert all(torch.equal(leaf, other[name]) for name, leaf in one.items())
    np.testing.assert_allclose(taken.emphasis["glows"], rows / 10)


def test_given_folds_and_a_locked_part_split_as_the_file_says(tmp_path):
    of = made(60)
    of.table["cv_fold"] = np.arange(60) % 3
    of.table["split"] = np.where(np.arange(60) < 50, "train", "leaderboard")
    of.table.loc[50:, "cv_fold"] = pd.NA
    write_archive(tmp_path, of)
    dataset = load(config(tmp_path, group=""))
    folds = make_folds(FoldsConfig(protocol="given_folds"), dataset)
    np.testing.assert_array_equal(folds.holdout, np.arange(60) >= 50)
    for k in range(3):
        np.testing.assert_array_equal(folds.test[k], (np.arange(60) < 50) & (np.arange(60) % 3 == k))


@pytest.mark.parametrize("write", [write_archive, write_tables])
def test_features_are_not_found_by_the_numbers_of_rows(tmp_path, write):
    """A row's number may be the id of another molecule."""
    of = write(tmp_path, made(20))
    (file,) = {"compounds.csv", "labels.csv"} & {path.name for path in tmp_path.iterdir()}
    of.table.drop(columns="ID").to_csv(tmp_path / file, index=False)
    told = refusal(tmp_path)
    assert f"{file}: expected a column of the ids that the features have (ID, id, " in told
    assert "(name it with data.id)" in told


def test_several_sources_have_to_be_chosen_from(tmp_path):
    of = made()
    write_archive(tmp_path, of)
    write_tables(tmp_path, of)
    assert "choose with data.source" in refusal(tmp_path)
    told = refusal(tmp_path, source="archive")
    assert "labels.csv" in told and "compounds.csv" in told and "choose with data.labels" in told
    for source, bits in (("tables", False), ("archive", True)):
        assert_is(load(config(tmp_path, labels="labels.csv", source=source)), of, bits)


def test_one_table_of_conformers_is_enough(tmp_path):
    of = made()
    write_tables(tmp_path, of, feat2d_scaled=None, feat3d_qm_scaled=None)
    (modality,) = spec(config(tmp_path)).modalities
    assert (modality.name, [f.name for f in modality.features]) == ("conformers", ["g3", "g2", "g1", "g0"])


def test_columns_of_one_name_in_both_tables_are_told_apart(tmp_path):
    of = made()
    quantum = frames_of(of)["feat3d_qm_scaled"].rename(columns={"q0": "g0"})
    write_tables(tmp_path, of, feat3d_qm_scaled=quantum)
    names = [f.name for f in spec(config(tmp_path)).modality("conformers").features]
    assert names == ["g0", "g1", "g2", "g3", "g0 (qm)", "q1"]


def test_every_setting_is_told():
    page = (Path(__file__).parents[3] / "docs" / "molecules.md").read_text(encoding="utf-8")
    for name in MoleculesConfig.model_fields.keys() - {"domain", "root", "labels"}:
        assert f"`{name}`" in page or f"`{name}: " in page or f"`data.{name}`" in page, name
    for name in FeaturiseConfig.model_fields:
        assert f"{name}: " in page, name


ARCHIVE = "conformer_bags.npz"
SPOILT = {
    "a damaged archive": (lambda folder: (folder / ARCHIVE).write_bytes(b"PK"), (ARCHIVE, "readable NPZ file")),
    "pickled objects": (
        lambda folder: write_archive(folder, ID=np.arange(60).astype(object)),
        (ARCHIVE, "array 'ID'", "never unpickled"),
    ),
    "a label of words": (
        lambda folder: spoil(folder, "glows", "maybe"),
        ("compounds.csv: line 5, column 'glows'", "expected 0, 1", "found 'maybe'"),
    ),
    "one scaffold": (
        lambda folder: spoil(folder, "scaffold_group", "c1ccccc1", slice(None)),
        ("at least 5 groups", "1"),
    ),
    "no features": (
        lambda folder: (folder / ARCHIVE).unlink(),
        ("expected features, feat2d_scaled", "conformer_bags.npz, found none"),
    ),
}


def spoil(folder, column, value, rows=3):
    frame = pd.read_csv(folder / "compounds.csv", dtype=object)
    frame.loc[rows, column] = value
    frame.to_csv(folder / "compounds.csv", index=False)


@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_trained_on_is_told_in_one_line_and_nothing_is_left(tmp_path, monkeypatch, capsys, case):
    """By the command line, before anything is written."""
    change, told = SPOILT[case]
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    write_archive(data)
    change(data)
    experiment = Path(__file__).parents[3] / "experiments" / "molecules.yaml"
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["train", "--experiment", str(experiment), "--data", str(data)]))
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    (line,) = err.splitlines()
    assert line.startswith("fusion-lab: error: ") and all(part in line for part in told), line
    assert not any(here.iterdir())
