"""What every family of the zoo is held to, in every variant and on every kind of spec."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusion_lab.blocks.patches import to_patches
from fusion_lab.blocks.randomness import Dropout, Noise, count_draws, draw_noise
from fusion_lab.config import validate
from fusion_lab.contracts import UNKNOWN, Batch, ConfigError, Feature, Modality, Output, Spec, Task
from fusion_lab.data.planting import Planting, twin
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.training.leaves import Leaves, take
from fusion_lab.training.plan import Mode
from fusion_lab.training.stack import Stack
from fusion_lab.zoo import FAMILIES, Model

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "hcat": {
        "vae-iterative": {"imputer": "vae-iterative", "n_impute_iterations": 2, "moddrop": 0.3},
        "vae per batch": {"imputer": "vae", "moddrop_mode": "per_batch", "moddrop": 0.5, "n_global_layers": 1},
        "mean": {"imputer": "mean", "quality": False},
        "none": {"imputer": "none", "n_cross_layers": 2},
        "reference": {"preset": "reference", "n_impute_iterations": 1, "n_global_layers": 1},
    },
    "multitrack": {
        "gated": {"fusion": "gated", "embedding": "projection", "unit_head": "mlp"},
        "gated, of thresholds": {"fusion": "gated", "thresholds": 3, "ridge": 0.1},
        "concat, norms behind": {"fusion": "concat", "norm": "post", "num_encoder_layers": 1},
        "add, never ahead": {"fusion": "add", "causal": True, "unit_inputs": False, "norm": "pre"},
        "attention": {"fusion": "attention", "embedding": "linear", "unit_head": "linear", "num_encoder_layers": 1},
        "reference": {"preset": "reference", "num_encoder_layers": 1, "fusion": "gated"},
    },
    "task_mil": {
        "tied": {"pool": "tied", "activation": "GELU"},
        "tied, top two": {"top_k": 2, "top_k_mode": "renorm", "residual_mean": True, "activation": "Mish"},
        "tied, the largest": {"top_k": 3, "top_k_mode": "argmax", "activation": "SiLU", "inst_layers": 1},
        "attention output": {"pool": "attention_output", "residual_mean": True, "activation": "LeakyReLU"},
        "attention output, mean of two": {"pool": "attention_output", "top_k": 2, "top_k_mode": "mean"},
        "own, sum of two": {"pool": "own", "top_k": 2, "top_k_mode": "sum", "mixer_layers": 1},
        "own, pruned": {"pool": "own", "prune_below": 0.1, "temperature": 1.0, "activation": "ReLU", "mol_layers": 1},
        "reference": {"preset": "reference", "mol_layers": 1, "inst_layers": 1, "mixer_layers": 1},
    },
    "token_fusion": {
        "transformer": {"fusion": "transformer", "num_fusion_layers": 2},
        "bottleneck": {"fusion": "bottleneck", "num_bottleneck_tokens": 3},
        "gated": {"fusion": "gated", "num_encoder_layers": 2},
        "transformer of bare projections": {"fusion": "transformer", "num_encoder_layers": 0},
        "gru": {"sequence_encoder": "gru", "bag_encoder": "attention", "fusion": "bottleneck"},
        "gru in two layers": {"sequence_encoder": "gru", "num_encoder_layers": 2, "fusion": "gated"},
        "cnn": {"sequence_encoder": "cnn", "num_encoder_layers": 3, "fusion": "gated"},
        "attention": {"sequence_encoder": "attention", "bag_encoder": "attention", "fusion": "transformer"},
        "attention of bare projections": {
            "sequence_encoder": "attention",
            "bag_encoder": "attention",
            "fusion": "gated",
            "num_encoder_layers": 0,
        },
    },
    "sensor_fusion": {
        "hybrid gru": {"fusion": "hybrid", "encoder": "gru", "pooling": "statistics", "patch": 2},
        "hybrid cnn of samples": {"fusion": "hybrid", "encoder": "cnn", "pooling": "own", "patch": 1, "num_layers": 2},
        "hybrid transformer": {"fusion": "hybrid", "encoder": "transformer", "pooling": "own", "patch": 3},
        "hybrid lstm": {"fusion": "hybrid", "encoder": "lstm", "pooling": "statistics", "patch": 2},
        "late gru of samples": {"fusion": "late", "encoder": "gru", "pooling": "own", "patch": 1, "num_layers": 2},
        "late cnn": {"fusion": "late", "encoder": "cnn", "pooling": "statistics", "patch": 2},
        "early transformer": {
            "fusion": "early",
            "encoder": "transformer",
            "pooling": "statistics",
            "patch": 2,
            "num_layers": 2,
        },
        "early lstm of samples": {"fusion": "early", "encoder": "lstm", "pooling": "own", "patch": 1, "num_layers": 2},
    },
}
"""Named variants of every family: each value of each of its options that choose between blocks is in one of them."""
READS = {"hcat": {"vector"}, "multitrack": {"vector", "sequence"}, "task_mil": {"vector", "bag"}}
"""The kinds of modalities that a family takes, where it refuses others."""
PER_ROW = {"hcat", "sensor_fusion", "task_mil"}
"""Families that answer per row alone, and refuse a task per step."""
PER_UNIT = {"multitrack"}
"""Families that answer tasks with units, which the others refuse."""
ONE_CLOCK = {"multitrack"}
"""Families that take sequences of one length, one at least."""
NEVER_AHEAD = {"token_fusion": {"gru", "gru in two layers"}, "multitrack": set(VARIANTS["multitrack"])}
"""The variants that answer causal tasks, of families that answer per step."""
LOOP = {("sensor_fusion", "encoder", "lstm"): "torch.lstm"}
"""Options of which a family says that its folds cannot be stacked, and the operation that is in the way."""

AUGMENTED = {"hcat"}
"""Families whose training differs from evaluation by more than dropout: by what they hide, add and penalise."""
ATTENTION = {"d_model": 8, "nhead": 2, "dropout": 0.2}
SMALL: dict[str, dict[str, Any]] = {
    "hcat": {"d_model": 8, "n_heads": 2, "latent": 8, "vae_width": 16, "dropout": 0.2},
    "multitrack": {**ATTENTION, "dim_feedforward": 16},
    "sensor_fusion": ATTENTION,
    "task_mil": {
        **{f"{part}_hidden": 8 for part in ("mol", "inst", "mixer")},
        **{f"{part}_dropout": 0.2 for part in ("mol", "inst", "attn", "mixer")},
        "proj_dim": 8,
        "attn_heads": 2,
    },
    "token_fusion": ATTENTION,
}
ALIKE = {"argmax", "mean"}
"""Ways of choosing instances after which those chosen weigh alike: in some rows they are the same ones."""
ROWS = 12


def numeric(name: str, kind, width: int, length: int | None = None) -> Modality:
    return Modality(name, kind, tuple(Feature(f"{name} {i}") for i in range(width)), length)


BINARY = Task("death", "binary", ("no", "yes"))
GRADE = Task("grade", "multiclass", ("low", "mid", "high"))
MONTHS = Task("months", "regression")
DOSE = Task("dose", "regression", auxiliary="chemistry")
SHADE = Task("shade", "multiclass", ("red", "green", "blue"), auxiliary="optics")
WALKING = Task("walking", "binary", ("no", "yes"), steps=("gait", "pulse"))
STAGE = Task("stage", "multiclass", ("awake", "light", "deep"), steps=("sleep",))
PACE = Task("pace", "regression", steps=("gait",))
CLINIC = Modality(
    "clinic",
    "vector",
    (
        Feature("age", "numeric", "age"),
        Feature("smoker", "binary", "smoker"),
        *(Feature(f"stage={c}", "category", "stage", c) for c in ("I", "II", UNKNOWN)),
        Feature("age missing", "indicator", "age"),
    ),
)
GAIT, PULSE, SLEEP = (
    numeric("gait", "sequence", 4, 6),
    numeric("pulse", "sequence", 3, 6),
    numeric("sleep", "sequence", 2, 4),
)
AUDIO, VISUAL = numeric("audio", "sequence", 3, 6), numeric("visual", "sequence", 4, 6)
UNITS = ("track 1", "track 2", "track 3")
TRACK = Modality(
    "track",
    "sequence",
    tuple(Feature(f"{unit} {what}", unit=unit, quantity=what) for unit in UNITS for what in ("place", "size"))[:-1],
    6,
)
"""Of one track, one thing is not known."""
CLOCK = ("audio", "visual", "track")
ACTIVE = Task("active", "binary", ("idle", "active"), CLOCK, units=UNITS, causal=True)
ASSET = Task("asset", "multiclass", ("a", "b", "c"), CLOCK, units=UNITS, causal=True)
SIZE = Task("size", "regression", steps=CLOCK, units=UNITS, causal=True)
SPEECH = Task("speech", "binary", ("no", "yes"), steps=("audio", "track"))
CELLS = numeric("cells", "bag", 3, 5)
DOSES = numeric("doses", "vector", 2)
PATIENT = tuple(
    numeric(name, "vector", width)
    for name, width in {"clinical": 6, "temporal": 3, "pathological": 4, "semantic": 90, "spatial": 8}.items()
)
SPECS = {
    "patients": Spec(PATIENT, (BINARY, MONTHS)),
    "vectors": Spec((numeric("a", "vector", 5), numeric("b", "vector", 2), numeric("c", "vector", 70)), (BINARY,)),
    "sequences": Spec((GAIT, PULSE, SLEEP), (BINARY, MONTHS)),
    "bags": Spec((CELLS, numeric("tiles", "bag", 4, 5)), (GRADE,)),
    "bags and vectors": Spec(
        (CLINIC, CELLS, DOSES, numeric("tiles", "bag", 4, 5)), (BINARY, DOSE, GRADE, SHADE, MONTHS)
    ),
    "mixed": Spec((CLINIC, GAIT, CELLS), (BINARY, GRADE, MONTHS)),
    "steps": Spec((GAIT, PULSE), (WALKING,)),
    "steps beside others": Spec((CLINIC, GAIT, CELLS), (PACE,)),
    "steps and rows": Spec((CELLS, GAIT, PULSE, CLINIC, SLEEP), (STAGE, BINARY, WALKING, PACE)),
    "steps ahead": Spec((GAIT, CLINIC, PULSE), (replace(WALKING, causal=True), BINARY)),
    "tracks": Spec((AUDIO, VISUAL, TRACK), (ACTIVE, ASSET, SIZE)),
    "tracks beside others": Spec(
        (CLINIC, TRACK, AUDIO),
        (SPEECH, replace(SIZE, steps=("audio", "track"), causal=False, units=UNITS[::-1]), BINARY),
    ),
}
STEPS = "modalities at each step"
LEARNED = {("sensor_fusion", "late", "modalities"), ("hcat", None, "confidence"), ("multitrack", "add", STEPS)}
"""Maps of a family and fusion that know no more of a row than which modalities it has."""


class Case(NamedTuple):
    """A model in float64 on the rows of a twin, some modalities, cells and labels missing."""

    model: Model
    spec: Spec
    batch: Batch
    family: str
    variant: str

    @property
    def lengths(self) -> dict[str, int]:
        """T of every sequence."""
        return {m.name: m.length or 0 for m in self.spec.modalities if m.kind == "sequence"}

    @property
    def ordered(self) -> bool:
        """Whether the steps of a sequence have an order."""
        return self.options.get("sequence_encoder") != "attention"

    @property
    def options(self) -> dict[str, Any]:
        return VARIANTS[self.family][self.variant]

    @property
    def imputes(self) -> bool:
        """Whether a row that has a modality has them all."""
        return self.family == "hcat" and self.options.get("imputer") != "none"

    @property
    def ways(self) -> dict[tuple[Mode, int | None], int]:
        """How a stack of the model may be computed, and in how many parts."""
        return {way: parts for way, parts in WAYS.items() if way[0] == "loop" or in_the_way(*self[-2:]) is None}

    def steps(self, name: str, valid: Tensor) -> Tensor:
        """Which steps a map of a modality may weigh, ``[B,T]``, where these of its positions are ``valid``."""
        size = self.options.get("patch", 1) if name in self.lengths else 1
        return to_patches(torch.zeros(*valid.shape, 1), valid, min(size, self.lengths.get(name, 1)))[1]


def in_the_way(family: str, variant: str) -> str | None:
    """The operation that keeps a variant from being stacked, as :data:`LOOP` has it."""
    chosen = VARIANTS[family][variant].items()
    return next((LOOP[family, *option] for option in chosen if (family, *option) in LOOP), None)


def per_step(spec: Spec) -> bool:
    return any(task.per_step for task in spec.tasks)


def unread(family: str, spec: Spec) -> list[Modality]:
    """The modalities that a family refuses."""
    return [m for m in spec.modalities if m.kind not in READS.get(family, {m.kind})]


def lengths(spec: Spec) -> set[int | None]:
    """Those of its sequences."""
    return {m.length for m in spec.modalities if m.kind == "sequence"}


def asks_units(spec: Spec) -> bool:
    return any(task.units for task in spec.tasks)


def is_causal(spec: Spec) -> bool:
    return any(task.causal for task in spec.tasks)


ALL = [(f, v, s) for f in FAMILIES for v in VARIANTS.get(f, {}) for s in SPECS]
UNITLESS = [(f, v, s) for f, v, s in ALL if f not in PER_UNIT and asks_units(SPECS[s])]
UNREADABLE = [(f, v, s) for f, v, s in ALL if unread(f, SPECS[s]) and (f, v, s) not in UNITLESS]
EVERY = [case for case in ALL if case not in (*UNREADABLE, *UNITLESS)]
REFUSED = [(f, v, s) for f, v, s in EVERY if f in PER_ROW and per_step(SPECS[s])]
CLOCKLESS = [(f, v, s) for f, v, s in EVERY if f in ONE_CLOCK and len(lengths(SPECS[s])) != 1]
AHEAD = [(f, v, s) for f, v, s in EVERY if f not in PER_ROW and is_causal(SPECS[s]) and v not in NEVER_AHEAD[f]]
CASES = [case for case in EVERY if case not in (*REFUSED, *CLOCKLESS, *AHEAD)]
QUICK = {
    "hcat": {"patients": {"vae-iterative", "mean"}, "vectors": {"vae per batch", "none", "reference"}},
    "token_fusion": {
        "vectors": {"transformer", "bottleneck"},
        "sequences": {"gated", "gru in two layers", "cnn"},
        "bags": {"attention of bare projections"},
        "mixed": {"transformer of bare projections", "gru"},
        "steps": {"bottleneck", "attention"},
        "steps beside others": {"gated"},
        "steps and rows": {"transformer", "gru"},
        "steps ahead": {"gru"},
    },
    "multitrack": {
        "steps": {"concat, norms behind"},
        "steps ahead": {"attention"},
        "tracks": {"gated", "add, never ahead"},
        "tracks beside others": {"gated", "attention", "reference"},
    },
    "task_mil": {
        "vectors": {"tied"},
        "bags": {"tied, top two", "attention output, mean of two", "own, pruned"},
        "bags and vectors": {"tied, the largest", "attention output", "own, sum of two", "reference"},
    },
    "sensor_fusion": {
        "sequences": {"hybrid gru", "late cnn", "early lstm of samples"},
        "mixed": {"hybrid transformer", "late gru of samples"},
    },
}
"""Of each family and spec, the variants that every run of the suite tries; the others are slow by their number."""


def marked(case: tuple[str, str, str], *values):
    family, variant, spec_name = case
    marks = () if variant in QUICK[family].get(spec_name, ()) else pytest.mark.slow
    return pytest.param(*values, id="-".join(case), marks=marks)


def build(family: str, variant: str, spec: Spec, seed: int = 0) -> Model:
    kind = FAMILIES[family]
    tree = {**SMALL[family], **VARIANTS[family][variant]}
    torch.manual_seed(seed)
    return kind(validate(kind.Config, {"family": family, **tree}, "test"), spec).double()


def double(batch: Batch) -> Batch:
    return batch.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf)


@pytest.fixture(params=[marked(c, c) for c in CASES])
def case(request) -> Case:
    family, variant, spec_name = request.param
    spec = SPECS[spec_name]
    return Case(build(family, variant, spec), spec, example(spec_name).map(Tensor.clone), family, variant)


@cache
def example(spec_name: str) -> Batch:
    """All rows of a twin, in float64."""
    spec = SPECS[spec_name]
    plan = Planting(rows=ROWS, missing_modalities=0.2, missing_cells=0.1, unknown_labels=0.1, planted="quality", seed=1)
    return double(twin(spec, plan, useful=names(spec)).gather(torch.arange(ROWS)))


def names(spec: Spec) -> tuple[str, ...]:
    return tuple(m.name for m in spec.modalities)


def draws(model: Model, batch: Batch) -> int:
    """How many random values a forward takes."""
    return count_draws(lambda noise: model(batch, noise), batch.weight.device)


def some_noise(case: Case, *place: int) -> Noise:
    return Noise(torch.from_numpy(draw_noise(draws(case.model, case.batch), *(place or (5,)))))


def present(batch: Batch, name: str) -> Tensor:
    valid = batch.valid[name]
    return valid.reshape(*valid.shape[:1], -1).any(1)


def leaves(output: Output) -> dict[str, Tensor]:
    return {f"{part}/{n}": t for part in Output._fields for n, t in getattr(output, part).items()}


def assert_same(one: Output, other: Output, atol: float = 1e-9) -> None:
    for name, leaf in leaves(one).items():
        torch.testing.assert_close(leaf, leaves(other)[name], atol=atol, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def clock(spec: Spec, name: str) -> tuple[str, ...]:
    """The sequences whose steps the first axis of a map of the fusion runs over; none where it has no such axis."""
    clocks = {t.steps for t in spec.tasks if t.per_step}
    told = {
        f"modalities at each step of {' and '.join(steps)}" if len(clocks) > 1 else STEPS: steps for steps in clocks
    }
    together = tuple(m.name for m in spec.modalities if m.kind == "sequence") if name == STEPS else ()
    return told.get(name, together)


def seen_in(case: Case, name: str) -> str:
    """The modality whose positions a map is about; "" where it is about none's."""
    return next((n for n in names(case.spec) if name.startswith((f"{n} steps", f"{n} instances"))), "")


