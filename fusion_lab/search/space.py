"""A search space: the experiment with holes. A leaf is a value or a distribution.

::

    model:
      d_model: {choice: [32, 64]}
      dropout: {float: [0.0, 0.5]}
      fusion:
        choice:                                    # a choice that opens settings of its own
          transformer: {num_fusion_layers: {int: [1, 3]}}
          gated: {}
    optimiser:
      lr: {float: [1e-4, 1e-2], log: true}
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from fusion_lab.config import flatten, nearest
from fusion_lab.contracts import ConfigError
from fusion_lab.experiment import Experiment, override, resolve

KINDS = ("float", "int", "choice")
FIXED = (
    "name",
    "description",
    "seed",
    "trial",
    "selected",
    "folds",
    "data",
    "baselines",
    "training.monitor",
    "training.min_weight",
    "training.undefined",
)
"""What a search may not touch: what is compared has to stay the same for all trials."""


@dataclass(frozen=True)
class Hole:
    """One searched setting. ``branches`` are the settings that each option of a choice opens."""

    name: str
    path: str
    distribution: BaseDistribution
    branches: Mapping[str, Node]


@dataclass(frozen=True)
class Fixed:
    """One setting that the space sets to the same value in all trials."""

    path: str
    value: Any


Node = tuple[Hole | Fixed, ...]


@dataclass(frozen=True)
class Space:
    """Parsed holes and fixed settings."""

    nodes: Node

    def sample(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Overrides of the experiment, ``{dotted path: value}``, drawn from a trial."""
        return dict(_sample(self.nodes, trial))

    def names(self) -> list[str]:
        """Names of all searched settings, those of branches included."""
        return [hole.name for hole in _holes(self.nodes)]

    def keys(self, section: str) -> set[str]:
        """The settings of a section that the space gives values to, those of branches included.

        >>> space = parse_space({"model": {"depth": {"int": [1, 3]}}, "optimiser": {"lr": 1e-3}}, "hpo/x.yaml")
        >>> space.keys("model")
        {'depth'}
        """
        return {node.path.split(".")[1] for node in _all(self.nodes) if node.path.startswith(f"{section}.")}

    def logarithmic(self) -> tuple[str, ...]:
        """Names of the settings that are drawn on a logarithmic scale."""
        return tuple(h.name for h in _holes(self.nodes) if getattr(h.distribution, "log", False))

    def point(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Where an experiment's settings lie in the space, ``{name: value}``: the point whose sample changes none of
        them. ``None`` where one lies outside, or is another than the space sets in all trials.

        >>> space = parse_space({"model": {"dropout": {"float": [0.0, 0.5]}}}, "hpo/x.yaml")
        >>> space.point({"model": {"dropout": 0.1}}), space.point({"model": {"dropout": 0.9}})
        ({'model.dropout': 0.1}, None)
        """
        flat = flatten(settings)
        opened = list(_opened(self.nodes, flat))
        if not all(_allows(node, flat) for node in opened):
            return None
        return {node.name: flat[node.path] for node in opened if isinstance(node, Hole)}

    def is_conditional(self) -> bool:
        """Whether a choice opens settings of its own."""
        return any(branch for hole in _holes(self.nodes) for branch in hole.branches.values())


def parse_space(tree: Mapping[str, Any], source: str) -> Space:
    """A space from the ``space`` section of a file in ``hpo/``.

    Raises:
        ConfigError: a distribution that is none, a setting that a search must not touch, or one that is given twice.

    >>> parse_space({"model": {"dropout": {"float": [0.0, 0.5]}}}, "hpo/x.yaml").names()
    ['model.dropout']
    """
    nodes = _parse(tree, "", "", source)
    for node in _all(nodes):
        for fixed in FIXED:
            if node.path == fixed or node.path.startswith(f"{fixed}."):
                raise ConfigError(
                    f"{source}: space.{node.path}: expected a setting that may differ between trials, found {fixed}"
                )
    space = Space(nodes)
    repeated = next((name for name, times in Counter(space.names()).items() if times > 1), None)
    if repeated is not None:
        raise ConfigError(f"{source}: space.{repeated.partition('@')[0]}: expected one distribution, found several")
    return space


def check_space(space: Space, base: Mapping[str, Any], source: str, draws: int = 200) -> Experiment:
    """Draws points at random and resolves each, so that no trial fails for a setting that the space should not hold.

    Returns:
        The experiment of the first point.

    Raises:
        ConfigError: a point that is no experiment, with the point's own fault; or a loss both searched and watched.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    first: Experiment | None = None
    for _ in range(draws if space.names() else 1):
        experiment = resolve(override(base, space.sample(study.ask())), f"{source}: space")
        first = first or experiment
    assert first is not None
    losses = [node.path for node in _all(space.nodes) if f"{node.path}.".startswith("objective.")]
    if losses and first.training.monitor == "loss":
        expected = "expected the same loss for all trials, as training.monitor compares them by it"
        raise ConfigError(f"{source}: space.{losses[0]}: {expected}, found it in the space")
    return first


def _parse(tree: Mapping[str, Any], prefix: str, suffix: str, source: str) -> Node:
    nodes: list[Hole | Fixed] = []
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and any(kind in value for kind in KINDS):
            nodes.append(_hole(path, value, prefix, suffix, source))
        elif isinstance(value, Mapping):
            nodes.extend(_parse(value, f"{path}.", suffix, source))
        else:
            nodes.append(Fixed(path, value))
    return tuple(nodes)


def _hole(path: str, leaf: Mapping[str, Any], prefix: str, suffix: str, source: str) -> Hole:
    kind = next(k for k in KINDS if k in leaf)
    allowed = {"float": ("float", "log", "step"), "int": ("int", "log", "step"), "choice": ("choice",)}[kind]
    for key in leaf:
        if key not in allowed:
            raise ConfigError(f"{source}: space.{path}.{key}: unknown key{nearest(str(key), list(allowed))}")
    values = leaf[kind]
    if kind == "choice":
        return _choice(path, values, prefix, suffix, source)
    _check_range(kind, leaf, f"{source}: space.{path}")
    options = {key: leaf[key] for key in ("log", "step") if leaf.get(key) is not None}
    make = FloatDistribution if kind == "float" else IntDistribution
    try:
        return Hole(f"{path}{suffix}", path, make(values[0], values[1], **options), {})
    except ValueError as error:
        raise ConfigError(f"{source}: space.{path}: {' '.join(str(error).split())}") from None


def _choice(path: str, values: Any, prefix: str, suffix: str, source: str) -> Hole:
    if not isinstance(values, (list, dict)) or not values:
        raise ConfigError(f"{source}: space.{path}.choice: expected a list or a mapping of options, found {values!r}")
    scalar = (str, int, float, bool, type(None))
    if not all(isinstance(v, scalar) for v in values):
        raise ConfigError(f"{source}: space.{path}.choice: expected single values, found {values!r}")
    branches = {}
    if isinstance(values, dict):
        for option, opened in values.items():
            opened = {} if opened is None else opened
            if not isinstance(opened, Mapping):
                raise ConfigError(
                    f"{source}: space.{path}.choice.{option}: expected settings of its own, found {opened!r}"
                )
            branches[option] = _parse(opened, prefix, f"{suffix}@{option}", source)
    return Hole(f"{path}{suffix}", path, CategoricalDistribution(list(values)), branches)


def _check_range(kind: str, leaf: Mapping[str, Any], place: str) -> None:
    values, log, step = leaf[kind], leaf.get("log", False), leaf.get("step")
    is_pair = isinstance(values, list) and len(values) == 2
    if not is_pair or not all(_is_number(kind, value) for value in values):
        raise ConfigError(f"{place}.{kind}: expected [lowest, highest], found {values!r}")
    if values[0] > values[1]:
        raise ConfigError(f"{place}.{kind}: expected the lowest first, found {values!r}")
    if not isinstance(log, bool):
        raise ConfigError(f"{place}.log: expected true or false, found {log!r}")
    if step is not None and (not _is_number(kind, step) or step <= 0):
        raise ConfigError(f"{place}.step: expected a number above 0, found {step!r}")


def _is_number(kind: str, value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (kind == "float" and isinstance(value, float) and math.isfinite(value))


def _sample(nodes: Node, trial: optuna.trial.BaseTrial) -> Iterator[tuple[str, Any]]:
    for node in nodes:
        if isinstance(node, Fixed):
            yield node.path, node.value
            continue
        value = _suggest(trial, node.name, node.distribution)
        yield node.path, value
        yield from _sample(node.branches.get(value, ()), trial)


def _suggest(trial: optuna.trial.BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    suggest = trial.suggest_float if isinstance(distribution, FloatDistribution) else trial.suggest_int
    return suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)  # ty: ignore[invalid-argument-type]


def _opened(nodes: Node, flat: Mapping[str, Any]) -> Iterator[Hole | Fixed]:
    """The nodes that an experiment with these settings has, those of the branches that it took included."""
    for node in nodes:
        yield node
        if isinstance(node, Hole) and _allows(node, flat):
            yield from _opened(node.branches.get(flat[node.path], ()), flat)


def _allows(node: Hole | Fixed, flat: Mapping[str, Any]) -> bool:
    """Whether an experiment has the setting, with a value that the node may give it."""
    if node.path not in flat:
        return False
    value = flat[node.path]
    return _equal(value, node.value) if isinstance(node, Fixed) else _holds(node.distribution, value)


def _equal(value: Any, other: Any) -> bool:
    """As settings are: 1 is 1.0, and neither is true."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value may be drawn from it."""
    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if not _is_number("int" if isinstance(distribution, IntDistribution) else "float", value):
        return False
    steps = 0.0 if distribution.step is None else (value - distribution.low) / distribution.step
    return distribution.low <= value <= distribution.high and abs(steps - round(steps)) < 1e-9


def _holes(nodes: Node) -> Iterator[Hole]:
    return (node for node in _all(nodes) if isinstance(node, Hole))


def _all(nodes: Node) -> Iterator[Hole | Fixed]:
    for node in nodes:
        yield node
        if isinstance(node, Hole):
            for branch in node.branches.values():
                yield from _all(branch)
