"""Laws of a study: the same command continues it, and a kill at any moment changes nothing of what it finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from optuna.trial import TrialState
from small_study import SPACE, open_study, run, score

from fusion_lab.config import dump_yaml
from fusion_lab.contracts import ConfigError, UserError
from fusion_lab.experiment import Materials, read_experiment
from fusion_lab.search.space import check_space
from fusion_lab.search.study import Clock, read_study
from fusion_lab.training import CONTINUE, cross_validate
from fusion_lab.training.plan import Execution


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """A study tries few points of its space before it starts; what is found that way has tests of its own."""
    monkeypatch.setattr("fusion_lab.search.study.check_space", partial(check_space, draws=20))


def values(study) -> list[tuple]:
    """What the trials that count have come to, in their order."""
    return [(t.params, t.value, t.state) for t in study.ended()]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_suggestion_depends_on_the_trials_before_it_and_not_on_the_process(tmp_path, sampler):
    config = {"sampler": {"name": sampler, "startup_trials": 3}}
    once = run(open_study(tmp_path / "once", config), 10)
    pieces = []
    for count in (1, 3, 2, 4):
        pieces += run(open_study(tmp_path / "pieces", config), count)
    assert pieces == once
    assert len({dump_yaml(tree) for tree in once}) == 10
    assert [tree["trial"] for tree in once] == list(range(10))


INSIDE = {"optimiser.lr": 2e-3, "model.d_model": 8}


def test_the_first_trial_is_the_experiment_as_it_is(tmp_path):
    study = open_study(tmp_path / "base", experiment=INSIDE)
    assert study.start is not None
    (first,) = run(study, 1)
    plain = {**study.base.resolved(), "selected": study.name}
    assert first == plain
    drawn = run(open_study(tmp_path / "drawn", {"start": "drawn"}, INSIDE), 3)
    assert plain["optimiser"]["lr"] not in [tree["optimiser"]["lr"] for tree in drawn]


def test_an_experiment_outside_of_the_space_is_not_tried(tmp_path):
    study = open_study(tmp_path, experiment={**INSIDE, "optimiser.lr": 0.5})
    assert study.start is None
    assert run(study, 1)[0]["optimiser"]["lr"] != 0.5


def test_a_kill_before_the_first_trial_began_loses_nothing(tmp_path):
    study = open_study(tmp_path / "killed", experiment=INSIDE)
    study._study.enqueue_trial(study.start)  # noqa: SLF001 - as far as the killed process came
    del study
    again = run(open_study(tmp_path / "killed", experiment=INSIDE), 3)
    assert again == run(open_study(tmp_path / "whole", experiment=INSIDE), 3)


def never() -> Execution:
    raise AssertionError("it was timed again")


def test_how_folds_are_computed_is_settled_once_and_written_into_every_configuration(tmp_path):
    auto = {"training.mode": "auto"}
    chosen = Execution("stacked", 2, "1.0 ms for a step of one fold when stacked, 2.0 ms in the loop")
    study = open_study(tmp_path, experiment=auto)
    with study.locked():
        assert study.settle(lambda: chosen) == chosen
    again = open_study(tmp_path, experiment=auto)
    with again.locked():
        assert again.settle(never) == chosen
    suggestion = again.ask()
    again.tell(suggestion, 0.5)
    for experiment in (suggestion.experiment, again.experiment_of(again.ended()[0])):
        assert (experiment.training.mode, experiment.training.stack_size) == ("stacked", 2)
    assert again.name == study.name
    assert "execution.json" in os.listdir(again.folder)
    assert not list(again.folder.glob("*.part"))


def test_what_is_asked_for_outlives_what_was_settled(tmp_path):
    study, asked = open_study(tmp_path, experiment={"training.mode": "loop"}), Execution("loop", None, "asked for")
    with study.locked():
        study.settle(lambda: Execution("stacked", None, "an older command"))
        assert study.settle(lambda: asked) == asked
    assert study.ask().experiment.training.mode == "loop"


def test_another_seed_searches_elsewhere(tmp_path):
    first, second = (run(open_study(tmp_path, experiment={"seed": seed}), 2) for seed in (0, 1))
    assert [tree["optimiser"] for tree in first] != [tree["optimiser"] for tree in second]


def test_the_budget_counts_trials_that_ended_over_all_runs_of_the_command(tmp_path):
    study = open_study(tmp_path)
    run(study, 4)
    study.ask()
    assert [t.state for t in study.ended()] == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
    assert len(open_study(tmp_path).ended()) == 4


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_trial_killed_in_the_middle_is_run_again_and_no_finished_one(tmp_path, after):
    run(study := open_study(tmp_path / "killed"), after)
    lost = study.ask()
    lost.trial.report(0.5, 1)
    del study

    again = open_study(tmp_path / "killed")
    assert again.recover() == [lost.number]
    assert len(again.ended()) == after
    repeated = again.ask()
    assert repeated.again == lost.number
    assert repeated.number != lost.number
    assert repeated.experiment == lost.experiment
    again.tell(repeated, score(repeated))
    assert again.recover() == []
    run(again, 5)

    run(whole := open_study(tmp_path / "whole"), after)
    first = whole.ask()
    whole.tell(first, score(first))
    run(whole, 5)
    assert values(again) == values(whole)
    assert [t.user_attrs["stream"] for t in again.ended()] == list(range(after + 6))


def test_a_trial_killed_again_and_again_is_still_the_same(tmp_path):
    study = open_study(tmp_path)
    run(study, 4)
    lost = study.ask()
    for _ in range(3):
        study = open_study(tmp_path)
        assert len(study.recover()) == 1
        repeated = study.ask()
        assert repeated.experiment == lost.experiment
    assert len(study.ended()) == 4


def test_a_trial_killed_while_it_was_put_back_is_run_once(tmp_path, monkeypatch):
    study = open_study(tmp_path)
    lost = study.ask()

    def kill(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(study._study, "tell", kill)
    with pytest.raises(KeyboardInterrupt):
        study.recover()
    again = open_study(tmp_path)
    assert again.recover() == [lost.number]
    assert again.ask().experiment == lost.experiment
    assert again.ask().experiment != lost.experiment


def test_a_trial_killed_before_its_configuration_was_drawn_leaves_no_gap(tmp_path):
    study = open_study(tmp_path / "killed")
    run(study, 2)
    study._study.ask()
    study = open_study(tmp_path / "killed")
    assert study.recover() == [2]
    assert run(study, 3) == run(open_study(tmp_path / "whole"), 5)[2:]


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path):
    study = open_study(tmp_path)
    assert not study.trials()  # its folder is made when it is first asked
    hold = "import fcntl, os, sys, time; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); "
    hold += "f.write(str(os.getpid())); f.flush(); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, study.folder / "lock"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"found process {other.pid} at it"), study.locked():
            raise AssertionError("two processes at one study")
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    with study.locked():
        assert (study.folder / "lock").read_text() == str(os.getpid())
        with pytest.raises(UserError, match=f"{study.name}.*found process {os.getpid()}"), study.locked():
            raise AssertionError("one process twice at one study")


def test_a_study_is_known_by_space_data_folds_seed_and_settings_but_not_by_its_budget(tmp_path):
    name = open_study(tmp_path).name
    same = [{"budget": {"trials": 99, "timeout": 3.0}}, {"keep": "all"}, {"experiment": "a path to it"}]
    assert {open_study(tmp_path, config).name for config in same} == {name}
    assert open_study(tmp_path, experiment={"description": "told otherwise"}).name == name
    reordered = dict(reversed(list(SPACE.items())))
    others = [
        open_study(tmp_path, {"space": {"optimiser": SPACE["optimiser"]}}),
        open_study(tmp_path, {"space": reordered}),
        open_study(tmp_path, {"sampler": {"name": "random"}}),
        open_study(tmp_path, {"pruner": {"name": "median"}}),
        open_study(tmp_path, experiment={"data.rows": 66}),
        open_study(tmp_path, experiment={"folds.seed": 1}),
        open_study(tmp_path, experiment={"seed": 1}),
        open_study(tmp_path, experiment={"training.epochs": 7}),
    ]
    assert len({name, *(other.name for other in others)}) == len(others) + 1


def test_best_is_the_first_of_the_highest_complete_trials(tmp_path):
    study = open_study(tmp_path)
    assert study.best() is None
    told = [(0.5, "COMPLETE"), (0.7, "COMPLETE"), (0.9, "PRUNED"), (0.7, "COMPLETE"), (None, "FAIL"), (0.6, "COMPLETE")]
    for value, state in told:
        suggestion = study.ask()
        if value is not None:
            suggestion.trial.report(value, 1)
        study.tell(suggestion, value, TrialState[state])
    best = study.best()
    assert best is not None
    assert (best.number, best.value) == (1, 0.7)
    assert len(study.ended()) == 6


def test_every_trial_gives_its_configuration_back(tmp_path):
    study = open_study(tmp_path)
    asked = run(study, 8)
    again = open_study(tmp_path)
    assert [again.experiment_of(trial).resolved() for trial in again.trials()] == asked
    assert all(tree["selected"] == study.name for tree in asked)


def test_the_best_configuration_as_a_file_reproduces_its_value(tmp_path):
    study = open_study(tmp_path, experiment={"training.epochs": 2})
    for _ in range(2):
        suggestion, told = study.ask(), []
        materials = Materials.load(suggestion.experiment)
        cross_validate(materials.plan(suggestion.experiment), lambda e, told=told: told.append(e.value) or CONTINUE)
        study.tell(suggestion, told[-1])
    best = study.best()
    assert best is not None
    file = tmp_path / "best.yaml"
    file.write_text(dump_yaml(study.experiment_of(best).resolved()))
    experiment, told = read_experiment(str(file)), []
    cross_validate(Materials.load(experiment).plan(experiment), lambda e: told.append(e.value) or CONTINUE)
    assert told[-1] == best.value
    assert experiment.selected == study.name


def curve(study, scores: list[float]) -> int | None:
    """Runs a trial that reports these; the epoch at which it was pruned, if it was."""
    suggestion = study.ask()
    for epoch, value in enumerate(scores, 1):
        suggestion.trial.report(value, epoch)
        if suggestion.trial.should_prune():
            study.tell(suggestion, value, TrialState.PRUNED)
            return epoch
    study.tell(suggestion, scores[-1])
    return None


def test_the_median_pruner_compares_trials_at_the_same_epoch(tmp_path):
    config = {"pruner": {"name": "median", "startup_trials": 3, "warmup_epochs": 2}}
    study = open_study(tmp_path, config)
    rising = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    assert curve(study, [0.1] * 6) is None, "not before three trials have finished"
    assert [curve(study, [v + d for v in rising]) for d in (0.0, 0.02)] == [None, None]
    study = open_study(tmp_path, config)  # what it compares with comes from the journal
    assert curve(study, [0.1] * 6) == 2, "not in the first epoch, which is for warming up"
    assert curve(study, [0.55, 0.65, 0.75, 0.79, 0.79, 0.79]) == 4, "as good as others were until epoch 3"
    assert curve(study, [v + 0.01 for v in rising]) is None
    assert [t.state.name for t in study.trials()].count("PRUNED") == 2


def test_hyperband_gives_up_bad_trials_and_keeps_good_ones(tmp_path):
    study = open_study(tmp_path, {"pruner": {"name": "hyperband", "warmup_epochs": 1, "reduction_factor": 2}})
    ends = [curve(study, [quality / 20 + 0.001 * epoch for epoch in range(6)]) for quality in range(20, 0, -1)]
    assert ends[0] is None
    assert any(end is not None and end < 6 for end in ends[10:])
    assert sum(end is not None for end in ends[:10]) < sum(end is not None for end in ends[10:])


def test_hyperband_needs_more_epochs_than_it_warms_up(tmp_path):
    told = r"hpo/small.yaml: pruner.warmup_epochs: expected at most training.epochs \(6\), found 9"
    with pytest.raises(ConfigError, match=told):
        open_study(tmp_path, {"pruner": {"name": "hyperband", "warmup_epochs": 9}})
    assert list(tmp_path.iterdir()) == [], "nothing is left of a study that never was"


def test_a_point_that_is_no_experiment_fails_its_trial_and_says_why(tmp_path, monkeypatch):
    study = open_study(tmp_path)
    monkeypatch.setattr(type(study.space), "sample", lambda space, trial: {"model.nhead": 3})
    with pytest.raises(ConfigError, match="hpo/small.yaml: trial 0: .*multiple of nhead"):
        study.ask()
    (failed,) = study.ended()
    assert "multiple of nhead" in failed.user_attrs["reason"]
    assert study.recover() == []


def test_importance_names_the_setting_that_matters(tmp_path):
    study = open_study(tmp_path, {"sampler": {"name": "random"}})
    assert study.importance() == {}
    for _ in range(24):
        suggestion = study.ask()
        study.tell(suggestion, suggestion.experiment.model.dropout)
    shares = study.importance()
    assert max(shares, key=lambda name: shares[name]) == "model.dropout"
    assert sum(shares.values()) == pytest.approx(1)


def test_a_study_file_takes_the_command_lines_budget(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("space: {model: {dropout: {float: [0, 0.5]}}}\nbudget: {trials: 7}\n")
    config = read_study(file, {"budget.timeout": 2.0})
    assert (config.experiment, config.budget.trials, config.budget.timeout) == (None, 7, 2.0)
    with pytest.raises(ConfigError, match="budget.trials: expected greater than or equal to 1, found 0"):
        read_study(file, {"budget.trials": 0})
    file.write_text("space: {}\nprunner: {}\n")
    with pytest.raises(ConfigError, match=r"small.yaml: prunner: unknown key \(did you mean 'pruner'\?\)"):
        read_study(file)


def test_a_clock_runs_out():
    assert not Clock(None).is_over()
    assert not Clock(60.0).is_over()
    assert Clock(-1.0).is_over()
