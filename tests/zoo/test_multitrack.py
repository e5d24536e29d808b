"""The family multitrack: the published sizes, the numbered properties of the published system that are its own, and
what it refuses.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multitrack_material import (
    SMALL,
    STREAMS,
    editing,
    made,
    replaced,
    rows_of,
    stream,
    track_tasks,
    tracks,
    watched,
    without,
)
from sklearn.linear_model import Ridge

from fusion_lab.blocks.grouped import GroupedLinear
from fusion_lab.blocks.randomness import Noise
from fusion_lab.blocks.soft_thresholds import with_thresholds
from fusion_lab.blocks.step_fusion import AddSteps, AttentionSteps, GatedSteps
from fusion_lab.blocks.step_transformer import waves
from fusion_lab.config import validate
from fusion_lab.contracts import ConfigError, Feature, Modality, Spec, Task
from fusion_lab.experiment import override
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.zoo.modalities import unit_columns
from fusion_lab.zoo.multitrack import STEPS, Multitrack, MultitrackConfig

FUSIONS = ("gated", "concat", "add", "attention")
LENGTH, COUNT = 5, 2
WHOLE = editing(3, 4, COUNT, LENGTH)
SPEC = replace(WHOLE, tasks=WHOLE.tasks[:3])
EXAMPLES = settings(max_examples=100)
WIDTHS = st.integers(1, 24)
SEEDS = st.integers(0, 9_999)

REFERENCE = {
    "gated": 5_193_491,
    "concat": 5_192_979,
    "add": 4_996_118,
}
"""Parameters of the published model at 5, 522 and 180 features."""
LOGIT = 256 + 1
"""Of a binary task the published head has a logit for each class, of which the difference counts."""


def reference(spec: Spec, **changes) -> int:
    return Multitrack(MultitrackConfig(preset="reference", **changes), spec).count_parameters()


def key_biases(layers: int) -> int:
    """Which add the same to all scores of a query: nothing."""
    return layers * 256


@pytest.mark.parametrize("fusion", REFERENCE)
def test_parameters_are_the_published_ones_less_what_never_changed_an_answer(fusion):
    assert reference(editing(), fusion=fusion) == REFERENCE[fusion] - key_biases(6) - LOGIT


def test_with_more_audio_it_has_the_published_parameters_too():
    assert reference(editing(audio=17)) == 5_196_563 - key_biases(6) - LOGIT


@pytest.mark.parametrize(("layers", "feed", "published"), [(6, 1024, 4_860_691), (4, 512, 2_230_547)])
def test_of_the_track_stream_alone_it_has_the_published_parameters(layers, feed, published):
    sizes = {"num_encoder_layers": layers, "dim_feedforward": feed}
    assert reference(editing(), modalities=("track",), **sizes) == published - key_biases(layers) - LOGIT


@EXAMPLES
@given(audio=WIDTHS, visual=WIDTHS, count=st.integers(1, 4), fusion=st.sampled_from(FUSIONS), seed=SEEDS)
def test_property_10_streams_may_have_any_width(audio, visual, count, fusion, seed):
    """Fails when ``_embedding`` takes the width of the first modality of a group for all of them."""
    whole = editing(audio, visual, count, LENGTH)
    spec = replace(whole, tasks=whole.tasks[:3])
    model = made(spec, seed, fusion=fusion)
    output = model(rows_of(spec, seed=seed))
    for task in spec.tasks:
        classes = (len(task.classes),) if task.kind == "multiclass" else ()
        assert output.heads[task.name].shape == (3, LENGTH, count, *classes)
        assert torch.isfinite(output.heads[task.name]).all()
    embedded = sum(e.linear.real().sum() for e in model.embeddings)
    assert embedded == sum(m.width for m in spec.modalities) * SMALL["d_model"]


@EXAMPLES
@given(
    widths=st.lists(WIDTHS, min_size=1, max_size=4),
    d_model=st.sampled_from([4, 6, 16]),
    embedding=st.sampled_from(["linear", "projection"]),
    seed=SEEDS,
)
def test_property_11_embeddings_have_the_width_of_the_model(widths, d_model, embedding, seed):
    """Fails when ``_embedding`` makes linear maps to ``widths[0]`` in place of ``d_model``."""
    names = tuple(f"s{i}" for i in range(len(widths)))
    spec = Spec(
        tuple(stream(n, w, LENGTH) for n, w in zip(names, widths, strict=True)), (Task("y", "regression", steps=names),)
    )
    model, seen = made(spec, seed, d_model=d_model, embedding=embedding), []
    for module in model.embeddings:
        with watched(module) as of_group:
            model(rows_of(spec, seed=seed))
        seen += [output for _, output in of_group]
    assert sum(tokens.shape[0] for tokens in seen) == len(widths)
    assert {tuple(tokens.shape[1:]) for tokens in seen} == {(3, LENGTH, d_model)}


def fused_by(model: Multitrack, batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What the fusion was given, tokens and which are there, and what it gave."""
    assert model.fusion is not None
    with watched(model.fusion) as seen:
        model(batch)
    ((tokens, valid, _), (fused, weights)) = seen[0]
    return tokens, valid, fused, weights


