"""Laws of cross-validation: what a fold learns is its own business, and its test rows are nobody's."""

from __future__ import annotations

import dataclasses
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from small_plans import OWN, REGRESSION, TWO_TASKS, make_plan, pick

from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.evaluation.folds import objective
from fusion_lab.objectives import Objective
from fusion_lab.training import CONTINUE, CrossValidation, Decision, Diverged, Evaluation, cross_validate, steps
from fusion_lab.training.optimiser import learning_rate
from fusion_lab.training.stack import Stack

EXACT = torch.float64
WAYS = [("stacked", None), ("stacked", 2), ("loop", None)]


def assert_same_fold(a, b, tolerance: float = 0.0) -> None:
    assert (a.name, a.best_epoch, a.epochs, a.ending) == (b.name, b.best_epoch, b.epochs, b.ending)
    assert [row.keys() for row in a.history] == [row.keys() for row in b.history]
    left, right = ([list(row.values()) for row in fold.history] for fold in (a, b))
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)
    for name, weights in a.weights.items():
        torch.testing.assert_close(weights, b.weights[name], rtol=0, atol=tolerance)


def assert_same(a: CrossValidation, b: CrossValidation, tolerance: float = 0.0) -> None:
    for one, other in zip(a.folds, b.folds, strict=True):
        assert_same_fold(one, other, tolerance)
    np.testing.assert_array_equal(a.predictions.row, b.predictions.row)
    for task, scores in a.predictions.score.items():
        np.testing.assert_allclose(scores, b.predictions.score[task], rtol=0, atol=tolerance)


def told(plan, **options) -> tuple[CrossValidation, list[Evaluation]]:
    evaluations: list[Evaluation] = []
    result = cross_validate(plan, lambda e: evaluations.append(e) or CONTINUE, **options)
    return result, evaluations


@pytest.mark.parametrize("fusion", ["transformer", "bottleneck", "gated"])
def test_stacked_equals_the_loop(fusion):
    settings = {**TWO_TASKS, "model.fusion": fusion, "training.patience": 2, "training.epochs": 7}
    results = [
        cross_validate(make_plan({**settings, "training.mode": mode}, dtype=EXACT)) for mode in ("stacked", "loop")
    ]
    assert len({fold.epochs for fold in results[0].folds}) > 1, "no fold stopped before another: compaction unseen"
    assert_same(*results, tolerance=1e-9)


@cache
def computed(mode: str, size: int | None, *chosen: int) -> CrossValidation:
    """Three epochs of some folds, of all where none is chosen."""
    settings = {"training.mode": mode, "training.stack_size": size, "training.epochs": 3}
    return cross_validate(make_plan(settings, pick(*(chosen or range(4))), dtype=EXACT))


@pytest.mark.parametrize(("mode", "size"), WAYS)
@pytest.mark.parametrize("chosen", [[3, 1, 0, 2], [2, 0], [1]])
def test_a_fold_does_not_depend_on_the_folds_beside_it(mode, size, chosen):
    every, some = computed(mode, size), computed(mode, size, *chosen)
    assert [fold.name for fold in some.folds] == [every.folds[k].name for k in chosen]
    for fold, k in zip(some.folds, chosen, strict=True):
        assert_same_fold(fold, every.folds[k], tolerance=1e-9)


@pytest.mark.parametrize("tasks", [{}, REGRESSION])
@pytest.mark.parametrize(("mode", "dtype", "tolerance"), [("loop", torch.float32, 0.0), ("stacked", EXACT, 1e-9)])
def test_folds_that_end_change_no_other_fold(tasks, mode, dtype, tolerance):
    plan = make_plan({**tasks, "training.mode": mode}, dtype=dtype)
    whole = cross_validate(plan)
    some = cross_validate(plan, lambda e: Decision(stop=frozenset({0, 3})) if e.epoch == 2 else CONTINUE)
    assert [f.ending for f in some.folds] == ["pruned", "epochs", "epochs", "pruned"]
    assert [f.epochs for f in some.folds] == [2, 5, 5, 2]
    for k in (1, 2):
        assert_same_fold(some.folds[k], whole.folds[k], tolerance)


