import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import RobustScaler, StandardScaler

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, Feature, Modality, Provenance, Source, Spec, Task
from fusion_lab.data import scaling
from fusion_lab.data.arrays import ArrayDataset
from fusion_lab.data.scaling import NORMAL_IQR, Scaler, ScalingConfig

COLOURS = ("red", "green", "blue", "unknown")
VECTOR = Modality(
    "labs",
    "vector",
    (
        Feature("sodium"),
        Feature("age"),
        Feature("smoker", "binary"),
        *(Feature(f"colour={c}", "category", "colour", c) for c in COLOURS),
        Feature("sodium missing", "indicator", "sodium"),
    ),
)
SEQUENCE = Modality("steps", "sequence", (Feature("x"), Feature("y"), Feature("on", "binary")), length=7)
BAG = Modality("tiles", "bag", (Feature("u"), Feature("v")), length=5)
SPEC = Spec((VECTOR, SEQUENCE, BAG), (Task("outcome", "binary", ("no", "yes")),))


def mixed(seed: int, rows: int = 40, missing: float = 0.2) -> ArrayDataset:
    """Every kind of modality and feature, with missing cells, absent modalities and padding."""
    rng = np.random.default_rng(seed)
    inputs, valid, observed = {}, {}, {}
    for modality in SPEC.modalities:
        shape = (rows, *modality.shape)
        values = rng.normal(50, 9, shape)
        seen = rng.random(shape) >= missing
        for column, feature in enumerate(modality.features):
            if feature.kind in ("binary", "indicator"):
                values[..., column] = rng.random(shape[:-1]) < 0.4
        if modality is VECTOR:
            values[:, 3:7] = np.eye(4)[rng.integers(0, 4, rows)]
            seen[:, 3:7] = seen[:, 3:4]
        inputs[modality.name] = torch.from_numpy(values).float()
        observed[modality.name] = torch.from_numpy(seen)
        valid[modality.name] = torch.from_numpy(rng.random(shape[: 1 if modality is VECTOR else 2]) >= 0.2)
    return assemble(inputs, valid, observed, rng)


def assemble(inputs, valid, observed, rng) -> ArrayDataset:
    rows = len(inputs["labs"])
    return ArrayDataset.checked(
        spec=SPEC,
        ids=np.array([f"r{i}" for i in range(rows)]),
        inputs=dict(inputs),
        valid=dict(valid),
        observed=dict(observed),
        quality={m.name: torch.ones(rows) for m in SPEC.modalities},
        targets={"outcome": torch.from_numpy(rng.integers(0, 2, rows)).float()},
        known={"outcome": torch.ones(rows, dtype=torch.bool)},
        provenance=Provenance((Source("made here", "0", rows),)),
    )


def some_rows(seed: int, rows: int, folds: int) -> np.ndarray:
    marks = np.random.default_rng(seed).random((folds, rows)) < 0.6
    marks[:, :2] = True
    return marks


def all_rows(data: ArrayDataset, folds: int) -> torch.Tensor:
    return torch.arange(len(data)).expand(folds, len(data))


def cells(data: ArrayDataset, name: str, marks: np.ndarray) -> np.ndarray:
    """The real cells of some rows as [cells,F], NaN where missing: what scikit-learn takes."""
    inputs, observed = data.inputs[name][marks], data.observed[name][marks]
    return torch.where(observed, inputs.double(), torch.nan).reshape(-1, inputs.shape[-1]).numpy()


CONFIGS = [ScalingConfig(method=m, impute=i) for m in ("standard", "robust", "none") for i in ("mean", "median")]


@pytest.mark.parametrize("name", ["labs", "steps", "tiles"])
def test_standard_equals_scikit_learn_on_the_fit_rows(name):
    data, marks = mixed(0), some_rows(0, 40, 3)
    scaler = Scaler.fit(data, marks).modalities[name]
    numeric = [i for i, f in enumerate(data.spec.modality(name).features) if f.kind == "numeric"]
    for k in range(3):
        reference = StandardScaler().fit(cells(data, name, marks[k]))
        np.testing.assert_allclose(scaler.shift[k, numeric], reference.mean_[numeric], rtol=1e-5)
        np.testing.assert_allclose(scaler.scale[k, numeric], reference.scale_[numeric], rtol=1e-5)


