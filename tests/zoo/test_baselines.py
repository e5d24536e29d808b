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
    answer_rows,
    baseline_names,
    fit_baseline,
    fit_folds,
    predict_rows,
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
CLOCK = ("motion", "gyro")
WALK = Task("walk", "binary", ("no", "yes"), CLOCK)
ACT = Task("act", "multiclass", ("a", "b", "c"), CLOCK)
PACE = Task("pace", "regression", steps=CLOCK)
STEPPED = Spec(
    (
        _modality("blood"),
        _modality("motion", 2, "sequence", 6),
        _modality("gyro", 1, "sequence", 6),
        _modality("sleep", 2, "sequence", 4),
        _modality("cells", 2, "bag", 4),
    ),
    (EVENT, WALK, ACT, PACE),
)
BRIEF = Spec(STEPPED.modalities[1:3], (EVENT, WALK))
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


def _stepped(rows=ROWS, seed=0, planted="motion"):
    """Rows of ``STEPPED``, whose targets per step depend on the first feature of a sequence at that step."""
    batch = _batch(Spec(STEPPED.modalities, (EVENT,)), rows, seed)
    g = torch.Generator().manual_seed(seed + 100)
    latent = 2 * batch.inputs[planted][..., 0] + torch.randn(rows, 6, generator=g)
    values = {"walk": latent > 0.3, "act": torch.bucketize(latent, torch.tensor([-1.0, 1.0])), "pace": latent}
    known = {name: torch.rand(rows, 6, generator=g) < 0.8 for name in values}
    targets = {name: value.float() * known[name] for name, value in values.items()}
    return batch._replace(targets={**batch.targets, **targets}, known={**batch.known, **known})


def _flat(task, batch):
    """Known steps of a task: bool [B,T], and their targets."""
    known = batch.known[task.name].numpy()
    return known, batch.targets[task.name].numpy()[known]


def _take(batch, rows):
    return batch.map(lambda leaf: leaf[rows])


def _folds(rows=ROWS, count=3):
    part = np.arange(rows) % count
    test = np.stack([part == k for k in range(count)])
    val = np.roll(test, 1, axis=0)
    train = ~test & ~val
    return Folds("k-fold", train, val, test, train, np.zeros(rows, bool))


def _run(spec, batch, names=None):
    return run_baselines(spec, _folds(len(batch.weight)), lambda fold, rows: _take(batch, rows), names)


def _by_hand(batch, names):
    parts = []
    for name in names:
        parts += [batch.inputs[name].numpy(), ~batch.valid[name].numpy()[:, None]]
    return np.concatenate(parts, axis=1).astype(float)


def test_registry_is_what_the_names_say():
    singles = {name for name in baseline_names(SPEC) if name.startswith("single:")}
    assert singles == {"single:blood", "single:image"}
    assert set(baseline_names(SPEC)) - singles == set(BASELINES) - {"persistence"}


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


def test_running_twice_gives_the_same(quick_baselines):
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


def test_training_sees_no_validation_and_no_test_row(quick_baselines):
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
def test_a_modality_that_training_rows_never_hold_is_handled(missing, quick_baselines):
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


def test_unknown_names_are_refused():
    batch = _batch(SPEC)
    for refused in (
        lambda: _run(SPEC, batch, ("logistc",)),
        lambda: fit_folds("logistc", SPEC, _folds(), lambda fold, rows: _take(batch, rows)),
    ):
        with pytest.raises(ConfigError, match="unknown baseline 'logistc' \\(did you mean 'logistic'"):
            refused()


def test_a_fold_without_test_rows_answers_validation_rows():
    batch, folds = _batch(SPEC), _folds()
    empty = Folds("hold-out", folds.train, folds.val, np.zeros_like(folds.test), folds.fit, folds.holdout)
    found = run_baselines(SPEC, empty, lambda fold, rows: _take(batch, rows), ("logistic",))["logistic"]
    assert set(found.split) == {"val"}


def test_all_baselines_answer_every_step_without_a_warning(quick_baselines):
    batch, folds = _stepped(), _folds()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _run(STEPPED, batch)
    assert tuple(found) == baseline_names(STEPPED)
    for predictions in found.values():
        for task in STEPPED.tasks:
            score = predictions.score[task.name]
            assert np.isfinite(score).all()
            shape = (*STEPPED.target_shape(task), *[3] * (task.kind == "multiclass"))
            assert score.shape == (2 * ROWS, *shape)
            np.testing.assert_array_equal(predictions.target[task.name], batch.targets[task.name][predictions.row])
            np.testing.assert_array_equal(predictions.known[task.name], batch.known[task.name][predictions.row])
            if task.kind == "multiclass":
                np.testing.assert_allclose(score.sum(-1), 1)
    assert predictions.of("test", 0).row.tolist() == np.flatnonzero(folds.test[0]).tolist()


