"""Watched scores of all folds at once against scikit-learn, fold by fold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, r2_score, roc_auc_score
from small_plans import make_plan

from fusion_lab.contracts import Batch, ConfigError, DataError, Folds, Modality, Predictions, Spec, Task
from fusion_lab.evaluation.folds import objective
from fusion_lab.evaluation.metrics import measure
from fusion_lab.training import CONTINUE, Plan, cross_validate
from fusion_lab.training.monitor import (
    auroc,
    check_monitor,
    flat_steps,
    macro_f1,
    of_main_tasks,
    over_all_folds,
    probabilities,
    undefined_folds,
    watched,
)
from fusion_lab.training.plan import Goal, TrainingConfig
from fusion_lab.training.targets import TargetScale

BINARY = Task("relapse", "binary", ("no", "yes"))
GRADE = Task("grade", "multiclass", ("low", "mid", "high"))
DOSE = Task("dose", "regression")


def drawn(seed: int, classes: int, folds: int = 3, rows: int = 40):
    """Scores with ties, targets of all classes, and a mask, each ``[K,R]``."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (folds, rows)).astype(np.float32)
    target[:, :classes] = np.arange(classes)
    known = rng.random((folds, rows)) < 0.7
    known[:, :classes] = True
    score = np.round(rng.random((folds, rows, classes)).astype(np.float32), 1)
    return torch.from_numpy(score), torch.from_numpy(target), torch.from_numpy(known)


