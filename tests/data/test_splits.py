from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, DataError, Provenance, Spec, Task
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.splits import FoldsConfig, check_folds, deal, make_folds

BINARY = Task("outcome", "binary", ("no", "yes"))


def labelled(codes, group=None, task=BINARY, ids=None, **more) -> ArrayDataset:
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
    )


def coin(seed: int, rows: int, share: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(seed).permutation(rows) < share * rows).astype(float)


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(30, 90),
    k=st.integers(3, 6),
    repeats=st.integers(1, 2),
    protocol=st.sampled_from(["stratified", "kfold", "grouped", "leave_one_group_out", "holdout"]),
    grouped=st.booleans(),
    locked=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=60, deadline=None)
def test_folds_partition_the_rows_and_keep_groups_whole(seed, rows, k, repeats, protocol, grouped, locked):
    grouped = grouped or protocol in ("grouped", "leave_one_group_out")
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


@pytest.mark.parametrize("protocol", ["grouped", "leave_one_group_out"])
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
        ({"protocl": "kfold"}, "protocl: unknown key \\(did you mean 'protocol'\\?\\)"),
    ],
)
def test_settings_out_of_range_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        validate(FoldsConfig, tree, "demo.yaml")
