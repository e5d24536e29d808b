"""Laws of search spaces: what a file says is what is drawn, and what is wrong with it is told before any trial."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from small_study import BASE, SPACE, base

from fusion_lab.config import parse_yaml
from fusion_lab.contracts import ConfigError
from fusion_lab.experiment import override, resolve
from fusion_lab.search.space import FIXED, Hole, check_space, parse_space

FILE = "hpo/x.yaml"


def holes(text: str) -> dict[str, object]:
    return {n.name: n.distribution for n in parse_space(parse_yaml(text, FILE), FILE).nodes if isinstance(n, Hole)}


def test_leaves_are_distributions():
    found = holes(
        "{a: {float: [0, 1]}, b: {c: {float: [1e-4, 1e-2], log: true}}, d: {int: [1, 9], step: 2}, "
        "e: {choice: [x, 2, null, true]}, f: {float: [0, 1], step: 0.25}, g: {int: [1, 64], log: true}}"
    )
    assert found == {
        "a": FloatDistribution(0, 1),
        "b.c": FloatDistribution(1e-4, 1e-2, log=True),
        "d": IntDistribution(1, 9, step=2),
        "e": CategoricalDistribution(["x", 2, None, True]),
        "f": FloatDistribution(0, 1, step=0.25),
        "g": IntDistribution(1, 64, log=True),
    }


MALFORMED = {
    "model: {dropout: {float: 0.5}}": "model.dropout.float: expected [lowest, highest], found 0.5",
    "model: {dropout: {float: [0.5]}}": "model.dropout.float: expected [lowest, highest]",
    "model: {dropout: {float: [0, 1, 2]}}": "model.dropout.float: expected [lowest, highest]",
    "model: {dropout: {float: [a, b]}}": "model.dropout.float: expected [lowest, highest]",
    "model: {dropout: {float: [true, 1]}}": "model.dropout.float: expected [lowest, highest]",
    "model: {dropout: {float: [0, .inf]}}": "model.dropout.float: expected [lowest, highest]",
    "model: {dropout: {float: [.nan, 1]}}": "model.dropout.float: expected [lowest, highest]",
    "model: {dropout: {float: [0.5, 0.1]}}": "model.dropout.float: expected the lowest first",
    "model: {nhead: {int: [1.0, 2]}}": "model.nhead.int: expected [lowest, highest]",
    "model: {nhead: {int: [4, 1]}}": "model.nhead.int: expected the lowest first",
    "model: {nhead: {int: [1, 4], step: 0}}": "model.nhead.step: expected a number above 0",
    "model: {nhead: {int: [1, 4], step: x}}": "model.nhead.step: expected a number above 0",
    "model: {nhead: {int: [0, 4], log: true}}": "model.nhead: ",
    "model: {nhead: {int: [1, 4], log: 1}}": "model.nhead.log: expected true or false",
    "optimiser: {lr: {float: [0, 1], log: true}}": "optimiser.lr: ",
    "optimiser: {lr: {float: [0.1, 1], log: true, step: 0.1}}": "optimiser.lr: ",
    "optimiser: {lr: {float: [0.1, 1], lgo: true}}": "optimiser.lr.lgo: unknown key (did you mean 'log'?)",
    "optimiser: {lr: {choice: [0.1], log: true}}": "optimiser.lr.log: unknown key",
    "model: {fusion: {choice: gated}}": "model.fusion.choice: expected a list or a mapping",
    "model: {fusion: {choice: []}}": "model.fusion.choice: expected a list or a mapping",
    "model: {fusion: {choice: [[gated]]}}": "model.fusion.choice: expected single values",
    "model: {fusion: {choice: {gated: 3}}}": "model.fusion.choice.gated: expected settings of its own",
    "model: {fusion: {choice: {gated: 0}}}": "model.fusion.choice.gated: expected settings of its own",
    "model: {fusion: {choice: {gated: {dropout: {float: 1}}}}}": "model.dropout.float: expected [lowest, highest]",
    "{model.nhead: {int: [1, 2]}, model: {nhead: {int: [1, 4]}}}": "model.nhead: expected one distribution",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_leaf_is_told_with_its_file_and_path(text):
    with pytest.raises(ConfigError) as error:
        parse_space(parse_yaml(text, FILE), FILE)
    assert str(error.value).startswith(f"{FILE}: space.{MALFORMED[text]}")
    assert "\n" not in str(error.value)


IMPOSSIBLE = {
    "model: {d_model: {choice: [8, 9]}}": "multiple of nhead",
    "model: {nhead: {int: [1, 3]}}": "multiple of nhead",
    "model: {droput: {float: [0, 0.5]}}": "model.droput: unknown key (did you mean 'dropout'?)",
    "model: {dropout: {flaot: [0, 0.5]}}": "model.dropout: expected a valid number",
    "model: {dropout: {float: [0, 1.5]}}": "model.dropout: expected less than 1",
    "model: {fusion: {choice: [gated, gatde]}}": "model.fusion: expected 'transformer', 'bottleneck' or 'gated'",
    "model: {family: {choice: [token_fusion, tokens]}}": "model.family: unknown 'tokens'",
    "model: {fusion: {choice: {gated: {nhead: 3}, bottleneck: }}}": "multiple of nhead",
    "optimizer: {lr: 0.1}": "optimizer: unknown key (did you mean 'optimiser'?)",
}


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_a_point_that_is_no_experiment_is_found_before_the_first_trial(text):
    space = parse_space(parse_yaml(text, FILE), FILE)
    with pytest.raises(ConfigError) as error:
        check_space(space, base().resolved(), FILE)
    assert str(error.value).startswith(f"{FILE}: space")
    assert IMPOSSIBLE[text] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", [*FIXED, "data.rows", "folds.k"])
def test_what_is_compared_stays_the_same_for_all_trials(path):
    for leaf in ({"choice": ["a", "b"]}, "a"):
        with pytest.raises(ConfigError, match=f"{FILE}: space.{path}: expected a setting that may differ"):
            parse_space({path: leaf}, FILE)
    with pytest.raises(ConfigError, match="expected a setting that may differ"):
        parse_space({"model.fusion": {"choice": {"gated": {"x": 1}}}, path: 1}, FILE)


def test_the_loss_is_not_searched_where_it_is_the_objective():
    space = parse_space(parse_yaml("objective: {binary: {choice: [bce, focal]}}", FILE), FILE)
    check_space(space, base().resolved(), FILE)
    with pytest.raises(ConfigError, match=f"{FILE}: space.objective.binary: expected the same loss for all trials"):
        check_space(space, base({"training.monitor": "loss"}).resolved(), FILE)


def test_a_choice_opens_its_own_settings_and_no_others():
    space = parse_space(SPACE, FILE)
    assert space.is_conditional()
    assert "model.num_fusion_layers@transformer" in space.names()
    study, seen = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), set()
    for _ in range(30):
        drawn = space.sample(study.ask())
        seen.add(drawn["model.fusion"])
        assert ("model.num_fusion_layers" in drawn) == (drawn["model.fusion"] == "transformer")
    assert seen == {"transformer", "gated"}
    assert not parse_space({"a": {"choice": ["x", "y"]}, "b": {"choice": {"x": None}}}, FILE).is_conditional()


def test_one_setting_may_have_a_range_of_its_own_in_every_branch():
    text = (
        "model: {fusion: {choice: {gated: {dropout: {float: [0, 0.1]}}, bottleneck: {dropout: {float: [0.4, 0.5]}}}}}"
    )
    space = parse_space(parse_yaml(text, FILE), FILE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        drawn = space.sample(study.ask())
        assert drawn["model.dropout"] <= 0.1 if drawn["model.fusion"] == "gated" else drawn["model.dropout"] >= 0.4


def test_choosing_a_family_resets_the_models_settings():
    tree = {"model": {"family": "a", "d_model": 8, "dropout": 0.3}, "seed": 1}
    changed = override(tree, {"model.family": "b", "model.depth": 2})
    assert changed == {"model": {"family": "b", "depth": 2}, "seed": 1}
    assert override(tree, {"model.family": "a", "model.d_model": 16})["model"]["dropout"] == 0.3
    assert tree["model"]["d_model"] == 8, "the tree given stays as it was"


def test_fixed_settings_are_the_same_in_all_trials():
    space = parse_space({"model": {"nhead": 1, "dropout": {"float": [0.0, 0.5]}}, "optimiser": {"clip": None}}, FILE)
    assert space.names() == ["model.dropout"]
    found = check_space(space, base().resolved(), FILE)
    assert (found.model.nhead, found.optimiser.clip) == (1, None)
    assert check_space(parse_space({}, FILE), base().resolved(), FILE) == base()


leaves = st.one_of(
    st.tuples(st.floats(-5, 5), st.floats(0, 5)).map(lambda p: {"float": [p[0], p[0] + p[1]]}),
    st.tuples(st.floats(1e-6, 1), st.floats(1, 9)).map(lambda p: {"float": [p[0], p[0] * p[1]], "log": True}),
    st.tuples(st.integers(-5, 5), st.integers(0, 9)).map(lambda p: {"int": [p[0], p[0] + p[1]]}),
    st.lists(st.sampled_from(["x", "y", 3, 2.5, None]), min_size=1, max_size=4, unique=True).map(
        lambda v: {"choice": v}
    ),
)
keys = st.sampled_from(["a", "b", "c", "d"])
branches = st.dictionaries(st.sampled_from(["p", "q"]), st.dictionaries(keys, leaves, max_size=2), min_size=1)
spaces = st.dictionaries(
    keys, st.one_of(leaves, st.dictionaries(keys, leaves), branches.map(lambda b: {"choice": b})), min_size=1
)


@settings(max_examples=40, deadline=None)
@given(tree=spaces, seed=st.integers(0, 1000))
def test_what_a_trial_drew_gives_the_same_settings_again(tree, seed):
    space = parse_space(tree, FILE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    drawn = space.sample(trial)
    assert space.sample(optuna.trial.FixedTrial(trial.params)) == drawn
    assert len(trial.params) == len([name for name in space.names() if name in trial.params]) <= len(space.names())


def test_a_drawn_point_is_the_experiment_with_its_holes_filled():
    space = parse_space(SPACE, FILE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    drawn = space.sample(study.ask())
    experiment = resolve(override(BASE, drawn), FILE)
    assert experiment.model.d_model == drawn["model.d_model"]
    assert experiment.optimiser.lr == drawn["optimiser.lr"]
    assert experiment.folds == base().folds


BRANCHES = {
    "model": {"fusion": {"choice": {"transformer": {"num_fusion_layers": {"int": [1, 3]}}, "gated": None}}},
    "optimiser": {"lr": {"float": [1e-4, 1e-2], "log": True}, "schedule": "constant"},
}


@pytest.mark.parametrize(
    ("settings", "point"),
    [
        ({"fusion": "gated", "lr": 1e-3}, {"model.fusion": "gated", "optimiser.lr": 1e-3}),
        (
            {"fusion": "transformer", "lr": 1e-2},
            {"model.fusion": "transformer", "model.num_fusion_layers@transformer": 1, "optimiser.lr": 1e-2},
        ),
        ({"fusion": "transformer", "lr": 1e-3, "num_fusion_layers": 4}, None),
        ({"fusion": "gated", "lr": 1e-3, "num_fusion_layers": 4}, {"model.fusion": "gated", "optimiser.lr": 1e-3}),
        ({"fusion": "bottleneck", "lr": 1e-3}, None),
        ({"fusion": "gated", "lr": 0.1}, None),
    ],
)
def test_where_an_experiment_lies_in_a_space(settings, point):
    model = {"num_fusion_layers": 1, **{name: value for name, value in settings.items() if name != "lr"}}
    space = parse_space(BRANCHES, "f.yaml")
    assert space.point({"model": model, "optimiser": {"lr": settings["lr"], "schedule": "constant"}}) == point
    assert space.point({"model": model, "optimiser": {"lr": settings["lr"], "schedule": "cosine"}}) is None


@pytest.mark.parametrize(
    ("fixed", "value", "same"),
    [(1, 1.0, True), (None, None, True), (True, 1, False), (0, False, False), (None, 0.5, False), (0.5, None, False)],
)
def test_an_experiment_that_differs_in_what_is_fixed_lies_outside(fixed, value, same):
    space = parse_space({"model": {"dropout": {"float": [0.0, 0.5]}}, "optimiser": {"clip": fixed}}, FILE)
    assert space.point({"model": {"dropout": 0.1}, "optimiser": {"clip": value}}) == (
        {"model.dropout": 0.1} if same else None
    )
    assert space.point({"model": {"dropout": 0.1}}) is None, "it does not have the setting"


FIXING = {
    "model": {
        "nhead": 1,
        "fusion": {"choice": {"gated": {"d_model": 8}, "bottleneck": {"d_model": {"choice": [8, 16]}}}},
        "dropout": {"choice": [0.0, 0.1, 0.2]},
    },
    "optimiser": {"clip": None},
}


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "model.nhead": st.sampled_from([1, 2]),
            "model.fusion": st.sampled_from(["gated", "bottleneck", "transformer"]),
            "model.d_model": st.sampled_from([8, 16]),
            "model.dropout": st.sampled_from([0.0, 0.1, 0.3]),
            "optimiser.clip": st.sampled_from([None, 1.0]),
        }
    ),
    st.integers(0, 1000),
)
def test_the_trial_at_an_experiments_point_is_the_experiment_as_it_is(changes, seed):
    space = parse_space(FIXING, FILE)
    experiment = base(changes)
    point = space.point(experiment.resolved())
    if point is not None:
        again = space.sample(optuna.trial.FixedTrial(point))
        assert resolve(override(experiment.resolved(), again), FILE) == experiment
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    drawn = resolve(override(experiment.resolved(), space.sample(trial)), FILE)
    assert space.point(drawn.resolved()) == trial.params, "what was drawn lies where it was drawn"


def test_a_range_with_steps_holds_its_steps_alone():
    space = parse_space({"model": {"d_model": {"int": [8, 64], "step": 8}}}, "f.yaml")
    assert space.point({"model": {"d_model": 24}}) == {"model.d_model": 24}
    assert space.point({"model": {"d_model": 20}}) is None
