"""Comparisons against their formulas, and what they promise where neither model is better."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from fusion_lab.evaluation.metrics import binary_auroc, binary_f1, multiclass_accuracy
from fusion_lab.evaluation.paired import paired_folds, paired_rows

OURS = np.array([0.71, 0.78, 0.69, 0.75, 0.74])
OTHER = np.array([0.70, 0.71, 0.70, 0.69, 0.70])


def closeness(target, prediction):
    """Cheap, and of a value that has no ties."""
    return -float(np.abs(target - prediction).mean())


def _rejections(p, level=0.05):
    """How many of the tests reject, and how many would in 999 of 1000 repetitions if the level were kept."""
    return int((p <= level).sum()), stats.binom.ppf(0.0005, len(p), level), stats.binom.ppf(0.9995, len(p), level)


@pytest.mark.parametrize(("train", "test"), [(360, 120), (90, 10)])
def test_folds_are_compared_by_the_corrected_t_test(train, test):
    found = paired_folds(OURS, OTHER, train, test)
    difference = OURS - OTHER
    error = np.sqrt((1 / 5 + test / train) * difference.var(ddof=1))
    assert found.difference == pytest.approx(difference.mean())
    assert found.p == pytest.approx(stats.t.sf(difference.mean() / error, df=4))
    interval = stats.t.interval(0.95, 4, loc=difference.mean(), scale=error)
    assert (found.low, found.high) == pytest.approx(interval)
    assert found.n == 5
    naive = stats.ttest_rel(OURS, OTHER, alternative="greater").pvalue
    assert naive < found.p


def test_folds_the_other_way_round_are_the_mirror_image():
    one, two = paired_folds(OURS, OTHER, 80, 20), paired_folds(OTHER, OURS, 80, 20)
    assert one.difference == pytest.approx(-two.difference)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    assert one.p + two.p == pytest.approx(1)


def test_folds_without_variance_never_speak_for_ours():
    same = paired_folds(OURS, OURS, 80, 20)
    assert (same.difference, same.p) == (0, 1)
    worse = paired_folds(OURS - 0.1, OURS, 80, 20)
    assert worse.p == 1
    other = np.array([0.1, 0.3, 0.6, 0.75, 0.9])
    better = paired_folds(other + 0.05, other, 80, 20)
    assert np.ptp(other + 0.05 - other) > 0  # equal but for rounding
    assert better.difference == pytest.approx(0.05)
    assert np.isnan([better.p, better.low, better.high]).all()
    assert "same difference" in better.test


@pytest.mark.parametrize("values", [[], [0.7], [0.7, np.nan, 0.8]])
def test_a_comparison_needs_two_folds_and_all_of_them(values):
    found = paired_folds(np.array(values), np.zeros(len(values)), 80, 20)
    assert np.isnan([found.p, found.low, found.high]).all()
    assert found.n == len(values)


def test_corrected_t_rejects_as_often_as_it_says_under_the_correlation_it_assumes():
    """Fold differences correlated by test / (train + test), as in Nadeau and Bengio."""
    rng = np.random.default_rng(0)
    folds, train, test, runs = 5, 80, 20, 3000
    shared = test / (train + test)
    values = np.sqrt(shared) * rng.normal(size=(runs, 1)) + np.sqrt(1 - shared) * rng.normal(size=(runs, folds))
    p = np.array([paired_folds(row, np.zeros(folds), train, test).p for row in values])
    rejected, least, most = _rejections(p)
    assert least <= rejected <= most
    assert stats.kstest(p, "uniform").pvalue > 0.001


def _values(rows, noise, seed):
    """A target and a prediction of it for every deviation in ``noise``."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=rows)
    return target, *(target + deviation * rng.normal(size=rows) for deviation in noise)


