"""Fold archives: windows as a training reads them, a file for each part of each fold; ours, and pickles of old.

``fold_{k}/{train,val,test}.npz`` hold, of N windows of W days, ``patient_id`` and ``sequence_name`` str [N];
``window_end_day`` [N] and ``window_days`` [N,W], -1 on a padded place; ``padding_mask`` bool [N,W], True on a real day;
``labels`` int32 [N,W], 0, 1 or -1, with ``label_mask``; of each modality ``features/<modality>`` float32 [N,W,F] and
``modality_masks/<modality>`` bool [N,W]; and where single cells are missing ``observed/<modality>`` bool [N,W,F]. A
pickle is a list of N dicts with the same keys, in which ``features`` and ``modality_masks`` are dicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusion_lab.contracts import DataError, Source, Task
from fusion_lab.data.cells import listed
from fusion_lab.data.npz import npz_arrays, npz_names
from fusion_lab.data.readers import file_sha256, quoted
from fusion_lab.data.relapse.features.names import MODALITIES
from fusion_lab.data.relapse.metadata import METADATA, Metadata, check_names, read_metadata
from fusion_lab.data.relapse.pickles import RefusedError, plain, read_pickle
from fusion_lab.data.relapse.settings import FURTHEST, RELAPSE, SPLITS, RelapseConfig
from fusion_lab.data.relapse.windows import Windows, joined, split_of

ENDINGS = (".npz", ".pkl")
FEATURES, MASKS, OBSERVED = "features", "modality_masks", "observed"
PLAIN = ("patient_id", "sequence_name", "window_end_day", "window_days", "padding_mask", "labels", "label_mask")
UNKNOWN_LABEL = -1

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """What all files of an archive have alike: W, and F of each modality."""

    length: int
    widths: Mapping[str, int]

    def shapes(self, windows: int) -> dict[str, tuple[int, ...]]:
        """Of every array of a file of so many windows."""
        days = (windows, self.length)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(PLAIN, days)
        shapes |= dict.fromkeys(PLAIN[:3], (windows,))
        for name, width in self.widths.items():
            shapes |= {f"{MASKS}/{name}": days, f"{FEATURES}/{name}": (*days, width)}
        return shapes


def archive_files(root: Path) -> list[Path]:
    """The files of a folder of fold archives, in the order of folds and parts; none where it is no such folder.

    Raises:
        DataError: a fold lacks a part.
    """
    folds = [path for path in root.glob("fold_*") if path.name.removeprefix("fold_").isdecimal() and path.is_dir()]
    found = []
    for fold in sorted(folds, key=lambda path: int(path.name.removeprefix("fold_"))):
        parts = {part: [fold / f"{part}{ending}" for ending in ENDINGS] for part in SPLITS}
        there = {part: [path for path in paths if path.is_file()] for part, paths in parts.items()}
        lacking = [part for part, paths in there.items() if not paths]
        if lacking and len(lacking) < len(SPLITS):
            raise DataError(f"{fold}: expected {', '.join(SPLITS)} ({' or '.join(ENDINGS)}), found no {lacking[0]}")
        found += [paths[0] for paths in there.values() if paths]
    return found


def read_archives(config: RelapseConfig, root: Path) -> tuple[Windows, tuple[Source, ...], tuple[str, ...]]:
    """Every window of all folds once, in the order of patient, sequence and day; what it was read from; and notes.

    Which fold a window came in decides nothing: folds are made anew, by the protocol. Places follow the calendar: a day
    that lies before the window is left out, whichever place it had.

    Raises:
        DataError: a file that cannot be read or holds anything but windows; shapes that are not the metadata's or the
            other files'; a window that two folds hold differently.
    """
    metadata = read_metadata(root / METADATA)
    whole, layout = None, metadata.layout(Layout)
    sources: list[Source] = []
    moved: dict[str, int] = {}  # windows whose days were put elsewhere, and how many of them went
    for path in archive_files(root):
        if path.suffix == ".npz" and metadata.path is None:
            raise DataError(
                f"{root}: expected {METADATA} beside {path.name}, found none (an archive that is unfinished)"
            )
        arrays = _read(path)
        count = _windows_in(path, arrays)
        sources.append(Source(path.relative_to(root).as_posix(), file_sha256(path), count))
        if not count:
            continue
        layout = layout or _layout_of(path, arrays)
        check_names(path, layout.widths)
        _check_shapes(path, arrays, layout, metadata)
        placed, shifted, lost = _on_calendar(path, _typed(path, arrays, layout), layout)
        windows = _windows(config, path, placed, layout, metadata)
        moved |= dict(zip(windows.ids[shifted].tolist(), lost[shifted].tolist(), strict=True))
        whole = windows if whole is None else _joined(path, whole, windows)
    if whole is None:
        raise DataError(f"{root}: expected windows in fold archives, found none")
    files = len(sources)
    if metadata.path is not None:
        sources.append(Source(METADATA, file_sha256(metadata.path), len(sources)))
    order = np.lexsort((whole.day, whole.sequence, whole.patient))
    notes = [*metadata.told(), f"{len(whole):,} windows of {files} files, each once"]
    if moved:
        gone = sum(moved.values())
        notes.append(f"days of {len(moved):,} windows were moved to their places in the calendar, {gone:,} out of them")
    kept, cut = _as_asked(config, root, whole.take(order))
    return kept, tuple(sources), (*notes, *cut)


def _read(path: Path) -> Arrays:
    """The arrays of a file, those of a modality as ``features/accel``; nothing where it has no windows."""
    if path.suffix == ".npz":
        return npz_arrays(path, npz_names(path))
    windows = read_pickle(path)
    if not isinstance(windows, list) or not all(isinstance(window, dict) for window in windows):
        raise DataError(f"{path}: expected a list of windows, a dict each, found {type(windows).__name__}")
    return _stacked(path, [_flat(path, number, window) for number, window in enumerate(windows)])


def _windows_in(path: Path, arrays: Arrays) -> int:
    """N of a file."""
    if arrays and (PLAIN[0] not in arrays or arrays[PLAIN[0]].ndim != 1):
        raise DataError(f"{path}: expected an array {PLAIN[0]!r} of shape (windows,), found {listed(list(arrays))}")
    return len(arrays[PLAIN[0]]) if arrays else 0


def _flat(path: Path, number: int, window: dict[Any, Any]) -> dict[str, Any]:
    """One window of a pickle, with the names of the arrays that it is a line of."""
    flat = {}
    try:
        for name in PLAIN:
            if name not in window:
                raise RefusedError(f"no {name!r}")
            flat[name] = plain(window[name])
        for part in (FEATURES, MASKS):
            of = window.get(part)
            if not isinstance(of, dict):
                raise RefusedError(f"no dict {part!r}")
            odd = [name for name in of if not isinstance(name, str)]
            if odd:
                raise RefusedError(f"a modality that is no text but {type(odd[0]).__name__}")
            flat |= {f"{part}/{name}": plain(values) for name, values in of.items()}
    except RefusedError as refused:
        raise DataError(f"{path}: window {number + 1}: expected {', '.join(PLAIN[:3])}, ..., found {refused}") from None
    return flat


def _stacked(path: Path, windows: list[dict[str, Any]]) -> Arrays:
    """One array for each name; the windows have to be alike."""
    if not windows:
        return {}
    stacked = {}
    for name, first in windows[0].items():
        lines, shape = [], _line(first).shape
        for number, window in enumerate(windows):
            if window.keys() != windows[0].keys():
                odd = sorted(map(str, window.keys() ^ windows[0].keys()))[0]
                expected = "expected the parts of the first window"
                raise DataError(f"{path}: window {number + 1}: {expected}, found others ({odd})")
            line = _line(window[name])
            if line.shape != shape or line.dtype.kind not in "biufU":
                expected = f"expected {name!r} of shape {shape}"
                raise DataError(f"{path}: window {number + 1}: {expected}, found {line.dtype} of shape {line.shape}")
            lines.append(line)
        stacked[name] = np.stack(lines)
    return stacked


def _line(value: Any) -> np.ndarray:
    """A window's part as an array, of no dimension and type object where it is none."""
    if not _is_even(value):
        return np.array(None)
    try:
        return np.asarray(value)
    except ValueError:  # lists of several lengths
        return np.array(None)


