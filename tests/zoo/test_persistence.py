"""The baseline that says that what is now will be later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion_lab.contracts import Batch, Feature, Modality, Spec, Task
from fusion_lab.zoo.baselines import Prevalence, TrainingFold, baseline_names, fit_baseline
from fusion_lab.zoo.persistence import present_values
from fusion_lab.zoo.saved import load_baselines, save_baselines

UNITS = ("left", "right")
ROWS, STEPS, AHEAD = 60, 8, 2
FEATURES = tuple(
    Feature(f"{unit} {q}", kind, unit=unit, quantity=q)
    for unit in UNITS
    for q, kind in (("scale", "numeric"), ("active", "binary"), ("asset", "numeric"))
)
TRACK = Modality("track", "sequence", FEATURES, STEPS)
ACTIVE = Task("active", "binary", ("idle", "active"), ("track",), "", UNITS, True)
ASSET = replace(ACTIVE, name="asset", kind="multiclass", classes=("a", "b", "c"))
SCALE = replace(ACTIVE, name="scale", kind="regression", classes=())
SPEED = replace(SCALE, name="speed")
SPEC = Spec((TRACK,), (ACTIVE, ASSET, SCALE, SPEED))
SHIFT, SPREAD = 1.7, 0.3


def rows(seed: int = 0, noise: float = 0.0) -> tuple[Batch, dict[str, np.ndarray]]:
    """Walks of each unit, of which the targets are the values two steps later; the present values in the targets' unit,
    [B,T,U].
    """
    rng = np.random.default_rng(seed)
    stays = rng.random((3, ROWS, STEPS + AHEAD, 2)) < 0.8
    values = {
        "scale": rng.normal(size=(ROWS, STEPS + AHEAD, 2)).cumsum(1),
        "active": rng.integers(0, 2, (ROWS, STEPS + AHEAD, 2)).astype(float),
        "asset": rng.integers(0, 3, (ROWS, STEPS + AHEAD, 2)).astype(float),
    }
    for name, keep in (("active", stays[0]), ("asset", stays[1])):
        for t in range(1, STEPS + AHEAD):
            values[name][:, t] = np.where(keep[:, t], values[name][:, t - 1], values[name][:, t])
    now = {name: of[:, :STEPS] for name, of in values.items()}
    shown = np.stack(
        [
            (now["scale"] - SHIFT) / SPREAD + noise * rng.normal(size=now["scale"].shape),
            now["active"],
            now["asset"] / 5,
        ],
        axis=-1,
    )
    observed = torch.from_numpy(rng.random((ROWS, STEPS, 6)) < 0.9)
    inputs = torch.from_numpy(shown.reshape(ROWS, STEPS, 6)).float() * observed
    targets = {name: torch.from_numpy(of[:, AHEAD:]).float() for name, of in values.items()}
    targets["speed"] = torch.randn(ROWS, STEPS, 2, generator=torch.Generator().manual_seed(seed))
    known = {name: torch.from_numpy(rng.random((ROWS, STEPS, 2)) < 0.7) for name in targets}
    valid = {"track": torch.from_numpy(rng.random((ROWS, STEPS)) < 0.9)}
    quality = {"track": torch.ones(ROWS)}
    return Batch({"track": inputs}, valid, {"track": observed}, quality, targets, known, torch.ones(ROWS)), now


def seen(batch: Batch, quantity: int) -> np.ndarray:
    """Where a quantity's present value is known, bool [B,T,U]."""
    real = (batch.observed["track"] & batch.valid["track"].unsqueeze(-1)).numpy()
    return real.reshape(ROWS, STEPS, 2, 3)[..., quantity]


def persistence(batch: Batch, spec: Spec = SPEC):
    return fit_baseline("persistence", TrainingFold(spec, batch, None))


def test_a_value_stays_as_it_is_in_its_own_unit():
    train, _ = rows()
    asked, now = rows(1)
    found, there = persistence(train).predict(asked)["scale"], seen(asked, 0)
    np.testing.assert_allclose(found[there], now["scale"][there], atol=1e-4)
    mean = train.targets["scale"][train.known["scale"]].mean()
    np.testing.assert_allclose(found[~there], mean, rtol=1e-5)


def test_where_targets_are_no_later_value_its_spread_and_mean_are_those_of_the_targets():
    train, _ = rows(noise=3.0)
    found = persistence(train).predict(train)["scale"][seen(train, 0)]
    target = train.targets["scale"][train.known["scale"]].double().numpy()
    np.testing.assert_allclose([found.mean(), found.std()], [target.mean(), target.std()], rtol=1e-5)


@pytest.mark.parametrize(("task", "quantity"), [(ACTIVE, 1), (ASSET, 2)])
def test_classes_are_as_frequent_as_they_were_after_the_present_value(task, quantity):
    train, before = rows()
    asked, now = rows(1)
    found = persistence(train).predict(asked)[task.name]
    counts = train.known[task.name].numpy() & seen(train, quantity)
    target = train.targets[task.name].numpy()
    for code in range(len(task.classes)):
        after = target[counts & (before[task.name] == code)]
        shares = np.array([(after == c).mean() for c in range(len(task.classes))])
        at = seen(asked, quantity) & (now[task.name] == code)
        expected = shares[1] if task.kind == "binary" else shares
        np.testing.assert_allclose(found[at], np.broadcast_to(expected, found[at].shape), atol=1e-6)
    prevalence = Prevalence().fit(train, SPEC).predict(asked)[task.name]
    missing = ~seen(asked, quantity)
    np.testing.assert_array_equal(found[missing], prevalence[missing])
    if task.kind == "binary":
        assert (
            found[seen(asked, 1) & (now["active"] == 1)].min()
            > 0.5
            > found[seen(asked, 1) & (now["active"] == 0)].max()
        )


