"""What lies beside fold archives: how long windows are, what their columns are called, what was done to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fusion_lab.contracts import DataError
from fusion_lab.data.names import usable_names
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.words import clipped, first_line

METADATA = "metadata.json"
PER_PATIENT, BY_PAST = "per patient", "by earlier days"
"""What values of archives were standardised by."""
NORMALISED = "values are as they were when the archives were written"

Made = TypeVar("Made")


@dataclass(frozen=True)
class Metadata:
    """Empty where there is no such file: it is needed for names alone."""

    path: Path | None = None
    length: int | None = None
    widths: dict[str, int] | None = None
    features: dict[str, tuple[str, ...]] | None = None
    normalisation: str = ""
    task: str = ""
    classes: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()

    def layout(self, make: Callable[[int, dict[str, int]], Made]) -> Made | None:
        """Of the length and the widths, where both are known."""
        return None if self.length is None or not self.widths else make(self.length, self.widths)

    def names(self, modality: str, width: int) -> tuple[str, ...]:
        """Names of a modality's columns: those that are told, the usual ones of so many, or numbers."""
        for known in ((self.features or {}).get(modality, ()), MODALITIES.get(modality, ())):
            if len(known) == width:
                return known
        return tuple(f"{modality}_{i}" for i in range(width))

    def told(self) -> tuple[str, ...]:
        """What a reader of scores should know of how archives were made."""
        if self.normalisation in ("none", BY_PAST):
            return self.notes
        how = f" ({self.normalisation})" if self.normalisation else ""
        why = "where that was by each patient's own days, protocols other than loso-transductive are flattered"
        return (*self.notes, f"{NORMALISED}{how}: {why}")


def read_metadata(path: Path) -> Metadata:
    """The metadata of a folder of archives.

    Raises:
        DataError: the file is there and cannot be used.
    """
    if not path.is_file():
        return Metadata()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected readable JSON, found: {first_line(error)}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: expected an object, found {type(tree).__name__}")
    widths = _of(path, tree, "modality_dims", dict, None)
    features = _of(path, tree, "feature_names", dict, None)
    length = _of(path, tree, "window_size", int, None)
    for name, width in (widths or {}).items():
        if type(width) is not int or width < 1:
            raise DataError(f"{path}: modality_dims.{name}: expected a whole number from 1 on, found {width!r}")
    if length is not None and length < 1:
        raise DataError(f"{path}: window_size: expected a whole number from 1 on, found {length}")
    classes = _of(path, tree, "classes", list, None)
    if classes is not None and (len(set(map(str, classes))) != 2 or not all(map(_is_name, classes))):
        raise DataError(f"{path}: classes: expected two names, the negative class first, found {clipped(classes)}")
    for modality, own in (features or {}).items():
        if not isinstance(own, list) or not all(map(_is_name, own)) or len(set(own)) < len(own):
            raise DataError(f"{path}: feature_names.{modality}: expected different names, found {clipped(own)}")
    task = _of(path, tree, "task", str, "")
    check_names(path, [task] if task else [])
    return Metadata(
        path,
        length,
        widths,
        {name: tuple(own) for name, own in features.items()} if features else None,
        str(tree.get("normalisation", tree.get("normalization", ""))),
        task,
        (classes[0], classes[1]) if classes else None,
        tuple(map(str, _of(path, tree, "notes", list, []))),
    )


def check_names(path: Path, names: Iterable[str]) -> None:
    """Raises :class:`DataError` for a name of a modality or task that :func:`usable_names` refuses."""
    try:
        usable_names(dict.fromkeys(names))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _is_name(of: object) -> bool:
    return isinstance(of, str) and bool(of.strip()) and of.isprintable()


def _of(path: Path, tree: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = tree.get(name, default)
    if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
        raise DataError(f"{path}: {name}: expected {kind.__name__}, found {type(value).__name__}")
    return value
