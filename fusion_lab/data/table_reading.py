"""From the files of a data set to raw rows: whose each line is, its position, and what the columns are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fusion_lab.contracts import DataError, Modality, Spec
from fusion_lab.data.encoding import ModalityConfig, derive, feature_columns, read_quality
from fusion_lab.data.labels import EncodedTask, encode_task
from fusion_lab.data.long import LONGEST, Lines, positions, refuse_mixed_times
from fusion_lab.data.raw import RawModality, Records, placed
from fusion_lab.data.readers import Table, as_text, existing_file, quoted, read_ids
from fusion_lab.data.table_files import Files
from fusion_lab.data.table_settings import Clock, TableConfig


@dataclass(frozen=True)
class Contents:
    """What the files hold: R raw rows, what their columns are, and their labels, ``[R]`` or ``[R,T]``."""

    ids: np.ndarray
    group: np.ndarray | None
    modalities: dict[str, Modality]
    raws: dict[str, RawModality]
    tasks: dict[str, EncodedTask]
    tables: tuple[Table, ...]  # all that were read, the one that the rows come from first
    where: dict[str, str]  # what errors call a modality's or a task's place
    notes: tuple[str, ...]


class _Placed:
    """The lines of one modality or task among R rows."""

    def __init__(self, lines: Lines, ids: np.ndarray) -> None:
        self.lines = lines
        self.row = lines.rows(ids)  # int [lines], -1 of an id that is none of the rows'
        self.used = self.row >= 0


class _Labels(NamedTuple):
    """A task per step: its lines, and the labels of those that are used."""

    found: _Placed
    encoded: EncodedTask

    def known(self) -> np.ndarray:
        """The lines whose labels are known, int."""
        return np.flatnonzero(self.found.used)[self.encoded.known]


def read_contents(config: TableConfig) -> Contents:
    """Reads and joins the files.

    Raises:
        DataError: a file, a row or a column that cannot be used.
    """
    files = Files(config)
    targets, ids, lines = _rows(config, files)
    group = _group(config, targets, lines, ids) if config.group else None
    tasks, labels = _tasks(config, files, targets, ids)
    tables = {name: labels[name].found.lines.table if name in labels else targets for name in config.targets.tasks}
    features = {name: _Placed(found, ids) for name, found in lines.items()}
    for name, found in features.items():
        _refuse_strangers(found, targets, ids)
        _refuse_targets(name, config, found.lines, tables)
    ticks = _ticks(config, features, labels, len(ids))
    lengths = _lengths(config, features, ticks, ids)
    modalities, raws, notes = {}, {}, []
    for clock in config.clocks():
        notes += _lonely_steps(config, clock, features, labels, ticks)
    for name, found in features.items():
        modalities[name], raws[name], noticed = _modality(
            name, config.modalities[name], found, ticks[name], lengths[name], len(ids)
        )
        notes += noticed
    for name, (found, encoded) in labels.items():
        tasks[name] = _per_step(labels[name], ticks[name], lengths[encoded.task.steps[0]])
        if all(found.lines.table.name != one.lines.table.name for one in features.values()):
            notes += _left_out(found, "lines")
    where = {name: found.lines.table.path for name, found in features.items()}
    where |= {name: f"{tables[name].path}: column {task.label!r}" for name, task in config.targets.tasks.items()}
    return Contents(
        ids,
        group,
        modalities,
        raws,
        tasks={name: tasks[name] for name in config.targets.tasks},
        tables=(targets, *(found.lines.table for found in features.values()), *tables.values()),
        where=where,
        notes=(*notes, *(note for name in config.targets.tasks for note in tasks[name].notes)),
    )


def read_new(config: TableConfig, spec: Spec | None = None) -> Records:
    """Raw rows without targets: the ids of all modalities' files, in order of first appearance.

    A modality whose file is not there is left out. Of columns left out as constant, only ``spec`` knows.

    Raises:
        DataError: none of the files is there, or a file, a row or a column that cannot be used.
    """
    files = Files(config, new=True)
    if not files.root.is_dir():
        existing_file(files.root, next(iter(config.modalities.values())).file)
    given = [name for name, modality in config.modalities.items() if (files.root / modality.file).exists()]
    if not given:
        names = ", ".join(dict.fromkeys(modality.file for modality in config.modalities.values()))
        raise DataError(f"{files.root}: expected the file of one modality at least ({names}), found none of them")
    lines = {name: files.modality(name) for name in given}
    ids = np.array(list(dict.fromkeys(identifier for found in lines.values() for identifier in found.ids.tolist())))
    features = {name: _Placed(found, ids) for name, found in lines.items()}
    ticks = _ticks(config, features, {}, len(ids))
    raws = {}
    for name, found in features.items():
        settings = config.modalities[name]
        columns = feature_columns(settings, found.lines.table, found.lines.named, new=True)
        if settings.drop_constant and spec is not None:
            columns = [column for column in columns if column in spec.modality(name).columns]
        quality = _row_quality(read_quality(settings, found.lines.table), found, found.used, len(ids))
        raws[name] = _raw(found, columns, ticks[name], quality)
    return Records(ids, raws)


def _rows(config: TableConfig, files: Files) -> tuple[Table, np.ndarray, dict[str, Lines]]:
    """The table that the rows come from, their ids, and the lines of every modality."""
    if config.rows_from is None:
        targets = files.targets()
        ids = read_ids(targets, config.targets.id or config.id)
        return targets, ids, {name: files.modality(name) for name in config.modalities}
    lines = {name: files.modality(name) for name in config.modalities}
    found = lines[config.rows_from]
    return found.table, np.array(list(dict.fromkeys(found.ids.tolist()))), lines


def _group(config: TableConfig, targets: Table, lines: Mapping[str, Lines], ids: np.ndarray) -> np.ndarray:
    """The group of each row, str [R]; where the rows come from a long table, all lines of an id have to agree."""
    assert config.group
    groups = as_text(targets.column(config.group, "the groups"))
    for row, group in enumerate(groups):
        if group is None:
            raise DataError(f"{targets.place(row, config.group)}: expected a group, found an empty cell")
    if config.rows_from is None:
        return groups.astype(str)
    row = lines[config.rows_from].rows(ids)
    own = groups[np.unique(row, return_index=True)[1]]
    odd = np.flatnonzero(groups != own[row])
    if len(odd):
        line = int(odd[0])
        raise DataError(
            f"{targets.place(line, config.group)}: expected one group of id {quoted(ids[row[line]])}, "
            f"found {quoted(groups[line])} after {quoted(own[row[line]])}"
        )
    return own.astype(str)


def _refuse_strangers(found: _Placed, targets: Table, ids: np.ndarray) -> None:
    if not found.used.any():
        column = found.lines.named[0] if found.lines.named else "id"
        raise DataError(
            f"{found.lines.table.path}: column {column!r}: expected ids of {targets.path} (such as {_some(ids)}), "
            f"found none of them but {_some(found.lines.ids)}"
        )


def _refuse_targets(name: str, config: TableConfig, lines: Lines, tables: Mapping[str, Table]) -> None:
    """A target among the features, by its name: in the same file surely, in another one most likely."""
    columns = feature_columns(config.modalities[name], lines.table, lines.named)
    for task, settings in config.targets.tasks.items():
        if settings.label in columns:
            same = "" if lines.table.path == tables[task].path else f" in {tables[task].path}"
            raise DataError(
                f"{lines.table.path}: column {settings.label!r}: expected a feature of modality {name!r}, "
                f"found the target of task {task!r}{same} (leave it out with ignore)"
            )


def _tasks(
    config: TableConfig, files: Files, targets: Table, ids: np.ndarray
) -> tuple[dict[str, EncodedTask], dict[str, _Labels]]:
    """Tasks with a target per row, and those per step."""
    tasks, labels = {}, {}
    for name, task in config.targets.tasks.items():
        if not task.steps:
            tasks[name] = encode_task(name, task, targets)
            continue
        found = _Placed(files.labels(name), ids)
        _refuse_strangers(found, targets, ids)
        table = replace(found.lines.table, frame=found.lines.table.frame[found.used])
        labels[name] = _Labels(found, encode_task(name, task, table))
    return tasks, labels


Ticks = tuple[np.ndarray, np.ndarray]
"""A line's position, int [lines], and a row's number of positions, int [R]."""


def _ticks(
    config: TableConfig, features: Mapping[str, _Placed], labels: Mapping[str, _Labels], rows: int
) -> dict[str, Ticks | None]:
    """Positions of every modality's and every task's lines; ``None`` of a vector. Sequences of one clock tick as one:
    at each time at which one of them has a line or a task a known label.
    """
    made: dict[str, Ticks | None] = {}
    for clock in config.clocks():
        parts = {name: (features[name].lines, features[name].row) for name in clock.sequences if name in features}
        for name in (task for task in clock.tasks if task in labels):
            found, known = labels[name].found, np.zeros(len(labels[name].found.row), bool)
            known[labels[name].known()] = True
            parts[name] = (found.lines, np.where(known, found.row, -1))
        made |= _shared_ticks(parts, rows)
    for name, found in features.items():
        if name not in made:
            order = found.lines.order
            made[name] = None if order is None else positions(found.row, [order], rows)
    return made


def _shared_ticks(parts: Mapping[str, tuple[Lines, np.ndarray]], rows: int) -> dict[str, Ticks]:
    """Positions of lines that share a clock; ``parts`` gives each table's lines and their rows."""
    if not parts:
        return {}
    refuse_mixed_times(lines for lines, _ in parts.values())
    row = np.concatenate([row for _, row in parts.values()])
    position, span = positions(row, [lines.order for lines, _ in parts.values() if lines.order is not None], rows)
    ends = np.cumsum([len(row) for _, row in parts.values()])[:-1]
    return {name: (own, span) for name, own in zip(parts, np.split(position, ends), strict=True)}


