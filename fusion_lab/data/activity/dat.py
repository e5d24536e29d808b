"""The raw files of PAMAP2: ``subject<id>.dat``, 54 cells a line between single spaces, ``NaN`` where missing."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from fusion_lab.contracts import DataError
from fusion_lab.data.activity.batches import Wanted
from fusion_lab.data.activity.recordings import (
    SENSOR_COLUMNS,
    Layout,
    Part,
    Taken,
    as_samples,
    gather,
)
from fusion_lab.data.activity.settings import ACTIVITY, COLUMNS, TIME, ActivityConfig
from fusion_lab.data.activity.text import Text

_FILE = re.compile(r"subject(\w+)\.dat")


def dat_files(root: Path) -> list[Path]:
    """The files of the protocol, in ``root`` itself or in its folder ``Protocol``, or ``root`` where it is one."""
    if root.is_file():
        return [root] if root.suffix == ".dat" else []
    return next(filter(None, (sorted(folder.glob("subject*.dat")) for folder in (root, root / "Protocol"))), [])


def dat_layout(config: ActivityConfig, root: Path, labelled: bool) -> Layout:
    """One subject per file.

    Raises:
        DataError: there is no such file, or one has another name.
    """
    files = dat_files(root)
    if not files:
        raise DataError(f"{root}: expected files subject<id>.dat here or in Protocol, found none")
    named = {_subject(file): file for file in files}
    parts = [Part(name, (file,), partial(_read, config, name, file, labelled)) for name, file in named.items()]
    optional = root / "Optional"
    notes = (
        [f"{optional} is not read: its files are further sessions of the same subjects"] if optional.is_dir() else []
    )
    return Layout(SENSOR_COLUMNS, tuple(parts), tuple(notes))


def _subject(file: Path) -> str:
    match = _FILE.fullmatch(file.name)
    if not match:
        raise DataError(f"{file}: expected a name like subject101.dat, found {file.name!r}")
    return match[1]


def _read(config: ActivityConfig, subject: str, file: Path, labelled: bool) -> Taken:
    text = Text(file, _names(file, labelled), " ", missing=())
    wanted = Wanted(TIME, ACTIVITY if labelled else None, SENSOR_COLUMNS)
    track = gather(text.blocks(wanted), SENSOR_COLUMNS, text.place, labelled)
    return as_samples(str(file), subject, [track], config, SENSOR_COLUMNS)


def _names(file: Path, labelled: bool) -> tuple[str, ...]:
    """All columns, or, of a file without labels, all but the activity where its first line has one cell less."""
    if not file.is_file():  # who opens a pipe waits for ever
        raise DataError(f"{file}: expected a readable file, found {'a folder' if file.is_dir() else 'none'}")
    try:
        with file.open("rb") as stream:
            line = stream.readline().strip(b"\r\n")
    except OSError as error:
        raise DataError(f"{file}: expected a readable file, found: {error.strerror}") from None
    if not line and not file.stat().st_size:
        raise DataError(f"{file}: expected lines of {len(COLUMNS)} cells, found an empty file")
    unlabelled = tuple(name for name in COLUMNS if name != ACTIVITY)
    return unlabelled if not labelled and line.count(b" ") + 1 == len(unlabelled) else COLUMNS
