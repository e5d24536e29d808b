"""The table of molecules: who they are, what is known of them, how the file splits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, Task
from fusion_lab.data.cells import as_number, listed, read_numbers, spelled, words_of
from fusion_lab.data.molecules.settings import (
    FOLD_COLUMN,
    GROUP_COLUMN,
    ID_COLUMNS,
    LABEL_FILES,
    SCAFFOLD,
    SMILES_COLUMNS,
    SPLIT_COLUMN,
    LabelConfig,
    MoleculesConfig,
)
from fusion_lab.data.names import usable_names
from fusion_lab.data.readers import Table, as_text, clipped, data_folder, existing_file, quoted, read_ids, read_table
from fusion_lab.data.splits import LOCKED, SPLITS

BY_ROW = "molecules have no column of ids and are named by their rows"
_CODES = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
_NO_TASKS = {FOLD_COLUMN, SPLIT_COLUMN, GROUP_COLUMN, "fold", "group", "conf_id", "record_index", "status", "error"}
"""Columns that are no task whatever they hold."""
FEW_ODD = 0.05
"""Share of the filled cells of a column that may be words for it to be one of labels with faults in it."""


class Target(NamedTuple):
    """A task and its column over R molecules: float32 ``[R]``, 0 where not ``known``, bool ``[R]``."""

    task: Task
    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Compounds:
    """R molecules. ``line`` int [R]: the record of the table that each was read from; ``named``: whether the table has
    ids, which are else the numbers of its rows.
    """

    table: Table
    line: np.ndarray
    ids: np.ndarray  # str [R]
    smiles: np.ndarray | None  # str [R]
    targets: tuple[Target, ...] = ()
    emphasis: Mapping[str, np.ndarray] | None = None  # float32 [R] of each task that has any
    fold: np.ndarray | None = None  # str [R]
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    named: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray, *notes: str) -> Compounds:
        """Some of the molecules, int [R'], and what is to be said of it."""
        columns = {name: getattr(self, name) for name in ("line", "ids", "smiles", "fold", "split", "group")}
        return replace(
            self,
            targets=tuple(Target(task, values[rows], known[rows]) for task, values, known in self.targets),
            emphasis={task: weights[rows] for task, weights in (self.emphasis or {}).items()},
            notes=(*self.notes, *notes),
            **{name: column if column is None else column[rows] for name, column in columns.items()},
        )


def read_compounds(config: MoleculesConfig, labelled: bool = True) -> Compounds:
    """Reads the table. A molecule that is there twice with one structure and the same labels is taken once.

    Not ``labelled``: ids and structures alone.

    Raises:
        DataError: the table or a column is missing, a cell cannot be used, or one id is of two molecules.
    """
    table = label_table(config)
    id_column, smiles_column = _chosen(table, config.id, ID_COLUMNS), smiles_of(config, table)
    named = np.arange(1, len(table.frame) + 1).astype(str) if id_column is None else read_ids(table, id_column, False)
    smiles = None if smiles_column is None else _structures(table, smiles_column)
    found = Compounds(table, np.arange(len(named)), named, smiles, named=id_column is not None)
    if not found.named:
        found = replace(found, notes=(BY_ROW,))
    used = [smiles_column]
    if labelled:
        fold, split, group = _split_columns(config, table)
        columns, notes = _task_columns(config, table, {id_column, smiles_column, fold, split, group})
        targets = _targets(config, table, columns)
        emphasis, raised = _emphasis(config, table, targets)
        splits = None if split is None else _splits(config, table, split)
        found = replace(
            found,
            targets=targets,
            emphasis=emphasis,
            split=splits,
            fold=None if fold is None else _folds(table, fold, splits),
            group=None if group is None else _words(table, group, "a group"),
            notes=(*found.notes, *notes, *raised),
        )
        used += [fold, split, group, *columns.values(), *config.weights]
        used += [column for tasks in config.auxiliary.values() for column in tasks.values()]
    return _once(found, [column for column in dict.fromkeys(used) if column is not None], id_column)


def label_table(config: MoleculesConfig) -> Table:
    """The table of molecules.

    Raises:
        DataError: there is none.
    """
    root = data_folder(config.root)
    if config.labels is not None:
        return read_table(root, config.labels)
    there = [name for name in LABEL_FILES if (root / name).exists()]
    if len(there) > 1:
        raise DataError(
            f"{root}: expected one table of molecules, found {' and '.join(there)} (choose with data.labels)"
        )
    if not there:
        others = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
        if root.is_dir():
            found = listed(others) if others else "an empty folder"
            expected = f"expected a table of molecules, {', '.join(LABEL_FILES)}"
            raise DataError(f"{root}: {expected}, found {found} (name it with data.labels)")
        existing_file(root, LABEL_FILES[0])
    return read_table(root, there[0])


def smiles_of(config: MoleculesConfig, table: Table) -> str | None:
    """The column of structures."""
    return _chosen(table, config.smiles, SMILES_COLUMNS)


def _chosen(table: Table, given: str | None, usual: Sequence[str]) -> str | None:
    """The column that is named, the first of the usual ones, or none."""
    if given:
        table.require([given], "named in the settings")
        return given
    return next((name for name in usual if name in table.frame.columns), None) if given is None else None


def _structures(table: Table, column: str) -> np.ndarray:
    return _words(table, column, "a structure (SMILES)")


def _words(table: Table, column: str, what: str) -> np.ndarray:
    """A column of text without gaps, str [R]."""
    words = as_text(table.frame[column])
    _refuse_gaps(table, column, words, what, np.ones(len(words), bool))
    return words.astype(str)


def _refuse_gaps(table: Table, column: str, words: np.ndarray, what: str, needed: np.ndarray) -> None:
    empty = np.flatnonzero(np.fromiter((word is None for word in words), bool, len(words)) & needed)
    if len(empty):
        more = f" ({len(empty)} such rows)" if len(empty) > 1 else ""
        raise DataError(f"{table.place(int(empty[0]), column)}: expected {what}, found an empty cell{more}")


def _split_columns(config: MoleculesConfig, table: Table) -> tuple[str | None, str | None, str | None]:
    """Of folds, splits and groups."""
    fold, split = _chosen(table, config.fold, (FOLD_COLUMN,)), _chosen(table, config.split, (SPLIT_COLUMN,))
    return fold, split, None if config.group == SCAFFOLD else _chosen(table, config.group, (GROUP_COLUMN,))


def _splits(config: MoleculesConfig, table: Table, column: str) -> np.ndarray:
    """What each molecule is for, "holdout" where it is locked away."""
    words = _words(table, column, "a split")
    locked = np.isin(words, [*config.locked, LOCKED])
    odd = np.flatnonzero(~locked & ~np.isin(words, SPLITS))
    if len(odd):
        expected = ", ".join([*SPLITS, *config.locked])
        hint = f"(what is to be locked away is named in data.locked, {len(odd)} such rows)"
        found = quoted(words[odd[0]])
        raise DataError(f"{table.place(int(odd[0]), column)}: expected a split of {expected}, found {found} {hint}")
    return np.where(locked, LOCKED, words)


def _folds(table: Table, column: str, splits: np.ndarray | None) -> np.ndarray:
    """The fold that each molecule tests; "" of one that is locked away."""
    words = as_text(table.frame[column])
    needed = np.ones(len(words), bool) if splits is None else splits != LOCKED
    _refuse_gaps(table, column, words, "a fold of every molecule that is not locked away", needed)
    return np.where(needed, words, "").astype(str)


def _task_columns(
    config: MoleculesConfig, table: Table, taken: set[str | None]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The column of each binary task, and what is to be said of the others.

    Raises:
        DataError: one is missing, or there is none at all.
    """
    if config.tasks is not None:
        columns = {name: settings.column or name for name, settings in config.tasks.items()}
        for name, column in columns.items():
            table.require([column], f"task {name!r}")
        return columns, ()
    taken |= {*_NO_TASKS, *ID_COLUMNS, *SMILES_COLUMNS, *config.weights}
    taken |= {column for tasks in config.auxiliary.values() for column in tasks.values()}
    free = [name for name in table.frame.columns if name not in taken]
    found = {name: _label_set(config, table, name) for name in free}
    names = [name for name in free if found[name] and found[name] <= set(_CODES)]
    mixed = [name for name in free if {_CODES.get(word) for word in found[name]} == {0.0, 1.0, None}]
    beside = {name: odd for name in mixed if (odd := _odd_labels(config, table, name))}
    if not names:
        columns = listed(free) or "none"
        raise DataError(
            f"{table.path}: expected a column of 0, 1 and empty cells per task, found none among the other columns: "
            f"{columns} (name the tasks with data.tasks)"
        )
    for name in names:
        try:
            usable_names({name: name})
        except ValueError as error:
            raise DataError(f"{table.path}: column {quoted(name)}: {error} (name it with data.tasks)") from None
    empty = [name for name in free if not found[name]]
    notes = [f"columns that hold nothing are no tasks: {listed(empty)}"] if empty else []
    if beside:
        told = [f"{clipped(name)} ({quoted(odd)})" for name, odd in beside.items()]
        shown = f"{', '.join(told[:6])}{f' and {len(told) - 6} more' if len(told) > 6 else ''}"
        notes.append(f"columns of 0, 1 and something else are no tasks: {shown}")
    return {name: name for name in names}, tuple(notes)


def _odd_labels(config: MoleculesConfig, table: Table, column: str) -> str:
    """What a column that holds 0, 1 and something else holds beside, if most of its cells are 0 or 1; else "".

    Raises:
        DataError: it is a word in few of its cells: a fault among labels, for which a task would go unseen.
    """
    words = _label_words(config, table, column)
    filled = [row for row, word in enumerate(words) if word is not None]
    odd = [row for row in filled if words[row] not in _CODES]
    word = next((row for row in odd if as_number(words[row]) is None), None)
    if word is not None and len(odd) <= FEW_ODD * len(filled):
        expected = f"expected 0, 1 or an empty cell, as in {len(filled) - len(odd)} of {len(filled)} rows"
        hint = "(name the tasks with data.tasks, values that mean not known with data.unknown)"
        raise DataError(f"{table.place(word, column)}: {expected}, found {quoted(words[word])} {hint}")
    return str(words[odd[0]]) if 2 * len(odd) <= len(filled) else ""


def _label_set(config: MoleculesConfig, table: Table, column: str) -> set[str]:
    """The different words of a column."""
    return {word for word in _label_words(config, table, column) if word is not None}


def _label_words(config: MoleculesConfig, table: Table, column: str) -> np.ndarray:
    cells = table.frame[column]
    return words_of(cells, spelled(config.unknown, [cells]) if config.unknown else ())


def _targets(config: MoleculesConfig, table: Table, columns: Mapping[str, str]) -> tuple[Target, ...]:
    """All tasks, auxiliary ones last."""
    made = [
        _binary(config, table, name, column, (config.tasks or {}).get(name, LabelConfig()))
        for name, column in columns.items()
    ]
    for group, tasks in config.auxiliary.items():
        for name, column in tasks.items():
            table.require([column], f"auxiliary task {name!r}")
            if name in columns:
                raise DataError(
                    f"{table.path}: expected a name of its own for auxiliary task {name!r}, found a task of it"
                )
            values, known = read_numbers(table, [column], config.unknown)
            _require_known(table, column, name, known[:, 0])
            made.append(Target(Task(name, "regression", auxiliary=group), values[:, 0], known[:, 0]))
    return tuple(made)


def _binary(config: MoleculesConfig, table: Table, name: str, column: str, settings: LabelConfig) -> Target:
    words = _label_words(config, table, column)
    for row, word in enumerate(words):
        if word is not None and word not in _CODES:
            raise DataError(
                f"{table.place(row, column)}: expected 0, 1 or an empty cell of task {name!r}, found {quoted(word)} "
                "(name values that mean not known with data.unknown)"
            )
    known = np.fromiter((word is not None for word in words), bool, len(words))
    _require_known(table, column, name, known)
    codes = np.fromiter((_CODES.get(word, 0.0) for word in words), np.float32, len(words))
    zero, one = settings.classes
    if settings.positive == 0:
        return Target(Task(name, "binary", (one, zero)), np.where(known, 1 - codes, 0), known)
    return Target(Task(name, "binary", (zero, one)), codes, known)


def _require_known(table: Table, column: str, name: str, known: np.ndarray) -> None:
    if not known.any():
        expected = f"expected known labels of task {name!r}"
        raise DataError(f"{table.path}: column {quoted(column)}: {expected}, found {len(known)} empty cells")


def _emphasis(
    config: MoleculesConfig, table: Table, targets: Sequence[Target]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Weights, 1 where there is none and never below 0; and how many were raised to 0."""
    of_task = {target.task.name: target for target in targets}
    emphasis, notes = {}, []
    for column, tasks in config.weights.items():
        table.require([column], "the weights")
        values, known = read_numbers(table, [column], ())
        if not known.any():
            raise DataError(f"{table.path}: column {quoted(column)}: expected weights, found {len(known)} empty cells")
        weights = np.where(known[:, 0], values[:, 0], 1.0).astype(np.float32)
        if (weights < 0).any():
            notes.append(f"weights of {column!r}: {int((weights < 0).sum())} below 0 count as 0")
        for name in tasks:
            if name not in of_task:
                raise DataError(f"{table.path}: expected a task {name!r} (data.weights), found {listed(list(of_task))}")
            if not (weights[of_task[name].known] > 0).any():
                raise DataError(f"{table.path}: column {quoted(column)}: expected a weight above 0, found none")
            emphasis[name] = np.maximum(weights, 0)
    return emphasis, tuple(notes)


def _once(found: Compounds, columns: Sequence[str], id_column: str | None) -> Compounds:
    """Each molecule once.

    Raises:
        DataError: two rows of one id differ in one of the ``columns``.
    """
    _, first = np.unique(found.ids, return_index=True)
    if len(first) == len(found):
        return found
    assert id_column is not None
    place = {found.ids[row]: row for row in sorted(first.tolist())}
    again = np.array([row for row, name in enumerate(found.ids.tolist()) if place[name] != row])
    before = np.array([place[name] for name in found.ids[again].tolist()])
    for column in columns:
        cells = found.table.frame[column]
        one, other = as_text(cells.iloc[before]), as_text(cells.iloc[again])
        differ = np.flatnonzero(one != other)
        if len(differ):
            at = int(differ[0])
            told = f"expected {quoted(one[at])} as in {found.table.line(int(before[at]))} of the same id"
            raise DataError(
                f"{found.table.place(int(again[at]), column)}: {told} {quoted(found.ids[again[at]])}, "
                f"found {quoted(other[at])}"
            )
    note = f"{len(again)} rows of {found.table.name} repeat a molecule, labels and all, and count once"
    return found.take(np.sort(first), note)


def shared_structures(compounds: Compounds) -> Iterator[str]:
    """A note on structures that several groups have, or several molecules where there are no groups: what is known of
    one molecule tells of the same one under another name.
    """
    if compounds.smiles is None:
        return
    keys = compounds.ids if compounds.group is None else compounds.group
    kinds, of_row = np.unique(compounds.smiles, return_inverse=True)
    owners = np.unique(np.column_stack([of_row, np.unique(keys, return_inverse=True)[1]]), axis=0)
    shared = int((np.bincount(owners[:, 0], minlength=len(kinds)) > 1)[of_row].sum())
    if shared:
        of = "another id" if compounds.group is None else "another group"
        yield f"{shared} molecules have the same structure as one of {of}: they may be in train and test at once"


def class_counts(targets: Sequence[Target]) -> Iterator[str]:
    """How many molecules are of each class, a line per task."""
    for task, values, known in targets:
        unknown = f", {int((~known).sum())} unknown" if not known.all() else ""
        if task.kind == "binary":
            positive, count = int(values[known].sum()), int(known.sum())
            share = f" ({positive / count:.2%})" if count else ""
            yield f"{task.name}: {positive} of {count} {task.classes[1]}{share}{unknown}"
        elif unknown:
            yield f"{task.name}: {int(known.sum())} known{unknown}"
