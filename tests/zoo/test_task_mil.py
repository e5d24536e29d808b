from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.blocks.randomness import Noise, count_draws, draw_noise
from fusion_lab.config import validate
from fusion_lab.contracts import Batch, ConfigError, Feature, Modality, Output, Spec, Task
from fusion_lab.data.planting import Planting, twin
from fusion_lab.experiment import override, resolve
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.zoo.task_mil import REFERENCE, TaskMil, TaskMilConfig

SMALL: dict[str, Any] = {
    **{f"{part}_hidden": 16 for part in ("mol", "inst", "mixer")},
    **{f"{part}_layers": 2 for part in ("mol", "inst", "mixer")},
    **{f"{part}_dropout": 0.1 for part in ("mol", "inst", "attn", "mixer")},
    "proj_dim": 16,
    "attn_heads": 2,
    "activation": "GELU",
    "pool": "tied",
    "temperature": 1.0,
}
ABSORBS, GLOWS = (Task(name, "binary", ("no", "yes")) for name in ("absorbs", "glows"))
SHADE = Task("shade", "multiclass", ("red", "green", "blue"))
LOSS, YIELD = (Task(name, "regression", auxiliary=group) for name, group in (("loss", "light"), ("yield", "glow")))
HUE = Task("hue", "multiclass", ("warm", "cold"), auxiliary="glow")
ROWS = 24


def modality(name: str, kind, width: int, length: int | None = None) -> Modality:
    return Modality(name, kind, tuple(Feature(f"{name} {i}") for i in range(width)), length)


MOLECULE, PRINT = modality("molecule", "vector", 6), modality("print", "vector", 9)
CONFORMERS, POSES = modality("conformers", "bag", 4, 5), modality("poses", "bag", 3, 4)
SPEC = Spec((MOLECULE, CONFORMERS, PRINT), (ABSORBS, LOSS, SHADE, GLOWS, HUE, YIELD))
SHAPES = {
    "vectors": Spec((MOLECULE, PRINT), SPEC.tasks),
    "a bag": Spec((CONFORMERS,), SPEC.tasks),
    "bags": Spec((CONFORMERS, POSES), SPEC.tasks),
    "both": SPEC,
}


def build(spec: Spec = SPEC, seed: int = 0, **given: Any) -> TaskMil:
    torch.manual_seed(seed)
    return TaskMil(TaskMilConfig(**{**SMALL, **given}), spec).double()


def some_rows(spec: Spec = SPEC, missing: float = 0.3, rows: int = ROWS) -> Batch:
    plan = Planting(rows=rows, missing_modalities=missing, planted="additive", seed=3)
    batch = twin(spec, plan, useful=tuple(m.name for m in spec.modalities)).gather(torch.arange(rows))
    return batch.map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf)


def train(model: TaskMil, batch: Batch, seed: int = 0) -> Output:
    """The output of a training step."""
    count = count_draws(lambda noise: model(batch, noise), torch.device("cpu"))
    return model(batch.without_targets(), Noise(torch.from_numpy(draw_noise(count, seed))))


