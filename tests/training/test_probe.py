"""A probe asks the models that were trained: where nothing is changed it hears what training heard at its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from imputing_model import Imputing
from small_plans import PER_STEP, REGRESSION, make_plan, pick, shortened

from fusion_lab.blocks.randomness import draw_noise
from fusion_lab.evaluation.labelled import told_scores
from fusion_lab.evaluation.rows import CONFIDENCE, over_modalities
from fusion_lab.evaluation.subsets import SubsetScores, choose_subsets, worth
from fusion_lab.evaluation.thresholds import Thresholds
from fusion_lab.evaluation.uncertainty import over_passes
from fusion_lab.training import cross_validate
from fusion_lab.training.probe import Probe
from fusion_lab.training.targets import TargetScale
from fusion_lab.zoo.token_fusion import TokenFusionConfig


def scale_of(result) -> TargetScale:
    """As a checkpoint's numbers make it."""
    tasks = result.folds[0].target_scale
    parts = (
        {t: torch.tensor([f.target_scale[t][part] for f in result.folds], dtype=torch.float64) for t in tasks}
        for part in (0, 1)
    )
    return TargetScale(*parts)


def probed(settings=None, folds=shortened):
    plan = make_plan({"training.epochs": 2, "training.mode": "loop", **(settings or {})}, folds)
    result = cross_validate(plan)
    return Probe(plan, [fold.weights for fold in result.folds], scale_of(result)), result.predictions.of("test")


@pytest.fixture(scope="module")
def plain():
    return probed()


@pytest.mark.parametrize("settings", [{}, {"training.mode": "stacked"}, REGRESSION, PER_STEP], ids=str)
def test_all_modalities_give_the_ordinary_predictions_bit_for_bit(settings):
    probe, ordinary = probed(settings)
    found = probe.ask(tuple(m.name for m in probe.spec.modalities))
    np.testing.assert_array_equal(found.fold, ordinary.fold)
    np.testing.assert_array_equal(found.row, ordinary.row)
    for task in probe.spec.tasks:
        for kind in ("target", "known", "score"):
            np.testing.assert_array_equal(getattr(found, kind)[task.name], getattr(ordinary, kind)[task.name])


def test_a_modality_that_the_model_ignores_can_go():
    def blind(model):
        """Its tokens are never attended to, as if it were missing from every row."""
        forward = model.forward

        def without_b(batch, noise=None):
            return forward(batch._replace(valid={**batch.valid, "b": torch.zeros_like(batch.valid["b"])}), noise)

        model.forward = without_b
        return model

    plan = make_plan({"training.epochs": 1, "training.mode": "loop"})
    build = plan.build_model
    plan = make_plan({"training.epochs": 1, "training.mode": "loop"}, build_model=lambda: blind(build()))
    result = cross_validate(plan)
    probe = Probe(plan, [fold.weights for fold in result.folds], scale_of(result))
    ask = {keep: probe.ask(keep).score["outcome"] for keep in (("a", "b", "s"), ("a", "s"), ("b", "s"))}
    np.testing.assert_array_equal(ask["a", "b", "s"], ask["a", "s"])
    assert not np.array_equal(ask["a", "b", "s"], ask["b", "s"])


def test_what_is_masked_reaches_no_answer(plain):
    probe, _ = plain
    before = probe.ask(("a",)).score["outcome"]
    loud = {name: leaf if name == "a" else leaf + 7 for name, leaf in probe.batch.inputs.items()}
    other = Probe(probe.plan, [dict(m.named_parameters()) for m in probe.models], probe.scale)
    other.batch = probe.batch._replace(inputs=loud)
    np.testing.assert_array_equal(other.ask(("a",)).score["outcome"], before)
    whole = ("a", "b", "s")
    assert not np.array_equal(other.ask(whole).score["outcome"], probe.ask(whole).score["outcome"])


def test_rows_without_any_of_a_subset_are_those_of_the_data(plain):
    probe, ordinary = plain
    data = probe.plan.dataset
    for keep in (("a",), ("b", "s"), ("a", "b", "s")):
        there = [data.valid[n] if data.valid[n].ndim == 1 else data.valid[n].any(1) for n in keep]
        there = torch.stack(there).any(0).numpy()
        assert probe.without_any(keep) == (~there[ordinary.row]).sum()


def test_passes_are_a_function_of_their_number_and_differ(plain):
    probe, ordinary = plain
    first, second = ([scores["outcome"] for scores in probe.passes(3)] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:2], [scores["outcome"] for scores in probe.passes(2)])
    assert not np.array_equal(first[0], first[1])
    assert first[0].shape == ordinary.score["outcome"].shape
    assert probe.has_dropout