def objective_of(
    monitor: str, *tasks: tuple[Task, torch.Tensor, torch.Tensor, torch.Tensor], share: float = 0.0
) -> float:
    """Of tasks with their scores, targets and what of these is known."""
    scores, targets, known = ({task.name: leaves[i] for task, *leaves in tasks} for i in range(3))
    rows = Batch({}, {}, {}, {}, targets, known, torch.ones(next(iter(targets.values())).shape[:2]))
    return over_all_folds(Spec((), tuple(task for task, *_ in tasks)), Goal(monitor, share), scores, rows)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scores_of_binary_tasks_are_those_of_scikit_learn(seed):
    score, target, known = drawn(seed, 2)
    for monitor, reference in (("auroc", roc_auc_score), ("ap", average_precision_score)):
        name, function = watched(BINARY, monitor)
        found = function(BINARY, score[..., 1], target, known)
        own = [reference(t[k], s[k]) for s, t, k in zip(score[..., 1], target, known, strict=True)]
        assert name == monitor
        np.testing.assert_allclose(found, own, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_auroc_of_a_multiclass_task_is_the_mean_of_one_class_against_the_rest(seed):
    score, target, known = drawn(seed, 3)
    own = [
        np.mean([roc_auc_score(t[k] == c, s[k][:, c]) for c in range(3)])
        for s, t, k in zip(score, target, known, strict=True)
    ]
    np.testing.assert_allclose(auroc(GRADE, score, target, known), own, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_f1_of_a_multiclass_task_is_scikit_learns_macro_f1_of_the_most_probable_class(seed):
    score, target, known = drawn(seed, 3)
    name, function = watched(GRADE, "f1")
    found = function(GRADE, score, target, known)
    own = [
        f1_score(t[k], s[k].argmax(-1), average="macro", zero_division=0)
        for s, t, k in zip(score.numpy(), target.numpy(), known.numpy(), strict=True)
    ]
    assert name == "f1"
    np.testing.assert_allclose(found, own, atol=1e-12)


def test_macro_f1_is_undefined_where_the_metric_is_and_the_mean_is_pooled_then():
    score, target, known = drawn(1, 3)
    target[1][target[1] == 2] = 0
    known[0] &= target[0] != 1
    found = macro_f1(GRADE, score, target, known)
    arrays = zip(score.numpy(), target.numpy(), known.numpy(), strict=True)
    np.testing.assert_allclose(found, [measure(GRADE, "f1", t[k], s[k]) for s, t, k in arrays])
    assert torch.isnan(found).tolist() == [True, True, False]
    together = f1_score(target[known], score[known].argmax(-1), average="macro")
    assert objective_of("f1", (GRADE, score, target, known)) == pytest.approx(together)
    score[2, 5, 1], known[2, 5] = torch.nan, False
    assert not torch.isnan(macro_f1(GRADE, score, target, known)[2])  # a row that does not count
    known[2, 5] = True
    assert torch.isnan(macro_f1(GRADE, score, target, known)[2])


def test_f1_is_refused_where_it_would_depend_on_a_threshold():
    def of(*tasks: Task) -> Spec:
        return Spec((Modality("m", "vector", ()),), tasks)

    check_monitor(of(GRADE, DOSE), "f1")
    check_monitor(of(GRADE, BINARY), "auroc")
    with pytest.raises(
        ConfigError, match=r"training.monitor: f1 .* task relapse is binary: expected auroc, ap or loss"
    ):
        check_monitor(of(GRADE, BINARY), "f1")
    helper = dataclasses.replace(BINARY, auxiliary="more")
    check_monitor(of(GRADE, helper), "f1")
    assert watched(helper, "f1")[0] == "auroc"


def test_the_lowest_average_precision_is_refused_where_a_main_task_has_none():
    check_monitor(Spec((), (BINARY, GRADE, HELPER)), "macro_plus_min")
    expected = (
        "^training.monitor: macro_plus_min is watched of tasks with an average precision; task dose is a regression: "
        "expected auroc, ap or loss, found 'macro_plus_min'$"
    )
    with pytest.raises(ConfigError, match=expected):
        check_monitor(Spec((), (BINARY, DOSE)), "macro_plus_min")


HELPER = dataclasses.replace(DOSE, auxiliary="doses")
OTHER = Task("other", "binary", ("no", "yes"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), lacking=st.booleans())
def test_mean_and_lowest_are_what_evaluation_makes_of_the_same_predictions(seed, share, lacking):
    made = {}
    for place, task in enumerate((BINARY, OTHER)):
        score, target, known = drawn(seed + place, 2)
        made[task.name] = score[..., 1], target, known
    if lacking:
        made["other"][1][1] = 0
    score, target, known = drawn(seed, 4)
    made["dose"] = score[..., 0], target, known
    tasks = (BINARY, OTHER, HELPER)
    found = objective_of("macro_plus_min", *((task, *made[task.name]) for task in tasks), share=share)
    folds, rows = made["dose"][1].shape
    flat = [{name: leaves[i].reshape(-1).numpy() for name, leaves in made.items()} for i in (1, 2, 0)]
    count = np.arange(folds * rows)
    predictions = Predictions(count // rows, np.full(len(count), "val"), count, *flat)
    expected, notes = objective(predictions, Spec((), tasks), "ap", min_weight=share)
    assert found == pytest.approx(expected, abs=1e-9)
    assert bool(notes) == lacking
    each = np.array(
        [
            [average_precision_score(t[k], s[k]) if t[k].any() else np.nan for s, t, k in zip(*made[n], strict=True)]
            for n in ("relapse", "other")
        ]
    )
    per_fold = (1 - share) * each.mean(0) + share * each.min(0)
    own = {task.name: watched(task, "macro_plus_min")[1](task, *made[task.name]) for task in tasks}
    np.testing.assert_allclose(of_main_tasks(Spec((), tasks), Goal("macro_plus_min", share), own), per_fold, atol=1e-9)
    assert np.isnan(per_fold).tolist() == [False, lacking, False]
    if not lacking:
        assert found == pytest.approx(per_fold.mean())


def test_a_share_of_0_is_the_mean_over_tasks_whatever_is_undefined():
    score, target, known = drawn(4, 2)
    other = drawn(5, 2)
    parts = (BINARY, score[..., 1], target, known), (OTHER, other[0][..., 1], *other[1:])
    for _ in range(2):
        assert objective_of("macro_plus_min", *parts) == objective_of("ap", *parts)
        target[0] = 0


def folds_of(known: dict[str, list[float]], tasks: tuple[Task, ...], **settings) -> list[bool]:
    """Whether each of two folds, with three validation rows, lacks a score; NaN is an unknown label."""
    values = {name: torch.tensor(labels) for name, labels in known.items()}
    targets = {name: torch.nan_to_num(leaf) for name, leaf in values.items()}
    batch = Batch({}, {}, {}, {}, targets, {name: ~leaf.isnan() for name, leaf in values.items()}, torch.ones(6))
    val = np.repeat(np.eye(2, dtype=bool), 3, axis=1)
    folds = Folds("k-fold", ~val, val, val, ~val, np.zeros(6, bool), ("a", "b"))
    return undefined_folds(Spec((), tasks), TrainingConfig(**settings), folds, batch)


@pytest.mark.parametrize("monitor", ["auroc", "ap", "macro_plus_min"])
def test_what_is_undefined_of_an_auxiliary_task_alone_stops_nothing(monitor):
    both = {"relapse": [0.0, 1.0, 1.0, 0.0, 0.0, 1.0], "dose": [np.nan, np.nan, np.nan, 1.0, 1.0, 1.0]}
    assert folds_of(both, (BINARY, HELPER), monitor=monitor, undefined="refuse") == [False, False]
    one_class = both | {"relapse": [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}
    assert folds_of(one_class, (BINARY, HELPER), monitor=monitor) == [True, False]
    with pytest.raises(DataError, match="^a: task relapse: expected a defined (auroc|ap) on the validation rows"):
        folds_of(one_class, (BINARY, HELPER), monitor=monitor, undefined="refuse")


def test_labels_of_auxiliary_tasks_alone_are_nothing_to_stop_by():
    both = {"relapse": [np.nan, np.nan, np.nan, 0.0, 0.0, 1.0], "dose": [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]}
    with pytest.raises(DataError, match="^a: expected known labels among the validation rows"):
        folds_of(both, (BINARY, HELPER), monitor="loss")


def test_a_regression_is_watched_by_r2_whatever_the_monitor():
    score, target, known = drawn(0, 4)
    for monitor in ("auroc", "ap", "f1", "loss"):
        name, function = watched(DOSE, monitor)
        found = function(DOSE, score[..., 0], target, known)
        assert name == "r2"
        own = [r2_score(t[k], s[k]) for s, t, k in zip(score[..., 0], target, known, strict=True)]
        np.testing.assert_allclose(found, own, atol=1e-6)


def test_a_fold_with_one_class_makes_the_mean_the_score_of_all_rows_together():
    score, target, known = drawn(1, 2)
    rows = score[..., 1], target, known
    per_fold = auroc(BINARY, *rows)
    assert objective_of("auroc", (BINARY, *rows)) == pytest.approx(float(per_fold.mean()))
    target[1] = 0
    assert torch.isnan(auroc(BINARY, *rows)).tolist() == [False, True, False]
    together = roc_auc_score(target[known], score[..., 1][known])
    assert objective_of("auroc", (BINARY, *rows)) == pytest.approx(together)


def test_heads_become_probabilities_and_values_in_the_targets_unit():
    tasks = (BINARY, GRADE, DOSE)
    heads = {"relapse": torch.randn(2, 5), "grade": torch.randn(2, 5, 3), "dose": torch.randn(2, 5)}
    scale = TargetScale({"dose": torch.tensor([2000.0, 0.0])}, {"dose": torch.tensor([10.0, 1.0])})
    found = probabilities(heads, Spec((Modality("m", "vector", ()),), tasks), scale)
    torch.testing.assert_close(found["relapse"], 1 / (1 + torch.exp(-heads["relapse"])))
    torch.testing.assert_close(found["grade"].sum(-1), torch.ones(2, 5))
    assert torch.equal(found["grade"].argmax(-1), heads["grade"].argmax(-1))
    torch.testing.assert_close(found["dose"][0], 2000 + 10 * heads["dose"][0])
    assert torch.equal(found["dose"][1], heads["dose"][1])


def test_steps_of_a_per_step_task_are_scored_as_rows():
    score, target, known = drawn(2, 2, folds=2, rows=40)
    steps = [leaf.reshape(2, 10, 4) for leaf in (score[..., 1], target, known)]
    per_step = Task("walking", "binary", ("no", "yes"), steps=("sensor",))
    expected = auroc(BINARY, score[..., 1], target, known)
    np.testing.assert_array_equal(auroc(per_step, *flat_steps(per_step, *steps)), expected)


def helped(dataset, folds):
    """The regressions as auxiliary tasks."""
    tasks = (dataclasses.replace(t, auxiliary="doses" if t.kind == "regression" else "") for t in dataset.spec.tasks)
    return dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, tasks=tuple(tasks)))


def plan_with_helpers(monitor: str, **settings) -> Plan:
    tasks = {"outcome": {"kind": "binary"}, "relapse": {"kind": "binary"}, "dose": {"kind": "regression"}}
    named = {"data.tasks": tasks, "training.monitor": monitor, "training.mode": "loop", **settings}
    return make_plan(named, data=helped)


@pytest.mark.parametrize("monitor", ["auroc", "macro_plus_min"])
def test_a_training_goes_by_its_main_tasks(monitor):
    plan, told = plan_with_helpers(monitor), []
    result = cross_validate(plan, lambda evaluation: told.append(evaluation) or CONTINUE)
    share, metric = plan.training.goal.min_weight, "auroc" if monitor == "auroc" else "ap"
    for fold in result.folds:
        curves = np.array([[row[f"val/{task}/{metric}"] for task in ("outcome", "relapse")] for row in fold.history])
        values = (1 - share) * curves.mean(1) + share * curves.min(1)
        assert fold.best_epoch == int(np.argmax(values)) + 1
        assert told[-1].fold_scores[fold.fold] == pytest.approx(values.max())
    assert told[-1].value == pytest.approx(np.mean(told[-1].fold_scores))
    expected, _ = objective(result.predictions, plan.dataset.spec, metric, min_weight=share)
    assert told[-1].value == pytest.approx(expected)


def test_a_validation_loss_is_that_of_the_main_tasks():
    weights = [{"doses": weight} for weight in (1.0, 3.0)]
    plans = [plan_with_helpers("loss", **{"objective.auxiliary_weights": own, "training.epochs": 1}) for own in weights]
    first, second = (cross_validate(plan).folds[0] for plan in plans)
    assert first.history[0]["train/loss"] != second.history[0]["train/loss"]
    plan = plans[0]
    batch = plan.batch(np.flatnonzero(plan.folds.val[0]), plan.scaler.fold(0))
    model = plan.initial_weights(0)
    model.load_state_dict(first.weights)
    everything = plan.dataset.gather(torch.arange(len(plan.dataset)))
    of_folds = plan.objective.class_weights(everything.targets, everything.known, plan.folds.train)
    with torch.no_grad():
        output = model(batch.without_targets())
    losses = [
        torch.nn.functional.binary_cross_entropy_with_logits(
            output.heads[n], batch.targets[n], pos_weight=of_folds[n][0, 1]
        )
        for n in ("outcome", "relapse")
    ]
    assert first.history[0]["val/loss"] == pytest.approx(float(sum(losses)), rel=1e-5)
