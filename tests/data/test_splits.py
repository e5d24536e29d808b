from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, DataError, Provenance, Spec, Task
from fusion_lab.data import synthetic
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.dealing import deal
from fusion_lab.data.splits import FoldsConfig, check_folds, make_folds

BINARY = Task("outcome", "binary", ("no", "yes"))


def labelled(codes, group=None, task=BINARY, ids=None, recording=None, given_split=None, given_fold=None, **more):
    """A data set of targets alone; NaN is an unknown label. ``more`` are further tasks' (task, codes)."""
    pairs = [(task, codes), *more.values()]
    targets = {t.name: torch.tensor(np.asarray(c, dtype=np.float32)) for t, c in pairs}
    return ArrayDataset.checked(
        spec=Spec((), tuple(t for t, _ in pairs)),
        ids=np.array([f"r{i:05d}" for i in range(len(codes))]) if ids is None else ids,
        inputs={},
        valid={},
        observed={},
        quality={},
        targets={n: t.nan_to_num() for n, t in targets.items()},
        known={n: ~t.isnan() for n, t in targets.items()},
        provenance=Provenance(()),
        group=None if group is None else np.asarray(group, dtype=str),
        recording=None if recording is None else np.asarray(recording, dtype=str),
        given_split=None if given_split is None else np.asarray(given_split, dtype=str),
        given_fold=None if given_fold is None else np.asarray(given_fold, dtype=str),
    )


def coin(seed: int, rows: int, share: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(seed).permutation(rows) < share * rows).astype(float)


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(30, 90),
    k=st.integers(3, 6),
    repeats=st.integers(1, 2),
    protocol=st.sampled_from(["stratified", "kfold", "grouped", "leave_one_group_out", "loso", "holdout"]),
    grouped=st.booleans(),
    locked=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=60, deadline=None)
def test_folds_partition_the_rows_and_keep_groups_whole(seed, rows, k, repeats, protocol, grouped, locked):
    grouped = grouped or protocol in ("grouped", "leave_one_group_out", "loso")
    group = [f"g{i % 15}" for i in range(rows)] if grouped else None
    data = labelled(coin(seed, rows), group)
    config = FoldsConfig(protocol=protocol, k=k, repeats=repeats, seed=seed, holdout=locked)
    folds = make_folds(config, data)
    assert len(folds) == len(folds.names) == len(set(folds.names))
    cover = folds.train.astype(int) + folds.val + folds.test + folds.holdout
    assert (cover == 1).all()
    assert all(part.any(axis=1).all() for part in (folds.train, folds.val, folds.test))
    assert folds.holdout.any() == (locked > 0)
    assert np.array_equal(folds.fit, folds.train)
    if protocol != "holdout":
        tested = folds.test.reshape(repeats, -1, rows).sum(axis=1)
        assert (tested == ~folds.holdout).all()
        assert np.array_equal(folds.val.reshape(repeats, -1, rows).sum(axis=1), tested)
    if grouped:
        for part in (*folds.train, *folds.val, *folds.test, folds.holdout):
            assert not set(data.group[part]) & set(data.group[~part])


@pytest.mark.parametrize("protocol", ["stratified", "kfold"])
def test_validation_is_the_next_fold_of_the_same_partition(protocol):
    folds = make_folds(FoldsConfig(protocol=protocol, k=4), labelled(coin(0, 40)))
    assert np.array_equal(folds.val, np.roll(folds.test, -1, axis=0))


