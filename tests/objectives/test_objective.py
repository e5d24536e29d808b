import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from fusion_lab.config import validate
from fusion_lab.contracts import Batch, ConfigError, Output, Spec, Task
from fusion_lab.objectives import Objective, ObjectiveConfig, mean_penalties
from fusion_lab.objectives.losses import Bounds
from fusion_lab.objectives.objective import normalised

BINARY = Task("died", "binary", ("no", "yes"))
GRADE = Task("grade", "multiclass", ("low", "mid", "high"))
MONTHS = Task("months", "regression")
STEPS = Task("walking", "binary", ("no", "yes"), steps=("sensor",))
SPEC = Spec((), (BINARY, GRADE, MONTHS, STEPS))
ROWS, TIME = 8, 5
CLASS_WEIGHTS = {
    "died": torch.tensor([1.0, 2.0]),
    "grade": torch.tensor([0.5, 1.0, 2.0]),
    "months": torch.ones(1),
    "walking": torch.tensor([1.0, 3.0]),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def some_output() -> Output:
    shapes = {"died": (ROWS,), "grade": (ROWS, 3), "months": (ROWS,), "walking": (ROWS, TIME)}
    heads = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    return Output(heads, {"vae": torch.rand(ROWS, requires_grad=True)}, {})


def some_batch() -> Batch:
    targets = {
        "died": torch.randint(2, (ROWS,)).float(),
        "grade": torch.randint(3, (ROWS,)).float(),
        "months": torch.randn(ROWS),
        "walking": torch.randint(2, (ROWS, TIME)).float(),
    }
    known = {name: torch.ones(target.shape).bool() for name, target in targets.items()}
    return Batch({}, {}, {}, {}, targets, known, torch.ones(ROWS))


def gradients(objective: Objective, output: Output, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    leaves = {**output.heads, **output.penalties}
    loss = objective(output, batch, CLASS_WEIGHTS)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def test_the_objective_is_the_weighted_sum_of_means_over_known_labels():
    config = ObjectiveConfig(task_weights={"grade": 0.5, "months": 2.0}, penalty_weights={"vae": 0.1})
    objective, output, batch = Objective(config, SPEC, ("vae",)), some_output(), some_batch()
    batch.known["died"][:3] = False
    batch.known["walking"][0, 2:] = False
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    died = bce(output.heads["died"][3:], batch.targets["died"][3:], pos_weight=torch.tensor(2.0))
    entropy = torch.nn.functional.cross_entropy(output.heads["grade"], batch.targets["grade"].long(), reduction="none")
    grade = (entropy * CLASS_WEIGHTS["grade"][batch.targets["grade"].long()]).mean()
    months = (output.heads["months"] - batch.targets["months"]).square().mean()
    seen = batch.known["walking"]
    walking = bce(output.heads["walking"][seen], batch.targets["walking"][seen], pos_weight=torch.tensor(3.0))
    expected = died + 0.5 * grade + 2 * months + walking + 0.1 * output.penalties["vae"].mean()
    torch.testing.assert_close(objective(output, batch, CLASS_WEIGHTS), expected)


@pytest.mark.parametrize("binary", ["bce", "weighted_bce", "focal", "weighted_focal"])
def test_an_unknown_label_moves_neither_loss_nor_gradient(binary):
    objective, output, batch = Objective(ObjectiveConfig(binary=binary), SPEC), some_output(), some_batch()
    for known in batch.known.values():
        known[2] = False
    batch.known["walking"][4, 1] = False
    loss, gradient = gradients(objective, output, batch)
    others = {
        name: torch.where(batch.known[name], target, 1 - target.clamp(max=1)) for name, target in batch.targets.items()
    }
    other_loss, other_gradient = gradients(objective, output, batch._replace(targets=others))
    assert torch.equal(loss, other_loss)
    for name, known in batch.known.items():
        assert torch.equal(gradient[name], other_gradient[name])
        assert not gradient[name][~known].any()
        assert gradient[name][known].any()


def test_penalties_are_told_as_means_over_the_rows_that_count_whatever_they_weigh():
    output, batch, weight = some_output(), some_batch(), torch.ones(ROWS)
    weight[[0, 5]] = 0
    batch = batch._replace(weight=weight)
    for share in (0.0, 0.3):
        objective = Objective(ObjectiveConfig(penalty_weights={"vae": share}), SPEC, ("vae",))
        told = mean_penalties(output, batch)
        torch.testing.assert_close(told, {"vae": output.penalties["vae"][weight > 0].mean().detach()})
        without = objective(output._replace(penalties={}), batch, CLASS_WEIGHTS)
        torch.testing.assert_close(objective(output, batch, CLASS_WEIGHTS), without + share * told["vae"])
        assert not told["vae"].requires_grad
    assert mean_penalties(output._replace(penalties={}), batch) == {}


def test_a_padding_row_counts_nowhere_and_the_rest_as_if_it_were_not_there():
    objective, output, batch = Objective(ObjectiveConfig(), SPEC), some_output(), some_batch()
    weight = torch.ones(ROWS)
    weight[[1, 6]] = 0
    real = weight > 0
    loss, gradient = gradients(objective, output, batch._replace(weight=weight))
    kept = Output({n: h[real] for n, h in output.heads.items()}, {"vae": output.penalties["vae"][real]}, {})
    parts = [{n: t[real] for n, t in leaves.items()} for leaves in (batch.targets, batch.known)]
    alone = objective(kept, batch._replace(targets=parts[0], known=parts[1], weight=weight[real]), CLASS_WEIGHTS)
    torch.testing.assert_close(loss, alone.detach())
    for part in gradient.values():
        assert not part[~real].any()
        assert part[real].any()


def test_without_any_known_label_the_loss_is_zero_and_its_gradient_finite():
    objective, output, batch = Objective(ObjectiveConfig(), SPEC), some_output(), some_batch()
    nothing = {name: torch.zeros_like(known) for name, known in batch.known.items()}
    loss, gradient = gradients(objective, output, batch._replace(known=nothing, weight=torch.zeros(ROWS)))
    assert loss == 0
    assert not any(part.any() for part in gradient.values())


def test_class_weights_are_inverse_frequencies_of_the_training_rows():
    rng = np.random.default_rng(0)
    count = 60
    targets = {"died": rng.integers(0, 2, count), "grade": rng.integers(0, 3, count), "months": rng.normal(size=count)}
    targets["walking"] = rng.integers(0, 2, (count, TIME))
    known = {name: rng.random(target.shape) < 0.8 for name, target in targets.items()}
    rows = rng.random((3, count)) < 0.6
    tensors = [
        {n: torch.from_numpy(a).float() for n, a in targets.items()},
        {n: torch.from_numpy(a) for n, a in known.items()},
    ]
    weights = Objective(ObjectiveConfig(), SPEC).class_weights(*tensors, rows)
    for k in range(3):
        for name in ("died", "walking"):
            labels = targets[name][rows[k]][known[name][rows[k]]]
            ratio = (labels == 0).sum() / (labels == 1).sum()
            np.testing.assert_allclose(weights[name][k].numpy(), [1, ratio], rtol=1e-6)
        labels = targets["grade"][rows[k] & known["grade"]]
        expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
        np.testing.assert_allclose(weights["grade"][k].numpy(), expected, rtol=1e-6)
    assert weights["months"].tolist() == [[1.0]] * 3


def test_class_weights_read_no_other_row_and_no_unknown_label():
    rng = np.random.default_rng(1)
    rows = np.arange(40)[None] < 25
    targets = {"died": torch.from_numpy(rng.integers(0, 2, 40)).float()}
    known = {"died": torch.from_numpy(rng.random(40) < 0.7)}
    objective = Objective(ObjectiveConfig(), Spec((), (BINARY,)))
    other = {"died": torch.where(known["died"] & torch.from_numpy(rows[0]), targets["died"], 1 - targets["died"])}
    told = {"died": known["died"] | torch.from_numpy(~rows[0])}
    before, after = objective.class_weights(targets, known, rows), objective.class_weights(other, told, rows)
    assert not torch.equal(targets["died"], other["died"])
    assert torch.equal(before["died"], after["died"])


def test_a_class_that_no_training_row_has_weighs_nothing():
    targets, known = {"grade": torch.tensor([0.0, 0.0, 2.0, 1.0])}, {"grade": torch.ones(4).bool()}
    weights = Objective(ObjectiveConfig(), Spec((), (GRADE,))).class_weights(targets, known, np.arange(4)[None] < 3)
    torch.testing.assert_close(weights["grade"], torch.tensor([[0.75, 0.0, 1.5]]))


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=re.escape("objective.task_weights.dead: unknown task (did you mean 'died'?)")
    ):
        Objective(ObjectiveConfig(task_weights={"dead": 1.0}), Spec((), (BINARY,)))


def test_an_unknown_penalty_is_refused_with_the_nearest_name():
    config, spec = ObjectiveConfig(penalty_weights={"vea": 1.0}), Spec((), (BINARY,))
    with pytest.raises(
        ConfigError, match=re.escape("objective.penalty_weights.vea: unknown penalty (did you mean 'vae'?)")
    ):
        Objective(config, spec, ("vae", "sparsity"))
    with pytest.raises(
        ConfigError, match=re.escape("objective.penalty_weights.vea: unknown penalty (this model has no penalty)")
    ):
        Objective(config, spec)


def test_a_task_of_weight_0_is_not_trained_and_one_at_least_must_be():
    objective, output, batch = Objective(ObjectiveConfig(task_weights={"died": 0.0}), SPEC), some_output(), some_batch()
    _, gradient = gradients(objective, output, batch)
    assert not gradient["died"].any()
    assert all(part.any() for name, part in gradient.items() if name != "died")
    two = Spec((), (BINARY, MONTHS))
    Objective(ObjectiveConfig(task_weights={"died": 0.0}), two)
    with pytest.raises(
        ConfigError, match="^objective.task_weights: expected a weight above 0, found 0 for died, months$"
    ):
        Objective(ObjectiveConfig(task_weights={"died": 0.0, "months": 0.0}), two)


@pytest.mark.parametrize("weights", ["task_weights", "penalty_weights"])
@pytest.mark.parametrize("value", [-1.0, -1e-9])
def test_a_weight_below_0_is_refused(weights, value):
    with pytest.raises(ConfigError, match=f"{weights}.died: .*greater than or equal to 0"):
        validate(ObjectiveConfig, {weights: {"died": value}}, "here")
    assert validate(ObjectiveConfig, {weights: {"died": 0.0}}, "here")


def test_settings_out_of_range_are_refused():
    for tree in ({"focal_alpha": 0.0}, {"label_smoothing": 1.0}, {"binary": "hinge"}):
        with pytest.raises(ConfigError, match=next(iter(tree))):
            validate(ObjectiveConfig, tree, "here")


FIRST, SECOND = (Task(name, "binary", ("no", "yes")) for name in ("first", "second"))
AUXILIARY = tuple(
    Task(name, "regression", auxiliary=group) for name, group in (("a340", "abs"), ("a450", "abs"), ("yield", "fluo"))
)
MOLECULES = Spec((), (FIRST, AUXILIARY[0], SECOND, *AUXILIARY[1:]))
MAIN, HELPERS = ("first", "second"), {"abs": ("a340", "a450"), "fluo": ("yield",)}


def molecules(seed: int) -> tuple[Output, Batch]:
    """Answers to two rare binary tasks and three auxiliary regressions, emphasis on all tasks but one."""
    rng = np.random.default_rng(seed)
    names = [task.name for task in MOLECULES.tasks]
    targets = {n: rng.random(ROWS) < 0.4 if n in MAIN else rng.normal(size=ROWS) for n in names}
    leaves = {
        "heads": {n: 2 * rng.normal(size=ROWS) for n in names},
        "targets": {n: target.astype(float) for n, target in targets.items()},
        "known": {n: rng.random(ROWS) < 0.8 for n in names},
        "emphasis": {n: rng.random(ROWS) * (rng.random(ROWS) < 0.9) for n in names if n != "second"},
    }
    heads, targets, known, emphasis = (
        {n: torch.from_numpy(a) for n, a in leaves[kind].items()} for kind in ("heads", "targets", "known", "emphasis")
    )
    weight = torch.from_numpy((rng.random(ROWS) < 0.9).astype(float))
    return Output(heads, {}, {}), Batch({}, {}, {}, {}, targets, known, weight, emphasis)


positive = st.floats(0.01, 5)


@st.composite
def configs(draw) -> ObjectiveConfig:
    bounds = st.builds(lambda floor, more: Bounds(floor=floor, ceil=1 + more), st.floats(0, 1), st.floats(0, 3))
    return ObjectiveConfig(
        binary="weighted_focal",
        focal_gamma=draw(st.floats(0, 4)),
        focal_gammas=draw(st.dictionaries(st.sampled_from(MAIN), st.floats(0, 4))),
        task_weights=draw(st.dictionaries(st.sampled_from(MAIN), positive)),
        normalise_weights=draw(st.none() | bounds),
        auxiliary_weights=draw(st.dictionaries(st.sampled_from(["abs", "fluo"]), positive)),
        regression=draw(st.sampled_from(["mse", "huber"])),
    )


def written_out(config: ObjectiveConfig, output: Output, batch: Batch, ratios: dict[str, float]) -> tuple[float, float]:
    """The objective, and what main tasks have in it, row by row."""

    def mean(name: str, losses: list[float]) -> float:
        emphasis = batch.emphasis.get(name, torch.ones(ROWS)).tolist()
        counts = [
            w * k * e for w, k, e in zip(batch.weight.tolist(), batch.known[name].tolist(), emphasis, strict=True)
        ]
        return sum(w * loss for w, loss in zip(counts, losses, strict=True)) / sum(counts) if any(counts) else 0.0

    def rows(name: str):
        return zip(output.heads[name].tolist(), batch.targets[name].tolist(), strict=True)

    weights = [config.task_weights.get(name, 1.0) for name in MAIN]
    if config.normalise_weights is not None:
        weights = [w / np.mean(weights) for w in weights]
        weights = [min(max(w, config.normalise_weights.floor), config.normalise_weights.ceil) for w in weights]
        weights = [w / np.mean(weights) / len(MAIN) for w in weights]
    main = 0.0
    for name, weight in zip(MAIN, weights, strict=True):
        gamma, losses = config.focal_gammas.get(name, config.focal_gamma), []
        for x, y in rows(name):
            p = 1 / (1 + np.exp(-x if y else x))
            losses.append((1 - p) ** gamma * -np.log(p) * (ratios[name] if y else 1))
        main += weight * mean(name, losses)
    total = main
    for group, names in HELPERS.items():
        each = []
        for name in names:
            apart = [abs(x - y) for x, y in rows(name)]
            huber = [0.5 * d**2 if d < 1 else d - 0.5 for d in apart]
            each.append(mean(name, huber if config.regression == "huber" else [d**2 for d in apart]))
        total += config.auxiliary_weights.get(group, 1.0) * np.mean(each)
    return total, main


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), config=configs(), ratio=st.floats(0.1, 200))
def test_the_objective_of_main_and_auxiliary_tasks_is_its_formula(seed, config, ratio):
    output, batch = molecules(seed)
    ratios = {"first": ratio, "second": 3.0}
    weights = {task.name: torch.tensor([1.0, ratios.get(task.name, 1.0)]).double() for task in MOLECULES.tasks}
    objective = Objective(config, MOLECULES)
    found = objective(output, batch, weights), objective.of_main_tasks(output, batch, weights)
    assert [float(value) for value in found] == pytest.approx(written_out(config, output, batch, ratios))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), config=configs())
