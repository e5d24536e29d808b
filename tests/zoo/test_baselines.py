"""Baselines against scikit-learn, and what they may look at."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from fusion_lab.contracts import Batch, ConfigError, Feature, Folds, Modality, Spec, Task
from fusion_lab.zoo import baselines, linear, tabular
from fusion_lab.zoo.baselines import (
    BASELINES,
    BestSingle,
    LateAverage,
    Logistic,
    Prevalence,
    Single,
    TrainingFold,
    Trees,
    baseline_names,
    fit_baseline,
    run_baselines,
)

ROWS = 150
EVENT = Task("event", "binary", ("no", "yes"))
SITE = Task("site", "multiclass", ("a", "b", "c"))
DOSE = Task("dose", "regression")


def _modality(name, width=3, kind="vector", length=None):
    return Modality(name, kind, tuple(Feature(f"f{i}") for i in range(width)), length)


SPEC = Spec((_modality("blood"), _modality("image", 5)), (EVENT,))
WIDE = Spec((_modality("blood"), _modality("image", 400)), (EVENT,))
MIXED = Spec(
    (_modality("blood"), _modality("motion", 2, "sequence", 6), _modality("cells", 2, "bag", 4)), (EVENT, SITE, DOSE)
)


def _batch(spec, rows=ROWS, seed=0, planted="blood", strength=2.0):
    """Random rows; every target depends on the first feature of ``planted``, some labels and values are unknown."""
    g = torch.Generator().manual_seed(seed)
    inputs, valid, observed = {}, {}, {}
    for m in spec.modalities:
        valid[m.name] = torch.rand(rows, *m.shape[:-1], generator=g) < (0.9 if m.kind == "vector" else 0.6)
        observed[m.name] = (torch.rand(rows, *m.shape, generator=g) < 0.9) & valid[m.name].unsqueeze(-1)
        inputs[m.name] = torch.randn(rows, *m.shape, generator=g) * observed[m.name]
    signal = inputs[planted].reshape(rows, -1, spec.modality(planted).width)[..., 0].sum(1)
    latent = strength * signal + torch.randn(rows, generator=g)
    values = {
        "event": (latent > 0.3).float(),
        "site": torch.bucketize(latent, torch.tensor([-1.0, 1.0])),
        "dose": latent,
    }
    known = {t.name: torch.rand(rows, generator=g) < 0.8 for t in spec.tasks}
    targets = {t.name: values[t.name].float() * known[t.name] for t in spec.tasks}
    quality = {m.name: torch.ones(rows) for m in spec.modalities}
    return Batch(inputs, valid, observed, quality, targets, known, torch.ones(rows))


def _take(batch, rows):
    return Batch(*({n: leaf[rows] for n, leaf in leaves.items()} for leaves in batch[:6]), batch.weight[rows])


def _folds(rows=ROWS, count=3):
    part = np.arange(rows) % count
    test = np.stack([part == k for k in range(count)])
    val = np.roll(test, 1, axis=0)
    train = ~test & ~val
    return Folds("k-fold", train, val, test, train, np.zeros(rows, bool))


def _run(spec, batch, names=None):
    return run_baselines(spec, _folds(len(batch.weight)), lambda fold, rows: _take(batch, rows), names)


@pytest.fixture
def quick(monkeypatch):
    """The same models with one penalty, one scaling and few trees."""
    monkeypatch.setattr(linear, "_STRENGTHS", (0.1,))
    monkeypatch.setattr(linear, "_EXPONENTS", (0.0,))
    monkeypatch.setitem(baselines._TREES, "max_iter", 5)


def _by_hand(batch, names):
    parts = []
    for name in names:
        parts += [batch.inputs[name].numpy(), ~batch.valid[name].numpy()[:, None]]
    return np.concatenate(parts, axis=1).astype(float)


def test_registry_is_what_the_names_say():
    singles = {name for name in baseline_names(SPEC) if name.startswith("single:")}
    assert singles == {"single:blood", "single:image"}
    assert set(baseline_names(SPEC)) - singles == set(BASELINES)


@pytest.mark.parametrize("spec", [SPEC, MIXED], ids=["vectors", "every kind"])
def test_all_baselines_answer_every_row_of_validation_and_test_without_a_warning(spec):
    batch, folds = _batch(spec), _folds()
    done = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run_baselines(spec, folds, lambda fold, rows: _take(batch, rows), None, lambda *told: done.append(told))
    assert tuple(found) == baseline_names(spec)
    assert done == [(name, fold) for fold in range(len(folds)) for name in baseline_names(spec)]
    assert all(seconds >= 0 for _, seconds in done)
    for predictions in found.values():
        for split, mask in (("val", folds.val), ("test", folds.test)):
            for fold in range(len(folds)):
                assert predictions.of(split, fold).row.tolist() == np.flatnonzero(mask[fold]).tolist()
        for task in spec.tasks:
            score = predictions.score[task.name]
            assert np.isfinite(score).all()
            assert score.shape == (len(predictions.row), *[3] * (task.kind == "multiclass"))
            np.testing.assert_array_equal(predictions.target[task.name], batch.targets[task.name][predictions.row])
            np.testing.assert_array_equal(predictions.known[task.name], batch.known[task.name][predictions.row])
            if task.kind == "binary":
                assert ((score >= 0) & (score <= 1)).all()
            if task.kind == "multiclass":
                np.testing.assert_allclose(score.sum(1), 1)


def test_running_twice_gives_the_same(quick):
    batch = _batch(MIXED)
    first, second = _run(MIXED, batch), _run(MIXED, batch)
    for name, predictions in first.items():
        for task in MIXED.tasks:
            np.testing.assert_array_equal(predictions.score[task.name], second[name].score[task.name])


def test_prevalence_is_the_known_training_rows_weighted_mean_and_ranks_nothing():
    batch = _batch(MIXED)
    weight = torch.rand(ROWS, generator=torch.Generator().manual_seed(1)) * (torch.arange(ROWS) % 5 > 0)
    batch = batch._replace(weight=weight)
    answers = Prevalence().fit(batch, MIXED).predict(batch)
    for task in MIXED.tasks:
        rows = batch.known[task.name].numpy() & (weight.numpy() > 0)
        target, w = batch.targets[task.name].numpy()[rows], weight.numpy()[rows]
        values = np.eye(3)[target.astype(int)] if task.kind == "multiclass" else target
        expected = np.average(values, axis=0, weights=w)
        np.testing.assert_allclose(answers[task.name], np.broadcast_to(expected, answers[task.name].shape), rtol=1e-6)
    known = batch.known["event"].numpy()
    assert roc_auc_score(batch.targets["event"].numpy()[known], answers["event"][known]) == 0.5


def _scale_by_hand(width, exponent):
    """Of the columns of blood, three and one for its absence, and of image: relative to the narrower, blood."""
    return np.repeat([1.0, ((width + 1) / 4) ** -exponent], [4, width + 1])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spec", [SPEC, WIDE], ids=["more rows", "more columns"])
def test_logistic_is_scikit_learns_on_all_columns(spec, exponent, monkeypatch):
    monkeypatch.setattr(linear, "_STRENGTHS", (0.01,))
    monkeypatch.setattr(linear, "_EXPONENTS", (exponent,))
    batch = _batch(spec)
    model = Logistic().fit(batch, spec)
    columns, known = _by_hand(batch, ("blood", "image")), batch.known["event"].numpy()
    scale = _scale_by_hand(spec.modality("image").width, exponent)
    reference = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000)
    reference.fit((columns * scale)[known], batch.targets["event"].numpy()[known])
    np.testing.assert_allclose(model.coefficients("event"), reference.coef_ * scale, atol=1e-4)
    other = _batch(spec, seed=1)
    expected = reference.predict_proba(_by_hand(other, ("blood", "image")) * scale)[:, 1]
    np.testing.assert_allclose(model.predict(other)["event"], expected, atol=1e-3)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("width", [5, 400])
def test_regression_is_scikit_learns_ridge(width, exponent, monkeypatch):
    monkeypatch.setattr(linear, "_ALPHAS", (10.0,))
    monkeypatch.setattr(linear, "_EXPONENTS", (exponent,))
    spec = Spec((_modality("blood"), _modality("image", width)), (DOSE,))
    batch = _batch(spec)
    model = Logistic().fit(batch, spec)
    columns, known = _by_hand(batch, ("blood", "image")), batch.known["dose"].numpy()
    columns = columns * _scale_by_hand(width, exponent)
    reference = Ridge(alpha=10.0).fit(columns[known], batch.targets["dose"].numpy()[known])
    np.testing.assert_allclose(model.predict(batch)["dose"], reference.predict(columns), rtol=1e-5, atol=1e-6)


def _merit_of_logistic(spec, task, planted):
    """On rows it has not seen, next to the modality that carries the signal alone: AUROC or R2."""
    train, test = (_batch(spec, rows=300, seed=seed, planted=planted) for seed in range(2))
    rows = test.known[task].numpy()
    target, score = test.targets[task].numpy()[rows], roc_auc_score if task == "event" else r2_score
    return [score(target, model.fit(train, spec).predict(test)[task][rows]) for model in (Logistic(), Single(planted))]


@pytest.mark.parametrize("task", [EVENT, DOSE], ids=lambda task: task.kind)
@pytest.mark.parametrize("kind", ["vector", "sequence", "bag"])
def test_a_wide_modality_of_noise_does_not_drown_a_narrow_one(task, kind, monkeypatch):
    wide = _modality("image", 1500) if kind == "vector" else _modality("image", 300, kind, 3)
    spec = Spec((_modality("blood"), wide), (task,))
    together, alone = _merit_of_logistic(spec, task.name, "blood")
    assert together > alone - 0.06
    monkeypatch.setattr(linear, "_EXPONENTS", (0.0,))
    assert _merit_of_logistic(spec, task.name, "blood")[0] < together - 0.03


@pytest.mark.parametrize("task", [EVENT, DOSE], ids=lambda task: task.kind)
def test_a_wide_modality_that_tells_is_not_held_back(task, monkeypatch):
    spec = Spec((_modality("blood"), _modality("image", 40)), (task,))
    together, _ = _merit_of_logistic(spec, task.name, "image")
    monkeypatch.setattr(linear, "_EXPONENTS", (0.0,))
    assert together > _merit_of_logistic(spec, task.name, "image")[0] - 0.02


def test_blocks_are_as_wide_as_their_columns():
    batch = _batch(MIXED)
    parts = [tabular.columns(batch, (modality,)).shape[1] for modality in MIXED.modalities]
    assert tabular.block_widths(MIXED.modalities).tolist() == np.repeat(parts, parts).tolist()


def test_the_penalty_is_chosen_by_what_is_held_out():
    """Without a signal the strongest penalty is chosen, with a clear one a weak penalty."""
    batch = _batch(SPEC, rows=400, strength=6.0)
    columns, target = _by_hand(batch, ("blood", "image")), batch.targets["event"].numpy().astype(int)
    weight, rows = np.ones(400), batch.known["event"].numpy()
    clear = linear.choose_strength([columns[rows]], target[rows], weight[rows])
    noise = np.random.default_rng(0).integers(0, 2, 400)
    assert clear[1] >= 0.1
    assert linear.choose_strength([columns], noise, weight)[1] <= 0.01
    lonely = np.arange(400) == 0  # a class of one row cannot be split
    assert linear.choose_strength([columns, columns], lonely.astype(int), weight) == (0, 0.01)


@pytest.mark.parametrize("name", baseline_names(SPEC))
def test_what_is_unknown_or_weighs_nothing_cannot_matter(name):
    batch = _batch(SPEC)
    weight = (torch.arange(ROWS) % 4 > 0).float()
    fold = TrainingFold(SPEC, batch._replace(weight=weight), _batch(SPEC, seed=1))
    label = torch.where(batch.known["event"], batch.targets["event"], 1.0)
    label = torch.where(weight > 0, label, 1 - label)
    noise = torch.where(weight[:, None] > 0, batch.inputs["image"], 50.0)
    changed = batch._replace(weight=weight, targets={"event": label}, inputs={**batch.inputs, "image": noise})
    other = TrainingFold(SPEC, changed, _batch(SPEC, seed=1))
    asked = _batch(SPEC, seed=2)
    found, expected = (fit_baseline(name, f).predict(asked)["event"] for f in (other, fold))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["logistic", "trees", "single:blood"])
def test_weights_count_as_repeated_rows_do(name, monkeypatch):
    monkeypatch.setattr(linear, "_STRENGTHS", (0.1,))  # parts of repeated rows would hold copies of each other
    monkeypatch.setattr(linear, "_EXPONENTS", (0.5,))
    monkeypatch.setitem(baselines._TREES, "min_samples_leaf", 1)  # counts rows, not weights
    batch = _batch(SPEC)
    twice = torch.cat([torch.arange(ROWS), torch.arange(0, ROWS, 2)])
    weighted = batch._replace(weight=1.0 + (torch.arange(ROWS) % 2 == 0))
    asked = _batch(SPEC, seed=1)
    models = [fit_baseline(name, TrainingFold(SPEC, train, None)) for train in (weighted, _take(batch, twice))]
    found, expected = (model.predict(asked)["event"] for model in models)
    np.testing.assert_allclose(found, expected, atol=2e-3 if name != "trees" else 0.15)


def test_training_sees_no_validation_and_no_test_row(quick):
    """Other validation rows change nothing but the choice of ``best_single``, other test rows only themselves."""
    batch, folds = _batch(MIXED), _folds()
    names = tuple(name for name in baseline_names(MIXED) if name != "best_single")

    def run(split):
        def batch_of(fold, rows):
            part = _take(batch, rows)
            if split and rows.tolist() == np.flatnonzero(getattr(folds, split)[fold]).tolist():
                flipped = {"event": 1 - part.targets["event"]}
                part = part._replace(
                    inputs={name: 3 - leaf for name, leaf in part.inputs.items()}, targets={**part.targets, **flipped}
                )
            return part

        return run_baselines(MIXED, folds, batch_of, names if split == "val" else None)

    original = run("")
    for split, kept in (("val", "test"), ("test", "val")):
        for name, predictions in run(split).items():
            for task in MIXED.tasks:
                found, expected = predictions.of(kept).score[task.name], original[name].of(kept).score[task.name]
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("planted", ["blood", "image"])
@pytest.mark.parametrize("task", [EVENT, SITE, DOSE], ids=lambda task: task.kind)
def test_best_single_finds_the_planted_modality(planted, task):
    spec = Spec(SPEC.modalities, (task,))
    train, val, test = (_batch(spec, seed=seed, planted=planted) for seed in range(3))
    fold = TrainingFold(spec, train, val)
    best = fold.best_single()
    assert best.chosen == {task.name: planted}
    expected = fold.single(planted).predict(test)[task.name]
    np.testing.assert_array_equal(best.predict(test)[task.name], expected)


def test_best_single_chooses_by_likelihood_where_validation_rows_lack_a_class_and_the_first_without_labels():
    train, val = _batch(SPEC, planted="image"), _batch(SPEC, seed=1, planted="image")
    singles = TrainingFold(SPEC, train, None).singles()
    negative = val._replace(known={"event": val.known["event"] & (val.targets["event"] == 0)})
    assert BestSingle(singles).choose(negative, SPEC).chosen == {"event": "image"}
    nothing = val._replace(known={"event": torch.zeros(ROWS, dtype=torch.bool)})
    assert BestSingle(singles).choose(nothing, SPEC).chosen == {"event": "blood"}


@pytest.mark.parametrize("task", [EVENT, SITE, DOSE], ids=lambda task: task.kind)
def test_a_single_modality_is_fitted_where_it_is_present_and_gives_the_prevalence_elsewhere(task):
    spec = Spec(SPEC.modalities, (task,))
    batch = _batch(spec)
    model = Single("blood").fit(batch, spec)
    here = batch.valid["blood"]
    alone = Logistic("blood").fit(_take(batch, here), spec).predict(_take(batch, here))[task.name]
    answer, base = model.predict(batch)[task.name], Prevalence().fit(batch, spec).predict(batch)[task.name]
    np.testing.assert_allclose(answer[here.numpy()], alone)
    np.testing.assert_array_equal(answer[~here.numpy()], base[~here.numpy()])
    assert np.abs(answer[here.numpy()] - base[here.numpy()]).max() > 0.1


def _without(batch, name, rows=slice(None)):
    valid, inputs, observed = (leaves[name].clone() for leaves in (batch.valid, batch.inputs, batch.observed))
    valid[rows], inputs[rows], observed[rows] = False, 0.0, False
    return batch._replace(
        valid={**batch.valid, name: valid},
        inputs={**batch.inputs, name: inputs},
        observed={**batch.observed, name: observed},
    )


@pytest.mark.parametrize("missing", ["blood", "motion", "cells"])
def test_a_modality_that_training_rows_never_hold_is_handled(missing, quick):
    train, val = _without(_batch(MIXED), missing), _batch(MIXED, seed=1)
    fold = TrainingFold(MIXED, train, val)
    base = Prevalence().fit(train, MIXED).predict(val)
    for name in baseline_names(MIXED):
        answers = fit_baseline(name, fold).predict(val)
        assert all(np.isfinite(answer).all() for answer in answers.values())
        if name == f"single:{missing}":
            np.testing.assert_array_equal(answers["event"], base["event"])


def test_late_average_is_the_mean_over_present_modalities():
    train, asked = _batch(SPEC), _batch(SPEC, seed=1)
    asked = _without(_without(asked, "blood", slice(0, 5)), "image", slice(3, 8))  # rows 3 and 4 hold neither
    singles = TrainingFold(SPEC, train, None).singles()
    found = LateAverage(singles).predict(asked)["event"]
    answers = {name: single.predict(asked)["event"] for name, single in singles.items()}
    base = Prevalence().fit(train, SPEC).predict(asked)["event"]
    for row in range(ROWS):
        present = [answers[name][row] for name in answers if asked.valid[name][row]]
        assert found[row] == pytest.approx(np.mean(present) if present else base[row])


def test_sequences_and_bags_count_by_their_real_places():
    batch = _batch(MIXED)
    columns = tabular.columns(batch, MIXED.modalities)
    motion, cells = columns[:, 4:15], columns[:, 15:24]
    assert columns.shape == (ROWS, 24)
    for row in range(ROWS):
        for name, block, last in (("motion", motion, True), ("cells", cells, False)):
            for feature in range(2):
                real = batch.observed[name][row, :, feature]
                values = batch.inputs[name][row, real, feature].double().numpy()
                statistics = [np.mean, np.std, np.min, np.max] + [lambda v: v[-1]] * last
                expected = [s(values) if len(values) else np.nan for s in statistics]
                np.testing.assert_allclose(block[row, feature:-1:2], expected, atol=1e-7)
            assert block[row, -1] == (not batch.valid[name][row].any())


def test_the_order_of_a_bag_and_its_padding_cannot_matter():
    batch = _batch(MIXED)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    turned = batch._replace(
        inputs={**batch.inputs, "cells": batch.inputs["cells"][:, order]},
        valid={**batch.valid, "cells": batch.valid["cells"][:, order]},
        observed={**batch.observed, "cells": batch.observed["cells"][:, order]},
    )
    padding = torch.where(turned.observed["cells"], turned.inputs["cells"], 99.0)
    turned = turned._replace(inputs={**turned.inputs, "cells": padding})
    expected = tabular.columns(batch, MIXED.modalities)
    np.testing.assert_allclose(tabular.columns(turned, MIXED.modalities), expected, atol=1e-12)


def test_trees_learn_what_no_linear_model_can():
    spec = Spec((_modality("blood"), _modality("image", 600)), (EVENT, DOSE))  # wide enough to be screened
    train, test = (_batch(spec, rows=300, seed=seed) for seed in range(2))
    bent = [
        b._replace(
            targets={"event": (b.inputs["blood"][:, 0].abs() > 0.6).float(), "dose": b.inputs["blood"][:, 0] ** 2},
            known=dict.fromkeys(("event", "dose"), b.valid["blood"]),
        )
        for b in (train, test)
    ]
    trees, linear = (kind().fit(bent[0], spec).predict(bent[1]) for kind in (Trees, Logistic))
    rows = bent[1].known["event"].numpy()
    target = {name: values.numpy()[rows] for name, values in bent[1].targets.items()}
    assert roc_auc_score(target["event"], linear["event"][rows]) < 0.65
    assert roc_auc_score(target["event"], trees["event"][rows]) > 0.9
    assert r2_score(target["dose"], linear["dose"][rows]) < 0.2
    assert r2_score(target["dose"], trees["dose"][rows]) > 0.6


def test_screening_keeps_what_is_spared_and_the_columns_that_correlate_most():
    rng = np.random.default_rng(0)
    columns, target, weight = rng.normal(size=(80, 700)), rng.normal(size=(80, 2)), rng.random(80)
    columns[:, 9] = 4.0  # constant
    columns[rng.random(columns.shape) < 0.05] = np.nan
    spared = np.arange(700) < 10
    both = np.concatenate([np.nan_to_num(columns), target], axis=1)
    covariance = np.cov(both.T, aweights=weight)
    scale = np.sqrt(np.diag(covariance))
    strength = np.abs(covariance[:700, 700:] / scale[:700, None] / scale[700:]).max(1)
    expected = sorted([*range(10), *(10 + np.argsort(-strength[10:])[:502])])
    assert tabular.screen(columns, target, weight, spared).tolist() == expected
    columns[:, 3] = np.nan
    assert tabular.screen(columns[:, :20], target, weight, spared).tolist() == [0, 1, 2, *range(4, 20)]


def test_a_class_that_training_rows_lack_gets_no_probability():
    spec = Spec(SPEC.modalities, (SITE,))
    batch = _batch(spec)
    train = batch._replace(known={"site": batch.known["site"] & (batch.targets["site"] != 1)})
    for name in baseline_names(spec):
        answer = fit_baseline(name, TrainingFold(spec, train, batch)).predict(batch)["site"]
        assert (answer[:, 1] == 0).all()
        np.testing.assert_allclose(answer.sum(1), 1)


def test_training_rows_of_one_class_are_our_own_mistake():
    batch = _batch(SPEC)
    batch = batch._replace(known={"event": batch.known["event"] & (batch.targets["event"] == 0)})
    with pytest.raises(AssertionError, match="one class"):
        _run(SPEC, batch, ("prevalence",))


def test_unknown_names_and_targets_per_step_are_refused():
    with pytest.raises(ConfigError, match="unknown baseline 'logistc' \\(did you mean 'logistic'"):
        _run(SPEC, _batch(SPEC), ("logistc",))
    stepwise = Spec(SPEC.modalities, (Task("event", "binary", ("no", "yes"), per_step=True),))
    with pytest.raises(ConfigError, match="'event' with one per step"):
        _run(stepwise, _batch(SPEC))


def test_a_fold_without_test_rows_answers_validation_rows():
    batch, folds = _batch(SPEC), _folds()
    empty = Folds("hold-out", folds.train, folds.val, np.zeros_like(folds.test), folds.fit, folds.holdout)
    found = run_baselines(SPEC, empty, lambda fold, rows: _take(batch, rows), ("logistic",))["logistic"]
    assert set(found.split) == {"val"}