def weighed(case: Case, name: str) -> Tensor:
    """bool ``[B,...,N]``: what a map's last axis may give weight to."""
    batch, labels = case.batch, case.model.maps[name].axes[-1].labels
    if case.model.maps[name].kind == "answer":
        here = torch.stack([present(batch, n) for n in names(case.spec)], dim=-1)
        return here if labels == names(case.spec) else here.unsqueeze(-1)
    if labels != names(case.spec):
        over = seen_in(case, name)
        here = case.steps(over, batch.valid[over])
        asking = [axis for axis in case.model.maps[name].axes[:-1] if axis.name != "task"]
        if not asking:
            return here
        return torch.stack([here & present(batch, n)[:, None] for n in asking[0].labels], dim=1)
    steps = clock(case.spec, name)
    if not steps:
        here = torch.stack([present(batch, n) for n in labels], dim=-1)
        return here.any(-1, keepdim=True).expand_as(here) if case.imputes else here
    there = torch.stack([batch.valid[n] for n in steps]).any(0)
    here = [batch.valid[n] if n in steps else present(batch, n)[:, None].expand_as(there) for n in labels]
    return torch.stack(here, dim=-1) & there[..., None]


def test_the_suite_knows_every_family_and_every_option():
    assert set(VARIANTS) == set(SMALL) == set(FAMILIES)
    for family, variants in VARIANTS.items():
        for name, field in FAMILIES[family].Config.model_fields.items():
            options = {o for o in get_args(field.annotation) if isinstance(o, str)}
            if len(options) > 1:
                assert {v.get(name, field.default) for v in variants.values()} == options, (family, name)


