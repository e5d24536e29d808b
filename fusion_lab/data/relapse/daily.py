"""The table of days that ``prepare`` writes: one row per day of a sequence, a column per feature.

``daily.parquet`` has the columns ``patient``, ``sequence`` ("val_0"), ``day`` (int64), ``<modality>__<feature>``
(float32, empty where not measured) and ``label`` (1 in relapse, 0 stable, empty where unknown), in the order of
patient, sequence and day. What it was made from lies in the file itself, so that both are replaced at once;
``metadata.json`` repeats it for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from fusion_lab.config import Config
from fusion_lab.contracts import DataError
from fusion_lab.data.cells import listed
from fusion_lab.data.output import written
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.raw import FILES, LABELS, UNKNOWN, open_parquet, readable
from fusion_lab.data.relapse.settings import BETWEEN, DAILY, DAY_COLUMN, LABEL_COLUMN, SEQUENCE_COLUMN, SUBJECT_COLUMNS

METADATA = "metadata.json"
PATIENT_COLUMN = SUBJECT_COLUMNS[0]
_KEY = b"fusion_lab.prepared"
"""Of what the file itself says of where it comes from."""

_COUNTED = {
    "gaps": "days between a sequence's first and last that are not there",
    "unmeasured": "days with a label and no measurement",
    "unlisted": f"days that {LABELS} leaves out, whose label is unknown",
}
"""What is counted of sequences, in words."""


_SCHEMA = pa.schema(
    [
        (PATIENT_COLUMN, pa.string()),
        (SEQUENCE_COLUMN, pa.string()),
        (DAY_COLUMN, pa.int64()),
        *((f"{modality}{BETWEEN}{name}", pa.float32()) for modality, names in MODALITIES.items() for name in names),
        (LABEL_COLUMN, pa.int8()),
    ]
)


class Original(Config):
    """A raw file, and by what it is known that it has not changed."""

    name: str
    size: int
    modified: int  # nanoseconds


class Prepared(Config):
    """One sequence. ``without``: modalities that have no file. ``notes``: what else was noticed, a sentence each."""

    patient: str
    sequence: str
    days: int = Field(ge=0)
    without: tuple[str, ...] = ()
    gaps: int = 0  # days between the first and the last that are not there
    unmeasured: int = 0  # days with a label alone
    unlisted: int = 0  # days that the file of labels leaves out
    notes: tuple[str, ...] = ()
    originals: tuple[Original, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.patient}/{self.sequence}"


class Metadata(Config):
    """What was prepared. ``version`` rises when the same raw files would give other numbers."""

    version: Literal[1] = 1
    modalities: dict[str, tuple[str, ...]] = MODALITIES
    days: int = 0
    stable: int = 0
    relapse: int = 0
    unlabelled: int = 0
    measured: dict[str, int] = {}  # days by modality
    sequences: tuple[Prepared, ...] = ()
    demographics: tuple[dict[str, str | None], ...] = ()


@dataclass(frozen=True)
class Daily:
    """N days. ``features``: {modality: float32 [N,F]} in the order of :data:`.features.names.MODALITIES`, NaN where not
    measured. ``label``: int8 [N], 1 in relapse, 0 stable, -1 unknown.
    """

    patient: np.ndarray  # str [N]
    sequence: np.ndarray  # str [N]
    day: np.ndarray  # int64 [N]
    features: Mapping[str, np.ndarray]
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.day)

    def take(self, rows: np.ndarray) -> Daily:
        """Some of the days."""
        features = {name: values[rows] for name, values in self.features.items()}
        return Daily(self.patient[rows], self.sequence[rows], self.day[rows], features, self.label[rows])


def together(parts: Sequence[Daily]) -> Daily:
    """Days of several sequences, one after the other."""
    names = ("patient", "sequence", "day", "label")
    patient, sequence, day, label = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    features = {name: np.concatenate([part.features[name] for part in parts]) for name in MODALITIES}
    return Daily(patient, sequence, day, features, label)


def described(
    daily: Daily, sequences: Sequence[Prepared], demographics: tuple[dict[str, str | None], ...] = ()
) -> Metadata:
    """The metadata of some days."""
    return Metadata(
        days=len(daily),
        stable=int((daily.label == 0).sum()),
        relapse=int((daily.label == 1).sum()),
        unlabelled=int((daily.label == UNKNOWN).sum()),
        measured={name: int((~np.isnan(values)).any(axis=1).sum()) for name, values in daily.features.items()},
        sequences=tuple(sequences),
        demographics=demographics,
    )


def noticed(metadata: Metadata) -> tuple[str, ...]:
    """What a reader of scores should know of how days were prepared, a sentence each."""
    notes = []
    for modality, file in FILES.items():
        lacking = [entry for entry in metadata.sequences if modality in entry.without]
        if lacking:
            names = listed([entry.title for entry in lacking])
            days = sum(entry.days for entry in lacking)
            notes.append(f"{file} is missing in {names}: {modality} is on none of {days:,} days")
    for what, words in _COUNTED.items():
        of = [getattr(entry, what) for entry in metadata.sequences]
        if any(of):
            notes.append(f"{words}: {sum(of):,}, in {np.count_nonzero(of)} of {len(of)} sequences")
    return (*notes, *(note for entry in metadata.sequences for note in entry.notes))


def write_daily(path: Path, daily: Daily, metadata: Metadata) -> None:
    """Writes the table, whole or not at all.

    Raises:
        DataError: there is no room, or no right to write there.
    """
    values = np.concatenate([daily.features[modality] for modality in MODALITIES], axis=1)
    columns = (
        pa.array(daily.patient.tolist(), pa.string()),
        pa.array(daily.sequence.tolist(), pa.string()),
        pa.array(daily.day, pa.int64()),
        *(pa.array(column, pa.float32(), from_pandas=True) for column in values.T),
        pa.array(daily.label, pa.int8(), mask=daily.label == UNKNOWN),
    )
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_KEY: metadata.model_dump_json()}))
    with written(path) as half:
        pq.write_table(table, half)


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Writes ``metadata.json``, whole or not at all; raises as :func:`write_daily`."""
    with written(path) as half:
        half.write_text(metadata.model_dump_json(indent=1) + "\n")