@pytest.fixture(scope="module")
def folds_of_steps():
    """Training folds by what is said of them, so that the models of single modalities are fitted once for all names."""
    batch, alone = _stepped(), Spec(STEPPED.modalities, (EVENT,))
    part = batch._replace(weight=(torch.arange(ROWS) % 4 > 0).float())
    silent = {t.name: ~part.known[t.name] | (part.weight == 0)[:, None] for t in (WALK, ACT, PACE)}
    other = {n: torch.where(hidden, 1 - part.targets[n], part.targets[n]) for n, hidden in silent.items()}
    changed = part._replace(targets={**part.targets, **other})
    return {
        "all": TrainingFold(STEPPED, batch, batch),
        "the task per row": TrainingFold(alone, batch, batch),
        "a part": TrainingFold(STEPPED, part, part),
        "a part, the rest changed": TrainingFold(STEPPED, changed, changed),
    }


@pytest.mark.parametrize("name", baseline_names(STEPPED))
def test_tasks_per_step_beside_it_change_nothing_for_a_task_per_row(name, folds_of_steps, quick_baselines):
    batch = _stepped()
    models = [fit_baseline(name, folds_of_steps[of]) for of in ("all", "the task per row")]
    found, expected = (model.predict(batch)["event"] for model in models)
    np.testing.assert_array_equal(found, expected)


def test_a_step_is_told_by_now_before_and_the_mean_until_now():
    batch = _stepped()
    lines = np.random.default_rng(0).permutation(ROWS * 6)[:200]
    found = tabular.step_columns(batch, STEPPED.modalities, CLOCK, lines)
    widths = tabular.block_widths(STEPPED.modalities, CLOCK)
    assert len(widths) == found.shape[1]
    blocks = np.split(found, np.flatnonzero(np.diff(np.repeat(np.arange(5), [4, 7, 4, 11, 9]))) + 1, axis=1)
    rows, times = lines // 6, lines % 6
    for modality, block in zip(STEPPED.modalities, blocks, strict=True):
        assert set(widths[[0, 4, 11, 15, 26]]) == {4, 7, 11, 9}
        if modality.name not in CLOCK:
            np.testing.assert_array_equal(block, tabular.columns(batch, (modality,))[rows])
            continue
        values = np.where(batch.observed[modality.name], batch.inputs[modality.name].double(), np.nan)
        for line, (row, t) in enumerate(zip(rows, times, strict=True)):
            now, until = values[row, t], values[row, : t + 1]
            before = values[row, t - 1] if t else np.full_like(now, np.nan)
            mean = [np.mean(c[~np.isnan(c)]) if not np.isnan(c).all() else np.nan for c in until.T]
            absent = not batch.valid[modality.name][row, t]
            np.testing.assert_allclose(block[line], [*now, *before, *mean, absent], atol=1e-12)


@pytest.mark.parametrize("task", [WALK, PACE], ids=lambda task: task.kind)
def test_a_linear_model_per_step_is_scikit_learns_on_the_known_steps(task, monkeypatch):
    monkeypatch.setattr(linear, "_STRENGTHS", (0.1,))
    monkeypatch.setattr(linear, "_ALPHAS", (5.0,))
    monkeypatch.setattr(linear, "_EXPONENTS", (0.0,))
    spec, batch, asked = Spec(STEPPED.modalities, (task,)), _stepped(), _stepped(seed=1)
    batch = batch._replace(weight=(torch.arange(ROWS) % 4).float())
    model = Logistic().fit(batch, spec)
    lines = [
        np.nan_to_num(tabular.step_columns(b, spec.modalities, CLOCK, np.arange(ROWS * 6))) for b in (batch, asked)
    ]
    known, target = _flat(task, batch)
    weight = np.repeat(batch.weight.numpy(), 6)[known.reshape(-1)]
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000) if task.kind == "binary" else Ridge(5.0)
    reference.fit(lines[0][known.reshape(-1)], target, sample_weight=weight)
    expected = reference.predict_proba(lines[1])[:, 1] if task.kind == "binary" else reference.predict(lines[1])
    np.testing.assert_allclose(model.predict(asked)[task.name], expected.reshape(ROWS, 6), atol=5e-3)