@pytest.mark.parametrize("name", ["labs", "steps", "tiles"])
def test_robust_equals_scikit_learn_on_the_fit_rows(name):
    data, marks = mixed(1), some_rows(1, 40, 3)
    scaler = Scaler.fit(data, marks, ScalingConfig(method="robust")).modalities[name]
    numeric = [i for i, f in enumerate(data.spec.modality(name).features) if f.kind == "numeric"]
    for k in range(3):
        reference = RobustScaler().fit(cells(data, name, marks[k]))
        np.testing.assert_allclose(scaler.shift[k, numeric], reference.center_[numeric], rtol=1e-5)
        np.testing.assert_allclose(scaler.scale[k, numeric], reference.scale_[numeric] * NORMAL_IQR, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.method}-{c.impute}")
def test_missing_cells_get_the_fold_mean_or_median_and_binary_the_mean(config):
    data, marks = mixed(2), some_rows(2, 40, 2)
    scaled = Scaler.fit(data, marks, config)(data.gather(all_rows(data, 2)))
    scaler = Scaler.fit(data, marks, config).modalities["steps"]
    hole = data.valid["steps"].unsqueeze(-1) & ~data.observed["steps"]
    for k in range(2):
        real = cells(data, "steps", marks[k])
        centre = np.nanmean(real, axis=0) if config.impute == "mean" else np.nanmedian(real, axis=0)
        centre[2] = np.nanmean(real[:, 2])
        back = scaled.inputs["steps"][k] * scaler.scale[k] + scaler.shift[k]
        for column in range(3):
            np.testing.assert_allclose(back[..., column][hole[..., column]], centre[column], rtol=1e-4)


@given(seed=st.integers(0, 10_000), config=st.sampled_from(CONFIGS))
@settings(max_examples=25, deadline=None)
def test_rows_outside_a_fold_change_no_bit_of_its_statistics(seed, config):
    data, marks = mixed(seed), some_rows(seed, 40, 2)
    other = mixed(seed + 1)
    outside = torch.from_numpy(~marks[0])
    changed = assemble(
        *(
            {n: torch.where(outside.view(-1, *[1] * (v.dim() - 1)), w[n], v) for n, v in leaves.items()}
            for leaves, w in ((data.inputs, other.inputs), (data.valid, other.valid), (data.observed, other.observed))
        ),
        np.random.default_rng(0),
    )
    before, after = (Scaler.fit(d, marks, config).fold(0).state() for d in (data, changed))
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.method}-{c.impute}")
def test_stacked_folds_equal_folds_one_by_one(config):
    data, marks = mixed(3), some_rows(3, 40, 4)
    stacked = Scaler.fit(data, marks, config)
    rows = torch.randint(0, 40, (4, 11), generator=torch.Generator().manual_seed(0))
    together = stacked(data.gather(rows))
    for k in range(4):
        alone = Scaler.fit(data, marks[k : k + 1], config).fold(0)
        taken = stacked.take([2, k])
        for name in data.inputs:
            expected = together.inputs[name][k]
            assert torch.equal(alone(data.gather(rows[k])).inputs[name], expected)
            assert torch.equal(stacked.fold(k)(data.gather(rows[k])).inputs[name], expected)
            assert torch.equal(taken(data.gather(rows[[2, k]])).inputs[name][1], expected)


