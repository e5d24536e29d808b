"""Features of molecules wherever they come from: per modality what its features are, whose, and the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import Feature, Modality, Source
from fusion_lab.data.molecules.packed import Bags, Packed
from fusion_lab.data.molecules.settings import CONFORMER, CONFORMERS, DESCRIPTORS, FINGERPRINT


class Part(NamedTuple):
    """One modality of P molecules: ``ids`` str [P], all different."""

    modality: Modality
    ids: np.ndarray
    packed: Packed
    where: str  # what errors call the place it comes from


class Featured(NamedTuple):
    """All modalities of one source."""

    parts: tuple[Part, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()

    def ids(self) -> np.ndarray:
        """The molecules of any modality, in the order in which they come, str [P]."""
        return np.array(list(dict.fromkeys(name for part in self.parts for name in part.ids.tolist())), dtype=str)


def fingerprint(bits: int) -> Modality:
    """A vector of so many bits."""
    return Modality(FINGERPRINT, "vector", tuple(Feature(f"bit {i}", "binary") for i in range(bits)))


def descriptors(names: Sequence[str]) -> Modality:
    """A vector of numbers."""
    return Modality(DESCRIPTORS, "vector", tuple(Feature(name) for name in names))


def conformers(names: Sequence[str], bags: Bags) -> Modality:
    """A bag, as long as the largest of ``bags``."""
    return Modality(CONFORMERS, "bag", tuple(Feature(name) for name in names), bags.length, CONFORMER)


def places(ids: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Where each of ``ids`` is among ``names``, int, -1 for nowhere."""
    place: Mapping[str, int] = {name: at for at, name in enumerate(names.tolist())}
    return np.fromiter((place.get(name, -1) for name in ids.tolist()), int, len(ids))


def having(ids: np.ndarray, parts: Iterable[Part]) -> np.ndarray:
    """Which of ``ids`` any part is of, bool. A bag may be empty."""
    return np.logical_or.reduce([places(ids, part.ids) >= 0 for part in parts])
