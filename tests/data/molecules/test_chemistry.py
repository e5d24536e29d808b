"""Molecules from SMILES: published values come back, nothing depends on how the work was shared out, and no molecule
takes others with it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDLogger
from rdkit.Chem import QED, AllChem, Descriptors, rdMolDescriptors
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.molecules import chemistry, chemistry_chunk, chemistry_workers
from fusion_lab.data.molecules.chemistry import FeaturiseConfig, Featurised, featurise

BITS = 1024
CONFORMERS = FeaturiseConfig(conformers=3)


class Known(NamedTuple):
    """A molecule of EUOS25 (EU-OPENSCREEN, SLAS, OCHEM) with its published features: the bits that are set in its
    Morgan fingerprint of radius 2 and 1024 bits, and its 16 descriptors.
    """

    smiles: str
    bits: str
    descriptors: str


PUBLISHED = (
    Known(
        "O=C(CC[C@H]1CCCO1)N1CC(=O)NC2=CC=CC=C12",
        "4 36 64 80 90 175 248 271 301 305 314 356 361 363 367 444 446 540 546 551 565 622 623 650 656 726 "
        "729 749 768 802 807 821 832 849 893 922 926 935 950 958 961 977 1003 1009 1019",
        "274.320007 1.93089998 58.6399994 1 3 3 3 1 0.466666669 5 106 117.450508 0 2 523.604858 0.915907741",
    ),
    Known(
        "CC1=CC=C(C=C1C(N)=O)S(=O)(=O)NC[C@H]1CCOC1",
        "29 33 80 110 128 140 147 180 192 198 232 301 309 317 319 350 356 367 373 422 452 502 523 580 602 650 "
        "656 667 698 715 716 726 747 807 849 875 888 893 899 926 927 950 967 983 1019",
        "298.364014 0.408719987 98.4899979 1 2 5 4 2 0.461538464 7 110 117.905762 0 1 606.797241 0.822134316",
    ),
    Known(
        "CCCCNC1=NN=C(CS1)C1=CC=C2OCOC2=C1",
        "11 33 80 113 128 136 152 157 160 270 294 325 356 378 392 408 438 441 591 616 623 656 667 675 710 721 "
        "726 738 746 776 794 831 839 849 859 875 881 887 895 896 926 948 991",
        "291.376007 2.61190009 55.2099991 1 3 4 6 1 0.428571433 6 106 122.000122 0 0 557.350037 0.86643064",
    ),
    Known(
        "COC1=CC=C(Cl)C=C1NC(=O)C1=CC=C(NC(C)=O)C=C1",
        "33 34 53 94 99 128 165 191 200 216 245 249 356 361 486 512 530 561 641 650 659 673 695 726 771 792 "
        "807 816 841 843 849 875 893 946 947 1006 1017",
        "318.76001 3.55929995 67.4300003 2 2 4 3 2 0.125 6 114 132.787842 0 2 699.03717 0.90539813",
    ),
    Known(
        "Cl.CC1CN(CC(O)COC2=C(C)C=CC=C2C)CC(C)O1",
        "1 15 33 64 80 118 135 206 227 285 333 356 367 418 428 514 541 597 603 656 658 695 698 726 737 739 "
        "765 767 807 849 860 897 898 926 928 935 975 1014 1019",
        "329.868011 2.57414007 41.9300003 1 2 5 4 1 0.647058845 5 126 139.374191 0 0 438.967316 0.901248217",
    ),
    Known(
        "NC1=CC=C(Br)C2=C1C(=O)NC2",
        "90 147 201 250 264 267 314 322 343 356 361 433 484 607 630 633 650 723 726 728 768 833 842 849 895 910 926",
        "227.061005 1.27470005 55.1199989 1 2 0 2 2 0.125 4 62 78.0742798 0 1 362.320648 0.655546665",
    ),
    Known(
        "COC1=CC=C(C=C1N)S(=O)(=O)NC1=CC=CC=C1Cl",
        "4 16 33 64 84 94 128 147 175 198 200 246 249 260 319 350 356 366 433 452 502 512 561 650 659 672 695 "
        "715 726 732 766 823 841 849 875 910 946 974",
        "312.778015 2.73160005 81.4199982 2 2 4 4 2 0.0769230798 7 106 121.920776 0 0 732.146179 0.850510895",
    ),
    Known(
        "FC1=CC(Br)=CC=C1CCC(=O)NC[C@H]1CCCO1",
        "4 41 80 128 133 197 219 239 246 248 301 325 356 361 367 444 540 565 569 580 607 650 656 671 696 697 "
        "699 717 718 726 728 766 802 807 816 821 849 875 884 893 904 909 926 950 1019",
        "330.196991 2.81599998 38.3300018 1 2 5 2 1 0.5 5 104 120.203125 0 1 447.072144 0.901600063",
    ),
    Known(
        "CCCCS(=O)(=O)NC1=CC=CC=C1I",
        "33 50 64 80 128 169 175 176 200 234 246 294 350 356 413 452 479 481 544 582 591 650 661 672 726 794 "
        "806 849 887 947",
        "339.197998 2.83299994 46.1699982 1 1 5 2 1 0.400000006 5 84 104.463646 0 0 417.185486 0.838856936",
    ),
)

RIGID = "NC1=CC=C(Br)C2=C1C(=O)NC2"
PUBLISHED_CONFORMER = {
    "USRCAT_0": 2.49431,
    "PMI1": 379.143,
    "PMI2": 1137.96,
    "PMI3": 1511.35,
    "NPR1": 0.250864,
    "NPR2": 0.752943,
    "RadiusOfGyration": 2.5824,
    "MMFFEnergy": 0,
}
FLEXIBLE = "CCCCCCOCC(N)CCCCOC(=O)CCCC"
NOT_EMBEDDABLE = "F[C@]12CC[C@@](F)(C1)C2"
NOT_IN_MMFF = "CC.F[P-](F)(F)(F)(F)F"
"""Whose conformers cannot be relaxed."""
ODD = (
    "[Na+]",
    "[H][H]",
    "[2H]C([2H])Cl",
    "*C*",
    "CCO.[Na+]",
    "[O-][N+](=O)c1ccccc1I",
    "C[Hg]C",
    "B12B3B1B23",
    "[C-]#[O+]",
)
WRONG = {
    "C1CC": "unclosed ring",
    "CC(": "syntax error around position 3",
    "c1cccc1": "Can't kekulize mol. Unkekulized atoms: 0 1 2 3 4",
    "C(C)(C)(C)(C)C": "Explicit valence for atom # 0 C, 5, is greater than permitted",
    "not a molecule": None,
    "": "no SMILES",
    "  ": "no SMILES",
    None: "no SMILES",
    float("nan"): "no SMILES",
    "C" * 2_000: "expected at most 1,000 heavy atoms, found 2,000",
}
"""What RDKit says against them."""
MOLECULES = tuple(known.smiles for known in PUBLISHED)


def quiet(line: str) -> None:
    pass


def made(smiles, config=FeaturiseConfig(), cache=None, tell=quiet) -> Featurised:  # noqa: B008 - it is frozen
    return featurise(smiles, config, cache, tell)


def same(one: Featurised, other: Featurised) -> bool:
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(one, other, strict=True))


def bag(of: Featurised, row: int) -> np.ndarray:
    return of.conformers[of.offsets[row] : of.offsets[row + 1]]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chemistry, "MOLECULES_AT_ONCE", 2)
    monkeypatch.setattr(chemistry, "MOLECULES_AT_ONCE_WITH_CONFORMERS", 2)
    monkeypatch.setattr(chemistry, "FEWEST_FOR_PROCESSES", 1)


@pytest.fixture
def chunks_described(monkeypatch) -> list[list[str]]:
    """The chunks that are computed from here on, in this process."""
    described = []
    describe = chemistry_chunk.describe

    def noted(smiles, **options):
        described.append(list(smiles))
        return describe(smiles, **options)

    monkeypatch.setattr(chemistry_chunk, "describe", noted)
    return described


@pytest.mark.parametrize("known", PUBLISHED, ids=lambda known: known.smiles)
def test_published_features_come_back(known):
    found = made([known.smiles])
    assert found.fingerprint.dtype == np.uint8 and found.descriptors.dtype == np.float32
    assert np.flatnonzero(np.unpackbits(found.fingerprint[0])).tolist() == list(map(int, known.bits.split()))
    np.testing.assert_allclose(found.descriptors[0], list(map(float, known.descriptors.split())), rtol=1e-6)


def test_published_conformer_of_a_rigid_molecule_comes_back():
    """Embedded from the seed that its publishers took, RDKit's 20."""
    found = made([RIGID], FeaturiseConfig(conformers=8, seed=19))
    (values,) = found.conformers[:, [found.conformer_names.index(name) for name in PUBLISHED_CONFORMER]]
    np.testing.assert_allclose(values, list(PUBLISHED_CONFORMER.values()), rtol=1e-3)