def test_every_fold_pass_and_part_of_the_rows_has_random_values_of_its_own(plain, monkeypatch):
    probe, _ = plain
    places = []

    def noted(count, *place):
        places.append(place)
        return draw_noise(count, *place)

    monkeypatch.setattr("fusion_lab.training.probe.draw_noise", noted)
    monkeypatch.setattr("fusion_lab.training.probe.ROWS_AT_ONCE", 4)
    assert len(list(probe.passes(2))) == 2
    parts = sum(-(-int(rows.sum()) // 4) for rows in probe.plan.folds.test)
    assert parts > len(probe.plan.folds)
    assert len(set(places)) == len(places) == 2 * parts
    assert {name for name in probe.plan.folds.names if any(name in place for place in places)} == set(
        probe.plan.folds.names
    )


def test_the_mean_over_many_passes_is_near_the_model_and_nearer_than_one(plain):
    probe, ordinary = plain
    passes = list(probe.passes(40))
    spread = over_passes(passes, probe.spec)["outcome"]
    one = np.mean([np.abs(p["outcome"] - spread.mean).mean() for p in passes])
    assert np.abs(spread.mean - ordinary.score["outcome"]).mean() < one
    assert (spread.information > 0).any()


@pytest.mark.parametrize("settings", [{}, REGRESSION, PER_STEP], ids=str)
def test_without_dropout_every_pass_is_the_deterministic_answer(settings):
    probe, ordinary = probed({**settings, "model.dropout": 0.0})
    assert not probe.has_dropout
    spread = over_passes(probe.passes(3), probe.spec)
    for task in probe.spec.tasks:
        np.testing.assert_allclose(spread[task.name].mean, ordinary.score[task.name], atol=1e-5)


def test_passes_do_not_depend_on_how_many_rows_share_one(plain, monkeypatch):
    """But for their noise: shapes and order are those of the ordinary predictions."""
    probe, ordinary = plain
    monkeypatch.setattr("fusion_lab.training.probe.ROWS_AT_ONCE", 4)
    mean = over_passes(probe.passes(15), probe.spec)["outcome"].mean
    shuffled = np.roll(ordinary.score["outcome"], 1)
    assert np.abs(mean - ordinary.score["outcome"]).mean() < np.abs(mean - shuffled).mean()


def test_latency_is_of_as_many_rows_as_asked_for(plain):
    probe, _ = plain
    found = probe.latency(7)
    assert found.rows == 7
    assert 0 < found.median <= found.p95
    assert found.rows_per_second > 0
    assert (found.device, found.threads) == (str(probe.plan.device), torch.get_num_threads())


@pytest.mark.slow
def test_importance_finds_the_planted_modalities():
    settings = {
        "data.rows": 200,
        "data.missing_modalities": 0.0,
        "data.signal": 10.0,
        "data.noise": 0.3,
        "data.modalities": {"a": {"width": 4}, "b": {"width": 4}, "idle": {"width": 4, "useful": False}},
        "training.epochs": 6,
    }
    probe, _ = probed(settings, folds=lambda folds, data: folds)
    names = tuple(m.name for m in probe.spec.modalities)
    subsets = choose_subsets(names, 255, np.random.default_rng(0)).chosen
    thresholds = Thresholds({}, {})
    scored = [SubsetScores(s, told_scores(probe.ask(s), probe.spec, thresholds), probe.without_any(s)) for s in subsets]
    found = worth(scored, names)["outcome"]
    assert min(found.gain["a"], found.gain["b"]) > 5 * abs(found.gain["idle"])
    assert min(found.importance["a"], found.importance["b"]) > 0 > found.importance["idle"]  # see its docstring


def imputing(mode: str):
    """A probe of models that have maps over modalities, among others, of folds of unequal size."""
    settings = {"training.epochs": 2, "training.mode": mode, "model.fusion": "transformer"}
    spec = make_plan(settings).dataset.spec
    config = TokenFusionConfig(d_model=8, nhead=2)
    plan = make_plan(settings, pick(0, 1, 2), build_model=lambda: Imputing(config, spec))
    test = plan.folds.test.copy()
    test[1, np.flatnonzero(test[1])[7:]] = False
    plan = replace(plan, folds=replace(plan.folds, test=test))
    result = cross_validate(plan)
    return Probe(plan, [fold.weights for fold in result.folds], scale_of(result)), result.predictions.of("test")


@pytest.mark.parametrize("mode", ["loop", "stacked"])
def test_maps_over_modalities_are_those_of_each_folds_model_on_its_test_rows(mode, monkeypatch):
    monkeypatch.setattr("fusion_lab.training.probe.ROWS_AT_ONCE", 4)
    probe, ordinary = imputing(mode)
    maps = {one.name: one for one in probe.modality_maps()}
    assert set(maps) == {CONFIDENCE, "modalities for outcome"} < set(probe.models[0].maps)
    whole = probe._stack.answers(probe._weights, probe.batch).maps
    for name, found in maps.items():
        assert over_modalities(found.axes, probe.spec)
        np.testing.assert_array_equal(found.fold, ordinary.fold)
        np.testing.assert_array_equal(found.row, ordinary.row)
        np.testing.assert_allclose(found.values, whole[name][torch.from_numpy(probe.rows[1])], atol=1e-6)
    confidence = maps[CONFIDENCE].values
    between = confidence[(confidence > 0) & (confidence < 1)]
    assert len(np.unique(between)) > len(confidence[0])  # of modalities and of folds


def test_models_without_such_maps_answer_none(plain):
    probe, _ = probed({"model.fusion": "transformer"})
    assert probe.modality_maps() == ()
    gated = plain[0].modality_maps()
    assert [one.kind for one in gated] == ["gate"]


@pytest.mark.parametrize("settings", [{}, PER_STEP], ids=str)
def test_what_rows_hold_is_what_the_data_hold(settings):
    probe, ordinary = probed({**settings, "data.missing_modalities": 0.3})
    data, inputs = probe.plan.dataset, probe.inputs()
    for name, valid in data.valid.items():
        there = valid.reshape(len(valid), -1).any(1).numpy()
        np.testing.assert_array_equal(inputs.given[name], there[ordinary.row])
        np.testing.assert_array_equal(inputs.quality[name], data.quality[name].numpy()[ordinary.row])
        assert 0 < inputs.given[name].sum() < len(ordinary.row)