def test_what_is_quick_and_what_is_refused_is_known():
    assert set(QUICK) == set(FAMILIES)
    for family, chosen in QUICK.items():
        assert set(chosen) <= set(SPECS)
        assert set().union(*chosen.values()) <= set(VARIANTS[family])
    assert set(FAMILIES) >= PER_ROW | set(READS) | AUGMENTED | PER_UNIT | ONE_CLOCK
    assert set(NEVER_AHEAD) == set(FAMILIES) - PER_ROW
    assert all(variants <= set(VARIANTS[family]) for family, variants in NEVER_AHEAD.items())
    assert all(FAMILIES[family].Config.model_fields[option] for family, option, _ in LOOP)


@pytest.mark.parametrize(("family", "variant", "spec_name"), REFUSED)
def test_a_task_per_step_is_refused_by_a_family_that_answers_per_row(family, variant, spec_name):
    with pytest.raises(ConfigError) as refused:
        build(family, variant, SPECS[spec_name])
    told = str(refused.value)
    assert "\n" not in told
    assert any(f"'{task.name}'" in told for task in SPECS[spec_name].tasks if task.per_step)
    others = set(FAMILIES) - PER_ROW
    assert family in told
    assert any(other in told for other in others), "and it tells which family answers per step"


@pytest.mark.parametrize(("family", "variant", "spec_name"), UNITLESS)
def test_a_task_with_units_is_refused_by_a_family_that_does_not_answer_for_each(family, variant, spec_name):
    with pytest.raises(ConfigError) as refused:
        build(family, variant, SPECS[spec_name])
    told = str(refused.value)
    assert "\n" not in told
    assert any(f"'{task.name}'" in told for task in SPECS[spec_name].tasks if task.units)
    assert family in told
    assert all(other in told for other in PER_UNIT)