@pytest.mark.parametrize("smiles", [*MOLECULES, *ODD])
def test_descriptors_are_those_of_rdkits_own_functions(smiles):
    found = made([smiles])
    molecule = Chem.MolFromSmiles(smiles)
    theirs = dict(Descriptors.descList) | {"QED": QED.qed}
    expected = [theirs[name](molecule) for name in found.descriptor_names]
    np.testing.assert_allclose(found.descriptors[0], expected, rtol=1e-6)
    assert found.scaffold[0] == MurckoScaffoldSmiles(smiles)


def test_complexity_and_drug_likeness_are_rdkits_on_molecules_full_of_alerts():
    """On QED's structural alerts that are molecules themselves, alone and two at a time."""
    RDLogger.DisableLog("rdApp.*")
    alone = [text for text in QED.StructuralAlertSmarts if Chem.MolFromSmiles(text)]
    RDLogger.EnableLog("rdApp.error")
    assert len(alone) > 30
    smiles = [*alone, *(f"{a}.{b}" for a, b in zip(alone, alone[1:], strict=False)), "C1CC1->[Pt]", *ODD, *MOLECULES]
    read = [Chem.MolFromSmiles(text) for text in smiles]
    found = made(smiles)
    for name, theirs in {"QED": QED.qed, "BertzCT": Descriptors.BertzCT}.items():
        values = found.descriptors[:, found.descriptor_names.index(name)]
        np.testing.assert_allclose(values, [theirs(molecule) for molecule in read], rtol=1e-6, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("radius", "bits"), [(0, 8), (1, 64), (3, 2048)])
