import torch

from fusion_lab.blocks.encoders import Asked
from fusion_lab.contracts import Feature, Modality
from fusion_lab.zoo.modalities import (
    group_modalities,
    place_map,
    places,
    present,
    shared_columns,
    stack_group,
    unit_columns,
)


def modality(name: str, width: int, kind="vector", length: int | None = None) -> Modality:
    return Modality(name, kind, tuple(Feature(f"{name} {i}") for i in range(width)), length)


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
    groups = group_modalities(modalities, dict.fromkeys("abcdefgh", Asked()))
    assert sorted(m.name for group in groups for m in group) == list("abcdefgh")
    assert {frozenset(m.name for m in group) for group in groups} == set(
        map(frozenset, ({"c", "d"}, {"b", "a"}, {"e", "h"}, {"f"}, {"g"}))
    )
    for group in groups:
        assert len({(m.kind, m.length) for m in group}) == 1
        assert group[0].width == max(m.width for m in group)


def test_modalities_of_which_other_things_are_asked_are_in_groups_of_their_own():
    modalities = tuple(modality(name, 3, "sequence", 4) for name in "abc")
    asked = {"a": Asked(), "b": Asked(steps=True), "c": Asked()}
    assert [[m.name for m in group] for group in group_modalities(modalities, asked)] == [["a", "c"], ["b"]]


def test_given_widths_decide_who_is_first_and_what_is_narrow_who_joins():
    modalities = tuple(modality(name, width, "sequence", 4) for name, width in (("a", 1), ("b", 9)))
    asked = dict.fromkeys("ab", Asked())

    def grouped(widths, **narrow) -> list[list[str]]:
        return [[m.name for m in group] for group in group_modalities(modalities, asked, widths, **narrow)]

    assert grouped(None) == [["b", "a"]]
    assert grouped({"a": 80, "b": 72}) == [["a", "b"]]
    assert grouped({"a": 8, "b": 72}) == [["b"], ["a"]]
    assert grouped({"a": 8, "b": 72}, narrow=72) == [["b", "a"]]


def test_a_group_is_stacked_with_zeros_beside_the_narrow_and_one_step_of_a_vector():
    group = (modality("wide", 3), modality("slim", 2))
    inputs = {"wide": torch.randn(4, 3), "slim": torch.randn(4, 2)}
    valid = {"wide": torch.ones(4, dtype=torch.bool), "slim": torch.arange(4) > 1}
    x, there = stack_group(group, inputs, valid)
    assert x.shape == (2, 4, 1, 3)
    assert torch.equal(x[0, :, 0], inputs["wide"])
    assert torch.equal(x[1, :, 0, :2], inputs["slim"])
    assert not x[1, ..., 2:].any()
    assert torch.equal(there[1, :, 0], valid["slim"])


def test_a_modality_is_there_where_anything_of_it_is():
    assert present(torch.tensor([[False, True], [False, False]])).tolist() == [True, False]
    assert present(torch.tensor([True, False])).tolist() == [True, False]


def test_maps_over_positions_are_named_after_what_they_run_over():
    track, bag = modality("gait", 2, "sequence", 3), modality("cells", 2, "bag", 2)
    assert (place_map(track), place_map(bag)) == ("gait steps", "cells instances")
    assert (places(track).name, places(bag).labels) == ("time step", ("1", "2"))


def test_features_of_units_are_found_by_quantity_kind_and_category():
    features = (
        Feature("tempo"),
        *(Feature(f"b {c}", "category", "b", c, unit="b", quantity="asset") for c in ("x", "y")),
        Feature("b scale", unit="b", quantity="scale"),
        Feature("a scale", unit="a", quantity="scale"),
        *(Feature(f"a {c}", "category", "a", c, unit="a", quantity="asset") for c in ("y", "x")),
    )
    track = Modality("track", "sequence", features, 4)
    assert unit_columns(track, ("a", "b")) == [[6, 5, 4], [1, 2, 3]]
    assert unit_columns(track, ("b", "nowhere")) == [[1, 2, 3], [-1, -1, -1]]
    assert unit_columns(track, ("nowhere",)) == [[]]
    assert shared_columns(track) == [0]