@given(seed=st.integers(0, 1000), rows=st.integers(40, 150), k=st.integers(3, 7), share=st.floats(0.2, 0.5))
@settings(max_examples=40, deadline=None)
def test_stratified_is_as_even_as_scikit_learn(seed, rows, k, share):
    codes = coin(seed, rows, share)
    folds = make_folds(FoldsConfig(k=k, seed=seed), labelled(codes))
    reference = [test for _, test in StratifiedKFold(k).split(codes, codes)]
    for label in (0, 1):
        counts = [int((codes[part] == label).sum()) for part in folds.test]
        expected = [int((codes[test] == label).sum()) for test in reference]
        assert sorted(counts) == sorted(expected)
    assert np.ptp(folds.test.sum(axis=1)) <= 1


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_several_tasks_and_their_unknown_labels_are_stratified_at_once(seed):
    rng = np.random.default_rng(seed)
    first = np.where(rng.random(200) < 0.3, np.nan, coin(seed, 200, 0.2))
    second = rng.integers(0, 3, 200).astype(float)
    data = labelled(first, second=(Task("grade", "multiclass", ("a", "b", "c")), second))
    folds = make_folds(FoldsConfig(k=5, seed=seed), data)
    for codes in (first, second):
        for mark in (np.isnan(codes), *(codes == c for c in (0, 1, 2))):
            # a greedy heuristic for seven labels at once: within three rows of the ideal
            assert abs(folds.test[:, mark].sum(axis=1) - mark.sum() / 5).max() < 3


def test_grouped_stratification_is_no_worse_than_scikit_learn():
    ours, theirs = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        group = rng.integers(0, 25, 200)
        codes = (rng.random(200) < rng.beta(1, 3, 25)[group]).astype(float)
        folds = make_folds(FoldsConfig(k=5, seed=seed), labelled(codes, group))
        reference = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(codes, codes, group)
        ours.append(np.std([codes[part].sum() for part in folds.test]))
        theirs.append(np.std([codes[test].sum() for _, test in reference]))
    assert np.mean(ours) <= np.mean(theirs)


def test_regression_is_stratified_on_quantiles():
    values = np.random.default_rng(0).lognormal(size=200)
    folds = make_folds(FoldsConfig(k=4), labelled(values, task=Task("dose", "regression")))
    edges = np.quantile(values, [0.2, 0.4, 0.6, 0.8])
    for part in folds.test:
        assert abs(np.bincount(np.searchsorted(edges, values[part]), minlength=5) - 10).max() <= 1


def test_per_step_labels_are_stratified_by_their_share_of_steps():
    steps = np.zeros((60, 4))
    steps[:30, :2] = 1
    folds = make_folds(FoldsConfig(k=3), labelled(steps, task=Task("edit", "binary", ("no", "yes"), steps=("sensor",))))
    assert folds.test[:, :30].sum(axis=1).tolist() == [10, 10, 10]


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_deal_gives_every_part_its_share_of_every_label(seed):
    rng = np.random.default_rng(seed)
    labels = np.eye(4)[rng.integers(0, 4, 120)]
    shares = np.array([0.6, 0.25, 0.15])
    part = deal(labels, np.ones(120), shares, rng)
    for label in range(4):
        members = labels[:, label] == 1
        counts = np.bincount(part[members], minlength=3)
        assert abs(counts - shares * members.sum()).max() <= 1


def test_the_split_is_a_function_of_seed_and_data_and_not_of_row_order():
    codes, order = coin(3, 60), np.random.default_rng(9).permutation(60)
    data = labelled(codes)
    shuffled = labelled(codes[order], ids=data.ids[order])
    for protocol in ("stratified", "kfold", "holdout"):
        config = FoldsConfig(protocol=protocol, holdout=0.2)
        folds, again, other = (make_folds(config, d) for d in (data, data, shuffled))
        assert np.array_equal(folds.test, again.test)
        assert np.array_equal(folds.test[:, order], other.test)
        assert folds.digest == again.digest == other.digest
        assert make_folds(config.model_copy(update={"seed": 1}), data).digest != folds.digest


def test_repeats_differ_and_are_named():
    folds = make_folds(FoldsConfig(repeats=2, k=3), labelled(coin(0, 60)))
    assert folds.names[:4] == ("repeat 0 fold 0", "repeat 0 fold 1", "repeat 0 fold 2", "repeat 1 fold 0")
    assert not np.array_equal(folds.test[:3], folds.test[3:])


def test_leave_one_group_out_tests_each_group_and_validates_on_those_that_follow():
    group = [f"site {i % 6}" for i in range(60)]
    folds = make_folds(FoldsConfig(protocol="leave_one_group_out", val_groups=2), labelled(coin(0, 60), group))
    assert folds.names == tuple(f"site {i}" for i in range(6))
    for k, name in enumerate(folds.names):
        assert set(np.array(group)[folds.test[k]]) == {name}
        assert set(np.array(group)[folds.val[k]]) == {f"site {(k + 1) % 6}", f"site {(k + 2) % 6}"}