def _is_even(value: Any, depth: int = 2) -> bool:
    """Whether lists are nested no deeper than a window's features are: a list that holds itself has no end."""
    if not isinstance(value, list | tuple):
        return True
    return depth > 0 and all(_is_even(inner, depth - 1) for inner in value)


def _layout_of(path: Path, arrays: Arrays) -> Layout:
    """As the first file has it, where no metadata say so."""
    names = [name.removeprefix(f"{FEATURES}/") for name in arrays if name.startswith(f"{FEATURES}/")]
    lacking = [name for name in PLAIN if name not in arrays]
    if lacking or not names:
        raise DataError(f"{path}: expected arrays {', '.join(PLAIN)} and features/..., found {listed(list(arrays))}")
    ordered = [name for name in MODALITIES if name in names] + [name for name in names if name not in MODALITIES]
    widths = {}
    for name in ordered:
        of = arrays[f"{FEATURES}/{name}"]
        if of.ndim != 3 or 0 in of.shape:
            raise DataError(f"{path}: {FEATURES} of {name!r}: expected shape (windows, days, F), found {of.shape}")
        widths[name] = of.shape[2]
    return Layout(arrays[f"{FEATURES}/{ordered[0]}"].shape[1], widths)


def _check_shapes(path: Path, arrays: Arrays, layout: Layout, metadata: Metadata) -> None:
    whose = "the metadata's" if metadata.path is not None else "the first file's"
    count = len(arrays[PLAIN[0]]) if PLAIN[0] in arrays and arrays[PLAIN[0]].ndim else 0
    for name, shape in layout.shapes(count).items():
        if name not in arrays:
            raise DataError(f"{path}: expected an array {name!r}, found {listed(list(arrays))}")
        if arrays[name].shape != shape:
            raise DataError(f"{path}: {name!r}: expected shape {shape}, {whose}, found {arrays[name].shape}")
    for name in arrays:
        part, _, modality = name.partition("/")
        if part in (FEATURES, MASKS, OBSERVED) and modality not in layout.widths:
            raise DataError(f"{path}: expected modalities {', '.join(layout.widths)}, found {modality!r} as well")
        if part == OBSERVED and arrays[name].shape != arrays[f"{FEATURES}/{modality}"].shape:
            expected = f"expected shape {arrays[f'{FEATURES}/{modality}'].shape}, that of the features"
            raise DataError(f"{path}: {name!r}: {expected}, found {arrays[name].shape}")


