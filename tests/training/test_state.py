"""Laws of checkpoints: training that goes on from one equals training that never stopped."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_plans import OWN, REGRESSION, TWO_TASKS, make_plan

from fusion_lab.contracts import DataError
from fusion_lab.training import CONTINUE, Decision, cross_validate, state
from fusion_lab.training.plan import Execution

STOPPING = {**TWO_TASKS, "training.epochs": 5, "training.patience": 1}


class Kill(Exception):  # noqa: N818 - a kill, not an error
    pass


def killed_at(epoch: int):
    def on_eval(evaluation):
        if evaluation.epoch == epoch:
            raise Kill
        return CONTINUE

    return on_eval


def interrupted(plan, path, epoch: int) -> None:
    with pytest.raises(Kill):
        cross_validate(plan, killed_at(epoch), path)


@pytest.mark.parametrize(
    ("tasks", "mode", "size", "epochs"),
    [
        (TWO_TASKS, "stacked", None, (1, 2, 3, 4, 5)),
        pytest.param(TWO_TASKS, "stacked", 2, (2, 4), marks=pytest.mark.slow),
        (TWO_TASKS, "loop", None, (2, 4)),
        (REGRESSION, "stacked", None, (2, 4)),
    ],
)
@pytest.mark.parametrize(
    "own",
    [
        pytest.param(False, id="settings for all", marks=pytest.mark.slow),
        pytest.param(True, id="settings of their own"),
    ],
)
def test_continuing_after_any_epoch_equals_never_stopping(tmp_path, tasks, mode, size, epochs, own):
    """Bit by bit, in single precision."""
    plan = make_plan({**STOPPING, **tasks, "training.mode": mode, "training.stack_size": size})
    plan = dataclasses.replace(plan, optimisers=OWN[:4]) if own else plan
    whole = cross_validate(plan)
    assert len({fold.epochs for fold in whole.folds}) > 1, "no fold left the stack: compaction unseen"
    for epoch in epochs:
        path = tmp_path / f"{epoch}.safetensors"
        interrupted(plan, path, epoch)
        assert path.exists() == (epoch > 1)
        again = cross_validate(plan, checkpoint=path)
        assert not path.exists()
        for one, other in zip(whole.folds, again.folds, strict=True):
            assert one.history == other.history
            assert (one.best_epoch, one.ending) == (other.best_epoch, other.ending)
            assert one.target_scale == other.target_scale
            assert all(torch.equal(weights, other.weights[name]) for name, weights in one.weights.items())
        for task, scores in whole.predictions.score.items():
            np.testing.assert_array_equal(scores, again.predictions.score[task])


def test_continuing_where_the_last_epoch_is_restored_equals_never_stopping(tmp_path):
    plan, path = make_plan({**STOPPING, "training.restore": "last"}), tmp_path / "last.safetensors"
    whole = cross_validate(plan)
    interrupted(plan, path, 3)
    again = cross_validate(plan, checkpoint=path)
    for one, other in zip(whole.folds, again.folds, strict=True):
        assert (one.history, one.best_epoch, one.ending) == (other.history, other.best_epoch, other.ending)
        assert one.best_epoch == 5
        assert all(torch.equal(weights, other.weights[name]) for name, weights in one.weights.items())


def test_what_is_loaded_is_what_was_saved(tmp_path):
    plan, path, copy = make_plan(STOPPING), tmp_path / "state.safetensors", tmp_path / "copy.safetensors"
    interrupted(plan, path, 4)
    first = state.State.load(path, plan)
    assert len(first.alive) < 4, "no fold left the stack"
    first.save(copy, plan.fingerprint)
    again = state.State.load(copy, plan)
    names = [name for name, _ in plan.initial_weights(0).named_parameters()]
    for part in ("weights", "best_scores"):
        leaves, same = getattr(first, part), getattr(again, part)
        assert leaves.keys() == same.keys()
        assert all(torch.equal(leaf, same[name]) for name, leaf in leaves.items())
    assert sorted(first.weights) == sorted(names)
    memory, same = first.optimiser.moments(), again.optimiser.moments()
    assert memory.keys() == same.keys()
    assert all(torch.equal(leaf, same[name]) for name, leaf in memory.items())
    for name in ("execution", "epoch", "alive", "watched", "best_epoch", "endings", "histories"):
        assert getattr(first, name) == getattr(again, name)
    assert all(len(leaf) == len(first.alive) for leaf in (*first.weights.values(), *memory.values()))
    assert list(first.shelf) == list(again.shelf) and {fold for fold, _ in first.shelf} == {0, 1, 2, 3}
    for slot in first.shelf:
        assert list(first.shelf.get(slot)) == names
        assert all(torch.equal(leaf, again.shelf.get(slot)[name]) for name, leaf in first.shelf.get(slot).items())


def test_leaves_lie_in_the_order_of_the_model_after_loading(tmp_path):
    """The norm of a fold's gradient is a sum over leaves: in another order it is rounded otherwise."""
    plan, path = make_plan(), tmp_path / "state.safetensors"
    interrupted(plan, path, 2)
    loaded, fresh = state.State.load(path, plan), state.State.start(plan, Execution("loop", None, "a test"), {})
    assert list(loaded.weights) == list(fresh.weights)
    assert list(loaded.optimiser.moments()) == list(fresh.optimiser.moments())


