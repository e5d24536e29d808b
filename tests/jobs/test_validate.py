"""A folder with planted faults: each is found, told in one line, and the others beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from editing_material import SMALL, TRACKS, settings, write_twin
from jobs_stage import TINY

from fusion_lab.cli import main
from fusion_lab.config import dump_yaml
from fusion_lab.jobs import validate

SECONDS = 20


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Six videos, all streams of all of them, without a gap; and an experiment that reads them."""
    twin = {"videos": 6, "seconds": SECONDS, "dropped": 0.0, "absent": 0.0}
    root = tmp_path / "videos"
    root.mkdir()
    write_twin(root, settings(twin=twin))
    data = {"domain": "editing", "length": 20, "streams": SMALL, "tracks": TRACKS, "root": str(root)}
    (tmp_path / "mine.yaml").write_text(dump_yaml({"data": data, "model": {"family": "token_fusion"}}))
    monkeypatch.chdir(tmp_path)
    return root


def looked() -> dict[tuple[str, str], dict]:
    """What the JSON file says of each stream."""
    told = json.loads(Path("validation.json").read_text())
    return {(line["recording"], line["stream"]): line for line in told["checked"]}


def changed(file: Path, change) -> None:
    frame = pd.read_csv(file)
    change(frame).to_csv(file, index=False)


def test_a_sound_folder_has_no_fault(folder):
    result = validate.run("./mine.yaml")
    assert result.exit_code == 0 and result.sound
    assert {one.verdict for one in result.checked} == {"ok"}
    for one in looked().values():
        assert one["steps"] == SECONDS * 10 and one["coverage"] == 100 and one["increasing"] == 1
        assert one["columns"] == (2 if one["stream"] == "audio" else 7)
        assert one["coverage"] + one["interpolated"] + one["masked"] == pytest.approx(100)


def test_planted_faults_are_all_found(folder, capsys):
    audio = {place: folder / f"video {place}_features.csv" for place in range(6)}
    lines = audio[0].read_text().splitlines()
    first, rest = lines[3].split(",", 1)
    lines[3] = f"{first},torn{rest[rest.index(',') :]}"
    audio[0].write_text("\n".join(lines))
    changed(audio[1], lambda frame: frame.sample(frac=1, random_state=0))
    changed(audio[2], lambda frame: frame[(frame["time"] < 3) | (frame["time"] > 12)])
    changed(audio[3], lambda frame: frame.drop(columns="audio_is_speaking"))
    changed(audio[4], lambda frame: frame.assign(time=frame["time"] + 1000))
    audio[5].unlink()
    assert main(["validate", "--experiment", "./mine.yaml"]) == 1
    found = looked()
    verdicts = [found[f"video {place}", "audio"]["verdict"] for place in range(6)]
    assert verdicts == ["fault", "warning", "warning", "fault", "warning", "absent"]
    assert all(found[f"video {place}", "visual"]["verdict"] == "ok" for place in range(6))
    assert "line 4, column 'audio_energy_rms': expected a number, found 'torn'" in found["video 0", "audio"]["fault"]
    assert "expected a column 'audio_is_speaking'" in found["video 3", "audio"]["fault"]
    assert found["video 1", "audio"]["increasing"] == 0
    gapped = found["video 2", "audio"]
    assert gapped["longest gap"] == pytest.approx(9, abs=0.1) and gapped["gaps"] == 1 and gapped["masked"] > 40
    assert found["video 4", "audio"]["masked"] == 100 and "do not overlap" in found["video 4", "audio"]["warnings"][0]
    out = capsys.readouterr().out
    assert out.count("fault: ") == 2 and out.count("warning: ") == 3
    table = pd.read_csv("validation.csv")
    assert table["verdict"].value_counts().to_dict() == {"ok": 6, "warning": 3, "fault": 2, "absent": 1}
    page = Path("validation.html").read_text()
    assert "torn" in page and "https://" not in page.split("<script")[0]


def test_a_folder_that_cannot_be_opened_is_one_fault(folder):
    (folder / "train_sequences.npz").write_bytes(b"no archive")
    (folder / "val_sequences.npz").unlink()
    result = validate.run("./mine.yaml")
    assert result.exit_code == 1 and len(result.faults) == 1 and "train_sequences.npz" in result.faults[0]


def test_what_shows_only_when_all_is_put_together_is_a_fault_too(folder):
    for part in ("train", "val"):
        file = folder / f"{part}_sequences.npz"
        arrays = dict(np.load(file))
        arrays["sequences"] = np.zeros_like(arrays["sequences"])
        np.savez(file, **arrays)
    result = validate.run("./mine.yaml")
    told = " ".join([*result.faults, *result.notes])
    assert "never varies" in told or "nothing to foretell" in told


def test_a_domain_without_a_look_of_its_own_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(dump_yaml(TINY))
    assert validate.run("./tiny.yaml", output="looked.html").exit_code == 0
    assert {"looked.html", "looked.csv", "looked.json"} <= {p.name for p in tmp_path.iterdir()}


def test_a_page_is_asked_for_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(dump_yaml(TINY))
    with pytest.raises(SystemExit) as ended:
        main(["validate", "--experiment", "./tiny.yaml", "--output", "looked.txt"])
    assert ended.value.code == 2 and "expected a name that ends in .html" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny.yaml"]