@EXAMPLES
@given(seed=SEEDS)
def test_property_12_additive_fusion_is_the_weighted_sum_of_embeddings(seed):
    """The weights are the softmax of a number for each stream over those that are there. Fails when ``AddSteps`` takes
    the softmax over all streams: ``masked_softmax(self.trust, torch.ones_like(valid.permute(1, 2, 0)))``.
    """
    model, batch = made(SPEC, seed, fusion="add"), rows_of(SPEC, seed=seed)
    assert isinstance(model.fusion, AddSteps)
    tokens, valid, fused, told = fused_by(model, batch)
    assert told is not None
    trust = model.fusion.trust.detach()[:, None, None].expand(valid.shape)
    weights = torch.where(valid, trust, -torch.inf).softmax(0).nan_to_num(0.0)  # of no stream at all: nothing
    torch.testing.assert_close(fused, sum(weights[m].unsqueeze(-1) * tokens[m] for m in range(3)))
    torch.testing.assert_close(told, weights.permute(1, 2, 0))


@EXAMPLES
@given(seed=SEEDS)
def test_property_13_cross_modal_attention_comes_before_positions_and_its_weights_sum_to_one(seed):
    """The same content at another time weighs as it did, and what the transformer reads is what was fused plus
    positions. Fails when ``forward`` adds the positions to the tokens of each stream before they are fused.
    """
    model, batch = made(SPEC, seed, fusion="attention"), rows_of(SPEC, seed=seed, there=0.6)
    assert isinstance(model.fusion, AttentionSteps)
    with watched(model.transformer) as read:
        _, valid, fused, weights = fused_by(model, batch)
    assert weights is not None
    there = valid.permute(1, 2, 0)
    torch.testing.assert_close(weights.sum(-1), there.any(-1).double())
    assert not weights[~there].any()
    torch.testing.assert_close(read[0][0][0] - fused, waves(there.any(-1), 8, fused))
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(seed))
    parts = ("inputs", "valid", "observed")
    moved = batch._replace(**{p: {n: leaf[:, order] for n, leaf in getattr(batch, p).items()} for p in parts})
    torch.testing.assert_close(model(moved).maps[STEPS], model(batch).maps[STEPS][:, order])


