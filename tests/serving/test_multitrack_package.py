"""Packages of models of streams and tracks: what they read, and what they say of each unit at each step."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.data import DOMAINS
from fusion_lab.experiment import Experiment, Materials, override, resolve
from fusion_lab.jobs.baselines import fit_baseline
from fusion_lab.jobs.final import Trained, final_model
from fusion_lab.serving.answers import answer, columns_of, predict
from fusion_lab.serving.files import write_answers
from fusion_lab.serving.intake import read_rows
from fusion_lab.serving.package import Origin, Package
from fusion_lab.serving.pyfunc import signature
from fusion_lab.training import cross_validate

LENGTH, COUNT = 4, 2
TREE: dict[str, Any] = {
    "name": "edit",
    "data": {
        "domain": "synthetic",
        "rows": 40,
        "planted": "additive",
        "missing_modalities": 0.1,
        "modalities": {
            "audio": {"kind": "sequence", "width": 2, "length": LENGTH},
            "visual": {"kind": "sequence", "width": 3, "length": LENGTH},
            "track": {"kind": "sequence", "width": 2, "units": COUNT, "length": LENGTH},
        },
        "tasks": {
            "active": {"per_step": True, "per_unit": True, "causal": True},
            "asset": {"kind": "multiclass", "per_step": True, "per_unit": True, "causal": True},
            "scale": {"kind": "regression", "per_step": True, "per_unit": True, "causal": True},
            "speech": {"per_step": True},
        },
    },
    "model": {"family": "multitrack", "d_model": 8, "nhead": 2, "num_encoder_layers": 1, "dim_feedforward": 8},
    "training": {"epochs": 1, "batch_size": 16, "mode": "loop"},
    "folds": {"k": 3},
    "baselines": False,
}
KINDS = {"multimodal": None, "track-only": ["track"]}
UNITS = ("track unit 1", "track unit 2")


def experiment(kind: str) -> Experiment:
    return resolve(override(TREE, {"model.modalities": KINDS[kind]}), "edit")


@cache
def materials() -> Materials:
    return Materials.load(experiment("multimodal"))


@cache
def package(kind: str) -> Package:
    chosen = experiment(kind)
    trained = Trained.of(chosen, cross_validate(materials().plan(chosen)))
    return final_model(trained, materials(), "a run").package


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Package]:
    """Both kinds of model, read from their folders alone."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        package(kind).save(folder)
        found[kind] = Package.load(folder)
    return found


def row(seed: int, streams: tuple[str, ...], steps: int = LENGTH) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    widths = {"audio": 2, "visual": 3, "track": 4}
    return {name: rng.normal(size=(steps, widths[name])).tolist() for name in streams}


@settings(max_examples=100)
@given(
    kind=st.sampled_from(list(KINDS)),
    beside=st.sets(st.sampled_from(["audio", "visual"])),
    steps=st.integers(1, LENGTH),
    seed=st.integers(0, 9_999),
)
def test_property_21_a_package_tells_its_kind_and_answers_with_and_without_the_other_streams(
    saved, kind, beside, steps, seed
):
    """Fails when ``Package.reads`` gives all modalities of the spec, and when ``modalities_read`` does."""
    model = saved[kind]
    assert model.experiment["model"]["family"] == "multitrack"
    assert model.reads == (("audio", "visual", "track") if kind == "multimodal" else ("track",))
    assert ("of track alone" in model.label) == (kind == "track-only")
    whole = row(seed, ("track", *sorted(beside)), steps)
    alone = {"track": whole["track"]}
    told = predict(model, read_rows([whole, alone], model.spec))
    for column in ("active.probability.yes", "scale", "asset"):
        one, other = told[column]
        assert len(one) == len(other) == steps
        assert all(tuple(step) == UNITS for step in [*one, *other])
        if kind == "track-only" or not beside:
            assert one == other
    if kind == "multimodal" and beside:
        assert told["scale"][0] != told["scale"][1]


def test_each_kind_comes_back_as_it_was(saved):
    records = DOMAINS["synthetic"].records(experiment("multimodal").data)
    for kind, found in saved.items():
        assert found.spec == package(kind).spec == materials().spec
        scores, expected = (answer(p, records).scores for p in (found, package(kind)))
        for task, values in expected.items():
            np.testing.assert_array_equal(scores[task], values)


def test_answers_name_the_units_at_every_step_that_was_given():
    model = package("multimodal")
    records = read_rows([row(0, ("track", "audio")), row(1, ("track",), 2)], model.spec)
    frame, scores = predict(model, records), answer(model, records).scores
    assert list(frame.columns) == columns_of(model.spec)
    for place, steps in ((0, LENGTH), (1, 2)):
        told = frame["scale"][place]
        mean = scores["scale"].mean(0)[place, -steps:]
        assert [list(step) for step in told] == [list(UNITS)] * steps
        np.testing.assert_allclose([[step[u] for u in UNITS] for step in told], mean)
        yes, no = (frame[f"active.probability.{word}"][place] for word in ("yes", "no"))
        chances = [np.array([[s[u] for u in UNITS] for s in of]) for of in (yes, no)]
        np.testing.assert_allclose(sum(chances), 1)
        named = [[step[u] for u in UNITS] for step in frame["active"][place]]
        assert named == np.where(chances[0] >= model.threshold["active"], "yes", "no").tolist()
        spread = [[step[u] for u in UNITS] for step in frame["scale.spread"][place]]
        np.testing.assert_allclose(spread, scores["scale"].std(0, ddof=1)[place, -steps:])
        assert isinstance(frame["speech"][place][0], str)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_answers_of_units_are_written_in_every_format(ending, tmp_path):
    model = package("multimodal")
    frame = predict(model, read_rows([row(0, ("track",)), row(1, ("audio",), 1)], model.spec))
    file = tmp_path / f"answers.{ending}"
    write_answers(frame, file)
    read = {
        "csv": lambda: [json.loads(cell) for cell in pd.read_csv(file)["scale"]],
        "parquet": lambda: [[dict(step) for step in cell] for cell in pd.read_parquet(file)["scale"]],
        "jsonl": lambda: pd.read_json(file, lines=True)["scale"].tolist(),
    }[ending]()
    for one, other in zip(read, frame["scale"], strict=True):
        assert [list(step) for step in one] == [list(step) for step in other]
        np.testing.assert_allclose([list(s.values()) for s in one], [list(s.values()) for s in other])


def test_the_signature_names_the_units():
    outputs = {column.name: column.type for column in signature(package("multimodal").spec).outputs.inputs}
    assert [p.name for p in outputs["scale"].dtype.properties] == list(UNITS)
    assert str(outputs["speech"]) == "Array(string)"


@pytest.mark.parametrize(("name", "reads"), [("single:track", ("track",)), ("trees", ("audio", "visual", "track"))])
def test_a_baseline_of_one_stream_tells_which(name, reads, quick_baselines):
    members = fit_baseline(name, materials(), lambda line: None)
    origin = Origin("", "", "", "")
    model = Package(name, members, materials().spec, experiment("track-only").resolved(), origin, baseline=name)
    assert model.reads == reads
    assert name in model.label
    frame = predict(model, read_rows([row(0, ("track",))], model.spec))
    assert [list(step) for step in frame["scale"][0]] == [list(UNITS)] * LENGTH
