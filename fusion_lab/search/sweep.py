"""A sweep: a declared set of configurations, each a cell, in groups. One file in ``experiments/sweeps/``.

::

    experiment: activity
    reference: fusion=hybrid            # what the others are held against; by default the experiment as it is
    cells:
      fusion: {model.fusion: [early, late, hybrid]}
      widths: {model.d_model: [32, 64], optimiser.lr: [1e-3, 3e-3], model.fusion: early}
      single: {data.modalities: [[hand], [chest]]}

A group has a cell for every combination of its lists; what is no list is the same in all of its cells. An option that
is a list itself stands in a list of lists; one that is a mapping takes the place of the experiment's. Lists in place of
single values in an experiment's own settings are one such group.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from fusion_lab.config import Config, assign, load_yaml, nearest, validate
from fusion_lab.contracts import ConfigError, content_hash
from fusion_lab.experiment import (
    Experiment,
    experiment_tree,
    find,
    list_valued,
    override,
    read_experiment,
    resolve,
)

FOLDER = "experiments/sweeps"
MOST_CELLS = 200
LONGEST_FOLDER = 80
_REFUSED = re.compile(r"[^\w.=+, -]")


class SweepConfig(Config):
    """One file in ``experiments/sweeps/``. ``reference`` is a cell, ``group/cell`` where its name occurs twice."""

    experiment: str | None = None
    reference: str | None = None
    cells: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Cell:
    """One configuration. ``settings`` are the ones of its group, ``{dotted path: value}``; ``label`` is its name, with
    the group's before it where two cells have the same.
    """

    group: str
    name: str
    label: str
    settings: Mapping[str, Any]
    experiment: Experiment

    @property
    def where(self) -> str:
        """Its place in the file."""
        return f"cells.{self.group}: {self.name}"

    @property
    def folder(self) -> Path:
        """Its place below the sweep's folder: readable, and no other cell's."""
        return Path(_folder(self.group), _folder(self.name))


def read_sweep(path: Path) -> SweepConfig:
    """A file in ``experiments/sweeps/``.

    Raises:
        ConfigError: it cannot be read, or its cells are no groups of settings.
    """
    tree = load_yaml(path)
    config = validate(SweepConfig, tree, str(path))
    # as YAML has it: on its way through the validation an option such as 16 or true would become a text
    cells = {str(group): {str(path): value for path, value in of.items()} for group, of in tree["cells"].items()}
    return config.model_copy(update={"cells": cells})


def read_settings(
    experiment: str | None, sweep: str | None, data: str | None, overrides: Mapping[str, Any]
) -> tuple[Experiment, SweepConfig, Path]:
    """The experiment, the cells, and the file that says which: a sweep's, or an experiment's whose settings are lists.

    Raises:
        ConfigError: neither is named, or a file of cells and lists in the settings at once.
    """
    if not sweep and not experiment:
        raise ConfigError("sweep: expected the name of a sweep or of an experiment, found neither")
    if experiment:
        tree, path = experiment_tree(experiment, overrides, data)
        lists = list_valued(tree)
        if lists and sweep:
            told = ", ".join(lists)
            raise ConfigError(f"sweep: expected a file of cells or several values of a setting, found both ({told})")
        if lists:
            return _sweep_of_lists(tree, lists, path)
    source = find(FOLDER, sweep or Path(str(experiment)).stem)
    config = read_sweep(source)
    chosen = experiment or config.experiment
    if chosen is None:
        raise ConfigError(f"{source}: experiment: expected the name of an experiment, found none; name it with one")
    return read_experiment(chosen, overrides, data), config, source


def make_cells(config: SweepConfig, base: Experiment, source: str) -> list[Cell]:
    """The cells in the order of the file, each resolved to a complete experiment.

    Raises:
        ConfigError: a group without a list, a setting that is unknown or out of range, two cells of one name; with the
            group and the cell.
    """
    drawn = [(group, settings) for group, of in config.cells.items() for settings in _combinations(group, of, source)]
    if len(drawn) > MOST_CELLS:
        raise ConfigError(f"{source}: cells: expected at most {MOST_CELLS} cells, found {len(drawn)}")
    names = [_name(settings, config.cells[group]) for group, settings in drawn]
    _refuse_twice([(group, name) for (group, _), name in zip(drawn, names, strict=True)], source)
    times = Counter(names)
    cells = []
    for (group, settings), name in zip(drawn, names, strict=True):
        label = name if times[name] == 1 else f"{group}/{name}"
        experiment = _resolved(base, settings, f"{source}: cells.{group}: {name}")
        cells.append(Cell(group, name, label, settings, experiment))
    if config.reference is not None:
        named(cells, config.reference, source)
    return cells


def named(cells: Sequence[Cell], name: str, source: str) -> Cell:
    """The cell of this name, or of this ``group/name``."""
    found = [cell for cell in cells if name in (cell.label, f"{cell.group}/{cell.name}")]
    if not found:
        known = nearest(name, [cell.label for cell in cells])
        raise ConfigError(f"{source}: reference: expected the name of a cell, found {name!r}{known}")
    return found[0]


def sweep_name(path: Path, base: Experiment) -> str:
    """What the sweep's folder is called: the same for the same file name and base experiment, so that a cell that is
    added later finds the others done. What a cell left counts only where its own configuration, data and folds are.
    """
    return f"sweep-{_folder(path.stem)}-{content_hash([path.stem, base.name, base.identity()])[:8]}"


def _sweep_of_lists(
    tree: Mapping[str, Any], lists: Mapping[str, list[Any]], path: Path
) -> tuple[Experiment, SweepConfig, Path]:
    """The product of ``lists`` over settings that hold them; the experiment has the first value of each."""
    first = deepcopy(dict(tree))
    for place, values in lists.items():
        assign(first, place, values[0])
    return resolve(first, str(path)), SweepConfig(cells={"settings": dict(lists)}), path.with_stem(f"{path.stem}-lists")


def _combinations(group: str, settings: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    """The Cartesian product over a group's lists."""
    where = f"{source}: cells.{group}"
    if not group.strip() or not isinstance(settings, Mapping):
        raise ConfigError(f"{where}: expected a name and settings, found {settings!r}")
    lists = {path: value for path, value in settings.items() if isinstance(value, list)}
    if not lists:
        raise ConfigError(f"{where}: expected at least one setting with a list of values, found none")
    for path, values in lists.items():
        if not values:
            raise ConfigError(f"{where}: {path}: expected a list of values, found an empty one")
    count = math.prod(len(values) for values in lists.values())
    if count > MOST_CELLS:
        raise ConfigError(f"{where}: expected at most {MOST_CELLS} cells, found {count}")
    options = [value if isinstance(value, list) else [value] for value in settings.values()]
    return [dict(zip(settings, values, strict=True)) for values in product(*options)]