@EXAMPLES
@given(fusion=st.sampled_from(FUSIONS), seed=SEEDS)
def test_property_18_without_features_it_falls_back_to_the_track(fusion, seed):
    """A row whose other streams are missing is answered by its track, whatever stands in their place. Fails when
    ``_fuse`` hands the fusion the mask of the first stream for all of them.
    """
    model, batch = made(SPEC, seed, fusion=fusion), rows_of(SPEC, seed=seed)
    alone = without(batch, "audio", "visual")
    answers = model(alone)
    spoilt = alone._replace(inputs={**alone.inputs, "audio": torch.full_like(alone.inputs["audio"], 7.0)})
    for task, head in answers.heads.items():
        assert torch.isfinite(head).all()
        torch.testing.assert_close(model(spoilt).heads[task], head, rtol=0, atol=0)
    if STEPS in answers.maps:
        assert not answers.maps[STEPS][..., :2].any()
        assert torch.equal(answers.maps[STEPS][..., 2] > 0, batch.valid["track"])
    changed = model(replaced(alone, "track", seed=seed + 1))
    assert not torch.allclose(changed.heads["scale"], answers.heads["scale"])


@EXAMPLES
@given(fusion=st.sampled_from(FUSIONS), seed=SEEDS, unit_inputs=st.booleans())
def test_property_19_streams_that_are_not_named_have_no_effect(fusion, seed, unit_inputs):
    """Fails when ``modalities_read`` gives all modalities of the spec: ``read = spec.modalities``."""
    model = made(SPEC, seed, fusion=fusion, modalities=("track",), unit_inputs=unit_inputs)
    batch = rows_of(SPEC, seed=seed)
    before = model(batch)
    for other in (replaced(batch, "audio", "visual"), without(batch, "audio", "visual")):
        for task, head in model(other).heads.items():
            torch.testing.assert_close(head, before.heads[task], rtol=0, atol=0)
    changed = model(replaced(batch, "track"))
    assert not torch.allclose(changed.heads["scale"], before.heads["scale"])
    assert model.maps == {}


@EXAMPLES
@given(
    fusion=st.sampled_from(FUSIONS),
    chosen=st.sampled_from([None, ("track",), ("audio",), ("visual", "track")]),
    gone=st.sets(st.sampled_from(STREAMS)),
    seed=SEEDS,
)
def test_property_20_both_kinds_of_model_answer_rows_with_and_without_the_other_streams(fusion, chosen, gone, seed):
    """Also rows without anything. Fails when ``_weighed`` divides by the sum of the weights."""
    model = made(SPEC, seed, fusion=fusion, modalities=chosen)
    output = model(without(rows_of(SPEC, seed=seed), *gone))
    for task in SPEC.tasks:
        head = output.heads[task.name]
        assert head.shape[:3] == (3, LENGTH, COUNT)
        assert torch.isfinite(head).all()


@EXAMPLES
@given(fusion=st.sampled_from(FUSIONS), hidden=st.sampled_from(STREAMS), seed=SEEDS)
def test_property_31_what_is_masked_contributes_nothing(fusion, hidden, seed):
    """Its token is zeros to the fusion: answers are those of any other content, the gates' contribution is 0. Fails
    when ``GatedSteps.contributions`` multiplies the gates with ``tokens`` in place of ``there``.
    """
    model, batch = made(SPEC, seed, fusion=fusion), rows_of(SPEC, seed=seed)
    alone = without(batch, hidden)
    spoilt = alone._replace(inputs={**alone.inputs, hidden: 5 * torch.randn_like(alone.inputs[hidden])})
    found, expected = model(spoilt), model(alone)
    for task, head in expected.heads.items():
        torch.testing.assert_close(found.heads[task], head, rtol=0, atol=0)
    tokens, valid, fused, _ = fused_by(model, alone)
    place = STREAMS.index(hidden)
    moved = tokens.clone()
    moved[place] += 3.0
    torch.testing.assert_close(model.fusion(moved, valid, None)[0], fused, rtol=0, atol=0)
    if isinstance(model.fusion, GatedSteps):
        contributions, _ = model.fusion.contributions(tokens, valid)
        assert not contributions[place].any()


