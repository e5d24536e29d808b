"""Laws of a comparison: it is antisymmetric, equals do not differ, and nothing is held against what it is not like."""

from dataclasses import replace

import numpy as np
import pytest
from comparison_material import ACCURACY, AUROC, BINARY, F1, LOSS, TASK, made_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fusion_lab.contracts import Predictions, Spec, Task
from fusion_lab.evaluation.comparison import (
    Incomparable,
    compare,
    contrast,
    holm,
    measures,
    paired_by_fold,
    standings,
)
from fusion_lab.evaluation.entries import FoldFacts, common_ground
from fusion_lab.evaluation.folds import score_folds
from fusion_lab.evaluation.intervals import corrected_interval
from fusion_lab.evaluation.metrics import measure
from fusion_lab.evaluation.pooled import paired_pooled, pooled_score
from fusion_lab.evaluation.recordings import by_recording


def reversed_rows(entry):
    """The same entry with its predictions in another order."""
    p = entry.predictions
    columns = ({n: v[::-1] for n, v in d.items()} for d in (p.target, p.known, p.score))
    return replace(entry, predictions=Predictions(p.fold[::-1], p.split[::-1], p.row[::-1], *columns))


@settings(max_examples=15, deadline=None)
@given(
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    cuts=st.sampled_from([(2, 2), (2, 4)]),
    measure=st.sampled_from([ACCURACY, F1, LOSS]),
)
def test_exchanging_the_two_changes_the_sign_and_nothing_else(seeds, cuts, measure):
    a, b = (made_entry(name, 0.5, seed, cut=cut) for name, seed, cut in zip("ab", seeds, cuts, strict=True))
    there, back = contrast(a, b, [measure]), contrast(b, a, [measure])
    assert len(there) == len(back) == 2
    for one, other in zip(there, back, strict=True):
        assert (one.ours, one.theirs) == pytest.approx((other.theirs, other.ours), abs=1e-12)
        assert one.difference.value == pytest.approx(-other.difference.value, abs=1e-12)
        assert (one.difference.low, one.difference.high) == pytest.approx(
            (-other.difference.high, -other.difference.low), abs=1e-9, nan_ok=True
        )
        assert one.difference.p == pytest.approx(other.difference.p, nan_ok=True)
        assert one.difference.value == pytest.approx(one.ours - one.theirs, abs=1e-12)


def test_ranks_are_antisymmetric_too():
    a, b = (made_entry(name, 0.5, seed, task=BINARY) for seed, name in enumerate("ab"))
    there, back = contrast(a, b, [AUROC]), contrast(b, a, [AUROC])
    for one, other in zip(there, back, strict=True):
        assert one.difference[:4] == pytest.approx(other.difference.turned()[:4], abs=1e-9)


@pytest.mark.parametrize(("task", "every"), [(TASK, [ACCURACY, F1, LOSS]), (BINARY, [AUROC, ACCURACY, F1])])
def test_equal_predictions_do_not_differ(task, every):
    a = made_entry("a", task=task)
    for b in (replace(a, name="b"), reversed_rows(replace(a, name="b"))):
        for found in contrast(a, b, every):
            assert found.difference.value == pytest.approx(0, abs=1e-12)
            assert found.difference.p == 1


def test_a_better_entry_is_told_apart():
    good, bad = made_entry("good", 3.0, subjects=8), made_entry("bad", 0.0, subjects=8)
    for found in contrast(good, bad, [ACCURACY, F1]):
        assert found.difference.low > 0 and found.difference.p < 0.05
    for found in contrast(good, bad, [LOSS]):
        assert found.difference.high < 0


def test_folds_are_paired_by_the_corrected_t_test():
    a, b = made_entry("a", 1.0, 0), made_entry("b", 0.5, 1)
    found = contrast(a, b, [ACCURACY])[0]
    differences = np.subtract(*(standings(e, ACCURACY)[0].folds for e in (a, b)))
    error = np.sqrt((1 / 5 + 1 / 3) * differences.var(ddof=1))  # one subject tests, three train
    assert not found.pooled
    assert found.difference.p == pytest.approx(2 * stats.t.sf(abs(differences.mean()) / error, 4))