def read_daily(path: Path) -> tuple[Daily, Metadata]:
    """What :func:`write_daily` wrote.

    Raises:
        DataError: the file cannot be read, was written by something else, or has been changed since.
    """
    metadata = read_prepared(path)
    with open_parquet(path) as file, readable(path):
        if not file.schema_arrow.equals(_SCHEMA):
            raise DataError(f"{path}: expected the columns that prepare writes, found others")
        table = file.read()
    if len(table) != metadata.days:
        raise DataError(f"{path}: expected the {metadata.days:,} days that prepare wrote, found {len(table):,}")
    features = {
        modality: np.column_stack([_floats(table[f"{modality}{BETWEEN}{name}"]) for name in names])
        for modality, names in MODALITIES.items()
    }
    label = table[LABEL_COLUMN].fill_null(UNKNOWN).to_numpy().astype(np.int8)
    texts = [np.array(table[name].to_pylist(), dtype=str) for name in (PATIENT_COLUMN, SEQUENCE_COLUMN)]
    return Daily(*texts, table[DAY_COLUMN].to_numpy(), features, label), metadata


def read_prepared(path: Path) -> Metadata:
    """What a table that ``prepare`` wrote says of itself, whatever became of its columns since.

    Raises:
        DataError: the file cannot be read, or was written by something else.
    """
    with open_parquet(path) as file:
        known = (file.schema_arrow.metadata or {}).get(_KEY)
    if known is None:
        raise DataError(f"{path}: expected days that prepare wrote, found another table")
    try:
        return Metadata.model_validate_json(known)
    except ValidationError as error:
        found = f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"
        raise DataError(f"{path}: expected days that this version prepared, found {found} (prepare again)") from None


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.float32)  # NaN where empty


__all__ = [
    "DAILY",
    "METADATA",
    "Daily",
    "Metadata",
    "Original",
    "Prepared",
    "described",
    "noticed",
    "read_daily",
    "read_prepared",
    "together",
    "write_daily",
    "write_metadata",
]