@given(seed=st.integers(0, 10_000), config=st.sampled_from(CONFIGS), missing=st.sampled_from([0.0, 0.5, 0.97, 1.0]))
@settings(max_examples=25, deadline=None)
def test_output_is_finite_and_zero_where_invalid_and_nothing_else_changes(seed, config, missing):
    data, marks = mixed(seed, missing=missing), some_rows(seed, 40, 2)
    batch = data.gather(all_rows(data, 2))
    scaled = Scaler.fit(data, marks, config)(batch)
    for name, values in scaled.inputs.items():
        assert torch.isfinite(values).all()
        assert not values[~batch.valid[name]].any()
    assert all(a is b for a, b in zip(scaled._replace(inputs=None), batch._replace(inputs=None), strict=True))


def test_values_under_a_mask_cannot_reach_the_output():
    data, marks = mixed(4), some_rows(4, 40, 1)
    scaler, batch = Scaler.fit(data, marks).fold(0), data.gather(torch.arange(40))
    spoiled = {n: torch.where(batch.observed[n], v, 1e30) for n, v in batch.inputs.items()}
    for name, values in scaler(batch._replace(inputs=spoiled)).inputs.items():
        assert torch.equal(values, scaler(batch).inputs[name])


def test_unseen_category_becomes_unknown_in_that_fold_only():
    data = mixed(5, missing=0.0)
    is_blue = (data.inputs["labs"][:, 5] == 1).numpy()
    present = data.valid["labs"]
    marks = np.stack([~is_blue, np.ones(40, dtype=bool)])
    scaled = Scaler.fit(data, marks)(data.gather(all_rows(data, 2))).inputs["labs"][..., 3:7]
    assert is_blue.any()
    torch.testing.assert_close(scaled[1], data.inputs["labs"][:, 3:7])
    assert (scaled[0, is_blue] == torch.tensor([0.0, 0.0, 0.0, 1.0])).all()
    assert (scaled[0, ~is_blue] == scaled[1, ~is_blue]).all()
    assert (scaled.sum(-1)[:, present] == 1).all()


def test_missing_category_becomes_unknown_and_indicators_stay():
    data = mixed(6, missing=0.5)
    scaled = Scaler.fit(data, some_rows(6, 40, 1)).fold(0)(data.gather(torch.arange(40))).inputs["labs"]
    hole = data.valid["labs"] & ~data.observed["labs"][:, 3]
    assert hole.any()
    assert (scaled[hole, 3:7] == torch.tensor([0.0, 0.0, 0.0, 1.0])).all()
    assert set(scaled[:, 7].unique().tolist()) <= {0.0, 1.0}


def test_a_column_without_spread_is_centred_and_not_blown_up():
    data = mixed(7, missing=0.0)
    data.inputs["labs"][:, 0] = 137.1 * data.valid["labs"]
    data.inputs["labs"][:, 1] *= 1e-9
    for method in ("standard", "robust"):
        scaler = Scaler.fit(data, some_rows(7, 40, 1), ScalingConfig(method=method)).fold(0)
        assert scaler.modalities["labs"].scale[0] == 1
        scaled = scaler(data.gather(torch.arange(40))).inputs["labs"]
        assert scaled[:, 0].abs().max() < 1e-3
        assert scaled[data.valid["labs"], 1].std() > 0.5  # tiny units are no reason to call a column constant


def test_robust_falls_back_on_the_deviation_where_the_quartiles_agree():
    data = mixed(8, missing=0.0)
    data.valid["labs"][:] = True
    data.observed["labs"][:] = True
    data.inputs["labs"][:, 0] = (torch.arange(40) % 10 == 0).float()
    marks = np.ones((1, 40), dtype=bool)
    robust = Scaler.fit(data, marks, ScalingConfig(method="robust")).fold(0).modalities["labs"]
    assert robust.shift[0] == 0
    assert robust.scale[0] == pytest.approx(0.3)