def test_fractions_of_a_single_split_and_of_the_holdout_are_kept():
    data = labelled(coin(0, 200))
    folds = make_folds(FoldsConfig(protocol="holdout", val_fraction=0.1, test_fraction=0.3), data)
    assert [int(part.sum()) for part in (folds.train, folds.val, folds.test)] == [120, 20, 60]
    assert make_folds(FoldsConfig(holdout=0.25), data).holdout.sum() == 50


def test_groups_are_named_in_the_protocol():
    data = labelled(coin(0, 60), [i % 20 for i in range(60)])
    assert make_folds(FoldsConfig(), data).protocol == "stratified, grouped"
    assert make_folds(FoldsConfig(protocol="kfold"), data).protocol == "kfold, grouped"
    assert make_folds(FoldsConfig(), labelled(coin(0, 60))).protocol == "stratified"


@pytest.mark.parametrize("protocol", ["grouped", "leave_one_group_out", "loso", "shards-70-15-15"])
def test_a_grouped_protocol_without_groups_is_refused(protocol):
    with pytest.raises(ConfigError, match=f"folds.protocol: {protocol} expects a group column"):
        make_folds(FoldsConfig(protocol=protocol), labelled(coin(0, 60)))


@pytest.mark.parametrize(
    ("settings", "group", "message"),
    [
        ({"k": 10}, [i % 7 for i in range(60)], "expected at least 10 groups for this split, found 7"),
        ({"k": 10, "protocol": "kfold"}, [i % 7 for i in range(60)], "expected at least 10 groups .* found 7"),
        ({"k": 70}, None, "expected at least 70 rows for this split, found 60"),
        ({"protocol": "leave_one_group_out"}, [i % 2 for i in range(60)], "expected at least 3 groups .* found 2"),
        ({"protocol": "holdout"}, [i % 2 for i in range(60)], "expected at least one .* row in fold 0, found none"),
        ({"protocol": "loso", "val_groups": "all classes"}, [i % 3 for i in range(60)], "at least 4 groups .* found 3"),
        ({"holdout": 0.1}, [0] * 60, "folds.holdout: expected a share that leaves rows on both sides"),
    ],
)
def test_an_impossible_split_is_refused(settings, group, message):
    with pytest.raises(DataError, match=message):
        make_folds(FoldsConfig(**settings), labelled(coin(0, 60), group))


def test_training_rows_of_one_class_are_refused():
    with pytest.raises(DataError, match="task outcome: expected at least two classes .* fold 0, found only 'no'"):
        make_folds(FoldsConfig(), labelled(np.zeros(60)))
    with pytest.raises(DataError, match="task outcome: .* found no known label"):
        make_folds(FoldsConfig(), labelled(np.full(60, np.nan)))
    with pytest.raises(DataError, match="task dose: expected known values .* found none"):
        make_folds(FoldsConfig(), labelled(np.full(60, np.nan), task=Task("dose", "regression")))


def test_parts_with_an_undefined_score_are_noted_with_fold_and_task():
    codes = np.zeros(60)
    codes[:4] = 1
    folds = make_folds(FoldsConfig(), labelled(codes))
    missing = [name for name, part in zip(folds.names, folds.test, strict=True) if not codes[part].any()]
    assert len(missing) == 1
    assert f"task outcome, test rows of {missing[0]}: AUROC is undefined with fewer than two classes" in folds.notes
    assert make_folds(FoldsConfig(), labelled(coin(0, 60))).notes == ()