@pytest.mark.parametrize(("family", "variant", "spec_name"), AHEAD)
def test_a_causal_task_is_refused_by_a_variant_that_looks_ahead(family, variant, spec_name):
    with pytest.raises(ConfigError) as refused:
        build(family, variant, SPECS[spec_name])
    told = str(refused.value)
    assert "\n" not in told
    assert any(f"'{task.name}'" in told for task in SPECS[spec_name].tasks if task.causal)
    assert "causal" in told


@pytest.mark.parametrize(("family", "variant", "spec_name"), CLOCKLESS)
def test_sequences_of_several_lengths_or_none_at_all_are_refused_by_a_family_of_one_clock(family, variant, spec_name):
    with pytest.raises(ConfigError) as refused:
        build(family, variant, SPECS[spec_name])
    told = str(refused.value)
    assert "\n" not in told
    assert family in told
    assert "sequence" in told


@pytest.mark.parametrize(("family", "variant", "spec_name"), UNREADABLE)
def test_a_modality_of_a_kind_that_a_family_does_not_take_is_refused(family, variant, spec_name):
    first = unread(family, SPECS[spec_name])[0]
    with pytest.raises(ConfigError) as refused:
        build(family, variant, SPECS[spec_name])
    told = str(refused.value)
    assert "\n" not in told
    assert family in told
    assert f"'{first.name}', a {first.kind}" in told