def _lonely_steps(
    config: TableConfig,
    clock: Clock,
    features: Mapping[str, _Placed],
    labels: Mapping[str, _Labels],
    ticks: Mapping[str, Ticks | None],
) -> list[str]:
    """What to say of time steps that hold a label and no line of the task's sequences, or a line of one sequence only.

    Raises:
        DataError: no label of a task is at a time at which one of its sequences has a line.
    """
    steps = {name: _steps(features[name], ticks[name], features[name].used) for name in clock.sequences}
    notes = []
    for task in clock.tasks:
        found = labels[task].found
        labelled = _steps(found, ticks[task], labels[task].known())
        sequences = config.targets.tasks[task].steps or []
        apart = int((~np.isin(labelled, np.concatenate([steps[name] for name in sequences]))).sum())
        if apart and apart == len(labelled):
            raise DataError(
                f"{found.lines.table.path}: task {task!r}: expected labels at times at which {' or '.join(sequences)} "
                f"has a line, found none among {len(labelled)} labelled steps"
            )
        if apart:
            many = f"{apart} of {len(labelled)} labelled steps"
            notes.append(f"task {task!r}: {many} lie at times at which no sequence has a line")
    step, lines = np.unique(np.concatenate(list(steps.values())), return_counts=True)
    alone = step[lines == 1]
    if len(steps) > 1 and any(np.isin(own, alone).all() for own in steps.values()):
        names = ", ".join(steps)
        notes.append(f"{names}: {len(alone)} of {len(step)} time steps of their clock hold a line of only one of them")
    return notes


