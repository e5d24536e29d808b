"""The table of rows against a loop over the predictions it is made of."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import AttentionMap, Axis, Feature, Modality, Predictions, Spec, Task
from fusion_lab.data.planting import Planting, twin
from fusion_lab.evaluation.labelled import told_scores
from fusion_lab.evaluation.rows import CONFIDENCE, Inputs, imputations, rows_table
from fusion_lab.evaluation.thresholds import fold_thresholds
from fusion_lab.evaluation.uncertainty import over_passes

NAMES = ("blood", "slides", "text")
TASKS = (
    Task("event", "binary", ("no", "yes")),
    Task("site", "multiclass", ("mouth", "larynx", "other")),
    Task("dose", "regression"),
)
PER_STEP = Task("phase", "binary", ("on", "off"), steps=("wrist",))
SPEC = Spec(tuple(Modality(name, "vector", (Feature(f"{name} 1"),)) for name in NAMES), TASKS)
FOLDS, ROWS = 3, 24
MODALITY = Axis("modality", NAMES)


def made(seed: int = 0, spec: Spec = SPEC) -> Predictions:
    """Validation rows of fold k are test rows of fold k + 1; rows of a fold are not in the data's order."""
    rng = np.random.default_rng(seed)
    own = rng.permutation(ROWS) % FOLDS
    fold = np.concatenate([own, (own + 1) % FOLDS])
    row, split = np.tile(rng.permutation(ROWS), 2), np.repeat(["test", "val"], ROWS)
    target, known, score = {}, {}, {}
    for task in spec.tasks:
        shape = (2 * ROWS, 4) if task.per_step else (2 * ROWS,)
        known[task.name] = rng.random(shape) < 0.8
        target[task.name] = known[task.name] * rng.integers(0, max(2, len(task.classes)), shape).astype(float)
        drawn = rng.dirichlet(np.ones(3), shape) if task.kind == "multiclass" else rng.random(shape)
        score[task.name] = drawn.astype(np.float32)
    return Predictions(fold, split, row, target, known, score)


