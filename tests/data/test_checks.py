"""Checks of a data set: separation is the AUROC, a leak is told, noise is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fusion_lab.contracts import DataError, Feature, Modality, Provenance, Spec, Task
from fusion_lab.data import checks
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.checks import FEWEST_OF_A_CLASS, FEWEST_ROWS, check_dataset, separation, speak_of_outcome

ROWS = 60


def dataset(inputs, target, known=None, valid=None, observed=None, task=None):
    rows, width = inputs.shape
    task = task or Task("died", "binary", ("no", "yes"))
    known = np.ones(rows, bool) if known is None else known
    valid = np.ones(rows, bool) if valid is None else valid
    observed = np.ones((rows, width), bool) if observed is None else observed
    modality = Modality("lab", "vector", tuple(Feature(f"x{i}", "numeric", f"x{i}") for i in range(width)))
    return ArrayDataset.checked(
        spec=Spec((modality,), (task,)),
        ids=np.arange(rows).astype(str),
        inputs={"lab": torch.from_numpy(inputs).float()},
        valid={"lab": torch.from_numpy(valid)},
        observed={"lab": torch.from_numpy(observed)},
        quality={"lab": torch.ones(rows)},
        targets={task.name: torch.from_numpy(target).float()},
        known={task.name: torch.from_numpy(known)},
        provenance=Provenance(()),
    )


def noise(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, 3)), rng.integers(0, 2, ROWS).astype(float)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), levels=st.integers(2, 30), gaps=st.floats(0, 0.9))
def test_separation_is_the_auroc_of_the_better_sign(seed, levels, gaps):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, (ROWS, 2)).astype(float)
    observed = rng.random((ROWS, 2)) >= gaps
    positive = rng.random(ROWS) < 0.4
    found = separation(values, observed, positive)
    for column in range(2):
        seen = observed[:, column]
        ones = int(positive[seen].sum())
        if seen.sum() < FEWEST_ROWS or min(ones, seen.sum() - ones) < FEWEST_OF_A_CLASS:
            assert np.isnan(found[column])
        else:
            auroc = roc_auc_score(positive[seen], values[seen, column])
            assert found[column] == pytest.approx(max(auroc, 1 - auroc))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), cells=st.integers(1, 400), kind=st.sampled_from([bool, float]))
def test_separation_does_not_depend_on_how_many_columns_are_ranked_at_once(seed, cells, kind):
    rng = np.random.default_rng(seed)
    values, observed = rng.integers(0, 2, (40, 9)).astype(kind), rng.random((40, 9)) < 0.9
    positive = rng.random(40) < 0.5
    expected = separation(values, observed, positive)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "_CELLS", cells)
        np.testing.assert_array_equal(separation(values, observed, positive), expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), gaps=st.floats(0, 0.9), kind=st.sampled_from([bool, np.uint8]))
def test_counting_zeros_and_ones_gives_what_ranking_them_gives(seed, gaps, kind):
    rng = np.random.default_rng(seed)
    values, observed = rng.random((ROWS, 70)) < 0.3, rng.random((ROWS, 70)) >= gaps
    positive = rng.random(ROWS) < 0.4
    by_counting = separation(values.astype(kind), observed, positive)
    np.testing.assert_allclose(by_counting, separation(values.astype(float), observed, positive), rtol=1e-12)


def test_noise_gives_no_warning():
    inputs, target = noise()
    notes = check_dataset(dataset(inputs, target))
    assert notes == ("rows that have each modality, of 60: lab 60", "rows with a known label, of 60: died 60")


@pytest.mark.parametrize("sign", [1, -1])
def test_a_feature_that_tells_the_label_is_noted(sign):
    inputs, target = noise()
    inputs[:, 1] = sign * (target + 0.1 * inputs[:, 1])
    notes = check_dataset(dataset(inputs, target))
    assert any(
        note.startswith("lab: x1 alone tells class 'yes' of task died (AUROC 1.000 over all rows)") for note in notes
    )
    assert not any(name in note for note in notes for name in ("x0", "x2"))


def test_the_threshold_is_the_callers():
    inputs, target = noise()
    inputs[:, 1] = target + 0.8 * inputs[:, 1]
    made = dataset(inputs, target)
    score = separation(inputs, np.ones_like(inputs, dtype=bool), target == 1)[1]
    assert 0.7 < score < 0.98
    assert not any("alone tells" in note for note in check_dataset(made))
    assert any("lab: x1 alone tells" in note for note in check_dataset(made, leakage_auroc=score - 0.001))


SPEAKING = [
    "days_to_recurrence",
    "Progress",
    "metastasis_1_locations",
    "vitalStatus",
    "cause of death",
    "follow-up",
    "RFS",
]
SILENT = [
    "age",
    "primarily_metastasis",
    "death_of_a_parent_history",
    "progesterone",
    "days",
    "deadline",
    "e0",
    "status",
]


@pytest.mark.parametrize("name", SPEAKING)
def test_a_column_named_after_an_outcome_is_noted_whatever_it_holds(name):
    inputs, target = noise()
    made = dataset(inputs, target)
    features = (*made.spec.modalities[0].features[:2], Feature(f"{name}=late", "category", name))
    named = replace(made, spec=replace(made.spec, modalities=(replace(made.spec.modalities[0], features=features),)))
    assert (
        f"lab: named after an outcome: {name}: known before it? (leave out what is not with ignore)"
        in check_dataset(named)
    )


@pytest.mark.parametrize("name", SILENT)
def test_what_was_known_at_first_and_other_words_speak_of_no_outcome(name):
    assert not speak_of_outcome([name])


def test_of_many_columns_named_after_an_outcome_the_first_are_told():
    assert speak_of_outcome([*SPEAKING, *SILENT]) == f"{', '.join(SPEAKING[:4])} and {len(SPEAKING) - 4} more"


def test_a_gap_or_an_absence_that_tells_the_label_is_noted():
    inputs, target = noise()
    observed = np.ones_like(inputs, dtype=bool)
    observed[:, 2] = target == 1
    notes = check_dataset(dataset(inputs, target, observed=observed))
    assert any("lab: a missing cell of x2 alone tells class 'yes' of task died" in note for note in notes)
    notes = check_dataset(dataset(inputs, target, valid=target == 1))
    assert any("lab: its absence alone tells class 'yes' of task died" in note for note in notes)


def test_leaks_of_other_kinds_of_task():
    inputs, target = noise()
    codes = np.arange(ROWS) % 3
    inputs[:, 0] = np.where(codes == 2, 5.0, inputs[:, 0].clip(-1, 1))
    notes = check_dataset(dataset(inputs, codes, task=Task("grade", "multiclass", ("a", "b", "c"))))
    assert any("lab: x0 alone tells class 'c' of task grade" in note for note in notes)
    value = np.exp(inputs[:, 1])
    notes = check_dataset(dataset(inputs, value, task=Task("days", "regression")))
    assert any("lab: x1 alone tells high from low values of task days" in note for note in notes)


@pytest.mark.parametrize("copy", [lambda y: y, lambda y: 1 - y])
def test_a_copy_of_the_target_is_refused_even_with_gaps(copy):
    inputs, target = noise()
    inputs[:, 1] = copy(target)
    observed = np.ones_like(inputs, dtype=bool)
    observed[::7, 1] = False
    with pytest.raises(DataError, match="lab.csv: column 'x1': .*found the values of task 'died' in every row"):
        check_dataset(dataset(inputs, target, observed=observed), {"lab": "lab.csv"})


def test_nearly_a_copy_is_no_copy():
    inputs, target = noise()
    inputs[:, 1] = target
    inputs[5, 1] = 1 - target[5]
    check_dataset(dataset(inputs, target))


def test_few_rows_are_no_evidence():
    inputs, target = noise()
    inputs[:, 1] = target
    known = np.arange(ROWS) < FEWEST_ROWS - 1
    assert not any("alone tells" in note for note in check_dataset(dataset(inputs, target, known=known)))


def test_modality_that_no_row_has():
    inputs, target = noise()
    with pytest.raises(DataError, match="lab.csv: modality 'lab': expected rows that have it, found none of 60"):
        check_dataset(dataset(inputs, target, valid=np.zeros(ROWS, bool)), {"lab": "lab.csv"})


def test_tasks_that_cannot_be_learned():
    inputs, target = noise()
    with pytest.raises(
        DataError, match=r"t.csv: task 'died': expected two or more .* found only class 'yes' \(\d+ rows\)"
    ):
        check_dataset(dataset(inputs, target, known=target == 1), {"died": "t.csv"})
    with pytest.raises(DataError, match="task 'died': expected known labels, found none in 60 rows"):
        check_dataset(dataset(inputs, target, known=np.zeros(ROWS, bool)))
    with pytest.raises(DataError, match=r"task 'days': .*found only the value 2.5 \(60 rows\)"):
        check_dataset(dataset(inputs, np.full(ROWS, 2.5), task=Task("days", "regression")))


def test_rows_without_anything_are_counted():
    inputs, target = noise()
    notes = check_dataset(dataset(inputs, target, valid=np.arange(ROWS) > 1, known=np.arange(ROWS) > 2))
    assert "2 rows have no modality at all" in notes
    assert "3 rows have no known label of any task" in notes


def test_constant_feature_is_noted():
    inputs, target = noise()
    inputs[:, 0] = 3.0
    observed = np.ones_like(inputs, dtype=bool)
    observed[:, 2] = False
    assert "lab: never varies in the rows used: x0, x2" in check_dataset(dataset(inputs, target, observed=observed))


# Sequences, bags and tasks per step

STEPS = 5


def sequences(inputs, target, valid=None, observed=None, task=None, kind="sequence"):
    """``inputs`` [ROWS,STEPS,F]; ``target`` [ROWS], or [ROWS,STEPS] of a task per step."""
    valid = np.ones(inputs.shape[:2], bool) if valid is None else valid
    observed = np.ones(inputs.shape, bool) if observed is None else observed
    task = task or Task("died", "binary", ("no", "yes"))
    modality = Modality("gait", kind, tuple(Feature(f"x{i}") for i in range(inputs.shape[2])), STEPS, "day")
    return ArrayDataset.checked(
        spec=Spec((modality,), (task,)),
        ids=np.arange(ROWS).astype(str),
        inputs={"gait": torch.from_numpy(inputs).float()},
        valid={"gait": torch.from_numpy(valid)},
        observed={"gait": torch.from_numpy(observed)},
        quality={"gait": torch.ones(ROWS)},
        targets={task.name: torch.from_numpy(target).float()},
        known={task.name: torch.ones(target.shape, dtype=torch.bool)},
        provenance=Provenance(()),
    )


def steps_of_noise(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, STEPS, 3)), rng.integers(0, 2, ROWS).astype(float)


def per_step(kind="binary", classes=("off", "on")):
    return Task("alarm", kind, classes, ("gait",))


@pytest.mark.parametrize("kind", ["sequence", "bag"])
def test_noise_in_time_gives_no_warning(kind):
    inputs, target = steps_of_noise()
    assert len(check_dataset(sequences(inputs, target, kind=kind))) == 2
    steps = np.random.default_rng(1).integers(0, 2, (ROWS, STEPS)).astype(float)
    assert len(check_dataset(sequences(inputs, steps, task=per_step()))) == 2


def test_the_mean_over_positions_that_tells_the_label_is_noted():
    inputs, target = steps_of_noise()
    observed = np.random.default_rng(1).random(inputs.shape) < 0.6
    observed[:, 0] = True
    means = np.where(observed, inputs, 0).sum(1) / observed.sum(1)
    inputs[..., 1] += (3 * target - means[:, 1])[:, None]
    shown = np.where(observed, inputs, 0).sum(1) / observed.sum(1)
    assert separation(shown, np.ones_like(shown, bool), target == 1)[1] == 1
    notes = check_dataset(sequences(inputs, target, observed=observed))
    told = [note for note in notes if "alone tells" in note]
    assert told == [
        "gait: the mean of x1 alone tells class 'yes' of task died (AUROC 1.000 over all rows): "
        "is it known before the outcome?"
    ]


def test_how_often_a_cell_is_missing_and_how_long_a_row_is_may_tell():
    inputs, target = steps_of_noise()
    observed = np.ones(inputs.shape, bool)
    observed[:, 0, 2] = target == 1
    notes = check_dataset(sequences(inputs, target, observed=observed))
    assert any("gait: a missing cell of x2 alone tells class 'yes' of task died" in note for note in notes)
    valid = np.arange(STEPS) >= np.where(target == 1, 1, 3)[:, None]
    notes = check_dataset(sequences(inputs, target, valid=valid))
    assert any("gait: its number of positions (day) alone tells class 'yes' of task died" in note for note in notes)
    valid = np.repeat((target == 1)[:, None], STEPS, axis=1)
    notes = check_dataset(sequences(inputs, target, valid=valid))
    assert any("gait: its absence alone tells class 'yes' of task died" in note for note in notes)


def test_a_column_that_repeats_the_label_at_every_position_is_a_copy():
    inputs, target = steps_of_noise()
    inputs[..., 1] = target[:, None]
    with pytest.raises(DataError, match="column 'x1': .*found the values of task 'died' in every row"):
        check_dataset(sequences(inputs, target))


def test_a_step_that_tells_its_label_is_noted():
    inputs, _ = steps_of_noise()
    steps = np.random.default_rng(1).integers(0, 2, (ROWS, STEPS)).astype(float)
    inputs[..., 1] = steps + 0.1 * inputs[..., 1]
    notes = check_dataset(sequences(inputs, steps, task=per_step()))
    assert any("gait: x1 alone tells class 'on' of task alarm (AUROC 1.000 over all steps)" in note for note in notes)
    assert not any(name in note for note in notes for name in ("x0", "x2"))
    observed = np.ones(inputs.shape, bool)
    observed[..., 0] = steps == 1
    notes = check_dataset(sequences(steps_of_noise()[0], steps, observed=observed, task=per_step()))
    assert any("gait: a missing cell of x0 alone tells class 'on' of task alarm" in note for note in notes)


def test_a_copy_of_the_labels_of_steps_is_refused():
    inputs, _ = steps_of_noise()
    steps = np.random.default_rng(1).normal(size=(ROWS, STEPS)).astype(np.float32)
    inputs[..., 1] = steps
    with pytest.raises(DataError, match="gait.csv: column 'x1': .*found the values of task 'alarm' in every step"):
        check_dataset(sequences(inputs, steps, task=per_step("regression", ())), {"gait": "gait.csv"})


def test_labels_of_steps_that_cannot_be_learned():
    inputs, _ = steps_of_noise()
    with pytest.raises(DataError, match=rf"found only class 'off' \({ROWS * STEPS} steps\)"):
        check_dataset(sequences(inputs, np.zeros((ROWS, STEPS)), task=per_step()))


def test_many_columns_are_scored_as_few():
    rng = np.random.default_rng(0)
    values, observed = rng.normal(size=(ROWS, 150)), rng.random((ROWS, 150)) < 0.7
    positive = rng.random(ROWS) < 0.4
    alone = [separation(values[:, [i]], observed[:, [i]], positive)[0] for i in range(150)]
    np.testing.assert_array_equal(separation(values, observed, positive), alone)