def test_prevalence_per_step_is_the_known_steps_weighted_mean():
    batch = _stepped()._replace(weight=torch.rand(ROWS, generator=torch.Generator().manual_seed(1)))
    answers = Prevalence().fit(batch, STEPPED).predict(_stepped(20))
    weight = np.broadcast_to(batch.weight.numpy()[:, None], (ROWS, 6))
    for task in (WALK, ACT, PACE):
        known, target = _flat(task, batch)
        values = np.eye(3)[target.astype(int)] if task.kind == "multiclass" else target
        expected = np.average(values, axis=0, weights=weight[known])
        np.testing.assert_allclose(answers[task.name], np.broadcast_to(expected, (20, 6, *expected.shape)), rtol=1e-6)


@pytest.mark.parametrize("name", ["logistic", "trees", "single:motion", "best_single", "late_average"])
def test_the_signal_of_a_step_is_found(name, quick_baselines):
    train, val, test = (_stepped(seed=seed) for seed in range(3))
    answers = fit_baseline(name, TrainingFold(STEPPED, train, val)).predict(test)
    for task, least in ((WALK, 0.7), (PACE, 0.15)):
        known, target = _flat(task, test)
        score = roc_auc_score if task.kind == "binary" else r2_score
        assert score(target, answers[task.name][known]) > least


@pytest.mark.parametrize("name", ["blood", "sleep", "cells"])
def test_a_modality_without_the_steps_clock_answers_the_same_at_every_step(name, quick_baselines):
    batch = _stepped()
    answers = fit_baseline(f"single:{name}", TrainingFold(STEPPED, batch, None)).predict(batch)
    for task in (WALK, ACT, PACE):
        np.testing.assert_array_equal(answers[task.name], answers[task.name][:, :1].repeat(6, axis=1))
        assert np.ptp(answers[task.name], axis=0).max() > 0


@pytest.mark.parametrize("name", baseline_names(STEPPED))
def test_later_steps_of_the_clock_cannot_matter(name, folds_of_steps, quick_baselines):
    asked = _stepped(seed=1)
    later = {n: torch.where(torch.arange(6)[:, None] > 2, 7.0, asked.inputs[n]) for n in CLOCK}
    changed = asked._replace(inputs={**asked.inputs, **later})
    model = fit_baseline(name, folds_of_steps["all"])
    for task in (WALK, ACT, PACE):
        found, expected = (model.predict(b)[task.name][:, :3] for b in (changed, asked))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", baseline_names(STEPPED))
def test_steps_that_are_unknown_or_weigh_nothing_cannot_matter(name, folds_of_steps, quick_baselines):
    asked = _stepped(seed=1)
    models = [fit_baseline(name, folds_of_steps[of]) for of in ("a part, the rest changed", "a part")]
    found, expected = (model.predict(asked) for model in models)
    for task in (WALK, ACT, PACE):
        np.testing.assert_array_equal(found[task.name], expected[task.name])


def test_where_a_sequence_is_absent_at_a_step_its_model_gives_the_prevalence_and_does_not_count(quick_baselines):
    train, asked = _stepped(), _stepped(seed=1)
    singles = TrainingFold(STEPPED, train, None).singles()
    answers = {name: single.predict(asked)["walk"] for name, single in singles.items()}
    base = Prevalence().fit(train, STEPPED).predict(asked)["walk"]
    found = LateAverage(singles).predict(asked)["walk"]
    for row, t in np.ndindex(ROWS, 6):
        here = {n: asked.valid[n][row, t] if n in CLOCK else asked.valid[n][row].any() for n in answers}
        present = [answers[n][row, t] for n in answers if here[n]]
        assert found[row, t] == pytest.approx(np.mean(present) if present else base[row, t])
        assert all(answers[n][row, t] == base[row, t] for n in CLOCK if not here[n])


@pytest.mark.parametrize("planted", ["motion", "gyro"])
def test_best_single_finds_the_planted_sequence_of_a_task_per_step(planted, quick_baselines):
    train, val = (_stepped(seed=seed, planted=planted) for seed in range(2))
    chosen = TrainingFold(STEPPED, train, val).best_single().chosen
    assert {task: chosen[task] for task in ("walk", "act", "pace")} == dict.fromkeys(("walk", "act", "pace"), planted)