@EXAMPLES
@given(seed=SEEDS, scale=st.floats(0.01, 100.0))
def test_property_32_gates_lie_between_0_and_1_and_contributions_sum_to_what_is_fused(seed, scale):
    """Fails when ``GatedSteps.contributions`` takes ``torch.tanh`` for the gates."""
    model, batch = made(SPEC, seed, fusion="gated"), rows_of(SPEC, seed=seed)
    tokens, valid, fused, told = fused_by(model, batch)
    assert isinstance(model.fusion, GatedSteps)
    tokens = tokens * scale
    contributions, gates = model.fusion.contributions(tokens, valid)
    assert ((gates >= 0) & (gates <= 1)).all()
    again, weights = model.fusion(tokens, valid, None)
    torch.testing.assert_close(contributions.sum(0), again)
    for m in range(3):
        torch.testing.assert_close(contributions[m], gates[m] * tokens[m] * valid[m].unsqueeze(-1))
        torch.testing.assert_close(weights[..., m], gates[m].mean(-1) * valid[m])
    assert fused.shape == again.shape
    assert told is not None


def test_a_units_own_features_reach_its_answers_alone():
    batch, name = rows_of(SPEC, there=1.0), "scale"
    spec = replace(SPEC, modalities=SPEC.modalities[2:])
    model = made(spec, modalities=("track",))
    (columns,) = (inputs["track"] for inputs in model.unit_inputs)
    assert columns == unit_columns(SPEC.modality("track"), SPEC.tasks[0].units)
    with torch.no_grad():  # nothing but what goes to the answers directly
        model.unit_heads[0].out[2].weight.zero_()
        model.unit_heads[0].each[2].zero_()
    before = model(batch).heads[name]
    inputs = batch.inputs["track"].clone()
    inputs[..., columns[1]] += 1.0
    moved = model(batch._replace(inputs={"track": inputs})).heads[name] - before
    torch.testing.assert_close(moved[..., 0], torch.zeros_like(moved[..., 0]))
    expected = model.unit_heads[0].direct[2].weight.sum().detach() * batch.valid["track"]
    torch.testing.assert_close(moved[..., 1], expected)


def test_the_order_of_units_in_a_task_is_that_of_its_answers():
    turned = replace(SPEC, tasks=tuple(replace(t, units=t.units[::-1]) for t in SPEC.tasks))
    batch = rows_of(SPEC)
    one, other = made(SPEC), made(turned)
    assert one is not other
    with torch.no_grad():
        other.unit_heads[0].unit.copy_(one.unit_heads[0].unit.flip(0))
        for of_one, of_other in zip(one.unit_heads[0].each, other.unit_heads[0].each, strict=True):
            of_other.copy_(of_one.flip(1))
    for task, head in one(batch).heads.items():
        torch.testing.assert_close(other(batch).heads[task].flip(2), head)


def test_tasks_of_other_units_have_heads_of_their_own():
    some = replace(SPEC.tasks[2], name="pan", units=SPEC.tasks[0].units[:1])
    spec = replace(SPEC, tasks=(*SPEC.tasks, some))
    model = made(spec)
    assert [[t.name for t in tasks] for tasks in model.unit_tasks] == [[t.name for t in SPEC.tasks], ["pan"]]
    assert model(rows_of(spec)).heads["pan"].shape == (3, LENGTH, 1)
    assert list(model(rows_of(spec)).heads) == [t.name for t in spec.tasks]


def test_a_vector_is_at_every_step_and_a_row_without_steps_is_answered_by_it():
    tasks = (Task("speech", "binary", ("no", "yes"), ("audio",)), Task("genre", "multiclass", ("a", "b", "c")))
    spec = Spec((CLINIC, stream("audio", 2, LENGTH)), tasks)
    model, batch = made(spec), without(rows_of(spec, there=1.0), "audio")
    speech, genre = model(batch).heads.values()
    torch.testing.assert_close(speech, speech[:, :1].expand_as(speech))
    older = batch._replace(inputs={**batch.inputs, "clinic": batch.inputs["clinic"] + 1})
    assert not torch.isclose(model(older).heads["genre"], genre).any()