def test_answers_have_the_shapes_of_the_tasks_and_need_no_target(case):
    output = case.model(case.batch.without_targets())
    assert set(output.heads) == {t.name for t in case.spec.tasks}
    for task in case.spec.tasks:
        classes = (3,) if task.kind == "multiclass" else ()
        assert output.heads[task.name].shape == (ROWS, *case.spec.target_shape(task), *classes)
    assert all(torch.isfinite(leaf).all() for leaf in leaves(output).values())
    assert_same(output, case.model(case.batch), atol=0)


def test_every_real_parameter_gets_a_gradient_and_padding_gets_none(case):
    objective = Objective(ObjectiveConfig(), case.spec)
    torch.manual_seed(1)
    inputs = {n: torch.randn_like(x) for n, x in case.batch.inputs.items()}
    batch = case.batch._replace(inputs=inputs, valid={n: torch.ones_like(v) for n, v in case.batch.valid.items()})
    weights = {t.name: torch.ones(max(2, t.outputs)).double() for t in case.spec.tasks}
    for place in range(2):  # what dropout hides in one step it shows in another
        objective(case.model(batch, some_noise(case, place)), batch, weights).backward()
    real = case.model.real_parameters()
    counted = 0
    for name, parameter in case.model.named_parameters():
        assert parameter.grad is not None, name
        silent = int((parameter.grad[real[name]] == 0).sum())
        rectified = case.options.get("activation") == "ReLU" or case.options.get("preset", "") == "reference"
        rectified |= case.options.get("norm") == "post"
        # in all of few rows
        off = rectified and name.startswith(("mixer.", "heads.", "auxiliary_heads.", "transformer.layers.0."))
        assert silent == 0 or off, f"{name}: {silent} of {int(real[name].sum())} numbers without a gradient"
        assert not parameter.grad[~real[name]].any(), name
        assert not parameter[~real[name]].any(), name
        counted += int(real[name].sum())
    assert case.model.count_parameters() == counted


@pytest.mark.parametrize("garbage", [-1e6, float("nan"), float("inf")])
def test_what_is_not_valid_cannot_change_the_answer(case, garbage):
    spoilt = {
        n: torch.where(case.batch.valid[n].unsqueeze(-1), x, garbage * torch.rand_like(x))
        for n, x in case.batch.inputs.items()
    }
    quality = {n: torch.where(present(case.batch, n), q, torch.rand_like(q)) for n, q in case.batch.quality.items()}
    assert any(not torch.equal(x, case.batch.inputs[n]) for n, x in spoilt.items())
    assert_same(case.model(case.batch), case.model(case.batch._replace(inputs=spoilt, quality=quality)), atol=1e-12)


def test_what_is_valid_does_change_the_answer(case):
    """The suite's other laws would hold for a model that reads nothing."""
    before = case.model(case.batch).heads
    for modality in case.spec.modalities:
        inputs = {**case.batch.inputs, modality.name: torch.randn_like(case.batch.inputs[modality.name])}
        after = case.model(case.batch._replace(inputs=inputs)).heads
        here = present(case.batch, modality.name)
        for task, head in before.items():
            moved = (head - after[task]).abs().reshape(ROWS, -1).amax(1) > 1e-9
            assert torch.equal(moved, here), (modality.name, task)


def test_more_padding_of_bags_changes_nothing(case):
    bags = [m.name for m in case.spec.modalities if m.kind == "bag"]

    def longer(x: Tensor, fill: float | bool) -> Tensor:
        return torch.cat([x, torch.full_like(x[:, :3], fill)], dim=1)

    inputs = {n: longer(x, 9.0) if n in bags else x for n, x in case.batch.inputs.items()}
    valid = {n: longer(v, False) if n in bags else v for n, v in case.batch.valid.items()}
    before, after = case.model(case.batch), case.model(case.batch._replace(inputs=inputs, valid=valid))
    for task, head in before.heads.items():
        torch.testing.assert_close(head, after.heads[task])
    for name, weights in before.maps.items():
        torch.testing.assert_close(weights, after.maps[name][..., : weights.shape[-1]])
        assert not after.maps[name][..., weights.shape[-1] :].any()


def test_the_order_of_instances_changes_nothing_but_the_order_of_their_weights(case):
    bags = {m.name: m.length or 0 for m in case.spec.modalities if m.kind == "bag"}
    order = {name: torch.from_numpy(np.random.default_rng(3).permutation(length)) for name, length in bags.items()}
    inputs = {n: x[:, order[n]] if n in bags else x for n, x in case.batch.inputs.items()}
    valid = {n: v[:, order[n]] if n in bags else v for n, v in case.batch.valid.items()}
    before, after = case.model(case.batch), case.model(case.batch._replace(inputs=inputs, valid=valid))
    for task, head in before.heads.items():
        torch.testing.assert_close(head, after.heads[task])
    for name, weights in before.maps.items():
        of = seen_in(case, name)
        torch.testing.assert_close(weights[..., order[of]] if of in bags else weights, after.maps[name])


