"""Times of day as sensor files have them, in seconds from midnight."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fusion_lab.contracts import DataError
from fusion_lab.data.words import quoted

DAY_SECONDS = 24 * 60 * 60
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SHORTEST, _LONGEST = len("00:00:00"), len("00:00:00.000000000")


def seconds_of_day(times: pa.Array, where: str, column: str, first: int = 1) -> np.ndarray:
    """Seconds from midnight, float64 ``[n]`` in [0, 86400).

    Args:
        times: ``HH:MM:SS`` with up to nine digits after a point, as text, or times (pandas' ``datetime.time``).
        where, column: what errors call the file and the column.
        first: row of the first of them.

    Raises:
        DataError: another type, an empty cell, a text that is no time of day; the row is named.

    >>> seconds_of_day(pa.array(["00:01:00.5", "23:59:59"]), "file", "time").tolist()
    [60.5, 86399.0]
    """
    if pa.types.is_dictionary(times.type):
        times = times.dictionary_decode()
    if pa.types.is_time(times.type):
        whole = pa.int32() if pa.types.is_time32(times.type) else pa.int64()
        ticks = pc.fill_null(times.cast(whole), -1).to_numpy(zero_copy_only=False)
        seconds = ticks / _TICKS[times.type.unit]
    elif pa.types.is_string(times.type) or pa.types.is_large_string(times.type):
        seconds = _read(times.cast(pa.large_string()))
    elif pa.types.is_null(times.type):
        seconds = np.full(len(times), np.nan)
    else:
        raise DataError(f"{where}: column {column!r}: expected times of day, found type {times.type}")
    wrong = ~((seconds >= 0) & (seconds < DAY_SECONDS))
    if wrong.any():
        place = int(wrong.argmax())
        cell = times[place].as_py() if times[place].is_valid else None
        found = "an empty cell" if cell in (None, "") else quoted(cell)
        expected = "expected a time of day such as 13:05:00.25"
        raise DataError(f"{where}: row {first + place}, column {column!r}: {expected}, found {found}")
    return seconds


def _read(texts: pa.Array) -> np.ndarray:
    """Seconds of texts; NaN of what is no time. Texts of one length, nearly all, are read at once."""
    seconds = np.full(len(texts), np.nan)
    if not len(texts):
        return seconds
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, 8 * texts.offset)
    letters = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    valid = texts.is_valid().to_numpy(zero_copy_only=False)
    there = np.flatnonzero(np.bincount(np.minimum(lengths[valid], _LONGEST + 1)))
    for length in there[(there == _SHORTEST) | (there >= _SHORTEST + 2) & (there <= _LONGEST)]:
        rows = np.flatnonzero(valid & (lengths == length))
        begin, stop = offsets[rows[0]], offsets[rows[-1] + 1]
        if stop - begin == len(rows) * length:
            cells = letters[begin:stop].reshape(len(rows), length)
        else:
            cells = letters[offsets[rows][:, None] + np.arange(length)]
        seconds[rows] = _parsed(np.ascontiguousarray(cells.T))
    return seconds


def _parsed(letters: np.ndarray) -> np.ndarray:
    """Seconds of texts of one length, ``[length, n]`` bytes; NaN of what is no time."""
    digits = letters - np.uint8(ord("0"))  # what is no digit becomes more than 9
    marks = {2: ":", 5: ":"} | ({8: "."} if len(letters) > _SHORTEST else {})
    good = np.ones(letters.shape[1], bool)
    for place in range(len(letters)):
        good &= letters[place] == ord(marks[place]) if place in marks else digits[place] <= 9
    hour, minute, second = (10 * digits[p].astype(np.int64) + digits[p + 1] for p in (0, 3, 6))
    good &= (hour < 24) & (minute < 60) & (second < 60)
    ticks = 3600 * hour + 60 * minute + second
    for place in range(_SHORTEST + 1, len(letters)):
        ticks = 10 * ticks + digits[place]
    return np.where(good, ticks / 10.0 ** max(0, len(letters) - _SHORTEST - 1), np.nan)
