import re

import pytest
import torch

from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, Feature, Modality, Spec, Task
from fusion_lab.data.planting import Planting, twin
from fusion_lab.zoo.token_fusion import TokenFusion, TokenFusionConfig, group_modalities

OUTCOME = (Task("outcome", "binary", ("no", "yes")),)
ATTENTIONS = {"transformer": 6, "bottleneck": 7, "gated": 5}  # one per encoder, and those of the fusion


def modality(name: str, width: int, kind="vector", length: int | None = None) -> Modality:
    return Modality(name, kind, tuple(Feature(f"{name} {i}") for i in range(width)), length)


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


def test_groups_hold_every_modality_once_and_are_of_one_kind_and_length():
    modalities = (
        modality("a", 3),
        modality("b", 60),
        modality("c", 512),
        modality("d", 300),
        modality("e", 4, "sequence", 6),
        modality("f", 5, "sequence", 7),
        modality("g", 5, "bag", 6),
        modality("h", 2, "sequence", 6),
    )
    groups = group_modalities(modalities)
    assert sorted(m.name for group in groups for m in group) == list("abcdefgh")
    assert {frozenset(m.name for m in group) for group in groups} == set(
        map(frozenset, ({"c", "d"}, {"b", "a"}, {"e", "h"}, {"f"}, {"g"}))
    )
    for group in groups:
        assert len({(m.kind, m.length) for m in group}) == 1
        assert group[0].width == max(m.width for m in group)


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


def test_a_task_per_step_is_refused():
    spec = Spec((modality("a", 3, "sequence", 4),), (Task("walking", "binary", ("no", "yes"), per_step=True),))
    with pytest.raises(
        ConfigError,
        match="model.family: token_fusion answers once per row, found task 'walking' with a target per step",
    ):
        TokenFusion(TokenFusionConfig(), spec)
