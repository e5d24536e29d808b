import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, Feature, Modality, Spec, Task
from fusion_lab.data.planting import Planting, generate, twin
from fusion_lab.data.synthetic import SyntheticConfig, SyntheticModality, SyntheticTask, load, spec, truth

TWO_VECTORS = {"a": SyntheticModality(width=6), "b": SyntheticModality(width=6), "c": SyntheticModality(useful=False)}
RAGGED = {
    "a": SyntheticModality(width=4),
    "steps": SyntheticModality(kind="sequence", width=3, length=9),
    "tiles": SyntheticModality(kind="bag", width=3, length=7),
}
CLINICAL = Spec(
    (
        Modality(
            "clinic",
            "vector",
            (
                Feature("age", "numeric", "age"),
                Feature("smoker", "binary", "smoker"),
                *(Feature(f"stage={c}", "category", "stage", c) for c in ("I", "II", "III", "unknown")),
                *(Feature(f"site={c}", "category", "site", c) for c in ("left", "right", "unknown")),
                Feature("age missing", "indicator", "age"),
            ),
        ),
        Modality("gait", "sequence", tuple(Feature(f"axis {i}") for i in range(6)), length=20),
        Modality("cells", "bag", tuple(Feature(f"marker {i}") for i in range(4)), length=10),
    ),
    (
        Task("death", "binary", ("no", "yes")),
        Task("grade", "multiclass", ("low", "mid", "high")),
        Task("months", "regression"),
        Task("walking", "binary", ("no", "yes"), steps=("gait",)),
    ),
)


def rows_by_columns(data, names) -> np.ndarray:
    return np.concatenate([data.inputs[name].reshape(len(data), -1).numpy() for name in names], axis=1)


def held_out_auroc(model, x, y) -> float:
    score = cross_val_predict(model, StandardScaler().fit_transform(x), y, cv=5, method="predict_proba")[:, 1]
    return float(roc_auc_score(y, score))


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(60, min_samples_leaf=4, random_state=0)


