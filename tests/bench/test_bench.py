"""The benchmark: what it makes of measured numbers, what it refuses, and a small run of it."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from results import GATE, differences, ratios, sections, table, too_different, verdict
from settings import CASES, PARAMETERS, QUICK_MODELS

HERE = Path(__file__).parent
CONTENDERS = ["stacked", "loop", "plain"]


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The benchmark as ``make bench`` starts it."""
    command = [sys.executable, str(HERE), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=480
    )


def taken(cold: float, *rounds: float) -> dict:
    """What a contender took, in CPU seconds; twice as much by the clock."""
    times = [{"cpu": seconds, "wall": 2 * seconds} for seconds in (cold, *rounds)]
    return {"start": {"cpu": 1.0}, "cold": times[0], "rounds": times[1:], "peak_mb": 500.0}


def fold(loss: float, auroc: float = 0.5) -> dict:
    best = {"test_auroc": auroc, "test_ap": auroc}
    return {"train_loss": [1.0, 0.5], "val_loss": [1.0, loss], "val_auroc": [0.5, auroc], "best": best}


def test_ratios_are_of_the_opponents_time_over_ours_in_the_same_round():
    found = ratios({"stacked": taken(2.0, 1.0, 2.0, 4.0), "plain": taken(12.0, 6.0, 6.0, 16.0)})
    assert found == {
        "stacked": {
            "plain": {
                "cpu": {"min": 3.0, "median": 4.0, "max": 6.0},
                "cold_cpu": 6.0,
                "wall": {"min": 3.0, "median": 4.0, "max": 6.0},
                "cold_wall": 6.0,
            }
        }
    }


@pytest.mark.parametrize(("slower", "passed"), [(GATE, True), (0.99 * GATE, False)])
def test_the_gate_wants_every_opponent_at_every_width(slower, passed):
    fast = {"stacked": taken(1.0, 1.0), "plain": taken(9.0, 9.0)}
    slow = {"stacked": taken(1.0, 1.0), "plain": taken(9.0, 9.0), "skorch": taken(9.0, slower)}
    judged = verdict({"64": {"ratios": ratios(fast)}, "32": {"ratios": ratios(slow)}})
    assert judged["passed"] is passed
    assert [one["passed"] for one in judged["verdicts"]] == [True, True, passed]


def test_without_stacked_or_an_opponent_nothing_is_judged():
    for names in (("stacked", "loop"), ("loop", "plain")):
        assert verdict({"64": {"ratios": ratios({name: taken(1.0, 1.0) for name in names})}})["passed"] is None


def test_the_table_ends_with_the_ratio_to_the_products_own_choice():
    times = {"stacked": taken(2.0, 2.0), "loop": taken(1.0, 1.0), "lightning": taken(3.0, 3.0)}
    for mode, ratio in (("stacked", 1.5), ("loop", 3.0)):
        part = {"parameters": 7, "auto": {"mode": mode, "reason": "so timed"}, "contenders": times}
        told = table("a model", part | {"ratios": ratios(times)})[-1]
        range_ = f"{ratio:.2f} ({ratio:.2f}-{ratio:.2f})"
        assert told == f"training.mode auto is {mode} here (so timed); lightning takes {range_} times its CPU time"


def test_the_activity_model_has_a_section_for_each_encoder():
    runs = [replace(base, d_model=width) for of_case in CASES.values() for base in of_case for width in (64, 32)]
    parts = {run: {"parameters": place} for place, run in enumerate(runs)}
    found = sections(parts)
    assert list(found) == ["settings", "by_width", "activity"]
    places = [found, *(found["activity"][encoder] for encoder in ("gru", "cnn"))]
    kept = [part for place in places for part in place["by_width"].values()]
    assert kept == list(parts.values()) and all(list(place["by_width"]) == ["64", "32"] for place in places)
    assert "encoder" not in found["settings"] and found["activity"]["cnn"]["settings"]["encoder"] == "cnn"


def test_the_largest_difference_is_that_of_any_two_contenders():
    found = differences({"a": [fold(0.5), fold(0.25)], "b": [fold(0.5), fold(0.5)], "c": [fold(0.75), fold(0.5)]})
    assert found == {"train_loss": 0.0, "val_loss": 0.25, "val_auroc": 0.0, "test_auroc": 0.0, "test_ap": 0.0}