def test_fingerprints_are_packed_as_numpy_packs(radius, bits):
    found = made(MOLECULES, FeaturiseConfig(radius=radius, bits=bits, descriptors=False))
    assert found.descriptors.shape == (len(MOLECULES), 0) and found.descriptor_names == ()
    generator = AllChem.GetMorganGenerator(radius=radius, fpSize=bits)
    expected = [list(generator.GetFingerprint(Chem.MolFromSmiles(text))) for text in MOLECULES]
    np.testing.assert_array_equal(np.unpackbits(found.fingerprint, axis=1), expected)


def test_a_molecule_without_rings_has_no_scaffold():
    assert made(["CCO", "CCc1ccccc1"]).scaffold.tolist() == ["", "c1ccccc1"]


def test_scaffolds_know_no_stereo():
    one, other = made(["C[C@H]1CCC[C@@H](C1)c1ccccc1", "C[C@@H]1CCC[C@@H](C1)c1ccccc1"]).scaffold
    assert one == other != ""


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([*MOLECULES[:4], *WRONG, *ODD]), max_size=8))
def test_every_row_is_what_it_is_alone(smiles):
    together, alone = made(smiles), [made([text]) for text in smiles]
    assert len(together.scaffold) == len(together.fingerprint) == len(together.offsets) - 1 == len(smiles)
    for row, of in enumerate(alone):
        np.testing.assert_array_equal(together.fingerprint[row], of.fingerprint[0])
        np.testing.assert_array_equal(together.descriptors[row], of.descriptors[0])
        assert together.failed.get(row) == of.failed.get(0) and together.scaffold[row] == of.scaffold[0]