def test_the_same_plan_gives_the_same_bits_and_another_trial_or_seed_does_not():
    plan = make_plan({"training.epochs": 2})
    first = cross_validate(plan)
    torch.rand(7)  # the global generator is nobody's
    assert_same(first, cross_validate(plan))
    for change in ({"trial": 1}, {"seed": 1}):
        other = cross_validate(dataclasses.replace(plan, **change))
        assert other.folds[0].history[0]["train/loss"] != first.folds[0].history[0]["train/loss"]


def drawn(plan, monkeypatch) -> tuple[list[bytes], list[bytes]]:
    """What every step of every fold is given for dropout, and the generators for augmentation, in order."""
    noises, generators = [], []
    gradients, augment = Stack.gradients, steps.augment

    def spy_on_noise(stack, weights, batch, noise, *rest):
        noises.extend(own.numpy().tobytes() for own in noise)
        return gradients(stack, weights, batch, noise, *rest)

    def spy_on_generators(batch, spec, config, given):
        kept = list(given)
        generators.extend(pickle.dumps(own.bit_generator.state) for own in kept)
        return augment(batch, spec, config, kept)

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "gradients", spy_on_noise)
        patch.setattr(steps, "augment", spy_on_generators)
        cross_validate(plan)
    return noises, generators


def test_every_step_of_every_fold_has_random_numbers_of_its_own(monkeypatch):
    """Of its seed, trial, fold, epoch and step; the fold goes by its name."""
    plan = make_plan({"training.epochs": 2})
    first = drawn(plan, monkeypatch)
    others = [drawn(dataclasses.replace(plan, **change), monkeypatch) for change in ({"trial": 1}, {"seed": 1})]
    for kind, numbers in enumerate(first):
        everything = [*numbers, *(n for other in others for n in other[kind])]
        assert len(set(everything)) == len(everything) == 3 * 4 * 2 * 2, "folds, epochs, steps"
    for kind, numbers in enumerate(drawn(make_plan({"training.epochs": 2}, pick(3, 1)), monkeypatch)):
        assert numbers == [first[kind][4 * step + k] for step in range(4) for k in (3, 1)]


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    cross_validate(make_plan({"training.epochs": 1}))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("mode", "size"), WAYS)
def test_predictions_are_those_of_the_best_weights(mode, size):
    plan = make_plan({**TWO_TASKS, "training.mode": mode, "training.stack_size": size})
    result = cross_validate(plan)
    for fold in result.folds:
        model = plan.initial_weights(fold.fold)
        model.load_state_dict(fold.weights)
        for split in ("val", "test"):
            part = result.predictions.of(split, fold.fold)
            assert part.row.tolist() == np.flatnonzero(getattr(plan.folds, split)[fold.fold]).tolist()
            with torch.no_grad():
                heads = model(plan.batch(part.row, plan.scaler.fold(fold.fold)).without_targets()).heads
            np.testing.assert_allclose(part.score["outcome"], torch.sigmoid(heads["outcome"]), atol=1e-6)
            np.testing.assert_allclose(part.score["grade"], torch.softmax(heads["grade"], -1), atol=1e-6)


def test_more_scores_of_each_epoch_are_scikit_learns_and_decide_nothing():
    plain, more = (cross_validate(make_plan({**TWO_TASKS, "training.curves": names})) for names in ([], ["ap", "f1"]))
    for fold, same in zip(more.folds, plain.folds, strict=True):
        part, row = more.predictions.of("val", fold.fold), fold.history[fold.best_epoch - 1]
        target, score, grade, called = (
            of[part.known[task]]
            for task in ("outcome", "grade")
            for of in (part.target[task], part.score[task] if task == "outcome" else part.score[task].argmax(-1))
        )
        assert row["val/outcome/ap"] == pytest.approx(average_precision_score(target, score))
        assert row["val/outcome/f1_at_0.5"] == pytest.approx(f1_score(target, score >= 0.5, zero_division=0))
        assert row["val/grade/f1"] == pytest.approx(f1_score(grade, called, average="macro", zero_division=0))
        names = {"val/outcome/ap", "val/outcome/f1_at_0.5", "val/grade/ap", "val/grade/f1"}
        assert [{n: value for n, value in row.items() if n not in names} for row in fold.history] == [*same.history]