def test_padding_in_front_of_sequences_changes_nothing(case):
    """Two steps that no row has, or that are not there at all."""
    padding = {n: torch.arange(length) < 2 for n, length in case.lengths.items()}
    valid = {n: v & ~padding[n] if n in padding else v for n, v in case.batch.valid.items()}
    padded = case.batch._replace(valid=valid)
    cut = padded._replace(
        **{
            part: {n: x[:, 2:] if n in padding else x for n, x in d.items()}
            for part, d in padded._asdict().items()
            if part in ("inputs", "valid", "observed")
        }
    )
    before, after = case.model(padded), case.model(cut)
    for task in case.spec.tasks:
        head = before.heads[task.name]
        torch.testing.assert_close(head[:, 2:] if task.per_step else head, after.heads[task.name])
    for name, weights in before.maps.items():
        if clock(case.spec, name):
            assert not weights[:, :2].any()
            weights = weights[:, 2:]
        elif seen_in(case, name) in padding:
            there = after.maps[name].shape[-1]
            assert not weights[..., :-there].any()
            weights = weights[..., -there:]
        torch.testing.assert_close(weights, after.maps[name])


def test_the_order_of_steps_matters_where_the_encoder_has_one(case):
    """All sequences turned round; answers per step are turned back."""
    sequences = case.lengths
    valid = {n: torch.ones_like(v) if n in sequences else v for n, v in case.batch.valid.items()}
    inputs = {n: torch.randn_like(x) if n in sequences else x for n, x in case.batch.inputs.items()}
    flipped = {n: x.flip(1) if n in sequences else x for n, x in inputs.items()}
    before, after = (case.model(case.batch._replace(inputs=x, valid=valid)).heads for x in (inputs, flipped))
    for task in case.spec.tasks:
        turned = after[task.name].flip(1) if task.per_step else after[task.name]
        moved = (before[task.name] - turned).abs().reshape(ROWS, -1).amax(1) > 1e-9
        assert torch.equal(moved, torch.full_like(moved, bool(sequences) and case.ordered)), task.name


