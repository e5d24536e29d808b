"""``prepare`` from the command line: what it says, what to type next, and what it refuses."""

import os
import signal

import numpy as np
import pytest
from activity_material import assert_same_samples, recorded, write_dat
from jobs_stage import refused

from fusion_lab.cli import main

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
    says = ("data.domain: expected one whose files are prepared (activity), found 'synthetic'",)
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
