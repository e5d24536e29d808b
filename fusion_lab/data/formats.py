"""Tables of CSV, parquet, HDF5 and NPZ files as frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import prod
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from fusion_lab.contracts import DataError
from fusion_lab.data.hdf5_files import longest_text, open_hdf5
from fusion_lab.data.npz import LARGEST_COMPRESSION, npz_arrays, npz_shapes
from fusion_lab.data.words import first_line, quoted, suggest

_COUNTS = {1: "one", 2: "two", 3: "three"}


def read_csv(path: Path) -> pd.DataFrame:
    """Text cells, indexed by line. The standard reader: it knows a record's line and refuses an unclosed quote."""
    text = read_text(path)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    lines, records = [], []
    try:
        header = [_name(name) for name in next(filter(None, reader), [])]
        _check_header(path, header, reader.line_num)
        start = reader.line_num + 1
        for record in reader:
            if record and len(record) != len(header):
                raise DataError(
                    f"{path}: line {start}: expected {len(header)} cells as in the header, found {len(record)}"
                )
            if record:
                lines.append(start)
                records.append(record)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: expected well-formed CSV, found: {error}") from None
    if not records:
        raise DataError(f"{path}: expected rows below the header, found none")
    return pd.DataFrame(records, columns=pd.Index(header, dtype=object), index=pd.Index(lines), dtype=object)