def _steps(found: _Placed, ticks: Ticks | None, lines: np.ndarray) -> np.ndarray:
    """The time steps of some lines, counted through all rows."""
    assert ticks is not None
    position, span = ticks
    return (np.cumsum(span) - span)[found.row[lines]] + position[lines]


def _lengths(
    config: TableConfig, features: Mapping[str, _Placed], ticks: Mapping[str, Ticks | None], ids: np.ndarray
) -> dict[str, int | None]:
    """T of each modality: as declared, its own or of its clock, else the longest row's; ``None`` of a vector."""
    declared = {name: settings.length for name, settings in config.modalities.items()}
    for clock in config.clocks():
        declared |= dict.fromkeys(clock.sequences, clock.length)
    lengths: dict[str, int | None] = {}
    for name, found in features.items():
        tick = ticks[name]
        lengths[name] = declared[name]
        if tick is not None and declared[name] is None:
            longest = int(tick[1].argmax())
            lengths[name] = int(tick[1][longest])
            if tick[1][longest] > LONGEST:
                which = "last" if config.modalities[name].kind == "sequence" else "first"
                raise DataError(
                    f"{found.lines.table.path}: expected at most {LONGEST} positions of an id, found "
                    f"{tick[1][longest]} of id {quoted(ids[longest])} (say how many of the {which} to keep: "
                    f"modalities.{name}.length)"
                )
    return lengths


