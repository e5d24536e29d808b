"""Settings of daily wearable data: where days come from, whose they are, what is predicted of each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fusion_lab.config import Config
from fusion_lab.data.cells import Scalar, cell_text
from fusion_lab.data.names import usable_names
from fusion_lab.data.relapse.features.names import MODALITIES

SUBJECT_COLUMNS = ("patient", "subject", "patient_id", "subject_id")
SEQUENCE_COLUMN, DAY_COLUMN, DATE_COLUMN, SPLIT_COLUMN, LABEL_COLUMN = "sequence", "day", "date", "split", "label"
"""What columns are called usually."""
BETWEEN = "__"
"""Between a modality and a feature in the name of a column."""
DAILY = "daily.parquet"
WEEKDAY, WEEKDAYS = "weekday", ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""Name and features of the modality of the calendar."""
RELAPSE = "relapse"
SPLITS = ("train", "val", "test")
FURTHEST = 10_000_000
"""Days are counted within this of day 0."""

Name = str | None
"""Of a column: ``None`` for the usual one where it is there, "" for none."""


class DayLabel(Config):
    """A binary task: its column of 0, 1 and unknown cells, which of them is the positive class, what both are called.

    An empty cell is unknown, and so is one that holds a value of ``unknown``. ``auxiliary``: the group of tasks that
    are trained and scored, and decide nothing.
    """

    column: str | None = None  # default: the name of the task
    positive: Scalar = 1
    negative: Scalar = 0
    unknown: tuple[Scalar, ...] = (-1,)
    classes: tuple[str, str] = ("no", "yes")  # of the negative and of the positive value
    auxiliary: str = ""

    @model_validator(mode="after")
    def _tell_apart(self) -> DayLabel:
        values = [cell_text(value) for value in (self.negative, self.positive, *self.unknown)]
        if len(set(values)) < len(values):
            found = ", ".join(map(str, values))
            raise ValueError(f"expected different values of negative, positive and unknown cells, found {found}")
        for name in self.classes:
            if not name.strip() or len(name.splitlines()) > 1:
                raise ValueError(f"classes: expected a name in one line, found {name!r}")
        if self.classes[0] == self.classes[1]:
            raise ValueError(f"classes: expected different names, found {self.classes[0]!r} twice")
        return self


class TwinConfig(Config):
    """Days that are made up, see :mod:`.twin`. ``signal`` scales what precedes a relapse: 0 leaves nothing to learn.

    Every patient has a sequence ``train_0`` of ``stable_days`` without a relapse, and two sequences each of val and
    test, ``watched_days`` long. ``gaps`` is the share of days that are not there at all, ``missing`` that of a day's
    modalities, ``cells`` that of single features. ``apart``: how far patients differ, in daily deviations.
    """

    patients: int = Field(9, ge=3)
    stable_days: int = Field(30, ge=8)
    watched_days: int = Field(30, ge=16)
    widths: Annotated[dict[str, int], AfterValidator(usable_names)] = Field(
        {name: len(features) for name, features in MODALITIES.items()}, min_length=1
    )
    signal: float = Field(1.0, ge=0.0, le=10.0)
    apart: float = Field(2.0, ge=0.0, le=100.0)
    gaps: float = Field(0.08, ge=0.0, lt=0.5)
    missing: float = Field(0.12, ge=0.0, lt=0.9)
    cells: float = Field(0.02, ge=0.0, lt=0.9)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _have_features(self) -> TwinConfig:
        for name, width in self.widths.items():
            if width < 1:
                raise ValueError(f"widths.{name}: expected at least 1 feature, found {width}")
        return self


class RelapseConfig(Config):
    """Windows of ``window`` calendar days, each ending at a day whose label is to be told from them.

    ============== ================================================================================================
    source         what ``root`` holds: a table of ``daily`` features, fold ``archives``, a ``raw`` sensor tree, which
                   ``prepare`` makes a table of; ``auto``: told from what is there, and without a root the ``twin``
    file           the table: CSV or parquet; columns ``subject``, ``day`` or ``date``, ``sequence``, ``split``
    sequence       a person's days come in several sequences that do not run into each other; of names that begin
                   with train, val or test it is the split, too, unless there is a column of that
    modalities     ``{modality: columns}``; null: a modality of all columns ``<modality>__<feature>``
    use            the modalities that are kept, ``weekday`` among them; null: all
    label, tasks   the column of the one task ``relapse``, or ``{task: ...}``
    zeros_missing  columns in which 0 means that nothing was computed
    context        days without a label are still in the windows of others
    rows           ``labelled``: days with a known label; ``all``: every day
    weekday        a column of weekdays, 0 Monday to 6 Sunday, or of dates: a modality ``weekday`` of seven features,
                   0 or 1
    normalise      values as deviations from a person's own days, see :mod:`.personal`: ``past``, from earlier days;
                   ``patient``, from all unlabelled ones, of protocol loso-transductive alone
    ============== ================================================================================================
    """

    domain: Literal["relapse"] = "relapse"
    root: str | None = None
    source: Literal["auto", "raw", "daily", "archives", "twin"] = "auto"
    file: str = DAILY
    subject: str | None = None
    day: str | None = None
    date: str | None = None
    sequence: Name = None
    split: Name = None
    modalities: Annotated[dict[str, tuple[str, ...]], AfterValidator(usable_names)] | None = Field(None, min_length=1)
    use: tuple[str, ...] | None = Field(None, min_length=1)
    label: str | None = None
    tasks: Annotated[dict[str, DayLabel], AfterValidator(usable_names)] | None = Field(None, min_length=1)
    zeros_missing: tuple[str, ...] = ()
    window: int = Field(7, ge=1, le=366)
    context: bool = True
    rows: Literal["labelled", "all"] = "labelled"
    weekday: str | None = None
    normalise: Literal["none", "past", "patient"] = "none"
    leakage_auroc: float = Field(0.98, gt=0.5, le=1)
    twin: TwinConfig = TwinConfig()

    @model_validator(mode="after")
    def _settings_fit(self) -> RelapseConfig:
        if self.day is not None and self.date is not None:
            raise ValueError(f"day: expected this or date, found both {self.day!r} and {self.date!r}")
        if self.label is not None and self.tasks is not None:
            raise ValueError(f"label: expected this or tasks, found both {self.label!r} and {', '.join(self.tasks)}")
        if self.root is None and self.source not in ("auto", "twin"):
            raise ValueError(f"root: expected a folder where source is {self.source}, found none (data=FOLDER)")
        for name, columns in (self.modalities or {}).items():
            if not columns or len(set(columns)) < len(columns):
                raise ValueError(f"modalities.{name}: expected different columns, one at least, found {list(columns)}")
        if self.use is not None and len(set(self.use)) < len(self.use):
            raise ValueError(f"use: expected each name once, found {', '.join(self.use)}")
        if all(task.auxiliary for task in self.labels.values()):
            raise ValueError("tasks: expected one that is not auxiliary, found none")
        return self

    @property
    def labels(self) -> dict[str, DayLabel]:
        """The tasks, each with its column."""
        if self.tasks is None:
            return {RELAPSE: DayLabel(column=self.label or LABEL_COLUMN, classes=("stable", RELAPSE))}
        return {name: task.model_copy(update={"column": task.column or name}) for name, task in self.tasks.items()}
