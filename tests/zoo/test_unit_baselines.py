"""Baselines of tasks with units: one model for all units, on the columns of each line's own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from multitrack_material import rows_of, stream, tracks, unit_names

from fusion_lab.contracts import Batch, Feature, Folds, Modality, Spec, Task
from fusion_lab.zoo import tabular
from fusion_lab.zoo.baselines import TrainingFold, baseline_names, fit_baseline, run_baselines
from fusion_lab.zoo.saved import load_baselines, save_baselines

ROWS, STEPS, COUNT = 60, 4, 3
UNITS = unit_names(COUNT)
CLOCK = ("audio", "track")
MIXED = Modality(
    "track", "sequence", (Feature("tempo"), *tracks(COUNT, STEPS, ("scale", "place")).features, Feature("light")), STEPS
)
CLINIC = Modality("clinic", "vector", (Feature("age"), Feature("dose")))
ACTIVE = Task("active", "binary", ("idle", "active"), CLOCK, "", UNITS, True)
ASSET = Task("asset", "multiclass", ("a", "b", "c"), CLOCK, "", UNITS)
SIZE = Task("size", "regression", (), CLOCK, "", UNITS)
SPEECH = Task("speech", "binary", ("no", "yes"), CLOCK)
SPEC = Spec((stream("audio", 2, STEPS), MIXED, CLINIC), (ACTIVE, ASSET, SIZE, SPEECH))


def rows(seed: int = 0, count: int = ROWS) -> Batch:
    """Rows whose targets follow the unit's own scale, and for every third unit's line its opposite place."""
    batch = rows_of(SPEC, count, seed, there=0.85).map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf)
    g = torch.Generator().manual_seed(seed + 50)
    own = batch.inputs["track"][..., 1:7:2]
    latent = 2 * own + batch.inputs["audio"][..., :1] + 0.3 * torch.randn(own.shape, generator=g)
    targets = {
        "active": (latent > 0).float(),
        "asset": torch.bucketize(latent, torch.tensor([-1.0, 1.0])).float(),
        "size": latent,
        "speech": (latent.mean(-1) > 0).float(),
    }
    known = {name: torch.rand(target.shape, generator=g) < 0.8 for name, target in targets.items()}
    return batch._replace(targets={n: t * known[n] for n, t in targets.items()}, known=known, weight=torch.ones(count))


def test_a_line_has_what_is_shared_and_what_is_its_own_units():
    batch = rows()
    lines = np.random.default_rng(0).permutation(ROWS * STEPS * COUNT)[:150]
    found = tabular.step_columns(batch, SPEC.modalities, CLOCK, lines, UNITS)
    for line, columns in zip(lines, found, strict=True):
        at, u = divmod(line, COUNT)
        chosen = [0, 7, 1 + 2 * u, 2 + 2 * u]
        alone = Modality("track", "sequence", tuple(MIXED.features[i] for i in chosen), STEPS)
        narrow = batch._replace(
            inputs={**batch.inputs, "track": batch.inputs["track"][..., chosen]},
            observed={**batch.observed, "track": batch.observed["track"][..., chosen]},
        )
        modalities = (SPEC.modalities[0], alone, CLINIC)
        expected = tabular.step_columns(narrow, modalities, CLOCK, np.array([at]))
        np.testing.assert_array_equal(columns, expected[0])
    assert tabular.block_widths(SPEC.modalities, CLOCK, UNITS).tolist() == [7] * 7 + [13] * 13 + [3] * 3


def test_what_a_unit_has_none_of_has_no_value():
    odd = Modality("track", "sequence", MIXED.features[:6], STEPS)  # without the last track's place
    batch = rows()
    narrow = batch._replace(
        inputs={**batch.inputs, "track": batch.inputs["track"][..., :6]},
        observed={**batch.observed, "track": batch.observed["track"][..., :6]},
    )
    found = tabular.step_columns(narrow, (odd,), CLOCK, np.arange(ROWS * STEPS * COUNT), UNITS)
    last = np.arange(len(found)) % COUNT == COUNT - 1
    assert found.shape[1] == 3 * 3 + 1
    assert np.isnan(found[last][:, 2::3][:, :3]).all()
    assert not np.isnan(found[~last]).all(0).any()


@pytest.mark.parametrize("name", baseline_names(SPEC))
def test_every_unit_at_every_step_is_answered(name, quick_baselines):
    batch = rows()
    part = np.arange(ROWS) % 3
    test = np.stack([part == k for k in range(3)])
    val = np.roll(test, 1, axis=0)
    folds = Folds("k-fold", ~test & ~val, val, test, ~test & ~val, np.zeros(ROWS, bool))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run_baselines(SPEC, folds, lambda fold, r: batch.map(lambda leaf: leaf[r]), (name,))[name]
    for task in SPEC.tasks:
        classes = [3] if task.kind == "multiclass" else []
        assert found.score[task.name].shape == (2 * ROWS, *SPEC.target_shape(task), *classes)
        assert np.isfinite(found.score[task.name]).all()
        assert found.target[task.name].shape == found.known[task.name].shape == (2 * ROWS, *SPEC.target_shape(task))


def one_by_one(batch: Batch) -> tuple[Spec, Batch]:
    """Every unit's rows below those of the one before, as a task per step with the unit's own columns."""
    parts = []
    for u in range(COUNT):
        chosen = [0, 7, 1 + 2 * u, 2 + 2 * u]
        parts.append(
            batch._replace(
                inputs={**batch.inputs, "track": batch.inputs["track"][..., chosen]},
                observed={**batch.observed, "track": batch.observed["track"][..., chosen]},
                targets={t: batch.targets[t][..., u] for t in ("active", "asset", "size")},
                known={t: batch.known[t][..., u] for t in ("active", "asset", "size")},
            )
        )
    track = Modality("track", "sequence", tuple(MIXED.features[i] for i in (0, 7, 1, 2)), STEPS)
    tasks = tuple(Task(t.name, t.kind, t.classes, t.steps) for t in (ACTIVE, ASSET, SIZE))

    def below(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.cat([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)}

    made = {name: below(name) for name in ("inputs", "valid", "observed", "quality", "targets", "known")}
    return Spec((SPEC.modalities[0], track, CLINIC), tasks), Batch(**made, weight=torch.ones(ROWS * COUNT))


@pytest.mark.parametrize("name", ["prevalence", "trees"])
def test_one_model_is_fitted_to_the_lines_of_all_units(name, quick_baselines):
    """The same as of rows that are each one unit's."""
    batch = rows()
    spec, flat = one_by_one(batch)
    tasks = tuple(t for t in SPEC.tasks if t.units)
    found = fit_baseline(name, TrainingFold(Spec(SPEC.modalities, tasks), batch, None)).predict(batch)
    expected = fit_baseline(name, TrainingFold(spec, flat, None)).predict(flat)
    for task in tasks:
        of_units = np.moveaxis(expected[task.name].reshape(COUNT, ROWS, STEPS, *found[task.name].shape[3:]), 0, 2)
        np.testing.assert_allclose(found[task.name], of_units, atol=1e-6)