def test_stacked_it_is_each_folds_own(seed, config):
    made = [molecules(seed + k) for k in range(3)]
    weights = {task.name: torch.rand(3, 2, dtype=torch.float64) for task in MOLECULES.tasks}
    objective = Objective(config, MOLECULES)
    outputs, batches = (
        torch.utils._pytree.tree_map(lambda *each: torch.stack(each), *part) for part in zip(*made, strict=True)
    )
    stacked = torch.func.vmap(objective)(outputs, batches, weights)
    each = [objective(*one, {n: w[k] for n, w in weights.items()}) for k, one in enumerate(made)]
    torch.testing.assert_close(stacked, torch.stack(each))


def test_emphasis_of_1_and_none_are_the_same_and_of_0_is_an_unknown_label():
    objective, output, batch = Objective(ObjectiveConfig(), SPEC), some_output(), some_batch()
    expected = objective(output, batch, CLASS_WEIGHTS)
    ones = {name: torch.ones(ROWS) for name in batch.targets}
    assert torch.equal(objective(output, batch._replace(emphasis=ones), CLASS_WEIGHTS), expected)
    without = {name: torch.arange(ROWS) != 2 for name in batch.targets}
    known = {name: k & without[name].reshape(-1, *[1] * (k.ndim - 1)) for name, k in batch.known.items()}
    emphasised = objective(output, batch._replace(emphasis={n: w.float() for n, w in without.items()}), CLASS_WEIGHTS)
    torch.testing.assert_close(emphasised, objective(output, batch._replace(known=known), CLASS_WEIGHTS))