def test_clip_bounds_numeric_columns_in_scaled_units_only():
    data = mixed(9)
    rows = torch.arange(40)
    clipped = Scaler.fit(data, some_rows(9, 40, 1), ScalingConfig(clip=0.5)).fold(0)(data.gather(rows)).inputs
    free = Scaler.fit(data, some_rows(9, 40, 1), ScalingConfig(clip=None)).fold(0)(data.gather(rows)).inputs
    raw = (
        Scaler.fit(data, some_rows(9, 40, 1), ScalingConfig(method="none", clip=0.5)).fold(0)(data.gather(rows)).inputs
    )
    torch.testing.assert_close(clipped["tiles"], free["tiles"].clamp(-0.5, 0.5))
    assert clipped["labs"][:, 2:].max() == 1
    real = data.observed["tiles"]
    assert torch.equal(raw["tiles"][real], data.inputs["tiles"][real])


def test_state_round_trip_is_exact():
    data = mixed(10)
    scaler = Scaler.fit(data, some_rows(10, 40, 3))
    again = Scaler.from_state(scaler.state())
    batch = data.gather(all_rows(data, 3))
    for name, values in again(batch).inputs.items():
        assert torch.equal(values, scaler(batch).inputs[name])


def test_double_precision_inputs_stay_double():
    data = mixed(11)
    batch = data.gather(torch.arange(40))
    double = batch._replace(inputs={n: v.double() for n, v in batch.inputs.items()})
    assert {v.dtype for v in Scaler.fit(data, some_rows(11, 40, 1)).fold(0)(double).inputs.values()} == {torch.float64}


FREE = [config.model_copy(update={"clip": None}) for config in CONFIGS]


@given(
    seed=st.integers(0, 10_000),
    config=st.sampled_from(FREE),
    far=st.sampled_from([0.0, 1e3, 1e6]),
    stacked=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_property_06_the_inverse_of_what_is_scaled_is_what_was_there(seed, config, far, stacked):
    """Fails where ``inverse`` adds the shift before it multiplies."""
    data, marks = mixed(seed), some_rows(seed, 40, 2)
    for name in ("steps", "tiles"):
        data.inputs[name][..., 0] += far * data.observed[name][..., 0]
    scaler = Scaler.fit(data, marks | data.valid["labs"].numpy(), config)  # so that every category is seen
    rows = all_rows(data, 2) if stacked else torch.arange(40)
    batch, scaler = data.gather(rows), scaler if stacked else scaler.fold(1)
    again = scaler.inverse(scaler(batch))
    for name, values in again.inputs.items():
        known = batch.observed[name] & batch.valid[name].unsqueeze(-1)
        expected = torch.where(known, batch.inputs[name], 0.0)
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5 if not far else 1e-6 * far)
    assert all(a is b for a, b in zip(again._replace(inputs=None), batch._replace(inputs=None), strict=True))


@given(seed=st.integers(0, 10_000), config=st.sampled_from(CONFIGS))
@settings(max_examples=100, deadline=None)
def test_property_06_a_saved_scaler_inverts_as_it_did(seed, config):
    """Fails where ``state`` leaves the scale out."""
    data, marks = mixed(seed), some_rows(seed, 40, 2)
    scaler = Scaler.fit(data, marks, config)
    scaled = scaler(data.gather(all_rows(data, 2)))
    again = Scaler.from_state(scaler.state()).inverse(scaled)
    for name, values in scaler.inverse(scaled).inputs.items():
        assert torch.equal(again.inputs[name], values)


def test_what_was_clipped_comes_back_as_the_bound():
    data = mixed(12, missing=0.0)
    scaler = Scaler.fit(data, some_rows(12, 40, 1), ScalingConfig(clip=0.5)).fold(0)
    batch = data.gather(torch.arange(40))
    own, back = scaler.modalities["tiles"], scaler.inverse(scaler(batch)).inputs["tiles"]
    low, high = own.shift - 0.5 * own.scale, own.shift + 0.5 * own.scale
    there = batch.valid["tiles"].unsqueeze(-1)
    torch.testing.assert_close(back, batch.inputs["tiles"].clamp(low, high) * there, rtol=1e-5, atol=1e-5)


