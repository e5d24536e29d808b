"""Preparing a raw tree: every sequence is read once, patients side by side, into one table of daily features."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from fusion_lab.contracts import DataError
from fusion_lab.data.output import PART, alone, same_place, writable
from fusion_lab.data.relapse.daily import (
    DAILY,
    METADATA,
    Daily,
    Metadata,
    Prepared,
    described,
    noticed,
    read_daily,
    together,
    write_daily,
    write_metadata,
)
from fusion_lab.data.relapse.patient import check, originals
from fusion_lab.data.relapse.raw import Demographics, SensorSequence, demographics, find_sequences
from fusion_lab.data.relapse.worker import part_name, write_parts
from fusion_lab.data.relapse.workers import work_off

PARTS = "parts"
"""The folder of sequences that are written while others are not."""

Tell = Callable[[str], None]
Done = dict[tuple[str, str], tuple[Daily, Prepared]]
"""Sequences that are written, by patient and name."""


def prepare_tree(root: Path, output: Path, tell: Tell, processes: int | None = None) -> None:
    """Writes the days of the raw tree ``root`` to ``output``: ``daily.parquet`` and ``metadata.json``.

    A process per patient, as many at a time as ``processes`` says or as this process may use; each has one day of one
    sensor in memory. Sequences that an earlier run wrote are kept while their files are as they were, by size and time
    of change. Nothing depends on the number of processes.

    Raises:
        DataError: there is no such tree; a file is damaged, lacks a column, or has a cell that cannot be; ``output``
            holds other things, cannot be written, or is being written by another process.
    """
    sequences = find_sequences(root)
    _refuse_foreign(root, output)
    for sequence in sequences:
        check(sequence)
    people = demographics(sequences)
    tell(f"{root}: {len(sequences)} sequences of {len({s.patient for s in sequences})} patients")
    with alone(output):
        _write(sequences, people, output, tell, processes)


def _write(
    sequences: list[SensorSequence], people: Demographics, output: Path, tell: Tell, processes: int | None
) -> None:
    whole, done = _earlier(output, sequences)
    left = [sequence for sequence in sequences if sequence[:2] not in done]
    if left:
        if done:
            tell(f"{len(done)} of {len(sequences)} sequences are prepared already")
        done |= _describe(left, output, tell, len(sequences), processes)
    parts = [done[sequence[:2]] for sequence in sequences]
    daily = together([part for part, _ in parts])
    metadata = described(daily, [entry for _, entry in parts], people)
    if whole != metadata:
        write_daily(output / DAILY, daily, metadata)
    write_metadata(output / METADATA, metadata)
    _clear(output / PARTS)
    if whole == metadata:
        tell(f"{output}: all {len(sequences)} sequences are prepared already")
    labels = f"{metadata.stable:,} stable, {metadata.relapse:,} in relapse, {metadata.unlabelled:,} without a label"
    tell(f"{metadata.days:,} days: {labels}")
    tell("days measured: " + ", ".join(f"{name} {days:,}" for name, days in metadata.measured.items()))
    for note in noticed(metadata):
        tell(f"note: {note}")


def _earlier(output: Path, sequences: Sequence[SensorSequence]) -> tuple[Metadata | None, Done]:
    """What the table of an earlier run says of itself, and the sequences that need not be read again."""
    done: Done = {}
    whole = None
    now = {sequence[:2]: originals(sequence) for sequence in sequences}
    for path in [output / DAILY, *sorted((output / PARTS).glob("*.parquet"))]:
        if not path.is_file():
            continue
        try:
            daily, metadata = read_daily(path)
        except DataError:  # of another version, or damaged: made anew
            continue
        whole = metadata if path.name == DAILY else whole
        for entry in metadata.sequences:
            name = entry.patient, entry.sequence
            if now.get(name) == entry.originals:
                done[name] = daily.take((daily.patient == name[0]) & (daily.sequence == name[1])), entry
    return whole, done


def _describe(left: list[SensorSequence], output: Path, tell: Tell, total: int, processes: int | None) -> Done:
    """Has the sequences described; each is in a file of its own as soon as it is."""
    folder = output / PARTS
    with writable(folder):
        folder.mkdir(exist_ok=True)
    number = total - len(left)

    def told(sequence: SensorSequence, days: int) -> None:
        nonlocal number
        number += 1
        tell(f"patient {sequence.patient}, {sequence.name}: {days} days ({number} of {total} sequences)")

    patients = [list(of) for _, of in groupby(left, key=lambda sequence: sequence.patient)]
    at_once = min(processes or _usable(), len(patients))
    if at_once == 1:
        write_parts(left, folder, told)
    else:
        work_off(patients, folder, at_once, told)
    read = (read_daily(folder / part_name(sequence)) for sequence in left)
    return {s[:2]: (daily, metadata.sequences[0]) for s, (daily, metadata) in zip(left, read, strict=True)}


def _usable() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refuse_foreign(root: Path, output: Path) -> None:
    """An error if the output is the input, or holds what prepare has not written."""
    try:
        same, paths = same_place(output, root), sorted(output.iterdir()) if output.exists() else []
    except NotADirectoryError:
        raise DataError(f"{output}: expected a folder, found a file") from None
    except OSError as error:
        raise DataError(f"{output}: expected a folder that can be read, found: {error.strerror}") from None
    if same:
        raise DataError(f"{output}: expected a folder other than that of the files, found the same")
    for path in paths:
        if path.name.removesuffix(PART) not in (DAILY, METADATA, PARTS):
            raise DataError(f"{output}: expected an empty folder, or one that prepare wrote, found {path.name!r}")


def _clear(folder: Path) -> None:
    """Removes sequences that are in the table now, and what is left of earlier runs."""
    if folder.is_dir():
        with writable(folder):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