@given(st.lists(positive, min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 4))
def test_normalised_weights_have_mean_1_and_keep_their_order_and_their_bounds_apart(weights, floor, more):
    bounds = Bounds(floor=floor, ceil=1 + more)
    found = normalised(weights, bounds)
    assert np.mean(found) == pytest.approx(1)
    assert (np.diff(np.array(found)[np.argsort(weights)]) >= -1e-12).all()
    assert max(found) * bounds.floor <= min(found) * bounds.ceil * (1 + 1e-9)


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ConfigError, match="here: normalise_weights: .*a floor of at most the ceil, found 2 and 1"):
        validate(ObjectiveConfig, {"normalise_weights": {"floor": 2.0, "ceil": 1.0}}, "here")


def test_weights_of_positives_are_clipped_for_all_tasks_or_for_one():
    targets = {n: (torch.arange(40) < count).float() for n, count in (("first", 2), ("second", 8))}
    known, rows = {n: torch.ones(40).bool() for n in targets}, np.ones((2, 40), bool)
    for clips, expected in (
        ({}, (19.0, 4.0)),
        ({"pos_weight_clip": 10.0}, (10.0, 4.0)),
        ({"pos_weight_clip": 10.0, "pos_weight_clips": {"second": 0.5}}, (10.0, 0.5)),
        ({"pos_weight_clip": 3.0, "pos_weight_clips": {"first": 50.0}}, (19.0, 3.0)),
    ):
        found = Objective(ObjectiveConfig(**clips), Spec((), (FIRST, SECOND))).class_weights(targets, known, rows)
        for name, ratio in zip(MAIN, expected, strict=True):
            assert found[name].tolist() == [[1.0, ratio]] * 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"focal_gammas": {"frst": 1.0}}, "objective.focal_gammas.frst: unknown binary task (did you mean 'first'?)"),
        ({"pos_weight_clips": {"a340": 1.0}}, "objective.pos_weight_clips.a340: unknown binary task (known: first"),
        (
            {"auxiliary_weights": {"asb": 1.0}},
            "objective.auxiliary_weights.asb: unknown group of auxiliary tasks (did you mean 'abs'?)",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(settings, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        Objective(ObjectiveConfig(**settings), MOLECULES)


def test_where_there_is_nothing_to_name_it_says_so():
    with pytest.raises(ConfigError, match=re.escape("(this data has no group of auxiliary tasks)")):
        Objective(ObjectiveConfig(auxiliary_weights={"abs": 1.0}), SPEC)


def test_a_main_task_of_a_weight_above_0_is_asked_for():
    alone = Spec((), (FIRST, replace(SECOND, auxiliary="more")))
    with pytest.raises(ConfigError, match="expected a weight above 0, found 0 for first$"):
        Objective(ObjectiveConfig(task_weights={"first": 0.0}), alone)
    with pytest.raises(ConfigError, match="expected a task that is not auxiliary, found none"):
        Objective(ObjectiveConfig(), Spec((), (AUXILIARY[0],)))
