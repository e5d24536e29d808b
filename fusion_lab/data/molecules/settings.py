"""Settings of molecules: their table, what is known of them, where their features come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fusion_lab.config import Config
from fusion_lab.data.cells import Scalar
from fusion_lab.data.molecules.chemistry import FeaturiseConfig
from fusion_lab.data.names import usable_names

FINGERPRINT, DESCRIPTORS, CONFORMERS = MODALITIES = ("fingerprint", "descriptors", "conformers")
CONFORMER = "conformer"

LABEL_FILES = ("labels.csv", "labels.parquet", "compounds.csv", "compounds.parquet")
FEAT2D, FEAT3D, FEAT3D_QM, ARCHIVE = "feat2d_scaled", "feat3d_scaled", "feat3d_qm_scaled", "conformer_bags"
TABLE_ENDINGS = (".csv", ".parquet")

ID_COLUMNS = ("ID", "id", "compound_id", "mol_id")
SMILES_COLUMNS = ("SMILES", "smiles", "curated_SMILES")
FOLD_COLUMN, SPLIT_COLUMN, GROUP_COLUMN = "cv_fold", "split", "scaffold_group"
"""What columns are called usually."""
SCAFFOLD = "scaffold"
"""The group that is made of the structures."""

Name = str | None
"""Of a file or column: ``None`` for the usual one where it is there, "" for none."""


class LabelConfig(Config):
    """A binary task: its column of 0, 1 and unknown cells, which of them is the positive class, what 0 and 1 mean."""

    column: str | None = None  # default: the name of the task
    positive: Literal[0, 1] = 1
    classes: tuple[str, str] = ("negative", "positive")  # of 0 and of 1

    @model_validator(mode="after")
    def _classes_are_names(self) -> LabelConfig:
        for name in self.classes:
            if not name.strip() or len(name.splitlines()) > 1:
                raise ValueError(f"classes: expected a name in one line, found {name!r}")
        if self.classes[0] == self.classes[1]:
            raise ValueError(f"classes: expected different names, found {self.classes[0]!r} twice")
        return self


class MoleculesConfig(Config):
    """A table of molecules, and features from tables, an archive or the structures themselves.

    ======================= ========================================================================================
    labels                  the table: CSV or parquet; columns ``id``, ``smiles``, ``fold``, ``split``, ``group``.
                            Without a column of ids molecules are named by their rows
    tasks                   null: every column of 0, 1 and empty cells that is nothing else
    unknown                 values of labels that stand for an empty cell
    auxiliary               ``{group: {task: column}}``, regressions that help the others learn
    weights                 ``{column: [tasks]}``: how much a molecule counts in these tasks' losses
    locked                  values of ``split`` whose molecules no fold sees
    group                   a column, or "scaffold": Bemis-Murcko scaffolds, each acyclic molecule by itself
    source                  where features come from; null: ``featurise`` where it is set, else what is there
    featurise               from the structures, with RDKit
    rows                    which molecules are the rows where only some have features
    sample                  about so many molecules, with the same shares of labels
    ======================= ========================================================================================
    """

    domain: Literal["molecules"] = "molecules"
    root: str = "."  # folder of the files; data=FOLDER on the command line
    labels: str | None = None
    id: Name = None
    smiles: Name = None
    fold: Name = None
    split: Name = None
    group: Name = None
    tasks: Annotated[dict[str, LabelConfig] | None, Field(min_length=1)] = None
    unknown: tuple[Scalar, ...] = ()
    auxiliary: Annotated[dict[str, dict[str, str]], AfterValidator(usable_names)] = {}
    weights: dict[str, tuple[str, ...]] = {}
    locked: tuple[str, ...] = ("leaderboard",)
    source: Literal["tables", "archive", "smiles"] | None = None
    feat2d: Name = None
    feat3d: Name = None
    feat3d_qm: Name = None
    archive: Name = None
    ignore: tuple[str, ...] = ()  # columns of feature tables that are no features
    featurise: FeaturiseConfig | None = None
    most_failed: float = Field(default=0.05, ge=0, le=1)  # share of structures without features that is put up with
    modalities: tuple[Literal["fingerprint", "descriptors", "conformers"], ...] | None = Field(None, min_length=1)
    rows: Literal["all", "with_features"] = "with_features"
    sample: int | None = Field(default=None, ge=2)
    sample_seed: int = Field(default=0, ge=0)
    leakage_auroc: float = Field(default=0.98, gt=0.5, le=1)  # a single feature above this is noted

    @model_validator(mode="after")
    def _tasks_are_named_once(self) -> MoleculesConfig:
        names = Counter(self.task_columns())
        usable_names(dict.fromkeys(names))
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"auxiliary: expected a name of its own for each task, found {name!r} twice")
        for group, tasks in self.auxiliary.items():
            if not tasks:
                raise ValueError(f"auxiliary.{group}: expected at least one task, found none")
        weighted = Counter(task for tasks in self.weights.values() for task in tasks)
        for name, count in weighted.items():
            if count > 1:
                raise ValueError(f"weights: expected one column of weights per task, found two of {name!r}")
        return self

    @model_validator(mode="after")
    def _source_fits(self) -> MoleculesConfig:
        if self.featurise is not None and self.source not in (None, "smiles"):
            raise ValueError(f"featurise: expected none with source {self.source}, found some")
        if len(set(self.modalities or ())) < len(self.modalities or ()):
            raise ValueError(f"modalities: expected each once, found {', '.join(self.modalities or ())}")
        return self

    def task_columns(self) -> Iterator[str]:
        """The names of all tasks that the settings name."""
        yield from self.tasks or {}
        for tasks in self.auxiliary.values():
            yield from tasks

    def keeps(self, modality: str) -> bool:
        """Whether the settings want a modality."""
        return self.modalities is None or modality in self.modalities
