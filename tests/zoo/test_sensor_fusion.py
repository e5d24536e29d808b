"""What is this family's own; the contract suite holds every family to the rest."""

import re

import pytest
import torch
from small_plans import make_plan

from fusion_lab.blocks.patches import patch_count
from fusion_lab.config import validate
from fusion_lab.contracts import Batch, ConfigError, Feature, Modality, Spec, Task
from fusion_lab.data.planting import Planting, twin
from fusion_lab.training.execution import check_stackable, settle
from fusion_lab.zoo.sensor_fusion import SensorFusion, SensorFusionConfig

ENCODERS = ("gru", "cnn", "transformer", "lstm")
FUSIONS = ("early", "late", "hybrid")
OUTCOME = Task("outcome", "binary", ("no", "yes"))


def modality(name: str, width: int, kind="sequence", length: int | None = 12, place: str = "") -> Modality:
    return Modality(name, kind, tuple(Feature(f"{name} {i}") for i in range(width)), length, place)


def recording(*tasks: Task) -> Spec:
    """Sensors as one wears them: three of many features, a heart rate of one; a person's data; a bag of notes."""
    sensors = (modality("hand", 5), modality("chest", 5), modality("ankle", 5, place="sample"), modality("heart", 1))
    others = (modality("person", 3, "vector", None), modality("notes", 2, "bag", 4))
    return Spec((*sensors, *others), tasks or (OUTCOME,))


def activity(classes: int) -> Task:
    return Task("activity", "multiclass", tuple(f"activity {i}" for i in range(classes)))


def built(spec: Spec, **settings) -> SensorFusion:
    torch.manual_seed(0)
    return SensorFusion(
        SensorFusionConfig(**{"d_model": 8, "nhead": 2, "patch": 3, "pooling": "own", **settings}), spec
    ).double()


def some_rows(spec: Spec, rows: int = 8, missing: float = 0.3) -> Batch:
    plan = Planting(rows=rows, planted="additive", missing_modalities=missing)
    batch = twin(spec, plan, tuple(m.name for m in spec.modalities)).gather(torch.arange(rows))
    return batch._replace(inputs={n: x.double() for n, x in batch.inputs.items()})


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


D, H, C, M = 128, 256, 25, 4
"""Width of tokens, of the fusion, classes and sensors of the published system, and the parameters of its fusions."""
PAIR = linear(H, H) + D * H + linear(D, H) + linear(H, H)  # a query, keys without a bias, values, what is made of them
PUBLISHED = {
    "early": 203_545,
    "late": 157_800,
    "hybrid": 3_363_357 - M * (M - 1) * (linear(H, 3 * H) + linear(H, H)) + M * (M - 1) * PAIR,
}
"""Its keys and values are projections of a token that has width H already; ours are of the steps, of width D."""


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_fusions_have_the_published_parameters(fusion):
    spec = Spec(
        tuple(modality(name, 17) for name in ("hand", "chest", "ankle")) + (modality("heart", 1),), (activity(C),)
    )
    model = SensorFusion(SensorFusionConfig(fusion=fusion, d_model=D, nhead=4), spec)
    assert sum(p.numel() for p in model.fusion.parameters()) == PUBLISHED[fusion]
    assert sum(p.numel() for p in model.norms.parameters()) == 1_024


def test_a_gru_of_patches_has_the_parameters_counted_by_hand():
    widths, patch, width = {"hand": 5, "heart": 1}, 3, 8
    model = built(recording_of(widths), fusion="early", num_layers=2)
    encoders = sum(linear(w * patch, width) + 2 * width + 2 * 2 * linear(width, 3 * width) for w in widths.values())
    fusion = linear(2 * width, 2 * width) + linear(2 * width, 2 * width) + linear(2 * width, 1)
    assert model.count_parameters() == encoders + 2 * 2 * width + fusion
    pooled = built(recording_of(widths), fusion="early", num_layers=2, pooling="statistics")
    assert pooled.count_parameters() == model.count_parameters() + len(widths) * linear(3 * width, width)


def recording_of(widths: dict[str, int]) -> Spec:
    return Spec(tuple(modality(name, width) for name, width in widths.items()), (OUTCOME,))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_maps_are_named_after_what_they_say_and_their_axes_after_places(fusion):
    spec = recording(OUTCOME, activity(3))
    sensors, names = ("hand", "chest", "ankle", "heart"), tuple(m.name for m in spec.modalities)
    maps = built(spec, fusion=fusion).maps
    expected = {"notes instances": [("instance", 4)]}
    if fusion == "late":
        expected |= {"outcome by modality": [("modality", 6)], "activity by modality": [("modality", 6), ("class", 3)]}
    if fusion == "hybrid":
        expected |= {
            f"{n} steps asked by others": [("asking modality", 5), ("sample" if n == "ankle" else "time step", 4)]
            for n in sensors
        }
        expected |= {"notes instances asked by others": [("asking modality", 5), ("instance", 4)]}
    if fusion != "early":
        expected |= {"modalities": [("modality", 6)]}
    assert {n: [(a.name, len(a.labels)) for a in m.axes] for n, m in maps.items()} == expected
    assert {n for n, m in maps.items() if m.kind == "answer"} == {n for n in expected if n.endswith("by modality")}
    if fusion == "hybrid":
        assert maps["hand steps asked by others"].axes[0].labels == tuple(n for n in names if n != "hand")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_that_weigh_their_steps_tell_so(encoder):
    maps = built(recording(), fusion="early", encoder=encoder).maps
    assert ("hand steps" in maps) == (encoder in ("cnn", "transformer"))
    assert "notes instances" in maps
    assert not built(recording(), fusion="early", encoder=encoder, pooling="statistics").maps


