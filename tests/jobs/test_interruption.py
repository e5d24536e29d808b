"""Ended in the middle of something: Ctrl-C, SIGTERM or a kill. Nothing stays RUNNING, and the same command goes on to
what would have come out without the interruption.
"""

import os
import signal

import pytest
from jobs_stage import TINY, Stage, at_epoch, run_command, run_signalled, values_of_streams

from fusion_lab.cli import main
from fusion_lab.jobs import train
from fusion_lab.tracking.stale import CLOSED

HPO = ("hpo", "--experiment=tiny", "--trials=3")
TRAIN = ("train", "--experiment=tiny")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, empty_store) -> Stage:
    """The same study, and the same training, that nobody interrupted."""
    stage = Stage.set_up(tmp_path_factory.mktemp("uninterrupted"), empty_store)
    with pytest.MonkeyPatch.context() as patch:
        stage.enter(patch)
        assert main(HPO) == 0
    return stage


def send(number: int):
    return lambda: os.kill(os.getpid(), number)


def check_continued(stage: Stage, uninterrupted: Stage, interrupted: int) -> None:
    """Every stream once more as it would have been, the interrupted trial repeated and no other."""
    assert stage.running() == [] and stage.halves() == []
    trials = stage.trials()
    assert values_of_streams(trials) == values_of_streams(uninterrupted.trials())
    repeated = [t for t in trials if "again" in t.user_attrs]
    assert [t.user_attrs["again"] for t in repeated] == [interrupted]
    first = trials[interrupted]
    assert first.state.name == "FAIL" and first.user_attrs["reason"] == "interrupted"
    assert repeated[0].params == first.params
    assert repeated[0].user_attrs["stream"] == first.user_attrs["stream"]
    assert len([t for t in trials if t.state.name == "COMPLETE"]) == 3
    assert stage.best() == uninterrupted.best()


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGTERM, "terminated"), pytest.param(signal.SIGINT, "interrupted", marks=pytest.mark.slow)],
)
def test_a_signal_ends_a_study_that_continues(number, told, stage, uninterrupted, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        at_epoch(patch, "trial 1", 2, send(number))
        assert main(HPO) == 130
    out, err = capsys.readouterr()
    assert err == f"fusion-lab: {told}; the same command continues\n"
    assert "validation scores, mean over tasks and folds" in out  # what is there is told in any case
    assert [run.info.status for run in stage.of_kind("trial")] == ["FINISHED", "KILLED"]
    (parent,) = stage.of_kind("study")
    assert parent.info.status == "KILLED" and parent.data.tags["failure"] == "interrupted"
    assert stage.best()["trial"] == 0
    assert main(HPO) == 0
    assert "trial 1 was interrupted: it is run again" in capsys.readouterr().out
    check_continued(stage, uninterrupted, interrupted=1)
    assert [run.info.status for run in stage.of_kind("study")] == ["KILLED", "FINISHED"]


@pytest.mark.slow
def test_a_study_interrupted_before_its_first_trial_ended(stage, uninterrupted, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        at_epoch(patch, "trial 0", 1, send(signal.SIGINT))
        assert main(HPO) == 130
    assert "no trial is complete yet: the same command continues" in capsys.readouterr().out
    assert not list(stage.folder.rglob("best.yaml"))
    assert main(HPO) == 0
    check_continued(stage, uninterrupted, interrupted=0)


def test_the_signals_handler_is_the_jobs_alone(stage):
    before = signal.getsignal(signal.SIGTERM)
    assert main(TRAIN) == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def results(monkeypatch):
    """What each ``train`` returned."""
    kept = []
    run = train.run
    monkeypatch.setattr(train, "run", lambda **options: kept.append(run(**options)))
    return kept


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_training_continues_to_the_same_bits(number, stage, monkeypatch, capsys, results):
    stage.experiment("tiny", TINY, training__epochs=5, training__patience=5, training__checkpoints="all")
    with monkeypatch.context() as patch:
        at_epoch(patch, "tiny", 3, send(number))
        assert main(TRAIN) == 130
    assert [run.info.status for run in stage.runs()] == ["KILLED"]
    (checkpoint,) = stage.folder.glob("studies/*/training.safetensors")
    capsys.readouterr()
    assert main(TRAIN) == 0
    assert f"continues from {checkpoint.relative_to(stage.folder)}" in capsys.readouterr().out
    assert stage.studies() == []  # nothing of it is left once it is finished
    assert main(TRAIN) == 0
    assert [run.info.status for run in stage.runs()] == ["KILLED", "FINISHED", "FINISHED"]
    continued, straight = results
    assert same_bits(continued, straight)


def same_bits(one, other) -> bool:
    same_scores = all(
        one.predictions.score[task].tobytes() == other.predictions.score[task].tobytes()
        for task in one.predictions.score
    )
    same_weights = all(
        a.weights[name].equal(b.weights[name])
        for a, b in zip(one.folds, other.folds, strict=True)
        for name in a.weights
    )
    same_checkpoints = all(
        checkpoint.weights[name].equal(b.checkpoints[kind].weights[name])
        for a, b in zip(one.folds, other.folds, strict=True)
        for kind, checkpoint in a.checkpoints.items()
        for name in checkpoint.weights
    )
    same_curves = [fold.history for fold in one.folds] == [fold.history for fold in other.folds]
    return same_scores and same_weights and same_checkpoints and same_curves


@pytest.mark.slow
def test_the_checkpoint_of_another_configuration_is_not_taken_up(stage, monkeypatch, capsys, results):
    with monkeypatch.context() as patch:
        at_epoch(patch, "tiny", 2, send(signal.SIGINT))
        assert main(TRAIN) == 130
    capsys.readouterr()
    assert main([*TRAIN, "--seed=7"]) == 0
    assert "continues from" not in capsys.readouterr().out
    assert len(list(stage.folder.glob("studies/*/training.safetensors"))) == 1


@pytest.mark.slow
def test_a_killed_study_is_swept_and_continues(stage, uninterrupted):
    done = run_signalled(stage, signal.SIGKILL, "trial 1", 2, *HPO, figures=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = stage.trials()
    assert [t.state.name for t in left] == ["COMPLETE", "RUNNING"] and left[1].intermediate_values
    running = stage.running()
    of_first, of_second = stage.of_kind("trial")
    assert {stage.of_kind("study")[0].info.run_id, of_second.info.run_id} <= set(running)
    assert of_first.data.metrics["objective"] == left[0].value  # its numbers are there; its figures may be missing

    again = run_command(stage, *HPO)
    assert again.returncode == 0 and again.stderr == "", again.stderr
    assert "trial 1 was interrupted: it is run again" in again.stdout
    check_continued(stage, uninterrupted, interrupted=1)
    swept = [run for run in stage.runs() if run.info.run_id in running]
    states = {run.info.run_id: run.info.status for run in stage.runs()}
    assert states.pop(of_first.info.run_id) == "FINISHED"
    assert {states[i] for i in running if i in states} == {"KILLED"}
    assert all("ended without closing the run" in run.data.tags[CLOSED] for run in swept)
    names = [run.info.run_name for run in stage.of_kind("trial") if run.info.status == "FINISHED"]
    assert sorted(names) == ["trial 000", "trial 002", "trial 003"]  # 002 is trial 1 once more
    first, second = stage.of_kind("study")
    assert second.data.tags["fusion_lab.continues"] == first.info.run_id


@pytest.mark.slow
def test_a_study_killed_twice_at_the_same_trial(stage, uninterrupted):
    assert run_signalled(stage, signal.SIGKILL, "trial 1", 1, *HPO).returncode == -signal.SIGKILL
    assert run_signalled(stage, signal.SIGKILL, "trial 2", 2, *HPO).returncode == -signal.SIGKILL
    assert run_command(stage, *HPO).returncode == 0
    trials = stage.trials()
    assert values_of_streams(trials) == values_of_streams(uninterrupted.trials())
    assert [t.user_attrs.get("again") for t in trials] == [None, None, 1, 2, None]
    assert len({str(t.params) for t in trials[1:4]}) == 1
    assert stage.running() == [] and stage.best() == uninterrupted.best()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_to_a_process(number, told, stage):
    done = run_signalled(stage, number, "trial 1", 2, *HPO, figures=True)
    assert done.returncode == 130
    assert done.stderr == f"fusion-lab: {told}; the same command continues\n"
    assert stage.running() == [] and {run.info.status for run in stage.of_kind("study")} == {"KILLED"}


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_bits(stage, results, monkeypatch, capsys):
    stage.experiment("tiny", TINY, training__epochs=6, training__patience=6)
    assert run_signalled(stage, signal.SIGKILL, "tiny", 4, *TRAIN).returncode == -signal.SIGKILL
    assert len(stage.running()) == 1
    assert main(TRAIN) == 0
    assert "continues from" in capsys.readouterr().out
    assert stage.running() == [] and stage.studies() == []
    assert main(TRAIN) == 0
    assert same_bits(*results)
    assert [run.info.status for run in stage.runs()] == ["KILLED", "FINISHED", "FINISHED"]