def test_no_interval_reaches_beyond_what_a_difference_can_be():
    a, b = (made_entry(name, 4.0 * seed, seed, subjects=2) for seed, name in enumerate("ab"))
    found = contrast(b, a, [ACCURACY, LOSS], further=False)
    accuracy, loss = (
        paired_by_fold(*(np.array(standings(e, m)[0].folds) for e in (b, a)), b.ratio) for m in (ACCURACY, LOSS)
    )
    assert accuracy.high > 1 and found[0].difference[1:3] == (max(-1.0, accuracy.low), 1.0)
    assert found[1].difference == loss  # which has no bound


def test_a_score_that_a_fold_lacks_is_taken_of_all_rows_together():
    a, b = (made_entry(name, 1.0, seed, recordings=2) for seed, name in enumerate("ab"))  # nobody runs
    a, b = (replace(e, predictions=with_runs(e.predictions)) for e in (a, b))
    found = contrast(a, b, [F1, ACCURACY])
    assert [(c.measure, c.pooled) for c in found] == [("f1", True), ("accuracy", False), ("accuracy", True)]
    assert standings(a, F1)[0].pooled and not standings(a, ACCURACY)[0].pooled
    assert np.isfinite(found[0].difference.p)


def with_runs(predictions):
    """Two subjects run."""
    target = predictions.target["activity"].copy()
    target[(predictions.row % 8 == 0) & (predictions.row < 16)] = 2
    return replace(predictions, target={"activity": target})


@pytest.mark.parametrize("subjects", [5, 12])
def test_swaps_are_those_of_the_plain_loop(subjects):
    a, b = (made_entry(name, 0.6, seed, subjects=subjects, recordings=3, cut=2) for seed, name in enumerate("ab"))
    found = paired_pooled(a.rows, b.rows, (TASK,), ACCURACY.of)
    right = [(e.rows.predictions.score["activity"].argmax(1) == e.rows.predictions.target["activity"]) for e in (a, b)]
    units = sorted(set(a.rows.unit.tolist()))
    per = np.array([[r[a.rows.unit == u].sum() for u in units] for r in right]) / len(right[0])
    signs = 1 - 2 * (np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1)
    differences = signs @ (per[0] - per[1])
    exact = np.mean(np.abs(differences) >= abs(found.value) - 1e-12)
    assert found.p == pytest.approx(exact, abs=1e-12 if 2**subjects <= 2000 else 0.05)


def test_rows_of_a_group_change_sides_together():
    whole, apart = (made_entry("a", 1.0, 0, grouped=g, recorded=False) for g in (True, False))
    other_whole, other_apart = (made_entry("b", 0.7, 1, grouped=g, recorded=False) for g in (True, False))
    assert paired_pooled(whole.rows, other_whole.rows, (TASK,), ACCURACY.of).n == 5
    assert paired_pooled(apart.rows, other_apart.rows, (TASK,), ACCURACY.of).n == len(apart.ids)


def test_cuts_of_the_same_recordings_are_compared_by_recording():
    short, long = made_entry("short", 1.0, 0, cut=4), made_entry("long", 1.0, 1, cut=2)
    ground = common_ground(short, long)
    assert ground.basis == "recordings"
    assert ground.ours.name.tolist() == ground.other.name.tolist()
    found = {c.pooled: c for c in contrast(short, long, [ACCURACY])}
    for entry, value in ((short, found[True].ours), (long, found[True].theirs)):
        told, _ = by_recording(entry.predictions, entry.recording)
        test = told.of("test")
        expected = measure(TASK, "accuracy", test.target["activity"], test.score["activity"])
        assert value == pytest.approx(expected)
        assert standings(entry, ACCURACY)[0].recordings == pytest.approx(expected)
    (note,) = compare([short, long], [ACCURACY], "short").notes
    assert "30 recordings" in note


def without_groups(entry, **more):
    """As a run of an earlier version tells of itself."""
    return replace(entry, group=None, folds=FoldFacts(), **more)