@pytest.mark.parametrize(
    ("patch", "labels"),
    [(1, [str(i + 1) for i in range(12)]), (5, ["1-2", "3-7", "8-12"]), (11, ["1", "2-12"]), (12, ["1-12"])],
)
def test_a_patch_is_named_by_its_first_and_last_sample(patch, labels):
    maps = built(recording(), fusion="early", encoder="cnn", patch=patch).maps
    assert list(maps["hand steps"].axes[0].labels) == labels
    assert len(labels) == patch_count(12, patch)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_patch_is_no_longer_than_the_sequence_and_one_step_is_told_not_asked(fusion):
    spec = recording()
    whole, longer = (built(spec, fusion=fusion, patch=patch) for patch in (12, 4096))
    batch = some_rows(spec)
    for task, head in whole(batch).heads.items():
        assert torch.equal(head, longer(batch).heads[task])
    assert not any(name.endswith("steps asked by others") for name in whole.maps)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_patch_of_samples_is_a_step_of_their_features_side_by_side(encoder):
    """The same model on the same numbers, given as samples and as steps."""
    spec = Spec((modality("hand", 5, length=11),), (OUTCOME,))
    batch = some_rows(spec, missing=0.0)
    wide = Spec((modality("hand", 15, length=4),), (OUTCOME,))
    samples, steps = built(spec, encoder=encoder, patch=3), built(wide, encoder=encoder, patch=1)
    shapes = {n: p.shape for n, p in steps.state_dict().items()}
    assert shapes == {n: p.shape for n, p in samples.state_dict().items()}
    steps.load_state_dict(samples.state_dict())
    x = torch.where(batch.valid["hand"].unsqueeze(-1), batch.inputs["hand"], 0.0)
    x, valid = torch.nn.functional.pad(x, (0, 0, 1, 0)), torch.nn.functional.pad(batch.valid["hand"], (1, 0))
    laid = batch._replace(inputs={"hand": x.reshape(8, 4, 15)}, valid={"hand": valid.reshape(8, 4, 3).any(-1)})
    torch.testing.assert_close(samples(batch).heads["outcome"], steps(laid).heads["outcome"])


def test_sensors_of_one_clock_share_a_pass_over_time_though_their_widths_differ():
    model = built(recording(), patch=8, d_model=16)
    assert [[m.name for m in group] for group in model.groups if group[0].kind == "sequence"] == [
        ["hand", "chest", "ankle", "heart"]
    ]


def test_late_fusion_answers_with_what_its_maps_say():
    spec = recording(OUTCOME, activity(3), Task("pace", "regression"))
    output = built(spec, fusion="late")(some_rows(spec))
    weights = output.maps["modalities"]
    for task, head in output.heads.items():
        own = output.maps[f"{task} by modality"]
        expected = (weights.reshape(*weights.shape, *[1] * (own.ndim - 2)) * own).sum(1)
        torch.testing.assert_close(head, expected)


def test_tokens_are_normalised_whatever_their_encoder():
    spec = recording()
    for encoder in ENCODERS:
        model = built(spec, encoder=encoder)
        encoded, _, _ = model._encode(some_rows(spec, missing=0.0), None)
        for of in encoded.values():
            assert of.token is not None
            torch.testing.assert_close(of.token.mean(-1), torch.zeros(8, dtype=torch.float64), atol=1e-9, rtol=0)
            assert (of.token.std(-1, unbiased=False) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_sensor_alone_is_enough(fusion):
    spec = Spec((modality("hand", 5),), (OUTCOME,))
    output = built(spec, fusion=fusion)(some_rows(spec, missing=0.0))
    assert torch.isfinite(output.heads["outcome"]).all()
    if fusion != "early":
        assert torch.equal(output.maps["modalities"], torch.ones(8, 1, dtype=torch.float64))


@pytest.mark.parametrize("setting", ["d_model", "num_layers", "patch"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_size_changes_the_number_of_parameters(encoder, setting):
    base = SensorFusionConfig(d_model=8, nhead=2, patch=2, encoder=encoder)
    larger = base.model_copy(update={setting: 2 * getattr(base, setting)})
    counts = [SensorFusion(config, recording()).count_parameters() for config in (base, larger)]
    assert counts[1] != counts[0]


def test_a_task_per_step_is_refused_by_its_name_and_told_where_to_go():
    spec = recording(OUTCOME, Task("phase", "binary", ("no", "yes"), steps=("hand",)))
    expected = (
        "model.family: expected tasks per row with sensor_fusion (token_fusion answers per step), found task 'phase'"
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        built(spec)


def test_an_lstm_trains_in_the_loop_and_stacked_folds_of_it_are_refused_by_name():
    model = {"family": "sensor_fusion", "fusion": "hybrid", "encoder": "lstm", "patch": 1}
    way = settle(make_plan({"model": model, "training.mode": "auto"}))
    assert way.mode == "loop"
    assert way.reason.startswith("the model cannot be stacked: torch.lstm in `encoders.")
    with pytest.raises(ConfigError, match=re.escape("training.mode: expected auto or loop")) as refused:
        check_stackable(make_plan({"model": model, "training.mode": "stacked"}))
    assert "torch.lstm" in str(refused.value)
    check_stackable(make_plan({"model": {**model, "encoder": "gru"}, "training.mode": "stacked"}))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=re.escape("expected d_model to be a multiple of nhead, found 10 and 4")):
        validate(SensorFusionConfig, {"d_model": 10, "nhead": 4}, "here")
