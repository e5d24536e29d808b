"""Preparing recordings: read once, subject by subject, into arrays that are mapped from then on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.prepared import (
    INDEX,
    UNFINISHED,
    Entry,
    Index,
    Original,
    array_name,
    prepared_files,
    read_index,
    told,
)
from fusion_lab.data.activity.reading import LAYOUTS, in_order, layout_of, read_part
from fusion_lab.data.activity.recordings import Part
from fusion_lab.data.activity.settings import ActivityConfig
from fusion_lab.data.output import PART, alone, same_place, writable, written
from fusion_lab.data.readers import data_folder, file_sha256


def prepare(config: ActivityConfig, output: Path, tell: Callable[[str], None]) -> None:
    """Writes the recordings under ``config.root`` to the folder ``output``, one subject in memory at a time.

    Subjects that an earlier run with the same settings wrote are kept while their files are as they were, by size and
    time of change. The index gets its name when all is written.

    Raises:
        DataError: what :func:`~fusion_lab.data.activity.reading.read_recorded` refuses; ``output`` holds other things,
            cannot be written, or is being written by another process.
    """
    root = data_folder(config.root)
    layout = layout_of(config, root)
    if layout == "prepared":
        raise DataError(f"{root}: expected files that are not prepared yet, found prepared data")
    _refuse_foreign(root, output)
    found = LAYOUTS[layout](config, root, True)
    index = Index(
        layout=layout, columns=found.columns, names=config.columns, gap=config.gap, rate=config.rate, notes=found.notes
    )
    with alone(output):
        _write(index, in_order(found), root, output, tell)


def _write(index: Index, parts: list[Part], root: Path, output: Path, tell: Callable[[str], None]) -> None:
    done = _kept(index, parts, root, output, tell)
    if len(done) == len(parts) and _is_whole(output, _with(index, done)):
        tell(f"{output}: all {len(parts)} subjects are prepared already")
        return
    _begin(output, index, done)
    for number, part in enumerate(parts, 1):
        count = f"({number} of {len(parts)})"
        if part.subject in done:
            tell(f"{_called(part)}: prepared already {count}")
            continue
        entry = done[part.subject] = _prepare(part, root, output)
        _write_index(output, index, done)
        tell(f"{_called(part)}: {entry.rows:,} samples in {len(entry.recordings)} recordings {count}")
    _end(output, done)
    for note in told(_with(index, done)):
        tell(f"note: {note}")


def _called(part: Part) -> str:
    return f"subject {part.subject}" if part.subject else "all items"


def _refuse_foreign(root: Path, output: Path) -> None:
    """An error if the output is the input, or holds what prepare has not written."""
    try:
        same, paths = same_place(output, root), []
        if output.exists():
            paths = sorted(output.iterdir())
        begun = bool(prepared_files(output))
    except NotADirectoryError:
        raise DataError(f"{output}: expected a folder, found a file") from None
    except OSError as error:
        raise DataError(f"{output}: expected a folder that can be read, found: {error.strerror}") from None
    if same:
        raise DataError(f"{output}: expected a folder other than that of the files, found the same")
    for path in paths:
        if not (path.name.removesuffix(PART) in (INDEX, UNFINISHED) or begun and _is_array(path)):
            raise DataError(f"{output}: expected an empty folder, or one that prepare wrote, found {path.name!r}")


def _is_array(path: Path) -> bool:
    """Whether a subject's array has such a name, whole or while it is written."""
    name = path.name.removesuffix(PART)
    return name.startswith("subject_") and name.endswith(".npy")


def _kept(index: Index, parts: list[Part], root: Path, output: Path, tell: Callable[[str], None]) -> dict[str, Entry]:
    """The subjects that were written before and need not be read again."""
    before = prepared_files(output)
    if not before:
        return {}
    earlier = read_index(before[0])
    facts = {"layout": "layout", "columns": "columns", "names": "names of columns", "gap": "gap", "rate": "rate"}
    changed = [words for name, words in facts.items() if getattr(earlier, name) != getattr(index, name)]
    if changed:
        tell(f"note: starts anew, since {' and '.join(changed)} changed since {output} was written")
        return {}
    files = {part.subject: part.files for part in parts}
    return {e.subject: e for e in earlier.subjects if e.subject in files and _same(e, files[e.subject], root, output)}


def _same(entry: Entry, files: tuple[Path, ...], root: Path, output: Path) -> bool:
    """Whether a subject's array is there and its files are as they were."""
    array = output / entry.file
    known = [(original.name, original.size, original.modified) for original in entry.originals]
    there = array.is_file() and array.stat().st_size == entry.size
    return there and known == [(_named(root, f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _named(root: Path, file: Path) -> str:
    return file.relative_to(root.parent if root.is_file() else root).as_posix()


def _prepare(part: Part, root: Path, output: Path) -> Entry:
    stats = [
        file.stat() for file in part.files
    ]  # before reading: a file that changes meanwhile is read again next time
    taken, sources = read_part(root, part, {})
    path = output / array_name(part.subject)
    with written(path) as half, half.open("wb") as stream:
        np.save(stream, taken.samples.values)
    originals = tuple(
        Original(name=s.name, sha256=s.sha256, rows=s.rows, size=stat.st_size, modified=stat.st_mtime_ns)
        for s, stat in zip(sources, stats, strict=True)
    )
    return Entry(
        subject=part.subject,
        file=path.name,
        rows=len(taken.samples.values),
        size=path.stat().st_size,
        sha256=file_sha256(path),
        left_out=taken.left_out,
        notes=taken.notes,
        originals=originals,
        recordings=taken.samples.recordings,
    )


def _begin(output: Path, index: Index, done: dict[str, Entry]) -> None:
    """The unfinished index is there before the finished one goes, and that goes before an array changes."""
    _write_index(output, index, done)
    with writable(output / INDEX):
        (output / INDEX).unlink(missing_ok=True)


def _end(output: Path, done: dict[str, Entry]) -> None:
    """Removes what is left of earlier runs, and gives the index its last name."""
    files = {entry.file for entry in done.values()}
    with writable(output / INDEX):
        for path in output.iterdir():
            if path.name.endswith(PART) or _is_array(path) and path.name not in files:
                path.unlink()
        os.replace(output / UNFINISHED, output / INDEX)


def _write_index(output: Path, index: Index, done: dict[str, Entry]) -> None:
    with written(output / UNFINISHED) as half:
        half.write_text(_with(index, done).model_dump_json(indent=1) + "\n")


def _with(index: Index, done: dict[str, Entry]) -> Index:
    return index.model_copy(update={"subjects": tuple(done[subject] for subject in sorted(done))})


def _is_whole(output: Path, index: Index) -> bool:
    """Whether the finished index says this and nothing else."""
    return (output / INDEX).is_file() and read_index(output / INDEX) == index