def _typed(path: Path, arrays: Arrays, layout: Layout) -> Arrays:
    """The arrays as numbers, truth values and text; what is masked is 0."""
    typed: Arrays = {name: arrays[name].astype(str) for name in PLAIN[:2]}
    for name in PLAIN[2:]:
        typed[name] = _truths(path, name, arrays) if name.endswith("mask") else _whole(path, name, arrays)
    odd = np.argwhere(typed["label_mask"] & ~np.isin(typed["labels"], (0, 1, UNKNOWN_LABEL)))
    if len(odd):
        row, place = odd[0].tolist()
        found = typed["labels"][row, place]
        raise DataError(f"{path}: window {row + 1}: expected labels 0, 1 or -1 of unknown ones, found {found}")
    for name in layout.widths:
        there = _truths(path, f"{MASKS}/{name}", arrays) & typed["padding_mask"]
        features = _numbers(path, f"{FEATURES}/{name}", arrays)
        seen = np.broadcast_to(there[:, :, None], features.shape)
        if f"{OBSERVED}/{name}" in arrays:
            seen = seen & _truths(path, f"{OBSERVED}/{name}", arrays)
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            values = np.where(seen, features, 0).astype(np.float32)
        odd = np.argwhere(~np.isfinite(values))
        if len(odd):
            row, place, column = odd[0].tolist()
            where = f"{path}: window {row + 1}, place {place + 1}, {name} {column + 1}"
            raise DataError(f"{where}: expected a finite number, found {features[row, place, column]}")
        typed[f"{FEATURES}/{name}"], typed[f"{OBSERVED}/{name}"] = values, seen
    return typed


def _numbers(path: Path, name: str, arrays: Arrays) -> np.ndarray:
    if arrays[name].dtype.kind not in "biuf":
        raise DataError(f"{path}: {name!r}: expected numbers, found type {arrays[name].dtype}")
    return arrays[name]


def _whole(path: Path, name: str, arrays: Arrays) -> np.ndarray:
    """int64, of which the days are within reach."""
    of = _numbers(path, name, arrays)
    fits = (of == np.round(of)) & (of >= -FURTHEST) & (of <= FURTHEST)
    if not fits.all():
        raise DataError(f"{path}: {name!r}: expected whole numbers up to {FURTHEST:,}, found {of[~fits][0]}")
    return of.astype(np.int64)


def _truths(path: Path, name: str, arrays: Arrays) -> np.ndarray:
    of = _numbers(path, name, arrays)
    fits = (of == 0) | (of == 1)
    if not fits.all():
        raise DataError(f"{path}: {name!r}: expected True and False, or 1 and 0, found {of[~fits][0]}")
    return of.astype(bool)