def test_a_task_of_which_nothing_is_shown_gets_the_prevalence():
    train, _ = rows()
    found = persistence(train).predict(train)["speed"]
    np.testing.assert_array_equal(found, Prevalence().fit(train, SPEC).predict(train)["speed"])


def test_rows_that_weigh_nothing_and_unknown_targets_cannot_matter():
    train, _ = rows()
    weight = (torch.arange(ROWS) % 3 > 0).float()
    part = train._replace(weight=weight)
    silent = {n: ~known | (weight == 0)[:, None, None] for n, known in part.known.items()}
    changed = part._replace(targets={n: torch.where(silent[n], 1 - t, t) for n, t in part.targets.items()})
    one, other = (persistence(batch).predict(train) for batch in (part, changed))
    for task in SPEC.tasks:
        np.testing.assert_array_equal(one[task.name], other[task.name])


def test_words_are_shown_by_a_feature_each():
    """Also without units."""
    words = tuple(Feature(f"asset={c}", "category", "asset", c, quantity="asset") for c in ("c", "a", "b"))
    task = replace(ASSET, units=())
    spec = Spec((Modality("track", "sequence", words, STEPS),), (task,))
    assert present_values(task, spec) == ("track", [[1, 2, 0]])
    g = torch.Generator().manual_seed(0)
    code = torch.randint(3, (ROWS, STEPS), generator=g)
    target = torch.where(torch.rand(ROWS, STEPS, generator=g) < 0.9, code, 2).float()
    inputs = torch.nn.functional.one_hot((code + 1) % 3, 3).float()
    whole = torch.ones(ROWS, STEPS, dtype=torch.bool)
    observed = {"track": torch.ones_like(inputs, dtype=torch.bool)}
    known, weight = {"asset": whole}, torch.ones(ROWS)
    batch = Batch({"track": inputs}, {"track": whole}, observed, {"track": weight}, {"asset": target}, known, weight)
    found = persistence(batch, spec).predict(batch)["asset"]
    for c in range(3):
        shares = [(target[code == c] == k).float().mean() for k in range(3)]
        np.testing.assert_allclose(
            found[(code == c).numpy()], np.broadcast_to(shares, found[(code == c).numpy()].shape)
        )


@pytest.mark.parametrize(
    ("task", "features"),
    [
        (replace(SCALE, causal=False), FEATURES),
        (SPEED, FEATURES),
        (replace(SCALE, units=("left", "middle")), FEATURES),
        (replace(SCALE, units=()), FEATURES),
        (SCALE, tuple(replace(f, quantity="") for f in FEATURES)),
    ],
)
def test_it_is_offered_where_every_unit_shows_what_a_causal_task_asks_for(task, features):
    spec = Spec((replace(TRACK, features=features),), (task,))
    assert present_values(task, spec) is None
    assert "persistence" not in baseline_names(spec)
    assert "persistence" in baseline_names(SPEC)
    assert baseline_names(SPEC)[:2] == ("prevalence", "persistence")


def test_it_comes_back_from_a_file_as_it_was(tmp_path):
    train, _ = rows()
    model = persistence(train)
    save_baselines([model], tmp_path / "models.skops")
    (again,) = load_baselines(tmp_path / "models.skops")
    for task, answer in model.predict(train).items():
        np.testing.assert_array_equal(again.predict(train)[task], answer)


def test_a_category_that_is_none_of_the_classes_stays_with_what_is_known_of_nothing():
    words = tuple(Feature(f"asset={c}", "category", "asset", c, quantity="asset") for c in ("a", "b", "c", "unknown"))
    spec = Spec((Modality("track", "sequence", words, STEPS),), (replace(ASSET, units=()),))
    code = torch.arange(ROWS * STEPS).reshape(ROWS, STEPS) % 4
    inputs, whole = torch.nn.functional.one_hot(code, 4).float(), torch.ones(ROWS, STEPS, dtype=torch.bool)
    observed, target = {"track": torch.ones_like(inputs, dtype=torch.bool)}, {"asset": (code % 3).float()}
    weight = torch.ones(ROWS)
    batch = Batch({"track": inputs}, {"track": whole}, observed, {"track": weight}, target, {"asset": whole}, weight)
    found = persistence(batch, spec).predict(batch)["asset"]
    for c in range(3):  # of asset a, too, of which the unknown one has the codes
        np.testing.assert_allclose(found[(code == c).numpy()], np.eye(3)[[c] * int((code == c).sum())], atol=1e-12)
    shares = [float((target["asset"] == c).float().mean()) for c in range(3)]
    np.testing.assert_allclose(found[(code == 3).numpy()], [shares] * int((code == 3).sum()))