def watching(monitor: str) -> dict[str, object]:
    """Settings of two tasks; F1 is watched of multiclass ones alone."""
    grade = {"kind": "multiclass", "classes": 3}
    tasks = {"data.tasks": {"outcome": grade, "grade": grade}} if monitor == "f1" else {}
    return {**TWO_TASKS, **tasks, "training.monitor": monitor}


@pytest.mark.parametrize("monitor", ["auroc", "ap", "f1", "loss"])
def test_the_best_epoch_has_the_highest_watched_value(monitor):
    result = cross_validate(make_plan({**watching(monitor), "training.patience": 2}))
    for fold in result.folds:
        if monitor == "loss":
            values = [-row["val/loss"] for row in fold.history]
        else:
            values = [np.mean([row[f"val/{t}/{monitor}"] for t in ("outcome", "grade")]) for row in fold.history]
        assert fold.best_epoch == int(np.argmax(values)) + 1
        waited = fold.epochs - fold.best_epoch
        assert waited == 2 if fold.ending == "patience" else (fold.epochs == 5 and waited < 2)


@pytest.mark.parametrize("monitor", ["auroc", "ap", "f1"])
def test_the_last_value_told_is_the_objective_of_the_predictions(monitor):
    plan = make_plan(watching(monitor))
    result, evaluations = told(plan)
    expected, _ = objective(result.predictions, plan.dataset.spec, monitor)
    assert evaluations[-1].value == pytest.approx(expected, abs=1e-9)
    assert evaluations[-1].running == ()
    assert [e.epoch for e in evaluations] == [1, 2, 3, 4, 5]


def test_the_value_of_a_watched_loss_is_minus_the_mean_of_the_best_losses():
    result, evaluations = told(make_plan({"training.monitor": "loss"}))
    best = [fold.history[fold.best_epoch - 1]["val/loss"] for fold in result.folds]
    assert evaluations[-1].value == pytest.approx(-np.mean(best), abs=1e-12)


@pytest.mark.parametrize("monitor", ["auroc", "ap", "loss"])
def test_values_told_never_fall_and_stopped_folds_carry_their_best_forward(monitor):
    settings = {"training.monitor": monitor, "training.epochs": 8, "training.patience": 1}
    _, evaluations = told(make_plan(settings))
    values = [e.value for e in evaluations]
    assert values == sorted(values)
    assert len(evaluations[0].running) > len(evaluations[-2].running) >= 1
    for before, after in zip(evaluations, evaluations[1:], strict=False):
        for k in set(range(4)) - set(before.running):
            assert after.fold_scores[k] == before.fold_scores[k]


LAST = {"training.restore": "last", "training.patience": 1, "training.epochs": 6}


@pytest.mark.parametrize(
    ("mode", "size", "monitor"),
    [
        (*WAYS[0], "auroc"),
        (*WAYS[0], "loss"),
        *(pytest.param(*way, "auroc", marks=pytest.mark.slow) for way in WAYS[1:]),
        *(pytest.param(*way, "loss", marks=pytest.mark.slow) for way in WAYS[1:]),
    ],
)
def test_the_last_epoch_is_kept_where_it_is_asked_for(mode, size, monitor):
    settings = {**LAST, "training.monitor": monitor, "training.mode": mode, "training.stack_size": size}
    plan = make_plan(settings)
    best = cross_validate(make_plan({**settings, "training.restore": "best", "training.patience": 6}))
    assert monitor == "loss" or any(fold.best_epoch < 6 for fold in best.folds), "nothing to tell the two apart"
    result, evaluations = told(plan)
    assert {(fold.best_epoch, fold.epochs, fold.ending) for fold in result.folds} == {(6, 6, "epochs")}
    assert [fold.history for fold in result.folds] == [fold.history for fold in best.folds], "the same training"
    column, sign = ("val/loss", -1) if monitor == "loss" else ("val/outcome/auroc", 1)
    for evaluation in evaluations:
        values = [sign * fold.history[evaluation.epoch - 1][column] for fold in result.folds]
        assert evaluation.value == pytest.approx(np.mean(values), abs=1e-9)
    if monitor == "auroc":
        assert objective(result.predictions, plan.dataset.spec)[0] == pytest.approx(evaluations[-1].value, abs=1e-9)


