"""The files that a data set's settings name, as lines: which are tables, which are arrays, and what sorts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from fusion_lab.contracts import ConfigError
from fusion_lab.data.array_files import ArrayPlace, holds_array, read_features, read_labels
from fusion_lab.data.encoding import ModalityConfig
from fusion_lab.data.labels import TaskConfig
from fusion_lab.data.long import Form, Lines, read_instances, read_times, refuse_repeats
from fusion_lab.data.readers import Table, data_folder, file_kind, read_ids, read_table
from fusion_lab.data.table_settings import TableConfig


class Files:
    """The tables of a folder; one that several modalities or tasks share is read once.

    Of ``new`` rows no group is asked for.
    """

    def __init__(self, config: TableConfig, new: bool = False) -> None:
        self.config = config
        self.root: Path = data_folder(config.root)
        self.group = config.group if config.rows_from else None  # else it is a column of the targets table
        self.grouped = config.rows_from if not new and config.group else None
        self._read: dict[tuple[str, str | None, tuple[str, ...]], Table] = {}

    def targets(self) -> Table:
        """The table of targets."""
        targets = self.config.targets
        assert targets.file is not None
        return self._table(targets.file, targets.key, (targets.id or self.config.id, self.config.group))

    def modality(self, name: str) -> Lines:
        """The lines of a modality's file."""
        settings = self.config.modalities[name]
        named = [settings.id or self.config.id, settings.time, settings.instance, self.group]
        array = self._is_array(settings)
        useless = ("time", "instance") if array else ("valid", "columns_from")
        _refuse(f"modalities.{name}", {setting: getattr(settings, setting) for setting in useless}, array)
        if array:
            return self._array(name, settings, tuple(filter(None, named)))
        table = self._table(settings.file, settings.key, (*named, settings.quality))
        ids = read_ids(table, settings.id or self.config.id, once=settings.kind == "vector")
        order, form = _order(name, settings, table)
        lines = Lines(table, ids, order, tuple(filter(None, named)), form)
        if settings.time or settings.instance:
            refuse_repeats(lines, settings.time or settings.instance or "", "time" if settings.time else "instance")
        return lines

    def labels(self, name: str) -> Lines:
        """The lines that hold the labels of a task per step."""
        task = self.config.targets.tasks[name]
        place = self.config.label_place(task)
        assert place.file
        assert place.id
        where, array = f"targets.tasks.{name}", self._label_array(task, place)
        _refuse(where, {"time": task.time} if array else {"valid": task.valid}, array is not None)
        if array:
            found = read_labels(self.root, ArrayPlace(place.file, array, place.id, place.valid), task.label)
            return Lines(*found, (place.id,))
        table = self._table(place.file, place.key, (place.id, place.time, task.column))
        table.require([task.label], f"task {name!r}")
        if place.time is None:
            raise ConfigError(f"{where}.time: expected the column of the labels' times, found none")
        times = read_times(table, place.time)
        lines = Lines(table, read_ids(table, place.id, once=False), times.values, (place.id,), times.form)
        refuse_repeats(lines, place.time, "time")
        return lines

    def _table(self, file: str, key: str | None, companions: Sequence[str | None]) -> Table:
        beside = tuple(name for name in companions if name)
        place = (file, key, beside if file_kind(file) in ("hdf5", "npz") else ())
        if place not in self._read:
            self._read[place] = read_table(self.root, file, key, beside)
        return self._read[place]

    def _is_array(self, settings: ModalityConfig) -> bool:
        if settings.kind == "vector" and settings.columns_from is None and file_kind(settings.file) != "npz":
            return False  # an HDF5 data set [R,F] is a table with ids beside it
        return holds_array(self.root, settings.file, settings.key, 2 if settings.kind == "vector" else 3)

    def _array(self, name: str, settings: ModalityConfig, named: tuple[str, ...]) -> Lines:
        assert settings.key
        companions = (settings.quality, self.config.group if name == self.grouped else None)
        place = ArrayPlace(
            settings.file,
            settings.key,
            settings.id or self.config.id,
            settings.valid,
            settings.columns_from,
            tuple(filter(None, companions)),
        )
        return Lines(*read_features(self.root, place, 2 if settings.kind == "vector" else 3), named)

    def _label_array(self, task: TaskConfig, place: TaskConfig) -> str | None:
        """The array [R,T] that holds a task's labels, ``None`` where they are a column. One beside the array of the
        sequence may be named by ``column``.
        """
        assert place.file
        key = task.key or task.column
        if task.key is None and task.file is None and place.key is not None:
            key = str(PurePosixPath(place.key).parent / task.label)
        return key if key and holds_array(self.root, place.file, key, 2) else None


def _refuse(where: str, settings: dict[str, str | None], array: bool) -> None:
    """An error for settings that only the other form of a file, table or array, has a use for."""
    for name, value in settings.items():
        if value is not None:
            form = "an array, whose second axis says it" if array else "a table, only of an array"
            raise ConfigError(f"{where}.{name}: expected none of {form}, found {value!r}")


def _order(name: str, settings: ModalityConfig, table: Table) -> tuple[np.ndarray | None, Form]:
    """What sorts the lines of an id, and what it is written as."""
    if settings.kind == "vector":
        return None, "numbers"
    if settings.kind == "bag":
        lines = np.arange(len(table.frame))
        return lines if settings.instance is None else read_instances(table, settings.instance), "numbers"
    if settings.time is None:
        raise ConfigError(f"modalities.{name}.time: expected the column of a sequence's times, found none")
    return read_times(table, settings.time)