def test_a_row_is_the_mean_of_the_steps_that_are_there():
    spec = Spec(
        (stream("audio", 2, LENGTH),), (Task("length", "regression"), Task("t", "regression", steps=("audio",)))
    )
    model, batch = made(spec, direct=False), rows_of(spec)
    with watched(model.transformer) as steps:
        found = model(batch).heads["length"]
    for row in range(3):
        there = batch.valid["audio"][row]
        torch.testing.assert_close(found[row], model.heads[0](steps[0][1][row][there].mean(0), None))


def test_a_direct_answer_is_a_linear_map_of_what_is_there():
    spec = Spec((stream("audio", 2, LENGTH),), (Task("t", "regression", steps=("audio",)), Task("row", "regression")))
    model, batch = made(spec), rows_of(spec)
    plain = made(spec, direct=False)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("direct")})
    assert model.direct is not None
    with_it, without = model(batch).heads, plain(batch).heads
    x = torch.where(batch.valid["audio"].unsqueeze(-1), batch.inputs["audio"], 0)
    added = x @ model.direct.weight.T
    torch.testing.assert_close(with_it["t"] - without["t"], added[..., 0])
    there = batch.valid["audio"].to(x)
    mean = (added[..., 1] * there).sum(-1) / there.sum(-1).clamp(min=1)
    torch.testing.assert_close(with_it["row"] - without["row"], mean)


def test_a_direct_answer_is_nothing_at_first():
    torch.manual_seed(0)
    fresh = Multitrack(MultitrackConfig(), SPEC)
    assert fresh.direct is None or not fresh.direct.weight.any()
    spec = Spec((stream("audio", 2, LENGTH),), (Task("t", "regression", steps=("audio",)),))
    assert not Multitrack(MultitrackConfig(), spec).direct.weight.any()


ALONE = Spec(
    (stream("audio", 2, LENGTH), stream("visual", 3, LENGTH)), (Task("t", "regression", steps=("audio", "visual")),)
)


@settings(max_examples=25)
@given(count=st.integers(1, 9), seed=SEEDS)
def test_with_thresholds_a_direct_answer_is_a_sum_of_curves_of_single_features(count, seed):
    """What two features change together is what each changes by itself; and twice the change is not twice as much.
    Fails when ``with_thresholds`` compares the sum of all features.
    """
    model, batch = made(ALONE, seed, thresholds=count), rows_of(ALONE, seed=seed, there=1.0)
    assert model.direct is not None
    with watched(model.direct) as seen:
        for audio, visual in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0)):
            inputs = {name: leaf.clone() for name, leaf in batch.inputs.items()}
            inputs["audio"][..., 0] += audio
            inputs["visual"][..., 2] += visual
            model(batch._replace(inputs=inputs))
    neither, one, other, both, twice = (answer for _, answer in seen)
    torch.testing.assert_close(both - neither, (one - neither) + (other - neither))
    assert not torch.allclose(twice - one, one - neither)


@settings(max_examples=25)
@given(count=st.integers(0, 9), vector=st.booleans())
def test_only_numeric_features_have_thresholds(count, vector):
    kinds = ("numeric", "binary", "embedding", "numeric")
    features = tuple(Feature(f"f{i}", kind) for i, kind in enumerate(kinds))
    here = Modality("clinic", "vector", features) if vector else Modality("face", "sequence", features, LENGTH)
    clock = ("audio", "visual") if vector else ("audio", "visual", "face")
    spec = Spec((*ALONE.modalities, here), (replace(ALONE.tasks[0], steps=clock),))
    model, bare = (build(spec, thresholds=n) for n in (count, 0))
    assert model.direct is not None
    assert bare.direct is not None
    more = count * (2 + 3 + kinds.count("numeric"))
    assert model.direct.in_features - bare.direct.in_features == more
    assert model.count_parameters() - bare.count_parameters() == more * (SMALL["d_model"] + 1)
    batch = rows_of(spec)
    assert all(torch.isfinite(head).all() for head in made(spec, thresholds=count)(batch).heads.values())


