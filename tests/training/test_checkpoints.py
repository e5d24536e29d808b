"""Laws of the checkpoints beside the restored one: what is kept is what a fold was, and keeping it changes nothing."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_plans import REGRESSION, TWO_TASKS, make_plan, pick

from fusion_lab.contracts import DataError, Task
from fusion_lab.training import CONTINUE, CrossValidation, Decision, cross_validate
from fusion_lab.training.checkpoints import FINAL, MEAN, of_task
from fusion_lab.training.results import FoldResult

ALL = {**TWO_TASKS, "training.checkpoints": "all", "training.epochs": 6, "training.patience": 2}
NAMES = {of_task("outcome"), of_task("grade"), MEAN, FINAL}
WAYS = [("stacked", 2), ("loop", None)]


class Kill(Exception):  # noqa: N818 - a kill, not an error
    pass


def interrupted(plan, path, epoch: int) -> None:
    def on_eval(evaluation):
        if evaluation.epoch == epoch:
            raise Kill
        return CONTINUE

    with pytest.raises(Kill):
        cross_validate(plan, on_eval, path)


def curve(fold: FoldResult, task: str, metric: str = "auroc") -> np.ndarray:
    return np.array([row[f"val/{task}/{metric}"] for row in fold.history])


def first_best(values: np.ndarray) -> int:
    return int(np.argmax(values)) + 1


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(leaf, other[name]) for name, leaf in one.items())


def weights_after(plan, epoch: int) -> list[dict[str, torch.Tensor]]:
    """Of every fold after so many epochs: where a training that is ended there and keeps the last epoch stands."""
    last = dataclasses.replace(plan, training=plan.training.model_copy(update={"restore": "last"}))
    ended = cross_validate(last, lambda e: Decision(prune=e.epoch == epoch))
    return [fold.weights for fold in ended.folds]


@cache
def weights_after_every_epoch(mode: str, size: int | None) -> dict[int, list[dict[str, torch.Tensor]]]:
    plan = make_plan({**ALL, "training.mode": mode, "training.stack_size": size})
    return {epoch: weights_after(plan, epoch) for epoch in range(1, 7)}


def assert_same(one: CrossValidation, other: CrossValidation) -> None:
    for a, b in zip(one.folds, other.folds, strict=True):
        assert a.history == b.history
        assert equal(a.weights, b.weights)
        assert a.checkpoints.keys() == b.checkpoints.keys()
        for name, checkpoint in a.checkpoints.items():
            assert checkpoint.epoch == b.checkpoints[name].epoch
            assert equal(checkpoint.weights, b.checkpoints[name].weights)


@pytest.mark.slow
@pytest.mark.parametrize("restore", ["best", "last"])
@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_a_checkpoint_is_the_fold_at_the_epoch_of_its_best_score(mode, size, restore):
    plan = make_plan({**ALL, "training.mode": mode, "training.stack_size": size, "training.restore": restore})
    result = cross_validate(plan)
    reached = weights_after_every_epoch(mode, size)
    assert restore == "last" or len({fold.epochs for fold in result.folds}) > 1, "no fold left the stack"
    for fold in result.folds:
        own = {task: curve(fold, task) for task in ("outcome", "grade")}
        expected = {of_task(task): first_best(values) for task, values in own.items()}
        expected |= {MEAN: first_best(np.mean(list(own.values()), axis=0)), FINAL: fold.epochs}
        assert {name: checkpoint.epoch for name, checkpoint in fold.checkpoints.items()} == expected
        for checkpoint in fold.checkpoints.values():
            assert equal(checkpoint.weights, reached[checkpoint.epoch][fold.fold])
        restored = fold.checkpoints[MEAN if restore == "best" else FINAL]
        assert (restored.epoch, restored.weights) == (fold.best_epoch, fold.weights)
    epochs = [{c.epoch for c in fold.checkpoints.values()} for fold in result.folds]
    assert max(map(len, epochs)) > 2, "nothing to tell the checkpoints apart"


def test_what_is_kept_decides_nothing_of_what_comes_out():
    every, restored = (cross_validate(make_plan({**ALL, "training.checkpoints": c})) for c in ("all", "restored"))
    assert all(fold.checkpoints.keys() == NAMES for fold in every.folds)
    assert all(fold.checkpoints == {} for fold in restored.folds)
    for one, other in zip(every.folds, restored.folds, strict=True):
        assert one.history == other.history
        assert equal(one.weights, other.weights)
    for task, scores in every.predictions.score.items():
        np.testing.assert_array_equal(scores, restored.predictions.score[task])


def test_the_stack_keeps_what_the_loop_keeps():
    plans = [make_plan({**ALL, "training.mode": mode}, dtype=torch.float64) for mode in ("stacked", "loop")]
    stacked, loop = map(cross_validate, plans)
    for one, other in zip(stacked.folds, loop.folds, strict=True):
        for name, checkpoint in one.checkpoints.items():
            assert checkpoint.epoch == other.checkpoints[name].epoch
            for leaf, weights in checkpoint.weights.items():
                torch.testing.assert_close(weights, other.checkpoints[name].weights[leaf], rtol=0, atol=1e-9)


def test_checkpoints_of_a_fold_do_not_depend_on_the_folds_beside_it():
    settings = {**ALL, "training.mode": "loop"}
    every, some = cross_validate(make_plan(settings)), cross_validate(make_plan(settings, pick(2, 0)))
    for fold in some.folds:
        same = next(other for other in every.folds if other.name == fold.name)
        assert all(equal(c.weights, same.checkpoints[name].weights) for name, c in fold.checkpoints.items())


def test_a_fold_that_is_stopped_keeps_the_last_weights_it_reached():
    plan = make_plan({**ALL, "training.patience": 6, "training.mode": "loop"})
    result = cross_validate(plan, lambda e: Decision(stop=frozenset({1})) if e.epoch == 2 else CONTINUE)
    final = [fold.checkpoints[FINAL] for fold in result.folds]
    assert [checkpoint.epoch for checkpoint in final] == [6, 2, 6, 6]
    assert equal(final[1].weights, weights_after(plan, 2)[1])


@pytest.mark.parametrize(("tasks", "restore"), [(TWO_TASKS, "best"), (REGRESSION, "last")])
def test_continuing_after_any_epoch_keeps_what_never_stopping_keeps(tmp_path, tasks, restore):
    plan = make_plan({**ALL, **tasks, "training.restore": restore})
    whole = cross_validate(plan)
    assert restore == "last" or len({fold.epochs for fold in whole.folds}) > 1, "no fold left the stack"
    for epoch in (2, 4):
        path = tmp_path / f"{epoch}.safetensors"
        interrupted(plan, path, epoch)
        assert_same(cross_validate(plan, checkpoint=path), whole)


@pytest.mark.slow
def test_a_training_that_began_without_them_cannot_keep_them_all_and_the_other_way_round_can(tmp_path):
    few, every = (make_plan({**ALL, "training.checkpoints": which}) for which in ("restored", "all"))
    assert few.fingerprint == every.fingerprint
    path = tmp_path / "state.safetensors"
    interrupted(few, path, 2)
    with pytest.raises(DataError, match=r"keeps best_outcome, best_grade, final .* found one that began without them"):
        cross_validate(every, checkpoint=path)
    assert_same(cross_validate(few, checkpoint=path), cross_validate(few))
    interrupted(every, path, 2)
    assert_same(cross_validate(few, checkpoint=path), cross_validate(few))


def test_beside_a_watched_loss_tasks_go_by_their_scores():
    result = cross_validate(make_plan({**ALL, "training.monitor": "loss"}))
    for fold in result.folds:
        assert fold.checkpoints[MEAN].epoch == first_best(-np.array([row["val/loss"] for row in fold.history]))
        assert fold.checkpoints[of_task("grade")].epoch == first_best(curve(fold, "grade"))


def test_a_task_whose_score_is_undefined_goes_by_the_loss_and_the_others_do_not():
    def one_class(folds, data):
        val = folds.val.copy()
        val[1] &= data.targets["outcome"].numpy() == 0
        return dataclasses.replace(folds, val=val)

    result = cross_validate(make_plan(ALL, one_class))
    fold = result.folds[1]
    by_loss = first_best(-np.array([row["val/loss"] for row in fold.history]))
    assert np.isnan(curve(fold, "outcome")).all()
    assert fold.checkpoints[of_task("outcome")].epoch == fold.checkpoints[MEAN].epoch == by_loss
    assert fold.checkpoints[of_task("grade")].epoch == first_best(curve(fold, "grade"))


@given(
    tasks=st.lists(st.sampled_from(["mean", "task_mean", "task_task_mean", "a", "task_a", "best_mean"]), unique=True)
)
def test_no_two_checkpoints_have_one_name(tasks):
    names = [*(of_task(Task(task, "regression").name) for task in tasks), MEAN, FINAL]
    assert len(set(names)) == len(names)