def test_many_kills_are_as_good_as_none(tmp_path):
    plan = make_plan()
    path = tmp_path / "state.safetensors"
    for epoch in (2, 2, 4):
        interrupted(plan, path, epoch)
    again, whole = cross_validate(plan, checkpoint=path), cross_validate(plan)
    assert [fold.history for fold in again.folds] == [fold.history for fold in whole.folds]


def test_epochs_already_told_are_not_told_again_and_folds_stopped_stay_stopped(tmp_path):
    plan, path, told = make_plan(), tmp_path / "state.safetensors", []

    def first(evaluation):
        return killed_at(3)(evaluation) if evaluation.epoch > 1 else Decision(stop=frozenset({1}))

    with pytest.raises(Kill):
        cross_validate(plan, first, path)
    result = cross_validate(plan, lambda e: told.append((e.epoch, e.running)) or CONTINUE, path)
    assert told == [(3, (0, 2, 3)), (4, (0, 2, 3)), (5, ())]
    assert [fold.ending for fold in result.folds] == ["epochs", "pruned", "epochs", "epochs"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    """A checkpoint of ``make_plan()`` after its first epoch."""
    path = tmp_path_factory.mktemp("saved") / "state.safetensors"
    interrupted(make_plan(), path, 2)
    return path.read_bytes()


@pytest.mark.parametrize(
    "settings", [{"optimiser.lr": 0.02}, {"data.seed": 1}, {"folds.seed": 1}, {"seed": 1}, {"trial": 1}]
)
def test_a_checkpoint_of_anything_else_is_refused(tmp_path, saved, settings):
    path = tmp_path / "state.safetensors"
    path.write_bytes(saved)
    with pytest.raises(DataError, match="expected a checkpoint of this configuration, data and split") as error:
        cross_validate(make_plan(settings), checkpoint=path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == saved


@pytest.mark.parametrize("left", [0, 7, 100, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused_in_one_line(tmp_path, saved, left):
    path = tmp_path / "state.safetensors"
    path.write_bytes(saved[: left if isinstance(left, int) else int(left * len(saved))])
    with pytest.raises(DataError, match="expected a checkpoint in safetensors format") as error:
        cross_validate(make_plan(), checkpoint=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_safetensors_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="expected a checkpoint of this configuration"):
        cross_validate(make_plan(), checkpoint=path)


def test_a_crash_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    plan, path = make_plan(), tmp_path / "state.safetensors"
    interrupted(plan, path, 3)
    before = path.read_bytes()

    def full_disk(half, entries, metadata):
        half.write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(state, "write_stream", full_disk)
    with pytest.raises(DataError, match="expected a checkpoint that can be written, found: .*no space left") as error:
        cross_validate(plan, checkpoint=path)
    monkeypatch.undo()
    assert str(path) in str(error.value)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before
    again, whole = cross_validate(plan, checkpoint=path), cross_validate(plan)
    assert [fold.history for fold in again.folds] == [fold.history for fold in whole.folds]


@pytest.mark.parametrize("blocked", ["the folder is a file", "the file is a folder", "the half is a folder"])
def test_a_checkpoint_that_cannot_be_written_is_told_in_one_line(tmp_path, blocked):
    path = tmp_path / "run" / "state.safetensors"
    if blocked == "the folder is a file":
        path.parent.write_text("in the way")
    else:
        name = "state.safetensors" if blocked == "the file is a folder" else "state.part"
        (path.parent / name / "in the way").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    current = state.State.start(make_plan(), Execution("loop", None, "a test"), {})
    with pytest.raises(DataError, match="expected a checkpoint that can be written, found: ") as error:
        current.save(path, "fingerprint")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_was_never_written_need_not_be_removed(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cross_validate(make_plan({"training.epochs": 1}), checkpoint=tmp_path / "file" / "state.safetensors")


def test_a_checkpoint_that_cannot_be_removed_is_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match="expected a checkpoint that can be removed, found: ") as error:
        state.discard(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: ")
