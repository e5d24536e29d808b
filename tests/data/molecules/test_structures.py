"""Features and groups from structures, with a stand-in for RDKit: what fails is left out and told, or ends it all."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from molecules_material import TASKS, config, made, notes, refusal, write_archive

from fusion_lab.contracts import ConfigError
from fusion_lab.data.molecules import chemistry, load, records, structures
from fusion_lab.data.molecules.chemistry import FeaturiseConfig, Featurised

ROWS = 60
UNREADABLE = "?"


def stand_in(
    smiles: Sequence[str], config: FeaturiseConfig, cache: Path | None, tell: Callable[[str], None]
) -> Featurised:
    """The letters of each structure in place of its chemistry; what begins with "?" cannot be read."""
    failed = {row: "no structure" for row, text in enumerate(smiles) if text.startswith(UNREADABLE)}
    lengths = np.array([len(text) for text in smiles])
    counts = np.where(np.isin(np.arange(len(smiles)), list(failed)), 0, lengths % (config.conformers + 1))
    bits = (lengths[:, None] >> np.arange(config.bits)[None, :] % 16) & 1
    bits[list(failed)] = 0
    owner = np.repeat(lengths, counts)
    return Featurised(
        fingerprint=np.packbits(bits.astype(bool), axis=1),
        descriptors=np.stack([lengths, np.cos(lengths)], 1).astype(np.float32)[:, : 2 * config.descriptors],
        descriptor_names=("length", "wave") if config.descriptors else (),
        conformers=np.stack([owner, np.sin(np.arange(len(owner)))], 1).astype(np.float32),
        conformer_names=("size", "turn") if config.conformers else (),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        failed=failed,
        scaffold=np.array(["" if text.startswith("N") else f"ring {len(text) % 7}" for text in smiles]),
    )


@pytest.fixture(autouse=True)
def chemistry_without_rdkit(monkeypatch):
    monkeypatch.setattr(structures, "featurise", stand_in)


def write(folder, spoilt=()):
    table = made(ROWS).table
    table.loc[list(spoilt), "SMILES"] = UNREADABLE
    table.to_csv(folder / "compounds.csv", index=False)
    return table


def test_features_are_those_of_each_molecules_structure(tmp_path):
    table = write(tmp_path)
    dataset = load(config(tmp_path, featurise={"bits": 32, "conformers": 3}))
    alone = stand_in(table["SMILES"].tolist(), FeaturiseConfig(bits=32, conformers=3), None, lambda line: None)
    batch = dataset.gather(torch.arange(ROWS))
    np.testing.assert_array_equal(batch.inputs["fingerprint"], np.unpackbits(alone.fingerprint, axis=1))
    np.testing.assert_array_equal(batch.inputs["descriptors"], alone.descriptors)
    assert batch.valid["conformers"].sum(1).tolist() == np.diff(alone.offsets).tolist()
    np.testing.assert_array_equal(batch.inputs["conformers"][batch.valid["conformers"]], alone.conformers)
    assert [f.name for f in dataset.spec.modality("conformers").features] == ["size", "turn"]


@given(st.sets(st.integers(0, ROWS - 1), max_size=15))
def test_what_fails_is_left_out_and_the_rest_stays_what_it_is(tmp_path_factory, spoilt):
    folder = tmp_path_factory.mktemp("spoilt")
    table = write(folder, spoilt)
    settings = {"featurise": {"bits": 16, "conformers": 2}}
    dataset = load(config(folder, **settings, most_failed=0.5))
    kept = table.drop(index=list(spoilt))
    assert dataset.ids.tolist() == kept["ID"].astype(str).tolist()
    lengths = kept["SMILES"].str.len().to_numpy(copy=True)
    inputs = dataset.gather(torch.arange(len(dataset))).inputs
    assert inputs["descriptors"][:, 0].tolist() == lengths.tolist()
    assert (inputs["conformers"][..., 0] == torch.from_numpy(lengths)[:, None]).any(1).tolist() == (
        lengths % 3 > 0
    ).tolist()
    told = [note for note in dataset.provenance.notes if "cannot be read" in note]
    assert len(told) == bool(spoilt)
    if spoilt:
        assert told[0].startswith(f"{len(spoilt)} of {ROWS} structures cannot be read and are left out: ")
        assert told[0].count("(no structure)") == min(10, len(spoilt))
        assert f"{table['ID'][min(spoilt)]} (no structure)" in told[0]


def test_too_many_failures_end_it(tmp_path):
    write(tmp_path, range(4))
    told = refusal(tmp_path, featurise={})
    assert "compounds.csv: expected structures that can be read, all but 5% of 60 (data.most_failed), found 4" in told
    assert "7 (no structure), 10 (no structure)" in told
    assert "4 of 60 structures" in notes(tmp_path, featurise={}, most_failed=0.1)
    write(tmp_path, range(ROWS))
    told = refusal(tmp_path, featurise={}, most_failed=1.0)
    assert f"compounds.csv: expected structures that can be read, found {ROWS} that cannot: 7 (no structure)" in told


def test_groups_are_scaffolds_and_molecules_without_rings_are_alone(tmp_path):
    table = made(ROWS).table
    table.loc[::4, "SMILES"] = "N" + table["SMILES"]
    table.to_csv(tmp_path / "compounds.csv", index=False)
    write_archive_beside(tmp_path, table)
    rings = table["SMILES"].str.len() % 7
    expected = [
        f"without rings: {name}" if text.startswith("N") else f"ring {ring}"
        for name, text, ring in zip(table["ID"], table["SMILES"], rings, strict=True)
    ]
    for settings in ({"featurise": {}}, {"source": "archive"}):
        group = load(config(tmp_path, group="scaffold", **settings)).group
        assert group is not None and group.tolist() == expected
    part = load(config(tmp_path, group="scaffold", featurise={}, sample=30))
    by_id = dict(zip(table["ID"].astype(str), expected, strict=True))
    assert part.group is not None and part.group.tolist() == [by_id[name] for name in part.ids]
    assert len(part) == sum(group in set(part.group) for group in expected) < ROWS


def write_archive_beside(folder, table):
    write_archive(folder, made(ROWS))
    table.to_csv(folder / "compounds.csv", index=False)


def test_a_sample_is_drawn_before_anything_is_computed(tmp_path, monkeypatch):
    write(tmp_path)
    asked = []
    monkeypatch.setattr(
        structures, "featurise", lambda smiles, *rest: asked.append(len(smiles)) or stand_in(smiles, *rest)
    )
    dataset = load(config(tmp_path, featurise={}, sample=20, group=""))
    assert asked == [len(dataset)] and abs(len(dataset) - 20) <= 2


def test_new_structures_are_read_as_a_model_takes_them(tmp_path):
    table = write(tmp_path, [3])
    settings = config(tmp_path, featurise={"bits": 16})
    trained = load(settings)
    table.drop(columns=list(TASKS)).rename(columns={"SMILES": "smiles"}).to_csv(tmp_path / "compounds.csv", index=False)
    new = records(settings, labelled=False, spec=trained.spec)
    assert new.ids.tolist() == trained.ids.tolist()
    assert set(new.modalities) == {"fingerprint", "descriptors"}


def test_structures_are_needed(tmp_path):
    write(tmp_path).drop(columns="SMILES").to_csv(tmp_path / "compounds.csv", index=False)
    assert "expected a column of structures (SMILES, smiles, curated_SMILES), found" in refusal(tmp_path, featurise={})


def test_the_source_tells_what_was_computed(tmp_path):
    write(tmp_path)
    digests = {load(config(tmp_path, featurise={"bits": bits})).provenance.digest for bits in (16, 16, 32)}
    assert len(digests) == 2


def test_without_rdkit_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(structures, "featurise", chemistry.featurise)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ConfigError, match=r"needs RDKit: pip install 'fusion-lab\[chem\]'"):
        load(config(tmp_path, featurise={}))


def test_what_is_computed_is_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert structures.cache_folder().is_relative_to(tmp_path)


def test_real_structures_give_features(tmp_path, monkeypatch):
    pytest.importorskip("rdkit")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(structures, "featurise", chemistry.featurise)
    texts = ["c1ccccc1O", "CCO", "c1ccccc1N", "CC(=O)O", "C1CCCCC1", "CCN"] * 4
    frame = pd.DataFrame({"SMILES": texts, "toxic": np.arange(len(texts)) // 6 % 2})
    frame.to_csv(tmp_path / "compounds.csv", index=False)
    dataset = load(config(tmp_path, featurise={"conformers": 2}, group="scaffold"))
    assert len(dataset) == len(texts)
    assert dataset.group is not None and dataset.group[0] == dataset.group[2] != dataset.group[4]
    assert dataset.gather(torch.arange(6)).valid["conformers"].any(1).all()
