"""Molecules from SMILES alone, by RDKit: fingerprints, descriptors, scaffolds and bags of conformers.

What is computed is kept by content, a file per chunk of molecules, so that it is computed once, and what was
interrupted goes on where it was. RDKit is imported when it is needed and not before: the extra ``chem``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from fusion_lab.config import Config
from fusion_lab.contracts import ConfigError, DataError, content_hash
from fusion_lab.data.molecules.chemistry_workers import Job, work_off
from fusion_lab.data.npz import npz_arrays
from fusion_lab.data.output import writable

Arrays = dict[str, np.ndarray]
Tell = Callable[[str], None]

VERSION = 1
"""Of the values: another one where the same SMILES and settings come to give others, and kept files are not read."""

MOLECULES_AT_ONCE = 500
MOLECULES_AT_ONCE_WITH_CONFORMERS = 32
"""Of a chunk: a few seconds of work, which is what an interruption loses."""

FEWEST_FOR_PROCESSES = 2_000
"""Molecules without conformers, below which starting processes takes longer than they save."""

SECONDS_BETWEEN = 5.0
"""From one line about progress to the next, and a tenth of what has passed more."""

_KINDS = {
    "fingerprint": "u1",
    "descriptors": "f4",
    "conformers": "f4",
    "count": "i8",
    "scaffold": "U",
    "failed": "U",
    "fault": "U",
}


class FeaturiseConfig(Config):
    """What is computed of molecules.

    The fingerprint is Morgan's, of ``radius`` bonds folded to ``bits``. ``conformers``: how many of a molecule at most,
    0 for none; it has no more than one and its rotatable bonds. ``seed``: of where their embedding starts; RDKit's own
    ``randomSeed`` is one more.
    ``processes``: as many as this process may use where not given; no value depends on it.
    """

    radius: int = Field(2, ge=0, le=10)
    bits: int = Field(1024, ge=8, le=65_536, multiple_of=8)
    descriptors: bool = True
    conformers: int = Field(0, ge=0, le=1_000)
    seed: int = Field(0, ge=0, lt=1_000_000)
    processes: int | None = Field(None, ge=1)

    @property
    def options(self) -> dict[str, Any]:
        """What values depend on."""
        return self.model_dump(exclude={"processes"})


class Featurised(NamedTuple):
    """Values of R molecules. ``conformers[offsets[i]:offsets[i + 1]]`` are row i's; what was not asked for has no names
    and no width. Of a ``failed`` row all is zero and its bag empty; ``faults`` tells what went wrong with the
    conformers alone of rows that are kept: their bag is empty, or their energies are 0.
    """

    fingerprint: np.ndarray  # uint8 [R, bits / 8], as np.packbits has it
    descriptors: np.ndarray  # float32 [R, 16]
    descriptor_names: tuple[str, ...]
    conformers: np.ndarray  # float32 [K, F], K of all molecules
    conformer_names: tuple[str, ...]
    offsets: np.ndarray  # int64 [R + 1]
    failed: dict[int, str]  # row -> reason
    scaffold: np.ndarray  # str [R], Bemis and Murcko's as SMILES without stereo; "" of a molecule without rings
    faults: Mapping[int, str] = {}  # row -> what went wrong with its conformers


def featurise(smiles: Sequence[str], config: FeaturiseConfig, cache: Path | None, tell: Tell) -> Featurised:
    """What RDKit computes of molecules; those that it cannot read are ``failed``.

    Args:
        smiles: of R molecules; what is no text, or an empty one, fails.
        config: what is computed.
        cache: a folder where values are kept and looked up, ``None`` for nowhere.
        tell: is told in a line each how far this is, and what went wrong with conformers.

    Raises:
        ConfigError: RDKit is not installed.
        DataError: the cache cannot be written, or a process that computes was ended.
    """
    _need_rdkit()
    chunks = _chunks(smiles, config, cache)
    found = {} if cache is None else _kept(chunks, tell)
    missing = [chunk for chunk in chunks if chunk.path not in found]
    progress = _Progress("conformers" if config.conformers else "fingerprints", len(smiles), missing, tell)
    if config.conformers or progress.missing >= FEWEST_FOR_PROCESSES:
        processes = min(config.processes or _usable(), len(missing))
    else:
        processes = 1
    compute = _here if processes <= 1 else _beside
    found |= compute(missing, cache, processes, progress)
    made = _joined([found[chunk.path] for chunk in chunks], config)
    progress.end(made.faults)
    return made


def _need_rdkit() -> None:
    try:
        import rdkit  # noqa: F401
    except ImportError:
        raise ConfigError("featurise: needs RDKit: pip install 'fusion-lab[chem]'") from None


def _usable() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(smiles: Sequence[str], config: FeaturiseConfig, cache: Path | None) -> list[Job]:
    """At least one: no molecules have arrays, too."""
    from rdkit import rdBase

    texts = [text if isinstance(text, str) else None for text in smiles]
    size = MOLECULES_AT_ONCE_WITH_CONFORMERS if config.conformers else MOLECULES_AT_ONCE
    identity = {"version": VERSION, "rdkit": rdBase.rdkitVersion, "options": config.options}
    chunks = []
    for start in range(0, max(1, len(texts)), size):
        part = texts[start : start + size]
        key = content_hash(identity | {"smiles": part})
        chunks.append(Job(part, config.options, (cache or Path()) / f"{key}.npz", key))
    return chunks


def _kept(chunks: Sequence[Job], tell: Tell) -> dict[Path, Arrays]:
    """What earlier calls left of these chunks."""
    found: dict[Path, Arrays] = {}
    for chunk in chunks:
        if chunk.path.is_file():
            try:
                found[chunk.path] = _read(chunk)
            except DataError as error:
                tell(f"{error}; computed anew")
    return found


def _read(chunk: Job) -> Arrays:
    """A chunk's file.

    Raises:
        DataError: it is damaged, or another chunk's.
    """
    arrays = npz_arrays(chunk.path, ["key", *_KINDS])
    key = arrays.pop("key")
    shapes = {name: _shape(name, chunk, arrays) for name in _KINDS}
    for name, kind in _KINDS.items():
        array = arrays[name]
        if array.shape != shapes[name] or not (array.dtype.kind == "U" if kind == "U" else array.dtype == kind):
            found = f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{chunk.path}: array {name!r}: expected {kind} of shape {shapes[name]}, found {found}")
    if key != chunk.key:
        raise DataError(f"{chunk.path}: expected values of the chunk that it is named after, found another's")
    return arrays


def _shape(name: str, chunk: Job, arrays: Arrays) -> tuple[int, ...]:
    from fusion_lab.data.molecules.chemistry_chunk import CONFORMERS, DESCRIPTORS

    rows, options = len(chunk.smiles), chunk.options
    shapes = {
        "fingerprint": (rows, options["bits"] // 8),
        "descriptors": (rows, len(DESCRIPTORS) if options["descriptors"] else 0),
        "conformers": (int(arrays["count"].sum()), len(CONFORMERS) if options["conformers"] else 0),
    }
    return shapes.get(name, (rows,))


def _here(chunks: Sequence[Job], cache: Path | None, processes: int, progress: _Progress) -> dict[Path, Arrays]:
    """Computes chunks in this process."""
    from fusion_lab.data.molecules.chemistry_chunk import describe, write

    found: dict[Path, Arrays] = {}
    for chunk in chunks:
        found[chunk.path] = describe(chunk.smiles, **chunk.options)
        if cache is not None:
            with writable(chunk.path):
                cache.mkdir(parents=True, exist_ok=True)
                write(chunk.path, chunk.key, found[chunk.path])
        progress.more(len(chunk.smiles))
    return found


def _beside(chunks: Sequence[Job], cache: Path | None, processes: int, progress: _Progress) -> dict[Path, Arrays]:
    """Computes chunks in several processes, which answer in files."""
    found: dict[Path, Arrays] = {}
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        named = {folder / chunk.path.name: chunk.path for chunk in chunks}

        def done(job: Job) -> None:
            found[named[job.path]] = _read(job)
            progress.more(len(job.smiles))

        work_off([chunk._replace(path=path) for path, chunk in zip(named, chunks, strict=True)], processes, done)
    return found


def _joined(parts: Sequence[Arrays], config: FeaturiseConfig) -> Featurised:
    from fusion_lab.data.molecules.chemistry_chunk import CONFORMERS, DESCRIPTORS

    whole = {name: np.concatenate([part[name] for part in parts]) for name in _KINDS}
    return Featurised(
        whole["fingerprint"],
        whole["descriptors"],
        DESCRIPTORS if config.descriptors else (),
        whole["conformers"],
        CONFORMERS if config.conformers else (),
        np.concatenate([[0], np.cumsum(whole["count"])]).astype(np.int64),
        _reasons(whole["failed"]),
        whole["scaffold"],
        _reasons(whole["fault"]),
    )


def _reasons(texts: np.ndarray) -> dict[int, str]:
    return {int(row): str(texts[row]) for row in np.flatnonzero(texts != "")}


class _Progress:
    """Tells how far the work is, more seldom the longer it takes."""

    def __init__(self, what: str, total: int, missing: Sequence[Job], tell: Tell) -> None:
        self._what, self._total, self._tell = what, total, tell
        self.missing = sum(len(chunk.smiles) for chunk in missing)
        self._computed = 0
        self._start = time.monotonic()
        self._next = SECONDS_BETWEEN

    def more(self, molecules: int) -> None:
        self._computed += molecules
        passed = time.monotonic() - self._start
        if passed < self._next or self._computed == self.missing:
            return
        self._next = passed * 1.1 + SECONDS_BETWEEN
        rest = passed / self._computed * (self.missing - self._computed)
        done = self._total - self.missing + self._computed
        self._tell(f"{self._what} of {done:,} of {self._total:,} molecules, about {_lasting(rest)} left")

    def end(self, faults: Mapping[int, str]) -> None:
        passed = time.monotonic() - self._start
        if passed >= SECONDS_BETWEEN:
            self._tell(f"{self._what} of {self._total:,} molecules in {_lasting(passed)}")
        for reason, count in Counter(faults.values()).most_common():
            self._tell(f"{self._what} of {count:,} of {self._total:,} molecules: {reason}")


def _lasting(seconds: float) -> str:
    """A span of time, roughly.

    >>> _lasting(3.6), _lasting(100), _lasting(9000)
    ('4 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