@pytest.mark.parametrize("text", WRONG, ids=lambda text: str(text)[:20])
def test_what_is_no_molecule_fails_in_one_line_and_nothing_is_printed(text, capfd):
    found = made([text, "CCO"], CONFORMERS)
    assert list(found.failed) == [0] and found.failed[0] and len(found.failed[0].splitlines()) == 1
    assert WRONG[text] in (None, found.failed[0])
    assert not found.fingerprint[0].any() and not found.descriptors[0].any() and found.scaffold[0] == ""
    assert found.offsets[1] == 0 and found.fingerprint[1].any() and not found.faults
    assert capfd.readouterr() == ("", "")


@settings(max_examples=150, deadline=None)
@given(st.text(st.one_of(st.sampled_from("CNOcno123()[]=#+-.%/\\@H"), st.characters()), max_size=20))
def test_any_text_is_a_molecule_or_fails_with_a_reason(text):
    found = made([text])
    reason = found.failed.get(0)
    assert found.fingerprint.any() if reason is None else reason and len(reason.splitlines()) == 1
    assert np.isfinite(found.descriptors).all()


def test_no_molecules_give_no_rows(tmp_path):
    found = made([], CONFORMERS, tmp_path)
    assert found.fingerprint.shape == (0, BITS // 8) and found.offsets.tolist() == [0] and found.scaffold.shape == (0,)
    assert found.conformers.shape == (0, len(found.conformer_names)) and same(found, made([], CONFORMERS, tmp_path))


def plain_bag(smiles: str, most: int, seed: int) -> np.ndarray:
    """As RDKit's documentation has it."""
    molecule = Chem.MolFromSmiles(smiles)
    whole = Chem.AddHs(molecule)
    settings = AllChem.ETKDGv3()
    settings.randomSeed, settings.pruneRmsThresh = seed + 1, 0.3
    AllChem.EmbedMultipleConfs(whole, min(most, 1 + Descriptors.NumRotatableBonds(molecule)), settings)
    energies = np.array([energy for _, energy in AllChem.MMFFOptimizeMoleculeConfs(whole, maxIters=50)])
    shapes = ("PMI1", "PMI2", "PMI3", "NPR1", "NPR2", "Asphericity", "Eccentricity", "InertialShapeFactor")
    shapes += ("RadiusOfGyration", "SpherocityIndex", "PBF")
    rows = [
        [
            *rdMolDescriptors.GetUSRCAT(whole, confId=of.GetId()),
            *(getattr(rdMolDescriptors, f"Calc{name}")(whole, confId=of.GetId()) for name in shapes),
        ]
        for of in whole.GetConformers()
    ]
    return np.column_stack([rows, np.minimum(energies - energies.min(), 1000)])


def test_bags_are_what_rdkit_makes_one_molecule_at_a_time():
    chosen = [RIGID, "CCOC(=O)CN", FLEXIBLE]
    found = made(chosen, FeaturiseConfig(conformers=4, seed=7))
    assert found.conformers.dtype == np.float32
    for row, smiles in enumerate(chosen):
        np.testing.assert_allclose(bag(found, row), plain_bag(smiles, 4, 7), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_bag_holds_no_more_than_asked_and_than_bonds_rotate(most):
    found = made([RIGID, "CCOC", FLEXIBLE], FeaturiseConfig(conformers=most, descriptors=False))
    rotatable = [0, 1, Descriptors.NumRotatableBonds(Chem.MolFromSmiles(FLEXIBLE))]
    sizes = np.diff(found.offsets)
    assert (sizes >= 1).all() and (sizes <= np.minimum(most, 1 + np.array(rotatable))).all()
    assert sizes[-1] == most
    for row in range(len(sizes)):
        energy = bag(found, row)[:, found.conformer_names.index("MMFFEnergy")]
        assert energy.min() == 0 and energy.max() <= chemistry_chunk.HIGHEST_ENERGY


@pytest.mark.parametrize("seed", [0, 1])
def test_conformers_of_a_bag_differ_whatever_the_seed(seed):
    conformers = made([FLEXIBLE], FeaturiseConfig(conformers=4, seed=seed)).conformers
    assert len(np.unique(conformers, axis=0)) == 4


def test_embedding_is_a_function_of_the_seed():
    one, again, other = (made([FLEXIBLE], FeaturiseConfig(conformers=2, seed=seed)).conformers for seed in (3, 3, 4))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("smiles", "fault", "size"),
    [
        (NOT_EMBEDDABLE, chemistry_chunk.NOT_EMBEDDED, 0),
        ("[Na+]", chemistry_chunk.TOO_FEW_ATOMS, 0),
        (NOT_IN_MMFF, chemistry_chunk.NOT_RELAXED, 1),
    ],
)
def test_a_molecule_whose_conformers_fail_is_kept_and_counted(smiles, fault, size):
    told = []
    found = made(["CCO", smiles, "CCO", smiles], CONFORMERS, tell=told.append)
    assert found.faults == {1: fault, 3: fault} and not found.failed
    assert np.diff(found.offsets).tolist() == [1, size, 1, size] and found.fingerprint[1].any()
    assert not bag(found, 1)[:, -1].any()
    assert told[-1] == f"conformers of 2 of 4 molecules: {fault}"


def test_conformers_without_finite_values_are_left_out(monkeypatch):
    monkeypatch.setitem(chemistry_chunk.SHAPES, "PBF", lambda whole, confId: float("nan") if confId else 1.0)  # noqa: N803
    found = made([FLEXIBLE], CONFORMERS)
    assert np.isfinite(found.conformers).all() and len(found.conformers) == 1 and found.conformers[0, -1] == 0
    assert found.faults == {0: chemistry_chunk.NOT_FINITE}


@pytest.mark.parametrize("config", [FeaturiseConfig(), FeaturiseConfig(conformers=2)])
def test_sharing_the_work_out_changes_nothing(config, small_chunks, monkeypatch, tmp_path):
    smiles = [*MOLECULES[:3], "C1CC", "CCO", NOT_IN_MMFF, None]
    shared = made(smiles, config.model_copy(update={"processes": 3}))
    kept = made(smiles, config.model_copy(update={"processes": 2}), tmp_path)
    here = made(smiles, config.model_copy(update={"processes": 1}))
    monkeypatch.undo()
    whole = made(smiles, config.model_copy(update={"processes": 1}))
    assert whole.failed and same(shared, whole) and same(kept, whole) and same(here, whole)
    assert same(made(smiles, config, tmp_path), whole)


def test_few_molecules_are_described_without_processes(monkeypatch, chunks_described):
    monkeypatch.setattr(chemistry_workers, "_Worker", None)
    made(MOLECULES, FeaturiseConfig(processes=4))
    assert chunks_described == [list(MOLECULES)]


def test_what_was_computed_is_read_back(tmp_path, chunks_described):
    first = made(MOLECULES, cache=tmp_path)
    assert same(first, made(MOLECULES, cache=tmp_path)) and len(chunks_described) == 1
    assert {file.suffix for file in tmp_path.iterdir()} == {".npz"}


@pytest.mark.parametrize(
    "change",
    [{"radius": 1}, {"bits": 512}, {"descriptors": False}, {"conformers": 1}, {"seed": 1}, {"smiles": MOLECULES[::-1]}],
)
def test_other_settings_or_molecules_are_computed(change, tmp_path, chunks_described):
    made(MOLECULES, cache=tmp_path)
    smiles = change.pop("smiles", MOLECULES)
    config = FeaturiseConfig(**change)
    assert same(made(smiles, config, tmp_path), made(smiles, config)) and len(chunks_described) == 3


@pytest.mark.parametrize("other", ["VERSION", "rdkitVersion"])
def test_another_version_computes_anew(other, tmp_path, chunks_described, monkeypatch):
    made(MOLECULES, cache=tmp_path)
    monkeypatch.setattr(*((chemistry, "VERSION", 0) if other == "VERSION" else ("rdkit.rdBase.rdkitVersion", "1")))
    made(MOLECULES, cache=tmp_path)
    assert len(chunks_described) == 2


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [halved, flipped, lambda content: b"", lambda content: b"no archive"])
def test_a_damaged_file_is_told_and_computed_anew(damage, tmp_path, chunks_described):
    first = made(MOLECULES, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    told: list[str] = []
    assert same(first, made(MOLECULES, cache=tmp_path, tell=told.append)) and len(chunks_described) == 2
    assert len(told) == 1 and told[0].startswith(str(file)) and told[0].endswith("; computed anew")
    assert same(first, made(MOLECULES, cache=tmp_path)) and len(chunks_described) == 2


def test_another_chunks_file_is_not_taken(tmp_path):
    made(["CCO"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    made(["CCN"], cache=tmp_path)
    (other,) = set(tmp_path.iterdir()) - {file}
    file.write_bytes(other.read_bytes())
    told: list[str] = []
    assert same(made(["CCO"], cache=tmp_path, tell=told.append), made(["CCO"])) and "another's" in told[0]


def test_nothing_in_a_file_is_unpickled(tmp_path, chunks_described):
    made(MOLECULES, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **arrays | {"scaffold": arrays["scaffold"].astype(object)})
    told: list[str] = []
    made(MOLECULES, cache=tmp_path, tell=told.append)
    assert "never unpickled" in told[0] and len(chunks_described) == 2


def test_an_interrupted_computation_goes_on_where_it_was(small_chunks, tmp_path, chunks_described, monkeypatch):
    monkeypatch.setattr(chemistry, "SECONDS_BETWEEN", 0.0)
    config = FeaturiseConfig(processes=1)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(MOLECULES, config, tmp_path, interrupt)
    before = len(chunks_described)
    told: list[str] = []
    whole = made(MOLECULES, config, tmp_path, told.append)
    assert before == 1 and chunks_described.count(chunks_described[0]) == 1
    assert len(chunks_described) == -(-len(MOLECULES) // 2) and same(whole, made(MOLECULES, config))
    assert told[0].startswith(f"fingerprints of 4 of {len(MOLECULES)} molecules, about ")


def test_a_folder_that_cannot_be_written_is_told(tmp_path, small_chunks):
    (tmp_path / "file").write_text("")
    for processes in (1, 2):
        with pytest.raises(DataError, match="expected a place with room to write") as refused:
            made(MOLECULES, FeaturiseConfig(processes=processes), tmp_path / "file" / "below")
        assert len(str(refused.value).splitlines()) == 1


def test_a_process_that_ends_is_told(small_chunks, monkeypatch, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys; sys.exit('out of order')")
    monkeypatch.setattr(chemistry_workers, "PROGRAM", program)
    with pytest.raises(DataError, match="ended with code 1: out of order$"):
        made(MOLECULES, FeaturiseConfig(processes=2))


@pytest.mark.parametrize(
    "wrong", [{"bits": 100}, {"bits": 0}, {"radius": -1}, {"conformers": -1}, {"seed": -1}, {"processes": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        validate(FeaturiseConfig, wrong, "here")


OWNER = """
import sys
from fusion_lab.data.molecules import chemistry, chemistry_workers
start = chemistry_workers._Worker.__init__
def noted(self, told):
    start(self, told)
    print("process", self._process.pid, flush=True)
chemistry_workers._Worker.__init__ = noted
chemistry.SECONDS_BETWEEN = 0.0
chemistry.MOLECULES_AT_ONCE_WITH_CONFORMERS = 1
config = chemistry.FeaturiseConfig(conformers=50, processes=2)
chemistry.featurise([sys.argv[1] + "C" * n for n in range(100)], config, None, lambda line: print(line, flush=True))
"""


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux for processes")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_owner(how):
    """Ctrl-C goes to all processes of a terminal's group."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, FLEXIBLE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert owner.stdout is not None
    processes: list[int] = []
    for line in owner.stdout:
        if not line.startswith("process"):
            break
        processes.append(int(line.split()[1]))
    assert len(processes) == 2 and all(map(running, processes))
    os.killpg(owner.pid, how)
    owner.communicate(timeout=60)
    assert owner.returncode == -how
    patience = time.monotonic() + 30
    while any(map(running, processes)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(map(running, processes))


WITHOUT_RDKIT = """
import sys
sys.modules["rdkit"] = None
import fusion_lab.cli, fusion_lab.experiment
from fusion_lab.data import DOMAINS
from fusion_lab.data.molecules import chemistry
try:
    chemistry.featurise(["CCO"], chemistry.FeaturiseConfig(), None, print)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_rdkit_all_but_this_works_and_this_says_what_to_install():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RDKIT], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr) == ("featurise: needs RDKit: pip install 'fusion-lab[chem]'\n", "")
