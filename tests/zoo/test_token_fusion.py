import re

import pytest
import torch

from fusion_lab.config import validate
from fusion_lab.contracts import Batch, ConfigError, Feature, Modality, Spec, Task
from fusion_lab.data.planting import Planting, twin
from fusion_lab.zoo.token_fusion import TokenFusion, TokenFusionConfig

OUTCOME = (Task("outcome", "binary", ("no", "yes")),)
ATTENTIONS = {"transformer": 6, "bottleneck": 7, "gated": 5}  # one per encoder, and those of the fusion


def modality(name: str, width: int, kind="vector", length: int | None = None, place: str = "") -> Modality:
    return Modality(name, kind, tuple(Feature(f"{name} {i}") for i in range(width)), length, place)


def daily() -> Spec:
    """The five daily modalities of the relapse transformer over a week."""
    return Spec(tuple(modality(f"m{i}", w, "sequence", 7) for i, w in enumerate((38, 38, 26, 10, 9))), OUTCOME)


@pytest.mark.parametrize(
    ("fusion", "published"), [("transformer", 316_033), ("bottleneck", 365_953), ("gated", 266_054)]
)
def test_parameters_are_the_published_ones_less_the_key_biases(fusion, published):
    model = TokenFusion(TokenFusionConfig(fusion=fusion), daily())
    assert model.count_parameters() == published - 64 * ATTENTIONS[fusion]


def test_the_small_model_has_the_published_parameters_too():
    model = TokenFusion(TokenFusionConfig(d_model=32, nhead=2), daily())
    assert model.count_parameters() == 83_265 - 32 * ATTENTIONS["transformer"]


def test_the_order_of_modalities_in_the_maps_is_that_of_the_spec():
    spec = Spec((modality("narrow", 2), modality("wide", 9), modality("middle", 5)), OUTCOME)
    model = TokenFusion(TokenFusionConfig(d_model=8, nhead=2, fusion="gated"), spec)
    assert model.maps["modalities"].axes[-1].labels == ("narrow", "wide", "middle")


@pytest.mark.parametrize("setting", ["d_model", "num_encoder_layers", "num_fusion_layers", "num_bottleneck_tokens"])
def test_every_size_changes_the_number_of_parameters(setting):
    base = TokenFusionConfig(d_model=8, nhead=2, fusion="bottleneck" if "bottleneck" in setting else "transformer")
    larger = base.model_copy(update={setting: 2 * getattr(base, setting)})
    counts = [TokenFusion(config, daily()).count_parameters() for config in (base, larger)]
    assert counts[1] > counts[0]


def test_quality_scales_what_a_modality_contributes_only_where_it_is_asked_for():
    spec = Spec((modality("a", 3), modality("b", 3)), OUTCOME)
    batch = twin(spec, Planting(rows=6)).gather(torch.arange(6))
    lower = batch._replace(quality={"a": torch.full((6,), 0.2), "b": torch.ones(6)})
    for quality in (True, False):
        torch.manual_seed(0)
        model = TokenFusion(TokenFusionConfig(d_model=8, nhead=2, fusion="gated", quality=quality), spec)
        same = torch.equal(model(batch).heads["outcome"], model(lower).heads["outcome"])
        assert same is not quality


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=re.escape("expected d_model to be a multiple of nhead, found 10 and 4")):
        validate(TokenFusionConfig, {"d_model": 10, "nhead": 4}, "here")


ENCODERS = ("transformer", "gru", "cnn", "attention")
FUSIONS = ("transformer", "bottleneck", "gated")
RISING = Task("rising", "multiclass", ("no", "little", "much"), steps=("gait", "pulse"))
ASLEEP = Task("asleep", "binary", ("no", "yes"), steps=("night",))
WARD = (
    modality("clinic", 3),
    modality("gait", 4, "sequence", 5, "day"),
    modality("cells", 2, "bag", 3, "cell"),
    modality("pulse", 2, "sequence", 5, "day"),
    modality("night", 3, "sequence", 4),
)
MAPS = {
    "transformer": (("asking modality", 5), ("modality", 5)),
    "bottleneck": (("latent", 4), ("modality", 5)),
    "gated": (("modality", 5),),
}


def ward(*tasks: Task, **settings) -> tuple[TokenFusion, Spec, Batch]:
    """A model in float64 and rows of a ward with holes."""
    spec = Spec(WARD, tasks)
    torch.manual_seed(0)
    model = TokenFusion(TokenFusionConfig(d_model=8, nhead=2, **settings), spec).double()
    data = twin(spec, Planting(rows=10, planted="quality", missing_modalities=0.3), tuple(m.name for m in WARD))
    batch = data.gather(torch.arange(10))
    holes = torch.rand(10, 5) > 0.3
    valid = {n: v & holes[:, : v.shape[1]] if n in ("gait", "pulse", "night") else v for n, v in batch.valid.items()}
    inputs = {n: x.double() for n, x in batch.inputs.items()}
    quality = {n: q.double() for n, q in batch.quality.items()}
    return model, spec, batch._replace(inputs=inputs, valid=valid, quality=quality)