@pytest.mark.parametrize("name", ["logistic", "trees", "single:track"])
def test_the_signal_of_each_units_own_columns_is_found(name, quick_baselines):
    train, test = rows(), rows(1)
    answers = fit_baseline(name, TrainingFold(SPEC, train, None)).predict(test)
    there = test.known["size"] & test.valid["track"].unsqueeze(-1)
    for u in range(COUNT):
        at = there[..., u].numpy()
        found, target = answers["size"][..., u][at], test.targets["size"][..., u].numpy()[at]
        assert np.corrcoef(found, target)[0, 1] > 0.7


@pytest.mark.parametrize("name", ["logistic", "trees", "single:audio", "late_average"])
def test_later_steps_and_other_units_cannot_matter(name, quick_baselines):
    train, asked = rows(), rows(1)
    later = torch.arange(STEPS)[:, None] > 1
    changed = {n: torch.where(later, 5.0, asked.inputs[n]) for n in CLOCK}
    other = changed["track"].clone()
    other[..., 3:5] = 9.0  # of the second unit
    model = fit_baseline(name, TrainingFold(SPEC, train, None))
    before, after = model.predict(asked), model.predict(asked._replace(inputs={**asked.inputs, **changed}))
    units = model.predict(asked._replace(inputs={**asked.inputs, "track": other}))
    for task in (ACTIVE, ASSET, SIZE):
        np.testing.assert_allclose(after[task.name][:, :2], before[task.name][:, :2], rtol=1e-12)
        np.testing.assert_allclose(units[task.name][:, :2, [0, 2]], before[task.name][:, :2, [0, 2]], rtol=1e-12)
    if name in ("logistic", "trees"):
        assert not np.allclose(units["size"][:, :2, 1], before["size"][:, :2, 1])


def test_lines_are_answered_in_parts_as_they_are_at_once(monkeypatch, quick_baselines):
    batch = rows()
    model = fit_baseline("trees", TrainingFold(SPEC, batch, None))
    whole = model.predict(batch)
    monkeypatch.setattr(tabular, "LINES", 50)
    found = model.predict(batch)
    for task in SPEC.tasks:
        np.testing.assert_array_equal(found[task.name], whole[task.name])


@pytest.mark.parametrize("name", ["logistic", "trees", "late_average"])
def test_they_come_back_from_a_file_as_they_were(name, quick_baselines, tmp_path):
    batch = rows()
    model = fit_baseline(name, TrainingFold(SPEC, batch, None))
    save_baselines([model], tmp_path / "models.skops")
    (again,) = load_baselines(tmp_path / "models.skops")
    for task, answer in model.predict(batch).items():
        np.testing.assert_array_equal(again.predict(batch)[task], answer)