def held(seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    return Inputs({n: rng.random(ROWS) < 0.6 for n in NAMES}, {n: rng.random(ROWS).astype(np.float32) for n in NAMES})


def mapped(test: Predictions, name: str, kind="attention", axes=(MODALITY,), seed: int = 0) -> AttentionMap:
    values = np.random.default_rng(seed).random((ROWS, *(len(axis.labels) for axis in axes))).astype(np.float32)
    return AttentionMap(name, kind, axes, test.fold, test.row, values)


DATA = twin(SPEC, Planting(rows=ROWS, groups=5))


def table(predictions=None, spec=SPEC, data=DATA, inputs=None, **parts):
    predictions = made(spec=spec) if predictions is None else predictions
    thresholds = fold_thresholds(predictions, spec)
    return rows_table(predictions.of("test"), spec, thresholds, data, inputs or held(), **parts), thresholds


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_line_per_test_row_says_what_the_predictions_say(seed):
    predictions = made(seed)
    test, (found, thresholds) = predictions.of("test"), table(predictions)
    assert found["id"].tolist() == DATA.ids[test.row].tolist()
    assert found["group"].tolist() == DATA.group[test.row].tolist()
    assert found["fold"].tolist() == test.fold.tolist()
    for place, line in enumerate(found.to_dict("records")):
        for task in TASKS:
            score, target = test.score[task.name][place], test.target[task.name][place]
            if task.kind == "regression":
                assert line["dose/predicted"] == score
                assert line["dose/target"] == target or not test.known["dose"][place]
                continue
            assert line[f"{task.name}/target"] == task.classes[int(target)] or not test.known[task.name][place]
            if task.kind == "binary":
                threshold = thresholds.values["event"][test.fold[place]]
                assert (line["event/probability of yes"], line["event/threshold"]) == (score, threshold)
                assert line["event/predicted"] == ("yes" if score >= threshold else "no")
            else:
                assert [line[f"site/probability of {c}"] for c in task.classes] == score.tolist()
                assert line["site/predicted"] == task.classes[score.argmax()]
    for task in TASKS:
        assert found[f"{task.name}/target"].notna().tolist() == test.known[task.name].tolist()


def test_accuracy_of_the_table_is_that_of_the_scores():
    predictions = made(3)
    found, thresholds = table(predictions)
    scores = told_scores(predictions.of("test"), SPEC, thresholds)
    for task in ("event", "site"):
        known = found[found[f"{task}/target"].notna()]
        right = (known[f"{task}/predicted"] == known[f"{task}/target"]).mean()
        assert right == pytest.approx(scores[task]["accuracy"].pooled)


def test_what_is_given_is_what_the_inputs_hold():
    inputs = held()
    found, _ = table(inputs=inputs)
    for name in NAMES:
        given = inputs.given[name]
        assert (found[f"{name}/given"] == "yes").tolist() == given.tolist()
        assert found[f"{name}/quality"][given].tolist() == inputs.quality[name][given].tolist()
        assert found[f"{name}/quality"][~given].isna().all()


def test_maps_over_modalities_alone_become_columns():
    test = made().of("test")
    asking = Axis("asking modality", NAMES)
    two = (MODALITY, asking)
    maps = [
        mapped(test, "modalities for event", seed=1),
        mapped(test, "modalities", seed=2),
        mapped(test, "pairs", axes=two),
        mapped(test, "days", axes=(Axis("day", ("1", "2")),)),
        mapped(test, "share", kind="gate"),
        mapped(test, "modalities, said alone", kind="answer"),
    ]
    plain, found = table()[0], table(maps=maps)[0]
    told = {"attention for event": maps[0], "attention": maps[1]}
    assert set(found.columns) - set(plain.columns) == {f"{name}/{column}" for name in NAMES for column in told}
    for column, of in told.items():
        values = found[[f"{name}/{column}" for name in NAMES]].to_numpy()
        np.testing.assert_array_equal(values, of.values)


def test_imputed_is_what_was_used_and_not_given():
    test, inputs = made().of("test"), held()
    gate = mapped(test, CONFIDENCE, kind="gate")
    given = np.stack([inputs.given[name] for name in NAMES], -1)
    values = np.where(given, 1.0, gate.values * [1, 1, 0])  # the last one is never imputed
    gate = replace(gate, values=values)
    found, _ = table(inputs=inputs, maps=[gate])
    for place, name in enumerate(NAMES):
        assert found[f"{name}/confidence"].tolist() == values[:, place].tolist()
        expected = (~inputs.given[name]) & (values[:, place] > 0)
        assert (found[f"{name}/imputed"] == "yes").tolist() == expected.tolist()
    numbers = imputations(inputs, [gate], SPEC)
    for name in NAMES:
        assert numbers[name].missing == (found[f"{name}/given"] == "no").sum()
        rows = found[f"{name}/imputed"] == "yes"
        assert numbers[name].confidence.tolist() == found[f"{name}/confidence"][rows].tolist()
    assert len(numbers["text"].confidence) == 0 < len(numbers["blood"].confidence)


def test_nothing_is_imputed_where_nothing_says_so_or_nothing_is_missing():
    test, inputs = made().of("test"), held()
    assert imputations(inputs, [mapped(test, "share", kind="gate")], SPEC) == {}
    nothing = mapped(test, CONFIDENCE, kind="gate")
    silent = replace(nothing, values=np.stack([inputs.given[name] for name in NAMES], -1).astype(float))
    assert imputations(inputs, [silent], SPEC) == {}
    whole = Inputs({name: np.ones(ROWS, bool) for name in NAMES}, inputs.quality)
    assert imputations(whole, [nothing], SPEC) == {}


def test_uncertainty_is_that_of_the_passes_and_empty_without():
    test = made().of("test")
    passes = [made(seed).of("test").score for seed in range(4)]
    spreads = over_passes(passes, SPEC)
    found, without = table(spreads=spreads)[0], table()[0]
    assert found.columns.tolist() == without.columns.tolist()
    columns = {
        "event/std": np.std([p["event"].astype(float) for p in passes], axis=0, ddof=1),
        "event/entropy": spreads["event"].entropy,
        "event/mutual information": spreads["event"].information,
        "site/entropy": spreads["site"].entropy,
        "site/mutual information": spreads["site"].information,
        "dose/std": np.std([p["dose"].astype(float) for p in passes], axis=0, ddof=1),
    }
    kinds = ("std", "entropy", "mutual information")
    assert {column for column in found.columns if column.endswith(kinds)} == set(columns)
    for column, values in columns.items():
        np.testing.assert_allclose(found[column], values)
        assert without[column].isna().all()
    assert len(found) == len(test.row)


def test_tasks_per_step_are_left_out_and_recordings_named():
    spec = Spec((*SPEC.modalities, Modality("wrist", "sequence", (Feature("x"),), 4)), (*TASKS, PER_STEP))
    data = replace(DATA, group=None, recording=np.array([f"recording {i // 2}" for i in range(ROWS)]))
    inputs = Inputs(*({**part, "wrist": part["text"]} for part in held()))
    found, _ = table(made(spec=spec), spec, data, inputs)
    assert not [column for column in found.columns if column.startswith("phase")]
    assert found.columns[:3].tolist() == ["id", "fold", "recording"]
    assert found["recording"].tolist() == data.recording[made(spec=spec).of("test").row].tolist()


def test_maps_of_other_rows_are_refused():
    test = made().of("test")
    other = replace(mapped(test, "modalities"), row=np.roll(test.row, 1))
    with pytest.raises(AssertionError, match="other rows"):
        table(maps=[other])