def test_an_answer_of_a_causal_task_goes_by_nothing_that_is_later(case):
    """Whatever comes after a step, and whether anything does, changes nothing there; earlier steps do."""
    causal = [task for task in case.spec.tasks if task.causal]
    if not causal:
        return
    before = case.model(case.batch).heads
    torch.manual_seed(2)
    length = case.lengths[causal[0].steps[0]]
    for now in (0, length // 2):
        later = torch.arange(length) > now
        inputs, valid = dict(case.batch.inputs), dict(case.batch.valid)
        for name in case.lengths:
            inputs[name] = torch.where(later[:, None], torch.randn_like(inputs[name]), inputs[name])
            valid[name] = torch.where(later, torch.rand(valid[name].shape) < 0.5, valid[name])
            inputs[name] = inputs[name] * valid[name].unsqueeze(-1)
        after = case.model(case.batch._replace(inputs=inputs, valid=valid)).heads
        for task in causal:
            torch.testing.assert_close(after[task.name][:, : now + 1], before[task.name][:, : now + 1])
            assert not torch.allclose(after[task.name][:, now + 1 :], before[task.name][:, now + 1 :])


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    return batch.map(lambda leaf: leaf[rows])


def test_rows_are_strangers_to_each_other(case):
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    whole = case.model(case.batch)
    shuffled = case.model(rows_of(case.batch, order))
    for name, leaf in leaves(whole).items():
        torch.testing.assert_close(leaf[order], leaves(shuffled)[name])
    for row in range(ROWS):
        alone = case.model(rows_of(case.batch, torch.tensor([row])))
        for name, leaf in leaves(whole).items():
            torch.testing.assert_close(leaf[row : row + 1], leaves(alone)[name])


def test_a_single_row_equals_the_row_in_a_batch_in_single_precision(case):
    model = case.model.float()
    batch = case.batch.map(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf)
    whole = model(batch).heads
    for row in (0, ROWS - 1):
        for task, head in model(rows_of(batch, torch.tensor([row]))).heads.items():
            torch.testing.assert_close(head, whole[task][row : row + 1], atol=1e-5, rtol=1e-5)


def test_without_any_modality_answers_and_gradients_stay_finite(case):
    nothing = {n: torch.zeros_like(v) for n, v in case.batch.valid.items()}
    batch = case.batch._replace(valid=nothing)
    output = case.model(batch)
    assert all(torch.isfinite(leaf).all() for leaf in leaves(output).values())
    for head in output.heads.values():
        torch.testing.assert_close(head, head[:1].expand_as(head))
    sum(head.sum() for head in output.heads.values()).backward()
    gradients = [p.grad for p in case.model.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


def test_the_model_describes_exactly_the_maps_it_gives(case):
    maps = case.model(case.batch).maps
    assert set(maps) == set(case.model.maps)
    weighs = {"task_mil": "bag"}.get(case.family)
    assert maps or case.options.get("fusion") == "early" or weighs not in {m.kind for m in case.spec.modalities}
    for name, described in case.model.maps.items():
        assert maps[name].shape == (ROWS, *(len(axis.labels) for axis in described.axes))
        assert all(len(set(axis.labels)) == len(axis.labels) for axis in described.axes)


def test_maps_weigh_what_is_valid_and_nothing_else(case):
    maps = case.model(case.batch).maps
    for name, weights in maps.items():
        valid = weighed(case, name)
        valid = (valid if valid.ndim == weights.ndim else valid.unsqueeze(-2)).expand_as(weights)
        assert not weights[~valid].any(), name
        if case.model.maps[name].kind == "answer":
            assert weights[valid].all(), name
        elif case.model.maps[name].kind == "gate":
            assert ((weights >= 0) & (weights <= 1)).all()
            assert (weights[valid] > 0).all()
        else:
            torch.testing.assert_close(weights.sum(-1), valid.any(-1).double())


def test_maps_differ_between_rows_steps_and_queries(case):
    inputs = {n: 3 * torch.randn_like(x) for n, x in case.batch.inputs.items()}
    quality = {n: torch.ones_like(q) for n, q in case.batch.quality.items()}
    everything = {n: torch.ones_like(v) for n, v in case.batch.valid.items()}
    maps = case.model(case.batch._replace(inputs=inputs, quality=quality, valid=everything)).maps
    for name, weights in maps.items():
        rows = weights.reshape(ROWS, -1)
        if (case.family, case.options.get("fusion"), name) in LEARNED:
            torch.testing.assert_close(rows, rows[:1].expand_as(rows))
            continue
        if case.options.get("top_k_mode") in ALIKE:
            assert len(rows.unique(dim=0)) > 2, name
            continue
        assert (torch.cdist(rows, rows) + torch.eye(ROWS) > 1e-6).all(), name
        if weights.ndim >= 3:
            apart = torch.cdist(weights, weights) + torch.eye(weights.shape[-2])
            assert (apart > 1e-6).all(), name


def test_dropout_is_a_function_of_the_noise(case):
    noises = [some_noise(case, 0, 0, fold, 0) for fold in (0, 0, 1)]
    first, again, other = (case.model(case.batch, noise).heads for noise in noises)
    evaluation = case.model(case.batch).heads
    for task, head in first.items():
        assert torch.equal(head, again[task])
        assert not torch.allclose(head, other[task])
        assert not torch.allclose(head, evaluation[task])


def test_as_much_noise_is_taken_as_is_counted_whatever_it_is(case):
    noise = some_noise(case)
    case.model(case.batch, noise)
    assert noise.taken == len(noise.values) > 0
    evaluation = case.model(case.batch).heads
    for task, head in case.model(case.batch, Noise(torch.full_like(noise.values, 2**15 - 1))).heads.items():
        assert not torch.allclose(head, evaluation[task]), "what is kept is scaled"
    with pytest.raises(AssertionError, match="random values wanted"):
        case.model(case.batch, Noise(noise.values[:-1]))


def test_without_dropout_no_noise_is_taken(case):
    for module in case.model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    if case.family in AUGMENTED:
        assert draws(case.model, case.batch) > 0
        return
    assert draws(case.model, case.batch) == 0
    training = case.model(case.batch, Noise(torch.zeros(0, dtype=torch.int16)))._replace(penalties={})
    assert_same(training, case.model(case.batch), atol=0)


FOLDS = 3
WAYS = {("stacked", None): 1, ("stacked", 1): 3, ("stacked", 2): 2, ("loop", None): 3}
"""How a stack of three is computed, and in how many parts."""


def stacked(case: Case, mode, size: int | None = None) -> tuple[Stack, tuple]:
    """A stack of three models, each on rows of its own with padding rows, and the arguments of its gradients."""
    config = ObjectiveConfig(binary="focal", label_smoothing=0.05)
    stack = Stack(case.model, Objective(config, case.spec), mode, size)
    seeded = torch.Generator().manual_seed(0)
    leaves = {
        name: p.detach() + 0.05 * torch.randn(FOLDS, *p.shape, generator=seeded, dtype=torch.float64)
        for name, p in case.model.named_parameters()
    }
    rows = torch.stack([torch.from_numpy(np.random.default_rng(k).permutation(ROWS)[:8]) for k in range(FOLDS)])
    batch = rows_of(case.batch, rows)
    batch.weight[1, 5:] = 0
    count = draws(case.model, rows_of(case.batch, rows[0]))
    noise = torch.from_numpy(np.stack([draw_noise(count, 0, 0, k, 0) for k in range(FOLDS)]))
    weights = {
        t.name: 0.5 + torch.rand(FOLDS, max(2, t.outputs), generator=torch.Generator().manual_seed(1)).double()
        for t in case.spec.tasks
    }
    return stack, (leaves, batch, noise, weights, [True] * FOLDS)


def step(stack: Stack, arguments: tuple) -> tuple[Tensor, Leaves]:
    """Losses ``[K]`` and gradients ``[K,*shape]`` of all parts together."""
    parts = list(stack.gradients(*arguments))
    gradients = {name: torch.cat([part.gradients[name] for part in parts]) for name in arguments[0]}
    return torch.cat([part.losses for part in parts]), gradients


@pytest.fixture
def seen(case, monkeypatch) -> list[Batch]:
    """The batches that the model was asked about."""
    asked: list[Batch] = []
    forward = type(case.model).forward

    def spy(model, batch, noise=None):
        asked.append(batch)
        return forward(model, batch, noise)

    monkeypatch.setattr(type(case.model), "forward", spy)
    return asked


def test_stacked_folds_equal_the_loop_over_folds_however_they_are_cut_and_no_way_hands_a_target_to_a_model(case, seen):
    everything = {}
    for way, parts in case.ways.items():
        stack, arguments = stacked(case, *way)
        seen.clear()
        everything[way] = (*step(stack, arguments), stack.answers(*arguments[:2]))
        stack.draws(arguments[1])
        assert len(seen) == 2 * parts + 1
        assert not any(batch.targets or batch.known for batch in seen)
    losses, gradients, answers = everything.pop(("loop", None))
    moved = torch.stack([leaf.flatten(1).any(1) for leaf in gradients.values()])
    assert moved.any(0).all()
    for found_losses, found, found_answers in everything.values():
        torch.testing.assert_close(found_losses, losses, rtol=0, atol=1e-9)
        assert found.keys() == gradients.keys()
        for name, leaf in found.items():
            torch.testing.assert_close(leaf, gradients[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        assert_same(found_answers, answers)


def test_a_fold_of_a_stack_is_the_model_with_its_weights_and_its_noise(case):
    stack, arguments = stacked(case, next(iter(case.ways))[0])
    leaves, batch, noise, class_weights, _ = arguments
    losses, gradients = step(stack, arguments)
    objective = Objective(ObjectiveConfig(binary="focal", label_smoothing=0.05), case.spec)
    for k in range(FOLDS):
        case.model.load_state_dict({name: leaf[k] for name, leaf in leaves.items()})
        own = batch.map(lambda leaf, k=k: leaf[k])
        answer = case.model(own.without_targets(), Noise(noise[k]))
        loss = objective(answer, own, {task: w[k] for task, w in class_weights.items()})
        torch.testing.assert_close(losses[k], loss.detach(), rtol=0, atol=1e-9)
        expected = torch.autograd.grad(loss, list(case.model.parameters()), materialize_grads=True, allow_unused=True)
        for (name, _), gradient in zip(case.model.named_parameters(), expected, strict=True):
            torch.testing.assert_close(gradients[name][k], gradient, rtol=0, atol=1e-9)


def test_a_fold_of_a_stack_does_not_depend_on_the_others(case):
    stack, arguments = stacked(case, next(iter(case.ways))[0])
    leaves, batch, noise, class_weights, _ = arguments
    _, everyone = step(stack, arguments)
    kept = [2, 0]
    _, some = step(
        stack,
        (take(leaves, kept), rows_of(batch, torch.tensor(kept)), noise[kept], take(class_weights, kept), [True, True]),
    )
    for name, leaf in some.items():
        torch.testing.assert_close(leaf, everyone[name][kept], rtol=0, atol=1e-9)


def test_a_model_has_no_hidden_state(case):
    before = {n: p.clone() for n, p in case.model.state_dict().items()}
    generator = torch.get_rng_state()
    values = some_noise(case).values
    outputs = [case.model(case.batch, Noise(values)) for _ in range(2)]
    assert_same(*outputs, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not list(case.model.named_buffers())
    assert all(torch.equal(p, before[n]) for n, p in case.model.state_dict().items())


def test_weights_round_trip_through_a_file(case, tmp_path):
    save_file({n: p.contiguous() for n, p in case.model.state_dict().items()}, tmp_path / "weights.safetensors")
    fresh = build(case.family, case.variant, case.spec, seed=99)
    differs = fresh(case.batch).heads
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    expected = case.model(case.batch)
    assert any(not torch.equal(head, differs[task]) for task, head in expected.heads.items())
    assert_same(fresh(case.batch), expected, atol=0)


@pytest.mark.parametrize(("family", "variant"), [(f, v) for f, variants in VARIANTS.items() for v in variants])
def test_settings_round_trip(family, variant):
    kind = FAMILIES[family].Config
    config = validate(kind, {"family": family, **SMALL[family], **VARIANTS[family][variant]}, "test")
    again = validate(kind, json.loads(config.model_dump_json()), "test")
    assert again == config
    assert {**SMALL[family], **VARIANTS[family][variant]}.items() <= config.model_dump().items()


@given(
    widths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(["vector", "sequence", "bag"]), min_size=4, max_size=4),
    stepwise=st.sets(st.integers(0, 3)),
    choice=st.sampled_from([(f, v) for f, variants in VARIANTS.items() for v in variants]),
    missing=st.floats(0, 0.8),
)
@settings(max_examples=30, deadline=None)
def test_any_spec_gets_finite_answers_and_maps_of_the_described_shape(widths, kinds, stepwise, choice, missing):
    """A task per row, or one per step of some of the sequences, or both."""
    modalities = [
        numeric(f"m{i}", kind, w, None if kind == "vector" else 2 + i)
        for i, (w, kind) in enumerate(zip(widths, kinds, strict=False))
    ]
    family, variant = choice
    modalities = [
        numeric(m.name, "vector", m.width) if m.kind not in READS.get(family, {m.kind}) else m for m in modalities
    ]
    if family in ONE_CLOCK:
        first, *others = modalities
        modalities = [numeric(first.name, "sequence", first.width, 4), *others]
        modalities = [replace(m, length=4 if m.kind == "sequence" else None) for m in modalities]
    steps = set() if family in PER_ROW else stepwise
    labelled = [m.name for i, m in enumerate(modalities) if m.kind == "sequence" and i in steps]
    clocks = [(name,) for name in labelled]
    if family in ONE_CLOCK and clocks:
        clocks = [tuple(m.name for m in modalities if m.kind == "sequence")]
    tasks = [Task(f"step of {clock[0]}", "multiclass", ("a", "b", "c"), steps=clock) for clock in clocks]
    spec = Spec(tuple(modalities), (*([BINARY] if len(tasks) != 1 else []), *tasks))
    plan = Planting(rows=5, missing_modalities=missing, planted="additive")
    batch = double(twin(spec, plan, useful=names(spec)).gather(torch.arange(5)))
    model = build(family, variant, spec)
    output = model(batch.without_targets())
    assert all(torch.isfinite(leaf).all() for leaf in leaves(output).values())
    assert {n: tuple(m.shape[1:]) for n, m in output.maps.items()} == {
        n: tuple(len(a.labels) for a in described.axes) for n, described in model.maps.items()
    }
