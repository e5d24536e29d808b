"""Recordings of body-worn sensors from the files of a folder, however these are laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fusion_lab.contracts import DataError, Source
from fusion_lab.data.activity.arrays import array_folders, array_layout
from fusion_lab.data.activity.dat import dat_files, dat_layout
from fusion_lab.data.activity.prepared import prepared_files, read_prepared
from fusion_lab.data.activity.recordings import Layout, Part, Taken, left_out
from fusion_lab.data.activity.samples import Recorded
from fusion_lab.data.activity.settings import ActivityConfig
from fusion_lab.data.activity.shards import shard_folders, shard_layout
from fusion_lab.data.activity.table import table_files, table_layout
from fusion_lab.data.readers import data_folder, file_sha256

LAYOUTS: dict[str, Callable[[ActivityConfig, Path, bool], Layout]] = {
    "dat": dat_layout,
    "table": table_layout,
    "shards": shard_layout,
    "arrays": array_layout,
}
_SIGNS: dict[str, tuple[Callable[[Path], list[Path]], str]] = {
    "prepared": (prepared_files, "index.json of prepared data"),
    "dat": (dat_files, "subject<id>.dat"),
    "shards": (shard_folders, "subject_<id>/activity_<id>.csv or .pt"),
    "arrays": (array_folders, "train/<modality>.npy"),
    "table": (table_files, "parquet or CSV files"),
}
"""How a layout is known, and what errors say of that."""


def read_recorded(config: ActivityConfig, labelled: bool = True) -> Recorded:
    """All recordings under ``config.root``.

    Args:
        config: what the files are, which columns are needed, what a gap is.
        labelled: whether the files say which activity it was. If not, recordings break at gaps only (of prepared data
            and arrays, where those before them did), and their activity is ``None`` whatever the files say.

    Raises:
        DataError: the folder, a file, a line or a cell is not as it should be.
    """
    root = data_folder(config.root)
    layout = layout_of(config, root)
    if layout == "prepared":
        return read_prepared(config, root, labelled)
    found = LAYOUTS[layout](config, root, labelled)
    taken, sources, digests = [], [], {}
    for part in in_order(found):
        subject, files = read_part(root, part, digests)
        taken.append(subject)
        sources.append(files)
    notes = (*found.notes, *(note for t in taken for note in t.notes), *left_out(t.left_out for t in taken))
    return Recorded(found.columns, tuple(t.samples for t in taken), merged(sources), notes)


def layout_of(config: ActivityConfig, root: Path) -> str:
    """The layout that the settings name, or the one that the folder's content tells.

    Raises:
        DataError: there is no such folder, or the files in it are of no layout, or of several.
    """
    try:
        there = root.exists()
    except OSError as error:  # a name too long for the file system, a folder that may not be entered
        raise DataError(f"{root}: expected a folder of sensor recordings, found: {error.strerror}") from None
    if not there:
        raise DataError(f"{root}: expected a folder of sensor recordings, found no such folder (say data=FOLDER)")
    if config.layout not in ("auto", "prepared") and prepared_files(root):
        hint = "(set data.layout: auto)"
        raise DataError(f"{root}: expected files of data.layout {config.layout!r}, found prepared data {hint}")
    if config.layout != "auto":
        return config.layout
    try:
        found = [name for name, (files, _) in _SIGNS.items() if files(root)]
    except OSError as error:
        raise DataError(f"{root}: expected a folder that can be read, found: {error.strerror}") from None
    if not found:
        raise DataError(f"{root}: expected {'; '.join(sign for _, sign in _SIGNS.values())}; found none of these")
    if len(found) > 1:
        signs = " and ".join(_SIGNS[name][1] for name in found)
        raise DataError(f"{root}: expected files of one layout, found {signs} (set data.layout: {' or '.join(found)})")
    return found[0]


def in_order(layout: Layout) -> list[Part]:
    """The subjects by name."""
    return sorted(layout.parts, key=lambda part: part.subject)


def read_part(root: Path, part: Part, digests: dict[Path, str]) -> tuple[Taken, list[Source]]:
    """One subject and what it was read from; ``digests`` keeps those of files that hold several."""
    new = [path for path in part.files if path not in digests and path.is_file()]  # a pipe is refused by who reads it
    with ThreadPoolExecutor(1) as beside:
        hashed = beside.submit(lambda: [file_sha256(path) for path in new])
        taken = part.read()
        digests.update(zip(new, hashed.result(), strict=True))
    base = root.parent if root.is_file() else root
    named = [path.relative_to(base).as_posix() for path in part.files]
    return taken, [Source(n, digests[p], rows) for n, p, rows in zip(named, part.files, taken.rows, strict=True)]


def merged(sources: Iterable[Iterable[Source]]) -> tuple[Source, ...]:
    """Sources by name, each once with the rows of all subjects in it."""
    files: dict[str, Source] = {}
    for source in (source for of in sources for source in of):
        rows = source.rows + (files[source.name].rows if source.name in files else 0)
        files[source.name] = Source(source.name, source.sha256, rows)
    return tuple(files[name] for name in sorted(files))