def _resolved(base: Experiment, settings: Mapping[str, Any], source: str) -> Experiment:
    # a mapping would be merged into the one that is there, and take nothing away
    emptied = {path: None for path, value in settings.items() if isinstance(value, Mapping)}
    return resolve(override(override(base.resolved(), emptied), settings), source)


def _name(settings: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    """What differs between the cells of a group, as ``fusion=early nhead=4``; of a single cell, what its lists say.

    >>> _name({"model.fusion": "early", "data.modalities": ["hand", "chest"]}, {"data.modalities": [["hand", "chest"]]})
    'modalities=hand+chest'
    """
    lists = [path for path in settings if isinstance(group.get(path), list)]
    told = [path for path in lists if len(group[path]) > 1] or lists
    leaves = Counter(path.rpartition(".")[2] for path in told)
    parts = []
    for path in told:
        leaf = path.rpartition(".")[2]
        parts.append(f"{leaf if leaves[leaf] == 1 else path}={_shown(settings[path])}")
    return " ".join(parts)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(_shown, value)) or "none"
    if isinstance(value, Mapping):
        return "+".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _refuse_twice(names: Sequence[tuple[str, str]], source: str) -> None:
    for group, name in names:
        if names.count((group, name)) > 1:
            raise ConfigError(f"{source}: cells.{group}: expected cells of different names, found {name!r} twice")


def _folder(name: str) -> str:
    """A name of a folder; one that has to be changed carries a hash of what it was.

    >>> _folder("fusion=early nhead=4"), _folder("a/b")[:4]
    ('fusion=early nhead=4', 'a_b-')
    """
    safe = _REFUSED.sub("_", name).strip().lstrip(".")[:LONGEST_FOLDER]
    return safe if safe and safe == name else f"{safe}-{content_hash(name)[:8]}"