def read_text(path: Path) -> str:
    """A file of UTF-8 text, as it is.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, found: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise DataError(f"{path}: line {line}: expected UTF-8 text, found byte 0x{byte:02x}") from None


def parquet_names(path: Path) -> tuple[str, ...]:
    """Names of a parquet file's columns.

    Raises:
        DataError: it cannot be read, or two are of one name.
    """
    try:
        names = tuple(pyarrow.parquet.read_schema(path).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable parquet file, found: {first_line(error)}") from None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: expected each column once, found {quoted(twice)} again")
    return names


def _check_header(path: Path, header: list[str], line: int) -> None:
    if not header:
        raise DataError(f"{path}: expected a line of column names, found an empty file")
    for position, name in enumerate(header, start=1):
        if not name:
            raise DataError(f"{path}: line {line}: expected a name for each column, found none for column {position}")
        if header.index(name) < position - 1:
            raise DataError(f"{path}: line {line}: expected each column once, found {quoted(name)} again")


def read_parquet(path: Path) -> pd.DataFrame:
    """All columns, those included that pandas had stored as an index; what pandas noted beside the data is not read."""
    try:
        table = pa.parquet.ParquetFile(path).read().replace_schema_metadata(None)
        names = [_name(name) for name in table.column_names]
        frame = table.rename_columns([str(i) for i in range(len(names))]).to_pandas()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable parquet file, found: {first_line(error)}") from None
    _check_header(path, names, 1)
    return frame.set_axis(pd.Index(names, dtype=object), axis=1)


def read_hdf5(path: Path, key: str | None, companions: Sequence[str]) -> pd.DataFrame:
    """The columns of a group or of an array ``key``: an array [rows], or [rows,n] as ``name_0`` to ``name_n-1``, each.

    Raises:
        DataError: a file that cannot be read, no such key, arrays of several lengths, a name that is there twice.
    """
    try:
        with open_hdf5(path) as file:
            arrays = _hdf5_arrays(f"{path}#{key}" if key else str(path), file, key, companions)
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable HDF5 file, found: {first_line(error)}") from None
    blocks = []
    for name, array in arrays.items():
        wide = array.ndim == 2
        names = [f"{name}_{i}" for i in range(array.shape[1])] if wide else [name]
        blocks.append(pd.DataFrame(array if wide else array[:, None], columns=pd.Index(names, dtype=object)))
    frame = pd.concat(blocks, axis=1)
    _check_header(path, list(frame.columns), 1)
    return frame


def read_npz(path: Path, companions: Sequence[str]) -> tuple[pd.DataFrame, dict[str, tuple[int, ...]]]:
    """The one-dimensional arrays as long as the ids, or as the first of them where no ids are known; and the shapes of
    the others.
    """
    shapes = npz_shapes(path)
    sizes = {name: shape for name, shape in shapes.items() if len(shape) == 1}
    reference = next((name for name in companions if name in sizes), next(iter(sizes), ""))
    names = [name for name, shape in sizes.items() if shape == sizes[reference]]
    if not names:
        raise DataError(f"{path}: expected one-dimensional arrays, one per column, found none")
    return pd.DataFrame(npz_arrays(path, names)), {n: shape for n, shape in shapes.items() if n not in names}


def _hdf5_arrays(shown: str, file: h5py.File, key: str | None, companions: Sequence[str]) -> dict[str, np.ndarray]:
    node = file
    if key:
        if key not in file:
            names: list[str] = []
            file.visit(lambda name: names.append(_name(name)))
            raise DataError(f"{shown}: expected a group or dataset {key!r}, found none{suggest(key, names)}")
        node = file[key]
    if isinstance(node, h5py.Dataset):
        leaf = str(node.name).rsplit("/", 1)[1]
        parent = node.parent
        datasets = {name: parent[name] for name in companions if isinstance(parent.get(name), h5py.Dataset)} | {
            leaf: node
        }
    else:
        children = {_name(name): child for name, child in node.items()}
        for name, child in children.items():
            if child is None:  # h5py's answer to a link that leads nowhere
                raise DataError(f"{shown}: expected datasets and groups, found a link {name!r} that leads nowhere")
        datasets = {name: child for name, child in children.items() if isinstance(child, h5py.Dataset)}
        if not datasets:
            groups = ", ".join(map(_name, node)) or "nothing"
            raise DataError(f"{shown}: expected datasets, found {groups} (name a group with key)")
    reference = next((name for name in companions if name in datasets), next(iter(datasets)))
    deep = next((name for name, dataset in datasets.items() if dataset.ndim == 3), None)
    if deep is not None:
        found = f"shape {datasets[deep].shape} (an array of sequences or bags is named itself with key)"
        raise DataError(f"{shown}: dataset {deep!r}: expected one or two dimensions, found {found}")
    arrays = {name: hdf5_array(f"{shown}: dataset {name!r}", dataset, (1, 2)) for name, dataset in datasets.items()}
    for name, array in arrays.items():
        if len(array) != len(arrays[reference]):
            expected = f"{len(arrays[reference])} rows as in {reference!r}"
            raise DataError(f"{shown}: dataset {name!r}: expected {expected}, found {len(array)}")
    return arrays


def _name(name: str | bytes) -> str:
    """A name in one trimmed line; h5py gives one that is no UTF-8 as bytes."""
    text = name if isinstance(name, str) else name.decode("utf-8", errors="replace")
    return " ".join(text.splitlines()).strip()


def hdf5_array(shown: str, dataset: h5py.Dataset, dims: Sequence[int]) -> np.ndarray:
    """A data set of numbers or text, of as many dimensions as one of ``dims``; ``shown`` is what errors call it."""
    if dataset.ndim not in dims:
        expected = f"{' or '.join(_COUNTS[n] for n in dims)} dimension{'s' * (max(dims) > 1)}"
        raise DataError(f"{shown}: expected {expected}, found shape {dataset.shape}")
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError) as error:  # h5py's answer to a type it has no NumPy counterpart of
        raise DataError(f"{shown}: expected numbers or text, found: {first_line(error)}") from None
    if dtype.itemsize * prod(dataset.shape) > LARGEST_COMPRESSION * dataset.file.id.get_filesize():
        raise DataError(f"{shown}: expected an array that fits the file, found shape {dataset.shape} (a damaged file)")
    text = h5py.check_string_dtype(dtype)
    if text is not None:
        if text.length is None and (longest := longest_text(dataset)) > dataset.file.id.get_filesize():
            raise DataError(f"{shown}: expected texts that fit the file, found one of {longest} bytes (a damaged file)")
        try:
            return dataset.asstr("utf-8")[()]
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x}"
            raise DataError(f"{shown}: expected UTF-8 text, found {found}") from None
    if dtype.kind not in "biuf":
        raise DataError(f"{shown}: expected numbers or text, found type {dtype}")
    array = dataset[()]
    return array.astype(np.float32) if array.dtype == np.float16 else array
