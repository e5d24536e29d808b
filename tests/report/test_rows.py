from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_material import BINARY, DOSE, make_predictions

from fusion_lab.contracts import Spec, Task
from fusion_lab.report.rows import MOST_GROUPS, choose_samples, extremes, grouping_task, row_groups, shares

MANY = Task("diagnosis", "multiclass", tuple(f"C{i}" for i in range(11)))
PER_STEP = Task("activity", "binary", ("rest", "walk"), steps=("watch",))
IDS = np.array([f"patient {i}" for i in range(400)])


def test_groups_are_those_of_the_first_task_with_classes_that_is_not_per_step():
    grade = Task("grade", "multiclass", ("low", "mid", "high"))
    assert grouping_task(Spec((), (PER_STEP, DOSE, grade, BINARY))) == grade
    assert grouping_task(Spec((), (PER_STEP, DOSE))) == DOSE
    assert grouping_task(Spec((), (PER_STEP,))) is None


def test_classes_are_those_of_the_rows_wherever_they_stand():
    predictions, spec = make_predictions(BINARY)
    row = np.array([7, 3, 3, 39])
    groups = row_groups(row, predictions, spec)
    known, target = predictions.known["death"], predictions.target["death"]
    assert groups.names == ("alive", "died")
    assert groups.of.tolist() == [int(target[r]) if known[r] else -1 for r in row]


def test_of_many_classes_the_most_frequent_are_shown_and_the_others_together():
    predictions, spec = make_predictions(MANY, rows=300)
    groups = row_groups(predictions.row, predictions, spec)
    known, target = predictions.known["diagnosis"], predictions.target["diagnosis"].astype(int)
    counts = Counter(target[known].tolist())
    assert len(groups.names) == MOST_GROUPS
    assert groups.names[-1] == "others (6 classes)"
    shown = [MANY.classes.index(name) for name in groups.names[:-1]]
    assert min(counts[c] for c in shown) >= max(counts[c] for c in range(11) if c not in shown)
    for p in range(300):
        expected = -1 if not known[p] else shown.index(target[p]) if target[p] in shown else MOST_GROUPS - 1
        assert groups.of[p] == expected


def test_a_regression_is_shown_by_thirds_named_by_their_values():
    predictions, spec = make_predictions(DOSE, rows=90, known=1.0)
    groups = row_groups(predictions.row, predictions, spec)
    value = predictions.target["dose"]
    assert Counter(groups.of.tolist()) == {0: 30, 1: 30, 2: 30}
    assert value[groups.of == 0].max() < value[groups.of == 1].min() <= value[groups.of == 1].max()
    for place, word in enumerate(("low", "middle", "high")):
        of = value[groups.of == place]
        assert groups.names[place] == f"{word}: {of.min():.4g} to {of.max():.4g}"


@pytest.mark.parametrize("task", [BINARY, DOSE])
def test_rows_of_which_nothing_is_known_have_no_groups(task):
    predictions, spec = make_predictions(task, known=0.0)
    assert row_groups(predictions.row, predictions, spec) is None
    assert len(choose_samples(predictions, spec, IDS)) == 40
    assert row_groups(predictions.row[:0], predictions, spec) is None


def test_equal_targets_are_one_third():
    predictions, spec = make_predictions(DOSE, known=1.0)
    predictions = replace(predictions, target={"dose": np.ones(40)})
    assert set(row_groups(predictions.row, predictions, spec).of.tolist()) == {0}


@pytest.mark.parametrize("task", [BINARY, MANY, DOSE])
@pytest.mark.parametrize("rows", [1, 12, 60, 300])
def test_samples_are_few_different_and_known(task, rows):
    predictions, spec = make_predictions(task, rows=rows)
    samples = choose_samples(predictions, spec, IDS)
    known = predictions.known[task.name]
    assert len(samples) == len({(s.fold, s.row) for s in samples}) == min(60, int(known.sum()) or rows)
    if known.any():
        assert all(known[s.row] for s in samples)
    assert all(s.id == IDS[s.row] and s.fold == s.row % 4 and f"fold {s.fold}" in s.facts for s in samples)


def test_samples_of_a_class_are_its_most_confident_right_and_wrong_ones_in_order():
    predictions, spec = make_predictions(BINARY, rows=300)
    samples = choose_samples(predictions, spec, IDS)
    known, died, score = predictions.known["death"], predictions.target["death"] == 1, predictions.score["death"]
    for name, of, told in (("alive", known & ~died, 1 - score), ("died", known & died, score)):
        for kind, expected in (
            ("right, most confident", sorted(told[of & (told > 0.5)], reverse=True)),
            ("wrong, most confident", sorted(told[of & (told < 0.5)])),
        ):
            found = [told[s.row] for s in samples if (s.group, s.kind) == (name, kind)]
            assert len(found) == 10
            assert found == expected[:10]
        between = [told[s.row] for s in samples if (s.group, s.kind) == (name, "between")]
        assert len(between) == 10
        assert between == sorted(between, reverse=True)
        assert min(between) < 0.5 < max(between)


def test_samples_of_a_regression_are_the_closest_and_the_furthest():
    predictions, spec = make_predictions(DOSE, rows=300, known=1.0)
    error = np.abs(predictions.score["dose"] - predictions.target["dose"])
    low = [s for s in choose_samples(predictions, spec, IDS) if s.group.startswith("low")]
    of = error[row_groups(predictions.row, predictions, spec).of == 0]
    assert [error[s.row] for s in low if s.kind == "closest"] == sorted(of)[:6]
    assert [error[s.row] for s in low if s.kind == "furthest"] == sorted(of, reverse=True)[:6]


def test_folds_are_told_by_their_names():
    predictions, spec = make_predictions(BINARY)
    samples = choose_samples(predictions, spec, IDS, {0: "fold 0", 1: "Leuven"})
    assert any(s.facts.endswith("fold 1 (Leuven)") for s in samples)
    assert all("(" not in s.facts for s in samples if s.fold == 0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=7), st.integers(1, 80))
def test_shares_use_all_places_and_are_alike(sizes, most):
    taken = shares(sizes, most)
    assert all(0 <= t <= size for t, size in zip(taken, sizes, strict=True))
    assert sum(taken) == min(most, sum(sizes))
    free = [t for t, size in zip(taken, sizes, strict=True) if t < size]
    assert max(free, default=0) - min(free, default=0) <= 1
    assert all(size <= max(free) for t, size in zip(taken, sizes, strict=True) if free and t == size)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=0, max_size=40), st.integers(0, 50))
def test_extremes_are_the_ends_and_never_more_than_asked_for(values, quota):
    surety = np.array(values)
    ranked = np.argsort(-surety, kind="stable")
    front, between, back = extremes(ranked, surety, quota)
    together = [*front, *between, *back]
    assert len(together) == len(set(together)) == min(quota, len(values))
    assert (surety[front] > 0).all()
    assert (surety[back] < 0).all()
    assert front.tolist() == ranked[: len(front)].tolist()
    assert back.tolist() == ranked[::-1][: len(back)].tolist()
