"""``prepare`` from the command line: what it says, what to type next, and what it refuses."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from activity_material import assert_same_samples, recorded, write_dat
from data_miniature import write_miniature
from jobs_stage import refused

from fusion_lab.cli import main
from fusion_lab.config import parse_overrides
from fusion_lab.data import DOMAINS
from fusion_lab.data.oncology import OncologyConfig
from fusion_lab.experiment import read_experiment

EXPERIMENT = {
    "data": {"domain": "activity", "root": "raw"},
    "model": {"family": "sensor_fusion"},
    "folds": {"protocol": "loso"},
}


@pytest.fixture
def worn(stage):
    """A stage with raw recordings and an experiment of them."""
    write_dat(stage.folder / "raw", subjects=("101", "102", "103"), rows=20)
    stage.experiment("worn", EXPERIMENT)
    return stage


def test_it_ends_with_what_to_type_next(worn, capsys):
    assert main(["prepare", "--experiment=worn", "--output=ready"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "subject 101: 60 samples in 3 recordings (1 of 3)"
    assert out[-1].strip() == "fusion-lab train --experiment worn --data ready"
    assert_same_samples(recorded(worn.folder / "raw"), recorded(worn.folder / "ready"))


def test_settings_go_on_to_the_next_command(worn, capsys):
    assert main(["prepare", "--experiment=worn", "--output=ready", "--set=data.gap=0.05"]) == 0
    assert "--data ready --set data.gap=0.05" in capsys.readouterr().out
    recorded(worn.folder / "ready", gap=0.05)


def test_the_same_command_continues(worn, capsys):
    file = worn.folder / "raw" / "subject102.dat"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    says = ("subject102.dat: line ", "expected 54 cells, found ")
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--experiment=worn", "--output=ready"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert len(err.splitlines()) == 1
    assert all(part in err for part in says)
    assert worn.halves() == []
    file.write_text(whole)
    assert main(["prepare", "--experiment=worn", "--output=ready"]) == 0
    assert "subject 101: prepared already (1 of 3)" in capsys.readouterr().out
    assert_same_samples(recorded(worn.folder / "raw"), recorded(worn.folder / "ready"))


def test_data_from_another_folder(worn, capsys):
    (worn.folder / "raw").rename(worn.folder / "elsewhere")
    refused(worn, capsys, "prepare", "--experiment=worn", "--output=ready", says=("raw: expected a folder of sensor",))
    assert main(["prepare", "--experiment=worn", "--data=elsewhere", "--output=ready"]) == 0


def test_a_domain_that_needs_none(worn, capsys):
    says = ("data.domain: expected one whose files are prepared (activity, relapse), found 'synthetic'",)
    refused(worn, capsys, "prepare", "--experiment=tiny", "--output=ready", says=says)
    assert not (worn.folder / "ready").exists()


def test_the_home_folder_is_written_out(worn, monkeypatch):
    """A shell does so for ``--output ~/ready`` only."""
    monkeypatch.setenv("HOME", str(worn.folder / "home"))
    assert main(["prepare", "--experiment=worn", "--output=~/ready"]) == 0
    assert_same_samples(recorded(worn.folder / "raw"), recorded(worn.folder / "home" / "ready"))


def test_terminated_as_interrupted(worn, capsys, monkeypatch):
    """What is being written when SIGTERM comes is removed, and the same command goes on."""
    whole, calls = np.save, []

    def save(stream, values):
        calls.append(stream)
        if len(calls) == 2:
            stream.write(b"half")
            os.kill(os.getpid(), signal.SIGTERM)
        whole(stream, values)

    monkeypatch.setattr(np, "save", save)
    assert main(["prepare", "--experiment=worn", "--output=ready"]) == 130
    assert capsys.readouterr().err.strip() == "fusion-lab: terminated; the same command continues"
    assert sorted(path.name for path in (worn.folder / "ready").iterdir()) == ["subject_101.npy", "unfinished.json"]
    assert main(["prepare", "--experiment=worn", "--output=ready"]) == 0
    assert_same_samples(recorded(worn.folder / "raw"), recorded(worn.folder / "ready"))


@pytest.fixture
def tables(stage):
    """A stage with the tables of the hancock experiment, in miniature."""
    write_miniature(stage.folder / "tables", rows=60)
    return stage


TO_HDF5 = ("prepare", "--experiment=hancock", "--data=tables", "--output=ready", "--to=oncology")
MANY = "--set=data.use=['clinical', 'pathological', 'blood', 'icd_codes', 'cell_density', 'tma_CD3', 'tma_HE']"


def encoded(stage, name="ready"):
    return DOMAINS["oncology"].load(OncologyConfig(root=str(stage.folder / name)))


def test_tables_in_another_layout_are_the_same_data_set(tables, capsys):
    assert main([*TO_HDF5, MANY]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:7]] == [
        *("pathological:", "blood:", "icd_codes:", "cell_density:", "tma_CD3:", "tma_HE:", "clinical:"),
    ]
    assert out[-1].strip() == "fusion-lab train --experiment oncology --data ready"
    config = read_experiment("hancock", parse_overrides(MANY.removeprefix("--set=")), "tables").data
    table, made = DOMAINS["table"].load(config), encoded(tables)
    assert made.ids.tolist() == table.ids.tolist()
    assert made.spec.tasks == table.spec.tasks
    everyone = torch.arange(len(table))
    for ours, theirs in zip(table.gather(everyone)[:6], made.gather(everyone)[:6], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(theirs[name], leaf) for name, leaf in ours.items())


def test_components_in_place_of_tables(tables, capsys):
    assert main([*TO_HDF5, MANY, "--encoder=pca", "--width=3"]) == 0
    assert capsys.readouterr().out.startswith("warning: every PCA is fitted on all patients")
    assert max(modality.width for modality in encoded(tables).spec.modalities) == 3


def test_the_same_command_continues_in_another_layout(tables, capsys, monkeypatch):
    """SIGTERM while the second file is written."""
    whole, calls = Path.write_bytes, []

    def write(path, content):
        calls.append(path)
        if len(calls) == 2:
            whole(path, b"half")
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert main([*TO_HDF5, MANY]) == 130
    assert capsys.readouterr().err.strip() == "fusion-lab: terminated; the same command continues"
    assert [path.name for path in (tables.folder / "ready").iterdir()] == ["pathological.h5"]
    assert main([*TO_HDF5, MANY]) == 0
    assert "pathological: written already (1 of 7)" in capsys.readouterr().out
    assert len(encoded(tables).spec.modalities) == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to=oncologie"], "to: expected a domain that data sets are written for, found 'oncologie' (did you mean"),
        (
            ["--to=table"],
            "to: expected a domain that data sets are written for, found 'table' (known: oncology, relapse)",
        ),
        (["--to=oncology", "--encoder=vae"], "encoder: expected one of none, pca, found 'vae'"),
        (["--to=oncology", "--width=8"], "width: expected none without an encoder that is fitted, found 8"),
        (["--encoder=pca"], "encoder: expected --to=DOMAIN beside it, found 'pca' alone"),
        (["--width=8"], "width: expected --to=DOMAIN beside it, found 8 alone"),
        (["--to=oncology", "--width=0"], "argument --width: expected a whole number from 1 on, found '0'"),
        (["--to=oncology", "--output=tables"], "tables: expected a folder other than that of the files"),
        (["--to=oncology", "--set=data.use=[blood]"], "modality 'clinical': expected it for every patient"),
    ],
)
def test_mistakes_about_another_layout(tables, capsys, options, says):
    command = ("prepare", "--experiment=hancock", "--data=tables", "--output=ready", MANY, *options)
    refused(tables, capsys, *command, says=(says,))
    assert not (tables.folder / "ready").exists()


def test_recordings_have_no_place_in_another_layout(worn, capsys):
    says = ("expected a vector, as HDF5 embeddings are, found a sequence",)
    refused(
        worn,
        capsys,
        "prepare",
        "--experiment=worn",
        "--output=ready",
        "--to=oncology",
        "--set=data.chunk=16",
        says=says,
    )


def test_data_sets_without_files_can_be_written(stage, capsys):
    """A folder is what makes the difference between input and output; generated data have none."""
    command = ["prepare", "--experiment=tiny", "--output=ready", "--to=oncology"]
    assert main([*command, "--set=data.modalities.clinical={width: 4}"]) == 0
    assert {m.name: m.width for m in encoded(stage).spec.modalities} == {"clinical": 4, "left": 3, "right": 3}