def test_check_folds_catches_overlap_and_straddling_groups():
    data = labelled(coin(0, 60), [i // 3 for i in range(60)])
    folds = make_folds(FoldsConfig(), data)
    with pytest.raises(AssertionError, match="overlap"):
        check_folds(replace(folds, val=folds.test), data)
    swapped = folds.test.copy()
    swapped[0, np.flatnonzero(folds.test[0])[0]] = False
    with pytest.raises(AssertionError, match="groups in two parts"):
        check_folds(replace(folds, test=swapped), data)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"k": 2}, "k: expected greater than or equal to 3, found 2"),
        ({"holdout": 0.5}, "holdout: expected less than 0.5, found 0.5"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "expected val_fraction \\+ test_fraction below 1"),
        ({"val_groups": 0}, "val_groups: expected greater than or equal to 1 or 'all classes', found 0"),
        (
            {"protocol": "given", "holdout": 0.1},
            "expected repeats 1 and holdout 0 with protocol given, found 1 and 0.1",
        ),
        ({"protocl": "kfold"}, "protocl: unknown key \\(did you mean 'protocol'\\?\\)"),
    ],
)
def test_settings_out_of_range_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        validate(FoldsConfig, tree, "demo.yaml")


def test_loso_is_leave_one_group_out_under_its_own_name():
    data = labelled(coin(0, 60), [f"subject {i % 6}" for i in range(60)])
    for more in ({}, {"val_groups": 2, "repeats": 2}, {"val_groups": "all classes"}):
        other, ours = (make_folds(FoldsConfig(protocol=p, **more), data) for p in ("leave_one_group_out", "loso"))
        assert (ours.digest, ours.names, ours.notes) == (other.digest, other.names, other.notes)
        assert (ours.protocol, other.protocol) == ("loso", "leave_one_group_out")


GRADES = Task("grade", "multiclass", tuple("abcd"))