def test_a_fold_that_is_pruned_keeps_the_last_epoch_it_reached():
    def stop(evaluation: Evaluation) -> Decision:
        return Decision(prune=evaluation.epoch == 4, stop=frozenset({1} if evaluation.epoch == 2 else ()))

    result = cross_validate(make_plan(LAST), stop)
    assert [(fold.best_epoch, fold.epochs) for fold in result.folds] == [(4, 4), (2, 2), (4, 4), (4, 4)]
    assert {fold.ending for fold in result.folds} == {"pruned"}


def test_a_fold_lives_on_the_learning_rate_of_its_history():
    result = cross_validate(make_plan({"optimiser.schedule": "cosine", "optimiser.lr": 0.01}))
    expected = [0.005 * (1 + np.cos(np.pi * e / 5)) for e in range(5)]
    np.testing.assert_allclose([row["lr"] for row in result.folds[0].history], expected)


def test_a_fold_with_settings_of_its_own_lives_on_its_own_learning_rate():
    result = cross_validate(dataclasses.replace(make_plan(), optimisers=OWN[:4]))
    for fold, config in zip(result.folds, OWN, strict=False):
        expected = [learning_rate(config, epoch, 5) for epoch in range(5)]
        assert [row["lr"] for row in fold.history] == expected[: fold.epochs]


def test_test_rows_never_influence_their_fold():
    def spoilt(data, folds):
        rows = torch.from_numpy(folds.test[0])
        inputs = {name: x.clone() for name, x in data.inputs.items()}
        targets = {name: t.clone() for name, t in data.targets.items()}
        for x in inputs.values():
            x[rows] *= 100.0
        targets["outcome"][rows] = 1 - targets["outcome"][rows]
        return dataclasses.replace(data, inputs=inputs, targets=targets)

    before, after = cross_validate(make_plan()), cross_validate(make_plan(data=spoilt))
    assert_same_fold(before.folds[0], after.folds[0])
    val = [r.predictions.of("val", 0).score["outcome"] for r in (before, after)]
    test = [r.predictions.of("test", 0).score["outcome"] for r in (before, after)]
    np.testing.assert_array_equal(val[0], val[1])
    assert not np.array_equal(test[0], test[1])
    assert before.folds[1].history != after.folds[1].history, "the rows that were spoilt train the other folds"


def one_class(*chosen: int):
    """Takes the positive rows out of the validation rows of some folds."""

    def change(folds, data):
        val = folds.val.copy()
        val[list(chosen)] &= data.targets["outcome"].numpy() == 0
        return dataclasses.replace(folds, val=val)

    return change


def with_targets(value: float, fold: int, split: str):
    """Sets the target of a fold's rows."""

    def change(data, folds):
        target = data.targets["outcome"].clone()
        target[torch.from_numpy(getattr(folds, split)[fold])] = value
        return dataclasses.replace(data, targets={"outcome": target})

    return change


def test_a_fold_with_one_class_stops_by_its_loss_and_the_mean_is_pooled():
    plan = make_plan(folds=one_class(1))
    result, evaluations = told(plan)
    fold = result.folds[1]
    assert all(np.isnan(row["val/outcome/auroc"]) for row in fold.history)
    assert fold.best_epoch == int(np.argmin([row["val/loss"] for row in fold.history])) + 1
    assert evaluations[-1].fold_scores[1] == -fold.history[fold.best_epoch - 1]["val/loss"]
    expected, notes = objective(result.predictions, plan.dataset.spec)
    assert notes
    assert evaluations[-1].value == pytest.approx(expected, abs=1e-12)
    assert len(result.notes) == 1
    assert result.notes[0].startswith("fold 1: auroc is undefined")