@pytest.mark.parametrize(
    ("ridge", "direct", "found"), [(0.3, True, {"ridge"}), (0.0, True, set()), (0.0, False, set())]
)
def test_ridge_is_the_penalty_of_the_direct_map_while_it_learns(ridge, direct, found):
    model, batch = made(ALONE, ridge=ridge, direct=direct), rows_of(ALONE)
    assert not model(batch).penalties
    told = model(batch, Noise(torch.zeros(0, dtype=torch.int16))).penalties
    assert set(told) == found
    for penalty in told.values():
        assert penalty.shape == (3,)
        (gradient,) = torch.autograd.grad(penalty.mean(), model.direct.weight)
        torch.testing.assert_close(gradient, 2 * ridge * model.direct.weight)


def test_a_ridge_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="ridge: expected 0 where direct is false, found 0.3"):
        MultitrackConfig(ridge=0.3, direct=False)


def test_the_direct_map_becomes_a_ridge_regression_whose_penalty_goes_by_the_tasks_weight():
    shares, ridge = {"loud": 1.0, "quiet": 0.1}, 0.2
    tasks = tuple(Task(name, "regression", steps=("audio",)) for name in shares)
    spec = Spec((stream("audio", 3, LENGTH),), tasks)
    model, batch = made(spec, thresholds=2, ridge=ridge), rows_of(spec, rows=40, there=1.0)
    there = batch.valid["audio"]
    target = batch.inputs["audio"].sum(-1).tanh()
    batch = batch._replace(targets=dict.fromkeys(shares, target), known=dict.fromkeys(shares, there))
    objective = Objective(ObjectiveConfig(regression="mse", task_weights=shares), spec, model.penalties)
    weights = {name: torch.ones(1, dtype=torch.float64) for name in shares}
    assert model.direct is not None
    with torch.no_grad():  # nothing but the direct map answers
        for head in model.heads:
            head.out.weight.zero_()
            head.out.bias.zero_()
    search = torch.optim.LBFGS([model.direct.weight], max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        found = objective(model(batch, Noise(torch.zeros(0, dtype=torch.int16))), batch, weights)
        found.backward()
        return found

    search.step(loss)
    read = with_thresholds(batch.inputs["audio"], 2, [0, 1, 2])[there].numpy()
    for own, share in zip(model.direct.weight.detach(), shares.values(), strict=True):
        expected = Ridge(ridge * len(read) / share, fit_intercept=False).fit(read, target[there].numpy())
        torch.testing.assert_close(own, torch.from_numpy(expected.coef_), atol=1e-5, rtol=1e-4)


CAUSAL = replace(SPEC.tasks[0], causal=True)


@pytest.mark.parametrize(
    ("causal", "task", "expected"),
    [("auto", True, True), ("auto", False, False), (True, False, True), (True, True, True), (False, False, False)],
)
def test_attention_is_causal_where_asked_for_or_where_a_task_is(causal, task, expected):
    spec = replace(SPEC, tasks=tuple(replace(t, causal=task) for t in SPEC.tasks))
    assert made(spec, causal=causal).transformer.causal is expected


def build(spec: Spec, **changes) -> Multitrack:
    return Multitrack(validate(MultitrackConfig, {**SMALL, **changes}, "here"), spec)


CELLS = Modality("cells", "bag", (Feature("size"),), 4)
CLINIC = Modality("clinic", "vector", (Feature("age"),))
ROW = (Task("y", "regression"),)
OTHER_CLOCK = Spec((stream("a", 1, 4), stream("b", 1, 4)), (Task("y", "regression", steps=("a",)),))
REFUSED = {
    "a causal task": (SPEC, {"causal": False}, "model.causal: expected true or auto with the causal task 'active'"),
    "a strange name": (SPEC, {"modalities": ["trakc"]}, "unknown modality 'trakc' (did you mean 'track'"),
    "a bag": (Spec((stream("a", 1, 4), CELLS), ROW), {}, "found 'cells', a bag"),
    "no sequence": (Spec((CLINIC, stream("a", 1, 4)), ROW), {"modalities": ["clinic"]}, "found 'clinic', a vector"),
    "other lengths": (Spec((stream("a", 1, 4), stream("b", 1, 5)), ROW), {}, "found 'a' of 4 and 'b' of 5"),
    "another clock": (OTHER_CLOCK, {}, "found 'a' and 'b', whose steps no task has in common"),
    "a task of another clock": (OTHER_CLOCK, {"modalities": ["b"]}, "found 'b' and 'a', whose steps no task has"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(case):
    spec, changes, message = REFUSED[case]
    with pytest.raises(ConfigError, match=re.escape(message)) as told:
        build(spec, **changes)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kept", [["a"], ["b", "clinic"]])
def test_what_cannot_be_read_may_be_left_out_by_naming_the_rest(kept):
    spec = Spec((stream("a", 1, 4), stream("b", 1, 5), CELLS, CLINIC), ROW)
    assert build(spec, modalities=kept).names == tuple(kept)


def test_clocks_that_tasks_have_in_common_are_one():
    names = ("a", "b", "c")
    tasks = (Task("x", "regression", steps=("a", "b")), Task("y", "regression", steps=("b", "c")))
    assert build(Spec(tuple(stream(n, 1, 4) for n in names), tasks)).sequences == names


def test_the_preset_gives_the_published_settings_and_what_is_given_stands():
    config = validate(MultitrackConfig, {"preset": "reference", "d_model": 32}, "here")
    told = (config.d_model, config.nhead, config.num_encoder_layers, config.norm, config.unit_inputs)
    assert told == (32, 8, 6, "post", False)
    sizes = {"dim_feedforward": 64, "thresholds": 8, "ridge": 0.1}
    tree = {"model": {"family": "multitrack", "preset": "reference", **sizes, "fusion": "add"}}
    assert override(tree, {"model.preset": "small"})["model"] == {
        "family": "multitrack",
        "preset": "small",
        "fusion": "add",
    }


def test_linear_embeddings_start_as_xaviers_by_each_streams_own_width():
    spec = Spec((stream("wide", 40, 4), stream("narrow", 2, 4)), (Task("y", "regression", steps=("wide", "narrow")),))
    torch.manual_seed(0)
    model = Multitrack(MultitrackConfig(embedding="linear", d_model=64), spec)
    (linear,) = (m for m in model.embeddings.modules() if isinstance(m, GroupedLinear))
    for g, width in enumerate((40, 2)):
        bound = (6 / (width + 64)) ** 0.5
        drawn = linear.weight[g, :width].abs()
        assert bound * 0.9 < drawn.max() <= bound
    assert not linear.bias.any()


def test_units_without_a_quantity_and_tasks_of_units_nothing_is_shown_of():
    missing = replace(SPEC.modality("track"), features=SPEC.modality("track").features[:-2])
    spec = replace(SPEC, modalities=(*SPEC.modalities[:2], missing))
    assert all(torch.isfinite(h).all() for h in made(spec)(rows_of(spec)).heads.values())
    bare = Spec((stream("audio", 2, LENGTH),), track_tasks(3, steps=("audio",)))
    model = made(bare)
    assert model.unit_heads[0].own is None
    assert model(rows_of(bare)).heads["active"].shape == (3, LENGTH, 3)
    assert tracks(1, 2, ("scale",)).width == 1