def _modality(
    name: str, settings: ModalityConfig, found: _Placed, ticks: Ticks | None, length: int | None, rows: int
) -> tuple[Modality, RawModality, list[str]]:
    """What the modality is, its raw rows, and what was noticed."""
    table = found.lines.table
    columns = feature_columns(settings, table, found.lines.named)
    derived = derive(settings, table, columns, found.used)
    place = settings.step or settings.time or settings.instance or ""
    modality = Modality(name, settings.kind, derived.features, length, place, derived.missing)
    quality = _row_quality(read_quality(settings, table), found, derived.present, rows)
    raw = _raw(found, list(modality.columns), ticks, quality)
    unit = "rows" if length is None else "lines"
    notes = [*derived.notes, *_left_out(found, unit)]
    empty = int((found.used & ~derived.present).sum())
    if empty:
        notes.append(f"{table.name}: {empty} {unit} hold nothing but empty cells and count as absent")
    if length is not None and raw.span is not None and (raw.span > length).any():
        which = "last" if settings.kind == "sequence" else "first"
        count = int((raw.span > length).sum())
        notes.append(f"{name}: {count} of {len(raw.span)} rows cut to their {which} {length} positions")
    if length is not None and raw.span is not None and length > 2 * raw.span.max():
        notes.append(f"{name}: length {length} is more than twice what the longest row has: {raw.span.max()} positions")
    return modality, raw, notes


def _left_out(found: _Placed, unit: str) -> list[str]:
    count, lines = int((~found.used).sum()), len(found.row)
    told = f"{found.lines.table.name}: {count} of {lines} {unit} left out: their ids are not among the targets"
    return [told] if count else []


def _raw(found: _Placed, columns: list[str], ticks: Ticks | None, quality: np.ndarray) -> RawModality:
    table = replace(found.lines.table, frame=found.lines.table.frame[columns])
    position, span = (None, None) if ticks is None else ticks
    return RawModality(table, found.row, position, span, quality)


def _row_quality(quality: np.ndarray, found: _Placed, present: np.ndarray, rows: int) -> np.ndarray:
    """Mean quality of each row's lines, float32 [R]; 1 of a row that has none, or none with a filled cell."""
    row = found.row[found.used]
    lines = np.bincount(row, minlength=rows)
    mean = np.bincount(row, quality[found.used], rows) / np.maximum(lines, 1)
    filled = np.bincount(found.row[found.used & present], minlength=rows)
    return np.where(filled > 0, mean, 1.0).astype(np.float32)


def _per_step(labels: _Labels, ticks: Ticks | None, length: int | None) -> EncodedTask:
    """Labels of lines as labels of steps: values and known ``[R,T]``."""
    assert ticks is not None
    assert length is not None
    position, span = ticks
    line = labels.known()
    row = labels.found.row[line]
    index = placed(length, "sequence", position[line], span[row])
    at = (row[index >= 0], index[index >= 0])
    values, known = np.zeros((len(span), length), np.float32), np.zeros((len(span), length), bool)
    values[at], known[at] = labels.encoded.values[labels.encoded.known][index >= 0], True
    return replace(labels.encoded, values=values, known=known)


def _some(ids: np.ndarray) -> str:
    return ", ".join(map(quoted, ids[:3].tolist()))