def uneven(seed: int, groups: int) -> ArrayDataset:
    """Groups that each have some of four classes, in numbers of their own."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, (groups, 4)) * (rng.random((groups, 4)) < 0.7)
    counts[:2] += 1
    group = np.repeat([f"g{i:02d}" for i in range(groups)], counts.sum(axis=1))
    codes = np.concatenate([np.repeat(np.arange(4.0), row) for row in counts])
    order = rng.permutation(len(codes))
    recording = np.array([f"{g} {c} {i % 3}" for i, (g, c) in enumerate(zip(group, codes, strict=True))])
    return labelled(codes[order], group[order], GRADES, recording=recording[order])


def shares(data: ArrayDataset, part: np.ndarray) -> np.ndarray:
    """Rows of each class in a part."""
    return np.bincount(data.targets["grade"].numpy().astype(int)[part], minlength=4)


@given(seed=st.integers(0, 1000), groups=st.integers(3, 20), repeats=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_shards_give_each_class_its_quota_exact_to_one_shard_and_stay_whole(seed, groups, repeats):
    data = uneven(seed, groups)
    codes = data.targets["grade"].numpy().astype(int)
    config = FoldsConfig(protocol="shards-70-15-15", seed=seed, repeats=repeats)
    try:
        folds = make_folds(config, data)
    except DataError:
        assume(False)
    shards, of_row = np.unique([f"{g} {c}" for g, c in zip(data.group, codes, strict=True)], return_inverse=True)
    largest = [np.bincount(of_row[codes == code], minlength=len(shards)).max() for code in range(4)]
    for k in range(len(folds)):
        parts = folds.train[k], folds.val[k], folds.test[k]
        assert (sum(part.astype(int) for part in parts) == 1).all()
        for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
            assert (abs(shares(data, part) - share * np.bincount(codes, minlength=4)) < np.maximum(largest, 1)).all()
            assert not set(of_row[part]) & set(of_row[~part])
            assert not set(data.recording[part]) & set(data.recording[~part])
    assert folds.protocol == "shards-70-15-15"
    assert make_folds(config, data).digest == folds.digest


def test_shards_of_one_size_are_dealt_70_15_15():
    data = labelled(np.arange(400) % 2, np.arange(400) // 4)  # 100 groups with two rows of each class
    folds = make_folds(FoldsConfig(protocol="shards-70-15-15"), data)
    assert [int(part.sum()) for part in (folds.train, folds.val, folds.test)] == [280, 60, 60]
    assert data.targets["outcome"][torch.from_numpy(folds.val[0])].mean() == 0.5


def test_shards_warn_of_groups_in_several_parts():
    data = uneven(0, 12)
    folds = make_folds(FoldsConfig(protocol="shards-70-15-15"), data)
    tested = set(data.group[folds.test[0]])
    shared = tested & set(data.group[~folds.test[0]])
    assert f"{len(shared)} of {len(tested)} groups that are tested have rows in train or val too" in folds.notes[0]
    assert shared


def test_shards_of_one_class_per_group_straddle_nothing_and_warn_of_nothing():
    group = [f"g{i % 20}" for i in range(200)]
    data = labelled([(i % 20) % 4 for i in range(200)], group, GRADES)
    assert make_folds(FoldsConfig(protocol="shards-70-15-15"), data).notes == ()


@pytest.mark.parametrize(
    ("task", "more", "found"),
    [(Task("dose", "regression"), {}, "'dose'"), (BINARY, {"second": (GRADES, coin(1, 60))}, "'outcome', 'grade'")],
)
def test_shards_need_one_task_with_a_class_per_row(task, more, found):
    data = labelled(coin(0, 60), [i % 9 for i in range(60)], task, **more)
    with pytest.raises(ConfigError, match=f"expects one main task, with a class per row, found {found}"):
        make_folds(FoldsConfig(protocol="shards-70-15-15"), data)


def test_a_given_split_is_taken_as_it_is_and_straddling_groups_are_noted():
    given_split = np.repeat(["train", "val", "test"], [30, 20, 10])
    data = labelled(coin(0, 60), [f"g{i // 6}" for i in range(60)], given_split=given_split)
    folds = make_folds(FoldsConfig(protocol="given"), data)
    assert folds.protocol == "given"
    for part, name in zip((folds.train, folds.val, folds.test), ("train", "val", "test"), strict=True):
        assert np.array_equal(part[0], given_split == name)
    assert "1 of 2 groups that are tested have rows in train or val too" in folds.notes[0]
    whole = labelled(coin(0, 60), [f"g{i // 10}" for i in range(60)], given_split=given_split)
    assert make_folds(FoldsConfig(protocol="given"), whole).notes == ()
    unknown = labelled(coin(0, 60), given_split=given_split)
    assert "no groups are known" in make_folds(FoldsConfig(protocol="given"), unknown).notes[0]


def test_a_given_split_that_is_not_there_or_not_of_every_row_is_refused():
    with pytest.raises(ConfigError, match="given expects a split that comes with the data, found none"):
        make_folds(FoldsConfig(protocol="given"), labelled(coin(0, 60)))
    data = labelled(coin(0, 60), given_split=["train"] * 58 + [""] * 2)
    with pytest.raises(DataError, match=r"train, val, test as the split of every row, found '' of row r00058 \(2 such"):
        make_folds(FoldsConfig(protocol="given"), data)


@pytest.mark.parametrize("protocol", ["stratified", "grouped", "holdout", "given_folds"])
def test_rows_that_came_locked_away_are_in_no_part_under_any_protocol(protocol):
    locked = np.arange(80) >= 60
    given_split = np.where(locked, "holdout", "train")
    fold = np.where(locked, "", (np.arange(80) % 4).astype(str))
    data = labelled(coin(0, 80), [f"g{i // 5}" for i in range(80)], given_split=given_split, given_fold=fold)
    folds = make_folds(FoldsConfig(protocol=protocol), data)
    assert np.array_equal(folds.holdout, locked)
    assert not (folds.train | folds.val | folds.test)[:, locked].any()
    if protocol != "holdout":
        assert folds.test.any(axis=0)[~locked].all()


def test_locked_rows_that_cannot_be_kept_apart_are_refused():
    torn = labelled(coin(0, 60), [f"g{i // 7}" for i in range(60)], given_split=["train"] * 50 + ["holdout"] * 10)
    with pytest.raises(DataError, match="expected groups to be locked away whole, found group g7 on both sides"):
        make_folds(FoldsConfig(), torn)
    single = labelled(coin(0, 60), given_split=["train"] * 50 + ["holdout"] * 10)
    with pytest.raises(ConfigError, match="expected 0 where the data come with a locked part, found 0.2 beside 10"):
        make_folds(FoldsConfig(holdout=0.2), single)
    with pytest.raises(DataError, match="expected rows that did not come locked away, found none"):
        make_folds(FoldsConfig(), labelled(coin(0, 60), given_split=["holdout"] * 60))


def test_given_folds_are_each_tested_once_in_the_order_of_their_numbers():
    fold = np.array(["10", "2", "1", "0"])[np.arange(60) % 4]
    folds = make_folds(FoldsConfig(protocol="given_folds"), labelled(coin(0, 60), given_fold=fold))
    names = ["0", "1", "2", "10"]
    assert folds.names == tuple(f"fold {name}" for name in names)
    for k, name in enumerate(names):
        assert np.array_equal(folds.test[k], fold == name)
        assert np.array_equal(folds.val[k], fold == names[(k + 1) % 4])
        assert np.array_equal(folds.train[k], ~folds.test[k] & ~folds.val[k])
    grouped = labelled(coin(0, 60), [f"g{i // 2}" for i in range(60)], given_fold=fold)
    assert (
        "30 of 30 groups that are tested have rows in train or val too"
        in make_folds(FoldsConfig(protocol="given_folds"), grouped).notes[0]
    )


def test_given_folds_that_are_not_there_or_have_gaps_are_refused():
    config = FoldsConfig(protocol="given_folds")
    with pytest.raises(ConfigError, match="given_folds expects folds that come with the data, found none"):
        make_folds(config, labelled(coin(0, 60)))
    with pytest.raises(DataError, match=r"a fold of every row that is not locked away, found none of row r00058 \(2"):
        make_folds(config, labelled(coin(0, 60), given_fold=["0", "1", "2"] * 19 + ["0"] + [""] * 2))
    with pytest.raises(DataError, match="expects at least 3 folds, found '0', '1'"):
        make_folds(config, labelled(coin(0, 60), given_fold=["0", "1"] * 30))


@pytest.mark.parametrize("protocol", ["stratified", "shards-70-15-15"])
def test_auxiliary_tasks_have_no_say_in_the_split(protocol):
    dose, group = Task("dose", "binary", ("low", "high"), auxiliary="help"), np.arange(60) // 3
    alone = make_folds(FoldsConfig(protocol=protocol), labelled(coin(0, 60), group))
    helped = make_folds(FoldsConfig(protocol=protocol), labelled(coin(0, 60), group, more=(dose, coin(3, 60, 0.1))))
    assert np.array_equal(alone.test, helped.test)
    assert np.array_equal(alone.val, helped.val)


def test_a_fold_whose_training_rows_all_weigh_nothing_is_refused():
    of_fold = np.arange(60) // 20
    data = replace(
        labelled(coin(0, 60), given_fold=of_fold.astype(str)),
        emphasis={"outcome": torch.from_numpy((of_fold == 0).astype(np.float32))},
    )
    with pytest.raises(DataError, match="task outcome: expected a weight above 0 among the training rows of fold 0"):
        make_folds(FoldsConfig(protocol="given_folds"), data)
    assert make_folds(FoldsConfig(protocol="stratified"), data).digest


@pytest.mark.parametrize("protocol", ["stratified", "kfold", "holdout"])
def test_folds_are_made_of_targets_without_laying_out_what_they_are_predicted_from(protocol):
    data = synthetic.load(synthetic.SyntheticConfig(rows=60))

    class Targets:
        """Of another data set, whose rows nobody may ask for."""

        gather = None

        def __len__(self):
            return len(data)

        def __getattr__(self, name):
            return getattr(data, name)

    config = FoldsConfig(protocol=protocol)
    assert make_folds(config, Targets()).digest == make_folds(config, data).digest


@pytest.mark.parametrize("protocol", ["stratified", "kfold", "holdout"])
def test_without_groups_recordings_are_kept_whole_and_that_is_noted(protocol):
    data = labelled(coin(0, 60), recording=[f"r{i // 4}" for i in range(60)])
    folds = make_folds(FoldsConfig(protocol=protocol, holdout=0.2), data)
    for part in (*folds.train, *folds.val, *folds.test, folds.holdout):
        assert not set(data.recording[part]) & set(data.recording[~part])
    assert folds.protocol == f"{protocol}, whole recordings"
    assert "no groups are known: recordings are kept whole" in folds.notes[0]
    with pytest.raises(AssertionError, match="recordings in two parts"):
        check_folds(folds, replace(data, recording=np.roll(data.recording, 1)))


@given(seed=st.integers(0, 3000), groups=st.integers(4, 15), repeats=st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_all_classes_are_validated_where_that_takes_none_from_training(seed, groups, repeats):
    data = uneven(seed, groups)
    config = FoldsConfig(protocol="loso", val_groups="all classes", repeats=repeats, seed=seed)
    rows = np.array([shares(data, data.group == name) for name in np.unique(data.group)])
    try:
        folds = make_folds(config, data)
    except DataError as error:
        assert "expected a group to validate fold" in str(error) or "at least 4 groups" in str(error)
        return
    for k in range(len(folds)):
        val, train, test = (set(data.group[part[k]]) for part in (folds.val, folds.train, folds.test))
        others = np.array([name not in test for name in np.unique(data.group)])
        assert len(test) == 1
        assert len(train) >= 2
        assert np.array_equal(shares(data, folds.train[k]) > 0, shares(data, ~folds.test[k]) > 0)
        spare = np.array([name in train for name in np.unique(data.group)])
        for code in np.flatnonzero(shares(data, folds.val[k]) == 0):  # then no group had it to spare, or two are left
            usual = rows[others, code].sum() / max(1, (rows[others, code] > 0).sum())
            holders = spare & (rows[:, code] > 0) & (rows[:, code] >= usual / 2)
            ends = [_ends_a_class(rows, spare, others, group) for group in np.flatnonzero(holders)]
            assert all(ends) or len(train) == 2
        assert len(val) <= 4


def _ends_a_class(rows: np.ndarray, spare: np.ndarray, others: np.ndarray, group: int) -> bool:
    """Whether training, bool ``spare`` [groups], would lack a class's usual share without the group."""
    usual = rows[others].sum(axis=0) / np.maximum((rows[others] > 0).sum(axis=0), 1)
    has = (rows > 0) & (rows >= usual / 2)
    return bool((has[group] & (has[spare].sum(axis=0) == 1)).any())