def test_a_fold_without_a_class_is_pooled_under_f1_too():
    settings = {"data.tasks": {"outcome": {"kind": "multiclass", "classes": 3}}, "training.monitor": "f1"}
    plan = make_plan(settings, one_class(1))
    result, evaluations = told(plan)
    fold = result.folds[1]
    assert fold.best_epoch == int(np.argmin([row["val/loss"] for row in fold.history])) + 1
    expected, notes = objective(result.predictions, plan.dataset.spec, "f1")
    assert notes
    assert evaluations[-1].value == pytest.approx(expected, abs=1e-12)
    assert result.notes[0].startswith("fold 1: macro F1 is undefined")


def test_f1_of_a_binary_task_is_refused_before_training():
    with pytest.raises(ConfigError, match="task outcome is binary"):
        cross_validate(make_plan({**TWO_TASKS, "training.monitor": "f1"}))


def test_a_score_that_would_be_undefined_is_refused_before_training():
    def never(evaluation):
        raise AssertionError("it trained")

    refuse = {"training.undefined": "refuse"}
    with pytest.raises(
        DataError, match="fold 1: task outcome: expected a defined auroc .* found no row of class 'yes'"
    ):
        cross_validate(make_plan(refuse, one_class(1)), never)
    with pytest.raises(DataError, match="on all folds' validation rows, found no row of class 'yes'"):
        cross_validate(make_plan(folds=one_class(0, 1, 2, 3)), never)


def test_a_watched_loss_needs_no_classes():
    settings = {"training.monitor": "loss", "training.undefined": "refuse", "training.epochs": 2}
    result = cross_validate(make_plan(settings, one_class(1)))
    assert result.notes == ()


def test_a_fold_without_any_label_to_stop_by_is_refused():
    def unknown(data, folds):
        known = data.known["outcome"] & ~torch.from_numpy(folds.val[2])
        return dataclasses.replace(data, known={"outcome": known})

    with pytest.raises(DataError, match="fold 2: expected known labels among the validation rows"):
        cross_validate(make_plan(data=unknown))


def test_a_regression_with_a_constant_target_stops_by_its_loss():
    plan = make_plan({"data.tasks": {"outcome": {"kind": "regression"}}}, data=with_targets(0.25, 0, "val"))
    result = cross_validate(plan)
    losses = [row["val/loss"] for row in result.folds[0].history]
    assert result.folds[0].best_epoch == int(np.argmin(losses)) + 1
    assert all(np.isnan(row["val/outcome/r2"]) for row in result.folds[0].history)


class NoNumberInValidation(Objective):
    def of_main_tasks(self, output, batch, class_weights):
        return super().of_main_tasks(output, batch, class_weights) * torch.nan


def test_a_validation_loss_that_is_no_number_is_told_with_the_fold_and_epoch_in_which_it_turned():
    class Later(Objective):
        seen = 0

        def of_main_tasks(self, output, batch, class_weights):
            loss = super().of_main_tasks(output, batch, class_weights)
            self.seen += 1  # of 4 folds, one after the other
            return loss * torch.inf if self.seen == 2 * 4 + 3 else loss

    plan = make_plan()
    later = Later(plan.objective.config, plan.dataset.spec)
    with pytest.raises(Diverged, match="^fold 2: the validation loss of epoch 3 is inf$"):
        cross_validate(dataclasses.replace(plan, objective=later))


def test_a_loss_that_is_no_number_ends_the_training():
    plan = make_plan()

    def poisoned():
        model = make_plan().initial_weights(0)
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
        return model

    with pytest.raises(Diverged, match="fold 0: the training loss of epoch 1 is nan"):
        cross_validate(dataclasses.replace(plan, build_model=poisoned))
    blind = NoNumberInValidation(plan.objective.config, plan.dataset.spec)
    with pytest.raises(Diverged, match="fold 0: the validation loss of epoch 1 is nan"):
        cross_validate(dataclasses.replace(plan, objective=blind))
