"""Settings of embeddings per modality in HDF5 files, and the names that these files use."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from fusion_lab.config import Config
from fusion_lab.data.names import usable_names

MODALITIES = ("clinical", "temporal", "pathological", "semantic", "spatial")
"""The order of modalities; others follow by name."""

SUFFIXES = (".h5", ".hdf5", ".he5")

ID_KEYS = ("patient_id", "patient_index_map", "patient_ids", "ids", "id")
EMBEDDING_KEYS = (
    "embedding_512",
    "embedding_mean_512",
    "text_combined_embedding_512",
    "features_mean",
    "embedding",
    "embeddings",
    "features",
    "feature",
)
QUALITY_KEYS = ("quality_score", "quality", "modality_quality", "quality_scores")
"""What data sets may be called: of these, the first that a file has."""

OBSERVED, PATCHES = "observed", "n_patches"
FEATURE_NAMES, FEATURE_KINDS, ORIGINAL_NAMES = "feature_names", "feature_kinds", "orig_feature_names"
ENCODER = "encoder"
"""A file's attribute: how the embedding was made."""

LABEL_SUFFIX, MASK_SUFFIX = "_label", "_known_mask"


class KnownLabel(NamedTuple):
    """What a label of the reference files means: ``classes`` are those of 0 and 1."""

    task: str
    classes: tuple[str, str]
    mask: str


KNOWN_LABELS = {
    "surv_5yr_label": KnownLabel("survival", ("dead within 5 years", "alive at 5 years"), "surv_known_mask"),
    "rec_2yr_label": KnownLabel(
        "recurrence", ("free of recurrence at 2 years", "recurrence within 2 years"), "rec_known_mask"
    ),
}


class FileConfig(Config):
    """Where a modality lies whose file, or a data set in it, is called otherwise than expected; ``ignore`` names
    features to leave out.
    """

    file: str | None = None  # in the data folder; default: the name of the modality and .h5, .hdf5 or .he5
    ids: str | None = None
    embedding: str | None = None
    quality: str | None = None
    ignore: tuple[str, ...] = ()


class OutcomeConfig(Config):
    """A label: its data set in the patients' file, which of its values is the positive class, and what 0 and 1 mean."""

    label: str | None = None  # default: the data set that tells this task
    positive: Literal[0, 1] = 1
    classes: tuple[str, str] | None = None  # of 0 and of 1; default: as the file or the reference says

    @model_validator(mode="after")
    def _classes_are_names(self) -> OutcomeConfig:
        for name in self.classes or ():
            if not name.strip() or len(name.splitlines()) > 1:
                raise ValueError(f"classes: expected a name in one line, found {name!r}")
        if self.classes and self.classes[0] == self.classes[1]:
            raise ValueError(f"classes: expected different names, found {self.classes[0]!r} twice")
        return self


class OncologyConfig(Config):
    """A folder with an HDF5 file per modality. The patients of the file ``patients`` are the rows, in its order.

    ``files`` names what is called otherwise, by modality. Of all modalities that are there, ``modalities`` keeps some.
    ``tasks`` chooses among the labels, all by default. ``normalise_ids``: of an id only its first number counts, so
    that "P007" and "7" are one patient.
    """

    domain: Literal["oncology"] = "oncology"
    root: str = "."  # folder of the files; data=FOLDER on the command line
    patients: str = "clinical"
    files: Annotated[dict[str, FileConfig], AfterValidator(usable_names)] = {}
    modalities: tuple[str, ...] | None = Field(default=None, min_length=1)
    tasks: Annotated[dict[str, OutcomeConfig], AfterValidator(usable_names)] = {}
    group: str | None = None  # data set of the patients' file: patients of a group are never split
    normalise_ids: bool = True
    leakage_auroc: float = Field(default=0.98, gt=0.5, le=1)  # a single feature above this is noted

    @model_validator(mode="after")
    def _modalities_are_different(self) -> OncologyConfig:
        names = self.modalities or ()
        if len(set(names)) < len(names):
            raise ValueError(f"modalities: expected each name once, found {', '.join(names)}")
        return self

    def file(self, modality: str) -> FileConfig:
        """The settings of a modality's file."""
        return self.files.get(modality, FileConfig())