@pytest.mark.slow
def test_swaps_reject_as_often_as_they_say_where_the_models_are_exchangeable():
    p = np.array([paired_rows(closeness, *_values(25, (1, 1), run), draws=99, seed=run).p for run in range(300)])
    rejected, least, most = _rejections(p)
    assert least <= rejected <= most
    assert (p > 0).all()
    counts = np.histogram(p, bins=5, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.slow
def test_swaps_by_group_keep_their_level_where_rows_of_a_group_are_alike_and_swaps_by_row_do_not():
    def drawn(run):
        rng = np.random.default_rng(run)
        group = np.repeat(np.arange(12), 6)
        target = np.zeros(72)
        return target, *(rng.normal(size=12)[group] + 0.1 * rng.normal(size=72) for _ in range(2)), group

    by_group, by_row = [], []
    for run in range(200):
        target, ours, other, group = drawn(run)
        by_group.append(paired_rows(closeness, target, ours, other, group, draws=99, seed=run).p)
        by_row.append(paired_rows(closeness, target, ours, other, draws=99, seed=run).p)
    rejected, least, most = _rejections(np.array(by_group))
    assert least <= rejected <= most
    assert _rejections(np.array(by_row))[0] > most


@pytest.mark.slow
def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    truth = np.sqrt(2 / np.pi) * (1.5 - 1.0)  # the mean distance of normal noise is its deviation times this root
    runs = [paired_rows(closeness, *_values(60, (1.0, 1.5), run), draws=200, seed=run) for run in range(200)]
    missed = sum(not found.low <= truth <= found.high for found in runs)
    assert missed <= stats.binom.ppf(0.9995, len(runs), 0.08)  # percentiles are a little narrow at 60 rows


@pytest.mark.slow
def test_the_bootstrap_of_a_few_groups_covers_the_truth_too():
    """Five groups of unequal size whose rows share their luck, of which plain percentiles miss one in six."""
    code = np.repeat(np.arange(5), [2, 3, 4, 5, 6])
    shared, own = 0.5, 0.1
    spread = np.hypot(shared, own)
    truth = 2.0 - stats.foldnorm.mean(1 / spread, scale=spread)

    def found(run):
        rng = np.random.default_rng(run)
        ours = 1 + shared * rng.normal(size=5)[code] + own * rng.normal(size=len(code))
        return paired_rows(closeness, np.zeros(len(code)), ours, np.full(len(code), 2.0), code, draws=300, seed=run)

    runs = [found(run) for run in range(200)]
    missed = sum(not found.low <= truth <= found.high for found in runs)
    assert missed <= stats.binom.ppf(0.9995, len(runs), 0.08)


def test_a_clearly_better_model_is_told_and_a_clearly_worse_one_is_not():
    target, ours, other = _values(80, (0.2, 1.0), 0)
    found = paired_rows(closeness, target, ours, other, draws=500)
    assert found.p == 1 / 501
    assert 0 < found.low < found.difference < found.high
    worse = paired_rows(closeness, target, other, ours, draws=500)
    assert worse.p > 0.99
    assert worse.difference == -found.difference


def test_auroc_of_rows_is_compared_and_the_same_seed_gives_the_same():
    rng = np.random.default_rng(0)
    target = (rng.random(60) < 0.4).astype(float)
    ours, other = target + rng.normal(size=60), 0.2 * target + rng.normal(size=60)
    found = paired_rows(binary_auroc, target, ours, other, draws=200, seed=3)
    assert found.difference == pytest.approx(roc_auc_score(target, ours) - roc_auc_score(target, other))
    assert found == paired_rows(binary_auroc, target, ours, other, draws=200, seed=3)
    assert found != paired_rows(binary_auroc, target, ours, other, draws=200, seed=4)
    assert found.n == 60
    assert found.p == pytest.approx(paired_rows(binary_auroc, target, ours, other, draws=800).p, abs=0.05)


def test_class_probabilities_are_swapped_row_by_row():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 50).astype(float)
    right, noise = np.eye(3)[target.astype(int)], rng.dirichlet(np.ones(3), 50)
    found = paired_rows(multiclass_accuracy, target, right, noise, draws=200)
    assert found.difference == pytest.approx(1 - multiclass_accuracy(target, noise))
    assert found.p == 1 / 201


def test_models_that_answer_alike_are_not_told_apart():
    target, ours = _values(30, (1,), 0)
    found = paired_rows(closeness, target, ours, ours.copy(), draws=100)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_groups_of_one_row_are_rows_and_their_names_do_not_matter():
    target, ours, other = _values(30, (1, 2), 0)
    plain = paired_rows(closeness, target, ours, other, draws=100)
    named = paired_rows(closeness, target, ours, other, np.array([f"r{i:02d}" for i in range(30)]), draws=100)
    assert (plain.p, plain.low, plain.high, plain.n) == (named.p, named.low, named.high, named.n)


def test_draws_without_a_score_are_left_out_and_counted():
    target = np.array([1.0, 1.0, *np.zeros(18)])
    rng = np.random.default_rng(0)
    ours, other = rng.random(20) + target, rng.random(20)
    found = paired_rows(binary_auroc, target, ours, other, draws=300)
    expected = 300 * (18 / 20) ** 20  # draws that hold no positive row
    assert abs(found.undefined - expected) < 5 * np.sqrt(expected)
    assert np.isfinite([found.low, found.high, found.p]).all()


@pytest.mark.parametrize(
    ("target", "group"), [([0, 0, 0], None), ([], None), ([0, 1, 1], ["a", "a", "a"])], ids=["undefined", "none", "one"]
)
def test_what_cannot_be_compared_is_nan(target, group):
    target = np.array(target, float)
    score = np.linspace(0, 1, len(target))
    group = None if group is None else np.array(group)
    found = paired_rows(binary_f1 if len(target) else closeness, target, score, score, group, draws=20)
    assert np.isnan([found.p, found.low, found.high]).all()
