"""Ids of patients, as they are compared across files."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from fusion_lab.contracts import DataError
from fusion_lab.data.oncology.hdf5 import Hdf5
from fusion_lab.data.oncology.settings import ID_KEYS, PATCHES
from fusion_lab.data.readers import quoted

_NUMBER = re.compile(r"[0-9]+")


def normalised(identifier: str) -> str:
    """The first number in an id without leading zeros; an id without a number as it is.

    >>> [normalised(i) for i in ("007", "patient_12_left", "0", "Anna")]
    ['7', '12', '0', 'Anna']
    """
    found = _NUMBER.search(identifier)
    return (found.group().lstrip("0") or "0") if found else identifier


def read_patient_ids(file: Hdf5, key: str | None, setting: str, normalise: bool, repeated: bool) -> np.ndarray:
    """The patient of each row, str ``[N]``. ``repeated``: a patient may have several rows.

    Raises:
        DataError: no ids, an empty one, one twice, or different ones that are the same once normalised.
    """
    name = file.require("the patients' ids", ID_KEYS, key, setting)
    written = file.texts(name)
    if not written:
        raise DataError(f"{file.place(name)}: expected at least one patient, found none")
    ids = [normalised(text) for text in written] if normalise else written
    _refuse_unclear(file.place(name), written, ids, repeated)
    return np.array(ids)


def _refuse_unclear(place: str, written: Sequence[str], ids: Sequence[str], repeated: bool) -> None:
    first: dict[str, int] = {}
    for row, identifier in enumerate(ids):
        if not identifier:
            raise DataError(f"{place}: row {row + 1}: expected an id, found an empty one")
        before = first.setdefault(identifier, row)
        if written[before] != written[row]:
            both = f"{quoted(written[before])} (row {before + 1}) and {quoted(written[row])} (row {row + 1})"
            raise DataError(
                f"{place}: expected ids with different numbers, found {identifier!r} for {both} "
                "(compare them as they are with data.normalise_ids: false)"
            )
        if before != row and not repeated:
            raise DataError(
                f"{place}: row {row + 1}: expected each patient once where there is no {PATCHES}, "
                f"found {quoted(written[row])} again (first in row {before + 1})"
            )
