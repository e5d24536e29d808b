"""Labels of the targets table, or per step of a long one: class codes or values, and where they are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import model_validator

from fusion_lab.config import Config
from fusion_lab.contracts import DataError, Task, TaskKind
from fusion_lab.data.cells import Scalar, in_order, listed, read_numbers, spelled, spelling, words_of
from fusion_lab.data.readers import Table, quoted


class TaskConfig(Config):
    """One target: a column of the targets table. An empty cell, or one holding a value of ``unknown``, is unknown.

    With ``steps``, names of sequences, there is a target per time step. Its column lies in a long table, by default the
    file of the first of them; the next four settings are by default that sequence's, too.
    """

    column: str | None = None
    steps: list[str] | None = None
    file: str | None = None
    key: str | None = None  # group of an HDF5 file; of labels [R,T] the array in place of a column
    id: str | None = None
    time: str | None = None
    valid: str | None = None
    kind: TaskKind = "binary"
    positive: Scalar | None = None  # a binary task's value of the positive class
    classes: dict[str, str] = {}  # value in the file: name of the class, in the order of the codes
    unknown: list[Scalar] = []

    @property
    def label(self) -> str:
        """Name of the labels' column or array."""
        name = self.column or self.key
        assert name is not None
        return name

    @model_validator(mode="after")
    def _place_fits(self) -> TaskConfig:
        if self.steps is None:
            for setting in ("file", "key", "id", "time", "valid"):
                if getattr(self, setting) is not None:
                    raise ValueError(f"{setting}: expected none of a task without steps")
        elif not self.steps or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"steps: expected different sequences, one at least, found {self.steps}")
        if self.column is None and (self.steps is None or self.key is None):
            raise ValueError("column: expected a value, found none")
        return self

    @model_validator(mode="after")
    def _classes_fit(self) -> TaskConfig:
        if (self.kind == "binary") != (self.positive is not None):
            expected = (
                "the value of the positive class"
                if self.kind == "binary"
                else f"no positive class of a {self.kind} task"
            )
            raise ValueError(f"positive: expected {expected}, found {self.positive!r}")
        if self.kind == "binary" and len(self.classes) not in (0, 2):
            raise ValueError(f"classes: expected two classes of a binary task, found {len(self.classes)}")
        if self.kind == "regression" and self.classes:
            raise ValueError("classes: expected none of a regression task")
        if len(set(self.classes.values())) < len(self.classes):
            raise ValueError(f"classes: expected different names, found {list(self.classes.values())}")
        for value, name in self.classes.items():
            if not name.strip() or len(name.splitlines()) > 1:
                raise ValueError(f"classes.{value}: expected a name in one line, found {name!r}")
        return self


@dataclass(frozen=True)
class EncodedTask:
    """A target over the lines of its file: class code or value float32 ``[lines]``, and where it is known."""

    task: Task
    values: np.ndarray
    known: np.ndarray
    notes: tuple[str, ...] = ()


def encode_task(name: str, config: TaskConfig, table: Table) -> EncodedTask:
    """Labels of a table.

    Raises:
        DataError: the column is missing, a value is none of the declared, or the positive value does not occur.
    """
    cells = table.column(config.label, f"task {name!r}")
    steps = tuple(config.steps or ())
    if config.kind == "regression":
        values, observed = read_numbers(table, [config.label], config.unknown)
        return EncodedTask(Task(name, "regression", steps=steps), values[:, 0], observed[:, 0])
    words = words_of(cells, spelled(config.unknown, [cells]))
    found = in_order(words)
    values, names = _classes(name, config, table, words, found)
    codes = {value: float(code) for code, value in enumerate(values)}
    known = np.array([word is not None for word in words])
    labels = np.array([codes.get(word, 0.0) for word in words], dtype=np.float32)
    absent = [label for value, label in zip(values, names, strict=True) if value not in found]
    notes = tuple(f"task {name!r}: no {'step' if steps else 'row'} of class {label!r}" for label in absent)
    return EncodedTask(Task(name, config.kind, tuple(names), steps), labels, known, notes)


def _classes(
    name: str, config: TaskConfig, table: Table, words: np.ndarray, found: list[str]
) -> tuple[list[str], list[str]]:
    """Values in the order of their codes, and the classes' names."""
    where = f"{table.path}: column {config.label!r}: task {name!r}"
    if not found:
        raise DataError(f"{where}: expected known labels, found none")
    declared = {spelling(value, found): label for value, label in config.classes.items()}
    values = list(declared) or found
    if config.kind == "binary":
        positive = spelling(config.positive, found)
        if positive not in found:
            raise DataError(f"{where}: expected the positive value {quoted(positive)} to occur, found {listed(found)}")
        if declared and positive not in declared:
            raise DataError(
                f"{where}: expected the positive value {quoted(positive)} among the classes {listed(list(declared))}"
            )
        others = [value for value in values if value != positive]
        if not others:
            raise DataError(f"{where}: expected two classes among the known labels, found only {quoted(positive)}")
        if not declared and len(others) > 1:
            _refuse_third(name, config, table, words, found)
        values = [others[0], positive]
    for row, word in enumerate(words):
        if word is not None and word not in values:
            expected = " or ".join(map(quoted, values[:6])) + (" or another class" if len(values) > 6 else "")
            raise DataError(
                f"{table.place(row, config.label)}: expected {expected} of {config.kind} task {name!r}, "
                f"found {quoted(word)}"
            )
    return values, [declared.get(value, value) for value in values]


def _refuse_third(name: str, config: TaskConfig, table: Table, words: np.ndarray, found: list[str]) -> None:
    """Names the first line with another value than the positive one and its first companion, and all values: which of
    them is odd, nobody has said.
    """
    positive = spelling(config.positive, found)
    first = next(word for word in words if word not in (None, positive))
    row = next(row for row, word in enumerate(words) if word not in (None, positive, first))
    expected = " or ".join(quoted(word) for word in found if word in (positive, first))
    raise DataError(
        f"{table.place(row, config.label)}: expected {expected} of {config.kind} task {name!r}, "
        f"found {quoted(words[row])} as one of {len(found)} values: {listed(found)} "
        "(name those that mean not known with unknown)"
    )