class NoDraws(Noise):
    """Of a training in which stochastic depth and what else is dropped drop nothing."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(0, dtype=torch.int16))

    def take(self, shape) -> torch.Tensor:
        return torch.full(shape, 2**15 - 1, dtype=torch.int16)


def total(output: Output) -> torch.Tensor:
    return sum((i + 1) * head.square().sum() for i, head in enumerate(output.heads.values()))


def example(conformers: int = 8) -> Spec:
    """The published one: four main tasks, auxiliary ones of two and four outputs."""
    main = tuple(Task(f"main {i}", "binary", ("no", "yes")) for i in range(4))
    helping = tuple(Task(f"aux {i}", "regression", auxiliary="light" if i < 2 else "glow") for i in range(6))
    return Spec((modality("mol", "vector", 1000), modality("inst", "bag", 200, conformers)), main + helping)


@pytest.mark.parametrize(
    ("pool", "unlike"), [("attention_output", -256), ("tied", -256 - (256 + 1) * 256), ("own", -258 * 256 - 512)]
)
def test_parameters_are_the_published_ones_but_for_what_is_told(pool, unlike):
    """The bias of keys, the output projection and the norm of instances that are keys alone; and the marks of vector
    and bag, which are not published.
    """
    with torch.device("meta"):
        model = TaskMil(TaskMilConfig(preset="reference", pool=pool, residual_mean=True), example())
    assert sum(p.numel() for p in model.parameters()) == 23_139_346 + unlike + 1024 + 512


def test_the_preset_fills_what_is_not_given():
    config = TaskMilConfig(preset="reference", mol_layers=5)
    assert config.model_dump().items() >= (REFERENCE | {"mol_layers": 5}).items()
    assert TaskMilConfig().model_dump().items() >= {"preset": "small", "mol_hidden": 128, "inst_hidden": 64}.items()
    assert validate(TaskMilConfig, config.model_dump(mode="json"), "here") == config
    assert validate(TaskMilConfig, {"preset": "reference", "mol_layers": 5}, "here") == config


def test_another_preset_brings_its_sizes_over_settings_that_were_resolved():
    tree = {"name": "twin", "data": {"domain": "synthetic"}, "model": {"family": "task_mil", "pool": "own"}}
    asked = {"model.preset": "reference", "model.inst_layers": 1}
    fresh, again = (resolve(override(t, asked), "test").model for t in (tree, resolve(tree, "test").resolved()))
    assert fresh == again == TaskMilConfig(preset="reference", inst_layers=1, pool="own")
    back = resolve(override({**tree, "model": fresh.model_dump(mode="json")}, {"model.preset": "small"}), "test")
    assert back.model == TaskMilConfig(pool="own")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"inst_hidden": 10, "attn_heads": 4}, "expected inst_hidden to be a multiple of attn_heads, found 10 and 4"),
        ({"temperature": 0.1}, "temperature"),
        ({"prune_below": 1.0}, "prune_below"),
        ({"top_k": 0}, "top_k"),
        ({"activation": "Tanh"}, "activation"),
        ({"d_model": 8}, "d_model"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given, told):
    with pytest.raises(ConfigError, match=told) as refused:
        validate(TaskMilConfig, given, "test")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (Spec((MOLECULE, modality("gait", "sequence", 3, 6)), (ABSORBS,)), "found 'gait', a sequence"),
        (Spec((MOLECULE,), (Task("walks", "binary", ("no", "yes"), steps=("gait",)),)), "found task 'walks' with"),
        (Spec((MOLECULE,), (LOSS,)), "expected a task that is not auxiliary with task_mil, found none"),
    ],
)
def test_what_it_cannot_read_or_answer_is_refused(spec, told):
    with pytest.raises(ConfigError, match=told) as refused:
        build(spec)
    assert str(refused.value).startswith("model.family: expected")


@pytest.mark.parametrize("shape", SHAPES)
def test_it_takes_vectors_bags_or_both_and_maps_every_bag_for_every_main_task(shape):
    spec = SHAPES[shape]
    output = build(spec)(some_rows(spec))
    assert {n: tuple(h.shape[1:]) for n, h in output.heads.items()} == {
        "absorbs": (),
        "loss": (),
        "shade": (3,),
        "glows": (),
        "hue": (2,),
        "yield": (),
    }
    bags = [m for m in spec.modalities if m.kind == "bag"]
    assert set(output.maps) == {f"{m.name} instances" for m in bags}
    described = build(spec).maps
    for m in bags:
        task, place = described[f"{m.name} instances"].axes
        assert task.labels == ("absorbs", "shade", "glows")
        assert output.maps[f"{m.name} instances"].shape == (ROWS, 3, m.length) == (ROWS, 3, len(place.labels))


def test_a_missing_modality_does_not_look_like_one_of_zeros():
    for spec in SHAPES.values():
        model, batch = build(spec), some_rows(spec, missing=0.0)
        for m in spec.modalities:
            zeros = batch._replace(inputs={**batch.inputs, m.name: torch.zeros_like(batch.inputs[m.name])})
            gone = zeros._replace(valid={**batch.valid, m.name: torch.zeros_like(batch.valid[m.name])})
            for task, head in model(zeros).heads.items():
                assert ((head - model(gone).heads[task]).abs() > 1e-6).all(), (m.name, task)


def test_molecules_without_instances_are_alike_to_the_bag_and_learn_what_stands_for_it():
    """Of an empty bag the map is zeros and the answer follows a learned vector, the bias behind the pool."""
    spec = SHAPES["a bag"]
    model, batch = build(spec), some_rows(spec, missing=0.0)
    valid = batch.valid["conformers"].clone()
    valid[: ROWS // 2] = False
    batch = batch._replace(valid={"conformers": valid})
    output = model(batch)
    assert not output.maps["conformers instances"][: ROWS // 2].any()
    for head in output.heads.values():
        torch.testing.assert_close(head[: ROWS // 2], head[:1].expand_as(head[: ROWS // 2]))
    total(Output({t: h[:1] for t, h in output.heads.items()}, {}, {})).backward()
    assert model.bag_out[0].linear.bias.grad.all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert not any(p.grad.any() for p in model.instances.parameters())


def test_auxiliary_tasks_are_linear_in_the_mean_of_what_main_tasks_read():
    model, batch, seen = build(), some_rows(), []
    model.mixer.register_forward_hook(lambda module, given, made: seen.append(made))
    heads = model(batch).heads
    outputs = torch.cat([heads["loss"][:, None], heads["hue"], heads["yield"][:, None]], dim=-1)
    torch.testing.assert_close(outputs, model.auxiliary_heads(seen[0].mean(2)).squeeze(0))
    for place, task in enumerate(("absorbs", "shade", "glows")):
        width = SPEC.task(task).outputs
        own = seen[0][0, :, place] @ model.heads.weight[place, :, :width] + model.heads.bias[place, :width]
        torch.testing.assert_close(heads[task], own.squeeze(-1))


def test_without_auxiliary_tasks_nothing_answers_them():
    assert build(Spec(SPEC.modalities, SPEC.main_tasks)).auxiliary_heads is None


def test_the_same_layers_mix_for_every_task():
    """Exchanging the queries of two tasks and their heads exchanges their answers."""
    spec = Spec(SPEC.modalities, (ABSORBS, GLOWS, LOSS))
    model, batch = build(spec), some_rows(spec)
    before = model(batch)
    with torch.no_grad():
        for parameter, axis in ((model.pools[0].queries, 2), (model.heads.weight, 0), (model.heads.bias, 0)):
            parameter.copy_(parameter.flip(axis))
    after = model(batch)
    for one, other in (("absorbs", "glows"), ("glows", "absorbs"), ("loss", "loss")):
        torch.testing.assert_close(before.heads[one], after.heads[other])
    torch.testing.assert_close(before.maps["conformers instances"].flip(1), after.maps["conformers instances"])


MEMBERS = 3
PLAIN = ObjectiveConfig(binary="bce", multiclass="cross_entropy", regression="mse", label_smoothing=0.1)


def member(model: TaskMil, spec: Spec, place: int, **given: Any) -> TaskMil:
    """A model of one member that has the weights of one of several, and what all of them share."""
    alone, shared = build(spec, **given), ("instances", "pools", "bag_out")
    state = dict(model.state_dict())
    for name, leaf in state.items():
        if not name.startswith(shared):
            state[name] = leaf.unflatten(0, (model.members, -1))[place]
    alone.load_state_dict(state)
    return alone


@pytest.mark.parametrize("shape", SHAPES)
def test_members_are_models_of_their_own_that_read_bags_alike_and_the_answer_is_their_mean(shape):
    spec = SHAPES[shape]
    model, batch = build(spec, members=MEMBERS), some_rows(spec)
    together, alone = model(batch), [member(model, spec, place)(batch) for place in range(MEMBERS)]
    for task, head in together.heads.items():
        torch.testing.assert_close(head, torch.stack([own.heads[task] for own in alone]).mean(0))
    for name, weights in together.maps.items():
        torch.testing.assert_close(weights, alone[0].maps[name])


def test_members_learn_as_if_each_were_alone():
    """The loss of the mean answer and the penalty are the mean of what each loses by itself, and so are the gradients:
    of members that drop nothing, with plain losses of main tasks whose labels are all known.
    """
    still: dict[str, Any] = {f"{part}_dropout": 0.0 for part in ("mol", "inst", "attn", "mixer")}
    spec = Spec(SPEC.modalities, (*SPEC.main_tasks, Task("months", "regression")))
    model, batch = build(spec, members=MEMBERS, **still), some_rows(spec)
    batch = batch._replace(known={task: torch.ones_like(known) for task, known in batch.known.items()})
    weights = {task.name: torch.ones(len(task.classes) or 1).double() for task in spec.tasks}
    objective, silent = Objective(PLAIN, spec, TaskMil.penalties), NoDraws()
    together = objective(model(batch.without_targets(), silent), batch, weights)
    together.backward()
    apart = []
    for place in range(MEMBERS):
        alone = member(model, spec, place, **still)
        apart.append(objective(alone(batch, silent), batch, weights))
        apart[-1].backward()
        ours, own = model.mixer.layers[0].linear.weight.grad[place], alone.mixer.layers[0].linear.weight.grad[0]
        torch.testing.assert_close(ours * MEMBERS, own)
    torch.testing.assert_close(together, torch.stack(apart).mean())


def test_members_are_penalised_while_they_learn_and_one_alone_never_is():
    for members, penalties in ((1, set()), (2, {"members"})):
        model, batch = build(members=members), some_rows()
        assert set(train(model, batch).penalties) == penalties
        assert not model(batch).penalties


OPTIONS: dict[str, dict[str, Any]] = {
    "activation": {"activation": "ReLU"},
    "pool": {"pool": "own"},
    "temperature": {"temperature": 0.5},
    "top_k": {"top_k": 2},
    "prune_below": {"prune_below": 0.3},
    "residual_mean": {"residual_mean": True},
}
MODES: dict[str, dict[str, Any]] = {mode: {"top_k": 2, "top_k_mode": mode} for mode in ("mean", "sum", "argmax")}
DROPOUTS: dict[str, dict[str, Any]] = {
    f"{p}_dropout": {f"{p}_dropout": 0.5} for p in ("mol", "inst", "attn", "mixer", "input", "bag")
}


@pytest.mark.parametrize(
    ("before", "after", "learning"),
    [
        *(pytest.param({}, given, False, id=name) for name, given in OPTIONS.items()),
        *(pytest.param({"top_k": 2}, given, False, id=name) for name, given in MODES.items()),
        *(pytest.param({}, given, True, id=name) for name, given in DROPOUTS.items()),
    ],
)
def test_turning_an_option_changes_the_answer_and_what_is_learned(before, after, learning):
    """The same weights; of dropout, in training alone."""
    batch, models = some_rows(), [build(**given) for given in (before, after)]
    state = {n: p for n, p in models[0].state_dict().items() if not n.endswith("warmth")}
    models[1].load_state_dict(state, strict=False)
    answers, gradients = [], []
    for model in models:
        output = train(model, batch) if learning else model(batch)
        total(output).backward()
        answers.append(torch.cat([h.flatten() for h in output.heads.values()]))
        gradients.append(model.pools[0].key.grad)
    assert not torch.allclose(*answers, rtol=1e-4)
    assert not torch.allclose(*gradients, rtol=1e-4)
    if learning:
        assert torch.equal(*(torch.cat([h.flatten() for h in m(batch).heads.values()]) for m in models))


@pytest.mark.parametrize("activation", ["GELU", "SiLU", "Mish", "ReLU", "LeakyReLU"])
@pytest.mark.parametrize("pool", ["tied", "attention_output", "own"])
def test_every_parameter_has_a_gradient_in_the_first_step(activation, pool):
    """In more rows than a rectifier is off in."""
    assert without_gradient(activation=activation, pool=pool, residual_mean=True) == []


@pytest.mark.parametrize("given", [{"members": 3}, {"input_start": 0.1, "input_dropout": 0.5, "bag_dropout": 0.5}])
def test_every_parameter_of_every_member_has_one_however_little_is_read(given):
    assert without_gradient(**given) == []


def without_gradient(**given: Any) -> list[str]:
    """Parameters of which some have none in the first step."""
    model = build(**given)
    total(train(model, some_rows(rows=400))).backward()
    real = model.real_parameters()
    return [n for n, p in model.named_parameters() if not p.grad[real[n]].all()]


@given(order=st.permutations(range(5)), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_order_of_instances_permutes_the_attention_and_changes_no_answer(order, seed):
    model, batch = build(seed=seed, top_k=3), some_rows()
    leaves = {"inputs": batch.inputs, "valid": batch.valid}
    moved = {part: {**d, "conformers": d["conformers"][:, order]} for part, d in leaves.items()}
    before, after = model(batch), model(batch._replace(**moved))
    for task, head in before.heads.items():
        torch.testing.assert_close(head, after.heads[task])
    torch.testing.assert_close(before.maps["conformers instances"][..., order], after.maps["conformers instances"])


def test_bags_of_one_length_share_an_encoder_whose_halves_are_strangers():
    others = modality("poses", "bag", 3, 5)
    spec = Spec((CONFORMERS, others), SPEC.tasks)
    model, batch = build(spec), some_rows(spec, missing=0.0)
    assert len(model.groups) == 1
    changed = batch._replace(inputs={**batch.inputs, "poses": torch.randn_like(batch.inputs["poses"])})
    before, after = model(batch).maps, model(changed).maps
    assert torch.equal(before["conformers instances"], after["conformers instances"])
    assert not torch.allclose(before["poses instances"], after["poses instances"])
