"""Settings of a data set in files."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from fusion_lab.config import Config, nearest
from fusion_lab.data.encoding import ModalityConfig
from fusion_lab.data.labels import TaskConfig
from fusion_lab.data.names import usable_names


class Clock(NamedTuple):
    """Sequences of one length whose position t is the same moment, the tasks that join them, and T where declared."""

    sequences: tuple[str, ...]
    tasks: tuple[str, ...]
    length: int | None


class TargetsConfig(Config):
    """The table of targets. Its ids are the rows of the data set, in its order.

    Without a file, which takes a task per step in every task, the rows are the ids of the first task's first sequence.
    """

    file: str | None = None
    key: str | None = None
    id: str | None = None
    tasks: Annotated[dict[str, TaskConfig], AfterValidator(usable_names)] = Field(min_length=1)

    @model_validator(mode="after")
    def _file_fits(self) -> TargetsConfig:
        if self.file is None:
            for name, task in self.tasks.items():
                if task.steps is None:
                    raise ValueError(f"file: expected the table of task {name!r}, which has no steps, found none")
            for setting in ("key", "id"):
                if getattr(self, setting) is not None:
                    raise ValueError(f"{setting}: expected none without a file, found {getattr(self, setting)!r}")
        return self


class TableConfig(Config):
    """A data set in files. The targets' ids are its rows; a modality's rows with other ids are left out.

    ``use``: the modalities that are read, of those described; all of them unless given.
    """

    domain: Literal["table"] = "table"
    root: str = "."  # folder of the files; data=FOLDER on the command line
    id: str
    targets: TargetsConfig
    modalities: Annotated[dict[str, ModalityConfig], AfterValidator(usable_names)] = Field(min_length=1)
    use: tuple[str, ...] | None = Field(default=None, min_length=1)
    group: str | None = None  # column of the targets table: rows of a group are never split
    ids: Literal["plain", "hash"] = "plain"  # hash: neither appears in any output; errors do name them
    leakage_auroc: float = Field(default=0.98, gt=0.5, le=1)  # a single feature above this is noted

    @model_validator(mode="after")
    def _used(self) -> TableConfig:
        """Leaves out the modalities that are not used, so that nothing else need know of them."""
        use = self.use or tuple(self.modalities)
        unknown = next((name for name in use if name not in self.modalities), None)
        if unknown is not None:
            raise ValueError(
                f"use: expected names of modalities, found {unknown!r}{nearest(unknown, [*self.modalities])}"
            )
        used = {name: settings for name, settings in self.modalities.items() if name in use}
        object.__setattr__(self, "modalities", used)  # settings are frozen once they are made
        return self

    @model_validator(mode="after")
    def _steps_fit(self) -> TableConfig:
        sequences = [name for name, modality in self.modalities.items() if modality.kind == "sequence"]
        for name, task in self.targets.tasks.items():
            for step in task.steps or ():
                if step not in sequences:
                    where = f"targets.tasks.{name}.steps"
                    raise ValueError(
                        f"{where}: expected modalities of kind sequence, found {step!r}{nearest(step, sequences)}"
                    )
        for clock in self.clocks():
            lengths = {name: self.modalities[name].length for name in clock.sequences}
            declared = {name: length for name, length in lengths.items() if length is not None}
            if len(set(declared.values())) > 1:
                found = ", ".join(f"{length} of {name}" for name, length in declared.items())
                where = f"targets.tasks.{clock.tasks[0]}.steps"
                raise ValueError(f"{where}: expected sequences of one length, found {found}")
        return self

    def clocks(self) -> list[Clock]:
        """The sequences that share a clock because a task names them together, or that share it with a third."""
        joined: list[tuple[set[str], list[str]]] = []
        for name, task in self.targets.tasks.items():
            if task.steps:
                touching = [clock for clock in joined if clock[0] & set(task.steps)]
                joined = [clock for clock in joined if clock not in touching]
                sequences = set(task.steps).union(*(clock[0] for clock in touching))
                joined.append((sequences, [*(t for clock in touching for t in clock[1]), name]))
        made = []
        for members, tasks in joined:
            ordered = tuple(name for name in self.modalities if name in members)
            lengths = [self.modalities[name].length for name in ordered]
            made.append(Clock(ordered, tuple(tasks), next((length for length in lengths if length), None)))
        return made

    def label_place(self, task: TaskConfig) -> TaskConfig:
        """A task per step with its file and the rest of its place filled in from the first of its sequences."""
        assert task.steps
        first = self.modalities[task.steps[0]]
        update = {"id": task.id or first.id or self.id, "time": task.time or first.time}
        if task.file is None:
            update |= {"file": first.file, "valid": task.valid or first.valid}
            if task.key is None:
                update["key"] = first.key
        return task.model_copy(update=update)

    @property
    def rows_from(self) -> str | None:
        """The sequence whose ids are the rows where there is no table of targets."""
        if self.targets.file is not None:
            return None
        steps = next(iter(self.targets.tasks.values())).steps
        assert steps
        return steps[0]
