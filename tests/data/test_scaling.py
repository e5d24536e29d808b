import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import RobustScaler, StandardScaler

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, Feature, Modality, Provenance, Source, Spec, Task
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


def test_a_clip_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match="clip: expected greater than 0, found 0"):
        validate(ScalingConfig, {"clip": 0}, "demo.yaml")