def test_steps_of_one_row_are_never_on_both_sides_of_an_inner_split():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 6)
    codes = rng.integers(0, 3, 240)
    codes[group == 7] = 3  # a class that lies in two rows
    codes[group == 8] = 3
    splits = linear.inner_splits(codes, group)
    assert splits
    for inner, outer in splits:
        assert not set(group[inner]) & set(group[outer])
        assert set(codes[inner]) == set(codes)
    assert sorted(np.concatenate([outer for _, outer in splits])) == list(range(240))
    assert linear.inner_splits((group == 7).astype(int), group) == []


@pytest.mark.parametrize("task", [WALK, PACE], ids=lambda task: task.kind)
def test_the_penalty_of_steps_is_chosen_by_rows_held_out_whole(task):
    """Columns that name the row tell its steps apart only where steps of one row lie on both sides."""
    rows = np.repeat(np.arange(60), 5)
    columns, target = np.eye(60)[rows] * 5, (rows % 2).astype(float)
    weight = np.ones(len(rows))
    split_rows = linear.fit(task, [columns], target, weight, np.arange(len(rows)))
    whole_rows = linear.fit(task, [columns], target, weight, rows)
    assert np.abs(whole_rows.model.coef_).max() < 0.5 * np.abs(split_rows.model.coef_).max()


def test_of_many_steps_a_spread_part_is_fitted_that_holds_every_class(monkeypatch):
    monkeypatch.setattr(tabular, "LINES", 300)
    batch = _stepped()
    rare = torch.zeros(ROWS, 6)
    rare[70, 3] = 1  # one step of its class
    batch = batch._replace(
        targets={**batch.targets, "walk": rare}, known={**batch.known, "walk": torch.ones(ROWS, 6, dtype=torch.bool)}
    )
    for task in (WALK, ACT, PACE):
        lines, target, _ = tabular.sampled(batch, task)
        assert 290 <= len(lines) <= 300
        assert set(np.unique(target)) == set(np.unique(_flat(task, batch)[1])) or task.kind == "regression"
        assert set(lines) <= set(tabular.labelled(batch, task)[0])
        assert np.diff(lines).min() > 0
        for place in range(6):  # every sixth step would be one place of each row
            assert (lines % 6 == place).sum() > 300 / 6 / 2
        assert np.diff(np.searchsorted(lines, np.linspace(0, ROWS * 6, 11))).min() > 300 / 10 / 2
    np.testing.assert_array_equal(tabular.sampled(batch, EVENT)[0], tabular.labelled(batch, EVENT)[0])


def test_steps_are_answered_in_parts_as_they_are_at_once(monkeypatch, quick_baselines):
    batch = _stepped()
    models = [fit_baseline(name, TrainingFold(STEPPED, batch, None)) for name in ("logistic", "trees")]
    whole = [model.predict(batch) for model in models]
    monkeypatch.setattr(tabular, "LINES", 40)  # six rows of six steps each
    for model, expected in zip(models, whole, strict=True):
        found = model.predict(batch)
        for task in STEPPED.tasks:
            np.testing.assert_allclose(found[task.name], expected[task.name], rtol=1e-12)


@pytest.mark.parametrize("name", baseline_names(BRIEF))
def test_the_models_of_all_folds_are_those_that_were_cross_validated(name, quick_baselines):
    batch, folds = _stepped(), _folds()
    told = []

    def batch_of(fold, rows):
        part = _take(batch, rows)  # each fold has its own scale
        return part._replace(inputs={n: leaf * (1 + fold) for n, leaf in part.inputs.items()})

    models = fit_folds(name, BRIEF, folds, batch_of, lambda *of: told.append(of))
    assert told == [(name, fold) for fold in range(len(folds))]
    predictions = run_baselines(BRIEF, folds, batch_of, (name,))[name]
    rows = torch.arange(0, ROWS, 7)
    answers = answer_rows(models, BRIEF, batch_of, rows)
    locked = predict_rows(models, BRIEF, batch_of, rows)
    assert set(locked.split) == {"holdout"}
    for fold, model in enumerate(models):
        test = predictions.of("test", fold)
        for task in BRIEF.tasks:
            again = model.predict(batch_of(fold, torch.from_numpy(test.row)))[task.name]
            np.testing.assert_array_equal(again, test.score[task.name])
            expected = model.predict(batch_of(fold, rows))[task.name]
            np.testing.assert_array_equal(answers[task.name][fold], expected)
            np.testing.assert_array_equal(locked.of("holdout", fold).score[task.name], expected)
            np.testing.assert_array_equal(locked.of("holdout", fold).target[task.name], batch.targets[task.name][rows])
    assert locked.of("holdout", 0).row.tolist() == rows.tolist()