def of_features(features: tuple[Feature, ...], cells: np.ndarray, seen: np.ndarray) -> ArrayDataset:
    """A data set of one modality: ``cells`` and ``seen`` are [R,F], or [R,T,F] of a sequence."""
    length = cells.shape[1] if cells.ndim == 3 else None
    modality = Modality("track", "sequence" if length else "vector", features, length=length)
    return ArrayDataset.checked(
        spec=Spec((modality,), SPEC.tasks),
        ids=np.array([f"r{i}" for i in range(len(cells))]),
        inputs={"track": torch.from_numpy(np.where(seen, cells, 0.0)).float()},
        valid={"track": torch.ones(cells.shape[:-1], dtype=torch.bool)},
        observed={"track": torch.from_numpy(seen)},
        quality={"track": torch.ones(len(cells))},
        targets={"outcome": torch.zeros(len(cells))},
        known={"outcome": torch.ones(len(cells), dtype=torch.bool)},
        provenance=Provenance((Source("made here", "0", len(cells)),)),
    )


TRACKS = tuple(
    Feature(f"track {unit} {quantity}", unit=f"track {unit}", quantity=quantity)
    for unit in (1, 2, 3)
    for quantity in ("scale", "x", "y")
)


@given(
    seed=st.integers(0, 10_000), config=st.sampled_from(CONFIGS), shared=st.booleans(), length=st.sampled_from([0, 4])
)
@settings(max_examples=100, deadline=None)
def test_property_07_scaling_one_column_does_not_change_another(seed, config, shared, length):
    """Fails where ``pooled`` takes all columns for one group. Columns of one quantity are scaled alike, and no other
    column is touched by what they hold."""
    rng = np.random.default_rng(seed)
    features = TRACKS if shared else tuple(Feature(f.name) for f in TRACKS)
    shape = (20, length, len(features)) if length else (20, len(features))
    cells, seen = rng.normal(3, 5, shape), rng.random(shape) < 0.9
    column = int(rng.integers(len(features)))
    alike = {
        at for at, f in enumerate(features) if at == column or f.quantity and f.quantity == features[column].quantity
    }
    other = cells.copy()
    other[..., column] = rng.normal(-100, 70, shape[:-1])
    marks = some_rows(seed, 20, 2)
    before, after = (
        Scaler.fit(of_features(features, c, seen), marks, config).modalities["track"] for c in (cells, other)
    )
    apart = [at for at in range(len(features)) if at not in alike]
    for name in ("shift", "scale", "fill"):
        assert torch.equal(getattr(before, name)[:, apart], getattr(after, name)[:, apart])
    batch = of_features(features, cells, seen).gather(torch.arange(20).expand(2, 20))
    scaled = [s(batch.inputs["track"], batch.valid["track"], batch.observed["track"]) for s in (before, after)]
    assert torch.equal(scaled[0][..., apart], scaled[1][..., apart])
    if config.method != "none":
        assert not torch.equal(before.shift[:, column], after.shift[:, column])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.method}-{c.impute}")
@pytest.mark.parametrize("length", [None, 4])
def test_columns_of_one_quantity_are_scaled_as_one_column_of_all_their_cells(config, length):
    """As scikit-learn does with such a column; fold by fold, with other numbers of cells in each of the columns."""
    rng = np.random.default_rng(0)
    shape = (30, length, len(TRACKS)) if length else (30, len(TRACKS))
    cells = rng.normal(np.arange(len(TRACKS)) * 3, 1 + np.arange(len(TRACKS)), shape).astype(np.float32)
    seen = rng.random(shape) < np.linspace(0.3, 1.0, len(TRACKS))
    seen[..., 4] = False  # a track that is never there
    marks = some_rows(0, 30, 3)
    scaler = Scaler.fit(of_features(TRACKS, cells, seen), marks, config).modalities["track"]
    for quantity in ("scale", "x", "y"):
        own = [at for at, feature in enumerate(TRACKS) if feature.quantity == quantity]
        for k in range(3):
            real = cells[marks[k]][..., own][seen[marks[k]][..., own]].astype(np.float64)[:, None]
            shift, scale = np.zeros(1), np.ones(1)
            if config.method == "standard":
                shift, scale = StandardScaler().fit(real).mean_, StandardScaler().fit(real).scale_
            elif config.method == "robust":
                robust = RobustScaler().fit(real)
                shift, scale = robust.center_, robust.scale_ * NORMAL_IQR
            centre = np.mean(real) if config.impute == "mean" else np.median(real)
            for found, expected in (
                (scaler.shift, shift),
                (scaler.scale, scale),
                (scaler.fill, (centre - shift) / scale),
            ):
                np.testing.assert_allclose(found[k, own], np.broadcast_to(expected, len(own)), rtol=1e-4, atol=1e-6)