def described(model: TokenFusion) -> dict[str, tuple[tuple[str, int], ...]]:
    return {name: tuple((axis.name, len(axis.labels)) for axis in m.axes) for name, m in model.maps.items()}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_maps_are_named_after_what_they_weigh_and_their_axes_after_places(fusion):
    own = {
        "gait steps": (("day", 5),),
        "pulse steps": (("day", 5),),
        "night steps": (("time step", 4),),
        "cells instances": (("cell", 3),),
    }
    rows = {"modalities": MAPS[fusion]}
    both = {
        "modalities at each step of gait and pulse": (("day", 5), *MAPS[fusion]),
        "modalities at each step of night": (("time step", 4), *MAPS[fusion]),
    }
    one = {"modalities at each step": (("time step", 4), *MAPS[fusion])}
    assert described(ward(*OUTCOME, fusion=fusion)[0]) == rows | own
    assert described(ward(*OUTCOME, RISING, ASLEEP, fusion=fusion)[0]) == rows | both | own
    assert described(ward(RISING, ASLEEP, fusion=fusion)[0]) == both | own
    without_night = {name: axes for name, axes in own.items() if name != "night steps"}
    assert described(ward(ASLEEP, fusion=fusion)[0]) == one | without_night, "its one token is never asked for"
    assert "gait steps" not in described(ward(*OUTCOME, fusion=fusion, sequence_encoder="gru")[0])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_step_is_fused_as_a_row_is(fusion, encoder):
    """Its tokens are the step's outputs of the task's sequences and the one token of everything else."""
    model, _, batch = ward(*OUTCOME, RISING, ASLEEP, fusion=fusion, sequence_encoder=encoder)
    output = model(batch)
    encoded, _ = model._encode(batch, None)
    names = [m.name for m in WARD]
    share = torch.stack([batch.quality[name] for name in names], dim=-1)
    for place, (task, length) in enumerate(((RISING, 5), (ASLEEP, 4)), start=1):
        found = output.maps[f"modalities at each step of {' and '.join(task.steps)}"]
        for t in range(length):
            tokens, valid = [], []
            for name in names:
                here = batch.valid[name]
                if name in task.steps:
                    tokens.append(encoded[name].steps[:, t])
                    valid.append(here[:, t])
                else:
                    tokens.append(encoded[name].token)
                    valid.append(here.reshape(10, -1).any(1))
            fused, weights = model.fusion(torch.stack(tokens, 1), torch.stack(valid, 1), share, None)
            torch.testing.assert_close(output.heads[task.name][:, t], model.heads[place](fused, None))
            there = torch.stack([batch.valid[name][:, t] for name in task.steps]).any(0)
            torch.testing.assert_close(found[there, t], weights[there])
            assert not found[~there, t].any()
            assert (~there).any()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_sequence_that_is_not_valid_at_a_step_is_missing_there(fusion):
    """With steps that know nothing of each other, a step says what it says where the sequence is never there."""
    model, _, batch = ward(RISING, fusion=fusion, sequence_encoder="attention")
    never = batch._replace(valid={**batch.valid, "pulse": torch.zeros_like(batch.valid["pulse"])})
    apart = (model(batch).heads["rising"] - model(never).heads["rising"]).abs().amax(-1)
    assert torch.equal(apart > 1e-9, batch.valid["pulse"])
    assert batch.valid["pulse"].any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_task_per_row_is_answered_alike_beside_tasks_per_step(encoder):
    settings = {"sequence_encoder": encoder, "num_encoder_layers": 2}
    alone, _, batch = ward(*OUTCOME, **settings)
    beside, _, _ = ward(*OUTCOME, Task("pace", "regression", steps=("gait", "pulse")), **settings)
    shared = {name: leaf for name, leaf in alone.state_dict().items() if name in beside.state_dict()}
    assert len(shared) == len(alone.state_dict())
    beside.load_state_dict(shared, strict=False)
    one, other = alone(batch), beside(batch)
    torch.testing.assert_close(one.heads["outcome"], other.heads["outcome"])
    for name, weights in one.maps.items():
        torch.testing.assert_close(weights, other.maps[name])


def test_encoders_of_sequences_and_bags_change_nothing_without_any():
    spec = Spec((modality("a", 3), modality("b", 3)), OUTCOME)
    batch = twin(spec, Planting(rows=6)).gather(torch.arange(6))
    heads = []
    for settings in ({}, {"sequence_encoder": "gru", "bag_encoder": "attention"}):
        torch.manual_seed(0)
        heads.append(TokenFusion(TokenFusionConfig(d_model=8, nhead=2, **settings), spec)(batch).heads["outcome"])
    assert torch.equal(*heads)


def test_every_encoder_answers_in_its_own_way():
    for option, choices in (("sequence_encoder", ENCODERS), ("bag_encoder", ("transformer", "attention"))):
        models = [ward(*OUTCOME, **{option: choice})[0] for choice in choices]
        shapes = [sorted(f"{n} {tuple(p.shape)}" for n, p in model.named_parameters()) for model in models]
        assert all(a != b for i, a in enumerate(shapes) for b in shapes[:i])
