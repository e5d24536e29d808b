"""How folds are computed: by what was measured, by what was asked for, or in turn where a model cannot be stacked."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_plans import make_plan, pick

from fusion_lab.contracts import ConfigError, Output
from fusion_lab.training import cross_validate, execution
from fusion_lab.training.execution import check_stackable, settle
from fusion_lab.training.folds import CONTINUE
from fusion_lab.zoo.token_fusion import TokenFusion

AUTO = {"training.mode": "auto", "training.epochs": 2}


class Branching(TokenFusion):
    """Asks a tensor for a value, which in a stack has one for each fold."""

    Config = TokenFusion.Config

    def forward(self, batch, noise=None) -> Output:
        output = super().forward(batch, noise)
        return output if output.heads["outcome"].sum().item() < 1e9 else output._replace(maps={})


def branching(settings):
    plan = make_plan(settings)
    config = plan.build_model
    made = config()
    return dataclasses.replace(plan, build_model=lambda: _as(Branching, made, config))


def _as(kind, made, build):
    model = build()
    model.__class__ = kind
    return model


def timed(monkeypatch, seconds: dict[str, float]) -> list[list[tuple[str, int | None]]]:
    """Puts figures in the place of measured ones; the stacks that were to be timed."""
    asked = []

    def times(trial, *stacks):
        asked.append([(s.mode, s.size) for s in stacks])
        return [seconds[s.mode] for s in stacks]

    monkeypatch.setattr(execution._Trial, "times", times)
    return asked


@pytest.mark.parametrize(
    ("stacked", "loop", "expected"),
    [(1e-3, 2e-3, "stacked"), (2e-3, 1e-3, "loop"), (0.99e-3, 1e-3, "loop")],
)
def test_the_quicker_way_is_taken_and_both_figures_are_told(monkeypatch, stacked, loop, expected):
    timed(monkeypatch, {"stacked": stacked, "loop": loop})
    found = settle(make_plan(AUTO))
    assert found.mode == expected, "a stack has to be worth its memory"
    assert found.reason == (
        f"{stacked * 1e3:.1f} ms for a step of one fold when stacked, {loop * 1e3:.1f} ms in the loop"
    )


def test_both_ways_are_really_timed():
    plan = make_plan(AUTO)
    model = plan.initial_weights(0)
    stacks = (execution.Stack(model, plan.objective, mode) for mode in ("stacked", "loop"))
    seconds = execution._Trial(plan).times(*stacks)
    assert all(0 < s < 10 for s in seconds)
    found = settle(plan)
    assert found.mode in ("stacked", "loop")
    assert "ms in the loop" in found.reason


@pytest.mark.slow
def test_timing_changes_nothing_that_training_sees():
    plan = make_plan(AUTO)
    settled = settle(plan)
    auto, asked = cross_validate(plan), cross_validate(make_plan({**AUTO, "training.mode": settled.mode}))
    if auto.execution.startswith(settled.mode):  # else the machine was disturbed in between
        assert [f.history for f in auto.folds] == [f.history for f in asked.folds]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    settle(plan)
    assert torch.equal(torch.rand(4), expected)


def test_one_fold_is_no_stack():
    assert settle(make_plan(AUTO, pick(1))) == ("loop", None, "there is one fold")


def test_what_is_asked_for_is_not_timed(monkeypatch):
    asked = timed(monkeypatch, {})
    assert settle(make_plan({"training.mode": "loop", "training.stack_size": 3})) == ("loop", None, "asked for")
    assert settle(make_plan({"training.mode": "stacked", "training.stack_size": 3})) == ("stacked", 3, "asked for")
    assert asked == []


@pytest.mark.parametrize(("largest", "size"), [(4, None), (3, 2), (2, 2), (1, 1)])
def test_more_folds_than_gain_anything_share_steps_in_even_parts(monkeypatch, largest, size):
    monkeypatch.setattr(execution, "LARGEST", largest)
    asked = timed(monkeypatch, {"stacked": 1.0, "loop": 2.0})
    assert settle(make_plan(AUTO)).size == size
    assert asked == [[("stacked", size), ("loop", 1)]]
    assert settle(make_plan({**AUTO, "training.stack_size": 3})).size == 3


@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("fit", [1, 2, 3, 4])
def test_gradients_of_the_folds_that_share_a_step_and_their_sums_fit_in(monkeypatch, accumulate, fit):
    plan = make_plan({**AUTO, "training.accumulate": accumulate})
    own = sum(leaf.nbytes for leaf in plan.initial_weights(0).parameters()) * (1 if accumulate == 1 else 2)
    asked = timed(monkeypatch, {"stacked": 1.0, "loop": 2.0})
    monkeypatch.setattr(execution, "MOST_BYTES", (fit + 1) * own - 1)
    found = settle(plan)
    assert (found.mode, bool(asked)) == (("loop", False) if fit == 1 else ("stacked", True))
    assert fit == 1 or (found.size or len(plan.folds)) <= fit


def test_a_model_that_cannot_be_stacked_runs_in_the_loop_and_the_operation_is_named():
    plan = branching(AUTO)
    found = settle(plan)
    assert found.mode == "loop"
    assert "item" in found.reason
    result = cross_validate(plan)
    assert result.execution == f"loop ({found.reason})"
    assert result.folds[0].history == cross_validate(make_plan({**AUTO, "training.mode": "loop"})).folds[0].history


def test_stacking_a_model_that_cannot_be_stacked_is_refused_before_training():
    check_stackable(make_plan({"training.mode": "stacked"}))
    check_stackable(branching(AUTO))
    with pytest.raises(ConfigError, match="training.mode: expected auto or loop .* found 'stacked': .*item"):
        check_stackable(branching({"training.mode": "stacked"}))


def test_what_was_settled_stays_when_training_goes_on(tmp_path, monkeypatch):
    plan, path = make_plan(AUTO), tmp_path / "state.safetensors"

    class Kill(Exception):  # noqa: N818 - a kill, not an error
        pass

    def kill(evaluation):
        if evaluation.epoch == 2:
            raise Kill
        return CONTINUE

    timed(monkeypatch, {"stacked": 2.0, "loop": 1.0})
    with pytest.raises(Kill):
        cross_validate(plan, kill, path)
    timed(monkeypatch, {"stacked": 1.0, "loop": 2.0})
    assert cross_validate(plan, checkpoint=path).execution.startswith("loop")
    assert cross_validate(plan).execution.startswith("stacked")