def test_robust_counts_every_cell_where_none_is_missing():
    cells = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    data = of_features((Feature("a"), Feature("b")), cells, np.ones((7, 2), bool))
    own = Scaler.fit(data, np.ones((1, 7), bool), ScalingConfig(method="robust")).fold(0).modalities["track"]
    reference = RobustScaler().fit(cells)
    np.testing.assert_allclose(own.shift, reference.center_, rtol=1e-5)
    np.testing.assert_allclose(own.scale, reference.scale_ * NORMAL_IQR, rtol=1e-5)


@pytest.mark.parametrize("cells", [1, 2 * 20 * 4])
def test_columns_are_sorted_in_parts_without_a_trace(monkeypatch, cells):
    rng = np.random.default_rng(0)
    data = of_features(TRACKS, rng.normal(size=(20, 4, 9)), rng.random((20, 4, 9)) < 0.8)
    marks, config = some_rows(0, 20, 2), ScalingConfig(method="robust")
    whole = Scaler.fit(data, marks, config).state()
    monkeypatch.setattr(scaling, "CELLS", cells)
    parts = Scaler.fit(data, marks, config).state()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_quantity_is_shared_by_numeric_columns_alone():
    rng = np.random.default_rng(1)
    features = (
        Feature("a", quantity="x"),
        Feature("b", "binary", quantity="x"),
        Feature("c", quantity="x"),
        Feature("d"),
    )
    cells = rng.normal(size=(30, 4))
    cells[:, 1] = cells[:, 1] > 0
    scaler = Scaler.fit(of_features(features, cells, np.ones((30, 4), bool)), np.ones((1, 30), bool)).fold(0)
    own = scaler.modalities["track"]
    assert own.shift[0] == own.shift[2] != own.shift[3] and own.shift[1] == 0 and own.scale[1] == 1
    assert own.fill[1] == pytest.approx(cells[:, 1].mean())


@given(seed=st.integers(0, 10_000), config=st.sampled_from(CONFIGS), stacked=st.booleans())
@settings(max_examples=100, deadline=None)
def test_property_09_what_is_not_observed_of_an_embedding_or_of_a_mean_is_zero_after_scaling(seed, config, stacked):
    """Fails where embeddings are counted among the numeric columns. Of others what is filled in is the fold's mean,
    which is 0 in scaled units."""
    rng = np.random.default_rng(seed)
    features = (Feature("face x"), *(Feature(f"clip {d}", "embedding") for d in range(3)))
    cells, seen = rng.normal(5, 3, (20, 4, 4)), rng.random((20, 4, 4)) < 0.7
    data = of_features(features, cells, seen)
    scaler = Scaler.fit(data, some_rows(seed, 20, 2), config)
    batch = data.gather(torch.arange(20).expand(2, 20) if stacked else torch.arange(20))
    scaled = (scaler if stacked else scaler.fold(0))(batch).inputs["track"]
    assert torch.equal(scaled[..., 1:], batch.inputs["track"][..., 1:])
    assert not scaled[..., 1:][~batch.observed["track"][..., 1:]].any()
    if config.method == "standard" and config.impute == "mean":
        assert not scaled[..., 0][~batch.observed["track"][..., 0]].any()


def test_a_clip_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match="clip: expected greater than 0, found 0"):
        validate(ScalingConfig, {"clip": 0}, "demo.yaml")