@pytest.mark.parametrize(("cut", "basis"), [(4, "rows"), (2, "recordings")])
@pytest.mark.parametrize("which", [0, 1])
def test_rows_are_drawn_by_the_groups_that_one_of_the_two_knows(which, cut, basis):
    known = [made_entry("a", 1.0, 0), made_entry("b", 0.6, 1, cut=cut)]
    told = list(known)
    told[which] = without_groups(told[which])
    (expected,), (found,) = ([c for c in contrast(*pair, [ACCURACY]) if c.pooled] for pair in (known, told))
    assert (found.basis, found.difference) == (basis, expected.difference)
    assert found.difference.n == 5  # not as many as there are rows


def test_without_groups_recordings_stay_together():
    known = made_entry("a", 1.0, 0, grouped=False)
    old = without_groups(made_entry("b", 0.6, 1), recording=None)
    for pair in ((known, old), (old, known)):
        assert [c.difference.n for c in contrast(*pair, [ACCURACY]) if c.pooled] == [30]


@pytest.mark.parametrize(("subjects", "entries", "told"), [(5, 2, True), (7, 3, False), (7, 5, True), (12, 5, False)])
def test_that_few_groups_cannot_tell_anything_apart_is_said(subjects, entries, told):
    """Of scores that a fold lacks there are swaps alone: 2 ** (1 - groups) is their smallest p."""
    made = [made_entry(f"e{i}", 9.0 * (i > 0), i, subjects, 3, 2) for i in range(entries)]
    made = [replace(e, predictions=with_one_run(e.predictions)) for e in made]
    found = compare(made, [F1], "e0")
    assert any("however large" in note for note in found.notes) == told
    smallest = min(c.corrected for c in found.contrasts)
    assert smallest >= (entries - 1) * 2.0 ** (1 - subjects) * 0.999
    assert smallest >= 0.05 or not told


def with_one_run(predictions):
    """Runners are walkers, but for the first two subjects: the others' folds lack a class."""
    target = predictions.target["activity"].copy()
    target[(target == 2) & (predictions.row >= 12)] = 1
    return replace(predictions, target={"activity": target})


def test_where_folds_are_paired_nothing_is_said_of_swaps():
    assert compare([made_entry("a"), made_entry("b", 1.0, 1)], [ACCURACY], "a").notes == ()


def test_recordings_that_only_one_has_are_left_out():
    short, long = made_entry("short", cut=4), made_entry("long", cut=2)
    keep = np.isin(long.recording[long.predictions.row], [f"rec {i}" for i in range(0, 30, 2)])
    fewer = replace(long, predictions=long.predictions.where(keep))
    ground = common_ground(short, fewer)
    assert len(ground.ours.name) == 15 and np.array_equal(ground.ours.keys, ground.other.keys)


def test_without_recordings_folds_of_the_same_groups_are_compared():
    a, b = (made_entry(name, 1.0, 0, cut=cut, recorded=False) for name, cut in (("a", 2), ("b", 4)))
    found = contrast(a, b, [ACCURACY])
    assert [(c.basis, c.pooled) for c in found] == [("folds", False)]
    folds = [standings(e, ACCURACY)[0].folds for e in (a, b)]
    assert found[0].difference.value == pytest.approx(np.mean(folds[0]) - np.mean(folds[1]))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"shift": 1}, "in other folds"),
        ({"cut": 2, "shift": 1}, "in other folds"),
        ({"cut": 2, "data": "other"}, "data differ"),
        ({"cut": 2, "grouped": False, "recorded": False}, "no recordings in common"),
        ({"task": BINARY}, "other targets"),
        ({"subjects": 6}, "folds differ (5 and 6)"),
        ({"names": True}, "folds differ (s4 and t)"),
    ],
)
def test_what_is_not_alike_is_not_compared(changes, why):
    names = changes.pop("names", False)
    a, b = made_entry("a"), made_entry("b", **changes)
    if names:
        b = replace(b, folds=replace(b.folds, names=(*b.folds.names[:-1], "t")))
    if changes.get("shift"):
        b = replace(b, folds=replace(b.folds, names=a.folds.names))
    found = contrast(a, b, [ACCURACY])
    assert isinstance(found, Incomparable) and why in found.why


