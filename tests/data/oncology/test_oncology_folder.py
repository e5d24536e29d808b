"""Which files of a folder are which modalities."""

import pytest
from oncology_material import refusal, write_layout

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data.names import RESERVED
from fusion_lab.data.oncology import OncologyConfig, load
from fusion_lab.data.oncology.folder import modality_files
from fusion_lab.data.oncology.settings import FileConfig


@pytest.fixture
def folder(tmp_path):
    write_layout(tmp_path, rows=30)
    return tmp_path


def test_a_modality_is_named_after_its_file_unless_the_settings_name_it(folder):
    (folder / "spatial.h5").rename(folder / "spatial.HE5")
    (folder / "semantic.h5").rename(folder / "semantic.hdf5")
    (folder / "notes.txt").write_text("no modality")
    config = OncologyConfig(root=str(folder), files={"blood": FileConfig(file="temporal.h5")})
    assert [(name, path.name) for name, path in modality_files(config).items()] == [
        ("clinical", "clinical.h5"),
        ("pathological", "pathological.h5"),
        ("semantic", "semantic.hdf5"),
        ("spatial", "spatial.HE5"),
        ("blood", "temporal.h5"),
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"modalities": ("temporel",)},
            "expected a file temporel.h5 (data.modalities), found none (did you mean 'temp",
        ),
        ({"patients": "clinic"}, "expected a file clinic.h5 (data.patients), found none (did you mean 'clinical'?)"),
        ({"files": {"blood": FileConfig(file="bloods.h5")}}, "bloods.h5: expected an HDF5 file, found no such file"),
        ({"files": {"blood": FileConfig()}}, "blood.h5: expected an HDF5 file, found no such file"),
        (
            {"files": {"temporal": FileConfig(file="clinical.h5")}},
            "expected a file clinical.h5 (data.patients), found it given to 'temporal' (data.files.temporal)",
        ),
    ],
)
def test_what_the_settings_name_has_to_be_there(folder, settings, expected):
    assert expected in refusal(folder, **settings)


def test_two_files_of_one_modality_are_refused(folder):
    (folder / "clinical.hdf5").write_bytes((folder / "clinical.h5").read_bytes())
    assert refusal(folder) == ": expected one file per modality, found clinical.h5 and clinical.hdf5"


@pytest.mark.parametrize("stem", ["1st", "a.b", "quality"])
def test_a_file_whose_name_no_modality_can_have(folder, stem):
    (folder / "temporal.h5").rename(folder / f"{stem}.h5")
    assert "(name it with data.files)" in refusal(folder)
    others = ("clinical", "spatial")
    assert len(load(OncologyConfig(root=str(folder), modalities=others)).spec.modalities) == len(others)
    named = OncologyConfig(root=str(folder), files={"blood": FileConfig(file=f"{stem}.h5")})
    assert "blood" in load(named).inputs


def test_hidden_files_are_no_modalities(folder):
    """A Mac leaves one beside each file that it copies to a drive of another kind."""
    (folder / "._temporal.h5").write_bytes(b"\0\5\x16\7")
    assert "temporal" in load(OncologyConfig(root=str(folder))).inputs


def test_the_patients_file_need_be_no_modality(folder):
    (folder / "clinical.h5").rename(folder / "patients.h5")
    dataset = load(OncologyConfig(root=str(folder), patients="patients", modalities=("temporal", "spatial")))
    assert set(dataset.inputs) == {"temporal", "spatial"}
    assert len(dataset) == 30


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert "expected a file per modality (*.h5, *.hdf5, *.he5), found none" in refusal(tmp_path / "empty")
    assert "expected a folder of HDF5 files, found a file" in refusal(tmp_path / "file")
    assert "expected a folder of HDF5 files, found no such folder" in refusal(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected a folder of HDF5 files, found: File name too long"):
        load(OncologyConfig(root="x" * 300))


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"file": {}}, "unknown key (did you mean 'files'?)"),
        ({"files": {"a": {"embeding": "x"}}}, "files.a.embeding: unknown key (did you mean 'embedding'?)"),
        ({"modalities": []}, "modalities: expected"),
        ({"modalities": ["a", "a"]}, "modalities: expected each name once, found a, a"),
        ({"tasks": {"death": {"positive": 2}}}, "tasks.death.positive: expected"),
        ({"tasks": {"death": {"classes": ["a", "a"]}}}, "classes: expected different names, found 'a' twice"),
        ({"tasks": {"death": {"classes": ["a", " "]}}}, "classes: expected a name in one line, found ' '"),
        ({"leakage_auroc": 0.4}, "leakage_auroc: expected"),
        *(
            ({part: {name: {}}}, f"{part}: expected none of the reserved")
            for part in ("files", "tasks")
            for name in RESERVED
        ),
    ],
)
def test_settings_that_cannot_be(tree, expected):
    with pytest.raises(ConfigError) as refused:
        validate(OncologyConfig, {"domain": "oncology", **tree}, "data")
    assert expected in str(refused.value)
