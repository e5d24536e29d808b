"""The data set of molecules against one that lies in memory unpacked: the same batches, statistics and notes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules_material import config, made, write_archive

from fusion_lab.contracts import Batch
from fusion_lab.data import portions
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.checks import check_dataset
from fusion_lab.data.molecules import load
from fusion_lab.data.molecules.dataset import MoleculeDataset
from fusion_lab.data.scaling import Scaler, ScalingConfig


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> MoleculeDataset:
    folder = tmp_path_factory.mktemp("molecules")
    of = made(50)
    of.table["w"] = np.linspace(0, 2, 50)
    write_archive(folder, of)
    return load(config(folder, weights={"w": ["glows"]}))


def unpacked(dataset: MoleculeDataset) -> ArrayDataset:
    batch = dataset.gather(torch.arange(len(dataset)))
    leaves = {part: getattr(batch, part) for part in Batch._fields if part != "weight"}
    return ArrayDataset.checked(spec=dataset.spec, ids=dataset.ids, provenance=dataset.provenance, **leaves)


@settings(max_examples=25)
@given(st.data(), st.sampled_from([(0,), (7,), (3, 5)]))
def test_rows_are_gathered_as_if_they_lay_unpacked(packed, data, shape):
    rows = st.integers(0, len(packed) - 1)
    size = int(np.prod(shape))
    index = torch.tensor(data.draw(st.lists(rows, min_size=size, max_size=size)), dtype=torch.int64).reshape(shape)
    ours, theirs = packed.gather(index), unpacked(packed).gather(index)
    for name, one, other in zip(Batch._fields, ours, theirs, strict=True):
        pairs = [(one, other)] if name == "weight" else [(one[key], other[key]) for key in {*one, *other}]
        for leaf, expected in pairs:
            assert torch.equal(leaf, expected) and leaf.dtype == expected.dtype, name
            assert leaf.is_contiguous(), name


def test_it_takes_a_fraction_of_the_memory(packed):
    whole = unpacked(packed)
    leaves = (leaf for part in (whole.inputs, whole.observed, whole.valid) for leaf in part.values())
    assert packed.nbytes < sum(leaf.nbytes for leaf in leaves) / 2


@pytest.mark.parametrize("cells", [1, 500, 2000, 10**9])
@pytest.mark.parametrize("method", ["standard", "robust"])
def test_statistics_do_not_depend_on_how_much_is_laid_out_at_once(packed, monkeypatch, cells, method):
    marks = np.random.default_rng(0).random((3, len(packed))) < 0.6
    scaling = ScalingConfig(method=method, impute="median" if method == "robust" else "mean")
    whole = Scaler.fit(packed, marks, scaling).state()
    monkeypatch.setattr(portions, "CELLS", cells)
    monkeypatch.setattr("fusion_lab.data.scaling.CELLS", cells)
    for name, statistic in Scaler.fit(packed, marks, scaling).state().items():
        torch.testing.assert_close(statistic, whole[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("cells", [1, 2000])
def test_notes_do_not_depend_on_how_much_is_laid_out_at_once(packed, monkeypatch, cells):
    whole = check_dataset(packed, leakage_auroc=0.6)
    assert any("alone tells" in note for note in whole)
    assert whole == check_dataset(unpacked(packed), leakage_auroc=0.6)
    monkeypatch.setattr(portions, "CELLS", cells)
    assert whole == check_dataset(packed, leakage_auroc=0.6)


def test_bits_are_left_as_they_are(packed):
    rows = torch.arange(len(packed))
    batch = packed.gather(rows)
    scaled = Scaler.fit(packed, np.ones((1, len(packed)), bool)).fold(0)(batch)
    assert torch.equal(scaled.inputs["fingerprint"], batch.inputs["fingerprint"])
