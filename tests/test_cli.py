"""The command line itself: what it takes, what it refuses, and that it answers without loading the world."""

import os
import subprocess
import sys

import pytest

from fusion_lab import __version__
from fusion_lab.cli import REQUIRED, VERBS, flag, main, parse, positive_whole, seconds, whole

HEAVY = ("torch", "mlflow", "optuna", "pandas", "numpy", "sklearn", "matplotlib", "pydantic")


def refusal(capsys, *arguments: str) -> str:
    """The one line that a command is refused with; exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith("fusion-lab: error: ")
    return err


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_option_and_its_default(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and VERBS[verb].help in shown
    for name, option in VERBS[verb].options.items():
        assert f"--{name} VALUE" in shown or (option.kind is flag and f"--{name} [VALUE]" in shown)
        assert not option.default or option.default == REQUIRED or f"(default: {option.default})" in shown


def test_help_of_all_names_every_verb(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(
        f"{name} " in shown and verb.help.split(":")[0] in " ".join(shown.split()) for name, verb in VERBS.items()
    )


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out.strip() == __version__


def test_an_empty_value_is_the_same_as_none():
    for verb, description in VERBS.items():
        needed = [f"--{name}=x" for name, option in description.options.items() if option.default == REQUIRED]
        empty = [f"--{name}=" for name, option in description.options.items() if option.default != REQUIRED]
        plain = parse([verb, *needed])[1]
        assert parse([verb, *needed, *empty])[1] == plain == parse([verb, *needed, *(f"{e} " for e in empty)])[1]


def test_what_has_to_be_given_may_not_be_empty(capsys):
    for missing in (["--model=m"], ["--model=m", "--input="], ["--model= ", "--input=i"]):
        with pytest.raises(SystemExit) as stopped:
            parse(["predict", *missing])
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("said", "meant"), [("--dry-run", True), ("--dry-run=true", True), ("--dry-run=False", False)])
def test_a_flag_may_stand_alone_or_be_said(said, meant):
    assert parse(["promote", said])[1]["dry_run"] is meant


def test_values_arrive_with_their_types():
    command = "hpo --experiment=a --space b --trials=4 --timeout 2m --data=d --seed 0 --set=x=1 --tracking-uri=u"
    verb, options = parse(command.split())
    assert verb is VERBS["hpo"]
    assert options == {
        "experiment": "a",
        "space": "b",
        "trials": 4,
        "timeout": 120.0,
        "data": "d",
        "seed": 0,
        "set": "x=1",
        "tracking_uri": "u",
    }


def test_durations_and_whole_numbers():
    assert [seconds(t) for t in ("90", "90s", "1.5m", "2h")] == [90.0, 90.0, 90.0, 7200.0]
    assert [whole("0"), whole("12"), positive_whole("1")] == [0, 12, 1]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--timeout", "5x"], ["--timeout", "a duration such as", "'5x'"]),
        (["--timeout", "m"], ["--timeout", "'m'"]),
        (["--timeout", "0"], ["--timeout", "'0'"]),
        (["--timeout=-3m"], ["--timeout", "'-3m'"]),
        (["--timeout", "inf"], ["--timeout", "'inf'"]),
        (["--timeout", "nan"], ["--timeout", "'nan'"]),
        (["--trials", "x"], ["--trials", "whole number from 1 on", "'x'"]),
        (["--trials", "0"], ["--trials", "whole number from 1 on", "'0'"]),
        (["--trials", "2.5"], ["--trials", "whole number from 1 on", "'2.5'"]),
        (["--trials", "²"], ["--trials", "whole number from 1 on", "'²'"]),
        (["--seed=-1"], ["--seed", "a whole number", "'-1'"]),
        (["--seed", "²"], ["--seed", "a whole number", "'²'"]),
        (["--seed"], ["--seed", "expected one argument"]),
        (["--trails", "3"], ["unknown argument '--trails'", "did you mean --trials?"]),
        (["--trails=3"], ["unknown argument '--trails=3'", "did you mean --trials?"]),
        (["--zzz", "1"], ["unknown argument '--zzz'", "known: ", "--experiment"]),
        (["--exp", "demo"], ["unknown argument '--exp'"]),
        (["surplus"], ["unknown argument 'surplus'"]),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(arguments, parts, capsys):
    line = refusal(capsys, "hpo", *arguments)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["hpoo"], ["unknown verb 'hpoo'", "did you mean hpo?"]),
        (["zzz", "--seed", "1"], ["unknown verb 'zzz'", "known: train, hpo"]),
        (["tra"], ["unknown verb 'tra'"]),
        ([], ["VERB"]),
        (["--seed", "1"], ["unknown argument '--seed'"]),
    ],
)
def test_a_wrong_verb_is_refused_in_one_line(arguments, parts, capsys):
    line = refusal(capsys, *arguments)
    assert all(part in line for part in parts), line


def test_train_takes_no_option_of_a_search(capsys):
    assert "unknown argument '--trials'" in refusal(capsys, "train", "--trials", "3")


@pytest.mark.parametrize("arguments", [["--help"], ["hpo", "--help"], ["hpo", "--trials", "x"], ["hpo", "--nope"]])
def test_help_and_refusals_load_nothing_heavy(arguments):
    script = (
        "import sys\n"
        "from fusion_lab.cli import REQUIRED, flag, main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        f"    print('loaded:', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "fusion-lab: interrupted; the same command continues\n"),
        (KeyboardInterrupt("terminated"), 130, "fusion-lab: terminated; the same command continues\n"),
    ],
)
def test_an_interruption_ends_with_130(raised, code, told, capsys, monkeypatch):
    def run(**options):
        raise raised

    monkeypatch.setattr("fusion_lab.jobs.hpo.run", run)
    assert main(["hpo"]) == code
    assert capsys.readouterr().err == told


def test_a_fault_of_ours_is_not_dressed_as_the_users(monkeypatch):
    def run(**options):
        raise AssertionError("an invariant")

    monkeypatch.setattr("fusion_lab.jobs.train.run", run)
    with pytest.raises(AssertionError, match="an invariant"):
        main(["train"])
