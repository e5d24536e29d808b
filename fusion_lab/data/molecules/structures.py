"""Features and groups made of the structures themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, Source, array_hash
from fusion_lab.data.molecules.chemistry import FeaturiseConfig, Featurised, Tell, featurise
from fusion_lab.data.molecules.packed import Bags, Bits, Vectors
from fusion_lab.data.molecules.parts import Featured, Part, conformers, descriptors, fingerprint
from fusion_lab.data.molecules.settings import MoleculesConfig
from fusion_lab.data.readers import clipped

MOST_TOLD = 10
LEFT_OUT = "are left out"
"""What becomes of structures that cannot be read, where they are nothing but that."""
SCAFFOLDS_ALONE = FeaturiseConfig(descriptors=False)


class Described(NamedTuple):
    """``featured`` holds the R' molecules of which there are features, ``rows`` int [R'] which of those asked for these
    are, ``scaffold`` str [R'] their scaffolds.
    """

    featured: Featured
    rows: np.ndarray
    scaffold: np.ndarray


def describe(config: MoleculesConfig, where: str, ids: np.ndarray, smiles: np.ndarray, tell: Tell) -> Described:
    """Features of R molecules from their structures; ``where`` is what errors call these.

    Raises:
        ConfigError: RDKit is not installed.
        DataError: more of them fail than the settings put up with, or all do.
    """
    asked = config.featurise or FeaturiseConfig()
    made = featurise(smiles.tolist(), asked, cache_folder(), tell)
    notes = refuse_failures(made.failed, ids, where, config.most_failed)
    kept = np.setdiff1d(np.arange(len(ids)), list(made.failed)).astype(int)
    parts = tuple(p for p in _parts(made, ids, kept, where) if config.keeps(p.modality.name))
    if not parts:
        raise DataError(
            f"data.modalities: expected one that data.featurise makes, found {', '.join(config.modalities or ())}"
        )
    arrays = (made.fingerprint, made.descriptors, made.conformers, made.offsets)
    source = Source("features from structures, by RDKit", array_hash(*arrays), len(ids))
    return Described(Featured(parts, (source,), notes), kept, made.scaffold[kept])


def _parts(made: Featurised, ids: np.ndarray, kept: np.ndarray, where: str) -> list[Part]:
    names = ids[kept]
    parts = [Part(fingerprint(8 * made.fingerprint.shape[1]), names, Bits.of(made.fingerprint[kept]), where)]
    if made.descriptor_names:
        parts.append(Part(descriptors(made.descriptor_names), names, Vectors.of(made.descriptors[kept]), where))
    if made.conformer_names:
        bags = Bags.of(made.conformers, made.offsets).take(kept)
        parts.append(Part(conformers(made.conformer_names, bags), names, bags, where))
    return parts


def scaffold_groups(where: str, ids: np.ndarray, smiles: np.ndarray, tell: Tell) -> tuple[np.ndarray, tuple[str, ...]]:
    """A group per Bemis-Murcko scaffold, str [R], and what is to be said of it.

    Raises:
        ConfigError: RDKit is not installed.
    """
    made = featurise(smiles.tolist(), SCAFFOLDS_ALONE, cache_folder(), tell)
    notes = refuse_failures(made.failed, ids, where, 1.0, "are groups of their own")
    return by_scaffold(made.scaffold, ids), notes


def by_scaffold(scaffold: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """A molecule without a scaffold is a group by itself.

    >>> by_scaffold(np.array(["c1ccccc1", ""]), np.array(["7", "8"])).tolist()
    ['c1ccccc1', 'without rings: 8']
    """
    return np.where(scaffold == "", np.char.add("without rings: ", ids.astype(str)), scaffold)


def refuse_failures(
    failed: Mapping[int, str],
    ids: np.ndarray,
    where: str,
    most: float,
    become: str = LEFT_OUT,
) -> tuple[str, ...]:
    """Notes on the structures that could not be read: how many, and the first of them.

    Raises:
        DataError: their share is above ``most``, or all would be left out.
    """
    if not failed:
        return ()
    first = [f"{clipped(ids[row])} ({clipped(failed[row])})" for row in sorted(failed)[:MOST_TOLD]]
    told = f"{', '.join(first)}{' and more' if len(failed) > MOST_TOLD else ''}"
    if len(failed) > most * len(ids) or (len(failed) == len(ids) and become == LEFT_OUT):
        but = f", all but {most:.0%} of {len(ids)} (data.most_failed)" if most < 1 else ""
        expected = f"expected structures that can be read{but}"
        raise DataError(f"{where}: {expected}, found {len(failed)} that cannot: {told}")
    return (f"{len(failed)} of {len(ids)} structures cannot be read and {become}: {told}",)


def cache_folder() -> Path:
    """Where what is computed of structures is kept: ``fusion_lab/molecules`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusion_lab" / "molecules"