def _on_calendar(path: Path, arrays: Arrays, layout: Layout) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """The same with every day at its place before the last, which windows that changed, bool [N], and how many days of
    each had no place, int [N].
    """
    real = arrays["padding_mask"]
    place = layout.length - 1 - (arrays["window_end_day"][:, None] - arrays["window_days"])
    odd = np.flatnonzero((real & (place >= layout.length)).any(axis=1) | ~(real & (place == layout.length - 1)).any(1))
    if len(odd):
        row = int(odd[0])
        expected = f"expected days up to the last, {arrays['window_end_day'][row]}"
        raise DataError(f"{path}: window {row + 1}: {expected}, found {arrays['window_days'][row].tolist()}")
    stays = real & (place >= 0)
    row, before = np.nonzero(stays)
    after = place[row, before]
    if len(np.unique(row * layout.length + after)) < len(row):
        twice = np.argmax([len(set(place[r, stays[r]].tolist())) < stays[r].sum() for r in range(len(place))])
        found = arrays["window_days"][twice].tolist()
        raise DataError(f"{path}: window {int(twice) + 1}: expected each day once, found {found}")
    moved = {name: np.zeros_like(of) for name, of in arrays.items() if of.ndim > 1}
    for name, of in moved.items():
        of[row, after] = arrays[name][row, before]
    shifted = (real & (place != np.arange(layout.length))).any(axis=1)
    return {**arrays, **moved}, shifted, (real & (place < 0)).sum(axis=1)


def _windows(config: RelapseConfig, path: Path, arrays: Arrays, layout: Layout, metadata: Metadata) -> Windows:
    task = _task(config, path, metadata)
    last = arrays["labels"][:, -1]
    known = arrays["label_mask"][:, -1] & (last != UNKNOWN_LABEL)
    observed = {name: arrays[f"{OBSERVED}/{name}"] for name in layout.widths}
    made = Windows(
        patient=arrays["patient_id"],
        sequence=arrays["sequence_name"],
        split=np.array([split_of(name) for name in arrays["sequence_name"].tolist()]),
        day=arrays["window_end_day"],
        features={name: metadata.names(name, width) for name, width in layout.widths.items()},
        inputs={name: arrays[f"{FEATURES}/{name}"] for name in layout.widths},
        valid={name: np.asarray(of.any(axis=2)) for name, of in observed.items()},
        observed=observed,
        tasks=(task,),
        targets={task.name: np.where(known, last, 0).astype(np.float32)},
        known={task.name: known},
    )
    ids, counts = np.unique(made.ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{path}: expected each window once, found {quoted(ids[counts > 1][0])} {counts.max()} times")
    return made


def _task(config: RelapseConfig, path: Path, metadata: Metadata) -> Task:
    """The one task that an archive has labels of."""
    if config.tasks is None:
        return Task(metadata.task or RELAPSE, "binary", metadata.classes or ("stable", RELAPSE))
    if len(config.tasks) > 1:
        raise DataError(f"{path}: expected one task of fold archives (data.tasks), found {', '.join(config.tasks)}")
    (name, label), *_ = config.tasks.items()
    return Task(name, "binary", label.classes)


def _joined(path: Path, whole: Windows, more: Windows) -> Windows:
    """Windows of files read before, and those of a further one that are new.

    Raises:
        DataError: one is there already, and differs.
    """
    place = {name: at for at, name in enumerate(whole.ids.tolist())}
    before = np.array([place.get(name, -1) for name in more.ids.tolist()])
    again = np.flatnonzero(before >= 0)
    ours, theirs = whole.take(before[again]), more.take(again)
    for one, other in zip(_leaves(ours), _leaves(theirs), strict=True):
        differs = np.flatnonzero((one != other).any(axis=tuple(range(1, one.ndim))))
        if len(differs):
            name = theirs.ids[differs[0]]
            raise DataError(f"{path}: window {quoted(name)}: expected the same as in an earlier file, found another")
    new = np.flatnonzero(before < 0)
    if not len(new):
        return whole
    return joined(whole, more.take(new))


def _leaves(windows: Windows) -> Iterator[np.ndarray]:
    for part in ("inputs", "observed", "targets", "known"):
        yield from getattr(windows, part).values()


def _as_asked(config: RelapseConfig, root: Path, windows: Windows) -> tuple[Windows, tuple[str, ...]]:
    """The modalities and the days that the settings ask for."""
    use = config.use or tuple(windows.features)
    for name in use:
        if name not in windows.features:
            raise DataError(f"{root}: expected modality {name!r} (data.use), found {', '.join(windows.features)}")
    if windows.length < config.window:
        found = f"{windows.length} (data.window)"
        raise DataError(f"{root}: expected windows of at least {config.window} days, found {found}")
    first = windows.length - config.window
    leaves = {
        part: {name: leaf[:, first:] for name, leaf in getattr(windows, part).items() if name in use}
        for part in ("inputs", "valid", "observed")
    }
    kept = replace(windows, features={n: of for n, of in windows.features.items() if n in use}, **leaves)
    told = f"windows of {windows.length} days are cut to their last {config.window} (data.window)"
    return kept, (told,) if first else ()
