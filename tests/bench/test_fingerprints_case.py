"""The fingerprints case: molecules that RDKit reads, and the product makes of them what RDKit's own functions do."""

import json

import numpy as np
import pytest
from fingerprints_case import MOST, by_rdkit, described, difference, measure, molecules
from rdkit import Chem
from results import APART, RDKIT, described_too_differently
from settings import FINGERPRINTS, MOLECULES
from test_bench import bench

FEW = 20


def test_all_molecules_are_read_and_different():
    made = molecules(MOST)
    assert len({Chem.MolToSmiles(Chem.MolFromSmiles(text)) for text in made}) == MOST >= MOLECULES


def test_the_product_and_rdkit_make_the_same():
    smiles = molecules(MOST)[::50]
    assert difference(described(smiles), by_rdkit(smiles)) <= APART


@pytest.mark.parametrize("what", [0, 1, 2])
def test_a_single_value_that_differs_is_told(what):
    smiles = molecules(FEW)
    theirs = by_rdkit(smiles)
    if what == 2:
        theirs[2][-1] = "C1CC1"
    else:
        theirs[what][-1, -1] += 1
    found = {"difference": difference(described(smiles), theirs)}
    assert found["difference"] > APART and len(described_too_differently(found)) == 1


@pytest.mark.slow
def test_every_contender_is_timed_in_every_round():
    found = measure(FEW, rounds=2)
    assert found["rows"] == FEW and found["difference"] <= APART and RDKIT in found["readers"]
    for of in found["readers"].values():
        assert len(of["rounds"]) == 2 and np.all([one["wall"] > 0 for one in (of["cold"], *of["rounds"])])


@pytest.mark.slow
def test_the_benchmark_describes_without_training(tmp_path):
    done = bench(tmp_path, "--case", FINGERPRINTS, "--quick", "--output", "quick.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "quick.json").read_text())
    assert found["equal"] and "by_width" not in found
    assert all(RDKIT in against for against in found[FINGERPRINTS]["ratios"].values())
    assert f"{RDKIT} " in done.stdout and done.stderr == ""