@pytest.mark.parametrize(("loss", "sentences"), [(0.5, 0), (0.501, 1), (math.nan, 1)])
def test_curves_that_differ_are_told(loss, sentences):
    equality = {"float32": differences({"a": [fold(0.5)], "b": [fold(loss)]})}
    assert len(too_different(equality)) == sentences


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rounds", "0"], "argument --rounds: expected a whole number from 1 on, found '0'"),
        (["--d-model", "48"], "argument --d-model: invalid choice: 48 (choose from 64, 32)"),
        (["--contenders", "plain"], "--contenders: expected two or more, found plain"),
        (["--case", "tabular"], "argument --case: invalid choice: 'tabular' (choose from "),
        (
            ["--case", "activity", "--contenders", "stacked", "skorch"],
            "--contenders: expected two or more, found stacked",
        ),
        (
            ["--case", "activity", "--contenders", "stacked", "plain", "--gate"],
            "--gate: expected stacked and an opponent",
        ),
        (["--contenders", "stacked", "loop", "--gate"], "--gate: expected stacked and an opponent at full size"),
        (["--contenders", "stacked", "plain", "--quick", "--gate"], "--gate: expected stacked and an opponent at full"),
        (["--contenders", "stacked", "plain", "--output", "nowhere/x.json"], "--output: expected a file in a folder"),
        (["--contenders", "stacked", "plain", "--output", "."], "--output: expected a file in a folder"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_an_argument_that_is_refused(arguments, line, tmp_path):
    done = bench(tmp_path, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"bench: error: {line}") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("loss", "stacked", "arguments", "code"),
    [(0.5, 1.0, [], 0), (0.5, 3.0, [], 0), (0.5, 1.0, ["--gate"], 0), (0.5, 3.0, ["--gate"], 1), (0.7, 1.0, [], 1)],
)
def test_the_exit_code_tells_of_equality_and_where_asked_of_the_gate(
    loss, stacked, arguments, code, tmp_path, monkeypatch
):
    program = program_without_processes(monkeypatch, loss, {"stacked": taken(1.0, stacked), "plain": taken(9.0, 5.0)})
    file = tmp_path / "results.json"
    own = ["--case", "relapse", "--contenders", "stacked", "plain"]
    assert program.main([*own, "--output", str(file), *arguments]) == code
    found = json.loads(file.read_text())
    assert found["equal"] is (loss == 0.5)
    assert ("ratios" in found["by_width"]["64"]) is found["equal"]
    assert not found["equal"] or found["gate"]["passed"] is (stacked == 1.0)


def program_without_processes(monkeypatch: pytest.MonkeyPatch, loss: float, times: dict) -> ModuleType:
    """The program where nothing is trained: what its processes would have answered is given."""
    spec = importlib.util.spec_from_file_location("bench_program", HERE / "__main__.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    auto = {"mode": "stacked", "reason": "it is said so"}
    answers = {"stacked": [fold(0.5)], "plain": [fold(loss)]}
    monkeypatch.setattr(program, "write_cases", lambda files: [{"parameters": 1, "auto": auto} for _ in files])
    monkeypatch.setattr(program, "train_all", lambda requests: [answers for _ in requests])
    monkeypatch.setattr(program, "race", lambda *request: times)
    return program


@pytest.mark.slow
def test_a_quick_run(tmp_path):
    done = bench(tmp_path, "--quick", "--contenders", *CONTENDERS, "--output", "quick.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["quick.json"]
    found = json.loads((tmp_path / "quick.json").read_text())
    assert found["equal"] and found["quick"] and "gate" not in found and "reading" in found
    assert list(found["by_width"]) == list(map(str, PARAMETERS))
    titles = {f"d_model {width}": part for width, part in found["by_width"].items()}
    assert all(part["parameters"] == PARAMETERS[int(width)] for width, part in found["by_width"].items())
    for encoder, section in found["activity"].items():
        titles |= {f"activity, {encoder}, d_model {width}": part for width, part in section["by_width"].items()}
    assert len(titles) == len(PARAMETERS) + QUICK_MODELS["activity"]
    for title, part in titles.items():
        assert too_different(part["equality"]) == [] and set(part["equality"]) == {"float32", "float64"}
        assert list(part["contenders"]) == CONTENDERS
        for one in part["contenders"].values():
            seconds = [one["start"]["cpu"], *one["cold"].values(), *one["rounds"][0].values()]
            assert min(seconds) > 0 and len(one["rounds"]) == 1 and 50 < one["peak_mb"] < 5_000
        assert all(part["ratios"][mine]["plain"]["cpu"]["median"] > 0 for mine in ("stacked", "loop"))
        assert f"\n{title}, round 1 of 1: plain ... " in done.stdout


@pytest.mark.slow
def test_a_process_that_fails_is_told_with_what_it_said(tmp_path):
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("raise ImportError('not today')")
    command = [sys.executable, str(HERE), "--quick", "--contenders", "stacked", "plain"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "not today" in done.stderr
    assert not (tmp_path / "bench.json").exists()