def test_a_class_that_only_one_other_group_has_stays_in_training():
    codes = np.array([0, 1] * 24, float)
    group = np.repeat([f"g{i}" for i in range(6)], 8)
    codes[group == "g2"] = [0, 1, 2, 2, 2, 2, 2, 2]
    data = labelled(codes, group, Task("grade", "multiclass", ("a", "b", "c")))
    folds = make_folds(FoldsConfig(protocol="loso", val_groups="all classes"), data)
    one = make_folds(FoldsConfig(protocol="loso"), data)
    for k, name in enumerate(folds.names):
        assert (name == "g2") == (not (codes[folds.train[k]] == 2).any())
    assert any(not (codes[one.train[k]] == 2).any() for k, name in enumerate(one.names) if name != "g2")
    others = ", ".join(folds.names)
    assert f"task grade, val rows of {others}: none of class 'c'" in folds.notes
    assert "task grade, train rows of g2: none of class 'c'" in folds.notes


def test_a_group_with_a_few_rows_of_a_class_does_not_validate_it():
    rows = {"g0": (9, 9), "g1": (9, 0), "g2": (9, 1), "g3": (9, 9), "g4": (9, 9)}
    codes = np.concatenate([np.repeat([0.0, 1.0], counts) for counts in rows.values()])
    data = labelled(codes, np.repeat(list(rows), [sum(counts) for counts in rows.values()]))
    folds = make_folds(FoldsConfig(protocol="loso", val_groups="all classes"), data)
    assert set(data.group[folds.val[0]]) == {"g1", "g3"}
    assert set(data.group[folds.val[1]]) == {"g2", "g3"}


def test_a_fold_that_no_group_can_validate_is_refused():
    group = np.repeat([f"g{i}" for i in range(4)], 6)
    data = labelled(np.repeat(np.arange(4.0), 6), group, GRADES)
    with pytest.raises(DataError, match=r"a group to validate fold g0 without .* found none \(name a number"):
        make_folds(FoldsConfig(protocol="loso", val_groups="all classes"), data)