def test_other_targets_of_the_same_rows_are_not_compared():
    a = made_entry("a")
    b = replace(a, name="b", predictions=with_runs(a.predictions))
    assert "targets" in contrast(a, b, [ACCURACY]).why


def test_standings_are_the_scores_of_the_folds():
    entry = made_entry()
    table = score_folds(entry.predictions, Spec((), entry.tasks)).table
    for measured in (ACCURACY, F1, LOSS):
        for standing in standings(entry, measured):
            of = (table["split"] == standing.split) & (table["task"] == "activity") & (table["metric"] == measured.key)
            assert list(standing.folds) == pytest.approx(table[of].sort_values("fold")["value"].tolist(), nan_ok=True)
            assert standing.value == pytest.approx(np.mean(standing.folds))
            low, high = np.clip(corrected_interval(np.array(standing.folds), 3, 1), *measured.bounds)
            assert (standing.low, standing.high) == pytest.approx((low, high))


def test_measures_are_the_headline_and_what_all_tasks_share():
    tasks = (BINARY, Task("dose", "regression"))
    assert [m.key for m in measures((TASK,), {"activity": "f1"}, "f1")] == ["f1", "accuracy", "log_loss"]
    assert [m.key for m in measures(tasks, {"activity": "auroc", "dose": "r2"}, "score")] == ["score"]
    assert LOSS.lower_is_better and not F1.lower_is_better


def reference_holm(p):
    """Step by step: the smallest p times their number, the next times one less, never below an earlier one."""
    known = sorted(range(len(p)), key=lambda i: p[i])
    corrected, largest = [0.0] * len(p), 0.0
    for step, i in enumerate(known):
        largest = max(largest, (len(p) - step) * p[i])
        corrected[i] = min(1.0, largest)
    return corrected


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_that_of_the_plain_loop(p):
    found = holm(p)
    assert found == pytest.approx(reference_holm(p))
    assert all(after >= before for before, after in zip(p, found, strict=True))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 6))
def test_a_p_that_is_unknown_counts_for_nothing(p, at):
    with_gap = [*p[:at], float("nan"), *p[at:]]
    found = holm(with_gap)
    gap = min(at, len(p))
    assert np.isnan(found[gap])
    assert [*found[:gap], *found[gap + 1 :]] == pytest.approx(holm(p))


def test_corrected_p_are_holms_over_one_metrics_contrasts():
    entries = [made_entry(f"e{i}", 0.3 * i, i, kind="baseline" if i == 4 else "model") for i in range(5)]
    found = compare(entries, [ACCURACY, LOSS], "e0")
    for key in ("accuracy", "log_loss"):
        first = [found.contrast(e.name, key) for e in entries[1:]]
        assert [c.corrected for c in first] == pytest.approx(holm([c.difference.p for c in first]))
    assert len(found.pairs) == 10
    assert [c.corrected for c in found.pairs] == pytest.approx(holm([c.difference.p for c in found.pairs]))


def test_a_stranger_is_named_and_the_others_are_compared():
    entries = [made_entry("a"), made_entry("b", seed=1), made_entry("c", shift=1)]
    entries[2] = replace(entries[2], folds=entries[0].folds)
    found = compare(entries, [ACCURACY], "a")
    assert [i.name for i in found.incomparable] == ["c"]
    assert found.contrast("b", "accuracy") is not None and found.contrast("c", "accuracy") is None
    pooled = pooled_score(entries[2].rows, (TASK,), ACCURACY.of)
    assert found.standing("c", "accuracy").value == pytest.approx(pooled)  # folds are of one size


FIRST, SECOND = (Task(name, "binary", ("no", "yes")) for name in ("first", "second"))
HELPER = Task("third", "regression", auxiliary="more")
NAMED = {"first": "ap", "second": "ap", "third": "r2"}


