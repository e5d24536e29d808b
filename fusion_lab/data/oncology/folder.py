"""Which files of a folder hold which modalities."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fusion_lab.config import nearest
from fusion_lab.contracts import DataError
from fusion_lab.data.names import usable_names
from fusion_lab.data.oncology.settings import MODALITIES, SUFFIXES, OncologyConfig
from fusion_lab.data.readers import data_folder


def modality_files(config: OncologyConfig) -> dict[str, Path]:
    """The file of every modality in the folder, those of the settings included, in the order of modalities.

    Raises:
        DataError: there is no such folder, or no file in it; two files of one name; a name that no modality can have.
    """
    root = data_folder(config.root)
    stems = _stems(root)
    named = {name: _named(root, name, settings.file, stems) for name, settings in config.files.items()}
    taken = set(named.values())
    found = {**named, **{stem: path for stem, path in stems.items() if path not in taken and stem not in named}}
    if not found:
        raise DataError(f"{root}: expected a file per modality ({', '.join(f'*{s}' for s in SUFFIXES)}), found none")
    return {name: found[name] for name in in_order(found)}


def chosen_files(config: OncologyConfig, files: dict[str, Path]) -> dict[str, Path]:
    """The files of the modalities that the settings keep.

    Raises:
        DataError: there is no such modality, or its name cannot be one.
    """
    for name in config.modalities or ():
        require_file(config, files, name, "modalities")
    chosen = {name: path for name, path in files.items() if config.modalities is None or name in config.modalities}
    for name, path in chosen.items():
        try:
            usable_names({name: path})
        except ValueError as error:
            raise DataError(f"{path}: {error} (name it with data.files)") from None
    return chosen


def require_file(config: OncologyConfig, files: dict[str, Path], name: str, setting: str) -> Path:
    """The file of a modality that the settings name.

    Raises:
        DataError: there is none, or it is another modality's; the nearest name is suggested.
    """
    if name not in files:
        taken = next((other for other, path in files.items() if path.stem == name), None)
        found = f"it given to {taken!r} (data.files.{taken})" if taken else f"none{nearest(name, list(files))}"
        raise DataError(f"{data_folder(config.root)}: expected a file {name}.h5 (data.{setting}), found {found}")
    return files[name]


def in_order(names: Iterable[str]) -> list[str]:
    """The known modalities first, others by name."""
    place = {name: i for i, name in enumerate(MODALITIES)}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


def shown(root: Path, path: Path) -> str:
    """A file as notes and sources call it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _stems(root: Path) -> dict[str, Path]:
    """The folder's files by name without ending; hidden ones are none."""
    try:
        if not root.is_dir():
            found = "a file" if root.exists() else "no such folder"
            raise DataError(
                f"{root}: expected a folder of HDF5 files, found {found} (say where it is with data=FOLDER)"
            )
        paths = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:  # a name too long for the file system, a folder that may not be entered
        raise DataError(f"{root}: expected a folder of HDF5 files, found: {error.strerror}") from None
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise DataError(f"{root}: expected one file per modality, found {stems[path.stem].name} and {path.name}")
        stems[path.stem] = path
    return stems


def _named(root: Path, name: str, file: str | None, stems: dict[str, Path]) -> Path:
    if file is not None:
        return root / file
    return stems.get(name, root / f"{name}{SUFFIXES[0]}")