def leading_component(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(StandardScaler().fit_transform(x), full_matrices=False)[0][:, 0]


def leaves(data) -> dict[str, torch.Tensor]:
    parts = ("inputs", "valid", "observed", "quality", "targets", "known")
    return {f"{part}/{name}": leaf for part in parts for name, leaf in getattr(data, part).items()}


def test_the_same_settings_give_the_same_bits_and_another_seed_others():
    config = SyntheticConfig(rows=50, groups=7, missing_modalities=0.2, missing_cells=0.1, unknown_labels=0.1)
    first, again, other = (load(c) for c in (config, config, config.model_copy(update={"seed": 1})))
    assert all(torch.equal(leaf, leaves(again)[name]) for name, leaf in leaves(first).items())
    assert first.provenance == again.provenance
    assert not torch.equal(first.inputs["clinical"], other.inputs["clinical"])
    assert first.provenance.digest != other.provenance.digest


def test_missingness_and_signal_leave_everything_else_as_it_was():
    full, holes = load(SyntheticConfig(rows=80)), load(SyntheticConfig(rows=80, missing_cells=0.3, signal=0.0))
    for name, observed in holes.observed.items():
        assert torch.equal(holes.inputs[name], torch.where(observed, full.inputs[name], 0.0))
    assert not torch.equal(full.targets["outcome"], holes.targets["outcome"])


@given(
    plan=st.builds(
        Planting,
        rows=st.integers(20, 40),
        groups=st.sampled_from([None, 4]),
        missing_modalities=st.sampled_from([0.0, 0.4, 0.95]),
        missing_cells=st.sampled_from([0.0, 0.3]),
        unknown_labels=st.sampled_from([0.0, 0.3]),
        planted=st.sampled_from(["interaction", "additive", "quality"]),
        seed=st.integers(0, 99),
    )
)
@settings(max_examples=25, deadline=None)
def test_a_twin_keeps_the_spec_and_the_contract(plan):
    data = twin(CLINICAL, plan)
    assert data.spec == CLINICAL
    assert len(set(data.ids)) == len(data) == plan.rows
    for modality in CLINICAL.modalities:
        values, valid = data.inputs[modality.name], data.valid[modality.name]
        assert values.dtype == torch.float32
        assert not values[~valid].any()
        assert not values[~data.observed[modality.name]].any()
        assert ((data.quality[modality.name] >= 0) & (data.quality[modality.name] <= 1)).all()
    walking = data.known["walking"]
    assert not walking[~data.valid["gait"]].any()
    for task in CLINICAL.tasks:
        codes = data.targets[task.name][data.known[task.name]]
        assert torch.isfinite(codes).all()
        assert task.kind == "regression" or set(codes.tolist()) <= set(range(len(task.classes)))


def test_a_twin_has_one_category_per_column_and_indicators_that_tell_the_missing_cells():
    data = twin(CLINICAL, Planting(rows=200, missing_modalities=0.2, missing_cells=0.3))
    there, clinic = data.valid["clinic"], data.inputs["clinic"]
    for columns in (slice(2, 6), slice(6, 9)):
        assert (clinic[there, columns].sum(1) == 1).all()
        assert clinic[there, columns].max(0).values.min() == 1  # every category occurs
    assert torch.equal(clinic[there, 9] == 1, ~data.observed["clinic"][there, 0])
    assert set(clinic[there, 1].unique().tolist()) == {0.0, 1.0}


def test_padding_is_left_in_sequences_and_right_in_bags():
    data = load(SyntheticConfig(rows=60, modalities=RAGGED))
    steps, tiles = data.valid["steps"].int(), data.valid["tiles"].int()
    assert (steps.diff(dim=1) >= 0).all()
    assert (tiles.diff(dim=1) <= 0).all()
    assert steps.sum(1).min() >= 5
    assert len(steps.sum(1).unique()) > 1


def test_missing_shares_are_as_asked():
    data = load(SyntheticConfig(rows=4000, missing_modalities=0.3, missing_cells=0.2, unknown_labels=0.1))
    there = torch.stack([v.reshape(len(data), -1).any(1) for v in data.valid.values()])
    assert there.float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert there.any(0).all()
    clinical = data.observed["clinical"][data.valid["clinical"]]
    assert clinical.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert data.known["outcome"].float().mean().item() == pytest.approx(0.9, abs=0.02)


def test_no_row_is_left_without_a_modality_unless_nearly_all_is_missing():
    for share, expected in ((0.9, True), (0.97, False)):
        valid = load(SyntheticConfig(rows=300, missing_modalities=share)).valid
        there = torch.stack([v.reshape(300, -1).any(1) for v in valid.values()]).any(0)
        assert bool(there.all()) is expected


def test_classes_are_as_frequent_as_asked():
    tasks = {
        "rare": SyntheticTask(prevalence=0.15),
        "grade": SyntheticTask(kind="multiclass", classes=4),
        "dose": SyntheticTask(kind="regression"),
    }
    data = load(SyntheticConfig(rows=400, tasks=tasks))
    assert data.targets["rare"].sum() == 60
    assert torch.bincount(data.targets["grade"].long()).tolist() == [100] * 4
    assert data.targets["dose"].unique().numel() == 400


def test_groups_are_even_and_alike():
    data = load(SyntheticConfig(rows=400, groups=10, modalities=TWO_VECTORS))
    names, counts = np.unique(data.group, return_counts=True)
    assert counts.tolist() == [40] * 10
    between = np.stack([data.inputs["c"][data.group == name].numpy().mean(0) for name in names]).var(0)
    by_chance = data.inputs["c"].numpy().var(0) / 40
    assert (between / by_chance).mean() > 1.8
    assert load(SyntheticConfig(rows=20)).group is None


@pytest.mark.slow
def test_without_signal_labels_are_independent_of_every_input():
    scores = []
    for seed in range(4):
        data = load(SyntheticConfig(rows=300, signal=0.0, groups=10, seed=seed, modalities=TWO_VECTORS))
        scores.append(held_out_auroc(forest(), rows_by_columns(data, "abc"), data.targets["outcome"].numpy()))
        oracle = truth(SyntheticConfig(rows=300, signal=0.0, seed=seed, modalities=TWO_VECTORS)).oracle["outcome"]
        scores.append(roc_auc_score(data.targets["outcome"], oracle))
    assert abs(np.mean(scores) - 0.5) < 2.5 * 0.034 / np.sqrt(len(scores))  # 0.034: deviation of an AUROC of 150 : 150


@pytest.mark.parametrize("planted", ["interaction", "additive", "quality", "pointer"])
def test_the_oracle_tells_the_label(planted):
    config = SyntheticConfig(rows=500, planted=planted)
    assert roc_auc_score(load(config).targets["outcome"], truth(config).oracle["outcome"]) > 0.8


@pytest.mark.slow
def test_of_an_interaction_only_the_pair_tells():
    config = SyntheticConfig(rows=600, modalities=TWO_VECTORS)
    data = load(config)
    outcome = data.targets["outcome"].numpy()
    for name in "abc":
        assert abs(held_out_auroc(forest(), rows_by_columns(data, name), outcome) - 0.5) < 0.08
    product = leading_component(rows_by_columns(data, "a")) * leading_component(rows_by_columns(data, "b"))
    assert max(roc_auc_score(outcome, product), roc_auc_score(outcome, -product)) > 0.8
    useless = leading_component(rows_by_columns(data, "a")) * leading_component(rows_by_columns(data, "c"))
    assert abs(roc_auc_score(outcome, useless) - 0.5) < 0.08


def test_a_main_effect_lets_a_modality_tell_a_little():
    data = load(SyntheticConfig(rows=600, modalities=TWO_VECTORS, main_effect=0.8))
    alone = held_out_auroc(LogisticRegression(), rows_by_columns(data, "a"), data.targets["outcome"].numpy())
    assert 0.6 < alone < 0.8


def test_additive_modalities_tell_alone_and_more_together():
    data = load(SyntheticConfig(rows=600, planted="additive", modalities=TWO_VECTORS))
    scores = {
        names: held_out_auroc(LogisticRegression(), rows_by_columns(data, names), data.targets["outcome"].numpy())
        for names in ("a", "b", "c", "ab")
    }
    assert min(scores["a"], scores["b"]) > 0.62
    assert abs(scores["c"] - 0.5) < 0.08
    assert scores["ab"] > max(scores["a"], scores["b"]) + 0.05


def test_low_quality_shows_another_row():
    data = load(SyntheticConfig(rows=6000, planted="quality", modalities=TWO_VECTORS))
    outcome, quality = data.targets["outcome"].numpy(), data.quality["a"].numpy()
    auroc = [
        held_out_auroc(LogisticRegression(), rows_by_columns(data, "a")[rows], outcome[rows])
        for rows in (quality > 0.7, quality < 0.3)
    ]
    assert auroc[0] > auroc[1] + 0.05
    assert (load(SyntheticConfig(rows=9)).quality["imaging"] == 1).all()


def test_the_modality_that_the_pointer_names_tells_and_the_others_do_not():
    config = SyntheticConfig(rows=900, planted="pointer", modalities=TWO_VECTORS, missing_modalities=0.2)
    data, known = load(config), truth(config)
    assert known.useful == ("a", "b")
    there = torch.stack([data.valid[name] for name in "abc"], dim=1).numpy()
    assert (known.attention[~there] == 0).all()
    assert (known.attention[:, 2] == 0).all()
    assert np.array_equal(known.attention.sum(1) == 1, there[:, :2].any(1))
    outcome, values = data.targets["outcome"].numpy(), rows_by_columns(data, "a")
    pointed = known.attention[:, 0] == 1
    decoy = there[:, 0] & ~pointed
    assert held_out_auroc(LogisticRegression(), values[pointed], outcome[pointed]) > 0.8
    assert abs(held_out_auroc(LogisticRegression(), values[decoy], outcome[decoy]) - 0.5) < 0.1
    found = held_out_auroc(LogisticRegression(), values[there[:, 0]], pointed[there[:, 0]])
    assert found > 0.95  # the cue is there to be seen


@pytest.mark.parametrize("kind", ["sequence", "bag"])
def test_a_pointer_into_one_sequence_or_bag_names_one_position(kind):
    modalities = {
        "path": SyntheticModality(kind=kind, width=6, length=8),
        "other": SyntheticModality(useful=False),
    }
    config = SyntheticConfig(rows=600, planted="pointer", modalities=modalities)
    data, attention = load(config), truth(config).attention
    assert attention.shape == (600, 8)
    assert (attention.sum(1) == 1).all()
    assert (attention[~data.valid["path"].numpy()] == 0).all()
    outcome, values = data.targets["outcome"].numpy(), data.inputs["path"].numpy()
    pointed = values[attention == 1]
    assert held_out_auroc(LogisticRegression(), pointed, outcome) > 0.8
    elsewhere = np.argmax(data.valid["path"].numpy() & (attention == 0), axis=1)
    assert abs(held_out_auroc(LogisticRegression(), values[np.arange(600), elsewhere], outcome) - 0.5) < 0.08


def test_a_task_per_step_is_told_by_the_steps():
    made = generate(CLINICAL, Planting(rows=200))
    known, oracle = made.dataset.known["walking"].numpy(), made.truth.oracle["walking"]
    assert oracle.shape == known.shape == (200, 20)
    assert roc_auc_score(made.dataset.targets["walking"].numpy()[known], oracle[known]) > 0.8
    assert (np.sign(oracle[:, 1:]) != np.sign(oracle[:, :-1])).any(1).mean() > 0.8


TWO_SEQUENCES = {
    "left": SyntheticModality(kind="sequence", width=6, length=8, step="minute"),
    "right": SyntheticModality(kind="sequence", width=6, length=8, step="minute"),
    "long": SyntheticModality(kind="sequence", width=4, length=11),
    "off": SyntheticModality(kind="sequence", width=4, length=8, useful=False),
}


def test_a_task_per_step_labels_the_useful_sequences_as_long_as_the_first():
    tasks = {"edit": SyntheticTask(per_step=True), "outcome": SyntheticTask()}
    config = SyntheticConfig(rows=80, modalities=TWO_SEQUENCES, tasks=tasks, missing_modalities=0.3)
    data = load(config)
    edit = data.spec.task("edit")
    assert edit.steps == ("left", "right")
    assert data.spec.target_shape(edit) == (8,)
    assert torch.equal(data.known["edit"], data.valid["left"] | data.valid["right"])
    assert data.spec.task("outcome").steps == ()
    assert data.spec.modality("left").place_name == "minute"
    assert data.spec.modality("long").place_name == "time step"


@pytest.mark.slow
def test_of_an_interaction_per_step_only_the_pair_tells_and_only_at_its_own_step():
    two = {name: TWO_SEQUENCES[name] for name in ("left", "right")}
    config = SyntheticConfig(rows=300, modalities=two, tasks={"edit": SyntheticTask(per_step=True)})
    data = load(config)
    there = (data.valid["left"] & data.valid["right"]).numpy()
    label = data.targets["edit"].numpy()[there]
    own = {name: data.inputs[name].numpy()[there] for name in two}
    for values in own.values():
        assert abs(held_out_auroc(forest(), values, label) - 0.5) < 0.06
    signs = {name: leading_component(values[:, 1::2]) for name, values in own.items()}
    auroc = roc_auc_score(label, signs["left"] * signs["right"])
    assert max(auroc, 1 - auroc) > 0.8
    oracle = truth(config).oracle["edit"]
    same, next_step = there[:, 1:] & there[:, :-1], data.targets["edit"].numpy()[:, :-1]
    assert roc_auc_score(label, oracle[there]) > roc_auc_score(next_step[same], oracle[:, 1:][same]) + 0.1


def test_tasks_may_label_the_steps_of_different_sequences():
    sequences = [
        Modality(n, "sequence", (Feature(f"{n} 0"), Feature(f"{n} 1")), t) for n, t in (("a", 5), ("b", 5), ("c", 7))
    ]
    tasks = [Task(f"of {'+'.join(names)}", "binary", ("no", "yes"), names) for names in (("a", "b"), ("b",), ("c",))]
    made = generate(
        Spec(tuple(sequences), tuple(tasks)),
        Planting(rows=300, planted="additive", missing_modalities=0.2),
        ("a", "b", "c"),
    )
    for task in tasks:
        known = made.dataset.known[task.name]
        assert torch.equal(known, torch.stack([made.dataset.valid[n] for n in task.steps]).any(0))
        oracle, target = made.truth.oracle[task.name], made.dataset.targets[task.name].numpy()
        assert roc_auc_score(target[known.numpy()], oracle[known.numpy()]) > 0.8
    steady = [len(set(row)) for row in made.truth.oracle["of b"].round(9).tolist()]
    both = [len(set(row)) for row in made.truth.oracle["of a+b"].round(9).tolist()]
    assert max(steady) == 2 < max(both), "at the steps of b, a is what it is in the row"


def test_low_quality_shows_another_rows_steps():
    tasks = {"edit": SyntheticTask(per_step=True)}
    one = {"left": TWO_SEQUENCES["left"]}
    data = load(SyntheticConfig(rows=600, modalities=one, tasks=tasks, planted="quality", signal=6.0))
    auroc = []
    for rows in (data.quality["left"] > 0.7, data.quality["left"] < 0.3):
        there = data.known["edit"] & rows[:, None]
        told = roc_auc_score(
            data.targets["edit"][there], leading_component(data.inputs["left"][there].numpy()[:, 1::2])
        )
        auroc.append(max(told, 1 - told))
    assert auroc[0] > 0.9
    assert auroc[1] < 0.7


def test_the_only_column_of_a_sequence_shows_its_steps_too():
    one = {"left": SyntheticModality(kind="sequence", width=1, length=8)}
    config = SyntheticConfig(rows=300, modalities=one, planted="additive", tasks={"edit": SyntheticTask(per_step=True)})
    data = load(config)
    there = data.known["edit"]
    told = roc_auc_score(data.targets["edit"][there], data.inputs["left"][there][:, 0])
    assert max(told, 1 - told) > 0.7


def test_the_spec_is_known_without_the_data():
    stepwise = {"modalities": TWO_SEQUENCES, "tasks": {"edit": SyntheticTask(per_step=True)}}
    for config in (
        SyntheticConfig(),
        SyntheticConfig(modalities=RAGGED, rows=12, missing_cells=0.2),
        SyntheticConfig(**stepwise, rows=12),
    ):
        assert spec(config) == load(config).spec
        gaps = {f.gaps for m in spec(config).modalities for f in m.features}
        assert gaps == {config.missing_cells > 0}
    assert truth(SyntheticConfig()).useful == ("clinical", "imaging", "sensor")


def test_useful_modalities_of_a_twin_may_be_chosen():
    made = generate(CLINICAL, Planting(rows=60), useful=("gait", "cells"))
    assert made.truth.useful == ("gait", "cells")
    assert generate(CLINICAL, Planting(rows=60)).truth.useful == ("clinic", "gait")
    with pytest.raises(ConfigError, match="useful: expected modalities of the spec, found 'gate'"):
        twin(CLINICAL, useful=("gate",))


@pytest.mark.parametrize(
    ("plan", "useful", "message"),
    [
        (Planting(), ("gait",), "interaction expects at least two useful modalities, found 1"),
        (Planting(planted="pointer"), None, "pointer expects one label per row, found a task per step"),
        (Planting(planted="additive"), ("clinic", "cells"), "walking: .* expects a useful sequence among its steps"),
    ],
)
def test_a_plan_that_a_spec_cannot_carry_is_refused(plan, useful, message):
    with pytest.raises(ConfigError, match=message):
        twin(CLINICAL, plan, useful)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (("gate",), "task edit: expected steps of sequences of the spec, found 'gate'"),
        (("cells",), "task edit: expected steps of sequences of the spec, found 'cells'"),
        (("gait", "nap"), r"task edit: expected steps of sequences of one length, found \[7, 20\]"),
    ],
)
def test_steps_of_what_has_none_are_refused(steps, message):
    nap = Modality("nap", "sequence", (Feature("depth"),), length=7)
    with pytest.raises(ConfigError, match=message):
        twin(Spec((*CLINICAL.modalities, nap), (Task("edit", "regression", steps=steps),)))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"modalities": {"a": {"width": 0}}}, "modalities.a.width: expected greater than or equal to 1, found 0"),
        ({"modalities": {"a": {"kind": "bag"}}}, "modalities.a: expected a length with kind bag, found None"),
        ({"modalities": {"a": {"length": 3}}}, "modalities.a: expected no length with kind vector, found 3"),
        ({"modalities": {"a": {}}}, "planted: interaction expects at least two useful modalities, found 1"),
        ({"modalities": {"a": {"useful": False}}}, "expected at least one useful modality, found none"),
        ({"planted": "pointer", "modalities": {"a": {}}}, "pointer expects two useful .* found one vector"),
        ({"planted": "pointer", "modalities": {"a": {}, "b": {"width": 1}}}, "two columns, sign and cue, in b"),
        (
            {"tasks": {"t": {"per_step": True}}, "modalities": {"a": {}, "b": {}}},
            "expects a useful sequence, found none",
        ),
        ({"signl": 1.0}, "signl: unknown key \\(did you mean 'signal'\\?\\)"),
        ({"missing_cells": 1.0}, "missing_cells: expected less than 1, found 1"),
        ({"tasks": {}}, "tasks: .*at least 1 item"),
        ({"modalities": {"a/b": {}, "c": {}}}, "modalities: expected names of letters, .* found 'a/b'"),
        ({"tasks": {"../../zz": {}}}, "tasks: expected names of letters, .* found '../../zz'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        validate(SyntheticConfig, tree, "demo.yaml")


def test_settings_round_trip_through_plain_values():
    config = SyntheticConfig(groups=5, planted="pointer")
    assert validate(SyntheticConfig, config.model_dump(mode="json"), "demo.yaml") == config


def test_rows_count_unevenly_in_the_tasks_that_are_said_to():
    tasks = {"even": SyntheticTask(), "uneven": SyntheticTask(uneven=0.5)}
    data = load(SyntheticConfig(rows=4000, tasks=tasks))
    assert set(data.emphasis) == {"uneven"}
    assert abs(data.emphasis["uneven"].mean() - 1) < 0.05 and data.emphasis["uneven"].min() > 0
    assert abs(data.emphasis["uneven"].log().std() - 0.5) < 0.05
    batch = data.gather(torch.tensor([[3, 1], [2, 0]]))
    assert torch.equal(batch.emphasis["uneven"], data.emphasis["uneven"][torch.tensor([[3, 1], [2, 0]])])
    even = load(SyntheticConfig(rows=4000, tasks={"even": SyntheticTask(), "uneven": SyntheticTask()}))
    assert torch.equal(even.targets["uneven"], data.targets["uneven"])
    assert even.provenance.digest != data.provenance.digest


def test_auxiliary_tasks_are_named_in_the_spec_and_cannot_be_all():
    made = spec(
        SyntheticConfig(tasks={"main": SyntheticTask(), "help": SyntheticTask(kind="regression", auxiliary="abs")})
    )
    assert [task.name for task in made.main_tasks] == ["main"] and made.task("help").auxiliary == "abs"
    with pytest.raises(ConfigError, match="expected one that is not auxiliary, found none"):
        validate(SyntheticConfig, {"tasks": {"help": {"auxiliary": "abs"}}}, "test")