def of_three(name, seed=0, skill=0.5, lacking=()):
    """Two main tasks, and an auxiliary one that is answered anyhow; no positives in the ``lacking`` folds' first."""
    one = made_entry(name, task=BINARY)
    rng, p = np.random.default_rng(seed), one.predictions
    target = {n: (rng.random(len(p.fold)) < 0.4).astype(float) for n in ("first", "second")}
    target["first"][np.isin(p.fold, lacking)] = 0
    score = {n: (skill * y + rng.random(len(y))) / 2 for n, y in target.items()} | {"third": rng.random(len(p.fold))}
    target["third"] = rng.normal(size=len(p.fold))
    known = {n: np.ones(len(p.fold), bool) for n in target}
    made = Predictions(p.fold, p.split, p.row, target, known, score)
    return replace(one, tasks=(FIRST, HELPER, SECOND), predictions=made)


def as_entry_of(entry, other):
    """The same with another's answers."""
    p = other.predictions
    return replace(other, predictions=replace(p, target=entry.predictions.target, score=p.score))


def test_what_the_lowest_task_takes_part_in_has_its_parts_beside_it():
    tasks = (FIRST, HELPER, SECOND)
    found = {m.key: (dict(m.of), m.min_weight) for m in measures(tasks, NAMED, "macro_plus_min", 0.4)}
    both = {"first": "ap", "second": "ap"}
    assert {key: found[key] for key in list(found)[:3]} == {
        "macro_plus_min": (both, 0.4),
        "ap": (both, 0.0),
        "min_ap": (both, 1.0),
    }
    assert all(set(of) == {"first", "second"} for of, _ in found.values())
    assert [m.key for m in measures(tasks, NAMED, "ap")][0] == "ap"
    assert "min_ap" not in {m.key for m in measures((FIRST, HELPER), NAMED, "macro_plus_min", 0.4)}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_standings_and_contrasts_weigh_the_lowest_of_the_main_tasks(share):
    entry = of_three("a", skill=1.0)
    other = as_entry_of(entry, of_three("b", seed=1))
    score, *_ = measures(entry.tasks, NAMED, "score", share)

    def each(which, split):
        parts = [which.predictions.of(split, k) for k in range(which.count)]
        return np.array([[measure(t, "ap", p.target[t.name], p.score[t.name]) for p in parts] for t in (FIRST, SECOND)])

    for split in ("test", "val"):
        values = (1 - share) * each(entry, split).mean(0) + share * each(entry, split).min(0)
        standing = next(s for s in standings(entry, score) if s.split == split)
        assert standing.folds == pytest.approx(tuple(values))
        assert standing.value == pytest.approx(values.mean())
        assert not standing.pooled
    by_fold, pooled = contrast(entry, other, [score])
    theirs = (1 - share) * each(other, "test").mean(0) + share * each(other, "test").min(0)
    assert by_fold.difference.value == pytest.approx(next(iter(standings(entry, score))).value - theirs.mean())
    for which, value in ((entry, pooled.ours), (other, pooled.theirs)):
        part = which.predictions.of("test")
        whole = [measure(t, "ap", part.target[t.name], part.score[t.name]) for t in (FIRST, SECOND)]
        assert value == pytest.approx((1 - share) * np.mean(whole) + share * min(whole))
    assert pooled.difference.value == pytest.approx(pooled.ours - pooled.theirs)


def test_a_fold_without_positives_leaves_the_lowest_task_to_the_pooled_rows():
    entry = of_three("a", lacking=(2,))
    score, *_ = measures(entry.tasks, NAMED, "score", 0.4)
    standing = next(iter(standings(entry, score)))
    part = entry.predictions.of("test")
    pooled = measure(FIRST, "ap", part.target["first"], part.score["first"])
    folds = [entry.predictions.of("test", k) for k in range(entry.count)]
    other = np.mean([measure(SECOND, "ap", p.target["second"], p.score["second"]) for p in folds])
    assert standing.pooled
    assert np.isnan(standing.folds[2])
    assert standing.value == pytest.approx(0.6 * (pooled + other) / 2 + 0.4 * min(pooled, other))
    assert np.isnan([standing.low, standing.high]).all()


def test_auxiliary_answers_change_nothing():
    entry = of_three("a")
    p = entry.predictions
    worse = replace(entry, predictions=replace(p, score={**p.score, "third": -9 * p.score["third"]}))
    for score in measures(entry.tasks, NAMED, "macro_plus_min", 0.4):
        assert repr(standings(entry, score)) == repr(standings(worse, score))
